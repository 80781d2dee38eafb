//! How a guest is written to storage, and goes on from there.
//!
//! ```text
//! running, paused ──▶ suspending ──▶ suspended ──▶ starting ──▶ running
//!        ▲                │ fails, called off, daemon gone
//!        └────────────────┘
//! ```
//!
//! The process stands still while it writes. Only when what it wrote is whole and durable does the store say that the guest is suspended,
//! and only then does the process end; until then everything can be undone by letting it go on.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::{Id, Problem, VmState};
use serde_json::{Value, json};
use storage::Progress;
use tokio::time::{Instant, sleep};
use vmm::control::{SaveEnd, SaveProgress, Saved};

use super::{Guest, Reply};
use crate::supervisor::agent::AgentError;
use crate::supervisor::{Shared, rpc_problem, saved};

/// How often somebody who waits hears how far it is.
const LOOK: Duration = Duration::from_millis(250);
/// How long an agent may take to answer after its guest went on.
const AGENT_PATIENCE: Duration = Duration::from_secs(20);
/// How much a guest's clock may be wrong when it was set.
const WRONG: Duration = Duration::from_millis(50);
/// How often an agent that hears late is asked before it is left alone for a while.
const TRIES: u32 = 10;
/// After how long it is looked whether a clock that was set is right, the first time and the next ones.
pub(super) const LOOK_AGAIN: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(10), Duration::from_secs(30)];
/// The same for one that becomes itself, as many others may at the same time: what is looked at takes from that.
pub(super) const LOOK_LATER: [Duration; 2] = [Duration::from_secs(20), Duration::from_secs(60)];

/// A guest that is being written to storage.
pub struct Suspending {
    draft: saved::Draft,
    /// What it was before.
    before: VmState,
    pause: Duration,
    actor: String,
    progress: Arc<dyn Progress + Send + Sync>,
    reply: Reply,
    /// When it is looked next how far it is.
    pub(super) look: Instant,
}

fn host_problem(error: impl std::fmt::Display) -> Problem {
    Problem::internal(format!("the guest cannot be written to storage: {error}"))
}

impl Guest {
    /// Begins to write it to storage: the answer comes when it is there.
    pub(super) async fn suspend(
        &mut self,
        actor: String,
        progress: Arc<dyn Progress + Send + Sync>,
        reply: Reply,
    ) {
        let before = self.state();
        match self.begin_to_suspend(&actor).await {
            Ok((draft, pause)) => {
                progress.step("writes memory");
                let look = Instant::now() + LOOK;
                self.suspending = Some(Suspending { draft, before, pause, actor, progress, reply, look });
            }
            Err(problem) => drop(reply.send(Err(problem))),
        }
    }

    async fn begin_to_suspend(&mut self, actor: &str) -> Result<(saved::Draft, Duration), Problem> {
        let before = self.state();
        self.must_be(&[VmState::Running, VmState::Paused], "only one that runs can be suspended")?;
        self.must_not_change()?;
        let place = self.shared.paths.suspended(self.record.vm.id);
        saved::clear(&place).map_err(host_problem)?;
        let (draft, memory) = saved::Draft::new(&place).map_err(host_problem)?;
        self.set_state(VmState::Suspending);
        self.record.stood_still = before == VmState::Paused;
        let happening = self.happening("vm.suspending", "is being written to storage").by(actor);
        self.save(Some(happening)).await?;
        let result = self.stand_still(&draft, memory).await;
        if result.is_err() {
            self.go_on(before, "could not be written to storage, and goes on").await;
        }
        Ok((draft, result?))
    }

    async fn stand_still(&self, draft: &saved::Draft, memory: std::fs::File) -> Result<Duration, Problem> {
        let gone = || Problem::conflict(format!("{} has no process", self.name()));
        let client = &self.running.as_ref().ok_or_else(gone)?.client;
        let (order, files) = (json!({ "memory": 0, "stay": true }), [memory.into()]);
        let told = client.call::<Saved>("save", order, &files).await.map_err(rpc_problem)?;
        draft.write_state(&told.state).map_err(host_problem)?;
        Ok(Duration::from_nanos(told.pause_ns))
    }

    /// What was begun is undone: the process goes on as it was.
    async fn go_on(&mut self, before: VmState, message: &str) {
        if before == VmState::Running {
            match self.call("resume").await {
                Ok(_) => set_clock(&self.shared, self.record.vm.id, &LOOK_AGAIN),
                Err(problem) => tracing::error!("{} does not go on: {problem}", self.name()),
            }
        }
        self.set_state(before);
        let happening = self.happening("vm.not-suspended", message);
        self.note(Some(happening)).await;
    }

    /// Tells whoever waits how far it is, and calls it off if they want that.
    pub(super) async fn on_look(&mut self) {
        let Some(suspending) = &mut self.suspending else { return };
        suspending.look = Instant::now() + LOOK;
        let Some(running) = &self.running else { return };
        if suspending.progress.cancelled() {
            // It may have ended meanwhile; its end is told in any case.
            let _ = running.client.call::<serde_json::Value>("save_cancel", json!(null), &[]).await;
        } else if let Ok(at) = running.client.call::<SaveProgress>("save_progress", json!(null), &[]).await {
            suspending.progress.amount(at.done, at.total);
        }
    }

