//! What guests' disks are kept in: the images that they boot from, and pools of volumes.
//!
//! All calls block. Long ones tell how far they are by a [`Progress`], and end soon after it says that they are cancelled. What
//! they make appears only when it is whole: a process that is killed leaves what was there before, and what it had begun is
//! swept away by the next one.

#![forbid(unsafe_code)]

pub mod backups;
mod definition;
mod draft;
mod error;
pub mod images;
mod layers;
mod pool;
mod progress;
pub mod seed;
pub mod sparse;
mod sum;
mod tarball;
mod tool;
mod upload;
mod volumes;

pub use definition::{
    Allocation, Layer, PoolDefinition, PoolHost, PoolKind, PoolStatus, Resize, UploadDefinition, Volume,
    VolumeDefinition, VolumeFormat, VolumeSource,
};
pub use error::{Cause, Error, Result};
pub use layers::{Below, Deleted};
pub use pool::{BEAT, Host, Pool};
pub use progress::{Progress, Silent};
pub use sum::sha256;
pub use volumes::{Download, Held, OpenVolume};
