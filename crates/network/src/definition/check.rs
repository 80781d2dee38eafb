//! What definitions must keep to, and what to tell a person where they do not.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

use super::choose::{overlap4, overlap6};
use super::{Fault, Forward, Ipv4, Ipv6, Network, NetworkKind, Port, Rate, Site};

/// The longest hostname (RFC 1035, 2.3.4).
const LABEL: usize = 63;
/// Less each second carries no system's traffic.
const LEAST_BANDWIDTH: u64 = 4096;

impl Site {
    /// Everything that is wrong, pointers from the site.
    pub fn check(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (number, network) in self.networks.iter().enumerate() {
            let outer = format!("/networks/{number}");
            let found = network.check(&self.networks[..number]);
            faults.extend(found.into_iter().map(|fault| fault.within(&outer)));
        }
        let mut by_network: HashMap<&str, Vec<&Port>> = HashMap::new();
        let mut ids = HashMap::new();
        for (number, port) in self.ports.iter().enumerate() {
            let outer = format!("/ports/{number}");
            let before = by_network.entry(&port.network).or_default();
            let mut found = match self.networks.iter().find(|network| network.name == port.network) {
                Some(network) => port.check(network, before),
                None => vec![no_such_network(port, &self.networks)],
            };
            if let Some(earlier) = ids.insert(&port.id, number) {
                let detail = format!("is the id of port {earlier} too");
                found.push(Fault::new("/id", &port.id, detail, "give each port its own id"));
            }
            before.push(port);
            faults.extend(found.into_iter().map(|fault| fault.within(&outer)));
        }
        faults
    }
}

fn no_such_network(port: &Port, networks: &[Network]) -> Fault {
    let names: Vec<_> = networks.iter().map(|network| network.name.as_str()).collect();
    let expected = match names.as_slice() {
        [] => "define a network first".into(),
        names => format!("there are {}", names.join(", ")),
    };
    Fault::new("/network", &port.network, "is no network", expected)
}

impl Network {
    /// What is wrong with it beside the other networks of its host, pointers from the network.
    pub fn check(&self, others: &[Self]) -> Vec<Fault> {
        let mut faults = Vec::new();
        self.check_name(others, &mut faults);
        self.check_kind(&mut faults);
        if let Some(ipv4) = &self.ipv4 {
            check_ipv4(ipv4, &mut faults);
        }
        if let Some(ipv6) = &self.ipv6 {
            check_ipv6(ipv6, &mut faults);
        }
        self.check_overlap(others, &mut faults);
        if let Some(domain) = self.dns.domain.as_ref().filter(|domain| !is_domain(domain)) {
            let expected = "write labels of letters, digits and - with dots between, as lan.internal";
            faults.push(Fault::new("/dns/domain", domain, "is no domain", expected));
        }
        let least = if self.ipv6.is_some() { 1280 } else { 576 };
        if let Some(mtu) = self.mtu.filter(|mtu| *mtu < least) {
            let detail = format!("is less than {least}, which every host must take");
            faults.push(Fault::new("/mtu", mtu, detail, format!("choose {least} to 65535")));
        }
        if let Some(bandwidth) = self.bandwidth.filter(|it| !(LEAST_BANDWIDTH..=i64::MAX as u64).contains(it))
        {
            let detail = "is no number of bytes each second that a network carries";
            let expected = "give 4096 or more, or leave it out if it is not to be divided";
            faults.push(Fault::new("/bandwidth", bandwidth, detail, expected));
        }
        for (number, forward) in self.forwards.iter().enumerate() {
            let found = self.check_forward(forward, &self.forwards[..number], others);
            let outer = format!("/forwards/{number}");
            faults.extend(found.into_iter().map(|fault| fault.within(&outer)));
        }
        faults
    }

    fn check_name(&self, others: &[Self], faults: &mut Vec<Fault>) {
        let bytes = self.name.as_bytes();
        let good = (1..=40).contains(&bytes.len())
            && bytes[0].is_ascii_lowercase()
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
            && bytes[bytes.len() - 1] != b'-';
        if !good {
            let expected = "begin with a lower-case letter, go on with such, digits and -, at most 40 in all";
            faults.push(Fault::new("/name", &self.name, "is no network's name", expected));
        }
        if others.iter().any(|other| other.name == self.name) {
            faults.push(Fault::new("/name", &self.name, "is another network's name", "choose another"));
        }
    }

