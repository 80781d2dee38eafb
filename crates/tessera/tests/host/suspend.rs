//! Guests that are written to storage, and go on where they were.

use std::io::Write;
use std::path::Path;

use crate::agent::{start, tessera, told};
use crate::guest::Code;
use crate::{Daemon, kill, processes_of, waits};

/// Says what it has counted so far each time a byte is typed: nothing else tells one that goes on from one that begins.
/// l: mov dx, 0x3fd; in al, dx; test al, 1; jz l; mov dx, 0x3f8; in al, dx; inc bl; mov al, bl; add al, '0'; out dx, al; jmp l.
fn counts() -> Code {
    Code::default().print("go\n").bytes(&[
        0xb3, 0x00, 0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf7, 0x66, 0xba, 0xf8, 0x03, 0xec, 0xfe,
        0xc3, 0x88, 0xd8, 0x04, 0x30, 0xee, 0xeb, 0xe9,
    ])
}

/// Types a byte at a guest's console.
fn types(daemon: &Daemon, name: &str) {
    let id = daemon.vm(name)["id"].as_str().unwrap().to_owned();
    let socket = daemon.state().join("run").join(id).join("console.sock");
    std::os::unix::net::UnixStream::connect(socket).unwrap().write_all(b"x").unwrap();
}

fn says(daemon: &Daemon, name: &str, text: &str) {
    let start = std::time::Instant::now();
    loop {
        let log = daemon.run(&format!("vm log {name}"));
        if log.ends_with(text) {
            return;
        }
        assert!(
            start.elapsed() < crate::PATIENCE,
            "{name} says {log:?}, not {text:?}: {}",
            daemon.run("event ls")
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn saved(daemon: &Daemon, name: &str) -> std::path::PathBuf {
    daemon.state().join("vms").join(daemon.vm(name)["id"].as_str().unwrap()).join("suspended")
}

fn is_there(place: &Path) -> bool {
    ["", ".draft", ".spent"].iter().any(|ending| Path::new(&format!("{}{ending}", place.display())).exists())
}

#[test]
fn a_suspended_guest_takes_nothing_and_goes_on_where_it_was() {
    let daemon = Daemon::start();
    daemon.guest("a", &counts(), "");
    says(&daemon, "a", "go\n");
    types(&daemon, "a");
    says(&daemon, "a", "1");
    daemon.run("vm suspend a");
    assert_eq!(daemon.state_of("a"), "suspended");
    assert!(processes_of(&daemon.state()).is_empty());
    assert_eq!(daemon.fails("vm pause a").0, Some(5));
    assert_eq!(daemon.fails("vm suspend a").0, Some(5));
    let (status, said) = daemon.fails("vm edit a --memory 64M");
    assert!(status == Some(5) && said.contains("suspended"), "{said}");
    daemon.run("vm edit a --description resting");
    daemon.run("vm resume a");
    assert_eq!(daemon.state_of("a"), "running");
    types(&daemon, "a");
    says(&daemon, "a", "2");
    assert!(!is_there(&saved(&daemon, "a")), "what it went on from is gone");

    // Also by start, after the daemon has ended, and from a pause.
    daemon.run("vm pause a");
    daemon.run("vm suspend a");
    let mut daemon = daemon;
    daemon.terminate();
    daemon.start_again();
    assert_eq!(daemon.state_of("a"), "suspended");
    daemon.run("vm start a");
    types(&daemon, "a");
    says(&daemon, "a", "3");

    // Forgotten by stop, it begins anew.
    daemon.run("vm suspend a");
    daemon.run("vm stop a");
    assert_eq!(daemon.state_of("a"), "stopped");
    assert!(!is_there(&saved(&daemon, "a")));
    daemon.run("vm start a");
    says(&daemon, "a", "go\n");
    daemon.run("vm suspend a");
    daemon.run("vm delete a");
    assert!(daemon.leftovers().is_empty());
}

#[test]
fn nothing_is_left_of_one_whose_process_is_killed_as_it_goes_on() {
    let daemon = Daemon::start();
    daemon.guest("a", &counts(), "");
    let place = saved(&daemon, "a");
    let spent = place.with_extension("spent");
    for _ in 0..5 {
        says(&daemon, "a", "go\n");
        daemon.run("vm suspend a");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let start = std::time::Instant::now();
                while place.exists() && !spent.exists() && start.elapsed() < crate::PATIENCE {
                    std::hint::spin_loop();
                }
                processes_of(&daemon.state()).into_iter().for_each(|pid| kill(pid, libc::SIGKILL));
            });
            // Whether it has gone on by then is its luck.
            let _ = daemon.tessera("vm resume a");
        });
        daemon.eventually("its process is gone", |daemon| processes_of(&daemon.state()).is_empty());
        daemon.eventually("nothing is left", |_| !is_there(&place));
        // Its daemon may not have heard yet that the process is gone.
        daemon.eventually("it starts", |daemon| daemon.tessera("vm start a").status.success());
    }
    // As an earlier daemon left it.
    let mut daemon = daemon;
    for state in ["running", "stopped"] {
        daemon.terminate();
        std::fs::create_dir(&spent).unwrap();
        daemon.start_again();
        assert_eq!(daemon.state_of("a"), state);
        assert!(!is_there(&place));
        let _ = daemon.tessera("vm stop a");
    }
}

