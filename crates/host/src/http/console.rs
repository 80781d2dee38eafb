//! `/vms/{vm}/console`: a guest's serial line.

use std::fs::File;
use std::sync::Arc;

use api::Problem;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::caller::{Operator, Viewer};
use super::error::Result;
use crate::daemon::Host;

/// How much is read from a console at once.
const CHUNK: usize = 16 << 10;

/// A WebSocket to a guest's serial line: what it said lately and says comes as binary messages; messages of either kind are typed.
#[utoipa::path(get, path = "/vms/{vm}/console", tag = "vms", security(("token" = ["operator"])),
    params(("vm" = String, Path, description = "Its name or id")), responses(
    (status = 101, description = "The serial line"),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn connect(
    State(host): State<Arc<Host>>,
    _: Operator,
    Path(vm): Path<String>,
    upgrade: std::result::Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response> {
    let (vm, _) = host.supervisor.find(&vm).await?;
    let upgrade = upgrade.map_err(|error| Problem::new(426, "A WebSocket is needed", error.body_text()))?;
    let console = UnixStream::connect(host.paths.console_socket(vm.id)).await.map_err(|_| {
        let state = vm.status.state.word();
        Problem::conflict(format!("{} has no console now: it is {state}", vm.definition.name))
    })?;
    Ok(upgrade.on_upgrade(|socket| carry(socket, console)))
}

/// Carries bytes both ways until one end is gone.
async fn carry(mut socket: WebSocket, mut console: UnixStream) {
    let mut buffer = vec![0; CHUNK];
    loop {
        tokio::select! {
            said = console.read(&mut buffer) => match said {
                Ok(n) if n > 0 => {
                    let message = Message::Binary(buffer[..n].to_vec().into());
                    if socket.send(message).await.is_err() {
                        return;
                    }
                }
                _ => break,
            },
            typed = socket.recv() => {
                let bytes = match typed {
                    Some(Ok(Message::Binary(bytes))) => bytes,
                    Some(Ok(Message::Text(text))) => text.into(),
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                    _ => return,
                };
                if console.write_all(&bytes).await.is_err() {
                    break;
                }
            }
        }
    }
    // The other end may have gone as well.
    let _ = socket.send(Message::Close(None)).await;
}

/// The latest of what a guest has said on its serial line, whether or not it runs.
#[utoipa::path(get, path = "/vms/{vm}/console/log", tag = "vms", security(("token" = ["viewer"])),
    params(("vm" = String, Path, description = "Its name or id")), responses(
    (status = 200, description = "What it said", body = String, content_type = "text/plain"),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn log(State(host): State<Arc<Host>>, _: Viewer, Path(vm): Path<String>) -> Result<Response> {
    let (vm, _) = host.supervisor.find(&vm).await?;
    let path = host.paths.console_log(vm.id);
    let read = tokio::task::spawn_blocking(move || vmm::control::console::read(&File::open(path)?));
    let said = read.await.map_err(|error| Problem::internal(error.to_string()))?;
    // One that never ran has said nothing.
    let said = said.unwrap_or_default();
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], said).into_response())
}