    fn check_kind(&self, faults: &mut Vec<Fault>) {
        let kind = match self.kind {
            NetworkKind::Nat => "a nat network",
            NetworkKind::Routed => "a routed network",
            NetworkKind::Isolated => "an isolated network",
            NetworkKind::Bridged => "a bridged network",
            NetworkKind::User => "a user-mode network",
        };
        let mut fault = |pointer: &str, value: String, detail: String, expected: &str| {
            faults.push(Fault::new(pointer, value, detail, expected));
        };
        match (&self.interface, self.kind == NetworkKind::Bridged) {
            (None, true) => fault(
                "/interface",
                "nothing".into(),
                format!("{kind} needs one"),
                "name a network card or bridge of the host, such as eth1",
            ),
            (Some(name), true) if !is_interface(name) => fault(
                "/interface",
                name.clone(),
                "is no interface's name".into(),
                "see `ip link` for those there are",
            ),
            (Some(name), false) => fault(
                "/interface",
                name.clone(),
                format!("{kind} is connected to none"),
                "leave it out, or choose kind bridged",
            ),
            _ => {}
        }
        let needs = matches!(self.kind, NetworkKind::Nat | NetworkKind::Routed);
        if needs && self.ipv4.is_none() && self.ipv6.is_none() {
            let expected = "give its subnet, such as 10.10.0.0/24";
            fault("/ipv4", "nothing".into(), format!("{kind} needs addresses"), expected);
        }
        if !self.is_managed() {
            let given = [("/ipv4", self.ipv4.is_some()), ("/ipv6", self.ipv6.is_some())];
            for (pointer, _) in given.into_iter().filter(|(_, given)| *given) {
                let detail = format!("{kind} has no addresses of the host's making");
                fault(pointer, "a subnet".into(), detail, "leave it out");
            }
        }
        if matches!(self.kind, NetworkKind::Isolated | NetworkKind::Bridged) && !self.forwards.is_empty() {
            let detail = format!("{kind} has no forwards");
            fault("/forwards", format!("{} forwards", self.forwards.len()), detail, "leave them out");
        }
    }

    fn check_overlap(&self, others: &[Self], faults: &mut Vec<Fault>) {
        for other in others {
            if let (Some(one), Some(two)) = (&self.ipv4, &other.ipv4)
                && overlap4(&one.subnet, &two.subnet)
            {
                faults.push(overlap("/ipv4/subnet", &one.subnet.into(), &two.subnet.into(), other));
            }
            if let (Some(one), Some(two)) = (&self.ipv6, &other.ipv6)
                && overlap6(&one.subnet, &two.subnet)
            {
                faults.push(overlap("/ipv6/subnet", &one.subnet.into(), &two.subnet.into(), other));
            }
        }
    }

    fn check_forward(&self, forward: &Forward, before: &[Forward], others: &[Self]) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (pointer, port) in [("/host_port", forward.host_port), ("/guest_port", forward.guest_port)] {
            if port == 0 {
                faults.push(Fault::new(pointer, port, "is no port", "choose 1 to 65535"));
            }
        }
        match forward.guest_address {
            _ if self.kind == NetworkKind::User => {}
            None => faults.push(Fault::new(
                "/guest_address",
                "nothing",
                "is not told, and the network may have many guests",
                "give the guest's address",
            )),
            Some(address) if address.is_ipv4() != forward.host_address.is_ipv4() => faults.push(Fault::new(
                "/guest_address",
                address,
                format!("is not of the same family as {}", forward.host_address),
                "give both as IPv4 or both as IPv6",
            )),
            Some(address) => faults.extend(self.check_inside("/guest_address", address)),
        }
        let same = |other: &&Forward| {
            other.protocol == forward.protocol
                && other.host_port == forward.host_port
                && (other.host_address == forward.host_address
                    || other.host_address.is_unspecified()
                    || forward.host_address.is_unspecified())
        };
        let elsewhere = others.iter().flat_map(|other| &other.forwards);
        if before.iter().chain(elsewhere).find(same).is_some() {
            let expected = "choose a port of the host that is free";
            faults.push(Fault::new("/host_port", forward.host_port, "leads elsewhere already", expected));
        }
        faults
    }

    /// Whether an address can be a guest's.
    fn check_inside(&self, pointer: &str, address: IpAddr) -> Option<Fault> {
        let (subnet, gateway): (IpNet, IpAddr) = match address {
            IpAddr::V4(_) => self.ipv4.as_ref().map(|ip| (ip.subnet.into(), ip.gateway().into()))?,
            IpAddr::V6(_) => self.ipv6.as_ref().map(|ip| (ip.subnet.into(), ip.gateway().into()))?,
        };
        let expected = format!("choose one of {} but {gateway}", subnet.trunc());
        if !subnet.contains(&address) {
            return Some(Fault::new(pointer, address, format!("is outside {subnet}"), expected));
        }
        if address == gateway {
            return Some(Fault::new(pointer, address, "is the host's own", expected));
        }
        let edge = address == subnet.network() || address.is_ipv4() && address == subnet.broadcast();
        edge.then(|| Fault::new(pointer, address, format!("is no station's address in {subnet}"), expected))
    }
}

