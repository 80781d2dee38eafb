use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::*;

fn faults(networks: Value, ports: Value) -> Vec<Fault> {
    read::<Site>(&json!({ "networks": networks, "ports": ports })).unwrap().check()
}

/// The pointer of each fault.
fn pointers(networks: Value, ports: Value) -> Vec<String> {
    faults(networks, ports).into_iter().map(|fault| fault.pointer).collect()
}

fn lan() -> Value {
    json!({ "name": "lan", "kind": "nat", "ipv4": { "subnet": "10.10.0.0/24" } })
}

fn with(mut value: Value, pointer: &str, to: Value) -> Value {
    let (outer, last) = pointer.rsplit_once('/').unwrap();
    value.pointer_mut(outer).unwrap()[last] = to;
    value
}

fn port() -> Value {
    json!({ "id": "web/0", "network": "lan", "mac": "52:54:00:00:00:01", "address": "10.10.0.5" })
}

#[test]
fn a_network_of_few_words_is_good_and_has_what_most_want() {
    assert_eq!(faults(json!([lan()]), json!([port()])), []);
    let network: Network = read(&lan()).unwrap();
    let ip = network.ipv4.as_ref().unwrap();
    assert_eq!(ip.gateway(), Ipv4Addr::new(10, 10, 0, 1));
    assert!(ip.dhcp && network.dns.enabled);
    assert_eq!(network.domain(), "lan.internal");
    let port: Port = read(&port()).unwrap();
    assert!(port.anti_spoofing.mac && port.anti_spoofing.ip);
}

#[test]
fn what_cannot_be_read_is_named_with_what_would_be_right() {
    for (pointer, wrong, expected) in [
        ("/ipv4/subnet", json!("10.10.0/24"), "10.10.0.0/24"),
        ("/ipv4/subnet", json!("10.10.0.0/33"), "10.10.0.0/24"),
        ("/ipv4/gateway", json!("ten"), "10.10.0.5"),
        ("/kind", json!("natt"), "nat"),
        ("/mtu", json!(70_000), "u16"),
        ("/bandwidth", json!("much"), "u64"),
        ("/colour", json!("red"), "colour"),
    ] {
        let fault = read::<Network>(&with(lan(), pointer, wrong.clone())).unwrap_err();
        assert_eq!(fault.pointer, pointer, "{fault}");
        assert_eq!(fault.value, wrong.to_string(), "{fault}");
        assert!(fault.to_string().contains(expected), "{fault}");
    }
    let fault = read::<Port>(&with(port(), "/mac", json!("52:54:00"))).unwrap_err();
    assert!(fault.pointer == "/mac" && fault.expected.contains("52:54:00:12:34:56"), "{fault}");
}

#[test]
fn each_wrong_network_is_told_by_its_field() {
    let long = "a".repeat(41);
    for (pointer, wrong) in [
        ("/name", json!("")),
        ("/name", json!("Lan")),
        ("/name", json!("1lan")),
        ("/name", json!("lan-")),
        ("/name", json!("../lan")),
        ("/name", json!("l\nan")),
        ("/name", json!(long)),
        ("/interface", json!("eth0")),
        ("/ipv4/subnet", json!("10.10.0.7/24")),
        ("/ipv4/subnet", json!("10.10.0.0/31")),
        ("/ipv4/subnet", json!("127.0.0.0/16")),
        ("/ipv4/subnet", json!("224.1.0.0/16")),
        ("/ipv4/gateway", json!("10.11.0.1")),
        ("/ipv4/gateway", json!("10.10.0.255")),
        ("/dns", json!({ "domain": "lan..internal" })),
        ("/dns", json!({ "domain": "lan internal" })),
        ("/mtu", json!(575)),
        ("/bandwidth", json!(100)),
    ] {
        let found = pointers(json!([with(lan(), pointer, wrong.clone())]), json!([]));
        let found = found.first().unwrap_or_else(|| panic!("{pointer} {wrong} is let through"));
        assert!(found.starts_with(&format!("/networks/0{pointer}")), "{found}");
    }
}

#[test]
fn ranges_are_within_their_subnet_and_in_order() {
    let range = |first: &str, last: &str| with(lan(), "/ipv4/range", json!({ "first": first, "last": last }));
    assert_eq!(
        pointers(json!([range("10.10.0.9", "10.10.1.9")]), json!([])),
        ["/networks/0/ipv4/range/last"]
    );
    assert_eq!(
        pointers(json!([range("10.10.0.9", "10.10.0.8")]), json!([])),
        ["/networks/0/ipv4/range/first"]
    );
    assert_eq!(pointers(json!([range("10.10.0.9", "10.10.0.9")]), json!([])), [""; 0]);
}

#[test]
fn networks_do_not_overlap_and_have_names_of_their_own() {
    let other = json!({ "name": "lan", "kind": "isolated", "ipv4": { "subnet": "10.10.0.128/25" } });
    assert_eq!(pointers(json!([lan(), other]), json!([])), ["/networks/1/name", "/networks/1/ipv4/subnet"]);
}

