//! What the store knows of backups: for each guest and pool what its disks were at the last one, so that the next has only what differs.
//!
//! Backups themselves are in their pools, and say all of themselves. What the store does not know only costs: the next one is a full one.

use api::{Id, Name};
use serde::{Deserialize, Serialize};

use crate::snapshots::KeptDisk;
use crate::store::{self, Store, StoreError, Transaction};

/// Where that is in the store.
const PREFIX: &str = "backup-base/";

/// What a guest's disks were at its last backup into a pool.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Base {
    /// The guest.
    pub vm: Id,
    /// The pool that the backup is in.
    pub pool: Name,
    /// The backup.
    pub backup: Id,
    /// What the disks were.
    pub layers: Vec<KeptDisk>,
}

impl Base {
    fn key(&self) -> String {
        format!("{PREFIX}{}/{}", self.vm, self.pool)
    }

    /// Has it known, in place of the one before.
    ///
    /// # Errors
    /// If it cannot be JSON.
    pub fn put(&self, transaction: Transaction) -> Result<Transaction, StoreError> {
        transaction.put(self.key(), self)
    }

    /// Has it known no more.
    pub fn forget(&self, transaction: Transaction) -> Transaction {
        transaction.delete(self.key())
    }
}

/// Those of all guests.
///
/// # Errors
/// If the store cannot be read.
pub async fn all(store: &dyn Store) -> Result<Vec<Base>, StoreError> {
    store::values(store, PREFIX).await
}

/// Those of a guest.
///
/// # Errors
/// If the store cannot be read.
pub async fn of(store: &dyn Store, vm: Id) -> Result<Vec<Base>, StoreError> {
    store::values(store, &format!("{PREFIX}{vm}/")).await
}
