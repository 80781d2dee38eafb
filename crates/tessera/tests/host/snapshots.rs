//! What guests were, and going back there.

use crate::agent::{start, tessera, told};
use crate::{Daemon, http, waits};
use serde_json::json;
use std::fs::File;
use std::net::Ipv6Addr;

/// What a program in the guest writes.
pub fn inside(daemon: &Daemon, name: &str, line: &str) -> String {
    let (status, out, errors) = told(&tessera(daemon, &["vm", "exec", name, "--", "sh", "-c", line], ""));
    assert_eq!(status, Some(0), "{line}: {errors}");
    out.trim().to_owned()
}

pub fn answers(daemon: &Daemon, name: &str) {
    daemon.eventually("its agent answers", |daemon| {
        daemon.tessera(&format!("vm agent {name}")).status.success()
    });
}

/// Layers of volumes that are in the pool.
pub fn layers(daemon: &Daemon) -> usize {
    let pool = daemon.json("pool show default")["path"].as_str().map(std::path::PathBuf::from);
    let pool = pool.unwrap_or_else(|| daemon.state().join("pools").join("default"));
    let entries = std::fs::read_dir(pool).unwrap();
    entries
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".layer-"))
        .count()
}

/// The names of a guest's snapshots as they are drawn.
fn tree(daemon: &Daemon, name: &str) -> Vec<String> {
    let drawn = daemon.run(&format!("vm snapshot ls {name}"));
    let name = |line: &str| line.split("  ").next().unwrap_or_default().trim_end().to_owned();
    drawn.lines().skip(1).map(name).collect()
}

#[test]
fn a_guest_goes_back_to_what_it_was_with_its_memory_and_without_it() {
    let daemon = Daemon::start();
    start(&daemon, "a", &["--new-disk", "16M"]);
    let write = |name: &str, word: &str| inside(&daemon, name, &format!("echo {word} >/dev/vda; sync"));
    let reads = |name: &str| inside(&daemon, name, "head -n 1 /dev/vda");
    write("a", "one");
    daemon.run("vm snapshot create a first");
    write("a", "two");
    inside(&daemon, "a", "echo here >/in-memory; sleep 1000 >/dev/null 2>&1 & echo $! >/pid");
    daemon.run("vm snapshot create a second --memory");
    let second = daemon.json("vm snapshot show a second");
    assert!(second["memory"].as_u64().unwrap() > 1 << 20, "{second}");
    write("a", "three");
    inside(&daemon, "a", "echo there >/in-memory; kill $(cat /pid)");
    assert_eq!(tree(&daemon, "a"), ["first", "└─ second *"]);

    // Begun from what it was, beside it.
    daemon.run("vm clone a b --snapshot first");

    // What it does now is lost only if somebody says so.
    let (status, said) = daemon.fails("vm snapshot revert a second");
    assert!(status == Some(5) && said.contains("force"), "{said}");
    for _ in 0..2 {
        daemon.run("vm snapshot revert a second --force");
        assert_eq!(daemon.state_of("a"), "running");
        answers(&daemon, "a");
        assert_eq!(inside(&daemon, "a", "cat /in-memory; kill -0 $(cat /pid) && echo lives"), "here\nlives");
        assert_eq!(reads("a"), "two");
        write("a", "four");
    }

    daemon.run("vm snapshot revert a first --force");
    assert_eq!(daemon.state_of("a"), "stopped");
    for name in ["a", "b"] {
        daemon.run(&format!("vm start {name}"));
    }
    for name in ["a", "b"] {
        answers(&daemon, name);
        assert_eq!(reads(name), "one");
        write(name, name);
    }
    daemon.run("vm snapshot create a third");
    assert_eq!(tree(&daemon, "a"), ["first", "├─ second", "└─ third *"]);

    // A disk that a snapshot has stays.
    let (status, said) = daemon.fails("vm disk remove a 0");
    assert!(status == Some(5) && said.contains("snapshot"), "{said}");

    // One in the midst goes while the guest runs, and the others stay what they are.
    write("a", "later");
    daemon.run("vm snapshot delete a first");
    assert_eq!(tree(&daemon, "a"), ["second", "third *"]);
    assert_eq!(reads("a"), "later");
    daemon.run("vm snapshot revert a second --force");
    answers(&daemon, "a");
    assert_eq!(reads("a"), "two");
    assert_eq!(reads("b"), "b");
    for name in ["second", "third"] {
        daemon.run(&format!("vm snapshot delete a {name}"));
    }
    assert_eq!(reads("a"), "two");
    daemon.run("vm delete b --force");
    daemon.run("vm stop a");
    daemon.eventually("all is one again", |daemon| layers(daemon) == 0);
    daemon.run("vm delete a");
    assert!(daemon.leftovers().is_empty());
}

