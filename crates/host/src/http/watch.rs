//! `/watch`: everything that a person who manages the host wants to see at once, as one stream. A browser opens few connections to one
//! server, so that a page cannot watch every list by itself.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use api::{Invalid, Problem, Task};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use utoipa::IntoParams;

use super::caller::Viewer;
use super::error::Result;
use super::events::{PULSE, WAITING, gone, sent, wants_stream};
use super::input::Query;
use super::scope::{self, Seen, Theirs};
use super::stats;
use crate::access::Identity;
use crate::daemon::Host;
use crate::store::Update;
use crate::{events, records, tasks};

/// How many tasks and events are told at first, the latest.
const FIRST: usize = 200;

/// What is wanted besides.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WatchQuery {
    /// Also what the host and its guests use, each so many seconds: 1 to 60.
    pub stats: Option<u64>,
    /// Of each guest only what all its devices have done together: `sums` in place of `vms`.
    #[serde(default)]
    pub sums: bool,
}

/// What changes on the host, as a stream (`Accept: text/event-stream`): first all guests, each as an event `vm`, the latest tasks and events as
/// `task` and `event`, then `ready`, then every change: `vm` with a guest, `vm-gone` with its id, `task` with a task, also where only its
/// progress is new, `event` with what happened, and `stats`.
#[utoipa::path(get, path = "/watch", tag = "events", security(("token" = ["viewer"])), params(WatchQuery), responses(
    (status = 200, description = "A stream of changes", body = String, content_type = "text/event-stream"),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn watch(
    State(host): State<Arc<Host>>,
    Viewer(identity): Viewer,
    headers: HeaderMap,
    Query(query): Query<WatchQuery>,
) -> Result<Response> {
    if let Some(seconds) = query.stats.filter(|seconds| !(1..=60).contains(seconds)) {
        return Err(Problem::invalid(vec![Invalid::new("/stats", seconds, "1 to 60 seconds")]).into());
    }
    if !wants_stream(&headers) {
        let detail = "this is a stream: ask with Accept: text/event-stream";
        return Err(Problem::new(406, "Not acceptable", detail).into());
    }
    let theirs = Theirs::of(&host, &identity).await?;
    let progress = host.tasks.follow();
    let (first, revision) = first(&host, &identity, &theirs).await?;
    let watch = host.store.watch(revision).await?;
    let (out, stream) = mpsc::channel::<std::result::Result<Sent, Infallible>>(WAITING);
    let missed: Vec<_> = watch.missed.iter().filter_map(|update| show(&theirs, update)).collect();
    let ready = Sent::default().event("ready").id(revision.to_string()).data("{}");
    let watcher = Watcher { host, identity, theirs, out };
    tokio::spawn(async move {
        for event in first.into_iter().chain(missed).chain([ready]) {
            if watcher.out.send(Ok(event)).await.is_err() {
                return;
            }
        }
        watcher.follow(watch.live, progress, query).await;
    });
    let keep_alive = KeepAlive::new().interval(PULSE);
    Ok(Sse::new(ReceiverStream::new(stream)).keep_alive(keep_alive).into_response())
}

/// What a watcher is told before anything happens, and the revision of which that is.
async fn first(host: &Host, identity: &Identity, theirs: &Theirs) -> Result<(Vec<Sent>, u64)> {
    // The oldest list is read first: what happens between two of them is told again, as a change.
    let (vms, revision) = records::list(&*host.store).await?;
    let (mut tasks, _) = host.tasks.list().await?;
    let (mut events, _) = events::since(&*host.store, 0).await?;
    tasks.retain(|task| theirs.has(&task.target));
    events.retain(|event| theirs.has(&event.target));
    let mut all: Vec<_> = vms
        .iter()
        .filter(|(record, _)| identity.sees(&record.vm))
        .filter_map(|(record, revision)| sent("vm", *revision, &record.vm))
        .collect();
    let tasks = &tasks[tasks.len().saturating_sub(FIRST)..];
    let events = &events[events.len().saturating_sub(FIRST)..];
    all.extend(tasks.iter().filter_map(|task| sent("task", revision, task)));
    all.extend(events.iter().filter_map(|event| sent("event", event.number, event)));
    Ok((all, revision))
}

/// A change as a watcher hears of it.
fn show(theirs: &Theirs, update: &Update) -> Option<Sent> {
    let (key, at) = (&update.key, update.revision);
    if key.starts_with(records::PREFIX) {
        return match theirs.change(update) {
            Seen::Put(record) => sent("vm", at, &record.vm),
            Seen::Gone => sent("vm-gone", at, &gone(key)),
            Seen::Nothing => None,
        };
    }
    let value = update.value.as_deref()?;
    if key.starts_with(events::PREFIX) {
        let event = events::read(at, value).ok()?;
        return theirs.has(&event.target).then(|| sent("event", at, &event))?;
    }
    if key.starts_with(tasks::PREFIX) {
        let task: Task = serde_json::from_slice(value).ok()?;
        return theirs.has(&task.target).then(|| sent("task", at, &task))?;
    }
    None
}

struct Watcher {
    host: Arc<Host>,
    identity: Identity,
    theirs: Theirs,
    out: mpsc::Sender<std::result::Result<Sent, Infallible>>,
}

impl Watcher {
    /// Tells what happens until nobody listens, or the watcher cannot keep up: it begins anew then, and misses nothing.
    async fn follow(
        &self,
        mut live: broadcast::Receiver<Arc<[Update]>>,
        mut progress: broadcast::Receiver<Task>,
        query: WatchQuery,
    ) {
        let mut due = query.stats.map(|seconds| tokio::time::interval(Duration::from_secs(seconds)));
        if let Some(due) = &mut due {
            due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        // A guest that does not answer keeps nobody from hearing of the others.
        let mut looking: Looking<'_> = None;
        loop {
            let events = tokio::select! {
                () = self.out.closed() => return,
                commit = live.recv() => match commit {
                    Ok(commit) => commit.iter().filter_map(|update| show(&self.theirs, update)).collect(),
                    Err(_) => return,
                },
                task = progress.recv() => match task {
                    Ok(task) if self.theirs.has(&task.target) => Vec::from_iter(sent_plain("task", &task)),
                    // The next progress tells as much as those that were missed.
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => continue,
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                () = tick(&mut due), if looking.is_none() => {
                    looking = Some(Box::pin(self.stats(query.sums)));
                    continue;
                }
                stats = looked(&mut looking) => Vec::from_iter(stats),
            };
            for event in events {
                if self.out.send(Ok(event)).await.is_err() {
                    return;
                }
            }
        }
    }

    /// What the host and the guests use that they may see.
    async fn stats(&self, sums: bool) -> Option<Sent> {
        let vms = scope::guests(&self.host, &self.identity).await.ok()?;
        let stats = stats::all(&self.host, &vms).await;
        sent_plain("stats", &if sums { stats.summed() } else { stats })
    }
}

/// A server-sent event that is no commit.
fn sent_plain(kind: &str, data: &impl serde::Serialize) -> Option<Sent> {
    Sent::default().event(kind).json_data(data).ok()
}

/// A look at what is used, while there is one.
type Looking<'a> = Option<BoxFuture<'a, Option<Sent>>>;

/// What was seen, when the look at it has ended.
async fn looked(looking: &mut Looking<'_>) -> Option<Sent> {
    let Some(look) = looking else { return std::future::pending().await };
    let seen = look.await;
    *looking = None;
    seen
}

/// The next time that something is due, if it ever is.
async fn tick(due: &mut Option<Interval>) {
    match due {
        Some(due) => drop(due.tick().await),
        None => std::future::pending().await,
    }
}
