//! Disk images: raw files and block devices, qcow2, and copy-on-write overlays. Knows nothing of machines.
//!
//! [`open`] is the door: it finds out the format, takes the locks and gives a [`Disk`].

mod below;
mod copy;
#[cfg(test)]
mod crash;
mod error;
mod file;
#[cfg(test)]
mod journal;
mod overlay;
pub mod qcow2;
mod raw;
mod stack;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use libc::iovec;
use serde::{Deserialize, Serialize};

pub use below::Extent;
pub use copy::{copy, read, write};
pub use error::OpenError;
pub use file::{allocate, lock};
pub use overlay::Overlay;
pub use qcow2::files;
pub use raw::Raw;
pub use stack::{Held, Stack, Switch};

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
    /// Where data begins next, from `offset`, and where it ends: what lies before it, and all if there is none, reads as zeroes.
    /// Data may turn out to be zeroes.
    ///
    /// # Errors
    /// If the host cannot tell.
    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        Ok((offset < self.len()).then(|| (offset, self.len())))
    }
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

/// A disk that somebody else has, too, who changes what it is made of.
impl<D: Disk + ?Sized> Disk for Arc<D> {
    fn len(&self) -> u64 {
        (**self).len()
    }

    fn read_only(&self) -> bool {
        (**self).read_only()
    }

    unsafe fn read(&self, buffers: &[iovec], offset: u64) -> io::Result<()> {
        // SAFETY: the caller vouches for the buffers.
        unsafe { (**self).read(buffers, offset) }
    }

    unsafe fn write(&self, buffers: &[iovec], offset: u64) -> io::Result<()> {
        // SAFETY: the caller vouches for the buffers.
        unsafe { (**self).write(buffers, offset) }
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        (**self).next_data(offset)
    }

    fn flush(&self) -> io::Result<()> {
        (**self).flush()
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        (**self).discard(offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        (**self).write_zeroes(offset, len, unmap)
    }
}

/// How the bytes of an image's file are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// The file is the disk.
    Raw,
    /// QEMU's copy-on-write format, versions 2 and 3.
    Qcow2,
}

impl Format {
    /// The format that a file's first bytes speak for: those of a raw disk are its guest's to write.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn of(file: &File) -> io::Result<Format> {
        let mut magic = [0; 4];
        match file.read_exact_at(&mut magic, 0) {
            Ok(()) if magic == qcow2::MAGIC => Ok(Format::Qcow2),
            Ok(()) => Ok(Format::Raw),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Format::Raw),
            Err(error) => Err(error),
        }
    }
}

/// Opens the image in `path`, whose format is `format` or, with `None`, is found out.
///
/// A guest that writes a raw disk can make it look like a qcow2 image whose backing file is any file of the host's. So an image
/// with a backing file is opened only if somebody vouches that it is qcow2: the caller by `format`, or its name by `.qcow2`.
///
/// # Errors
/// See [`OpenError`].
pub fn open(path: &Path, format: Option<Format>, read_only: bool) -> Result<Box<dyn Disk>, OpenError> {
    let file = file::open(path, read_only)?;
    file::check_kind(&file)?;
    let format = match format {
        Some(format) => format,
        None => found_out(&file, path)?,
    };
    Ok(Box::new(Stack::from_named(file, path, format, read_only)?))
}

fn found_out(file: &File, path: &Path) -> Result<Format, OpenError> {
    let format = Format::of(file)?;
    let named = path.extension().is_some_and(|e| e == "qcow2" || e == "qcow");
    if format == Format::Qcow2 && !named && qcow2::Header::read(file)?.backing.is_some() {
        return Err(OpenError::Untrusted);
    }
    Ok(format)
}

/// The image in a file that is open. It can have no backing file.
///
/// # Errors
/// See [`OpenError`].
pub fn from_file(file: File, format: Format, read_only: bool) -> Result<Box<dyn Disk>, OpenError> {
    from_files(file, Vec::new(), format, read_only)
}

/// The image in a file that is open, with all its backing files: see [`Stack::from_files`].
///
/// # Errors
/// See [`OpenError`].
pub fn from_files(
    file: File,
    backing: Vec<File>,
    format: Format,
    read_only: bool,
) -> Result<Box<dyn Disk>, OpenError> {
    Ok(Box::new(Stack::from_files(file, backing, format, read_only)?))
}
