//! Changes of volumes.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use api::{Id, Name, Size};

use super::create::{copy_onto_new, make_empty};
use super::{ABOUT, About, OpenVolume, write_about};
use crate::definition::{Allocation, Resize, Volume, VolumeFormat};
use crate::{Error, Pool, Progress, Result, draft, sparse};

/// How the names of folders begin whose disk is to be overwritten before it is removed.
const WIPE: &str = ".wipe-";
/// How much is overwritten at once.
const STEP: usize = 1 << 20;

impl Pool {
    /// Makes a volume longer, or shorter if that is said. No guest may run with it.
    ///
    /// # Errors
    /// If there is none, it is in use, others are based on it, or it would lose something and nobody said that it may.
    pub fn resize(&self, name: &Name, wanted: &Resize) -> Result<Volume> {
        let wrong = wanted.check();
        if !wrong.is_empty() {
            return Err(Error::Invalid(wrong));
        }
        let opened = self.open_volume(name, false)?;
        let (format, path) = (opened.format, self.volume(name).join(opened.format.file()));
        let old = self.get(name, Vec::new())?.size;
        if wanted.size < old && !wanted.shrink {
            let detail =
                format!("it has {} bytes: what is beyond would be lost, so say shrink if it may be", old.0);
            return Err(Error::invalid("/size", wanted.size.0, &detail));
        }
        let disk = disk::Stack::from_files(opened.file, opened.backing, format.into(), false);
        disk.map_err(Error::disk(&path))?.resize(wanted.size.0).map_err(Error::host(&path))?;
        self.get(name, Vec::new())
    }

    /// Lays a volume's file out otherwise. One that is based on another becomes one of its own, also if it has the format already.
    ///
    /// # Errors
    /// If there is none, it is in use, others are based on it, or the host has no room.
    pub fn convert(&self, name: &Name, format: VolumeFormat, progress: &dyn Progress) -> Result<Volume> {
        let opened = self.open_volume(name, false)?;
        if opened.format == format && opened.backing.is_empty() {
            return self.get(name, Vec::new());
        }
        let path = self.volume(name).join(opened.format.file());
        // The lock stays ours until the new file is in its place.
        let _lock = opened.file.try_clone().map_err(Error::host(&path))?;
        let from = opened.disk(&path, false)?;
        let draft = draft::Folder::new(self.folder())?;
        let to = draft.path().join(format.file());
        copy_onto_new(&*from, &path, &to, format, Size(from.len()), Allocation::Thin, progress)?;
        let mut about = self.about_volume(name)?;
        about.format = format;
        write_about(draft.path(), &about)?;
        draft.replace(&self.volume(name)).map_err(Error::host(&path))?;
        drop(from);
        self.sweep_bases()?;
        self.get(name, Vec::new())
    }

    /// Makes a volume read as zeroes, and overwrites what was on it.
    ///
    /// # Errors
    /// If there is none, it is in use, others are based on it, or it has layers, which would keep what was on it.
    pub fn wipe(&self, name: &Name, progress: &dyn Progress) -> Result<Volume> {
        let opened = self.open_volume(name, false)?;
        let volume = self.get(name, Vec::new())?;
        match self.layers(name)?.len() {
            0 => {}
            count => return Err(Error::HasLayers { name: name.clone(), count }),
        }
        let draft = draft::Folder::new(self.folder())?;
        make_empty(&draft.path().join(opened.format.file()), opened.format, volume.size, Allocation::Thin)?;
        write_about(draft.path(), &self.about_volume(name)?)?;
        // What was on it must be found again by whoever goes on if we die.
        let old = self.folder().join(format!("{WIPE}{}", Id::new()));
        fs::create_dir(&old).map_err(Error::host(&old))?;
        let path = self.volume(name).join(opened.format.file());
        fs::hard_link(&path, old.join("disk")).map_err(Error::host(&old))?;
        draft.replace(&self.volume(name)).map_err(Error::host(&old))?;
        drop(opened);
        self.sweep_bases()?;
        self.overwrite(&old, progress)?;
        self.get(name, Vec::new())
    }

