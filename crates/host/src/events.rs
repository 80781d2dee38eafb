//! What happened, in order, and durable: an event is committed together with the change that it tells of.

use api::{Event, Time};
use serde_json::Value;

use crate::store::{Entry, Revision, Store, StoreError, Transaction};

/// Where events are in the store.
pub const PREFIX: &str = "event/";
/// How many are kept.
const KEPT: usize = 20_000;

/// An event before it is committed. Its number will be the commit's revision.
#[derive(Debug, Clone)]
pub struct Happening {
    event: Event,
}

impl Happening {
    /// Something of this `kind` happened; `message` says it in words.
    pub fn new(kind: &str, message: impl Into<String>) -> Self {
        let event = Event {
            number: 0,
            time: Time::now(),
            kind: kind.into(),
            target: String::new(),
            name: String::new(),
            message: message.into(),
            actor: String::new(),
            details: Value::Null,
        };
        Self { event }
    }

    /// It happened to this thing, which is called `name`.
    pub fn to(mut self, target: impl Into<String>, name: impl Into<String>) -> Self {
        (self.event.target, self.event.name) = (target.into(), name.into());
        self
    }

    /// Somebody caused it.
    pub fn by(mut self, actor: impl Into<String>) -> Self {
        self.event.actor = actor.into();
        self
    }

    /// More about it.
    pub fn with(mut self, details: Value) -> Self {
        self.event.details = details;
        self
    }

    /// Has it committed with `transaction`.
    ///
    /// # Errors
    /// If it cannot be JSON.
    pub fn add(&self, transaction: Transaction) -> Result<Transaction, StoreError> {
        transaction.put(format!("{PREFIX}{}", api::Id::new()), &self.event)
    }
}

/// An event as it lies in the store.
///
/// # Errors
/// If it is none.
pub fn read(revision: Revision, value: &[u8]) -> Result<Event, StoreError> {
    let mut event: Event = serde_json::from_slice(value)?;
    event.number = revision;
    Ok(event)
}

/// Events after number `after`, the oldest first, and the revision up to which these are all.
///
/// # Errors
/// If the store cannot be read.
pub async fn since(store: &dyn Store, after: Revision) -> Result<(Vec<Event>, Revision), StoreError> {
    let (mut entries, revision) = store.list(PREFIX).await?;
    entries.retain(|entry| entry.revision > after);
    entries.sort_by_key(|entry| entry.revision);
    let read = |entry: &Entry| read(entry.revision, &entry.value);
    Ok((entries.iter().map(read).collect::<Result<_, _>>()?, revision))
}

/// Forgets the oldest events when there are too many.
///
/// # Errors
/// If the store cannot be read or written.
pub async fn trim(store: &dyn Store) -> Result<(), StoreError> {
    let (mut entries, _) = store.list(PREFIX).await?;
    if entries.len() <= KEPT {
        return Ok(());
    }
    entries.sort_by_key(|entry| entry.revision);
    let many = entries.len() - KEPT;
    for old in entries[..many].chunks(1000) {
        let transaction = old.iter().fold(Transaction::new(), |all, entry| all.delete(&entry.key));
        store.commit(transaction).await?;
    }
    Ok(())
}
