//! A pool that is full: what guests write to it waits, nothing is lost, and they go on when there is room.

use serde_json::{Value, json};

use crate::Daemon;
use crate::agent::start;
use crate::alarms::{Small, events};
use crate::snapshots::{answers, inside};

const MIB: u64 = 1 << 20;
/// Eight MiB that do not compress, and are the same each time; says how that ended.
const WRITE: &str = "dd if=/dev/urandom of=/seed bs=64k count=16 2>/dev/null; \
    (for n in 0 1 2 3 4 5 6 7; do dd if=/seed of=/dev/vda bs=64k seek=$((n * 16)) oflag=direct || { echo failed >/end; exit; }; done; \
    sync; echo done >/end) >/dev/null 2>&1 &";
const COMPARE: &str = "for n in 0 1 2 3 4 5 6 7; do dd if=/dev/vda bs=64k skip=$((n * 16)) count=16 2>/dev/null | cmp - /seed || exit; done; echo same";

fn waits(daemon: &Daemon) -> Value {
    daemon.vm("a")["status"]["no_room"].clone()
}

#[test]
fn a_guest_whose_pool_is_full_waits_loses_nothing_and_goes_on_when_there_is_room() {
    let mut daemon = Daemon::start();
    let small = Small::mount(&daemon.folder.path().join("small"));
    daemon.run(&format!("pool create small {}", small.0.display()));
    daemon.run("volume create data --pool small --size 64M");
    start(&daemon, "a", &["--volume", "small/data"]);
    small.fill(12);
    inside(&daemon, "a", WRITE);
    daemon.eventually("it waits", |daemon| waits(daemon) == json!([0]));
    let told = events(&daemon, "vm.no-room");
    assert_eq!((told.len(), &told[0]["details"]["disks"]), (1, &json!([0])), "{told:?}");
    assert!(daemon.run("vm ls").contains("running (no room)"));
    daemon.eventually("somebody is told", |daemon| {
        daemon.json("alarm show guest-waits-for-room")["status"]["state"] == "raised"
    });
    answers(&daemon, "a");

    // It can be suspended and go on meanwhile, and the next daemon knows it.
    daemon.run("vm suspend a");
    assert_eq!(waits(&daemon), Value::Null);
    daemon.run("vm resume a");
    daemon.eventually("it waits again", |daemon| waits(daemon) == json!([0]));
    daemon.kill();
    daemon.start_again();
    assert_eq!(waits(&daemon), json!([0]));
    assert_eq!(inside(&daemon, "a", "cat /end 2>/dev/null || echo neither"), "neither");

    std::fs::remove_file(small.0.join("filler")).unwrap();
    daemon.eventually("it goes on", |daemon| waits(daemon) == Value::Null);
    daemon.eventually("it has written all", |daemon| {
        inside(daemon, "a", "cat /end 2>/dev/null || true") == "done"
    });
    assert_eq!(inside(&daemon, "a", COMPARE), "same");
    assert_eq!(inside(&daemon, "a", "dmesg | grep -c 'I/O error' || true"), "0");
    assert_eq!(daemon.json("vm stats a")["disks"][0]["failed"], 0);
    assert_eq!(events(&daemon, "vm.room").len(), 1, "{}", daemon.run("event ls"));
    // What was tried in vain has left nothing behind.
    daemon.run("vm stop a");
    let file =
        std::fs::read_dir(&small.0).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).max();
    assert!(file.unwrap() < 10 * MIB, "{file:?}");
    daemon.run("vm delete a");
    daemon.run("volume delete data --pool small");
}
