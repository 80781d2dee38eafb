//! Applied again, after whatever has happened meanwhile.

use std::process::Command;
use std::time::Duration;

use network::definition::{Rate, Site};
use network::{Config, Networks};
use serde_json::{Value, json};

use crate::world::{Host, assert_same, in_own_namespace, run, wait_until};

fn host() -> Host {
    let rate = json!({ "bytes_per_second": 1_000_000 });
    Host::new(
        json!([{ "name": "lan", "kind": "nat", "ipv4": { "subnet": "10.77.0.0/24" }, "ipv6": { "subnet": "fd77::/64" },
                 "forwards": [{ "protocol": "udp", "host_address": "127.0.0.1", "host_port": 53,
                                "guest_address": "10.77.0.10", "guest_port": 53 }] },
               { "name": "cell", "kind": "isolated", "mtu": 9000 },
               { "name": "mine", "kind": "user" }]),
        json!([{ "id": "a", "network": "lan", "hostname": "alpha", "mac": "52:54:00:00:00:0a", "address": "10.77.0.10",
                 "address6": "fd77::10", "receive": rate, "send": rate },
               { "id": "b", "network": "cell", "mac": "52:54:00:00:00:0b", "vlan": 7 },
               { "id": "c", "network": "mine", "mac": "52:54:00:00:00:0c" }]),
    )
}

#[test]
fn applied_twice_nothing_changes_even_by_a_new_process() {
    in_own_namespace(|| {
        let mut host = host();
        assert!(!host.apply().is_empty());
        let _taps = (host.raw("a"), host.raw("b"));
        let before = host.state();
        assert_eq!(host.apply(), Vec::<String>::new());
        assert_same(&host.state(), &before);
        host.restart();
        assert_eq!(
            host.runtime.block_on(host.networks.plan(&host.site)).unwrap().changes,
            Vec::<String>::new()
        );
        assert_eq!(host.apply(), Vec::<String>::new());
        assert_same(&host.state(), &before);
    });
}

#[test]
fn what_was_broken_is_repaired_under_running_guests() {
    in_own_namespace(|| {
        let mut host = host();
        host.apply();
        let guest = host.guest_with_address("a");
        let works = || guest.namespace.try_run("busybox", &["ping", "-c", "1", "-W", "1", "10.77.0.1"]).0;
        assert!(works());
        let (bridge, tap) = (host.owner.bridge("lan"), host.owner.tap("a"));
        let path = host.folder.path().join("state/dnsmasq/lan/own/pid");
        let pid = || std::fs::read_to_string(&path).unwrap();
        let server = pid();
        // One that has ended has closed its sockets, which one that is still at it has not.
        let serves = || {
            let told = std::fs::read_to_string(format!("/proc/{}/stat", server.trim()));
            told.is_ok_and(|line| !line.rsplit(") ").next().unwrap().starts_with(['Z', 'X']))
        };
        let breaks: [&[&str]; 8] = [
            &["nft", "flush", "ruleset"],
            &["nft", "delete", "chain", "inet", "tessera_tst1", "received"],
            &["ip", "link", "set", &tap, "nomaster"],
            &["ip", "link", "set", &tap, "down"],
            &["tc", "qdisc", "del", "dev", &tap, "root"],
            &["ip", "addr", "flush", "dev", &bridge],
            &["ip", "link", "del", &bridge],
            &["kill", "-9", server.trim()],
        ];
        for broken in breaks {
            run(broken[0], &broken[1..]);
            if broken[0] == "kill" {
                // The kernel takes a moment to end a process, a longer one where others are busy.
                wait_until("the server has ended", || !serves());
            }
            host.restart();
            assert!(!host.apply().is_empty(), "{broken:?}");
            assert_eq!(host.apply(), Vec::<String>::new(), "{broken:?}");
            wait_until("the guest's network works", works);
        }
        assert_ne!(pid(), server, "a new server");
    });
}

