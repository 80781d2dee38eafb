//! Backups of guests in a pool.
//!
//! ```text
//! POOL/.backups/ID/manifest.json      what it is: the guest's definition, its disks with their checksums, the backup before
//! POOL/.backups/ID/disk0.qcow2        a disk; an incremental one is based on ../PARENT/disk0.qcow2
//! POOL/.backups/ID/SHA256SUMS         the checksums of all that, as sha256sum(1) writes and checks them
//! ```
//!
//! A backup appears when it is whole and durable, and is never changed. Who reads one holds a shared lock on it and on those that it needs,
//! who makes one of what differs from another one holds that on the other one, and who removes one has it for itself. A pool can be
//! moved, or taken in by another host: all that is known of its backups is in them.

mod archive;
mod delete;
mod make;
mod manifest;
mod read;

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use api::{Backup, BackupDisk, Id, Name, Size, Time, VmState};

pub use archive::PackedBackup;
pub use make::{BackupSource, BackupWanted};
pub use manifest::{KeptDisk, Manifest, Parent};
pub use read::Opened;

use crate::pool::BACKUPS;
use crate::volumes::MOMENT;
use crate::{Error, Pool, Result};

const MANIFEST: &str = "manifest.json";
const SUMS: &str = "SHA256SUMS";
const LOCK: &str = ".lock";

impl Pool {
    fn backups_folder(&self) -> PathBuf {
        self.folder().join(BACKUPS)
    }

    fn backup_folder(&self, id: Id) -> PathBuf {
        self.backups_folder().join(id.to_string())
    }

    fn backup_ids(&self) -> Result<Vec<Id>> {
        let folder = self.backups_folder();
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result.map_err(Error::host(&folder))?,
        };
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry.map_err(Error::host(&folder))?.file_name();
            ids.extend(name.to_str().and_then(|name| name.parse::<Id>().ok()));
        }
        ids.sort();
        Ok(ids)
    }

    /// The backups in this pool, which is called `pool`, the oldest first; those that cannot be read say so.
    ///
    /// # Errors
    /// If the host cannot read the pool.
    pub fn backups(&self, pool: &Name) -> Result<Vec<Backup>> {
        let mut all: Vec<Backup> = Vec::new();
        for id in self.backup_ids()? {
            match self.manifest(id) {
                Ok((manifest, _)) => all.push(manifest.told(pool)),
                // It went this moment.
                Err(Error::NoBackup(_)) => {}
                Err(error) => all.push(self.unreadable(id, pool, &error)),
            }
        }
        let parents: Vec<_> = all.iter().map(|backup| (backup.id, backup.parent)).collect();
        for backup in &mut all {
            let children = parents.iter().filter(|(_, parent)| *parent == Some(backup.id));
            backup.children = children.map(|(id, _)| *id).collect();
        }
        all.sort_by_key(|backup| (backup.created, backup.id));
        Ok(all)
    }

    fn unreadable(&self, id: Id, pool: &Name, error: &Error) -> Backup {
        let made = fs::metadata(self.backup_folder(id)).and_then(|meta| meta.modified());
        let created = made.ok().and_then(|made| Time::try_from(made).ok()).unwrap_or_default();
        // An id is a name.
        let name = format!("unreadable-{id}").parse().unwrap_or_else(|_| pool.clone());
        Backup {
            id,
            name,
            description: String::new(),
            pool: pool.clone(),
            vm: None,
            vm_name: String::new(),
            host: String::new(),
            created,
            state: VmState::Stopped,
            quiesced: false,
            parent: None,
            schedule: None,
            children: Vec::new(),
            disks: Vec::new(),
            stored: Size(0),
            problem: Some(error.to_string()),
        }
    }

    /// The lock on a backup, which must be there.
    fn lock_backup(&self, id: Id, shared: bool) -> Result<File> {
        let folder = self.backup_folder(id);
        let none = || Error::NoBackup(id.to_string());
        let path = folder.join(LOCK);
        let file = match File::options().read(true).write(true).create(true).truncate(false).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(none()),
            result => result.map_err(Error::host(&path))?,
        };
        let deadline = Instant::now() + MOMENT;
        loop {
            match disk::lock(&file, shared) {
                Ok(()) => break,
                Err(disk::OpenError::InUse) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(disk::OpenError::InUse) => return Err(Error::BackupInUse(id.to_string())),
                Err(error) => return Err(Error::disk(&path)(error)),
            }
        }
        // It may have gone before it was locked.
        if folder.exists() { Ok(file) } else { Err(none()) }
    }
}

impl Manifest {
    /// What everybody may know of it.
    pub fn told(&self, pool: &Name) -> Backup {
        let disk = |disk: &KeptDisk| BackupDisk {
            unit: disk.unit,
            size: disk.size,
            stored: disk.length,
            incremental: disk.incremental,
        };
        Backup {
            id: self.id,
            name: self.name.clone(),
            description: self.description.clone(),
            pool: pool.clone(),
            vm: Some(self.vm),
            vm_name: self.definition.name.to_string(),
            host: self.host.clone(),
            created: self.created,
            state: self.state,
            quiesced: self.quiesced,
            parent: self.parent.as_ref().map(|parent| parent.id),
            children: Vec::new(),
            schedule: self.schedule.clone(),
            disks: self.disks.iter().map(disk).collect(),
            stored: Size(self.disks.iter().map(|disk| disk.length.0).sum()),
            problem: None,
        }
    }
}
