//! New volumes.

use std::fs::File;
use std::path::Path;

use api::{Id, Name, Size, Time};
use disk::Format;

use super::About;
use crate::definition::{Allocation, Volume, VolumeDefinition, VolumeFormat, VolumeSource};
use crate::images::{Image, Store};
use crate::{Error, Pool, Progress, Result, draft, sparse};

impl Pool {
    /// Makes a volume. Images are looked for in `images`.
    ///
    /// # Errors
    /// If the definition is wrong, the name is taken, the source is not there or in use, or the host has no room.
    pub fn create(
        &self,
        wanted: &VolumeDefinition,
        images: &Store,
        progress: &dyn Progress,
    ) -> Result<Volume> {
        let wrong = wanted.check();
        if !wrong.is_empty() {
            return Err(Error::Invalid(wrong));
        }
        if self.volume(&wanted.name).exists() {
            return Err(Error::VolumeExists(wanted.name.clone()));
        }
        let draft = draft::Folder::new(self.folder())?;
        let about = About {
            id: Id::new(),
            description: wanted.description.clone(),
            format: wanted.format,
            created: Time::now(),
        };
        let to = draft.path().join(wanted.format.file());
        // What the volume is based on is locked until the volume, which holds it by its header, is there.
        let _lock = match &wanted.source {
            None => {
                make_empty(&to, wanted.format, wanted.size.unwrap_or_default(), wanted.allocation)?;
                None
            }
            Some(VolumeSource::Image(name)) => {
                let image = images.get(name);
                let image = image.map_err(|error| no_source("/source/image", name.as_str(), error))?;
                self.fill_from_image(wanted, &image, &to, progress)?
            }
            Some(VolumeSource::Volume(name)) => Some(self.fill_from_volume(wanted, name, &to, progress)?),
        };
        self.publish(draft, &wanted.name, &about)
    }

    /// Puts the disk of another volume, or a layer over it, into a new volume's file; gives what must stay locked meanwhile.
    fn fill_from_volume(
        &self,
        wanted: &VolumeDefinition,
        name: &Name,
        to: &Path,
        progress: &dyn Progress,
    ) -> Result<File> {
        let source = self.take(name, true);
        let source = source.map_err(|error| no_source("/source/volume", name.as_str(), error))?;
        let (format, path) = (source.format, self.volume(name).join(source.format.file()));
        let lock = source.file.try_clone().map_err(Error::host(&path))?;
        if wanted.linked {
            link(to, &format!("../{name}/{}", format.file()), format.into(), wanted.size)?;
        } else if source.backing.is_empty() && format == wanted.format {
            copy_file(&source.file, &path, to, wanted, progress)?;
        } else {
            copy_disk(&*source.disk(&path, true)?, &path, to, wanted, progress)?;
        }
        Ok(lock)
    }

    /// Puts the disk of an image, or a layer over it, into a new volume's file; gives what must stay locked meanwhile.
    fn fill_from_image(
        &self,
        wanted: &VolumeDefinition,
        image: &Image,
        to: &Path,
        progress: &dyn Progress,
    ) -> Result<Option<File>> {
        if wanted.linked {
            let base = self.base(image, progress)?;
            link(to, &base.name, base.format, wanted.size)?;
            return Ok(Some(base.lock));
        }
        let path = image.disk();
        let file = File::open(&path).map_err(|error| Error::unusable(&path, error))?;
        disk::lock(&file, true).map_err(Error::disk(&path))?;
        let format = Format::of(&file).map_err(Error::host(&path))?;
        if format == wanted.format.into() {
            copy_file(&file, &path, to, wanted, progress)?;
        } else {
            let from = disk::from_file(file, format, true).map_err(Error::disk(&path))?;
            copy_disk(&*from, &path, to, wanted, progress)?;
        }
        Ok(None)
    }
}

