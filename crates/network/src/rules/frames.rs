//! Frames that guests send: from their own addresses, in their own VLANs, no faster than they may; and frames that they are spared.

use std::net::Ipv6Addr;

use super::{Part, Table, lines, quoted, taps};
use crate::definition::{Mac, Network, Port, Site};
use crate::names::Owner;

pub(super) fn table(owner: Owner, site: &Site) -> Table {
    let mut table = Table::new("bridge");
    sets(&mut table, owner, site);
    limits(&mut table, owner, site);
    table.chain("arp_sent", "", &arp());
    table.chain("ipv4_sent", "", &ipv4());
    table.chain("ipv6_sent", "", &ipv6());
    let first = format!("iifname != \"{}*\" accept", owner.taps());
    let rules: Vec<_> = [first].into_iter().chain(sent()).collect();
    // Before anything else looks at a frame, what iptables' bridge hooks do included.
    table.chain("sent", "type filter hook prerouting priority -350; policy accept;", &rules);
    // After VLANs are told apart.
    table.chain("spared", "type filter hook forward priority -340; policy accept;", &spared(true));
    table.chain("spared_by_host", "type filter hook output priority -340; policy accept;", &spared(false));
    if taps(site).any(|(port, _)| port.has_vlans()) {
        vlans(&mut table, owner, site);
    }
    table
}

fn sets(table: &mut Table, owner: Owner, site: &Site) {
    let tap = |port: &Port| quoted(&owner.tap(&port.id));
    let ports = |wanted: fn(&Port) -> bool| {
        taps(site).map(|(port, _)| port).filter(move |port| wanted(port)).map(tap)
    };
    // A tap that is in none of these sets is one that no rules were made for yet, and sends nothing.
    table.set("ports", "type ifname", ports(|_| true));
    table.set("trunks", "type ifname", ports(|port| !port.trunk.is_empty()));
    table.set("own_mac", "type ifname", ports(|port| port.anti_spoofing.mac));
    let macs = taps(site).map(|(port, _)| format!("{} . {}", tap(port), port.mac));
    table.set("macs", "type ifname . ether_addr", macs);
    table.set("own_ip", "type ifname", ports(|port| port.anti_spoofing.ip && port.trunk.is_empty()));
    // Where the host gives no addresses and nobody told the port's, any will do.
    let kept4 = |(port, network): &(&Port, &Network)| port.address.is_some() || network.is_managed();
    let kept6 = |(port, network): &(&Port, &Network)| port.address6.is_some() || network.is_managed();
    table.set("own_ipv4", "type ifname", taps(site).filter(kept4).map(|(port, _)| tap(port)));
    table.set("own_ipv6", "type ifname", taps(site).filter(kept6).map(|(port, _)| tap(port)));
    let addresses = |(port, _): (&Port, _)| port.address.map(|address| format!("{} . {address}", tap(port)));
    table.set("ipv4", "type ifname . ipv4_addr", taps(site).filter_map(addresses));
    let addresses = |(port, _): (&Port, _)| port.address6.map(|address| format!("{} . {address}", tap(port)));
    table.set("ipv6", "type ifname . ipv6_addr", taps(site).filter_map(addresses));
    // Whose addresses are known for sure: the host gives them, and they can have no others.
    let sure = |(port, network): &(&Port, &Network)| {
        port.anti_spoofing.ip && port.trunk.is_empty() && network.is_managed()
    };
    let known = |family: fn(&Port) -> bool| {
        let ports = taps(site).filter(sure).map(|(port, _)| port);
        ports.filter(move |port| family(port)).map(tap)
    };
    table.set("known_ipv4", "type ifname", known(|port| port.address.is_some()));
    table.set("known_ipv6", "type ifname", known(|port| port.address6.is_some()));
    // What the host has given to anybody, or has itself.
    let own = || site.networks.iter().filter(|network| network.is_managed());
    let given = taps(site).filter_map(|(port, _)| port.address);
    let given = given.chain(own().filter_map(|network| network.ipv4.as_ref().map(|ip| ip.gateway())));
    table.set("given_ipv4", "type ipv4_addr", given);
    let given = taps(site).filter_map(|(port, _)| port.address6);
    let given = given.chain(own().filter_map(|network| network.ipv6.as_ref().map(|ip| ip.gateway())));
    let given = given.map(|address| format!("{:#034x}", u128::from(address)));
    table.set("given_targets", "typeof @th,64,128", given);
    // The same, as bytes of a message.
    let targets = |(port, _): (&Port, _)| {
        port.address6.map(|address| format!("{} . {:#034x}", tap(port), u128::from(address)))
    };
    table.set("targets", "typeof iifname . @th,64,128", taps(site).filter_map(targets));
    // Nobody else makes itself that address: it comes of the card's own.
    let own = || taps(site).filter(|(port, _)| port.anti_spoofing.ip && port.trunk.is_empty());
    let link_local = |port: &Port| format!("{:#034x}", u128::from(link_local_of(port.mac)));
    table.set("given_links", "typeof @th,64,128", own().map(|(port, _)| link_local(port)));
    let links = own().map(|(port, _)| format!("{} . {}", tap(port), link_local(port)));
    table.set("links", "typeof iifname . @th,64,128", links);
}

/// The link-local address that a system makes of its card's address (RFC 4291, 2.5.6 and appendix A).
fn link_local_of(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let half = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, half(a ^ 2, b), half(c, 0xff), half(0xfe, d), half(e, f))
}

