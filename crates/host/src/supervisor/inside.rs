//! What is done inside a guest, through its agent.

use std::net::IpAddr;
use std::time::Duration;

use api::{
    AgentInfo, Disk, Encoding, Exec, ExecResult, GuestInterface, GuestPassword, Id, Problem, Vm, VmDefinition,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::agent::{AgentError, PATIENCE};
use super::{Shared, Supervisor, store_problem};
use crate::events::Happening;
use crate::records;
use crate::store::Transaction;

/// How a program in a guest is waited for.
pub(super) struct Pace {
    /// How long the agent may take to start it.
    pub start: Duration,
    /// When its end is looked for first. Every look costs the guest time that the program could have.
    pub first: Duration,
    /// How often that is done at last.
    pub last: Duration,
}

/// Of a program that somebody waits for.
const AWAITED: Pace =
    Pace { start: PATIENCE, first: Duration::from_millis(5), last: Duration::from_millis(500) };

/// An interface as guest-network-get-interfaces tells it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Interface {
    name: String,
    hardware_address: Option<String>,
    #[serde(default)]
    ip_addresses: Vec<Address>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Address {
    ip_address: IpAddr,
    prefix: u8,
}

/// A program as guest-exec-status tells it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct Program {
    exited: bool,
    #[serde(rename = "exitcode")]
    exit_code: Option<i32>,
    signal: Option<i32>,
    out_data: String,
    err_data: String,
    out_truncated: bool,
    err_truncated: bool,
}

/// A file system as guest-get-fsinfo tells it.
#[derive(Debug, Deserialize)]
struct Mounted {
    mountpoint: String,
    #[serde(default)]
    disk: Vec<MountedDisk>,
}

#[derive(Debug, Deserialize)]
struct MountedDisk {
    #[serde(default)]
    serial: String,
}

fn problem(error: AgentError) -> Problem {
    Problem::conflict(error.to_string())
}

fn nonsense<E>(_: E) -> Problem {
    problem(AgentError::Nonsense)
}

async fn ask(shared: &Shared, id: Id, command: &str, arguments: Value) -> Result<Value, Problem> {
    ask_within(PATIENCE, shared, id, command, arguments).await
}

async fn ask_within(
    patience: Duration,
    shared: &Shared,
    id: Id,
    command: &str,
    arguments: Value,
) -> Result<Value, Problem> {
    let socket = shared.paths.agent_socket(id);
    shared.agents.call(id, &socket, command, arguments, patience).await.map_err(problem)
}

/// Runs a program in a guest as guest-exec is told by `order`, and waits for its end.
///
/// # Errors
/// If no agent answers, the program cannot be started, or runs on after `timeout`.
pub(super) async fn run(
    shared: &Shared,
    id: Id,
    order: Value,
    timeout: Duration,
    pace: Pace,
) -> Result<Program, Problem> {
    let until = Instant::now() + timeout;
    let started = ask_within(pace.start, shared, id, "guest-exec", order).await?;
    let pid = started["pid"].as_i64().ok_or(AgentError::Nonsense).map_err(problem)?;
    let mut wait = pace.first;
    loop {
        sleep(wait).await;
        wait = (wait * 2).min(pace.last);
        // One that has started it is there, and may be slow. The result of a question that is given up is lost: the agent tells it once.
        let patience = until.saturating_duration_since(Instant::now()).max(PATIENCE);
        let status = ask_within(patience, shared, id, "guest-exec-status", json!({ "pid": pid })).await?;
        let program: Program = serde_json::from_value(status).map_err(nonsense)?;
        if program.exited {
            return Ok(program);
        }
        if Instant::now() + wait > until {
            let detail =
                format!("it runs on in the guest as process {pid}: {} s have passed", timeout.as_secs());
            return Err(Problem::new(504, "Not ended in time", detail));
        }
    }
}

impl Supervisor {
    /// A problem if a guest that runs has mounted a disk that it would not have any more. Nobody knows that of one without an agent.
    pub(super) async fn check_unused(&self, vm: &Vm, after: &VmDefinition) -> Result<(), Problem> {
        let kept = |number: usize, disk: &Disk| {
            after
                .disks
                .iter()
                .enumerate()
                .any(|(place, other)| other.number(place) == number && other.source == disk.source)
        };
        let numbered = vm.definition.disks.iter().enumerate();
        let numbered = numbered.map(|(place, disk)| (disk.number(place), disk));
        let goes: Vec<_> = numbered.filter(|(number, disk)| !kept(*number, disk)).collect();
        if goes.is_empty() {
            return Ok(());
        }
        let socket = self.shared.paths.agent_socket(vm.id);
        let told = self.shared.agents.call(vm.id, &socket, "guest-get-fsinfo", Value::Null, PATIENCE).await;
        let mounted: Vec<Mounted> =
            told.ok().and_then(|told| serde_json::from_value(told).ok()).unwrap_or_default();
        for (number, disk) in goes {
            let serial = disk.serial_at(number);
            let uses = |mounted: &&Mounted| mounted.disk.iter().any(|disk| disk.serial == serial);
            if let Some(used) = mounted.iter().find(uses) {
                let what = format!("{}: disk {number} is mounted at {}", vm.definition.name, used.mountpoint);
                return Err(Problem::conflict(format!(
                    "{what}: unmount it in the guest first, or say force"
                )));
            }
        }
        Ok(())
    }

