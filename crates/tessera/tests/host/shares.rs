//! What guests are promised of the host's processors: what is said of it, what lands in their control groups, and who is refused.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::agent::start;
use crate::guest::Code;
use crate::history::{known, seconds};
use crate::http::ask;
use crate::snapshots::inside;
use crate::{Daemon, waits};

/// A guest that always wants more.
fn spins() -> Code {
    Code::default().print("it runs\n").spin()
}

impl Daemon {
    /// The control group of a guest in which processors are divided, if there is one here.
    fn cpu_group(&self, vm: &str) -> Option<PathBuf> {
        let id = self.vm(vm)["id"].as_str().unwrap().to_owned();
        let host = self.json("host info")["id"].as_str().unwrap().to_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let places = mounts
            .lines()
            .filter(|line| line.contains(" - cgroup"))
            .filter_map(|line| line.split(' ').nth(4));
        let own = fs::read_to_string(format!("/proc/{}/cgroup", self.vm(vm)["status"]["pid"])).unwrap();
        let paths = own.lines().filter_map(|line| line.splitn(3, ':').nth(2));
        let fits = |path: &&str| path.ends_with(&format!("tessera-{host}/{id}"));
        let paths: Vec<_> = paths.filter(fits).map(|path| path.trim_start_matches('/').to_owned()).collect();
        let groups = places.flat_map(|place| paths.iter().map(move |path| PathBuf::from(place).join(path)));
        groups
            .into_iter()
            .find(|group| group.join("cpu.shares").exists() || group.join("cpu.weight").exists())
    }

    /// Whether promises are held to here; says so if not.
    fn holds_to_shares(&self, vm: &str) -> bool {
        let why = self.json(&format!("share explain {vm}"))["cpu"]["not_enforced"].clone();
        if !why.is_null() {
            eprintln!("shares are not held to here: {why}");
        }
        why.is_null()
    }

    fn weight(&self, vm: &str) -> u64 {
        let group = self.cpu_group(vm).unwrap();
        let text = fs::read_to_string(group.join("cpu.shares"))
            .or_else(|_| fs::read_to_string(group.join("cpu.weight")));
        text.unwrap().trim().parse().unwrap()
    }

    /// The quota and its period, µs; none is no limit.
    fn quota(&self, vm: &str) -> Option<(u64, u64)> {
        let group = self.cpu_group(vm).unwrap();
        let read = |name: &str| fs::read_to_string(group.join(name)).map(|text| text.trim().to_owned());
        let text = read("cpu.max").unwrap_or_else(|_| {
            format!("{} {}", read("cpu.cfs_quota_us").unwrap(), read("cpu.cfs_period_us").unwrap())
        });
        let (quota, period) = text.split_once(' ').unwrap();
        Some((quota.parse().ok()?, period.parse().unwrap()))
    }
}

#[test]
fn weights_and_limits_are_in_the_kernel_at_once_and_change_while_guests_run() {
    let mut daemon = Daemon::start();
    daemon.guest("a", &spins(), "--cpu-weight 3000");
    daemon.guest("b", &spins(), "--cpu-limit 0.5");
    daemon.guest("c", &spins(), "");
    if !daemon.holds_to_shares("a") {
        return;
    }
    daemon.eventually("the limit is there", |daemon| daemon.quota("b") == Some((5_000, 10_000)));
    assert_eq!(daemon.quota("a"), None);
    daemon.eventually("a has more than c", |daemon| daemon.weight("a") > daemon.weight("c"));
    let pid = daemon.vm("a")["status"]["pid"].clone();
    daemon.run("vm edit a --cpu-weight 1 --cpu-limit 0.05");
    daemon.eventually("it has changed", |daemon| {
        // It keeps to so small a one itself.
        daemon.quota("a") == Some((5_000, 100_000)) && daemon.weight("a") < daemon.weight("c")
    });
    daemon.run("vm edit b --cpu-limit none");
    daemon.eventually("there is no limit", |daemon| daemon.quota("b").is_none());
    let a = daemon.vm("a");
    assert_eq!(a["cpu_share"], json!({ "reserve": 0, "weight": 1, "limit": 0.05, "soft": false }));
    assert_eq!((&a["status"]["pending_restart"], &a["status"]["pid"]), (&json!(false), &pid));
    assert_eq!(daemon.vm("c").get("cpu_share"), None);

    // A daemon that is killed finds all of it again.
    daemon.run("vm edit a --cpu-reserve 0.05");
    daemon.kill();
    let group = daemon_group(&pid);
    fs::write(
        group.join(if group.join("cpu.max").exists() { "cpu.max" } else { "cpu.cfs_quota_us" }),
        if group.join("cpu.max").exists() { "max" } else { "-1" },
    )
    .unwrap();
    daemon.start_again();
    daemon.eventually("it is as it was", |daemon| daemon.quota("a") == Some((5_000, 100_000)));
    assert_eq!(daemon.json("share explain c")["cpu"]["host"]["reserved"], 0.05);

    // When nobody is promised anything any more, all are as others again.
    daemon.run("vm delete --force a b");
    daemon.eventually("it is usual", |daemon| [1024, 100].contains(&daemon.weight("c")));
}

