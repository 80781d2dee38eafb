//! What can be asked of a guest.

use std::sync::Arc;
use std::time::Duration;

use api::{
    Disk, Id, Name, NewSnapshot, Problem, Size, SnapshotLabel, Stats, Typed, Verb, VmState, VolumeName,
};
use serde_json::Value;
use storage::Progress;
use tokio::sync::oneshot;
use tokio::time::Instant;
use vmm::control::{Key, Typing, code};

use super::change::stale;
use super::suspend::{LOOK_AGAIN, set_clock};
use super::{Closing, Edit, Follower, ForkReply, Guest, Reply, SnapshotReply};
use crate::pools::Pools;
use crate::snapshots::{self, Kept};
use crate::store::Revision;
use crate::supervisor::keep::{self, Keep, Ready};
use crate::supervisor::rpc::RpcError;
use crate::supervisor::{rpc_problem, store_problem, usage};
use crate::{guest_backups, records, schedules};

/// An agent that is busy is as good as none: the button works without it.
const AGENT_PATIENCE: Duration = Duration::from_secs(1);

/// How a verb is to be done.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long a guest may take to power itself off.
    pub deadline: Duration,
    /// Whether its plug is pulled when it has not by then.
    pub force: bool,
    /// Who wants it.
    pub actor: String,
}

/// Something asked of a guest.
pub enum Order {
    /// Does a verb.
    Verb(Verb, Options, Reply),
    /// Writes it to storage: who wants that, who hears how far it is, and what became of it.
    Suspend(String, Arc<dyn Progress + Send + Sync>, Reply),
    /// Makes a snapshot of it: who wants that, and who hears how far it is.
    Snap(NewSnapshot, String, Follower, SnapshotReply),
    /// Has its disks go on over layers of what they were, which nobody knows of yet; its file systems rest for it if that is said.
    Freeze(bool, oneshot::Sender<Result<Box<Kept>, Problem>>),
    /// Keeps what it is for another guest to begin with: who hears how far it is, and who has it then.
    Fork(Follower, ForkReply),
    /// Has it go back to a snapshot; whether its plug is pulled for it, and who wants that.
    Revert(String, bool, String, Reply),
    /// Has a snapshot be called otherwise, if it is still what it was at this revision: who wants that, and at which revision it is.
    LabelSnapshot(Id, SnapshotLabel, Revision, String, oneshot::Sender<Result<Revision, Problem>>),
    /// Deletes a snapshot: who wants that, and who hears how far it is.
    DeleteSnapshot(String, String, Follower, Reply),
    /// Layers of a pool have other files now: its machine takes those that it reads.
    TakeLayers(Name, Vec<Id>),
    /// Makes one of its disks longer: the disk's number, how long, and who wants that.
    Grow(usize, Size, String, Reply),
    /// Makes it another one.
    Edit(Box<Edit>, Reply),
    /// Removes it with what it has of its own. One that runs is stopped only if that is wanted.
    Delete {
        /// Whether one that runs is stopped.
        force: bool,
        /// Whether and how its disks are to be kept.
        keep: Option<Keep>,
        /// Only if it is still what it was at this revision.
        expect: Option<Revision>,
        /// Who wants it.
        actor: String,
        /// What became of it.
        reply: oneshot::Sender<Result<Deleted, Problem>>,
    },
    /// Types on its serial console.
    Type(Vec<Typed>, String, Reply),
    /// Asks what it uses.
    Stats(oneshot::Sender<Result<Stats, Problem>>),
    /// Asks what it uses, as its process says it.
    Used(oneshot::Sender<Result<vmm::control::Stats, Problem>>),
    /// Has it be without so many bytes of its memory while others need them.
    Lend(u64, Reply),
    /// Has pages of its memory that are equal to others' kept once, or not.
    Merge(bool, Reply),
    /// Looks for what a daemon before this one left; after a start of the machine there is nothing.
    TakeOver {
        /// Whether the machine has started since.
        booted: bool,
        /// Done.
        reply: oneshot::Sender<()>,
    },
}

/// A guest is gone; these are the volumes that its disks are now.
pub struct Deleted(pub Result<Vec<VolumeName>, Problem>);

