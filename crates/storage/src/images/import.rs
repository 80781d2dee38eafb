//! Takes in an image that somebody else made: a disk with the kernel to boot it, or an archive that an image was exported to.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use api::ImageName;
use disk::Format;
use disk::qcow2::Header;

use super::archive;
use super::source::{Opened, Source};
use super::store::{About, Store};
use super::unpack::{Compression, unpack};
use crate::{Error, Progress, Result, sparse};

/// What to take in.
#[derive(Debug)]
pub struct Import {
    /// The disk: raw or qcow2, perhaps compressed by gzip, xz or zstd; or an exported image, which has all the rest.
    pub disk: Source,
    /// The kernel.
    pub kernel: Option<Source>,
    /// Its initial RAM disk.
    pub initrd: Option<Source>,
    /// Its command line.
    pub cmdline: String,
}

/// Copies the files into the store. `replace` allows the name to be taken.
///
/// # Errors
/// If one of them is not usable or cannot be fetched, the name is taken, or the host fails.
pub fn import(
    store: &Store,
    name: &ImageName,
    import: &Import,
    replace: bool,
    progress: &dyn Progress,
) -> Result<()> {
    import.check()?;
    store.check_free(name, replace)?;
    let disk = import.disk.open(store.folder(), progress)?;
    let draft = store.draft(name, replace)?;
    if archive::is_archive(disk.file()).map_err(|error| Error::unusable(disk.path(), error))? {
        progress.step("unpacking the image");
        let about = archive::unpack(disk.file(), disk.path(), draft.folder(), progress)?;
        is_qcow2(&draft.folder().join(&about.disk))?;
        draft.keep(&about)?;
        disk.done();
        return Ok(());
    }
    let Some(kernel) = &import.kernel else {
        return Err(Error::invalid(
            "/kernel",
            serde_json::Value::Null,
            "a disk needs the kernel to boot it with",
        ));
    };
    let about = About {
        origin: import.disk.origin(),
        disk: put_disk(&disk, draft.folder(), progress)?,
        kernel: "vmlinuz".into(),
        initrd: import.initrd.as_ref().map(|_| "initrd".into()),
        cmdline: import.cmdline.clone(),
    };
    put_small(kernel, store, &draft.folder().join(&about.kernel), progress)?;
    if let (Some(from), Some(to)) = (&import.initrd, &about.initrd) {
        put_small(from, store, &draft.folder().join(to), progress)?;
    }
    draft.keep(&about)?;
    disk.done();
    Ok(())
}

impl Import {
    fn check(&self) -> Result<()> {
        let mut wrong = self.disk.check("/disk");
        wrong.extend(self.kernel.iter().flat_map(|kernel| kernel.check("/kernel")));
        wrong.extend(self.initrd.iter().flat_map(|initrd| initrd.check("/initrd")));
        if wrong.is_empty() { Ok(()) } else { Err(Error::Invalid(wrong)) }
    }
}

/// Puts a disk into a folder; gives the name of its file.
fn put_disk(disk: &Opened, folder: &Path, progress: &dyn Progress) -> Result<String> {
    let path = disk.path();
    let to = folder.join("disk");
    let file = File::options().read(true).write(true).create_new(true).open(&to).map_err(Error::host(&to))?;
    let compression = Compression::of(disk.file()).map_err(|error| Error::unusable(path, error))?;
    match (disk, compression) {
        // Its holes are there to be seen.
        (Opened::Here { file: from, .. }, None) => {
            check_disk(from, path)?;
            progress.step("copying the disk");
            sparse::copy(from, path, &file, progress)?;
        }
        _ => {
            progress.step("unpacking the disk");
            unpack(disk.file(), path, compression, &file, progress)?;
        }
    }
    let name = if check_disk(&file, path)? { "disk.qcow2" } else { "disk.raw" };
    fs::rename(&to, folder.join(name)).map_err(Error::host(&to))?;
    Ok(name.into())
}

/// Whether the disk in a file is a qcow2 image.
fn is_qcow2(path: &PathBuf) -> Result<bool> {
    let file = File::open(path).map_err(Error::host(path))?;
    check_disk(&file, path)
}

/// Whether a disk is a qcow2 image, which must be whole: its backing file would not come with it.
fn check_disk(disk: &File, path: &Path) -> Result<bool> {
    if Format::of(disk).map_err(|error| Error::unusable(path, error))? == Format::Raw {
        return Ok(false);
    }
    if Header::read(disk).map_err(Error::disk(path))?.backing.is_some() {
        let why = "it has a backing file: make one image of both with qemu-img convert";
        return Err(Error::unusable(path, why));
    }
    Ok(true)
}

/// Puts a kernel or its RAM disk in its place.
fn put_small(from: &Source, store: &Store, to: &Path, progress: &dyn Progress) -> Result<()> {
    let opened = from.open(store.folder(), progress)?;
    let copied = File::create_new(to).and_then(|mut to| std::io::copy(&mut opened.file(), &mut to));
    copied.map_err(|error| Error::unusable(opened.path(), error))?;
    opened.done();
    Ok(())
}
