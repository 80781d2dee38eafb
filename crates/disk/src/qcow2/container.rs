//! The file of a qcow2 image, as imago reaches it.
//!
//! imago has such a thing itself, but that gives zeroes for what is missing behind the end of a file, and hands the kernel
//! lists of buffers that are too long for it.

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use imago::Storage;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::PreallocateMode;
use imago::storage::drivers::CommonStorageHelper;

use crate::file;

/// An image's file.
#[derive(Debug)]
pub struct Container {
    file: File,
    len: AtomicU64,
    /// Bytes of a cluster: the last one may be there in part.
    cluster: u64,
    helper: CommonStorageHelper,
}

impl Container {
    /// The container in `file`; clusters have `cluster` bytes.
    pub fn new(file: File, cluster: u64) -> io::Result<Self> {
        let len = AtomicU64::new(file::size(&file)?);
        Ok(Self { file, len, cluster, helper: CommonStorageHelper::default() })
    }

    fn grown_to(&self, end: u64) {
        self.len.fetch_max(end, Ordering::Relaxed);
    }
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an image")
    }
}

fn past_the_end(offset: u64) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("the image is cut short: nothing at {offset:#x}"))
}

impl Storage for Container {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len.load(Ordering::Relaxed))
    }

    unsafe fn pure_readv(&self, buffers: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        let len = buffers.len();
        // SAFETY: the list is used while `buffers` lives.
        let list = unsafe { buffers.as_iovec() };
        // SAFETY: they are mutable slices.
        let n = unsafe { file::read(&self.file, list, offset) }?;
        if n == len {
            return Ok(());
        }
        let there = offset + n;
        if offset + len > there.next_multiple_of(self.cluster) {
            return Err(past_the_end(there));
        }
        buffers.split_tail_at(n).fill(0);
        Ok(())
    }

    unsafe fn pure_writev(&self, buffers: IoVector<'_>, offset: u64) -> io::Result<()> {
        let end = offset.saturating_add(buffers.len());
        // SAFETY: the list is used while `buffers` lives, and only read from.
        unsafe { file::write(&self.file, buffers.as_iovec(), offset) }?;
        self.grown_to(end);
        Ok(())
    }

    unsafe fn pure_write_zeroes(&self, offset: u64, len: u64) -> io::Result<()> {
        file::zero(&self.file, offset, len, false)?;
        self.grown_to(offset.saturating_add(len));
        Ok(())
    }

    unsafe fn pure_write_allocated_zeroes(&self, offset: u64, len: u64) -> io::Result<()> {
        file::zero(&self.file, offset, len, false)?;
        self.grown_to(offset.saturating_add(len));
        Ok(())
    }

    unsafe fn pure_discard(&self, offset: u64, len: u64) -> io::Result<()> {
        match file::punch(&self.file, offset, len) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            result => result,
        }
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.helper
    }

    fn resize(&self, len: u64, _mode: PreallocateMode) -> io::Result<()> {
        self.file.set_len(len)?;
        self.len.store(len, Ordering::Relaxed);
        Ok(())
    }
}
