//! Looking at all of a backup, and making volumes of it.

use std::fs::File;
use std::io;
use std::path::Path;

use api::{Id, Name, Size, Time, VerifiedBackup};
use disk::{Format, Stack};

use super::manifest::Manifest;
use crate::definition::{Allocation, Volume, VolumeFormat};
use crate::volumes::{About, copy_onto_new};
use crate::{Error, Pool, Progress, Result, draft, sum};

/// A backup all of which is what was written. It stays as long as this is there.
#[derive(Debug)]
pub struct Opened {
    /// What it is.
    pub manifest: Manifest,
    /// What was looked at.
    pub verified: VerifiedBackup,
    disks: Vec<(u32, Stack)>,
    _locks: Vec<File>,
    /// Where it is, if it is nowhere but here.
    _draft: Option<draft::Folder>,
}

impl Opened {
    /// One that came from elsewhere, all of which has been looked at.
    pub(super) fn of_draft(
        manifest: Manifest,
        bytes: u64,
        disks: Vec<(u32, Stack)>,
        draft: draft::Folder,
    ) -> Opened {
        let verified = VerifiedBackup { backups: vec![manifest.id], bytes: Size(bytes) };
        Opened { manifest, verified, disks, _locks: Vec::new(), _draft: Some(draft) }
    }
}

impl Pool {
    /// Looks at all of a backup and of those that it needs, and opens it.
    ///
    /// # Errors
    /// [`Error::BackupDamaged`] with all that is wrong; or if there is none, it is being removed, or it is called off.
    pub fn open_backup(&self, id: Id, progress: &dyn Progress) -> Result<Opened> {
        progress.step("checking the backup");
        let mut locks = vec![self.lock_backup(id, true)?];
        let (first, _) = self.manifest(id)?;
        let (mut problems, mut chain, mut bytes) = (Vec::new(), vec![first.clone()], 0);
        let mut next = first.parent.clone();
        while let Some(parent) = next.take() {
            let of = chain.last().map_or_else(|| id.to_string(), |last| last.name.to_string());
            let looped = chain.iter().any(|other| other.id == parent.id);
            match self.lock_backup(parent.id, true).and_then(|lock| Ok((lock, self.manifest(parent.id)?))) {
                _ if looped => problems.push(format!("{of} is based on itself")),
                Ok((_, (_, sum))) if sum != parent.sha256 => {
                    problems.push(format!("{} is not the backup that {of} was made of", parent.id));
                }
                Ok((lock, (manifest, _))) => {
                    locks.push(lock);
                    next = manifest.parent.clone();
                    chain.push(manifest);
                }
                Err(Error::NoBackup(missing)) => {
                    problems.push(format!("the backup {missing}, which {of} needs, is missing"));
                }
                Err(error) => problems.push(error.to_string()),
            }
        }
        for manifest in &chain {
            bytes += check_files(&self.backup_folder(manifest.id), manifest, &mut problems, progress)?;
        }
        if !problems.is_empty() {
            return Err(Error::BackupDamaged { name: first.name.to_string(), problems });
        }
        let mut disks = Vec::new();
        for disk in &first.disks {
            let path = self.backup_folder(id).join(&disk.file);
            disks.push((disk.unit, Stack::open(&path, Format::Qcow2, true).map_err(Error::disk(&path))?));
        }
        let backups = chain.iter().map(|manifest| manifest.id).collect();
        let verified = VerifiedBackup { backups, bytes: Size(bytes) };
        Ok(Opened { manifest: first, verified, disks, _locks: locks, _draft: None })
    }

    /// Makes a volume of a disk of a backup, which has all of it.
    ///
    /// # Errors
    /// If the backup has no such disk, the name is taken, the host has no room, or it is called off.
    pub fn restore_disk(
        &self,
        name: &Name,
        from: &Opened,
        unit: u32,
        progress: &dyn Progress,
    ) -> Result<Volume> {
        if self.volume(name).exists() {
            return Err(Error::VolumeExists(name.clone()));
        }
        let disk = from.disks.iter().find(|(number, _)| *number == unit);
        let (_, disk) =
            disk.ok_or_else(|| Error::NoBackup(format!("{} of disk {unit}", from.manifest.name)))?;
        let draft = draft::Folder::new(self.folder())?;
        let format = VolumeFormat::Qcow2;
        let to = draft.path().join(format.file());
        let size = Size(disk::Disk::len(disk));
        copy_onto_new(disk, &to, &to, format, size, Allocation::Thin, progress)?;
        let about = About { id: Id::new(), description: String::new(), format, created: Time::now() };
        self.publish(draft, name, &about)
    }
}

/// What is wrong with the files of one backup in its folder; gives how many bytes were read.
pub(super) fn check_files(
    folder: &Path,
    manifest: &Manifest,
    wrong: &mut Vec<String>,
    progress: &dyn Progress,
) -> Result<u64> {
    let mut bytes = 0;
    for disk in &manifest.disks {
        let path = folder.join(&disk.file);
        let told = |what: &str| format!("{} of {} {what}", disk.file, manifest.name);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                wrong.push(told("is missing"));
                continue;
            }
            result => result.map_err(Error::host(&path))?,
        };
        let length = file.metadata().map_err(Error::host(&path))?.len();
        if length != disk.length.0 {
            wrong.push(told(&format!("has {length} bytes and should have {}", disk.length.0)));
            continue;
        }
        match sum::sha256(&file, length, progress) {
            Ok(Some(sum)) if sum == disk.sha256 => {}
            Ok(Some(_)) => wrong.push(told("is not what was written: its checksum is another one")),
            Ok(None) => return Err(Error::Cancelled),
            Err(error) => wrong.push(told(&format!("cannot be read: {error}"))),
        }
        bytes += length;
    }
    Ok(bytes)
}
