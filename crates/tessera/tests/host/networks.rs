//! Networks and the guests on them, in a network namespace of the daemon's own: only root can make one.

use std::process::Command;

use serde_json::{Value, json};

use crate::agent::{self, tessera, told};
use crate::{Daemon, waits};

impl Daemon {
    /// A program that sees the daemon's network.
    pub fn within(&self, words: &str) -> Command {
        let pid = self.child.as_ref().unwrap().id();
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{pid}/ns/net")).args(words.split_whitespace());
        command
    }

    /// What it says.
    pub fn inside(&self, words: &str) -> String {
        String::from_utf8(self.within(words).output().unwrap().stdout).unwrap()
    }

    /// Interfaces of the daemon's network, besides the loopback.
    fn interfaces(&self) -> Vec<String> {
        let links: Value = serde_json::from_str(&self.inside("ip -j link")).unwrap();
        let names = links.as_array().unwrap().iter().map(|link| link["ifname"].as_str().unwrap().to_owned());
        names.filter(|name| name != "lo").collect()
    }

    /// Runs a line of shell in a guest.
    fn shell(&self, guest: &str, line: &str) -> (Option<i32>, String) {
        let (status, said, _) = told(&tessera(self, &["vm", "exec", guest, "--", "sh", "-c", line], ""));
        (status, said)
    }

    fn leases_of(&self, network: &str) -> usize {
        self.json(&format!("network leases {network}")).as_array().unwrap().len()
    }
}

/// Has a guest take the address that it is told.
const TAKE: &str = "ip link set eth0 up; udhcpc -q -n -i eth0 >/dev/null 2>&1; ip -4 -o addr show eth0";

#[test]
fn guests_on_a_network_get_addresses_and_names_and_reach_each_other() {
    let Some(daemon) = Daemon::start_apart() else { return };
    daemon.run("network create lan --subnet 10.77.0.0/24");
    // First the one that has an address of its choice: another one is given any that is free.
    agent::start(&daemon, "b", &["--net", "network=lan,ip=10.77.0.50"]);
    agent::start(&daemon, "a", &["--net", "network=lan"]);
    let address = daemon.vm("a")["nics"][0]["address"].as_str().unwrap().to_owned();
    let (_, said) = daemon.shell("a", TAKE);
    assert!(said.contains(&format!("{address}/24")), "{said}");
    let (_, said) = daemon.shell("b", TAKE);
    assert!(said.contains("10.77.0.50/24"), "{said}");
    assert_eq!(daemon.leases_of("lan"), 2);
    assert_eq!(daemon.shell("a", "ping -c 1 -W 5 10.77.0.50 >/dev/null").0, Some(0));
    let (_, said) = daemon.shell("a", "nslookup b.lan.internal 10.77.0.1");
    assert!(said.contains("10.77.0.50"), "{said}");

    // Somebody else's address gets nowhere.
    let other = if address == "10.77.0.99" { "10.77.0.98" } else { "10.77.0.99" };
    let pretend = format!(
        "ip addr flush dev eth0; ip addr add {other}/24 dev eth0; ping -c 1 -W 2 10.77.0.50 >/dev/null"
    );
    assert_ne!(daemon.shell("a", &pretend).0, Some(0));
    assert_eq!(daemon.shell("a", &format!("ip addr flush dev eth0; {TAKE}")).0, Some(0));
    daemon.run("vm stop a b");
}

#[test]
fn a_guest_has_several_cards_on_one_network_and_is_called_by_the_first() {
    let Some(daemon) = Daemon::start_apart() else { return };
    daemon.run("network create lan --subnet 10.77.0.0/24");
    agent::start(&daemon, "a", &["--net", "network=lan,ip=10.77.0.50", "--net", "network=lan"]);
    let second = daemon.vm("a")["nics"][1]["address"].as_str().unwrap().to_owned();
    assert_ne!(second, "10.77.0.50");
    assert!(daemon.shell("a", TAKE).1.contains("10.77.0.50/24"));
    let (_, said) = daemon.shell("a", &TAKE.replace("eth0", "eth1"));
    assert!(said.contains(&format!("{second}/24")), "{said}");
    let (_, said) = daemon.shell("a", "nslookup a.lan.internal 10.77.0.1");
    assert!(said.contains("10.77.0.50") && !said.contains(&second), "{said}");
    daemon.run("vm stop a");
}