fn overlap(pointer: &str, one: &IpNet, two: &IpNet, other: &Network) -> Fault {
    let detail = format!("overlaps {two} of network {}", other.name);
    Fault::new(pointer, one, detail, "choose a subnet that no other network has")
}

fn check_ipv4(ipv4: &Ipv4, faults: &mut Vec<Fault>) {
    let subnet = ipv4.subnet;
    let special = ["0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3"];
    let special = special.iter().filter_map(|text| text.parse::<Ipv4Net>().ok());
    if subnet != subnet.trunc() {
        let expected = format!("write {}", subnet.trunc());
        faults.push(Fault::new("/ipv4/subnet", subnet, "is an address in a subnet", expected));
    }
    if !(8..=30).contains(&subnet.prefix_len()) {
        let expected = "choose a length of 8 to 30, such as 10.10.0.0/24";
        faults.push(Fault::new("/ipv4/subnet", subnet, "is too small or too large", expected));
    }
    if special.into_iter().any(|special| overlap4(&subnet, &special)) {
        let expected = "choose private addresses, such as 10.10.0.0/24";
        faults.push(Fault::new("/ipv4/subnet", subnet, "holds addresses no guest can have", expected));
    }
    let usable = |address: &Ipv4Addr| {
        subnet.contains(address) && *address != subnet.network() && *address != subnet.broadcast()
    };
    let expected = format!("choose one of {}", subnet.trunc());
    if let Some(gateway) = ipv4.gateway.filter(|address| !usable(address)) {
        faults.push(Fault::new("/ipv4/gateway", gateway, "is no address of the subnet", &expected));
    }
    let Some(range) = ipv4.range else { return };
    for (pointer, address) in [("/ipv4/range/first", range.first), ("/ipv4/range/last", range.last)] {
        if !usable(&address) {
            faults.push(Fault::new(pointer, address, "is no address of the subnet", &expected));
        }
    }
    if range.first > range.last {
        let detail = format!("comes after {}", range.last);
        faults.push(Fault::new("/ipv4/range/first", range.first, detail, "put the lower address first"));
    }
}

fn check_ipv6(ipv6: &Ipv6, faults: &mut Vec<Fault>) {
    let subnet = ipv6.subnet;
    if subnet != subnet.trunc() {
        let expected = format!("write {}", subnet.trunc());
        faults.push(Fault::new("/ipv6/subnet", subnet, "is an address in a subnet", expected));
    }
    if subnet.prefix_len() != 64 {
        let expected = "choose a length of 64, such as fd00:10::/64";
        faults.push(Fault::new("/ipv6/subnet", subnet, "has not 64 bits", expected));
    }
    let first = subnet.network();
    if first.is_multicast() || first.is_loopback() || first.is_unicast_link_local() || first.is_unspecified()
    {
        let expected = "choose addresses of fd00::/8 or your own, such as fd00:10::/64";
        faults.push(Fault::new("/ipv6/subnet", subnet, "holds addresses no guest can have", expected));
    }
    let usable = |address: &Ipv6Addr| subnet.contains(address) && *address != subnet.network();
    if let Some(gateway) = ipv6.gateway.filter(|address| !usable(address)) {
        let expected = format!("choose one of {}", subnet.trunc());
        faults.push(Fault::new("/ipv6/gateway", gateway, "is no address of the subnet", expected));
    }
}

impl Port {
    /// What is wrong with it on its network and beside that network's other ports, pointers from the port.
    pub fn check(&self, network: &Network, others: &[&Self]) -> Vec<Fault> {
        let mut faults = Vec::new();
        let known = |b: u8| b.is_ascii_alphanumeric() || b"-_./:".contains(&b);
        if self.id.is_empty() || self.id.len() > 100 || !self.id.bytes().all(known) {
            let expected = "use 1 to 100 letters, digits, -, _, ., / and :";
            faults.push(Fault::new("/id", &self.id, "is no port's id", expected));
        }
        if let Some(name) = self.hostname.as_ref().filter(|name| !is_label(name)) {
            let expected = "use letters, digits and -, at most 63, with no - at its ends";
            faults.push(Fault::new("/hostname", name, "is no host's name", expected));
        }
        if !self.mac.is_station() {
            let expected = "choose one whose first byte is even, such as 52:54:00:12:34:56";
            faults.push(Fault::new("/mac", self.mac, "is no single card's address", expected));
        }
        self.check_unique(others, &mut faults);
        self.check_vlans(network, &mut faults);
        self.check_addresses(network, &mut faults);
        for (pointer, rate) in [("/receive", self.receive), ("/send", self.send)] {
            if let Some(rate) = rate {
                check_rate(pointer, rate, &mut faults);
            }
        }
        faults
    }

