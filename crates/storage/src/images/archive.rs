//! An image as one file, to carry it elsewhere: a tar archive of `image.json`, the kernel, the initial RAM disk and the disk, which
//! is a qcow2 image in it so that its holes take no room.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path};

use api::ImageName;

use super::store::{ABOUT_FILE, About, Store};
use crate::{Error, Progress, Result, draft};

/// Where a tar archive says that it is one (POSIX.1-1988, ustar).
const MAGIC_AT: u64 = 257;
const MAGIC: &[u8; 5] = b"ustar";
/// What a description can have at most.
const LONGEST_ABOUT: u64 = 64 << 10;

/// Writes an image as an archive.
///
/// # Errors
/// If there is no such image, it is being written to, or `to` fails.
pub fn export(store: &Store, name: &ImageName, to: &mut dyn Write, progress: &dyn Progress) -> Result<()> {
    let image = store.get(name)?;
    progress.step("packing the disk");
    let draft = draft::Folder::new(store.folder())?;
    let packed = draft.path().join("disk.qcow2");
    let from = disk::open(&image.disk(), None, true).map_err(Error::disk(&image.disk()))?;
    disk::qcow2::create(&packed, from.len()).map_err(Error::disk(&packed))?;
    let target = disk::open(&packed, None, false).map_err(Error::disk(&packed))?;
    let copied = disk::copy(&*from, &*target, |done, total| {
        progress.amount(done, total);
        !progress.cancelled()
    });
    copied.map_err(|error| match error.kind() {
        io::ErrorKind::Interrupted => Error::Cancelled,
        _ => Error::host(&image.disk())(error),
    })?;
    drop(target);
    progress.step("writing the archive");
    let about = About { disk: "disk.qcow2".into(), ..image.about.clone() };
    let mut archive = tar::Builder::new(to);
    let mut append = || {
        let text = serde_json::to_vec_pretty(&about)?;
        add(&mut archive, ABOUT_FILE, text.len() as u64, &text[..], progress)?;
        for (name, path) in [
            (Some(&about.kernel), image.kernel()),
            (about.initrd.as_ref(), image.initrd().unwrap_or_default()),
        ] {
            if let Some(name) = name {
                add_file(&mut archive, name, &path, progress)?;
            }
        }
        add_file(&mut archive, &about.disk, &packed, progress)?;
        archive.finish()
    };
    append().map_err(|error| match error.kind() {
        io::ErrorKind::Interrupted => Error::Cancelled,
        _ => Error::host(&image.folder)(error),
    })
}

fn add_file<W: Write>(
    archive: &mut tar::Builder<W>,
    name: &str,
    path: &Path,
    progress: &dyn Progress,
) -> io::Result<()> {
    let file = File::open(path)?;
    add(archive, name, file.metadata()?.len(), file, progress)
}

fn add<W: Write>(
    archive: &mut tar::Builder<W>,
    name: &str,
    length: u64,
    from: impl Read,
    progress: &dyn Progress,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(length);
    header.set_mode(0o644);
    archive.append_data(&mut header, name, Told { from: from.take(length), done: 0, total: length, progress })
}

/// Bytes that tell how many of them have gone.
struct Told<'a, R> {
    from: R,
    done: u64,
    total: u64,
    progress: &'a dyn Progress,
}

impl<R: Read> Read for Told<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.progress.cancelled() {
            // `Interrupted` itself would be tried again.
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, Error::Cancelled));
        }
        let n = self.from.read(buffer)?;
        self.done += n as u64;
        self.progress.amount(self.done, self.total);
        Ok(n)
    }
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
                let from = Told { from: &mut entry, done: 0, total: length, progress };
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

/// Whether a name is that of a file in the image's own folder, and not one of ours.
fn is_plain(name: &String) -> bool {
    let mut parts = Path::new(name).components();
    let one = matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none();
    one && name != ABOUT_FILE && !name.starts_with('.')
}

fn is_part(about: &About, name: &Path) -> bool {
    [Some(&about.disk), Some(&about.kernel), about.initrd.as_ref()]
        .into_iter()
        .flatten()
        .any(|part| name == Path::new(part))
}
