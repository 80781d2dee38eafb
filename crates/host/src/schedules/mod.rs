//! Schedules of guests: snapshots and backups that are made again and again, and go when they are old.
//!
//! When one last did something is in the store, so what was missed while no daemon ran is made once. What fails is an event, and tried again
//! when it is due the next time.

mod keep;

use api::{Id, Invalid, Name, Problem, Schedule, ScheduleDefinition, Time, Vm};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::Notify;

use crate::events::Happening;
use crate::records;
use crate::store::{self, Store, StoreError, Transaction};
use crate::supervisor::store_problem;

pub use keep::keep;

/// Where schedules are in the store.
const PREFIX: &str = "schedule/";

/// A schedule as the store has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stored {
    /// The guest.
    pub vm: Id,
    /// What it is to do.
    pub definition: ScheduleDefinition,
    /// When it was made.
    pub created: Time,
    /// When it last did something, or tried to.
    #[serde(default)]
    pub last: Option<Time>,
    /// Why that failed.
    #[serde(default)]
    pub error: Option<String>,
}

/// The schedules of all guests.
pub struct Schedules {
    store: Arc<dyn Store>,
    changed: Notify,
    /// One is changed at a time: what it has come to must not undo what somebody has just said of it.
    turn: tokio::sync::Mutex<()>,
}

fn key(vm: Id, name: &Name) -> String {
    format!("{PREFIX}{vm}/{name}")
}

fn none(name: &str) -> Problem {
    let shown: String = name.chars().take(80).collect();
    Problem::not_found(format!("the guest has no schedule {shown}"))
}

impl Stored {
    /// What everybody may know.
    pub fn told(self) -> Schedule {
        let next = self.definition.enabled.then(|| self.definition.next(Time::now()));
        let Stored { definition, created, last, error, .. } = self;
        Schedule { definition, created, last, next, error }
    }

    /// When it was last at work, or began to be.
    fn since(&self) -> Time {
        self.last.unwrap_or(self.created)
    }
}

/// Takes all schedules of a guest out of the store.
///
/// # Errors
/// If it cannot be read.
pub async fn forget(store: &dyn Store, vm: Id, transaction: Transaction) -> Result<Transaction, StoreError> {
    let (entries, _) = store.list(&format!("{PREFIX}{vm}/")).await?;
    Ok(entries.into_iter().fold(transaction, |transaction, entry| transaction.delete(entry.key)))
}