/// The group of a process in which processors are divided.
fn daemon_group(pid: &Value) -> PathBuf {
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let places =
        mounts.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
    let paths: Vec<_> = own
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .map(|path| path.trim_start_matches('/'))
        // The root of a hierarchy is nobody's own.
        .filter(|path| !path.is_empty())
        .collect();
    let mut groups = places.flat_map(|place| paths.iter().map(move |path| PathBuf::from(place).join(path)));
    let divides = |group: &PathBuf| group.join("cpu.max").exists() || group.join("cpu.cfs_quota_us").exists();
    groups.find(divides).unwrap()
}

#[test]
fn the_one_too_many_is_refused_with_what_fits_and_starts_when_another_has_stopped() {
    let mut daemon = Daemon::start();
    let cpus = daemon.json("host info")["cpus"].as_f64().unwrap();
    let kernel = daemon.kernel("k", &waits());
    let make = |name: &str, more: &str| {
        format!("vm create {name} --kernel {kernel} --memory 32M --engine soft {more}")
    };
    // All but 0.3 of a processor.
    for n in 0..cpus as u32 {
        let reserve = if n == 0 { "0.7" } else { "1" };
        daemon.run(&make(&format!("g{n}"), &format!("--start --cpu-reserve {reserve}")));
    }
    daemon.run(&make("late", "--cpu-reserve 0.5"));
    let (status, said) = daemon.fails("vm start late");
    let why = "late: the host has 0.3 left to promise, and 0.5 is asked for: 0.2 too much; 0.3 would fit";
    assert!(said.contains(why), "{said}");
    assert_ne!(status, Some(0));
    assert_eq!(daemon.state_of("late"), "stopped");
    // One that runs cannot have more than is left either; it stays what it was.
    daemon.run("vm edit g0 --cpu-reserve 0.9");
    daemon.run(&make("small", "--start --cpu-reserve 0.1"));
    let (_, said) = daemon.fails("vm edit g0 --cpu-reserve 1");
    assert!(said.contains("0.9 would fit"), "{said}");
    assert_eq!(daemon.vm("g0")["cpu_share"]["reserve"], 0.9);
    daemon.run("vm delete --force small");
    daemon.run("vm edit g0 --cpu-reserve 1");
    assert!(daemon.fails("vm start late").1.contains("0 would fit"));
    daemon.run("vm edit g0 --cpu-reserve 0.7");
    // A new daemon knows what is promised.
    daemon.kill();
    daemon.start_again();
    assert!(daemon.fails("vm start late").1.contains("0.3 would fit"));
    // What would fit does, and what is given back can be had.
    daemon.run("vm edit late --cpu-reserve 0.3");
    daemon.run("vm start late");
    daemon.run("vm stop late");
    daemon.run("vm edit late --cpu-reserve 0.5");
    daemon.run("vm stop g0");
    daemon.run("vm start late");
    assert!(daemon.fails("vm start g0").1.contains("0.5 would fit"));
    daemon.run("vm suspend late");
    daemon.run("vm start g0");
    assert!(daemon.fails("vm resume late").1.contains("0.3 would fit"));
    assert_eq!(daemon.state_of("late"), "suspended");
    daemon.run("vm delete --force g0");
    daemon.run("vm resume late");
}