    fn check_unique(&self, others: &[&Self], faults: &mut Vec<Fault>) {
        for other in others {
            let mut same = |pointer: &str, value: String| {
                let detail = format!("is that of port {} too", other.id);
                faults.push(Fault::new(pointer, value, detail, "choose another"));
            };
            if other.mac == self.mac {
                same("/mac", self.mac.to_string());
            }
            if self.address.is_some() && other.address == self.address {
                same("/address", self.address.map(|a| a.to_string()).unwrap_or_default());
            }
            if self.address6.is_some() && other.address6 == self.address6 {
                same("/address6", self.address6.map(|a| a.to_string()).unwrap_or_default());
            }
            if let (Some(one), Some(two)) = (&self.hostname, &other.hostname)
                && one.eq_ignore_ascii_case(two)
            {
                same("/hostname", one.clone());
            }
        }
    }

    fn check_vlans(&self, network: &Network, faults: &mut Vec<Fault>) {
        let one = self.vlan.iter().map(|vlan| ("/vlan".to_owned(), *vlan));
        let many = self.trunk.iter().enumerate().map(|(number, vlan)| (format!("/trunk/{number}"), *vlan));
        for (pointer, vlan) in one.chain(many) {
            if !(1..=4094).contains(&vlan) {
                faults.push(Fault::new(pointer, vlan, "is no VLAN", "choose 1 to 4094"));
            }
        }
        if let (Some(vlan), false) = (self.vlan, self.trunk.is_empty()) {
            let expected = "choose one VLAN whose frames come untagged, or a trunk";
            faults.push(Fault::new("/vlan", vlan, "is told beside a trunk", expected));
        }
        if self.has_vlans() && !network.has_taps() {
            let pointer = if self.vlan.is_some() { "/vlan" } else { "/trunk" };
            let value = self.vlan.map_or_else(|| format!("{:?}", self.trunk), |vlan| vlan.to_string());
            faults.push(Fault::new(pointer, value, "a user-mode network has no VLANs", "leave it out"));
        }
    }

    fn check_addresses(&self, network: &Network, faults: &mut Vec<Fault>) {
        let apart = self.has_vlans();
        let needs = |subnet: bool, address: bool| self.anti_spoofing.ip && !apart && subnet && !address;
        let missing = |pointer: &str| {
            let detail = "is not told, and so cannot be kept to";
            let expected = "choose one, or turn anti_spoofing.ip off";
            Fault::new(pointer, "nothing", detail, expected)
        };
        if needs(network.ipv4.is_some(), self.address.is_some()) {
            faults.push(missing("/address"));
        }
        if needs(network.ipv6.is_some(), self.address6.is_some()) {
            faults.push(missing("/address6"));
        }
        let given = [
            ("/address", self.address.map(IpAddr::V4), network.ipv4.is_some()),
            ("/address6", self.address6.map(IpAddr::V6), network.ipv6.is_some()),
        ];
        for (pointer, address, has_family) in given {
            let Some(address) = address else { continue };
            if network.is_managed() && !has_family || network.kind == NetworkKind::User {
                let detail = format!("network {} has no such addresses", network.name);
                faults.push(Fault::new(pointer, address, detail, "leave it out"));
            } else if !apart {
                faults.extend(network.check_inside(pointer, address));
            }
        }
    }
}

fn check_rate(pointer: &str, rate: Rate, faults: &mut Vec<Fault>) {
    if rate.bytes_per_second < 8000 {
        let at = format!("{pointer}/bytes_per_second");
        faults.push(Fault::new(at, rate.bytes_per_second, "is too slow to work", "choose 8000 or more"));
    }
    if let Some(burst) = rate.burst.filter(|burst| *burst < Rate::LEAST_BURST) {
        let expected = format!("choose {} (128 KiB) or more", Rate::LEAST_BURST);
        let detail = "is less than a card hands over at once";
        faults.push(Fault::new(format!("{pointer}/burst"), burst, detail, expected));
    }
}

/// A label of a name (RFC 1123, 2.1).
fn is_label(text: &str) -> bool {
    (1..=LABEL).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_domain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// As the kernel's `dev_valid_name`, and less: nothing that means something in a rule or a path.
fn is_interface(text: &str) -> bool {
    (1..16).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && !text.starts_with(['.', '-'])
}
