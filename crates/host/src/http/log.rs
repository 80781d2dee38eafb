//! `/host/log`: what the daemon says of its work.

use std::convert::Infallible;
use std::sync::Arc;

use api::{Invalid, Problem};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::IntoParams;

use super::caller::Admin;
use super::error::Result;
use super::events::{PULSE, WAITING, wants_stream};
use super::input::Query;
use crate::daemon::Host;
use crate::log;

/// How many lines there are if nothing is said.
const USUAL: usize = 1000;

/// How much of the log is wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Tail {
    /// So many of the latest lines: 1000 if nothing is said.
    #[param(minimum = 0, maximum = 10000)]
    pub lines: Option<usize>,
}

/// A line as somebody hears of it who follows.
fn sent(line: &str) -> Option<Event> {
    Event::default().event("line").json_data(line).ok()
}

/// The latest lines of the daemon's own log; as a stream (`Accept: text/event-stream`) these, each as an event `line` with a JSON string, and
/// those that come after them. What it says of guests is not bound to anybody's labels.
#[utoipa::path(get, path = "/host/log", tag = "host", security(("token" = ["admin"])), params(Tail), responses(
    (status = 200, description = "Its lines, the oldest first", body = String, content_type = "text/plain"),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn get(
    State(host): State<Arc<Host>>,
    _: Admin,
    headers: HeaderMap,
    Query(tail): Query<Tail>,
) -> Result<Response> {
    let lines = tail.lines.unwrap_or(USUAL);
    if lines > log::MOST {
        let wrong = Invalid::new("/lines", lines, format!("at most {} lines", log::MOST));
        return Err(Problem::invalid(vec![wrong]).into());
    }
    let folder = host.paths.log();
    let read = tokio::task::spawn_blocking(move || log::follow(&folder, lines)).await;
    let failed =
        |error: &dyn std::fmt::Display| Problem::internal(format!("the log cannot be read: {error}"));
    let (before, mut next) = read.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    if !wants_stream(&headers) {
        let text: String = before.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
        return Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response());
    }
    let (out, stream) = mpsc::channel::<std::result::Result<Event, Infallible>>(WAITING);
    tokio::spawn(async move {
        for event in before.iter().filter_map(|line| sent(line)) {
            if out.send(Ok(event)).await.is_err() {
                return;
            }
        }
        loop {
            let line = tokio::select! {
                line = next.recv() => line,
                () = out.closed() => return,
            };
            let event = match line {
                Ok(line) => sent(&line),
                Err(RecvError::Lagged(missed)) => sent(&format!("({missed} lines are left out here)")),
                Err(RecvError::Closed) => return,
            };
            if let Some(event) = event
                && out.send(Ok(event)).await.is_err()
            {
                return;
            }
        }
    });
    let keep_alive = KeepAlive::new().interval(PULSE);
    Ok(Sse::new(ReceiverStream::new(stream)).keep_alive(keep_alive).into_response())
}
