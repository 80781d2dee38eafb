//! How a guest's present is kept, and how it goes back there.
//!
//! The disks go on over layers of what they were; the memory, if it is kept, is of the same point in time, and is written while the guest
//! runs. Only what the store knows in the end is a snapshot. To go back is written down before it is begun: a daemon that dies
//! meanwhile has the next one do it.

use std::sync::Arc;
use std::time::Duration;

use api::{Id, Name, NewSnapshot, Problem, Size, Snapshot, SnapshotLabel, Time, VmState};
use serde_json::{Value, json};
use storage::Progress;
use tokio::sync::oneshot;
use tokio::time::Instant;
use vmm::control::{SaveEnd, SaveProgress, Saved, Switched};

use super::Guest;
use super::fork::ForkReply;
use super::suspend::{LOOK_AGAIN, set_clock};
use crate::records;
use crate::snapshots::{self, Kept};
use crate::store::{Revision, StoreError, Transaction};
use crate::supervisor::{saved, store_problem};

/// How often somebody who waits hears how far it is.
const LOOK: Duration = Duration::from_millis(250);
/// How long a guest's file systems may take to rest.
const REST: Duration = Duration::from_secs(10);
/// How long an agent may take that is there.
const PING: Duration = Duration::from_secs(2);

/// Somebody who follows a change.
pub type Follower = Arc<dyn Progress + Send + Sync>;
/// Where a snapshot goes that has been made.
pub type SnapshotReply = oneshot::Sender<Result<Snapshot, Problem>>;

/// A snapshot whose memory is being written.
pub struct Snapping {
    pub(super) kept: Kept,
    pub(super) draft: saved::Draft,
    pub(super) purpose: Purpose,
    pub(super) progress: Follower,
    /// When it is looked next how far it is.
    pub(super) look: Instant,
}

/// What memory is written for.
pub(super) enum Purpose {
    /// A snapshot that somebody wants, and where it goes.
    Snapshot(String, SnapshotReply),
    /// Another guest, which begins with it.
    Fork(ForkReply),
}

impl Purpose {
    /// There will be none.
    fn refuse(self, problem: Problem) {
        // Nobody may wait for it.
        match self {
            Purpose::Snapshot(_, reply) => drop(reply.send(Err(problem))),
            Purpose::Fork(reply) => drop(reply.send(Err(problem))),
        }
    }
}

fn host_problem(error: impl std::fmt::Display) -> Problem {
    Problem::internal(format!("the snapshot: {error}"))
}

/// A problem if another snapshot of the guest than `own` has this name.
fn must_be_free(all: &[Kept], name: &Name, own: Option<Id>) -> Result<(), Problem> {
    if all.iter().any(|kept| kept.snapshot.name == *name && Some(kept.snapshot.id) != own) {
        let detail = format!("there is a snapshot {name} of the guest already");
        let invalid = api::Invalid::new("/name", name.as_str(), detail);
        return Err(Problem { status: 409, ..Problem::invalid(vec![invalid]) });
    }
    Ok(())
}

impl Guest {
    /// Makes a snapshot; the answer comes when it is one.
    pub(super) async fn snap(
        &mut self,
        new: NewSnapshot,
        actor: String,
        progress: Follower,
        reply: SnapshotReply,
    ) {
        let result = match self.begin_to_snap(&new).await {
            Ok((kept, Some(draft))) => {
                let purpose = Purpose::Snapshot(actor, reply);
                self.follow_snapshot(kept, draft, purpose, progress);
                return;
            }
            Ok((kept, None)) => self.keep_snapshot(kept, &actor).await,
            Err(problem) => Err(problem),
        };
        // Nobody may wait for it.
        let _ = reply.send(result);
    }

    /// From now on it is looked how far the memory is.
    pub(super) fn follow_snapshot(
        &mut self,
        kept: Kept,
        draft: saved::Draft,
        purpose: Purpose,
        progress: Follower,
    ) {
        progress.step("writes memory");
        let look = Instant::now() + LOOK;
        self.snapping = Some(Snapping { kept, draft, purpose, progress, look });
    }