#[test]
fn a_wrong_share_is_refused_by_name_value_and_what_would_be_right() {
    let daemon = Daemon::start();
    daemon.guest("a", &waits(), "");
    let cpus = daemon.json("host info")["cpus"].as_u64().unwrap();
    let above = format!("/cpu_share/reserve: guests may use {cpus} processors of this host: at most {cpus}");
    for (options, told) in [
        (
            "--cpu-reserve 0.5 --cpu-limit 0.25",
            "/cpu_share/reserve: the reserve 0.5 is above the limit 0.25: at most 0.25 can be reserved",
        ),
        ("--cpu-weight 0", "/cpu_share/weight: the weight 0 is none: give 1 to 1000000; 1000 is usual"),
        ("--cpu-weight 1000000000", "/cpu_share/weight: the weight 1000000000 is none"),
        ("--cpu-reserve 0.001", "/cpu_share/reserve: 0.001 of a processor is too little: at least 0.01"),
        ("--cpu-limit 0", "/cpu_share/limit: the limit 0 is no amount: give more than 0, or none"),
        ("--cpu-reserve 300", &above),
        ("--share-relative 0", "--share-relative: a relative share of 0: give 1 to 10000; 100 is usual"),
        (
            "--entitlement 0.1 --uncapped-weight 256",
            "--uncapped-weight: an uncapped weight of 256: give 0 to 255; 128 is usual",
        ),
        ("--share-absolute 101%", "--share-absolute: an absolute share of 101 %"),
    ] {
        let (_, said) = daemon.fails(&format!("vm edit a {options}"));
        assert!(said.contains(told), "{options}: {said}");
    }
    for options in [
        "--cpu-reserve 0.0001",
        "--cpu-reserve x",
        "--cpu-limit -1",
        "--cpu-soft",
        "--entitlement 0.3",
        "--capped",
        "--entitlement 0.3 --capped --uncapped-weight 1",
        "--entitlement 0.3 --capped --cpu-weight 1",
        "--share-absolute 30% --share-relative 100",
        "--share-absolute 30",
        "--limit-hard",
        "--shares high --cpu-weight 5",
    ] {
        let output = daemon.tessera(&format!("vm edit a {options}"));
        assert_eq!(output.status.code(), Some(2), "{options}: {output:?}");
    }
    let patch = |share: Value| ask(&daemon, "PATCH", "/vms/a", "", &json!({ "cpu_share": share }));
    for (share, pointer) in [
        (json!({ "reserve": "0.5" }), "/cpu_share/reserve"),
        (json!({ "reserve": -1 }), "/cpu_share/reserve"),
        (json!({ "weight": -1 }), "/cpu_share/weight"),
        (json!({ "soft": true }), "/cpu_share/soft"),
        (json!({ "reserves": 1 }), "/cpu_share/reserves"),
    ] {
        let answer = patch(share.clone());
        assert_eq!((answer.status, &answer.body["errors"][0]["pointer"]), (422, &json!(pointer)), "{share}");
    }
    assert_eq!(daemon.vm("a").get("cpu_share"), None);
}

