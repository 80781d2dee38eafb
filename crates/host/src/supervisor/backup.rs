//! How guests are backed up, and made again of that.
//!
//! A guest's disks go on over layers of what they were, as for a snapshot; those are copied while it goes on. What they were stays until the
//! next backup into the same pool, which then copies what has come over it since. Whoever dies meanwhile leaves no backup: the layers that
//! nobody knows of go at the daemon's next start.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use api::{
    Backup, Disk, DiskSource, Id, Invalid, Name, NewBackup, Problem, RestoreBackup, VerifiedBackup, Vm,
    VmDefinition,
};
use serde_json::json;
use storage::backups::{BackupSource, BackupWanted, Opened};
use storage::{Error, Pool, Silent};

use super::clone::another;
use super::create::Source;
use super::guest::{Follower, Order};
use super::keep::{joined, stamp};
use super::{Supervisor, apart, disks, storage_problem, store_problem};
use crate::events::Happening;
use crate::guest_backups::{self, Base};
use crate::pools::Pools;
use crate::records;
use crate::snapshots::{self, Kept, KeptDisk};
use crate::store::Transaction;

/// Guests that are being backed up.
pub type Busy = Arc<Mutex<HashSet<Id>>>;

/// That a guest is being backed up, until this is dropped.
struct Turn(Busy, Id);

impl Turn {
    fn take(busy: &Busy, vm: &Vm) -> Result<Turn, Problem> {
        let free = busy.lock().unwrap_or_else(PoisonError::into_inner).insert(vm.id);
        let detail = || format!("{} is being backed up already: wait for it", vm.definition.name);
        if free { Ok(Turn(Arc::clone(busy), vm.id)) } else { Err(Problem::conflict(detail())) }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

/// A backup that is being made.
struct Copying {
    vm: Id,
    new: NewBackup,
    host: String,
    kept: Kept,
    before: Option<Base>,
    target: Arc<Pool>,
}

/// Where the API has a backup.
pub fn path(id: Id) -> String {
    format!("/api/v1/backups/{id}")
}

fn none(name: &str) -> Problem {
    let shown: String = name.chars().take(80).collect();
    Problem::not_found(format!("there is no backup {shown}"))
}

/// A name that no backup in the pool has: the guest's and the time.
fn free_name(pool: &Pool, pool_name: &Name, guest: &Name, time: api::Time) -> Result<Name, Problem> {
    let taken = pool.backups(pool_name).map_err(storage_problem)?;
    let base = stamp(time);
    let mut name = joined(guest, &base)?;
    for n in 2.. {
        if taken.iter().all(|backup| backup.name != name) {
            break;
        }
        name = joined(guest, &format!("{base}-{n}"))?;
    }
    Ok(name)
}

/// The pools of layers, in their order.
pub(super) fn pools_of(pools: &Pools, layers: &[KeptDisk]) -> Result<Vec<Arc<Pool>>, Problem> {
    layers.iter().map(|disk| pools.get(disk.pool.as_str())).collect()
}

/// What disks were, in their pools, for a backup of them; `since` gives the layer that the one before is of.
pub(super) fn sources<'a>(
    layers: &'a [KeptDisk],
    pools: &'a [Arc<Pool>],
    since: impl Fn(&KeptDisk) -> Option<Id>,
) -> Vec<BackupSource<'a>> {
    let source = |(disk, pool): (&'a KeptDisk, &'a Arc<Pool>)| {
        let (volume, since) = (&disk.volume, since(disk));
        BackupSource { unit: disk.unit, pool, volume, layer: disk.layer, since }
    };
    layers.iter().zip(pools).map(source).collect()
}

impl Supervisor {
    /// All backups in the pools of this host, the oldest first.
    ///
    /// # Errors
    /// If a pool cannot be read.
    pub async fn backups(&self) -> Result<Vec<Backup>, Problem> {
        let pools = self.shared.pools.opened();
        apart(move || {
            let mut all = Vec::new();
            for (name, pool) in pools {
                all.extend(pool.backups(&name).map_err(storage_problem)?);
            }
            all.sort_by_key(|backup| (backup.created, backup.id));
            Ok(all)
        })
        .await
    }

