//! What a guest may send: frames made by hand, good and bad.

use serde_json::{Value, json};

use crate::world::{Host, PATIENCE, Raw, in_own_namespace, line};

pub const BROADCAST: [u8; 6] = [0xff; 6];
const A: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0x0a];
const B: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0x0b];
const OTHER: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0x0e];
const A_IP: [u8; 4] = [10, 77, 0, 10];
const B_IP: [u8; 4] = [10, 77, 0, 11];

pub fn frame(to: [u8; 6], from: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = [&to[..], &from[..], &kind.to_be_bytes()[..], payload].concat();
    // The least that Ethernet carries.
    bytes.resize(bytes.len().max(60), 0);
    bytes
}

/// An ARP message (RFC 826).
pub fn arp(operation: u16, sender: [u8; 6], address: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let fixed = [0, 1, 8, 0, 6, 4];
    [&fixed[..], &operation.to_be_bytes(), &sender, &address, &[0; 6], &target].concat()
}

fn udp(from: u16, to: u16) -> Vec<u8> {
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &12u16.to_be_bytes(), &[0, 0], b"data"].concat()
}

/// An IPv4 packet with a right checksum (RFC 791).
fn ipv4(from: [u8; 4], to: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len()) as u16;
    let mut header =
        [&[0x45, 0][..], &length.to_be_bytes(), &[0, 0, 0, 0, 64, protocol, 0, 0], &from, &to].concat();
    let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    header[10..12].copy_from_slice(&(!((folded & 0xffff) + (folded >> 16)) as u16).to_be_bytes());
    [header, payload.to_vec()].concat()
}

/// An IPv6 packet; the checksums in it are not looked at.
fn ipv6(from: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    let [from, to] = [from, "ff02::1"].map(|text| text.parse::<std::net::Ipv6Addr>().unwrap().octets());
    let length = (payload.len() as u16).to_be_bytes();
    [&[0x60, 0, 0, 0][..], &length, &[next, 255], &from, &to, payload].concat()
}

/// A neighbour advertisement (RFC 4861, 4.4).
fn advertise(target: &str) -> Vec<u8> {
    let target = target.parse::<std::net::Ipv6Addr>().unwrap().octets();
    [&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &target].concat()
}

/// Whether what one sends gets to the other: a frame that surely does is sent after it, and both are waited for.
pub fn sees(from: &mut Raw, to: &mut Raw, bytes: &[u8]) -> bool {
    let marker = frame(to.mac, from.mac, 0x8035, b"marker");
    from.send(bytes);
    from.send(&marker);
    let mut seen = false;
    loop {
        let received = to.receive(PATIENCE).expect("the marker");
        seen |= same(&received, bytes);
        if received == marker {
            return seen;
        }
    }
}

/// Whether a frame is another; bridges that hand packets to iptables cut their padding off.
pub fn same(received: &[u8], sent: &[u8]) -> bool {
    received.len() <= sent.len() && received.len() >= 34 && sent.starts_with(received)
}

fn host(anti_spoofing: Value) -> Host {
    Host::new(
        json!([{ "name": "lan", "kind": "nat", "ipv4": { "subnet": "10.77.0.0/24" }, "ipv6": { "subnet": "fd77::/64" } }]),
        json!([{ "id": "a", "network": "lan", "mac": "52:54:00:00:00:0a", "address": "10.77.0.10",
                 "address6": "fd77::10", "anti_spoofing": anti_spoofing },
               { "id": "b", "network": "lan", "mac": "52:54:00:00:00:0b", "address": "10.77.0.11",
                 "address6": "fd77::11" }]),
    )
}

