//! Storage pools and networks whose bandwidth guests share: by what they are promised, live, and never more than there is.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::agent::start;
use crate::snapshots::inside;
use crate::{Daemon, waits};

const MIB: u64 = 1 << 20;

/// How much of something two guests have done, and when.
struct Since<'a> {
    daemon: &'a Daemon,
    pointer: &'static str,
    begin: Instant,
    before: [u64; 2],
    /// The longest that they do at once: each may be so far beyond what it may.
    largest: u64,
}

fn done(daemon: &Daemon, pointer: &str) -> [u64; 2] {
    ["a", "b"].map(|name| {
        let stats = daemon.json(&format!("vm stats {name}"));
        stats.pointer(pointer).and_then(Value::as_u64).unwrap()
    })
}

impl<'a> Since<'a> {
    fn now(daemon: &'a Daemon, pointer: &'static str) -> Self {
        let largest = if pointer == WRITTEN { MIB } else { 4096 };
        // What one does while the other is asked is in the time, too.
        let begin = Instant::now();
        Self { daemon, pointer, begin, before: done(daemon, pointer), largest }
    }

    /// What each has done since, and that together it is no more than `per_second` lets pass: a law, whatever the machine's speed. What may
    /// be done at once is a quarter of a second's, and who wants nothing keeps a little besides.
    fn passed(&self, per_second: u64) -> [u64; 2] {
        let after = done(self.daemon, self.pointer);
        let passed = [0, 1].map(|n| after[n] - self.before[n]);
        let most = per_second as f64 * (0.5 + 1.04 * self.begin.elapsed().as_secs_f64());
        let most = most + 2.0 * self.largest as f64;
        assert!((passed[0] + passed[1]) as f64 <= most, "{passed:?} of {most}");
        passed
    }
}

/// Waits until in a few seconds the first guest does so many times what the other one does: between these two.
fn comes_to(daemon: &Daemon, pointer: &'static str, per_second: u64, (least, most): (f64, f64)) {
    daemon.eventually("they share as they are promised", |daemon| {
        let since = Since::now(daemon, pointer);
        std::thread::sleep(Duration::from_secs(3));
        let [a, b] = since.passed(per_second).map(|bytes| bytes as f64);
        println!("{a} and {b} in {:?}", since.begin.elapsed());
        b > 0.0 && (least..=most).contains(&(a / b))
    });
}

fn share(daemon: &Daemon, name: &str, kind: &str) -> Value {
    daemon.json(&format!("share explain {name}"))[kind].clone()
}

/// Has a guest write to its disk as fast as it can: at no moment nothing.
fn write(daemon: &Daemon, name: &str) {
    for place in [0, 256] {
        let write = format!("dd if=/dev/zero of=/dev/vda bs=64k count=256 seek={place} oflag=direct");
        inside(daemon, name, &format!("(while {write}; do :; done) >/dev/null 2>&1 &"));
    }
}

const WRITTEN: &str = "/disks/0/written_bytes";

