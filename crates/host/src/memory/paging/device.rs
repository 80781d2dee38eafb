//! The paging device: a file that the host makes, or a block device on which there is nothing, given to the kernel as swap (swapon(2)).
//!
//! Its header bears the host's id. So a daemon finds again what one before it has made and had no time to take away, however it was told
//! of it, and takes nothing that is not its own.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use api::{Id, Size};
use rustix::fs::FallocateFlags;

use super::active::{self, Active};
use super::header::{self, Header};
use super::zram::Zram;
use super::{Paging, PagingError};
use crate::machine;

/// With less than this it is not worth the trouble.
const LEAST: Size = Size(64 << 20);
/// Before swap that has been given no priority, and behind what somebody has given a high one.
const PRIORITY: libc::c_int = 100;
/// What is compressed in memory comes back sooner.
const PRIORITY_IN_MEMORY: libc::c_int = 200;
/// linux/swap.h, SWAP_FLAG_PREFER.
const PREFER: libc::c_int = 0x8000;
/// Bytes at both ends of a device in which there is nothing if it is free: there are tables of partitions, file systems, and what binds
/// devices together.
const ENDS: u64 = 1 << 20;
/// The part of the machine's memory that stays available when what is on the device is brought back.
const MARGIN: u64 = 16;

/// A paging device in use.
#[derive(Debug)]
pub struct Device {
    path: PathBuf,
    /// Whether it is a file that we have made.
    file: bool,
    host: Id,
}

impl Device {
    /// Makes what was asked for and gives it to the kernel; `own` is where the file is if no place was said. What a daemon before has left is taken
    /// as it is, or taken away if it is another one.
    ///
    /// # Errors
    /// If there is no such place, something is on it, it is too small, or the kernel does not take it.
    pub fn open(asked: &Paging, own: &Path, host: Id) -> Result<Self, PagingError> {
        let (path, size) = match asked {
            Paging::Own(size) => (own.to_owned(), Some(*size)),
            Paging::File(path, size) => (path.clone(), Some(*size)),
            Paging::Device(path) => (path.clone(), None),
        };
        let found = path.canonicalize().unwrap_or_else(|_| path.clone());
        let device = Self { path: found, file: size.is_some(), host };
        if let Some(there) = device.active() {
            if !device.is_ours() {
                return Err(PagingError::InUse(path));
            }
            if size.is_none_or(|size| there.size.0.abs_diff(size.0) <= header::PAGE) {
                return Ok(device);
            }
            // Its size changes only when nothing is on it.
            if device.close().is_err() {
                tracing::warn!(
                    "{}: it stays as large as it is, {}: {} are in use",
                    path.display(),
                    there.size,
                    there.used
                );
                return Ok(device);
            }
        }
        let size = size.map_or_else(|| device.check_device(), Ok)?;
        if size < LEAST {
            return Err(PagingError::TooSmall { what: format!("--memory-paging {}", path.display()), size });
        }
        if device.file {
            device.make_file(size)?;
        }
        device.mark(size).map_err(|error| PagingError::Write(path.clone(), error))?;
        device
            .path
            .canonicalize()
            .map(|path| Self { path, ..device })
            .map_err(|error| PagingError::Open(path, error))?
            .turn_on()
    }

    /// A device in memory for so many bytes, which compresses what is paged there.
    ///
    /// # Errors
    /// If the kernel makes none.
    pub fn compressed(size: Size, host: Id) -> Result<Self, PagingError> {
        if size < LEAST {
            return Err(PagingError::TooSmall { what: "--memory-compression".into(), size });
        }
        let left = Self::left(host, &[]).into_iter().filter(|device| device.zram().is_some());
        for device in left {
            let there = device.active().map(|active| active.size.0 + header::PAGE);
            // One that cannot be taken away now is better than two.
            if there == Some(size.0 / header::PAGE * header::PAGE) || device.close().is_err() {
                return Ok(device);
            }
        }
        let zram = Zram::add(size).map_err(PagingError::NoZram)?;
        let device = Self { path: zram.path(), file: false, host };
        let marked = device.mark(size).map_err(|error| PagingError::Write(zram.path(), error));
        marked.and_then(|()| device.turn_on()).inspect_err(|_| drop(zram.remove()))
    }

    /// What it is, if it compresses in memory.
    pub fn zram(&self) -> Option<Zram> {
        Zram::at(&self.path)
    }

