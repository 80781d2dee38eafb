//! What the host and its guests used over time.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::agent::start;
use crate::http::ask;
use crate::{Code, Daemon, waits};

/// Loops for ever: `jmp` to itself.
const WORK: [u8; 2] = [0xeb, 0xfe];

fn works() -> Code {
    Code::default().print("it works\n").bytes(&WORK)
}

/// The latest ten minutes in seconds.
pub fn seconds(daemon: &Daemon, path: &str) -> Value {
    let answer = ask(daemon, "GET", &format!("{path}/history?step=1"), "", &Value::Null);
    assert_eq!((answer.status, &answer.body["step"]), (200, &1.into()), "{}", answer.text);
    answer.body
}

/// The values of a series, those of seconds of which nothing is known left out.
pub fn known(history: &Value, name: &str) -> Vec<f64> {
    let all = history["series"].as_array().unwrap();
    let series =
        all.iter().find(|series| series["name"] == name).unwrap_or_else(|| panic!("{name}: {history}"));
    series["avg"].as_array().unwrap().iter().filter_map(Value::as_f64).collect()
}

/// How many files of series there are.
fn kept(daemon: &Daemon) -> usize {
    std::fs::read_dir(daemon.state().join("series")).unwrap().count()
}

#[test]
fn what_guests_and_the_host_used_is_kept_each_second_and_survives_a_killed_daemon() {
    let mut daemon = Daemon::start();
    daemon.guest("works", &works(), "");
    daemon.guest("waits", &waits(), "");
    daemon.eventually("some seconds were measured", |daemon| {
        known(&seconds(daemon, "/vms/works"), "cpu_run").len() >= 7
    });
    let history = seconds(&daemon, "/vms/works");
    let [run, ready, wait] = ["cpu_run", "cpu_ready", "cpu_wait"].map(|name| known(&history, name));
    let parts = ["cpu_limited", "cpu_memory", "cpu_io", "cpu_halted"].map(|name| known(&history, name));
    for (n, wait) in wait.iter().enumerate() {
        let sum: f64 = parts.iter().map(|part| part[n]).sum();
        assert!((sum - wait).abs() < 0.01, "{wait} is not {sum}");
    }
    for ((run, ready), wait) in run.iter().zip(&ready).zip(&wait) {
        // Running, ready and waiting are all there is; what is measured is a little off where much goes on.
        assert!((run + ready + wait - 1.0).abs() < 0.2 && *run <= 1.2, "{run} {ready} {wait}");
    }
    assert!(run.iter().sum::<f64>() > 0.2, "it works as much as it is let: {run:?}");
    assert!(known(&history, "memory").iter().all(|bytes| *bytes > 1e6));
    let idle = known(&seconds(&daemon, "/vms/waits"), "cpu_run");
    assert!(idle.iter().sum::<f64>() / (idle.len() as f64) < 0.1, "{idle:?}");
    let host = seconds(&daemon, "/host");
    for name in
        ["cpu_busy", "cpu_stolen", "memory_used", "storage_used", "disk_written", "net_received", "net_sent"]
    {
        assert!(!known(&host, name).is_empty(), "{name}");
    }
    assert!(known(&host, "memory_used").iter().all(|bytes| *bytes > 1e6));

    // Some seconds at most are lost with the daemon, and those while there was none.
    let before = known(&history, "cpu_run").len();
    daemon.kill();
    daemon.start_again();
    let after = known(&seconds(&daemon, "/vms/works"), "cpu_run").len();
    assert!(after + 7 >= before && after > 0, "{before} seconds were known, {after} are");
    daemon.eventually("it goes on", |daemon| known(&seconds(daemon, "/vms/works"), "cpu_run").len() > before);

    // What does not run is not measured, and not forgotten.
    daemon.run("vm stop waits");
    daemon.eventually("it is not measured any more", |daemon| {
        let now = || known(&seconds(daemon, "/vms/waits"), "memory").len();
        let before = now();
        std::thread::sleep(Duration::from_millis(2100));
        before > 0 && now() == before
    });
    assert!(kept(&daemon) > 3, "the host, two guests and their processors have files");
    daemon.run("vm delete waits works --force");
    daemon.eventually("what is kept goes with the guests", |daemon| kept(daemon) == 1);
}

