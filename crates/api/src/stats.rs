//! What guests and their host use, as counters that only grow: two looks give what was used in between.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Id, Name, Size, Time, VmState};

/// What a running guest uses, and what its devices have done since it was started.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    /// When this was looked at.
    #[schema(value_type = String, format = DateTime)]
    pub time: Time,
    /// How long it has run by its own clock, ns: this stands still while the guest is paused.
    pub guest_time_ns: u64,
    /// Its processors.
    pub processors: Vec<ProcessorStats>,
    /// Host processor time of its whole process, ns: its processors' and that of its devices.
    pub process_time_ns: u64,
    /// Memory it has.
    pub memory: Size,
    /// Memory that its process takes on the host.
    pub resident: Size,
    /// Memory that its system has said is free so far, and the host was given back: what it uses again and leaves again counts each time.
    #[serde(default)]
    pub reported: Size,
    /// Its disks, in their order.
    pub disks: Vec<DiskStats>,
    /// Its cards, in their order.
    pub nics: Vec<NicStats>,
}

/// Where a guest's processor has spent its time. The three together are the guest's time.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ProcessorStats {
    /// It ran on a processor of the host, ns.
    pub run_ns: u64,
    /// It had work and waited for a processor of the host, ns. Kernels that do not say so give none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_ns: Option<u64>,
    /// It had nothing to do, ns.
    pub wait_ns: u64,
}

/// What a disk has done.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DiskStats {
    /// The serial number that the guest sees.
    pub serial: String,
    /// Reads.
    pub reads: u64,
    /// Bytes of them.
    pub read_bytes: u64,
    /// Bytes that were read although the guest would have had them in its memory, had it had all of that for its files: with more memory it would read
    /// less. Estimated from a sample.
    #[serde(default)]
    pub reread_bytes: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes of them.
    pub written_bytes: u64,
    /// Requests that came to nothing.
    pub failed: u64,
    /// The time that all requests took together, ns: two at a time count twice.
    pub busy_ns: u64,
}

/// What a card has carried.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NicStats {
    /// Its hardware address.
    pub mac: String,
    /// Frames that came.
    pub received: u64,
    /// Bytes of them.
    pub received_bytes: u64,
    /// Frames that the guest sent.
    pub sent: u64,
    /// Bytes of them.
    pub sent_bytes: u64,
}

/// What the host and all guests that run use.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HostStats {
    /// When this was looked at.
    #[schema(value_type = String, format = DateTime)]
    pub time: Time,
    /// Processors of the host.
    pub cpus: u32,
    /// Time that they were busy, all together, ns.
    pub busy_ns: u64,
    /// Time that they had nothing to do, all together, ns.
    pub idle_ns: u64,
    /// Time that a machine below this one gave to others, all together, ns.
    pub stolen_ns: u64,
    /// Memory of the host.
    pub memory: Size,
    /// Memory that could be given out.
    pub memory_available: Size,
    /// Room on the file system of the host's folder.
    pub storage: Size,
    /// What of it is free.
    pub storage_available: Size,
    /// What the host's cards have received, bytes.
    #[serde(default)]
    pub received_bytes: u64,
    /// What they have sent, bytes.
    #[serde(default)]
    pub sent_bytes: u64,
    /// The guests that run, and answered in time.
    pub vms: Vec<VmStats>,
    /// In their place, where only the sums are asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sums: Vec<VmSums>,
}

impl HostStats {
    /// The same with only sums of each guest.
    pub fn summed(mut self) -> Self {
        self.sums = std::mem::take(&mut self.vms).into_iter().map(VmSums::from).collect();
        self
    }
}

/// What one guest uses, all its devices together: for thousands of them at once.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct VmSums {
    /// Its id.
    pub id: Id,
    /// When this was looked at.
    #[schema(value_type = String, format = DateTime)]
    pub time: Time,
    /// Host processor time of its whole process, ns.
    pub process_time_ns: u64,
    /// Memory that its process takes on the host.
    pub resident: Size,
    /// What its disks have read and written, bytes.
    pub disk_bytes: u64,
    /// What its cards have received and sent, bytes.
    pub nic_bytes: u64,
}

impl From<VmStats> for VmSums {
    fn from(VmStats { id, stats, .. }: VmStats) -> Self {
        let disk = |disk: &DiskStats| disk.read_bytes.saturating_add(disk.written_bytes);
        let nic = |nic: &NicStats| nic.received_bytes.saturating_add(nic.sent_bytes);
        Self {
            id,
            time: stats.time,
            process_time_ns: stats.process_time_ns,
            resident: stats.resident,
            disk_bytes: stats.disks.iter().map(disk).fold(0, u64::saturating_add),
            nic_bytes: stats.nics.iter().map(nic).fold(0, u64::saturating_add),
        }
    }
}

/// What one guest uses.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct VmStats {
    /// Its id.
    pub id: Id,
    /// Its name.
    pub name: Name,
    /// Its state.
    pub state: VmState,
    /// What it uses.
    pub stats: Stats,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_of_all_devices_and_what_is_absurd_stays_a_number() {
        let disk = |read_bytes, written_bytes| DiskStats {
            serial: String::new(),
            reads: 1,
            read_bytes,
            reread_bytes: 0,
            writes: 1,
            written_bytes,
            failed: 0,
            busy_ns: 0,
        };
        let nic = NicStats { mac: String::new(), received: 1, received_bytes: 40, sent: 1, sent_bytes: 2 };
        let of = |disks| VmStats {
            id: Id::new(),
            name: "a".parse().unwrap(),
            state: VmState::Running,
            stats: Stats {
                time: Time::now(),
                guest_time_ns: 1,
                processors: Vec::new(),
                process_time_ns: 7,
                memory: Size(9),
                resident: Size(8),
                reported: Size(0),
                disks,
                nics: vec![nic.clone(), nic.clone()],
            },
        };
        let sums = VmSums::from(of(vec![disk(1, 2), disk(4, 8)]));
        assert_eq!(
            (sums.process_time_ns, sums.resident, sums.disk_bytes, sums.nic_bytes),
            (7, Size(8), 15, 84)
        );
        assert_eq!(VmSums::from(of(vec![disk(u64::MAX, 2), disk(4, 8)])).disk_bytes, u64::MAX);
    }
}
