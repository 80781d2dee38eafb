//! How guests are made of others: copies of one that does not run, what differs from a snapshot or from what one is now, and twins that go
//! on in its memory.

use std::sync::Arc;

use api::{Id, Name, Problem, Vm, VmDefinition};
use serde_json::json;
use storage::Progress;

use super::create::{Memory, Source};
use super::guest::{Follower, Order};
use super::{Supervisor, disks, saved, storage_problem, store_problem};
use crate::events::Happening;
use crate::records;
use crate::snapshots::{self, Kept};
use crate::store::Transaction;

/// A definition for another guest: with a name of its own, and hardware and IP addresses still to be given.
pub(super) fn another(name: Name, of: &VmDefinition) -> Result<VmDefinition, Problem> {
    let mut definition = VmDefinition { name, ..of.clone() };
    for nic in &mut definition.nics {
        (nic.mac, nic.address, nic.address6) = (None, None, None);
    }
    if let Some(config) = &mut definition.cloud_init {
        config.hostname = None;
    }
    disks::check_shared(&definition)?;
    Ok(definition)
}

impl Supervisor {
    /// Makes a guest that is as another one that does not run: with copies of its own disks, and with a host name, hardware and IP
    /// addresses of its own.
    ///
    /// # Errors
    /// If the other one runs, has a volume that only one guest can write to, or the new name is taken.
    pub async fn clone_guest(
        &self,
        source: &Vm,
        id: Id,
        name: Name,
        actor: &str,
        progress: Arc<dyn Progress + Send + Sync>,
    ) -> Result<Vm, Problem> {
        if source.status.state.is_alive() {
            let (name, state) = (&source.definition.name, source.status.state.word());
            let detail = format!(
                "{name} is {state}: only one that does not run is copied; clone it instantly, or a snapshot of it"
            );
            return Err(Problem::conflict(detail));
        }
        let definition = another(name, &source.definition)?;
        self.create_of(id, Source::Guest(source.id), definition, actor, progress).await
    }

    /// Makes a guest of a snapshot of another one: its disks have only what differs from it, so that takes no time. With `memory` it is
    /// suspended where the other one was, and is one of its own when it goes on.
    ///
    /// # Errors
    /// If there is no such snapshot, it has no memory where that is wanted, it has a volume that only one guest can write to, or the new
    /// name is taken.
    pub async fn clone_snapshot(
        &self,
        source: &Vm,
        (snapshot, memory): (&str, bool),
        id: Id,
        name: Name,
        actor: &str,
        progress: Follower,
    ) -> Result<Vm, Problem> {
        let all = snapshots::list(&*self.shared.store, source.id).await.map_err(store_problem)?;
        let kept = snapshots::find(&all, snapshot)?.clone();
        if memory && (kept.machine.is_none() || kept.snapshot.memory.is_none()) {
            let detail = format!("{} has no memory: make a snapshot with --memory", kept.snapshot.name);
            return Err(Problem::conflict(detail));
        }
        self.clone_kept(
            source,
            Kept { machine: kept.machine.filter(|_| memory), ..kept },
            id,
            name,
            actor,
            progress,
        )
        .await
    }

    /// Makes a guest of what another one is now, at once: it shares the disks, and the memory where the other one runs, which goes on.
    ///
    /// What they share is no snapshot. When the new guest is there its disks hold the layers, as its saved machine does the memory; what one
    /// of the two does not need any more is merged or goes with it.
    ///
    /// # Errors
    /// If the other one is neither at work nor stopped, has a volume or file that only one guest can write to, the new name is taken, or
    /// it is called off: then nothing of it is there.
    pub async fn clone_instantly(
        &self,
        source: &Vm,
        id: Id,
        name: Name,
        actor: &str,
        progress: Follower,
    ) -> Result<Vm, Problem> {
        // What cannot be is known before the other one stands still for it.
        self.check(&another(name.clone(), &source.definition)?, None).await?;
        let following = Arc::clone(&progress);
        let kept = self.ask(source.id, |reply| Order::Fork(following, reply)).await?;
        let (layers, snapshot) = (kept.layers.clone(), kept.snapshot.clone());
        let made = match progress.cancelled() {
            true => Err(storage_problem(storage::Error::Cancelled)),
            false => self.clone_kept(source, *kept, id, name, actor, progress).await,
        };
        saved::forget(&self.shared.paths.snapshot(source.id, snapshot.id));
        let pools = Arc::clone(&self.shared.pools);
        // What stays is swept at the daemon's next start.
        let _ = tokio::task::spawn_blocking(move || snapshots::delete_of_kept(&pools, &layers)).await;
        self.merge_layers_in_the_background();
        let made = made?;
        let message = format!("was cloned as {}", made.definition.name);
        let happening = Happening::new("vm.cloned", message).by(actor);
        let happening = happening.to(records::path(source.id), source.definition.name.as_str());
        let happening = happening.with(json!({ "clone": made.id, "pause_ns": snapshot.pause_ns }));
        let transaction = happening.add(Transaction::new()).map_err(store_problem)?;
        self.shared.store.commit(transaction).await.map_err(store_problem)?;
        Ok(made)
    }

    /// Makes a guest of what is kept of another one: in its memory if there is a machine.
    async fn clone_kept(
        &self,
        source: &Vm,
        kept: Kept,
        id: Id,
        name: Name,
        actor: &str,
        progress: Follower,
    ) -> Result<Vm, Problem> {
        let Some(machine) = kept.machine else {
            let definition = another(name, &kept.definition)?;
            let source = Source::Snapshot(kept.layers, None);
            return self.create_of(id, source, definition, actor, progress).await;
        };
        // What is said of it is of the guest; what it is made of is of its machine.
        let definition = another(name, &machine.clone().as_said(&kept.definition))?;
        let place = self.shared.paths.snapshot(source.id, kept.snapshot.id);
        let (of, twin) = (source.definition.name.clone(), kept.twin);
        let memory = Memory { of, machine: machine.into(), twin, place };
        let source = Source::Snapshot(kept.layers, Some(memory));
        self.create_of(id, source, definition, actor, progress).await
    }
}
