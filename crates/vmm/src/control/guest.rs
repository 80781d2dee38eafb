//! The machine behind the socket, and where it is in its life.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::protocol::{
    Cable, Descriptor, DiskSpec, GuestEvent, MachineSpec, NetSpec, OnPanic, OnReset, PortSpec, Refusal,
    State, StateReport, Stats, code,
};
use crate::boot::{Kernel, Source};
use crate::engine;
use crate::machine::{Event, Machine, MachineConfig};
use crate::virtio::console::{Cable as Plug, Console as Ports, PortConfig};
use crate::virtio::net::{Backend, Net, Stream, Tap};
use crate::virtio::{Device, block::Block, rng::Rng};

use super::console::Console;
use super::usage::Meters;

/// More queues than these do not make a disk faster.
const MOST_QUEUES: u32 = 4;
/// How much of what is typed is taken ahead of the guest, bytes.
const TYPED_AHEAD: usize = 4096;

/// A machine, once there is one, and what has happened to it.
pub(super) struct Guest {
    machine: Option<Machine>,
    meters: Meters,
    state: State,
    last: Option<GuestEvent>,
    on_reset: OnReset,
    on_panic: OnPanic,
    console: Option<File>,
    consoles: Option<Console>,
    typed: VecDeque<u8>,
}

impl Guest {
    pub fn none() -> Self {
        Self {
            machine: None,
            meters: Meters::default(),
            state: State::Empty,
            last: None,
            on_reset: OnReset::default(),
            on_panic: OnPanic::default(),
            console: None,
            consoles: None,
            typed: VecDeque::new(),
        }
    }

    /// Carries out one method; `stop` is the caller's.
    pub fn call(&mut self, method: &str, params: Value, files: Vec<OwnedFd>) -> Result<Value, Refusal> {
        if method != "create" && !params.is_null() && params != serde_json::json!({}) {
            return Err(Refusal::new(code::PARAMS, format!("{method} takes no parameters")));
        }
        match method {
            "create" => {
                let spec = serde_json::from_value(params).map_err(|e| Refusal::new(code::PARAMS, e))?;
                self.create(spec, files)?;
            }
            "state" => {}
            "pause" => self.pause()?,
            "resume" => self.resume()?,
            "power_button" => self.running()?.press_power_button(),
            "reset" => self.reset()?,
            "stats" => return json(&self.stats()?),
            _ => return Err(Refusal::new(code::METHOD, format!("there is no method {method:?}"))),
        }
        json(&self.report())
    }

    pub fn report(&self) -> StateReport {
        StateReport { state: self.state, last: self.last.clone() }
    }

    fn machine(&self) -> Result<&Machine, Refusal> {
        let none = || Refusal::new(code::STATE, "there is no machine yet: create comes first");
        self.machine.as_ref().ok_or_else(none)
    }

    fn running(&self) -> Result<&Machine, Refusal> {
        match (self.machine()?, self.state) {
            (machine, State::Running) => Ok(machine),
            (_, state) => {
                Err(Refusal::new(code::STATE, format!("the machine does not run: it is {}", word(state))))
            }
        }
    }

    fn create(&mut self, spec: MachineSpec, files: Vec<OwnedFd>) -> Result<(), Refusal> {
        if self.machine.is_some() {
            return Err(Refusal::new(code::STATE, "there is a machine already"));
        }
        let mut files = Files(files.into_iter().map(Some).collect());
        let kernel = Kernel {
            image: Source::new("kernel", files.take("kernel", spec.kernel)?),
            initrd: match spec.initrd {
                Some(n) => Some(Source::new("initrd", files.take("initrd", n)?)),
                None => None,
            },
            command_line: spec.command_line,
        };
        let console = spec.console.map(|n| files.take("console", n)).transpose()?;
        let queues = spec.processors.clamp(1, MOST_QUEUES) as u16;
        let mut devices: Vec<Box<dyn Device>> = Vec::new();
        let mut meters = Meters::default();
        for (number, spec) in spec.disks.into_iter().enumerate() {
            let serial = spec.serial.clone();
            let disk = open_disk(number, spec, queues, &mut files)?;
            meters.disk(&serial, &disk);
            devices.push(Box::new(disk));
        }
        for (number, spec) in spec.nets.into_iter().enumerate() {
            let mac = spec.mac;
            let card = open_card(number, spec, &mut files)?;
            meters.card(mac, &card);
            devices.push(Box::new(card));
        }
        if !spec.ports.is_empty() {
            devices.push(Box::new(open_ports(spec.ports, &mut files)?));
        }
        devices.push(Box::new(Rng::default()));
        let socket = spec.console_socket.map(|n| files.take("console_socket", n)).transpose()?;
        let log = spec.console_log.map(|n| files.take("console_log", n)).transpose()?;
        let (output, consoles) = console_outputs(&console, socket, log)?;
        let kvm = spec.kvm.map(|n| files.take("kvm", n)).transpose()?;
        let engine = engine::choose_on(spec.engine, kvm).map_err(machine_refusal)?.engine;
        let config = MachineConfig {
            processors: spec.processors,
            memory: spec.memory,
            tsc_khz: None,
            kernel,
            console: output,
            devices,
        };
        self.machine = Some(Machine::new(&*engine, config).map_err(machine_refusal)?);
        self.meters = meters;
        (self.on_reset, self.on_panic) = (spec.on_reset, spec.on_panic);
        (self.console, self.consoles) = (console, consoles);
        self.state = State::Paused;
        Ok(())
    }

