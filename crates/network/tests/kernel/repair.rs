//! Applied again, after whatever has happened meanwhile.

use std::process::Command;
use std::time::Duration;

use network::definition::Site;
use network::{Config, Networks};
use serde_json::json;

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
        let serves =
            || std::fs::read(format!("/proc/{}/cmdline", server.trim())).is_ok_and(|line| !line.is_empty());
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