#[test]
fn guests_share_a_pool_by_weight_and_what_one_leaves_the_other_one_has() {
    let mut daemon = Daemon::start();
    let per_second = 4 * MIB;
    start(&daemon, "a", &["--new-disk", "32M", "--disk-weight", "2000"]);
    start(&daemon, "b", &["--new-disk", "32M"]);
    let said = daemon.run("share explain a");
    assert!(said.contains("NOT HELD TO nobody has said what default carries"), "{said}");
    daemon.run("pool edit default --bandwidth 4MiB");
    assert_eq!(daemon.json("pool show default")["bandwidth"], per_second);
    daemon.eventually("it is divided", |daemon| {
        ["a", "b"]
            .iter()
            .all(|name| share(daemon, name, "disks")["places"][0]["flows"][0]["allowed"].is_u64())
    });
    write(&daemon, "a");
    write(&daemon, "b");
    comes_to(&daemon, WRITTEN, per_second, (1.6, 2.5));
    let report = share(&daemon, "a", "disks");
    assert_eq!(
        (&report["places"][0]["name"], &report["promised"]["weight"]),
        (&json!("default"), &json!(2000))
    );
    let flow = &report["places"][0]["flows"][0];
    assert!(flow["way"] == "all" && flow["waited"].as_f64().unwrap() > 0.5, "{flow}");
    let said = daemon.run("share explain a");
    assert!(said.contains("pool        default: 4M/s, of which 0B/s are reserved"), "{said}");
    assert!(said.contains("; waited for others "), "{said}");

    // Changed live: the other way round, and then a limit.
    daemon.run("vm edit a --disk-weight 500");
    comes_to(&daemon, WRITTEN, per_second, (0.4, 0.63));
    assert_eq!(daemon.vm("a")["disk_share"], json!({ "reserve": 0, "weight": 500 }));
    daemon.run("vm edit b --disk-limit 1M --disk-weight 100000");
    daemon.eventually("it knows its limit", |daemon| {
        let allowed = share(daemon, "b", "disks")["places"][0]["flows"][0]["allowed"].as_u64();
        allowed == Some(MIB)
    });
    let since = Since::now(&daemon, WRITTEN);
    std::thread::sleep(Duration::from_secs(3));
    let limited = since.passed(per_second)[1] as f64;
    assert!(limited <= MIB as f64 * (1.0 + since.begin.elapsed().as_secs_f64()), "{limited}");
    daemon.eventually("the other one has the rest", |daemon| {
        let since = Since::now(daemon, WRITTEN);
        std::thread::sleep(Duration::from_secs(2));
        since.passed(per_second)[0] as f64 >= 2.5 * MIB as f64 * 2.0
    });

    // What one leaves the other one has, and one that comes back has its part.
    daemon.run("vm edit b --disk-limit none --disk-weight 500");
    daemon.run("vm pause a");
    daemon.eventually("it has all of it", |daemon| {
        let since = Since::now(daemon, WRITTEN);
        std::thread::sleep(Duration::from_secs(2));
        since.passed(per_second)[1] as f64 >= 3.5 * MIB as f64 * 2.0
    });
    daemon.run("vm resume a");
    comes_to(&daemon, WRITTEN, per_second, (0.7, 1.4));

    // Guests whose daemon is gone have what they would have if all were busy, and the next one goes on with what it finds.
    daemon.kill();
    std::thread::sleep(Duration::from_secs(4));
    daemon.start_again();
    comes_to(&daemon, WRITTEN, per_second, (0.7, 1.4));
    daemon.run("vm edit a --disk-reserve 3M");
    comes_to(&daemon, WRITTEN, per_second, (5.0, 10.0));

    // Nobody says any more what it carries.
    daemon.run("pool edit default --bandwidth none");
    assert_eq!(daemon.json("pool show default")["bandwidth"], Value::Null);
    daemon.eventually("nothing is divided any more", |daemon| {
        share(daemon, "b", "disks")["places"][0]["flows"][0]["allowed"].is_null()
    });
}

#[test]
fn a_disk_that_comes_and_requests_that_are_counted_are_divided_too() {
    let daemon = Daemon::start();
    let folder = daemon.state().with_file_name("fast").display().to_string();
    daemon.run(&format!("pool create fast {folder} --operations 40"));
    daemon.run("volume create v --size 16M --pool fast");
    start(&daemon, "a", &[]);
    daemon.run("vm disk add a --volume fast/v --live");
    daemon.eventually("it is followed", |daemon| {
        share(daemon, "a", "disks")["places"][0]["flows"][0]["allowed_operations"] == 40
    });
    let requests = |daemon: &Daemon| {
        let disk = &daemon.json("vm stats a")["disks"][0];
        disk["reads"].as_u64().unwrap() + disk["writes"].as_u64().unwrap()
    };
    let (before, begin) = (requests(&daemon), Instant::now());
    inside(&daemon, "a", "dd if=/dev/zero of=/dev/vda bs=4k count=60 oflag=direct 2>/dev/null");
    let passed = (requests(&daemon) - before) as f64;
    assert!(
        passed >= 60.0 && passed <= 40.0 * (0.5 + 1.04 * begin.elapsed().as_secs_f64()) + 2.0,
        "{passed}"
    );
    daemon.run("pool edit fast --operations none --description archive");
    let pool = daemon.json("pool show fast");
    assert!(pool["operations"].is_null() && pool["description"] == "archive", "{pool}");
}