impl Guest {
    /// Does what is asked; true if that was the last thing.
    pub(super) async fn obey(&mut self, order: Order) -> bool {
        match order {
            Order::Verb(verb, options, reply) => self.do_verb(verb, options, reply).await,
            Order::Suspend(actor, progress, reply) => self.suspend(actor, progress, reply).await,
            Order::Snap(new, actor, progress, reply) => self.snap(new, actor, progress, reply).await,
            Order::Freeze(quiesce, reply) => drop(reply.send(self.leave_behind(quiesce).await)),
            Order::Fork(progress, reply) => self.fork(progress, reply).await,
            Order::Revert(name, force, actor, reply) => {
                // Nobody may wait for it.
                let _ = reply.send(self.revert(&name, force, &actor).await);
            }
            Order::LabelSnapshot(id, label, expect, actor, reply) => {
                let _ = reply.send(self.label_snapshot(id, label, expect, &actor).await);
            }
            Order::DeleteSnapshot(name, actor, progress, reply) => {
                let _ = reply.send(self.delete_snapshot(&name, &actor, progress).await);
            }
            Order::TakeLayers(pool, layers) => self.take_layers(&pool, &layers).await,
            Order::Grow(number, size, actor, reply) => {
                // Nobody may wait for it.
                let _ = reply.send(self.grow(number, size, &actor).await);
            }
            Order::Edit(edit, reply) => self.edit(*edit, reply).await,
            Order::Delete { force, keep, expect, actor, reply } => {
                let result = self.delete(force, keep, expect, &actor).await;
                let gone = result.is_ok();
                if gone {
                    self.shared.shares.give_back(self.record.vm.id);
                }
                let _ = reply.send(result);
                return gone;
            }
            Order::Type(keys, actor, reply) => drop(reply.send(self.type_keys(keys, &actor).await)),
            Order::Stats(reply) => drop(reply.send(self.stats().await)),
            Order::Used(reply) => drop(reply.send(self.used().await)),
            Order::Lend(bytes, reply) => drop(reply.send(self.lend(bytes).await)),
            Order::Merge(merges, reply) => drop(reply.send(self.merge(merges).await)),
            Order::TakeOver { booted, reply } => {
                self.take_over(booted).await;
                let _ = reply.send(());
            }
        }
        false
    }

    async fn do_verb(&mut self, verb: Verb, options: Options, reply: Reply) {
        let actor = options.actor.clone();
        let result = match verb {
            Verb::Start => self.start_for(&actor).await,
            Verb::Stop => self.stop_for(&actor).await,
            Verb::Pause => self.pause(&actor).await,
            Verb::Resume => self.resume(&actor).await,
            Verb::Reset => self.reset(&actor).await,
            Verb::Shutdown | Verb::Reboot => {
                return self.close(options, verb == Verb::Reboot, reply).await;
            }
        };
        // Nobody may wait for it.
        let _ = reply.send(result);
    }

    /// A problem unless it is in one of these states.
    pub(super) fn must_be(&self, states: &[VmState], otherwise: &str) -> Result<(), Problem> {
        if states.contains(&self.state()) {
            return Ok(());
        }
        Err(Problem::conflict(format!("{} is {}: {otherwise}", self.name(), self.state().word())))
    }

    /// A problem while it is being changed: a guest that stands still does not take part in that.
    pub(super) fn must_not_change(&self) -> Result<(), Problem> {
        if self.changing.is_some() {
            return Err(Problem::conflict(format!("{} is being changed: wait until it is", self.name())));
        }
        if self.snapping.is_some() {
            return Err(Problem::conflict(format!(
                "a snapshot of {} is being made: wait for it",
                self.name()
            )));
        }
        Ok(())
    }

    async fn start_for(&mut self, actor: &str) -> Result<(), Problem> {
        let still = [VmState::Stopped, VmState::Crashed, VmState::Suspended];
        self.must_be(&still, "only a guest that does not run can be started")?;
        self.restart = None;
        self.record.vm.status.restarts = 0;
        self.start(Some(actor)).await
    }

    async fn stop_for(&mut self, actor: &str) -> Result<(), Problem> {
        if self.running.is_none() {
            return self.stay_stopped(actor).await;
        }
        self.record.wanted = false;
        self.end("stopped", &format!("{actor} pulled its plug"), Some(actor)).await;
        Ok(())
    }

    /// One that does not run, and perhaps waits to start again, does not.
    async fn stay_stopped(&mut self, actor: &str) -> Result<(), Problem> {
        self.restart = None;
        self.give_back();
        self.record.wanted = false;
        let suspended = self.state() == VmState::Suspended;
        self.set_state(VmState::Stopped);
        let message =
            if suspended { "does not run any more: where it was is forgotten" } else { "does not run" };
        let happening = self.happening("vm.stopped", message).by(actor);
        self.save(Some(happening)).await?;
        if suspended {
            self.forget_suspended();
        }
        Ok(())
    }

