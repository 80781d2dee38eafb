//! A private layer of changes over a disk that stays as it is, and that many may share.
//!
//! What is written goes to a sparse file of the disk's own layout, and a bit for each cluster says from which of the two it is
//! read. The bits are in memory only: the layer ends with the machine.
//!
//! ```text
//! guest ──▶ Overlay ──┬── written clusters ──▶ top, a file without a name
//!                     └── all others ────────▶ base, read only
//! ```

mod map;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{PoisonError, RwLock};

use libc::iovec;

use self::map::Map;
use crate::{Disk, OpenError, file};

/// What is taken from the base at once: pages, which guests write whole.
const CLUSTER: u64 = 4096;

/// A disk over another one, with what was written since.
pub struct Overlay {
    base: Box<dyn Disk>,
    top: File,
    map: RwLock<Map>,
    /// Shared by those who write whole clusters, alone for who takes a cluster from the base: otherwise the one could put
    /// old bytes over the other's new ones.
    filling: RwLock<()>,
}

fn unnamed(folder: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(folder)
}

/// Part of a range that comes from one of the two.
struct Run {
    written: bool,
    offset: u64,
    len: u64,
}

impl Overlay {
    /// A layer over the image in `path`, in a file without a name: beside the image, where there is room for it if there was for
    /// the image, or else where temporary files go.
    ///
    /// # Errors
    /// If the image cannot be opened, or there is no place for the file.
    pub fn over(path: &Path) -> Result<Self, OpenError> {
        let base = crate::open(path, None, true)?;
        let beside = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let top = unnamed(beside).or_else(|_| unnamed(&std::env::temp_dir()))?;
        Ok(Self::new(base, top)?)
    }

    /// A layer over `base`, kept in `top`, which is empty.
    ///
    /// # Errors
    /// If the host refuses the file the base's length.
    pub fn new(base: Box<dyn Disk>, top: File) -> io::Result<Self> {
        top.set_len(base.len())?;
        Ok(Self { base, top, map: RwLock::default(), filling: RwLock::default() })
    }

    /// The next run of the range from `offset` to `end`.
    fn run(&self, offset: u64, end: u64) -> Run {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let (written, to) = map.run(offset / CLUSTER, end.div_ceil(CLUSTER));
        Run { written, offset, len: (to * CLUSTER).min(end) - offset }
    }

    /// Notes that the clusters which lie wholly in the range (the disk's last one may be short) are in the top.
    fn written(&self, offset: u64, end: u64) {
        let last = if end == self.len() { end.div_ceil(CLUSTER) } else { end / CLUSTER };
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        map.insert(offset.div_ceil(CLUSTER), last);
    }

    /// The clusters at the ends of a range that lie in it only in part, and are not in the top.
    fn partial(&self, offset: u64, end: u64) -> impl Iterator<Item = u64> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let head = (!offset.is_multiple_of(CLUSTER)).then_some(offset / CLUSTER);
        let tail = (!end.is_multiple_of(CLUSTER) && end != self.len()).then_some(end / CLUSTER);
        let tail = tail.filter(|tail| Some(*tail) != head);
        [head, tail].map(|c| c.filter(|c| !map.contains(*c))).into_iter().flatten()
    }

    /// Takes the clusters that a change of the range needs from the base.
    fn fill(&self, offset: u64, end: u64) -> io::Result<()> {
        if self.partial(offset, end).next().is_none() {
            return Ok(());
        }
        let _alone = self.filling.write().unwrap_or_else(PoisonError::into_inner);
        for cluster in self.partial(offset, end) {
            let at = cluster * CLUSTER;
            let mut bytes = [0u8; CLUSTER as usize];
            let len = CLUSTER.min(self.len() - at);
            let buffer = [iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: len as usize }];
            // SAFETY: the buffer is ours, and as long as it says.
            unsafe { self.base.read(&buffer, at) }?;
            // SAFETY: as above.
            unsafe { file::write(&self.top, &buffer, at) }?;
            self.written(at, at + len);
        }
        Ok(())
    }

    /// Makes a change of a range in the top.
    fn change(&self, offset: u64, len: u64, make: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        file::check_range(offset, len, self.len())?;
        let end = offset + len;
        self.fill(offset, end)?;
        let _shared = self.filling.read().unwrap_or_else(PoisonError::into_inner);
        make()?;
        self.written(offset, end);
        Ok(())
    }
}

impl Disk for Overlay {
    fn len(&self) -> u64 {
        self.base.len()
    }

    fn read_only(&self) -> bool {
        false
    }

    unsafe fn read(&self, buffers: &[iovec], offset: u64) -> io::Result<()> {
        let len = file::total(buffers);
        file::check_range(offset, len, self.len())?;
        let (mut rest, mut skip, mut at) = (buffers, 0, offset);
        while at < offset + len {
            let run = self.run(at, offset + len);
            at += run.len;
            let part = file::take(&mut rest, &mut skip, run.len);
            if !run.written {
                // SAFETY: the caller vouches for the buffers, of which these are parts.
                unsafe { self.base.read(&part, run.offset) }?;
                continue;
            }
            // SAFETY: as above.
            if unsafe { file::read(&self.top, &part, run.offset) }? != run.len {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    unsafe fn write(&self, buffers: &[iovec], offset: u64) -> io::Result<()> {
        // SAFETY: the caller vouches for the buffers.
        self.change(offset, file::total(buffers), || unsafe { file::write(&self.top, buffers, offset) })
    }

    /// Nothing is to outlive the machine.
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        file::check_range(offset, len, self.len())?;
        // What is in the top becomes zeroes; what is not is still the base's.
        match file::punch(&self.top, offset, len) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            result => result,
        }
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.change(offset, len, || file::zero(&self.top, offset, len, unmap))
    }
}
