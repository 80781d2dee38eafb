//! A whole machine whose processors are the test.

use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Duration;

use softcpu::{Bus, CpuState, CpuidEntry};
use vmm::boot::{Kernel, Source};
use vmm::engine::{Engine, EngineError, Exit, Kicker, Partition, Processor};
use vmm::interrupt::{MsiMessage, MsiSink};
use vmm::machine::{Machine, MachineConfig, Part, SavedMachine};
use vmm::memory::{Image, Ram};
use vmm::state::MachineState;
use vmm::virtio::Device;

use crate::guest::{Code, elf_file};

/// More than any device takes.
const LONG: Duration = Duration::from_secs(20);

/// The machine, and what a processor reaches of it.
pub struct Rig {
    pub machine: Machine,
    pub bus: Arc<dyn Bus>,
    interrupts: Arc<Interrupts>,
}

impl Rig {
    /// A machine of 16 MiB with these devices, running.
    pub fn new(devices: Vec<Box<dyn Device>>) -> Self {
        let rig = Self::made(devices, |engine, config| Machine::new(engine, config).unwrap());
        rig.machine.resume();
        rig
    }

    /// A machine with these devices, or those of them that it still had, that goes on where another one was saved; it is paused.
    pub fn restored(devices: Vec<Box<dyn Device>>, saved: SavedMachine) -> Self {
        Self::made(devices, |engine, mut config| {
            config.devices.retain(|part| saved.state.devices.iter().any(|device| device.name == part.name));
            Machine::restore(engine, config, saved).unwrap()
        })
    }

    fn made(devices: Vec<Box<dyn Device>>, make: impl FnOnce(&dyn Engine, MachineConfig) -> Machine) -> Self {
        let engine = Hand::default();
        let kernel = Kernel {
            image: Source::new("test", elf_file(&Code::default().spin())),
            initrd: None,
            command_line: String::new(),
        };
        let console = Box::new(std::io::sink());
        let name = |(number, device)| Part { name: format!("device{number}"), device };
        let devices = devices.into_iter().enumerate().map(name).collect();
        let config = MachineConfig {
            figures: None,
            processors: 1,
            most_processors: None,
            memory: 16 << 20,
            most_memory: Some(64 << 20),
            tsc_khz: None,
            kernel,
            console,
            devices,
        };
        let machine = make(&engine, config);
        let partition = engine.partition.get().unwrap();
        // Taken away: it knows the partition, and neither would ever go.
        let bus = partition.bus.lock().unwrap().take().unwrap();
        Self { machine, bus, interrupts: Arc::clone(&partition.interrupts) }
    }

    /// The machine as it is, which is paused: its state as JSON and back, and its memory in a file.
    pub fn saved(&self) -> SavedMachine {
        let state = self.machine.save().unwrap();
        let state = MachineState::from_json(state.to_json().unwrap()).unwrap();
        let file = tempfile::tempfile().unwrap();
        let (told, hear) = std::sync::mpsc::channel();
        let done = Box::new(move |result| told.send(result).unwrap());
        let _saving = self.machine.save_memory(file.try_clone().unwrap(), done).unwrap();
        hear.recv_timeout(LONG).unwrap().unwrap();
        SavedMachine { state, memory: Image::open(file).unwrap(), again: false }
    }

    /// Reads a register in memory.
    pub fn read(&self, address: u64, len: usize) -> u64 {
        let mut bytes = [0; 8];
        self.bus.mmio_read(address, &mut bytes[..len]);
        u64::from_le_bytes(bytes)
    }

    /// Writes one.
    pub fn write(&self, address: u64, value: u64, len: usize) {
        self.bus.mmio_write(address, &value.to_le_bytes()[..len]);
    }

    /// How many messages with this data there have been.
    pub fn messages(&self, data: u32) -> usize {
        self.interrupts.count(data)
    }

    /// As if there had been none yet.
    pub fn forget_messages(&self) {
        self.interrupts.list.lock().unwrap().clear();
    }

    /// Waits until there have been more than `seen` messages with this data, or until `patience` is over.
    pub fn wait_for_message(&self, data: u32, seen: usize, patience: Duration) -> bool {
        let list = self.interrupts.list.lock().unwrap();
        let more = |list: &mut Vec<u32>| list.iter().filter(|d| **d == data).count() <= seen;
        !self.interrupts.came.wait_timeout_while(list, patience, more).unwrap().1.timed_out()
    }

    /// Waits for something that a device does without telling.
    pub fn eventually(&self, what: &str, mut happened: impl FnMut() -> bool) {
        let start = std::time::Instant::now();
        while !happened() {
            assert!(start.elapsed() < LONG, "{what} does not happen");
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// The messages that devices sent.
#[derive(Default)]
struct Interrupts {
    list: Mutex<Vec<u32>>,
    came: Condvar,
}

impl Interrupts {
    fn count(&self, data: u32) -> usize {
        self.list.lock().unwrap().iter().filter(|d| **d == data).count()
    }
}

/// An engine without instructions.
#[derive(Default)]
struct Hand {
    partition: OnceLock<Arc<HandPartition>>,
}

#[derive(Default)]
struct HandPartition {
    bus: Mutex<Option<Arc<dyn Bus>>>,
    interrupts: Arc<Interrupts>,
}

impl Engine for Hand {
    fn name(&self) -> &'static str {
        "hand"
    }
    fn tsc_khz(&self) -> u32 {
        1_000_000
    }
    fn create(&self, _: Arc<Ram>, _: usize, _: u32) -> Result<Arc<dyn Partition>, EngineError> {
        Ok(Arc::clone(self.partition.get_or_init(Arc::default)) as Arc<dyn Partition>)
    }
}

impl MsiSink for HandPartition {
    fn signal(&self, message: MsiMessage) {
        let mut list = self.interrupts.list.lock().unwrap();
        // A hostile driver may ask for many, and nobody counts those.
        if list.len() < 1 << 20 {
            list.push(message.data);
        }
        self.interrupts.came.notify_all();
    }
}

impl Partition for HandPartition {
    fn create_processor(
        &self,
        _: usize,
        _: &[CpuidEntry],
        bus: Arc<dyn Bus>,
    ) -> Result<Box<dyn Processor>, EngineError> {
        *self.bus.lock().unwrap() = Some(bus);
        Ok(Box::new(HandProcessor::default()))
    }
    fn stop_clock(&self) {}
    fn start_clock(&self) {}
    fn clock_ns(&self) -> u64 {
        0
    }
    fn set_clock_ns(&self, _: u64) {}
    fn take_dirty(&self) -> Result<Vec<u64>, EngineError> {
        Ok(Vec::new())
    }
}

#[derive(Default)]
struct Kick {
    kicked: Mutex<bool>,
    woken: Condvar,
}

#[derive(Default)]
struct HandProcessor(Arc<Kick>, CpuState);

impl Processor for HandProcessor {
    fn run(&mut self) -> Exit {
        let kicked = self.0.kicked.lock().unwrap();
        *self.0.woken.wait_while(kicked, |kicked| !*kicked).unwrap() = false;
        Exit::Kicked
    }
    fn kicker(&self) -> Arc<dyn Kicker> {
        Arc::clone(&self.0) as Arc<dyn Kicker>
    }
    fn state(&mut self) -> Result<CpuState, EngineError> {
        Ok(self.1.clone())
    }
    fn set_state(&mut self, state: &CpuState) -> Result<(), EngineError> {
        self.1 = state.clone();
        Ok(())
    }
}

impl Kicker for Kick {
    fn kick(&self) {
        *self.kicked.lock().unwrap() = true;
        self.woken.notify_all();
    }
}
