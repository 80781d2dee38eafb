//! Changes that somebody asked for: who, what, how far, and how it ended.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::{Id, NewTask, Problem, Task, TaskState, Time};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{broadcast, watch};

use crate::events::Happening;
use crate::store::{Entry, Store, StoreError, Transaction};

/// Where tasks are in the store.
pub const PREFIX: &str = "task/";
/// How many ended ones are kept.
const KEPT: usize = 5_000;
/// How many reports of progress may wait for one who follows them.
const FOLLOWED: usize = 256;

fn key(id: Id) -> String {
    format!("{PREFIX}{id}")
}

/// What a task gives as its result.
///
/// # Errors
/// If it cannot be JSON.
pub fn told<T: Serialize>(made: T) -> Result<Value, Problem> {
    serde_json::to_value(made).map_err(|error| Problem::internal(error.to_string()))
}

/// All tasks of the host.
#[derive(Clone)]
pub struct Tasks {
    store: Arc<dyn Store>,
    running: Arc<Mutex<HashMap<Id, Running>>>,
    progress: broadcast::Sender<Task>,
}

struct Running {
    task: watch::Sender<Task>,
    cancelled: watch::Sender<bool>,
}

/// A task at work.
#[derive(Clone)]
pub struct Work {
    id: Id,
    tasks: Tasks,
    cancelled: watch::Receiver<bool>,
}

impl Work {
    /// The task that this is.
    pub fn id(&self) -> Id {
        self.id
    }

    /// Says how far it is: a part from 0 to 1 if that is known, and what it does at the moment.
    pub fn progress(&self, part: Option<f64>, step: &str) {
        if let Some(running) = self.tasks.lock().get(&self.id) {
            running.task.send_modify(|task| {
                task.progress = part.map(|part| part.clamp(0.0, 1.0));
                task.step = step.into();
            });
            // Nobody may follow.
            let _ = self.tasks.progress.send(running.task.borrow().clone());
        }
    }

    /// Whether somebody has called it off.
    pub fn is_cancelled(&self) -> bool {
        *self.cancelled.borrow()
    }
}

impl Tasks {
    /// The tasks in a store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, running: Arc::default(), progress: broadcast::Sender::new(FOLLOWED) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Id, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a task, once it is durable that there is one. `work` goes on whether or not anybody waits for it.
    ///
    /// # Errors
    /// If the store cannot be written; nothing has begun then.
    pub async fn begin<F, W>(&self, new: NewTask, work: W) -> Result<Task, StoreError>
    where
        W: FnOnce(Work) -> F + Send + 'static,
        F: Future<Output = Result<Value, Problem>> + Send + 'static,
    {
        let task = Task {
            id: Id::new(),
            action: new.action.into(),
            target: new.target,
            name: new.name,
            actor: new.actor,
            state: TaskState::Running,
            progress: None,
            step: String::new(),
            created: Time::now(),
            ended: None,
            error: None,
            result: Value::Null,
        };
        let id = task.id;
        self.store.commit(Transaction::new().put(key(id), &task)?).await?;
        let (cancel, cancelled) = watch::channel(false);
        self.lock().insert(id, Running { task: watch::Sender::new(task.clone()), cancelled: cancel });
        let tasks = self.clone();
        tokio::spawn(async move {
            let working = tokio::spawn(work(Work { id, tasks: tasks.clone(), cancelled: cancelled.clone() }));
            let result = working.await.unwrap_or_else(|panic| {
                tracing::error!("task {id}: {panic}");
                Err(Problem::internal("a fault in the daemon ended the task; its log says more"))
            });
            let cancelled = *cancelled.borrow();
            tasks.end(id, result, cancelled).await;
        });
        Ok(task)
    }

    async fn end(&self, id: Id, result: Result<Value, Problem>, cancelled: bool) {
        let Some(mut task) = self.lock().get(&id).map(|running| running.task.borrow().clone()) else {
            return;
        };
        task.ended = Some(Time::now());
        task.step.clear();
        match result {
            Ok(result) => (task.state, task.progress, task.result) = (TaskState::Done, Some(1.0), result),
            Err(_) if cancelled => task.state = TaskState::Cancelled,
            Err(problem) => (task.state, task.error) = (TaskState::Failed, Some(problem)),
        }
        let ended = match &task.error {
            Some(problem) => format!("failed: {problem}"),
            None => format!("{:?}", task.state).to_lowercase(),
        };
        tracing::info!("{} {} by {}: {ended}", task.action, task.name, task.actor);
        if let Err(error) = self.record(&task).await {
            tracing::error!("the end of task {id} cannot be recorded: {error}");
        }
        // Those who wait hear of it only when it is durable.
        if let Some(running) = self.lock().remove(&id) {
            running.task.send_replace(task);
        }
    }

    async fn record(&self, task: &Task) -> Result<(), StoreError> {
        let mut transaction = Transaction::new().put(key(task.id), task)?;
        if task.state == TaskState::Failed {
            let why = task.error.as_ref().map_or("", |error| &error.detail);
            let failed = Happening::new("task.failed", format!("{} failed: {why}", task.action));
            transaction = failed.to(&task.target, &task.name).by(&task.actor).add(transaction)?;
        }
        self.store.commit(transaction).await.map(drop)
    }

