//! The agent in a guest, as the host talks to it: QEMU's guest agent (QEMU, docs/interop/qemu-ga-ref), JSON a line over a port of
//! the guest's console device. What it says is the guest's word: it is read within bounds and nothing follows from it here.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex as Lock, PoisonError};
use std::time::Duration;

use api::{Id, Time};
use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

/// An agent that says nothing for so long does not run. A guest on the software processor, with many beside it, takes its time.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer, bytes: the agent keeps 16 MiB of a program's output and sends it in base 64.
const LONGEST: usize = 48 << 20;
/// Tells one guest-sync-delimited from another. A daemon before this one may have left some unanswered.
static SYNC: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(Time::now().subsec_nanosecond() as u32));
/// What the agent sends before the answer that everything up to here was about something older (guest-sync-delimited).
const MARK: u8 = 0xff;

/// An agent did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Nobody answers.
    #[error("the agent in the guest does not answer: is qemu-guest-agent installed and running there?")]
    Silent,
    /// It says no.
    #[error("the guest's agent: {0}")]
    Refused(String),
    /// It says what nobody understands.
    #[error("the guest's agent gave an answer that makes no sense")]
    Nonsense,
}

impl From<std::io::Error> for AgentError {
    fn from(_: std::io::Error) -> Self {
        // The port is there as long as the guest runs.
        AgentError::Silent
    }
}

type Line = BufReader<UnixStream>;

/// A connection to an agent.
struct Link {
    line: Line,
    /// Whether nothing older is under way on it.
    synced: bool,
}

impl Link {
    async fn new(path: &Path) -> std::io::Result<Self> {
        Ok(Self { line: BufReader::new(UnixStream::connect(path).await?), synced: false })
    }
}

type Lines = HashMap<Id, Arc<Mutex<Option<Link>>>>;

/// The connections to all agents. An agent has one at a time, which stays.
#[derive(Default)]
pub struct Agents {
    lines: Lock<Lines>,
    /// When each has said something, the last time since its guest was started.
    heard: Lock<HashMap<Id, Time>>,
}

impl Agents {
    /// Connects to the agent behind the socket at `path`, of guest `id`, before anybody asks it something. An agent to whose port nobody is
    /// connected looks ten times a second whether somebody is (QEMU, qga/main.c, channel_event_cb: a port is always ready then).
    pub async fn hold(&self, id: Id, path: &Path) {
        let line = self.line(id);
        let mut line = line.lock().await;
        if line.is_none() {
            // Whoever asks it something tries again, and says why if that fails.
            *line = Link::new(path).await.ok();
        }
    }

    /// Asks the agent behind the socket at `path`, of guest `id`, and gives what it returns. One that is not there any more is
    /// looked for again.
    ///
    /// # Errors
    /// If nobody answers within `patience`, or the agent refuses.
    pub async fn call(
        &self,
        id: Id,
        path: &Path,
        command: &str,
        arguments: Value,
        patience: Duration,
    ) -> Result<Value, AgentError> {
        let line = self.line(id);
        let until = Instant::now() + patience;
        let talk = async {
            let mut line = line.lock().await;
            // Whoever gives up in the middle leaves no line behind on which half an answer waits.
            let mut current = match line.take() {
                Some(current) => current,
                None => Link::new(path).await?,
            };
            if !current.synced {
                synchronize(&mut current.line).await?;
                current.synced = true;
            }
            let result = converse(&mut current.line, command, &arguments).await;
            if matches!(result, Ok(_) | Err(AgentError::Refused(_))) {
                *line = Some(current);
                self.heard().insert(id, Time::now());
            }
            result
        };
        timeout_at(until, talk).await.map_err(|_| AgentError::Silent)?
    }

    /// Tells the agent something that it does not answer.
    ///
    /// # Errors
    /// If nobody answers within `patience` to be told.
    pub async fn tell(
        &self,
        id: Id,
        path: &Path,
        command: &str,
        arguments: Value,
        patience: Duration,
    ) -> Result<(), AgentError> {
        self.call(id, path, "guest-ping", Value::Null, patience).await?;
        let line = self.line(id);
        let mut line = line.lock().await;
        let current = line.as_mut().ok_or(AgentError::Silent)?;
        current.line.get_mut().write_all(&message(command, &arguments)).await?;
        // It may say that it refuses; that would be taken for the next answer.
        *line = None;
        Ok(())
    }

