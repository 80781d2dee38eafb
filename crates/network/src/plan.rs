//! What must change so that the kernel is as wanted: a pure function of what is wanted and what is there.
//!
//! Made again after its changes, the plan is empty. What hangs on an interface that is still to be made comes in the next
//! round. The order within a round keeps guests apart at every moment: what is not wanted goes first, rules come before
//! forwarding is switched on, and a tap is set up last.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use ipnet::IpNet;
use serde::Serialize;
use utoipa::ToSchema;

use crate::definition::{Network, NetworkKind, Port, Site};
use crate::kernel::{Change, Link, LinkKind, Observed, Shape, Vlan, settings};
use crate::names::Owner;
use crate::rules::taps;

/// Ethernet's own.
const USUAL_MTU: u32 = 1500;

/// Why a network cannot be as wanted on this host as it is now. The others are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// The network; none if it concerns all.
    pub network: Option<String>,
    /// What is wrong, and what would be right.
    pub detail: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.network {
            Some(network) => write!(f, "network {network}: {}", self.detail),
            None => f.write_str(&self.detail),
        }
    }
}

/// What must change, in order, and what cannot be.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) changes: Vec<Change>,
    pub(crate) problems: Vec<Problem>,
}

/// Makes the plan. `rules` is the change of the rules, if they must change.
pub(crate) fn plan(owner: Owner, site: &Site, observed: &Observed, rules: Option<Change>) -> Plan {
    let mut plan = Plan::default();
    let mut networks = HashMap::new();
    for network in site.networks.iter().filter(|network| network.has_taps()) {
        match place(owner, network, observed) {
            Ok(place) => drop(networks.insert(network.name.as_str(), (network, place))),
            Err(detail) => plan.problems.push(Problem { network: Some(network.name.clone()), detail }),
        }
    }
    let wanted = wanted_names(owner, site);
    let unwanted =
        observed.links.values().filter(|link| is_ours(owner, link) && !wanted.contains(&link.name));
    plan.changes.extend(unwanted.map(|link| Change::RemoveLink(link.into())));
    let mut sorted: Vec<_> = networks.values().collect();
    sorted.sort_by_key(|(network, _)| &network.name);
    for (network, place) in &sorted {
        plan_bridge(owner, network, place, &mut plan);
    }
    plan.changes.extend(rules);
    for setting in settings::wanted(owner, site, observed) {
        match observed.settings.get(&setting.path) {
            Some(before) if before != setting.value => {
                let before = before.clone();
                plan.changes.push(Change::Set { setting, before });
            }
            _ => {}
        }
    }
    for (network, place) in &sorted {
        plan_uplink(site, network, place, observed, &mut plan);
    }
    for (port, network) in taps(site) {
        let tap = observed.named(&owner.tap(&port.id)).filter(|link| link.kind == LinkKind::Tun);
        if let (Some(tap), Some((_, place))) = (tap, networks.get(network.name.as_str())) {
            plan_tap(owner, port, network, tap, place, &mut plan);
        }
    }
    plan
}

/// Where a network is on this host.
enum Place<'a> {
    /// A bridge of our own, which may be still to be made; and what it is connected to.
    Own { bridge: Option<&'a Link>, uplink: Option<&'a Link> },
    /// A bridge that the host had before, and of which only our taps are ours.
    Foreign { bridge: &'a Link },
}

fn place<'a>(
    owner: Owner,
    network: &Network,
    observed: &'a Observed,
) -> std::result::Result<Place<'a>, String> {
    let bridge = observed.named(&owner.bridge(&network.name));
    let own = |uplink| Ok(Place::Own { bridge, uplink });
    if network.kind != NetworkKind::Bridged {
        return match overlap(owner, network, observed) {
            Some(detail) => Err(detail),
            None => own(None),
        };
    }
    let name = network.interface.as_deref().unwrap_or_default();
    let Some(uplink) = observed.named(name) else {
        let names = observed.links.values().map(|link| link.name.as_str()).filter(|name| !owner.owns(name));
        let names: Vec<_> = names.filter(|name| *name != "lo").collect();
        return Err(format!("there is no interface {name} on this host; there are {}", names.join(", ")));
    };
    if matches!(uplink.kind, LinkKind::Bridge { .. }) {
        return Ok(Place::Foreign { bridge: uplink });
    }
    match uplink.bridge {
        Some(index) if Some(index) == bridge.map(|bridge| bridge.index) => own(Some(uplink)),
        Some(index) => {
            let other = observed.links.get(&index).map_or("another interface", |link| &link.name);
            Err(format!("{name} belongs to {other} already; name {other} itself if it is a bridge"))
        }
        None => match uplink.addresses.iter().find(|address| !is_link_local(address)) {
            Some(address) => Err(format!(
                "{name} has the host's address {address}, which it would lose; make a bridge of it in the host's own \
                 configuration, with that address, and name the bridge here"
            )),
            None => own(Some(uplink)),
        },
    }
}

