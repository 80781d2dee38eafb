//! How a guest starts, and how one that runs already is taken over from the daemon before.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use api::{Id, Problem, VmState};
use network::user::Passt;
use serde_json::Value;
use tokio::time::Instant;
use vmm::control::{State, StateReport};

use super::suspend::{LOOK_AGAIN, LOOK_LATER, set_clock};
use super::{Guest, Running, plan};
use crate::paths;
use crate::supervisor::machine::{self, Machine};
use crate::supervisor::process::Process;
use crate::supervisor::rpc::{Client, Notices, RpcError};
use crate::supervisor::turns::Turn;
use crate::supervisor::{random, rpc_problem, saved};

/// A process that does not listen after this time never will.
const PATIENCE: Duration = Duration::from_secs(20);

/// The part of what a process says that is kept when the next one starts, bytes.
const MOST_LOG: u64 = 1 << 20;

impl Guest {
    /// Starts it, because `actor` wants it or because it should run. One that is suspended goes on where it was.
    pub(super) async fn start(&mut self, actor: Option<&str>) -> Result<(), Problem> {
        self.restart = None;
        if self.record.reverting.is_some() {
            self.finish_going_back().await;
            if self.record.reverting.is_some() {
                let detail =
                    "it is half way back to a snapshot, and cannot go on from there; the log says why";
                return Err(Problem::conflict(format!("{}: {detail}", self.name())));
            }
        }
        let suspended = self.state() == VmState::Suspended;
        let (id, definition) = (self.record.vm.id, &self.record.vm.definition);
        if let Err(problem) = self.shared.shares.promise(id, definition) {
            return self.not_promised(actor, problem).await;
        }
        if !suspended {
            // Nobody must take what was forgotten for the place where it is to go on.
            let cleared = saved::clear(&self.shared.paths.suspended(self.record.vm.id));
            cleared.map_err(|error| Problem::internal(format!("where it was suspended: {error}")))?;
        }
        self.record.wanted = true;
        self.set_state(VmState::Starting);
        if let Err(problem) = self.save(None).await {
            self.give_back();
            return Err(problem);
        }
        match self.launch(suspended).await {
            Ok(running) => {
                let status = &mut self.record.vm.status;
                status.pid = Some(running.process.pid());
                status.engine = Some(self.shared.engine_of(&self.record.vm.definition));
                let machine = self.record.machine.take().filter(|_| suspended);
                let machine = machine.unwrap_or_else(|| plan::made(&self.record.vm.definition));
                let status = &mut self.record.vm.status;
                status.pending_restart = plan::needs_restart(&machine, &self.record.vm.definition);
                self.record.machine = Some(machine);
                self.record.again = false;
                self.running = Some(running);
                self.settle_promise();
                self.show_figures().await;
                self.tell_places(self.record.made_of()).await;
                self.set_state(VmState::Running);
                let (kind, message) =
                    if suspended { ("vm.resumed", "goes on where it was") } else { ("vm.started", "runs") };
                let happening = self.happening(kind, message).by(actor.unwrap_or_default());
                if suspended {
                    self.forget_suspended();
                    let look: &[_] = if self.record.twin.is_some() { &LOOK_LATER } else { &LOOK_AGAIN };
                    set_clock(&self.shared, self.record.vm.id, look);
                    self.renew_random_numbers();
                    self.begin_to_be_itself();
                } else {
                    // It has looked at its hardware itself.
                    self.record.twin = None;
                }
                self.save(Some(happening)).await
            }
            Err(problem) => {
                let _ = self.shared.clear_run(self.record.vm.id);
                if suspended && self.is_left_suspended().await {
                    self.give_back();
                    return Err(problem);
                }
                // Somebody who asked hears of it; one that should run is tried again.
                self.record.wanted = actor.is_none();
                self.failed_to_start(&problem).await;
                Err(problem)
            }
        }
    }

    /// What it should have cannot be promised: it stays as it is; one that should run is tried again.
    async fn not_promised(&mut self, actor: Option<&str>, problem: Problem) -> Result<(), Problem> {
        if actor.is_none() && self.state() != VmState::Suspended {
            self.failed_to_start(&problem).await;
        }
        Err(problem)
    }

    /// Gives back what it is promised, unless it is about to start again by itself.
    pub(super) fn give_back(&self) {
        match self.restart {
            Some(_) => self.shared.shares.ended(self.record.vm.id),
            None => self.shared.shares.give_back(self.record.vm.id),
        }
    }

    /// Starts its process and lets it run; one that is `suspended` from where it was.
    async fn launch(&self, suspended: bool) -> Result<Running, Problem> {
        let id = self.record.vm.id;
        let log = self.fresh_folder().await?;
        let socket = self.shared.paths.control_socket(id);
        let process = Process::start(&self.shared.program, &socket, user(id), &log)
            .map_err(|error| Problem::internal(format!("the guest's process does not start: {error}")))?;
        match self.let_run(&process, &socket, suspended).await {
            Ok((client, notices, turn)) => Ok(Running {
                client,
                notices,
                process,
                since: Instant::now(),
                becoming: None,
                not_itself: 0,
                turn,
            }),
            Err(problem) => {
                process.kill();
                process.ended().await;
                Err(problem)
            }
        }
    }