/// Frames from A to B: what each is, whether it must be let through, and itself.
fn cases() -> Vec<(&'static str, bool, Vec<u8>)> {
    let ip = |from, payload: &[u8]| frame(B, A, 0x0800, &ipv4(from, B_IP, 17, payload));
    let ip6 = |from, next, payload: &[u8]| frame(B, A, 0x86dd, &ipv6(from, next, payload));
    vec![
        ("its own address", true, ip(A_IP, &udp(1000, 1000))),
        ("another IPv4 address", false, ip([10, 77, 0, 99], &udp(1000, 1000))),
        ("the gateway's address", false, ip([10, 77, 0, 1], &udp(1000, 1000))),
        ("another MAC", false, frame(B, OTHER, 0x0800, &ipv4(A_IP, B_IP, 17, &udp(1000, 1000)))),
        ("an answer of a DHCP server", false, ip(A_IP, &udp(67, 68))),
        ("no address, and not for DHCP", false, ip([0; 4], &udp(1000, 1000))),
        ("a question by ARP", true, frame(BROADCAST, A, 0x0806, &arp(1, A, A_IP, B_IP))),
        ("a probe by ARP", true, frame(BROADCAST, A, 0x0806, &arp(1, A, [0; 4], A_IP))),
        ("ARP for the gateway", false, frame(B, A, 0x0806, &arp(2, A, [10, 77, 0, 1], B_IP))),
        ("ARP with another MAC", false, frame(B, A, 0x0806, &arp(2, OTHER, A_IP, B_IP))),
        ("its own IPv6 address", true, ip6("fd77::10", 17, &udp(1000, 1000))),
        ("its link-local address", true, ip6("fe80::5054:ff:fe00:a", 17, &udp(1000, 1000))),
        ("another IPv6 address", false, ip6("fd77::11", 17, &udp(1000, 1000))),
        ("a router's advertisement", false, ip6("fe80::5054:ff:fe00:a", 58, &[134, 0, 0, 0, 64, 0, 7, 8])),
        ("its own neighbour advertisement", true, ip6("fd77::10", 58, &advertise("fd77::10"))),
        ("a link-local one", true, ip6("fe80::5054:ff:fe00:a", 58, &advertise("fe80::5054:ff:fe00:a"))),
        ("one for another", false, ip6("fe80::5054:ff:fe00:a", 58, &advertise("fd77::11"))),
        ("an answer of a DHCPv6 server", false, ip6("fe80::5054:ff:fe00:a", 17, &udp(547, 546))),
        ("a tagged frame", false, frame(B, A, 0x8100, &[0, 5, 8, 0])),
        ("spanning tree", false, frame([1, 0x80, 0xc2, 0, 0, 0], A, 0x88b5, b"bpdu")),
        ("another protocol", false, frame(B, A, 0x8864, b"pppoe")),
    ]
}

#[test]
fn frames_that_pretend_are_dropped_and_others_are_not() {
    in_own_namespace(|| {
        let host = host(json!({}));
        host.apply();
        let (mut a, mut b) = (host.raw("a"), host.raw("b"));
        for (what, good, bytes) in cases() {
            assert_eq!(sees(&mut a, &mut b, &bytes), good, "{what}");
        }
    });
}

#[test]
fn a_port_without_checks_may_pretend() {
    in_own_namespace(|| {
        let host = host(json!({ "mac": false, "ip": false }));
        host.apply();
        let (mut a, mut b) = (host.raw("a"), host.raw("b"));
        for (what, _, bytes) in cases() {
            let never = ["a tagged frame", "spanning tree"].contains(&what);
            assert!(never || sees(&mut a, &mut b, &bytes), "{what}");
        }
        assert!(!sees(&mut a, &mut b, &frame(B, A, 0x8100, &[0, 5, 8, 0])), "VLANs are kept all the same");
    });
}

#[test]
fn each_check_stands_alone() {
    in_own_namespace(|| {
        let host = host(json!({ "mac": true, "ip": false }));
        host.apply();
        let (mut a, mut b) = (host.raw("a"), host.raw("b"));
        assert!(sees(&mut a, &mut b, &frame(B, A, 0x0800, &ipv4([10, 77, 0, 99], B_IP, 17, &udp(1, 1)))));
        assert!(!sees(&mut a, &mut b, &frame(B, OTHER, 0x0800, &ipv4(A_IP, B_IP, 17, &udp(1, 1)))));
    });
}

