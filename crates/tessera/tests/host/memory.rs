//! A pool of memory that is smaller than its guests together: what they have of it, what they are promised, and who is refused.

use serde_json::{Value, json};

use crate::agent::start;
use crate::snapshots::inside;
use crate::{Daemon, waits};

const MIB: u64 = 1 << 20;

impl Daemon {
    fn with_pool(pool: &str) -> Self {
        Self::start_as(false, "none", &["--memory-pool", pool])
    }

    /// What a guest has of the pool, if it has been looked at.
    fn memory_of(&self, name: &str) -> Option<Value> {
        let pool = self.json("memory show");
        pool["guests"].as_array().unwrap().iter().find(|guest| guest["name"] == name).cloned()
    }

    /// What a guest could touch now, MiB.
    fn held(&self, name: &str) -> u64 {
        self.memory_of(name).and_then(|guest| guest["now"]["held"].as_u64()).unwrap_or_default() / MIB
    }
}

/// What a guest's own programs could still have, MiB.
fn available(daemon: &Daemon, name: &str) -> u64 {
    let said = inside(daemon, name, "sed -n 's/^MemAvailable: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo");
    said.trim().parse::<u64>().unwrap() / 1024
}

#[test]
fn guests_give_what_they_do_not_use_to_the_one_that_works_and_all_stay_within_the_pool() {
    let mut daemon = Daemon::with_pool("320M");
    start(&daemon, "a", &[]);
    let whole = available(&daemon, "a");
    start(&daemon, "b", &["--memory-reserve", "112M"]);
    start(&daemon, "c", &[]);
    daemon.eventually("they have no more than there is, together", |daemon| {
        ["a", "b", "c"].iter().map(|name| daemon.held(name)).sum::<u64>() <= 320
    });
    assert!(daemon.held("b") >= 112, "what it has reserved is its own");
    daemon.eventually("their systems know it", |daemon| available(daemon, "c") + 16 < whole);

    // What others do not use is what one that works gets, and nothing of what it had is lost.
    let before = daemon.held("a");
    inside(&daemon, "a", "mkdir /busy; mount -t tmpfs -o size=100m busy /busy");
    inside(
        &daemon,
        "a",
        "for n in 1 2 3 4 5; do dd if=/dev/urandom of=/busy/$n bs=64k count=128 2>/dev/null; sleep 1; done; cat /busy/* | md5sum >/sum",
    );
    daemon.eventually("it has more", |daemon| daemon.held("a") > before && daemon.held("a") >= 100);
    daemon.eventually("together they have no more than there is", |daemon| {
        ["a", "b", "c"].iter().map(|name| daemon.held(name)).sum::<u64>() <= 320
    });
    assert!(daemon.held("b") >= 112, "what it has reserved is its own");
    assert_eq!(
        inside(&daemon, "a", "cat /busy/* | md5sum | cmp - /sum && dmesg | grep -c -i 'out of memory'; true"),
        "0"
    );
    let report = daemon.json("share explain a")["memory"].clone();
    assert_eq!(report["pool"], 320 * MIB);
    assert!(report["now"]["active"].as_u64().unwrap() > 64 * MIB, "{report}");
    let said = daemon.run("share explain a");
    assert!(said.contains("  has         1") && said.contains("  pool        320M; pressure: "), "{said}");
    assert!(daemon.run("memory show").starts_with("pool 320M: "));

    // A limit holds whatever there is, and is changed while the guest runs.
    daemon.run("vm edit c --memory-limit 80M --memory-weight 500");
    assert_eq!(daemon.vm("c")["memory_share"], json!({ "reserve": 0, "weight": 500, "limit": 80 * MIB }));
    assert_eq!(daemon.vm("c")["status"]["pending_restart"], false);
    daemon.eventually("it is within its limit", |daemon| daemon.held("c") <= 81);

    // A daemon that is killed goes on with what it finds; one without a pool gives everything back.
    daemon.kill();
    daemon.start_again();
    daemon.eventually("it is as it was", |daemon| daemon.held("c") > 0 && daemon.held("c") <= 81);
    daemon.terminate();
    daemon.options.clear();
    daemon.start_again();
    daemon.eventually("everybody has all of it", |daemon| {
        ["b", "c"].iter().all(|name| available(daemon, name) + 4 >= whole)
    });
    assert!(daemon.run("memory show").starts_with("this host has no pool of memory"));
    let said = daemon.run("share explain b");
    assert!(said.contains("NOT HELD TO this host has no pool of memory"), "{said}");
}