#[test]
fn a_snapshot_in_the_midst_takes_no_room_any_more_while_its_guest_runs() {
    let mut daemon = Daemon::start();
    start(&daemon, "a", &["--new-disk", "16M"]);
    let mark = |n: usize| inside(&daemon, "a", &format!("echo {n} | dd of=/dev/vda bs=64k seek={n}; sync"));
    for n in 1..=5 {
        mark(n);
        daemon.run(&format!("vm snapshot create a s{n}"));
    }
    daemon.run("vm clone a b --snapshot s4");
    mark(6);
    assert_eq!(layers(&daemon), 5);
    let held = |daemon: &Daemon| {
        let pid = daemon.vm("a")["status"]["pid"].to_string();
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let files: Vec<_> = files.filter_map(|file| std::fs::read_link(file.unwrap().path()).ok()).collect();
        files.into_iter().filter(|file| file.to_string_lossy().contains(".qcow2")).count()
    };
    for (name, left) in [("s2", 4), ("s4", 4), ("s3", 3)] {
        daemon.run(&format!("vm snapshot delete a {name}"));
        // What a clone is over, too, stays for it.
        assert_eq!(layers(&daemon), left, "{name}");
    }
    daemon.eventually("it has let go of what was merged", |daemon| held(daemon) == 3);
    // The next daemon finds what the last one did not come to.
    daemon.run("vm delete b");
    daemon.kill();
    daemon.start_again();
    daemon.eventually("what only the clone needed is gone", |daemon| layers(daemon) == 2);
    assert_eq!(
        inside(
            &daemon,
            "a",
            "for n in 1 2 3 4 5 6; do dd if=/dev/vda bs=64k skip=$n count=1 2>/dev/null | head -n 1; done"
        ),
        "1\n2\n3\n4\n5\n6"
    );
    daemon.run("vm snapshot revert a s5 --force");
    daemon.run("vm start a");
    answers(&daemon, "a");
    assert_eq!(
        inside(
            &daemon,
            "a",
            "for n in 1 2 3 4 5; do dd if=/dev/vda bs=64k skip=$n count=1 2>/dev/null | head -n 1; done"
        ),
        "1\n2\n3\n4\n5"
    );
    daemon.run("vm delete a --force");
    assert_eq!(layers(&daemon), 0);
}

/// The address on its link that a card gives itself (RFC 4291, appendix A).
fn link_local(mac: &str) -> String {
    let bytes: Vec<_> = mac.split(':').map(|byte| u16::from_str_radix(byte, 16).unwrap()).collect();
    let groups =
        [(bytes[0] ^ 2) << 8 | bytes[1], bytes[2] << 8 | 0xff, 0xfe00 | bytes[3], bytes[4] << 8 | bytes[5]];
    Ipv6Addr::new(0xfe80, 0, 0, 0, groups[0], groups[1], groups[2], groups[3]).to_string()
}

