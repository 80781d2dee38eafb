//! Snapshots and backups that the host makes by itself.

use crate::{Daemon, waits};

/// How many of a kind of event there have been.
fn events(daemon: &Daemon, kind: &str) -> usize {
    let all = daemon.json(&format!("event ls -f kind={kind}"));
    all.as_array().unwrap().len()
}

/// The snapshots of a guest, or all backups, that a schedule made, and those that somebody made.
fn made(daemon: &Daemon, list: &str) -> (usize, Vec<String>) {
    let all = daemon.json(list);
    let (own, others): (Vec<_>, Vec<_>) =
        all.as_array().unwrap().iter().partition(|one| one["schedule"].is_string());
    (own.len(), others.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect())
}

/// The time that passes until a schedule that is switched off has ended what it had begun.
fn off(daemon: &Daemon, schedule: &str) {
    daemon.run(&format!("schedule edit a {schedule} --enabled false"));
    daemon.eventually("nothing of it goes on", |daemon| {
        let tasks = daemon.json("task ls -f state=running");
        tasks.as_array().unwrap().is_empty()
    });
    assert!(daemon.json(&format!("schedule show a {schedule}"))["next"].is_null());
}

#[test]
fn snapshots_are_made_in_time_and_only_their_own_are_pruned() {
    let mut daemon = Daemon::start();
    daemon.guest("a", &waits(), "--new-disk 1M");
    daemon.run("vm snapshot create a mine");
    daemon.run("schedule create a often --every 1s --keep 2");
    daemon.run("schedule create a daily --every 1d --offset 2h --keep-daily 7 --keep-weekly 4");
    let shown = daemon.run("schedule ls a");
    for words in ["7 daily, 4 weekly", "1d + 2h", "2 last"] {
        assert!(shown.contains(words), "{shown}");
    }
    daemon.eventually("some were made", |daemon| events(daemon, "vm.snapshot") >= 5);
    // It goes on under the next daemon.
    daemon.kill();
    daemon.start_again();
    let before = events(&daemon, "vm.snapshot");
    daemon.eventually("more were made", |daemon| events(daemon, "vm.snapshot") > before);
    off(&daemon, "often");
    daemon.eventually("the old ones are gone", |daemon| {
        made(daemon, "vm snapshot ls a") == (2, vec!["mine".to_owned()])
    });
    assert!(daemon.run("task ls").contains("schedule often"));
    let often = daemon.json("schedule show a often");
    assert!(often["last"].is_string() && often["error"].is_null(), "{often}");
    assert!(daemon.json("schedule show a daily")["last"].is_null(), "it had nothing to do yet");
    daemon.run("schedule delete a often");
    assert_eq!(made(&daemon, "vm snapshot ls a").0, 2, "what it has made stays");
    daemon.run("vm delete a --force");
    assert!(daemon.leftovers().is_empty());
}

#[test]
fn backups_are_pruned_by_whole_chains_and_what_fails_is_told() {
    let daemon = Daemon::start();
    let vault = daemon.folder.path().join("vault");
    daemon.run(&format!("pool create vault {}", vault.display()));
    daemon.guest("a", &waits(), "--new-disk 1M");
    daemon.run("backup create a mine --pool vault");
    daemon.run("schedule create a nightly --backup --pool vault --every 1s --keep 2 --full-every 2");
    daemon.eventually("some were made", |daemon| events(daemon, "vm.backed-up") >= 6);
    off(&daemon, "nightly");
    daemon.eventually("the old ones are gone", |daemon| {
        let (own, others) = made(daemon, "backup ls");
        // Two that are kept, and the one that the older of them has the difference from.
        (2..=3).contains(&own) && others == ["mine"]
    });
    daemon.run("backup verify --all");
    daemon.run("pool delete vault");
    daemon.run("alarm create missed --event vm.schedule-failed --severity critical");
    daemon.run("schedule edit a nightly --enabled true");
    daemon.eventually("it is told that it fails", |daemon| events(daemon, "vm.schedule-failed") > 0);
    assert!(daemon.run("event ls -f kind=vm.schedule-failed").contains("there is no pool vault"));
    let error = daemon.json("schedule show a nightly")["error"].clone();
    assert!(error.as_str().unwrap().contains("there is no pool vault"), "{error}");
    daemon.eventually("an alarm is raised", |daemon| {
        daemon.json("alarm ls").to_string().contains("missed") && daemon.run("alarm ls").contains("critical")
    });
    // And works again when it can.
    daemon.run(&format!("pool create vault {}", vault.display()));
    daemon.eventually("it is good again", |daemon| daemon.json("schedule show a nightly")["error"].is_null());
    off(&daemon, "nightly");
    daemon.run("vm delete a --force");
    daemon.run("backup verify --all");
}

#[test]
fn a_schedule_that_makes_no_sense_is_refused() {
    let daemon = Daemon::start();
    daemon.guest("a", &waits(), "--new-disk 1M");
    daemon.run("schedule create a one --every 1h --keep 24");
    for (words, status, wrong) in [
        ("schedule create a one --every 1h --keep 24", 5, "already"),
        ("schedule create a two --keep 24", 2, "--every"),
        ("schedule create a two --every 1h", 2, "--keep"),
        ("schedule create a two --every 1h --offset 1h --keep 1", 2, "/offset"),
        ("schedule create a two --every 1h --keep 0", 2, "/keep"),
        ("schedule create a two --every 1h --keep 5 --backup --pool nowhere", 4, "nowhere"),
        ("schedule create nobody two --every 1h --keep 5", 4, "nobody"),
        ("schedule edit a one --keep 99999", 2, "/keep/last"),
        ("schedule edit a two --keep 9", 4, "no schedule"),
        ("schedule show a two", 4, "no schedule"),
        ("schedule delete a two", 4, "no schedule"),
    ] {
        let (ended, said) = daemon.fails(words);
        assert!(ended == Some(status) && said.contains(wrong), "{words}: {ended:?} {said}");
    }
    daemon.run("schedule edit a one --every 2h --keep-daily 3");
    let one = daemon.json("schedule show a one");
    assert_eq!(
        (&one["every"], &one["keep"]["last"], &one["keep"]["daily"]),
        (&7200.into(), &24.into(), &3.into())
    );
}