    /// An empty folder for what it has while it runs, and the file that its process writes to.
    async fn fresh_folder(&self) -> Result<File, Problem> {
        let (shared, id) = (self.shared.clone(), self.record.vm.id);
        let make = move || -> Result<File, Problem> {
            let (run, own) = (shared.paths.run(id), shared.paths.vm(id));
            let at = |folder: &Path, error| Problem::internal(format!("{}: {error}", folder.display()));
            shared.clear_run(id).map_err(|error| at(&run, error))?;
            for folder in [&run, &own] {
                paths::make(folder).map_err(|error| at(folder, error))?;
            }
            open_log(&shared.paths.process_log(id))
                .map_err(|error| Problem::internal(format!("the guest's log: {error}")))
        };
        tokio::task::spawn_blocking(make).await.map_err(|error| Problem::internal(error.to_string()))?
    }

    /// Has a process that has just begun make its machine and let it run. All that the machine is made of is got ready while the process
    /// does so itself.
    async fn let_run(
        &self,
        process: &Process,
        socket: &Path,
        suspended: bool,
    ) -> Result<(Client, Notices, Option<Turn>), Problem> {
        // Before it has a machine, whose memory is to count as the guest's. The kernel takes its time for it (a grace period).
        let (shared, id, pid) = (self.shared.clone(), self.record.vm.id, process.pid());
        let placed = tokio::task::spawn_blocking(move || shared.groups.place(id, pid));
        let parts = self.parts(suspended).await;
        // If that failed it has been said.
        let _ = placed.await;
        let Machine { params, files, programs } = parts?;
        let (client, notices) = make(process, socket, params, files).await.map_err(rpc_problem)?;
        self.shared.agents.hold(id, &self.shared.paths.agent_socket(id)).await;
        let turn = match &self.record.twin {
            Some(_) if suspended => self.shared.turns.next().await,
            _ => None,
        };
        let place = suspended.then(|| self.shared.paths.suspended(self.record.vm.id));
        let (client, notices) = run(client, notices, place).await?;
        programs.into_iter().filter_map(Passt::release).for_each(reap);
        Ok((client, notices, turn))
    }

    /// What its machine is made of: files, plugs, and programs behind them.
    async fn parts(&self, suspended: bool) -> Result<Machine, Problem> {
        let (shared, mut vm) = (self.shared.clone(), self.record.vm.clone());
        if suspended {
            // It goes on with what it had, whatever it is to have when it is started again.
            vm.definition = self.record.made_of().clone();
        }
        let again = self.record.again;
        let twin = self.record.twin.clone().filter(|_| suspended);
        let plugs = shared.wires.connect(vm.id, &vm.definition).await?;
        let open = move || -> Result<Machine, Problem> {
            let engine = (shared.engine_kind(&vm.definition), shared.tsc_khz);
            let from = suspended.then(|| saved::open(&shared.paths.suspended(vm.id))).transpose();
            let from = from.map_err(|error| Problem::conflict(error.to_string()))?;
            let (paths, images, pools) = (&shared.paths, &shared.images, &shared.pools);
            let machine = machine::open(paths, images, pools, vm.id, &vm.definition, engine, plugs);
            let mut machine = machine.map_err(|error| Problem::conflict(error.to_string()))?;
            if let Some(from) = from {
                machine.go_on_from(from, again);
            }
            if let Some(twin) = twin {
                machine.knows(&twin.aliases(&vm.definition));
            }
            Ok(machine)
        };
        tokio::task::spawn_blocking(open).await.map_err(|error| Problem::internal(error.to_string()))?
    }

    /// Looks for the process that a daemon before this one started.
    pub(super) async fn take_over(&mut self, booted: bool) {
        let socket = self.shared.paths.control_socket(self.record.vm.id);
        if !booted && let Ok((running, report)) = connect(&socket).await {
            let pid = running.process.pid();
            self.running = Some(running);
            if self.state() != VmState::Suspended && self.record.reverting.is_none() {
                self.record.vm.status.pid = Some(pid);
                let id = self.record.vm.id;
                self.shared.agents.hold(id, &self.shared.paths.agent_socket(id)).await;
                return self.take_over_in(report).await;
            }
            // It was written to storage, or is to go back to a snapshot, and was to end.
            self.end_process(true).await;
        }
        // Whatever is left in its cgroup and run folder is of no use.
        let _ = self.shared.clear_run(self.record.vm.id);
        self.finish_going_back().await;
        if !self.state().is_alive() {
            if self.state() != VmState::Suspended {
                // An earlier daemon may have had no time for it.
                self.forget_suspended();
            }
            return;
        }
        if self.is_left_suspended().await {
            return;
        }
        self.has_no_process();
        if booted {
            self.machine_is_gone().await;
            self.record.wanted = self.record.vm.definition.autostart.enabled;
            self.set_state(VmState::Stopped);
            let happening = self.happening("vm.stopped", "the host has been restarted");
            return self.note(Some(happening)).await;
        }
        self.ended_unseen("while no daemon ran, its process ended").await;
    }