/// A source that is not there is a wrong field.
fn no_source(pointer: &str, name: &str, error: Error) -> Error {
    match error {
        Error::NoImage(_) | Error::NoVolume(_) => Error::invalid(pointer, name, &error.to_string()),
        error => error,
    }
}

/// Makes a file of a new disk that reads as zeroes.
pub(super) fn make_empty(to: &Path, format: VolumeFormat, size: Size, allocation: Allocation) -> Result<()> {
    match (format, allocation) {
        (VolumeFormat::Qcow2, Allocation::Thin) => disk::qcow2::create(to, size.0),
        (VolumeFormat::Qcow2, Allocation::Full) => disk::qcow2::create_allocated(to, size.0),
        (VolumeFormat::Raw, _) => {
            let made = File::create_new(to).and_then(|file| {
                file.set_len(size.0)?;
                if allocation == Allocation::Full { disk::allocate(&file) } else { Ok(()) }
            });
            return made.map_err(Error::host(to));
        }
    }
    .map_err(Error::disk(to))
}

/// Makes a file that has only what differs from another one, and is longer if `size` is.
pub(crate) fn link(to: &Path, name: &str, format: Format, size: Option<Size>) -> Result<()> {
    disk::qcow2::create_based_on(to, name, format, None).map_err(Error::disk(to))?;
    let Some(size) = size else { return Ok(()) };
    grow(to, VolumeFormat::Qcow2, size)
}

/// Makes a disk longer, if it is to be.
fn grow(path: &Path, format: VolumeFormat, size: Size) -> Result<()> {
    let disk = disk::open(path, Some(format.into()), true).map_err(Error::disk(path))?;
    let least = disk.len();
    drop(disk);
    match size.0.cmp(&least) {
        std::cmp::Ordering::Less => Err(too_small(size, least)),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => super::change::resize_file(path, format, size.0),
    }
}

pub(super) fn too_small(size: Size, least: u64) -> Error {
    Error::invalid("/size", size.0, &format!("its source has {least} bytes: a volume has as many or more"))
}

/// A copy of a file with its holes.
fn copy_file(
    from: &File,
    path: &Path,
    to: &Path,
    wanted: &VolumeDefinition,
    progress: &dyn Progress,
) -> Result<()> {
    progress.step("copying the disk");
    let file = File::create_new(to).map_err(Error::host(to))?;
    sparse::copy(from, path, &file, progress)?;
    drop(file);
    if let Some(size) = wanted.size {
        grow(to, wanted.format, size)?;
    }
    if wanted.allocation == Allocation::Full {
        let file = File::options().write(true).open(to);
        file.and_then(|file| disk::allocate(&file)).map_err(Error::host(to))?;
    }
    Ok(())
}

/// A copy of what is on a disk, in a file that may be laid out otherwise.
fn copy_disk(
    from: &dyn disk::Disk,
    path: &Path,
    to: &Path,
    wanted: &VolumeDefinition,
    progress: &dyn Progress,
) -> Result<()> {
    let size = wanted.size.unwrap_or(Size(from.len()));
    if size.0 < from.len() {
        return Err(too_small(size, from.len()));
    }
    copy_onto_new(from, path, to, wanted.format, size, wanted.allocation, progress)
}

/// Copies a disk, or its beginning, onto a new one.
pub(crate) fn copy_onto_new(
    from: &dyn disk::Disk,
    path: &Path,
    to: &Path,
    format: VolumeFormat,
    size: Size,
    allocation: Allocation,
    progress: &dyn Progress,
) -> Result<()> {
    progress.step("copying the disk");
    make_empty(to, format, size, allocation)?;
    let target = disk::open(to, Some(format.into()), false).map_err(Error::disk(to))?;
    let copied = disk::copy(from, &*target, |done, total| {
        progress.amount(done, total);
        !progress.cancelled()
    });
    copied.map_err(|error| match error.kind() {
        std::io::ErrorKind::Interrupted => Error::Cancelled,
        _ => Error::host(path)(error),
    })
}