/// Addresses that the host has elsewhere would no longer be reached.
fn overlap(owner: Owner, network: &Network, observed: &Observed) -> Option<String> {
    let subnets: Vec<IpNet> = network
        .ipv4
        .iter()
        .map(|ip| ip.subnet.into())
        .chain(network.ipv6.iter().map(|ip| ip.subnet.into()))
        .collect();
    let foreign = observed.links.values().filter(|link| !is_ours(owner, link));
    foreign.flat_map(|link| link.addresses.iter().map(move |address| (link, address))).find_map(
        |(link, address)| {
            let other = address.trunc();
            let both = |one: &&IpNet| one.contains(&other.network()) || other.contains(&one.network());
            let subnet = subnets.iter().find(both)?;
            Some(format!("{subnet} overlaps {address}, which is on {}; choose another subnet", link.name))
        },
    )
}

fn is_ours(owner: Owner, link: &Link) -> bool {
    owner.owns(&link.name) && link.kind != LinkKind::Other
}

fn is_link_local(address: &IpNet) -> bool {
    matches!(address, IpNet::V6(net) if net.addr().is_unicast_link_local())
}

/// The interfaces that may be there.
fn wanted_names(owner: Owner, site: &Site) -> BTreeSet<String> {
    let taps = taps(site).map(|(port, _)| owner.tap(&port.id));
    let with_bridge = site.networks.iter().filter(|network| network.has_taps());
    taps.chain(with_bridge.map(|network| owner.bridge(&network.name))).collect()
}

fn mtu(network: &Network, line: Option<&Link>) -> u32 {
    network.mtu.map_or_else(|| line.map_or(USUAL_MTU, |line| line.mtu), u32::from)
}

fn plan_bridge(owner: Owner, network: &Network, place: &Place<'_>, plan: &mut Plan) {
    let Place::Own { bridge, uplink } = place else { return };
    let (name, mtu) = (owner.bridge(&network.name), mtu(network, *uplink));
    let Some(bridge) = bridge else {
        return plan.changes.push(Change::AddBridge { name, mac: owner.bridge_mac(&network.name), mtu });
    };
    describe(bridge, format!("tessera {owner} network {}", network.name), plan);
    if bridge.mtu != mtu {
        plan.changes.push(Change::SetMtu { at: (*bridge).into(), mtu });
    }
    if bridge.kind == (LinkKind::Bridge { can_filter: true, filters: false }) {
        plan.changes.push(Change::FilterVlans((*bridge).into()));
    }
    let mut wanted: BTreeSet<IpNet> = BTreeSet::new();
    if let Some(ip) = &network.ipv4 {
        wanted.extend(IpNet::new(ip.gateway().into(), ip.subnet.prefix_len()));
    }
    if let Some(ip) = &network.ipv6 {
        wanted.extend(IpNet::new(ip.gateway().into(), ip.subnet.prefix_len()));
    }
    for address in bridge.addresses.difference(&wanted).filter(|address| !is_link_local(address)) {
        plan.changes.push(Change::RemoveAddress { at: (*bridge).into(), address: *address });
    }
    for address in wanted.difference(&bridge.addresses) {
        plan.changes.push(Change::AddAddress { at: (*bridge).into(), address: *address });
    }
    if !bridge.up {
        plan.changes.push(Change::SetUp((*bridge).into()));
    }
}

fn describe(link: &Link, alias: String, plan: &mut Plan) {
    if link.alias.as_ref() != Some(&alias) {
        plan.changes.push(Change::SetAlias { at: link.into(), alias });
    }
}

