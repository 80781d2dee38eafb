//! What becomes of guests when the daemon does not go on.

use crate::{Daemon, processes_of, waits};

#[test]
fn guests_do_not_notice_that_the_daemon_is_killed_and_the_next_one_finds_them() {
    let mut daemon = Daemon::start();
    for name in ["a", "b", "c"] {
        daemon.guest(name, &waits(), "");
    }
    daemon.run("vm pause b");
    daemon.run("vm stop c");
    let before: Vec<_> = ["a", "b"].map(|name| daemon.vm(name)["status"]["pid"].clone()).into();
    daemon.kill();
    assert_eq!(processes_of(&daemon.state()).len(), 2);
    daemon.start_again();
    let after: Vec<_> = ["a", "b"].map(|name| daemon.vm(name)["status"]["pid"].clone()).into();
    assert_eq!(before, after);
    assert_eq!(["a", "b", "c"].map(|name| daemon.state_of(name)), ["running", "paused", "stopped"]);
    assert_eq!(daemon.run("vm log a"), "it runs\n");
    daemon.run("vm resume b");
    daemon.run("vm delete a b c --force");
    assert!(daemon.leftovers().is_empty());
}

#[test]
fn guests_outlive_a_daemon_that_is_asked_to_end_and_what_died_meanwhile_is_started_again() {
    let mut daemon = Daemon::start();
    daemon.guest("lives", &waits(), "");
    daemon.guest("dies", &waits(), "");
    daemon.guest("stays-dead", &waits(), "--no-restart");
    let pid = |name: &str| daemon.vm(name)["status"]["pid"].as_u64().unwrap() as u32;
    let (lives, dead) = (pid("lives"), [pid("dies"), pid("stays-dead")]);
    assert_eq!(daemon.terminate(), Some(0));
    dead.iter().for_each(|pid| crate::kill(*pid, libc::SIGKILL));
    daemon.eventually("two are gone", |daemon| processes_of(&daemon.state()) == [lives]);
    daemon.start_again();
    assert_eq!(
        (daemon.state_of("lives"), daemon.state_of("stays-dead")),
        ("running".into(), "crashed".into())
    );
    daemon.eventually("it runs again", |daemon| daemon.state_of("dies") == "running");
    assert_eq!(daemon.vm("dies")["status"]["last_end"]["kind"], "killed");
}

#[test]
fn what_is_left_of_a_guest_that_was_never_acknowledged_is_swept_away() {
    let mut daemon = Daemon::start();
    daemon.guest("a", &waits(), "");
    daemon.kill();
    let nobody = "01a209b3-928b-7605-90a6-6c3b59436cf1";
    for folder in ["vms", "run"] {
        let folder = daemon.state().join(folder).join(nobody);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("disk0.raw"), b"half").unwrap();
    }
    daemon.start_again();
    assert!(daemon.leftovers().iter().all(|path| !path.ends_with(nobody)));
    assert_eq!(daemon.state_of("a"), "running");
}

#[test]
fn a_second_daemon_in_the_same_folder_is_refused_with_a_reason() {
    let daemon = Daemon::start();
    let state = daemon.state();
    let (status, said) = daemon.fails(&format!("host --listen none --state-dir {}", state.display()));
    assert_eq!(status, Some(2));
    assert!(said.contains("another daemon uses this folder"), "{said}");
    assert!(daemon.tessera("host info").status.success(), "the first one goes on");
}
