//! `/vms/{vm}/share`.

use std::collections::HashMap;
use std::sync::Arc;

use api::{
    BandwidthOther, BandwidthPlace, BandwidthReport, CpuHost, CpuOther, CpuReport, Id, MemoryOfGuest,
    MemoryReport, Name, Problem, Processors, ShareGroupInfo, ShareReport, Size, Vm,
};
use axum::extract::{Path, State};

use super::caller::Viewer;
use super::error::Result;
use super::scope;
use crate::daemon::Host;
use crate::memory;
use crate::shares::{self, Place, Seen, capacity};

/// So many others are told of.
const OTHERS: usize = 5;

/// What a guest is promised of what it shares with others, what it wants and gets, and who gets the rest.
#[utoipa::path(get, path = "/vms/{vm}/share", tag = "vms", security(("token" = ["viewer"])),
    params(("vm" = String, Path, description = "Its name or id")), responses(
    (status = 200, description = "What it is promised and gets", body = ShareReport),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn of_guest(
    State(host): State<Arc<Host>>,
    Viewer(identity): Viewer,
    Path(vm): Path<String>,
) -> Result<axum::Json<ShareReport>> {
    let (vm, _) = host.supervisor.find(&vm).await?;
    let seen = scope::guests(&host, &identity).await?.into_iter();
    let others = seen.filter(|other| other.id != vm.id).map(|other| (other.id, other)).collect();
    let shares = host.supervisor.shares();
    let reserved = shares.reserved();
    let groups = host.share_groups.of(&vm).await?;
    let cpu = shares.seen(|seen| report(&vm, groups, &others, seen, reserved));
    let memory = memory(&vm, &others, &host.memory.seen(), shares.pool());
    let (disks, networks) = bandwidth(&host, &vm, &others);
    Ok(axum::Json(ShareReport { cpu, memory, disks, networks }))
}

/// Those that have most, the first of them first.
fn with_most<T>(mut all: Vec<T>, amount: impl Fn(&T) -> f64, name: impl Fn(&T) -> &Name) -> Vec<T> {
    all.sort_by(|a, b| amount(b).total_cmp(&amount(a)).then_with(|| name(a).cmp(name(b))));
    all.truncate(OTHERS);
    all
}

/// What is told of a guest's memory to somebody who may see these others.
fn memory(vm: &Vm, others: &HashMap<Id, Vm>, seen: &memory::Seen, pool: Option<Size>) -> MemoryReport {
    let told = |(id, now): (&Id, &api::MemoryNow)| {
        let other = &others.get(id)?.definition;
        Some(MemoryOfGuest { id: *id, name: other.name.clone(), promised: other.memory_share, now: *now })
    };
    let all = seen.guests.iter().filter_map(told).collect();
    let most = with_most(all, |other| other.now.resident.0 as f64, |other| &other.name);
    let now = seen.guests.get(&vm.id).filter(|_| vm.status.state.is_alive()).copied();
    let all: u64 = seen.guests.values().map(|now| now.resident.0).sum();
    let told: u64 = most.iter().map(|other| other.now.resident.0).sum();
    let own = seen.guests.get(&vm.id).map_or(0, |now| now.resident.0);
    MemoryReport {
        promised: vm.definition.memory_share,
        now,
        pool,
        pressure: seen.pressure,
        others: most,
        rest: Size(all - told - own),
    }
}

/// What these others did on a pool or a network, those that did most.
fn others_at(host: &Host, place: &Place, others: &HashMap<Id, Vm>) -> Vec<BandwidthOther> {
    let told = |(id, other): (&Id, &Vm)| {
        let bytes = host.bandwidth.of(*id, place).iter().map(|flow| flow.bytes).sum();
        let of = &other.definition;
        let promised = *place.share(&of.disk_share, &of.network_share);
        (bytes > 0).then(|| BandwidthOther { id: *id, name: of.name.clone(), promised, bytes })
    };
    with_most(others.iter().filter_map(told).collect(), |other| other.bytes as f64, |other| &other.name)
}

/// What a guest is promised and has of the pools and the networks that it uses, told to somebody who may see these others.
fn bandwidth(host: &Host, vm: &Vm, others: &HashMap<Id, Vm>) -> (BandwidthReport, BandwidthReport) {
    let (definition, shares) = (&vm.definition, host.supervisor.shares());
    let of = |promised, is: fn(&Place) -> bool| {
        let told = |place: Place| {
            let (carries, reserved) = shares.of_place(&place);
            let flows = host.bandwidth.of(vm.id, &place);
            let flows = if vm.status.state.is_alive() { flows } else { Vec::new() };
            let (bandwidth, operations) = (carries.bandwidth, carries.operations);
            let others = others_at(host, &place, others);
            BandwidthPlace { name: place.name().to_string(), bandwidth, operations, reserved, flows, others }
        };
        let places = shares::places_of(definition).into_iter().filter(is).map(told).collect();
        BandwidthReport { promised, places }
    };
    let is_pool = |place: &Place| matches!(place, Place::Pool(_));
    let is_network = |place: &Place| matches!(place, Place::Network(_));
    (of(definition.disk_share, is_pool), of(definition.network_share, is_network))
}

/// What is told of a guest to somebody who may see these others.
fn report(
    vm: &Vm,
    groups: Vec<ShareGroupInfo>,
    others: &HashMap<Id, Vm>,
    seen: &Seen,
    reserved: Processors,
) -> CpuReport {
    let told = |(id, now): (&Id, &api::CpuNow)| {
        let other = others.get(id)?;
        let (name, promised) = (other.definition.name.clone(), other.definition.cpu_share);
        Some(CpuOther { id: *id, name, promised, got_10s: now.got_10s })
    };
    let most =
        with_most(seen.guests.iter().filter_map(told).collect(), |other| other.got_10s, |other| &other.name);
    let now = seen.guests.get(&vm.id).filter(|_| vm.status.state.is_alive()).cloned();
    let own = seen.guests.get(&vm.id).map_or(0.0, |own| own.got_10s);
    let named: f64 = most.iter().map(|other| other.got_10s).sum();
    CpuReport {
        promised: vm.definition.cpu_share,
        groups,
        now,
        host: CpuHost {
            processors: Processors::nearest(capacity()),
            reserved,
            guests: seen.all(),
            besides: seen.besides,
        },
        others: most,
        rest: (seen.all() - own - named).max(0.0),
        not_enforced: seen.not_enforced.as_ref().or_else(|| seen.lost.get(&vm.id)).cloned(),
    }
}
