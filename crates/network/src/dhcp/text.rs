//! The files that dnsmasq reads. Everything in them was checked before: names are labels, the rest are addresses.

use std::fmt::Write;

use super::Files;
use crate::definition::{Network, NetworkKind, Port, Site};
use crate::names::Owner;

/// How long a guest keeps its address without asking again.
const LEASE: &str = "12h";

/// The configuration of a network's server.
pub(super) fn configuration(owner: Owner, network: &Network, files: &Files) -> String {
    let mut text = format!("# The DHCP and DNS of network {}, made by tessera.\n", network.name);
    let mut line = |line: String| {
        let _ = writeln!(text, "{line}");
    };
    line(format!("interface={}", owner.bridge(&network.name)));
    for fixed in ["except-interface=lo", "bind-dynamic", "no-hosts", "domain-needed", "bogus-priv"] {
        line(fixed.into());
    }
    line(format!("pid-file={}", files.pid().display()));
    line(format!("log-facility={}", files.log().display()));
    let domain = network.domain();
    if network.dns.enabled {
        line(format!("addn-hosts={}", files.names().display()));
        // The network's own names are nobody else's business.
        line(format!("local=/{domain}/"));
        if network.kind == NetworkKind::Isolated {
            line("no-resolv".into());
        }
    } else {
        line("port=0".into());
    }
    line(format!("domain={domain}"));
    dhcp(network, files, &mut line);
    text
}

fn dhcp(network: &Network, files: &Files, line: &mut impl FnMut(String)) {
    let ipv4 = network.ipv4.as_ref().filter(|ip| ip.dhcp);
    let ipv6 = network.ipv6.as_ref().filter(|ip| ip.dhcp);
    if ipv4.is_none() && ipv6.is_none() {
        return;
    }
    line(format!("dhcp-hostsfile={}", files.addresses().display()));
    line(format!("dhcp-leasefile={}", files.leases().display()));
    for fixed in ["dhcp-authoritative", "dhcp-no-override", "quiet-dhcp", "quiet-dhcp6", "quiet-ra"] {
        line(fixed.into());
    }
    if let Some(ip) = ipv4 {
        // Only ports that are defined get an address, which is theirs alone.
        line(format!("dhcp-range={},static,{},{LEASE}", ip.subnet.network(), ip.subnet.netmask()));
        if network.kind == NetworkKind::Isolated {
            line("dhcp-option=option:router".into());
        } else {
            line(format!("dhcp-option=option:router,{}", ip.gateway()));
        }
        if let Some(mtu) = network.mtu {
            line(format!("dhcp-option=option:mtu,{mtu}"));
        }
    }
    if let Some(ip) = ipv6 {
        line(format!("dhcp-range={},static,64,{LEASE}", ip.subnet.network()));
        line("enable-ra".into());
        let lifetime = if network.kind == NetworkKind::Isolated { 0 } else { 1800 };
        let mtu = network.mtu.map_or_else(String::new, |mtu| format!("mtu:{mtu},"));
        line(format!("ra-param=*,{mtu}60,{lifetime}"));
    }
}

/// The ports that the server knows. Those in VLANs do not see it.
fn served<'a>(site: &'a Site, network: &Network) -> Vec<&'a Port> {
    let on = |port: &&Port| port.network == network.name && !port.has_vlans();
    let mut ports: Vec<_> = site.ports.iter().filter(on).collect();
    ports.sort_by_key(|port| port.mac);
    ports
}

/// Which card gets which address (`dhcp-hostsfile`).
pub(super) fn addresses(site: &Site, network: &Network) -> String {
    let mut text = String::new();
    for port in served(site, network) {
        let mut fields = vec![port.mac.to_string()];
        fields.extend(port.address.map(|address| address.to_string()));
        fields.extend(port.address6.map(|address| format!("[{address}]")));
        if fields.len() > 1 {
            fields.extend(port.hostname.clone());
            let _ = writeln!(text, "{}", fields.join(","));
        }
    }
    text
}

/// Which name has which addresses (`addn-hosts`), whether the guest has asked for them yet or not.
pub(super) fn names(site: &Site, network: &Network) -> String {
    let mut text = String::new();
    let domain = network.domain();
    for port in served(site, network) {
        let Some(name) = &port.hostname else { continue };
        for address in
            port.address.map(|a| a.to_string()).into_iter().chain(port.address6.map(|a| a.to_string()))
        {
            let _ = writeln!(text, "{address} {name}.{domain} {name}");
        }
    }
    text
}