#[test]
fn networks_come_and_go_and_leave_nothing() {
    let Some(daemon) = Daemon::start_apart() else { return };
    daemon.run("network create lan");
    daemon.run("network create closed --kind isolated");
    let lan = daemon.json("network show lan");
    assert!(lan["ipv4"]["subnet"].as_str().unwrap().ends_with("/24"), "{lan}");
    assert_eq!(daemon.json("network ls").as_array().unwrap().len(), 2);
    daemon.guest("a", &waits(), "--net network=lan --net network=closed");
    assert_eq!(daemon.interfaces().len(), 4, "{:?}", daemon.interfaces());
    let (status, line) = daemon.fails("network delete lan");
    assert!(status == Some(5) && line.contains("used by a"), "{line}");
    let port = &daemon.json("network show lan")["status"]["ports"][0];
    assert!(port["name"] == "a" && port["traffic"].is_object(), "{port}");

    let faster = json!({ "nics": [
        { "network": { "named": "lan" }, "receive_limit": "10MiB" },
        { "network": { "named": "closed" } },
    ] });
    std::fs::write(daemon.state().join("patch"), faster.to_string()).unwrap();
    daemon.run(&format!("vm edit a --patch @{}", daemon.state().join("patch").display()));
    assert_eq!(daemon.vm("a")["status"]["pending_restart"], false, "it is the host that limits");
    daemon.run("vm stop a");
    daemon.eventually("its taps are gone", |daemon| daemon.interfaces().len() == 2);
    daemon.run("vm delete a");
    daemon.run("network delete lan closed");
    assert_eq!(daemon.interfaces(), Vec::<String>::new());
    assert_eq!(daemon.inside("nft list ruleset"), "");
    assert_eq!(daemon.json("network ls"), json!([]));
}

#[test]
fn a_daemon_that_is_killed_finds_its_networks_again() {
    let Some(mut daemon) = Daemon::start_apart() else { return };
    daemon.run("network create lan --subnet 10.78.0.0/24");
    daemon.guest("a", &waits(), "--net network=lan");
    let before = daemon.interfaces();
    let pid = daemon.child.as_ref().unwrap().id();
    // The namespace goes with the last process in it, so one stays.
    let mut keeper = Command::new("nsenter");
    let mut keeper = keeper.arg(format!("--net=/proc/{pid}/ns/net")).args(["sleep", "300"]).spawn().unwrap();
    daemon.eventually("somebody stays", |_| {
        let of = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        of(pid) == of(keeper.id())
    });
    daemon.kill();
    daemon.start_in_namespace_of(keeper.id());
    assert_eq!(daemon.state_of("a"), "running");
    assert_eq!(daemon.interfaces(), before);
    daemon.run("vm delete a --force");
    daemon.run("network delete lan");
    assert_eq!(daemon.interfaces(), Vec::<String>::new());
    keeper.kill().unwrap();
    keeper.wait().unwrap();
}

#[test]
fn wrong_networks_are_refused_with_the_field() {
    let Some(daemon) = Daemon::start_apart() else { return };
    let refused = |words: &str, part: &str| {
        let (status, line) = daemon.fails(words);
        assert!(status == Some(2) && line.contains(part), "{words}: {line}");
    };
    refused("network create LAN", "/name");
    refused("network create lan --subnet 10.0.0.0/33", "/ipv4/subnet");
    refused("network create lan --subnet 10.0.0.0", "/ipv4/subnet");
    refused("network create lan --kind bridged", "/interface");
    refused("network create lan --mtu 100", "/mtu");
    refused("network create lan --patch {\"colour\":1}", "colour");
    daemon.run("network create lan --subnet 10.79.0.0/24");
    assert_eq!(daemon.fails("network create lan").0, Some(2));
    refused("network create other --subnet 10.79.0.0/16", "/ipv4/subnet");
    let kernel = daemon.kernel("k", &waits());
    let make = format!("vm create a --kernel {kernel} --memory 32M --net network=");
    refused(&format!("{make}nowhere"), "there is no network nowhere");
    refused(&format!("{make}lan,ip=10.80.0.1"), "/nics/0/address");
    refused(&format!("{make}lan,vlan=5000"), "/nics/0/vlan");
    refused(&format!("{make}lan,mac=01:00:00:00:00:01"), "/nics/0/mac");
    daemon.run(&format!("{make}lan,ip=10.79.0.9"));
    refused(&format!("{make}lan,ip=10.79.0.9").replace("create a", "create b"), "/nics/0/address");
    assert_eq!(daemon.fails("network delete nothing").0, Some(4));
}