#[test]
fn groups_share_a_pool_of_memory_by_their_own_reserves_weights_and_limits() {
    let mut daemon = Daemon::with_pool("320M");
    daemon.run("share group create eng --memory-weight 10");
    start(&daemon, "a", &["--share-group", "eng"]);
    start(&daemon, "b", &["--share-group", "eng"]);
    start(&daemon, "c", &[]);
    let of_group = |daemon: &Daemon| daemon.held("a") + daemon.held("b");
    daemon.eventually("c, which weighs more, has all of its memory and the group the rest", |daemon| {
        daemon.held("c") >= 124 && of_group(daemon) <= 180
    });
    // Changed live: what the group has reserved its members have together.
    daemon.run("share group edit eng --memory-reserve 216M");
    daemon.eventually("the group has its reserve", |daemon| {
        of_group(daemon) >= 212 && of_group(daemon) + daemon.held("c") <= 320
    });
    let said = daemon.run("share explain a");
    assert!(said.contains("in group    eng (reserve 216M, weight 10, no limit): 2"), "{said}");
    let group = daemon.json("share group show eng");
    assert!(group["memory"]["held"].as_u64() >= Some(212 * MIB), "{group}");
    // A daemon that is killed goes on with it.
    daemon.kill();
    daemon.start_again();
    daemon.run("share group edit eng --memory-reserve 0 --memory-limit 192M --memory-weight 1000");
    daemon.eventually("they are within the limit of their group", |daemon| {
        let held = of_group(daemon);
        held > 0 && held <= 194 && daemon.held("c") >= 116
    });
    daemon.run("vm edit a --share-group none");
    daemon.run("vm stop a");
    daemon.eventually("what one leaves the other one has", |daemon| daemon.held("b") >= 116);
}

#[test]
fn what_groups_have_reserved_of_a_pool_of_memory_is_kept_and_refused_where_it_cannot_be() {
    let daemon = Daemon::with_pool("128M");
    daemon.run("share group create fixed --memory-reserve 96M --fixed");
    let kernel = daemon.kernel("kernel", &waits());
    for (name, more) in [("a", "--memory-reserve 64M --start"), ("b", "--memory-reserve 48M")] {
        daemon.run(&format!(
            "vm create {name} --kernel {kernel} --memory 96M --engine soft --share-group fixed {more}"
        ));
    }
    assert_eq!(daemon.json("memory show")["reserved"], 96 * MIB, "it is kept whoever runs");
    for (words, wanted) in [
        (
            "vm start b",
            "b: of the pool of memory the group fixed has 32M left to promise, and 48M is asked for: 16M too much; 32M would fit",
        ),
        (
            "share group create other --memory-reserve 48M",
            "the pool of memory has 32M left to promise, and 48M is asked for: 16M too much; 32M would fit",
        ),
        (
            "share group create other --memory-reserve 1G",
            "/memory_share/reserve: this host's pool of memory is 128M: at most 128M can be reserved",
        ),
        (
            "share group edit fixed --memory-reserve 48M",
            "of the pool of memory what is in the group fixed is promised 64M, and it would have 48M for that: 16M too little; reserve 64M, or let it expand",
        ),
        (
            "share group create other --memory-limit 1M",
            "/memory_share/limit: a guest cannot live on less than 32M",
        ),
        ("share group create other --memory-weight 0", "/memory_share/weight: the weight 0 is none"),
    ] {
        let said = daemon.fails(words).1;
        assert!(said.contains(wanted), "{words}: {said}");
    }
    daemon.run("share group edit fixed --expandable");
    daemon.run("vm start b");
    assert_eq!(daemon.json("memory show")["reserved"], 112 * MIB);
    assert_eq!(daemon.json("share group show fixed")["memory"]["promised"], 112 * MIB);
}

