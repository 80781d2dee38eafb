//! `/events`, and lists that are watched: server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use api::{List, ListQuery, Problem};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::caller::Viewer;
use super::error::Result;
use super::input::Query;
use super::lists;
use super::scope::Theirs;
use crate::daemon::Host;
use crate::store::{Revision, Update};
use crate::{events, records};

/// How often something is sent to a watcher to whom nothing happens, so that both notice when the other is gone.
pub const PULSE: Duration = Duration::from_secs(15);
/// How many events may wait for one watcher.
pub const WAITING: usize = 256;

/// Whether a request wants a stream.
pub fn wants_stream(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/event-stream"))
}

/// The revision that a watcher that comes back has seen last.
pub fn last_seen(headers: &HeaderMap) -> Option<Revision> {
    headers.get("last-event-id")?.to_str().ok()?.parse().ok()
}

/// What happened, the oldest first; as a stream (`Accept: text/event-stream`) what happens from now on, after `Last-Event-ID` if that is
/// given, and of that what the filter lets through.
#[utoipa::path(get, path = "/events", tag = "events", security(("token" = ["viewer"])), params(ListQuery), responses(
    (status = 200, description = "A page of events, or a stream of them", body = List<api::Event>),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(host): State<Arc<Host>>,
    Viewer(identity): Viewer,
    headers: HeaderMap,
    Query(query): Query<ListQuery>,
) -> Result<Response> {
    let theirs = Theirs::of(&host, &identity).await?;
    if wants_stream(&headers) {
        let filter = lists::Filter::of(&query)?;
        let snapshot = match last_seen(&headers) {
            Some(after) => events::since(&*host.store, after).await?,
            None => (Vec::new(), host.store.list("revision-only/").await?.1),
        };
        let seen = snapshot.0.iter().filter(|event| theirs.has(&event.target) && filter.fits_item(event));
        let first = seen.filter_map(|event| sent("event", event.number, event)).collect();
        let show = move |update: &Update| {
            if update.key.starts_with(records::PREFIX) {
                theirs.change(update);
            }
            if !update.key.starts_with(events::PREFIX) {
                return None;
            }
            let event = events::read(update.revision, update.value.as_deref()?).ok()?;
            let wanted = theirs.has(&event.target) && filter.fits_item(&event);
            wanted.then(|| sent("event", update.revision, &event))?
        };
        return stream(&host, first, snapshot.1, show).await;
    }
    let (mut events, revision) = events::since(&*host.store, 0).await?;
    events.retain(|event| theirs.has(&event.target));
    Ok(axum::Json(lists::page(events, &query, revision)?).into_response())
}

/// A server-sent event of this kind.
pub fn sent(kind: &str, revision: Revision, data: &impl serde::Serialize) -> Option<Sent> {
    Sent::default().event(kind).id(revision.to_string()).json_data(data).ok()
}

/// A stream that begins with `first`, which is everything up to revision `after`, and goes on with what `show` makes of each change. One
/// that cannot keep up is ended: it begins anew and misses nothing.
///
/// # Errors
/// If the store does not remember what happened after that revision.
pub async fn stream(
    host: &Host,
    first: Vec<Sent>,
    after: Revision,
    show: impl Fn(&Update) -> Option<Sent> + Send + Sync + 'static,
) -> Result<Response> {
    let mut watch = host.store.watch(after).await?;
    let (out, stream) = mpsc::channel::<std::result::Result<Sent, Infallible>>(WAITING);
    tokio::spawn(async move {
        let missed = watch.missed.iter().filter_map(&show);
        let ready = Sent::default().event("ready").id(after.to_string()).data("{}");
        for event in first.into_iter().chain(missed.collect::<Vec<_>>()).chain([ready]) {
            if out.send(Ok(event)).await.is_err() {
                return;
            }
        }
        loop {
            let commit = tokio::select! {
                commit = watch.live.recv() => commit,
                () = out.closed() => return,
            };
            let commit = match commit {
                Ok(commit) => commit,
                Err(broadcast::error::RecvError::Lagged(_) | broadcast::error::RecvError::Closed) => return,
            };
            for update in commit.iter() {
                if let Some(event) = show(update)
                    && out.send(Ok(event)).await.is_err()
                {
                    return;
                }
            }
        }
    });
    let keep_alive = KeepAlive::new().interval(PULSE);
    Ok(Sse::new(ReceiverStream::new(stream)).keep_alive(keep_alive).into_response())
}

/// What a watcher of a list hears of a key that is gone.
pub fn gone(key: &str) -> Value {
    serde_json::json!({ "id": key.rsplit('/').next().unwrap_or_default() })
}
