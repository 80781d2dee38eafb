//! Guests that are backed up, and made again.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::agent::{start, tessera, told};
use crate::{Daemon, waits};

/// What a program in the guest writes.
fn inside(daemon: &Daemon, name: &str, line: &str) -> String {
    let (status, out, errors) = told(&tessera(daemon, &["vm", "exec", name, "--", "sh", "-c", line], ""));
    assert_eq!(status, Some(0), "{line}: {errors}");
    out.trim().to_owned()
}

/// A pool to back up into; gives its folder.
fn vault(daemon: &Daemon) -> PathBuf {
    let folder = daemon.folder.path().join("vault");
    daemon.run(&format!("pool create vault {}", folder.display()));
    folder.join(".backups")
}

fn names(daemon: &Daemon) -> Vec<String> {
    let all = daemon.json("backup ls");
    all.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
}

/// Layers of volumes in the pool of guests' disks.
fn layers(daemon: &Daemon) -> usize {
    let entries = fs::read_dir(daemon.state().join("pools").join("default")).unwrap();
    entries
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".layer-"))
        .count()
}

#[test]
fn a_guest_is_made_again_of_any_of_its_backups() {
    let daemon = Daemon::start();
    let folder = vault(&daemon);
    start(&daemon, "a", &["--new-disk", "4M"]);
    let mut sums = Vec::new();
    let mut write = |n: usize| {
        let line = format!(
            "dd if=/dev/urandom of=/dev/vda bs=64k seek={} count=9 conv=notrunc 2>/dev/null; sync",
            n * 7
        );
        inside(&daemon, "a", &line);
        sums.push(inside(&daemon, "a", "sha256sum /dev/vda"));
    };
    write(1);
    assert!(daemon.run("backup create a first --pool vault").contains("backed up as first: all of it"));
    write(2);
    daemon.run("vm snapshot create a between");
    daemon.run("backup create a second --pool vault --description nightly");
    write(3);
    daemon.run("vm pause a");
    daemon.run("vm snapshot delete a between");
    daemon.run("backup create a third --pool vault");
    daemon.run("vm resume a");
    write(4);
    assert_eq!(names(&daemon), ["first", "second", "third"]);
    let [first, second, third] =
        ["first", "second", "third"].map(|name| daemon.json(&format!("backup show {name}")));
    assert!(first["parent"].is_null() && third["parent"] == second["id"] && third["state"] == "paused");
    assert_eq!(first["children"], serde_json::json!([second["id"]]));
    assert_eq!(first["disks"][0]["incremental"], false);
    assert_eq!(second["disks"][0]["incremental"], true);
    // Nine clusters and the tables.
    assert!(second["stored"].as_u64() < Some(1 << 20), "{second}");
    assert_eq!(second["description"], "nightly");
    assert!(daemon.run("event ls -f kind=vm.backed-up").contains("what differs"));
    // The raw first layer, and what the next backup goes on from.
    assert_eq!(layers(&daemon), 2);

    daemon.run("backup verify --all");
    for (n, name) in ["first", "second", "third"].into_iter().enumerate() {
        daemon.run(&format!("backup restore {name} {name}"));
        let file = daemon.folder.path().join(name);
        let volume = format!("vm-{}-0", daemon.vm(name)["id"].as_str().unwrap());
        daemon.run(&format!("volume download {volume} {}", file.display()));
        let sum = std::process::Command::new("sha256sum").arg(file).output().unwrap();
        assert_eq!(String::from_utf8(sum.stdout).unwrap()[..64], sums[n][..64], "{name}");
    }
    daemon.run("vm start third");
    daemon.eventually("its agent answers", |daemon| daemon.tessera("vm agent third").status.success());
    assert_eq!(inside(&daemon, "third", "sha256sum /dev/vda"), sums[2]);
    assert_eq!(inside(&daemon, "a", "sha256sum /dev/vda"), sums[3]);

    // It goes on from the last one after a start of the daemon, stopped, too.
    daemon.run("vm stop a");
    daemon.run("backup create a --pool vault");
    let fourth = names(&daemon)[3].clone();
    assert!(fourth.starts_with("a-20"), "{fourth}");
    assert_eq!(daemon.json(&format!("backup show {fourth}"))["parent"], third["id"]);

    // What others need stays.
    let (status, line) = daemon.fails("backup delete second");
    assert!(status == Some(5) && line.contains("third has only what differs from it"), "{line}");

    // One byte.
    let file = folder.join(second["id"].as_str().unwrap()).join("disk0.qcow2");
    let good = fs::read(&file).unwrap();
    let opened = fs::File::options().write(true).open(&file).unwrap();
    opened.write_all_at(&[good[300_000] ^ 1], 300_000).unwrap();
    for words in ["backup verify third", "backup restore third x"] {
        let (status, line) = daemon.fails(words);
        assert!(
            status == Some(5) && line.contains("disk0.qcow2 of second is not what was written"),
            "{line}"
        );
    }
    assert!(daemon.run("event ls -f kind=backup.damaged").contains("third"));
    daemon.run("backup verify first");
    opened.write_all_at(&good, 0).unwrap();
    // A link that is missing.
    let away = daemon.folder.path().join("away");
    fs::rename(file.parent().unwrap(), &away).unwrap();
    let (status, line) = daemon.fails("backup restore third x");
    assert!(status == Some(5) && line.contains("which third needs, is missing"), "{line}");
    fs::rename(&away, file.parent().unwrap()).unwrap();
    assert!(!daemon.run("vm ls -o name").lines().any(|name| name == "x"));

    // They need no guest, and no guest needs them.
    daemon.run("vm delete --all --yes --force");
    assert_eq!(layers(&daemon), 0);
    daemon.run("backup restore third a --keep-addresses");
    daemon.run(&format!("backup delete {fourth} third second first"));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    daemon.run("vm delete a");
    assert!(daemon.leftovers().is_empty());
}

