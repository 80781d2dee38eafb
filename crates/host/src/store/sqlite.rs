//! The store in one SQLite file.
//!
//! One thread owns the database and writes what comes in while it wrote the last as one transaction of SQLite: many commits
//! cost one flush. Reading never touches the database: all entries are in memory, as of the last durable commit.

use std::collections::BTreeMap;
use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OpenFlags, params};
use tokio::sync::{broadcast, oneshot};

use super::history::History;
use super::{Change, Entry, Revision, Store, StoreError, Transaction, Update, Watch};

/// How many commits a watcher may lag behind before it must begin anew.
const LIVE: usize = 4096;
/// The most commits that are made durable at once.
const BATCH: usize = 512;

/// What brings a database of version n to version n + 1. A step is never edited once it has been released.
const MIGRATIONS: [&str; 1] =
    ["CREATE TABLE entry (key TEXT PRIMARY KEY, revision INTEGER NOT NULL, value BLOB NOT NULL)
         WITHOUT ROWID, STRICT;
     CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID, STRICT;
     INSERT INTO counter VALUES ('revision', 0);"];

type Stored = (Revision, Arc<[u8]>);
type Entries = BTreeMap<String, Stored>;

/// What is known without asking the database.
struct Shared {
    entries: RwLock<(Entries, Revision)>,
    history: Mutex<History>,
    live: broadcast::Sender<Arc<[Update]>>,
}

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

enum Order {
    Commit(Transaction, Answer<Revision>),
    Backup(PathBuf, Answer<()>),
}

/// A store in a file. Dropping it ends its thread when everything that was asked for is done.
pub struct Sqlite {
    shared: Arc<Shared>,
    orders: Option<mpsc::Sender<Order>>,
    writer: Option<JoinHandle<()>>,
}

impl Sqlite {
    /// Opens the store in `path`, and makes it if it is not there.
    ///
    /// # Errors
    /// If the file is no database, is in use, is from a newer version, or cannot be written.
    pub fn open(path: &Path) -> Result<Sqlite, StoreError> {
        for_us_alone(path).map_err(StoreError::File)?;
        // Nobody else may write: what is in memory would not be so any more.
        let mut database = exclusive(path)?;
        database.pragma_update(None, "journal_mode", "WAL")?;
        database.pragma_update(None, "synchronous", "FULL")?;
        migrate(&mut database)?;
        let (entries, revision) = load(&database)?;
        let shared = Arc::new(Shared {
            entries: RwLock::new((entries, revision)),
            history: Mutex::new(History::new(revision)),
            live: broadcast::channel(LIVE).0,
        });
        let (orders, incoming) = mpsc::channel();
        let mut writer = Writer { database, shared: Arc::clone(&shared) };
        let writer = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || writer.serve(&incoming))
            .map_err(|_| StoreError::Closed)?;
        Ok(Sqlite { shared, orders: Some(orders), writer: Some(writer) })
    }

    fn order(&self, order: Order) -> Result<(), StoreError> {
        self.orders.as_ref().ok_or(StoreError::Closed)?.send(order).map_err(|_| StoreError::Closed)
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(writer) = self.writer.take() {
            // One that panicked has nothing more to write.
            let _ = writer.join();
        }
    }
}

/// Makes the file at `path`, if it is not there, one that only this user can read; what SQLite puts beside it becomes like it.
fn for_us_alone(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let file = options.create(true).append(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))
}

fn exclusive(path: &Path) -> rusqlite::Result<Connection> {
    let database = Connection::open(path)?;
    // Another daemon does not let go soon.
    database.busy_timeout(Duration::from_millis(200))?;
    database.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    Ok(database)
}

/// A database that no store can be opened on as long as this is there. It is one file then, without a log beside it.
pub struct Seized {
    _database: Connection,
}

impl Seized {
    /// Takes the database in `path`.
    ///
    /// # Errors
    /// If it is in use, or none.
    pub fn new(path: &Path) -> Result<Self, StoreError> {
        let database = exclusive(path)?;
        database.pragma_update(None, "journal_mode", "DELETE")?;
        database.execute_batch("BEGIN EXCLUSIVE")?;
        Ok(Self { _database: database })
    }
}

