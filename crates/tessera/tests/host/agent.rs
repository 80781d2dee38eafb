//! What is done inside a guest: the real agent in a real Linux, small enough to boot for a test.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::{Daemon, waits};

pub fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../build/tiny").join(name)
}

/// Runs `tessera` with these words, which may have spaces, and this input.
pub fn tessera(daemon: &Daemon, words: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
    command.env("TESSERA_HOST", daemon.state().join("host.sock")).args(words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

pub fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Makes and starts the tiny guest with its agent, and waits for it.
pub fn start(daemon: &Daemon, name: &str, more: &[&str]) {
    let mut archive = Vec::new();
    for part in ["initramfs", "agent"] {
        let path = tiny(part);
        archive.extend(std::fs::read(&path).unwrap_or_else(|_| panic!("{}: make guests", path.display())));
    }
    let initrd = daemon.state().join("initrd");
    std::fs::write(&initrd, archive).unwrap();
    let (kernel, initrd) = (tiny("vmlinuz"), initrd.display().to_string());
    let words = ["vm", "create", name, "--kernel", kernel.to_str().unwrap(), "--initrd", &initrd];
    let rest = [
        "--append",
        "console=ttyS0 quiet do=agent memhp_default_state=online_movable",
        "--memory",
        "128M",
        "--engine",
        "soft",
        "--start",
    ];
    let made = tessera(daemon, &[&words[..], &rest, more].concat(), "");
    assert!(made.status.success(), "{made:?}");
    daemon.eventually("its agent answers", |daemon| {
        daemon.tessera(&format!("vm agent {name}")).status.success()
    });
}

#[test]
fn the_agent_runs_programs_sets_passwords_and_powers_its_guest_off() {
    let daemon = Daemon::start();
    start(&daemon, "a", &[]);
    let info = daemon.json("vm agent a");
    assert!(info["kernel"].as_str().unwrap().contains("cloud"), "{info}");
    assert_eq!(info["interfaces"][0]["name"], "lo", "{info}");

    // Linux trusts its timers to go on while its processor sleeps, so that it can do without a tick (kernel, Documentation/timers/no_hz).
    let timers =
        tessera(&daemon, &["vm", "exec", "a", "--", "grep", "-m1", "resolution", "/proc/timer_list"], "");
    assert!(told(&timers).1.ends_with(" 1 nsecs\n"), "{timers:?}");

    let ran = tessera(&daemon, &["vm", "exec", "a", "--", "sh", "-c", "echo yes; echo no >&2; exit 3"], "");
    assert_eq!(told(&ran), (Some(3), "yes\n".into(), "no\n".into()));
    let ran = tessera(&daemon, &["vm", "exec", "a", "-i", "--", "tr", "a-z", "A-Z"], "typed in\n");
    assert_eq!(told(&ran), (Some(0), "TYPED IN\n".into(), String::new()));
    let ran = tessera(
        &daemon,
        &["vm", "exec", "a", "-e", "X=a b", "--", "/bin/sh", "-c", "echo $X; kill -9 $$"],
        "",
    );
    assert_eq!(told(&ran), (Some(128 + 9), "a b\n".into(), String::new()));
    let (status, _, errors) = told(&tessera(&daemon, &["vm", "exec", "a", "--", "no-such-program"], ""));
    assert_eq!((status, errors.lines().count()), (Some(5), 1), "{errors}");
    let slow = ["vm", "exec", "a", "--timeout", "1", "--", "sleep", "1000"];
    let (status, _, errors) = told(&tessera(&daemon, &slow, ""));
    assert!(status == Some(5) && errors.contains("runs on in the guest"), "{status:?} {errors}");

    assert_eq!(told(&tessera(&daemon, &["vm", "passwd", "a", "root"], "secret word\n")).0, Some(0));
    daemon.eventually("it has it", |daemon| daemon.run("vm log a").contains("new password root:secret word"));
    assert_eq!(told(&tessera(&daemon, &["vm", "passwd", "a", "nobody"], "secret\n")).0, Some(5));
    assert_eq!(told(&tessera(&daemon, &["vm", "passwd", "a", "root"], "\n")).0, Some(2));
    assert!(!daemon.run("event ls -o json").contains("secret"), "what is secret is in no event");

    daemon.run("vm shutdown a");
    assert_eq!(daemon.state_of("a"), "stopped");
    assert!(daemon.run("vm log a").contains("the agent powers off"));
}

#[test]
fn a_program_is_waited_for_while_its_guest_does_not_get_on() {
    let daemon = Daemon::start();
    start(&daemon, "a", &[]);
    let line = ["vm", "exec", "a", "--", "sh", "-c", "echo begun >/dev/ttyS0; sleep 2; echo ended; exit 7"];
    std::thread::scope(|scope| {
        let ran = scope.spawn(|| told(&tessera(&daemon, &line, "")));
        daemon.eventually("it runs", |daemon| daemon.run("vm log a").contains("begun"));
        daemon.run("vm pause a");
        // Longer than an agent may say nothing otherwise.
        std::thread::sleep(std::time::Duration::from_secs(11));
        daemon.run("vm resume a");
        assert_eq!(ran.join().unwrap(), (Some(7), "ended\n".into(), String::new()));
    });
    // Nor does it hear of the next one at once.
    let held = "(sleep 1; kill -STOP $(pidof qemu-ga); echo held >/dev/ttyS0; sleep 11; kill -CONT $(pidof qemu-ga)) >/dev/null 2>&1 </dev/null &";
    assert_eq!(told(&tessera(&daemon, &["vm", "exec", "a", "--", "sh", "-c", held], "")).0, Some(0));
    daemon.eventually("its agent stands still", |daemon| daemon.run("vm log a").contains("held"));
    let late = tessera(&daemon, &["vm", "exec", "a", "--", "echo", "late"], "");
    assert_eq!(told(&late), (Some(0), "late\n".into(), String::new()));
}

#[test]
fn a_guest_without_an_agent_says_so_and_hears_the_button() {
    let daemon = Daemon::start();
    assert_eq!(daemon.fails("vm agent a").0, Some(4));
    daemon.guest("a", &waits(), "");
    let (status, line) = daemon.fails("vm exec a -- true");
    assert!(status == Some(5) && line.contains("qemu-guest-agent"), "{line}");
    daemon.run("vm stop a");
    let (status, line) = daemon.fails("vm agent a");
    assert!(status == Some(5) && line.contains("is stopped"), "{line}");
    assert_eq!(daemon.fails("vm exec a --timeout 0 -- true").0, Some(2));
}
