//! Looks after guests: each has a task of its own that starts its process, follows it, and does what its policy says.

mod agent;
mod backup;
mod cards;
mod clone;
mod create;
mod disks;
mod export;
mod guest;
pub mod identity;
mod inside;
mod keep;
pub mod limits;
mod machine;
mod merge;
mod process;
mod random;
mod rpc;
mod saved;
mod turns;
pub(crate) mod usage;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use api::{
    Engine, EngineInfo, Id, Invalid, NewSnapshot, Problem, Size, Snapshot, SnapshotLabel, Typed, Verb, Vm,
    VmDefinition, VmState, VolumeName,
};
use storage::{Progress, Silent};
use tokio::sync::{Notify, oneshot};
use vmm::engine;

use crate::figures::Figures;
use crate::groups::Groups;
use crate::images::{self, Images};
use crate::paths::Paths;
use crate::pools::Pools;
use crate::records;
use crate::shares::Shares;
use crate::snapshots;
use crate::store::{Revision, Store, StoreError};
use crate::wires::Wires;
pub use agent::Agents;
use backup::Busy;
pub use backup::path as backup_path;
use disks::Made;
pub use guest::Follower;
pub use guest::{Apply, Edit, Options, needs_restart};
use guest::{Deleted, Guest, Order, Orders};
pub use keep::{Keep, joined, stamp};
pub use rpc::{Client, RpcError};
pub use turns::Turns;

/// What all guests' tasks need.
pub struct Shared {
    /// Where things are.
    pub paths: Paths,
    /// What guests boot from.
    pub images: Arc<Images>,
    /// What is known.
    pub store: Arc<dyn Store>,
    /// The control groups.
    pub groups: Groups,
    /// What guests' processes say of themselves.
    pub figures: Arc<Figures>,
    /// Whether the host is given back what guests report as free.
    pub reporting: bool,
    /// Which guests become themselves at a time.
    pub turns: Turns,
    /// What guests are promised.
    pub shares: Arc<Shares>,
    /// The storage pools.
    pub pools: Arc<Pools>,
    /// The networks.
    pub wires: Wires,
    /// The connections to the agents in guests.
    pub agents: Agents,
    /// This program: `tessera vmm` is a guest's process.
    pub program: PathBuf,
    /// What `auto` is here, and why.
    pub engine: engine::Kind,
    /// Why it is that.
    pub why: String,
    /// Whether a guest whose engine is to be KVM gets it even where that cannot run stock guests.
    pub kvm_as_it_is: bool,
    /// Frequency of guests' time-stamp counters, kHz, if it is not to be the engine's choice: one that both engines can give, so that a
    /// guest can go on with either.
    pub tsc_khz: Option<u32>,
}

/// Looks after all guests of a host.
pub struct Supervisor {
    shared: Arc<Shared>,
    guests: Arc<RwLock<HashMap<Id, Orders>>>,
    busy: Busy,
    /// Somebody has left layers that nobody wants.
    merging: Arc<Notify>,
}

/// A failed store is a failed host, except that somebody else may have been quicker.
pub fn store_problem(error: StoreError) -> Problem {
    match error {
        StoreError::Conflict { key } if key.starts_with("vm-name/") => {
            let name = key.trim_start_matches("vm-name/");
            let detail = format!("there is a guest called {name} already: give it another name");
            Problem::conflict_of(Invalid::new("/name", name, detail))
        }
        StoreError::Conflict { .. } => {
            Problem::conflict("it has changed meanwhile: look at it and try again")
        }
        other => {
            tracing::error!("{other}");
            Problem::internal(other.to_string())
        }
    }
}

fn rpc_problem(error: RpcError) -> Problem {
    match error {
        RpcError::Refused { message, .. } => Problem::conflict(message),
        other => Problem::internal(other.to_string()),
    }
}

/// What a failure of the storage is to whoever asked.
pub fn storage_problem(error: storage::Error) -> Problem {
    let text = error.to_string();
    match error.cause() {
        storage::Cause::Asked => match error {
            storage::Error::Invalid(wrong) => Problem::invalid(wrong),
            _ => Problem::new(422, "The request is not valid", text),
        },
        storage::Cause::Missing => Problem::not_found(text),
        storage::Cause::State | storage::Cause::Cancelled => Problem::conflict(text),
        storage::Cause::Host => Problem::internal(text),
    }
}

