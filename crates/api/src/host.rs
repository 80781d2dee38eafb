//! The machine that the daemon looks after.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Engine, Id, Size, Time};

/// What the machine has, and what of it is in use.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HostInfo {
    /// The id of this host, made at its first start.
    pub id: Id,
    /// The machine's host name.
    pub name: String,
    /// Version of the daemon.
    pub version: String,
    /// When the daemon started.
    #[schema(value_type = String, format = DateTime)]
    pub started: Time,
    /// Version of the machine's kernel.
    pub kernel: String,
    /// The processor's name.
    pub processor: String,
    /// Processors that are online.
    pub cpus: u32,
    /// NUMA nodes.
    pub nodes: u32,
    /// What each of them has.
    #[serde(default)]
    pub numa: Vec<NumaNode>,
    /// Memory the machine has.
    pub memory: Size,
    /// Memory that could be given out now.
    pub memory_available: Size,
    /// Room on the file system that guests' disks are on.
    pub storage: Size,
    /// Room on it that is free.
    pub storage_available: Size,
    /// Disks of the machine. Whoever is bound to labels is told of none.
    #[serde(default)]
    pub disks: Vec<HostDisk>,
    /// Network cards of the machine, and what stands for some; not those of guests. Whoever is bound to labels is told of none.
    #[serde(default)]
    pub nics: Vec<HostNic>,
    /// Where the page and the API are for other programs than those of this machine's socket.
    #[serde(default)]
    pub pages: Vec<String>,
    /// What executes guests here, and why.
    pub engine: EngineInfo,
    /// Guests there are.
    pub vms: u32,
    /// Guests that run.
    pub vms_running: u32,
    /// Processors that running guests have.
    pub cpus_promised: u32,
    /// Memory that running guests have.
    pub memory_promised: Size,
}

/// Processors and the memory that is near to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NumaNode {
    /// Its number.
    pub number: u32,
    /// The numbers of its processors.
    pub cpus: Vec<u32>,
    /// Memory it has.
    pub memory: Size,
    /// Memory of it that nothing uses.
    pub memory_free: Size,
}

/// A disk of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostDisk {
    /// Its name in `/dev`.
    pub name: String,
    /// Its size.
    pub size: Size,
    /// Its maker's name for it; empty if it does not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// Whether it turns: whether what lies together is read faster.
    pub rotational: bool,
    /// Whether it can only be read.
    #[serde(default)]
    pub read_only: bool,
    /// Whether it can be taken out.
    #[serde(default)]
    pub removable: bool,
    /// What of it the machine uses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<HostMount>,
}

/// A use of a disk, of a part of it, or of a volume that lies on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostMount {
    /// The part, by its name in `/dev`.
    pub device: String,
    /// Where it is mounted; `swap` if memory is moved there.
    pub path: String,
    /// Its file system; empty for swap.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub file_system: String,
}

/// A network card of the machine, or what stands for one: a bridge, a bond, a VLAN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostNic {
    /// Its name.
    pub name: String,
    /// What it is in the kernel's words (`bridge`, `bond`, `vlan`, `veth`); empty for a card.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Its hardware address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// How fast it is, Mbit/s, if it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<u32>,
    /// Whether it carries frames: `up`, `down`, or what else the kernel says (RFC 2863, ifOperStatus).
    pub state: String,
    /// The largest packet that it carries, bytes.
    pub mtu: u32,
    /// Its addresses, each with the length of its network's part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// The bridge or bond that it is a part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
}

/// What executes guests.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EngineInfo {
    /// The engine that `auto` takes.
    pub engine: Engine,
    /// Why it is not another one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}
