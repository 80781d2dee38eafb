//! What networks and ports are wanted: the types people write, read and see in the API.

mod check;
mod choose;
mod value;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use choose::{NoneFree, free_address, free_address6, free_subnet};
pub use value::{Fault, Mac, read};

/// All networks of a host and all ports on them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// The networks, no two of one name.
    #[serde(default)]
    pub networks: Vec<Network>,
    /// The ports, no two of one id.
    #[serde(default)]
    pub ports: Vec<Port>,
}

/// A network that guests are connected to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = NetworkDefinition)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Lower-case letters, digits and `-`, beginning with a letter; at most 40.
    #[schema(example = "lan", pattern = "^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$")]
    pub name: String,
    /// What its guests can reach, and how.
    pub kind: NetworkKind,
    /// Of a bridged network: the host's interface it is connected to, or a bridge of the host's that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "eth0")]
    pub interface: Option<String>,
    /// Its IPv4 addresses. NAT and routed networks have them, isolated ones may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Ipv4>,
    /// Its IPv6 addresses. NAT, routed and isolated networks may have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6>,
    /// Names for its guests.
    #[serde(default)]
    pub dns: Dns,
    /// The longest packet, bytes. 1500 unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 576, maximum = 65535)]
    pub mtu: Option<u16>,
    /// How many bytes each second its guests may send, and how many they may receive, all together: 4096 or more. It is divided among
    /// guests by their `network_share`, each way by itself; nothing is divided if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 4096, maximum = 9223372036854775807i64)]
    pub bandwidth: Option<u64>,
    /// Ports of the host that lead to guests. NAT, routed and user-mode networks may have them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<Forward>,
}

/// What a network's guests can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NetworkKind {
    /// Each other, and by the host's own address whatever the host reaches. Nobody outside reaches them but by forwards.
    Nat,
    /// Each other and, by their own addresses, whatever the host reaches; who has a route to them reaches them.
    Routed,
    /// Each other.
    Isolated,
    /// What a network card of the host reaches, as if they were plugged in beside it.
    Bridged,
    /// What the host's unprivileged programs reach, through a program of each port's own. Guests do not see each other.
    User,
}

/// A network's IPv4 addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Ipv4 {
    /// All its addresses.
    #[serde(deserialize_with = "value::subnet4")]
    #[schema(value_type = String, example = "10.10.0.0/24")]
    pub subnet: Ipv4Net,
    /// The host's own address in it, which is its guests' router. The first of the subnet unless told.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "value::address4")]
    #[schema(value_type = Option<String>, format = "ipv4", example = "10.10.0.1")]
    pub gateway: Option<Ipv4Addr>,
    /// Whether guests are told their addresses by DHCP.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub dhcp: bool,
    /// Where addresses of new ports are taken from. All of the subnet unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<Ipv4Range>,
}

/// Addresses one after another, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Ipv4Range {
    /// The lowest.
    #[schema(value_type = String, format = "ipv4", example = "10.10.0.100")]
    pub first: Ipv4Addr,
    /// The highest.
    #[schema(value_type = String, format = "ipv4", example = "10.10.0.199")]
    pub last: Ipv4Addr,
}

/// A network's IPv6 addresses. Guests learn their router by router advertisements and their address by DHCPv6.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Ipv6 {
    /// All its addresses: 64 bits of them.
    #[serde(deserialize_with = "value::subnet6")]
    #[schema(value_type = String, example = "fd00:10::/64")]
    pub subnet: Ipv6Net,
    /// The host's own address in it. The first of the subnet unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "ipv6", example = "fd00:10::1")]
    pub gateway: Option<Ipv6Addr>,
    /// Whether guests are told their router and addresses.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub dhcp: bool,
}

/// Names of a network's guests, and of the rest of the world, from the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// Whether the host answers.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub enabled: bool,
    /// What its guests' full names end in. The network's name and `.internal` unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "lan.internal")]
    pub domain: Option<String>,
}

/// A port of the host that leads to a guest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// Of both ports.
    pub protocol: Protocol,
    /// The address of the host's that is listened on. All of its IPv4 addresses unless told.
    #[serde(default = "all_addresses")]
    #[schema(value_type = String, default = "0.0.0.0", example = "127.0.0.1")]
    pub host_address: IpAddr,
    /// The port there.
    #[schema(minimum = 1, example = 2222)]
    pub host_port: u16,
    /// The guest's address. A user-mode network has only one guest and needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "10.10.0.5")]
    pub guest_address: Option<IpAddr>,
    /// The port there.
    #[schema(minimum = 1, example = 22)]
    pub guest_port: u16,
}