#[test]
fn guests_go_on_in_the_memory_of_another_one_as_themselves() {
    let Some(daemon) = Daemon::start_apart() else { return };
    daemon.run("network create lan --subnet 10.82.0.0/24");
    start(&daemon, "a", &["--new-disk", "16M", "--net", "network=lan"]);
    inside(&daemon, "a", "hostname a; ip link set eth0 up; udhcpc -q -n -i eth0 2>/dev/null");
    inside(&daemon, "a", "until ip -6 -o addr show eth0 | grep -q fe80; do sleep 1; done");
    inside(&daemon, "a", "echo here >/in-memory; sleep 1000 >/dev/null 2>&1 & echo $! >/pid");
    inside(&daemon, "a", "echo base >/dev/vda; sync");
    daemon.run("vm snapshot create a disks");
    daemon.run("vm snapshot create a base --memory");
    let (status, said) = daemon.fails("vm create b --from-saved a/disks");
    assert!(status == Some(5) && said.contains("has no memory"), "{said}");
    let (status, said) = daemon.fails("vm create b --from-saved a");
    assert!(status == Some(2) && said.contains("GUEST/SNAPSHOT"), "{said}");

    daemon.run("vm create b --from-saved a/base");
    daemon.run("vm clone a c --snapshot base --memory");
    assert_eq!(daemon.state_of("c"), "suspended");
    daemon.run("vm start c");
    inside(&daemon, "a", "echo after >/dev/vda; sync; echo there >/in-memory");
    for name in ["b", "c"] {
        daemon.eventually("it is one of its own", |daemon| {
            daemon.run(&format!("event ls -f kind=vm.identity,name={name}")).contains("of its own")
        });
    }
    let own = |name: &str| {
        let card = daemon.vm(name)["nics"][0].clone();
        let said =
            inside(&daemon, name, "hostname; cat /sys/class/net/eth0/address; ip -4 -o addr show eth0");
        let mut lines = said.lines();
        assert_eq!(lines.next(), Some(name));
        assert_eq!(lines.next(), card["mac"].as_str());
        let address = card["address"].as_str().unwrap().to_owned();
        assert!(lines.next().unwrap().contains(&format!("{address}/24")) && lines.next().is_none(), "{said}");
        let link = inside(&daemon, name, "ip -6 -o addr show eth0");
        assert!(link.contains(&link_local(card["mac"].as_str().unwrap())), "{name}: {link}");
        address
    };
    let addresses = ["a", "b", "c"].map(own);
    inside(&daemon, "c", &format!("ping -c 1 -W 10 {}; ping -c 1 -W 10 {}", addresses[0], addresses[1]));
    // It was all there, and has parted.
    for name in ["b", "c"] {
        assert_eq!(inside(&daemon, name, "cat /in-memory; kill -0 $(cat /pid) && echo lives"), "here\nlives");
        assert_eq!(inside(&daemon, name, "head -n 1 /dev/vda"), "base");
        inside(&daemon, name, &format!("echo {name} >/dev/vda; sync"));
    }
    let random = ["a", "b", "c"].map(|name| inside(&daemon, name, "cat /proc/sys/kernel/random/uuid"));
    assert!(random[0] != random[1] && random[1] != random[2] && random[0] != random[2], "{random:?}");
    assert_eq!(inside(&daemon, "a", "head -n 1 /dev/vda; cat /in-memory"), "after\nthere");

    // They need it no more than disks need what they are based on.
    daemon.run("vm snapshot delete a base");
    daemon.run("vm stop b");
    daemon.run("vm start b");
    answers(&daemon, "b");
    assert_eq!(inside(&daemon, "b", "head -n 1 /dev/vda"), "b");
    daemon.run("vm delete --all --yes --force");
    assert!(daemon.leftovers().is_empty());
}

