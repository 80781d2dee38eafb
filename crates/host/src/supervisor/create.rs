//! How guests are made: their disks, what the store knows of them, and where they begin.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::{Id, Name, Problem, Time, Vm, VmDefinition, VmState, VmStatus};
use storage::Progress;
use storage::backups::Opened;

use super::guest::Guest;
use super::identity::Twin;
use super::saved::{self, SavedError};
use super::{Supervisor, disks, store_problem};
use crate::events::Happening;
use crate::images;
use crate::records::{self, Record};
use crate::snapshots::KeptDisk;

/// What a new guest's own disks are.
pub(super) enum Source {
    /// What its definition says.
    Definition,
    /// Copies of another guest's.
    Guest(Id),
    /// What is over these layers; and it may go on in another one's memory.
    Snapshot(Vec<KeptDisk>, Option<Memory>),
    /// What is in a backup.
    Backup(Box<Opened>),
}

/// The memory of a snapshot, for a guest to go on in.
pub(super) struct Memory {
    /// The guest whose it was.
    pub of: Name,
    /// What its machine was made of.
    pub machine: Box<VmDefinition>,
    /// What its system was of yet another one.
    pub twin: Option<Twin>,
    /// Where it is.
    pub place: PathBuf,
}

impl Memory {
    /// What a machine of this definition is of the one whose memory it was.
    fn of_machine(&self, definition: &VmDefinition) -> Twin {
        Twin::new(self.of.clone(), &self.machine, definition)
    }

    /// What the system of a guest with that machine still is of another one.
    fn twin(&self, definition: &VmDefinition) -> Twin {
        let next = self.of_machine(definition);
        match &self.twin {
            Some(before) => before.goes_on_as(next),
            None => next,
        }
    }

    /// Has a guest's machine go on from it.
    fn link(&self, to: &Path, definition: &VmDefinition) -> Result<(), SavedError> {
        saved::link_as(&self.place, to, |state| self.of_machine(definition).rename(state))
    }
}

/// A guest of which nobody has wanted anything yet; one that goes on in `memory` is suspended there.
fn new_record(id: Id, definition: VmDefinition, memory: Option<&Memory>) -> Record {
    let goes_on = memory.is_some();
    Record {
        wanted: false,
        stood_still: false,
        resting: false,
        machine: goes_on.then(|| definition.clone()),
        reverting: None,
        again: goes_on,
        twin: memory.map(|memory| memory.twin(&definition)),
        vm: Vm {
            id,
            definition,
            created: Time::now(),
            status: VmStatus {
                state: if goes_on { VmState::Suspended } else { VmState::Stopped },
                since: Time::now(),
                pid: None,
                engine: None,
                last_end: None,
                restarts: 0,
                pending_restart: false,
                no_room: Vec::new(),
                snapshot: None,
            },
        },
    }
}

impl Supervisor {
    /// Makes a guest. When this returns it is there for good, or nothing of it is.
    ///
    /// # Errors
    /// If its definition is not valid, its name is taken or its disks cannot be made.
    pub async fn create(
        &self,
        id: Id,
        definition: VmDefinition,
        actor: &str,
        progress: Arc<dyn Progress + Send + Sync>,
    ) -> Result<Vm, Problem> {
        self.create_of(id, Source::Definition, definition, actor, progress).await
    }

    /// Makes a guest whose own disks are what `source` says.
    pub(super) async fn create_of(
        &self,
        id: Id,
        source: Source,
        mut definition: VmDefinition,
        actor: &str,
        progress: Arc<dyn Progress + Send + Sync>,
    ) -> Result<Vm, Problem> {
        if !matches!(source, Source::Definition) {
            // It may come from another time, or from another host.
            self.shared.shares.forget_lost_group(&mut definition);
        }
        let _images = self.shared.images.hold(images::of_disks(&definition.disks))?;
        self.check(&definition, None).await?;
        disks::settle(&mut definition, None)?;
        self.shared.wires.plug(id, &mut definition, None).await?;
        let created = self.create_settled(id, source, definition, actor, progress).await;
        if created.is_err() {
            self.shared.wires.unplug(id).await;
        }
        created
    }

    async fn create_settled(
        &self,
        id: Id,
        source: Source,
        definition: VmDefinition,
        actor: &str,
        progress: Arc<dyn Progress + Send + Sync>,
    ) -> Result<Vm, Problem> {
        let memory = match &source {
            Source::Snapshot(_, memory) => memory.as_ref(),
            _ => None,
        };
        let record = new_record(id, definition.clone(), memory);
        let (shared, suspended) = (Arc::clone(&self.shared), self.shared.paths.suspended(id));
        let make = move || {
            let disks = &definition.disks;
            let (layers, memory) = match source {
                Source::Definition => {
                    return disks::make(&shared.pools, &shared.images, id, &[], disks, &*progress);
                }
                Source::Guest(source) => {
                    return disks::copy(&shared.pools, &shared.images, source, id, disks, &*progress);
                }
                Source::Backup(opened) => {
                    return disks::restore(&shared.pools, &opened, id, disks, &*progress);
                }
                Source::Snapshot(layers, memory) => (layers, memory),
            };
            let made = disks::link(&shared.pools, &layers, id, disks)?;
            match memory.map_or(Ok(()), |memory| memory.link(&suspended, &definition)) {
                Ok(()) => Ok(made),
                Err(error) => {
                    made.undo();
                    Err(Problem::conflict(error.to_string()))
                }
            }
        };
        let made = tokio::task::spawn_blocking(make).await;
        let made = made.map_err(|error| Problem::internal(error.to_string()))??;
        let happening = Happening::new("vm.created", "was made").by(actor);
        let happening = happening.to(records::path(id), record.vm.definition.name.as_str());
        let transaction = records::create(&record).and_then(|transaction| happening.add(transaction));
        let committed = match transaction {
            Ok(transaction) => self.shared.store.commit(transaction).await,
            Err(error) => Err(error),
        };
        match committed {
            Ok(revision) => {
                made.keep(|_| false);
                self.remember(id, Guest::spawn(Arc::clone(&self.shared), record.clone(), revision));
                Ok(record.vm)
            }
            Err(error) => {
                made.undo();
                saved::forget(&self.shared.paths.suspended(id));
                Err(store_problem(error))
            }
        }
    }
}
