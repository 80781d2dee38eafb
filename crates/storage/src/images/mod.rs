//! The images that machines boot from: a disk with the kernel, initial RAM disk and command line that start it.

mod archive;
mod build;
mod fetch;
mod import;
mod source;
mod store;
mod unpack;
mod upload;

pub use archive::{Packed, export};
pub use build::{Recipe, Release, build, package_name};
pub use import::{COMMAND_LINE, Import, import};
pub use source::Source;
pub use store::{About, Image, Store};
pub use upload::{FileUpload, UploadStatus, WholeUpload};
