//! The networks of one machine's guests: bridges, taps, addresses, names, firewall and limits.
//!
//! A host says what it wants as a [`definition::Site`]; [`Networks::apply`] makes the kernel so, and does nothing where it is
//! so already. Nothing about networks is remembered elsewhere: after a crash at any moment, `apply` repairs what was left, and
//! finds its own things by their names, which hold the host's [`Owner`]. Several hosts can run side by side.
//!
//! Guests are connected by taps. A tap is the descriptor that [`Networks::attach`] returns, and is gone with the last process
//! that holds it: a guest that dies leaves nothing, and one that outlives its host keeps its network.

#![deny(unsafe_code)]

pub mod definition;
#[expect(unsafe_code, reason = "AsyncFd::register in dhcp/process.rs")]
mod dhcp;
mod error;
mod firewall;
#[expect(unsafe_code, reason = "TUNSETIFF in kernel/tap.rs")]
mod kernel;
mod names;
mod networks;
mod plan;
mod rules;
#[expect(unsafe_code, reason = "the descriptor that passt inherits")]
pub mod user;

pub use dhcp::Lease;
pub use error::{Error, Result};
pub use kernel::{Card, cards};
pub use names::{NoOwner, Owner};
pub use networks::{Config, Networks, Report, Traffic};
pub use plan::Problem;
