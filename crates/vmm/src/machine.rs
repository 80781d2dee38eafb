//! A machine: the parts list of a computer, and its life.

mod hardware;
mod reporter;
mod reservoir;
mod saved;
mod slots;

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use softcpu::CpuState;

use crate::boot::{self, BootError, Kernel, acpi};
use crate::bus::{Bus, Device, RangeTaken};
use crate::chipset::generation::Generation;
use crate::chipset::ioapic::{self, IoApic};
use crate::chipset::plug::Plug;
use crate::chipset::pm_timer::{self, PmTimer};
use crate::chipset::ports;
use crate::chipset::power::{Listener, Power, Request, Trigger};
use crate::chipset::rtc::{self, Rtc};
use crate::chipset::serial::{self, Output, Serial};
use crate::engine::{Engine, EngineError, Partition};
use crate::figures::Figures;
use crate::interrupt::{Pin, PinSink};
use crate::memory::{Done, GuestMemory, MemoryError, Ram, Saving, map};
use crate::pci::{ConfigPorts, Ecam, Root};
use crate::processor::{CpuModel, Model};
use crate::reactor::Reactor;
use crate::vcpu::{Team, VcpuEvent};
use reporter::Reporter;
use reservoir::Reservoir;
use slots::Slots;

pub use hardware::Change;
pub use reservoir::{BALLOON, MEMORY, MemorySize};
pub use saved::{SavedError, SavedMachine};
pub use slots::Part;

/// The most processors a machine can have: APIC ids have eight bits, and one is the broadcast.
pub const MOST_PROCESSORS: u32 = 254;

