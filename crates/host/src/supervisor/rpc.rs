//! A guest's process, as the daemon talks to it: JSON-RPC 2.0 over a Unix socket (vmm::control).

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use vmm::control::{Changed, NoRoom, SaveEnd, StateReport};

/// A process that does not answer in this time does not work.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most descriptors of one message: as many as the kernel passes (unix(7), SCM_MAX_FD).
const MOST_FILES: usize = 253;

/// A guest's process did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// It said no.
    #[error("{message}")]
    Refused {
        /// One of [`vmm::control::code`].
        code: i64,
        /// Why, for a person.
        message: String,
    },
    /// It is gone.
    #[error("the guest's process is gone")]
    Gone,
    /// It says nothing.
    #[error("the guest's process does not answer")]
    Silent,
    /// What it said makes no sense.
    #[error("the guest's process gave an answer that makes no sense")]
    Nonsense(#[from] serde_json::Error),
    /// It cannot be talked to.
    #[error("the guest's process cannot be talked to")]
    Socket(#[from] io::Error),
}

/// What a process tells by itself.
#[derive(Debug)]
pub enum Notice {
    /// Something happened in the guest.
    Event(StateReport),
    /// What was being saved has been, or will not be.
    Saved(SaveEnd),
    /// What the guest has made of a change of its hardware.
    Hardware(Changed),
    /// Which disks have no room on the host.
    NoRoom(NoRoom),
}

/// How that comes. The channel closes when the process goes.
pub type Notices = mpsc::UnboundedReceiver<Notice>;

type Pending = Mutex<HashMap<u64, oneshot::Sender<Value>>>;

/// A connection to a guest's process.
pub struct Client {
    writer: tokio::sync::Mutex<UnixStream>,
    pending: Arc<Pending>,
    next: AtomicU64,
}

impl Client {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// If nobody listens there.
    pub async fn connect(path: &Path) -> Result<(Client, Notices), RpcError> {
        let stream = UnixStream::connect(path).await?.into_std()?;
        let other: StdStream = stream.try_clone()?;
        let pending = Arc::<Pending>::default();
        let (notices, told) = mpsc::unbounded_channel();
        tokio::spawn(read(UnixStream::from_std(other)?, Arc::clone(&pending), notices));
        let writer = tokio::sync::Mutex::new(UnixStream::from_std(stream)?);
        Ok((Client { writer, pending, next: AtomicU64::new(1) }, told))
    }

    /// The process at the other end.
    ///
    /// # Errors
    /// If the kernel does not know.
    pub async fn peer(&self) -> io::Result<Option<i32>> {
        Ok(self.writer.lock().await.peer_cred()?.pid())
    }

    /// Calls a method, with files passed along.
    ///
    /// # Errors
    /// If the process refuses it, is gone or does not answer.
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        params: Value,
        files: &[OwnedFd],
    ) -> Result<T, RpcError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.lock().insert(id, answer);
        let sent = self.send(id, method, params, files).await;
        let result = match sent {
            Ok(()) => tokio::time::timeout(PATIENCE, answered).await,
            Err(error) => {
                self.lock().remove(&id);
                return Err(error.into());
            }
        };
        self.lock().remove(&id);
        let mut message = result.map_err(|_| RpcError::Silent)?.map_err(|_| RpcError::Gone)?;
        match message.get("error") {
            Some(error) => Err(RpcError::Refused {
                code: error["code"].as_i64().unwrap_or_default(),
                message: error["message"].as_str().unwrap_or_default().to_owned(),
            }),
            None => Ok(serde_json::from_value(message["result"].take())?),
        }
    }

    async fn send(&self, id: u64, method: &str, params: Value, files: &[OwnedFd]) -> io::Result<()> {
        let line = format!("{}\n", json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        let mut stream = self.writer.lock().await;
        let sent = stream.async_io(Interest::WRITABLE, || send_some(&stream, line.as_bytes(), files)).await?;
        // The files went with the first byte.
        stream.write_all(&line.as_bytes()[sent..]).await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Value>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn send_some(stream: &UnixStream, bytes: &[u8], files: &[OwnedFd]) -> io::Result<usize> {
    let borrowed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many files for one message"));
    }
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// What a notification says, if it is one that we know.
fn notice(mut message: Value) -> Option<Notice> {
    let params = message["params"].take();
    match message["method"].as_str()? {
        "event" => serde_json::from_value(params).ok().map(Notice::Event),
        "hardware" => serde_json::from_value(params).ok().map(Notice::Hardware),
        "no_room" => serde_json::from_value(params).ok().map(Notice::NoRoom),
        "saved" => serde_json::from_value(params).ok().map(Notice::Saved),
        _ => None,
    }
}

/// Reads answers and notifications until the process is gone.
async fn read(stream: UnixStream, pending: Arc<Pending>, notices: mpsc::UnboundedSender<Notice>) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        if let Some(id) = message.get("id").and_then(Value::as_u64) {
            let waiting = pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            if let Some(waiting) = waiting {
                // Who asked may have lost patience.
                let _ = waiting.send(message);
            }
        } else if let Some(notice) = notice(message) {
            // Nobody may want to know.
            let _ = notices.send(notice);
        }
    }
    // Those who wait hear that it is gone.
    pending.lock().unwrap_or_else(PoisonError::into_inner).clear();
}
