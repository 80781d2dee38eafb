//! What is told of an alarm, and how: to a program, or to a server that waits for it.

use std::io::Read;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use api::{ActionResult, AlarmAction, Id, Name, Severity, Time};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::time::timeout;
use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};

/// How much of what a program prints, or a server answers, is kept: the end of it, bytes.
const KEPT: usize = 4096;
/// How long is read on after a program has ended: others that it left behind may hold its output open.
const REST: Duration = Duration::from_millis(200);

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// An alarm is raised.
    Raised,
    /// It is cleared.
    Cleared,
    /// Nothing: somebody tries whether this gets through.
    Test,
}

impl What {
    fn word(&self) -> &'static str {
        match self {
            What::Raised => "raised",
            What::Cleared => "cleared",
            What::Test => "test",
        }
    }
}

/// What is told: the JSON of a webhook, the variables of a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// The same for each try to tell it.
    pub id: Id,
    /// When it happened.
    pub time: Time,
    /// What happened.
    pub state: What,
    /// The alarm.
    pub alarm: Name,
    /// How bad it is.
    pub severity: Severity,
    /// What the alarm is for.
    pub description: String,
    /// What it is about: `/api/v1/vms/…`.
    pub target: String,
    /// The name of that.
    pub name: String,
    /// The number that was seen.
    pub value: f64,
    /// The threshold.
    pub threshold: f64,
    /// The unit of both; nothing for a number of events.
    pub unit: String,
    /// All that in words.
    pub message: String,
    /// Since when it has been bad.
    pub since: Time,
    /// The host that tells it.
    pub host: Teller,
}

/// The host that tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Teller {
    /// Its id.
    pub id: Id,
    /// Its name.
    pub name: String,
}

/// How telling it once has ended.
pub struct Told {
    /// For people.
    pub result: ActionResult,
    /// Whether another try may do better.
    pub again: bool,
}

impl Told {
    fn new(action: &AlarmAction, ok: bool, message: impl Into<String>, output: &[u8]) -> Self {
        let result =
            ActionResult { action: action.short(), ok, message: message.into(), output: plain(output) };
        Self { result, again: false }
    }
}

/// The end of a text, without what terminals take for orders.
fn plain(text: &[u8]) -> String {
    let text = &text[text.len().saturating_sub(KEPT)..];
    let text = String::from_utf8_lossy(text);
    text.chars().filter(|c| *c == '\n' || !c.is_control()).collect::<String>().trim_end().to_owned()
}

/// Does an action once.
pub async fn tell(action: &AlarmAction, notice: &Notice) -> Told {
    let patience = Duration::from_secs(action.timeout.into());
    match &action.webhook {
        Some(url) => {
            let (again, url, notice) = (action.clone(), url.clone(), notice.clone());
            let sent = tokio::task::spawn_blocking(move || send(&again, &url, &notice, patience)).await;
            sent.unwrap_or_else(|error| Told::new(action, false, error.to_string(), &[]))
        }
        None => run(action, notice, patience).await,
    }
}

