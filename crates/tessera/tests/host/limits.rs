//! How much a guest's disks and network cards may do, as its owner says and changes it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::time::Instant;

use serde_json::{Value, json};

use crate::agent::{start, tessera, told};
use crate::{Daemon, waits};

/// What a limit lets pass is no more than this: a law, whatever the machine's speed.
struct Law {
    pointer: &'static str,
    per_second: u64,
    burst: u64,
    before: u64,
    since: Instant,
}

impl Law {
    fn new(daemon: &Daemon, pointer: &'static str, per_second: u64, burst: u64) -> Self {
        let since = Instant::now();
        Self { pointer, per_second, burst, before: passed(daemon, pointer), since }
    }

    /// Checks it; gives what has passed.
    fn holds(&self, daemon: &Daemon) -> u64 {
        let passed = passed(daemon, self.pointer) - self.before;
        let most = self.burst as f64 + self.per_second as f64 * self.since.elapsed().as_secs_f64();
        assert!(passed as f64 <= most, "{}: {passed} of {most}", self.pointer);
        passed
    }
}

fn passed(daemon: &Daemon, pointer: &str) -> u64 {
    daemon.json("vm stats a").pointer(pointer).and_then(Value::as_u64).unwrap()
}

/// What a line of shell in the guest writes.
fn inside(daemon: &Daemon, line: &str) -> String {
    let (status, out, errors) = told(&tessera(daemon, &["vm", "exec", "a", "--", "sh", "-c", line], ""));
    assert_eq!(status, Some(0), "{line}: {errors}");
    out.trim().to_owned()
}

#[test]
fn a_disk_does_no_more_than_it_may_and_that_is_changed_while_its_guest_runs() {
    let daemon = Daemon::start();
    start(&daemon, "a", &["--new-disk", "64M,bps=8M:2M,iops_wr=1000"]);
    let law = Law::new(&daemon, "/disks/0/read_bytes", 8 << 20, 2 << 20);
    inside(&daemon, "dd if=/dev/vda of=/dev/null bs=64k count=128");
    assert!(law.holds(&daemon) >= 8 << 20);
    assert_eq!(daemon.vm("a")["disks"][0]["limit"], json!({ "bytes": 8 << 20, "bytes_burst": 2 << 20 }));
    assert!(daemon.run("vm disk ls a").contains("8M/s burst 2M; write 1000 ops/s"));

    // So slow that what is read next would take four minutes; what is said of writes stays.
    daemon.run("vm disk limit a 0 bps=4K");
    let law = Law::new(&daemon, "/disks/0/read_bytes", 4096, 2 << 20);
    inside(
        &daemon,
        "(dd if=/dev/vda of=/dev/null bs=64k skip=256 count=48; echo done >/end) >/dev/null 2>&1 &",
    );
    daemon.run("vm pause a");
    daemon.run("vm disk limit a 0 bps_rd=4K bps=none");
    daemon.run("vm resume a");
    let disk = daemon.vm("a")["disks"][0].clone();
    assert_eq!((&disk["read_limit"], &disk["limit"]), (&json!({ "bytes": 4096 }), &Value::Null));
    assert_eq!(disk["write_limit"], json!({ "operations": 1000 }));
    daemon.run("vm snapshot create a kept --memory");
    law.holds(&daemon);
    daemon.run("vm suspend a");
    daemon.run("vm disk limit a tessera-0 bps_rd=8K");
    daemon.run("vm resume a");
    assert_eq!(daemon.vm("a")["status"]["pending_restart"], false);
    // Its process is another one, which counts from 0.
    let law = Law { before: 0, per_second: 8192, since: law.since, ..law };
    assert_eq!(inside(&daemon, "ls /end 2>/dev/null || echo waits"), "waits");
    law.holds(&daemon);

    // None any more, and it goes on at once.
    daemon.run("vm disk limit a 0 none");
    daemon
        .eventually("it has read all of it", |daemon| inside(daemon, "cat /end 2>/dev/null; true") == "done");
    assert!(daemon.run("event ls").contains("disk 0: no limit"));
    assert!(daemon.run("vm disk ls a").trim().ends_with('-'));

    // Where the snapshot was it is slow again.
    daemon.run("vm snapshot revert a kept --force");
    assert_eq!(daemon.vm("a")["disks"][0]["read_limit"], json!({ "bytes": 4096 }));
    let law = Law::new(&daemon, "/disks/0/read_bytes", 4096, 1 << 20);
    assert_eq!(inside(&daemon, "ls /end 2>/dev/null || echo waits"), "waits");
    law.holds(&daemon);
}

