//! What must not reach what.

use std::time::Duration;

use serde_json::json;

use crate::frames::{BROADCAST, arp, frame, same, sees};
use crate::world::{Host, in_own_namespace, line, outside, wait_until};

#[test]
fn guests_of_an_isolated_network_reach_each_other_and_nobody_else() {
    in_own_namespace(|| {
        let outside = outside();
        outside.serve("192.0.2.2:7000");
        let host = Host::new(
            json!([{ "name": "cell", "kind": "isolated", "ipv4": { "subnet": "10.79.0.0/24" } },
                   { "name": "lan", "kind": "nat", "ipv4": { "subnet": "10.77.0.0/24" } }]),
            json!([{ "id": "a", "network": "cell", "hostname": "alpha", "mac": "52:54:00:00:00:0a", "address": "10.79.0.10" },
                   { "id": "b", "network": "cell", "hostname": "beta", "mac": "52:54:00:00:00:0b", "address": "10.79.0.11" },
                   { "id": "c", "network": "lan", "mac": "52:54:00:00:00:0c", "address": "10.77.0.12" }]),
        );
        host.apply();
        let (alpha, beta) = (host.guest("a"), host.guest_with_address("b"));
        let told = alpha.dhcp(host.folder.path()).unwrap();
        assert!(told.contains("router= "), "an isolated network has no router: {told}");
        let other = host.guest_with_address("c");
        beta.namespace.serve("0.0.0.0:80");
        other.namespace.serve("0.0.0.0:80");
        assert!(alpha.namespace.ask("10.79.0.11:80").is_some());
        // Not even a guest that knows the way gets out, or to another network.
        alpha.namespace.run("ip", &["route", "add", "default", "via", "10.79.0.1"]);
        assert!(alpha.namespace.ask("192.0.2.2:7000").is_none());
        assert!(alpha.namespace.ask("10.77.0.12:80").is_none());
        assert!(other.namespace.ask("10.79.0.11:80").is_none());
        assert!(other.namespace.ask("192.0.2.2:7000").is_some(), "the other network does get out");
    });
}

#[test]
fn ports_of_different_vlans_and_the_host_do_not_see_each_other() {
    in_own_namespace(|| {
        let port = |id: &str, last: u8, vlan: Option<u16>| {
            json!({ "id": id, "network": "lan", "mac": format!("52:54:00:00:00:{last:02x}"), "vlan": vlan,
                    "address": format!("10.77.0.{last}") })
        };
        let host = Host::new(
            json!([{ "name": "lan", "kind": "nat", "ipv4": { "subnet": "10.77.0.0/24" } }]),
            json!([
                port("a", 10, Some(100)),
                port("b", 11, Some(100)),
                port("c", 12, Some(200)),
                port("d", 13, None)
            ]),
        );
        host.apply();
        let mut all = ["a", "b", "c", "d"].map(|id| host.raw(id));
        let question = arp(1, all[0].mac, [10, 77, 0, 10], [10, 77, 0, 1]);
        let question = frame(BROADCAST, all[0].mac, 0x0806, &question);
        // What a tells all of its own address.
        let told = arp(1, all[0].mac, [10, 77, 0, 10], [10, 77, 0, 10]);
        let told = frame(BROADCAST, all[0].mac, 0x0806, &told);
        let [a, b, c, d] = &mut all;
        assert!(sees(a, b, &told), "the same VLAN");
        assert!(!c.saw(&told), "another VLAN");
        assert!(!d.saw(&told), "no VLAN");
        a.send(&question);
        assert!(!a.answered(a_mac(0x0a)), "the host answers into a VLAN");
        // Without a VLAN, the host answers.
        let question = arp(1, d.mac, [10, 77, 0, 13], [10, 77, 0, 1]);
        d.send(&frame(BROADCAST, d.mac, 0x0806, &question));
        wait_until("the host answers", || d.answered(a_mac(0x0d)));
    });
}

#[test]
fn a_vlan_goes_out_tagged_and_nothing_else_gets_into_it() {
    in_own_namespace(|| {
        let mut line = line("up0");
        let host = Host::new(
            json!([{ "name": "street", "kind": "bridged", "interface": "up0" }]),
            json!([{ "id": "a", "network": "street", "mac": "52:54:00:00:00:0a", "vlan": 7 },
                   { "id": "b", "network": "street", "mac": "52:54:00:00:00:0b" },
                   { "id": "c", "network": "street", "mac": "52:54:00:00:00:0c", "trunk": [7, 8] }]),
        );
        host.apply();
        if let Err(error) = host.runtime.block_on(host.networks.attach("a")) {
            assert!(error.to_string().contains("CONFIG_BRIDGE_VLAN_FILTERING"), "{error}");
            eprintln!("skipped: {error}");
            return;
        }
        let (mut a, mut b, mut c) = (host.raw("a"), host.raw("b"), host.raw("c"));
        let tagged = |to, from, vlan: u8, text: &[u8]| {
            frame(to, from, 0x8100, &[&[0, vlan, 0x80, 0x35], text].concat())
        };
        let outer = line.mac;
        a.send(&frame(BROADCAST, a.mac, 0x8035, b"from a"));
        b.send(&frame(BROADCAST, b.mac, 0x8035, b"from b"));
        let gone = std::iter::from_fn(|| line.receive(Duration::from_millis(300)));
        let gone: Vec<_> = gone.filter(|frame| frame[6..12] == a.mac || frame[6..12] == b.mac).collect();
        let [one, two] = &gone[..] else { panic!("two frames go out: {gone:x?}") };
        assert!(
            one[12..].starts_with(b"\x81\x00\x00\x07\x80\x35from a"),
            "the VLAN goes out tagged: {one:x?}"
        );
        assert!(two[12..].starts_with(b"\x80\x35from b"), "what is in none goes out as it is: {two:x?}");
        line.send(&tagged(BROADCAST, outer, 7, b"to seven"));
        line.send(&tagged(BROADCAST, outer, 8, b"to eight"));
        line.send(&tagged(BROADCAST, outer, 9, b"to nine"));
        line.send(&frame(BROADCAST, outer, 0x8035, b"to none"));
        let of = |raw: &mut crate::world::Raw| -> Vec<String> {
            let all = std::iter::from_fn(|| raw.receive(Duration::from_millis(300)));
            let texts = all.map(|frame| String::from_utf8_lossy(&frame).into_owned());
            let known = ["from a", "from b", "to seven", "to eight", "to nine", "to none"];
            texts
                .filter_map(|text| known.iter().find(|part| text.contains(**part)).map(ToString::to_string))
                .collect()
        };
        assert_eq!(of(&mut a), ["to seven"]);
        assert_eq!(of(&mut b), ["to none"]);
        assert_eq!(of(&mut c), ["from a", "to seven", "to eight"]);
    });
}

fn a_mac(last: u8) -> [u8; 6] {
    [0x52, 0x54, 0, 0, 0, last]
}

impl crate::world::Raw {
    /// Whether a frame is among what has come.
    fn saw(&mut self, wanted: &[u8]) -> bool {
        std::iter::from_fn(|| self.receive(Duration::from_millis(100))).any(|frame| same(&frame, wanted))
    }

    /// Whether an ARP reply to a card is among what has come.
    fn answered(&mut self, card: [u8; 6]) -> bool {
        let reply =
            |frame: &Vec<u8>| frame[..6] == card && frame[12..14] == [8, 6] && frame[20..22] == [0, 2];
        std::iter::from_fn(|| self.receive(Duration::from_millis(100))).any(|frame| reply(&frame))
    }
}