#[test]
fn a_guest_that_goes_on_as_another_one_is_spoken_to_at_its_own_address_before_it_knows_it() {
    let Some(daemon) = Daemon::start_apart() else { return };
    daemon.run("network create lan --subnet 10.82.0.0/24");
    start(&daemon, "a", &["--net", "network=lan"]);
    inside(&daemon, "a", "ip link set eth0 up; udhcpc -q -n -i eth0 2>/dev/null");
    // Whoever connects is told the address that the guest believes to have, and what they said.
    inside(
        &daemon,
        "a",
        r#"printf '#!/bin/sh\nip -4 -o addr show eth0\nread -r said; echo "$said"; [ "$said" != wake ] || killall -CONT qemu-ga\n' >/said
           chmod 755 /said
           nc -ll -p 7000 -e /said >/dev/null 2>&1 </dev/null &"#,
    );
    // Nobody can tell it who it is.
    inside(&daemon, "a", "(sleep 1; killall -STOP qemu-ga) >/dev/null 2>&1 </dev/null &");
    daemon.eventually("its agent says nothing", |daemon| !daemon.tessera("vm agent a").status.success());
    daemon.run("vm snapshot create a base --memory");
    daemon.run("vm create b --from-saved a/base");
    let address = |name: &str| daemon.vm(name)["nics"][0]["address"].as_str().unwrap().to_owned();
    let (known, own) = (address("a"), address("b"));
    assert_ne!(known, own);
    let words = daemon.state().join("words");
    let told = |at: &str, word: &str| {
        std::fs::write(&words, format!("{word}\n")).unwrap();
        let mut connects = daemon.within(&format!("busybox nc -w 10 {at} 7000"));
        let said = connects.stdin(File::open(&words).unwrap()).output().unwrap();
        String::from_utf8(said.stdout).unwrap()
    };
    for at in [&own, &known, &own] {
        assert!(daemon.inside(&format!("busybox ping -c 1 -W 10 {at}")).contains("1 packets received"));
        let said = told(at, &format!("to {at}"));
        assert!(said.contains(&format!("{known}/24")) && said.contains(&format!("to {at}")), "{said}");
    }
    let neighbours = daemon.inside("ip neigh");
    for name in ["a", "b"] {
        let mac = daemon.vm(name)["nics"][0]["mac"].as_str().unwrap().to_owned();
        let of = neighbours.lines().find(|line| line.starts_with(&format!("{} ", address(name))));
        assert!(of.is_some_and(|line| line.contains(&mac)), "{name}: {neighbours}");
    }

    // What is kept of it is no more itself than it was, for another one and for itself.
    daemon.run("vm snapshot create b early --memory");
    daemon.run("vm create c --from-saved b/early");
    for name in ["c", "b"] {
        let said = told(&address(name), "wake");
        assert!(said.contains(&format!("{known}/24")) && said.contains("wake"), "{name}: {said}");
        daemon.eventually("it is itself", |daemon| {
            daemon.run(&format!("event ls -f kind=vm.identity,name={name}")).contains("vm.identity")
        });
        assert_eq!(inside(&daemon, name, "hostname"), name);
        let own = inside(&daemon, name, "ip -4 -o addr show eth0");
        assert!(own.contains(&format!("{}/24", address(name))) && !own.contains(&known), "{own}");
        daemon.run("vm snapshot revert b early --force");
    }
    let said = told(&own, "again");
    assert!(said.contains(&format!("{known}/24")), "{said}");
    daemon.run("vm delete --all --yes --force");
    daemon.run("network delete lan");
}

/// The script that gives a guest's cards their addresses.
const ADDRESSES: &str = concat!(
    include_str!("../../../host/src/supervisor/inside.sh"),
    include_str!("../../../host/src/supervisor/random.sh"),
    include_str!("../../../host/src/supervisor/addresses.sh")
);