    /// A task, as it is at this moment.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn get(&self, id: Id) -> Result<Option<Task>, StoreError> {
        if let Some(running) = self.lock().get(&id) {
            return Ok(Some(running.task.borrow().clone()));
        }
        let entry = self.store.get(&key(id)).await?;
        entry.map(|entry| Ok(serde_json::from_slice(&entry.value)?)).transpose()
    }

    /// Waits until a task has ended, at most `patience`; gives it as it is then.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn wait(&self, id: Id, patience: Duration) -> Result<Option<Task>, StoreError> {
        let following = self.lock().get(&id).map(|running| running.task.subscribe());
        if let Some(mut task) = following {
            // That the sender is gone is an end as well.
            let _ = tokio::time::timeout(patience, task.wait_for(|task| task.state.is_final())).await;
        }
        self.get(id).await
    }

    /// Tasks as they tell how far they are. What is kept of them, their beginnings and ends, a watch of the store tells.
    pub fn follow(&self) -> broadcast::Receiver<Task> {
        self.progress.subscribe()
    }

    /// Calls a task off. It ends when it can, as if it had failed.
    pub fn cancel(&self, id: Id) -> bool {
        self.lock().get(&id).is_some_and(|running| running.cancelled.send(true).is_ok())
    }

    /// All tasks, the oldest first, and the revision of the store that this is.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn list(&self) -> Result<(Vec<Task>, u64), StoreError> {
        let (entries, revision) = self.store.list(PREFIX).await?;
        let running = self.lock();
        let read = |entry: Entry| {
            let task: Task = serde_json::from_slice(&entry.value)?;
            Ok(running.get(&task.id).map_or(task, |running| running.task.borrow().clone()))
        };
        Ok((entries.into_iter().map(read).collect::<Result<_, StoreError>>()?, revision))
    }

    /// Ends what a daemon before this one began and did not finish, and forgets the oldest. Gives what was unfinished.
    ///
    /// # Errors
    /// If the store cannot be read or written.
    pub async fn recover(&self) -> Result<Vec<Task>, StoreError> {
        let (tasks, _) = self.list().await?;
        let unfinished: Vec<_> = tasks.iter().filter(|task| !task.state.is_final()).cloned().collect();
        for task in &unfinished {
            let mut task = task.clone();
            task.state = TaskState::Failed;
            task.ended = Some(Time::now());
            let why = "the daemon ended before the task did; what it had begun has been finished or undone";
            task.error = Some(Problem::new(503, "Interrupted", why));
            self.record(&task).await?;
        }
        let ended = tasks.len() - unfinished.len();
        let old: Vec<_> =
            tasks.iter().filter(|task| task.state.is_final()).take(ended.saturating_sub(KEPT)).collect();
        for some in old.chunks(1000) {
            let transaction = some.iter().fold(Transaction::new(), |all, task| all.delete(key(task.id)));
            self.store.commit(transaction).await?;
        }
        Ok(unfinished)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Sqlite;

    fn tasks() -> (tempfile::TempDir, Tasks) {
        let folder = tempfile::tempdir().unwrap();
        let store = Sqlite::open(&folder.path().join("host.db")).unwrap();
        (folder, Tasks::new(Arc::new(store)))
    }

    fn new() -> NewTask {
        NewTask { action: "vm.start", target: "/api/v1/vms/x".into(), name: "x".into(), actor: "root".into() }
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_task_ends_with_what_its_work_gives() {
        let (_folder, tasks) = tasks();
        let good = tasks.begin(new(), |_| async { Ok(1.into()) }).await.unwrap();
        let bad = tasks.begin(new(), |_| async { Err(Problem::conflict("no")) }).await.unwrap();
        let fault = tasks.begin(new(), |_| async { panic!("a fault that the test makes") }).await.unwrap();
        let good = tasks.wait(good.id, LONG).await.unwrap().unwrap();
        assert_eq!((good.state, good.result), (TaskState::Done, Value::from(1)));
        let bad = tasks.wait(bad.id, LONG).await.unwrap().unwrap();
        assert_eq!((bad.state, bad.error.unwrap().detail.as_str()), (TaskState::Failed, "no"));
        let fault = tasks.wait(fault.id, LONG).await.unwrap().unwrap();
        assert_eq!((fault.state, fault.error.unwrap().status), (TaskState::Failed, 500));
    }

    #[tokio::test]
    async fn a_task_tells_its_progress_and_can_be_called_off() {
        let (_folder, tasks) = tasks();
        let task = tasks
            .begin(new(), |work| async move {
                work.progress(Some(0.5), "half");
                while !work.is_cancelled() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err(Problem::conflict("called off"))
            })
            .await
            .unwrap();
        let at = loop {
            let task = tasks.wait(task.id, Duration::from_millis(5)).await.unwrap().unwrap();
            if task.progress.is_some() {
                break task;
            }
        };
        assert_eq!((at.state, at.step.as_str()), (TaskState::Running, "half"));
        assert!(tasks.cancel(task.id));
        let end = tasks.wait(task.id, LONG).await.unwrap().unwrap();
        assert_eq!(end.state, TaskState::Cancelled);
        assert!(!tasks.cancel(task.id), "it has ended");
    }

    #[tokio::test]
    async fn what_a_daemon_did_not_finish_the_next_one_says_so() {
        let (_folder, tasks) = tasks();
        let task = tasks.begin(new(), |_| std::future::pending()).await.unwrap();
        let next = Tasks::new(Arc::clone(&tasks.store));
        assert_eq!(next.recover().await.unwrap().len(), 1);
        let task = next.get(task.id).await.unwrap().unwrap();
        assert_eq!((task.state, task.error.unwrap().status), (TaskState::Failed, 503));
        assert!(next.recover().await.unwrap().is_empty());
    }
}
