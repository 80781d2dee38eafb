use serde_json::{Value, json};

use super::*;
use crate::definition::read;

fn site(networks: Value, ports: Value) -> Site {
    read(&json!({ "networks": networks, "ports": ports })).unwrap()
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
