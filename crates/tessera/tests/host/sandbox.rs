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

/// Whether this machine lets us make control groups at all.
fn groups_can_be_made() -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().any(|line| line.contains(" - cgroup") && line.split(' ').nth(5).unwrap().starts_with("rw"))
}

/// The folders of a control group that are there.
fn groups_of(group: &str) -> Vec<std::path::PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let places =
        mounts.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
    places
        .map(|place| std::path::PathBuf::from(format!("{place}{group}")))
        .filter(|path| path.exists())
        .collect()
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
    let groups = fs::read_to_string(format!("/proc/{a}/cgroup")).unwrap();
    let (id, host) =
        (daemon.vm("a")["id"].as_str().unwrap().to_owned(), daemon.json("host info")["id"].clone());
    let group = format!("/tessera-{}/{id}", host.as_str().unwrap());
    assert!(groups.contains(&group) || !groups_can_be_made(), "{groups}");
    let user = |pid| status(pid).lines().find(|line| line.starts_with("Uid:")).unwrap().to_owned();
    assert_ne!(user(a), user(b));
    assert!(!user(a).contains("\t0"), "{}", user(a));
    daemon.run("vm stop a b");
    assert!(groups_of(&group).is_empty(), "{:?}", groups_of(&group));
}
