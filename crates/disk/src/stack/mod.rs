//! A disk as guests have it: the layer that is written to, and all that it is based on.
//!
//! ```text
//! guest ──▶ Stack ──▶ top ──┬── what it has ──▶ its file
//!                           └── all else ─────▶ the layers below, by one map of them
//! ```
//!
//! The top can be exchanged for a new one over it, layers below can be taken up into the top, and what is below can be
//! exchanged for other files of the same contents, all while the guest reads and writes.

mod held;
mod pull;
mod switch;

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use libc::iovec;

use crate::below::Below;
use crate::qcow2::{Chain, Header, Image};
use crate::{Disk, Format, OpenError, Raw, file};

pub use held::Held;
pub use switch::Switch;

/// A disk of any number of layers.
#[derive(Debug)]
pub struct Stack {
    read_only: bool,
    /// Shared by reads and writes; alone for what takes clusters away, which imago allows only while nobody uses them, and for
    /// what exchanges layers.
    top: RwLock<Top>,
    /// Files that were the top: what was written to them may not be durable yet.
    unsynced: Mutex<Vec<Arc<File>>>,
    /// Whoever takes layers away from below has this.
    changing: Mutex<()>,
}

#[derive(Debug)]
enum Top {
    Raw(Raw),
    Qcow2(Image),
}

impl Top {
    fn len(&self) -> u64 {
        match self {
            Top::Raw(raw) => raw.len(),
            Top::Qcow2(image) => image.len(),
        }
    }

    fn file(&self) -> &Arc<File> {
        match self {
            Top::Raw(raw) => raw.file(),
            Top::Qcow2(image) => image.file(),
        }
    }

    fn below(&self) -> Option<&Arc<Below>> {
        match self {
            Top::Raw(_) => None,
            Top::Qcow2(image) => image.below(),
        }
    }

    /// Has everything written so far in the file, durable or not.
    fn write_back(&self) -> io::Result<()> {
        match self {
            Top::Raw(_) => Ok(()),
            Top::Qcow2(image) => image.write_back(),
        }
    }
}

fn busy(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::ResourceBusy, what)
}