#[test]
fn what_is_wanted_no_more_is_removed_and_what_is_others_stays() {
    in_own_namespace(|| {
        let mut host = host();
        let empty = host.state();
        // Another host of the same machine, and somebody's own bridge.
        run("ip", &["link", "add", "tab1", "type", "bridge"]);
        let folder = host.folder.path().join("other");
        let entered = host.runtime.enter();
        let other = Networks::open(Config { owner: "tst2".parse().unwrap(), state: folder.clone() }).unwrap();
        drop(entered);
        let value = json!([{ "name": "lan", "kind": "nat", "ipv4": { "subnet": "10.88.0.0/24" } }]);
        let others = crate::world::site(value, json!([]));
        host.runtime.block_on(other.apply(&others)).unwrap();
        let with_others = host.state();

        host.apply();
        let taps = (host.raw("a"), host.raw("b"));
        let whole = std::mem::take(&mut host.site);
        host.site.networks = whole.networks[1..].to_vec();
        host.site.ports = whole.ports[1..].to_vec();
        host.apply();
        let links = run("ip", &["-o", "link"]);
        assert!(
            !links.contains(&host.owner.bridge("lan")) && !links.contains(&host.owner.tap("a")),
            "{links}"
        );
        assert!(links.contains(&host.owner.tap("b")), "{links}");

        host.runtime.block_on(host.networks.teardown()).unwrap();
        drop(taps);
        assert_eq!(host.runtime.block_on(other.apply(&others)).unwrap().changes, Vec::<String>::new());
        assert_same(&without_numbers(&host.state()), &without_numbers(&with_others));
        host.runtime.block_on(other.teardown()).unwrap();
        run("ip", &["link", "del", "tab1"]);
        assert_same(&without_numbers(&host.state()), &without_numbers(&empty));
        for state in [folder, host.folder.path().join("state")] {
            assert_eq!(std::fs::read_dir(&state).unwrap().count(), 0, "{} is empty", state.display());
            let found = Command::new("pgrep").args(["-f", state.to_str().unwrap()]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&found.stdout), "", "no server is left");
        }
    });
}

/// Handles of rules and numbers of interfaces are given anew each time.
fn without_numbers(state: &[String]) -> Vec<String> {
    let keep = |line: &String| {
        let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
        for members in value.as_object_mut().into_iter() {
            members.remove("ifindex");
            members.values_mut().filter_map(|inner| inner.as_object_mut()).for_each(|inner| {
                inner.remove("handle");
            });
        }
        value.to_string()
    };
    state.iter().map(keep).collect()
}

/// The numbers that the kernel gave our tables: others once these have been set anew.
fn tables() -> Vec<String> {
    let told: Value = serde_json::from_str(&run("nft", &["-j", "list", "tables"])).unwrap();
    let tables = told["nftables"].as_array().unwrap().iter().filter_map(|item| item.get("table"));
    tables.map(|table| format!("{} {}", table["family"], table["handle"])).collect()
}

/// Adds a guest to the network whose host only knows its hardware address.
fn add(host: &mut Host, id: &str, last: u8) {
    let mut port = host.port("b").clone();
    (port.id, port.mac.0[5]) = (id.into(), last);
    host.site.ports.push(port);
}

/// Limits what the first guest sends.
fn limit(host: &mut Host, bytes_per_second: u64) {
    host.site.ports[0].send = Some(Rate { bytes_per_second, burst: None });
}

/// What is set is what a process sets that knows of nothing.
fn is_as_set_anew(host: &mut Host) {
    let found = host.state();
    std::fs::remove_file(host.folder.path().join("state/rules.json")).unwrap();
    host.restart();
    assert_eq!(host.apply(), ["set the firewall's rules"]);
    assert_same(&without_numbers(&host.state()), &without_numbers(&found));
}

#[test]
fn a_guest_more_or_less_changes_elements_only() {
    in_own_namespace(|| {
        let mut host = host();
        host.apply();
        let first = tables();
        add(&mut host, "d", 0x0d);
        assert_eq!(host.apply(), ["set the firewall's rules"]);
        host.site.ports.retain(|port| port.id != "b");
        host.apply();
        assert_eq!(tables(), first);
        assert_eq!(host.apply(), Vec::<String>::new());
        is_as_set_anew(&mut host);
        // A limit is no element.
        let first = tables();
        limit(&mut host, 2_000_000);
        host.apply();
        assert_ne!(tables(), first);
        is_as_set_anew(&mut host);
    });
}

