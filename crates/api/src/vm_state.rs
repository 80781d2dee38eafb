//! What guests are at the moment, and what can be done with them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Engine, Id, Time};

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
    /// The numbers of its disks for which there is no room where they are: what it writes there waits until there is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub no_room: Vec<u32>,
    /// The snapshot that it has gone on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Id>,
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
    /// It is being written to storage, to go on later.
    Suspending,
    /// It is on storage, takes neither processors nor memory, and can go on where it was.
    Suspended,
    /// It ended by itself in a way that it should not, and does not run.
    Crashed,
}

impl VmState {
    /// Whether it has a process.
    pub fn is_alive(self) -> bool {
        !matches!(self, VmState::Stopped | VmState::Crashed | VmState::Suspended)
    }

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            VmState::Stopped => "stopped",
            VmState::Starting => "starting",
            VmState::Running => "running",
            VmState::Paused => "paused",
            VmState::Stopping => "stopping",
            VmState::Suspending => "suspending",
            VmState::Suspended => "suspended",
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

/// What can be done with a guest that is no change of its definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Start it, or have one that is suspended go on.
    Start,
    /// Ask it to power itself off; it is stopped if it has not when the deadline passes and force is asked for.
    Shutdown,
    /// Pull its plug; forget where one that is suspended was.
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
