//! Guests.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{Id, ImageName, Invalid, Name, Size, Time};

/// Memory of a guest for which nothing else is said.
pub const DEFAULT_MEMORY: Size = Size(1 << 30);
/// A guest's kernel has no room to start in less.
const LEAST_MEMORY: Size = Size(32 << 20);
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
    /// How much memory it has.
    #[serde(default = "default_memory")]
    pub memory: Size,
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

/// A disk of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Where its contents are.
    #[serde(flatten)]
    pub source: DiskSource,
    /// How a file's bytes are laid out. Found out once, when the guest gets the disk, if it is not said: later the guest could have
    /// written whatever it likes there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<DiskFormat>,
    /// Whether a disk that is made from an image is a copy of all of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub full: bool,
    /// How large a disk that is made from an image becomes, if it is to be larger than the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grow: Option<Size>,
    /// Whether the guest may only read.
    #[serde(default)]
    pub read_only: bool,
    /// The serial number the guest sees, at most 20 printable characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 20)]
    pub serial: String,
}

/// Where a disk's contents are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DiskSource {
    /// An image's disk, of the guest's own: made with the guest, removed with it. It holds only what differs from the image, unless
    /// `full` is set.
    Image(ImageName),
    /// An empty disk of so many bytes, of the guest's own: made with the guest, removed with it.
    Size(Size),
    /// A volume of a pool, which stays when the guest goes.
    Volume(VolumeName),
    /// A file or a block device of the host, which stays when the guest goes.
    #[schema(value_type = String)]
    File(PathBuf),
}

/// A volume of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeName {
    /// The pool: the one that every host has if none is named.
    #[serde(default = "default_pool")]
    pub pool: Name,
    /// The volume.
    pub name: Name,
}

/// The pool that every host has: `default`.
pub fn default_pool() -> Name {
    Name::usual()
}

impl std::fmt::Display for VolumeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.pool, self.name)
    }
}

/// How a disk's bytes are laid out in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// As they are.
    Raw,
    /// QEMU's format, version 2 or 3.
    Qcow2,
}

/// A network card of a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Nic {
    /// What it is connected to.
    #[serde(default)]
    pub network: Network,
    /// Its hardware address; one is made up if none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")]
    pub mac: Option<String>,
    /// Its IPv4 address on a network of this host, the only one that it may use; a free one is taken if none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "ipv4")]
    pub address: Option<Ipv4Addr>,
    /// Its IPv6 address there, where the network has IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "ipv6")]
    pub address6: Option<Ipv6Addr>,
    /// The one VLAN of its network that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 4094)]
    pub vlan: Option<u16>,
    /// Whether the guest may send as somebody else: from other hardware and IP addresses than its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_spoofing: bool,
    /// How many bytes it may receive each second on a network of this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receive_limit: Option<Size>,
    /// How many bytes it may send each second there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_limit: Option<Size>,
    /// Ports of the host that lead to the guest, on a network of kind `user`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<PortForward>,
}

/// What a network card is connected to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// A network of the guest's own, behind sockets of the host.
    #[default]
    User,
    /// A tap device of the host, which must be there.
    Tap(String),
    /// A network of this host.
    Named(Name),
}

/// A port of the host that leads to one of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortForward {
    /// The protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// The host's address: the loopback address if none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// The host's port.
    #[schema(minimum = 1)]
    pub host: u16,
    /// The guest's port.
    #[schema(minimum = 1)]
    pub guest: u16,
}

/// A protocol with ports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
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

/// What a guest is at the moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmStatus {
    /// Where it is in its life.
    pub state: VmState,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Time,
    /// The process that is the guest, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// What executes it, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,
    /// How it ended the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_end: Option<Ending>,
    /// How often it has been started again without anybody asking since it last ran for a while.
    #[serde(default)]
    pub restarts: u32,
    /// Whether what it should be has changed in a way that its next start brings about.
    #[serde(default)]
    pub pending_restart: bool,
}

