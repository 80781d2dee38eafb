//! What a backup says of itself.

use std::fs;
use std::io;
use std::path::Path;

use api::{Id, Name, Size, Time, VmDefinition, VmState};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{MANIFEST, SUMS};
use crate::{Error, Pool, Result};

/// What the field `format` says.
const FORMAT: &str = "tessera-backup";
/// The version of manifests that this program writes; it reads no later one.
const VERSION: u32 = 1;

/// What a backup is; `manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    format: String,
    version: u32,
    /// Its id.
    pub id: Id,
    /// Its name.
    pub name: Name,
    /// What it is for.
    pub description: String,
    /// When it was made.
    pub created: Time,
    /// The name of the host that made it.
    pub host: String,
    /// The guest's id.
    pub vm: Id,
    /// What the guest was doing.
    pub state: VmState,
    /// Whether its file systems rested.
    pub quiesced: bool,
    /// What it was made of.
    pub definition: VmDefinition,
    /// The schedule that it was made by; absent if somebody made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Name>,
    /// The backup before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
    /// Its disks, but for those that it only reads.
    pub disks: Vec<KeptDisk>,
}

/// The backup that another one has only the difference from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// Its id.
    pub id: Id,
    /// The SHA-256 checksum of its manifest, in hexadecimal.
    pub sha256: String,
}

/// A disk in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptDisk {
    /// The disk's number.
    pub unit: u32,
    /// Bytes of the disk.
    pub size: Size,
    /// Its file.
    pub file: String,
    /// Bytes of the file.
    pub length: Size,
    /// The file's SHA-256 checksum, in hexadecimal.
    pub sha256: String,
    /// Whether it is based on the file of the same name in the backup before.
    pub incremental: bool,
}

/// The name of the file of a disk.
pub fn file_name(unit: u32) -> String {
    format!("disk{unit}.qcow2")
}

pub fn hex(text: &[u8]) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Manifest {
    /// One of the version that is written now.
    pub(super) fn new(wanted: &super::BackupWanted, parent: Option<Parent>, disks: Vec<KeptDisk>) -> Self {
        let wanted = wanted.clone();
        Self {
            format: FORMAT.into(),
            version: VERSION,
            id: wanted.id,
            name: wanted.name,
            description: wanted.description,
            created: wanted.created,
            host: wanted.host,
            vm: wanted.vm,
            state: wanted.state,
            quiesced: wanted.quiesced,
            schedule: wanted.schedule,
            definition: wanted.definition,
            parent,
            disks,
        }
    }

    /// What is written of it, and the checksums of all.
    pub(super) fn written(&self) -> io::Result<(Vec<u8>, String)> {
        let text = serde_json::to_vec_pretty(self)?;
        let mut sums = format!("{}  {MANIFEST}\n", hex(&text));
        for disk in &self.disks {
            sums += &format!("{}  {}\n", disk.sha256, disk.file);
        }
        Ok((text, sums))
    }
}

impl Pool {
    /// What a backup says of itself, and the checksum of that.
    pub(super) fn manifest(&self, id: Id) -> Result<(Manifest, String)> {
        let folder = self.backup_folder(id);
        match Manifest::read(&folder, &id.to_string()) {
            Err(_) if !folder.exists() => Err(Error::NoBackup(id.to_string())),
            Ok((manifest, _)) if manifest.id != id => {
                let problems = vec![format!("its {MANIFEST} is not of this backup")];
                Err(Error::BackupDamaged { name: id.to_string(), problems })
            }
            read => read,
        }
    }
}

impl Manifest {
    /// What is in a folder of a backup that errors call `name`, and the checksum of that.
    pub(super) fn read(folder: &Path, name: &str) -> Result<(Manifest, String)> {
        let path = folder.join(MANIFEST);
        let damaged = |why: String| Error::BackupDamaged { name: name.into(), problems: vec![why] };
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(damaged(format!("it has no {MANIFEST}")));
            }
            result => result.map_err(Error::host(&path))?,
        };
        #[derive(Deserialize)]
        struct Kind {
            format: String,
            version: u32,
        }
        let sum = hex(&text);
        let sums = fs::read_to_string(folder.join(SUMS)).unwrap_or_default();
        if !sums.lines().any(|line| line == format!("{sum}  {MANIFEST}")) {
            return Err(damaged(format!("its {MANIFEST} is not what was written")));
        }
        let wrong = |error: serde_json::Error| damaged(format!("its {MANIFEST} cannot be read: {error}"));
        let kind: Kind = serde_json::from_slice(&text).map_err(wrong)?;
        if kind.format != FORMAT || kind.version > VERSION {
            let what =
                format!("its manifest is {} {}, which this version does not know", kind.format, kind.version);
            return Err(damaged(what));
        }
        let manifest: Manifest = serde_json::from_slice(&text).map_err(wrong)?;
        // Names of files are not taken from elsewhere.
        match manifest.disks.iter().all(|disk| disk.file == file_name(disk.unit)) {
            true => Ok((manifest, sum)),
            false => Err(damaged(format!("its {MANIFEST} names files that are not its own"))),
        }
    }
}