/// Takes what comes on one connection, and then serves `bytes` by HTTP on another; gives the port.
fn serve(bytes: usize) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut clients = listener.incoming().map(Result::unwrap);
        let mut taken = Vec::new();
        clients.next().unwrap().read_to_end(&mut taken).unwrap();
        let mut client = clients.next().unwrap();
        assert_ne!(client.read(&mut [0; 512]).unwrap(), 0);
        write!(client, "HTTP/1.0 200 OK\r\nContent-Length: {bytes}\r\n\r\n").unwrap();
        client.write_all(&vec![7; bytes]).unwrap();
    });
    port
}

#[test]
fn a_card_carries_no_more_than_it_may_both_ways_and_that_is_changed_while_its_guest_runs() {
    let daemon = Daemon::start();
    let port = serve(1 << 20);
    start(&daemon, "a", &["--net", "user,tx=1M:64K,rx=1M:64K"]);
    inside(&daemon, "ip link set eth0 up; udhcpc -q -n -i eth0");
    let router = inside(&daemon, "ip route | sed -n 's/^default via \\([^ ]*\\) .*/\\1/p'");
    let nics = &daemon.vm("a")["nics"];
    assert_eq!(nics[0]["send_limit"], json!({ "bytes": 1 << 20, "bytes_burst": 64 << 10 }));
    let mac = nics[0]["mac"].as_str().unwrap().to_owned();

    let law = Law::new(&daemon, "/nics/0/sent_bytes", 1 << 20, 128 << 10);
    inside(&daemon, &format!("dd if=/dev/zero bs=64k count=32 2>/dev/null | nc {router} {port}"));
    assert!(law.holds(&daemon) >= 2 << 20);
    let law = Law::new(&daemon, "/nics/0/received_bytes", 1 << 20, 128 << 10);
    let got = inside(&daemon, &format!("wget -q -O - http://{router}:{port}/ | wc -c"));
    assert_eq!(got, (1 << 20).to_string());
    assert!(law.holds(&daemon) >= 1 << 20);

    // One frame a second, and then as many as there are.
    daemon.run(&format!("vm nic limit a {mac} none"));
    daemon.run(&format!("vm nic limit a {mac} tx_pps=1:1"));
    assert!(daemon.run("vm nic ls a").contains("send 1 ops/s burst 1"));
    let law = Law::new(&daemon, "/nics/0/sent", 1, 1);
    inside(&daemon, &format!("ping -c 1000 -i 0.01 {router} >/dev/null 2>&1 &"));
    inside(&daemon, "sleep 2");
    law.holds(&daemon);
    let before = passed(&daemon, "/nics/0/sent");
    daemon.run(&format!("vm nic limit a {mac} none"));
    daemon.eventually("the rest is sent", |daemon| passed(daemon, "/nics/0/sent") >= before + 20);
    assert_eq!(daemon.vm("a")["status"]["pending_restart"], false);
}

#[test]
fn limits_that_nobody_means_are_refused_with_the_field_and_change_nothing() {
    let daemon = Daemon::start();
    daemon.guest("a", &waits(), "--new-disk 1M,bps=1M --net user");
    let mac = daemon.vm("a")["nics"][0]["mac"].as_str().unwrap().to_owned();
    for (words, part) in [
        ("vm disk limit a 0 bps=10".to_owned(), "/disks/0/limit/bytes: a limit is in bytes, and 4096"),
        ("vm disk limit a 0 bps=0".to_owned(), "/disks/0/limit/bytes"),
        ("vm disk limit a 0 iops=0".to_owned(), "/disks/0/limit/operations"),
        ("vm disk limit a 0 bps_wr=1M:1".to_owned(), "/disks/0/write_limit/bytes_burst"),
        ("vm disk limit a 0 bps=10Mbit".to_owned(), "in bits"),
        ("vm disk limit a 0 rate=10M".to_owned(), "bps_rd"),
        ("vm disk limit a 7 bps=10M".to_owned(), "no disk 7"),
        (format!("vm nic limit a {mac} rx=100"), "/nics/0/receive_limit/bytes"),
        ("vm nic limit a 52:00:00:00:00:01 rx=1M".to_owned(), "no network card"),
        (
            r#"vm edit a --patch {"disks":[{"size":"1M","limit":{"bytes_burst":"1M"}}]}"#.to_owned(),
            "/disks/0/limit/bytes_burst: a burst is what passes at once beyond a rate",
        ),
    ] {
        let output = daemon.tessera(&words);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(part), "{words}: {said}");
    }
    assert_eq!(daemon.vm("a")["disks"][0]["limit"], json!({ "bytes": 1 << 20 }));
    // Without the guest's part in it, and without a word of its system.
    daemon.run("vm disk limit a 0 bps=2M --live");
    daemon.run("vm disk limit a 0 iops=10 --next-boot");
    assert_eq!(daemon.vm("a")["status"]["pending_restart"], true);
    daemon.run("vm stop a");
    daemon.run("vm start a");
    assert_eq!(daemon.vm("a")["status"]["pending_restart"], false);
}
