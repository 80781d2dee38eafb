//! The machine behind the socket, and where it is in its life.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::console::Console;
use super::layers::Disks;
use super::limits::Limiters;
use super::open::{Files, console_outputs, open_card, open_disk, open_ports};
use super::protocol::{
    FiguresSpec, GuestEvent, Key, MachineSpec, OnPanic, OnReset, Refusal, SavedSpec, State, StateReport,
    Typing, code, notification,
};
use super::saves::Saves;
use super::usage::{Meters, Stats};
use crate::boot::{Kernel, Source};
use crate::engine;
use crate::figures::{Figures, Page};
use crate::heap;
use crate::machine::{Event, Machine, MachineConfig, Part, SavedMachine};
use crate::memory::Image;
use crate::state::MachineState;
use crate::virtio::limit::Allowances;
use crate::virtio::rng::Rng;

/// More queues than these do not make a disk faster.
const MOST_QUEUES: u32 = 4;
/// How much of what is typed is taken ahead of the guest, bytes.
const TYPED_AHEAD: usize = 4096;

/// A machine, once there is one, and what has happened to it.
pub(super) struct Guest {
    /// Before the machine: what is being saved of it ends first.
    pub(super) saves: Saves,
    machine: Option<Machine>,
    figures: Figures,
    pub(super) allowances: Allowances,
    pub(super) meters: Meters,
    pub(super) disks: Disks,
    pub(super) limiters: Limiters,
    /// How many queues a disk has.
    pub(super) queues: u16,
    /// How many processors there are to be when the guest has let go of the others.
    pub(super) wanted_processors: Option<u32>,
    pub(super) state: State,
    last: Option<GuestEvent>,
    on_reset: OnReset,
    on_panic: OnPanic,
    console: Option<File>,
    consoles: Option<Console>,
    typed: VecDeque<Typed>,
}

/// What the guest has not had room for yet.
#[derive(Clone, Copy)]
enum Typed {
    Byte(u8),
    Break,
}

impl Guest {
    pub fn none() -> io::Result<Self> {
        let figures = Figures::new()?;
        Ok(Self {
            saves: Saves::new()?,
            machine: None,
            allowances: Allowances::new(figures.clone()),
            figures,
            meters: Meters::default(),
            disks: Disks::none()?,
            limiters: Limiters::default(),
            queues: 1,
            wanted_processors: None,
            state: State::Empty,
            last: None,
            on_reset: OnReset::default(),
            on_panic: OnPanic::default(),
            console: None,
            consoles: None,
            typed: VecDeque::new(),
        })
    }

    /// Carries out one method; `stop` is the caller's.
    pub fn call(&mut self, method: &str, params: Value, files: Vec<OwnedFd>) -> Result<Value, Refusal> {
        match method {
            "create" => {
                self.create(read(params)?, files)?;
                return json(&self.report());
            }
            "figures" => return self.publish(&mut Files::new(files), &read(params)?),
            "save" => return json(&self.save(read(params)?, Files::new(files))?),
            "disk_switch" => return json(&self.switch_disks(read(params)?, Files::new(files))?),
            "disk_grow" => return self.grow_disk(&read(params)?),
            "disk_pull" => return json(&self.pull_layers(read(params)?)?),
            "disk_pull_cancel" => return self.cancel_pull(&read(params)?),
            "disk_replace_below" => return json(&self.replace_below(read(params)?, Files::new(files))?),
            "plug" => return self.plug(read(params)?, Files::new(files)),
            "unplug" => return self.unplug(&read(params)?),
            "limit" => return self.limit(&read(params)?),
            "places" => return self.place(&read(params)?),
            "processors" => return json(&self.set_processors(&read(params)?)?),
            "balloon" => return json(&self.set_pooled(&read(params)?)?),
            "memory" => return json(&self.set_memory(&read(params)?)?),
            "merge" => return self.merge_memory(&read(params)?),
            "reporting" => return self.set_reporting(&read(params)?),
            "type" => {
                self.type_keys(read(params)?)?;
                return json(&self.report());
            }
            _ if params.is_null() || params == serde_json::json!({}) => {}
            _ => return Err(Refusal::new(code::PARAMS, format!("{method} takes no parameters"))),
        }
        match method {
            "state" => {}
            "pause" => self.pause()?,
            "resume" => self.resume()?,
            "power_button" => self.running()?.press_power_button(),
            "reset" => self.reset()?,
            "stats" => return json(&self.stats()?),
            "hardware" => return json(&self.hardware()?),
            "save_progress" => return json(&self.saves.progress()?),
            "save_cancel" => self.saves.cancel()?,
            _ => return Err(Refusal::new(code::METHOD, format!("there is no method {method:?}"))),
        }
        json(&self.report())
    }

