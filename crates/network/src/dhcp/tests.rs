use serde_json::json;

use super::*;
use crate::definition::read;

#[test]
fn leases_are_read_and_other_lines_passed_over() {
    let text = "1795449600 52:54:00:00:00:0a 10.1.0.5 alpha 01:52:54:00:00:00:0a\n\
                0 52:54:00:00:00:0b 10.1.0.6 * *\n\
                duid 00:01:00:01\n\
                1795449600 6513 fd01::5 alpha 00:01\n\
                what is this\n\n1 2\n";
    let all: Vec<_> = leases::parse("lan", text).collect();
    let told: Vec<_> = all
        .iter()
        .map(|lease| {
            (lease.address.to_string(), lease.mac.is_some(), lease.hostname.as_deref(), lease.expires)
        })
        .collect();
    assert_eq!(
        told,
        [
            ("10.1.0.5".into(), true, Some("alpha"), Some(1_795_449_600)),
            ("10.1.0.6".into(), true, None, None),
            ("fd01::5".into(), false, Some("alpha"), Some(1_795_449_600)),
        ]
    );
}

#[test]
fn a_server_knows_the_ports_of_its_network_but_not_those_in_vlans() {
    let site: Site = read(&json!({
        "networks": [{ "name": "lan", "kind": "nat", "ipv4": { "subnet": "10.1.0.0/24" }, "ipv6": { "subnet": "fd01::/64" } }],
        "ports": [
            { "id": "a", "network": "lan", "hostname": "alpha", "mac": "52:54:00:00:00:0a", "address": "10.1.0.5", "address6": "fd01::5" },
            { "id": "b", "network": "lan", "hostname": "beta", "mac": "52:54:00:00:00:0b", "address": "10.1.0.6", "vlan": 7 },
            { "id": "c", "network": "other", "hostname": "gamma", "mac": "52:54:00:00:00:0c", "address": "10.1.0.7" },
        ],
    }))
    .unwrap();
    let lan = &site.networks[0];
    assert_eq!(text::addresses(&site, lan), "52:54:00:00:00:0a,10.1.0.5,[fd01::5],alpha\n");
    assert_eq!(
        text::names(&site, lan),
        "10.1.0.5 alpha.lan.internal alpha\nfd01::5 alpha.lan.internal alpha\n"
    );
}

#[test]
fn a_server_that_ends_again_and_again_is_waited_for_longer_each_time() {
    let pauses: Vec<_> = (0..20).map(pause_after).collect();
    assert_eq!(pauses[0], FIRST_PAUSE);
    assert!(pauses.is_sorted() && pauses[19] == LONGEST_PAUSE);
}