#[test]
fn what_concerns_another_is_kept_from_whoever_it_would_wake() {
    in_own_namespace(|| {
        let port = |id: &str, last: u8| {
            json!({ "id": id, "network": "lan", "mac": format!("52:54:00:00:00:{last:02x}"),
                    "address": format!("10.77.0.{last}"), "address6": format!("fd77::{last}") })
        };
        let host = Host::new(
            json!([{ "name": "lan", "kind": "isolated", "ipv4": { "subnet": "10.77.0.0/24" }, "ipv6": { "subnet": "fd77::/64" } }]),
            json!([port("a", 10), port("b", 11), port("c", 12)]),
        );
        host.apply();
        let [mut a, mut b, mut c] = ["a", "b", "c"].map(|id| host.raw(id));
        let mac = a.mac;
        let solicit = |target: &str| {
            let target = target.parse::<std::net::Ipv6Addr>().unwrap().octets();
            let message = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target].concat();
            frame(BROADCAST, mac, 0x86dd, &ipv6("fd77::10", 58, &message))
        };
        let ask = |from: [u8; 4], target: [u8; 4]| frame(BROADCAST, mac, 0x0806, &arp(1, mac, from, target));
        let discover = ipv4([0; 4], [255; 4], 17, &udp(68, 67));
        let router = ipv6("fe80::5054:ff:fe00:a", 58, &[133, 0, 0, 0, 0, 0, 0, 0]);
        for (what, bytes, to_b, to_c) in [
            ("a question for b's address", ask(A_IP, B_IP), true, false),
            ("one for the host's", ask(A_IP, [10, 77, 0, 1]), false, false),
            ("one for an address that the host has not given", ask(A_IP, [10, 77, 0, 99]), true, true),
            ("a's own address told to all", ask(A_IP, A_IP), true, true),
            ("a call for a DHCP server", frame(BROADCAST, mac, 0x0800, &discover), false, false),
            ("a call for a router", frame(BROADCAST, mac, 0x86dd, &router), false, false),
            ("a question for c's IPv6 address", solicit("fd77::12"), false, true),
            ("one for an address on the link", solicit("fe80::1"), true, true),
            ("one for what c makes of its card's", solicit("fe80::5054:ff:fe00:c"), false, true),
            (
                "whether a is alone with what it makes of its own",
                solicit("fe80::5054:ff:fe00:a"),
                false,
                false,
            ),
            (
                "any other broadcast",
                frame(BROADCAST, mac, 0x0800, &ipv4(A_IP, [255; 4], 17, &udp(1, 9))),
                true,
                true,
            ),
        ] {
            assert_eq!(sees(&mut a, &mut b, &bytes), to_b, "{what}: to b");
            assert_eq!(sees(&mut a, &mut c, &bytes), to_c, "{what}: to c");
        }
    });
}

/// Whether `b`, which may be no server and no router, and `c`, which may be whatever it likes, see what `a` asks such of all.
fn asks_servers_and_routers(network: Value, address: impl Fn(u8) -> Value) {
    let what = network["kind"].to_string();
    let port = |id: &str, last: u8, checked: bool| {
        json!({ "id": id, "network": "lan", "mac": format!("52:54:00:00:00:{last:02x}"), "address": address(last),
                "anti_spoofing": { "mac": checked, "ip": checked } })
    };
    let ports = json!([port("a", 10, true), port("b", 11, true), port("c", 12, false)]);
    let host = Host::new(json!([network]), ports);
    host.apply();
    let [mut a, mut b, mut c] = ["a", "b", "c"].map(|id| host.raw(id));
    let mac = a.mac;
    let ip6 =
        |next, payload: &[u8]| frame(BROADCAST, mac, 0x86dd, &ipv6("fe80::5054:ff:fe00:a", next, payload));
    for (question, bytes) in [
        ("a DHCP server", frame(BROADCAST, mac, 0x0800, &ipv4([0; 4], [255; 4], 17, &udp(68, 67)))),
        ("a DHCPv6 server", ip6(17, &udp(546, 547))),
        ("a router", ip6(58, &[133, 0, 0, 0, 0, 0, 0, 0])),
        ("a multicast router", ip6(58, &[143, 0, 0, 0, 0, 0, 0, 0])),
    ] {
        assert!(!sees(&mut a, &mut b, &bytes), "{what}: {question}: one that may not be such");
        assert!(sees(&mut a, &mut c, &bytes), "{what}: {question}: one that may");
    }
}

#[test]
fn guests_that_may_not_answer_as_servers_and_routers_are_not_asked_whoever_gives_addresses() {
    in_own_namespace(|| {
        let managed = json!({ "name": "lan", "kind": "isolated", "ipv4": { "subnet": "10.77.0.0/24" } });
        asks_servers_and_routers(managed, |last| format!("10.77.0.{last}").into());
        let _line = line("up0");
        let others = json!({ "name": "lan", "kind": "bridged", "interface": "up0" });
        asks_servers_and_routers(others, |_| Value::Null);
    });
}

#[test]
fn whoever_may_take_addresses_that_float_tells_all_that_it_has_one() {
    in_own_namespace(|| {
        let host = host(json!({ "mac": false, "ip": false }));
        host.apply();
        let (mut a, mut b) = (host.raw("a"), host.raw("b"));
        let floating = [10, 77, 0, 200];
        let told = frame(BROADCAST, a.mac, 0x0806, &arp(1, a.mac, floating, floating));
        assert!(sees(&mut a, &mut b, &told));
    });
}
