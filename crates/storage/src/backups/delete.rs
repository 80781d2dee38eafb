//! Removing backups, never one that another one needs.

use api::Id;

use crate::{Error, Pool, Result, draft};

impl Pool {
    /// Removes a backup.
    ///
    /// # Errors
    /// If there is none, others have only what differs from it, or it is being used.
    pub fn delete_backup(&self, id: Id) -> Result<()> {
        let folder = self.backup_folder(id);
        let _lock = self.lock_backup(id, false)?;
        let name = |id: Id| self.manifest(id).map_or_else(|_| id.to_string(), |(it, _)| it.name.to_string());
        let mut by = Vec::new();
        for other in self.backup_ids()?.into_iter().filter(|other| *other != id) {
            match self.manifest(other) {
                Ok((manifest, _)) if manifest.parent.as_ref().is_none_or(|parent| parent.id != id) => {}
                Ok((manifest, _)) => by.push(manifest.name.to_string()),
                // What cannot be read needs nothing any more.
                Err(Error::NoBackup(_) | Error::BackupDamaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        if !by.is_empty() {
            return Err(Error::BackupNeeded { name: name(id), by });
        }
        draft::discard(&folder).map_err(Error::host(&folder))
    }
}
