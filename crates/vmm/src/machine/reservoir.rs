//! How much memory the guest has: what it began with, what is plugged in besides, and what the balloon takes away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::hardware::Change;
use super::{Event, Machine, MachineError, Part, Reporter};
use crate::memory::{Layout, LayoutError, Ram};
use crate::precedence::Precedence;
use crate::virtio::balloon::{self, Balloon, GuestMemoryStats};
use crate::virtio::mem::{self, Mem};

/// What the balloon is called.
pub const BALLOON: &str = "balloon";
/// What the device that has the memory which can be plugged in is called.
pub const MEMORY: &str = "memory";

/// By how much the balloon changes before anybody is told, bytes, unless it is as large as it should be: Linux fills it by 1 MiB at a time.
const WORTH_TELLING: u64 = 4 << 20;

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
    /// What of it stands in for memory that is still plugged in and should not be.
    #[serde(default)]
    pub standing_in: u64,
    /// What the balloon has.
    pub balloon: u64,
}

impl MemorySize {
    /// What the balloon is to have whatever others need.
    pub fn for_good(&self) -> u64 {
        self.target.saturating_sub(self.pooled)
    }

    /// What it is to have in all, without what a pool takes of it.
    pub fn asked(&self) -> u64 {
        (self.base + self.requested).saturating_sub(self.for_good().saturating_sub(self.standing_in))
    }
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

/// Those devices. Changes of their size are reported; a processor that fills the balloon while somebody waits goes before the others.
pub(super) fn parts(
    ram: &Arc<Ram>,
    reporter: &Arc<Reporter>,
    precedence: &Arc<Precedence>,
) -> (Vec<Part>, Reservoir) {
    let tell = || {
        let reporter = Arc::clone(reporter);
        move || reporter.report(Event::Hardware(Change::Memory))
    };
    let (device, balloon) = Balloon::new(Arc::clone(ram), Arc::clone(precedence));
    let tell_of_balloon = {
        let (tell, told) = (tell(), AtomicU64::new(0));
        move |size: balloon::BalloonSize| {
            let change = size.actual.abs_diff(told.load(Ordering::Relaxed));
            if size.actual == size.target || change >= WORTH_TELLING {
                told.store(size.actual, Ordering::Relaxed);
                tell();
            }
        }
    };
    let mut parts = vec![Part::new(BALLOON, device)];
    let mut reservoir = Reservoir { balloon: Some(Arc::clone(&balloon)), memory: None };
    if let Some(region) = ram.layout().more() {
        let (device, memory) = Mem::new(Arc::clone(ram), region);
        let tell = tell();
        let stands_in = Arc::downgrade(&balloon);
        memory.on_change(move |excess| {
            if let Some(balloon) = stands_in.upgrade() {
                balloon.stand_in_at_most(excess);
            }
            tell();
        });
        let held = Arc::clone(&memory);
        balloon.on_change(move |size| {
            go_on_if_full(&held, size);
            tell_of_balloon(size);
        });
        parts.push(Part::new(MEMORY, device));
        reservoir.memory = Some(memory);
    } else {
        balloon.on_change(tell_of_balloon);
    }
    (parts, reservoir)
}

/// A guest that has handed over what it was asked for may empty blocks now, and gets pages back for them. A pool has what it wants later.
fn go_on_if_full(memory: &mem::Handle, balloon: balloon::BalloonSize) {
    if balloon.actual >= balloon.target.saturating_sub(balloon.pooled) {
        memory.go_on();
    }
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
            standing_in: balloon.standing_in,
            balloon: balloon.actual,
        }
    }

    /// Asks the guest to be without so many bytes of what it has, for as long as others need them more.
    ///
    /// # Errors
    /// If it would have less than a guest needs.
    pub fn set_pooled(&self, bytes: u64) -> Result<(), MachineError> {
        let size = self.memory_size();
        let own = size.memory.saturating_sub(size.for_good());
        let left = own.saturating_sub(bytes).next_multiple_of(balloon::PAGE);
        // The guest would not survive to say so.
        Layout::new(left).map_err(crate::memory::MemoryError::from)?;
        if let Some(balloon) = &self.reservoir.balloon {
            balloon.set_pooled(own.saturating_sub(left));
        }
        Ok(())
    }

    /// Asks the guest to have so many bytes of memory in all. Where it has not let go of what is plugged in, and `insist` says so, it is
    /// asked to hand as much over to the balloon: pages that are free it hands over at once, while whole blocks have to be emptied first,
    /// page by page. As it lets go of blocks it gets those pages back.
    ///
    /// # Errors
    /// If that is more than there can be, or less than a guest needs.
    pub fn set_memory(&self, bytes: u64, insist: bool) -> Result<(), MachineError> {
        let size = self.memory_size();
        // The guest would not survive to say so.
        Layout::new(bytes).map_err(crate::memory::MemoryError::from)?;
        if bytes > size.most {
            return Err(
                crate::memory::MemoryError::from(LayoutError::TooLarge { bytes, most: size.most }).into()
            );
        }
        let (more, less) = (bytes.saturating_sub(size.base), size.base.saturating_sub(bytes));
        if let Some(balloon) = &self.reservoir.balloon {
            balloon.set_own(less);
            // What a pool has of it must leave enough, too: it takes what it needs anew.
            balloon.set_pooled(size.pooled.min(bytes - Layout::LEAST));
        }
        if let (Some(memory), Some(balloon)) = (&self.reservoir.memory, &self.reservoir.balloon) {
            // What is begun is a whole block.
            let more = more.next_multiple_of(mem::BLOCK);
            if insist && balloon.has_driver() {
                memory.request_later(more);
                balloon.stand_in(memory.excess());
                go_on_if_full(memory, balloon.size());
            } else {
                memory.request(more);
                balloon.stand_in_at_most(memory.excess());
            }
        }
        if let Some(balloon) = &self.reservoir.balloon {
            balloon.hurry();
        }
        Ok(())
    }

    /// Has the kernel keep pages of it that are equal to others' once, or each by itself again.
    ///
    /// # Errors
    /// As [`Ram::merge`].
    pub fn merge_memory(&self, merges: bool) -> Result<(), MachineError> {
        Ok(self.ram.merge(merges).map_err(crate::memory::MemoryError::Merge)?)
    }

    /// Whether it does.
    pub fn merges_memory(&self) -> bool {
        self.ram.merges()
    }

    /// Whether what the guest reports as free is given back to the host from now on: it is unless somebody says otherwise.
    pub fn set_reporting(&self, gives: bool) {
        if let Some(balloon) = &self.reservoir.balloon {
            balloon.set_reporting(gives);
        }
    }

    /// What the guest has said is free so far, and the host was given back, bytes.
    pub fn reported_memory(&self) -> u64 {
        self.reservoir.balloon.as_ref().map_or(0, |balloon| balloon.reported())
    }

    /// What the guest says of its memory.
    pub fn guest_memory_stats(&self) -> GuestMemoryStats {
        self.reservoir.balloon.as_ref().map(|balloon| balloon.statistics()).unwrap_or_default()
    }
}
