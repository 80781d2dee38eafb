//! What a guest's process is allowed, as the kernel tells it.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::{Daemon, waits};

fn status(pid: u64) -> String {
    fs::read_to_string(format!("/proc/{pid}/status")).unwrap()
}

/// A namespace of a process, as its number tells it from others.
fn namespace(pid: u64, kind: &str) -> u64 {
    fs::metadata(format!("/proc/{pid}/ns/{kind}")).unwrap().ino()
}

#[test]
fn a_guests_process_is_locked_in_and_each_is_a_user_of_its_own() {
    let daemon = Daemon::start();
    daemon.guest("a", &waits(), "--net user");
    daemon.guest("b", &waits(), "");
    let pid = |name: &str| daemon.vm(name)["status"]["pid"].as_u64().unwrap();
    let (a, b) = (pid("a"), pid("b"));
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000"] {
        assert!(status(a).contains(line), "{line}: {}", status(a));
    }
    let own = u64::from(std::process::id());
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        eprintln!("the rest is for root: others get no user of their own for a guest");
        return;
    }
    for kind in ["mnt", "net", "ipc", "uts"] {
        assert_ne!(namespace(a, kind), namespace(own, kind), "{kind}");
        assert_ne!(namespace(a, kind), namespace(b, kind), "{kind}");
    }
    assert_eq!(fs::read_dir(format!("/proc/{a}/root")).unwrap().count(), 0, "an empty folder");
    let user = |pid| status(pid).lines().find(|line| line.starts_with("Uid:")).unwrap().to_owned();
    assert_ne!(user(a), user(b));
    assert!(!user(a).contains("\t0"), "{}", user(a));
    daemon.run("vm stop a b");
}