impl Stack {
    /// Opens the image in `path`, of this format, and all that it is based on.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(path: &Path, format: Format, read_only: bool) -> Result<Self, OpenError> {
        let file = file::open(path, read_only)?;
        Self::new(file, format, Chain::default(), Some(path), (read_only, read_only))
    }

    /// The image in an open file; names of what it is based on are relative to `path`.
    pub(crate) fn from_named(
        file: File,
        path: &Path,
        format: Format,
        read_only: bool,
    ) -> Result<Self, OpenError> {
        Self::new(file, format, Chain::default(), Some(path), (read_only, read_only))
    }

    /// The image in a file that is open, with all the files that it is based on, the nearest one first. Each header must say that
    /// it is based on the next one, by its name as far as the kernel tells it, and how that one is laid out.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn from_files(
        file: File,
        backing: Vec<File>,
        format: Format,
        read_only: bool,
    ) -> Result<Self, OpenError> {
        if format == Format::Raw && !backing.is_empty() {
            return Err(OpenError::Spare(backing.len()));
        }
        Self::new(file, format, Chain::handed(backing), None, (read_only, read_only))
    }

    /// The same for a qcow2 image that others read while it is written to, from below a layer that has all that is written: so none of
    /// them ever sees it. It is locked as for reading. That nobody else writes to it is for the caller to see to.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn hidden(file: File, backing: Vec<File>) -> Result<Self, OpenError> {
        Self::new(file, Format::Qcow2, Chain::handed(backing), None, (false, true))
    }

    fn new(
        file: File,
        format: Format,
        mut chain: Chain,
        path: Option<&Path>,
        (read_only, shared): (bool, bool),
    ) -> Result<Self, OpenError> {
        let top = match format {
            Format::Raw => Top::Raw(Raw::from_file(file, read_only)?),
            Format::Qcow2 => {
                file::check_kind(&file)?;
                chain.enter(&file)?;
                file::lock(&file, shared)?;
                let header = Header::read(&file)?;
                let layers = chain.layers(header.backing.clone(), path)?;
                let below = (!layers.is_empty()).then(|| Arc::new(Below::new(layers)));
                Top::Qcow2(Image::open(Arc::new(file), &header, below, read_only)?)
            }
        };
        Ok(Self { read_only, top: RwLock::new(top), unsynced: Mutex::default(), changing: Mutex::default() })
    }

    /// How many layers there are below the top.
    pub fn layers(&self) -> usize {
        self.shared().below().map_or(0, |below| below.count())
    }

    /// Makes the disk `len` bytes long: what is added reads as zeroes, what is taken away is lost. Reads and writes may go on
    /// meanwhile.
    ///
    /// # Errors
    /// If `len` is no positive multiple of a sector, or the host refuses.
    pub fn resize(&self, len: u64) -> io::Result<()> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
        file::check_size(len).map_err(invalid)?;
        match &mut *self.alone() {
            Top::Raw(raw) => raw.resize(len),
            Top::Qcow2(image) => image.resize(len),
        }
    }

    /// The same, and refuses to make it shorter.
    ///
    /// # Errors
    /// If the new length is shorter or no multiple of a sector, or the host refuses.
    pub fn grow(&self, len: u64) -> io::Result<()> {
        if len < self.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a disk cannot shrink"));
        }
        self.resize(len)
    }

    /// Has everything written so far in the files, durable or not: whoever opens them next finds it.
    ///
    /// # Errors
    /// If the host does not take it.
    pub fn write_back(&self) -> io::Result<()> {
        if self.read_only { Ok(()) } else { self.shared().write_back() }
    }

    /// Makes everything written so far durable, with `top` being the top.
    fn flush_top(&self, top: &Top) -> io::Result<()> {
        // Whoever comes second waits: its writes may be in these files, too.
        let mut unsynced = self.unsynced.lock().unwrap_or_else(PoisonError::into_inner);
        for file in &*unsynced {
            file::sync(file)?;
        }
        unsynced.clear();
        drop(unsynced);
        match top {
            Top::Raw(raw) => raw.flush(),
            Top::Qcow2(image) => image.flush(),
        }
    }

    fn shared(&self) -> RwLockReadGuard<'_, Top> {
        self.top.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> RwLockWriteGuard<'_, Top> {
        self.top.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for Stack {
    fn len(&self) -> u64 {
        self.shared().len()
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    unsafe fn read(&self, buffers: &[iovec], offset: u64) -> io::Result<()> {
        // SAFETY: the caller vouches for the buffers.
        unsafe {
            match &*self.shared() {
                Top::Raw(raw) => raw.read(buffers, offset),
                Top::Qcow2(image) => image.read(buffers, offset),
            }
        }
    }

    unsafe fn write(&self, buffers: &[iovec], offset: u64) -> io::Result<()> {
        // SAFETY: as above.
        unsafe {
            match &*self.shared() {
                Top::Raw(raw) => raw.write(buffers, offset),
                Top::Qcow2(image) => image.write(buffers, offset),
            }
        }
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        match &*self.shared() {
            Top::Raw(raw) => raw.next_data(offset),
            Top::Qcow2(image) => image.next_data(offset),
        }
    }

    fn flush(&self) -> io::Result<()> {
        if self.read_only { Ok(()) } else { self.flush_top(&self.shared()) }
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        if let Top::Raw(raw) = &*self.shared() {
            return raw.discard(offset, len);
        }
        match &mut *self.alone() {
            Top::Raw(raw) => raw.discard(offset, len),
            Top::Qcow2(image) => image.discard(offset, len),
        }
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        if let Top::Raw(raw) = &*self.shared() {
            return raw.write_zeroes(offset, len, unmap);
        }
        match &mut *self.alone() {
            Top::Raw(raw) => raw.write_zeroes(offset, len, unmap),
            Top::Qcow2(image) => image.write_zeroes(offset, len, unmap),
        }
    }
}
