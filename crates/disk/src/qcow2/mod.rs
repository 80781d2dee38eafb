//! qcow2 images, through the crate imago.
//!
//! The header and the tables are looked at before imago sees them ([`header`], `tables`), so that an image which cannot be used
//! is refused with a reason, and a damaged one is not found out by a guest.

mod chain;
mod container;
mod create;
mod header;
mod tables;

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use imago::format::PreallocateMode;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::{FormatAccess, Mapping};
use libc::iovec;

use self::chain::Chain;
use self::container::Container;
use crate::{Disk, OpenError, file};

pub use chain::files;
pub use create::{create, create_allocated, create_based_on, create_overlay};
pub use header::{Backing, Header, MAGIC};

/// A qcow2 image with its backing files.
#[derive(Debug)]
pub struct Qcow2 {
    /// Shared by reads and writes; alone for what takes clusters away, which imago allows only while nobody uses them.
    image: RwLock<FormatAccess<Container>>,
    read_only: bool,
}

impl Qcow2 {
    /// Opens `path` and its backing files.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(path: &Path, read_only: bool) -> Result<Self, OpenError> {
        Self::new(file::open(path, read_only)?, path, read_only)
    }

    /// The image in an open file; names of backing files are relative to `path`.
    pub(crate) fn new(file: File, path: &Path, read_only: bool) -> Result<Self, OpenError> {
        let image = Chain::default().qcow2(file, Some(path), read_only)?;
        Ok(Self { image: RwLock::new(image), read_only })
    }

    /// The image in an open file, with its backing files: see [`crate::from_files`].
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn from_files(file: File, backing: Vec<File>, read_only: bool) -> Result<Self, OpenError> {
        let mut chain = Chain::handed(backing);
        let image = chain.qcow2(file, None, read_only)?;
        chain.end()?;
        Ok(Self { image: RwLock::new(image), read_only })
    }

    /// Makes the disk `len` bytes long. What is added reads as zeroes.
    ///
    /// # Errors
    /// If the new length is shorter or no multiple of a sector, or the host refuses.
    pub fn grow(&self, len: u64) -> io::Result<()> {
        if len < self.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a disk cannot shrink"));
        }
        self.resize(len)
    }

    /// Makes the disk `len` bytes long: what is added reads as zeroes, what is taken away is lost.
    ///
    /// # Errors
    /// If `len` is no positive multiple of a sector, or the host refuses.
    pub fn resize(&self, len: u64) -> io::Result<()> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
        file::check_size(len).map_err(invalid)?;
        let mut image = self.alone();
        // Where it is longer than before, what it is based on must not show.
        image.resize(len, PreallocateMode::Zero)?;
        image.flush()?;
        image.sync()
    }

    fn shared(&self) -> RwLockReadGuard<'_, FormatAccess<Container>> {
        self.image.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> RwLockWriteGuard<'_, FormatAccess<Container>> {
        self.image.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for Qcow2 {
    fn len(&self) -> u64 {
        self.shared().size()
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    unsafe fn read(&self, buffers: &[iovec], offset: u64) -> io::Result<()> {
        let image = self.shared();
        file::check_range(offset, file::total(buffers), image.size())?;
        let mut vector = IoVectorMut::with_capacity(buffers.len());
        for b in buffers.iter().filter(|b| b.iov_len > 0) {
            // SAFETY: the caller vouches for the buffers; imago only has the kernel fill them, or fills them itself.
            let slice = unsafe { std::slice::from_raw_parts_mut(b.iov_base.cast(), b.iov_len) };
            vector.push_ioslice(IoSliceMut::new(slice));
        }
        image.readv(vector, offset)
    }

    unsafe fn write(&self, buffers: &[iovec], offset: u64) -> io::Result<()> {
        let image = self.shared();
        file::check_range(offset, file::total(buffers), image.size())?;
        let mut vector = IoVector::with_capacity(buffers.len());
        for b in buffers.iter().filter(|b| b.iov_len > 0) {
            // SAFETY: the caller vouches for the buffers; imago only hands them to the kernel.
            let slice = unsafe { std::slice::from_raw_parts(b.iov_base.cast(), b.iov_len) };
            vector.push_ioslice(IoSlice::new(slice));
        }
        image.writev(vector, offset)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        let image = self.shared();
        let (mut at, mut data) = (offset, None);
        while at < image.size() {
            let (mapping, len) = image.get_mapping(at, image.size() - at)?;
            let zeroes = matches!(mapping, Mapping::Zero { .. } | Mapping::Eof { .. });
            match data {
                None if !zeroes => data = Some(at),
                Some(start) if zeroes => return Ok(Some((start, at))),
                _ => {}
            }
            if len == 0 {
                break;
            }
            at += len;
        }
        Ok(data.map(|start| (start, at.min(image.size()))))
    }

    fn flush(&self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        let image = self.shared();
        image.flush()?;
        image.sync()
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut image = self.alone();
        file::check_range(offset, len, image.size())?;
        match image.discard_to_any(offset, len) {
            // Version 2 cannot; it is advice.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            result => result,
        }
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let mut image = self.alone();
        file::check_range(offset, len, image.size())?;
        let result = match unmap {
            true => image.discard_to_zero(offset, len),
            false => image.write_zeroes(offset, len),
        };
        match result {
            // Version 2 has no mapping for zeroes.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => write_zeroes(&image, offset, len),
            result => result,
        }
    }
}

fn write_zeroes(image: &FormatAccess<Container>, mut offset: u64, mut len: u64) -> io::Result<()> {
    while len > 0 {
        let n = len.min(file::ZEROES.len() as u64);
        image.write(&file::ZEROES[..n as usize], offset)?;
        offset += n;
        len -= n;
    }
    Ok(())
}
