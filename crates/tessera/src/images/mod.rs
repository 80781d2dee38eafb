//! The images that machines boot from: a disk with the kernel, initial RAM disk and command line that start it.

pub mod build;
pub mod import;
pub mod store;
