//! How much memory the guest has: what it began with, what is plugged in besides, and what the balloon takes away.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::hardware::Change;
use super::{Event, Machine, MachineError, Part, Reporter};
use crate::memory::{Layout, LayoutError, Ram};
use crate::virtio::balloon::{self, Balloon, GuestMemoryStats};
use crate::virtio::mem::{self, Mem};

/// What the balloon is called.
pub const BALLOON: &str = "balloon";
/// What the device that has the memory which can be plugged in is called.
pub const MEMORY: &str = "memory";

/// How much memory there is, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemorySize {
    /// What the guest has: what it began with, and what is plugged in.
    pub memory: u64,
    /// What it began with.
    pub base: u64,
    /// What it could have.
    pub most: u64,
    /// What it has been asked to have plugged in.
    pub requested: u64,
    /// What it has been asked to hand over to the balloon.
    pub target: u64,
    /// What of that a pool of memory wants for others; the rest is what it is to be without for good.
    #[serde(default)]
    pub pooled: u64,
    /// What the balloon has.
    pub balloon: u64,
}

/// The devices behind it.
#[derive(Default)]
pub(super) struct Reservoir {
    balloon: Option<Arc<balloon::Handle>>,
    memory: Option<Arc<mem::Handle>>,
}

/// The names of the devices that every machine with this layout has besides those it is told to have.
pub(super) fn names(layout: &Layout) -> Vec<String> {
    let memory = layout.more().map(|_| MEMORY.to_owned());
    [BALLOON.to_owned()].into_iter().chain(memory).collect()
}

/// Those devices. Changes of their size are reported.
pub(super) fn parts(ram: &Arc<Ram>, reporter: &Arc<Reporter>) -> (Vec<Part>, Reservoir) {
    let tell = || {
        let reporter = Arc::clone(reporter);
        move || reporter.report(Event::Hardware(Change::Memory))
    };
    let (device, balloon) = Balloon::new(Arc::clone(ram));
    balloon.on_change(tell());
    let mut parts = vec![Part::new(BALLOON, device)];
    let mut reservoir = Reservoir { balloon: Some(balloon), memory: None };
    if let Some(region) = ram.layout().more() {
        let (device, memory) = Mem::new(Arc::clone(ram), region);
        memory.on_change(tell());
        parts.push(Part::new(MEMORY, device));
        reservoir.memory = Some(memory);
    }
    (parts, reservoir)
}

impl Machine {
    /// How much memory there is.
    pub fn memory_size(&self) -> MemorySize {
        let base = self.ram.layout().ram().iter().map(|range| range.size).sum();
        let balloon = self.reservoir.balloon.as_ref().map(|balloon| balloon.size()).unwrap_or_default();
        let (requested, plugged, room) =
            self.reservoir.memory.as_ref().map_or((0, 0, 0), |memory| memory.size());
        MemorySize {
            memory: base + plugged,
            base,
            most: base + room,
            requested,
            target: balloon.target,
            pooled: balloon.pooled,
            balloon: balloon.actual,
        }
    }

    /// Asks the guest to be without so many bytes of what it has, for as long as others need them more.
    ///
    /// # Errors
    /// If it would have less than a guest needs.
    pub fn set_pooled(&self, bytes: u64) -> Result<(), MachineError> {
        let size = self.memory_size();
        let own = size.memory.saturating_sub(size.target - size.pooled);
        let left = own.saturating_sub(bytes).next_multiple_of(balloon::PAGE);
        // The guest would not survive to say so.
        Layout::new(left).map_err(crate::memory::MemoryError::from)?;
        if let Some(balloon) = &self.reservoir.balloon {
            balloon.set_pooled(own.saturating_sub(left));
        }
        Ok(())
    }

    /// Asks the guest to have so many bytes of memory in all.
    ///
    /// # Errors
    /// If that is more than there can be, or less than a guest needs.
    pub fn set_memory(&self, bytes: u64) -> Result<(), MachineError> {
        let size = self.memory_size();
        // The guest would not survive to say so.
        Layout::new(bytes).map_err(crate::memory::MemoryError::from)?;
        if bytes > size.most {
            return Err(
                crate::memory::MemoryError::from(LayoutError::TooLarge { bytes, most: size.most }).into()
            );
        }
        let (more, less) = (bytes.saturating_sub(size.base), size.base.saturating_sub(bytes));
        if let Some(memory) = &self.reservoir.memory {
            // What is begun is a whole block.
            memory.request(more.next_multiple_of(mem::BLOCK));
        }
        if let Some(balloon) = &self.reservoir.balloon {
            balloon.set_own(less);
            // What a pool has of it must leave enough, too: it takes what it needs anew.
            balloon.set_pooled(size.pooled.min(bytes - Layout::LEAST));
        }
        Ok(())
    }

    /// What the guest says of its memory.
    pub fn guest_memory_stats(&self) -> GuestMemoryStats {
        self.reservoir.balloon.as_ref().map(|balloon| balloon.statistics()).unwrap_or_default()
    }
}
