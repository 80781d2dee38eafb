//! How a guest starts, and how one that runs already is taken over from the daemon before.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use api::{Id, Problem, VmState};
use network::user::Passt;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;
use vmm::control::{State, StateReport};

use super::{Guest, Running};
use crate::paths;
use crate::supervisor::machine::{self, Machine};
use crate::supervisor::process::Process;
use crate::supervisor::rpc::{Client, RpcError};
use crate::supervisor::rpc_problem;

/// A process that does not listen after this time never will.
const PATIENCE: Duration = Duration::from_secs(20);

/// The part of what a process says that is kept when the next one starts, bytes.
const MOST_LOG: u64 = 1 << 20;

impl Guest {
    /// Starts it, because `actor` wants it or because it should run.
    pub(super) async fn start(&mut self, actor: Option<&str>) -> Result<(), Problem> {
        self.restart = None;
        self.record.wanted = true;
        self.set_state(VmState::Starting);
        self.save(None).await?;
        match self.launch().await {
            Ok(running) => {
                let status = &mut self.record.vm.status;
                status.pid = Some(running.process.pid());
                status.engine = Some(self.shared.engine_of(&self.record.vm.definition));
                status.pending_restart = false;
                self.running = Some(running);
                self.set_state(VmState::Running);
                let happening = self.happening("vm.started", "runs").by(actor.unwrap_or_default());
                self.save(Some(happening)).await
            }
            Err(problem) => {
                // Somebody who asked hears of it; one that should run is tried again.
                self.record.wanted = actor.is_none();
                self.failed_to_start(&problem).await;
                Err(problem)
            }
        }
    }

    async fn launch(&self) -> Result<Running, Problem> {
        let (shared, vm) = (self.shared.clone(), self.record.vm.clone());
        let plugs = shared.wires.connect(vm.id, &vm.definition).await?;
        let prepare = move || -> Result<(Machine, File), Problem> {
            let fresh = |error: io::Error| {
                Problem::internal(format!("{}: {error}", shared.paths.run(vm.id).display()))
            };
            shared.clear_run(vm.id).map_err(fresh)?;
            paths::make(&shared.paths.run(vm.id)).map_err(fresh)?;
            let engine = shared.engine_kind(&vm.definition);
            let machine = machine::open(
                &shared.paths,
                &shared.images,
                &shared.pools,
                vm.id,
                &vm.definition,
                engine,
                plugs,
            )
            .map_err(|error| Problem::conflict(error.to_string()))?;
            let log = open_log(&shared.paths.log(vm.id));
            Ok((machine, log.map_err(|error| Problem::internal(format!("the guest's log: {error}")))?))
        };
        let prepared = tokio::task::spawn_blocking(prepare).await;
        let (machine, log) = prepared.map_err(|error| Problem::internal(error.to_string()))??;
        let socket = self.shared.paths.control_socket(self.record.vm.id);
        let process = Process::start(&self.shared.program, &socket, user(self.record.vm.id), &log)
            .map_err(|error| Problem::internal(format!("the guest's process does not start: {error}")))?;
        self.shared.groups.place(self.record.vm.id, process.pid());
        let Machine { params, files, programs } = machine;
        let made = make(&process, &socket, params, files).await;
        match made {
            Ok((client, events)) => {
                programs.into_iter().filter_map(Passt::release).for_each(reap);
                Ok(Running { client, events, process, since: Instant::now() })
            }
            Err(error) => {
                process.kill();
                process.ended().await;
                Err(rpc_problem(error))
            }
        }
    }

    /// Looks for the process that a daemon before this one started.
    pub(super) async fn take_over(&mut self, booted: bool) {
        let socket = self.shared.paths.control_socket(self.record.vm.id);
        if !booted && let Ok((running, report)) = connect(&socket).await {
            self.record.vm.status.pid = Some(running.process.pid());
            self.running = Some(running);
            return self.take_over_in(report).await;
        }
        // Whatever is left in its cgroup and run folder is of no use.
        let _ = self.shared.clear_run(self.record.vm.id);
        if !self.state().is_alive() {
            return;
        }
        self.record.vm.status.pid = None;
        self.record.vm.status.engine = None;
        if booted {
            self.record.wanted = self.record.vm.definition.autostart.enabled;
            self.set_state(VmState::Stopped);
            let happening = self.happening("vm.stopped", "the host has been restarted");
            return self.note(Some(happening)).await;
        }
        self.ended_unseen("while no daemon ran, its process ended").await;
    }

