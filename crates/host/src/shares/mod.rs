//! What guests that run are promised of the host's processors, and that they get it.
//!
//! A promise is taken when a guest starts and given back when it has ended: the sum of all is never more than the host has. A thread
//! ([`Regulator`]) measures what each guest gets and wants, works out what each is to have ([`share::divide`]), and gives its control group
//! a weight in proportion to that: while all are busy the kernel's own scheduler delivers exactly the rule.

mod admission;
mod control;
mod debt;
mod followed;
mod groups;
mod ledger;
mod look;
mod own;
mod per_processor;
mod places;
mod promises;
mod regulator;
mod rule;
mod seen;
mod slices;
mod ticks;

pub use control::{Controls, Version};
pub use groups::{Nested, Promised};
pub use ledger::Ledger;
pub use places::{Carries, Place, of as places_of, pool_of};
pub use promises::{Claimant, Shares, Woken, capacity};
pub use regulator::Regulator;
pub use seen::Seen;
