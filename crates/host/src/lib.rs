//! The daemon of one machine: what should exist, what runs, and who may change it. Command line, REST API and page are three faces of
//! it.

pub mod access;
pub mod alarms;
mod audit;
pub mod backup;
mod bandwidth;
pub mod daemon;
pub mod events;
mod figures;
mod groups;
pub mod guest_backups;
pub mod http;
pub mod images;
pub mod log;
mod machine;
mod memory;
pub mod paths;
pub mod pools;
pub mod records;
mod repeats;
mod report;
pub mod schedules;
mod series;
mod share_groups;
mod shares;
pub mod snapshots;
mod store;
pub mod supervisor;
pub mod tasks;
pub mod tls;
mod vcpus;
pub mod wires;

pub use groups::make_way;
