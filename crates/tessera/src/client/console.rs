//! A guest's console over the API.

use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};

use super::{Client, Place, told};
use crate::failure::{self, Failure, Result};

/// Ends a console: Ctrl-].
const ESCAPE: u8 = 0x1d;

impl Client {
    /// Carries what is typed to a guest's console, and what it says to stdout, until the escape key or the guest's end.
    ///
    /// # Errors
    /// If the host cannot be reached or refuses.
    pub async fn console(&self, vm: &str) -> Result<()> {
        let path = format!("/api/v1/vms/{vm}/console");
        match &self.place {
            Place::Socket(socket) => {
                let stream = UnixStream::connect(socket).await.map_err(|error| self.unreachable(&error))?;
                carry(self.upgrade(stream, "localhost", &path).await?).await
            }
            Place::Url(url) => {
                let address = url.trim_start_matches("https://").trim_start_matches("http://");
                let stream = TcpStream::connect(with_port(address, self.tls.is_some()))
                    .await
                    .map_err(|error| self.unreachable(&error))?;
                let Some(config) = &self.tls else {
                    return carry(self.upgrade(stream, address, &path).await?).await;
                };
                let name = host_of(address).to_owned();
                let name = ServerName::try_from(name).map_err(|error| self.unreachable(&error))?;
                let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
                let stream = stream.map_err(|error| self.unreachable(&error))?;
                carry(self.upgrade(stream, address, &path).await?).await
            }
        }
    }

    async fn upgrade<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        host: &str,
        path: &str,
    ) -> Result<WebSocketStream<S>> {
        let broken = |error: &dyn std::error::Error| Failure::internal(failure::chain(error));
        let mut request =
            format!("ws://{host}{path}").into_client_request().map_err(|error| broken(&error))?;
        if let Some(token) = &self.token {
            let value = format!("Bearer {token}").parse();
            let value = value.map_err(|_| Failure::input("--token: it has characters that no token has"))?;
            request.headers_mut().insert("authorization", value);
        }
        match tokio_tungstenite::client_async(request, stream).await {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::Error::Http(response)) => {
                let problem = response.body().as_deref().and_then(|body| serde_json::from_slice(body).ok());
                let status = response.status();
                Err(problem
                    .map_or_else(|| Failure::internal(format!("the host answered {status}")), |p| told(&p)))
            }
            Err(error) => Err(broken(&error)),
        }
    }
}

/// The host in `HOST:PORT` or `[HOST]:PORT`.
fn host_of(address: &str) -> &str {
    if let Some((host, _)) = address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return host;
    }
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

/// The address with the port that it means if it says none.
fn with_port(address: &str, encrypted: bool) -> String {
    let said = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if said { address.to_owned() } else { format!("{address}:{}", if encrypted { 443 } else { 80 }) }
}

async fn carry<S: AsyncRead + AsyncWrite + Unpin>(socket: WebSocketStream<S>) -> Result<()> {
    let (mut to, mut from) = socket.split();
    let (mut stdin, mut stdout) = (tokio::io::stdin(), tokio::io::stdout());
    let mut typed = [0; 4096];
    let mut open = true;
    loop {
        tokio::select! {
            said = from.next() => match said {
                Some(Ok(Message::Binary(bytes))) => {
                    let written = stdout.write_all(&bytes).await;
                    if written.is_err() || stdout.flush().await.is_err() {
                        return Ok(());
                    }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Text(_) | Message::Frame(_))) => {}
                // The guest has ended, or the host.
                _ => return Ok(()),
            },
            read = stdin.read(&mut typed), if open => match read {
                Ok(n) if n > 0 => {
                    let end = typed[..n].iter().position(|byte| *byte == ESCAPE);
                    let bytes = typed[..end.unwrap_or(n)].to_vec();
                    if !bytes.is_empty() && to.send(Message::Binary(bytes.into())).await.is_err() {
                        return Ok(());
                    }
                    if end.is_some() {
                        return Ok(());
                    }
                }
                // Nobody types any more; what the guest says is still shown.
                _ => open = false,
            },
        }
    }
}