#[test]
fn a_guest_that_goes_on_as_itself_keeps_no_route_of_the_other_one_and_says_nothing_of_its_address() {
    let Some(daemon) = Daemon::start_apart() else { return };
    daemon.run("network create lan --subnet 10.82.0.0/24");
    daemon.run("network create cell --kind isolated --subnet 10.84.0.0/24");
    start(&daemon, "a", &["--net", "network=lan", "--net", "network=cell"]);
    // What a neighbour hears of the address of one whose frames nobody checks.
    let mut nics = daemon.vm("a")["nics"].clone();
    nics[0]["allow_spoofing"] = true.into();
    let patch = daemon.state().join("patch");
    std::fs::write(&patch, json!({ "nics": nics }).to_string()).unwrap();
    daemon.run(&format!("vm edit a --patch @{}", patch.display()));
    let of = |name: &str, card: usize, what: &str| {
        daemon.vm(name)["nics"][card][what].as_str().unwrap().to_owned()
    };
    let address = of("a", 0, "address");
    for card in ["eth0", "eth1"] {
        inside(&daemon, "a", &format!("ip link set {card} up; udhcpc -q -n -i {card} 2>/dev/null"));
    }
    inside(
        &daemon,
        "a",
        &format!(
            "ip route del default; ip route add default via 10.82.0.1 dev eth0 metric 100 src {address}
             ip route add default via 10.82.0.9 dev eth0 metric 300
             ip route add default via 10.84.0.9 dev eth1 metric 50
             ip addr add 10.84.0.77/24 dev eth1"
        ),
    );
    assert!(daemon.inside(&format!("busybox ping -c 1 -W 10 {address}")).contains("1 packets received"));
    let heard = daemon.state().join("heard");
    let mut listener = daemon.within("ip monitor neigh");
    let mut listener = listener.stdout(File::create(&heard).unwrap()).spawn().unwrap();

    daemon.run("vm clone a b --instant --start");
    daemon.eventually("it is one of its own", |daemon| {
        daemon.run("event ls -f kind=vm.identity,name=b").contains("of its own")
    });
    let own = of("b", 0, "address");
    assert!(daemon.inside(&format!("busybox ping -c 1 -W 10 {own}")).contains("1 packets received"));
    daemon.eventually("it is heard of", |_| std::fs::read_to_string(&heard).unwrap().contains(&own));
    listener.kill().unwrap();
    listener.wait().unwrap();
    let heard = std::fs::read_to_string(&heard).unwrap();
    let of_a: Vec<_> = heard.lines().filter(|line| line.split(' ').next() == Some(&address)).collect();
    assert!(of_a.iter().all(|line| !line.contains(&of("b", 0, "mac"))), "{of_a:#?}");

    let is_itself = || {
        let routes = inside(&daemon, "b", "ip route | grep default");
        let route: Vec<_> = routes.split_whitespace().collect();
        assert_eq!(route.join(" "), "default via 10.82.0.1 dev eth0 metric 100");
        let addresses = inside(&daemon, "b", "ip -4 -o addr | grep eth");
        assert_eq!(addresses.lines().count(), 2, "{addresses}");
        assert!(addresses.contains(&format!("{own}/24")), "{addresses}");
    };
    is_itself();
    // The script has run already when the host tries again, which had waited for it in vain.
    let mut words = vec!["vm", "exec", "b", "--", "sh", "-c", ADDRESSES, "identity", "secret"];
    let cards: Vec<_> = [(0, "10.82.0.1", "yes"), (1, "-", "no")]
        .map(|(card, router, any)| {
            let address = format!("{}/24", of("b", card, "address"));
            let other = format!("{}/24", of("a", card, "address"));
            [of("a", card, "mac"), of("b", card, "mac"), address, router.into(), any.into(), other]
        })
        .concat();
    words.extend(cards.iter().map(String::as_str));
    let given = format!("eth0 {own}/24\neth1 {}/24\n", of("b", 1, "address"));
    assert_eq!(told(&tessera(&daemon, &words, "")), (Some(0), given, String::new()));
    is_itself();
    daemon.run("vm delete --all --yes --force");
    daemon.run("network delete lan cell");
}

/// Has what sets a guest's name wait until there is a file /go in it.
fn slow_to_be_named(daemon: &Daemon, name: &str) {
    let slow =
        r#"printf '#!/bin/sh\nuntil [ -e /go ]; do sleep 1; done\nexec /bin/busybox hostname "$@"\n' >/slow"#;
    inside(daemon, name, slow);
    inside(daemon, name, "chmod 755 /slow");
    inside(daemon, name, "rm /bin/hostname; mv /slow /bin/hostname");
}

