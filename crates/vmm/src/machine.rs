//! A machine: the parts list of a computer, and its life.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use softcpu::{Activity, CpuState};

use crate::boot::{self, BootError, Kernel, acpi};
use crate::bus::{Bus, Device, RangeTaken};
use crate::chipset::cmos::{self, Cmos};
use crate::chipset::ioapic::{self, IoApic};
use crate::chipset::ports;
use crate::chipset::power::{Listener, Power, Request, Trigger};
use crate::chipset::serial::{self, Output, Serial};
use crate::engine::{Engine, EngineError, Partition};
use crate::interrupt::{Pin, PinSink};
use crate::memory::{MemoryError, Ram, map};
use crate::pci::{self, ConfigPorts, Ecam, Root};
use crate::processor::CpuModel;
use crate::reactor::Reactor;
use crate::vcpu::{Team, VcpuEvent};
use crate::virtio;

/// The most processors a machine can have: APIC ids have eight bits, and one is the broadcast.
pub const MOST_PROCESSORS: u32 = 254;

/// What a machine is made of.
pub struct MachineConfig {
    /// Number of processors.
    pub processors: u32,
    /// Memory, bytes.
    pub memory: u64,
    /// What to start.
    pub kernel: Kernel,
    /// Where the serial line goes.
    pub console: Output,
    /// Virtio devices, in the order of their slots.
    pub devices: Vec<Box<dyn virtio::Device>>,
}

/// A machine cannot be made or driven.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Too many processors, or none.
    #[error("{asked} processors are not possible: a machine has 1 to {MOST_PROCESSORS}")]
    Processors {
        /// How many were asked for.
        asked: u32,
    },
    /// Memory cannot be had.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The engine refused.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The kernel cannot be started.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// Two devices want the same place.
    #[error(transparent)]
    Bus(#[from] RangeTaken),
    /// The host gives no thread or no descriptor.
    #[error("The host has no more threads or descriptors")]
    Host(#[source] std::io::Error),
    /// More devices than slots.
    #[error("{devices} devices do not fit: there are {} slots for them", pci::SLOTS - 1)]
    Slots {
        /// How many were asked for.
        devices: usize,
    },
}

/// How a machine's run ended, or what happened in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The guest powered itself off.
    PowerOff,
    /// The guest reset itself.
    Reset,
    /// The guest's kernel panicked.
    GuestPanic,
    /// A processor faulted three times over.
    TripleFault,
    /// The engine cannot go on.
    EngineFailure(String),
}

/// What processors reach: ports and memory-mapped registers, with the I/O APIC hearing of ended interrupts.
struct Buses {
    ports: Arc<Bus>,
    memory: Arc<Bus>,
    ioapic: Arc<IoApic>,
}

impl softcpu::Bus for Buses {
    fn port_read(&self, port: u16, data: &mut [u8]) {
        self.ports.read(u64::from(port), data);
    }
    fn port_write(&self, port: u16, data: &[u8]) {
        self.ports.write(u64::from(port), data);
    }
    fn mmio_read(&self, gpa: u64, data: &mut [u8]) {
        self.memory.read(gpa, data);
    }
    fn mmio_write(&self, gpa: u64, data: &[u8]) {
        self.memory.write(gpa, data);
    }
    fn end_of_interrupt(&self, vector: u8) {
        self.ioapic.end_of_interrupt(vector);
    }
}

/// A virtual machine.
pub struct Machine {
    ram: Arc<Ram>,
    partition: Arc<dyn Partition>,
    kernel: Kernel,
    processors: u32,
    ioapic: Arc<IoApic>,
    serial: Arc<Serial>,
    power: Arc<Power>,
    root: Arc<Root>,
    reactor: Reactor,
    vcpus: Team,
    requests: Mutex<Receiver<Signal>>,
}

enum Signal {
    Request(Request),
    Vcpu(VcpuEvent),
}