/// Where a guest is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum VmState {
    /// It does not run.
    Stopped,
    /// It is being started.
    Starting,
    /// It runs.
    Running,
    /// It stands still, and can go on.
    Paused,
    /// It has been asked to power itself off.
    Stopping,
    /// It ended by itself in a way that it should not, and does not run.
    Crashed,
}

impl VmState {
    /// Whether it has a process.
    pub fn is_alive(self) -> bool {
        !matches!(self, VmState::Stopped | VmState::Crashed)
    }

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            VmState::Stopped => "stopped",
            VmState::Starting => "starting",
            VmState::Running => "running",
            VmState::Paused => "paused",
            VmState::Stopping => "stopping",
            VmState::Crashed => "crashed",
        }
    }
}

/// How a guest ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Ending {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub time: Time,
    /// How: `power-off`, `stopped`, `reset`, `panic`, `triple-fault`, `engine-failure`, `killed`, `start-failure`.
    pub kind: String,
    /// In words.
    pub message: String,
    /// What the guest wrote last on its console.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub console: Vec<String>,
    /// What its process said last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

/// What a running guest uses.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    /// How long it has run by its own clock, ns.
    pub guest_time_ns: u64,
    /// Host processor time of each of its processors, ns.
    pub cpu_time_ns: Vec<u64>,
    /// Memory it has.
    pub memory: Size,
    /// Memory that its process takes on the host.
    pub resident: Size,
}

/// What can be done with a guest that is no change of its definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Start it.
    Start,
    /// Ask it to power itself off; it is stopped if it has not when the deadline passes and force is asked for.
    Shutdown,
    /// Pull its plug.
    Stop,
    /// Ask it to power itself off, and start it again.
    Reboot,
    /// Press its reset button.
    Reset,
    /// Have it stand still.
    Pause,
    /// Have it go on.
    Resume,
}

/// All of them.
pub const VERBS: [Verb; 7] =
    [Verb::Start, Verb::Shutdown, Verb::Stop, Verb::Reboot, Verb::Reset, Verb::Pause, Verb::Resume];

impl Verb {
    /// The action of a task that does it.
    pub fn action(self) -> &'static str {
        match self {
            Verb::Start => "vm.start",
            Verb::Shutdown => "vm.shutdown",
            Verb::Stop => "vm.stop",
            Verb::Reboot => "vm.reboot",
            Verb::Reset => "vm.reset",
            Verb::Pause => "vm.pause",
            Verb::Resume => "vm.resume",
        }
    }

    /// Its word in a path and on the command line.
    pub fn word(self) -> &'static str {
        &self.action()[3..]
    }
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
            memory: DEFAULT_MEMORY,
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

    /// What is wrong with it, as far as it can be told without looking at the host.
    pub fn check(&self) -> Vec<Invalid> {
        let mut wrong = Vec::new();
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
        if self.disks.len() + self.nics.len() > MOST_DEVICES {
            let count = self.disks.len() + self.nics.len();
            say("/disks".into(), count.into(), "a guest has at most 24 disks and network cards");
        }
        if self.description.len() > 4096 {
            say("/description".into(), Value::Null, "a description has at most 4096 bytes");
        }
        for (key, value) in &self.labels {
            let short = (1..=63).contains(&key.len()) && value.len() <= 255;
            if !short || !key.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
                let detail =
                    "a label's key has 1 to 63 letters, digits and . _ -, its value at most 255 bytes";
                say("/labels".into(), key.chars().take(80).collect::<String>().into(), detail);
            }
        }
        if self.boot.command_line.as_ref().is_some_and(|line| line.len() > 2047 || line.contains('\0')) {
            say("/boot/command_line".into(), Value::Null, "at most 2047 bytes, none of them zero");
        }
        for (n, disk) in self.disks.iter().enumerate() {
            wrong.extend(disk.check(n));
        }
        for (n, nic) in self.nics.iter().enumerate() {
            wrong.extend(nic.check(n));
        }
        if let Some(cloud_init) = &self.cloud_init {
            wrong.extend(cloud_init.check());
        }
        wrong
    }

    /// The image that the guest was made from: that of its first disk, if that is a copy of one.
    pub fn image(&self) -> Option<&ImageName> {
        match &self.disks.first()?.source {
            DiskSource::Image(name) => Some(name),
            _ => None,
        }
    }
}

