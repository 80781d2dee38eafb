//! Takes in a disk image that somebody else made, with the kernel to boot it.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use api::ImageName;
use disk::qcow2::Header;
use disk::{Format, OpenError};
use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::{Failure, Result};
use crate::images::store::{About, Store};

/// What to take in.
#[derive(Debug)]
pub struct Import {
    /// The disk: raw or qcow2.
    pub disk: PathBuf,
    /// The kernel.
    pub kernel: PathBuf,
    /// Its initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Its command line.
    pub cmdline: String,
}

/// Copies the files into the store.
pub fn import(store: &Store, name: &ImageName, import: &Import, replace: bool) -> Result<()> {
    let disk = open(&import.disk)?;
    let qcow2 = is_qcow2(&disk, &import.disk)?;
    let draft = store.draft(name, replace)?;
    let about = About {
        origin: import.disk.display().to_string(),
        disk: if qcow2 { "disk.qcow2" } else { "disk.raw" }.into(),
        kernel: "vmlinuz".into(),
        initrd: import.initrd.as_ref().map(|_| "initrd".into()),
        cmdline: import.cmdline.clone(),
    };
    copy_small(&import.kernel, &draft.folder().join(&about.kernel))?;
    if let (Some(from), Some(to)) = (&import.initrd, &about.initrd) {
        copy_small(from, &draft.folder().join(to))?;
    }
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("importing {bar:40} {bytes}/{total_bytes} {eta}") {
        bar.set_style(style);
    }
    let copy = File::create_new(draft.folder().join(&about.disk)).and_then(|to| {
        copy_sparse(&disk, &to, |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        })
    });
    copy.map_err(|error| Failure::internal(format!("{}: {error}", import.disk.display())))?;
    bar.finish_and_clear();
    draft.keep(&about)
}

/// Whether a disk is a qcow2 image, which must be whole: its backing file would not come with it.
fn is_qcow2(disk: &File, path: &Path) -> Result<bool> {
    let failure = |error: OpenError| Failure::input(format!("{}: {error}", path.display()));
    if Format::of(disk).map_err(|error| failure(error.into()))? == Format::Raw {
        return Ok(false);
    }
    if Header::read(disk).map_err(failure)?.backing.is_some() {
        let why = "it has a backing file: make one image of both with qemu-img convert";
        return Err(Failure::input(format!("{}: {why}", path.display())));
    }
    Ok(true)
}

/// Opens a file that a person named, for reading.
fn open(path: &Path) -> Result<File> {
    let failure = |error: io::Error| Failure::input(format!("{}: {error}", path.display()));
    let file = File::open(path).map_err(failure)?;
    if file.metadata().map_err(failure)?.is_dir() {
        return Err(Failure::input(format!("{}: is a folder", path.display())));
    }
    Ok(file)
}

fn copy_small(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).map_err(|error| Failure::input(format!("{}: {error}", from.display())))
}

/// Copies a file and keeps its holes; shares its blocks where the file system can. Tells `(done, total)` bytes on the way.
pub fn copy_sparse(from: &File, mut to: &File, mut told: impl FnMut(u64, u64)) -> io::Result<()> {
    let length = (&*from).seek(SeekFrom::End(0))?;
    // SAFETY: both descriptors are open; FICLONE takes the source's number as its argument and touches no memory.
    if unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) } == 0 {
        return Ok(());
    }
    to.set_len(length)?;
    let mut at = 0;
    while let Some(data) = seek(from, at, libc::SEEK_DATA)? {
        let end = seek(from, data, libc::SEEK_HOLE)?.unwrap_or(length);
        (&*from).seek(SeekFrom::Start(data))?;
        to.seek(SeekFrom::Start(data))?;
        let mut left = end - data;
        while left > 0 {
            let copied = io::copy(&mut from.take(left.min(16 << 20)), &mut to)?;
            if copied == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= copied;
            told(end - left, length);
        }
        at = end;
    }
    to.flush()
}

/// Where the next data or hole is from `at`, or `None` past the last.
fn seek(file: &File, at: u64, whence: libc::c_int) -> io::Result<Option<u64>> {
    // SAFETY: lseek touches no memory, and the descriptor is open for as long as `file` is borrowed.
    let found = unsafe { libc::lseek(file.as_raw_fd(), at as libc::off_t, whence) };
    match found {
        0.. => Ok(Some(found as u64)),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            error => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn a_copy_keeps_the_holes_and_the_data() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let file = File::options().read(true).write(true).create_new(true).open(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"middle", 32 << 20).unwrap();
        file.write_all_at(b"end", (64 << 20) - 3).unwrap();
        copy_sparse(&file, &File::create_new(&to).unwrap(), |_, _| ()).unwrap();
        assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap());
        assert!(fs::metadata(&to).unwrap().blocks() * 512 < 1 << 20);
    }
}