impl Machine {
    /// Puts a machine together; nothing runs yet.
    ///
    /// # Errors
    /// If a part cannot be made: the error names it.
    pub fn new(engine: &dyn Engine, config: MachineConfig) -> Result<Self, MachineError> {
        if config.processors == 0 || config.processors > MOST_PROCESSORS {
            return Err(MachineError::Processors { asked: config.processors });
        }
        let ram = Arc::new(Ram::new(config.memory)?);
        let partition = engine.create(Arc::clone(&ram), config.processors as usize)?;
        let (sender, requests) = channel();
        let listener = listener(&sender);

        let ports = Arc::new(Bus::default());
        let memory = Arc::new(Bus::default());
        let routes = Arc::clone(&partition);
        let ioapic = Arc::new(IoApic::new(partition.clone(), Box::new(move |r| routes.set_pin_routes(r))));
        let pin = |number| Pin::new(ioapic.clone() as Arc<dyn PinSink>, number);
        let serial = Arc::new(Serial::new(pin(ports::COM1_PIN), config.console));
        let power = Arc::new(Power::new(listener.clone(), pin(ports::EVENT_PIN)));

        memory.insert(map::IOAPIC, ioapic::SIZE, ioapic.clone())?;
        ports.insert(ports::COM1.into(), serial::SIZE, serial.clone())?;
        ports.insert(ports::RTC.into(), cmos::SIZE, Arc::new(Cmos::default()))?;
        ports.insert(ports::SLEEP_CONTROL.into(), 3, power.clone())?;
        let reset = Arc::new(Trigger::reset_register(listener.clone()));
        let triggers: [(u16, Trigger); 2] = [
            (ports::I8042_COMMAND, Trigger::keyboard_reset(listener.clone())),
            (ports::PVPANIC, Trigger::panic(listener)),
        ];
        for (port, trigger) in triggers {
            ports.insert(port.into(), 1, Arc::new(trigger) as Arc<dyn Device>)?;
        }

        let root = Root::new(memory.clone(), ram.layout());
        memory.insert(map::ECAM, map::ECAM_SIZE, Arc::new(Ecam(root.clone())))?;
        ports.insert(
            ConfigPorts::START,
            ConfigPorts::SIZE,
            Arc::new(ConfigPorts::new(root.clone(), reset)),
        )?;
        let reactor = Reactor::start("devices").map_err(MachineError::Host)?;
        let devices = config.devices.len();
        for device in config.devices {
            virtio::plug(&root, partition.clone(), ram.memory().clone(), reactor.handle(), device)
                .map_err(MachineError::Host)?
                .ok_or(MachineError::Slots { devices })?;
        }

        let buses = Arc::new(Buses { ports, memory, ioapic: Arc::clone(&ioapic) });
        let model = CpuModel::new(engine.tsc_khz());
        let mut processors = Vec::new();
        for index in 0..config.processors {
            let cpuid = model.cpuid(index, config.processors);
            processors.push(partition.create_processor(index as usize, &cpuid, buses.clone())?);
        }
        let report = Mutex::new(sender);
        let vcpus = Team::new(processors, move |event| {
            // Nobody listens any more: the machine is being dropped.
            let _ = report.lock().unwrap_or_else(PoisonError::into_inner).send(Signal::Vcpu(event));
        })
        .map_err(MachineError::Host)?;
        let machine = Self {
            ram,
            partition,
            kernel: config.kernel,
            processors: config.processors,
            ioapic,
            serial,
            power,
            root,
            reactor,
            vcpus,
            requests: Mutex::new(requests),
        };
        machine.load()?;
        Ok(machine)
    }

    /// Puts kernel and tables into memory and the processors where they begin.
    fn load(&self) -> Result<(), MachineError> {
        acpi::write(self.ram.memory(), self.ram.layout(), self.processors)?;
        let start = boot::load(&self.ram, &self.kernel)?;
        for index in 0..self.processors as usize {
            let fresh = if index == 0 {
                start.clone()
            } else {
                CpuState { activity: Activity::Uninitialized, ..CpuState::default() }
            };
            self.vcpus.with(index, |cpu| -> Result<(), EngineError> {
                let apic = cpu.state()?.apic;
                cpu.set_state(&CpuState { apic, ..fresh })
            })?;
        }
        Ok(())
    }

    /// Lets the devices and the processors run.
    pub fn resume(&self) {
        self.partition.start_clock();
        if let Err(error) = self.reactor.resume() {
            tracing::error!(%error, "the device thread cannot go on");
        }
        self.vcpus.resume();
    }

    /// Stops the processors, then the devices, then guest time; returns when all have stopped.
    pub fn pause(&self) {
        self.vcpus.pause();
        if let Err(error) = self.reactor.pause() {
            tracing::error!(%error, "the device thread cannot pause");
        }
        self.partition.stop_clock();
    }

    /// Presses the power button.
    pub fn press_power_button(&self) {
        self.power.press_button();
    }

    /// Gives the guest console input; says how much it took.
    pub fn input(&self, bytes: &[u8]) -> usize {
        self.serial.input(bytes)
    }

    /// Waits for the next event, at most `patience` long.
    pub fn wait(&self, patience: Duration) -> Option<Event> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let signal = requests.recv_timeout(patience).ok()?;
        Some(match signal {
            Signal::Request(Request::Off) => Event::PowerOff,
            Signal::Request(Request::Reset) => Event::Reset,
            Signal::Request(Request::Panicked) => Event::GuestPanic,
            Signal::Vcpu(VcpuEvent::TripleFault) => Event::TripleFault,
            Signal::Vcpu(VcpuEvent::Failed(why)) => Event::EngineFailure(why),
        })
    }

    /// Starts the guest afresh from its kernel, as a reset button does.
    ///
    /// # Errors
    /// If the kernel cannot be loaded again.
    pub fn reset(&self) -> Result<(), MachineError> {
        self.pause();
        self.root.reset();
        self.ioapic.reset();
        self.ram.clear();
        self.load()?;
        self.resume();
        Ok(())
    }

    /// Instructions executed by all processors, if the engine counts them. Only while paused.
    pub fn instructions(&self) -> Option<u64> {
        (0..self.processors as usize).map(|i| self.vcpus.with(i, |cpu| cpu.instructions())).sum()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.vcpus.stop();
    }
}

fn listener(sender: &Sender<Signal>) -> Listener {
    let sender = Mutex::new(sender.clone());
    Arc::new(move |request| {
        // Nobody listens any more: the machine is being dropped.
        let _ = sender.lock().unwrap_or_else(PoisonError::into_inner).send(Signal::Request(request));
    })
}
