//! What a machine uses of the host, and what its devices have done.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, LazyLock};

use rustix::time::ClockId;
use serde::{Deserialize, Serialize};

use crate::figures::{Figures, clock_ns};
use crate::machine::Machine;
use crate::virtio::balloon::GuestMemoryStats;
use crate::virtio::block::Block;
use crate::virtio::net::Net;
use crate::virtio::{block, net};

/// The answer to `stats`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stats {
    /// How long the guest has run by its own clock, nanoseconds.
    pub guest_time_ns: u64,
    /// One a processor.
    pub processors: Vec<ProcessorStats>,
    /// Memory the guest has, bytes.
    pub memory: u64,
    /// What of that the balloon has taken, bytes.
    #[serde(default)]
    pub balloon: u64,
    /// What it has been asked to hand over to the balloon, bytes.
    #[serde(default)]
    pub balloon_target: u64,
    /// What of that a pool of memory wants for others, bytes.
    #[serde(default)]
    pub pooled: u64,
    /// What the guest has said is free so far, and the host was given back, bytes.
    #[serde(default)]
    pub reported: u64,
    /// Whether equal pages of its memory are kept once; nothing if its process does not know of that.
    #[serde(default)]
    pub merges: Option<bool>,
    /// What the guest says of its memory.
    #[serde(default)]
    pub guest_memory: GuestMemoryStats,
    /// Memory the process takes on the host, bytes.
    pub resident: u64,
    /// Host processor time of the whole process, nanoseconds: the processors' and that of its devices.
    #[serde(default)]
    pub process_time_ns: u64,
    /// One a disk, in the order of their slots.
    #[serde(default)]
    pub disks: Vec<DiskStats>,
    /// One a card, in the order of their slots.
    #[serde(default)]
    pub nets: Vec<NetStats>,
}

impl Stats {
    /// What the balloon is to have whatever others need, bytes.
    pub fn for_good(&self) -> u64 {
        self.balloon_target.saturating_sub(self.pooled)
    }
}

/// What a disk has done since the machine was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStats {
    /// The serial number the guest sees.
    pub serial: String,
    /// Reads that were done.
    pub reads: u64,
    /// Bytes of them.
    pub read_bytes: u64,
    /// Bytes that were read although they would have been in the guest's memory, had it had all of that for its files, by a sample.
    #[serde(default)]
    pub reread_bytes: u64,
    /// Writes that were done.
    pub writes: u64,
    /// Bytes of them.
    pub written_bytes: u64,
    /// Requests that came to nothing.
    pub failed: u64,
    /// The time that all requests have taken together, nanoseconds: two at a time count twice.
    pub busy_ns: u64,
}

/// What a card has carried since the machine was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetStats {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Frames that came.
    pub received: u64,
    /// Bytes of them.
    pub received_bytes: u64,
    /// Frames that the guest sent.
    pub sent: u64,
    /// Bytes of them.
    pub sent_bytes: u64,
}

/// What one processor has used.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProcessorStats {
    /// Host processor time, nanoseconds.
    pub cpu_time_ns: u64,
}

/// The counters of a machine's devices.
#[derive(Default)]
pub(super) struct Meters {
    /// Where disks say what they did, too.
    figures: Option<Figures>,
    /// What is read again of all of them, and how many there have been.
    rereads: (Arc<block::Rereads>, u32),
    /// By the device's name, in the order in which they came.
    disks: Vec<(String, String, Arc<block::Meter>)>,
    cards: Vec<(String, [u8; 6], Arc<net::Meter>)>,
}

impl Meters {
    /// Counters that are said there, too, where they are of use at any time.
    pub fn telling(figures: Figures) -> Self {
        Self { figures: Some(figures), ..Self::default() }
    }

    /// A disk that the guest knows by this serial number.
    pub fn disk(&mut self, name: &str, serial: &str, disk: &Block) {
        if let Some(figures) = &self.figures {
            disk.meter().tell(figures.clone());
        }
        disk.meter().remember(Arc::clone(&self.rereads.0), self.rereads.1);
        self.rereads.1 += 1;
        self.disks.push((name.into(), serial.into(), disk.meter()));
    }

    /// A card with this hardware address.
    pub fn card(&mut self, name: &str, mac: [u8; 6], card: &Net) {
        self.cards.push((name.into(), mac, card.meter()));
    }

    /// A device that is not there any more.
    pub fn forget(&mut self, name: &str) {
        self.disks.retain(|(disk, ..)| disk != name);
        self.cards.retain(|(card, ..)| card != name);
    }

    /// What `machine`, whose devices these are, uses and has done.
    pub fn read(&self, machine: &Machine) -> Stats {
        let processors = machine.cpu_times_ns().into_iter().map(|cpu_time_ns| ProcessorStats { cpu_time_ns });
        let memory = machine.memory_size();
        self.rereads.0.set_memory(memory.memory);
        let disks = self.disks.iter().map(|(_, serial, meter)| DiskStats {
            serial: serial.clone(),
            reads: meter.reads.get(),
            read_bytes: meter.read_bytes.get(),
            reread_bytes: meter.reread_bytes.get(),
            writes: meter.writes.get(),
            written_bytes: meter.written_bytes.get(),
            failed: meter.failed.get(),
            busy_ns: meter.busy_ns.get(),
        });
        let nets = self.cards.iter().map(|(_, mac, meter)| NetStats {
            mac: *mac,
            received: meter.received.get(),
            received_bytes: meter.received_bytes.get(),
            sent: meter.sent.get(),
            sent_bytes: meter.sent_bytes.get(),
        });
        Stats {
            guest_time_ns: machine.clock_ns(),
            processors: processors.collect(),
            memory: memory.memory,
            balloon: memory.balloon,
            balloon_target: memory.target,
            pooled: memory.pooled,
            reported: machine.reported_memory(),
            merges: Some(machine.merges_memory()),
            guest_memory: machine.guest_memory_stats(),
            resident: resident().unwrap_or(0),
            process_time_ns: process_time_ns(),
            disks: disks.collect(),
            nets: nets.collect(),
        }
    }
}

/// Host processor time of this process, threads that have ended included, nanoseconds.
fn process_time_ns() -> u64 {
    clock_ns(ClockId::ProcessCPUTime)
}

/// What the kernel says of this process's memory (proc_pid_statm(5)). Opened once: later the process may be locked in.
static MEMORY: LazyLock<Option<File>> = LazyLock::new(|| File::open("/proc/self/statm").ok());

/// Opens and asks what this process wants to know of the host: call it before the process is locked in.
pub fn prepare() {
    LazyLock::force(&MEMORY);
    crate::memory::prepare();
    // It is asked for with a system call once.
    rustix::param::page_size();
}

/// Memory of this process that is in RAM, bytes.
fn resident() -> Option<u64> {
    let mut text = [0; 128];
    let length = MEMORY.as_ref()?.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(&text[..length]).ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
