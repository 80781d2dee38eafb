//! A machine out of its parts' states, and back.

use std::io;

use super::{Machine, MachineConfig, MachineError, check_processors};
use crate::engine::Engine;
use crate::memory::{Image, Ram};
use crate::processor::MODEL;
use crate::state::{ClockState, MachineState, PciState, Shape, SlotState};
use crate::virtio::RestoreError;

/// A machine cannot go on from where it was saved.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// It was made for another model of processor.
    #[error("the saved machine has processors of the model {saved}, this program makes {MODEL}")]
    Model {
        /// What it has.
        saved: String,
    },
    /// It has other processors.
    #[error("the saved machine has {saved} processors, the one to go on {here}")]
    Processors {
        /// What was saved.
        saved: usize,
        /// What there is.
        here: u32,
    },
    /// It has another amount of memory.
    #[error("the saved machine has {saved} bytes of memory, the one to go on {here}")]
    Memory {
        /// What was saved.
        saved: u64,
        /// What there is.
        here: u64,
    },
    /// Its slots hold something else.
    #[error("the saved machine has devices in the slots {saved:?}, the one to go on in {here:?}")]
    Slots {
        /// What was saved.
        saved: Vec<usize>,
        /// What there is.
        here: Vec<usize>,
    },
    /// A device is another one.
    #[error("the device in slot {slot} cannot go on")]
    Device {
        /// Where it is.
        slot: usize,
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
    /// returns; that comes as it is touched. `config` must name devices like those that it had, in the same order.
    ///
    /// # Errors
    /// If a part cannot be made or cannot go on: the error names it.
    pub fn restore(
        engine: &dyn Engine,
        mut config: MachineConfig,
        saved: SavedMachine,
    ) -> Result<Self, MachineError> {
        let SavedMachine { state, memory, again } = saved;
        check(&config, &state)?;
        config.tsc_khz = Some(state.shape.tsc_khz);
        let ram = Ram::over(state.shape.layout.clone(), memory)?;
        let machine = Self::assemble(engine, config, ram)?;
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
        let processors = 0..self.processors;
        let devices = self.devices.iter().map(|plugged| SlotState {
            slot: plugged.slot,
            function: plugged.function.save(),
            registers: plugged.transport.save(),
        });
        Ok(MachineState {
            shape: Shape {
                processors: self.processors,
                layout: self.ram.layout().clone(),
                model: MODEL.into(),
                tsc_khz: self.tsc_khz,
            },
            clock: ClockState { guest_ns: self.clock_ns() },
            // What devices did last may still be on its way to them; it is part of their state.
            processors: processors.map(|index| self.processor_state(index)).collect::<Result<_, _>>()?,
            ioapic: self.ioapic.save(),
            serial: self.serial.save(),
            rtc: self.rtc.save(),
            power: self.power.save(),
            generation: self.generation.save().map_err(MachineError::Host)?,
            pci: PciState { bridge: self.root.save(), address: self.config_ports.save() },
            devices: devices.collect(),
        })
    }

    /// Order matters: time first, because timers count from it; then who takes interrupts, then who sends them.
    fn put_back(&self, state: &MachineState) -> Result<(), MachineError> {
        self.partition.set_clock_ns(state.clock.guest_ns);
        self.ioapic.restore(state.ioapic.clone());
        for (index, processor) in (0..).zip(&state.processors) {
            self.set_processor_state(index, processor)?;
        }
        self.generation.restore(&state.generation).map_err(SavedError::Host)?;
        self.power.restore(&state.power);
        self.serial.restore(state.serial.clone());
        self.rtc.restore(state.rtc.clone());
        self.root.restore(&state.pci.bridge);
        self.config_ports.restore(state.pci.address);
        for (plugged, saved) in self.devices.iter().zip(&state.devices) {
            plugged.function.restore(&saved.function);
            let restored = plugged.transport.restore(&saved.registers);
            restored.map_err(|source| SavedError::Device { slot: saved.slot, source })?;
        }
        Ok(())
    }
}

/// Whether the machine that `config` makes can be what was saved.
fn check(config: &MachineConfig, state: &MachineState) -> Result<(), MachineError> {
    check_processors(config.processors)?;
    let shape = &state.shape;
    if shape.model != MODEL {
        return Err(SavedError::Model { saved: shape.model.clone() }.into());
    }
    if shape.processors != config.processors || state.processors.len() != config.processors as usize {
        return Err(SavedError::Processors { saved: state.processors.len(), here: config.processors }.into());
    }
    let memory = shape.layout.ram().iter().map(|range| range.size).sum();
    if memory != config.memory {
        return Err(SavedError::Memory { saved: memory, here: config.memory }.into());
    }
    let saved: Vec<_> = state.devices.iter().map(|device| device.slot).collect();
    let here: Vec<_> = (1..=config.devices.len()).collect();
    if saved != here {
        return Err(SavedError::Slots { saved, here }.into());
    }
    Ok(())
}
