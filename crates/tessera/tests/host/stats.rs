//! What guests use, as the host tells of it.

use serde_json::Value;

use crate::agent::{start, tessera};
use crate::http::ask;
use crate::{Daemon, waits};

impl Daemon {
    /// Runs a line of the shell in a guest, by its agent.
    pub fn exec(&self, vm: &str, command: &str) {
        let ran = tessera(self, &["vm", "exec", vm, "--", "sh", "-c", command], "");
        assert!(ran.status.success(), "{command}: {ran:?}");
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn what_a_guest_uses_is_counted_and_told_in_three_ways() {
    let daemon = Daemon::start();
    start(&daemon, "a", &["--new-disk", "16M", "--net", "user"]);
    daemon.guest("idle", &waits(), "");
    let before = daemon.json("vm stats a");
    daemon.exec("a", "dd if=/dev/zero of=/dev/vda bs=64k count=64 conv=fsync");
    daemon.exec("a", "echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda of=/dev/null bs=64k count=128");
    let once = number(daemon.json("vm stats a").pointer("/disks/0/reread_bytes").unwrap());
    daemon.exec("a", "echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda of=/dev/null bs=64k");
    daemon.exec("a", "ip link set eth0 up; udhcpc -q -n -i eth0 -s /bin/true");
    let after = daemon.json("vm stats a");
    let grown = |pointer: &str| {
        let [before, after] = [&before, &after].map(|stats| number(stats.pointer(pointer).unwrap()));
        after.checked_sub(before).unwrap_or_else(|| panic!("{pointer} went back"))
    };
    assert_eq!(grown("/disks/0/written_bytes"), 4 << 20);
    assert!(grown("/disks/0/read_bytes") >= 2 << 20, "{after}");
    // Of what was read the second time it had had 8 of 16 MiB, and half of that the first time.
    let rereads = [once, grown("/disks/0/reread_bytes") - once];
    let about = |bytes: u64, mib: u64| (mib << 19..=mib << 21).contains(&bytes);
    assert!(about(rereads[0], 4) && about(rereads[1], 8), "{rereads:?}");
    assert!(grown("/disks/0/reads") > 0 && grown("/disks/0/writes") > 0 && grown("/disks/0/busy_ns") > 0);
    assert_eq!(after["disks"][0]["failed"], 0);
    for counter in ["received", "received_bytes", "sent", "sent_bytes"] {
        assert!(grown(&format!("/nics/0/{counter}")) > 0, "{counter}: {after}");
    }
    assert_eq!(after["nics"][0]["mac"], daemon.vm("a")["nics"][0]["mac"]);
    let times = &after["processors"][0];
    let (run, wait) = (number(&times["run_ns"]), number(&times["wait_ns"]));
    assert!(run > 0 && wait > 0 && times["ready_ns"].is_u64(), "{times}");
    assert!(number(&after["process_time_ns"]) > run, "the devices take time, too: {after}");

    // All at once.
    let all = ask(&daemon, "GET", "/stats", "", &Value::Null).body;
    let names: Vec<_> =
        all["vms"].as_array().unwrap().iter().map(|vm| vm["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "idle"]);
    assert!(number(&all["busy_ns"]) > 0 && number(&all["memory"]) > number(&all["memory_available"]));
    assert!(number(&all["vms"][0]["stats"]["disks"][0]["reads"]) >= number(&after["disks"][0]["reads"]));

    // For a monitoring system.
    let text = ask(&daemon, "GET", "/metrics", "", &Value::Null).text;
    for line in [
        "tessera_vms{state=\"running\"} 2\n",
        "tessera_vm_cpu_seconds_total{vm=\"a\",cpu=\"0\",mode=\"ready\"} ",
        "tessera_vm_disk_written_bytes_total{vm=\"a\",disk=\"0\"} 4194304\n",
        "tessera_vm_memory_reported_bytes_total{vm=\"a\"} ",
        "tessera_vm_net_sent_frames_total{vm=\"a\",nic=\"0\"} ",
        "tessera_host_cpu_seconds_total{mode=\"idle\"} ",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn a_guest_that_does_not_run_uses_nothing_which_is_no_failure_of_the_host() {
    let daemon = Daemon::start();
    daemon.guest("a", &waits(), "");
    daemon.run("vm stop a");
    let answer = ask(&daemon, "GET", "/vms/a/stats", "", &Value::Null);
    assert_eq!((answer.status, &answer.body["detail"]), (409, &"a is stopped: it uses nothing".into()));
}