fn migrate(database: &mut Connection) -> Result<(), StoreError> {
    let known = MIGRATIONS.len() as u32;
    let found: u32 = database.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let steps = MIGRATIONS.get(found as usize..).ok_or(StoreError::Newer { found, known })?;
    let transaction = database.transaction_with_behavior(rusqlite::TransactionBehavior::Exclusive)?;
    for step in steps {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", known)?;
    Ok(transaction.commit()?)
}

fn load(database: &Connection) -> Result<(Entries, Revision), StoreError> {
    let revision =
        database.query_row("SELECT value FROM counter WHERE name = 'revision'", [], |row| row.get(0))?;
    let mut statement = database.prepare("SELECT key, revision, value FROM entry")?;
    let rows = statement.query_map([], |row| {
        let value: Vec<u8> = row.get(2)?;
        Ok((row.get(0)?, (row.get(1)?, value.into())))
    })?;
    Ok((rows.collect::<Result<_, _>>()?, revision))
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, (Entries, Revision)> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is durable now becomes visible. Watchers that begin at this moment either miss it or hear of it, never both.
    fn publish(&self, commits: Vec<Arc<[Update]>>) {
        let mut history = self.history();
        let mut state = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        for commit in commits {
            for update in commit.iter() {
                state.1 = update.revision;
                match &update.value {
                    Some(value) => state.0.insert(update.key.clone(), (update.revision, Arc::clone(value))),
                    None => state.0.remove(&update.key),
                };
            }
            history.add(Arc::clone(&commit));
            // Nobody may be listening.
            let _ = self.live.send(commit);
        }
    }
}

struct Writer {
    database: Connection,
    shared: Arc<Shared>,
}

/// What a batch has changed so far, over what is in memory.
struct Pending<'a> {
    base: &'a Entries,
    revision: Revision,
    changed: BTreeMap<String, Option<Stored>>,
    commits: Vec<Arc<[Update]>>,
}

impl Pending<'_> {
    fn revision_of(&self, key: &str) -> Revision {
        match self.changed.get(key) {
            Some(changed) => changed.as_ref().map_or(0, |(revision, _)| *revision),
            None => self.base.get(key).map_or(0, |(revision, _)| *revision),
        }
    }

    /// Adds a transaction; gives its revision.
    fn add(&mut self, transaction: Transaction) -> Result<Revision, StoreError> {
        if let Some((key, _)) =
            transaction.expect.into_iter().find(|(key, want)| self.revision_of(key) != *want)
        {
            return Err(StoreError::Conflict { key });
        }
        if transaction.changes.is_empty() {
            return Ok(self.revision);
        }
        self.revision += 1;
        let revision = self.revision;
        let mut updates = Vec::with_capacity(transaction.changes.len());
        for change in transaction.changes {
            let (key, value) = match change {
                Change::Put(key, value) => (key, Some(Arc::from(value))),
                Change::Delete(key) => (key, None),
            };
            self.changed.insert(key.clone(), value.clone().map(|value| (revision, value)));
            updates.push(Update { revision, key, value });
        }
        self.commits.push(updates.into());
        Ok(revision)
    }

    fn write(&self, database: &mut Connection) -> Result<(), StoreError> {
        let transaction = database.transaction()?;
        {
            let mut put = transaction.prepare_cached("INSERT OR REPLACE INTO entry VALUES (?1, ?2, ?3)")?;
            let mut delete = transaction.prepare_cached("DELETE FROM entry WHERE key = ?1")?;
            for (key, changed) in &self.changed {
                match changed {
                    Some((revision, value)) => put.execute(params![key, revision, &value[..]])?,
                    None => delete.execute(params![key])?,
                };
            }
            transaction
                .execute("UPDATE counter SET value = ?1 WHERE name = 'revision'", params![self.revision])?;
        }
        Ok(transaction.commit()?)
    }
}

