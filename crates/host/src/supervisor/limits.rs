//! A guest's limits in the words of its process.

use api::{Disk, Limit, Nic};
use vmm::control::{DiskLimits, NetLimits};
use vmm::virtio::limit;

fn spec(limit: Option<Limit>) -> limit::Limit {
    let limit = limit.unwrap_or_default();
    let rate =
        |per_second: Option<u64>, burst| per_second.map(|per_second| limit::Rate { per_second, burst });
    limit::Limit {
        bytes: rate(limit.bytes.map(|bytes| bytes.0), limit.bytes_burst.map(|burst| burst.0)),
        operations: rate(limit.operations, limit.operations_burst),
    }
}

/// How much a disk may do.
pub fn of_disk(disk: &Disk) -> DiskLimits {
    DiskLimits { total: spec(disk.limit), read: spec(disk.read_limit), write: spec(disk.write_limit) }
}

/// How much a card may carry.
pub fn of_card(nic: &Nic) -> NetLimits {
    NetLimits { receive: spec(nic.receive_limit), send: spec(nic.send_limit) }
}
