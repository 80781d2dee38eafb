//! Guests whose programs use more than the pool of memory: what does not fit is on the host's paging device, and nothing of it is lost.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::agent::start;
use crate::http::ask;
use crate::snapshots::{answers, inside};
use crate::{Daemon, waits};

const MIB: u64 = 1 << 20;

/// Fills a file system in memory with what compresses badly and is nowhere the same, and notes what it is.
const FILL: &str = "dd if=/dev/urandom of=/seed bs=64k count=32 2>/dev/null; mkdir /busy; mount -t tmpfs -o size=40m busy /busy; \
    for n in $(seq 12); do (head -c $((n * 13)) /seed; cat /seed) >/busy/$n; done; cat /busy/* | md5sum >/sum";

impl Daemon {
    fn with_paging(pool: &str, paging: &str) -> Self {
        Self::start_as(false, "none", &["--memory-pool", pool, "--memory-paging", paging])
    }

    /// What a guest has, by the name of the number, MiB.
    fn now(&self, name: &str, number: &str) -> u64 {
        let pool = self.json("memory show");
        let guest = pool["guests"].as_array().unwrap().iter().find(|guest| guest["name"] == name);
        guest.and_then(|guest| guest["now"][number].as_u64()).unwrap_or_default() / MIB
    }

    /// What of the pool is used, MiB, and a part of what is said of it.
    fn pool(&self, part: &str) -> (u64, Value) {
        let pool = self.json("memory show");
        (pool["used"].as_u64().unwrap() / MIB, pool[part].clone())
    }
}

/// Whether the kernel pages there. It takes devices of the same priority in turn, those of other tests among them.
fn pages_to(path: &Path) -> bool {
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap();
    swaps.lines().any(|line| line.split_whitespace().next() == path.to_str())
}

/// The devices in memory that the kernel pages to.
fn compressed() -> HashSet<String> {
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap();
    swaps.split_whitespace().filter(|word| word.starts_with("/dev/zram")).map(str::to_owned).collect()
}

/// What a daemon says that does not start.
fn refused(program: &mut Command, state: &str, paging: &str, pool: &[&str]) -> String {
    program.args(["host", "--listen", "none", "--state-dir", state, "--memory-paging", paging]).args(pool);
    let said = program.stdin(Stdio::null()).output().unwrap();
    assert!(!said.status.success(), "{paging}: {said:?}");
    String::from_utf8(said.stderr).unwrap()
}

fn has_all_of_it(daemon: &Daemon, name: &str) {
    assert_eq!(
        inside(daemon, name, "cat /busy/* | md5sum | cmp - /sum; dmesg | grep -ci 'out of memory'; true"),
        "0",
        "{name}"
    );
}

#[test]
fn guests_that_use_more_than_the_pool_go_on_with_what_does_not_fit_on_the_paging_device() {
    let names = ["a", "b", "c"];
    let mut daemon = Daemon::with_paging("208M", "512M");
    let file = daemon.state().join("paging");
    assert!(pages_to(&file));
    for name in names {
        start(&daemon, name, if name == "b" { &["--memory-reserve", "80M"] } else { &[] });
    }
    for name in names {
        inside(&daemon, name, FILL);
    }
    daemon.eventually("together they have no more than there is, in memory", |daemon| {
        daemon.pool("flow").0 <= 208 && daemon.now("a", "out") + daemon.now("c", "out") > 24
    });
    for name in names {
        has_all_of_it(&daemon, name);
        daemon.eventually("what it has reserved is in memory", |daemon| daemon.now("b", "resident") >= 80);
    }
    daemon.eventually("something has gone and come, and the rest fits", |daemon| {
        let (used, flow) = daemon.pool("flow");
        let bytes = |name: &str| flow[name].as_u64().unwrap();
        used <= 208 && bytes("out") > 24 * MIB && bytes("back") > 0
    });
    let said = daemon.run("memory show");
    assert!(said.contains(&format!("paging to {}: ", file.display())) && said.contains("  OUT  "), "{said}");
    let metrics = ask(&daemon, "GET", "/metrics", "", &Value::Null).text;
    assert!(
        metrics.contains("tessera_host_memory_paged_out_bytes_total ")
            && metrics.contains("tessera_vm_paged_bytes{vm=\"a\"} ")
    );
    assert!(daemon.run("event ls").contains("host.memory-pressure"));
    assert!(names.iter().all(|name| daemon.state_of(name) == "running"));

    // A daemon that is killed finds its device again, and guests notice nothing of it.
    daemon.kill();
    assert!(pages_to(&file));
    daemon.start_again();
    daemon.eventually("guests are paged by the new one", |daemon| {
        daemon.now("a", "out") + daemon.now("c", "out") > 24
    });
    has_all_of_it(&daemon, "c");

    // What is on the device is saved as what is in memory.
    daemon.run("vm suspend a");
    daemon.run("vm resume a");
    answers(&daemon, "a");
    has_all_of_it(&daemon, "a");

    // A daemon that ends takes it away, and what was on it comes back.
    daemon.terminate();
    assert!(!pages_to(&file) && !file.exists());
    daemon.options = vec!["--memory-pool".into(), "1G".into()];
    daemon.start_again();
    assert_eq!(daemon.pool("paging").1, Value::Null);
    for name in ["a", "c"] {
        has_all_of_it(&daemon, name);
    }
}