impl Writer {
    fn serve(&mut self, incoming: &mpsc::Receiver<Order>) {
        while let Ok(first) = incoming.recv() {
            let mut commits = Vec::new();
            let mut backups = Vec::new();
            let more = std::iter::from_fn(|| incoming.try_recv().ok());
            for order in std::iter::once(first).chain(more.take(BATCH)) {
                match order {
                    Order::Commit(transaction, answer) => commits.push((transaction, answer)),
                    Order::Backup(to, answer) => backups.push((to, answer)),
                }
            }
            self.commit(commits);
            for (to, answer) in backups {
                // Who asked may be gone.
                let _ = answer.send(self.backup(&to));
            }
        }
    }

    fn commit(&mut self, batch: Vec<(Transaction, Answer<Revision>)>) {
        let shared = Arc::clone(&self.shared);
        let state = shared.read();
        let mut pending =
            Pending { base: &state.0, revision: state.1, changed: BTreeMap::new(), commits: Vec::new() };
        let results: Vec<_> =
            batch.into_iter().map(|(transaction, answer)| (pending.add(transaction), answer)).collect();
        let written = if pending.commits.is_empty() { Ok(()) } else { pending.write(&mut self.database) };
        let commits = pending.commits;
        drop(state);
        match written {
            Ok(()) => {
                shared.publish(commits);
                results.into_iter().for_each(|(result, answer)| drop(answer.send(result)));
            }
            Err(error) => {
                tracing::error!("the database cannot be written: {error}");
                for (_, answer) in results {
                    // Who waits hears that nothing changed; that it is the database is in the log.
                    drop(answer.send(Err(StoreError::Closed)));
                }
            }
        }
    }