/// What has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[schema(as = ForwardProtocol)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
}

/// Where one network card of one guest is plugged in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// What names it for good: letters, digits, `-`, `_`, `.`, `/` and `:`; at most 100.
    #[schema(example = "web-1/net0")]
    pub id: String,
    /// The network it is on.
    #[schema(example = "lan")]
    pub network: String,
    /// The guest's name there, as the network's DNS tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "web-1")]
    pub hostname: Option<String>,
    /// The card's address.
    #[schema(value_type = String, example = "52:54:00:12:34:56")]
    pub mac: Mac,
    /// The one VLAN it is in. It then sees that VLAN's ports, and that VLAN on a bridged network's interface, but neither
    /// the network's gateway nor its DHCP and DNS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 4094)]
    pub vlan: Option<u16>,
    /// VLANs whose tagged frames it sends and receives itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trunk: Vec<u16>,
    /// What it cannot pretend.
    #[serde(default)]
    pub anti_spoofing: AntiSpoofing,
    /// How fast the guest may receive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receive: Option<Rate>,
    /// How fast the guest may send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send: Option<Rate>,
    /// Its IPv4 address, which DHCP tells it and which is the only one it may use. Needed where the network has IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "value::address4")]
    #[schema(value_type = Option<String>, format = "ipv4", example = "10.10.0.5")]
    pub address: Option<Ipv4Addr>,
    /// Its IPv6 address beside the link-local one. Needed where the network has IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "ipv6", example = "fd00:10::5")]
    pub address6: Option<Ipv6Addr>,
}

/// What a guest's frames are checked for; what does not fit is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AntiSpoofing {
    /// It sends from its card's address only, and nothing that steers bridges.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub mac: bool,
    /// It uses its own addresses only, and is no DHCP server and no router. A trunk's tagged frames are not looked into.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub ip: bool,
}

/// How fast, and how much of it at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Bytes each second, over time.
    #[schema(minimum = 8000)]
    pub bytes_per_second: u64,
    /// Bytes at once after a silence. A twentieth of a second's unless told, and never less than 128 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 131072)]
    pub burst: Option<u32>,
}

impl Rate {
    /// The least burst, bytes: cards hand over up to 64 KiB at once, and what is larger than the burst would never pass.
    pub const LEAST_BURST: u32 = 128 << 10;

    /// What may pass at once, bytes.
    pub fn burst(&self) -> u32 {
        let usual = u32::try_from(self.bytes_per_second / 20).unwrap_or(u32::MAX);
        self.burst.unwrap_or(usual).max(Self::LEAST_BURST)
    }
}

impl Network {
    /// Whether the host has a bridge with addresses for it: not where others do that, or a program of the port's own.
    pub fn is_managed(&self) -> bool {
        matches!(self.kind, NetworkKind::Nat | NetworkKind::Routed | NetworkKind::Isolated)
    }

    /// Whether its ports are taps on a bridge.
    pub fn has_taps(&self) -> bool {
        self.kind != NetworkKind::User
    }

    /// What its guests' full names end in.
    pub fn domain(&self) -> String {
        self.dns.domain.clone().unwrap_or_else(|| format!("{}.internal", self.name))
    }
}

impl Ipv4 {
    /// The host's own address.
    pub fn gateway(&self) -> Ipv4Addr {
        self.gateway.unwrap_or_else(|| Ipv4Addr::from(u32::from(self.subnet.network()).saturating_add(1)))
    }

    /// Where addresses of new ports are taken from.
    pub fn range(&self) -> Ipv4Range {
        self.range.unwrap_or(Ipv4Range {
            first: Ipv4Addr::from(u32::from(self.subnet.network()).saturating_add(1)),
            last: Ipv4Addr::from(u32::from(self.subnet.broadcast()).saturating_sub(1)),
        })
    }
}

impl Ipv6 {
    /// The host's own address.
    pub fn gateway(&self) -> Ipv6Addr {
        self.gateway.unwrap_or_else(|| Ipv6Addr::from(u128::from(self.subnet.network()) | 1))
    }
}

impl Port {
    /// Whether it is in VLANs, and so apart from the host.
    pub fn has_vlans(&self) -> bool {
        self.vlan.is_some() || !self.trunk.is_empty()
    }
}

impl Default for Dns {
    fn default() -> Self {
        Self { enabled: true, domain: None }
    }
}

impl Default for AntiSpoofing {
    fn default() -> Self {
        Self { mac: true, ip: true }
    }
}

fn yes() -> bool {
    true
}

fn all_addresses() -> IpAddr {
    IpAddr::V4(Ipv4Addr::UNSPECIFIED)
}