#[test]
fn the_words_of_other_systems_say_the_same() {
    let daemon = Daemon::start();
    let kernel = daemon.kernel("k", &waits());
    daemon.run(&format!("vm create a --kernel {kernel} --memory 32M --engine soft --cpus 2 --shares high"));
    let share = |options: &str| {
        daemon.run(&format!("vm edit a {options}"));
        daemon.vm("a").get("cpu_share").cloned()
    };
    assert_eq!(daemon.vm("a")["cpu_share"]["weight"], 4000);
    let whole = |reserve: f64, weight: u32, limit: Value, soft: bool| {
        let mut share = json!({ "reserve": reserve, "weight": weight, "soft": soft });
        if !limit.is_null() {
            share["limit"] = limit;
        }
        Some(share)
    };
    assert_eq!(share("--entitlement 0.3 --capped"), whole(0.3, 1000, json!(0.3), false));
    assert_eq!(share("--entitlement 0.1 --uncapped-weight 64"), whole(0.1, 500, Value::Null, false));
    let cpus = daemon.json("host info")["cpus"].as_f64().unwrap();
    let tenth = (cpus * 100.0).round() / 1000.0;
    assert_eq!(share("--share-absolute 10% --limit-soft"), whole(tenth, 1000, json!(tenth), true));
    assert_eq!(share("--share-relative 200").unwrap()["weight"], 2000);
    assert_eq!(share("--cpus 1 --shares normal"), None, "that is what is usual");
    assert!(daemon.run("vm ls -o wide").contains("SHARE"));
}

#[test]
fn a_guest_is_told_what_it_is_promised_wants_and_gets_and_who_gets_the_rest() {
    let daemon = Daemon::start();
    daemon.guest("a", &spins(), "--cpu-reserve 0.1 --cpu-limit 0.2 --label team=x");
    daemon.guest("b", &spins(), "--cpu-weight 10");
    let seen = |daemon: &Daemon| daemon.json("share explain a")["cpu"].clone();
    if !daemon.holds_to_shares("a") {
        return;
    }
    daemon.eventually("it has been seen", |daemon| {
        let cpu = seen(daemon);
        cpu["now"]["got_10s"].as_f64().is_some_and(|got| got > 0.0)
            && cpu["others"][0]["got_10s"].as_f64() > Some(0.0)
    });
    let cpu = seen(&daemon);
    assert_eq!((&cpu["others"][0]["name"], &cpu["host"]["reserved"]), (&json!("b"), &json!(0.1)));
    assert_eq!((&cpu["now"]["bound"], &cpu["promised"]["limit"]), (&json!("limit"), &json!(0.2)));
    let text = daemon.run("share explain a");
    assert!(text.contains("promised    reserve 0.1, weight 1000, limit 0.2"), "{text}");
    assert!(text.contains("its own limit keeps it from having more") && text.lines().count() < 25, "{text}");
    daemon.run("vm stop a");
    assert!(daemon.run("share explain a").contains("it does not run"));
    assert!(daemon.fails("share explain nobody").1.contains("there is no guest nobody"));
}

#[test]
fn what_a_group_may_have_its_members_share_and_it_changes_while_they_run() {
    let mut daemon = Daemon::start();
    daemon.run("share group create outer --cpu-limit 0.8");
    daemon.run("share group create inner --within outer --cpu-weight 3000");
    daemon.guest("a", &spins(), "--share-group inner");
    daemon.guest("b", &spins(), "--share-group outer");
    daemon.guest("c", &spins(), "");
    if !daemon.holds_to_shares("a") {
        return;
    }
    let limit =
        |daemon: &Daemon, vm: &str| daemon.quota(vm).map(|(quota, period)| quota as f64 / period as f64);
    let near = |daemon: &Daemon, vm: &str, wanted: f64| {
        limit(daemon, vm).is_some_and(|limit| (limit - wanted).abs() < wanted * 0.1)
    };
    daemon.eventually("inner has three times as much of outer as b", |daemon| {
        near(daemon, "a", 0.6) && near(daemon, "b", 0.2) && limit(daemon, "c").is_none()
    });
    let said = daemon.run("share explain a");
    assert!(said.contains("in group    inner (reserve 0, weight 3000, no limit)"), "{said}");
    assert!(said.contains("in group    outer (reserve 0, weight 1000, limit 0.8)"), "{said}");
    daemon.eventually("it is its group that keeps it from more", |daemon| {
        daemon.json("share explain a")["cpu"]["now"]["bound"] == "group"
    });
    daemon.run("share group edit inner --cpu-weight 1000");
    daemon.eventually("both have the same", |daemon| near(daemon, "a", 0.4) && near(daemon, "b", 0.4));
    // What one leaves the other has.
    daemon.run("vm pause b");
    daemon.eventually("it has all of it", |daemon| near(daemon, "a", 0.8));
    daemon.run("vm resume b");
    let pid = daemon.vm("a")["status"]["pid"].clone();
    daemon.run("vm edit a --share-group none");
    daemon.eventually("it is out of it", |daemon| limit(daemon, "a").is_none() && near(daemon, "b", 0.8));
    daemon.run("vm edit a --share-group inner");
    assert_eq!(daemon.vm("a")["status"]["pid"], pid);

    // A daemon that is killed finds all of it again.
    daemon.kill();
    daemon.start_again();
    daemon.eventually("it is as it was", |daemon| near(daemon, "a", 0.4) && near(daemon, "b", 0.4));
    let groups = daemon.json("share group ls");
    assert_eq!(
        (&groups[0]["name"], &groups[0]["guests"], &groups[0]["within"]),
        (&json!("inner"), &json!(1), &json!("outer"))
    );
    daemon.run("share group edit outer --cpu-limit none");
    daemon.eventually("nobody is limited", |daemon| {
        limit(daemon, "a").is_none() && limit(daemon, "b").is_none()
    });
}

