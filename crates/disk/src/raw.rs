//! Raw images: a file or block device whose bytes are the disk's.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use libc::iovec;

use crate::{Disk, OpenError, file};

/// A raw image.
#[derive(Debug)]
pub struct Raw {
    file: Arc<File>,
    len: u64,
    read_only: bool,
}

impl Raw {
    /// Opens `path`.
    ///
    /// # Errors
    /// If it cannot be opened or locked, or its size is no multiple of a sector.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, OpenError> {
        Self::from_file(file::open(path, read_only)?, read_only)
    }

    /// The image in an open file.
    ///
    /// # Errors
    /// If it is in use by somebody who writes it, or its size is no multiple of a sector.
    pub fn from_file(file: File, read_only: bool) -> Result<Self, OpenError> {
        file::check_kind(&file)?;
        file::lock(&file, read_only)?;
        let len = file::check_size(file::size(&file)?)?;
        Ok(Self { file: Arc::new(file), len, read_only })
    }

    /// Its file.
    pub(crate) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Makes the disk `len` bytes long: what is added reads as zeroes, what is taken away is lost.
    ///
    /// # Errors
    /// If `len` is no positive multiple of a sector, it is no file, or the host refuses.
    pub fn resize(&mut self, len: u64) -> io::Result<()> {
        let len =
            file::check_size(len).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        file::set_len(&self.file, len)?;
        self.len = len;
        file::sync(&self.file)
    }
}

impl Disk for Raw {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    unsafe fn read(&self, buffers: &[iovec], offset: u64) -> io::Result<()> {
        let len = file::total(buffers);
        file::check_range(offset, len, self.len)?;
        // SAFETY: the caller vouches for the buffers.
        let n = unsafe { file::read(&self.file, buffers, offset) }?;
        if n == len { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    unsafe fn write(&self, buffers: &[iovec], offset: u64) -> io::Result<()> {
        file::check_range(offset, file::total(buffers), self.len)?;
        // SAFETY: the caller vouches for the buffers.
        unsafe { file::write(&self.file, buffers, offset) }
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        file::next_data(&self.file, offset, self.len)
    }

    fn flush(&self) -> io::Result<()> {
        if self.read_only { Ok(()) } else { file::sync(&self.file) }
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        file::check_range(offset, len, self.len)?;
        match file::punch(&self.file, offset, len) {
            // It is advice: a file system without holes does not take it.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            result => result,
        }
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        file::check_range(offset, len, self.len)?;
        file::zero(&self.file, offset, len, unmap)
    }
}