    /// Goes on with overwriting what was on volumes that were being wiped when their daemon died. To be called once after a start.
    ///
    /// # Errors
    /// If the host cannot.
    pub fn finish_wipes(&self, progress: &dyn Progress) -> Result<()> {
        let entries = fs::read_dir(self.folder()).map_err(Error::host(self.folder()))?;
        for entry in entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(WIPE)) {
            self.overwrite(&entry.path(), progress)?;
        }
        Ok(())
    }

    /// Overwrites the disk in a folder, and removes it.
    fn overwrite(&self, folder: &Path, progress: &dyn Progress) -> Result<()> {
        let path = folder.join("disk");
        let file = match File::options().read(true).write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return fs::remove_dir(folder).map_err(Error::host(folder));
            }
            result => result.map_err(Error::host(&path))?,
        };
        // It is still a volume's if its daemon died before it was replaced, and another one's work if that has the lock.
        let links = std::os::unix::fs::MetadataExt::nlink(&file.metadata().map_err(Error::host(&path))?);
        if disk::lock(&file, false).is_err() {
            return Ok(());
        }
        if links == 1 {
            progress.step("overwriting what was there");
            zero(&file, &path, progress)?;
        }
        fs::remove_dir_all(folder).map_err(Error::host(folder))
    }

    /// Removes a volume, with its layers unless others are based on them. `users` are the guests that have it.
    ///
    /// # Errors
    /// If there is none, guests have it, it is in use, or others are based on it.
    pub fn delete(&self, name: &Name, users: &[String]) -> Result<()> {
        if !users.is_empty() {
            return Err(Error::Used { name: name.clone(), by: users.to_vec() });
        }
        let place = self.volume(name);
        self.check_not_base(name)?;
        match self.take(name, false) {
            Ok(opened) => {
                self.check_not_base(name)?;
                draft::discard(&place).map_err(Error::host(&place))?;
                drop(opened);
            }
            // What is damaged can be removed too, as long as nobody has it.
            Err(Error::Disk { .. }) => {
                let path = place.join(self.about_volume(name)?.format.file());
                if let Ok(file) = File::options().read(true).write(true).open(&path)
                    && disk::lock(&file, false).is_err()
                {
                    return Err(Error::InUse(name.clone()));
                }
                draft::discard(&place).map_err(Error::host(&place))?;
            }
            Err(error) => return Err(error),
        }
        // If one of the others cannot be read, what this one needed stays until it can.
        let _ = self.sweep_layers();
        self.sweep_bases()
    }
}

/// A volume that nobody else uses, and nothing is or can be based on, until this is dropped.
#[derive(Debug)]
pub struct Held {
    name: Name,
    _files: OpenVolume,
}

impl Pool {
    /// Keeps a volume from being used.
    ///
    /// # Errors
    /// If there is none, it is in use, others are based on it, or its image is damaged.
    pub fn hold(&self, name: &Name) -> Result<Held> {
        Ok(Held { name: name.clone(), _files: self.open_volume(name, false)? })
    }

    /// Gives a volume another name, and says what it is for. Those that have it must learn of it.
    ///
    /// # Errors
    /// If the new name is taken, or the host fails.
    pub fn rename(&self, held: &Held, to: &Name, description: &str) -> Result<Volume> {
        let (from, place) = (self.volume(&held.name), self.volume(to));
        let about = About { description: description.into(), ..self.about_volume(&held.name)? };
        let path = from.join(ABOUT);
        let text = serde_json::to_vec_pretty(&about).map_err(io::Error::from);
        text.and_then(|text| draft::write(&path, &text)).map_err(Error::host(&path))?;
        match fs::rename(&from, &place) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                return Err(Error::VolumeExists(to.clone()));
            }
            result => result.and_then(|()| draft::sync(self.folder())).map_err(Error::host(&place))?,
        }
        self.get(to, Vec::new())
    }
}

/// Makes the disk in a file of a draft longer.
pub(super) fn resize_file(path: &Path, format: VolumeFormat, size: u64) -> Result<()> {
    let disk = disk::Stack::open(path, format.into(), false).map_err(Error::disk(path))?;
    disk.resize(size).map_err(Error::host(path))
}

/// Overwrites all data of a file with zeroes, durably.
fn zero(file: &File, path: &Path, progress: &dyn Progress) -> Result<()> {
    let failed = Error::host(path);
    let zeroes = vec![0; STEP];
    let length = file.metadata().map_err(&failed)?.len();
    let mut at = 0;
    while let Some((data, end)) = sparse::next_data(file, at, length).map_err(&failed)? {
        at = data;
        while at < end {
            progress.go_on()?;
            let step = (end - at).min(STEP as u64);
            file.write_all_at(&zeroes[..step as usize], at).map_err(&failed)?;
            at += step;
            progress.amount(at, length);
        }
    }
    file.sync_all().map_err(failed)
}
