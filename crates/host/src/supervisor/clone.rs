//! How guests are made of others: copies of one that does not run, what differs from a snapshot, and twins that go on in its memory.

use std::sync::Arc;

use api::{Id, Name, Problem, Vm, VmDefinition};
use storage::Progress;

use super::create::{Memory, Source};
use super::guest::Follower;
use super::{Supervisor, disks, store_problem};
use crate::snapshots;

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
            let detail =
                format!("{name} is {state}: only one that does not run can be cloned, or a snapshot of it");
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
        if !memory {
            let definition = another(name, &kept.definition)?;
            let source = Source::Snapshot(kept.layers, None);
            return self.create_of(id, source, definition, actor, progress).await;
        }
        let Some(machine) = kept.machine.clone().filter(|_| kept.snapshot.memory.is_some()) else {
            let detail = format!("{} has no memory: make a snapshot with --memory", kept.snapshot.name);
            return Err(Problem::conflict(detail));
        };
        // What is said of it is of the guest; what it is made of is of its machine.
        let said = &kept.definition;
        let (description, labels) = (said.description.clone(), said.labels.clone());
        let definition = another(name, &VmDefinition { description, labels, ..machine.clone() })?;
        let place = self.shared.paths.snapshot(source.id, kept.snapshot.id);
        let memory = Memory { of: source.definition.name.clone(), machine: machine.into(), place };
        let source = Source::Snapshot(kept.layers, Some(memory));
        self.create_of(id, source, definition, actor, progress).await
    }
}
