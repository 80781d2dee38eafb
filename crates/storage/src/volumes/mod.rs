//! The volumes of a pool: disks that guests use, or that wait for one.
//!
//! A volume is a folder of its name with its disk and `volume.json`. What is based on what is only in the headers of the disks: a
//! linked volume calls the disk under it `../OTHER/disk.qcow2`, `../.bases/KEY/disk.raw` or `../.layer-ID/ID.qcow2`, so a pool can be
//! moved as a whole.
//!
//! Whoever uses a volume has the lock on its disk, and read locks on what is under it; the lock goes with the open file, so it
//! follows the file into the process of a guest, and dies with it. Whoever changes which file is the disk has the lock too, so a
//! lock counts only if the name still leads to the file that it is on.

mod bases;
mod change;
mod create;
mod transfer;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use api::{Id, Name, Size, Time};
use disk::qcow2::Header;
use disk::{Disk, OpenError};
use serde::{Deserialize, Serialize};

use crate::definition::{Volume, VolumeFormat, VolumeSource};
use crate::layers::Base;
use crate::{Error, Pool, Result, draft};

pub use change::Held;
pub(crate) use create::{copy_onto_new, link};
pub use transfer::Download;

const ABOUT: &str = "volume.json";

/// How long a lock may be seen that nobody holds any more: a process that is being started has all files of its parent for as long
/// as it takes to become what it is to be.
pub(crate) const MOMENT: Duration = Duration::from_millis(150);

/// What is known of a volume beside its disk; `volume.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct About {
    pub id: Id,
    #[serde(default)]
    pub description: String,
    pub format: VolumeFormat,
    pub created: Time,
}

/// The open files of a volume, and with them its locks: what a machine is given as its disk.
#[derive(Debug)]
pub struct OpenVolume {
    /// How its file is laid out.
    pub format: VolumeFormat,
    /// Its file.
    pub file: File,
    /// The files that it is based on, the nearest one first.
    pub backing: Vec<File>,
}

impl Pool {
    /// All volumes, by name. `users` tells the guests that have a volume.
    ///
    /// # Errors
    /// If the host cannot read the pool.
    pub fn list(&self, users: impl Fn(&Name) -> Vec<String>) -> Result<Vec<Volume>> {
        let names = self.names()?;
        let based = names.iter().filter_map(|name| Some((name.clone(), self.based_on(name).ok()??)));
        let based: Vec<(Name, VolumeSource)> = based.collect();
        let volume = |name: &Name| {
            let (about, folder) = (self.about_volume(name).ok()?, self.volume(name));
            let base = based.iter().find(|(of, _)| of == name).map(|(_, source)| source.clone());
            let others = based.iter().filter(|(_, on)| *on == VolumeSource::Volume(name.clone()));
            let base_of = others.map(|(of, _)| of.clone()).collect();
            describe(name, &about, &folder, base, base_of, users(name)).ok()
        };
        Ok(names.iter().filter_map(volume).collect())
    }