#[test]
fn a_guest_that_has_its_own_address_and_not_yet_its_name_is_spoken_to_when_it_goes_on_again() {
    let Some(daemon) = Daemon::start_apart() else { return };
    daemon.run("network create lan --subnet 10.82.0.0/24");
    start(&daemon, "a", &["--net", "network=lan"]);
    inside(&daemon, "a", "ip link set eth0 up; udhcpc -q -n -i eth0 2>/dev/null");
    slow_to_be_named(&daemon, "a");
    daemon.run("vm snapshot create a base --memory");
    daemon.run("vm create b --from-saved a/base");
    let card = daemon.vm("b")["nics"][0].clone();
    let (mac, address) = (card["mac"].as_str().unwrap(), card["address"].as_str().unwrap());
    daemon.eventually("its system knows its address", |daemon| {
        inside(daemon, "b", "cat /sys/class/net/eth0/address") == mac
    });
    daemon.run("vm suspend b");
    daemon.run("vm start b");
    daemon.eventually("it answers", |daemon| {
        daemon.inside(&format!("busybox ping -c 1 -W 1 {address}")).contains("1 packets received")
    });
    inside(&daemon, "b", "touch /go");
    daemon.eventually("it is one of its own", |daemon| {
        daemon.run("event ls -f kind=vm.identity,name=b").contains("of its own")
    });
    daemon.run("vm delete --all --yes --force");
    daemon.run("network delete lan");
}

#[test]
fn a_guest_becomes_itself_under_the_daemon_after_one_that_was_killed_meanwhile() {
    let mut daemon = Daemon::start();
    start(&daemon, "a", &[]);
    // What sets the name waits, so that the daemon dies before the system is one of its own.
    slow_to_be_named(&daemon, "a");
    daemon.run("vm snapshot create a base --memory");
    daemon.run("vm create b --from-saved a/base");
    daemon.kill();
    daemon.start_again();
    inside(&daemon, "b", "touch /go");
    daemon.eventually("it is one of its own", |daemon| {
        daemon.run("event ls -f kind=vm.identity,name=b").contains("of its own")
    });
    assert_eq!(inside(&daemon, "b", "cat /proc/sys/kernel/hostname"), "b");
}

#[test]
fn a_daemon_that_is_killed_while_a_guest_goes_back_has_not_begun_or_the_next_one_does_it() {
    let mut daemon = Daemon::start();
    daemon.guest("a", &waits(), "--new-disk 1M --no-restart");
    daemon.run("vm snapshot create a one");
    daemon.run("vm snapshot create a two");
    for round in 0..16u64 {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tessera"));
        command.env("TESSERA_HOST", daemon.state().join("host.sock"));
        command.args(["vm", "snapshot", "revert", "a", "one", "--force"]);
        let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20 + round * 5));
        daemon.kill();
        let acknowledged = child.wait().unwrap().success();
        daemon.start_again();
        let went = daemon.json("vm snapshot show a one")["current"] == true;
        // Not one that has crashed: its plug was pulled by whoever wanted it to go back.
        assert_eq!(daemon.state_of("a"), if went { "stopped" } else { "running" }, "round {round}");
        assert!(went || !acknowledged, "round {round}");
        assert_eq!(daemon.vm("a")["status"]["pid"].is_u64(), !went, "round {round}");
        daemon.run("vm snapshot revert a two --force");
        daemon.run("vm start a");
    }
    daemon.run("vm delete a --force");
    assert!(daemon.leftovers().is_empty());
}

