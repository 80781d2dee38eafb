//! A pool of memory that is smaller than all its guests together can be.
//!
//! What each guest is promised is taken and given back where it is for processors ([`crate::shares`]). Once a second everybody who runs is
//! asked what they have and use ([`keep`]); from that follows what each is to have ([`share::memory`]), and their balloons are told, in
//! steps. Pages that are equal are kept once ([`merging`]), if the host is to and their guests trust one another.
//! What guests use even so beyond their part goes to a paging device, if the host has one ([`paging`]). If next to nothing is free for
//! long, the least important guest is suspended, before the machine's kernel would end one.

mod grouped;
mod heard;
mod keep;
mod limits;
mod merging;
mod paging;
mod parts;
mod turn;

pub use keep::{Means, Pool, Seen, keep, may_touch};
pub use merging::Merging;
pub use paging::{Device, Pager, Paging, PagingError, can_page};
