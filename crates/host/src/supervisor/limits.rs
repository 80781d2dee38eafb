//! A guest's limits, and what it shares with others, in the words of its process.

use api::{Disk, Limit, Network, Nic, VmDefinition};
use vmm::control::{DiskLimits, NetLimits, PlacesSpec};
use vmm::virtio::limit;

use super::cards::card_name;
use super::machine::disk_name;
use crate::bandwidth::{of_network, of_pool};
use crate::shares::pool_of;

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

/// The devices of a definition that are on pools and networks.
pub fn places(definition: &VmDefinition) -> PlacesSpec {
    let disks = definition.disks.iter().enumerate();
    let disks =
        disks.filter_map(|(place, disk)| Some((disk_name(disk.number(place)), of_pool(&pool_of(disk)?))));
    let nets = definition.nics.iter().filter_map(|nic| match &nic.network {
        Network::Named(name) => Some((card_name(nic), of_network(name))),
        Network::User | Network::Tap(_) => None,
    });
    PlacesSpec { disks: disks.collect(), nets: nets.collect() }
}
