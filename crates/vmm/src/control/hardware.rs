//! Hardware that comes and goes while the machine runs: `plug`, `unplug`, `processors`, and what the guest makes of it.

use serde_json::{Value, json};

use super::guest::{Guest, machine_refusal};
use super::memory::{BalloonSpec, MemorySpec, MergeSpec, ReportingSpec};
use super::open::{Files, open_card, open_disk};
use super::protocol::{Changed, Hardware, PlugSpec, ProcessorsSpec, Refusal, State, UnplugSpec, What, code};
use crate::machine::{Change, Part};

impl Guest {
    /// Plugs in a device.
    pub(super) fn plug(&mut self, spec: PlugSpec, mut files: Files) -> Result<Value, Refusal> {
        let names = self.machine()?.devices();
        let free = |name: &String| match names.contains(name) {
            true => Err(Refusal::new(code::PARAMS, format!("there is a device {name} already"))),
            false => Ok(()),
        };
        let (name, part) = match (spec.disk, spec.net) {
            (Some(disk), None) => {
                // Without a name it would be taken for one of those that were there from the start.
                let unnamed =
                    || Refusal::new(code::PARAMS, "disk.name: a disk that is plugged in needs a name");
                let name = disk.name.clone().ok_or_else(unnamed)?;
                free(&name)?;
                let serial = disk.serial.clone();
                let (disk, stack) = open_disk("disk", disk, self.queues, &mut files)?;
                self.meters.disk(&name, &serial, &disk);
                self.limiters.disk(&name, &disk);
                self.disks.add(&name, stack, &disk);
                (name.clone(), Part::new(name, disk))
            }
            (None, Some(net)) => {
                let (name, mac) = (net.name(), net.mac);
                free(&name)?;
                let card = open_card("net", net, &mut files)?;
                self.meters.card(&name, mac, &card);
                self.limiters.card(&name, &card);
                (name.clone(), Part::new(name, card))
            }
            _ => return Err(Refusal::new(code::PARAMS, "give a disk or a net")),
        };
        if let Err(error) = self.machine()?.plug_in(part) {
            self.forget(&name);
            return Err(machine_refusal(error));
        }
        Ok(json!({ "name": name }))
    }

    /// Asks the guest to let go of a device, or pulls it out.
    pub(super) fn unplug(&mut self, spec: &UnplugSpec) -> Result<Value, Refusal> {
        if !spec.force {
            self.machine()?.ask_for(&spec.name).map_err(machine_refusal)?;
            return Ok(json!({}));
        }
        self.while_paused(|machine| machine.pull_out(&spec.name))?;
        self.forget(&spec.name);
        Ok(json!({}))
    }

    /// A device is not there any more.
    fn forget(&mut self, name: &str) {
        self.meters.forget(name);
        self.disks.forget(name);
        self.limiters.forget(name);
    }

    /// Adds processors, or asks the guest to let go of some, one after the other.
    pub(super) fn set_processors(&mut self, spec: &ProcessorsSpec) -> Result<Hardware, Refusal> {
        let (there, most) = self.machine()?.processors();
        if spec.count == 0 || spec.count > most {
            let why =
                format!("count: {} processors are not possible: this machine has 1 to {most}", spec.count);
            return Err(Refusal::new(code::PARAMS, why));
        }
        let count = there.len() as u32;
        self.wanted_processors = None;
        for _ in count..spec.count {
            self.while_paused(|machine| machine.add_processor().map(drop))?;
        }
        if spec.count < count {
            self.machine()?.ask_for_processor().map_err(machine_refusal)?;
            self.wanted_processors = Some(spec.count);
        }
        self.hardware()
    }

    /// Asks the guest to have so much memory.
    pub(super) fn set_memory(&mut self, spec: &MemorySpec) -> Result<Hardware, Refusal> {
        self.machine()?.set_memory(spec.bytes, spec.insist).map_err(machine_refusal)?;
        self.hardware()
    }

    /// Asks the guest to be without so much memory while others need it.
    pub(super) fn set_pooled(&mut self, spec: &BalloonSpec) -> Result<Hardware, Refusal> {
        self.machine()?.set_pooled(spec.bytes).map_err(machine_refusal)?;
        self.hardware()
    }

    /// Has equal pages of its memory kept once, or not.
    pub(super) fn merge_memory(&mut self, spec: &MergeSpec) -> Result<Value, Refusal> {
        self.machine()?.merge_memory(spec.merges).map_err(machine_refusal)?;
        Ok(Value::Null)
    }

    /// Has what the guest reports as free given back, or not.
    pub(super) fn set_reporting(&mut self, spec: &ReportingSpec) -> Result<Value, Refusal> {
        self.machine()?.set_reporting(spec.gives);
        Ok(Value::Null)
    }

    /// What there is.
    pub(super) fn hardware(&self) -> Result<Hardware, Refusal> {
        let machine = self.machine()?;
        let (processors, most_processors) = machine.processors();
        let (devices, memory) = (machine.devices(), machine.memory_size());
        Ok(Hardware { processors, most_processors, devices, memory })
    }

    /// Does something to the machine while it stands still for a moment.
    fn while_paused(
        &mut self,
        change: impl FnOnce(&crate::machine::Machine) -> Result<(), crate::machine::MachineError>,
    ) -> Result<(), Refusal> {
        let runs = self.state == State::Running;
        let machine = self.machine()?;
        if runs {
            machine.pause();
        }
        let result = change(machine);
        if runs {
            machine.resume();
        }
        result.map_err(machine_refusal)
    }

    /// What the guest has made of it, as it is told; and what follows.
    pub(super) fn changed(&mut self, change: Change) -> Changed {
        let nothing = |what, status| Changed { device: None, processor: None, memory: None, what, status };
        let device =
            |name: &str, what, status| Changed { device: Some(name.into()), ..nothing(what, status) };
        let processor = |number, what, status| Changed { processor: Some(number), ..nothing(what, status) };
        match change {
            Change::DeviceTaken(name, status) => device(&name, What::Taken, status),
            Change::DeviceGone(name) => {
                self.forget(&name);
                device(&name, What::Gone, 0)
            }
            Change::DeviceStays(name, status) => device(&name, What::Stays, status),
            Change::ProcessorTaken(number, status) => processor(number, What::Taken, status),
            Change::ProcessorGone(number) => {
                self.ask_for_the_next();
                processor(number, What::Gone, 0)
            }
            Change::ProcessorStays(number, status) => {
                self.wanted_processors = None;
                processor(number, What::Stays, status)
            }
            Change::Memory => {
                let memory = self.machine().ok().map(crate::machine::Machine::memory_size);
                Changed { memory, ..nothing(What::Taken, 0) }
            }
        }
    }

    fn ask_for_the_next(&mut self) {
        let (Some(wanted), Ok(machine)) = (self.wanted_processors, self.machine()) else { return };
        let more = machine.processors().0.len() as u32 > wanted;
        if !more || machine.ask_for_processor().is_err() {
            self.wanted_processors = None;
        }
    }
}
