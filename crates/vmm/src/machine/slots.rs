//! What is in the machine's slots: there from the start, plugged in later, and pulled out when the guest has let go of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::MachineError;
use super::saved::SavedError;
use crate::interrupt::MsiSink;
use crate::memory::GuestMemory;
use crate::pci::{self, Root};
use crate::reactor::Handle;
use crate::state::SlotState;
use crate::virtio::{self, Plugged};

/// A device and what it is called by: no two of a machine have the same name, and a saved machine finds its devices by it.
pub struct Part {
    /// Its name.
    pub name: String,
    /// It.
    pub device: Box<dyn virtio::Device>,
}

impl Part {
    /// A device with a name.
    pub fn new(name: impl Into<String>, device: impl virtio::Device + 'static) -> Self {
        Self { name: name.into(), device: Box::new(device) }
    }
}

struct Occupied {
    name: String,
    plugged: Plugged,
}

/// The slots.
pub(super) struct Slots {
    root: Arc<Root>,
    sink: Arc<dyn MsiSink>,
    memory: Arc<GuestMemory>,
    reactor: Handle,
    occupied: Mutex<BTreeMap<usize, Occupied>>,
}

impl Slots {
    /// The slots of `root`, whose devices interrupt through `sink`.
    pub fn new(root: Arc<Root>, sink: Arc<dyn MsiSink>, memory: Arc<GuestMemory>, reactor: Handle) -> Self {
        Self { root, sink, memory, reactor, occupied: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, Occupied>> {
        self.occupied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a device into the `wanted` slot, or a free one; gives the slot.
    ///
    /// # Errors
    /// If its name is taken, or there is no room.
    pub fn plug(&self, part: Part, wanted: Option<usize>) -> Result<usize, MachineError> {
        let mut occupied = self.lock();
        if occupied.values().any(|other| other.name == part.name) {
            return Err(MachineError::Name { name: part.name });
        }
        let (sink, memory) = (Arc::clone(&self.sink), Arc::clone(&self.memory));
        let plugged = virtio::plug(&self.root, sink, memory, self.reactor.clone(), part.device, wanted);
        let plugged = plugged.map_err(MachineError::Host)?;
        let plugged = plugged.ok_or(MachineError::Slots { most: pci::SLOTS - 1 })?;
        let slot = plugged.slot;
        occupied.insert(slot, Occupied { name: part.name, plugged });
        Ok(slot)
    }

    /// Takes out what is in a slot; gives its name. When this returns it does nothing any more, and holds nothing of the host's.
    pub fn unplug(&self, slot: usize) -> Option<String> {
        let occupied = self.lock().remove(&slot)?;
        self.root.unplug(slot);
        Some(occupied.name)
    }

    /// The slot of the device with this name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.lock().iter().find(|(_, occupied)| occupied.name == name).map(|(slot, _)| *slot)
    }

    /// The name of the device in a slot.
    pub fn name(&self, slot: usize) -> Option<String> {
        self.lock().get(&slot).map(|occupied| occupied.name.clone())
    }

    /// The names of all devices, in the order of their slots.
    pub fn names(&self) -> Vec<String> {
        self.lock().values().map(|occupied| occupied.name.clone()).collect()
    }

    /// What is saved. Only while the machine is paused.
    pub fn save(&self) -> Vec<SlotState> {
        let state = |(slot, occupied): (&usize, &Occupied)| SlotState {
            slot: *slot,
            name: occupied.name.clone(),
            function: occupied.plugged.function.save(),
            registers: occupied.plugged.transport.save(),
        };
        self.lock().iter().map(state).collect()
    }

    /// Puts back what was saved, of devices that are in the slots that they were in.
    ///
    /// # Errors
    /// If a device cannot go on.
    pub fn restore(&self, saved: &[SlotState]) -> Result<(), SavedError> {
        let occupied = self.lock();
        for state in saved {
            let Some(Occupied { plugged, .. }) = occupied.get(&state.slot) else { continue };
            plugged.function.restore(&state.function);
            let restored = plugged.transport.restore(&state.registers);
            restored.map_err(|source| SavedError::Device { name: state.name.clone(), source })?;
        }
        Ok(())
    }
}
