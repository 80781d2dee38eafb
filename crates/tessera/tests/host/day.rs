//! A day in the life of a host, from the command line's side: an image, a pool, a network, a template, ten guests of it, and all that
//! happens to them until nothing of them is left.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::agent::{tessera, tiny, told};
use crate::{Daemon, kill, processes_of};

/// How many guests there are.
const GUESTS: usize = 10;

/// Has a guest read what is on the disk that was added as its number 1.
const DISC: &str =
    "serial=$(grep -l tessera-1 /sys/block/*/serial); disk=${serial%/serial}; head -c 6 /dev/${disk##*/}";

fn all() -> Vec<String> {
    (0..GUESTS).map(|n| format!("g{n}")).collect()
}

/// What a program in a guest writes.
fn inside(daemon: &Daemon, name: &str, line: &str) -> String {
    let (status, out, errors) = told(&tessera(daemon, &["vm", "exec", name, "--", "sh", "-c", line], ""));
    assert_eq!(status, Some(0), "{name}: {line}: {errors}");
    out.trim().to_owned()
}

/// Ten that boot at once take their time, each on its share of the machine.
const BOOTS: Duration = Duration::from_secs(900);

fn all_answer(daemon: &Daemon) {
    let start = Instant::now();
    for name in all() {
        while !daemon.tessera(&format!("vm agent {name}")).status.success() {
            assert!(start.elapsed() < BOOTS, "{name} says {}", daemon.run(&format!("vm log {name}")));
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

fn pids(daemon: &Daemon) -> Vec<u32> {
    all().iter().map(|name| daemon.vm(name)["status"]["pid"].as_u64().unwrap() as u32).collect()
}

/// What a program says that sees the daemon's network.
fn network(pid: u32, words: &str) -> String {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{pid}/ns/net")).args(words.split_whitespace());
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}

/// What a guest answers to somebody who logs in over its network with the key that cloud-init was given.
fn over_ssh(daemon: &Daemon, pid: u32, address: &str, line: &str) -> String {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{pid}/ns/net")).arg("ssh").arg("-i").arg(daemon.state().join("key"));
    let options =
        ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes", "LogLevel=ERROR"];
    command.args(options.iter().flat_map(|option| ["-o", option]));
    command.arg(format!("root@{address}")).arg(line);
    let start = Instant::now();
    loop {
        let output = command.output().unwrap();
        if output.status.success() {
            return String::from_utf8(output.stdout).unwrap().trim().to_owned();
        }
        assert!(start.elapsed() < BOOTS, "{address}: {}", String::from_utf8_lossy(&output.stderr));
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// What comes from the consoles of two guests, each of which writes its own words.
fn both_consoles_are_heard(daemon: &Daemon, names: [&str; 2]) {
    let mut consoles = names.map(|name| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
        command.env("TESSERA_HOST", daemon.state().join("host.sock")).args(["vm", "console", name]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    });
    for name in names {
        inside(daemon, name, "echo on $(hostname) $((40 + 2)) >/dev/console");
    }
    for (console, name) in consoles.iter_mut().zip(names) {
        let mut lines = BufReader::new(console.stdout.take().unwrap()).lines();
        let line = format!("on {name} 42");
        assert!(lines.any(|heard| heard.unwrap().contains(&line)), "{name}: its console ended");
        console.stdin.take().unwrap().write_all(&[0x1d]).unwrap();
        assert!(console.wait().unwrap().success());
    }
}

/// Makes an image, a pool with a volume, a network, and a template of guests.
fn prepare(daemon: &Daemon) {
    let key = daemon.state().join("key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
    assert!(made.unwrap().success());
    let key = std::fs::read_to_string(key.with_extension("pub")).unwrap();
    let initrd = daemon.state().join("initrd");
    let parts = ["initramfs", "agent", "ssh"].map(|part| std::fs::read(tiny(part)).expect("make guests"));
    std::fs::write(&initrd, parts.concat()).unwrap();
    let disk = daemon.state().join("disk");
    std::fs::write(&disk, vec![0; 4 << 20]).unwrap();
    let (disk, kernel, initrd) = (disk.display(), tiny("vmlinuz"), initrd.display());
    let imported =
        format!("image import {disk} --name tiny:1 --kernel {} --initrd {initrd} --append", kernel.display());
    let mut words: Vec<&str> = imported.split(' ').collect();
    words.push("console=ttyS0 quiet do=agent");
    let imported = tessera(daemon, &words, "");
    assert!(imported.status.success(), "{imported:?}");
    let place = daemon.state().join("second");
    daemon.run(&format!("pool create second {}", place.display()));
    std::fs::write(daemon.state().join("disc"), format!("{:512}", "a disc")).unwrap();
    let disc = daemon.state().join("disc");
    daemon.run(&format!("volume upload {} disc --pool second", disc.display()));
    daemon.run("network create lan --subnet 10.81.0.0/24");
    let definition = json!({
        "cpus": 1, "cpus_max": 2, "memory": "96M", "engine": "soft",
        "disks": [{ "image": "tiny:1" }], "nics": [{ "network": { "named": "lan" } }],
        "cloud_init": { "user": { "name": "root", "ssh_keys": [key.trim()] } },
    });
    let made = tessera(daemon, &["template", "create", "small", "--definition", &definition.to_string()], "");
    assert!(made.status.success(), "{made:?}");
}

#[test]
fn a_day_in_the_life_of_a_host_leaves_nothing_behind() {
    let Some(mut daemon) = Daemon::start_apart() else { return };
    let pid = daemon.child.as_ref().unwrap().id();
    // The namespace goes with the last process in it, so one stays.
    let mut keeper = Command::new("nsenter");
    let mut keeper = keeper.arg(format!("--net=/proc/{pid}/ns/net")).args(["sleep", "1000"]).spawn().unwrap();
    prepare(&daemon);
    for name in all() {
        daemon.run(&format!("vm create {name} --template small"));
    }
    daemon.run("vm edit g5 --patch {\"on_crash\":\"stop\"}");
    daemon.run(&format!("vm start {}", all().join(" ")));
    all_answer(&daemon);
    for name in all() {
        let address = daemon.vm(&name)["nics"][0]["address"].as_str().unwrap().to_owned();
        let said = over_ssh(&daemon, keeper.id(), &address, "hostname; ip -4 -o addr show eth0");
        assert!(said.starts_with(&name) && said.contains(&format!("{address}/24")), "{name}: {said}");
    }
    let first = daemon.vm("g0")["nics"][0]["address"].as_str().unwrap().to_owned();
    for name in &all()[1..] {
        inside(&daemon, name, &format!("ping -c 1 -W 10 {first}"));
    }

    // What they are changes while they run.
    daemon.run("vm edit g0 --cpus 2 --live");
    daemon.eventually("it uses both", |daemon| {
        inside(daemon, "g0", "cat /sys/devices/system/cpu/online") == "0-1"
    });
    daemon.run("vm disk add g1 --volume second/disc,ro");
    assert_eq!(inside(&daemon, "g1", DISC), "a disc");
    inside(&daemon, "g2", "echo kept >/dev/vda; sync");

    both_consoles_are_heard(&daemon, ["g6", "g7"]);

    daemon.run("vm reboot --all --deadline 240");
    all_answer(&daemon);
    assert_eq!(inside(&daemon, "g2", "head -n 1 /dev/vda"), "kept");
    assert_eq!(inside(&daemon, "g1", DISC), "a disc");

    // The daemon and three guests die in the middle of something.
    let before = pids(&daemon);
    let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
    command.env("TESSERA_HOST", daemon.state().join("host.sock")).args(["vm", "clone", "g9", "late"]);
    let mut unfinished = command.stderr(Stdio::null()).spawn().unwrap();
    daemon.kill();
    for n in [3, 4, 5] {
        kill(before[n], libc::SIGKILL);
    }
    unfinished.wait().unwrap();
    daemon.start_in_namespace_of(keeper.id());
    for name in ["g3", "g4"] {
        daemon.eventually("it starts again", |daemon| daemon.state_of(name) == "running");
    }
    assert_eq!(daemon.state_of("g5"), "crashed");
    daemon.run("vm start g5");
    all_answer(&daemon);
    let after = pids(&daemon);
    for n in (0..GUESTS).filter(|n| ![3, 4, 5].contains(n)) {
        assert_eq!(before[n], after[n], "g{n} has noticed");
    }
    assert_eq!(inside(&daemon, "g2", "head -n 1 /dev/vda"), "kept");

    daemon.run("vm delete --all --yes --force");
    daemon.run("template delete small");
    daemon.run("volume delete disc --pool second");
    daemon.run("pool delete second");
    daemon.run("network delete lan");
    daemon.run("image delete tiny:1");
    assert!(daemon.leftovers().is_empty());
    assert!(processes_of(&daemon.state()).is_empty());
    assert_eq!(daemon.json("volume ls"), json!([]));
    let links: Value = serde_json::from_str(&network(keeper.id(), "ip -j link")).unwrap();
    assert_eq!(links.as_array().unwrap().len(), 1, "{links}");
    assert_eq!(network(keeper.id(), "nft list ruleset"), "");
    keeper.kill().unwrap();
    keeper.wait().unwrap();
}