#[test]
fn what_cannot_be_backed_up_is_refused_and_nothing_stays() {
    let daemon = Daemon::start();
    let folder = vault(&daemon);
    fs::write(daemon.state().join("file"), [0; 4096]).unwrap();
    let file = daemon.state().join("file").display().to_string();
    daemon.guest("a", &waits(), "--new-disk 1M");
    daemon.guest("b", &waits(), &format!("--new-disk 1M --disk {file}"));
    daemon.run("backup create a one --pool vault");
    let long = "x".repeat(5000);
    for (words, status, wrong) in [
        ("backup create a one --pool vault", 5, "already"),
        ("backup create a two --pool nowhere", 4, "nowhere"),
        ("backup create a two --pool vault --quiesce", 5, "do not rest"),
        ("backup create b two --pool vault", 5, "file"),
        ("backup create nobody --pool vault", 4, "nobody"),
        (&format!("backup create a --pool vault --description {long}"), 2, "4096"),
        ("backup show none", 4, "no backup"),
        ("backup verify none", 4, "no backup"),
        ("backup restore none x", 4, "no backup"),
        ("backup delete none", 4, "no backup"),
        ("backup restore one a", 5, "already"),
    ] {
        let (ended, said) = daemon.fails(words);
        assert!(ended == Some(status) && said.contains(wrong), "{words}: {ended:?} {said}");
    }
    assert_eq!((names(&daemon).len(), layers(&daemon)), (1, 1));
    // Without the last one the next is a full one.
    daemon.run("backup delete one");
    daemon.run("vm snapshot create a s");
    daemon.run("backup create a two --pool vault");
    assert!(daemon.json("backup show two")["parent"].is_null());
    // Disks that stay when their guest goes are what they are, and nothing more.
    daemon.run("vm delete a --force --keep-disks=kept");
    // Where they are being merged already, that goes on in the background.
    daemon.eventually("nothing lies below them", |daemon| layers(daemon) == 0);
    daemon.run("volume show kept");
    daemon.run("vm delete b --force");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
}

#[test]
fn a_daemon_that_is_killed_meanwhile_leaves_whole_backups_only() {
    let mut daemon = Daemon::start();
    let folder = vault(&daemon);
    daemon.guest("a", &waits(), "--new-disk 32M");
    // Enough for it to take a while.
    daemon.run("vm stop a");
    let id = daemon.vm("a")["id"].as_str().unwrap().to_owned();
    let disk = daemon.state().join(format!("pools/default/vm-{id}-0/disk.raw"));
    fs::write(disk, vec![7; 32 << 20]).unwrap();
    daemon.run("vm start a");
    let mut known: Vec<String> = Vec::new();
    for round in 0..12u64 {
        let name = format!("b{round}");
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tessera"));
        command.env("TESSERA_HOST", daemon.state().join("host.sock"));
        let full: &[&str] = if round.is_multiple_of(3) { &[] } else { &["--full"] };
        command.args(["backup", "create", "a", &name, "--pool", "vault"]).args(full);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(round * 53 % 330));
        daemon.kill();
        let acknowledged = child.wait().unwrap().success();
        daemon.start_again();
        assert_eq!(daemon.state_of("a"), "running", "round {round}");
        let now = names(&daemon);
        assert!(!acknowledged || now.contains(&name), "round {round}: {now:?}");
        assert!(known.iter().all(|one| now.contains(one)), "round {round}: {now:?}");
        known = now;
        if !known.is_empty() {
            daemon.run("backup verify --all");
        }
    }
    daemon.run("backup create a last --pool vault");
    daemon.run("backup verify --all");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), known.len() + 1, "what was begun is gone");
    daemon.run("vm stop a");
    daemon.eventually("only what the next one goes on from stays", |daemon| layers(daemon) == 1);
    daemon.run("vm delete a");
    assert_eq!(layers(&daemon), 0);
}
