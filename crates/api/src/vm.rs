//! Guests.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    BandwidthShare, CpuShare, Disk, DiskSource, Id, ImageName, Invalid, MemoryShare, Name, Nic, Processors,
    Size, Time, VmStatus,
};

/// Memory of a guest for which nothing else is said.
pub const DEFAULT_MEMORY: Size = Size(1 << 30);
/// A guest's kernel has no room to start in less.
pub(crate) const LEAST_MEMORY: Size = Size(32 << 20);
/// What a host with 46 bits of addresses has.
const MOST_MEMORY: Size = Size(1 << 46);
/// What a local APIC's id can tell apart, less the broadcast.
const MOST_CPUS: u32 = 254;
/// More than a bus of PCI functions has room for.
const MOST_DEVICES: usize = 24;

/// What a guest should be: what its owner says of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VmDefinition {
    /// Its name, and the host name that cloud-init gives it.
    pub name: Name,
    /// What it is for.
    #[serde(default)]
    pub description: String,
    /// Words to find it by.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The template that it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Name>,
    /// How many processors it has.
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 254)]
    pub cpus: u32,
    /// How many processors it can have without a restart; so many as it has if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 254)]
    pub cpus_max: Option<u32>,
    /// What it is promised of the host's processors.
    #[serde(default, skip_serializing_if = "CpuShare::is_usual")]
    pub cpu_share: CpuShare,
    /// The group that it shares in; none is the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_group: Option<Name>,
    /// How much memory it has.
    #[serde(default = "default_memory")]
    pub memory: Size,
    /// How much memory it can have without a restart; so much as it has if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_max: Option<Size>,
    /// What it is promised of the host's pool of memory.
    #[serde(default, skip_serializing_if = "MemoryShare::is_usual")]
    pub memory_share: MemoryShare,
    /// Whether pages of its memory that are equal to those of others on its host of which this is said, too, are kept once, where the host does that. They have to trust
    /// one another: how long a write takes tells whether somebody else has the same page.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub merge_memory: bool,
    /// What it is promised of the bandwidth of each storage pool that its disks are on.
    #[serde(default, skip_serializing_if = "BandwidthShare::is_usual")]
    pub disk_share: BandwidthShare,
    /// What it is promised of the bandwidth of each network that its cards are on, each way.
    #[serde(default, skip_serializing_if = "BandwidthShare::is_usual")]
    pub network_share: BandwidthShare,
    /// What executes it.
    #[serde(default)]
    pub engine: Engine,
    /// What it boots.
    #[serde(default)]
    pub boot: Boot,
    /// Its disks, in the order the guest sees them.
    #[serde(default)]
    #[schema(max_items = 24)]
    pub disks: Vec<Disk>,
    /// Its network cards.
    #[serde(default)]
    #[schema(max_items = 24)]
    pub nics: Vec<Nic>,
    /// What cloud-init in the guest does at its first boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_init: Option<CloudInit>,
    /// Whether it starts with the host.
    #[serde(default)]
    pub autostart: Autostart,
    /// What follows when its kernel panics, its engine fails or its process dies.
    #[serde(default)]
    pub on_crash: OnEnd,
    /// What follows when it resets itself.
    #[serde(default)]
    pub on_reboot: OnEnd,
}

fn one() -> u32 {
    1
}

fn default_memory() -> Size {
    DEFAULT_MEMORY
}

/// What executes a guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// KVM where it runs guests well, the software processor elsewhere.
    #[default]
    Auto,
    /// The host's processor, through `/dev/kvm`.
    Kvm,
    /// Tessera's own processor in software.
    Soft,
}

/// What a guest boots: the kernel of its image if nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// A kernel on the host: a bzImage, or an ELF file that PVH can start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub kernel: Option<PathBuf>,
    /// Its initial RAM disk, on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub initrd: Option<PathBuf>,
    /// Its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 2047)]
    pub command_line: Option<String>,
}

/// What cloud-init does at a guest's first boot (its NoCloud source).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CloudInit {
    /// The guest's host name, if it is not to be its name here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// A person's account, with all rights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
    /// User data as cloud-init reads it, in place of what would be made from the fields above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 65536)]
    pub user_data: Option<String>,
    /// Network configuration as cloud-init reads it (version 1 or 2); DHCP if none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 65536)]
    pub network_config: Option<String>,
}

/// An account in a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Its name.
    pub name: String,
    /// The public keys that may log in, as they are in `~/.ssh/authorized_keys`.
    #[serde(default)]
    pub ssh_keys: Vec<String>,
}

/// Whether and when a guest starts with the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Autostart {
    /// Whether it does.
    #[serde(default)]
    pub enabled: bool,
    /// Lower numbers start first.
    #[serde(default)]
    pub order: u32,
    /// Seconds to wait after it before the next one starts.
    #[serde(default)]
    #[schema(maximum = 3600)]
    pub delay: u32,
}

