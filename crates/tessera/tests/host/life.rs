//! What guests go through.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::agent::start;
use crate::guest::Code;
use crate::snapshots::{answers, inside};
use crate::{Daemon, PANIC, POWER_OFF, kill, processes_of, waits};

#[test]
fn a_guest_lives_from_create_to_delete_and_leaves_nothing() {
    let daemon = Daemon::start();
    daemon.guest("a", &waits(), "--new-disk 10M --label env=test --description first");
    assert_eq!(daemon.state_of("a"), "running");
    daemon.eventually("it says so", |daemon| daemon.run("vm log a") == "it runs\n");
    assert_eq!(daemon.run("vm ls -o name"), "a\n");
    assert_eq!(daemon.run("vm ls -f label.env=test,state=running -o name"), "a\n");
    assert_eq!(daemon.run("vm ls -f state=stopped -o name"), "");
    daemon.run("vm pause a");
    assert_eq!(daemon.state_of("a"), "paused");
    daemon.run("vm resume a");
    daemon.run("vm reset a");
    daemon.eventually("it starts anew", |daemon| daemon.run("vm log a") == "it runs\nit runs\n");
    assert_eq!(daemon.json("vm stats a")["memory"], 32 << 20);
    daemon.run("vm edit a --name b --label env= --memory 64M");
    let vm = daemon.vm("b");
    assert_eq!((&vm["memory"], &vm["labels"]), (&Value::from(64 << 20), &serde_json::json!({})));
    assert_eq!(vm["status"]["pending_restart"], true);
    assert_eq!(daemon.fails("vm delete b").0, Some(5), "it runs");
    daemon.run("vm stop b");
    daemon.run("vm start b");
    assert_eq!(daemon.json("vm stats b")["memory"], 64 << 20);
    daemon.run("vm delete b --force");
    assert_eq!(daemon.json("vm ls"), serde_json::json!([]));
    assert_eq!(daemon.leftovers(), Vec::<std::path::PathBuf>::new());
    assert!(processes_of(&daemon.state()).is_empty());
    let events = daemon.json("event ls");
    let kinds: Vec<_> =
        events.as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap()).collect();
    let wanted = [
        "host.started",
        "vm.created",
        "vm.started",
        "vm.paused",
        "vm.resumed",
        "vm.reset",
        "vm.edited",
        "task.failed",
        "vm.stopped",
        "vm.started",
        "vm.stopped",
        "vm.deleted",
    ];
    assert_eq!(kinds, wanted);
}

#[test]
fn how_a_guest_ends_is_told_with_its_last_words_and_what_follows_is_its_policy() {
    let daemon = Daemon::start();
    let off = Code::default().print("going\n").out(POWER_OFF.0, POWER_OFF.1).spin();
    daemon.guest("off", &off, "");
    daemon.eventually("it stops", |daemon| daemon.state_of("off") == "stopped");
    let end = &daemon.vm("off")["status"]["last_end"];
    assert_eq!((&end["kind"], &end["console"]), (&Value::from("power-off"), &serde_json::json!(["going"])));

    let panics = Code::default().print("oh no\n").out(PANIC.0, PANIC.1).spin();
    daemon.guest("stays", &panics, "--no-restart");
    daemon.eventually("it crashes", |daemon| daemon.state_of("stays") == "crashed");
    let end = &daemon.vm("stays")["status"]["last_end"];
    assert_eq!((&end["kind"], &end["console"]), (&Value::from("panic"), &serde_json::json!(["oh no"])));

    daemon.guest("again", &panics, "");
    let restarts = |daemon: &Daemon| daemon.vm("again")["status"]["restarts"].as_u64().unwrap();
    daemon.eventually("it is started again, later each time", |daemon| restarts(daemon) >= 2);
    daemon.run("vm stop again");
    assert_eq!(daemon.state_of("again"), "stopped");
}

#[test]
fn a_process_that_is_killed_is_noticed_and_started_again() {
    let daemon = Daemon::start();
    daemon.guest("a", &waits(), "");
    let pid = daemon.vm("a")["status"]["pid"].as_u64().unwrap() as u32;
    kill(pid, libc::SIGKILL);
    daemon.eventually("it runs in another process", |daemon| {
        let status = &daemon.vm("a")["status"];
        status["state"] == "running" && status["pid"] != pid
    });
    let vm = daemon.vm("a");
    let end = &vm["status"]["last_end"];
    assert_eq!((&end["kind"], &vm["status"]["restarts"]), (&Value::from("killed"), &Value::from(1)));
    assert!(end["message"].as_str().unwrap().contains("signal 9"), "{end}");
    assert_eq!(end["console"], serde_json::json!(["it runs"]));
}

#[test]
fn a_guest_that_does_not_power_itself_off_goes_on_or_is_forced() {
    let daemon = Daemon::start();
    daemon.guest("deaf", &waits(), "");
    let (status, said) = daemon.fails("vm shutdown deaf --deadline 1");
    assert_eq!(status, Some(5));
    assert!(said.contains("still runs"), "{said}");
    assert_eq!(daemon.state_of("deaf"), "running");
    daemon.run("vm shutdown deaf --deadline 1 --force");
    assert_eq!(daemon.state_of("deaf"), "stopped");
}

#[test]
fn two_consoles_hear_the_same_and_both_can_type() {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};
    let daemon = Daemon::start();
    // Waits for a byte at the serial line, and says it again: l: mov dx, 0x3fd; in al, dx; test al, 1; jz l; mov dx, 0x3f8;
    // in al, dx; out dx, al; jmp l.
    let echo = [
        0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf7, 0x66, 0xba, 0xf8, 0x03, 0xec, 0xee, 0xeb, 0xef,
    ];
    daemon.guest("echo", &Code::default().print("say\n").bytes(&echo), "");
    let open = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
        command.env("TESSERA_HOST", daemon.state().join("host.sock")).args(["console", "echo"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut consoles = [open(), open()];
    let hear = |console: &mut std::process::Child, text: &str| {
        let mut heard = vec![0; text.len()];
        console.stdout.as_mut().unwrap().read_exact(&mut heard).unwrap();
        assert_eq!(String::from_utf8_lossy(&heard), text);
    };
    consoles.iter_mut().for_each(|console| hear(console, "say\n"));
    consoles[0].stdin.as_mut().unwrap().write_all(b"one").unwrap();
    consoles.iter_mut().for_each(|console| hear(console, "one"));
    consoles[1].stdin.as_mut().unwrap().write_all(b"two").unwrap();
    consoles.iter_mut().for_each(|console| hear(console, "two"));
    // Ctrl-] ends one, the guest's end the other.
    consoles[0].stdin.as_mut().unwrap().write_all(&[0x1d]).unwrap();
    assert!(consoles[0].wait().unwrap().success());
    daemon.run("vm stop echo");
    assert!(consoles[1].wait().unwrap().success());
}

#[test]
fn what_was_written_is_on_the_disk_when_the_plug_is_pulled_however_slow_its_process_is() {
    let daemon = Daemon::start();
    start(&daemon, "a", &["--new-disk", "16M"]);
    inside(&daemon, "a", "echo written >/dev/vda; sync");
    let pid = Pid::from_raw(daemon.vm("a")["status"]["pid"].as_i64().unwrap() as i32).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| daemon.run("vm stop a"));
        std::thread::sleep(Duration::from_secs(4));
        kill_process(pid, Signal::CONT).unwrap();
    });
    daemon.run("vm start a");
    answers(&daemon, "a");
    assert_eq!(inside(&daemon, "a", "head -n 1 /dev/vda"), "written");
}