    /// Says in memory that was handed over what it says of itself.
    fn publish(&mut self, files: &mut Files, spec: &FiguresSpec) -> Result<Value, Refusal> {
        let file = files.take("file", spec.file)?;
        let page = Page::open(file.into()).map_err(|e| Refusal::new(code::PARAMS, format!("file: {e}")))?;
        self.figures.publish(page);
        json(&serde_json::json!({}))
    }

    pub fn report(&self) -> StateReport {
        StateReport { state: self.state, last: self.last.clone(), no_room: self.disks.short() }
    }

    pub(super) fn machine(&self) -> Result<&Machine, Refusal> {
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
        let mut files = Files::new(files);
        let kernel = Kernel {
            image: Source::new("kernel", files.take("kernel", spec.kernel)?),
            initrd: match spec.initrd {
                Some(n) => Some(Source::new("initrd", files.take("initrd", n)?)),
                None => None,
            },
            command_line: spec.command_line,
        };
        let console = spec.console.map(|n| files.take("console", n)).transpose()?;
        let queues = spec.most_processors.unwrap_or(spec.processors).clamp(1, MOST_QUEUES) as u16;
        let mut devices = Vec::new();
        let (mut meters, mut disks) =
            (Meters::telling(self.figures.clone()), Disks::none().map_err(machine_refusal)?);
        let mut limiters = Limiters::default();
        for (number, spec) in spec.disks.into_iter().enumerate() {
            let (name, serial) = (spec.name(number), spec.serial.clone());
            let (disk, stack) = open_disk(&format!("disks[{number}]"), spec, queues, &mut files)?;
            meters.disk(&name, &serial, &disk);
            limiters.disk(&name, &disk);
            disks.add(&name, stack, &disk);
            devices.push(Part::new(name, disk));
        }
        for (number, spec) in spec.nets.into_iter().enumerate() {
            let (name, mac) = (spec.name(), spec.mac);
            let card = open_card(&format!("nets[{number}]"), spec, &mut files)?;
            meters.card(&name, mac, &card);
            limiters.card(&name, &card);
            devices.push(Part::new(name, card));
        }
        if !spec.ports.is_empty() {
            devices.push(Part::new("ports", open_ports(spec.ports, &mut files)?));
        }
        devices.push(Part::new("random", Rng::default()));
        let socket = spec.console_socket.map(|n| files.take("console_socket", n)).transpose()?;
        let log = spec.console_log.map(|n| files.take("console_log", n)).transpose()?;
        let (output, consoles) = console_outputs(&console, socket, log)?;
        let kvm = spec.kvm.map(|n| files.take("kvm", n)).transpose()?;
        let engine = engine::choose_on(spec.engine, kvm).map_err(machine_refusal)?.engine;
        let saved = spec.saved.map(|saved| open_saved(saved, &mut files)).transpose()?;
        let config = MachineConfig {
            processors: spec.processors,
            most_processors: spec.most_processors,
            memory: spec.memory,
            most_memory: spec.most_memory,
            tsc_khz: spec.tsc_khz,
            kernel,
            console: output,
            devices,
            figures: Some(self.figures.clone()),
        };
        let machine = match saved {
            None => Machine::new(&*engine, config),
            Some(saved) => Machine::restore(&*engine, config, saved),
        };
        self.machine = Some(machine.map_err(machine_refusal)?);
        (self.meters, self.disks, self.limiters, self.queues) = (meters, disks, limiters, queues);
        (self.on_reset, self.on_panic) = (spec.on_reset, spec.on_panic);
        (self.console, self.consoles) = (console, consoles);
        self.state = State::Paused;
        // What it was read from is half of what there is.
        heap::give_back();
        Ok(())
    }