#[test]
fn what_a_pool_cannot_promise_is_refused_with_what_would_fit() {
    let daemon = Daemon::with_pool("128M");
    let kernel = daemon.kernel("kernel", &waits());
    let create = |name: &str, more: &str| {
        format!("vm create {name} --kernel {kernel} --memory 96M --engine soft {more}")
    };
    for (options, wrong) in [
        (
            "--memory-reserve 1G",
            "/memory_share/reserve: the guest has 96M of memory: at most 96M can be reserved",
        ),
        (
            "--memory-reserve 96M --memory-limit 64M",
            "/memory_share/reserve: the reserve 96M is above the limit 64M: at most 64M",
        ),
        ("--memory-limit 1M", "/memory_share/limit: a guest cannot live on less than 32M"),
        ("--memory-weight 0", "/memory_share/weight: the weight 0 is none: give 1 to 1000000; 1000 is usual"),
        ("--memory-weight 1000000000", "/memory_share/weight: the weight 1000000000 is none"),
        (
            "--memory 256M --memory-reserve 200M",
            "/memory_share/reserve: this host's pool of memory is 128M: at most 128M",
        ),
    ] {
        let (_, said) = daemon.fails(
            &create("wrong", options)
                .replace("--memory 96M --engine soft --memory 256M", "--engine soft --memory 256M"),
        );
        assert!(said.contains(wrong), "{options}: {said}");
    }
    assert!(daemon.fails(&create("wrong", "--memory-reserve 10Mbit")).1.contains("is in bits"));
    daemon.run(&create("a", "--memory-reserve 96M --start"));
    daemon.run(&create("b", "--memory-reserve 48M"));
    let (_, said) = daemon.fails("vm start b");
    assert!(
        said.contains(
            "b: the pool of memory has 32M left to promise, and 48M is asked for: 16M too much; 32M would fit"
        ),
        "{said}"
    );
    assert_eq!(daemon.state_of("b"), "stopped");
    daemon.run("vm edit b --memory-reserve 32M");
    daemon.run("vm start b");
    let (_, said) = daemon.fails("vm edit b --memory-reserve 33M");
    assert!(said.contains("32M would fit"), "{said}");
    assert_eq!(daemon.json("memory show")["reserved"], 128 * MIB);
    daemon.run("vm stop a");
    daemon.run("vm edit b --memory-reserve 33M");

    let state = daemon.state().with_file_name("other").display().to_string();
    for (pool, wrong) in [
        ("1M", "--memory-pool: 1M is no pool: this machine has "),
        ("9999T", "--memory-pool: 9999T is no pool: this machine has "),
        ("110%", "'110%' is no part of a machine's memory: write it as 80%"),
    ] {
        let said = daemon.tessera(&format!("host --state-dir {state} --listen none --memory-pool {pool}"));
        let said = String::from_utf8(said.stderr).unwrap();
        assert!(said.contains(wrong), "{said}");
    }
}

#[test]
fn what_a_guests_system_reports_as_free_goes_back_unless_the_host_leaves_it_to_its_guests() {
    for (options, gives) in [(&[][..], true), (&["--no-memory-reporting"][..], false)] {
        let mut daemon = Daemon::start_as(false, "none", options);
        start(&daemon, "a", &["--memory-max", "512M"]);
        let reported = |daemon: &Daemon| daemon.json("vm stats a")["reported"].as_u64().unwrap();
        // What is plugged in is free in whole blocks, which its system reports.
        daemon.run("vm edit a --memory 384M");
        if gives {
            daemon.eventually("it is reported", |daemon| reported(daemon) >= 64 * MIB);
            continue;
        }
        std::thread::sleep(std::time::Duration::from_secs(5));
        assert_eq!(reported(&daemon), 0);
        // So it is with the next daemon.
        daemon.kill();
        daemon.start_again();
        std::thread::sleep(std::time::Duration::from_secs(3));
        assert_eq!(reported(&daemon), 0);
    }
}