    async fn pause(&mut self, actor: &str) -> Result<(), Problem> {
        self.must_be(&[VmState::Running], "only one that runs can be paused")?;
        self.must_not_change()?;
        self.call("pause").await?;
        self.set_state(VmState::Paused);
        let happening = self.happening("vm.paused", "stands still").by(actor);
        self.save(Some(happening)).await
    }

    async fn resume(&mut self, actor: &str) -> Result<(), Problem> {
        if self.state() == VmState::Suspended {
            return self.start_for(actor).await;
        }
        self.must_be(&[VmState::Paused], "only one that is paused or suspended can be resumed")?;
        self.call("resume").await?;
        set_clock(&self.shared, self.record.vm.id, &LOOK_AGAIN);
        self.set_state(VmState::Running);
        self.begin_to_be_itself();
        let happening = self.happening("vm.resumed", "goes on").by(actor);
        self.save(Some(happening)).await
    }

    async fn reset(&mut self, actor: &str) -> Result<(), Problem> {
        let alive = [VmState::Running, VmState::Paused, VmState::Stopping];
        self.must_be(&alive, "only one that runs can be reset")?;
        self.call("reset").await?;
        self.closing = None;
        self.set_state(VmState::Running);
        let happening = self.happening("vm.reset", "was reset").by(actor);
        self.save(Some(happening)).await
    }

    /// Asks it to power itself off, and goes on: the answer comes when it has.
    async fn close(&mut self, options: Options, again: bool, reply: Reply) {
        let asked = self.ask_to_close(&options, again).await;
        if let Err(problem) = asked {
            let _ = reply.send(Err(problem));
            return;
        }
        if self.running.is_none() {
            let _ = reply.send(Ok(()));
            return;
        }
        let deadline = Instant::now() + options.deadline;
        let closing = Closing { deadline, force: options.force, again, actor: options.actor, reply };
        if let Some(before) = self.closing.replace(closing) {
            let _ = before.reply.send(Err(Problem::conflict("somebody else asked for it, too")));
        }
    }

    async fn ask_to_close(&mut self, options: &Options, again: bool) -> Result<(), Problem> {
        if self.running.is_none() && !again {
            return self.stay_stopped(&options.actor).await;
        }
        self.must_be(&[VmState::Running, VmState::Stopping], "only one that runs can power itself off")?;
        self.ask_politely().await?;
        self.record.wanted = again;
        self.set_state(VmState::Stopping);
        let message = format!("was asked to power itself off within {} s", options.deadline.as_secs());
        let happening = self.happening("vm.stopping", message).by(&options.actor);
        self.save(Some(happening)).await
    }

    /// Asks the agent to power the guest off, or presses its button if there is none: a system need not listen to that.
    async fn ask_politely(&self) -> Result<(), Problem> {
        let (id, socket) = (self.record.vm.id, self.shared.paths.agent_socket(self.record.vm.id));
        let arguments = serde_json::json!({ "mode": "powerdown" });
        let told = self.shared.agents.tell(id, &socket, "guest-shutdown", arguments, AGENT_PATIENCE).await;
        if told.is_err() {
            self.call("power_button").await?;
        }
        Ok(())
    }

    /// Calls a method that answers with its state.
    pub(super) async fn call(&self, method: &str) -> Result<Value, Problem> {
        self.call_with(method, Value::Null).await.map_err(|error| self.call_problem(error))
    }

    /// What a failed call is to whoever asked for it: a guest may end while it is asked.
    fn call_problem(&self, error: RpcError) -> Problem {
        match error {
            RpcError::Gone => Problem::conflict(format!("{} has just ended", self.name())),
            other => rpc_problem(other),
        }
    }

    async fn call_with(&self, method: &str, params: Value) -> Result<Value, RpcError> {
        let running = self.running.as_ref().ok_or(RpcError::Gone)?;
        running.client.call(method, params, &[]).await
    }

    async fn type_keys(&mut self, keys: Vec<Typed>, actor: &str) -> Result<(), Problem> {
        self.must_be(&[VmState::Running, VmState::Stopping], "nobody reads what is typed")?;
        let breaks = keys.contains(&Typed::Break);
        let key = |typed| match typed {
            Typed::Text(text) => Key::Text(text),
            Typed::Break => Key::Break,
        };
        let typing = Typing { keys: keys.into_iter().map(key).collect() };
        let params = serde_json::to_value(typing).map_err(|error| Problem::internal(error.to_string()))?;
        self.call_with("type", params).await.map_err(|error| match error {
            RpcError::Refused { code, .. } if code == i64::from(code::METHOD) => {
                let detail = "was started by a version that cannot do this: it can after its next start";
                Problem::conflict(format!("{} {detail}", self.name()))
            }
            error => self.call_problem(error),
        })?;
        if breaks {
            // What is typed may be a secret; a break may end a kernel.
            self.save(Some(self.happening("vm.break", "was sent a break on its console").by(actor))).await?;
        }
        Ok(())
    }

