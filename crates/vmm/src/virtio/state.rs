//! What is saved of a virtio device.

use serde::{Deserialize, Serialize};

use super::balloon::BalloonState;
use super::block::DiskState;
use super::console::ConsoleState;
use super::limit::LimitState;
use super::mem::MemState;

/// A saved device cannot be put back.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It is of another kind.
    #[error("it is of another kind")]
    Kind,
    /// Its driver uses what the device here does not have.
    #[error("its driver uses features {missing:#x}, which the device here does not have")]
    Features {
        /// Bits of the features that are missing.
        missing: u64,
    },
    /// It has other queues.
    #[error("queue {number} of {size} entries is not one of this device")]
    Queue {
        /// Which one.
        number: usize,
        /// Its entries.
        size: u16,
    },
    /// It has more queues.
    #[error("it has {saved} queues, the device here has {here}")]
    Queues {
        /// What was saved.
        saved: usize,
        /// What there is.
        here: usize,
    },
    /// A request of it is in no queue.
    #[error("it has a request of queue {queue} that begins with descriptor {head}, which cannot be")]
    Request {
        /// The queue.
        queue: u16,
        /// The request's first descriptor.
        head: u16,
    },
    /// Its ports are others.
    #[error("it has {saved} ports, the device here has {here}")]
    Ports {
        /// What was saved.
        saved: usize,
        /// What there is.
        here: usize,
    },
    /// It has memory where this one has none.
    #[error("it has memory where the device here has none")]
    Region,
    /// It cannot go on.
    #[error("it does not start again: {0}")]
    Start(String),
}

/// What is special about a kind of device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceState {
    /// Nothing is.
    Plain,
    /// A console's ports.
    Console(ConsoleState),
    /// A balloon's size.
    Balloon(BalloonState),
    /// What memory is plugged.
    Mem(MemState),
    /// What has been used of a disk's or a card's limits. One without limits is plain, as it is for programs that know of none.
    Limits(LimitState),
    /// Requests of a disk that wait for room on the host.
    Disk(DiskState),
}

/// A queue as its driver has set it up, and how far its device has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueState {
    /// Entries.
    pub size: u16,
    /// Whether it is in use.
    pub enabled: bool,
    /// Address of the descriptors.
    pub descriptors: u64,
    /// Address of the available ring.
    pub available: u64,
    /// Address of the used ring.
    pub used: u64,
    /// Its MSI-X vector.
    pub vector: u16,
    /// The next entry of the available ring.
    pub next_available: u16,
    /// The next entry of the used ring.
    pub next_used: u16,
}

/// A device: its registers, its queues and what is special about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransportState {
    /// Device id (section 5).
    pub id: u16,
    /// Device status.
    pub status: u8,
    /// Whether it serves its queues.
    pub active: bool,
    /// Whether it has given up, and waits for a reset.
    pub broken: bool,
    /// Which half of its features the driver looks at.
    pub device_feature_select: u32,
    /// Which half of its own the driver writes.
    pub driver_feature_select: u32,
    /// The features that the driver has chosen.
    pub driver_features: u64,
    /// Which queue the driver looks at.
    pub queue_select: u16,
    /// The vector of changed configuration.
    pub config_vector: u16,
    /// How often the configuration has changed, modulo 2^8.
    #[serde(default)]
    pub generation: u8,
    /// Interrupt status.
    pub isr: u8,
    /// The window in configuration space.
    pub window: [u8; 16],
    /// The queues.
    pub queues: Vec<QueueState>,
    /// What is special about it.
    pub device: DeviceState,
}
