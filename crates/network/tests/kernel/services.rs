//! What guests get: addresses, names, ways out and in.

use serde_json::json;

use crate::world::{Host, ask, in_own_namespace, outside, wait_until};

fn nat() -> Host {
    Host::new(
        json!([{ "name": "lan", "kind": "nat", "ipv4": { "subnet": "10.77.0.0/24" }, "mtu": 1400,
                 "ipv6": { "subnet": "fd77::/64" },
                 "forwards": [{ "protocol": "tcp", "host_port": 8080, "guest_address": "10.77.0.11", "guest_port": 80 }] }]),
        json!([
            { "id": "a", "network": "lan", "hostname": "alpha", "mac": "52:54:00:00:00:0a",
              "address": "10.77.0.10", "address6": "fd77::10" },
            { "id": "b", "network": "lan", "hostname": "beta", "mac": "52:54:00:00:00:0b",
              "address": "10.77.0.11", "address6": "fd77::11" },
        ]),
    )
}

#[test]
fn guests_of_a_nat_network_get_addresses_and_names_and_reach_out_and_are_reached_by_forwards() {
    in_own_namespace(|| {
        let outside = outside();
        outside.serve("192.0.2.2:7000");
        let host = nat();
        host.apply();
        let (alpha, beta) = (host.guest("a"), host.guest("b"));
        let told = alpha.dhcp(host.folder.path()).unwrap();
        assert_eq!(told, "ip=10.77.0.10 mask=24 router=10.77.0.1 dns=10.77.0.1 domain=lan.internal");
        beta.dhcp(host.folder.path()).unwrap();

        for name in ["beta.lan.internal", "beta"] {
            let said = alpha.namespace.run("busybox", &["nslookup", name, "10.77.0.1"]);
            assert!(said.contains("10.77.0.11"), "{said}");
        }
        alpha.namespace.run("busybox", &["ping", "-c", "1", "-W", "5", "10.77.0.11"]);

        let seen = alpha.namespace.ask("192.0.2.2:7000").expect("a way out");
        assert_eq!(seen.ip().to_string(), "192.0.2.1");

        beta.namespace.serve("0.0.0.0:80");
        assert!(outside.ask("192.0.2.1:8080").is_some(), "from outside");
        for own in ["127.0.0.1:8080", "192.0.2.1:8080", "10.77.0.1:8080"] {
            assert!(ask(own.parse().unwrap()).is_some(), "from the host by {own}");
        }
        assert!(alpha.namespace.ask("192.0.2.1:8080").is_some(), "from another guest");

        let mut leases = host.runtime.block_on(host.networks.leases()).unwrap();
        leases.sort_by_key(|lease| lease.address);
        let found: Vec<_> =
            leases.iter().map(|lease| (lease.address.to_string(), lease.hostname.as_deref())).collect();
        assert_eq!(found, [("10.77.0.10".into(), Some("alpha")), ("10.77.0.11".into(), Some("beta"))]);
        let traffic = host.runtime.block_on(host.networks.traffic()).unwrap();
        assert!(traffic["a"].sent_frames > 0 && traffic["a"].received_bytes > 0, "{traffic:?}");
    });
}

#[test]
fn a_guest_reaches_nothing_of_the_host_but_what_networks_need() {
    in_own_namespace(|| {
        let outside = outside();
        let host = nat();
        host.apply();
        let listener = std::net::TcpListener::bind("0.0.0.0:2222").unwrap();
        let alpha = host.guest_with_address("a");
        alpha.namespace.run("busybox", &["ping", "-c", "1", "-W", "5", "10.77.0.1"]);
        for own in ["10.77.0.1:2222", "192.0.2.1:2222"] {
            assert!(alpha.namespace.ask(own).is_none(), "{own}");
        }
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "somebody came through");
        // Nor does the outside reach a guest past the forwards, even if it knows the way.
        outside.run("ip", &["route", "add", "10.77.0.0/24", "via", "192.0.2.1"]);
        alpha.namespace.serve("0.0.0.0:80");
        assert!(outside.ask("10.77.0.10:80").is_none());
    });
}

#[test]
fn guests_of_a_routed_network_keep_their_addresses() {
    in_own_namespace(|| {
        let outside = outside();
        outside.run("ip", &["route", "add", "10.78.0.0/24", "via", "192.0.2.1"]);
        outside.serve("192.0.2.2:7000");
        let host = Host::new(
            json!([{ "name": "open", "kind": "routed", "ipv4": { "subnet": "10.78.0.0/24" } }]),
            json!([{ "id": "a", "network": "open", "mac": "52:54:00:00:00:0a", "address": "10.78.0.10" }]),
        );
        host.apply();
        let guest = host.guest_with_address("a");
        let seen = guest.namespace.ask("192.0.2.2:7000").unwrap();
        assert_eq!(seen.ip().to_string(), "10.78.0.10");
        guest.namespace.serve("0.0.0.0:80");
        assert!(outside.ask("10.78.0.10:80").is_some());
    });
}