/// What follows when a guest ends by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnEnd {
    /// It starts again, after a while that grows if it keeps ending.
    #[default]
    Restart,
    /// It stays as it is.
    Stop,
}

/// A guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Vm {
    /// Its id, which stays the same whatever it is called.
    pub id: Id,
    /// What it should be.
    #[serde(flatten)]
    pub definition: VmDefinition,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created: Time,
    /// What it is now.
    pub status: VmStatus,
}

impl VmDefinition {
    /// A guest of this name, with the defaults of everything else.
    pub fn named(name: Name) -> Self {
        Self {
            name,
            description: String::new(),
            labels: BTreeMap::new(),
            template: None,
            cpus: one(),
            cpus_max: None,
            cpu_share: CpuShare::default(),
            share_group: None,
            memory: DEFAULT_MEMORY,
            memory_max: None,
            memory_share: MemoryShare::default(),
            merge_memory: false,
            disk_share: BandwidthShare::default(),
            network_share: BandwidthShare::default(),
            engine: Engine::default(),
            boot: Boot::default(),
            disks: Vec::new(),
            nics: Vec::new(),
            cloud_init: None,
            autostart: Autostart::default(),
            on_crash: OnEnd::default(),
            on_reboot: OnEnd::default(),
        }
    }

    /// The same guest as this one is made, of which is said what `said` says: what it is called, what it is for and what it is promised
    /// has nothing to do with what its machine is. Nobody is promised more processors and memory than they have.
    pub fn as_said(self, said: &Self) -> Self {
        let cpus = said.cpu_share.reserve.min(Processors::nearest(f64::from(self.cpus)));
        let memory = said.memory_share.reserve.min(self.memory);
        Self {
            name: said.name.clone(),
            description: said.description.clone(),
            labels: said.labels.clone(),
            cpu_share: CpuShare { reserve: cpus, ..said.cpu_share },
            share_group: said.share_group.clone(),
            memory_share: MemoryShare { reserve: memory, ..said.memory_share },
            merge_memory: said.merge_memory,
            disk_share: said.disk_share,
            network_share: said.network_share,
            ..self
        }
    }

    /// What is wrong with it, as far as it can be told without looking at the host.
    pub fn check(&self) -> Vec<Invalid> {
        let mut wrong = crate::access::check_labels("/labels", &self.labels);
        wrong.extend(self.cpu_share.check());
        wrong.extend(self.memory_share.check(Some(self.memory)));
        wrong.extend(self.disk_share.check("/disk_share"));
        wrong.extend(self.network_share.check("/network_share"));
        let mut say = |pointer: String, value: Value, detail: &str| {
            wrong.push(Invalid::new(pointer, value, detail));
        };
        if !(1..=MOST_CPUS).contains(&self.cpus) {
            say("/cpus".into(), self.cpus.into(), "a guest has 1 to 254 processors");
        }
        if self.memory < LEAST_MEMORY {
            say("/memory".into(), self.memory.0.into(), "a guest has at least 32 MiB of memory");
        }
        if !self.memory.0.is_multiple_of(1 << 20) {
            say("/memory".into(), self.memory.0.into(), "memory is given out in whole MiB");
        }
        if let Some(most) = self.cpus_max.filter(|most| !(self.cpus..=MOST_CPUS).contains(most)) {
            say("/cpus_max".into(), most.into(), "at least as many as it has, and at most 254");
        }
        if let Some(most) = self.memory_max {
            if most < self.memory {
                say("/memory_max".into(), most.0.into(), "at least as much as it has");
            }
            if !most.0.is_multiple_of(1 << 20) {
                say("/memory_max".into(), most.0.into(), "memory is given out in whole MiB");
            }
            if most.0 > MOST_MEMORY.0 {
                say("/memory_max".into(), most.0.into(), "a guest has at most 64 TiB of memory");
            }
        }
        if self.disks.len() + self.nics.len() > MOST_DEVICES {
            let count = self.disks.len() + self.nics.len();
            say("/disks".into(), count.into(), "a guest has at most 24 disks and network cards");
        }
        if self.description.len() > 4096 {
            say("/description".into(), Value::Null, "a description has at most 4096 bytes");
        }
        if self.boot.command_line.as_ref().is_some_and(|line| line.len() > 2047 || line.contains('\0')) {
            say("/boot/command_line".into(), Value::Null, "at most 2047 bytes, none of them zero");
        }
        for (n, disk) in self.disks.iter().enumerate() {
            wrong.extend(disk.check(n));
            if let Some(unit) = disk.unit
                && self.disks[..n].iter().any(|other| other.unit == Some(unit))
            {
                let detail = "another disk has this number: leave it out for one that is free";
                wrong.push(Invalid::new(format!("/disks/{n}/unit"), unit, detail));
            }
        }
        for (n, nic) in self.nics.iter().enumerate() {
            wrong.extend(nic.check(n));
        }
        if let Some(cloud_init) = &self.cloud_init {
            wrong.extend(cloud_init.check());
        }
        wrong
    }

