//! Guests that trust one another have equal pages once, and notice nothing of it.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::Daemon;
use crate::agent::start;
use crate::http::ask;
use crate::snapshots::inside;

const MIB: u64 = 1 << 20;
const RUN: &str = "/sys/kernel/mm/ksm/run";

/// What is the same in all guests and nowhere twice, in memory.
const FILL: &str = "seq 100000 >/seed; mkdir /busy; mount -t tmpfs -o size=40m busy /busy; \
    for n in $(seq 40); do (head -c $((n * 13)) /seed; cat /seed) >/busy/$n; done; cat /busy/* | md5sum >/sum";

impl Daemon {
    /// What a guest has of merged pages, MiB, once it has been looked at.
    fn merged(&self, name: &str) -> Option<u64> {
        let pool = self.json("memory show");
        let guest = pool["guests"].as_array().unwrap().iter().find(|guest| guest["name"] == name);
        guest.map(|guest| guest["now"]["merged"].as_u64().unwrap() / MIB)
    }
}

fn has_all_of_it(daemon: &Daemon, name: &str) {
    inside(daemon, name, "cat /busy/* | md5sum | cmp - /sum");
}

#[test]
fn equal_pages_are_kept_once_of_guests_that_say_so_and_of_no_others() {
    let Ok(before) = std::fs::read_to_string(RUN) else {
        eprintln!("this kernel merges nothing");
        return;
    };
    let mut daemon = Daemon::start_as(false, "none", &["--memory-pool", "1G", "--memory-merge"]);
    start(&daemon, "a", &["--merge-memory"]);
    start(&daemon, "b", &[]);
    start(&daemon, "other", &[]);
    for name in ["a", "b", "other"] {
        inside(&daemon, name, FILL);
    }
    // It need not be started again for that.
    daemon.run("vm edit b --merge-memory on");
    daemon.eventually("what is equal is merged", |daemon| {
        let saved = daemon.json("memory show")["merging"]["saved"].as_u64().unwrap() / MIB;
        saved >= 20 && daemon.merged("a") >= Some(20) && daemon.merged("b") >= Some(20)
    });
    assert_eq!(daemon.merged("other"), Some(0));
    let said = daemon.run("memory show");
    assert!(said.contains("\nequal pages: ") && said.contains(" are kept once, which saves "), "{said}");
    let metrics = ask(&daemon, "GET", "/metrics", "", &Value::Null).text;
    assert!(metrics.contains("\ntessera_host_memory_merging_saved_bytes "));

    // What one writes is its own, and what the others have stays.
    inside(
        &daemon,
        "a",
        "echo other >>/busy/7; seq 9 | dd of=/busy/20 conv=notrunc 2>/dev/null; cat /busy/* | md5sum >/sum",
    );
    for name in ["a", "b"] {
        has_all_of_it(&daemon, name);
    }
    // Whoever trusts the others no more has all of it for itself.
    daemon.run("vm edit b --merge-memory off");
    daemon.eventually("it has its own pages", |daemon| daemon.merged("b") == Some(0));
    has_all_of_it(&daemon, "b");

    // A daemon that is not to do that lets go of all.
    daemon.terminate();
    if before.trim() != "1" {
        assert_eq!(std::fs::read_to_string(RUN).unwrap().trim(), "0");
    }
    daemon.options = vec!["--memory-pool".into(), "1G".into()];
    daemon.start_again();
    daemon.eventually("nobody merges", |daemon| daemon.merged("a") == Some(0));
    assert_eq!(daemon.json("memory show")["merging"], Value::Null);
    has_all_of_it(&daemon, "a");
}

#[test]
fn a_host_without_a_pool_merges_nothing_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = Command::new(env!("CARGO_BIN_EXE_tessera"));
    host.args(["host", "--listen", "none", "--memory-merge", "--state-dir"]).arg(folder.path().join("state"));
    let said = host.stdin(Stdio::null()).output().unwrap();
    let told = String::from_utf8(said.stderr).unwrap();
    assert!(!said.status.success() && told.contains("--memory-merge: without --memory-pool"), "{told}");
}