/// Connects a bridge to the host's interface, and to nothing else of the host's.
fn plan_uplink(site: &Site, network: &Network, place: &Place<'_>, observed: &Observed, plan: &mut Plan) {
    let Place::Own { bridge: Some(bridge), uplink: Some(uplink) } = place else { return };
    let others = observed.links.values().filter(|link| {
        link.bridge == Some(bridge.index) && link.index != uplink.index && link.kind != LinkKind::Tun
    });
    plan.changes.extend(others.map(|link| Change::SetBridge { at: link.into(), bridge: None }));
    let joined = uplink.bridge == Some(bridge.index);
    if !joined {
        plan.changes.push(Change::SetBridge { at: (*uplink).into(), bridge: Some((*bridge).into()) });
    }
    if matches!(bridge.kind, LinkKind::Bridge { can_filter: true, .. }) {
        let ports = site.ports.iter().filter(|port| port.network == network.name);
        let used = ports.flat_map(|port| port.vlan.iter().chain(&port.trunk)).filter(|id| **id != 1);
        let mut wanted: BTreeSet<_> = used.map(|id| Vlan { id: *id, untagged: false }).collect();
        wanted.insert(Vlan::FIRST);
        plan_vlans(uplink, joined, &wanted, plan);
    }
    if !uplink.up {
        plan.changes.push(Change::SetUp((*uplink).into()));
    }
}

fn plan_vlans(link: &Link, joined: bool, wanted: &BTreeSet<Vlan>, plan: &mut Plan) {
    let first = BTreeSet::from([Vlan::FIRST]);
    let present = if joined { &link.vlans } else { &first };
    if present != wanted {
        let add = wanted.difference(present).copied().collect();
        let remove = present.difference(wanted).copied().collect();
        plan.changes.push(Change::SetVlans { at: link.into(), add, remove });
    }
}

fn plan_tap(owner: Owner, port: &Port, network: &Network, tap: &Link, place: &Place<'_>, plan: &mut Plan) {
    let (bridge, line) = match place {
        Place::Own { bridge: Some(bridge), uplink } => (bridge, *uplink),
        Place::Own { bridge: None, .. } => return,
        Place::Foreign { bridge } => (bridge, Some(*bridge)),
    };
    let own = matches!(place, Place::Own { .. });
    if let Some(detail) = why_no_vlans(port, network, bridge) {
        plan.problems.push(Problem { network: Some(network.name.clone()), detail });
        if tap.bridge.is_some() {
            plan.changes.push(Change::SetBridge { at: tap.into(), bridge: None });
        }
        return;
    }
    describe(tap, format!("tessera {owner} port {}", port.id), plan);
    let mtu = mtu(network, line);
    if tap.mtu != mtu {
        plan.changes.push(Change::SetMtu { at: tap.into(), mtu });
    }
    let shape = port.receive.map(Shape::from);
    let as_wanted = match (&tap.shape, &shape) {
        (None, None) => true,
        (Some(present), Some(wanted)) => present.is(wanted),
        _ => false,
    };
    if !as_wanted {
        plan.changes.push(Change::SetShape { at: tap.into(), shape });
    }
    let joined = tap.bridge == Some(bridge.index);
    if !joined {
        if tap.up {
            plan.changes.push(Change::SetDown(tap.into()));
        }
        plan.changes.push(Change::SetBridge { at: tap.into(), bridge: Some((*bridge).into()) });
    }
    let separates = matches!(bridge.kind, LinkKind::Bridge { can_filter: true, .. });
    if separates && (own || port.has_vlans()) {
        let mut wanted: BTreeSet<_> = port.trunk.iter().map(|id| Vlan { id: *id, untagged: false }).collect();
        if wanted.is_empty() {
            wanted.insert(Vlan { id: port.vlan.unwrap_or(Vlan::FIRST.id), untagged: true });
        }
        plan_vlans(tap, joined, &wanted, plan);
    }
    if !tap.up || !joined {
        plan.changes.push(Change::SetUp(tap.into()));
    }
}

/// Why a port cannot be in its VLANs. Ports of a network without an interface are kept apart by rules in any case.
fn why_no_vlans(port: &Port, network: &Network, bridge: &Link) -> Option<String> {
    if !port.has_vlans() {
        return None;
    }
    let (name, id) = (&bridge.name, &port.id);
    match bridge.kind {
        LinkKind::Bridge { can_filter: true, filters: true } => None,
        LinkKind::Bridge { can_filter: true, .. } if network.kind == NetworkKind::Bridged => Some(format!(
            "port {id} is in VLANs, which bridge {name} does not separate; switch its vlan_filtering on"
        )),
        LinkKind::Bridge { can_filter: false, .. }
            if network.kind == NetworkKind::Bridged || !port.trunk.is_empty() =>
        {
            Some(format!(
                "port {id} needs tagged frames, and this kernel's bridges know no VLANs \
                 (CONFIG_BRIDGE_VLAN_FILTERING); use another kernel, or a network of its own"
            ))
        }
        _ => None,
    }
}