    /// The guest's process is gone, and its agent with it.
    pub fn forget(&self, id: Id) {
        self.lock().remove(&id);
        self.heard().remove(&id);
    }

    /// When the agent of a guest has said something, the last time since the guest was started.
    pub fn last_heard(&self, id: Id) -> Option<Time> {
        self.heard().get(&id).copied()
    }

    fn heard(&self) -> std::sync::MutexGuard<'_, HashMap<Id, Time>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, id: Id) -> Arc<Mutex<Option<Link>>> {
        Arc::clone(self.lock().entry(id).or_default())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn message(command: &str, arguments: &Value) -> Vec<u8> {
    let mut message = json!({ "execute": command });
    if !arguments.is_null() {
        message["arguments"] = arguments.clone();
    }
    format!("{message}\n").into_bytes()
}

/// Sees to it that nothing older is under way on a connection.
async fn synchronize(line: &mut Line) -> Result<(), AgentError> {
    let number = SYNC.fetch_add(1, Ordering::Relaxed);
    // A broken message has the agent forget what it had read half of.
    line.get_mut().write_all(&[MARK]).await?;
    line.get_mut().write_all(&message("guest-sync-delimited", &json!({ "id": number }))).await?;
    loop {
        skip_to_mark(line).await?;
        if read(line).await?.get("return") == Some(&number.into()) {
            return Ok(());
        }
    }
}

async fn skip_to_mark(line: &mut Line) -> Result<(), AgentError> {
    loop {
        let bytes = line.fill_buf().await?;
        if bytes.is_empty() {
            return Err(AgentError::Silent);
        }
        let at = bytes.iter().position(|&byte| byte == MARK);
        let skipped = at.map_or(bytes.len(), |at| at + 1);
        line.consume(skipped);
        if at.is_some() {
            return Ok(());
        }
    }
}

async fn converse(line: &mut Line, command: &str, arguments: &Value) -> Result<Value, AgentError> {
    line.get_mut().write_all(&message(command, arguments)).await?;
    let mut answer = read(line).await?;
    if let Some(error) = answer.get("error") {
        let text: String = error["desc"].as_str().unwrap_or("it refuses").chars().take(500).collect();
        return Err(AgentError::Refused(text));
    }
    match answer.get_mut("return") {
        Some(value) => Ok(value.take()),
        None => Err(AgentError::Nonsense),
    }
}

/// The next line, as JSON.
async fn read(line: &mut (impl AsyncBufRead + Unpin)) -> Result<Value, AgentError> {
    let mut text = Vec::new();
    loop {
        let bytes = line.fill_buf().await?;
        if bytes.is_empty() {
            return Err(AgentError::Silent);
        }
        let end = bytes.iter().position(|&byte| byte == b'\n');
        let taken = end.map_or(bytes.len(), |end| end + 1);
        if text.len() + taken > LONGEST {
            return Err(AgentError::Nonsense);
        }
        text.extend_from_slice(&bytes[..taken]);
        line.consume(taken);
        if end.is_some() {
            return serde_json::from_slice(&text).map_err(|_| AgentError::Nonsense);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn one_that_is_held_is_told_nothing_until_it_is_asked_on_the_same_connection() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (agents, id) = (Arc::new(Agents::default()), Id::new());
        agents.hold(id, &path).await;
        agents.hold(id, &path).await;
        let (stream, _) = listener.accept().await.unwrap();
        let mut agent = BufReader::new(stream);
        let quiet = Duration::from_millis(50);
        assert!(tokio::time::timeout(quiet, agent.read_u8()).await.is_err());
        let asks = tokio::spawn({
            let (agents, path) = (Arc::clone(&agents), path.clone());
            async move { agents.call(id, &path, "guest-ping", Value::Null, PATIENCE).await }
        });
        assert_eq!(agent.read_u8().await.unwrap(), MARK);
        let sync = read(&mut agent).await.unwrap();
        assert_eq!(sync["execute"], "guest-sync-delimited");
        let answer = json!({ "return": sync["arguments"]["id"] });
        agent.get_mut().write_all(&[&[MARK], format!("{answer}\n").as_bytes()].concat()).await.unwrap();
        assert_eq!(read(&mut agent).await.unwrap()["execute"], "guest-ping");
        agent.get_mut().write_all(b"{\"return\": {}}\n").await.unwrap();
        assert_eq!(asks.await.unwrap().unwrap(), json!({}));
        assert!(tokio::time::timeout(quiet, listener.accept()).await.is_err(), "nobody connects again");
    }
}