    fn pause(&mut self) -> Result<(), Refusal> {
        if self.state == State::Paused {
            return Ok(());
        }
        self.running()?.pause();
        self.state = State::Paused;
        Ok(())
    }

    fn resume(&mut self) -> Result<(), Refusal> {
        match (self.machine()?, self.state) {
            (_, State::Running) => Ok(()),
            (machine, State::Paused) => {
                machine.resume();
                self.state = State::Running;
                Ok(())
            }
            (_, state) => {
                Err(Refusal::new(code::STATE, format!("the machine is {}: reset starts it", word(state))))
            }
        }
    }

    fn reset(&mut self) -> Result<(), Refusal> {
        self.machine()?.reset().map_err(machine_refusal)?;
        self.state = State::Running;
        Ok(())
    }

    fn stats(&self) -> Result<Stats, Refusal> {
        Ok(self.meters.read(self.machine()?))
    }

    /// Readable when something has happened in the guest.
    pub fn events(&self) -> Option<BorrowedFd<'_>> {
        self.machine.as_ref().map(Machine::events)
    }

    /// Takes what has happened, and does what follows from it.
    pub fn next_event(&mut self) -> Option<StateReport> {
        let event = self.machine.as_ref()?.wait(Duration::ZERO)?;
        let (event, ends) = match event {
            Event::PowerOff => (GuestEvent::PowerOff, true),
            Event::Reset => (GuestEvent::Reset, self.on_reset == OnReset::End),
            Event::TripleFault => (GuestEvent::TripleFault, self.on_reset == OnReset::End),
            Event::GuestPanic => (GuestEvent::Panic, self.on_panic == OnPanic::End),
            Event::EngineFailure(why) => (GuestEvent::EngineFailure { why }, true),
        };
        let restarts = !ends && matches!(event, GuestEvent::Reset | GuestEvent::TripleFault);
        self.last = Some(event);
        let machine = self.machine.as_ref()?;
        if ends {
            machine.pause();
            self.state = State::Ended;
        } else if restarts && let Err(error) = machine.reset() {
            self.last = Some(GuestEvent::EngineFailure { why: error.to_string() });
            self.state = State::Ended;
        }
        Some(self.report())
    }

    /// How many bytes may be typed ahead of the guest now.
    pub fn room_for_typed(&self) -> usize {
        if self.state == State::Running { TYPED_AHEAD.saturating_sub(self.typed.len()) } else { 0 }
    }

    /// The console, when there is room for what is typed.
    pub fn console(&self) -> Option<BorrowedFd<'_>> {
        self.console.as_ref().filter(|_| self.room_for_typed() > 0).map(AsFd::as_fd)
    }

    /// The console that clients connect to.
    pub fn consoles(&self) -> Option<&Console> {
        self.consoles.as_ref()
    }

    /// Serves those clients.
    pub fn serve_consoles(&mut self) {
        let room = self.room_for_typed();
        if let Some(consoles) = &self.consoles {
            self.typed.extend(consoles.serve(room.min(512)));
        }
    }

    /// Whether something was typed that the guest has had no room for.
    pub fn has_typed(&self) -> bool {
        self.state == State::Running && !self.typed.is_empty()
    }

    /// Reads the console.
    pub fn read_console(&mut self) {
        let Some(console) = &mut self.console else { return };
        let mut buffer = [0; 512];
        match console.read(&mut buffer) {
            Ok(n) if n > 0 => self.typed.extend(&buffer[..n]),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // Nobody types any more; the guest's own words still go where they went.
            _ => self.console = None,
        }
    }

    /// Gives the guest what was typed, as far as it has room.
    pub fn pass_typed(&mut self) {
        let Some(machine) = self.machine.as_ref().filter(|_| self.state == State::Running) else { return };
        let taken = machine.input(self.typed.make_contiguous());
        self.typed.drain(..taken);
    }
}

fn json(value: &impl Serialize) -> Result<Value, Refusal> {
    serde_json::to_value(value).map_err(|e| Refusal::new(code::MACHINE, e))
}