#[test]
fn groups_promise_what_they_have_and_are_refused_what_cannot_be() {
    let daemon = Daemon::start();
    let cpus = daemon.json("host info")["cpus"].as_f64().unwrap();
    daemon.run("share group create fixed --cpu-reserve 0.5 --fixed");
    daemon.run("share group create inside --within fixed");
    daemon.guest("a", &waits(), "--share-group inside --cpu-reserve 0.4");
    let kernel = daemon.kernel("kernel", &waits());
    daemon.run(&format!("vm create b --kernel {kernel} --memory 32M --share-group inside --cpu-reserve 0.2"));
    let told = |words: &str| daemon.fails(words).1;
    let said = told("vm start b");
    let wanted =
        "b: the group fixed has 0.1 left to promise, and 0.2 is asked for: 0.1 too much; 0.1 would fit";
    assert!(said.contains(wanted), "{said}");
    assert_eq!(daemon.json("share group show inside")["promised"], 0.4);
    assert_eq!(daemon.json("share explain a")["cpu"]["host"]["reserved"], 0.5);
    for (words, wanted) in [
        (
            "share group edit fixed --cpu-reserve 0.3",
            "what is in the group fixed is promised 0.4, and it would have 0.3 for that: 0.1 too little",
        ),
        (
            "share group edit fixed --cpu-limit 0.2 --cpu-reserve 0.1",
            "what is in the group fixed is promised 0.4, and it would have 0.2",
        ),
        ("share group edit fixed --within inside", "the group fixed would be in itself: put it elsewhere"),
        ("share group edit fixed --within fixed", "/within: a group is not in itself"),
        ("share group edit fixed --within nowhere", "/within: there is no group nowhere: make it first"),
        ("share group edit nowhere --fixed", "there is no group nowhere"),
        ("share group create fixed", "there is a group called fixed already"),
        ("share group create large --cpu-reserve 1000", "/cpu_share/reserve: guests may use "),
        ("share group create none --cpu-weight 0", "/cpu_share/weight: the weight 0 is none"),
        (
            "share group create none --cpu-weight 1000000000",
            "/cpu_share/weight: the weight 1000000000 is none",
        ),
        (
            "share group create none --cpu-reserve 0.5 --cpu-limit 0.25",
            "/cpu_share/reserve: the reserve 0.5 is above the limit 0.25",
        ),
        ("share group delete fixed", "the group inside is in fixed"),
        ("share group delete inside", "the guest a is in inside: take it out first"),
        ("vm edit a --share-group nowhere", "/share_group: there is no group nowhere: make it first"),
    ] {
        let said = told(words);
        assert!(said.contains(wanted), "{words}: {said}");
    }
    // What is left of the host is less than what it has by what groups have reserved.
    let said = told(&format!("share group create rest --cpu-reserve {cpus}"));
    assert!(said.contains(&format!("the host has {} left to promise", cpus - 0.5)), "{said}");
    daemon.run("share group edit fixed --expandable");
    daemon.run("vm start b");
    let said = told("share group edit fixed --fixed");
    assert!(said.contains("is promised 0.6, and it would have 0.5 for that"), "{said}");
    daemon.run("vm delete --force a b");
    daemon.run("share group delete inside fixed");
    assert_eq!(daemon.json("share group ls"), json!([]));
}