/// What a machine is made of.
pub struct MachineConfig {
    /// Number of processors.
    pub processors: u32,
    /// How many there can be while it runs, if more.
    pub most_processors: Option<u32>,
    /// Memory, bytes.
    pub memory: u64,
    /// How much there can be while it runs, if more, bytes.
    pub most_memory: Option<u64>,
    /// Frequency of the processors' TSC, kHz, if it is not to be the engine's choice: that of a machine which may go on with another
    /// engine has to be one that both can give.
    pub tsc_khz: Option<u32>,
    /// What to start.
    pub kernel: Kernel,
    /// Where the serial line goes.
    pub console: Output,
    /// Virtio devices, in the order of their slots.
    pub devices: Vec<Part>,
    /// Where it says what its processors do, if somebody wants to know.
    pub figures: Option<Figures>,
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
    /// A machine that begins with more processors than it can have.
    #[error("{asked} processors are more than the {most} that there can be")]
    MostProcessors {
        /// How many it begins with.
        asked: u32,
        /// How many there can be.
        most: u32,
    },
    /// There is no such processor.
    #[error("There is no processor {index}")]
    NoProcessor {
        /// Which.
        index: u32,
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
    /// It cannot go on from where it was saved.
    #[error(transparent)]
    Saved(#[from] SavedError),
    /// More devices than slots.
    #[error("There is no room for one more device: a machine has {most}")]
    Slots {
        /// How many there can be.
        most: usize,
    },
    /// Two devices with one name.
    #[error("There is a device {name} already")]
    Name {
        /// Their name.
        name: String,
    },
    /// There is no such device.
    #[error("There is no device {name}")]
    NoDevice {
        /// What was asked for.
        name: String,
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
    /// What is plugged in has changed, or what came of a wish to change it.
    Hardware(Change),
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
    most_processors: u32,
    model: Model,
    tsc_khz: u32,
    ioapic: Arc<IoApic>,
    serial: Arc<Serial>,
    rtc: Arc<Rtc>,
    power: Arc<Power>,
    generation: Generation,
    root: Arc<Root>,
    config_ports: Arc<ConfigPorts>,
    plug: Arc<Plug>,
    slots: Arc<Slots>,
    reservoir: Reservoir,
    buses: Arc<Buses>,
    reactor: Reactor,
    vcpus: Arc<Team>,
    figures: Option<Figures>,
    reporter: Arc<Reporter>,
}

impl Machine {
    /// Puts a machine together; nothing runs yet.
    ///
    /// # Errors
    /// If a part cannot be made: the error names it.
    pub fn new(engine: &dyn Engine, mut config: MachineConfig) -> Result<Self, MachineError> {
        let room = config.most_memory.unwrap_or(config.memory);
        let (there, ram) = (0..config.processors, Ram::with_room(config.memory, room)?);
        let parts = std::mem::take(&mut config.devices);
        let mut machine = Self::assemble(engine, config, ram, &there.collect::<Vec<_>>(), Model::default())?;
        let (own, reservoir) = reservoir::parts(&machine.ram, &machine.reporter, machine.vcpus.precedence());
        machine.reservoir = reservoir;
        for part in parts.into_iter().chain(own) {
            machine.slots.plug(part, None)?;
        }
        machine.load()?;
        Ok(machine)
    }

    /// Puts the parts together around its memory; these processors are there, of this model.
    fn assemble(
        engine: &dyn Engine,
        config: MachineConfig,
        ram: Ram,
        there: &[u32],
        model: Model,
    ) -> Result<Self, MachineError> {
        let most_processors = check_processors(&config)?;
        let ram = Arc::new(ram);
        let tsc_khz = config.tsc_khz.unwrap_or_else(|| engine.tsc_khz());
        let partition = engine.create(Arc::clone(&ram), most_processors as usize, tsc_khz)?;
        let reactor = Reactor::start("devices").map_err(MachineError::Host)?;
        let reporter = Arc::new(Reporter::new().map_err(MachineError::Host)?);
        let told = Arc::clone(&reporter);
        let listener: Listener = Arc::new(move |request| told.report(request.into()));

        let ports = Arc::new(Bus::default());
        let memory = Arc::new(Bus::default());
        let routes = Arc::clone(&partition);
        let ioapic = Arc::new(IoApic::new(partition.clone(), Box::new(move |r| routes.set_pin_routes(r))));
        let pin = |number| Pin::new(ioapic.clone() as Arc<dyn PinSink>, number);
        let serial = Arc::new(Serial::new(pin(ports::COM1_PIN), config.console));
        let rtc = Arc::new(Rtc::new(pin(ports::RTC_PIN), &reactor.handle()).map_err(MachineError::Host)?);
        let power = Arc::new(Power::new(listener.clone(), pin(ports::EVENT_PIN)));
        let generation = Generation::new(Arc::clone(&ram), Arc::clone(&power));

        memory.insert(map::IOAPIC, ioapic::SIZE, ioapic.clone())?;
        ports.insert(ports::COM1.into(), serial::SIZE, serial.clone())?;
        ports.insert(ports::RTC.into(), rtc::SIZE, rtc.clone())?;
        ports.insert(ports::SLEEP_CONTROL.into(), 3, power.clone())?;
        ports.insert(ports::PM_TIMER.into(), pm_timer::SIZE, Arc::new(PmTimer::new(partition.clone())))?;
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
        let config_ports = Arc::new(ConfigPorts::new(root.clone(), reset));
        ports.insert(ConfigPorts::START, ConfigPorts::SIZE, config_ports.clone())?;
        let slots = Slots::new(root.clone(), partition.clone(), ram.memory().clone(), reactor.handle());
        let slots = Arc::new(slots);
        let told = Arc::clone(&reporter);
        let vcpus = Arc::new(Team::new(most_processors, move |event| told.report(event.into())));
        let plug = hardware::plug(most_processors, there, &slots, &vcpus, &reporter);
        ports.insert(ports::PLUG.into(), ports::plug::SIZE, plug.clone())?;

        let buses = Arc::new(Buses { ports, memory, ioapic: Arc::clone(&ioapic) });
        let machine = Self {
            ram,
            partition,
            kernel: config.kernel,
            most_processors,
            model,
            tsc_khz,
            ioapic,
            serial,
            rtc,
            power,
            generation,
            root,
            config_ports,
            plug,
            slots,
            reservoir: Reservoir::default(),
            buses,
            reactor,
            vcpus,
            figures: config.figures,
            reporter,
        };
        for index in there {
            machine.make_processor(*index)?;
        }
        Ok(machine)
    }

    /// Makes processor `index`, which was never there.
    fn make_processor(&self, index: u32) -> Result<(), MachineError> {
        let cpuid = CpuModel::of(self.model, self.tsc_khz).cpuid(index, self.most_processors);
        let mut processor = self.partition.create_processor(index as usize, &cpuid, self.buses.clone())?;
        if let Some(figures) = &self.figures {
            processor.tell_halts(figures, index);
            processor.take_turns(figures.turns());
            processor.keep_limit(figures, index);
        }
        self.vcpus.add(index, processor).map_err(MachineError::Host)
    }

    /// Puts kernel and tables into memory and the processors where they begin.
    fn load(&self) -> Result<(), MachineError> {
        let there = self.vcpus.there();
        let processors = acpi::Processors { there: &there, most: self.most_processors };
        acpi::write(self.ram.memory(), self.ram.layout(), processors)?;
        self.generation.choose().map_err(MachineError::Host)?;
        let start = boot::load(&self.ram, &self.kernel)?;
        for index in there {
            let fresh = if index == 0 { start.clone() } else { boot::waiting_state() };
            self.set_processor_state(index, &fresh)?;
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

    /// Sends a break on the serial line; says whether the guest had room for it.
    pub fn send_break(&self) -> bool {
        self.serial.send_break()
    }

    /// Readable while there are events to [`wait`](Self::wait) for.
    pub fn events(&self) -> BorrowedFd<'_> {
        self.reporter.ready()
    }

    /// Waits for the next event, at most `patience` long.
    pub fn wait(&self, patience: Duration) -> Option<Event> {
        self.reporter.wait(patience)
    }

    /// Starts the guest afresh from its kernel, as a reset button does.
    ///
    /// # Errors
    /// If the kernel cannot be loaded again.
    pub fn reset(&self) -> Result<(), MachineError> {
        self.pause();
        // A guest that resets itself asks in several ways until one works: this reset answers them all.
        self.reporter.forget();
        self.root.reset();
        self.serial.reset();
        self.rtc.reset();
        self.power.reset();
        self.plug.reset();
        self.ioapic.reset();
        self.ram.clear().map_err(MachineError::Host)?;
        self.load()?;
        self.resume();
        Ok(())
    }

    /// Begins to write the guest's memory, as it is now, into `file`: [`Ram::save`]. Only while paused; the machine may go on when this
    /// returns.
    ///
    /// # Errors
    /// If the host has no room for the file, or no process to spare.
    pub fn save_memory(&self, file: File, done: Done) -> Result<Saving, MachineError> {
        self.ram.save(file, done).map_err(MachineError::Host)
    }

    /// The guest's memory, as devices see it.
    pub fn guest_memory(&self) -> &Arc<GuestMemory> {
        self.ram.memory()
    }

    /// The pages written since the last call, guest-physical, in order, whoever wrote them.
    ///
    /// # Errors
    /// If the engine cannot tell.
    pub fn take_dirty(&self) -> Result<Vec<u64>, MachineError> {
        Ok(self.partition.take_dirty()?)
    }

    /// The whole state of processor `index`. Only while paused.
    ///
    /// # Errors
    /// If the engine cannot give it.
    pub fn processor_state(&self, index: u32) -> Result<CpuState, MachineError> {
        let state = self.vcpus.with(index, |cpu| cpu.state());
        Ok(state.ok_or(MachineError::NoProcessor { index })??)
    }

    /// Sets the whole state of processor `index`. Only while paused.
    ///
    /// # Errors
    /// If the engine refuses a part: the message names it.
    pub fn set_processor_state(&self, index: u32, state: &CpuState) -> Result<(), MachineError> {
        let set = self.vcpus.with(index, |cpu| cpu.set_state(state));
        Ok(set.ok_or(MachineError::NoProcessor { index })??)
    }

    /// Guest time, nanoseconds: it stands still while the machine is paused.
    pub fn clock_ns(&self) -> u64 {
        self.partition.clock_ns()
    }

    /// Host processor time each processor has used, nanoseconds.
    pub fn cpu_times_ns(&self) -> Vec<u64> {
        self.vcpus.cpu_times_ns()
    }

    /// Instructions executed by all processors, if the engine counts them. Only while paused.
    pub fn instructions(&self) -> Option<u64> {
        (0..self.most_processors).filter_map(|i| self.vcpus.with(i, |cpu| cpu.instructions())).sum()
    }
}

/// How many processors there can be.
fn check_processors(config: &MachineConfig) -> Result<u32, MachineError> {
    let (asked, most) = (config.processors, config.most_processors.unwrap_or(config.processors));
    for asked in [asked, most] {
        if asked == 0 || asked > MOST_PROCESSORS {
            return Err(MachineError::Processors { asked });
        }
    }
    if asked > most {
        return Err(MachineError::MostProcessors { asked, most });
    }
    Ok(most)
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.vcpus.stop();
        self.root.space().0.clear();
    }
}

impl From<Request> for Event {
    fn from(request: Request) -> Self {
        match request {
            Request::Off => Event::PowerOff,
            Request::Reset => Event::Reset,
            Request::Panicked => Event::GuestPanic,
        }
    }
}

impl From<VcpuEvent> for Event {
    fn from(event: VcpuEvent) -> Self {
        match event {
            VcpuEvent::TripleFault => Event::TripleFault,
            VcpuEvent::Failed(why) => Event::EngineFailure(why),
        }
    }
}