    async fn take_over_in(&mut self, report: StateReport) {
        match report.state {
            State::Running | State::Paused => {
                let paused = report.state == State::Paused;
                // One that was being started stands still, too; whoever started it wanted it to run.
                if paused && self.state() != VmState::Paused && self.call("resume").await.is_ok() {
                    self.set_state(VmState::Running);
                } else {
                    self.set_state(if paused { VmState::Paused } else { VmState::Running });
                }
                let happening = self.happening("vm.taken-over", "goes on under a new daemon");
                self.note(Some(happening)).await;
            }
            State::Ended => self.on_event(report).await,
            State::Empty => {
                let message = "the daemon ended while it was being started";
                self.end("start-failure", message, None).await;
                if self.record.wanted {
                    self.restart = Some(Instant::now());
                }
            }
        }
    }

    /// Starts one that should run, because its time has come.
    pub(super) async fn on_restart(&mut self) {
        self.restart = None;
        if self.record.wanted && self.running.is_none() {
            // What went wrong is in the record, and it is tried again.
            let _ = self.start(None).await;
        }
    }
}

/// The user that a guest's process is: one that no person and no other guest is. This range is nobody's (systemd's "Users, Groups,
/// UIDs and GIDs on systemd Systems", 1879048192 to 2147483647); the last bits of an id are random.
fn user(guest: Id) -> u32 {
    let [.., a, b, c, d] = *guest.bytes();
    0x7000_0000 | u32::from_be_bytes([a, b, c, d]) & 0x0fff_ffff
}

/// Waits for the process to listen, has it make the machine, and lets that run.
async fn make(
    process: &Process,
    socket: &Path,
    params: Value,
    files: Vec<OwnedFd>,
) -> Result<(Client, mpsc::UnboundedReceiver<StateReport>), RpcError> {
    let (client, events) = tokio::select! {
        connected = connect_soon(socket) => connected?,
        _ = process.ended() => return Err(RpcError::Gone),
    };
    let _: Value = client.call("create", params, &files).await?;
    let _: Value = client.call("resume", Value::Null, &[]).await?;
    Ok((client, events))
}

/// Waits for the end of a program that ends with its guest, so that nothing of it stays.
fn reap(program: Child) {
    let pid = program.id() as i32;
    tokio::spawn(async move {
        // One that cannot be followed has ended.
        if let Ok(process) = Process::find(pid) {
            process.ended().await;
        }
    });
}

async fn connect_soon(socket: &Path) -> Result<(Client, mpsc::UnboundedReceiver<StateReport>), RpcError> {
    let until = Instant::now() + PATIENCE;
    let mut wait = Duration::from_millis(2);
    loop {
        match Client::connect(socket).await {
            Err(RpcError::Socket(_)) if Instant::now() < until => tokio::time::sleep(wait).await,
            other => return other,
        }
        wait = (wait * 2).min(Duration::from_millis(50));
    }
}

/// Connects to a process that runs already.
async fn connect(socket: &Path) -> Result<(Running, StateReport), RpcError> {
    let (client, events) = Client::connect(socket).await?;
    let pid = client.peer().await?.ok_or(RpcError::Gone)?;
    let process = Process::find(pid)?;
    let report = client.call("state", Value::Null, &[]).await?;
    Ok((Running { client, events, process, since: Instant::now() }, report))
}

/// The file that takes what a guest's process says. What the ones before said stays, if it is not too much.
fn open_log(path: &Path) -> io::Result<File> {
    if fs::metadata(path).is_ok_and(|log| log.len() > MOST_LOG) {
        fs::rename(path, path.with_extension("log.old"))?;
    }
    File::options().append(true).create(true).open(path)
}
