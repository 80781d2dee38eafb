//! Snapshots as files, to make guests of them elsewhere: each is a full backup of what the disks were, in one archive.

use std::sync::Arc;

use api::{Id, Name, Problem, RestoreBackup, Vm};
use serde_json::json;
use storage::Progress;
use storage::backups::{BackupWanted, PackedBackup};

use super::backup::{pools_of, sources};
use super::guest::Follower;
use super::{Supervisor, apart, storage_problem, store_problem};
use crate::snapshots;

impl Supervisor {
    /// Packs a snapshot of a guest, without its memory. `host` is the name of this host.
    ///
    /// # Errors
    /// If there is no such snapshot, a disk cannot be read, storage has no room, or it is called off.
    pub async fn pack_snapshot(
        &self,
        vm: &Vm,
        snapshot: Id,
        host: String,
        progress: Arc<dyn Progress + Send + Sync>,
    ) -> Result<PackedBackup, Problem> {
        let all = snapshots::list(&*self.shared.store, vm.id).await.map_err(store_problem)?;
        let kept = snapshots::find(&all, &snapshot.to_string())?.clone();
        let (pools, vm) = (Arc::clone(&self.shared.pools), vm.id);
        apart(move || {
            let opened = pools_of(&pools, &kept.layers)?;
            let sources = sources(&kept.layers, &opened, |_| None);
            let wanted = BackupWanted {
                id: Id::new(),
                name: kept.snapshot.name,
                description: kept.snapshot.description,
                created: kept.snapshot.created,
                host,
                vm,
                state: kept.snapshot.state,
                quiesced: kept.snapshot.quiesced,
                schedule: None,
                definition: kept.definition.clone(),
                parent: None,
            };
            pools.usual()?.pack_backup(&wanted, &sources, &*progress).map_err(storage_problem)
        })
        .await
    }

    /// Makes a guest of a file that has been uploaded, all of which is looked at before. The upload goes when the guest is there.
    ///
    /// # Errors
    /// If the file is damaged or none that a snapshot was exported to, the new name is taken, or what it boots is not on this host: then
    /// nothing of it is there.
    pub async fn import(
        &self,
        upload: &Name,
        wanted: &RestoreBackup,
        id: Id,
        actor: &str,
        progress: Follower,
    ) -> Result<Vm, Problem> {
        let (images, pool) = (Arc::clone(&self.shared.images), self.shared.pools.usual()?);
        let (upload, following) = (upload.clone(), Arc::clone(&progress));
        let unpack = move || {
            let file = images.open_upload(&upload, &*following).map_err(storage_problem)?;
            match pool.unpack_backup(file.file(), &*following) {
                Ok(opened) => Ok((file, opened)),
                Err(error) => {
                    if matches!(error, storage::Error::ExportDamaged(_)) {
                        // Nobody can make anything of it.
                        file.remove();
                    }
                    Err(storage_problem(error))
                }
            }
        };
        let (file, opened) = apart(unpack).await?;
        let manifest = &opened.manifest;
        let what = format!("{} of {} on {}", manifest.name, manifest.definition.name, manifest.host);
        let more = json!({ "snapshot": manifest.name, "host": manifest.host });
        let made = self.restore_of(opened, (what, more), wanted, id, actor, progress).await?;
        file.remove();
        Ok(made)
    }
}