    /// The volume of this name; `users` are the guests that have it.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub fn get(&self, name: &Name, users: Vec<String>) -> Result<Volume> {
        let (about, folder) = (self.about_volume(name)?, self.volume(name));
        let base = self.based_on(name).unwrap_or_default();
        describe(name, &about, &folder, base, self.base_of(name)?, users)
    }

    /// Opens a volume for a guest. Its lock is that of the files: it is free when nobody has them open any more.
    ///
    /// # Errors
    /// If there is none, somebody else uses it, others are based on it and it is not to be only read, or its image is damaged.
    pub fn open_volume(&self, name: &Name, read_only: bool) -> Result<OpenVolume> {
        if read_only {
            return self.take(name, true);
        }
        // First for the clearer answer; and once more when nobody can base another one on it any longer.
        self.check_not_base(name)?;
        let opened = self.take(name, false)?;
        self.check_not_base(name)?;
        Ok(opened)
    }

    /// Opens a volume's files with their locks. Waits a moment for them.
    pub(crate) fn take(&self, name: &Name, read_only: bool) -> Result<OpenVolume> {
        let deadline = Instant::now() + MOMENT;
        loop {
            let format = self.about_volume(name)?.format;
            let path = self.volume(name).join(format.file());
            let (file, backing) = match disk::files(&path, format.into(), read_only) {
                Ok(files) => files,
                Err(error) if (is_in_use(&error) || is_gone(&error)) && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                }
                Err(OpenError::InUse) => return Err(Error::InUse(name.clone())),
                // It was converted or removed this moment.
                Err(OpenError::Host(error)) if error.kind() == io::ErrorKind::NotFound => {
                    self.about_volume(name)?;
                    if path.exists() || self.about_volume(name)?.format != format {
                        continue;
                    }
                    return Err(Error::host(&path)(error));
                }
                Err(error) => return Err(Error::disk(&path)(error)),
            };
            let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
            let there = fs::metadata(&path).and_then(|there| Ok(same(&there, &file.metadata()?)));
            if there.unwrap_or(false) {
                return Ok(OpenVolume { format, file, backing });
            }
        }
    }

    /// How much the file of a volume may still grow by, bytes: what a guest can write to it that has no room on the host yet.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub fn growth(&self, name: &Name) -> Result<u64> {
        let folder = self.volume(name);
        let opened = [VolumeFormat::Qcow2, VolumeFormat::Raw].into_iter().find_map(|format| {
            let path = folder.join(format.file());
            File::open(&path).ok().map(|file| (format, path, file))
        });
        let (format, path, file) = opened.ok_or_else(|| Error::NoVolume(name.clone()))?;
        let meta = file.metadata().map_err(Error::host(&path))?;
        let size = match format {
            VolumeFormat::Raw => meta.len(),
            VolumeFormat::Qcow2 => Header::read(&file).map_err(Error::disk(&path))?.size,
        };
        Ok(size.saturating_sub(meta.blocks() * 512))
    }

    /// The names of all volumes, in order.
    pub(crate) fn names(&self) -> Result<Vec<Name>> {
        let entries = fs::read_dir(self.folder()).map_err(Error::host(self.folder()))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Error::host(self.folder()))?;
            let name = entry.file_name().to_str().and_then(|name| name.parse::<Name>().ok());
            names.extend(name.filter(|_| entry.path().join(ABOUT).exists()));
        }
        names.sort();
        Ok(names)
    }

    /// The folder of a volume.
    pub(crate) fn volume(&self, name: &Name) -> PathBuf {
        self.folder().join(name.as_str())
    }

    pub(crate) fn about_volume(&self, name: &Name) -> Result<About> {
        let path = self.volume(name).join(ABOUT);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoVolume(name.clone()));
            }
            result => result.map_err(Error::host(&path))?,
        };
        serde_json::from_slice(&text).map_err(|error| Error::unusable(&path, error))
    }

    /// What a volume is based on, below its layers.
    fn based_on(&self, name: &Name) -> Result<Option<VolumeSource>> {
        let path = self.volume(name).join(VolumeFormat::Qcow2.file());
        match self.root_of(&path)? {
            None | Some(Base::Layer(_) | Base::Unknown) => Ok(None),
            Some(Base::Volume(volume)) => Ok(Some(VolumeSource::Volume(volume))),
            Some(Base::Image(key)) => match self.base_image(&key) {
                Some(image) => Ok(Some(VolumeSource::Image(image))),
                None => Err(Error::unusable(
                    &path,
                    format!("it is based on an image {key:?} that is not in the pool"),
                )),
            },
        }
    }

    /// The volumes that are based on one, they or layers of theirs.
    fn base_of(&self, name: &Name) -> Result<Vec<Name>> {
        let base = VolumeSource::Volume(name.clone());
        let layers = self.owners_of_layers_on(name)?;
        let names = self.names()?.into_iter();
        // One whose header cannot be read is taken for based on it rather than spoilt.
        Ok(names
            .filter(|other| {
                let direct = || self.based_on(other).map_or(true, |on| on.as_ref() == Some(&base));
                let by_layer = || self.about_volume(other).is_ok_and(|about| layers.contains(&about.id));
                other != name && (direct() || by_layer())
            })
            .collect())
    }

    pub(crate) fn check_not_base(&self, name: &Name) -> Result<()> {
        let others = self.base_of(name)?;
        if others.is_empty() { Ok(()) } else { Err(Error::BaseOf { name: name.clone(), others }) }
    }

    /// Puts a draft into its place as a new volume, which nothing can be based on yet.
    pub(crate) fn publish(&self, draft: draft::Folder, name: &Name, about: &About) -> Result<Volume> {
        write_about(draft.path(), about)?;
        let place = self.volume(name);
        draft.keep(&place).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::VolumeExists(name.clone()),
            _ => Error::host(&place)(error),
        })?;
        let base = self.based_on(name).unwrap_or_default();
        describe(name, about, &place, base, Vec::new(), Vec::new())
    }
}

impl OpenVolume {
    /// The disk in its files.
    fn disk(self, path: &Path, read_only: bool) -> Result<Box<dyn Disk>> {
        disk::from_files(self.file, self.backing, self.format.into(), read_only).map_err(Error::disk(path))
    }
}

fn is_in_use(error: &OpenError) -> bool {
    match error {
        OpenError::InUse => true,
        OpenError::Backing { error, .. } => is_in_use(error),
        _ => false,
    }
}

/// Whether a layer was merged with the one over it this moment.
pub(crate) fn is_gone(error: &OpenError) -> bool {
    match error {
        OpenError::Backing { error, .. } => match &**error {
            OpenError::Host(error) => error.kind() == io::ErrorKind::NotFound,
            error => is_gone(error),
        },
        _ => false,
    }
}

pub(crate) fn write_about(folder: &Path, about: &About) -> Result<()> {
    let path = folder.join(ABOUT);
    let text = serde_json::to_vec_pretty(about).map_err(io::Error::from);
    text.and_then(|text| fs::write(&path, text)).map_err(Error::host(&path))
}

fn describe(
    name: &Name,
    about: &About,
    folder: &Path,
    based_on: Option<VolumeSource>,
    base_of: Vec<Name>,
    used_by: Vec<String>,
) -> Result<Volume> {
    let path = folder.join(about.format.file());
    let file = File::open(&path).map_err(Error::host(&path))?;
    let meta = file.metadata().map_err(Error::host(&path))?;
    let (size, problem) = match about.format {
        VolumeFormat::Raw => (meta.len(), String::new()),
        VolumeFormat::Qcow2 => match Header::read(&file) {
            Ok(header) => (header.size, String::new()),
            Err(error) => (0, error.to_string()),
        },
    };
    Ok(Volume {
        id: about.id,
        name: name.clone(),
        description: about.description.clone(),
        format: about.format,
        size: Size(size),
        allocated: Size(meta.blocks() * 512),
        used: Size(crate::sparse::data(&file, meta.len()).map_err(Error::host(&path))?),
        based_on,
        base_of,
        used_by,
        created: about.created,
        problem,
    })
}