#[test]
fn a_guest_that_cannot_be_suspended_goes_on() {
    let daemon = Daemon::start();
    daemon.guest("a", &counts(), "");
    says(&daemon, "a", "go\n");
    // A file in the way of the folder: nothing can be written.
    let place = saved(&daemon, "a");
    std::fs::write(&place, "in the way").unwrap();
    assert_eq!(daemon.fails("vm suspend a").0, Some(1));
    assert_eq!(daemon.state_of("a"), "running");
    std::fs::remove_file(&place).unwrap();
    types(&daemon, "a");
    says(&daemon, "a", "1");
    daemon.run("vm suspend a");
    // Damaged on storage, it is not guessed at.
    let state = place.join("state.json");
    let text = std::fs::read_to_string(&state).unwrap();
    std::fs::write(&state, text.replacen("\"version\":1", "\"version\":7", 1)).unwrap();
    let (status, said) = daemon.fails("vm resume a");
    assert!(status == Some(5) && said.contains("damaged"), "{said}");
    assert_eq!(daemon.state_of("a"), "suspended");
    std::fs::write(&state, text).unwrap();
    daemon.run("vm resume a");
    types(&daemon, "a");
    says(&daemon, "a", "2");
}

#[test]
fn a_daemon_or_a_process_that_is_killed_meanwhile_leaves_the_guest_in_one_state_or_the_other() {
    let mut daemon = Daemon::start();
    daemon.guest("a", &counts(), "");
    says(&daemon, "a", "go\n");
    let mut count = 0;
    for round in 0..12u32 {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tessera"));
        command.env("TESSERA_HOST", daemon.state().join("host.sock"));
        let verb = if daemon.state_of("a") == "suspended" { "resume" } else { "suspend" };
        let mut child = command.args(["vm", verb, "a"]).stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(u64::from(round * 7 % 50)));
        daemon.kill();
        let acknowledged = child.wait().unwrap().success();
        daemon.start_again();
        daemon
            .eventually("it is settled", |daemon| ["running", "suspended"].contains(&&*daemon.state_of("a")));
        let state = daemon.state_of("a");
        let wanted = if verb == "resume" { "running" } else { "suspended" };
        assert!(state == wanted || !acknowledged, "round {round}: {verb} was acknowledged, it is {state}");
        if state == "running" {
            count += 1;
            types(&daemon, "a");
            says(
                &daemon,
                "a",
                &char::from_digit(count, 10)
                    .map_or_else(|| char::from(b'0' + count as u8).to_string(), String::from),
            );
        }
    }
    if daemon.state_of("a") == "suspended" {
        daemon.run("vm resume a");
    }
    let pid = daemon.vm("a")["status"]["pid"].as_u64().unwrap() as u32;
    kill(pid, libc::SIGKILL);
    daemon.eventually("it starts again", |daemon| daemon.state_of("a") == "running");
    says(&daemon, "a", "go\n");
}

#[test]
fn a_real_guest_goes_on_with_its_clock_set_right() {
    let daemon = Daemon::start();
    start(&daemon, "a", &[]);
    let run = |words: &[&str]| {
        let (status, out, errors) =
            told(&tessera(&daemon, &[&["vm", "exec", "a", "--"], words].concat(), ""));
        assert_eq!(status, Some(0), "{errors}");
        out
    };
    run(&["sh", "-c", "echo kept >/tmp-file; sleep 1000 >/dev/null 2>&1 & echo $! >/pid"]);
    daemon.run("vm suspend a");
    std::thread::sleep(std::time::Duration::from_secs(3));
    daemon.run("vm resume a");
    assert_eq!(run(&["cat", "/tmp-file"]), "kept\n");
    assert!(run(&["sh", "-c", "kill -0 $(cat /pid) && echo lives"]).contains("lives"));
    let is_right = |_: &Daemon| {
        let before =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let guest: f64 = run(&["date", "+%s"]).trim().parse().unwrap();
        (guest - before).abs() < 2.0
    };
    daemon.eventually("its clock is right", is_right);
    daemon.run("vm pause a");
    std::thread::sleep(std::time::Duration::from_secs(3));
    daemon.run("vm resume a");
    daemon.eventually("its clock is right after a pause, too", is_right);
    daemon.run("vm shutdown a");
}

#[test]
fn a_host_that_was_restarted_has_its_suspended_guests_still() {
    let daemon = Daemon::start();
    daemon.guest("a", &waits(), "");
    daemon.run("vm suspend a");
    let info = daemon.json("host info");
    assert_eq!((&info["vms"], &info["vms_running"]), (&1.into(), &0.into()));
    assert_eq!(daemon.run("vm ls -f state=suspended -o name"), "a\n");
}