#[test]
fn what_a_pool_or_a_network_cannot_promise_is_refused_with_what_would_fit() {
    let daemon = Daemon::start();
    daemon.run("pool edit default --bandwidth 8M");
    let kernel = daemon.kernel("kernel", &waits());
    let create = |name: &str, more: &str| {
        format!("vm create {name} --kernel {kernel} --memory 32M --engine soft --new-disk 1M {more}")
    };
    for (options, wrong) in [
        (
            "--disk-reserve 9M",
            "/disk_share/reserve: the pool default carries 8M/s: at most 8M can be reserved",
        ),
        (
            "--disk-reserve 4M --disk-limit 2M",
            "/disk_share/reserve: the reserve 4M is above the limit 2M: at most 2M can be reserved",
        ),
        ("--disk-limit 1K", "/disk_share/limit: bytes each second: at least 4K"),
        ("--disk-weight 0", "/disk_share/weight: the weight 0 is none: give 1 to 1000000; 1000 is usual"),
        ("--network-weight 0", "/network_share/weight: the weight 0 is none"),
        (
            "--network-reserve 2M --network-limit 1M",
            "/network_share/reserve: the reserve 2M is above the limit 1M",
        ),
        ("--network-limit 10Mbit", "is in bits"),
    ] {
        let output = daemon.tessera(&create("wrong", options));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(wrong), "{options}: {said}");
    }
    daemon.run(&create("a", "--disk-reserve 6M --start"));
    daemon.run(&create("b", "--disk-reserve 4M"));
    let (_, said) = daemon.fails("vm start b");
    assert!(
        said.contains(
            "b: the pool default has 2M/s left to promise, and 4M/s is asked for: 2M/s too much; 2M/s would fit"
        ),
        "{said}"
    );
    daemon.run("vm edit b --disk-reserve 2M");
    daemon.run("vm start b");
    assert!(daemon.fails("vm edit b --disk-reserve 3M").1.contains("2M/s would fit"));
    let (_, said) = daemon.fails("pool edit default --bandwidth 7M");
    assert!(said.contains("guests that run have reserved 8M/s of the pool default"), "{said}");
    for (words, wrong) in [
        ("pool edit default --bandwidth 1K", "/bandwidth: bytes each second: at least 4096 (4K)"),
        ("pool edit default --operations 0", "/operations: 1 or more each second"),
        ("pool edit default --bandwidth 10Mbit", "is in bits"),
        ("pool edit default", "say what is to change: --bandwidth, --operations or --description"),
        ("pool edit none --bandwidth 8M", "there is no pool none"),
    ] {
        let output = daemon.tessera(words);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(wrong), "{words}: {said}");
    }
    assert_eq!(daemon.json("pool show default")["bandwidth"], 8 * MIB);
    let reserved = share(&daemon, "b", "disks");
    assert_eq!(reserved["places"][0]["reserved"], 8 * MIB, "{reserved}");

    // A clone is promised what its origin is; what nobody has room for does not start.
    daemon.run("vm stop b");
    daemon.run("vm clone b c");
    assert_eq!(daemon.vm("c")["disk_share"]["reserve"], 2 * MIB);
    daemon.run("vm start c");
    assert!(daemon.fails("vm start b").1.contains("0B/s would fit"));
}

#[test]
fn guests_share_a_network_by_weight_each_way() {
    let allowed = Command::new("unshare").args(["--net", "true"]).status();
    if !allowed.is_ok_and(|status| status.success()) {
        eprintln!("skipped: this user cannot make network namespaces");
        return;
    }
    let daemon = Daemon::start_in(true);
    daemon.run("network create lan --subnet 10.77.0.0/24 --bandwidth 64K");
    let (_, said) = daemon.fails("network edit lan --bandwidth 1K");
    assert!(said.contains("/bandwidth") && said.contains("give 4096 or more"), "{said}");
    let per_second = 128 << 10;
    daemon.run("network edit lan --bandwidth 128K");
    start(&daemon, "a", &["--net", "network=lan", "--network-weight", "2000"]);
    start(&daemon, "b", &["--net", "network=lan", "--network-reserve", "16K"]);
    for name in ["a", "b"] {
        inside(&daemon, name, "ip link set eth0 up; udhcpc -q -n -i eth0 >/dev/null 2>&1");
        // It ends when its queue is full.
        let line = "(while :; do ping -i 0.01 -s 1400 10.77.0.1; sleep 0.1; done) >/dev/null 2>&1 &";
        inside(&daemon, name, line);
    }
    // 16 KiB are reserved; of the rest the first one has twice as much.
    comes_to(&daemon, "/nics/0/sent_bytes", per_second, (1.2, 1.8));
    let flows = share(&daemon, "a", "networks")["places"][0]["flows"].clone();
    assert_eq!([&flows[0]["way"], &flows[1]["way"]], ["receive", "send"]);
    daemon.run("vm edit b --network-reserve 0");
    comes_to(&daemon, "/nics/0/sent_bytes", per_second, (1.6, 2.5));
    daemon.run("vm edit b --network-reserve 100K");
    let (_, said) = daemon.fails("vm edit a --network-reserve 100K");
    assert!(
        said.contains("the network lan has 28K/s left to promise") && said.contains("28K/s would fit"),
        "{said}"
    );
    let (_, said) = daemon.fails("network edit lan --bandwidth 64K");
    assert!(said.contains("guests that run have reserved 100K/s of the network lan"), "{said}");
    daemon.run("network edit lan --bandwidth none");
    daemon.eventually("nothing is divided any more", |daemon| {
        share(daemon, "a", "networks")["places"][0]["flows"][1]["allowed"].is_null()
    });
    daemon.run("vm stop a b");
}
