//! Lists that are watched.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use crate::agent::tiny;
use crate::{Daemon, PATIENCE, waits};

/// What `tessera` prints, line by line, until it is not needed any more.
struct Watcher {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Watcher {
    fn start(daemon: &Daemon, words: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
        command.env("TESSERA_HOST", daemon.state().join("host.sock")).args(words.split_whitespace());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (out, lines) = mpsc::channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| out.send(line)));
        Self { child, lines }
    }

    /// The next line.
    #[track_caller]
    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap()
    }

    /// Reads on until a line that begins so.
    #[track_caller]
    fn reads(&self, begins: &str) {
        let mut read = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            if line.starts_with(begins) {
                return;
            }
            read.push(line);
        }
        panic!("{begins} is not in {read:?}");
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn every_list_shows_what_becomes_of_it() {
    let daemon = Daemon::start_in(true);
    daemon.guest("a", &waits(), "");
    let pool = daemon.folder.path().join("pool").display().to_string();
    let disk = daemon.text("disk", &" ".repeat(512)).display().to_string();
    let kernel = tiny("vmlinuz").display().to_string();
    for (list, make, made, unmake, unmade) in [
        ("network", "create lan --kind isolated", "lan  isolated", "delete lan", "deleted lan"),
        ("pool", "create p POOL", "p  directory", "delete p", "deleted p"),
        ("volume", "create v --size 1M", "v  qcow2", "delete v", "deleted v"),
        ("template", "create t --from a", "t  ", "delete t", "deleted t"),
        ("token", "create ci --role viewer", "ci  viewer", "delete ci", "deleted ci"),
        ("image", "import DISK --kernel KERNEL --name i", "i  ", "delete i", "deleted i"),
        ("vm", "pause a", "a  paused", "resume a", "a  running"),
    ] {
        let watcher = Watcher::start(&daemon, &format!("{list} ls --watch"));
        watcher.reads("NAME");
        let make = make.replace("POOL", &pool).replace("DISK", &disk).replace("KERNEL", &kernel);
        daemon.run(&format!("{list} {make}"));
        watcher.reads(made);
        daemon.run(&format!("{list} {unmake}"));
        watcher.reads(unmade);
    }
    let watcher = Watcher::start(&daemon, "user ls --watch -o name");
    let password = daemon.text("password", "correct horse").display().to_string();
    daemon.run(&format!("user create ann --role viewer --password-file {password}"));
    watcher.reads("ann");
    daemon.run("user delete ann");
    watcher.reads("deleted ann");
}

#[test]
fn a_filter_holds_for_what_a_watched_list_shows_later() {
    let daemon = Daemon::start();
    for name in ["a", "b"] {
        daemon.guest(name, &waits(), "");
    }
    let guests = Watcher::start(&daemon, "vm ls --filter name=b --watch -o name");
    assert_eq!(guests.line(), "b");
    let tasks = Watcher::start(&daemon, "task ls --filter action=vm.resume --watch");
    let events = Watcher::start(&daemon, "event ls --filter kind=vm.resumed --watch");
    let audit = Watcher::start(&daemon, "audit ls --filter path=*/resume --watch");
    for watcher in [&tasks, &events, &audit] {
        // Nothing was resumed yet.
        assert!(watcher.line().ends_with(|last: char| last.is_ascii_uppercase()));
    }
    for name in ["a", "b"] {
        daemon.run(&format!("vm pause {name}"));
        daemon.run(&format!("vm resume {name}"));
    }
    daemon.run("vm pause b");
    assert_eq!(guests.line(), "b");
    for watcher in [&events, &audit] {
        for name in ["a", "b"] {
            let line = watcher.line();
            assert!(line.contains("resume") && line.contains(name), "{line}");
        }
    }
    // A task may be shown before it is done, too, and two that change at once in either order.
    let mut done = std::collections::BTreeSet::new();
    while done.len() < 2 {
        let line = tasks.line();
        assert!(line.contains("vm.resume"), "{line}");
        done.extend(["a", "b"].into_iter().filter(|name| line.contains(&format!("{name}  done"))));
    }
}
