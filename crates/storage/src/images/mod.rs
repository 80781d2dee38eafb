//! The images that machines boot from: a disk with the kernel, initial RAM disk and command line that start it.

mod build;
mod import;
mod store;

pub use build::{Recipe, Release, build, package_name};
pub use import::{Import, import};
pub use store::{About, Image, Store};
