//! `/host/backup`: what the host knows, in one file.

use std::sync::Arc;

use api::Problem;
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use tokio_util::io::ReaderStream;

use super::caller::Admin;
use super::error::Result;
use crate::backup::{self, About};
use crate::daemon::Host;
use crate::machine;

/// How much is read at once.
const PIECE: usize = 1 << 18;

/// What the host knows, in one file that `tessera host restore` takes: guests' definitions, networks, pools, templates, users, tokens and the
/// certificate authority; no disks or images. Whoever has it can be this host.
#[utoipa::path(post, path = "/host/backup", tag = "host", security(("token" = ["admin"])), responses(
    (status = 200, description = "A tar archive, compressed with gzip", content_type = "application/gzip"),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn make(State(host): State<Arc<Host>>, _: Admin) -> Result<Response> {
    let about = About::now(host.id, machine::host_name());
    let made = backup::make(&*host.store, &host.paths, about).await;
    sent(made.map_err(|error| Problem::internal(error.to_string()))?)
}

/// An archive as an answer.
pub fn sent(archive: std::fs::File) -> Result<Response> {
    let length = archive.metadata().map_err(|error| Problem::internal(error.to_string()))?.len();
    let headers =
        [(header::CONTENT_TYPE, "application/gzip".to_owned()), (header::CONTENT_LENGTH, length.to_string())];
    let bytes = ReaderStream::with_capacity(tokio::fs::File::from_std(archive), PIECE);
    Ok((headers, Body::from_stream(bytes)).into_response())
}
