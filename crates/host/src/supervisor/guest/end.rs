//! How a guest ends, and what follows.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use api::{Ending, OnEnd, Problem, Time, VmState};
use serde_json::Value;
use tokio::time::{Instant, timeout};
use vmm::control::{GuestEvent, State, StateReport, console};

use super::{Guest, RAN_WELL};
use crate::snapshots;
use crate::supervisor::disks;

/// A process that has not carried out what it had begun on its disks this long after it was told to stop is killed.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same for one that has, and only has to go.
const LEAVE: Duration = Duration::from_secs(2);
/// The longest wait before a guest that keeps ending starts again.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// How many lines of its console and of its process's log are kept of a guest that ended.
const LAST_LINES: usize = 20;

impl Guest {
    /// The guest's process told what happened.
    pub(super) async fn on_event(&mut self, report: StateReport) {
        let Some(event) = report.last else { return };
        let (kind, message) = match event {
            GuestEvent::PowerOff => ("power-off", "powered itself off".to_owned()),
            GuestEvent::Reset => ("reset", "reset itself".to_owned()),
            GuestEvent::Panic => ("panic", "its kernel panicked".to_owned()),
            GuestEvent::TripleFault => ("triple-fault", "a processor faulted three times over".to_owned()),
            GuestEvent::EngineFailure { why } => ("engine-failure", format!("its engine failed: {why}")),
        };
        if report.state == State::Ended {
            return self.end(kind, &message, None).await;
        }
        let happening = self.happening(&format!("vm.{kind}"), message);
        self.note(Some(happening)).await;
    }

    /// The guest's process ended without a word.
    pub(super) async fn on_process_end(&mut self, status: Option<ExitStatus>) {
        let how = match status {
            Some(status) => match (status.signal(), status.code()) {
                (Some(signal), _) => format!("its process was ended by signal {signal}"),
                (None, Some(code)) => format!("its process ended with status {code}"),
                (None, None) => "its process ended".into(),
            },
            None => "its process ended; it was not this daemon that had started it".into(),
        };
        self.end("killed", &how, None).await;
    }

    /// It was asked to power itself off, and has not.
    pub(super) async fn on_deadline(&mut self) {
        let Some(closing) = &self.closing else { return };
        if closing.force {
            let actor = closing.actor.clone();
            let message = "did not power itself off in time, its plug was pulled";
            return self.end("stopped", message, Some(&actor)).await;
        }
        let closing = self.closing.take();
        self.record.wanted = true;
        self.set_state(VmState::Running);
        let happening = self.happening("vm.not-stopped", "did not power itself off in time, and goes on");
        self.note(Some(happening)).await;
        if let Some(closing) = closing {
            let detail = format!("{} did not power itself off in time; it still runs", self.name());
            let _ = closing.reply.send(Err(Problem::new(504, "Too late", detail)));
        }
    }

    /// Ends its process if that has not ended, records how it ended, and does what follows.
    pub(super) async fn end(&mut self, kind: &str, message: &str, actor: Option<&str>) {
        let ran_for = self.running.as_ref().map_or(Duration::ZERO, |running| running.since.elapsed());
        self.end_process(kind != "killed").await;
        self.not_suspended(message);
        self.not_changed(message).await;
        self.not_snapped(message).await;
        if ran_for > RAN_WELL {
            self.record.vm.status.restarts = 0;
        }
        let closing = self.closing.take();
        self.after_end(kind, message, actor, closing.is_some()).await;
        // One that starts again at once keeps what it is promised.
        match closing.as_ref().is_some_and(|closing| closing.again) {
            true => self.shared.shares.ended(self.record.vm.id),
            false => self.give_back(),
        }
        if let Some(closing) = closing {
            let started = if closing.again { self.start(Some(&closing.actor)).await } else { Ok(()) };
            // Nobody may wait for it.
            let _ = closing.reply.send(started);
        }
    }