    /// Gives its disks numbers: those that are as in `before` keep theirs, others get some that are free in both.
    pub fn number_disks(&mut self, before: &[Disk]) {
        let unit_before = |place: usize| before.get(place).map(|disk| disk.number(place) as u32);
        for n in 0..self.disks.len() {
            if self.disks[n].unit.is_some() {
                continue;
            }
            let is_free = |unit: u32| self.disks.iter().all(|disk| disk.unit != Some(unit));
            let same = |place: &usize| before[*place].source == self.disks[n].source;
            // Where it was, if that is as it was.
            let places = std::iter::once(n).filter(|n| *n < before.len()).chain(0..before.len());
            let kept = places.filter(same).filter_map(unit_before).find(|unit| is_free(*unit));
            let was = |unit: &u32| (0..before.len()).any(|place| unit_before(place) == Some(*unit));
            let unit = kept.or_else(|| (0..).find(|unit| is_free(*unit) && !was(unit)));
            self.disks[n].unit = unit;
        }
    }

    /// Has its cards that say no hardware address be those of `before` on the same network, if there are such, with the addresses that they
    /// have there.
    pub fn know_cards(&mut self, before: &[Nic]) {
        for n in 0..self.nics.len() {
            if self.nics[n].mac.is_some() {
                continue;
            }
            let free = |old: &&Nic| self.nics.iter().all(|nic| nic.mac != old.mac);
            let same = |old: &&Nic| old.network == self.nics[n].network;
            // Where it was, if that is as it was.
            let there = before.get(n).filter(same).filter(free);
            let Some(old) = there.or_else(|| before.iter().filter(same).find(free)).cloned() else {
                continue;
            };
            let nic = &mut self.nics[n];
            nic.mac = old.mac;
            nic.address = nic.address.or(old.address);
            nic.address6 = nic.address6.or(old.address6);
        }
    }

    /// The image that the guest was made from: that of its first disk, if that is a copy of one.
    pub fn image(&self) -> Option<&ImageName> {
        match &self.disks.first()?.source {
            DiskSource::Image(name) => Some(name),
            _ => None,
        }
    }
}