#[test]
fn what_disks_and_cards_did_is_told_in_the_seconds_in_which_they_did_it() {
    let daemon = Daemon::start();
    start(&daemon, "a", &["--new-disk", "16M", "--net", "user"]);
    daemon.eventually("it was asked", |daemon| !known(&seconds(daemon, "/vms/a"), "disk_written").is_empty());
    daemon.exec("a", "dd if=/dev/zero of=/dev/vda bs=64k count=64 conv=fsync");
    daemon.exec("a", "ip link set eth0 up; udhcpc -q -n -i eth0 -s /bin/true");
    daemon.eventually("it was written", |daemon| {
        // Rates of each second, so that they are bytes all together.
        let written: f64 = known(&seconds(daemon, "/vms/a"), "disk_written").iter().sum();
        (written / f64::from(4 << 20) - 1.0).abs() < 0.1
    });
    let history = seconds(&daemon, "/vms/a");
    assert!(known(&history, "disk_writes").iter().sum::<f64>() > 0.5);
    assert!(known(&history, "disk_written").contains(&0.0), "not all of the time");
    daemon.eventually("it was sent", |daemon| {
        known(&seconds(daemon, "/vms/a"), "net_sent").iter().sum::<f64>() > 100.0
    });

    // The same on the command line.
    let shown = daemon.run("vm history a --last 10m");
    for word in ["OVER TIME", "cpu_run", "disk_written", "█"] {
        assert!(shown.contains(word), "{word} is not in\n{shown}");
    }
    let one = daemon.json("vm history a --last 1h --series memory --points 60");
    assert_eq!((one["series"].as_array().unwrap().len(), &one["step"]), (1, &60.into()));
    assert!(daemon.run("host history").contains("cpu_busy"));
    let (_, said) = daemon.fails("vm history a --series nothing");
    assert!(said.contains("cpu_run"), "{said}");
    assert!(daemon.fails("vm history nobody").1.contains("there is no guest nobody"));
}

/// What a processor's time is made of.
const PARTS: [&str; 6] = ["run", "ready", "limited", "memory", "io", "halted"];

#[test]
fn each_processors_time_is_one_stack_of_running_waiting_and_halting() {
    let mut daemon = Daemon::start();
    daemon.guest("works", &works(), "--cpu-limit 0.2");
    daemon.guest("waits", &waits(), "");
    let of = |daemon: &Daemon, vm: &str| seconds(daemon, &format!("/vms/{vm}/processors/0"));
    daemon.eventually("some seconds were measured", |daemon| {
        ["works", "waits"].iter().all(|vm| known(&of(daemon, vm), "run").len() >= 8)
    });
    let (works, waits) = (of(&daemon, "works"), of(&daemon, "waits"));
    for history in [&works, &waits] {
        let parts = PARTS.map(|name| known(history, name));
        for n in 0..parts[0].len() {
            let sum: f64 = parts.iter().map(|part| part[n]).sum();
            assert!((sum - 1.0).abs() < 0.01, "{sum}: {parts:?}");
        }
    }
    let ever = |daemon: &Daemon, vm: &str, part: &str, least: f64| {
        known(&of(daemon, vm), part).iter().any(|value| *value >= least)
    };
    assert!(ever(&daemon, "waits", "halted", 0.9), "{:?}", known(&waits, "halted"));
    assert!(!ever(&daemon, "works", "halted", 0.5), "it never halts: {:?}", known(&works, "halted"));
    if daemon.json("share explain works")["cpu"]["not_enforced"].is_null() {
        // Its limit is a fifth of a processor, which other tests may keep it from having.
        daemon.eventually("its limit is felt", |daemon| ever(daemon, "works", "limited", 0.4));
        // A small one its process keeps to itself. It does not wait for memory then.
        daemon.run("vm edit works --cpu-limit 0.05");
        daemon.eventually("the other one is felt", |daemon| ever(daemon, "works", "limited", 0.85));
        assert!(!ever(&daemon, "works", "memory", 0.5), "{:?}", known(&of(&daemon, "works"), "memory"));
    }
    assert!(daemon.run("vm history works --processor 0").contains("limited"));
    assert!(daemon.fails("vm history works --processor 254").1.contains("no processor"));
    let wrong = ask(&daemon, "GET", "/vms/works/processors/first/history", "", &Value::Null);
    assert_eq!(wrong.status, 404, "{}", wrong.text);

    // A new daemon is told the same by the same processes.
    daemon.kill();
    daemon.start_again();
    let before = known(&of(&daemon, "waits"), "halted").len();
    daemon.eventually("it goes on", |daemon| known(&of(daemon, "waits"), "halted").len() > before + 3);
    assert!(*known(&of(&daemon, "waits"), "halted").last().unwrap() > 0.5);
}