#[test]
fn file_systems_that_a_daemon_made_rest_go_on_under_the_one_after_it() {
    let mut daemon = Daemon::start();
    // What is to be written before they rest takes seconds, in which the daemon dies.
    start(&daemon, "a", &["--new-disk", "32M,bps=1M"]);
    inside(&daemon, "a", "mke2fs -F /dev/vda >/dev/null; mkdir /mnt; mount -t ext4 /dev/vda /mnt");
    inside(&daemon, "a", "dd if=/dev/zero of=/mnt/much bs=64k count=48 2>/dev/null");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tessera"));
    command.env("TESSERA_HOST", daemon.state().join("host.sock"));
    command.args(["vm", "snapshot", "create", "a", "s", "--quiesce"]);
    let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(1));
    daemon.kill();
    assert!(!child.wait().unwrap().success(), "it was to take longer");
    daemon.start_again();
    // While they rest the agent runs no program.
    daemon.eventually("it writes", |daemon| {
        let writes = ["vm", "exec", "a", "--", "sh", "-c", "echo after >/mnt/after && sync"];
        tessera(daemon, &writes, "").status.success()
    });
    daemon.run("vm snapshot create a s --quiesce");
}

#[test]
fn nothing_is_made_of_a_guest_that_is_half_way_back_to_a_snapshot() {
    let daemon = Daemon::start();
    start(&daemon, "a", &["--new-disk", "1M"]);
    let id = daemon.vm("a")["id"].as_str().unwrap().to_owned();
    daemon.run("vm snapshot create a one --memory");
    let snapshot = daemon.json("vm snapshot show a one")["id"].as_str().unwrap().to_owned();
    // What its memory was cannot be had for a while, which is seen when its disks are what they were.
    let place = daemon.state().join("vms").join(id).join("snapshots").join(snapshot);
    let hidden = place.with_extension("hidden");
    std::fs::rename(&place, &hidden).unwrap();
    assert_ne!(daemon.fails("vm snapshot revert a one --force").0, Some(0));
    assert_eq!(daemon.state_of("a"), "stopped");
    for words in ["vm snapshot create a two", "vm clone a b --instant", "vm start a"] {
        let (code, said) = daemon.fails(words);
        assert!(code == Some(5) && said.contains("half"), "{words}: {code:?} {said}");
    }
    std::fs::rename(&hidden, &place).unwrap();
    daemon.run("vm snapshot revert a one");
    answers(&daemon, "a");
    daemon.run("vm delete a --force");
    assert!(daemon.leftovers().is_empty());
}

#[test]
fn what_cannot_be_a_snapshot_is_refused_and_nothing_stays() {
    let daemon = Daemon::start();
    std::fs::write(daemon.state().join("file"), [0; 4096]).unwrap();
    let file = daemon.state().join("file").display().to_string();
    daemon.guest("a", &waits(), "--new-disk 1M");
    daemon.guest("b", &waits(), &format!("--new-disk 1M --disk {file}"));
    daemon.run("vm snapshot create a one");
    for (words, status, wrong) in [
        ("vm snapshot create a one", 5, "already"),
        ("vm snapshot create a two --quiesce", 5, "do not rest"),
        ("vm snapshot create a -x", 2, "-x"),
        ("vm snapshot create b one", 5, "file"),
        ("vm snapshot create nobody one", 4, "nobody"),
        ("vm snapshot show a none", 4, "no snapshot"),
        ("vm snapshot revert a none", 4, "no snapshot"),
        ("vm snapshot delete a none", 4, "no snapshot"),
        ("vm clone a c --snapshot none", 4, "no snapshot"),
    ] {
        let (ended, said) = daemon.fails(words);
        assert!(ended == Some(status) && said.contains(wrong), "{words}: {ended:?} {said}");
    }
    assert_eq!(layers(&daemon), 1);
    daemon.run("vm stop a");
    let (status, said) = daemon.fails("vm snapshot create a two --memory");
    assert!(status == Some(5) && said.contains("stopped"), "{said}");
    daemon.run("vm snapshot create a two");
    assert_eq!(tree(&daemon, "a"), ["one", "└─ two *"]);
    daemon.run("vm delete a");
    daemon.run("vm delete b --force");
    assert_eq!(layers(&daemon), 0);
    assert!(daemon.leftovers().is_empty());
}

