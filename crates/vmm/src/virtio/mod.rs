//! Virtio devices (OASIS, Virtual I/O Device Version 1.2) over PCI, modern only.
//!
//! A [`Device`] is what is special about a kind of device; [`transport`] is what all have in common: registers, feature
//! negotiation, queues, interrupts. A device works on the machine's device thread: its queues' kicks are eventfds there.

pub mod balloon;
pub mod block;
pub mod console;
mod counter;
mod crew;
pub mod limit;
pub mod mem;
pub mod net;
mod queue;
pub mod rng;
mod state;
mod transport;
mod waker;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};

use virtio_queue::DescriptorChain;
use virtio_queue::desc::split::Descriptor;

use crate::memory::GuestMemory;
use crate::pci::Msix;
use crate::reactor::Handle;

pub use counter::Counter;
pub use queue::{ActiveQueue, QueueBroken};
pub use state::{DeviceState, QueueState, RestoreError, TransportState};
pub use transport::{Plugged, plug};

/// Feature bits all devices share (section 6).
pub mod feature {
    /// The driver may use indirect descriptors.
    pub const INDIRECT: u64 = 1 << 28;
    /// Notifications are suppressed by index.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// The device is modern.
    pub const VERSION_1: u64 = 1 << 32;
}

/// "No vector" in MSI-X vector registers (4.1.5.1.2.1).
const NO_VECTOR: u16 = 0xffff;
/// ISR status bits (4.1.4.5).
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// What a kind of device is.
///
/// The transport calls these with its lock held, on a vCPU's thread: none may block. Between
/// [`activate`](Self::activate) and [`deactivate`](Self::deactivate) the device serves its queues on the device thread.
pub trait Device: Send {
    /// Device id (section 5).
    fn id(&self) -> u16;
    /// The largest size of each queue, powers of two.
    fn queue_sizes(&self) -> Vec<u16>;
    /// Features offered, besides those of [`feature`], which the transport offers.
    fn features(&self) -> u64;
    /// A read of the device's configuration. `data` comes zeroed; what lies beyond stays zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);
    /// A write of the device's configuration.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}
    /// The driver is ready: serve the queues. Called once until `deactivate`.
    ///
    /// # Errors
    /// If the device cannot start: it then needs a reset, and the driver is told.
    fn activate(&mut self, activation: Activation) -> io::Result<()>;
    /// The driver reset the device: serve no more. When it returns, nothing of the device touches guest memory.
    fn deactivate(&mut self);
    /// The machine was reset: the device is as new. Called after [`deactivate`](Self::deactivate).
    fn machine_reset(&mut self) {}
    /// What a driver that goes on elsewhere must find again, besides registers and queues; `active` says whether it is being served.
    /// Called while the machine is paused.
    fn save(&self, _active: bool) -> DeviceState {
        DeviceState::Plain
    }
    /// Puts back what [`save`](Self::save) gave, of a device like this one. Called before [`activate`](Self::activate), which follows if
    /// the driver was being served, and begins with it.
    ///
    /// # Errors
    /// If this device cannot be what that one was.
    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        match state {
            DeviceState::Plain => Ok(()),
            _ => Err(RestoreError::Kind),
        }
    }
}

/// What a device gets to work with.
pub struct Activation {
    /// Guest memory.
    pub memory: Arc<GuestMemory>,
    /// The features negotiated.
    pub features: u64,
    /// The queues the driver enabled, by index; `None` for those it did not.
    pub queues: Vec<Option<ActiveQueue>>,
    /// Tells the driver that the configuration changed, or that the device broke.
    pub health: Health,
    /// Where to register kicks and backends.
    pub reactor: Handle,
}

/// A request as it lies in guest memory.
pub type Chain = DescriptorChain<Arc<GuestMemory>>;

/// The most descriptors of a request that are looked at. A driver may use as many as its queue has entries (2.7.5.3.1), which
/// are fewer; an indirect table could have 65535, and keep a device busy for nothing.
const MOST_PIECES: usize = 1024;

/// A request's descriptors.
pub fn pieces(chain: Chain) -> impl Iterator<Item = Descriptor> {
    chain.take(MOST_PIECES)
}

/// An interrupt of a device: a vector of its MSI-X table and a bit of its ISR.
#[derive(Clone)]
pub struct Interrupt {
    msix: Arc<Msix>,
    vector: Arc<AtomicU16>,
    isr: Arc<AtomicU8>,
    bit: u8,
}

impl Interrupt {
    /// Interrupts the driver.
    pub fn signal(&self) {
        self.isr.fetch_or(self.bit, Ordering::SeqCst);
        let vector = self.vector.load(Ordering::SeqCst);
        if vector != NO_VECTOR {
            self.msix.signal(vector);
        }
    }
}

/// Whether a device works, shared by the device and its transport.
#[derive(Clone)]
pub struct Health {
    broken: Arc<AtomicBool>,
    /// Whether the log has had a line of it: a driver may break its device again and again.
    told: Arc<AtomicBool>,
    /// How often the configuration has changed.
    generation: Arc<AtomicU8>,
    changed: Interrupt,
}

impl Health {
    /// The driver did what no driver may (a ring that points nowhere, a request of impossible shape): the device stops,
    /// and asks to be reset (DEVICE_NEEDS_RESET, 2.1).
    pub fn give_up(&self, why: &dyn std::fmt::Display) {
        if self.broken.swap(true, Ordering::SeqCst) {
            return;
        }
        if self.told.swap(true, Ordering::Relaxed) {
            tracing::debug!("a virtio device needs a reset again: {why}");
        } else {
            tracing::warn!("a virtio device needs a reset: {why}");
        }
        self.changed.signal();
    }

    /// Whether the device gave up.
    pub fn broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }

    /// The configuration changed.
    pub fn config_changed(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.changed.signal();
    }
}

/// Copies what of `config` lies at `offset` into `data`: how devices answer [`Device::read_config`].
pub fn read_slice(config: &[u8], offset: u64, data: &mut [u8]) {
    for (i, byte) in data.iter_mut().enumerate() {
        if let Some(&b) = usize::try_from(offset).ok().and_then(|o| config.get(o.checked_add(i)?)) {
            *byte = b;
        }
    }
}