    async fn used(&self) -> Result<vmm::control::Stats, Problem> {
        if self.running.is_none() {
            self.must_be(&[], "it uses nothing")?;
        }
        serde_json::from_value(self.call("stats").await?)
            .map_err(|error| Problem::internal(error.to_string()))
    }

    async fn lend(&self, bytes: u64) -> Result<(), Problem> {
        let asked = self.call_with("balloon", serde_json::json!({ "bytes": bytes })).await;
        asked.map(drop).map_err(|error| self.call_problem(error))
    }

    async fn merge(&self, merges: bool) -> Result<(), Problem> {
        let asked = self.call_with("merge", serde_json::json!({ "merges": merges })).await;
        asked.map(drop).map_err(|error| self.call_problem(error))
    }

    async fn stats(&self) -> Result<Stats, Problem> {
        let stats = self.used().await?;
        let pid = self.running.as_ref().map(|running| running.process.pid());
        Ok(usage::told(stats, pid.map(usage::ready).unwrap_or_default()))
    }

    async fn delete(
        &mut self,
        force: bool,
        keep: Option<Keep>,
        expect: Option<Revision>,
        actor: &str,
    ) -> Result<Deleted, Problem> {
        if expect.is_some_and(|expect| expect != self.revision) {
            return Err(stale());
        }
        if self.running.is_some() {
            if !force {
                self.must_be(&[], "stop it first, or say force")?;
            }
            // What cannot be is known before its plug is pulled.
            if let Some(keep) = &keep {
                self.with_own_disks(keep, |pools, id, name, disks, keep| {
                    keep::plan(pools, id, name, disks, keep).map(drop)
                })
                .await?;
            }
            self.stop_for(actor).await?;
        }
        let kept = match &keep {
            Some(keep) => Some(self.with_own_disks(keep, Ready::new).await?),
            None => None,
        };
        let message = match kept.as_ref().map(Ready::names).filter(|names| !names.is_empty()) {
            Some(names) => format!("was deleted; its disks stay: {names}"),
            None => "was deleted".into(),
        };
        let happening = self.happening("vm.deleted", message).by(actor);
        let snapshots =
            snapshots::list(&*self.shared.store, self.record.vm.id).await.map_err(store_problem)?;
        let bases = guest_backups::of(&*self.shared.store, self.record.vm.id).await.map_err(store_problem)?;
        let transaction = records::delete(&self.record, self.revision);
        let transaction = bases.iter().fold(transaction, |transaction, base| base.forget(transaction));
        let transaction = schedules::forget(&*self.shared.store, self.record.vm.id, transaction)
            .await
            .map_err(store_problem)?;
        let transaction = snapshots::forget(&snapshots, self.record.vm.id, transaction);
        let mut transaction = happening.add(transaction).map_err(store_problem)?;
        if let Some(kept) = &kept {
            transaction = kept.add(transaction).map_err(store_problem)?;
        }
        self.shared.store.commit(transaction).await.map_err(store_problem)?;
        // What cannot be removed now is swept at the daemon's next start: nobody knows of it any more.
        let id = self.record.vm.id;
        let (shared, mut disks) = (self.shared.clone(), self.record.vm.definition.disks.clone());
        shared.wires.unplug(id).await;
        let mut volumes = Ok(Vec::new());
        if let Some(kept) = kept {
            volumes = keep::finish(&*shared.store, kept).await;
            disks.clear();
        }
        let remove = move || {
            shared.remove_files(id, &disks);
            // Disks that stay are what they are, and not what they were.
            let layers = snapshots.into_iter().flat_map(|kept| kept.layers);
            let layers: Vec<_> = layers.chain(bases.into_iter().flat_map(|base| base.layers)).collect();
            snapshots::delete_of_kept(&shared.pools, &layers);
        };
        let _ = tokio::task::spawn_blocking(remove).await;
        Ok(Deleted(volumes))
    }

    /// Does something with its disks, on a thread that may wait.
    async fn with_own_disks<T: Send + 'static>(
        &self,
        keep: &Keep,
        work: impl FnOnce(&Pools, Id, &Name, &[Disk], &Keep) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let (shared, vm, keep) = (self.shared.clone(), self.record.vm.clone(), keep.clone());
        let work = move || work(&shared.pools, vm.id, &vm.definition.name, &vm.definition.disks, &keep);
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| Problem::internal(error.to_string()))?
    }
}