fn word(state: State) -> &'static str {
    match state {
        State::Empty => "not there",
        State::Paused => "paused",
        State::Running => "running",
        State::Ended => "ended",
    }
}

/// An error with its causes, in one line.
fn machine_refusal(error: impl std::error::Error) -> Refusal {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message += &format!(": {error}");
        cause = error.source();
    }
    Refusal::new(code::MACHINE, message)
}

/// The files that came with a message; each can be used once.
struct Files(Vec<Option<OwnedFd>>);

impl Files {
    fn take(&mut self, field: &str, number: Descriptor) -> Result<File, Refusal> {
        let count = self.0.len();
        match self.0.get_mut(number) {
            Some(file) => match file.take() {
                Some(file) => Ok(file.into()),
                None => Err(Refusal::new(code::PARAMS, format!("{field}: file {number} is used twice"))),
            },
            None => {
                let why = format!("{field}: there is no file {number}, {count} came with the message");
                Err(Refusal::new(code::PARAMS, why))
            }
        }
    }
}

fn open_disk(number: usize, spec: DiskSpec, queues: u16, files: &mut Files) -> Result<Block, Refusal> {
    let field = format!("disks[{number}]");
    let file = files.take(&format!("{field}.file"), spec.file)?;
    if spec.serial.len() > 20 {
        return Err(Refusal::new(code::PARAMS, format!("{field}.serial: at most 20 bytes")));
    }
    let name = |n| format!("{field}.backing[{n}]");
    let backing = spec.backing.into_iter().enumerate().map(|(n, file)| files.take(&name(n), file));
    let backing = backing.collect::<Result<Vec<File>, Refusal>>()?;
    let disk = disk::from_files(file, backing, spec.format, spec.read_only)
        .map_err(|error| Refusal::new(code::MACHINE, format!("{field}: {error}")))?;
    Ok(Block::new(disk, &spec.serial, queues))
}

fn open_card(number: usize, spec: NetSpec, files: &mut Files) -> Result<Net, Refusal> {
    let field = format!("nets[{number}]");
    let refused = |error: io::Error| Refusal::new(code::MACHINE, format!("{field}: {error}"));
    let cable: Box<dyn Backend> = match spec.cable {
        Cable::Tap(file) => {
            let file = files.take(&format!("{field}.tap"), file)?;
            Box::new(Tap::from_file(file).map_err(refused)?)
        }
        Cable::Stream { socket, mtu } => {
            let socket = files.take(&format!("{field}.stream.socket"), socket)?;
            Box::new(Stream::new(OwnedFd::from(socket).into(), mtu).map_err(refused)?)
        }
    };
    Ok(Net::new(spec.mac, cable))
}

fn open_ports(specs: Vec<PortSpec>, files: &mut Files) -> Result<Ports, Refusal> {
    let mut ports = Vec::new();
    for (number, spec) in specs.into_iter().enumerate() {
        let socket = files.take(&format!("ports[{number}].socket"), spec.socket)?;
        let cable = Plug::Listener(OwnedFd::from(socket).into());
        ports.push(PortConfig { name: spec.name, console: spec.console, cable });
    }
    Ports::new(ports).map_err(|error| Refusal::new(code::MACHINE, format!("ports: {error}")))
}

/// Where what the guest says goes: to the stream `console`, and to those that connect to `socket`, with a `log` of it.
fn console_outputs(
    console: &Option<File>,
    socket: Option<File>,
    log: Option<File>,
) -> Result<(crate::chipset::serial::Output, Option<Console>), Refusal> {
    let refused =
        |field: &'static str| move |e: io::Error| Refusal::new(code::MACHINE, format!("{field}: {e}"));
    let stream = console.as_ref().map(Output::new).transpose().map_err(refused("console"))?;
    if socket.is_none() && log.is_none() {
        return Ok((stream.map_or_else(|| Box::new(io::sink()) as _, |stream| Box::new(stream) as _), None));
    }
    let listener = socket.map(|file| UnixListener::from(OwnedFd::from(file)));
    let (consoles, mut output) = Console::new(listener, log).map_err(refused("console_socket"))?;
    let Some(mut stream) = stream else { return Ok((Box::new(output), Some(consoles))) };
    let both = move |bytes: &[u8]| {
        // A stream that nobody reads any more is no reason not to write to the others.
        let _ = stream.write_all(bytes);
        output.write(bytes)
    };
    Ok((Box::new(Both(both)), Some(consoles)))
}

/// Writes with a function.
struct Both<F>(F);

impl<F: FnMut(&[u8]) -> io::Result<usize>> Write for Both<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.0)(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The guest's end of a stream. A reader that does not keep up loses what it has no room for: the guest must not wait.
struct Output(File);

impl Output {
    fn new(file: &File) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(file, true)?;
        Ok(Self(file.try_clone()?))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.write(bytes) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(bytes.len()),
            result => result,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
