//! A daemon that is killed at any moment loses nothing that it said was done, harms no guest and leaves nothing behind.
//!
//! `TESSERA_CRASHES` sets how often it is killed (8 times if unset), `TESSERA_CRASH_SEED` where the random moments begin.

use std::collections::BTreeSet;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::{Daemon, processes_of, waits};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// xorshift64* (Vigna 2016): which numbers come is the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % most
    }
}

/// Begins a command and does not wait for it.
fn begin(daemon: &Daemon, words: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
    command.env("TESSERA_HOST", daemon.state().join("host.sock")).args(words.split_whitespace());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What is asked for while the daemon is killed, and what must be so if it said that it had done it.
#[derive(Debug, Clone, Copy)]
enum Act {
    Create,
    Delete,
    Start,
    Stop,
    Clone,
    /// Delete, but for the disk.
    Keep,
}

const ACTS: [Act; 6] = [Act::Create, Act::Delete, Act::Start, Act::Stop, Act::Clone, Act::Keep];

#[test]
fn a_daemon_that_is_killed_at_any_moment_keeps_its_word() {
    let mut daemon = Daemon::start();
    let kernel = daemon.kernel("k", &waits());
    let make =
        |name: &str| format!("vm create {name} --kernel {kernel} --memory 32M --engine soft --new-disk 1M");
    // One that nothing is asked of: it must not notice anything.
    daemon.run(&format!("{} --start", make("bystander")));
    let bystander = daemon.vm("bystander")["status"]["pid"].clone();
    let mut random = Random(number("TESSERA_CRASH_SEED").unwrap_or(0x5eed));
    let crashes = number("TESSERA_CRASHES").unwrap_or(8);
    for crash in 0..crashes {
        let act = ACTS[random.below(ACTS.len() as u64) as usize];
        let moment = Duration::from_micros(random.below(60_000));
        let told = format!("crash {crash}: {act:?}, killed after {moment:?}");
        let name = format!("g{crash}");
        if !matches!(act, Act::Create) {
            daemon.run(&make(&name));
        }
        if matches!(act, Act::Stop) {
            daemon.run(&format!("vm start {name}"));
        }
        let words = match act {
            Act::Create => make(&name),
            Act::Delete => format!("vm delete {name}"),
            Act::Start => format!("vm start {name}"),
            Act::Stop => format!("vm stop {name}"),
            Act::Clone => format!("vm clone {name} {name}-clone"),
            Act::Keep => format!("vm delete {name} --keep-disks"),
        };
        let mut child = begin(&daemon, &words);
        std::thread::sleep(moment);
        daemon.kill();
        let acknowledged = child.wait().unwrap().success();
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        daemon.start_again();

        let is_there =
            |daemon: &Daemon, name: &str| daemon.tessera(&format!("vm show {name}")).status.success();
        match act {
            Act::Create => assert!(is_there(&daemon, &name) || !acknowledged, "{told}"),
            Act::Delete => assert!(!is_there(&daemon, &name) || !acknowledged, "{told}"),
            Act::Clone => assert!(is_there(&daemon, &format!("{name}-clone")) || !acknowledged, "{told}"),
            Act::Keep => {
                let volume = daemon.tessera(&format!("volume show {name}-disk-0")).status.success();
                let guest = is_there(&daemon, &name);
                assert!(
                    guest != volume && (volume || !acknowledged),
                    "{told}: guest {guest}, volume {volume}"
                );
            }
            Act::Start => {
                daemon.eventually("it is settled", |daemon| daemon.state_of(&name) != "starting");
                assert!(daemon.state_of(&name) == "running" || !acknowledged, "{told}: {}", daemon.vm(&name));
            }
            Act::Stop => assert!(daemon.state_of(&name) == "stopped" || !acknowledged, "{told}"),
        }
        assert_eq!(daemon.vm("bystander")["status"]["pid"], bystander, "{told}: {errors}");
        assert_eq!(daemon.state_of("bystander"), "running", "{told}");
        nothing_is_leaked(&daemon, &told);
    }
    let all = daemon.run("vm ls -o name");
    daemon.run(&format!("vm delete --force {}", all.split_whitespace().collect::<Vec<_>>().join(" ")));
    assert!(processes_of(&daemon.state()).is_empty());
    for kept in daemon.run("volume ls -o name -f name=g*-disk-0").split_whitespace() {
        daemon.run(&format!("volume delete {kept}"));
    }
    assert_eq!(daemon.json("volume ls").as_array().unwrap().len(), 0);
}

/// Each process, folder and disk is that of a guest that there is.
fn nothing_is_leaked(daemon: &Daemon, told: &str) {
    let vms = daemon.json("vm ls");
    let vms = vms.as_array().unwrap();
    let ids: BTreeSet<&str> = vms.iter().map(|vm| vm["id"].as_str().unwrap()).collect();
    let alive = vms.iter().filter(|vm| vm["status"]["pid"].is_u64()).count();
    daemon.eventually(&format!("{told}: as many processes as guests that run"), |daemon| {
        processes_of(&daemon.state()).len() == alive
    });
    for path in daemon.leftovers() {
        let id = path.file_name().unwrap().to_str().unwrap();
        assert!(ids.contains(id), "{told}: {} is of no guest", path.display());
    }
    for volume in daemon.json("volume ls").as_array().unwrap() {
        let name = volume["name"].as_str().unwrap();
        if name.ends_with("-disk-0") {
            continue;
        }
        assert_ne!(volume["used_by"], serde_json::Value::Null, "{told}: the disk {name} is of no guest");
    }
    let drafts = std::fs::read_dir(daemon.state().join("pools/default")).unwrap();
    let drafts =
        drafts.filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with(".draft"));
    assert_eq!(drafts.count(), 0, "{told}: drafts of volumes");
}
