//! Snapshots as the store has them, and their disks as the pools have them.
//!
//! What the store does not know is no snapshot: layers of guests' disks that no snapshot names are what a killed daemon left, and go.

use std::collections::HashSet;
use std::fs::File;
use std::sync::Arc;

use api::{Disk, DiskSource, Id, Name, Problem, Snapshot, Vm, VmDefinition, VolumeName};
use serde::{Deserialize, Serialize};
use storage::{Pool, Progress, Silent};

use crate::guest_backups;
use crate::paths::Paths;
use crate::pools::{Pools, volume_of};
use crate::records;
use crate::store::{self, Store, StoreError, Transaction};
use crate::supervisor::{identity::Twin, storage_problem};

/// Where snapshots are in the store.
const PREFIX: &str = "snapshot/";

/// What the store has of a snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Kept {
    /// What everybody may know.
    #[serde(flatten)]
    pub snapshot: Snapshot,
    /// What the guest should have been.
    pub definition: VmDefinition,
    /// What its machine was made of, if its memory was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<VmDefinition>,
    /// What its system still was of another guest, if its memory was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub twin: Option<Twin>,
    /// What its disks were.
    pub layers: Vec<KeptDisk>,
}

/// What a disk was: a layer of a volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeptDisk {
    /// The disk's number.
    pub unit: u32,
    /// The pool.
    pub pool: Name,
    /// The volume.
    pub volume: Name,
    /// The layer.
    pub layer: Id,
}

impl Kept {
    /// What everybody may know of it, a snapshot of this guest.
    pub fn told(self, vm: &Vm) -> Snapshot {
        Snapshot { current: vm.status.snapshot == Some(self.snapshot.id), ..self.snapshot }
    }
}

/// The key of a snapshot.
pub fn key(vm: Id, snapshot: Id) -> String {
    format!("{PREFIX}{vm}/{snapshot}")
}

/// Where the API has a snapshot.
pub fn path(vm: Id, snapshot: Id) -> String {
    format!("{}/snapshots/{snapshot}", records::path(vm))
}

/// There is no such snapshot.
pub fn none(name: &str) -> Problem {
    let shown: String = name.chars().take(80).collect();
    Problem::not_found(format!("the guest has no snapshot {shown}"))
}

/// It is not what it was when it was read.
pub fn stale() -> Problem {
    Problem::new(412, "It has changed", "the snapshot has changed since it was read: read it again")
}

/// The snapshots of a guest, the oldest first.
///
/// # Errors
/// If the store cannot be read.
pub async fn list(store: &dyn Store, vm: Id) -> Result<Vec<Kept>, StoreError> {
    let mut all: Vec<Kept> = store::values(store, &format!("{PREFIX}{vm}/")).await?;
    all.sort_by_key(|kept| (kept.snapshot.created, kept.snapshot.id));
    Ok(all)
}

/// The one with this name or id.
///
/// # Errors
/// If there is none.
pub fn find<'a>(all: &'a [Kept], name_or_id: &str) -> Result<&'a Kept, Problem> {
    let fits = |kept: &&Kept| {
        kept.snapshot.name.as_str() == name_or_id || kept.snapshot.id.to_string() == name_or_id
    };
    all.iter().find(fits).ok_or_else(|| none(name_or_id))
}

/// Takes all snapshots of a guest out of the store.
pub fn forget(all: &[Kept], vm: Id, transaction: Transaction) -> Transaction {
    all.iter().fold(transaction, |transaction, kept| transaction.delete(key(vm, kept.snapshot.id)))
}

/// The disks of a guest that can be kept, each with a layer to come. Those that it only reads are what they are.
///
/// # Errors
/// If it writes to a file of the host's, which has no layers.
pub fn disks(vm: Id, definition: &VmDefinition) -> Result<Vec<KeptDisk>, Problem> {
    let mut all = Vec::new();
    for (place, disk) in definition.disks.iter().enumerate().filter(|(_, disk)| !disk.read_only) {
        let number = disk.number(place);
        let volume = volume_of(vm, number, disk)?.map_err(|path| {
            let what = format!("disk {number} is the file {}, which has no snapshots", path.display());
            Problem::conflict(format!("{what}: make a volume of it, or have it read only"))
        })?;
        let VolumeName { pool, name: volume } = volume;
        all.push(KeptDisk { unit: number as u32, pool, volume, layer: Id::new() });
    }
    Ok(all)
}

fn pool_of(pools: &Pools, disk: &KeptDisk) -> Result<Arc<Pool>, Problem> {
    pools.get(disk.pool.as_str())
}

/// Makes the layers of a guest's disks; gives the files that its machine is to go on with if it `runs`.
///
/// # Errors
/// If one cannot be made: then there is none.
pub fn freeze(pools: &Pools, disks: &[KeptDisk], runs: bool) -> Result<Vec<File>, Problem> {
    let mut files = Vec::new();
    for (n, disk) in disks.iter().enumerate() {
        let made = pool_of(pools, disk).and_then(|pool| match runs {
            true => pool.freeze_running(&disk.volume, disk.layer).map(Some).map_err(storage_problem),
            false => pool.freeze(&disk.volume, disk.layer).map(|_| None).map_err(storage_problem),
        });
        match made {
            Ok(file) => files.extend(file),
            Err(problem) => {
                drop(files);
                unfreeze(pools, &disks[..n]);
                return Err(problem);
            }
        }
    }
    Ok(files)
}