#[test]
fn what_a_guest_is_promised_goes_along_to_its_clones_and_backups_as_far_as_its_groups_are_there() {
    let daemon = Daemon::start();
    daemon.guest("a", &waits(), "--new-disk 1M");
    daemon.run("share group create eng");
    // While it runs: its machine was made when nothing was said.
    daemon.run("vm edit a --cpu-weight 3000 --memory-weight 500 --share-group eng");
    daemon.run("vm clone a b --instant");
    let told = |daemon: &Daemon, name: &str| {
        let vm = daemon.vm(name);
        json!([vm["cpu_share"]["weight"], vm["memory_share"]["weight"], vm["share_group"]])
    };
    assert_eq!(told(&daemon, "b"), json!([3000, 500, "eng"]));
    daemon.run("backup create a saved --pool default");
    daemon.run("vm delete --force a b");
    daemon.run("share group delete eng");
    daemon.run("backup restore saved c");
    assert_eq!(told(&daemon, "c"), json!([3000, 500, null]));
    daemon.run("vm start c");
}

#[test]
fn a_guest_learns_for_how_long_it_could_not_run() {
    let daemon = Daemon::start();
    start(&daemon, "a", &[]);
    if !daemon.holds_to_shares("a") {
        return;
    }
    // Its start would take a minute with that beside other work.
    daemon.run("vm edit a --cpu-limit 0.2");
    // user nice system idle iowait irq softirq steal, in hundredths of a second (proc_stat(5)).
    let counted = || {
        let line = inside(&daemon, "a", "head -n 1 /proc/stat");
        let counts: Vec<u64> = line.split_whitespace().skip(1).map(|count| count.parse().unwrap()).collect();
        (counts[0] + counts[2], counts[7])
    };
    let before = counted();
    inside(&daemon, "a", "(while :; do :; done) & busy=$!; sleep 4; kill $busy");
    let (ran, stolen) = counted();
    let (ran, stolen) = (ran - before.0, stolen - before.1);
    // Of four seconds it has 0.8, and less beside others.
    assert!(stolen >= 200 && ran < stolen, "it ran for {ran}, and {stolen} were stolen");
    // It goes on counting where it goes on.
    daemon.run("vm suspend a");
    daemon.run("vm resume a");
    let after = counted().1;
    inside(&daemon, "a", "(while :; do :; done) & busy=$!; sleep 1; kill $busy");
    assert!(after >= before.1 + stolen && counted().1 >= after + 50);
}

#[test]
fn a_guest_on_kvm_keeps_a_small_limit_and_when_the_daemon_ends_the_kernel_does() {
    let Some(mut daemon) = Daemon::on_kvm() else { return };
    daemon.guest_on("kvm", "a", &spins(), "--cpu-limit 0.05");
    if !daemon.holds_to_shares("a") {
        return;
    }
    daemon.eventually("it is told to look", |daemon| daemon.quota("a") == Some((5_000, 100_000)));
    let limited = |daemon: &Daemon| known(&seconds(daemon, "/vms/a/processors/0"), "limited");
    daemon.eventually("it keeps still", |daemon| limited(daemon).iter().any(|part| *part > 0.8));
    let group = daemon.cpu_group("a").unwrap();
    assert_eq!(daemon.terminate(), Some(0));
    let told = ["cpu.max", "cpu.cfs_quota_us"].map(|name| fs::read_to_string(group.join(name)));
    let told: Vec<_> = told.into_iter().flatten().collect();
    assert!(["1000 20000\n", "1000\n"].contains(&told[0].as_str()), "{told:?}");
}