#[test]
fn limits_hold_for_what_programs_use_while_the_pool_has_room() {
    let daemon = Daemon::with_paging("1G", "512M");
    daemon.run("share group create eng");
    for name in ["a", "b", "c"] {
        start(&daemon, name, if name == "a" { &[] } else { &["--share-group", "eng"] });
        inside(&daemon, name, FILL);
    }
    let has =
        |daemon: &Daemon, names: &[&str]| names.iter().map(|name| daemon.now(name, "resident")).sum::<u64>();
    let before = has(&daemon, &["a"]);
    assert!(before > 64, "{before} MiB");
    // What its process needs besides is not the guest's.
    daemon.run("vm edit a --memory-limit 40M");
    daemon.eventually("a guest keeps to its limit", |daemon| has(daemon, &["a"]) <= 40 + 24);
    daemon.run("share group edit eng --memory-limit 96M");
    daemon.eventually("a group keeps to its limit", |daemon| has(daemon, &["b", "c"]) <= 96 + 48);
    assert_eq!(daemon.pool("pressure").1, "high");
    for name in ["a", "b", "c"] {
        has_all_of_it(&daemon, name);
    }
    daemon.eventually("also of what has come back since", |daemon| has(daemon, &["a"]) <= 40 + 24);
    let said = daemon.run("share explain a");
    assert!(said.contains("it has what its limit allows") && !said.contains("NOT HELD TO"), "{said}");
    // Who has the rest.
    assert!(said.contains("  b (reserve 0B") && said.contains("  c (reserve 0B"), "{said}");
    daemon.run("vm edit a --memory-limit none");
    daemon.eventually("it may have all of it again", |daemon| daemon.now("a", "held") == 128);
    has_all_of_it(&daemon, "a");
}

#[test]
fn where_there_is_no_paging_device_the_least_important_guest_is_suspended_and_goes_on_later() {
    let daemon = Daemon::start_as(false, "none", &["--memory-pool", "160M"]);
    for (name, weight) in [("least", "100"), ("most", "1000")] {
        start(&daemon, name, &["--memory-weight", weight]);
        inside(&daemon, name, FILL);
    }
    daemon
        .eventually("who has the least weight makes room", |daemon| daemon.state_of("least") == "suspended");
    assert!(daemon.run("event ls").contains("the pool of memory"));
    daemon.eventually("the rest has room", |daemon| daemon.pool("size").0 <= 160);
    has_all_of_it(&daemon, "most");
    assert_eq!(daemon.state_of("most"), "running");
    daemon.run("vm delete --force most");
    daemon.run("vm resume least");
    answers(&daemon, "least");
    has_all_of_it(&daemon, "least");
}

