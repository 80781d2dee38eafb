//! Where the host keeps what must not be forgotten: a small key-value store with versions.
//!
//! Values change only by [`Store::commit`]: all of a transaction or nothing of it, and only if what it was based on is still
//! so (compare-and-swap). Every commit that changes something has a revision, one more than the one before; an entry has that of
//! the commit that wrote it. What is behind the trait, SQLite on one host or etcd in a cluster, cannot be told from above.

mod history;
mod sqlite;

use std::sync::Arc;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use tokio::sync::broadcast;

pub use sqlite::{Seized, Sqlite};

/// The number of a commit; the first one has 1.
pub type Revision = u64;

/// What is stored under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Parts with `/` between.
    pub key: String,
    /// The commit that wrote it.
    pub revision: Revision,
    /// JSON.
    pub value: Arc<[u8]>,
}

/// A change of one key.
#[derive(Debug, Clone)]
pub enum Change {
    /// Stores a value.
    Put(String, Vec<u8>),
    /// Removes what is there, if anything is.
    Delete(String),
}

/// What is to become so at once, if things are as expected.
#[derive(Debug, Clone, Default)]
pub struct Transaction {
    /// Which revision each of these keys must have; 0 if there must be nothing.
    pub expect: Vec<(String, Revision)>,
    /// What changes, in order.
    pub changes: Vec<Change>,
}

impl Transaction {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only if `key` has this revision.
    pub fn expect(mut self, key: impl Into<String>, revision: Revision) -> Self {
        self.expect.push((key.into(), revision));
        self
    }

    /// Only if there is nothing under `key`.
    pub fn expect_none(self, key: impl Into<String>) -> Self {
        self.expect(key, 0)
    }

    /// Stores `value` as JSON.
    ///
    /// # Errors
    /// If it cannot be JSON.
    pub fn put(mut self, key: impl Into<String>, value: &impl serde::Serialize) -> Result<Self, StoreError> {
        self.changes.push(Change::Put(key.into(), serde_json::to_vec(value)?));
        Ok(self)
    }

    /// Removes `key`.
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.changes.push(Change::Delete(key.into()));
        self
    }
}

/// One key as a commit left it.
#[derive(Debug, Clone)]
pub struct Update {
    /// The commit.
    pub revision: Revision,
    /// The key.
    pub key: String,
    /// What is there now.
    pub value: Option<Arc<[u8]>>,
}

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// An expectation did not hold; nothing changed.
    #[error("{key} has changed meanwhile")]
    Conflict {
        /// The first key that is not as expected.
        key: String,
    },
    /// The watch asked for begins before what is remembered: list and watch anew.
    #[error("what happened since revision {0} is not remembered any more")]
    TooOld(Revision),
    /// The database failed.
    #[error("the database of the host")]
    Database(#[from] rusqlite::Error),
    /// Its file cannot be made ours.
    #[error("the database's file: {0}")]
    File(#[source] std::io::Error),
    /// The database is from a newer version.
    #[error(
        "the database has version {found}, this program knows up to {known}: use the program that wrote it"
    )]
    Newer {
        /// The version it has.
        found: u32,
        /// The newest known here.
        known: u32,
    },
    /// A value is no JSON, or not the JSON that was expected.
    #[error("a stored value")]
    Json(#[from] serde_json::Error),
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether another process has the database.
    pub fn is_busy(&self) -> bool {
        matches!(self, StoreError::Database(error)
            if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy))
    }
}

/// Changes as they are committed.
pub struct Watch {
    /// What was committed between the revision asked for and now.
    pub missed: Vec<Update>,
    /// What is committed from now on, a commit at a time.
    pub live: broadcast::Receiver<Arc<[Update]>>,
}

/// What is under all keys that begin with `prefix`, in their order.
///
/// # Errors
/// If the store cannot be read, or something is not what it should be.
pub async fn values<T: DeserializeOwned>(store: &dyn Store, prefix: &str) -> Result<Vec<T>, StoreError> {
    let (entries, _) = store.list(prefix).await?;
    entries.iter().map(|entry| Ok(serde_json::from_slice(&entry.value)?)).collect()
}

/// A versioned key-value store.
#[async_trait]
pub trait Store: Send + Sync {
    /// What is under a key.
    ///
    /// # Errors
    /// If the store cannot be read.
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// All entries whose keys begin with `prefix`, by key, and the revision at which that was so.
    ///
    /// # Errors
    /// If the store cannot be read.
    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), StoreError>;

    /// Makes a transaction so; when it returns, it is durable. Gives the commit's revision.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if an expectation does not hold; others if the store cannot be written. Nothing changed then.
    async fn commit(&self, transaction: Transaction) -> Result<Revision, StoreError>;

    /// Everything committed after revision `after`.
    ///
    /// # Errors
    /// [`StoreError::TooOld`] if that is too long ago.
    async fn watch(&self, after: Revision) -> Result<Watch, StoreError>;

    /// Writes a copy of everything, as of now, into a new file that [`Sqlite::open`] takes.
    ///
    /// # Errors
    /// If the file exists or cannot be written.
    async fn backup(&self, to: &std::path::Path) -> Result<(), StoreError>;
}