impl CloudInit {
    fn check(&self) -> Vec<Invalid> {
        let mut wrong = Vec::new();
        if let Some(user) = &self.user {
            // What Debian's useradd takes.
            let good = (1..=32).contains(&user.name.len())
                && user.name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
                && user
                    .name
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_');
            if !good {
                let detail =
                    "an account's name has 1 to 32 lower-case letters, digits, - and _, a letter first";
                wrong.push(Invalid::new("/cloud_init/user/name", user.name.as_str(), detail));
            }
            for (n, key) in user.ssh_keys.iter().enumerate() {
                if key.split_whitespace().count() < 2 || key.contains(['\n', '\r']) {
                    let detail = "a public key is one line: its kind, the key and a comment";
                    wrong.push(Invalid::new(format!("/cloud_init/user/ssh_keys/{n}"), key.as_str(), detail));
                }
            }
        }
        for (field, text) in [("user_data", &self.user_data), ("network_config", &self.network_config)] {
            if text.as_ref().is_some_and(|text| text.len() > 65536) {
                wrong.push(Invalid::new(format!("/cloud_init/{field}"), Value::Null, "at most 65536 bytes"));
            }
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(more: &str) -> VmDefinition {
        serde_json::from_str(&format!("{{\"name\": \"a\"{more}}}")).unwrap()
    }

    #[test]
    fn what_is_said_of_a_guest_stays_whatever_machine_it_has() {
        let read = |text: &str| serde_json::from_str::<VmDefinition>(text).unwrap();
        let machine = read(r#"{"name": "a", "cpus": 4, "memory": "256M", "cpu_share": {"weight": 7}}"#);
        let said = read(
            r#"{"name": "b", "memory": "1G", "description": "now", "cpus": 8, "cpu_share": {"weight": 9, "reserve": 6}, "share_group": "eng",
                "memory_share": {"reserve": "512M", "weight": 3}, "disk_share": {"reserve": "1M"}, "network_share": {"weight": 5}}"#,
        );
        let whole = machine.as_said(&said);
        assert_eq!((whole.name.as_str(), whole.cpus, whole.memory.0 >> 20), ("b", 4, 256));
        assert_eq!((whole.cpu_share.weight, whole.memory_share.weight), (9, 3));
        assert_eq!(whole.cpu_share.reserve.get(), 4.0);
        assert_eq!((whole.disk_share.reserve.0, whole.network_share.weight), (1 << 20, 5));
        assert_eq!((whole.memory_share.reserve.0 >> 20, whole.share_group), (256, said.share_group));
    }

    #[test]
    fn a_name_is_all_that_a_guest_needs() {
        let vm = definition("");
        assert_eq!(vm, VmDefinition::named("a".parse().unwrap()));
        assert!(vm.check().is_empty());
    }

    #[test]
    fn each_wrong_field_is_named() {
        for (more, pointer) in [
            (r#", "cpus": 0"#, "/cpus"),
            (r#", "cpus": 300"#, "/cpus"),
            (r#", "cpus": 4, "cpus_max": 3"#, "/cpus_max"),
            (r#", "memory_max": "512M""#, "/memory_max"),
            (r#", "disks": [{"size": "1G", "unit": 1}, {"size": "1G", "unit": 1}]"#, "/disks/1/unit"),
            (r#", "memory": "1MiB""#, "/memory"),
            (r#", "memory": 33554433"#, "/memory"),
            (r#", "disks": [{"size": 1}]"#, "/disks/0/size"),
            (r#", "disks": [{"file": "x"}]"#, "/disks/0/file"),
            (r#", "disks": [{"size": "1G", "serial": "a b"}]"#, "/disks/0/serial"),
            (r#", "nics": [{"mac": "01:00:00:00:00:00"}]"#, "/nics/0/mac"),
            (r#", "nics": [{"mac": "2:0:0:0:0:0"}]"#, "/nics/0/mac"),
            (r#", "nics": [{"forwards": [{"host": 0, "guest": 22}]}]"#, "/nics/0/forwards/0/host"),
            (r#", "cloud_init": {"user": {"name": "Root!"}}"#, "/cloud_init/user/name"),
            (r#", "cloud_init": {"user": {"name": "a", "ssh_keys": ["x"]}}"#, "/cloud_init/user/ssh_keys/0"),
            (r#", "labels": {"": ""}"#, "/labels"),
            (r#", "cpu_share": {"weight": 0}"#, "/cpu_share/weight"),
        ] {
            let wrong = definition(more).check();
            assert_eq!(wrong.iter().map(|w| w.pointer.as_str()).collect::<Vec<_>>(), [pointer], "{more}");
        }
    }

    #[test]
    fn disks_keep_their_numbers_while_others_come_and_go() {
        let disks = |more: &str| definition(&format!(r#", "disks": [{more}]"#));
        let units = |vm: &VmDefinition| vm.disks.iter().map(|disk| disk.unit.unwrap()).collect::<Vec<_>>();
        let (a, b, c) = (r#"{"size": "1M"}"#, r#"{"size": "2M"}"#, r#"{"size": "3M"}"#);
        let mut before = disks(&format!("{a}, {b}, {a}"));
        before.number_disks(&[]);
        assert_eq!(units(&before), [0, 1, 2]);
        for (list, expected) in [
            (format!("{b}, {a}"), vec![1, 0]),
            (format!("{a}, {a}"), vec![0, 2]),
            (format!("{c}, {b}"), vec![3, 1]),
            (format!("{a}, {b}, {a}, {a}"), vec![0, 1, 2, 3]),
        ] {
            let mut after = disks(&list);
            after.number_disks(&before.disks);
            assert_eq!(units(&after), expected, "{list}");
        }
    }

    #[test]
    fn a_card_that_says_no_address_is_the_one_on_that_network() {
        let nics = |more: &str| definition(&format!(r#", "nics": [{more}]"#));
        let before = nics(
            r#"{"network": {"named": "a"}, "mac": "52:00:00:00:00:01", "address": "10.0.0.1"}, {"network": {"named": "b"}, "mac": "52:00:00:00:00:02"}"#,
        );
        for (list, expected) in [
            (r#"{"network": {"named": "b"}}"#, vec![Some("52:00:00:00:00:02")]),
            (r#"{"network": {"named": "c"}}"#, vec![None]),
            (
                r#"{"network": {"named": "a"}}, {"network": {"named": "a"}}"#,
                vec![Some("52:00:00:00:00:01"), None],
            ),
        ] {
            let mut after = nics(list);
            after.know_cards(&before.nics);
            assert_eq!(
                after.nics.iter().map(|nic| nic.mac.as_deref()).collect::<Vec<_>>(),
                expected,
                "{list}"
            );
        }
        let mut after = nics(r#"{"network": {"named": "a"}, "vlan": 7}"#);
        after.know_cards(&before.nics);
        assert_eq!(after.nics[0].address, before.nics[0].address);
    }

    #[test]
    fn a_field_nobody_knows_is_refused() {
        for text in [r#"{"name": "a", "cpu": 2}"#, r#"{"name": "a", "disks": [{"size": "1G", "x": 1}]}"#] {
            assert!(serde_json::from_str::<VmDefinition>(text).is_err(), "{text}");
        }
    }
}