impl Disk {
    fn check(&self, n: usize) -> Option<Invalid> {
        // Virtio hands a serial number over in 20 bytes (virtio 1.2, 5.2.6.1).
        if self.serial.len() > 20 || !self.serial.bytes().all(|b| b.is_ascii_graphic()) {
            let detail = "a serial number has at most 20 printable characters, without spaces";
            return Some(Invalid::new(format!("/disks/{n}/serial"), self.serial.as_str(), detail));
        }
        let from_image = matches!(self.source, DiskSource::Image(_));
        if !from_image && (self.full || self.grow.is_some()) {
            let field = if self.full { "full" } else { "grow" };
            let detail = "only a disk that is made from an image has this";
            return Some(Invalid::new(format!("/disks/{n}/{field}"), Value::Null, detail));
        }
        match &self.source {
            DiskSource::Size(size) if size.0 == 0 || !size.0.is_multiple_of(1 << 20) => {
                Some(Invalid::new(format!("/disks/{n}/size"), size.0, "a disk has one or more whole MiB"))
            }
            DiskSource::Size(size) if size.0 > 1 << 46 => {
                Some(Invalid::new(format!("/disks/{n}/size"), size.0, "a disk has at most 64 TiB"))
            }
            DiskSource::File(path) if !path.is_absolute() => Some(Invalid::new(
                format!("/disks/{n}/file"),
                path.to_string_lossy().as_ref(),
                "the path must begin with /",
            )),
            _ => None,
        }
    }
}

impl Nic {
    fn check(&self, n: usize) -> Vec<Invalid> {
        let mut wrong = Vec::new();
        if let Some(mac) = &self.mac
            && parse_mac(mac).is_none_or(|mac| mac[0] & 1 != 0)
        {
            let detail = "a card's address is six bytes as 52:54:00:12:34:56, the first one even";
            wrong.push(Invalid::new(format!("/nics/{n}/mac"), mac.as_str(), detail));
        }
        if !self.forwards.is_empty() && self.network != Network::User {
            let detail = "only a network of kind user has its forwards at the card";
            wrong.push(Invalid::new(format!("/nics/{n}/forwards"), Value::Null, detail));
        }
        let own = [
            ("address", self.address.is_some()),
            ("vlan", self.vlan.is_some()),
            ("receive_limit", self.receive_limit.is_some()),
            ("send_limit", self.send_limit.is_some()),
        ];
        for (field, _) in
            own.into_iter().filter(|(_, given)| *given && !matches!(self.network, Network::Named(_)))
        {
            let detail = "only a card on a network of this host has this";
            wrong.push(Invalid::new(format!("/nics/{n}/{field}"), Value::Null, detail));
        }
        for (m, forward) in self.forwards.iter().enumerate() {
            for (field, port) in [("host", forward.host), ("guest", forward.guest)] {
                if port == 0 {
                    let pointer = format!("/nics/{n}/forwards/{m}/{field}");
                    wrong.push(Invalid::new(pointer, 0, "a port is 1 to 65535"));
                }
            }
        }
        wrong
    }

    /// Its hardware address as bytes, if it has a valid one.
    pub fn mac_bytes(&self) -> Option<[u8; 6]> {
        self.mac.as_deref().and_then(parse_mac)
    }
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2 && !part.starts_with('+'))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
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
        ] {
            let wrong = definition(more).check();
            assert_eq!(wrong.iter().map(|w| w.pointer.as_str()).collect::<Vec<_>>(), [pointer], "{more}");
        }
    }

    #[test]
    fn a_field_nobody_knows_is_refused() {
        for text in [r#"{"name": "a", "cpu": 2}"#, r#"{"name": "a", "disks": [{"size": "1G", "x": 1}]}"#] {
            assert!(serde_json::from_str::<VmDefinition>(text).is_err(), "{text}");
        }
    }
}
