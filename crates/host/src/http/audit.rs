//! `/audit`: who did what from where; and what writes it down.

use std::convert::Infallible;
use std::sync::Arc;

use api::{AuditEntry, List, ListQuery, Problem};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::BroadcastStream;

use super::caller::{Admin, Caller, peer};
use super::error::Result;
use super::events::{PULSE, wants_stream};
use super::input::Query;
use super::lists;
use crate::access::Origin;
use crate::audit::entry;
use crate::daemon::Host;

/// How many entries can be asked for; the files hold more.
const LATEST: usize = 10_000;

/// As whom somebody asked to be let in: what an answer says where nobody knew them before.
#[derive(Debug, Clone)]
pub struct Named(pub String);

/// Writes down what changes something or is refused, when it has been answered.
pub async fn record(State(host): State<Arc<Host>>, request: Request, next: Next) -> Response {
    let looks = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let caller = request.extensions().get::<Caller>().cloned();
    let from = peer(request.extensions()).and_then(|peer| peer.origin);
    let response = next.run(request).await;
    let status = response.status();
    // A console is asked for like something to look at, but is not.
    let told = !looks
        || matches!(
            status,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::SWITCHING_PROTOCOLS
        )
        || response.extensions().get::<Named>().is_some();
    if told {
        let actor = match (response.extensions().get::<Named>(), caller) {
            (Some(Named(name)), _) => name.clone(),
            (None, Some(Caller(Ok(identity)))) => identity.actor,
            (None, _) => String::new(),
        };
        let from = from.map_or_else(String::new, Origin::place);
        host.audit.record(entry(actor, from, method.as_str(), &path, status.as_u16()));
    }
    response
}

/// Who did what from where: all that changed something, and what was refused; the newest first. As a stream (`Accept: text/event-stream`) an
/// event `ready`, and then every entry from now on that the filter lets through as an event `entry`.
#[utoipa::path(get, path = "/audit", tag = "access", security(("token" = ["admin"])), params(ListQuery), responses(
    (status = 200, description = "A page of entries", body = List<AuditEntry>),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(host): State<Arc<Host>>,
    _: Admin,
    headers: HeaderMap,
    Query(query): Query<ListQuery>,
) -> Result<Response> {
    if wants_stream(&headers) {
        return Ok(follow(&host, lists::Filter::of(&query)?));
    }
    let (_, revision) = host.store.list("revision-only/").await?;
    let reading = tokio::task::spawn_blocking(move || host.audit.latest(LATEST)).await;
    let failed =
        |error: &dyn std::fmt::Display| Problem::internal(format!("the audit log cannot be read: {error}"));
    let entries = reading.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    Ok(axum::Json(lists::page(entries, &query, revision)?).into_response())
}

/// The stream of entries. One that cannot keep up is ended.
fn follow(host: &Host, filter: lists::Filter) -> Response {
    let entries = BroadcastStream::new(host.audit.follow()).map_while(std::result::Result::ok);
    let entries = entries.filter(move |entry| filter.fits_item(entry));
    let entries = entries.map_while(|entry| Sent::default().event("entry").json_data(entry).ok());
    let ready = tokio_stream::once(Sent::default().event("ready").data("{}"));
    let stream = ready.chain(entries).map(Ok::<_, Infallible>);
    Sse::new(stream).keep_alive(KeepAlive::new().interval(PULSE)).into_response()
}
