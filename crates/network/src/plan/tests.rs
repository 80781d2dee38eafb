use serde_json::{Value, json};

use super::*;
use crate::definition::read;

fn owner() -> Owner {
    "ab1z".parse().unwrap()
}

fn site(networks: Value, ports: Value) -> Site {
    read(&json!({ "networks": networks, "ports": ports })).unwrap()
}

fn observed(links: Vec<Link>) -> Observed {
    Observed::of(links)
}

fn link(index: u32, name: &str) -> Link {
    Link { index, name: name.into(), mtu: 1500, up: true, ..Link::default() }
}

const KNOWS_VLANS: LinkKind = LinkKind::Bridge { can_filter: true, filters: true };
const KNOWS_NONE: LinkKind = LinkKind::Bridge { can_filter: false, filters: false };

fn told(plan: &Plan) -> Vec<String> {
    plan.changes.iter().map(ToString::to_string).collect()
}

/// A bridged network, of which the bridge and the tap are there; what is planned.
fn bridged(bridge: LinkKind, port: Value) -> Plan {
    let (name, tap) = (owner().bridge("street"), owner().tap("a"));
    let alias = |text: &str| Some(format!("tessera ab1z {text}"));
    let mut port = port;
    port.as_object_mut().unwrap().extend(
        json!({ "id": "a", "network": "street", "mac": "52:54:00:00:00:01" }).as_object().unwrap().clone(),
    );
    let site = site(json!([{ "name": "street", "kind": "bridged", "interface": "eth1" }]), json!([port]));
    let first = BTreeSet::from([Vlan::FIRST]);
    let links = vec![
        Link { bridge: Some(3), vlans: first.clone(), ..link(2, "eth1") },
        Link { kind: bridge, alias: alias("network street"), ..link(3, &name) },
        Link { kind: LinkKind::Tun, bridge: Some(3), vlans: first, alias: alias("port a"), ..link(4, &tap) },
    ];
    plan(owner(), &site, &observed(links), None)
}

#[test]
fn a_port_in_no_vlan_needs_nothing() {
    assert_eq!(told(&bridged(KNOWS_VLANS, json!({}))), [""; 0]);
    assert_eq!(told(&bridged(KNOWS_NONE, json!({}))), [""; 0]);
}

#[test]
fn a_port_in_a_vlan_brings_it_to_the_interface_tagged() {
    let plan = bridged(KNOWS_VLANS, json!({ "vlan": 7 }));
    let told = told(&plan);
    assert!(told[0].starts_with("VLANs of eth1: add 7 tagged, remove none"), "{told:?}");
    assert!(told[1].ends_with("add 7, remove 1"), "{told:?}");
    let trunk = bridged(KNOWS_VLANS, json!({ "trunk": [7, 8] }));
    assert!(self::told(&trunk)[1].ends_with("add 7 tagged, 8 tagged, remove 1"), "{trunk:?}");
}

#[test]
fn a_kernel_without_vlans_says_so_and_connects_nobody() {
    let plan = bridged(KNOWS_NONE, json!({ "vlan": 7 }));
    assert!(plan.problems[0].detail.contains("CONFIG_BRIDGE_VLAN_FILTERING"), "{:?}", plan.problems);
    assert!(told(&plan)[0].starts_with("take "), "{:?}", told(&plan));
}

#[test]
fn a_bridge_of_the_hosts_own_is_used_as_it_is() {
    let site = site(
        json!([{ "name": "street", "kind": "bridged", "interface": "br0" }]),
        json!([{ "id": "a", "network": "street", "mac": "52:54:00:00:00:01" }]),
    );
    let address = BTreeSet::from(["192.0.2.1/24".parse().unwrap()]);
    let links = vec![
        Link { kind: KNOWS_NONE, addresses: address, ..link(2, "br0") },
        Link { kind: LinkKind::Tun, up: false, ..link(4, &owner().tap("a")) },
    ];
    let plan = plan(owner(), &site, &observed(links), None);
    let told = told(&plan);
    assert_eq!(plan.problems, []);
    assert!(told.iter().any(|text| text.ends_with("into br0")), "{told:?}");
    assert!(!told.iter().any(|text| text.contains("br0") && !text.starts_with("put ")), "{told:?}");
}

#[test]
fn routing_is_switched_on_only_where_it_is_needed_and_kept_from_harming_the_host() {
    let networks = json!([{ "name": "lan", "kind": "nat", "ipv4": { "subnet": "10.1.0.0/24" },
                            "ipv6": { "subnet": "fd01::/64" } }]);
    let lan = site(networks, json!([]));
    let bridge = Link { kind: KNOWS_NONE, ..link(3, &owner().bridge("lan")) };
    let mut seen = observed(vec![link(2, "eth0"), bridge]);
    for (path, value) in
        [("ipv4/ip_forward", "0"), ("ipv6/conf/all/forwarding", "0"), ("ipv6/conf/eth0/accept_ra", "1")]
    {
        seen.settings.insert(path.into(), value.into());
    }
    let told = told(&plan(owner(), &lan, &seen, None));
    let wanted = [
        "set net/ipv4/ip_forward to 1, from 0",
        "set net/ipv6/conf/eth0/accept_ra to 2, from 1",
        "set net/ipv6/conf/all/forwarding to 1, from 0",
    ];
    let settings: Vec<_> = told.iter().filter(|text| text.contains("net/")).collect();
    assert_eq!(settings, wanted.iter().collect::<Vec<_>>());

    let isolated =
        site(json!([{ "name": "lan", "kind": "isolated", "ipv4": { "subnet": "10.1.0.0/24" } }]), json!([]));
    assert!(!self::told(&plan(owner(), &isolated, &seen, None)).iter().any(|text| text.contains("net/")));
}
