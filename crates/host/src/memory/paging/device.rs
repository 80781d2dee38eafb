//! The paging device: a file that the host makes, or a block device on which there is nothing, given to the kernel as swap (swapon(2)).
//!
//! Its header bears the host's id. So a daemon finds again what one before it has made and had no time to take away, however it was told
//! of it, and takes nothing that is not its own: where it has taken a block device away it overwrites that, so that whoever gets the device next
//! is safe from it. A block device in use is locked as a guest's disk is, so that it is never both.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use api::{Id, Size};
use disk::OpenError;
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
    /// Whether it was given to the kernel by us, and not found in use.
    fresh: bool,
    /// A block device, locked as a guest's disk is: nobody makes it one as long as we have it.
    held: Option<File>,
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
        let found = if size.is_some() { in_folder(&path) } else { path.canonicalize() };
        let found = found.unwrap_or_else(|_| path.clone());
        if size.is_none() && Zram::at(&found).is_some() {
            return Err(PagingError::InMemory(path));
        }
        let mut device = Self { path: found, file: size.is_some(), host, fresh: false, held: None };
        if !device.file {
            device.held = Some(device.hold()?);
        }
        if let Some(there) = device.active() {
            if !device.is_ours() {
                return Err(PagingError::InUse(path));
            }
            if size.is_none_or(|size| there.size.0.abs_diff(size.0) <= header::PAGE) {
                return Ok(device);
            }
            // Its size changes only when nothing is on it.
            if let Err(error) = device.close(Size(0)) {
                if device.active().is_none() {
                    return Err(error);
                }
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
        let file = if device.file { Some(device.make_file(size)?) } else { device.held.take() };
        // The lock is held already where it is a device.
        let Some(file) = file else { return Err(PagingError::NoDevice(path)) };
        if !device.file {
            mark(&file, size, host).map_err(|error| PagingError::Write(path, error))?;
        }
        device.turn_on(file)
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
            if there == Some(size.0 / header::PAGE * header::PAGE) {
                return Ok(device);
            }
            if let Err(error) = device.close(Size(0)) {
                tracing::warn!("{error}");
                if device.active().is_some() {
                    return Ok(device);
                }
            }
        }
        let zram = Zram::add(size).map_err(PagingError::NoZram)?;
        let device = Self { path: zram.path(), file: false, host, fresh: false, held: None };
        let opened = OpenOptions::new().write(true).open(&device.path);
        let marked = opened.and_then(|file| mark(&file, size, host).map(|()| file));
        let marked = marked.map_err(|error| PagingError::Write(zram.path(), error));
        marked.and_then(|file| device.turn_on(file)).inspect_err(|_| zram.give_up())
    }

    /// What it is, if it compresses in memory.
    pub fn zram(&self) -> Option<Zram> {
        Zram::at(&self.path)
    }

    /// What a daemon of this host has left in use elsewhere than at `paths`.
    pub fn left(host: Id, paths: &[&Path]) -> Vec<Self> {
        let of = |active: Active| {
            let file = fs::metadata(&active.path).is_ok_and(|found| found.is_file());
            Self { path: active.path, file, host, fresh: false, held: None }
        };
        let lock = |mut one: Self| {
            if one.is_disk() {
                // Who has it is seen where it is to be overwritten.
                one.held = one.hold().ok();
            }
            one
        };
        active::all()
            .into_iter()
            .map(of)
            .filter(|one| !paths.contains(&one.path.as_path()) && one.is_ours())
            .map(lock)
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

    /// Whether it is a block device that somebody has given us.
    fn is_disk(&self) -> bool {
        !self.file && self.zram().is_none()
    }

    /// Opens a block device and locks it as a guest's disk.
    fn hold(&self) -> Result<File, PagingError> {
        let path = || self.path.clone();
        let found = fs::metadata(&self.path).map_err(|error| PagingError::Open(path(), error))?;
        if !found.file_type().is_block_device() {
            return Err(PagingError::NoDevice(path()));
        }
        let opened = OpenOptions::new().read(true).write(true).open(&self.path);
        let file = opened.map_err(|error| PagingError::Open(path(), error))?;
        match disk::lock(&file, false) {
            Ok(()) => Ok(file),
            Err(OpenError::Host(error)) => Err(PagingError::Open(path(), error)),
            Err(_) => Err(PagingError::InUse(path())),
        }
    }

    /// A file of this size of which every byte has its place on the disk, and that nobody but root reads.
    fn make_file(&self, size: Size) -> Result<File, PagingError> {
        let path = || self.path.clone();
        let open = |error: io::Error| match error.raw_os_error() {
            Some(libc::ELOOP) => PagingError::Unsafe(path(), "it is a link"),
            _ => PagingError::Open(path(), error),
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.custom_flags(libc::O_NOFOLLOW).open(&self.path).map_err(open)?;
        let there = file.metadata().map_err(open)?;
        if !there.is_file() {
            return Err(PagingError::NoFile(path()));
        }
        if there.uid() != 0 && there.uid() != rustix::process::geteuid().as_raw() {
            return Err(PagingError::Unsafe(path(), "it is somebody else's"));
        }
        if there.nlink() != 1 {
            return Err(PagingError::Unsafe(path(), "it has another name, too"));
        }
        let ours = Header::read(&file).is_some_and(|header| header.is_of(self.host));
        if there.len() > 0 && !ours {
            return Err(PagingError::Something(path()));
        }
        // Where a machine ended, what is in it was its guests'. It is marked before it is large, so that it is ours whenever this ends.
        let made = file
            .set_permissions(fs::Permissions::from_mode(0o600))
            .and_then(|()| file.set_len(0))
            .and_then(|()| mark(&file, size, self.host))
            .and_then(|()| {
                let bytes = size.0 / header::PAGE * header::PAGE;
                Ok(rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes)?)
            });
        made.map_err(|error| {
            // Who is in the way of its removal sees it.
            let _ = fs::remove_file(&self.path);
            PagingError::Allocate { path: path(), size, error }
        })?;
        Ok(file)
    }

    /// Looks whether there is nothing on a block device; gives its size.
    fn check_device(&self) -> Result<Size, PagingError> {
        let path = || self.path.clone();
        let open = |error| PagingError::Open(path(), error);
        // A device that is mounted, or is a part of another one, cannot be opened so (open(2), O_EXCL).
        let mut options = OpenOptions::new();
        let device = options.read(true).write(true).custom_flags(libc::O_EXCL).open(&self.path);
        let device = device.map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY) => PagingError::InUse(path()),
            _ => open(error),
        })?;
        let size = io::Seek::seek(&mut &device, io::SeekFrom::End(0)).map_err(open)?;
        // Where a machine ended while it was in use, what is on it was guests'.
        let ours = Header::read(&device) == Some(Header::new(Size(size), self.host));
        if !ours && !(is_zero(&device, size).map_err(open)?) {
            return Err(PagingError::Something(path()));
        }
        Ok(Size(size))
    }

    /// Gives it to the kernel, by what is open and not by its name: that may be somebody else's by now.
    fn turn_on(self, file: File) -> Result<Self, PagingError> {
        let path = c_path(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())));
        let path = path.map_err(|error| PagingError::Open(self.path.clone(), error))?;
        let priority = if self.zram().is_some() { PRIORITY_IN_MEMORY } else { PRIORITY };
        // SAFETY: the path ends with a zero. The kernel checks what it finds there.
        if unsafe { libc::swapon(path.as_ptr(), PREFER | priority) } == 0 {
            // What compresses is removed only if nobody has it open.
            let held = self.is_disk().then_some(file);
            return Ok(Self { fresh: true, held, ..self });
        }
        let error = io::Error::last_os_error();
        if self.file {
            // Nothing is in it yet.
            let _ = fs::remove_file(&self.path);
        } else if self.is_disk()
            && let Err(error) = overwrite(&file)
        {
            tracing::warn!("{}: what was written on it stays: {error}", self.path.display());
        }
        Err(match error.raw_os_error() {
            Some(libc::EPERM) => PagingError::Privilege(self.path),
            Some(libc::EBUSY) => PagingError::InUse(self.path),
            // A file system that does not say where a file's bytes are on its disk, or has no disk.
            Some(libc::EINVAL) if self.file => PagingError::FileSystem(self.path),
            _ => PagingError::On(self.path, error),
        })
    }

    /// Takes it away if it was not in use before, since the daemon does not start after all.
    pub fn give_up(&self) {
        if self.fresh
            && let Err(error) = self.close(Size(0))
        {
            tracing::warn!("{error}");
        }
    }

    /// Takes it away, and brings back what is on it, if the machine has room for that and for what guests `may_touch` beyond what they have in
    /// memory: otherwise it stays in use.
    ///
    /// # Errors
    /// If there is no room, or the kernel cannot bring everything back.
    pub fn close(&self, may_touch: Size) -> Result<(), PagingError> {
        let off = |error| PagingError::Off(self.path.clone(), error);
        if let Some(active) = self.active() {
            let (machine, available) = machine::memory();
            let needed = active.used.max(may_touch);
            if needed.0 > 0 && needed.0.saturating_add(machine.0 / MARGIN) > available.0 {
                let (path, used) = (self.path.clone(), active.used);
                return Err(PagingError::Stays { path, used, may_touch, available });
            }
            let path = c_path(&self.path).map_err(off)?;
            // SAFETY: the path ends with a zero.
            if unsafe { libc::swapoff(path.as_ptr()) } != 0 {
                return Err(off(io::Error::last_os_error()));
            }
            if self.is_disk() {
                // Nobody but who has the lock may write there.
                let held =
                    self.held.as_ref().ok_or_else(|| off(io::Error::other("somebody else uses it")))?;
                overwrite(held).map_err(off)?;
            }
        }
        if let Some(zram) = self.zram() {
            zram.remove().map_err(off)?;
        }
        if self.file && self.is_ours() {
            fs::remove_file(&self.path).map_err(off)?;
        }
        Ok(())
    }
}