fn variables(notice: &Notice) -> [(&'static str, String); 11] {
    [
        ("TESSERA_ALARM", notice.alarm.to_string()),
        ("TESSERA_ALARM_STATE", notice.state.word().into()),
        ("TESSERA_ALARM_SEVERITY", notice.severity.word().into()),
        ("TESSERA_ALARM_TARGET", notice.target.clone()),
        ("TESSERA_ALARM_NAME", notice.name.clone()),
        ("TESSERA_ALARM_VALUE", notice.value.to_string()),
        ("TESSERA_ALARM_THRESHOLD", notice.threshold.to_string()),
        ("TESSERA_ALARM_UNIT", notice.unit.clone()),
        ("TESSERA_ALARM_MESSAGE", notice.message.clone()),
        ("TESSERA_ALARM_TIME", notice.time.to_string()),
        ("TESSERA_ALARM_HOST", notice.host.name.clone()),
    ]
}

/// Runs a program, in a process group of its own, which is ended when its time is over.
async fn run(action: &AlarmAction, notice: &Notice, patience: Duration) -> Told {
    let failed =
        |error: &dyn std::fmt::Display| Told::new(action, false, format!("did not start: {error}"), &[]);
    let [program, arguments @ ..] = action.command.as_slice() else { return failed(&"there is no program") };
    let (reader, writer) = match std::io::pipe().and_then(|(reader, writer)| {
        let reader = pipe::Receiver::from_owned_fd(reader.into())?;
        Ok((reader, (writer.try_clone()?, writer)))
    }) {
        Ok(pipe) => pipe,
        Err(error) => return failed(&error),
    };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().current_dir("/").process_group(0).kill_on_drop(true);
    command
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .envs(variables(notice));
    command.stdin(Stdio::null()).stdout(writer.0).stderr(writer.1);
    let spawned = command.spawn();
    // It holds the other end of the pipe.
    drop(command);
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => return failed(&error),
    };
    let group = child.id().and_then(|id| Pid::from_raw(id as i32));
    let mut output = Output { reader, kept: Vec::new() };
    let ended = timeout(patience, async {
        tokio::select! {
            status = child.wait() => status,
            () = output.read() => child.wait().await,
        }
    })
    .await;
    if ended.is_err() {
        if let Some(group) = group {
            // It may have ended this moment.
            let _ = kill_process_group(group, Signal::KILL);
        }
        // It does end then, and is not left as a zombie.
        let _ = child.wait().await;
    }
    let _ = timeout(REST, output.read()).await;
    match ended {
        Ok(Ok(status)) => Told::new(action, status.success(), how(status), &output.kept),
        Ok(Err(error)) => Told::new(action, false, error.to_string(), &output.kept),
        Err(_) => {
            let message = format!("did not end within {} s, and was ended", patience.as_secs());
            Told::new(action, false, message, &output.kept)
        }
    }
}

fn how(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".into(),
    }
}

/// What a program prints, the end of it.
struct Output {
    reader: pipe::Receiver,
    kept: Vec<u8>,
}

impl Output {
    /// Reads until nobody holds the other end.
    async fn read(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(count) = self.reader.read(&mut buffer).await {
            if count == 0 {
                return;
            }
            self.kept.extend_from_slice(&buffer[..count]);
            let surplus = self.kept.len().saturating_sub(KEPT);
            self.kept.drain(..surplus);
        }
    }
}

/// Sends a notice to whoever waits for it there. Where that leads elsewhere it is not followed: only this address was given.
fn send(action: &AlarmAction, url: &str, notice: &Notice, patience: Duration) -> Told {
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let tls = TlsConfig::builder()
        // Those that the host trusts, its own authority included.
        .root_certs(RootCerts::PlatformVerifier)
        .unversioned_rustls_crypto_provider(provider)
        .build();
    let config = Agent::config_builder()
        .tls_config(tls)
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_global(Some(patience))
        .user_agent(concat!("tessera/", env!("CARGO_PKG_VERSION")))
        .build();
    let body = match serde_json::to_vec(notice) {
        Ok(body) => body,
        Err(error) => return Told::new(action, false, error.to_string(), &[]),
    };
    let request = Agent::new_with_config(config).post(url).header("Content-Type", "application/json");
    match request.header("Idempotency-Key", format!("\"{}\"", notice.id)).send(&body[..]) {
        Err(error) => {
            use ureq::Error as E;
            let again = matches!(error, E::Io(_) | E::Timeout(_) | E::ConnectionFailed | E::HostNotFound);
            Told { again, ..Told::new(action, false, error.to_string(), &[]) }
        }
        Ok(mut response) => {
            let status = response.status();
            let mut text = Vec::new();
            // What is not read is not needed.
            let _ = response.body_mut().as_reader().take(KEPT as u64).read_to_end(&mut text);
            let message = match status.is_redirection() {
                true => format!("it answered {status}; nobody is sent on to another address"),
                false => format!("it answered {status}"),
            };
            let again = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
            Told { again, ..Told::new(action, status.is_success(), message, &text) }
        }
    }
}
