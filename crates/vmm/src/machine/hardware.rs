//! Hardware that comes and goes while the machine runs. Whatever is asked for, the guest decides: it is told by an ACPI event, takes what
//! is new or lets go of what is to leave, and says what came of it; that is told as a [`Change`]. A guest that does not listen says
//! nothing.

use std::sync::{Arc, Weak};

use super::slots::{Part, Slots};
use super::{Event, Machine, MachineError, Reporter};
use crate::boot;
use crate::chipset::plug::{Plug, Target, Word};
use crate::chipset::ports;
use crate::vcpu::Team;

/// The answer of a guest that begins to let go of something (ACPI 6.5, table 6.24): it will say more.
const IN_PROGRESS: u32 = 0x84;

/// What has changed, or has not although somebody wanted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The guest has taken a new device; with a number, it has failed to (ACPI 6.5, table 6.23).
    DeviceTaken(String, u32),
    /// A device is not there any more: the guest has let go of it.
    DeviceGone(String),
    /// The guest does not let go of a device.
    DeviceStays(String, u32),
    /// The guest has taken a new processor, or failed to.
    ProcessorTaken(u32, u32),
    /// A processor is not there any more.
    ProcessorGone(u32),
    /// The guest does not let go of a processor.
    ProcessorStays(u32, u32),
    /// The guest has taken memory or given some back.
    Memory,
}

/// The registers behind it: what the guest lets go of goes at once, on the thread of the processor that says so.
pub(super) fn plug(
    most: u32,
    there: &[u32],
    slots: &Arc<Slots>,
    vcpus: &Arc<Team>,
    reporter: &Arc<Reporter>,
) -> Arc<Plug> {
    let (slots, vcpus, reporter) = (Arc::clone(slots), Arc::downgrade(vcpus), Arc::clone(reporter));
    Arc::new_cyclic(|plug: &Weak<Plug>| {
        let plug = plug.clone();
        let hear = move |word| {
            let change = match word {
                Word::LetGo(Target::Slot(slot)) => slots.unplug(slot).map(Change::DeviceGone),
                // The first one stays: its tables offer no way.
                Word::LetGo(Target::Processor(0)) => None,
                Word::LetGo(Target::Processor(number)) => {
                    let (Some(vcpus), Some(plug)) = (vcpus.upgrade(), plug.upgrade()) else { return };
                    plug.processor_is_gone(number);
                    vcpus.remove(number);
                    Some(Change::ProcessorGone(number))
                }
                Word::Taken(Target::Processor(number), status) => {
                    Some(Change::ProcessorTaken(number, status))
                }
                // It has begun, or has said before that it has let go.
                Word::Left(_, 0 | IN_PROGRESS) => None,
                Word::Left(Target::Processor(number), status) => Some(Change::ProcessorStays(number, status)),
                Word::Taken(Target::Slot(slot), status) => {
                    slots.name(slot).map(|name| Change::DeviceTaken(name, status))
                }
                Word::Left(Target::Slot(slot), status) => {
                    slots.name(slot).map(|name| Change::DeviceStays(name, status))
                }
            };
            if let Some(change) = change {
                reporter.report(Event::Hardware(change));
            }
        };
        Plug::new(most, there, Box::new(hear))
    })
}

impl Machine {
    /// Plugs in a device, and tells the guest.
    ///
    /// # Errors
    /// If there is no room, or a device of that name.
    pub fn plug_in(&self, part: Part) -> Result<(), MachineError> {
        let slot = self.slots.plug(part, None)?;
        self.plug.slot_is_new(slot);
        self.power.raise(ports::EVENT_SLOTS);
        Ok(())
    }

    /// Asks the guest to let go of a device. It goes when the guest has.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn ask_for(&self, name: &str) -> Result<(), MachineError> {
        let slot = self.slots.find(name).ok_or_else(|| MachineError::NoDevice { name: name.into() })?;
        self.plug.slot_is_wanted(slot);
        self.power.raise(ports::EVENT_SLOTS);
        Ok(())
    }

    /// Pulls out a device, whether the guest has let go of it or not. Only while paused.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn pull_out(&self, name: &str) -> Result<(), MachineError> {
        let slot = self.slots.find(name).ok_or_else(|| MachineError::NoDevice { name: name.into() })?;
        self.slots.unplug(slot);
        Ok(())
    }

    /// The names of the devices, in the order of their slots.
    pub fn devices(&self) -> Vec<String> {
        self.slots.names()
    }

    /// The numbers of the processors that are there, and how many there can be.
    pub fn processors(&self) -> (Vec<u32>, u32) {
        (self.vcpus.there(), self.most_processors)
    }

    /// Adds a processor and tells the guest; gives its number. Only while paused.
    ///
    /// # Errors
    /// If there are as many as there can be, or the host gives no more.
    pub fn add_processor(&self) -> Result<u32, MachineError> {
        let there = self.vcpus.there();
        let free = (0..self.most_processors).find(|number| !there.contains(number));
        let number = free.ok_or(MachineError::MostProcessors {
            asked: self.most_processors + 1,
            most: self.most_processors,
        })?;
        if self.vcpus.has(number) {
            self.vcpus.bring_back(number);
        } else {
            self.make_processor(number)?;
        }
        self.set_processor_state(number, &boot::waiting_state())?;
        self.plug.processor_is_new(number);
        self.power.raise(ports::EVENT_PROCESSORS);
        Ok(number)
    }

    /// Asks the guest to let go of the processor with the highest number; gives the number. It goes when the guest has.
    ///
    /// # Errors
    /// If it is the only one.
    pub fn ask_for_processor(&self) -> Result<u32, MachineError> {
        let last = self.vcpus.there().into_iter().next_back().filter(|number| *number > 0);
        let number = last.ok_or(MachineError::Processors { asked: 0 })?;
        self.plug.processor_is_wanted(number);
        self.power.raise(ports::EVENT_PROCESSORS);
        Ok(number)
    }
}