    async fn begin_to_snap(&mut self, new: &NewSnapshot) -> Result<(Kept, Option<saved::Draft>), Problem> {
        self.must_be_still("a snapshot", new.memory || new.quiesce)?;
        let vm = &self.record.vm;
        let all = snapshots::list(&*self.shared.store, vm.id).await.map_err(store_problem)?;
        must_be_free(&all, &new.name, None)?;
        // While a change waits for the next start, the disks that are there are those of the machine.
        let layers = snapshots::disks(vm.id, self.record.made_of())?;
        let snapshot = Snapshot {
            name: new.name.clone(),
            description: new.description.clone(),
            parent: vm.status.snapshot,
            current: true,
            schedule: new.schedule.clone(),
            ..self.as_it_is(&layers, new.quiesce)
        };
        let mut kept = Kept {
            snapshot,
            definition: vm.definition.clone(),
            machine: new.memory.then(|| self.record.made_of().clone()),
            twin: self.record.twin.clone().filter(|_| new.memory),
            layers,
        };
        let draft = self.freeze_at_rest(&mut kept, new.memory).await?;
        Ok((kept, draft))
    }

    /// What it is now with nothing said of it: it has its name, and is nobody's child.
    pub(super) fn as_it_is(&self, layers: &[snapshots::KeptDisk], quiesced: bool) -> Snapshot {
        let vm = &self.record.vm;
        Snapshot {
            id: Id::new(),
            name: vm.definition.name.clone(),
            description: String::new(),
            created: Time::now(),
            parent: None,
            current: false,
            state: if self.running.is_some() { vm.status.state } else { VmState::Stopped },
            memory: None,
            quiesced,
            schedule: None,
            pause_ns: 0,
            disks: layers.iter().map(|disk| disk.unit).collect(),
        }
    }

    /// Freezes its disks, with its file systems at rest if that is wanted.
    pub(super) async fn freeze_at_rest(
        &mut self,
        kept: &mut Kept,
        memory: bool,
    ) -> Result<Option<saved::Draft>, Problem> {
        let (runs, quiesce) = (self.running.is_some(), kept.snapshot.quiesced);
        if quiesce {
            self.rest().await?;
        }
        let draft = self.freeze(kept, runs, memory).await;
        if quiesce {
            self.wake().await;
        }
        draft
    }

    /// A problem unless what it is can be kept; `alive` says that only one that runs has what is wanted.
    pub(super) fn must_be_still(&self, what: &str, alive: bool) -> Result<(), Problem> {
        let states = [VmState::Running, VmState::Paused, VmState::Stopped, VmState::Crashed];
        self.must_be(&states, &format!("{what} is made of a guest that runs, stands still or is stopped"))?;
        self.must_not_change()?;
        if self.record.reverting.is_some() {
            // Its disks may be what they were at the snapshot, and what is said of it is not yet.
            let detail =
                format!("{} is half-way back to a snapshot: start it, or have it go back again", self.name());
            return Err(Problem::conflict(detail));
        }
        if self.running.is_none() && alive {
            self.must_be(&[VmState::Running, VmState::Paused], "only one that runs has memory and an agent")?;
        }
        Ok(())
    }

    /// Has its disks go on over layers of what they were, which no snapshot has. Should this process die, the next one removes them.
    pub(super) async fn leave_behind(&mut self, quiesce: bool) -> Result<Box<Kept>, Problem> {
        self.must_be_still("a backup", quiesce)?;
        let vm = &self.record.vm;
        let layers = snapshots::disks(vm.id, self.record.made_of())?;
        let snapshot = self.as_it_is(&layers, quiesce);
        // What is on the disks is that of its machine; what is said of it is of the guest.
        let definition = self.record.made_of().clone().as_said(&vm.definition);
        let mut kept = Kept { snapshot, definition, machine: None, twin: None, layers };
        self.freeze_at_rest(&mut kept, false).await?;
        Ok(Box::new(kept))
    }

    /// Has the guest's file systems rest.
    async fn rest(&mut self) -> Result<(), Problem> {
        let (id, socket) = (self.record.vm.id, self.shared.paths.agent_socket(self.record.vm.id));
        let what = format!("{}: its file systems do not rest", self.name());
        let refused = |error| Problem::conflict(format!("{what}: {error}"));
        let ping = self.shared.agents.call(id, &socket, "guest-ping", Value::Null, PING);
        ping.await.map_err(refused)?;
        // Should this process die meanwhile the next one wakes them: whoever writes waits until then.
        self.record.resting = true;
        self.save(None).await?;
        let rested = self.shared.agents.call(id, &socket, "guest-fsfreeze-freeze", Value::Null, REST).await;
        if rested.is_err() {
            // Some may rest already.
            self.wake().await;
        }
        rested.map(drop).map_err(refused)
    }

