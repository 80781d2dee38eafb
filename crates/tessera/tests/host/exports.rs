//! Snapshots that are carried elsewhere as one file.

use std::os::unix::fs::FileExt;
use std::process::Command;

use crate::agent::start;
use crate::snapshots::{answers, inside};
use crate::{Daemon, http, waits};

/// What packs and unpacks guests is gone when it is done.
fn left(daemon: &Daemon) -> usize {
    let pool = daemon.state().join("pools").join("default").join(".backups");
    std::fs::read_dir(pool).map_or(0, Iterator::count)
}

#[test]
fn a_snapshot_that_is_exported_becomes_a_guest_on_another_host() {
    let (here, there) = (Daemon::start(), Daemon::start());
    start(&here, "a", &["--new-disk", "8M", "--description", "the first"]);
    let fill = "dd if=/dev/urandom of=/dev/vda bs=64k seek=3 count=9 conv=notrunc 2>/dev/null; sync";
    inside(&here, "a", fill);
    inside(&here, "a", "dd if=/dev/zero of=/dev/vda bs=64k seek=20 count=100 conv=notrunc 2>/dev/null; sync");
    let sum = inside(&here, "a", "sha256sum /dev/vda");
    here.run("vm snapshot create a one --memory");
    inside(&here, "a", "echo later >/dev/vda; sync");
    let file = here.folder.path().join("a.tar");
    let shown = file.display();
    here.run(&format!("vm snapshot export a one {shown}"));
    let length = std::fs::metadata(&file).unwrap().len();
    assert!(length < 2 << 20, "zeroes do not travel: {length}");
    let listed = Command::new("tar").arg("-tf").arg(&file).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&listed.stdout), "manifest.json\nSHA256SUMS\ndisk0.qcow2\n");
    // What is there already is not written over.
    let (status, said) = here.fails(&format!("vm snapshot export a one {shown}"));
    assert!(status == Some(2) && said.contains("already"), "{said}");
    assert_eq!(left(&here), 0);

    there.run(&format!("vm import {shown} b --start"));
    answers(&there, "b");
    assert_eq!(inside(&there, "b", "sha256sum /dev/vda"), sum);
    assert_eq!(there.vm("b")["description"], "the first");
    assert_ne!(there.vm("b")["id"], here.vm("a")["id"]);
    assert!(there.run("event ls -f kind=vm.restored,name=b").contains("was restored from one of a on"));
    // On the host that it comes from it is another one.
    here.run(&format!("vm import {shown} c"));
    assert_eq!(here.state_of("c"), "stopped");
    for (daemon, name) in [(&here, "c"), (&there, "b")] {
        let uploads = http::ask(daemon, "GET", "/uploads", "", &serde_json::Value::Null);
        assert_eq!(uploads.body["items"], serde_json::json!([]), "{name}");
        assert_eq!(left(daemon), 0, "{name}");
    }
}

#[test]
fn what_is_cut_off_or_damaged_is_refused_before_anything_is_made() {
    let mut daemon = Daemon::start();
    daemon.guest("a", &waits(), "--new-disk 1M");
    daemon.run("vm snapshot create a one");
    let file = daemon.folder.path().join("a.tar");
    let shown = file.display().to_string();
    daemon.run(&format!("vm snapshot export a one {shown}"));
    let whole = std::fs::read(&file).unwrap();
    let refuses = |daemon: &Daemon, bytes: &[u8], why: &str| {
        std::fs::write(&file, bytes).unwrap();
        let (status, said) = daemon.fails(&format!("vm import {shown} b"));
        assert!(status == Some(2) && said.contains(why), "{why}: {status:?} {said}");
        assert_eq!(daemon.json("vm ls").as_array().unwrap().len(), 1, "{why}");
        let uploads = http::ask(daemon, "GET", "/uploads", "", &serde_json::Value::Null);
        assert_eq!((left(daemon), &uploads.body["items"]), (0, &serde_json::json!([])), "{why}");
    };
    refuses(&daemon, &whole[..whole.len() / 2], "cut off");
    refuses(&daemon, b"no archive at all", "cannot be used");
    let mut changed = whole.clone();
    let end = changed.len() - 4096;
    changed[end] ^= 1;
    refuses(&daemon, &changed, "");
    std::fs::write(&file, &whole).unwrap();
    for (words, status, wrong) in [
        (format!("vm import {shown} a"), 5, "a"),
        (format!("vm import {shown}.none b"), 2, "none"),
        (format!("vm snapshot export a two {shown}.2"), 4, "no snapshot"),
        (format!("vm snapshot export a one {shown}/x"), 2, "x"),
    ] {
        let (ended, said) = daemon.fails(&words);
        assert!(ended == Some(status) && said.contains(wrong), "{words}: {ended:?} {said}");
    }
    // A host that goes meanwhile leaves no file that looks like the whole.
    let other = daemon.folder.path().join("other.tar");
    let pool = daemon.state().join("pools").join("default");
    daemon.guest("big", &waits(), "--new-disk 64M");
    let id = daemon.vm("big")["id"].as_str().unwrap().to_owned();
    daemon.run("vm stop big");
    let disk = pool.join(format!("vm-{id}-0")).join("disk.raw");
    let disk = std::fs::File::options().write(true).open(disk).unwrap();
    disk.write_all_at(&vec![7; 48 << 20], 0).unwrap();
    drop(disk);
    daemon.run("vm snapshot create big one");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
    command.env("TESSERA_HOST", daemon.state().join("host.sock"));
    let child = command.args(["vm", "snapshot", "export", "big", "one"]).arg(&other).spawn();
    let mut child = child.unwrap();
    std::thread::sleep(std::time::Duration::from_millis(60));
    daemon.kill();
    let done = child.wait().unwrap().success();
    assert_eq!(other.exists(), done);
    daemon.start_again();
    daemon.eventually("nothing of it stays", |daemon| {
        // What a dead maker left goes when the next one makes something there.
        let file = daemon.folder.path().join(format!("{}.tar", api::Id::new()));
        daemon.run(&format!("vm snapshot export a one {}", file.display()));
        left(daemon) == 0
    });
}