    /// Its memory is written, or will not be.
    pub(super) async fn on_saved(&mut self, end: SaveEnd) {
        let Some(suspending) = self.suspending.take() else { return };
        let Suspending { draft, before, pause, actor, reply, .. } = suspending;
        let kept = match end.error {
            Some(error) => Err(Problem::conflict(format!("{} is not suspended: {error}", self.name()))),
            None => {
                let kept = tokio::task::spawn_blocking(move || draft.keep()).await;
                kept.map_err(host_problem).and_then(|kept| kept.map_err(host_problem))
            }
        };
        let done = match kept {
            Ok(()) => self.is_suspended(end.bytes, pause, &actor).await,
            Err(problem) => Err(problem),
        };
        if done.is_err() {
            self.forget_suspended();
            self.go_on(before, "could not be written to storage, and goes on").await;
        }
        // Nobody may wait for it.
        let _ = reply.send(done);
    }

    /// From now on it is on storage. Its process, which stands still, goes.
    async fn is_suspended(&mut self, bytes: u64, pause: Duration, actor: &str) -> Result<(), Problem> {
        let before = self.record.clone();
        self.record.wanted = false;
        self.has_no_process();
        self.set_state(VmState::Suspended);
        let message = format!("is on storage: {} MiB", bytes >> 20);
        let details = json!({ "bytes": bytes, "pause_ns": pause.as_nanos() as u64 });
        let happening = self.happening("vm.suspended", message).with(details).by(actor);
        if let Err(problem) = self.save(Some(happening)).await {
            self.record = before;
            return Err(problem);
        }
        self.end_process(true).await;
        let _ = self.shared.clear_run(self.record.vm.id);
        self.give_back();
        Ok(())
    }

    /// Removes what there is to go on from.
    pub(super) fn forget_suspended(&self) {
        saved::forget(&self.shared.paths.suspended(self.record.vm.id));
    }

    /// The process is gone that was to write it to storage, or to go on from there. True if it is whole there, and can go on; what else is
    /// there nobody can use, and is removed.
    pub(super) async fn is_left_suspended(&mut self) -> bool {
        if !matches!(self.state(), VmState::Suspending | VmState::Starting) {
            return false;
        }
        if !saved::is_there(&self.shared.paths.suspended(self.record.vm.id)) {
            self.forget_suspended();
            return false;
        }
        self.record.wanted = false;
        self.has_no_process();
        self.set_state(VmState::Suspended);
        let happening = self.happening("vm.suspended", "is on storage; its process has ended");
        self.note(Some(happening)).await;
        true
    }

    /// Whoever wanted it suspended hears that its process has ended before.
    pub(super) fn not_suspended(&mut self, why: &str) {
        if let Some(suspending) = self.suspending.take() {
            let problem = Problem::conflict(format!("{} is not suspended: {why}", self.name()));
            let _ = suspending.reply.send(Err(problem));
        }
    }
}

/// Tells the agent in a guest that stood still what time it is: its own clock has stood still, too. Looks whether it is right
/// after each of the times in `look`, until it is.
pub(super) fn set_clock(shared: &Arc<Shared>, id: Id, look: &'static [Duration]) {
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let told = async {
            set_right(&shared, id).await?;
            // An agent that is slow to hear the time, as where a guest has much to do when it goes on, is told again.
            for wait in look {
                sleep(*wait).await;
                if set_right(&shared, id).await? {
                    break;
                }
            }
            Ok::<_, AgentError>(())
        };
        if let Err(error) = told.await {
            tracing::info!("the clock of guest {id} stays as it was: {error}");
        }
    });
}

/// Whether a guest's clock is right. If it is not it is told the time, but where it hears that so late that what it sets may be
/// wrong by more: its clock would go back.
async fn set_right(shared: &Shared, id: Id) -> Result<bool, AgentError> {
    for _ in 0..TRIES {
        // The agent's line is there, too, before the time is read.
        let asked = Instant::now();
        let told = ask(shared, id, "guest-get-time", Value::Null).await?;
        let told = Duration::from_nanos(told.as_u64().ok_or(AgentError::Nonsense)?);
        let off = now().abs_diff(told);
        if off <= WRONG {
            return Ok(true);
        }
        if asked.elapsed() * 2 <= off {
            tell_time(shared, id).await?;
            break;
        }
        sleep(WRONG).await;
    }
    Ok(false)
}

/// Tells an agent what time it is.
async fn tell_time(shared: &Shared, id: Id) -> Result<(), AgentError> {
    match ask(shared, id, "guest-set-time", json!({ "time": now().as_nanos() as u64 })).await {
        // The agent does it only where there is hwclock, which a small system has not.
        Err(AgentError::Refused(_)) => {
            let now = now();
            let line = format!("date -s @{:.6} || date -s @{}", now.as_secs_f64(), now.as_secs());
            ask(shared, id, "guest-exec", json!({ "path": "/bin/sh", "arg": ["-c", line] })).await?;
        }
        set => drop(set?),
    }
    Ok(())
}

async fn ask(shared: &Shared, id: Id, command: &str, arguments: Value) -> Result<Value, AgentError> {
    shared.agents.call(id, &shared.paths.agent_socket(id), command, arguments, AGENT_PATIENCE).await
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