#[test]
fn a_snapshot_gets_another_name_and_description() {
    let mut daemon = Daemon::start();
    daemon.guest("a", &waits(), "--new-disk 1M");
    daemon.run("vm snapshot create a one --description first");
    daemon.run("vm snapshot create a two");
    let before = daemon.json("vm snapshot show a one");
    daemon.run("vm snapshot edit a one --name uno --description changed");
    let after = daemon.json("vm snapshot show a uno");
    assert_eq!((&after["id"], &after["created"]), (&before["id"], &before["created"]));
    assert_eq!((&after["name"], &after["description"]), (&"uno".into(), &"changed".into()));
    daemon.run("vm snapshot edit a uno --description once");
    assert_eq!(tree(&daemon, "a"), ["uno", "└─ two *"]);
    assert!(daemon.run("event ls -f kind=vm.snapshot-edited").contains("one is called uno now"));
    for (words, status, wrong) in [
        ("vm snapshot edit a uno --name two", 5, "already"),
        ("vm snapshot edit a uno --name -x", 2, "-x"),
        ("vm snapshot edit a uno", 2, "--name"),
        ("vm snapshot edit a one --name three", 4, "no snapshot"),
    ] {
        let (ended, said) = daemon.fails(words);
        assert!(ended == Some(status) && said.contains(wrong), "{words}: {ended:?} {said}");
    }
    let ask = |method: &str, headers: &str, body: serde_json::Value| {
        http::ask(&daemon, method, "/vms/a/snapshots/uno", headers, &body)
    };
    let answer = ask("GET", "", serde_json::Value::Null);
    let tag = answer.head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
    let patch = serde_json::json!({ "description": "twice" });
    let changed = ask("PATCH", &format!("If-Match: {tag}\r\n"), patch.clone());
    assert_eq!(changed.status, 200, "{}", changed.text);
    // It has another version now; and what is wrong is named.
    assert_eq!(ask("PATCH", &format!("If-Match: {tag}\r\n"), patch).status, 412);
    let wrong = ask("PATCH", "", serde_json::json!({ "memory": 1 }));
    assert!(wrong.status == 422 && wrong.text.contains("memory"), "{} {}", wrong.status, wrong.text);
    daemon.kill();
    daemon.start_again();
    assert_eq!(daemon.json("vm snapshot show a uno")["description"], "twice");
}

#[test]
fn a_daemon_that_is_killed_meanwhile_leaves_a_snapshot_or_none() {
    let mut daemon = Daemon::start();
    daemon.guest("a", &waits(), "--new-disk 4M");
    let mut known: Vec<String> = Vec::new();
    for round in 0..12u32 {
        let name = format!("s{round}");
        let words = match round % 4 {
            0 | 1 => format!("vm snapshot create a {name}"),
            2 => format!("vm snapshot create a {name} --memory"),
            _ => format!("vm snapshot delete a {}", known.first().cloned().unwrap_or_default()),
        };
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tessera"));
        command.env("TESSERA_HOST", daemon.state().join("host.sock"));
        let mut child = command.args(words.split(' ')).stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(u64::from(round * 11 % 60)));
        daemon.kill();
        let acknowledged = child.wait().unwrap().success();
        daemon.start_again();
        assert_eq!(daemon.state_of("a"), "running", "round {round}");
        let now: Vec<String> = daemon
            .json("vm snapshot ls a")
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect();
        if round % 4 == 3 {
            assert!(!acknowledged || known.first().is_none_or(|first| !now.contains(first)), "round {round}");
        } else {
            assert!(!acknowledged || now.contains(&name), "round {round}: {now:?}");
        }
        assert!(now.iter().all(|one| *one == name || known.contains(one)), "round {round}: {now:?}");
        known = now;
    }
    for name in &known {
        daemon.run(&format!("vm snapshot delete a {name}"));
    }
    daemon.run("vm stop a");
    daemon.eventually("no layer stays", |daemon| layers(daemon) == 0);
    daemon.run("vm start a");
    daemon.run("vm delete a --force");
    assert!(daemon.leftovers().is_empty());
}