    pub(super) fn pause(&mut self) -> Result<(), Refusal> {
        if self.state == State::Paused {
            return Ok(());
        }
        self.running()?.pause();
        self.state = State::Paused;
        Ok(())
    }

    /// The last that is done: nothing runs after it, and what is on the disks is in their files.
    pub(super) fn end(&mut self) {
        // One that has ended by itself, or never was, cannot be paused, and need not be.
        let _ = self.pause();
        self.disks.write_back();
    }

    pub(super) fn resume(&mut self) -> Result<(), Refusal> {
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

    /// Takes what has happened, and does what follows from it; gives the line that tells it.
    pub fn next_event(&mut self) -> Option<String> {
        let event = self.machine.as_ref()?.wait(Duration::ZERO)?;
        if let Event::Hardware(change) = event {
            return Some(notification("hardware", &self.changed(change)));
        }
        self.end_or_go_on(event).map(|report| notification("event", &report))
    }

    fn end_or_go_on(&mut self, event: Event) -> Option<StateReport> {
        let (event, ends) = match event {
            Event::PowerOff => (GuestEvent::PowerOff, true),
            Event::Reset => (GuestEvent::Reset, self.on_reset == OnReset::End),
            Event::TripleFault => (GuestEvent::TripleFault, self.on_reset == OnReset::End),
            Event::GuestPanic => (GuestEvent::Panic, self.on_panic == OnPanic::End),
            Event::EngineFailure(why) => (GuestEvent::EngineFailure { why }, true),
            Event::Hardware(_) => return None,
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
            self.typed.extend(consoles.serve(room.min(512)).into_iter().map(Typed::Byte));
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
            Ok(n) if n > 0 => self.typed.extend(buffer[..n].iter().copied().map(Typed::Byte)),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // Nobody types any more; the guest's own words still go where they went.
            _ => self.console = None,
        }
    }

    /// Types all of the keys, or none if there is no room for them.
    fn type_keys(&mut self, typing: Typing) -> Result<(), Refusal> {
        self.running()?;
        let mut keys = Vec::new();
        for key in typing.keys {
            match key {
                Key::Text(text) => keys.extend(text.bytes().map(Typed::Byte)),
                Key::Break => keys.push(Typed::Break),
            }
        }
        if keys.len() > self.room_for_typed() {
            let why = format!(
                "the guest has not read what was typed before: there is room for {} of {} bytes",
                self.room_for_typed(),
                keys.len()
            );
            return Err(Refusal::new(code::STATE, why));
        }
        self.typed.extend(keys);
        Ok(())
    }

    /// Gives the guest what was typed, as far as it has room.
    pub fn pass_typed(&mut self) {
        let Some(machine) = self.machine.as_ref().filter(|_| self.state == State::Running) else { return };
        while let Some(first) = self.typed.front() {
            let byte = |typed: &Typed| match typed {
                Typed::Byte(byte) => Some(*byte),
                Typed::Break => None,
            };
            let taken = match first {
                Typed::Break => usize::from(machine.send_break()),
                Typed::Byte(_) => machine.input(&self.typed.iter().map_while(byte).collect::<Vec<_>>()),
            };
            if taken == 0 {
                return;
            }
            self.typed.drain(..taken);
        }
    }
}

/// A machine to go on from.
fn open_saved(spec: SavedSpec, files: &mut Files) -> Result<SavedMachine, Refusal> {
    let refused = |what: &str, error: String| Refusal::new(code::MACHINE, format!("saved.{what}: {error}"));
    let memory = Image::open(files.take("saved.memory", spec.memory)?);
    let state = MachineState::from_json(spec.state);
    Ok(SavedMachine {
        state: state.map_err(|error| refused("state", error.to_string()))?,
        memory: memory.map_err(|error| refused("memory", error.to_string()))?,
        again: spec.again,
    })
}

fn read<T: serde::de::DeserializeOwned>(params: Value) -> Result<T, Refusal> {
    serde_json::from_value(params).map_err(|e| Refusal::new(code::PARAMS, e))
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
pub(super) fn machine_refusal(error: impl std::error::Error) -> Refusal {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message += &format!(": {error}");
        cause = error.source();
    }
    Refusal::new(code::MACHINE, message)
}
