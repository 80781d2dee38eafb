use std::process::Command;

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::*;
use crate::definition::read;

fn site(networks: Value, ports: Value) -> Site {
    read(&json!({ "networks": networks, "ports": ports })).unwrap()
}

fn script(owner: Owner, site: &Site) -> String {
    Rules::of(owner, site).script()
}

fn owner() -> Owner {
    "ab1z".parse().unwrap()
}

#[test]
fn the_order_of_definitions_makes_no_difference() {
    let networks = json!([{ "name": "lan", "kind": "nat", "ipv4": { "subnet": "10.1.0.0/24" } },
                          { "name": "cell", "kind": "isolated" }]);
    let port = |last: u8| {
        json!({ "id": format!("p{last}"), "network": "lan", "mac": format!("52:54:00:00:00:{last:02x}"),
                "address": format!("10.1.0.{last}"), "send": { "bytes_per_second": 1_000_000 } })
    };
    let one = site(networks.clone(), json!([port(5), port(6)]));
    let mut two = one.clone();
    two.ports.reverse();
    assert_eq!(script(owner(), &one), script(owner(), &two));
    let mut three = one.clone();
    three.ports[0].send = None;
    assert_ne!(script(owner(), &one), script(owner(), &three));
}

#[test]
fn the_number_of_rules_does_not_grow_with_that_of_guests() {
    let rules = |guests: u8| {
        let ports: Vec<_> = (0..guests)
            .map(|last| json!({ "id": format!("p{last}"), "network": "lan", "mac": format!("52:54:00:00:00:{last:02x}") }))
            .collect();
        let site = site(json!([{ "name": "lan", "kind": "isolated" }]), json!(ports));
        script(owner(), &site).lines().count()
    };
    assert_eq!(rules(1), rules(200));
}

#[test]
fn a_user_mode_network_needs_no_rules() {
    let empty = script(owner(), &Site::default());
    let user = site(
        json!([{ "name": "mine", "kind": "user",
                 "forwards": [{ "protocol": "tcp", "host_port": 2222, "guest_port": 22 }] }]),
        json!([{ "id": "a", "network": "mine", "mac": "52:54:00:00:00:01" }]),
    );
    assert_eq!(user.check(), []);
    assert_eq!(script(owner(), &user), empty);
}

#[test]
fn what_differs_in_more_than_elements_is_set_anew() {
    let lan = json!({ "name": "lan", "kind": "nat", "ipv4": { "subnet": "10.1.0.0/24" } });
    let port = |more: Value| {
        let mut port =
            json!({ "id": "a", "network": "lan", "mac": "52:54:00:00:00:01", "address": "10.1.0.5" });
        port.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!([port])
    };
    let rules = |networks: Value, ports: Value| Rules::of(owner(), &site(networks, ports));
    let before = rules(json!([lan]), port(json!({})));
    assert_eq!(before.script_after(&before).as_deref(), Some(""));
    let other = json!({ "name": "road", "kind": "routed", "ipv4": { "subnet": "10.2.0.0/24" } });
    for after in [
        rules(json!([lan, other]), port(json!({}))),
        rules(json!([lan]), port(json!({ "vlan": 7 }))),
        rules(json!([lan]), port(json!({ "send": { "bytes_per_second": 1_000_000 } }))),
        Rules::of("ab1y".parse().unwrap(), &site(json!([lan]), port(json!({})))),
    ] {
        assert_eq!(after.script_after(&before), None);
        assert_eq!(before.script_after(&after), None);
    }
}

/// What nft lists after these scripts; none if this user may make no network namespace.
fn listed(scripts: &[&str]) -> Option<String> {
    let each = "for script; do printf %s \"$script\" | nft -f - || exit; done; nft list ruleset";
    let run = |words: &[&str]| Command::new("unshare").args(words).output().unwrap();
    if !run(&["--net", "nft", "list", "ruleset"]).status.success() {
        return None;
    }
    let told = run(&[&["--net", "sh", "-c", each, "sh"][..], scripts].concat());
    assert!(told.status.success(), "{}: {scripts:#?}", String::from_utf8_lossy(&told.stderr));
    Some(String::from_utf8(told.stdout).unwrap())
}

/// Networks between which rules differ in elements only: these three, of which one need not be there.
fn networks() -> impl Strategy<Value = Vec<Value>> {
    any::<(bool, bool, bool)>().prop_map(|(dhcp, dns, cell)| {
        let lan = json!({ "name": "lan", "kind": "nat", "ipv4": { "subnet": "10.1.0.0/24", "dhcp": dhcp },
                          "ipv6": { "subnet": "fd01::/64", "dhcp": false }, "dns": { "enabled": dns } });
        let line = json!({ "name": "line", "kind": "bridged", "interface": "eth0" });
        let cell = cell.then(|| json!({ "name": "cell", "kind": "isolated" }));
        [lan, line].into_iter().chain(cell).collect()
    })
}

/// A port whose name is one of a few, in VLANs or not.
fn any_port(vlans: bool) -> impl Strategy<Value = Value> {
    let vlans = select(if vlans { vec![0u16, 7, 8, 9] } else { vec![0] });
    let network = select(vec!["lan", "line", "cell"]);
    (0..6u8, network, vlans, 1..9u8, any::<(bool, bool, bool, bool)>()).prop_map(
        |(name, network, vlan, last, (mac, ip, address, address6))| {
            let mut port = json!({ "id": format!("p{name}"), "network": network,
                                   "mac": format!("52:54:00:00:00:{last:02x}"),
                                   "anti_spoofing": { "mac": mac, "ip": ip } });
            if address {
                port["address"] = format!("10.1.0.{last}").into();
            }
            if address6 {
                port["address6"] = format!("fd01::{last}").into();
            }
            match vlan {
                0 => {}
                9 => port["trunk"] = json!([7, 9]),
                id => port["vlan"] = id.into(),
            }
            port
        },
    )
}

fn any_site(vlans: bool) -> impl Strategy<Value = Site> {
    let ports = prop::collection::vec(any_port(vlans), 0..6);
    (networks(), ports).prop_map(move |(networks, mut ports)| {
        // Whether there are VLANs makes other chains, and a limit is no element.
        let mut first = json!({ "id": "first", "network": "lan", "mac": "52:54:00:00:01:00", "send": { "bytes_per_second": 8000 } });
        if vlans {
            first["vlan"] = 7.into();
        }
        ports.push(first);
        ports.sort_by_key(|port| port["id"].to_string());
        ports.dedup_by_key(|port| port["id"].to_string());
        site(json!(networks), json!(ports))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn changed_elements_make_the_same_tables_as_all_set_anew(
        (before, after) in any::<bool>().prop_flat_map(|vlans| (any_site(vlans), any_site(vlans)))
    ) {
        let (before, after) = (Rules::of(owner(), &before), Rules::of(owner(), &after));
        let changes = after.script_after(&before).expect("they differ in elements only");
        if let Some(all) = listed(&[&after.script()]) {
            prop_assert_eq!(listed(&[&before.script(), &changes]).unwrap(), all);
        }
    }
}
