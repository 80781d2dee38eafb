//! Storage pools and networks whose bandwidth guests share: by what they are promised, live, and never more than there is.

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
fn groups_share_a_pool_by_their_own_weights_and_never_pass_their_limits() {
    let mut daemon = Daemon::start();
    let per_second = 4 * MIB;
    daemon.run("pool edit default --bandwidth 4MiB");
    daemon.run("share group create eng --disk-weight 3000");
    daemon.run("share group create inner --within eng --disk-limit 3M");
    start(&daemon, "a", &["--new-disk", "32M", "--share-group", "inner", "--disk-weight", "1"]);
    start(&daemon, "b", &["--new-disk", "32M"]);
    write(&daemon, "a");
    write(&daemon, "b");
    comes_to(&daemon, WRITTEN, per_second, (2.4, 3.75));
    let said = daemon.run("share explain a");
    for line in [
        "in group    inner (reserve 0B/s, weight 1000, limit 3M/s): ",
        "in group    eng (reserve 0B/s, weight 3000, no limit): ",
    ] {
        assert!(said.contains(line), "{said}");
    }
    daemon.eventually("what is done in it is told", |daemon| {
        let pools = &daemon.json("share group show eng")["pools"];
        pools[0]["name"] == "default" && pools[0]["bytes"].as_u64() > Some(MIB)
    });

    // Changed live: its limit keeps it from more, and the others have the rest.
    daemon.run("share group edit inner --disk-limit 1M");
    comes_to(&daemon, WRITTEN, per_second, (0.26, 0.42));
    let flow = share(&daemon, "a", "disks")["places"][0]["flows"][0].clone();
    assert_eq!((&flow["allowed"], &flow["waited_for_group"]), (&json!(MIB), &json!(true)), "{flow}");
    assert!(daemon.run("share explain a").contains("waited for others in its group"));
    // What it has reserved it has, whatever its members are promised.
    daemon.run("share group edit inner --disk-limit none");
    daemon.run("share group edit eng --disk-weight 1000 --disk-reserve 2M");
    comes_to(&daemon, WRITTEN, per_second, (2.4, 3.75));
    // A daemon that is killed finds all of it again.
    daemon.kill();
    daemon.start_again();
    comes_to(&daemon, WRITTEN, per_second, (2.4, 3.75));
    daemon.run("vm edit a --share-group none --disk-weight 1000");
    comes_to(&daemon, WRITTEN, per_second, (0.7, 1.4));

    // A limit holds without anybody having said what the pool carries.
    daemon.run("share group edit inner --disk-limit 1M");
    daemon.run("vm edit a --share-group inner");
    daemon.run("pool edit default --bandwidth none");
    daemon.eventually("only the limit is left", |daemon| {
        let allowed = |name: &str| share(daemon, name, "disks")["places"][0]["flows"][0]["allowed"].as_u64();
        allowed("a") == Some(MIB) && allowed("b").is_none()
    });
}

#[test]
fn what_a_group_has_reserved_of_a_pool_is_kept_where_its_guests_are_and_refused_where_it_cannot_be() {
    let daemon = Daemon::start();
    daemon.run("pool edit default --bandwidth 8M");
    daemon.run("share group create fixed --disk-reserve 6M --fixed");
    daemon.run("share group create inside --within fixed");
    // Nobody is there yet.
    daemon.run("share group create other --disk-reserve 4M");
    let kernel = daemon.kernel("kernel", &waits());
    for (name, more) in [
        ("a", "--share-group inside --disk-reserve 4M --start"),
        ("b", "--share-group inside --disk-reserve 3M"),
        ("c", "--disk-reserve 3M"),
        ("d", "--share-group other"),
    ] {
        daemon.run(&format!(
            "vm create {name} --kernel {kernel} --memory 32M --engine soft --new-disk 1M {more}"
        ));
    }
    for (words, wanted) in [
        (
            "vm start b",
            "b: of the pool default the group fixed has 2M/s left to promise, and 3M/s is asked for: 1M/s too much; 2M/s would fit",
        ),
        ("vm start c", "c: the pool default has 2M/s left to promise, and 3M/s is asked for"),
        (
            "vm start d",
            "d: the group other, which has 4M/s reserved wherever it is used: the pool default has 2M/s left to promise, and 4M/s is asked for: 2M/s too much; 2M/s would fit",
        ),
        (
            "share group edit fixed --disk-reserve 3M",
            "of the pool default what is in the group fixed is promised 4M/s, and it would have 3M/s for that: 1M/s too little; reserve 4M/s, or let it expand",
        ),
        (
            "share group edit fixed --disk-reserve 3M --disk-limit 3M",
            "of the pool default what is in the group fixed is promised 4M/s, and it would have 3M/s",
        ),
        (
            "share group edit fixed --disk-reserve 9M",
            "the pool default has 8M/s left to promise, and 9M/s is asked for: 1M/s too much; 8M/s would fit",
        ),
        ("pool edit default --bandwidth 5M", "guests that run have reserved 6M/s of the pool default"),
        (
            "share group create none --disk-reserve 4M --disk-limit 2M",
            "/disk_share/reserve: the reserve 4M is above the limit 2M: at most 2M can be reserved",
        ),
        ("share group create none --disk-limit 1K", "/disk_share/limit: bytes each second: at least 4K"),
        ("share group create none --network-weight 0", "/network_share/weight: the weight 0 is none"),
    ] {
        let said = daemon.fails(words).1;
        assert!(said.contains(wanted), "{words}: {said}");
    }
    daemon.run("share group edit fixed --expandable");
    daemon.run("vm start b");
    assert!(daemon.fails("share group edit fixed --fixed").1.contains("is promised 7M/s"));
    let group = daemon.json("share group show fixed");
    assert_eq!(group["disk_share"], json!({ "reserve": 6 * MIB, "weight": 1000 }));
    assert_eq!(group["pools"], json!([{ "name": "default", "promised": 7 * MIB, "bytes": 0 }]));
    assert_eq!(share(&daemon, "a", "disks")["places"][0]["reserved"], 7 * MIB);
    assert!(daemon.run("share group ls -o wide").contains("reserve 6M/s, weight 1000, no limit"));
    // What its last guest there leaves others can be promised.
    daemon.run("vm stop a b");
    daemon.run("vm start c");
    daemon.run("vm start d");
    assert!(daemon.fails("vm start a").1.contains("1M/s would fit"));
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
    let Some(daemon) = Daemon::start_apart() else { return };
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
    // Those in a group share its limit, each way.
    daemon.run("share group create eng --network-limit 64K");
    daemon.run("vm edit a --share-group eng --network-weight 1000");
    daemon.run("vm edit b --share-group eng --network-reserve 0");
    comes_to(&daemon, "/nics/0/sent_bytes", 64 << 10, (0.7, 1.4));
    daemon.run("vm stop a b");
}