    async fn wake(&mut self) {
        let (id, socket) = (self.record.vm.id, self.shared.paths.agent_socket(self.record.vm.id));
        let woken = self.shared.agents.call(id, &socket, "guest-fsfreeze-thaw", Value::Null, REST).await;
        if let Err(error) = woken {
            tracing::warn!("{}: its file systems may still rest: {error}", self.name());
        }
        self.record.resting = false;
        self.note(None).await;
    }

    /// Has file systems go on that a daemon before this one made rest, and did not come to wake.
    pub(super) async fn wake_left_resting(&mut self) {
        if self.record.resting {
            self.wake().await;
        }
    }

    /// Has the disks go on over layers, and the memory written if it is `wanted`.
    async fn freeze(
        &self,
        kept: &mut Kept,
        runs: bool,
        wanted: bool,
    ) -> Result<Option<saved::Draft>, Problem> {
        let (pools, disks) = (Arc::clone(&self.shared.pools), kept.layers.clone());
        let frozen = tokio::task::spawn_blocking(move || snapshots::freeze(&pools, &disks, runs)).await;
        let files = frozen.map_err(host_problem)??;
        if !runs {
            return Ok(None);
        }
        let switched = self.switch(kept, files, wanted).await;
        if switched.is_err() {
            let (pools, disks) = (Arc::clone(&self.shared.pools), kept.layers.clone());
            let _ = tokio::task::spawn_blocking(move || snapshots::unfreeze(&pools, &disks)).await;
        }
        switched
    }

    /// Hands the new files to the machine.
    async fn switch(
        &self,
        kept: &mut Kept,
        files: Vec<std::fs::File>,
        memory: bool,
    ) -> Result<Option<saved::Draft>, Problem> {
        let mut files: Vec<std::os::fd::OwnedFd> = files.into_iter().map(Into::into).collect();
        let name = |disk: &snapshots::KeptDisk| crate::supervisor::machine::disk_name(disk.unit as usize);
        let tops: Vec<_> = kept
            .layers
            .iter()
            .enumerate()
            .map(|(n, disk)| json!({ "name": name(disk), "file": n }))
            .collect();
        if !memory {
            if !tops.is_empty() {
                let told: Switched = self.tell("disk_switch", json!({ "disks": tops }), &files).await?;
                kept.snapshot.pause_ns = told.held_ns;
            }
            return Ok(None);
        }
        let place = self.shared.paths.snapshot(self.record.vm.id, kept.snapshot.id);
        if let Some(folder) = place.parent() {
            crate::paths::make(folder).map_err(host_problem)?;
        }
        let (draft, file) = saved::Draft::new(&place).map_err(host_problem)?;
        let number = files.len();
        files.push(file.into());
        let order = json!({ "memory": number, "stay": false, "switch": tops });
        let told: Saved = self.tell("save", order, &files).await?;
        kept.snapshot.pause_ns = told.pause_ns;
        if self.state() == VmState::Running {
            // A clock that loses a moment with each snapshot is wrong after many.
            set_clock(&self.shared, self.record.vm.id, &LOOK_AGAIN);
        }
        draft.write_state(&told.state).map_err(host_problem)?;
        Ok(Some(draft))
    }

    /// Tells whoever waits how far it is, and calls it off if they want that.
    pub(super) async fn on_snapshot_look(&mut self) {
        let Some(snapping) = &mut self.snapping else { return };
        snapping.look = Instant::now() + LOOK;
        let Some(running) = &self.running else { return };
        if snapping.progress.cancelled() {
            // It may have ended meanwhile; its end is told in any case.
            let _ = running.client.call::<Value>("save_cancel", json!(null), &[]).await;
        } else if let Ok(at) = running.client.call::<SaveProgress>("save_progress", json!(null), &[]).await {
            snapping.progress.amount(at.done, at.total);
        }
    }

