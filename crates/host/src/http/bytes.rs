//! Bytes on their way in and out, however many. What waits for disks reads and writes them on a thread of its own.

use std::future::ready;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use api::Problem;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, TryStreamExt, stream};
use storage::Progress;
use tokio::sync::oneshot;
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};

use crate::supervisor::{self, storage_problem};

/// How much is read at once.
pub const PIECE: usize = 1 << 18;

/// Does what waits for disks on a thread that may wait.
///
/// # Errors
/// If the work fails.
pub async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> storage::Result<T> + Send + 'static,
) -> Result<T, Problem> {
    supervisor::apart(move || work().map_err(storage_problem)).await
}

/// The body of a request, to be read on a thread that may wait.
pub fn incoming(request: Request) -> impl Read + Send {
    let bytes = request.into_body().into_data_stream().map_err(io::Error::other);
    SyncIoBridge::new(StreamReader::new(bytes))
}

/// An archive of `length` bytes, as [`outgoing`], that is kept under this name.
pub fn archive(
    name: &str,
    length: u64,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
) -> Response {
    let mut response = outgoing("application/x-tar", length, write);
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{name}.tar\"")) {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, value);
    }
    response
}

/// An answer of this kind and of `length` bytes, which `write` writes on a thread that may wait. Where that fails the answer breaks off:
/// nobody takes a part for the whole.
pub fn outgoing(
    kind: &'static str,
    length: u64,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
) -> Response {
    let (ours, theirs) = tokio::io::duplex(4 * PIECE);
    let (tell, failed) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = write(&mut SyncIoBridge::new(ours)) {
            tracing::info!("a download broke off: {error}");
            // Whoever downloads may be gone.
            let _ = tell.send(error);
        }
    });
    let end = stream::once(failed).filter_map(|failed| ready(failed.ok().map(Err)));
    let body = Body::from_stream(ReaderStream::with_capacity(theirs, PIECE).chain(end));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_LENGTH, HeaderValue::from(length)),
    ];
    (headers, body).into_response()
}

/// Calls something off when this goes.
pub struct Leaving(Arc<AtomicBool>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Goes on as long as somebody waits for it.
pub struct Wanting(Arc<AtomicBool>);

impl Progress for Wanting {
    fn step(&self, _: &str) {}
    fn amount(&self, _: u64, _: u64) {}

    fn cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Work that goes on only until the first of the two is dropped, as what waits for an answer is when whoever asked is gone.
pub fn while_wanted() -> (Leaving, Wanting) {
    let gone = Arc::new(AtomicBool::new(false));
    (Leaving(Arc::clone(&gone)), Wanting(gone))
}
