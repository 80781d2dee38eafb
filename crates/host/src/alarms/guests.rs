//! The guests as alarms see them, kept current by the store's own changes: nobody has to read a thousand records to look at one number.

use std::collections::{BTreeMap, HashMap};

use api::{AlarmScope, Id, Name, Time, VmState, VolumeName};

use crate::pools::volumes_of;
use crate::records::{self, Record};
use crate::store::Update;

/// A guest.
pub struct Guest {
    /// Its name.
    pub name: Name,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What it does, and since when.
    pub state: (VmState, Time),
    /// Its volumes.
    pub volumes: Vec<VolumeName>,
}

impl From<Record> for Guest {
    fn from(record: Record) -> Guest {
        let vm = record.vm;
        Guest {
            // One whose disks have no names has none that could be looked at.
            volumes: volumes_of(vm.id, &vm.definition).unwrap_or_default(),
            name: vm.definition.name,
            labels: vm.definition.labels,
            state: (vm.status.state, vm.status.since),
        }
    }
}

/// All of them.
#[derive(Default)]
pub struct Guests(pub HashMap<Id, Guest>);

impl Guests {
    /// Those of these records.
    pub fn new(records: Vec<records::Versioned>) -> Self {
        Self(records.into_iter().map(|(record, _)| (record.vm.id, record.into())).collect())
    }

    /// One may have changed.
    pub fn follow(&mut self, update: &Update) {
        let Some(id) = update.key.strip_prefix(records::PREFIX).and_then(|id| id.parse::<Id>().ok()) else {
            return;
        };
        let record = update.value.as_deref().map(serde_json::from_slice::<Record>);
        match record {
            Some(Ok(record)) => drop(self.0.insert(id, record.into())),
            // What cannot be read is nothing that could be looked at.
            Some(Err(_)) | None => drop(self.0.remove(&id)),
        }
    }

    /// The guest that a path of the API is of, if it is of one.
    pub fn at(&self, target: &str) -> Option<(Id, Option<&Guest>)> {
        let id = target.strip_prefix("/api/v1/vms/")?.split('/').next()?.parse::<Id>().ok()?;
        Some((id, self.0.get(&id)))
    }

    /// Whether what is at `target` is among what an alarm watches: a guest that is gone never is.
    pub fn fits(&self, scope: &AlarmScope, target: &str) -> bool {
        if let Some(pool) = &scope.pool {
            return target == crate::pools::path(pool);
        }
        match self.at(target) {
            Some((_, None)) => false,
            Some((id, Some(guest))) => {
                let labelled = scope.labels.iter().all(|(key, value)| guest.labels.get(key) == Some(value));
                labelled && scope.vm.as_ref().is_none_or(|vm| *vm == id.to_string())
            }
            None => scope.vm.is_none() && scope.labels.is_empty(),
        }
    }
}