    /// The memory of a snapshot is written, or will not be.
    pub(super) async fn on_snapshot_saved(&mut self, end: SaveEnd) {
        let Some(snapping) = self.snapping.take() else { return };
        let Snapping { mut kept, draft, purpose, .. } = snapping;
        let written = match end.error {
            Some(error) => {
                Err(Problem::conflict(format!("{}: its memory is not kept: {error}", self.name())))
            }
            None => {
                let done = tokio::task::spawn_blocking(move || draft.keep()).await;
                done.map_err(host_problem).and_then(|done| done.map_err(host_problem))
            }
        };
        kept.snapshot.memory = Some(Size(end.bytes));
        match (written, purpose) {
            (Ok(()), Purpose::Snapshot(actor, reply)) => {
                // Nobody may wait for it.
                let _ = reply.send(self.keep_snapshot(kept, &actor).await);
            }
            (Ok(()), Purpose::Fork(reply)) => self.hand_over(kept, reply).await,
            (Err(problem), purpose) => {
                self.forget_layers(kept).await;
                purpose.refuse(problem);
            }
        }
    }

    /// Its process has ended before the memory was written.
    pub(super) async fn not_snapped(&mut self, why: &str) {
        let Some(snapping) = self.snapping.take() else { return };
        let problem = Problem::conflict(format!("{}: its memory is not kept: {why}", self.name()));
        self.forget_layers(snapping.kept).await;
        snapping.purpose.refuse(problem);
    }

    /// What was to be a snapshot is none: its data is merged with what was written since.
    pub(super) async fn forget_layers(&self, kept: Kept) {
        saved::forget(&self.shared.paths.snapshot(self.record.vm.id, kept.snapshot.id));
        let pools = Arc::clone(&self.shared.pools);
        let work = move || snapshots::delete(&pools, &kept.layers, &storage::Silent);
        // What stays is swept at the daemon's next start.
        let _ = tokio::task::spawn_blocking(work).await;
    }

    /// From now on it is a snapshot.
    async fn keep_snapshot(&mut self, kept: Kept, actor: &str) -> Result<Snapshot, Problem> {
        let before = self.record.vm.status.snapshot.replace(kept.snapshot.id);
        let message = format!("the snapshot {} was made", kept.snapshot.name);
        let happening = self.happening("vm.snapshot", message).by(actor);
        let name = self.record.vm.definition.name.clone();
        let mut stored = kept.clone();
        stored.snapshot.current = false;
        let transaction = records::update(&name, &self.record, self.revision)
            .and_then(|transaction| {
                transaction.put(snapshots::key(self.record.vm.id, kept.snapshot.id), &stored)
            })
            .and_then(|transaction| happening.add(transaction));
        match self.commit_all(transaction).await {
            Ok(()) => Ok(kept.snapshot),
            Err(problem) => {
                self.record.vm.status.snapshot = before;
                self.forget_layers(kept).await;
                Err(problem)
            }
        }
    }

    async fn commit_all(&mut self, transaction: Result<Transaction, StoreError>) -> Result<(), Problem> {
        let transaction = transaction.map_err(store_problem)?;
        self.revision = self.shared.store.commit(transaction).await.map_err(store_problem)?;
        Ok(())
    }

    async fn snapshot(&self, name: &str) -> Result<(Kept, Vec<Kept>), Problem> {
        let all = snapshots::list(&*self.shared.store, self.record.vm.id).await.map_err(store_problem)?;
        Ok((snapshots::find(&all, name)?.clone(), all))
    }

