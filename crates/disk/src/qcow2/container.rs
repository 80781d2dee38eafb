//! What imago reads and writes: the file of an image, or the layers that one is based on.
//!
//! imago has such a thing for files itself, but that gives zeroes for what is missing behind the end of a file, and hands the
//! kernel lists of buffers that are too long for it.

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use imago::Storage;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::PreallocateMode;
use imago::storage::drivers::CommonStorageHelper;

use crate::below::Below;
use crate::file;

/// What imago takes for a file.
#[derive(Debug)]
pub struct Container {
    source: Source,
    helper: CommonStorageHelper,
}

#[derive(Debug)]
enum Source {
    /// An image's file.
    File {
        file: Arc<File>,
        len: AtomicU64,
        /// Bytes of a cluster: the last one may be there in part.
        cluster: u64,
    },
    /// The disk that layers are together. It has no end: behind that of the layers there are zeroes.
    Layers(Arc<Below>),
}

impl Container {
    /// The image in `file`; clusters have `cluster` bytes.
    pub fn of_file(file: Arc<File>, cluster: u64) -> io::Result<Self> {
        let len = AtomicU64::new(file::size(&file)?);
        Ok(Self { source: Source::File { file, len, cluster }, helper: CommonStorageHelper::default() })
    }

    /// What is in layers, whichever they are at the moment.
    pub fn of_layers(below: Arc<Below>) -> Self {
        Self { source: Source::Layers(below), helper: CommonStorageHelper::default() }
    }

    /// The file that is written to.
    fn file(&self) -> io::Result<&File> {
        match &self.source {
            Source::File { file, .. } => Ok(file),
            Source::Layers(_) => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }

    fn grown_to(&self, end: u64) {
        if let Source::File { len, .. } = &self.source {
            len.fetch_max(end, Ordering::Relaxed);
        }
    }
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an image")
    }
}

impl Storage for Container {
    fn size(&self) -> io::Result<u64> {
        Ok(match &self.source {
            Source::File { len, .. } => len.load(Ordering::Relaxed),
            Source::Layers(_) => i64::MAX as u64,
        })
    }

    unsafe fn pure_readv(&self, buffers: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        let len = buffers.len();
        // SAFETY: the list is used while `buffers` lives.
        let list = unsafe { buffers.as_iovec() };
        let (file, cluster) = match &self.source {
            // SAFETY: they are mutable slices.
            Source::Layers(below) => return unsafe { below.read(list, offset) },
            Source::File { file, cluster, .. } => (file, *cluster),
        };
        // SAFETY: as above.
        let n = unsafe { file::read(file, list, offset) }?;
        if n == len {
            return Ok(());
        }
        let there = offset + n;
        if offset + len > there.next_multiple_of(cluster) {
            return Err(file::past_the_end(there));
        }
        buffers.split_tail_at(n).fill(0);
        Ok(())
    }

    unsafe fn pure_writev(&self, buffers: IoVector<'_>, offset: u64) -> io::Result<()> {
        let end = offset.saturating_add(buffers.len());
        // SAFETY: the list is used while `buffers` lives, and only read from.
        unsafe { file::write(self.file()?, buffers.as_iovec(), offset) }?;
        self.grown_to(end);
        Ok(())
    }

    unsafe fn pure_write_zeroes(&self, offset: u64, len: u64) -> io::Result<()> {
        file::zero(self.file()?, offset, len, false)?;
        self.grown_to(offset.saturating_add(len));
        Ok(())
    }

    unsafe fn pure_write_allocated_zeroes(&self, offset: u64, len: u64) -> io::Result<()> {
        file::zero(self.file()?, offset, len, false)?;
        self.grown_to(offset.saturating_add(len));
        Ok(())
    }

    unsafe fn pure_discard(&self, offset: u64, len: u64) -> io::Result<()> {
        match file::punch(self.file()?, offset, len) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            result => result,
        }
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        file::sync(self.file()?)
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.helper
    }

    fn resize(&self, new: u64, _mode: PreallocateMode) -> io::Result<()> {
        file::set_len(self.file()?, new)?;
        if let Source::File { len, .. } = &self.source {
            len.store(new, Ordering::Relaxed);
        }
        Ok(())
    }
}