/// A limit for each port that has one. Frames above it are dropped, as by a slow line without a queue.
fn limits(table: &mut Table, owner: Owner, site: &Site) {
    let limited = || taps(site).filter_map(|(port, _)| port.send.map(|rate| (owner.tap(&port.id), rate)));
    let mut sorted: Vec<_> = limited().collect();
    sorted.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    for (tap, rate) in sorted {
        let (speed, burst) = (rate.bytes_per_second, rate.burst());
        let limit = format!("\tlimit {tap} {{ rate over {speed} bytes/second burst {burst} bytes }}\n");
        table.parts.push(Part::Text(limit));
    }
    let pairs = limited().map(|(tap, _)| format!("\"{tap}\" : \"{tap}\""));
    table.map("send_limits", "type ifname : limit", pairs);
}

fn sent() -> Vec<String> {
    lines(&[
        "iifname != @ports drop",
        "iifname != @trunks ether type { 8021q, 8021ad } drop",
        "iifname @own_mac iifname . ether saddr != @macs drop",
        "iifname @own_mac ether type arp iifname . arp saddr ether != @macs drop",
        // IEEE 802.1D, table 7-10: spanning tree, pause frames, LLDP and others that end at the next bridge.
        "iifname @own_mac ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 drop",
        "iifname @own_ip ether type arp jump arp_sent",
        "iifname @own_ip ether type ip jump ipv4_sent",
        "iifname @own_ip ether type ip6 jump ipv6_sent",
        // RARP announces a guest that has moved.
        "iifname @own_ip ether type != { arp, ip, ip6, 0x8035 } drop",
        "limit name iifname map @send_limits drop",
    ])
}

fn arp() -> Vec<String> {
    lines(&[
        // A probe before an address is taken (RFC 5227).
        "arp saddr ip 0.0.0.0 return",
        "iifname . arp saddr ip @ipv4 return",
        "iifname @own_ipv4 drop",
    ])
}

fn ipv4() -> Vec<String> {
    lines(&[
        "udp sport 67 drop",
        "ip saddr 0.0.0.0 udp sport 68 udp dport 67 return",
        "iifname . ip saddr @ipv4 return",
        "iifname @own_ipv4 drop",
    ])
}

fn ipv6() -> Vec<String> {
    lines(&[
        "icmpv6 type { nd-router-advert, nd-redirect } drop",
        "udp sport 547 drop",
        // A neighbour advertisement's target (RFC 4861, 4.4) must be one's own, too.
        "iifname @own_ipv6 icmpv6 type nd-neighbor-advert @th,64,10 != 0x3fa iifname . @th,64,128 != @targets drop",
        "ip6 saddr :: return",
        "ip6 saddr fe80::/10 return",
        "iifname . ip6 saddr @ipv6 return",
        "iifname @own_ipv6 drop",
    ])
}

/// What is sent to all but concerns one, or none of the guests. A thousand guests that each ask for a neighbour would wake a million times, each to
/// find that somebody else is meant; where the host knows who has an address, only that one is asked. An address that the host has not given may be
/// anybody's, and whoever tells of its own (a gratuitous request) tells all.
fn spared(by_guests: bool) -> Vec<String> {
    let gratuitous = by_guests.then(|| "ether type arp iifname . arp daddr ip @ipv4 accept".to_owned());
    let rules = lines(&[
        "oifname @known_ipv4 arp operation request arp daddr ip @given_ipv4 oifname . arp daddr ip != @ipv4 drop",
        // Guests give no addresses, and are no routers (RFC 4861, 4.1; RFC 3810, 5.2): what they would say as such is dropped.
        "oifname @own_ip ether type ip udp dport 67 drop",
        "oifname @own_ip ether type ip6 udp dport 547 drop",
        "oifname @own_ip icmpv6 type { nd-router-solicit, mld-listener-report, mld2-listener-report } drop",
        "oifname @known_ipv6 icmpv6 type nd-neighbor-solicit @th,64,128 @given_targets oifname . @th,64,128 != @targets drop",
        // With that every system asks whether it is alone with its address, when it makes it (RFC 4862, 5.4).
        "oifname @own_ip icmpv6 type nd-neighbor-solicit @th,64,128 @given_links oifname . @th,64,128 != @links drop",
    ]);
    gratuitous.into_iter().chain(rules).collect()
}

/// Ports that are not of one VLAN are apart, and ports of VLANs from the host. Where the kernel's bridges know VLANs they see
/// to the former as well; where they do not, these rules are what keeps ports apart.
fn vlans(table: &mut Table, owner: Owner, site: &Site) {
    let tap = |port: &Port| quoted(&owner.tap(&port.id));
    let access = || taps(site).map(|(port, _)| port).filter(|port| port.trunk.is_empty());
    let vlan = |port: &Port| port.vlan.unwrap_or(0);
    table.set("access", "type ifname", access().map(tap));
    let apart = taps(site).map(|(port, _)| port).filter(|port| port.has_vlans()).map(tap);
    table.set("apart", "type ifname", apart);
    let pairs = access().map(|port| format!("{} : {}", tap(port), vlan(port)));
    table.map("vlan_of", "type ifname : mark", pairs);
    let members = access().map(|port| format!("{} . {}", tap(port), vlan(port)));
    table.set("members", "type ifname . mark", members);
    let rules = lines(&[
        "iifname != @access accept",
        "oifname != @access accept",
        "meta mark set iifname map @vlan_of",
        "oifname . meta mark != @members drop",
    ]);
    table.chain("between", "type filter hook forward priority -350; policy accept;", &rules);
    table.chain(
        "to_host",
        "type filter hook input priority -350; policy accept;",
        &lines(&["iifname @apart drop"]),
    );
    table.chain(
        "from_host",
        "type filter hook output priority -350; policy accept;",
        &lines(&["oifname @apart drop"]),
    );
}