    /// The backup with this name or id.
    ///
    /// # Errors
    /// If there is none, or several have this name.
    pub async fn backup(&self, name_or_id: &str) -> Result<Backup, Problem> {
        let all = self.backups().await?;
        let fits =
            |backup: &&Backup| backup.name.as_str() == name_or_id || backup.id.to_string() == name_or_id;
        let mut found = all.iter().filter(fits);
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one.clone()),
            (None, _) => Err(none(name_or_id)),
            _ => Err(Problem::conflict(format!("several backups are called {name_or_id}: give its id"))),
        }
    }

    /// Makes a backup of a guest that runs, stands still or is stopped.
    ///
    /// # Errors
    /// If there is no such pool, the name is taken, a disk cannot be backed up, storage has no room, or it is called off: then nothing of
    /// it is there.
    pub async fn back_up(
        &self,
        vm: Id,
        new: NewBackup,
        host: String,
        actor: &str,
        progress: Follower,
    ) -> Result<Backup, Problem> {
        let (found, _) = self.find(&vm.to_string()).await?;
        let _turn = Turn::take(&self.busy, &found)?;
        let target = self.shared.pools.get(new.pool.as_str())?;
        if let Some(name) = &new.name
            && self.backups().await?.iter().any(|backup| backup.pool == new.pool && backup.name == *name)
        {
            let detail = format!("there is a backup {name} in {} already", new.pool);
            let wrong = Invalid::new("/name", name.as_str(), detail);
            return Err(Problem { status: 409, ..Problem::invalid(vec![wrong]) });
        }
        let bases = guest_backups::of(&*self.shared.store, vm).await.map_err(store_problem)?;
        let before = bases.into_iter().find(|base| base.pool == new.pool);
        progress.step("leaving behind what is on the disks");
        let quiesce = new.quiesce;
        let kept = self.ask(vm, |reply| Order::Freeze(quiesce, reply)).await?;
        let layers = kept.layers.clone();
        let merging = Arc::clone(&progress);
        let copying = Copying { vm, new, host, kept: *kept, before: before.clone(), target };
        let made = match self.copy(copying, progress).await {
            Ok(made) => self.keep_base(vm, layers.clone(), made, actor).await,
            Err(problem) => Err(problem),
        };
        let gone = match &made {
            Ok((_, true)) => before.map(|before| before.layers).unwrap_or_default(),
            _ => layers,
        };
        self.drop_layers(gone, merging).await;
        made.map(|(made, _)| made)
    }

    /// Whether a guest is being backed up.
    pub fn is_being_backed_up(&self, vm: Id) -> bool {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).contains(&vm)
    }

    /// Copies what disks have left behind.
    async fn copy(&self, copying: Copying, progress: Follower) -> Result<Backup, Problem> {
        let pools = Arc::clone(&self.shared.pools);
        let Copying { vm, new, host, kept, before, target } = copying;
        let before = before.filter(|_| !new.full);
        apart(move || {
            let created = kept.snapshot.created;
            let name = match new.name {
                Some(name) => name,
                None => free_name(&target, &new.pool, &kept.definition.name, created)?,
            };
            let opened = pools_of(&pools, &kept.layers)?;
            let since = |disk: &KeptDisk| {
                let same = |old: &&KeptDisk| {
                    (&old.pool, &old.volume, old.unit) == (&disk.pool, &disk.volume, disk.unit)
                };
                before.as_ref()?.layers.iter().find(same).map(|old| old.layer)
            };
            let sources = sources(&kept.layers, &opened, since);
            let wanted = BackupWanted {
                id: Id::new(),
                name,
                description: new.description,
                created,
                host,
                vm,
                state: kept.snapshot.state,
                quiesced: new.quiesce,
                schedule: new.schedule,
                definition: kept.definition.clone(),
                parent: before.as_ref().map(|before| before.backup),
            };
            target.make_backup(&new.pool, &wanted, &sources, &*progress).map_err(storage_problem)
        })
        .await
    }

    /// Has the next backup have what differs from this one; false if its guest was deleted meanwhile.
    async fn keep_base(
        &self,
        vm: Id,
        layers: Vec<KeptDisk>,
        made: Backup,
        actor: &str,
    ) -> Result<(Backup, bool), Problem> {
        let Some((record, _)) =
            records::find(&*self.shared.store, &vm.to_string()).await.map_err(store_problem)?
        else {
            return Ok((made, false));
        };
        let vm = record.vm;
        let base = Base { vm: vm.id, pool: made.pool.clone(), backup: made.id, layers };
        let kind = if made.parent.is_some() { "what differs" } else { "all of it" };
        let message =
            format!("was backed up into {} as {}: {kind}, {} bytes", made.pool, made.name, made.stored.0);
        let happening = Happening::new("vm.backed-up", message).by(actor);
        let happening = happening.to(records::path(vm.id), vm.definition.name.as_str());
        let happening = happening.with(json!({ "backup": made.id, "pool": made.pool }));
        let transaction = base.put(Transaction::new()).and_then(|all| happening.add(all));
        let transaction = transaction.map_err(store_problem)?;
        self.shared.store.commit(transaction).await.map_err(store_problem)?;
        Ok((made, true))
    }

    /// Has layers go that nobody knows of any more.
    async fn drop_layers(&self, layers: Vec<KeptDisk>, progress: Follower) {
        if layers.is_empty() {
            return;
        }
        let pools = Arc::clone(&self.shared.pools);
        // What stays is swept at the daemon's next start.
        let _ = tokio::task::spawn_blocking(move || snapshots::delete_of_kept(&pools, &layers)).await;
        self.merge_layers(progress).await;
    }

    /// Looks at all of a backup and of those that it needs.
    ///
    /// # Errors
    /// If something is not what was written, or is missing.
    pub async fn verify_backup(
        &self,
        backup: &Backup,
        progress: Follower,
    ) -> Result<VerifiedBackup, Problem> {
        self.open_backup(backup, progress).await.map(|opened| opened.verified)
    }

    async fn open_backup(&self, backup: &Backup, progress: Follower) -> Result<Opened, Problem> {
        let (pool, id) = (self.shared.pools.get(backup.pool.as_str())?, backup.id);
        let opened = tokio::task::spawn_blocking(move || pool.open_backup(id, &*progress)).await;
        let opened = opened.map_err(|error| Problem::internal(error.to_string()))?;
        if let Err(Error::BackupDamaged { problems, .. }) = &opened {
            let happening = Happening::new("backup.damaged", problems.join("; "));
            let happening = happening.to(path(id), backup.name.as_str()).with(json!({ "pool": backup.pool }));
            let transaction = happening.add(Transaction::new()).map_err(store_problem)?;
            self.shared.store.commit(transaction).await.map_err(store_problem)?;
        }
        opened.map_err(storage_problem)
    }

    /// Makes a guest of a backup, all of which is looked at before.
    ///
    /// # Errors
    /// If the backup is damaged, the new name is taken, or what it boots is not on this host: then nothing of it is there.
    pub async fn restore(
        &self,
        backup: &Backup,
        wanted: &RestoreBackup,
        id: Id,
        actor: &str,
        progress: Follower,
    ) -> Result<Vm, Problem> {
        let opened = self.open_backup(backup, Arc::clone(&progress)).await?;
        let said = (format!("the backup {}", backup.name), json!({ "backup": backup.id }));
        self.restore_of(opened, said, wanted, id, actor, progress).await
    }

    /// Makes a guest of what has been looked at, which is called so, and of which the event says more.
    pub(super) async fn restore_of(
        &self,
        opened: Opened,
        (what, more): (String, serde_json::Value),
        wanted: &RestoreBackup,
        id: Id,
        actor: &str,
        progress: Follower,
    ) -> Result<Vm, Problem> {
        let mut definition = opened.manifest.definition.clone();
        let has_kernel = definition.boot.kernel.is_some();
        for (place, disk) in definition.disks.iter_mut().enumerate().filter(|(_, disk)| !disk.read_only) {
            let unit = disk.number(place) as u32;
            let kept = opened.manifest.disks.iter().find(|kept| kept.unit == unit);
            let detail = || format!("{what} has nothing of disk {unit}");
            let size = kept.ok_or_else(|| Problem::conflict(detail()))?.size;
            disk.unit = Some(unit);
            let gone = match &disk.source {
                DiskSource::Image(image) => {
                    has_kernel && self.shared.images.find(image).ok().flatten().is_none()
                }
                _ => true,
            };
            if gone {
                // All of it comes from the backup.
                *disk = Disk { source: DiskSource::Size(size), grow: None, full: false, ..disk.clone() };
            }
        }
        let definition = match wanted.keep_addresses {
            true => VmDefinition { name: wanted.name.clone(), ..definition },
            false => another(wanted.name.clone(), &definition)?,
        };
        disks::check_shared(&definition)?;
        let made = self.create_of(id, Source::Backup(Box::new(opened)), definition, actor, progress).await?;
        let message = format!("was restored from {what}");
        let happening = Happening::new("vm.restored", message).by(actor);
        let happening = happening.to(records::path(id), made.definition.name.as_str());
        let transaction = happening.with(more).add(Transaction::new()).map_err(store_problem)?;
        self.shared.store.commit(transaction).await.map_err(store_problem)?;
        Ok(made)
    }

    /// Removes a backup.
    ///
    /// # Errors
    /// If others have only what differs from it, or it is being used.
    pub async fn delete_backup(&self, backup: &Backup, actor: &str) -> Result<(), Problem> {
        let (pool, id) = (self.shared.pools.get(backup.pool.as_str())?, backup.id);
        apart(move || pool.delete_backup(id).map_err(storage_problem)).await?;
        let bases = guest_backups::all(&*self.shared.store).await.map_err(store_problem)?;
        let bases: Vec<_> = bases.into_iter().filter(|base| base.backup == id).collect();
        let happening = Happening::new("backup.deleted", "was deleted").by(actor);
        let happening = happening.to(path(id), backup.name.as_str()).with(json!({ "pool": backup.pool }));
        let transaction = bases.iter().fold(Transaction::new(), |all, base| base.forget(all));
        let transaction = happening.add(transaction).map_err(store_problem)?;
        self.shared.store.commit(transaction).await.map_err(store_problem)?;
        let layers = bases.into_iter().flat_map(|base| base.layers).collect();
        self.drop_layers(layers, Arc::new(Silent)).await;
        Ok(())
    }
}
