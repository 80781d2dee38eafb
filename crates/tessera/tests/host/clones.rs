//! Guests made at once of what another one is now.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::agent::start;
use crate::snapshots::{answers, inside, layers};
use crate::{Daemon, http, waits};

/// The names of all guests.
fn names(daemon: &Daemon) -> Vec<String> {
    let all = daemon.json("vm ls");
    all.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
}

/// What is kept of a guest's memory for others.
fn saved(daemon: &Daemon, name: &str) -> usize {
    let id = daemon.vm(name)["id"].as_str().unwrap().to_owned();
    let folder = daemon.state().join("vms").join(id).join("snapshots");
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

#[test]
fn a_guest_that_runs_is_cloned_at_once_and_both_go_on() {
    let daemon = Daemon::start();
    start(&daemon, "a", &["--new-disk", "16M"]);
    inside(&daemon, "a", "echo base >/dev/vda; sync; hostname a");
    inside(&daemon, "a", "echo here >/in-memory; sleep 1000 >/dev/null 2>&1 & echo $! >/pid");
    daemon.run("vm clone a b --instant --start");
    assert_eq!((daemon.state_of("a"), daemon.state_of("b")), ("running".into(), "running".into()));
    // What they share is no snapshot, and only they hold it.
    assert_eq!(daemon.json("vm snapshot ls a").as_array().unwrap().len(), 0);
    assert_eq!((layers(&daemon), saved(&daemon, "a")), (1, 0));
    inside(&daemon, "a", "echo after >/dev/vda; sync; echo there >/in-memory");
    daemon.eventually("it is one of its own", |daemon| {
        daemon.run("event ls -f kind=vm.identity,name=b").contains("of its own")
    });
    assert!(daemon.run("event ls -f kind=vm.cloned,name=a").contains("was cloned as b"));
    let seen = "hostname; cat /in-memory; kill -0 $(cat /pid) && echo lives; head -n 1 /dev/vda";
    assert_eq!(inside(&daemon, "b", seen), "b\nhere\nlives\nbase");
    assert_eq!(inside(&daemon, "a", seen), "a\nthere\nlives\nafter");
    // The kernel of this guest (6.1, for clouds) has no driver for the generation id.
    let random = ["a", "b"].map(|name| inside(&daemon, name, "cat /proc/sys/kernel/random/uuid"));
    assert_ne!(random[0], random[1]);

    // A clone can be cloned, and waits where it is until it is started.
    inside(&daemon, "b", "echo second >/in-memory; echo second >/dev/vda; sync");
    daemon.run("vm clone b c --instant");
    assert_eq!(daemon.state_of("c"), "suspended");
    daemon.run("vm delete b --force");
    daemon.run("vm start c");
    answers(&daemon, "c");
    assert_eq!(inside(&daemon, "c", "cat /in-memory; head -n 1 /dev/vda"), "second\nsecond");

    // One that does not run has no memory to share.
    daemon.run("vm stop a");
    daemon.run("vm clone a d --instant");
    assert_eq!(daemon.state_of("d"), "stopped");
    daemon.run("vm start d");
    answers(&daemon, "d");
    assert_eq!(inside(&daemon, "d", "head -n 1 /dev/vda"), "after");
    for name in ["d", "c"] {
        daemon.run(&format!("vm delete {name} --force"));
    }
    daemon.eventually("what nobody shares any more is gone", |daemon| layers(daemon) == 0);
    daemon.run("vm start a");
    answers(&daemon, "a");
    assert_eq!(inside(&daemon, "a", "head -n 1 /dev/vda"), "after");
    daemon.run("vm delete a --force");
    assert!(daemon.leftovers().is_empty());
}

#[test]
fn a_guest_that_goes_on_from_storage_seeds_its_random_numbers_anew() {
    let daemon = Daemon::start();
    start(&daemon, "a", &[]);
    // What it is told is kept instead.
    inside(&daemon, "a", "rm /dev/urandom; : >/dev/urandom");
    daemon.run("vm snapshot create a base --memory");
    let mut told = vec![String::new()];
    for back in ["snapshot revert a base --force", "snapshot revert a base --force", "suspend a"] {
        daemon.run(&format!("vm {back}"));
        if daemon.state_of("a") != "running" {
            daemon.run("vm start a");
        }
        daemon.eventually("it is told what nobody else knows", |daemon| {
            let secret = inside(daemon, "a", "cat /dev/urandom");
            let new = !told.contains(&secret);
            told.push(secret);
            new
        });
    }
    assert!(told.iter().all(|secret| secret.is_empty() || secret.len() == 64), "{told:?}");
}

#[test]
fn what_cannot_be_cloned_at_once_is_refused_and_leaves_nothing() {
    let daemon = Daemon::start();
    std::fs::write(daemon.state().join("file"), [0; 4096]).unwrap();
    let file = daemon.state().join("file").display().to_string();
    daemon.guest("a", &waits(), "--new-disk 1M");
    daemon.guest("b", &waits(), &format!("--disk {file}"));
    for (words, status, wrong) in [
        ("vm clone a b --instant", 5, "b"),
        ("vm clone b c --instant", 5, "only one guest can write to"),
        ("vm clone nobody c --instant", 4, "nobody"),
        ("vm clone a c --instant --snapshot s", 2, "--snapshot"),
        ("vm clone a c", 5, "instantly"),
    ] {
        let (ended, said) = daemon.fails(words);
        assert!(ended == Some(status) && said.contains(wrong), "{words}: {ended:?} {said}");
    }
    let wanted = serde_json::json!({ "name": "c", "instant": true, "snapshot": "s" });
    let answer = http::ask(&daemon, "POST", "/vms/a/clone", "", &wanted);
    assert!(answer.status == 422 && answer.text.contains("/instant"), "{} {}", answer.status, answer.text);
    daemon.run("vm suspend a");
    let (status, said) = daemon.fails("vm clone a c --instant");
    assert!(status == Some(5) && said.contains("suspended"), "{said}");
    assert_eq!((layers(&daemon), saved(&daemon, "a"), names(&daemon).len()), (0, 0, 2));
}

#[test]
fn a_clone_that_is_called_off_is_whole_or_leaves_nothing() {
    let daemon = Daemon::start();
    daemon.guest("a", &waits(), "--new-disk 4M");
    for round in 0..6u64 {
        let before = names(&daemon).len();
        let wanted = serde_json::json!({ "name": format!("c{round}"), "instant": true });
        let answer = http::ask(&daemon, "POST", "/vms/a/clone", "", &wanted);
        let id = answer.body["id"].as_str().unwrap();
        std::thread::sleep(Duration::from_millis(round * 7));
        http::ask(&daemon, "DELETE", &format!("/tasks/{id}"), "", &serde_json::Value::Null);
        daemon.eventually("it has ended", |daemon| {
            daemon.json(&format!("task show {id}"))["state"] != "running"
        });
        let state = daemon.json(&format!("task show {id}"))["state"].clone();
        assert!(state == "done" || state == "cancelled", "{state}");
        assert_eq!(names(&daemon).len(), before + usize::from(state == "done"), "{state}");
        assert_eq!((daemon.state_of("a"), saved(&daemon, "a")), ("running".into(), 0));
    }
    daemon.run("vm delete --all --yes --force");
    daemon.eventually("no layer stays", |daemon| layers(daemon) == 0);
    assert!(daemon.leftovers().is_empty());
}

#[test]
fn a_daemon_that_is_killed_meanwhile_leaves_a_clone_or_nothing() {
    let mut daemon = Daemon::start();
    daemon.guest("a", &waits(), "--new-disk 4M");
    for round in 0..8u64 {
        let before = names(&daemon).len();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
        command.env("TESSERA_HOST", daemon.state().join("host.sock"));
        let name = format!("c{round}");
        command.args(["vm", "clone", "a", &name, "--instant"]);
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(round * 11));
        daemon.kill();
        let acknowledged = child.wait().unwrap().success();
        daemon.start_again();
        assert_eq!((daemon.state_of("a"), saved(&daemon, "a")), ("running".into(), 0), "round {round}");
        let there = names(&daemon).contains(&name);
        assert!(there || !acknowledged, "round {round}");
        assert_eq!(names(&daemon).len(), before + usize::from(there), "round {round}");
        if there {
            daemon.run(&format!("vm start {name}"));
            assert_eq!(daemon.state_of(&name), "running", "round {round}");
        }
    }
    daemon.run("vm stop a");
    for name in names(&daemon).iter().filter(|name| *name != "a") {
        daemon.run(&format!("vm delete {name} --force"));
    }
    daemon.eventually("no layer stays", |daemon| layers(daemon) == 0);
    daemon.run("vm delete a");
    assert!(daemon.leftovers().is_empty());
}