#[test]
fn on_kvm_what_is_no_halt_is_waiting_for_memory() {
    let Some(mut daemon) = Daemon::on_kvm() else { return };
    let last = |daemon: &Daemon, part: &str| {
        *known(&seconds(daemon, "/vms/a/processors/0"), part).last().unwrap_or(&0.0)
    };
    daemon.guest_on("kvm", "a", &waits(), "");
    daemon.eventually("it has nothing to do", |daemon| last(daemon, "halted") > 0.95);
    // A process that stands still is neither halted by its guest nor does it wait for a processor.
    let process = Pid::from_raw(daemon.vm("a")["status"]["pid"].as_i64().unwrap() as i32).unwrap();
    kill_process(process, Signal::STOP).unwrap();
    daemon.eventually("it is kept from going on", |daemon| last(daemon, "memory") > 0.95);
    kill_process(process, Signal::CONT).unwrap();
    daemon.eventually("it has nothing to do again", |daemon| last(daemon, "halted") > 0.95);
    daemon.kill();
    daemon.start_again();
    let before = known(&seconds(&daemon, "/vms/a/processors/0"), "halted").len();
    daemon.eventually("the next daemon is told, too", |daemon| {
        let halted = known(&seconds(daemon, "/vms/a/processors/0"), "halted");
        halted.len() > before + 3 && *halted.last().unwrap() > 0.95
    });
    kill_process(process, Signal::STOP).unwrap();
    daemon.eventually("the next daemon sees it, too", |daemon| last(daemon, "memory") > 0.95);
    kill_process(process, Signal::CONT).unwrap();
}

#[test]
fn receipts_tell_what_became_of_a_promise() {
    let daemon = Daemon::start();
    // What it has more would keep the guests of other tests from running.
    daemon.guest("db", &works(), "--cpu-reserve 0.2 --cpu-limit 0.2");
    daemon.guest("idle", &waits(), "");
    let receipts = |daemon: &Daemon| daemon.json("share receipts db");
    daemon.eventually("some seconds were measured", |daemon| {
        receipts(daemon)["receipts"].as_array().unwrap().len() >= 8
    });
    let told = receipts(&daemon);
    let last = told["receipts"].as_array().unwrap().last().unwrap();
    assert_eq!((&told["step"], &last["promised"]), (&1.into(), &0.2.into()), "{told}");
    if daemon.json("share explain db")["cpu"]["not_enforced"].is_null() {
        let of = |name: &str| last[name].as_f64().unwrap();
        assert!(of("asked") > 0.5 && of("due") == 0.2 && of("delivered") > 0.1, "{last}");
        assert!(told["kept"].as_u64().unwrap() > 0, "{told}");
    }
    let table = daemon.run("share receipts db --last 1m");
    assert!(table.contains("DELIVERED") && table.contains("kept in "), "{table}");
    // One that is promised nothing is never short of anything.
    let idle = daemon.json("share receipts idle");
    let count = idle["receipts"].as_array().unwrap().len();
    assert_eq!((&idle["kept"], &idle["worst_short"]), (&count.into(), &0.0.into()));
    for (wrong, field) in
        [("points=0", "/points"), ("step=0", "/step"), ("from=2030-01-01T00:00:00Z", "/from")]
    {
        let answer = ask(&daemon, "GET", &format!("/vms/db/receipts?{wrong}"), "", &Value::Null);
        assert_eq!(
            (answer.status, &answer.body["errors"][0]["pointer"]),
            (422, &field.into()),
            "{}",
            answer.text
        );
    }
}
