//! A machine out of its parts' states, and back.

use std::io;

use super::{Machine, MachineConfig, MachineError, check_processors, reservoir};
use crate::engine::Engine;
use crate::memory::{Image, Layout, MemoryError, Ram, Range};
use crate::processor::Model;
use crate::state::{ClockState, MachineState, PciState, ProcessorState, Shape};
use crate::virtio::RestoreError;

/// A machine cannot go on from where it was saved.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// It was made for another model of processor.
    #[error("the saved machine has processors of the model {saved}, this program makes {}", Model::ALL.map(Model::name).join(", "))]
    Model {
        /// What it has.
        saved: String,
    },
    /// It has other processors.
    #[error("the saved machine can have {saved} processors, the one to go on {here}")]
    Processors {
        /// What was saved.
        saved: u32,
        /// What there is.
        here: u32,
    },
    /// It has another amount of memory.
    #[error("the saved machine has places for {saved} bytes of memory, the one to go on for {here}")]
    Memory {
        /// What was saved.
        saved: u64,
        /// What there is.
        here: u64,
    },
    /// Its slots hold something else.
    #[error("the saved machine has the devices {saved:?}, the one to go on {here:?}")]
    Devices {
        /// What was saved.
        saved: Vec<String>,
        /// What there is.
        here: Vec<String>,
    },
    /// It makes no sense.
    #[error("the saved machine makes no sense: {why}")]
    Nonsense {
        /// What does not.
        why: &'static str,
    },
    /// A device is another one.
    #[error("the device {name} cannot go on")]
    Device {
        /// What it is called.
        name: String,
        /// Why.
        #[source]
        source: RestoreError,
    },
    /// A place in memory is not there.
    #[error("the saved machine's memory cannot be reached")]
    Host(#[from] io::Error),
}

/// A machine to go on from.
#[derive(Debug)]
pub struct SavedMachine {
    /// What it was.
    pub state: MachineState,
    /// Its memory.
    pub memory: Image,
    /// Whether it is one more machine, or one that was before: then the guest is told to forget what must be unique to it. One that only
    /// stood still goes on as itself.
    pub again: bool,
}

impl Machine {
    /// Puts a machine together that goes on where another one was saved; nothing runs yet. Everything but memory is there when this
    /// returns; that comes as it is touched. `config` must have devices like those that it had, with the same names; how many processors
    /// are there, and what is in which slot, and how much memory it began with, is as it was.
    ///
    /// # Errors
    /// If a part cannot be made or cannot go on: the error names it.
    pub fn restore(
        engine: &dyn Engine,
        mut config: MachineConfig,
        saved: SavedMachine,
    ) -> Result<Self, MachineError> {
        let SavedMachine { state, memory, again } = saved;
        let model = check(&config, &state)?;
        config.tsc_khz = Some(state.shape.tsc_khz);
        let ram = Ram::over(state.shape.layout.clone(), memory)?;
        let parts = std::mem::take(&mut config.devices);
        let there: Vec<_> = state.processors.iter().map(|processor| processor.number).collect();
        let mut machine = Self::assemble(engine, config, ram, &there, model)?;
        let (own, reservoir) = reservoir::parts(&machine.ram, &machine.reporter, machine.vcpus.precedence());
        machine.reservoir = reservoir;
        for part in parts.into_iter().chain(own) {
            let slot = state.devices.iter().find(|device| device.name == part.name).map(|device| device.slot);
            machine.slots.plug(part, slot)?;
        }
        // Devices that start must do nothing yet.
        machine.reactor.pause().map_err(MachineError::Host)?;
        machine.partition.stop_clock();
        machine.put_back(&state)?;
        if again {
            machine.generation.renew().map_err(MachineError::Host)?;
        }
        Ok(machine)
    }

    /// The machine as data. Only while paused.
    ///
    /// # Errors
    /// If the engine cannot give a processor's state.
    pub fn save(&self) -> Result<MachineState, MachineError> {
        let processor = |number| {
            let state = self.processor_state(number)?;
            Ok::<_, MachineError>(ProcessorState { number, state })
        };
        Ok(MachineState {
            shape: Shape {
                most_processors: self.most_processors,
                layout: self.ram.layout().clone(),
                model: self.model.name().into(),
                tsc_khz: self.tsc_khz,
            },
            clock: ClockState { guest_ns: self.clock_ns() },
            // What devices did last may still be on its way to them; it is part of their state.
            processors: self.vcpus.there().into_iter().map(processor).collect::<Result<_, _>>()?,
            ioapic: self.ioapic.save(),
            serial: self.serial.save(),
            rtc: self.rtc.save(),
            power: self.power.save(),
            generation: self.generation.save().map_err(MachineError::Host)?,
            pci: PciState { bridge: self.root.save(), address: self.config_ports.save() },
            plug: self.plug.save(),
            devices: self.slots.save(),
        })
    }

    /// Order matters: time first, because timers count from it; then who takes interrupts, then who sends them.
    fn put_back(&self, state: &MachineState) -> Result<(), MachineError> {
        self.partition.set_clock_ns(state.clock.guest_ns);
        self.ioapic.restore(state.ioapic.clone());
        for processor in &state.processors {
            self.set_processor_state(processor.number, &processor.state)?;
        }
        self.generation.restore(&state.generation).map_err(SavedError::Host)?;
        self.power.restore(&state.power);
        self.serial.restore(state.serial.clone());
        self.rtc.restore(state.rtc.clone());
        self.root.restore(&state.pci.bridge);
        self.config_ports.restore(state.pci.address);
        self.plug.restore(&state.plug);
        Ok(self.slots.restore(&state.devices)?)
    }
}

/// Whether the machine that `config` makes can be what was saved; gives the model of its processors.
fn check(config: &MachineConfig, state: &MachineState) -> Result<Model, MachineError> {
    let most = check_processors(config)?;
    let shape = &state.shape;
    let unknown = || SavedError::Model { saved: shape.model.clone() };
    let model = Model::named(&shape.model).ok_or_else(unknown)?;
    if shape.most_processors != most {
        return Err(SavedError::Processors { saved: shape.most_processors, here: most }.into());
    }
    let numbers: Vec<_> = state.processors.iter().map(|processor| processor.number).collect();
    if numbers.first() != Some(&0) || !numbers.is_sorted_by(|a, b| a < b) || numbers.last() >= Some(&most) {
        return Err(SavedError::Nonsense { why: "the numbers of its processors" }.into());
    }
    let memory = |range: &[Range]| range.iter().map(|range| range.size).fold(0, u64::saturating_add);
    let room = config.most_memory.unwrap_or(config.memory);
    // What it began with is in what was saved; since then some may have been plugged in.
    let base = memory(shape.layout.ram()).min(room);
    let here = Layout::with_room(base, room).map_err(MemoryError::from)?;
    if here != shape.layout {
        // Not what `here` has places for: that is rounded up to what can be plugged in, and nobody asked for it.
        return Err(SavedError::Memory { saved: memory(&shape.layout.memory()), here: room }.into());
    }
    let sorted = |names: &mut dyn Iterator<Item = &String>| {
        let mut names: Vec<_> = names.cloned().collect();
        names.sort();
        names
    };
    let saved = sorted(&mut state.devices.iter().map(|device| &device.name));
    let own = reservoir::names(&shape.layout);
    let here = sorted(&mut config.devices.iter().map(|part| &part.name).chain(&own));
    if saved != here {
        return Err(SavedError::Devices { saved, here }.into());
    }
    Ok(model)
}
