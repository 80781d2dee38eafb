//! Looks at everything once a second, on a thread of its own: what the kernel is asked may wait for a disk, and nobody waits for that.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use api::Id;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;

use super::{Devices, Series, second};
use crate::records::{self, Record};
use crate::store::{Store, StoreError, Update, Watch};
use crate::supervisor::Supervisor;

/// A guest that has not said by then what it did is asked again in its next turn.
const PATIENCE: Duration = Duration::from_millis(500);

/// What the thread is told.
enum Word {
    /// All guests there are.
    All(Vec<Record>),
    /// A guest has changed.
    Put(Box<Record>),
    /// A guest is gone.
    Gone(Id),
    /// There is nothing more to do.
    Stop,
}

/// The thread, and what follows the guests for it.
pub struct Sampler {
    words: mpsc::Sender<Word>,
    thread: Option<JoinHandle<()>>,
    follower: tokio::task::JoinHandle<()>,
}

impl Sampler {
    /// Begins to measure the host and the guests that `store` knows and `supervisor` looks after.
    ///
    /// # Errors
    /// If there cannot be one more thread.
    pub fn begin(
        series: Arc<Series>,
        store: Arc<dyn Store>,
        supervisor: Arc<Supervisor>,
    ) -> std::io::Result<Self> {
        let (words, told) = mpsc::channel();
        let (due, asked) = tokio::sync::mpsc::unbounded_channel();
        let measured = Arc::clone(&series);
        let sample = move || run(&measured, &told, &due);
        let thread = std::thread::Builder::new().name("series".into()).spawn(sample)?;
        let follow = follow(store, words.clone());
        let ask = ask(series, supervisor, asked);
        let follower = tokio::spawn(async move {
            tokio::join!(follow, ask);
        });
        Ok(Self { words, thread: Some(thread), follower })
    }

    /// Writes what was measured, and ends.
    pub fn end(mut self) {
        self.follower.abort();
        // A thread that has panicked has nothing more to write.
        let _ = self.words.send(Word::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread: does what it is told, and at each full second looks at everything.
fn run(series: &Series, told: &mpsc::Receiver<Word>, due: &tokio::sync::mpsc::UnboundedSender<Vec<Id>>) {
    let mut next = second(SystemTime::now());
    loop {
        let now = SystemTime::now();
        let this = second(now);
        if this != next {
            next = this;
            // Nobody asks any more when the daemon ends.
            let _ = due.send(series.sample(this));
        }
        let passed = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.subsec_nanos());
        match told.recv_timeout(Duration::from_nanos(1_000_000_000 - u64::from(passed))) {
            Ok(Word::All(records)) => {
                let ids: Vec<_> = records.iter().map(|record| record.vm.id).collect();
                series.sweep(&ids);
                records.iter().for_each(|record| put(series, record));
            }
            Ok(Word::Put(record)) => put(series, &record),
            Ok(Word::Gone(id)) => series.forget(id),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Ok(Word::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => return series.close(),
        }
    }
}

fn put(series: &Series, record: &Record) {
    let status = &record.vm.status;
    match status.pid.filter(|_| status.state.is_alive()) {
        Some(pid) => series.runs(record.vm.id, pid, status.state),
        None => series.ends(record.vm.id),
    }
}

/// Tells the thread of guests that come, change and go.
async fn follow(store: Arc<dyn Store>, words: mpsc::Sender<Word>) {
    loop {
        match follow_on(&*store, &words).await {
            Ok(()) => return,
            Err(error) => tracing::warn!("guests are looked for again: {error}"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The same until something goes wrong, or until nobody listens.
async fn follow_on(store: &dyn Store, words: &mpsc::Sender<Word>) -> Result<(), StoreError> {
    let (all, revision) = records::list(store).await?;
    let all = all.into_iter().map(|(record, _)| record).collect();
    if words.send(Word::All(all)).is_err() {
        return Ok(());
    }
    let Watch { missed, mut live } = store.watch(revision).await?;
    for update in &missed {
        tell(words, update);
    }
    loop {
        match live.recv().await {
            Ok(commit) => commit.iter().for_each(|update| tell(words, update)),
            Err(RecvError::Closed) => return Ok(()),
            Err(RecvError::Lagged(_)) => return Err(StoreError::TooOld(revision)),
        }
    }
}

fn tell(words: &mpsc::Sender<Word>, update: &Update) {
    let Some(id) = update.key.strip_prefix(records::PREFIX).and_then(|id| id.parse().ok()) else { return };
    let word = match update.value.as_deref().map(serde_json::from_slice::<Record>) {
        Some(Ok(record)) => Word::Put(Box::new(record)),
        Some(Err(_)) => return,
        None => Word::Gone(id),
    };
    // It ends with the daemon.
    let _ = words.send(word);
}

/// Asks the guests whose turn it is.
async fn ask(
    series: Arc<Series>,
    supervisor: Arc<Supervisor>,
    mut due: tokio::sync::mpsc::UnboundedReceiver<Vec<Id>>,
) {
    while let Some(ids) = due.recv().await {
        let mut asked = JoinSet::new();
        for id in ids {
            let (series, supervisor) = (Arc::clone(&series), Arc::clone(&supervisor));
            asked.spawn(async move {
                if let Ok(Ok(stats)) = tokio::time::timeout(PATIENCE, supervisor.stats(id)).await {
                    series.note(id, Devices::of(&stats));
                }
            });
        }
        while asked.join_next().await.is_some() {}
    }
}