#[test]
fn each_kind_has_what_it_needs_and_nothing_else() {
    let of = |kind: &str| json!({ "name": "net", "kind": kind });
    let found = |value: Value| pointers(json!([value]), json!([]));
    for (kind, missing) in [("nat", "/ipv4"), ("routed", "/ipv4"), ("bridged", "/interface")] {
        assert_eq!(found(of(kind)), [format!("/networks/0{missing}")], "{kind}");
    }
    for kind in ["isolated", "user"] {
        assert_eq!(found(of(kind)), [""; 0], "{kind}");
    }
    for kind in ["bridged", "user"] {
        let value = with(of(kind), "/ipv4", json!({ "subnet": "10.1.0.0/24" }));
        assert!(found(value).contains(&"/networks/0/ipv4".to_owned()), "{kind}");
    }
    for interface in ["", "eth0/..", "a name", "sixteencharacter"] {
        let value = with(of("bridged"), "/interface", json!(interface));
        assert_eq!(found(value), ["/networks/0/interface"], "{interface}");
    }
}

#[test]
fn forwards_lead_to_one_guest_each() {
    let forward =
        json!({ "protocol": "tcp", "host_port": 80, "guest_address": "10.10.0.5", "guest_port": 80 });
    let found = |pointer: &str, value: Value| {
        let network = with(lan(), "/forwards", json!([with(forward.clone(), pointer, value)]));
        pointers(json!([network]), json!([]))
    };
    assert_eq!(found("/host_port", json!(8080)), [""; 0]);
    assert_eq!(found("/host_port", json!(0)), ["/networks/0/forwards/0/host_port"]);
    assert_eq!(found("/guest_port", json!(0)), ["/networks/0/forwards/0/guest_port"]);
    for wrong in [json!("10.11.0.5"), json!("fd00::5"), json!("10.10.0.1"), json!("10.10.0.255"), json!(null)]
    {
        let told = found("/guest_address", wrong.clone());
        assert_eq!(told, ["/networks/0/forwards/0/guest_address"], "{wrong}");
    }
    let twice = with(
        lan(),
        "/forwards",
        json!([forward, with(forward.clone(), "/host_address", json!("127.0.0.1"))]),
    );
    assert_eq!(pointers(json!([twice]), json!([])), ["/networks/0/forwards/1/host_port"]);
}

#[test]
fn each_wrong_port_is_told_by_its_field() {
    for (pointer, wrong) in [
        ("/id", json!("")),
        ("/id", json!("a b")),
        ("/network", json!("wan")),
        ("/hostname", json!("a.b")),
        ("/hostname", json!("-a")),
        ("/mac", json!("01:00:5e:00:00:01")),
        ("/mac", json!("00:00:00:00:00:00")),
        ("/vlan", json!(0)),
        ("/vlan", json!(4095)),
        ("/trunk/0", json!(0)),
        ("/address", json!("10.11.0.5")),
        ("/address", json!("10.10.0.1")),
        ("/address", json!("10.10.0.0")),
        ("/address", json!(null)),
        ("/address6", json!("fd00::5")),
        ("/send/bytes_per_second", json!(100)),
        ("/receive/burst", json!(1500)),
    ] {
        let mut value = with(port(), "/trunk", json!([]));
        if pointer.starts_with("/trunk") {
            value = with(value, "/trunk", json!([0, 7]));
        } else {
            value["send"] = json!({ "bytes_per_second": 1_000_000 });
            value["receive"] = json!({ "bytes_per_second": 1_000_000 });
            value = with(value, pointer, wrong.clone());
        }
        let found = faults(json!([lan()]), json!([value]));
        let found = found.first().unwrap_or_else(|| panic!("{pointer} {wrong} is let through"));
        assert_eq!(found.pointer, format!("/ports/0{pointer}"), "{found}");
    }
}

#[test]
fn no_two_ports_are_the_same() {
    let mut other = with(port(), "/id", json!("db/0"));
    assert_eq!(pointers(json!([lan()]), json!([port(), other])), ["/ports/1/mac", "/ports/1/address"]);
    other = with(with(port(), "/mac", json!("52:54:00:00:00:02")), "/address", json!("10.10.0.6"));
    assert_eq!(pointers(json!([lan()]), json!([port(), other])), ["/ports/1/id"]);
}

#[test]
fn free_addresses_stay_the_same_and_are_nobody_elses() {
    let network: Network = read(&with(lan(), "/ipv4/subnet", json!("10.10.0.0/29"))).unwrap();
    let ip = network.ipv4.unwrap();
    let mut taken = Vec::new();
    for last in 0..5 {
        let mac = Mac([0x52, 0x54, 0, 0, 0, last]);
        let address = free_address(&ip, mac, taken.iter().copied()).unwrap();
        assert_eq!(address, free_address(&ip, mac, taken.iter().copied()).unwrap());
        assert!(!taken.contains(&address) && address != ip.gateway());
        taken.push(address);
    }
    assert_eq!(free_address(&ip, Mac([2; 6]), taken), Err(NoneFree));
    let one = free_subnet(&[]).unwrap();
    let two = free_subnet(&[one]).unwrap();
    assert_ne!(one, two);
    assert_eq!(free_subnet(&["10.0.0.0/8".parse().unwrap()]), Err(NoneFree));
    let ipv6: Ipv6 = read(&json!({ "subnet": "fd00:10::/64" })).unwrap();
    let mac = "52:54:00:12:34:56".parse().unwrap();
    assert_eq!(free_address6(&ipv6, mac).to_string(), "fd00:10::5054:ff:fe12:3456");
}

#[test]
fn definitions_come_back_as_they_were_written() {
    let value = json!({ "networks": [lan()], "ports": [port()] });
    let site: Site = read(&value).unwrap();
    let text = serde_json::to_value(&site).unwrap();
    assert_eq!(read::<Site>(&text).unwrap(), site);
}