/// Does something that waits for storage on a thread that may wait.
///
/// # Errors
/// If the work fails.
pub async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Problem::internal(error.to_string()))?
}

/// There is no such guest, or none that may be seen.
pub fn no_guest(name: &str) -> Problem {
    let shown: String = name.chars().take(80).collect();
    Problem::not_found(format!("there is no guest {shown}"))
}

impl Shared {
    fn engine_kind(&self, definition: &VmDefinition) -> engine::Kind {
        match definition.engine {
            Engine::Auto => self.engine,
            Engine::Kvm if self.kvm_as_it_is => engine::Kind::KvmAsItIs,
            Engine::Kvm => engine::Kind::Kvm,
            Engine::Soft => engine::Kind::Soft,
        }
    }

    fn engine_of(&self, definition: &VmDefinition) -> Engine {
        guest_engine(self.engine_kind(definition))
    }

    /// Removes the sockets of a process that is gone.
    fn clear_run(&self, id: Id) -> io::Result<()> {
        self.agents.forget(id);
        self.groups.remove(id);
        match fs::remove_dir_all(self.paths.run(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes what a guest had of its own.
    fn remove_files(&self, id: Id, disks: &[api::Disk]) {
        disks::remove_all(&self.pools, id, disks);
        for folder in [self.paths.run(id), self.paths.vm(id)] {
            if let Err(error) = fs::remove_dir_all(&folder)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!("{} stays behind: {error}", folder.display());
            }
        }
    }

    /// Makes the disks that a changed definition has and the one before had not.
    async fn change_disks(&self, before: &Vm, after: &VmDefinition) -> Result<Made, Problem> {
        let (pools, images) = (Arc::clone(&self.pools), Arc::clone(&self.images));
        let (id, before, after) = (before.id, before.definition.disks.clone(), after.disks.clone());
        let make = move || disks::make(&pools, &images, id, &before, &after, &Silent);
        let made = tokio::task::spawn_blocking(make).await;
        made.map_err(|error| Problem::internal(error.to_string()))?
    }
}

impl Supervisor {
    /// Looks after the guests in `shared`'s store, none of which is known yet: [`recover`](Self::recover) comes first.
    pub fn new(shared: Shared) -> Self {
        Self {
            shared: Arc::new(shared),
            guests: Arc::default(),
            busy: Busy::default(),
            merging: Arc::default(),
        }
    }

    /// What executes guests here.
    pub fn engine(&self) -> EngineInfo {
        EngineInfo { engine: guest_engine(self.shared.engine), why: self.shared.why.clone() }
    }

    fn orders(&self, id: Id) -> Result<Orders, Problem> {
        let guests = self.guests.read().unwrap_or_else(PoisonError::into_inner);
        guests.get(&id).cloned().ok_or_else(|| no_guest(&id.to_string()))
    }

    fn remember(&self, id: Id, orders: Orders) {
        self.guests.write().unwrap_or_else(PoisonError::into_inner).insert(id, orders);
    }

    /// The guest with this id or name.
    ///
    /// # Errors
    /// If there is none.
    pub async fn find(&self, name_or_id: &str) -> Result<(Vm, Revision), Problem> {
        let found = records::find(&*self.shared.store, name_or_id).await.map_err(store_problem)?;
        found.map(|(record, revision)| (record.vm, revision)).ok_or_else(|| no_guest(name_or_id))
    }

    /// What is wrong with a definition, as far as that can be told without doing it; `own` is the guest that it is of, if there is
    /// one already.
    ///
    /// # Errors
    /// If a field is wrong, or its name is taken.
    pub async fn check(&self, definition: &VmDefinition, own: Option<Id>) -> Result<(), Problem> {
        let mut wrong = definition.check();
        wrong.extend(self.shared.shares.check(definition));
        for (number, disk) in definition.disks.iter().enumerate() {
            wrong.extend(disks::check(&self.shared.images, &self.shared.pools, number, disk));
        }
        wrong.extend(self.shared.wires.check_cards(own, definition).await);
        if definition.boot.kernel.is_none() && definition.image().is_none() {
            let detail = "there is nothing to boot: give an image as the first disk, or a kernel";
            wrong.push(Invalid::new("/boot/kernel", serde_json::Value::Null, detail));
        }
        if !wrong.is_empty() {
            return Err(Problem::invalid(wrong));
        }
        let holder =
            self.shared.store.get(&records::name_key(&definition.name)).await.map_err(store_problem)?;
        match holder {
            Some(entry) if serde_json::from_slice::<Id>(&entry.value).ok() != own => {
                Err(store_problem(StoreError::Conflict { key: entry.key }))
            }
            _ => Ok(()),
        }
    }

    /// Asks a guest for something, and waits until it is done.
    async fn ask<T>(
        &self,
        id: Id,
        order: impl FnOnce(oneshot::Sender<Result<T, Problem>>) -> Order,
    ) -> Result<T, Problem> {
        let (reply, answer) = oneshot::channel();
        // A guest whose task has ended has been deleted.
        let gone = || no_guest(&id.to_string());
        self.orders(id)?.send(order(reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Does a verb with a guest.
    ///
    /// # Errors
    /// If it is not possible in the guest's state, or fails.
    pub async fn verb(&self, id: Id, verb: Verb, options: Options) -> Result<(), Problem> {
        self.ask(id, |reply| Order::Verb(verb, options, reply)).await
    }

    /// Writes a guest to storage, to go on later where it was.
    ///
    /// # Errors
    /// If it does not run, or storage has no room: then it goes on.
    pub async fn suspend(
        &self,
        id: Id,
        actor: &str,
        progress: Arc<dyn Progress + Send + Sync>,
    ) -> Result<(), Problem> {
        let actor = actor.to_owned();
        self.ask(id, |reply| Order::Suspend(actor, progress, reply)).await
    }

    /// Types on the serial console of a guest that runs.
    ///
    /// # Errors
    /// If it does not run, or has not read what was typed before.
    pub async fn send_keys(&self, id: Id, keys: Vec<Typed>, actor: &str) -> Result<(), Problem> {
        let actor = actor.to_owned();
        self.ask(id, |reply| Order::Type(keys, actor, reply)).await
    }

    /// The snapshots of a guest, the oldest first.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn snapshots(&self, vm: &Vm) -> Result<Vec<Snapshot>, Problem> {
        let all = snapshots::list(&*self.shared.store, vm.id).await.map_err(store_problem)?;
        Ok(all.into_iter().map(|kept| kept.told(vm)).collect())
    }

    /// The snapshot of a guest with this name or id, and what it is a version of.
    ///
    /// # Errors
    /// If there is none.
    pub async fn snapshot(&self, vm: &Vm, name_or_id: &str) -> Result<(Snapshot, Revision), Problem> {
        let all = snapshots::list(&*self.shared.store, vm.id).await.map_err(store_problem)?;
        let kept = snapshots::find(&all, name_or_id)?.clone();
        let key = snapshots::key(vm.id, kept.snapshot.id);
        let entry = self.shared.store.get(&key).await.map_err(store_problem)?;
        // It went this moment otherwise.
        let entry = entry.ok_or_else(|| snapshots::none(name_or_id))?;
        Ok((kept.told(vm), entry.revision))
    }

    /// Has a snapshot be called otherwise, if it is still what it was at the revision `expect`; gives the one at which it is.
    ///
    /// # Errors
    /// If it is gone or has changed, or another one has the name.
    pub async fn label_snapshot(
        &self,
        vm: Id,
        snapshot: Id,
        label: SnapshotLabel,
        expect: Revision,
        actor: &str,
    ) -> Result<Revision, Problem> {
        let actor = actor.to_owned();
        self.ask(vm, |reply| Order::LabelSnapshot(snapshot, label, expect, actor, reply)).await
    }

    /// Makes a snapshot of a guest.
    ///
    /// # Errors
    /// If its name is taken, a disk can have none, or storage has no room: then the guest is as it was.
    pub async fn snap(
        &self,
        id: Id,
        new: NewSnapshot,
        actor: &str,
        progress: Follower,
    ) -> Result<Snapshot, Problem> {
        let actor = actor.to_owned();
        let made = self.ask(id, |reply| Order::Snap(new, actor, progress, reply)).await?;
        // What was right below the guest until now may go.
        self.merge_layers_in_the_background();
        Ok(made)
    }

    /// Has a guest go back to a snapshot.
    ///
    /// # Errors
    /// If there is none of this name or id, or the guest runs and that is not `force`d.
    pub async fn revert(&self, id: Id, snapshot: &str, force: bool, actor: &str) -> Result<(), Problem> {
        let (snapshot, actor) = (snapshot.to_owned(), actor.to_owned());
        self.ask(id, |reply| Order::Revert(snapshot, force, actor, reply)).await
    }

    /// Deletes a snapshot; what others need of it stays, and is merged with what is over it.
    ///
    /// # Errors
    /// If there is none of this name or id.
    pub async fn delete_snapshot(
        &self,
        id: Id,
        snapshot: &str,
        actor: &str,
        progress: Follower,
    ) -> Result<(), Problem> {
        let (snapshot, actor) = (snapshot.to_owned(), actor.to_owned());
        let merging = Arc::clone(&progress);
        self.ask(id, |reply| Order::DeleteSnapshot(snapshot, actor, progress, reply)).await?;
        // The guest is there for others meanwhile.
        self.merge_layers(merging).await;
        Ok(())
    }

    /// Makes disk `number` of a guest longer, at once if it runs.
    ///
    /// # Errors
    /// If it has no such disk, the disk is longer already or not the host's to change, or storage refuses.
    pub async fn grow(&self, id: Id, number: usize, size: Size, actor: &str) -> Result<(), Problem> {
        let actor = actor.to_owned();
        self.ask(id, |reply| Order::Grow(number, size, actor, reply)).await
    }

    /// Makes a guest another one; its machine, too, if it runs and that can be.
    ///
    /// # Errors
    /// If the definition is not valid, the guest has changed or uses what is to go, or its system does not take part.
    pub async fn edit(&self, id: Id, mut edit: Edit) -> Result<(), Problem> {
        let _images = self.shared.images.hold(images::of_disks(&edit.definition.disks))?;
        self.check(&edit.definition, Some(id)).await?;
        let (vm, _) = self.find(&id.to_string()).await?;
        disks::settle(&mut edit.definition, Some(&vm.definition))?;
        if vm.status.state == VmState::Running && edit.apply != Apply::NextBoot && !edit.force {
            self.check_unused(&vm, &edit.definition).await?;
        }
        self.ask(id, |reply| Order::Edit(Box::new(edit), reply)).await
    }

    /// Removes a guest and what it has of its own, but for its disks if they are to be kept: gives the volumes that they are then. One
    /// that runs is removed only if that is `force`d.
    ///
    /// # Errors
    /// If it runs, has changed, or its disks cannot be kept.
    pub async fn delete(
        &self,
        id: Id,
        force: bool,
        keep: Option<Keep>,
        expect: Option<Revision>,
        actor: &str,
    ) -> Result<Vec<VolumeName>, Problem> {
        let actor = actor.to_owned();
        let Deleted(volumes) =
            self.ask(id, |reply| Order::Delete { force, keep, expect, actor, reply }).await?;
        self.guests.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        // What it shared with another one is that one's alone now.
        self.merge_layers_in_the_background();
        volumes
    }

    /// Leaves nothing of a host without guests that run.
    pub fn close(&self) {
        self.shared.groups.close();
    }

    /// What guests are promised, and get.
    pub fn shares(&self) -> &Arc<Shares> {
        &self.shared.shares
    }

    /// The control groups.
    pub fn groups(&self) -> &Groups {
        &self.shared.groups
    }

    /// The images.
    pub fn images(&self) -> &Arc<Images> {
        &self.shared.images
    }

    /// The storage pools.
    pub fn pools(&self) -> &Arc<Pools> {
        &self.shared.pools
    }

    /// The networks.
    pub fn wires(&self) -> &Wires {
        &self.shared.wires
    }

    /// Finds the guests again that a daemon before this one left, and removes what it had half made. `booted` says that the machine has
    /// started since. Gives how many are there and how many of them run.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn recover(self: &Arc<Self>, booted: bool) -> Result<(usize, usize), StoreError> {
        let (records, _) = records::list(&*self.shared.store).await?;
        let kept = keep::recover(&*self.shared.store, &self.shared.pools).await?;
        self.sweep(&records).await;
        self.shared.wires.recover(&records).await?;
        let mut waiting = Vec::new();
        for (record, revision) in &records {
            let orders = Guest::spawn(Arc::clone(&self.shared), record.clone(), *revision);
            let (reply, done) = oneshot::channel();
            if orders.send(Order::TakeOver { booted, reply }).is_ok() {
                waiting.push(done);
            }
            self.remember(record.vm.id, orders);
        }
        for done in waiting {
            // One whose task has ended has nothing to take over.
            let _ = done.await;
        }
        let (records, _) = records::list(&*self.shared.store).await?;
        self.sweep_disks(&records, kept).await;
        snapshots::sweep(&*self.shared.store, &self.shared.pools, &self.shared.paths, &records).await?;
        self.begin_to_merge();
        self.merge_layers_in_the_background();
        let alive = records.iter().filter(|(record, _)| record.vm.status.state.is_alive()).count();
        if booted {
            let vms = records.iter().map(|(record, _)| record.vm.clone()).collect();
            tokio::spawn(Arc::clone(self).autostart(vms));
        }
        Ok((records.len(), alive))
    }

    /// Starts what is to start with the machine, in its order.
    async fn autostart(self: Arc<Self>, mut vms: Vec<Vm>) {
        vms.retain(|vm| vm.definition.autostart.enabled);
        vms.sort_by_key(|vm| (vm.definition.autostart.order, vm.created));
        for vm in vms {
            let options = Options { deadline: Duration::ZERO, force: false, actor: "autostart".into() };
            if let Err(problem) = self.verb(vm.id, Verb::Start, options).await {
                tracing::warn!("{} does not start with the host: {problem}", vm.definition.name);
            }
            tokio::time::sleep(Duration::from_secs(vm.definition.autostart.delay.into())).await;
        }
    }

    /// Removes files and processes of guests that nobody knows of: they were being made or deleted when a daemon was killed.
    async fn sweep(&self, known: &[records::Versioned]) {
        let known: Vec<_> = known.iter().map(|(record, _)| record.vm.id).collect();
        self.shared.groups.sweep(&known);
        let folders = [self.shared.paths.vms(), self.shared.paths.state().join("run")];
        let entries = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
        for entry in entries {
            let id = entry.file_name().to_str().and_then(|name| name.parse::<Id>().ok());
            let Some(id) = id.filter(|id| !known.contains(id)) else { continue };
            if let Ok((client, _)) = Client::connect(&self.shared.paths.control_socket(id)).await {
                // It ends with its answer, or has already.
                let _ = client.call::<serde_json::Value>("stop", serde_json::Value::Null, &[]).await;
            }
            self.shared.remove_files(id, &[]);
            tracing::info!(
                "removed what was left of guest {id}, which had not been made or had been deleted"
            );
        }
    }

    /// Removes disks that no guest has, but for those of the `kept`, which are gone. Processes that nobody needs are gone by now, too, and
    /// so are the locks on their disks.
    async fn sweep_disks(&self, known: &[records::Versioned], kept: Vec<Id>) {
        let of = |(record, _): &records::Versioned| {
            let (id, has, holds) = (record.vm.id, &record.vm.definition.disks, &record.made_of().disks);
            [machine::own_volumes(id, has), machine::own_volumes(id, holds)].concat()
        };
        let (pools, known) = (Arc::clone(&self.shared.pools), known.iter().flat_map(of).collect());
        let _ = tokio::task::spawn_blocking(move || pools.sweep(&known, &kept)).await;
    }
}

fn guest_engine(kind: engine::Kind) -> Engine {
    match kind {
        engine::Kind::Auto => Engine::Auto,
        engine::Kind::Kvm | engine::Kind::KvmAsItIs => Engine::Kvm,
        engine::Kind::Soft => Engine::Soft,
    }
}
