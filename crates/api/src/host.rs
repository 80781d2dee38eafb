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
    /// Memory the machine has.
    pub memory: Size,
    /// Memory that could be given out now.
    pub memory_available: Size,
    /// Room on the file system that guests' disks are on.
    pub storage: Size,
    /// Room on it that is free.
    pub storage_available: Size,
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

/// What executes guests.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EngineInfo {
    /// The engine that `auto` takes.
    pub engine: Engine,
    /// Why it is not another one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}