    /// Ends its process, with a word before if that is `polite`.
    pub(super) async fn end_process(&mut self, polite: bool) {
        let Some(running) = self.running.take() else { return };
        self.shared.figures.end(self.record.vm.id);
        let stop = running.client.call::<Value>("stop", Value::Null, &[]);
        if polite && timeout(PATIENCE, stop).await.is_ok() {
            // It goes by itself; if not, it is made to.
            let _ = timeout(LEAVE, running.process.ended()).await;
        }
        running.process.kill();
        running.process.ended().await;
    }

    /// Its process ended and nobody saw how.
    pub(super) async fn ended_unseen(&mut self, message: &str) {
        self.after_end("killed", message, None, false).await;
        self.give_back();
    }

    pub(super) async fn failed_to_start(&mut self, problem: &Problem) {
        self.after_end("start-failure", &format!("did not start: {problem}"), None, false).await;
        self.give_back();
    }

    /// Records an end; `asked` says that somebody had asked for it.
    async fn after_end(&mut self, kind: &str, message: &str, actor: Option<&str>, asked: bool) {
        let id = self.record.vm.id;
        // Whoever wanted to start it knows that it has not; it is as it was.
        let unwanted = kind == "start-failure" && !self.record.wanted;
        let crashed = !matches!(kind, "power-off" | "stopped" | "reset") && !unwanted;
        // What cannot be removed is removed at the next start.
        let _ = self.shared.clear_run(id);
        self.machine_is_gone().await;
        self.record.vm.status.last_end = Some(Ending {
            time: Time::now(),
            kind: kind.into(),
            message: message.into(),
            console: self.last_words(),
            log: last_lines(&std::fs::read(self.shared.paths.process_log(id)).unwrap_or_default()),
        });
        self.has_no_process();
        let again = self.again(kind, crashed && !asked);
        self.record.wanted = again.is_some();
        self.restart = again.map(|wait| Instant::now() + wait);
        self.set_state(if crashed { VmState::Crashed } else { VmState::Stopped });
        let what = if crashed { "vm.crashed" } else { "vm.stopped" };
        let mut happening = self.happening(what, message).with(serde_json::json!({ "how": kind }));
        if let Some(actor) = actor {
            happening = happening.by(actor);
        }
        self.note(Some(happening)).await;
    }

    /// There is no machine any more that would hold what the guest should not have.
    pub(super) async fn machine_is_gone(&mut self) {
        let Some(machine) = self.record.machine.take() else { return };
        self.record.vm.status.pending_restart = false;
        let (pools, id) = (Arc::clone(&self.shared.pools), self.record.vm.id);
        let has = self.record.vm.definition.disks.clone();
        let remove = move || {
            disks::remove_gone(&pools, id, &machine.disks, &has);
            snapshots::tidy(&pools, &machine);
        };
        // What stays is tried again when the guest is deleted.
        let _ = tokio::task::spawn_blocking(remove).await;
    }

    /// Whether it starts again by itself, and after how long.
    fn again(&mut self, kind: &str, crashed: bool) -> Option<Duration> {
        if !crashed || !self.record.wanted {
            return None;
        }
        if self.record.vm.definition.on_crash == OnEnd::Stop {
            return None;
        }
        let restarts = &mut self.record.vm.status.restarts;
        // One that never started is not tried for ever: what is wrong does not change by itself.
        if kind == "start-failure" && *restarts >= 5 {
            return None;
        }
        let wait = Duration::from_secs(1u64 << (*restarts).min(9)).min(LONGEST_WAIT);
        *restarts += 1;
        Some(wait)
    }

    /// What it said last on its console.
    fn last_words(&self) -> Vec<String> {
        let log = File::open(self.shared.paths.console_log(self.record.vm.id));
        last_lines(&log.and_then(|log| console::read(&log)).unwrap_or_default())
    }
}

/// The last lines of a text, without what terminals take for orders.
fn last_lines(text: &[u8]) -> Vec<String> {
    let text = &text[text.len().saturating_sub(16 << 10)..];
    let text = String::from_utf8_lossy(text);
    let plain = |line: &str| line.chars().filter(|c| !c.is_control()).take(400).collect::<String>();
    let lines: Vec<_> = text.lines().map(plain).filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].to_vec()
}
