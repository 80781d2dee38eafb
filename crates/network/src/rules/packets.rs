//! Packets that the host routes between guests and the world, or receives itself.

use std::net::IpAddr;

use super::{Table, lines, managed, quoted};
use crate::definition::{Forward, Network, NetworkKind, Protocol, Site};
use crate::names::Owner;

pub(super) fn table(owner: Owner, site: &Site) -> Table {
    let mut table = Table::new("inet");
    sets(&mut table, owner, site);
    table.chain(
        "loopback",
        "type filter hook prerouting priority raw; policy accept;",
        // Forwards from the host's own loopback need it to be routed (route_localnet). Guests must not get there.
        &lines(&["iifname @bridges ip daddr 127.0.0.0/8 drop"]),
    );
    let forwards: Vec<_> = site
        .networks
        .iter()
        .filter(|network| network.is_managed())
        .flat_map(|network| &network.forwards)
        .filter_map(redirect)
        .collect();
    table.chain("to_guests", "type nat hook prerouting priority dstnat; policy accept;", &forwards);
    table.chain("own_to_guests", "type nat hook output priority -100; policy accept;", &forwards);
    let sources: Vec<_> = managed(site).flat_map(|network| masquerade(owner, network)).collect();
    table.chain("from_guests", "type nat hook postrouting priority srcnat; policy accept;", &sources);
    table.chain("routed", "type filter hook forward priority filter; policy accept;", &routed());
    table.chain("received", "type filter hook input priority filter; policy accept;", &received());
    table
}

fn sets(table: &mut Table, owner: Owner, site: &Site) {
    let bridge = |network: &Network| quoted(&owner.bridge(&network.name));
    let of_kind = |kind| managed(site).filter(move |network| network.kind == kind).map(bridge);
    table.set("bridges", "type ifname", managed(site).map(bridge));
    table.set("nat", "type ifname", of_kind(NetworkKind::Nat));
    table.set("isolated", "type ifname", of_kind(NetworkKind::Isolated));
    let dhcp = |network: &&Network| {
        network.ipv4.as_ref().is_some_and(|ip| ip.dhcp) || network.ipv6.as_ref().is_some_and(|ip| ip.dhcp)
    };
    table.set("dhcp", "type ifname", managed(site).filter(dhcp).map(bridge));
    table.set("dns", "type ifname", managed(site).filter(|network| network.dns.enabled).map(bridge));
    let within = |network| format!("{0} . {0}", bridge(network));
    table.set("within", "type ifname . ifname", managed(site).map(within));
    let sources = managed(site)
        .filter_map(|network| network.ipv4.as_ref().map(|ip| format!("{} . {}", bridge(network), ip.subnet)));
    table.set("sources", "type ifname . ipv4_addr; flags interval", sources);
    let sources = managed(site)
        .filter_map(|network| network.ipv6.as_ref().map(|ip| format!("{} . {}", bridge(network), ip.subnet)));
    table.set("sources6", "type ifname . ipv6_addr; flags interval", sources);
}

/// The rule of a port forward. It takes packets to the host's own addresses, whoever sent them.
fn redirect(forward: &Forward) -> Option<String> {
    let guest = forward.guest_address?;
    let to = match forward.host_address {
        IpAddr::V4(address) if address.is_unspecified() => "meta nfproto ipv4 fib daddr type local".into(),
        IpAddr::V6(address) if address.is_unspecified() => "meta nfproto ipv6 fib daddr type local".into(),
        IpAddr::V4(address) => format!("ip daddr {address}"),
        IpAddr::V6(address) => format!("ip6 daddr {address}"),
    };
    let protocol = match forward.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    let target = match guest {
        IpAddr::V4(address) => format!("dnat ip to {address}:{}", forward.guest_port),
        IpAddr::V6(address) => format!("dnat ip6 to [{address}]:{}", forward.guest_port),
    };
    Some(format!("{to} {protocol} dport {} {target}", forward.host_port))
}

/// Whose packets get the host's address.
fn masquerade(owner: Owner, network: &Network) -> Vec<String> {
    let bridge = quoted(&owner.bridge(&network.name));
    let mut rules = Vec::new();
    if !network.forwards.is_empty() {
        // The guest could not answer the loopback address.
        rules.push(format!("oifname {bridge} ct status dnat ip saddr 127.0.0.0/8 masquerade"));
    }
    if let Some(ip) = &network.ipv4 {
        let subnet = ip.subnet;
        // Without it the answer would go from guest to guest directly, from an address that nobody asked.
        rules.push(format!("oifname {bridge} ct status dnat ip saddr {subnet} ip daddr {subnet} masquerade"));
        if network.kind == NetworkKind::Nat {
            let out = "ip daddr != { 224.0.0.0/4, 255.255.255.255 } masquerade";
            rules.push(format!("oifname != {bridge} ip saddr {subnet} {out}"));
        }
    }
    if let Some(ip) = &network.ipv6 {
        let subnet = ip.subnet;
        rules.push(format!(
            "oifname {bridge} ct status dnat ip6 saddr {subnet} ip6 daddr {subnet} masquerade"
        ));
        if network.kind == NetworkKind::Nat {
            rules.push(format!("oifname != {bridge} ip6 saddr {subnet} ip6 daddr != ff00::/8 masquerade"));
        }
    }
    rules
}

/// What is routed: between our bridges and everything else. Other interfaces' traffic is none of our business.
fn routed() -> Vec<String> {
    lines(&[
        // Seen here only where bridges hand their frames over (bridge-nf-call-iptables).
        "iifname . oifname @within accept",
        "iifname @isolated reject with icmpx type admin-prohibited",
        "oifname @isolated drop",
        "iifname @bridges meta nfproto ipv4 iifname . ip saddr != @sources drop",
        "iifname @bridges meta nfproto ipv6 iifname . ip6 saddr != @sources6 drop",
        "oifname @nat ct state established,related accept",
        "oifname @nat ct status dnat accept",
        "oifname @nat reject with icmpx type admin-prohibited",
    ])
}

/// What guests may ask of the host itself: addresses, names, and whether it is there.
fn received() -> Vec<String> {
    lines(&[
        "iifname != @bridges accept",
        "ct state established,related accept",
        "icmp type echo-request accept",
        "icmpv6 type { echo-request, nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } accept",
        "ip protocol igmp accept",
        "icmpv6 type { mld-listener-report, mld2-listener-report, mld-listener-done } accept",
        "iifname @dhcp udp dport { 67, 547 } accept",
        "iifname @dns udp dport 53 accept",
        "iifname @dns tcp dport 53 accept",
        "pkttype { broadcast, multicast } drop",
        "reject with icmpx type admin-prohibited",
    ])
}
