//! What guests' disks are kept in: the images that they boot from.
//!
//! All calls block. Long ones tell how far they are by a [`Progress`], and end soon after it says that they are cancelled. What
//! they make appears only when it is whole: a process that is killed leaves what was there before, and what it had begun is
//! swept away by the next one.

#![forbid(unsafe_code)]

mod draft;
mod error;
pub mod images;
mod progress;
pub mod sparse;
mod tool;

pub use error::{Cause, Error, Result};
pub use progress::{Progress, Silent};