#[test]
fn what_others_did_to_the_rules_is_repaired_with_the_next_change_of_a_guest() {
    in_own_namespace(|| {
        let mut host = host();
        host.apply();
        let breaks: [&[&str]; 4] = [
            &["flush", "set", "bridge", "tessera_tst1", "ports"],
            &["delete", "chain", "inet", "tessera_tst1", "received"],
            &["delete", "table", "bridge", "tessera_tst1"],
            &["add", "table", "inet", "others"],
        ];
        for (last, broken) in (0x10..).zip(breaks) {
            run("nft", broken);
            add(&mut host, &format!("p{last}"), last);
            host.apply();
            is_as_set_anew(&mut host);
        }
        // One who is to be connected finds none at all.
        run("nft", &["flush", "ruleset"]);
        let _tap = host.raw("p16");
        is_as_set_anew(&mut host);
    });
}

#[test]
fn the_next_process_knows_of_elements_that_were_changed_once_they_are_noted() {
    in_own_namespace(|| {
        let mut host = host();
        host.apply();
        let noted = host.folder.path().join("state/rules.json");
        let before = std::fs::read(&noted).unwrap();
        add(&mut host, "d", 0x0d);
        host.apply();
        assert_eq!(std::fs::read(&noted).unwrap(), before, "nobody waits for it");
        let first = tables();
        host.restart();
        assert_eq!(host.apply(), ["set the firewall's rules"], "it cannot know");
        assert_ne!(tables(), first);

        add(&mut host, "e", 0x0e);
        host.apply();
        let before = std::fs::read(&noted).unwrap();
        host.runtime.block_on(async {
            let seen = async {
                while std::fs::read(&noted).unwrap() == before {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::select! {
                () = seen => {}
                _ = tokio::time::timeout(crate::world::PATIENCE, host.networks.watch()) => panic!("not noted"),
            }
        });
        host.restart();
        assert_eq!(host.apply(), Vec::<String>::new());
    });
}

#[test]
fn a_guest_that_dies_leaves_no_tap_and_can_come_back() {
    in_own_namespace(|| {
        let host = host();
        host.apply();
        let first = host.raw("a");
        let again = host.runtime.block_on(host.networks.attach("a")).unwrap_err().to_string();
        assert!(again.contains("attached already"), "{again}");
        drop(first);
        let tap = host.owner.tap("a");
        wait_until("the tap is gone", || !run("ip", &["-o", "link"]).contains(&tap));
        let second = host.raw("a");
        host.runtime.block_on(host.networks.detach("a")).unwrap();
        assert!(!run("ip", &["-o", "link"]).contains(&tap));
        host.runtime.block_on(host.networks.detach("a")).unwrap();
        drop(second);
        for (id, why) in [("c", "user-mode"), ("x", "not defined")] {
            let told = host.runtime.block_on(host.networks.attach(id)).unwrap_err().to_string();
            assert!(told.contains(why), "{told}");
        }
    });
}

#[test]
fn a_server_that_ends_is_started_again() {
    in_own_namespace(|| {
        let host = host();
        host.apply();
        let path = host.folder.path().join("state/dnsmasq/lan/own/pid");
        let pid = || std::fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
        let first = pid();
        run("kill", &["-9", &first]);
        host.runtime.block_on(async {
            let watch = host.networks.watch();
            let seen = async {
                while pid() == first || !std::path::Path::new(&format!("/proc/{}/status", pid())).exists() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::select! {
                () = seen => {}
                _ = tokio::time::timeout(crate::world::PATIENCE, watch) => panic!("not started again"),
            }
        });
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid())).unwrap();
        assert!(!status.contains("Uid:\t0"), "it runs as root: {status}");
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    });
}

#[test]
fn a_site_that_is_wrong_changes_nothing() {
    in_own_namespace(|| {
        let mut host = host();
        host.apply();
        let before = host.state();
        let mut wrong: Site = host.site.clone();
        wrong.networks[1].name = "lan".into();
        let told = host.runtime.block_on(host.networks.apply(&wrong)).unwrap_err().to_string();
        assert!(told.contains("/networks/1/name"), "{told}");
        assert_same(&host.state(), &before);
        host.restart();
    });
}
