//! What a change of a guest's definition means for a machine that runs: what can be done at once, step by step, and what waits for its
//! next start.

use api::{Disk, Invalid, Limit, Nic, VmDefinition};
use serde_json::{Value, json};

use crate::supervisor::cards::card_name;
use crate::supervisor::limits;
use crate::supervisor::machine::disk_name;

/// A device that comes or goes.
#[derive(Debug, Clone, PartialEq)]
pub enum Device {
    /// A disk.
    Disk(Disk),
    /// A network card.
    Card(Nic),
}

/// Something to do to a machine.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Plug it in.
    Add(Device),
    /// Ask the guest to let go of it.
    Remove(Device),
    /// Have it do no more than its limits say, which needs nothing of the guest.
    Limit {
        /// As it was.
        from: Box<Device>,
        /// As it is to be.
        to: Box<Device>,
    },
    /// Have so many processors.
    Processors {
        /// How many there were.
        from: u32,
        /// How many there are to be.
        to: u32,
    },
    /// Have so much memory, bytes.
    Memory {
        /// How much there was.
        from: u64,
        /// How much there is to be.
        to: u64,
    },
}

/// What is to be done.
#[derive(Debug)]
pub struct Plan {
    /// At once, in this order.
    pub steps: Vec<Step>,
    /// What the machine is made of afterwards.
    pub machine: VmDefinition,
    /// What waits for the next start, and why.
    pub waits: Vec<Invalid>,
}

impl Device {
    /// What the guest's process calls it.
    pub fn name(&self) -> String {
        match self {
            Device::Disk(disk) => disk_name(disk.number(0)),
            Device::Card(nic) => card_name(nic),
        }
    }

    /// What people call it.
    pub fn words(&self) -> String {
        match self {
            Device::Disk(disk) => format!("disk {}", disk.number(0)),
            Device::Card(nic) => format!("the card {}", nic.mac.as_deref().unwrap_or_default()),
        }
    }

    /// What tells the guest's process its limits.
    pub fn limit(&self) -> Value {
        match self {
            Device::Disk(disk) => json!({ "name": self.name(), "disk": limits::of_disk(disk) }),
            Device::Card(nic) => json!({ "name": self.name(), "net": limits::of_card(nic) }),
        }
    }

    fn limits(&self) -> Vec<(&'static str, Option<Limit>)> {
        match self {
            Device::Disk(disk) => disk.limits().into(),
            Device::Card(nic) => nic.limits().into(),
        }
    }

    fn limits_in_words(&self) -> String {
        let there = self.limits().into_iter().filter_map(|(field, limit)| Some((field, limit?)));
        let words: Vec<_> =
            there.map(|(field, limit)| format!("{} {limit}", field.replace('_', " "))).collect();
        if words.is_empty() { "no limit".into() } else { words.join(", ") }
    }
}

impl Step {
    /// What it has done, for a person.
    pub fn done(&self) -> String {
        match self {
            Step::Add(device) => format!("{} added", device.words()),
            Step::Remove(device) => format!("{} removed", device.words()),
            Step::Limit { to, .. } => format!("{}: {}", to.words(), to.limits_in_words()),
            Step::Processors { to, .. } => format!("{to} processors"),
            Step::Memory { to, .. } => format!("{} MiB of memory", to >> 20),
        }
    }
}

/// What a machine of this definition is made of: what can be without a restart is settled at its start.
pub fn made(definition: &VmDefinition) -> VmDefinition {
    VmDefinition {
        cpus_max: Some(most_cpus(definition)),
        memory_max: Some(definition.memory_max.unwrap_or(definition.memory)),
        ..definition.clone()
    }
}

fn most_cpus(definition: &VmDefinition) -> u32 {
    definition.cpus_max.unwrap_or(definition.cpus)
}

/// What is to be done to a machine so that it is as its guest is wanted.
pub fn plan(machine: &VmDefinition, wanted: &VmDefinition) -> Plan {
    let mut plan = Plan { steps: Vec::new(), machine: machine.clone(), waits: Vec::new() };
    plan.processors(machine, wanted);
    plan.memory(machine, wanted);
    plan.devices(machine, wanted);
    plan.rest(machine, wanted);
    plan
}

/// A machine with the limits that its guest is to have, and the steps to it: what can be done whatever the guest does.
pub fn limited(machine: &VmDefinition, wanted: &VmDefinition) -> (Vec<Step>, VmDefinition) {
    let has = all(wanted);
    let steps: Vec<_> = all(machine).iter().filter_map(|device| device.limited_as(&has)).collect();
    let mut machine = machine.clone();
    for step in &steps {
        let Step::Limit { to, .. } = step else { continue };
        match &**to {
            Device::Disk(to) => {
                let same = |(place, disk): &(usize, &mut Disk)| disk.number(*place) == to.number(0);
                if let Some((_, disk)) = machine.disks.iter_mut().enumerate().find(same) {
                    (disk.limit, disk.read_limit, disk.write_limit) =
                        (to.limit, to.read_limit, to.write_limit);
                }
            }
            Device::Card(to) => {
                for nic in machine.nics.iter_mut().filter(|nic| nic.mac == to.mac) {
                    (nic.receive_limit, nic.send_limit) = (to.receive_limit, to.send_limit);
                }
            }
        }
    }
    (steps, machine)
}