    /// Has its process say to this daemon, too, what it does.
    async fn show_figures(&self) {
        if let Some(running) = &self.running {
            let alone = self.shared.groups.has(self.record.vm.id, running.process.pid());
            self.shared.figures.begin(self.record.vm.id, &running.client, alone).await;
            let gives = serde_json::json!({ "gives": self.shared.reporting });
            if let Err(error) = running.client.call::<serde_json::Value>("reporting", gives, &[]).await {
                tracing::debug!("guest {}: {error}", self.record.vm.definition.name);
            }
        }
    }

    async fn take_over_in(&mut self, report: StateReport) {
        match report.state {
            State::Running | State::Paused => {
                self.settle_promise();
                self.show_figures().await;
                let paused = report.state == State::Paused && self.stays_paused().await;
                self.set_state(if paused { VmState::Paused } else { VmState::Running });
                if !paused {
                    // What it has gone on from, or was being written to.
                    self.forget_suspended();
                    self.begin_to_be_itself();
                }
                self.wake_left_resting().await;
                self.reconcile().await;
                self.on_no_room(&report.no_room).await;
                let happening = self.happening("vm.taken-over", "goes on under a new daemon");
                self.note(Some(happening)).await;
            }
            State::Ended => self.on_event(report).await,
            State::Empty => {
                self.end_process(true).await;
                if self.is_left_suspended().await {
                    let _ = self.shared.clear_run(self.record.vm.id);
                    return;
                }
                let message = "the daemon ended while it was being started";
                self.end("start-failure", message, None).await;
                if self.record.wanted {
                    self.restart = Some(Instant::now());
                }
            }
        }
    }

    /// Whether one that stands still is to; it goes on if not. One that was being started stands still, too, and so does one that was
    /// being suspended.
    async fn stays_paused(&mut self) -> bool {
        let place = self.shared.paths.suspended(self.record.vm.id);
        match self.state() {
            VmState::Paused => return true,
            VmState::Suspending => {
                // Nobody waits for that any more. It may be done, or have nothing to do.
                let _ = self.call("save_cancel").await;
                saved::forget(&place);
                if self.record.stood_still {
                    return true;
                }
            }
            _ if saved::is_there(&place) => {
                if let Err(error) = saved::spend(&place) {
                    tracing::error!("{} does not go on from where it was suspended: {error}", self.name());
                    return true;
                }
                saved::forget(&place);
            }
            _ => {}
        }
        let goes_on = self.call("resume").await.is_ok();
        if goes_on {
            set_clock(&self.shared, self.record.vm.id, &LOOK_AGAIN);
            self.renew_random_numbers();
        }
        !goes_on
    }

    /// A twin's are seeded as it becomes itself.
    fn renew_random_numbers(&self) {
        if self.record.twin.is_none() {
            random::renew(&self.shared, self.record.vm.id);
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

/// Waits for the process to listen, and has it make the machine.
async fn make(
    process: &Process,
    socket: &Path,
    params: Value,
    files: Vec<OwnedFd>,
) -> Result<(Client, Notices), RpcError> {
    let (client, notices) = tokio::select! {
        connected = connect_soon(socket) => connected?,
        _ = process.ended() => return Err(RpcError::Gone),
    };
    let _: Value = client.call("create", params, &files).await?;
    Ok((client, notices))
}

/// Lets a machine run. Nobody may go on again from where it went on.
async fn run(client: Client, notices: Notices, from: Option<PathBuf>) -> Result<(Client, Notices), Problem> {
    if let Some(place) = from {
        let spent = tokio::task::spawn_blocking(move || saved::spend(&place)).await;
        let spent = spent.map_err(std::io::Error::other).and_then(|spent| spent);
        spent.map_err(|error| Problem::internal(format!("what it goes on from: {error}")))?;
    }
    let _: Value = client.call("resume", Value::Null, &[]).await.map_err(rpc_problem)?;
    Ok((client, notices))
}

/// Waits for the end of a program that ends with its guest, so that nothing of it stays.
pub(super) fn reap(program: Child) {
    let pid = program.id() as i32;
    tokio::spawn(async move {
        // One that cannot be followed has ended.
        if let Ok(process) = Process::find(pid) {
            process.ended().await;
        }
    });
}

async fn connect_soon(socket: &Path) -> Result<(Client, Notices), RpcError> {
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
    let (client, notices) = Client::connect(socket).await?;
    let pid = client.peer().await?.ok_or(RpcError::Gone)?;
    let process = Process::find(pid)?;
    let report = client.call("state", Value::Null, &[]).await?;
    let since = Instant::now();
    Ok((Running { client, notices, process, since, becoming: None, not_itself: 0, turn: None }, report))
}

/// The file that takes what a guest's process says. What the ones before said stays, if it is not too much.
fn open_log(path: &Path) -> io::Result<File> {
    if fs::metadata(path).is_ok_and(|log| log.len() > MOST_LOG) {
        fs::rename(path, path.with_extension("log.old"))?;
    }
    File::options().append(true).create(true).open(path)
}