    /// Has it go back to a snapshot. One that runs stops for it, if that is `force`d.
    pub(super) async fn revert(&mut self, name: &str, force: bool, actor: &str) -> Result<(), Problem> {
        self.must_not_change()?;
        self.must_be(
            &[VmState::Running, VmState::Paused, VmState::Stopped, VmState::Crashed, VmState::Suspended],
            "wait until that is done",
        )?;
        let (kept, _) = self.snapshot(name).await?;
        let added = self.record.vm.definition.disks.iter().enumerate().find(|(place, disk)| {
            let number = disk.number(*place);
            let is_own = matches!(disk.source, api::DiskSource::Image(_) | api::DiskSource::Size(_));
            let was = |(place, other): (usize, &api::Disk)| other.number(place) == number;
            is_own && !kept.definition.disks.iter().enumerate().any(was)
        });
        if let Some((place, disk)) = added {
            let number = disk.number(place);
            let detail =
                format!("disk {number} has been added since {}: remove it first", kept.snapshot.name);
            return Err(Problem::conflict(detail));
        }
        if self.running.is_some() && !force {
            self.must_be(&[VmState::Stopped], "what it is doing would be lost: stop it first, or say force")?;
        }
        self.write_down_going_back(kept.snapshot.id).await?;
        if self.running.is_some() {
            let message = format!("its plug was pulled to go back to {}", kept.snapshot.name);
            self.end("stopped", &message, Some(actor)).await;
        }
        let cleared = saved::clear(&self.shared.paths.suspended(self.record.vm.id));
        cleared.map_err(|error| Problem::internal(format!("where it was suspended: {error}")))?;
        self.restart = None;
        self.give_back();
        self.set_state(VmState::Stopped);
        self.go_back(&kept, actor).await?;
        if kept.snapshot.memory.is_some() && kept.snapshot.state == VmState::Running {
            self.start(Some(actor)).await?;
        }
        Ok(())
    }

    /// From now on it goes back, whoever does it. What it was doing is lost only after that.
    async fn write_down_going_back(&mut self, snapshot: Id) -> Result<(), Problem> {
        let before = (self.record.wanted, self.record.reverting);
        (self.record.wanted, self.record.reverting) = (false, Some(snapshot));
        let written = self.save(None).await;
        if written.is_err() {
            (self.record.wanted, self.record.reverting) = before;
        }
        written
    }

    /// Does what has been written down: the disks are what they were, then the guest.
    pub(super) async fn go_back(&mut self, kept: &Kept, actor: &str) -> Result<(), Problem> {
        let (pools, disks) = (Arc::clone(&self.shared.pools), kept.layers.clone());
        let reverted = tokio::task::spawn_blocking(move || snapshots::revert(&pools, &disks)).await;
        reverted.map_err(host_problem)??;
        let (id, name) = (self.record.vm.id, self.record.vm.definition.name.clone());
        if kept.snapshot.memory.is_some() {
            let (from, to) =
                (self.shared.paths.snapshot(id, kept.snapshot.id), self.shared.paths.suspended(id));
            let linked = tokio::task::spawn_blocking(move || saved::link(&from, &to)).await;
            linked.map_err(host_problem)?.map_err(host_problem)?;
        }
        let before = self.record.clone();
        self.record.vm.definition = kept.definition.clone().as_said(&before.vm.definition);
        (self.record.machine, self.record.twin) = (kept.machine.clone(), kept.twin.clone());
        (self.record.vm.status.snapshot, self.record.reverting) = (Some(kept.snapshot.id), None);
        self.record.again = kept.snapshot.memory.is_some();
        self.has_no_process();
        self.record.vm.status.pending_restart = false;
        let memory = kept.snapshot.memory.is_some();
        self.set_state(if memory { VmState::Suspended } else { VmState::Stopped });
        let message = format!("went back to the snapshot {}", kept.snapshot.name);
        let happening = self.happening("vm.reverted", message).by(actor);
        if let Err(problem) = self.save_renamed(&name, Some(happening)).await {
            self.record = before;
            return Err(problem);
        }
        let mut definition = self.record.vm.definition.clone();
        if let Err(problem) = self.shared.wires.plug(id, &mut definition, None).await {
            tracing::warn!("{}: {problem}", self.name());
        }
        Ok(())
    }

    /// Finishes what a daemon before this one had begun.
    pub(super) async fn finish_going_back(&mut self) {
        let Some(id) = self.record.reverting else { return };
        let done = match self.snapshot(&id.to_string()).await {
            Ok((kept, _)) => self.go_back(&kept, "").await,
            Err(problem) => Err(problem),
        };
        if let Err(problem) = done {
            tracing::error!("{} has not gone back to its snapshot: {problem}", self.name());
        }
    }