    async fn ask_agent(&self, id: Id, command: &str, arguments: Value) -> Result<Value, Problem> {
        ask(&self.shared, id, command, arguments).await
    }

    /// When a guest's agent has said something, the last time since the guest was started.
    pub fn agent_heard(&self, id: Id) -> Option<api::Time> {
        self.shared.agents.last_heard(id)
    }

    /// Asks a guest's agent for nothing but an answer.
    pub async fn ping_agent(&self, id: Id) {
        // Whether it came can be asked.
        let _ = self.ask_agent(id, "guest-ping", Value::Null).await;
    }

    /// What a guest's agent says of the guest.
    ///
    /// # Errors
    /// If no agent answers.
    pub async fn agent_info(&self, id: Id) -> Result<AgentInfo, Problem> {
        let about = self.ask_agent(id, "guest-info", Value::Null).await?;
        let mut info =
            AgentInfo { version: text(&about["version"]).unwrap_or_default(), ..AgentInfo::default() };
        // What an older agent does not know is left out.
        if let Ok(name) = self.ask_agent(id, "guest-get-host-name", Value::Null).await {
            info.hostname = text(&name["host-name"]);
        }
        if let Ok(os) = self.ask_agent(id, "guest-get-osinfo", Value::Null).await {
            (info.os, info.kernel) = (text(&os["pretty-name"]), text(&os["kernel-release"]));
        }
        if let Ok(interfaces) = self.ask_agent(id, "guest-network-get-interfaces", Value::Null).await {
            let interfaces: Vec<Interface> = serde_json::from_value(interfaces).map_err(nonsense)?;
            info.interfaces = interfaces.into_iter().map(GuestInterface::from).collect();
        }
        Ok(info)
    }

    /// Runs a program in a guest and waits for its end.
    ///
    /// # Errors
    /// If no agent answers, the program cannot be started, or runs on after the time it was given.
    pub async fn exec(&self, id: Id, name: &str, exec: Exec, actor: &str) -> Result<ExecResult, Problem> {
        let [program, arguments @ ..] = exec.command.as_slice() else {
            return Err(Problem::invalid(exec.check()));
        };
        let input = match exec.encoding {
            Encoding::Text => STANDARD.encode(&exec.input),
            Encoding::Base64 => exec.input.clone(),
        };
        let mut order = json!({ "path": program, "arg": arguments, "capture-output": true });
        if !exec.environment.is_empty() {
            order["env"] = exec.environment.iter().map(|(key, value)| format!("{key}={value}")).collect();
        }
        if !input.is_empty() {
            order["input-data"] = input.into();
        }
        // What it is given may be a secret; that it ran is not.
        self.note(id, name, "vm.exec", format!("was asked to run {program}"), actor).await?;
        let timeout = Duration::from_secs(exec.timeout.into());
        // One that has answered is there, and may be slow: its guest may have a hundredth of a processor.
        let start = self.shared.agents.last_heard(id).map_or(PATIENCE, |_| timeout.max(PATIENCE));
        run(&self.shared, id, order, timeout, Pace { start, ..AWAITED }).await?.result(exec.encoding)
    }

    /// Sets the password of an account in a guest.
    ///
    /// # Errors
    /// If no agent answers, or it refuses.
    pub async fn set_password(
        &self,
        id: Id,
        name: &str,
        new: &GuestPassword,
        actor: &str,
    ) -> Result<(), Problem> {
        let password = STANDARD.encode(&new.password);
        let arguments = json!({ "username": new.user, "password": password, "crypted": false });
        self.ask_agent(id, "guest-set-user-password", arguments).await?;
        self.note(id, name, "vm.password", format!("has a new password of {}", new.user), actor).await
    }

    async fn note(
        &self,
        id: Id,
        name: &str,
        kind: &str,
        message: String,
        actor: &str,
    ) -> Result<(), Problem> {
        let happening = Happening::new(kind, message).to(records::path(id), name).by(actor);
        let transaction = happening.add(Transaction::new()).map_err(store_problem)?;
        self.shared.store.commit(transaction).await.map(drop).map_err(store_problem)
    }
}

/// A guest's own words, not too many of them.
fn text(value: &Value) -> Option<String> {
    value.as_str().map(|text| text.chars().take(256).collect())
}

impl From<Interface> for GuestInterface {
    fn from(interface: Interface) -> Self {
        let address = |Address { ip_address, prefix }| format!("{ip_address}/{prefix}");
        GuestInterface {
            name: interface.name,
            mac: interface.hardware_address,
            addresses: interface.ip_addresses.into_iter().map(address).collect(),
        }
    }
}

impl Program {
    /// What it wrote, and how it ended.
    ///
    /// # Errors
    /// If the agent said what no agent says.
    pub(super) fn result(self, encoding: Encoding) -> Result<ExecResult, Problem> {
        let read = |data: String| match encoding {
            Encoding::Base64 => Ok(data),
            Encoding::Text => STANDARD.decode(data).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        };
        Ok(ExecResult {
            exit_status: self.exit_code,
            signal: self.signal,
            stdout: read(self.out_data).map_err(nonsense)?,
            stderr: read(self.err_data).map_err(nonsense)?,
            truncated: self.out_truncated || self.err_truncated,
        })
    }
}
