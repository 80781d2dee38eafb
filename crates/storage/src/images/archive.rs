//! An image as one file, to carry it elsewhere: a tar archive of `image.json`, the kernel, the initial RAM disk and the disk, which
//! is a qcow2 image in it so that its holes take no room.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use api::ImageName;

use super::store::{ABOUT_FILE, About, Image, Store};
use crate::tarball::{self, Told, add};
use crate::{Error, Progress, Result, draft};

/// Where a tar archive says that it is one (POSIX.1-1988, ustar).
const MAGIC_AT: u64 = 257;
const MAGIC: &[u8; 5] = b"ustar";
/// What an image's disk is called in an archive.
const DISK: &str = "disk.qcow2";
/// The longest name that a header has room for.
const LONGEST_NAME: usize = 99;
/// What a description can have at most.
const LONGEST_ABOUT: u64 = 64 << 10;

/// Writes an image as an archive.
///
/// # Errors
/// If there is no such image, it is being written to, or `to` fails.
pub fn export(store: &Store, name: &ImageName, to: &mut dyn Write, progress: &dyn Progress) -> Result<()> {
    Packed::new(store, name, progress)?.write(to, progress)
}

/// An image that is ready to be written as an archive.
pub struct Packed {
    about: Vec<u8>,
    /// The files after the description: what each is called, and from where it is read.
    files: Vec<(String, File)>,
    place: PathBuf,
    _draft: Option<draft::Folder>,
}

impl Packed {
    /// Packs the disk of an image: it takes a while where the disk is no qcow2 image yet.
    ///
    /// # Errors
    /// If there is no such image, or it is being written to.
    pub fn new(store: &Store, name: &ImageName, progress: &dyn Progress) -> Result<Self> {
        let image = store.get(name)?;
        let open = |path: PathBuf| File::open(&path).map_err(Error::host(&path));
        let (disk, draft) = match image.format()? {
            disk::Format::Qcow2 => {
                let file = open(image.disk())?;
                disk::lock(&file, true).map_err(Error::disk(&image.disk()))?;
                (file, None)
            }
            disk::Format::Raw => {
                let draft = draft::Folder::new(store.folder())?;
                (pack(&image, &draft.path().join(DISK), progress)?, Some(draft))
            }
        };
        let about = About { disk: DISK.into(), created: None, ..image.about.clone() };
        let mut files = vec![(about.kernel.clone(), open(image.kernel())?)];
        if let (Some(name), Some(path)) = (&about.initrd, image.initrd()) {
            files.push((name.clone(), open(path)?));
        }
        files.push((DISK.into(), disk));
        let text = serde_json::to_vec_pretty(&about).map_err(io::Error::from);
        let about = text.map_err(Error::host(&image.folder))?;
        Ok(Self { about, files, place: image.folder, _draft: draft })
    }

    /// How many bytes [`write`](Self::write) will write.
    ///
    /// # Errors
    /// If the host cannot tell.
    pub fn length(&self) -> Result<u64> {
        let mut lengths = vec![self.about.len() as u64];
        for (_, file) in &self.files {
            lengths.push(file.metadata().map_err(Error::host(&self.place))?.len());
        }
        Ok(tarball::length(&lengths))
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// If it is called off, or `to` fails.
    pub fn write(self, to: &mut dyn Write, progress: &dyn Progress) -> Result<()> {
        progress.step("writing the archive");
        let mut archive = tar::Builder::new(to);
        let mut append = || {
            add(&mut archive, ABOUT_FILE, self.about.len() as u64, &self.about[..], progress)?;
            for (name, file) in &self.files {
                add(&mut archive, name, file.metadata()?.len(), file, progress)?;
            }
            archive.finish()
        };
        append().map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe if progress.cancelled() => Error::Cancelled,
            _ => Error::host(&self.place)(error),
        })
    }
}

/// Packs the disk of an image into a qcow2 image, in which its holes take no room.
fn pack(image: &Image, to: &Path, progress: &dyn Progress) -> Result<File> {
    progress.step("packing the disk");
    let from = disk::open(&image.disk(), None, true).map_err(Error::disk(&image.disk()))?;
    disk::qcow2::create(to, from.len()).map_err(Error::disk(to))?;
    let target = disk::open(to, None, false).map_err(Error::disk(to))?;
    let copied = disk::copy(&*from, &*target, |done, total| {
        progress.amount(done, total);
        !progress.cancelled()
    });
    copied.map_err(|error| match error.kind() {
        io::ErrorKind::Interrupted => Error::Cancelled,
        _ => Error::host(&image.disk())(error),
    })?;
    drop(target);
    File::open(to).map_err(Error::host(to))
}

/// Whether a file is a tar archive.
pub fn is_archive(file: &File) -> io::Result<bool> {
    let mut magic = [0; MAGIC.len()];
    Ok(file.read_at(&mut magic, MAGIC_AT)? == MAGIC.len() && magic == *MAGIC)
}

/// Unpacks the archive in `file`, which lies at `path`, into a folder; gives what it says of the image.
pub fn unpack(file: &File, path: &Path, folder: &Path, progress: &dyn Progress) -> Result<About> {
    let refused = |why: &str| Error::unusable(path, why);
    let told = |error: io::Error| Error::unusable(path, error);
    (&*file).seek(SeekFrom::Start(0)).map_err(told)?;
    let mut archive = tar::Archive::new(file);
    let mut about: Option<About> = None;
    for entry in archive.entries().map_err(told)? {
        let mut entry = entry.map_err(told)?;
        let name = entry.path().map_err(told)?.into_owned();
        let length = entry.size();
        match about.as_ref() {
            // It comes first, and says what the others are called.
            None if name == Path::new(ABOUT_FILE) && length <= LONGEST_ABOUT => {
                let mut text = Vec::new();
                entry.read_to_end(&mut text).map_err(told)?;
                let read: About =
                    serde_json::from_slice(&text).map_err(|error| refused(&error.to_string()))?;
                if ![Some(&read.disk), Some(&read.kernel), read.initrd.as_ref()]
                    .into_iter()
                    .flatten()
                    .all(is_plain)
                {
                    return Err(refused("it names files outside of the image"));
                }
                about = Some(read);
            }
            None => return Err(refused("it is no image of Tessera's: image.json does not come first")),
            Some(about) if entry.header().entry_type().is_file() && is_part(about, &name) => {
                let to = folder.join(&name);
                let mut to = File::create_new(&to).map_err(Error::host(&to))?;
                let from = Told::new(&mut entry, length, progress);
                io::copy(&mut { from }, &mut to).map_err(|error| match error.kind() {
                    io::ErrorKind::BrokenPipe => Error::Cancelled,
                    _ => told(error),
                })?;
            }
            Some(_) => return Err(refused(&format!("{} does not belong to an image", name.display()))),
        }
    }
    let about = about.ok_or_else(|| refused("it is empty"))?;
    for part in [Some(&about.disk), Some(&about.kernel), about.initrd.as_ref()].into_iter().flatten() {
        if !folder.join(part).exists() {
            return Err(refused(&format!("{part} is missing in it")));
        }
    }
    Ok(about)
}

/// Whether a name is that of a file in the image's own folder, not one of ours, and one that can be exported again.
fn is_plain(name: &String) -> bool {
    let mut parts = Path::new(name).components();
    let one = matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none();
    one && name.len() <= LONGEST_NAME && name != ABOUT_FILE && !name.starts_with('.')
}

fn is_part(about: &About, name: &Path) -> bool {
    [Some(&about.disk), Some(&about.kernel), about.initrd.as_ref()]
        .into_iter()
        .flatten()
        .any(|part| name == Path::new(part))
}