/// Whether a machine is other than a new one would be.
pub fn needs_restart(machine: &VmDefinition, wanted: &VmDefinition) -> bool {
    plan(machine, wanted).is_more_than_nothing()
}

impl Plan {
    /// Whether anything is to be done that takes the guest's part in it, or its next start.
    pub fn is_more_than_limits(&self) -> bool {
        !self.waits.is_empty() || self.steps.iter().any(|step| !matches!(step, Step::Limit { .. }))
    }

    /// Whether there is anything to do, now or later.
    pub fn is_more_than_nothing(&self) -> bool {
        !self.steps.is_empty() || !self.waits.is_empty()
    }

    fn wait(&mut self, pointer: &str, value: impl Into<serde_json::Value>, why: String) {
        self.waits.push(Invalid::new(pointer, value, why));
    }

    fn processors(&mut self, machine: &VmDefinition, wanted: &VmDefinition) {
        let most = most_cpus(machine);
        if wanted.cpus > most {
            let why = format!("its machine has room for {most} processors until it is started again");
            self.wait("/cpus", wanted.cpus, why);
        } else if wanted.cpus != machine.cpus {
            self.steps.push(Step::Processors { from: machine.cpus, to: wanted.cpus });
            self.machine.cpus = wanted.cpus;
        }
        if let Some(max) = wanted.cpus_max.filter(|max| *max != most) {
            self.wait("/cpus_max", max, format!("its machine was made with room for {most} processors"));
        }
    }

    fn memory(&mut self, machine: &VmDefinition, wanted: &VmDefinition) {
        let most = machine.memory_max.unwrap_or(machine.memory);
        if wanted.memory > most {
            let why = format!("its machine has room for {} MiB until it is started again", most.0 >> 20);
            self.wait("/memory", wanted.memory.0, why);
        } else if wanted.memory != machine.memory {
            self.steps.push(Step::Memory { from: machine.memory.0, to: wanted.memory.0 });
            self.machine.memory = wanted.memory;
        }
        if let Some(max) = wanted.memory_max.filter(|max| *max != most) {
            self.wait(
                "/memory_max",
                max.0,
                format!("its machine was made with room for {} MiB", most.0 >> 20),
            );
        }
    }

    fn devices(&mut self, machine: &VmDefinition, wanted: &VmDefinition) {
        let (had, has) = (all(machine), all(wanted));
        let goes = had.iter().filter(|device| !has.iter().any(|other| other.is_as(device)));
        let comes = has.iter().filter(|device| !had.iter().any(|other| other.is_as(device)));
        self.steps.extend(had.iter().filter_map(|device| device.limited_as(&has)));
        // What comes may have the place of what goes.
        self.steps.extend(goes.cloned().map(Step::Remove));
        self.steps.extend(comes.cloned().map(Step::Add));
        (self.machine.disks, self.machine.nics) = (wanted.disks.clone(), wanted.nics.clone());
    }

    fn rest(&mut self, machine: &VmDefinition, wanted: &VmDefinition) {
        let start = || "only a start changes it".to_owned();
        if machine.engine != wanted.engine {
            self.wait("/engine", serde_json::Value::Null, start());
        }
        if machine.boot != wanted.boot {
            self.wait("/boot", serde_json::Value::Null, start());
        }
        if machine.on_reboot != wanted.on_reboot {
            self.wait("/on_reboot", serde_json::Value::Null, start());
        }
    }
}

/// All devices of a definition. Disks have numbers and cards have addresses.
pub fn all(definition: &VmDefinition) -> Vec<Device> {
    let disks = definition.disks.iter().enumerate();
    let disks = disks.map(|(place, disk)| Disk { unit: Some(disk.number(place) as u32), ..disk.clone() });
    disks.map(Device::Disk).chain(definition.nics.iter().cloned().map(Device::Card)).collect()
}

impl Device {
    /// The step that gives it the limits that it has among `others`, if they are other ones.
    fn limited_as(&self, others: &[Device]) -> Option<Step> {
        let other = others.iter().find(|other| other.is_as(self))?;
        (other.limits() != self.limits())
            .then(|| Step::Limit { from: self.clone().into(), to: other.clone().into() })
    }