/// A path whose folder is where it really is; its last part may be a link, and is not followed.
fn in_folder(path: &Path) -> io::Result<PathBuf> {
    let Some(name) = path.file_name() else { return Ok(path.to_owned()) };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(folder.canonicalize()?.join(name))
}

fn mark(file: &File, size: Size, host: Id) -> io::Result<()> {
    file.write_all_at(&Header::new(size, host).bytes(), 0)?;
    file.sync_all()
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Where the ends of a device begin, and how long they are.
fn ends(size: u64) -> ([u64; 2], usize) {
    let len = ENDS.min(size);
    ([0, size - len], len as usize)
}

/// Whether both ends of a device are as they come from the factory.
fn is_zero(device: &File, size: u64) -> io::Result<bool> {
    let (starts, len) = ends(size);
    let mut bytes = vec![0; len];
    for at in starts {
        device.read_exact_at(&mut bytes, at)?;
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes both ends of a device as they were before.
fn overwrite(mut device: &File) -> io::Result<()> {
    let (starts, len) = ends(io::Seek::seek(&mut device, io::SeekFrom::End(0))?);
    for at in starts {
        device.write_all_at(&vec![0; len], at)?;
    }
    device.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size(64 << 20);

    fn at(path: PathBuf) -> Device {
        Device { path, file: true, host: Id::new(), fresh: false, held: None }
    }

    #[test]
    fn a_file_that_somebody_else_could_reach_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let empty = |name: &str| {
            fs::write(path(name), "").unwrap();
            path(name)
        };
        let refused = |path: PathBuf| at(path).make_file(SIZE).unwrap_err().to_string();
        std::os::unix::fs::symlink(empty("far"), path("link")).unwrap();
        assert!(refused(path("link")).contains("link: it is a link: "));
        fs::hard_link(empty("one"), path("two")).unwrap();
        assert!(refused(path("one")).contains("one: it has another name, too: "));
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(empty("theirs"), Some(65534), None).unwrap();
            assert!(refused(path("theirs")).contains("theirs: it is somebody else's: "));
        }
        for name in ["far", "one"] {
            assert_eq!(fs::metadata(path(name)).unwrap().len(), 0);
        }
    }

    #[test]
    fn a_file_is_readable_by_its_owner_only_and_is_known_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("paging");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let device = at(path.clone());
        drop(device.make_file(SIZE).unwrap());
        let made = fs::metadata(&path).unwrap();
        assert_eq!((made.mode() & 0o777, made.len()), (0o600, SIZE.0));
        assert!(device.is_ours() && !at(path.clone()).is_ours());
        drop(device.make_file(SIZE).unwrap());
        // It has been used for something else since.
        OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"x", 0).unwrap();
        assert!(!device.is_ours());
        assert!(matches!(device.make_file(SIZE), Err(PagingError::Something(_))));
    }

    #[test]
    fn what_was_overwritten_is_empty_at_both_ends() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(SIZE.0).unwrap();
        for at in [0, SIZE.0 - 1] {
            file.write_all_at(b"x", at).unwrap();
            assert!(!is_zero(&file, SIZE.0).unwrap());
            overwrite(&file).unwrap();
            assert!(is_zero(&file, SIZE.0).unwrap());
        }
        assert_eq!(file.metadata().unwrap().len(), SIZE.0);
    }
}
