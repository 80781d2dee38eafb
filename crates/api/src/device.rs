//! A guest's disks and network cards.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{ImageName, Invalid, Limit, Name, Size};

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
    /// The serial number the guest sees, at most 20 printable characters; `tessera-` and the disk's number if none is given.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 20)]
    pub serial: String,
    /// How much it may do each second, reads and writes together. Of several limits each holds; all of them are changed at once.
    #[serde(default, deserialize_with = "crate::limit::some", skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
    /// How much of that may be reads.
    #[serde(default, deserialize_with = "crate::limit::some", skip_serializing_if = "Option::is_none")]
    pub read_limit: Option<Limit>,
    /// How much of it may be writes. A flush, and a request that only gives room back, is an operation without bytes.
    #[serde(default, deserialize_with = "crate::limit::some", skip_serializing_if = "Option::is_none")]
    pub write_limit: Option<Limit>,
    /// Its number, which stays the same while other disks come and go. The host gives it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 999)]
    pub unit: Option<u32>,
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
    /// How much it may receive each second, whatever it is connected to. It is changed at once, as is what it may send.
    #[serde(default, deserialize_with = "crate::limit::some", skip_serializing_if = "Option::is_none")]
    pub receive_limit: Option<Limit>,
    /// How much it may send each second.
    #[serde(default, deserialize_with = "crate::limit::some", skip_serializing_if = "Option::is_none")]
    pub send_limit: Option<Limit>,
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

impl Disk {
    /// A disk of which nothing else is said.
    pub fn of(source: DiskSource) -> Self {
        Self {
            source,
            format: None,
            full: false,
            grow: None,
            read_only: false,
            serial: String::new(),
            limit: None,
            read_limit: None,
            write_limit: None,
            unit: None,
        }
    }

    /// Its number, if it is at `place` in its guest's list: disks that have been given none are counted.
    pub fn number(&self, place: usize) -> usize {
        self.unit.map_or(place, |unit| unit as usize)
    }

    /// The serial number that the guest sees of it, if its number is `number`.
    pub fn serial_at(&self, number: usize) -> String {
        if self.serial.is_empty() { format!("tessera-{number}") } else { self.serial.clone() }
    }

    /// Its limits, by their fields.
    pub fn limits(&self) -> [(&'static str, Option<Limit>); 3] {
        [("limit", self.limit), ("read_limit", self.read_limit), ("write_limit", self.write_limit)]
    }

    pub(crate) fn check(&self, n: usize) -> Vec<Invalid> {
        let mut wrong: Vec<_> = self.check_itself(n).into_iter().collect();
        wrong.extend(check_limits(&format!("/disks/{n}"), self.limits()));
        wrong
    }

    fn check_itself(&self, n: usize) -> Option<Invalid> {
        // Virtio hands a serial number over in 20 bytes (virtio 1.2, 5.2.6.1).
        if self.serial.len() > 20 || !self.serial.bytes().all(|b| b.is_ascii_graphic()) {
            let detail = "a serial number has at most 20 printable characters, without spaces";
            return Some(Invalid::new(format!("/disks/{n}/serial"), self.serial.as_str(), detail));
        }
        if let Some(unit) = self.unit.filter(|unit| *unit > 999) {
            return Some(Invalid::new(format!("/disks/{n}/unit"), unit, "a disk's number is at most 999"));
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
    pub(crate) fn check(&self, n: usize) -> Vec<Invalid> {
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
        let own = [("address", self.address.is_some()), ("vlan", self.vlan.is_some())];
        for (field, _) in
            own.into_iter().filter(|(_, given)| *given && !matches!(self.network, Network::Named(_)))
        {
            let detail = "only a card on a network of this host has this";
            wrong.push(Invalid::new(format!("/nics/{n}/{field}"), Value::Null, detail));
        }
        wrong.extend(check_limits(&format!("/nics/{n}"), self.limits()));
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

    /// Its limits, by their fields.
    pub fn limits(&self) -> [(&'static str, Option<Limit>); 2] {
        [("receive_limit", self.receive_limit), ("send_limit", self.send_limit)]
    }

    /// Its hardware address as bytes, if it has a valid one.
    pub fn mac_bytes(&self) -> Option<[u8; 6]> {
        self.mac.as_deref().and_then(parse_mac)
    }
}

/// What is wrong with limits of the device at `pointer`.
fn check_limits<const N: usize>(pointer: &str, limits: [(&str, Option<Limit>); N]) -> Vec<Invalid> {
    let there = limits.into_iter().filter_map(|(field, limit)| Some((field, limit?)));
    there.flat_map(|(field, limit)| limit.check(&format!("{pointer}/{field}"))).collect()
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
