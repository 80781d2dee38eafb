//! Takes in a disk image that somebody else made, with the kernel to boot it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use api::ImageName;
use disk::Format;
use disk::qcow2::Header;

use super::store::{About, Store};
use crate::{Error, Progress, Result, sparse};

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

/// Copies the files into the store. `replace` allows the name to be taken.
///
/// # Errors
/// If one of them is not usable, the name is taken, or the host fails.
pub fn import(
    store: &Store,
    name: &ImageName,
    import: &Import,
    replace: bool,
    progress: &dyn Progress,
) -> Result<()> {
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
    progress.step("copying the disk");
    let to = draft.folder().join(&about.disk);
    let to = File::create_new(&to).map_err(Error::host(&to))?;
    sparse::copy(&disk, &import.disk, &to, progress)?;
    draft.keep(&about)
}

/// Whether a disk is a qcow2 image, which must be whole: its backing file would not come with it.
fn is_qcow2(disk: &File, path: &Path) -> Result<bool> {
    if Format::of(disk).map_err(|error| Error::unusable(path, error))? == Format::Raw {
        return Ok(false);
    }
    if Header::read(disk).map_err(Error::disk(path))?.backing.is_some() {
        let why = "it has a backing file: make one image of both with qemu-img convert";
        return Err(Error::unusable(path, why));
    }
    Ok(true)
}

/// Opens a file that a person named, for reading.
fn open(path: &Path) -> Result<File> {
    let file = File::open(path).map_err(|error| Error::unusable(path, error))?;
    if file.metadata().map_err(|error| Error::unusable(path, error))?.is_dir() {
        return Err(Error::unusable(path, "is a folder"));
    }
    Ok(file)
}

fn copy_small(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).map_err(|error| Error::unusable(from, error))
}