/// The processors of the host on which each thread of a guest may run, those that are its processors first.
fn may_run(daemon: &Daemon, vm: &str) -> Vec<(String, String)> {
    let read = |path: PathBuf, name: &str| fs::read_to_string(path.join(name)).unwrap_or_default();
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.vm(vm)["status"]["pid"])).unwrap();
    let mut threads: Vec<_> = tasks
        .map(|task| {
            let path = task.unwrap().path();
            let status = read(path.clone(), "status");
            let may = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:\t"));
            (read(path, "comm").trim().to_owned(), may.unwrap_or_default().to_owned())
        })
        .collect();
    threads.sort_by_key(|(name, _)| !name.starts_with("vcpu"));
    threads
}

#[test]
fn a_guest_has_processors_to_itself_and_the_others_have_the_rest() {
    let mut daemon = Daemon::start();
    let cpus = daemon.json("host info")["cpus"].as_u64().unwrap();
    let (status, said) = daemon.fails(&format!("vm create big --kernel /k --cpus {cpus} --cpu-dedicated"));
    let most = format!("and one stays everybody's: a guest can have {} to itself at most", cpus - 1);
    assert!(said.contains(&most), "{status:?}: {said}");
    let (_, said) = daemon.fails("vm create both --kernel /k --cpu-dedicated --cpu-reserve 0.5");
    assert!(said.contains("--cpu-reserve"), "{said}");
    let (_, said) = daemon.fails("share group create all --cpu-dedicated");
    assert!(said.contains("a group has no processors to itself"), "{said}");
    if cpus < 2 {
        return;
    }
    daemon.guest("usual", &waits(), "");
    daemon.guest("own", &waits(), "--cpu-dedicated");
    let apart = |daemon: &Daemon| {
        let own = may_run(daemon, "own");
        let alone = own[0].1.parse::<u64>().is_ok() && own.iter().all(|(_, may)| *may == own[0].1);
        let others = may_run(daemon, "usual");
        alone && others.iter().all(|(_, may)| *may == others[0].1 && *may != own[0].1 && !may.is_empty())
    };
    daemon.eventually("each is where it belongs", apart);
    assert_eq!(share_of(&daemon, "own")["promised"]["dedicated"], true);
    daemon.eventually("it is said which it has", |daemon| {
        let now = &share_of(daemon, "own")["now"];
        now["own"] == json!([may_run(daemon, "own")[0].1.parse::<u64>().unwrap()]) && now["target"] == 1.0
    });
    let said = daemon.run("share explain own");
    assert!(
        said.contains("promised    dedicated processors") && said.contains("its own     of the host's"),
        "{said}"
    );
    // What it has reserved is all of these.
    assert_eq!(share_of(&daemon, "own")["host"]["reserved"], 1);
    let (_, said) = daemon.fails(&format!("vm edit usual --cpu-reserve 0.5 --cpu-limit {}", cpus + 1));
    assert!(said.contains("/cpu_share/limit"), "{said}");
    let (_, said) = daemon.fails("vm edit own --cpu-limit 0.5");
    assert!(said.contains("give it no reserve and no limit"), "{said}");

    // A daemon that is killed finds it so, and one that comes later is with the others.
    daemon.kill();
    daemon.start_again();
    daemon.guest("later", &waits(), "");
    daemon.eventually("they stay where they are", |daemon| {
        apart(daemon) && may_run(daemon, "later")[0].1 == may_run(daemon, "usual")[0].1
    });
    daemon.run("vm edit own --cpu-shared --cpu-weight 2000");
    daemon.eventually("all are everywhere", |daemon| {
        let all = may_run(daemon, "own")[0].1.clone();
        let threads = ["own", "usual", "later"].map(|vm| may_run(daemon, vm));
        all.parse::<u64>().is_err() && threads.iter().flatten().all(|(_, may)| *may == all)
    });
    daemon.run("vm edit usual --cpu-dedicated");
    daemon.eventually("another one has one", |daemon| may_run(daemon, "usual")[0].1.parse::<u64>().is_ok());
    daemon.run("vm stop usual");
    daemon.eventually("it leaves it to the others", |daemon| {
        may_run(daemon, "own")[0].1.parse::<u64>().is_err()
    });
}

fn share_of(daemon: &Daemon, vm: &str) -> Value {
    daemon.json(&format!("share explain {vm}"))["cpu"].clone()
}