#[test]
fn guests_of_a_bridged_network_are_beside_the_host() {
    in_own_namespace(|| {
        let outside = outside();
        crate::world::run("ip", &["addr", "flush", "dev", "out0"]);
        let host = Host::new(
            json!([{ "name": "street", "kind": "bridged", "interface": "out0" }]),
            json!([{ "id": "a", "network": "street", "mac": "52:54:00:00:00:0a" }]),
        );
        host.apply();
        let guest = host.guest("a");
        guest.namespace.run("ip", &["addr", "add", "192.0.2.1/30", "dev", "eth0"]);
        outside.serve("192.0.2.2:7000");
        assert_eq!(guest.namespace.ask("192.0.2.2:7000").unwrap().ip().to_string(), "192.0.2.1");
    });
}

#[test]
fn an_interface_that_the_host_needs_is_not_taken() {
    in_own_namespace(|| {
        let _outside = outside();
        let host = Host::new(
            json!([{ "name": "street", "kind": "bridged", "interface": "out0" },
                   { "name": "other", "kind": "bridged", "interface": "eth7" },
                   { "name": "same", "kind": "nat", "ipv4": { "subnet": "192.0.2.0/24" } },
                   { "name": "lan", "kind": "nat", "ipv4": { "subnet": "10.77.0.0/24" } }]),
            json!([]),
        );
        let report = host.try_apply();
        let told: Vec<_> = report.problems.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(
            told.iter().any(|text| text.contains("192.0.2.1/30") && text.contains("make a bridge")),
            "{told:?}"
        );
        assert!(
            told.iter().any(|text| text.contains("no interface eth7") && text.contains("out0")),
            "{told:?}"
        );
        assert!(told.iter().any(|text| text.contains("overlaps")), "{told:?}");
        assert!(crate::world::run("ip", &["addr"]).contains("10.77.0.1/24"), "the good one is there");
    });
}

#[test]
fn nobody_is_attached_to_a_network_that_overlaps_what_the_host_got_since() {
    in_own_namespace(|| {
        let networks = json!([
            { "name": "lan", "kind": "nat", "ipv4": { "subnet": "10.77.0.0/24" } },
            { "name": "other", "kind": "nat", "ipv4": { "subnet": "10.78.0.0/24" } },
        ]);
        let ports = json!([
            { "id": "a", "network": "lan", "mac": "52:54:00:00:00:01", "address": "10.77.0.2" },
            { "id": "b", "network": "other", "mac": "52:54:00:00:00:02", "address": "10.78.0.2" },
        ]);
        let host = Host::new(networks, ports);
        host.apply();
        crate::world::run("ip", &["addr", "add", "10.77.0.200/16", "dev", "lo"]);
        let told = host.runtime.block_on(host.networks.attach("a")).unwrap_err().to_string();
        assert!(told.contains("overlaps 10.77.0.200/16, which is on lo"), "{told}");
        crate::world::run("ip", &["addr", "del", "10.77.0.200/16", "dev", "lo"]);
        let _taps = ["a", "b"].map(|id| host.runtime.block_on(host.networks.attach(id)).unwrap());
        let links = crate::world::run("ip", &["-o", "link"]);
        assert_eq!(
            links.matches(" master ").count(),
            2,
            "each is where it belongs, and nothing is gone: {links}"
        );
    });
}

#[test]
fn a_new_guest_is_known_without_a_restart_of_its_network() {
    in_own_namespace(|| {
        let mut host = nat();
        let late = host.site.ports.pop().unwrap();
        host.apply();
        let alpha = host.guest_with_address("a");
        host.site.ports.push(late);
        let changes = host.apply();
        assert!(changes.iter().any(|change| change.contains("tell DHCP")), "{changes:?}");
        assert!(!changes.iter().any(|change| change.contains("start")), "{changes:?}");
        let beta = host.guest_with_address("b");
        wait_until("the name is known", || {
            alpha.namespace.try_run("busybox", &["nslookup", "beta", "10.77.0.1"]).1.contains("10.77.0.11")
        });
        beta.namespace.run("busybox", &["ping", "-c", "1", "-W", "5", "10.77.0.10"]);
    });
}

#[test]
fn guests_learn_their_ipv6_router_from_the_host_and_reach_it() {
    in_own_namespace(|| {
        let host = nat();
        host.apply();
        let alpha = host.guest("a");
        wait_until("a router advertises itself", || {
            alpha.namespace.run("ip", &["-6", "route"]).contains("default")
        });
        alpha.namespace.run("ip", &["addr", "add", "fd77::10/64", "dev", "eth0", "nodad"]);
        alpha.namespace.run("busybox", &["ping", "-6", "-c", "1", "-W", "5", "fd77::1"]);
    });
}