    /// Whether the guest has the same with the other one. Limits are the host's affair, which it changes at once.
    fn is_as(&self, other: &Device) -> bool {
        match (self, other) {
            (Device::Disk(a), Device::Disk(b)) => {
                // How it was made, and how large, is not what it is.
                let same =
                    |disk: &Disk| (disk.unit, disk.source.clone(), disk.read_only, disk.serial.clone());
                same(a) == same(b)
            }
            (Device::Card(a), Device::Card(b)) => {
                let same = |nic: &Nic| (nic.mac.clone(), nic.network.clone(), nic.forwards.clone());
                same(a) == same(b)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(more: Value) -> VmDefinition {
        let mut whole = json!({
            "name": "a", "cpus": 2, "memory": "256M",
            "disks": [{ "size": "1G", "unit": 0 }, { "file": "/a", "unit": 3 }],
            "nics": [{ "mac": "52:00:00:00:00:01" }],
        });
        for (key, value) in more.as_object().unwrap() {
            whole[key] = value.clone();
        }
        serde_json::from_value(whole).unwrap()
    }

    fn told(machine: Value, wanted: Value) -> (Vec<String>, Vec<String>) {
        let plan = plan(&made(&definition(machine)), &definition(wanted));
        let steps = plan.steps.iter().map(Step::done).collect();
        (steps, plan.waits.into_iter().map(|wait| wait.pointer).collect())
    }

    #[test]
    fn what_there_is_room_for_is_done_at_once_and_the_rest_waits() {
        let nothing = || json!({});
        for (machine, wanted, steps, waits) in [
            (nothing(), nothing(), vec![], vec![]),
            (nothing(), json!({ "cpus": 1 }), vec!["1 processors"], vec![]),
            (nothing(), json!({ "cpus": 4 }), vec![], vec!["/cpus"]),
            (json!({ "cpus_max": 4 }), json!({ "cpus_max": 4, "cpus": 4 }), vec!["4 processors"], vec![]),
            (nothing(), json!({ "cpus_max": 4 }), vec![], vec!["/cpus_max"]),
            (nothing(), json!({ "memory": "128M" }), vec!["128 MiB of memory"], vec![]),
            (
                nothing(),
                json!({ "memory": "1G", "memory_max": "2G" }),
                vec![],
                vec!["/memory", "/memory_max"],
            ),
            (nothing(), json!({ "disks": [{ "size": "1G", "unit": 0 }] }), vec!["disk 3 removed"], vec![]),
            (nothing(), json!({ "nics": [] }), vec!["the card 52:00:00:00:00:01 removed"], vec![]),
            (
                nothing(),
                json!({ "engine": "soft", "on_reboot": "stop" }),
                vec![],
                vec!["/engine", "/on_reboot"],
            ),
        ] {
            assert_eq!(
                told(machine, wanted.clone()),
                (
                    steps.into_iter().map(str::to_owned).collect(),
                    waits.into_iter().map(str::to_owned).collect()
                ),
                "{wanted}"
            );
        }
    }

    #[test]
    fn another_disc_in_the_same_drive_comes_when_the_one_before_has_gone() {
        let disks = json!({ "disks": [{ "size": "1G", "unit": 0 }, { "file": "/b", "unit": 3 }] });
        assert_eq!(told(json!({}), disks).0, ["disk 3 removed", "disk 3 added"]);
        let nics = json!({ "nics": [{ "mac": "52:00:00:00:00:01", "network": { "named": "n" } }] });
        assert_eq!(told(json!({}), nics).0.len(), 2);
        let vlan = json!({ "nics": [{ "mac": "52:00:00:00:00:01", "vlan": 7 }] });
        assert_eq!(told(json!({}), vlan).0.len(), 0, "that is the host's");
    }

    #[test]
    fn limits_are_changed_at_once_and_alone() {
        let limits = json!({
            "disks": [{ "size": "1G", "limit": "10M", "write_limit": { "operations": 100 } }, { "file": "/a", "unit": 3 }],
            "nics": [{ "mac": "52:00:00:00:00:01", "send_limit": { "bytes": "1M", "bytes_burst": "2M" } }],
            "cpus": 1,
        });
        let steps = [
            "disk 0: limit 10M/s, write limit 100 ops/s",
            "the card 52:00:00:00:00:01: send limit 1M/s burst 2M",
        ];
        let (mut done, waits) = told(json!({}), limits.clone());
        assert_eq!(
            (done.remove(0), done, waits.len()),
            ("1 processors".into(), steps.map(str::to_owned).to_vec(), 0)
        );
        assert_eq!(
            told(limits.clone(), json!({ "cpus": 1 })).0,
            ["disk 0: no limit", "the card 52:00:00:00:00:01: no limit"]
        );

        let (machine, wanted) = (made(&definition(json!({}))), definition(limits));
        let (steps, limited) = limited(&machine, &wanted);
        assert_eq!((steps.len(), limited.cpus), (2, 2));
        let left = plan(&limited, &wanted);
        assert!(left.is_more_than_limits() && left.steps.len() == 1, "{left:?}");
    }

    #[test]
    fn what_is_done_leaves_nothing_to_do() {
        let machine = made(&definition(json!({ "cpus_max": 8, "memory_max": "1G" })));
        let wanted = definition(json!({ "cpus_max": 8, "memory_max": "1G", "cpus": 5, "memory": "512M",
            "disks": [{ "size": "1G", "unit": 0 }, { "size": "2G", "unit": 1 }], "nics": [] }));
        assert!(needs_restart(&machine, &wanted));
        let plan = plan(&machine, &wanted);
        assert_eq!(plan.steps.len(), 5);
        assert!(!needs_restart(&plan.machine, &wanted));
    }
}
