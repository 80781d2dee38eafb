//! Paging: what guests use beyond a pool of memory goes to a paging device, since their systems could give it only by ending programs.
//!
//! The device is swap of the machine's kernel ([`device`]); before it there may be one in memory that compresses ([`zram`]). What goes there is chosen by the daemon ([`hand`]) and taken from the guests' processes without
//! their help ([`process`]); the kernel brings it back where it is touched. So a guest's process notices nothing but the time it takes.

mod active;
mod device;
mod hand;
mod header;
mod pager;
mod process;
mod zram;

use std::io;
use std::path::PathBuf;

use api::Size;

pub use device::Device;
pub use pager::{Order, Pager};
pub use process::{can_page, out_of_memory};

/// Where guests' memory is paged to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Paging {
    /// A file of this size in the daemon's folder.
    Own(Size),
    /// A file of this size there.
    File(PathBuf, Size),
    /// A block device on which there is nothing.
    Device(PathBuf),
}

/// There is no paging there.
#[derive(Debug, thiserror::Error)]
pub enum PagingError {
    /// It has no pool.
    #[error("{0}: without --memory-pool nothing is paged: give guests a pool, too")]
    NoPool(&'static str),
    /// It has no pool in which that would count.
    #[error("--memory-merge: without --memory-pool nobody would have what is saved: give guests a pool, too")]
    NoPoolToMerge,
    /// The kernel does not keep equal pages once.
    #[error(
        "--memory-merge: this kernel does not merge equal pages (/sys/kernel/mm/ksm/run: {0}): it needs root and CONFIG_KSM"
    )]
    NoMerging(io::Error),
    /// The kernel has no device that compresses.
    #[error(
        "--memory-compression: this kernel makes no zram device ({0}): it needs root and the module zram (modprobe zram)"
    )]
    NoZram(io::Error),
    /// It cannot be opened or made.
    #[error("--memory-paging {0}: {1}")]
    Open(PathBuf, io::Error),
    /// It is no file.
    #[error(
        "--memory-paging {0}: this is no file: give FILE:SIZE for a file, or a block device without a size"
    )]
    NoFile(PathBuf),
    /// It is no block device.
    #[error("--memory-paging {0}: this is no block device: for a file give its size, too, as {0}:8G")]
    NoDevice(PathBuf),
    /// There is something.
    #[error(
        "--memory-paging {0}: there is something on it that this host has not written; if nothing of that is needed, remove the file, or wipe the device's \
         first and last MiB"
    )]
    Something(PathBuf),
    /// Somebody else uses it.
    #[error(
        "--memory-paging {0}: it is in use: mounted, a guest's disk, swap of somebody else, or a part of another device"
    )]
    InUse(PathBuf),
    /// It is a device in memory.
    #[error(
        "--memory-paging {0}: what is there is in memory: have it compressed with --memory-compression SIZE"
    )]
    InMemory(PathBuf),
    /// Somebody but root could read the file or put another one in its place.
    #[error(
        "--memory-paging {0}: {1}: remove it, and a file is made that only root reads, or give another one"
    )]
    Unsafe(PathBuf, &'static str),
    /// Guests' processes cannot be paged.
    #[error("--memory-paging, --memory-compression: guests cannot be paged here: {0}")]
    Process(io::Error),
    /// It was not tried to the end.
    #[error("--memory-paging, --memory-compression: {0}")]
    Thread(#[from] tokio::task::JoinError),
    /// There is too little.
    #[error("{what}: {size} are too little: give at least 64M")]
    TooSmall {
        /// The option, and where.
        what: String,
        /// How much there is.
        size: Size,
    },
    /// The file system has no room, or makes no such files.
    #[error("--memory-paging {path}: a file of {size} cannot be made there: {error}")]
    Allocate {
        /// Where.
        path: PathBuf,
        /// How large it was to be.
        size: Size,
        /// Why not.
        error: io::Error,
    },
    /// Its first page cannot be written.
    #[error("--memory-paging {0}: it cannot be written: {1}")]
    Write(PathBuf, io::Error),
    /// Only root may.
    #[error("--memory-paging {0}: the kernel pages only for who has CAP_SYS_ADMIN: start the daemon as root")]
    Privilege(PathBuf),
    /// The kernel cannot page to such files.
    #[error(
        "--memory-paging {0}: the kernel cannot page to files of this file system, such as tmpfs; on btrfs the file must not be copied on write \
         (chattr +C); give one on ext4 or xfs, or a block device"
    )]
    FileSystem(PathBuf),
    /// The kernel refuses.
    #[error("--memory-paging {0}: the kernel does not take it: {1}")]
    On(PathBuf, io::Error),
    /// It cannot be taken away now.
    #[error(
        "{path}: it stays in use: {used} are on it, guests may touch {may_touch} more than they have in memory, and this machine has only {available} \
         available for that"
    )]
    Stays {
        /// Where.
        path: PathBuf,
        /// What is on it.
        used: Size,
        /// What guests may touch beyond what they have in memory.
        may_touch: Size,
        /// What is available.
        available: Size,
    },
    /// It cannot be taken away.
    #[error("{0}: it cannot be taken away: {1}")]
    Off(PathBuf, io::Error),
}