    fn backup(&self, to: &Path) -> Result<(), StoreError> {
        let path = to.to_str().ok_or_else(|| rusqlite::Error::InvalidPath(to.to_owned()))?;
        // Refuses a file that exists and is not empty.
        self.database.execute("VACUUM INTO ?1", params![path])?;
        // It is whole only if it can be read.
        let copy = Connection::open_with_flags(to, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        load(&copy).map(drop)
    }
}

#[async_trait]
impl Store for Sqlite {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let state = self.shared.read();
        let found = state.0.get(key);
        Ok(found.map(|(revision, value)| Entry {
            key: key.to_owned(),
            revision: *revision,
            value: Arc::clone(value),
        }))
    }

    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), StoreError> {
        let state = self.shared.read();
        let from = state.0.range(prefix.to_owned()..);
        let entries = from.take_while(|(key, _)| key.starts_with(prefix)).map(|(key, (revision, value))| {
            Entry { key: key.clone(), revision: *revision, value: Arc::clone(value) }
        });
        Ok((entries.collect(), state.1))
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, StoreError> {
        let (answer, result) = oneshot::channel();
        self.order(Order::Commit(transaction, answer))?;
        result.await.map_err(|_| StoreError::Closed)?
    }

    async fn watch(&self, after: Revision) -> Result<Watch, StoreError> {
        let history = self.shared.history();
        Ok(Watch { missed: history.after(after)?, live: self.shared.live.subscribe() })
    }

    async fn backup(&self, to: &Path) -> Result<(), StoreError> {
        let (answer, result) = oneshot::channel();
        self.order(Order::Backup(to.to_owned(), answer))?;
        result.await.map_err(|_| StoreError::Closed)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Sqlite) {
        let folder = tempfile::tempdir().unwrap();
        let store = Sqlite::open(&folder.path().join("host.db")).unwrap();
        (folder, store)
    }

    fn put(key: &str, value: u32) -> Transaction {
        Transaction::new().put(key, &value).unwrap()
    }

    async fn value(store: &Sqlite, key: &str) -> Option<u32> {
        let entry = store.get(key).await.unwrap()?;
        Some(serde_json::from_slice(&entry.value).unwrap())
    }

    #[tokio::test]
    async fn what_was_committed_is_there_after_a_restart() {
        let (folder, store) = store();
        assert_eq!(store.commit(put("a/1", 1)).await.unwrap(), 1);
        assert_eq!(store.commit(put("a/2", 2)).await.unwrap(), 2);
        assert_eq!(store.commit(put("b/1", 3).delete("a/1")).await.unwrap(), 3);
        drop(store);
        let store = Sqlite::open(&folder.path().join("host.db")).unwrap();
        let (entries, revision) = store.list("a/").await.unwrap();
        assert_eq!(entries.iter().map(|e| (e.key.as_str(), e.revision)).collect::<Vec<_>>(), [("a/2", 2)]);
        assert_eq!(revision, 3);
        assert_eq!(value(&store, "b/1").await, Some(3));
    }

    #[tokio::test]
    async fn a_transaction_that_expected_something_else_changes_nothing() {
        let (_folder, store) = store();
        let first = store.commit(put("a", 1).expect_none("a")).await.unwrap();
        let again = store.commit(put("a", 2).expect_none("a")).await;
        assert!(matches!(again, Err(StoreError::Conflict { key }) if key == "a"));
        let stale = store.commit(put("b", 1).put("a", &2).unwrap().expect("a", first + 1)).await;
        assert!(stale.is_err());
        assert_eq!((value(&store, "a").await, value(&store, "b").await), (Some(1), None));
        store.commit(put("a", 2).expect("a", first)).await.unwrap();
        assert_eq!(value(&store, "a").await, Some(2));
    }

    #[tokio::test]
    async fn of_many_at_once_that_expect_the_same_one_gets_it() {
        let (_folder, store) = store();
        let store = Arc::new(store);
        let tries: Vec<_> = (0..100)
            .map(|n| {
                let store = Arc::clone(&store);
                tokio::spawn(async move { store.commit(put("a", n).expect_none("a")).await.is_ok() })
            })
            .collect();
        let mut won = 0;
        for one in tries {
            won += u32::from(one.await.unwrap());
        }
        assert_eq!(won, 1);
    }

    #[tokio::test]
    async fn a_watcher_hears_everything_once_from_where_it_was() {
        let (_folder, store) = store();
        store.commit(put("a", 1)).await.unwrap();
        let after = store.commit(put("a", 2)).await.unwrap();
        store.commit(put("b", 3)).await.unwrap();
        let mut watch = store.watch(after).await.unwrap();
        assert_eq!(watch.missed.iter().map(|u| (u.revision, u.key.as_str())).collect::<Vec<_>>(), [(3, "b")]);
        store.commit(Transaction::new().delete("a")).await.unwrap();
        let live = watch.live.recv().await.unwrap();
        assert_eq!((live[0].revision, live[0].key.as_str(), live[0].value.is_none()), (4, "a", true));
    }

    #[tokio::test]
    async fn a_backup_is_a_store_of_its_own_and_overwrites_nothing() {
        let (folder, store) = store();
        store.commit(put("a", 1)).await.unwrap();
        let copy = folder.path().join("copy.db");
        store.backup(&copy).await.unwrap();
        assert!(store.backup(&copy).await.is_err());
        store.commit(put("a", 2)).await.unwrap();
        assert_eq!(value(&Sqlite::open(&copy).unwrap(), "a").await, Some(1));
    }

    #[test]
    fn nobody_else_can_read_the_database() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("host.db");
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let _store = Sqlite::open(&path).unwrap();
        for entry in folder.path().read_dir().unwrap().flatten() {
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        }
    }

    #[test]
    fn a_database_in_use_or_from_the_future_is_refused() {
        let (folder, store) = store();
        let path = folder.path().join("host.db");
        assert!(Sqlite::open(&path).is_err(), "two at once");
        drop(store);
        let database = Connection::open(&path).unwrap();
        database.pragma_update(None, "user_version", 99).unwrap();
        drop(database);
        assert!(matches!(Sqlite::open(&path), Err(StoreError::Newer { found: 99, known: 1 })));
    }
}