    /// What a daemon of this host has left in use elsewhere than at `paths`.
    pub fn left(host: Id, paths: &[&Path]) -> Vec<Self> {
        let of = |active: Active| {
            let file = fs::metadata(&active.path).is_ok_and(|found| found.is_file());
            Self { path: active.path, file, host }
        };
        active::all()
            .into_iter()
            .map(of)
            .filter(|one| !paths.contains(&one.path.as_path()) && one.is_ours())
            .collect()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How large it is and what of it is in use; nothing if somebody has taken it away.
    pub fn active(&self) -> Option<Active> {
        active::all().into_iter().find(|active| active.path == self.path)
    }

    fn is_ours(&self) -> bool {
        File::open(&self.path)
            .ok()
            .and_then(|file| Header::read(&file))
            .is_some_and(|header| header.is_of(self.host))
    }

    /// A file of this size of which every byte has its place on the disk.
    fn make_file(&self, size: Size) -> Result<(), PagingError> {
        let path = || self.path.clone();
        let open = |error| PagingError::Open(path(), error);
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.path)
            .map_err(open)?;
        let there = file.metadata().map_err(open)?;
        if !there.is_file() {
            return Err(PagingError::NoFile(path()));
        }
        let ours = Header::read(&file).is_some_and(|header| header.is_of(self.host));
        if there.len() > 0 && !ours {
            return Err(PagingError::Something(path()));
        }
        // Where a machine ended, what is in it was its guests'. It is marked before it is large, so that it is ours whenever this ends.
        let made = file.set_len(0).and_then(|()| self.mark(size)).and_then(|()| {
            Ok(rustix::fs::fallocate(
                &file,
                FallocateFlags::empty(),
                0,
                size.0 / header::PAGE * header::PAGE,
            )?)
        });
        made.map_err(|error| {
            // Who is in the way of its removal sees it.
            let _ = fs::remove_file(&self.path);
            PagingError::Allocate { path: path(), size, error }
        })
    }

    /// Looks whether there is nothing on a block device; gives its size.
    fn check_device(&self) -> Result<Size, PagingError> {
        let path = || self.path.clone();
        let open = |error| PagingError::Open(path(), error);
        let found = fs::metadata(&self.path).map_err(open)?;
        if !found.file_type().is_block_device() {
            return Err(PagingError::NoDevice(path()));
        }
        // A device that is mounted, or is a part of another one, cannot be opened so (open(2), O_EXCL).
        let mut options = OpenOptions::new();
        let device = options.read(true).write(true).custom_flags(libc::O_EXCL).open(&self.path);
        let device = device.map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY) => PagingError::InUse(path()),
            _ => open(error),
        })?;
        let size = io::Seek::seek(&mut &device, io::SeekFrom::End(0)).map_err(open)?;
        let ours = Header::read(&device).is_some_and(|header| header.is_of(self.host));
        if !ours && !(is_zero(&device, 0, size).map_err(open)?) {
            return Err(PagingError::Something(path()));
        }
        Ok(Size(size))
    }

    fn mark(&self, size: Size) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(&self.path)?;
        file.write_all_at(&Header::new(size, self.host).bytes(), 0)?;
        file.sync_all()
    }

    fn turn_on(self) -> Result<Self, PagingError> {
        let path = c_path(&self.path).map_err(|error| PagingError::Open(self.path.clone(), error))?;
        let priority = if self.zram().is_some() { PRIORITY_IN_MEMORY } else { PRIORITY };
        // SAFETY: the path ends with a zero. The kernel checks what it finds there.
        if unsafe { libc::swapon(path.as_ptr(), PREFER | priority) } == 0 {
            return Ok(self);
        }
        let error = io::Error::last_os_error();
        if self.file {
            // Nothing is in it yet.
            let _ = fs::remove_file(&self.path);
        }
        Err(match error.raw_os_error() {
            Some(libc::EPERM) => PagingError::Privilege(self.path),
            Some(libc::EBUSY) => PagingError::InUse(self.path),
            // A file system that does not say where a file's bytes are on its disk, or has no disk.
            Some(libc::EINVAL) if self.file => PagingError::FileSystem(self.path),
            _ => PagingError::On(self.path, error),
        })
    }

    /// Takes it away, and brings back what is on it, if the machine has room for that: otherwise it stays in use.
    ///
    /// # Errors
    /// If there is no room, or the kernel cannot bring everything back.
    pub fn close(&self) -> Result<(), PagingError> {
        if let Some(active) = self.active() {
            let (machine, available) = machine::memory();
            if active.used.0 > 0 && active.used.0 + machine.0 / MARGIN > available.0 {
                return Err(PagingError::Stays { path: self.path.clone(), used: active.used, available });
            }
            let off = || PagingError::Off(self.path.clone(), io::Error::last_os_error());
            let path = c_path(&self.path).map_err(|error| PagingError::Off(self.path.clone(), error))?;
            // SAFETY: the path ends with a zero.
            if unsafe { libc::swapoff(path.as_ptr()) } != 0 {
                return Err(off());
            }
        }
        if let Some(zram) = self.zram() {
            zram.remove().map_err(|error| PagingError::Off(self.path.clone(), error))?;
        }
        if self.file && self.is_ours() {
            fs::remove_file(&self.path).map_err(|error| PagingError::Off(self.path.clone(), error))?;
        }
        Ok(())
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Whether both ends of a device are as they come from the factory.
fn is_zero(device: &File, start: u64, size: u64) -> io::Result<bool> {
    let mut bytes = vec![0; ENDS.min(size) as usize];
    for at in [start, size - bytes.len() as u64] {
        device.read_exact_at(&mut bytes, at)?;
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}