    /// Has a snapshot be called otherwise, if it is still what it was at this revision; gives the revision at which it is.
    pub(super) async fn label_snapshot(
        &mut self,
        id: Id,
        label: SnapshotLabel,
        expect: Revision,
        actor: &str,
    ) -> Result<Revision, Problem> {
        // One that is being made may have this name soon.
        self.must_not_change()?;
        let (kept, all) = self.snapshot(&id.to_string()).await?;
        must_be_free(&all, &label.name, Some(id))?;
        let SnapshotLabel { name, description } = label;
        let message = match kept.snapshot.name == name {
            true => format!("the snapshot {name} was edited"),
            false => format!("the snapshot {} is called {name} now", kept.snapshot.name),
        };
        let key = snapshots::key(self.record.vm.id, id);
        let kept = Kept { snapshot: Snapshot { name, description, ..kept.snapshot }, ..kept };
        let transaction = Transaction::new().expect(&key, expect).put(&key, &kept);
        let happening = self.happening("vm.snapshot-edited", message).by(actor);
        let transaction = transaction.and_then(|all| happening.add(all)).map_err(store_problem)?;
        match self.shared.store.commit(transaction).await {
            Err(StoreError::Conflict { .. }) => Err(snapshots::stale()),
            done => done.map_err(store_problem),
        }
    }

    /// Deletes a snapshot; what others need of it is merged with them.
    pub(super) async fn delete_snapshot(
        &mut self,
        name: &str,
        actor: &str,
        progress: Follower,
    ) -> Result<(), Problem> {
        self.must_not_change()?;
        let (kept, all) = self.snapshot(name).await?;
        let (id, snapshot) = (self.record.vm.id, &kept.snapshot);
        let before = self.record.vm.status.snapshot;
        if self.record.vm.status.snapshot == Some(snapshot.id) {
            self.record.vm.status.snapshot = snapshot.parent;
        }
        let message = format!("the snapshot {} was deleted", snapshot.name);
        let happening = self.happening("vm.snapshot-deleted", message).by(actor);
        let name = self.record.vm.definition.name.clone();
        let mut transaction = records::update(&name, &self.record, self.revision)
            .map(|transaction| transaction.delete(snapshots::key(id, snapshot.id)));
        for child in all.into_iter().filter(|other| other.snapshot.parent == Some(snapshot.id)) {
            let key = snapshots::key(id, child.snapshot.id);
            let child = Kept { snapshot: Snapshot { parent: snapshot.parent, ..child.snapshot }, ..child };
            transaction = transaction.and_then(|transaction| transaction.put(key, &child));
        }
        if let Err(problem) =
            self.commit_all(transaction.and_then(|transaction| happening.add(transaction))).await
        {
            self.record.vm.status.snapshot = before;
            return Err(problem);
        }
        saved::forget(&self.shared.paths.snapshot(id, snapshot.id));
        let pools = Arc::clone(&self.shared.pools);
        let work = move || snapshots::delete(&pools, &kept.layers, &*progress);
        // What stays is swept at the daemon's next start, or when the guest ends.
        tokio::task::spawn_blocking(work).await.map_err(host_problem)
    }
}

impl Guest {
    /// Has its machine read the files that these layers of a pool are now, where it reads them.
    pub(super) async fn take_layers(&mut self, pool: &Name, layers: &[Id]) {
        if self.running.is_none() {
            return;
        }
        let disks = snapshots::disks(self.record.vm.id, self.record.made_of()).unwrap_or_default();
        for disk in disks.into_iter().filter(|disk| disk.pool == *pool) {
            let (pools, looked) = (Arc::clone(&self.shared.pools), disk.clone());
            let below = tokio::task::spawn_blocking(move || snapshots::below(&pools, &looked)).await;
            let taken = match below.map_err(host_problem) {
                Ok(Ok(below)) if !below.layers.iter().any(|layer| layers.contains(layer)) => continue,
                Ok(Ok(below)) => {
                    let files: Vec<std::os::fd::OwnedFd> = below.files.into_iter().map(Into::into).collect();
                    let numbers: Vec<usize> = (0..files.len()).collect();
                    let name = crate::supervisor::machine::disk_name(disk.unit as usize);
                    let order = json!({ "name": name, "files": numbers });
                    self.tell::<Value>("disk_replace_below", order, &files).await.map(drop)
                }
                Ok(Err(problem)) | Err(problem) => Err(problem),
            };
            if let Err(problem) = taken {
                // What it has reads the same.
                tracing::info!("{} keeps files of disk {} until it ends: {problem}", self.name(), disk.unit);
            }
        }
    }
}