#[test]
fn what_does_not_fit_is_compressed_in_memory_first() {
    // The machine may have some of its own.
    let before = compressed();
    let mut daemon =
        Daemon::start_as(false, "none", &["--memory-pool", "176M", "--memory-compression", "128M"]);
    let new: Vec<_> = compressed().difference(&before).cloned().collect();
    let [device] = &new[..] else { panic!("{new:?}") };
    let in_use = || compressed().contains(device);
    for name in ["a", "b"] {
        start(&daemon, name, &[]);
        inside(
            &daemon,
            name,
            &FILL.replace("dd if=/dev/urandom of=/seed bs=64k count=32", "seq 300000 >/seed"),
        );
    }
    daemon.eventually("it is compressed", |daemon| {
        let (used, of) = daemon.pool("compression");
        let size = |name: &str| of[name].as_u64().unwrap() / MIB;
        used <= 176 && size("used") > 16 && size("taken") < size("used") * 3 / 4
    });
    for name in ["a", "b"] {
        has_all_of_it(&daemon, name);
    }
    let said = daemon.run("memory show");
    assert!(said.contains("\ncompressed: ") && !said.contains("\npaging to "), "{said}");
    daemon.kill();
    daemon.start_again();
    assert!(in_use());
    has_all_of_it(&daemon, "b");
    daemon.terminate();
    assert!(!in_use() && !Path::new(device).exists());
    daemon.start_again();
    has_all_of_it(&daemon, "a");
}

/// A loop device over a file.
struct Loop(String);

