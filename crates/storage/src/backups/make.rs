//! How a backup is made: of layers that guests' disks have left behind, so that the guests go on meanwhile.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use api::{Backup, Id, Name, Size, Time, VmDefinition, VmState};
use disk::{Disk, Format, Stack};

use super::manifest::{KeptDisk, Manifest, Parent, file_name};
use super::{MANIFEST, SUMS};
use crate::layers::delete::{cancelled_or, write_into};
use crate::{Error, Pool, Progress, Result, draft, sum};

/// What a backup is to say of itself.
#[derive(Debug, Clone)]
pub struct BackupWanted {
    /// Its id.
    pub id: Id,
    /// Its name.
    pub name: Name,
    /// What it is for.
    pub description: String,
    /// When the guest was what is in it.
    pub created: Time,
    /// The name of this host.
    pub host: String,
    /// The guest's id.
    pub vm: Id,
    /// What the guest was doing.
    pub state: VmState,
    /// Whether its file systems rested.
    pub quiesced: bool,
    /// The schedule that makes it, if one does.
    pub schedule: Option<Name>,
    /// What it was made of.
    pub definition: VmDefinition,
    /// The backup before, if it is to have what differs from that.
    pub parent: Option<Id>,
}

/// Where a disk of a guest is that is backed up.
#[derive(Debug)]
pub struct BackupSource<'a> {
    /// The disk's number.
    pub unit: u32,
    /// The pool of its volume.
    pub pool: &'a Pool,
    /// Its volume.
    pub volume: &'a Name,
    /// What it was.
    pub layer: Id,
    /// What it was when the backup before was made.
    pub since: Option<Id>,
}

/// The backup before, which stays as long as this is there.
pub(super) struct Before {
    manifest: Manifest,
    sum: String,
    _lock: File,
}

impl Pool {
    /// Makes a backup in this pool, which is called `pool`. It has what differs from its parent where that is there, whole as far as can be
    /// seen without reading all of it, and the disk has gone on from what it was then; all of a disk elsewhere.
    ///
    /// # Errors
    /// If a layer cannot be read, the host has no room, or it is called off: then nothing of it is there.
    pub fn make_backup(
        &self,
        pool: &Name,
        wanted: &BackupWanted,
        disks: &[BackupSource<'_>],
        progress: &dyn Progress,
    ) -> Result<Backup> {
        let before = wanted.parent.and_then(|id| self.before(id));
        let (draft, manifest) = self.draft_backup(wanted, disks, before.as_ref(), progress)?;
        let place = self.backup_folder(wanted.id);
        draft.keep(&place).map_err(Error::host(&place))?;
        Ok(manifest.told(pool))
    }

    /// Makes all of a backup that is not in its place yet.
    pub(super) fn draft_backup(
        &self,
        wanted: &BackupWanted,
        disks: &[BackupSource<'_>],
        before: Option<&Before>,
        progress: &dyn Progress,
    ) -> Result<(draft::Folder, Manifest)> {
        let draft = draft::Folder::new(&self.backups_folder())?;
        let mut kept = Vec::new();
        for source in disks {
            kept.push(self.back_up_disk(draft.path(), source, before, progress)?);
        }
        let parent = before.filter(|_| kept.iter().any(|disk| disk.incremental));
        let parent = parent.map(|before| Parent { id: before.manifest.id, sha256: before.sum.clone() });
        let manifest = Manifest::new(wanted, parent, kept);
        let write = || {
            let (text, sums) = manifest.written()?;
            for (name, text) in [(MANIFEST, &text[..]), (SUMS, sums.as_bytes())] {
                fs::write(draft.path().join(name), text)?;
            }
            for entry in fs::read_dir(draft.path())? {
                // Guests' disks are nobody else's business, and not to be written to.
                fs::set_permissions(entry?.path(), Permissions::from_mode(0o600))?;
            }
            Ok(())
        };
        write().map_err(Error::host(draft.path()))?;
        progress.go_on()?;
        Ok((draft, manifest))
    }

    /// The backup before, if it can be gone on from.
    fn before(&self, id: Id) -> Option<Before> {
        let lock = self.lock_backup(id, true).ok()?;
        let (manifest, sum) = self.manifest(id).ok()?;
        // One without its own parents is of no use, and nor is what goes on from it.
        let mut next = manifest.parent.clone();
        while let Some(parent) = next {
            let (above, sum) = self.manifest(parent.id).ok()?;
            if sum != parent.sha256 {
                return None;
            }
            next = above.parent;
        }
        Some(Before { manifest, sum, _lock: lock })
    }

    fn back_up_disk(
        &self,
        draft: &Path,
        source: &BackupSource<'_>,
        before: Option<&Before>,
        progress: &dyn Progress,
    ) -> Result<KeptDisk> {
        let since = source.since.filter(|_| before.is_some());
        let read = source.pool.read_layer(source.volume, source.layer, since)?;
        let (from, layers) = (&read.disk, read.since);
        let old = before.and_then(|before| {
            let disk = before.manifest.disks.iter().find(|disk| disk.unit == source.unit)?;
            let there = fs::metadata(self.backup_folder(before.manifest.id).join(&disk.file)).ok()?;
            (there.len() == disk.length.0 && disk.size.0 <= from.len()).then_some(before.manifest.id)
        });
        let (file, size) = (file_name(source.unit), Size(from.len()));
        let path = draft.join(&file);
        let incremental = match (layers, old) {
            (Some(layers), Some(old)) => {
                progress.step(&format!("copying what differs on disk {}", source.unit));
                let name = format!("../{old}/{file}");
                disk::qcow2::create_layer(&path, &name, Format::Qcow2, size.0).map_err(Error::disk(&path))?;
                let held = from.held(0..layers).collect::<std::io::Result<Vec<_>>>();
                let held = held.map_err(Error::host(&path))?;
                let to = Stack::open(&path, Format::Qcow2, false).map_err(Error::disk(&path))?;
                write_into(from, &to, &held, progress).map_err(|error| cancelled_or(error, &path))?;
                true
            }
            _ => {
                progress.step(&format!("copying disk {}", source.unit));
                disk::qcow2::create(&path, size.0).map_err(Error::disk(&path))?;
                let to = Stack::open(&path, Format::Qcow2, false).map_err(Error::disk(&path))?;
                let copied = disk::copy(from, &to, |done, total| {
                    progress.amount(done, total);
                    !progress.cancelled()
                });
                copied.map_err(|error| cancelled_or(error, &path))?;
                false
            }
        };
        progress.step("making its checksum");
        let opened = File::open(&path).map_err(Error::host(&path))?;
        let length = opened.metadata().map_err(Error::host(&path))?.len();
        let sha256 = sum::sha256(&opened, length, progress).map_err(Error::host(&path))?;
        let sha256 = sha256.ok_or(Error::Cancelled)?;
        Ok(KeptDisk { unit: source.unit, size, file, length: Size(length), sha256, incremental })
    }
}