impl Schedules {
    /// Those in a store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, changed: Notify::new(), turn: tokio::sync::Mutex::default() }
    }

    async fn read(&self, prefix: &str) -> Result<Vec<Stored>, StoreError> {
        store::values(&*self.store, prefix).await
    }

    /// The schedules of a guest, by name.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn of(&self, vm: Id) -> Result<Vec<Stored>, Problem> {
        self.read(&format!("{PREFIX}{vm}/")).await.map_err(store_problem)
    }

    /// The one of this name.
    ///
    /// # Errors
    /// If there is none.
    pub async fn get(&self, vm: Id, name: &str) -> Result<Stored, Problem> {
        let mut all = self.of(vm).await?.into_iter();
        all.find(|stored| stored.definition.name.as_str() == name).ok_or_else(|| none(name))
    }

    async fn commit(&self, transaction: Result<Transaction, StoreError>) -> Result<(), Problem> {
        let transaction = transaction.map_err(store_problem)?;
        self.store.commit(transaction).await.map_err(store_problem)?;
        self.changed.notify_one();
        Ok(())
    }

    /// Has a guest have a schedule.
    ///
    /// # Errors
    /// If it makes no sense, or the guest has one of this name.
    pub async fn create(
        &self,
        vm: &Vm,
        definition: ScheduleDefinition,
        actor: &str,
    ) -> Result<Schedule, Problem> {
        let wrong = definition.check();
        if !wrong.is_empty() {
            return Err(Problem::invalid(wrong));
        }
        let _turn = self.turn.lock().await;
        let name = definition.name.clone();
        if self.get(vm.id, name.as_str()).await.is_ok() {
            let detail = format!("the guest has a schedule {name} already");
            let invalid = Invalid::new("/name", name.as_str(), detail);
            return Err(Problem { status: 409, ..Problem::invalid(vec![invalid]) });
        }
        let stored = Stored { vm: vm.id, definition, created: Time::now(), last: None, error: None };
        let happening = happened(vm, "vm.schedule-created", format!("has the schedule {name}")).by(actor);
        let transaction = Transaction::new().expect_none(key(vm.id, &name)).put(key(vm.id, &name), &stored);
        self.commit(transaction.and_then(|all| happening.add(all))).await?;
        Ok(stored.told())
    }

    /// Makes a schedule another one. Its name stays.
    ///
    /// # Errors
    /// If it makes no sense, or the guest has none of this name.
    pub async fn edit(
        &self,
        vm: &Vm,
        definition: ScheduleDefinition,
        actor: &str,
    ) -> Result<Schedule, Problem> {
        let _turn = self.turn.lock().await;
        let mut stored = self.get(vm.id, definition.name.as_str()).await?;
        let wrong = definition.check();
        if !wrong.is_empty() {
            return Err(Problem::invalid(wrong));
        }
        // What was not to be done while it was not at work was not missed.
        if !stored.definition.enabled && definition.enabled {
            stored.last = Some(Time::now());
        }
        stored.definition = definition;
        let name = &stored.definition.name;
        let happening =
            happened(vm, "vm.schedule-edited", format!("the schedule {name} was changed")).by(actor);
        let transaction = Transaction::new().put(key(vm.id, name), &stored);
        self.commit(transaction.and_then(|all| happening.add(all))).await?;
        Ok(stored.told())
    }

    /// Has a schedule do nothing any more. What it has made stays.
    ///
    /// # Errors
    /// If the guest has none of this name.
    pub async fn delete(&self, vm: &Vm, name: &str, actor: &str) -> Result<(), Problem> {
        let _turn = self.turn.lock().await;
        let stored = self.get(vm.id, name).await?;
        let message = format!("has the schedule {name} no more; what it has made stays");
        let happening = happened(vm, "vm.schedule-deleted", message).by(actor);
        let transaction = Transaction::new().delete(key(vm.id, &stored.definition.name));
        self.commit(happening.add(transaction)).await
    }

    /// What one has come to, if it is still there; `error` is an event, too.
    async fn note(&self, vm: &Vm, name: &Name, at: Time, error: Option<String>) -> Result<(), Problem> {
        let _turn = self.turn.lock().await;
        let Ok(mut stored) = self.get(vm.id, name.as_str()).await else { return Ok(()) };
        (stored.last, stored.error) = (Some(at), error.clone());
        let mut transaction = Transaction::new().put(key(vm.id, name), &stored);
        if let Some(error) = error {
            let happening = happened(vm, "vm.schedule-failed", format!("the schedule {name}: {error}"));
            transaction = transaction.and_then(|all| happening.add(all));
        }
        self.commit(transaction).await
    }
}

fn happened(vm: &Vm, kind: &str, message: String) -> Happening {
    Happening::new(kind, message).to(records::path(vm.id), vm.definition.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Sqlite;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_a_schedule_has_come_to_never_undoes_what_somebody_says_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let schedules = Schedules::new(Arc::new(Sqlite::open(&folder.path().join("host.db")).unwrap()));
        let vm: Vm = serde_json::from_value(serde_json::json!({
            "id": Id::new(), "name": "a", "created": Time::now(), "status": { "state": "stopped", "since": Time::now() },
        }))
        .unwrap();
        let definition: ScheduleDefinition = serde_json::from_value(serde_json::json!({
            "name": "often", "action": "snapshot", "every": 1, "keep": { "last": 1 },
        }))
        .unwrap();
        schedules.create(&vm, definition.clone(), "somebody").await.unwrap();
        for round in 0..50 {
            let enabled = round % 2 == 1;
            let definition = ScheduleDefinition { enabled, ..definition.clone() };
            let name = definition.name.clone();
            let (noted, edited) = tokio::join!(
                schedules.note(&vm, &name, Time::now(), None),
                schedules.edit(&vm, definition, "somebody"),
            );
            noted.and(edited.map(drop)).unwrap();
            let stored = schedules.get(vm.id, "often").await.unwrap();
            assert_eq!(stored.definition.enabled, enabled, "round {round}");
            assert!(stored.last.is_some());
        }
        let name = definition.name.clone();
        let (noted, deleted) = tokio::join!(
            schedules.note(&vm, &name, Time::now(), None),
            schedules.delete(&vm, "often", "somebody"),
        );
        noted.and(deleted).unwrap();
        assert!(schedules.get(vm.id, "often").await.is_err(), "it is gone");
    }
}
