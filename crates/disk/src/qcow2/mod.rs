//! qcow2 images, through the crate imago.
//!
//! The header and the tables are looked at before imago sees them ([`header`], `tables`), so that an image which cannot be used
//! is refused with a reason, and a damaged one is not found out by a guest.

mod chain;
mod container;
mod create;
pub(crate) mod entry;
mod header;
mod image;
mod rebase;
pub(crate) mod tables;
pub(crate) mod vector;

use std::fs::File;

use crate::OpenError;
use crate::below::Layer;

pub use chain::files;
pub use create::{create, create_allocated, create_based_on, create_layer, create_overlay};
pub use header::{Backing, Header, MAGIC};

pub(crate) use chain::{Chain, check_name};
pub(crate) use container::Container;
pub(crate) use image::{Image, Own};
pub(crate) use rebase::{Name, beside};

/// Whether the image in a file has nothing itself: it reads as what it is based on.
///
/// # Errors
/// If it is no image that can be used, or the host cannot read it.
pub fn is_empty(file: &File) -> Result<bool, OpenError> {
    Layer::is_empty(file, &Header::read(file)?)
}
