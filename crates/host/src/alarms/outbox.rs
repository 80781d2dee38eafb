//! What is still to be told: kept in the store until it was, so that a daemon that ends in between forgets nothing, and does nothing twice.
//! An action is put here by the very commit that raises or clears its alarm.

use std::sync::Arc;
use std::time::Duration;

use api::{ActionResult, AlarmAction, Id, Time};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Semaphore;

use super::notice::{Notice, tell};
use super::path;
use crate::events::Happening;
use crate::store::{Store, StoreError, Transaction};

/// Where actions are in the store.
const PREFIX: &str = "alarm-action/";
/// How often a server is tried that does not answer; the waits between are each three times as long as the one before, from a second on.
const TRIES: u32 = 7;
/// What could not be done for so long is of no use any more.
const STALE: SignedDuration = SignedDuration::from_hours(1);
/// So many actions are done at a time.
const AT_A_TIME: usize = 8;

/// An action that is to be done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Due {
    notice: Notice,
    action: AlarmAction,
    /// How often it was begun.
    tries: u32,
    /// Whether it is being done.
    begun: bool,
}

impl Due {
    /// That `notice` is to be told by `action`.
    pub fn new(notice: Notice, action: AlarmAction) -> Self {
        Self { notice, action, tries: 0, begun: false }
    }
}

fn key(id: Id) -> String {
    format!("{PREFIX}{id}")
}

/// Has `due` done once `transaction` is committed and [`Outbox::begin`] is told.
///
/// # Errors
/// If it cannot be JSON.
pub fn put(due: &Due, transaction: Transaction) -> Result<(Id, Transaction), StoreError> {
    let id = Id::new();
    Ok((id, transaction.put(key(id), due)?))
}

/// Does what is to be done.
#[derive(Clone)]
pub struct Outbox {
    store: Arc<dyn Store>,
    turns: Arc<Semaphore>,
}

impl Outbox {
    /// What is to be done in `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, turns: Arc::new(Semaphore::new(AT_A_TIME)) }
    }

    /// Goes on with what a daemon before this one left. A program that it had begun to run is not run again; a server that it had begun to
    /// tell is told again, with the same id.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn recover(&self) -> Result<(), StoreError> {
        let (entries, _) = self.store.list(PREFIX).await?;
        for entry in entries {
            let Some(id) = entry.key.strip_prefix(PREFIX).and_then(|id| id.parse().ok()) else { continue };
            let due: Due = serde_json::from_slice(&entry.value)?;
            let late = Time::now().duration_since(due.notice.time) > STALE;
            if late || (due.begun && due.action.webhook.is_none()) {
                let message = match late {
                    true => "was not done in time, and is not done any more",
                    false => "was under way when the daemon ended: how it ended is not known",
                };
                let result = ActionResult {
                    action: due.action.short(),
                    ok: false,
                    message: message.into(),
                    output: String::new(),
                };
                self.end(id, &due, &result).await?;
            } else {
                self.begin(id, due);
            }
        }
        Ok(())
    }

    /// Does it, in its turn.
    pub fn begin(&self, id: Id, due: Due) {
        let outbox = self.clone();
        tokio::spawn(async move {
            if let Err(error) = outbox.work(id, due).await {
                tracing::error!("an action of an alarm cannot be recorded, and is not done: {error}");
            }
        });
    }

    async fn work(&self, id: Id, mut due: Due) -> Result<(), StoreError> {
        // One that had been begun before waits as long as it would have.
        let mut wait = wait(due.tries);
        loop {
            tokio::time::sleep(wait).await;
            let Ok(turn) = self.turns.acquire().await else { return Ok(()) };
            (due.begun, due.tries) = (true, due.tries + 1);
            self.store.commit(Transaction::new().put(key(id), &due)?).await?;
            let told = tell(&due.action, &due.notice).await;
            drop(turn);
            let late = Time::now().duration_since(due.notice.time) > STALE;
            if told.result.ok || !told.again || due.tries >= TRIES || late {
                return self.end(id, &due, &told.result).await;
            }
            due.begun = false;
            self.store.commit(Transaction::new().put(key(id), &due)?).await?;
            wait = self::wait(due.tries);
        }
    }

    /// It is done, or given up.
    async fn end(&self, id: Id, due: &Due, result: &ActionResult) -> Result<(), StoreError> {
        let kind = if result.ok { "alarm.action" } else { "alarm.action-failed" };
        let notice = &due.notice;
        let details = json!({
            "for": notice.target, "name": notice.name, "state": notice.state, "tries": due.tries, "output": result.output,
        });
        let happening = Happening::new(kind, format!("{}: {}", result.action, result.message));
        let happening = happening.to(path(&notice.alarm), notice.alarm.as_str()).with(details);
        self.store.commit(happening.add(Transaction::new().delete(key(id)))?).await.map(drop)
    }
}

/// How long to wait before the next try.
fn wait(tries: u32) -> Duration {
    match tries {
        0 => Duration::ZERO,
        _ => Duration::from_secs(3u64.saturating_pow(tries - 1)),
    }
}
