//! Driving a machine in another process: JSON-RPC 2.0, one message a line, over a Unix socket, with open files passed
//! along (SCM_RIGHTS). The process opens nothing itself: what a guest can reach is what was handed in.
//!
//! ```text
//! → {"jsonrpc":"2.0","id":1,"method":"create","params":{"memory":268435456,"kernel":0,"command_line":"console=ttyS0","console":1}}
//! ← {"jsonrpc":"2.0","id":1,"result":{"state":"paused"}}
//! → {"jsonrpc":"2.0","id":2,"method":"resume"}
//! ← {"jsonrpc":"2.0","id":2,"result":{"state":"running"}}
//! ← {"jsonrpc":"2.0","method":"event","params":{"event":"power_off","state":"ended"}}
//! ```
//!
//! `save` writes the machine's memory into a file that came with it, and answers with the rest of its state as soon as the machine goes
//! on; the notification `saved` tells when the file is whole. `create` with `saved` goes on from there.
//!
//! `plug`, `unplug`, `processors` and `memory` change a machine that runs. They answer when the guest has been told; what it has made of it tells
//! the notification `hardware`.
//!
//! `balloon`, `merge` and `reporting` say what of its memory is for others: how much, whether what is equal to others' is kept once, and whether what
//! the guest reports as free is given back.
//!
//! `limit` changes how much a disk or a card may do each second, at once.
//!
//! `disk_switch` has disks go on over what they were, all at one point in time; with `switch` in its parameters `save` does so at the
//! point in time that it saves. `disk_pull` merges layers into a disk's top in the background: the notifications `disk_pulling` and
//! `disk_pulled` tell how far it is and how it ended, `disk_pull_cancel` calls it off. `disk_replace_below` takes what somebody else
//! has merged. `disk_grow` makes a disk longer, which its driver is told.
//!
//! `figures` hands over memory in which the process says all the time what its processors do ([`crate::figures`]). `places` says which of its
//! devices are on what other machines use, too: what they do there is said in that memory, and what they may do there is read in it
//! ([`crate::flows`]).
//!
//! The process stays when the guest has ended, so that whoever was away still learns how; `stop` ends it.

mod connection;
pub mod console;
mod guest;
mod hardware;
mod layers;
mod limits;
mod memory;
mod open;
mod protocol;
mod saves;
mod server;
mod usage;

pub use crate::virtio::block::DiskLimits;
pub use crate::virtio::net::NetLimits;
pub use memory::{BalloonSpec, MemorySpec, MergeSpec, ReportingSpec};
pub use protocol::{
    BelowSpec, Cable, Changed, DiskName, DiskSpec, FiguresSpec, GrowSpec, GuestEvent, Hardware, Key, Layers,
    LimitSpec, MachineSpec, NetSpec, NewTop, NoRoom, OnPanic, OnReset, PlacesSpec, PlugSpec, PortSpec,
    ProcessorsSpec, PullEnd, PullProgress, PullSpec, SaveEnd, SaveProgress, SaveSpec, Saved, SavedSpec,
    State, StateReport, SwitchSpec, Switched, Typing, UnplugSpec, What, code,
};
pub use server::{ServeError, serve};
pub use usage::{DiskStats, NetStats, ProcessorStats, Stats, prepare};
