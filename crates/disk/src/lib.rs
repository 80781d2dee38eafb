//! Disk images. Knows nothing of machines.

mod format;
mod lock;
mod qcow2;
mod raw;

use std::io;

use libc::iovec;

pub use format::{Format, open};
pub use qcow2::Qcow2;
pub use raw::Raw;

use lock::lock;

/// Bytes of a sector: what offsets and lengths are multiples of.
pub const SECTOR: u64 = 512;

/// A disk image in use. All calls may come from several threads at once.
pub trait Disk: Send + Sync {
    /// Size in bytes, a multiple of [`SECTOR`].
    fn len(&self) -> u64;
    /// Whether it has no sector at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Whether writes are refused.
    fn read_only(&self) -> bool;
    /// Reads from `offset` into the buffers, all of them.
    ///
    /// # Errors
    /// If the host cannot read, or the range lies beyond the end.
    ///
    /// # Safety
    /// The buffers must be writable for their lengths.
    unsafe fn read(&self, buffers: &[iovec], offset: u64) -> io::Result<()>;
    /// Writes the buffers, all of them, at `offset`.
    ///
    /// # Errors
    /// If the host cannot write, or the range lies beyond the end.
    ///
    /// # Safety
    /// The buffers must be readable for their lengths.
    unsafe fn write(&self, buffers: &[iovec], offset: u64) -> io::Result<()>;
    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// If the host cannot.
    fn flush(&self) -> io::Result<()>;
    /// The contents of the range do not matter any more; they may read as zeroes.
    ///
    /// # Errors
    /// If the host cannot.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()>;
    /// The range reads as zeroes from now on; with `unmap` its space may be given back.
    ///
    /// # Errors
    /// If the host cannot.
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()>;
}
