//! Guests as the store has them.

use api::{Id, Name, Vm, VmDefinition};
use serde::{Deserialize, Serialize};

use crate::store::{Entry, Revision, Store, StoreError, Transaction};
use crate::supervisor::identity::Twin;

/// Where guests are in the store.
pub const PREFIX: &str = "vm/";

/// What the store has of a guest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// What everybody may know.
    #[serde(flatten)]
    pub vm: Vm,
    /// Whether it should run: somebody started it and nobody has stopped it since.
    pub wanted: bool,
    /// Whether it stood still, because somebody wanted that, when it began to be suspended.
    #[serde(default)]
    pub stood_still: bool,
    /// Whether its file systems are made to rest: who finds that and does not do it has them go on.
    #[serde(default)]
    pub resting: bool,
    /// What its machine is made of, while there is one that runs or is on storage: what it should be may have changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<VmDefinition>,
    /// The snapshot that it is going back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverting: Option<Id>,
    /// Whether it was where it goes on from before: what must be unique to it is not then.
    #[serde(default)]
    pub again: bool,
    /// What its system still is of another guest, in whose memory it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub twin: Option<Twin>,
}

impl Record {
    /// What its machine is made of; what it would be made of if there is none.
    pub fn made_of(&self) -> &VmDefinition {
        self.machine.as_ref().unwrap_or(&self.vm.definition)
    }
}

/// The key of a guest.
pub fn key(id: Id) -> String {
    format!("{PREFIX}{id}")
}

/// The key that says whose a name is.
pub fn name_key(name: &Name) -> String {
    format!("vm-name/{name}")
}

/// Where the API has a guest.
pub fn path(id: Id) -> String {
    format!("/api/v1/vms/{id}")
}

/// A record and the revision it is of.
pub type Versioned = (Record, Revision);

/// A record as it lies in the store.
///
/// # Errors
/// If it is none.
pub fn read(entry: &Entry) -> Result<Versioned, StoreError> {
    let mut record: Record = serde_json::from_slice(&entry.value)?;
    // Before disks had numbers they were counted.
    for (place, disk) in record.vm.definition.disks.iter_mut().enumerate() {
        disk.unit.get_or_insert(place as u32);
    }
    Ok((record, entry.revision))
}

/// The guest with this id or name.
///
/// # Errors
/// If the store cannot be read.
pub async fn find(store: &dyn Store, name_or_id: &str) -> Result<Option<Versioned>, StoreError> {
    let id = match name_or_id.parse::<Id>() {
        Ok(id) => id,
        Err(_) => {
            let Ok(name) = name_or_id.parse::<Name>() else { return Ok(None) };
            let Some(entry) = store.get(&name_key(&name)).await? else { return Ok(None) };
            serde_json::from_slice(&entry.value)?
        }
    };
    store.get(&key(id)).await?.as_ref().map(read).transpose()
}

/// All guests, the oldest first, and the revision of the store at which they were so.
///
/// # Errors
/// If the store cannot be read.
pub async fn list(store: &dyn Store) -> Result<(Vec<Versioned>, Revision), StoreError> {
    let (entries, revision) = store.list(PREFIX).await?;
    Ok((entries.iter().map(read).collect::<Result<_, _>>()?, revision))
}

/// A transaction that makes a guest, if its name is free.
///
/// # Errors
/// If it cannot be JSON.
pub fn create(record: &Record) -> Result<Transaction, StoreError> {
    let vm = &record.vm;
    let name = name_key(&vm.definition.name);
    Transaction::new().expect_none(&name).put(name, &vm.id)?.expect_none(key(vm.id)).put(key(vm.id), record)
}

/// A transaction that changes a guest from what it was at `revision`.
///
/// # Errors
/// If it cannot be JSON.
pub fn update(old_name: &Name, record: &Record, revision: Revision) -> Result<Transaction, StoreError> {
    let vm = &record.vm;
    let transaction = Transaction::new().expect(key(vm.id), revision).put(key(vm.id), record)?;
    if *old_name == vm.definition.name {
        return Ok(transaction);
    }
    let name = name_key(&vm.definition.name);
    transaction.delete(name_key(old_name)).expect_none(&name).put(name, &vm.id)
}

/// A transaction that removes a guest.
pub fn delete(record: &Record, revision: Revision) -> Transaction {
    let id = record.vm.id;
    Transaction::new().expect(key(id), revision).delete(key(id)).delete(name_key(&record.vm.definition.name))
}