impl Loop {
    fn over(file: &Path) -> Self {
        let made = Command::new("losetup").args(["--find", "--show"]).arg(file).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        Self(String::from_utf8(made.stdout).unwrap().trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // One that is still in use goes when it is not any more.
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn a_paging_device_that_is_none_or_somebody_elses_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let state = path("state");
    let host = |program: &mut Command, paging: &str, pool: &[&str]| refused(program, &state, paging, pool);
    let pool: &[&str] = &["--memory-pool", "256M"];
    let tessera = || Command::new(env!("CARGO_BIN_EXE_tessera"));
    let said = host(&mut tessera(), "64M", &[]);
    assert!(said.contains("--memory-paging: without --memory-pool nothing is paged"), "{said}");

    let said = host(&mut tessera(), "none", &["--memory-compression", "1G"]);
    assert!(said.contains("--memory-compression: without --memory-pool nothing is paged"), "{said}");
    let said = host(&mut tessera(), "none", &["--memory-pool", "256M", "--memory-compression", "1M"]);
    assert!(said.contains("--memory-compression: 1M are too little: give at least 64M"), "{said}");

    std::fs::write(path("letters"), "dear").unwrap();
    std::os::unix::fs::symlink(path("letters"), path("link")).unwrap();
    std::fs::File::create(path("disk")).unwrap().set_len(128 * MIB).unwrap();
    let disk = Loop::over(Path::new(&path("disk")));
    let formatted = Command::new("mkfs.ext4").args(["-q", &disk.0]).status().unwrap();
    assert!(formatted.success());
    std::fs::create_dir(path("mounted")).unwrap();
    let tmpfs = format!("/dev/shm/tessera-test-{}:64M", std::process::id());
    for (paging, wrong) in [
        ("1M", "paging: 1M are too little: give at least 64M"),
        ("much", "'much' is not a unit of size"),
        ("swap:1G", "write it as 8G, /FILE:8G, /dev/DEVICE or none"),
        ("4000T", "paging: a file of 4000T cannot be made there: "),
        (&tmpfs, "the kernel cannot page to files of this file system, such as tmpfs"),
        (&format!("{}:64M", path("letters")), "there is something on it that this host has not written"),
        (&format!("{}:64M", path("mounted")), "Is a directory"),
        (&path("letters"), "this is no block device: for a file give its size, too, as "),
        (&path("nowhere"), "No such file or directory"),
        (&disk.0, "there is something on it that this host has not written"),
        ("/dev/null", "this is no block device"),
        (&format!("{}:64M", path("link")), "it is a link"),
        ("/dev/zram777", "what is there is in memory: have it compressed with --memory-compression SIZE"),
    ] {
        let said = host(&mut tessera(), paging, pool);
        assert!(said.contains("--memory-paging") && said.contains(wrong), "{paging}: {said}");
    }
    assert_eq!(std::fs::read_to_string(path("letters")).unwrap(), "dear");
    assert!(
        !Path::new(tmpfs.trim_end_matches(":64M")).exists() && !Path::new(&state).join("paging").exists()
    );
    for (lacks, wrong) in [
        ("admin", "the kernel pages only for who has CAP_SYS_ADMIN: start the daemon as root"),
        ("nice", "guests cannot be paged here: the daemon has no CAP_SYS_NICE: start it as root"),
    ] {
        let mut program = Command::new("setpriv");
        program.args([&format!("--bounding-set=-sys_{lacks}"), env!("CARGO_BIN_EXE_tessera")]);
        let said = host(&mut program, "64M", pool);
        assert!(said.contains(wrong), "{said}");
    }
}

#[test]
fn a_block_device_is_taken_and_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("disk");
    std::fs::File::create(&file).unwrap().set_len(128 * MIB).unwrap();
    let device = Loop::over(&file);
    let mut daemon = Daemon::with_paging("256M", &device.0);
    assert!(pages_to(Path::new(&device.0)));
    daemon.eventually("it says so", |daemon| daemon.pool("paging").1["path"] == *device.0);
    daemon.kill();
    // Somebody says another place: what the killed daemon had is taken away.
    daemon.options[3] = format!("{}:64M", folder.path().join("a file").display());
    daemon.start_again();
    assert!(!pages_to(Path::new(&device.0)));
    daemon.eventually("it pages to the other one", |daemon| {
        daemon.pool("paging").1["size"].as_u64().is_some_and(|size| size / MIB == 63)
    });
    daemon.terminate();
    assert!(!folder.path().join("a file").exists());
    // What it wrote it has taken away: whatever comes there next is safe.
    let mut bytes = vec![1; MIB as usize];
    std::fs::File::open(&device.0).unwrap().read_exact(&mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
    daemon.options[3] = device.0.clone();
    daemon.start_again();
    // Where the machine ends with the daemon, what is left is known again by that.
    let ends = |daemon: &mut Daemon| {
        daemon.kill();
        assert!(Command::new("swapoff").arg(&device.0).status().unwrap().success());
    };
    ends(&mut daemon);
    daemon.start_again();
    assert!(pages_to(Path::new(&device.0)));
    ends(&mut daemon);
    let disk = std::fs::OpenOptions::new().write(true).open(&device.0).unwrap();
    disk.write_all_at(b"mine", 512).unwrap();
    let state = daemon.state().display().to_string();
    let said = || {
        let mut tessera = Command::new(env!("CARGO_BIN_EXE_tessera"));
        refused(&mut tessera, &state, &device.0, &["--memory-pool", "256M"])
    };
    assert!(said().contains("there is something on it that this host has not written"));
    disk.write_all_at(&[0; 4096], 0).unwrap();

    // A guest's disk is none, and the other way round.
    let kernel = daemon.kernel("kernel", &waits());
    let guest = || {
        let mut guest = Command::new(env!("CARGO_BIN_EXE_tessera"));
        guest.args(["run", "--engine", "soft", "--memory", "32M", "--net", "none", "--kernel", &kernel]);
        guest.args(["--disk", &format!("{},format=raw", device.0)]).env("HOME", folder.path());
        guest.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        guest
    };
    let mut runs = guest().spawn().unwrap();
    let mut line = String::new();
    BufReader::new(runs.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("it runs"), "{line}");
    let said = said();
    assert!(said.contains("it is in use: mounted, a guest's disk,"), "{said}");
    runs.kill().unwrap();
    runs.wait().unwrap();
    daemon.start_again();
    let refused = guest().output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("in use by another machine"), "{said}");
    daemon.terminate();
    assert!(!pages_to(Path::new(&device.0)));
}