/// Has disks go on as if they had not been frozen: no machine has gone on over them.
pub fn unfreeze(pools: &Pools, disks: &[KeptDisk]) {
    for disk in disks {
        let undone = pool_of(pools, disk)
            .and_then(|pool| pool.unfreeze(&disk.volume, disk.layer).map_err(storage_problem));
        if let Err(problem) = undone {
            // It is no snapshot; its data is merged when that can be.
            tracing::warn!("the layer {} of {} stays: {problem}", disk.layer, disk.volume);
        }
    }
}

/// What is below a disk that a machine runs with.
///
/// # Errors
/// If it cannot be read.
pub fn below(pools: &Pools, disk: &KeptDisk) -> Result<storage::Below, Problem> {
    pool_of(pools, disk)?.below(&disk.volume).map_err(storage_problem)
}

/// Has disks go on from what they were.
///
/// # Errors
/// If one cannot; those before it have. It can be tried again.
pub fn revert(pools: &Pools, disks: &[KeptDisk]) -> Result<(), Problem> {
    for disk in disks {
        pool_of(pools, disk)?.revert(&disk.volume, disk.layer).map_err(storage_problem)?;
    }
    Ok(())
}

/// Deletes layers. What cannot go now goes when the guest has ended.
pub fn delete(pools: &Pools, disks: &[KeptDisk], progress: &dyn Progress) {
    for disk in disks {
        let deleted = pool_of(pools, disk)
            .and_then(|pool| pool.delete_layer(&disk.volume, disk.layer, progress).map_err(storage_problem));
        match deleted {
            Ok(storage::Deleted::Gone) => {}
            Ok(storage::Deleted::Needed(why)) => {
                tracing::info!("the layer {} of {} goes later: {why}", disk.layer, disk.volume);
            }
            Err(problem) => tracing::warn!("the layer {} of {} stays: {problem}", disk.layer, disk.volume),
        }
    }
}

/// Deletes the layers of volumes that are there still, perhaps by another name, of a guest that is not.
pub fn delete_of_kept(pools: &Pools, disks: &[KeptDisk]) {
    for disk in disks {
        let Ok(pool) = pool_of(pools, disk) else { continue };
        if let Err(error) = pool.forget_layer(disk.layer, &Silent) {
            tracing::warn!("the layer {} of {} stays: {error}", disk.layer, disk.volume);
        }
    }
}

/// Merges what could not go while a guest ran with these disks.
pub fn tidy(pools: &Pools, definition: &VmDefinition) {
    let of = |disk: &Disk| match &disk.source {
        DiskSource::Volume(volume) => volume.pool.clone(),
        _ => api::default_pool(),
    };
    for name in definition.disks.iter().map(of).collect::<HashSet<_>>() {
        let Ok(pool) = pools.get(name.as_str()) else { continue };
        tidy_pool(&pool);
    }
}

fn saved_is_gone(folder: &std::path::Path) {
    match std::fs::remove_dir_all(folder) {
        Ok(()) => tracing::info!("removed {}, which is no snapshot", folder.display()),
        Err(error) => tracing::warn!("{} stays behind: {error}", folder.display()),
    }
}

fn tidy_pool(pool: &Pool) {
    let tidied =
        pool.has_layers().and_then(|any| if any { pool.tidy_layers(&Silent).map(drop) } else { Ok(()) });
    if let Err(error) = tidied {
        tracing::warn!("layers in {} stay: {error}", pool.folder().display());
    }
}

/// Removes the layers of guests' disks that no snapshot has. What other hosts have in a shared pool is theirs.
///
/// # Errors
/// If the store cannot be read.
pub async fn sweep(
    store: &dyn Store,
    pools: &Arc<Pools>,
    paths: &Paths,
    guests: &[records::Versioned],
) -> Result<(), StoreError> {
    let kept: Vec<Kept> = store::values(store, PREFIX).await?;
    let bases = guest_backups::all(store).await?;
    let known = kept.iter().flat_map(|kept| &kept.layers).chain(bases.iter().flat_map(|base| &base.layers));
    let known: HashSet<Id> = known.map(|disk| disk.layer).collect();
    let of =
        |(record, _): &records::Versioned| disks(record.vm.id, &record.vm.definition).unwrap_or_default();
    let ids: HashSet<_> = kept.iter().map(|kept| kept.snapshot.id.to_string()).collect();
    for (record, _) in guests {
        for entry in std::fs::read_dir(paths.snapshots(record.vm.id)).into_iter().flatten().flatten() {
            if !ids.contains(&*entry.file_name().to_string_lossy()) {
                saved_is_gone(&entry.path());
            }
        }
    }
    let own: HashSet<_> = guests.iter().flat_map(of).map(|disk| (disk.pool, disk.volume)).collect();
    let pools = Arc::clone(pools);
    let work = move || {
        // All that is in this one is this host's: also of volumes that were a guest's own and stay.
        let usual = api::default_pool();
        for name in own.iter().map(|(pool, _)| pool).chain([&usual]).collect::<HashSet<_>>() {
            let Ok(pool) = pools.get(name.as_str()) else { continue };
            for (volume, layer) in pool.layers_of_all().unwrap_or_default() {
                let is_own = *name == usual || own.contains(&(name.clone(), volume.clone()));
                if known.contains(&layer) || !is_own {
                    continue;
                }
                match pool.delete_layer(&volume, layer, &Silent) {
                    Ok(_) => tracing::info!("the layer {layer} of {volume} belonged to no snapshot"),
                    Err(error) => {
                        tracing::warn!("the layer {layer} of {volume}, of no snapshot, stays: {error}")
                    }
                }
            }
            tidy_pool(&pool);
        }
    };
    // It is tried again at the next start.
    let _ = tokio::task::spawn_blocking(work).await;
    Ok(())
}
