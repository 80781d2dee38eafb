//! `tessera vmm`, as the host's daemon starts it: it opens nothing, and has its disks handed over.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Instant;

use disk::Format;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

use crate::{PATIENCE, tiny};

/// The process, which ends with the test.
pub struct Vmm {
    child: Child,
    stream: UnixStream,
    lines: BufReader<UnixStream>,
    /// Notifications that came before an answer.
    told: VecDeque<Value>,
}

impl Vmm {
    fn start(folder: &Path) -> Self {
        Self::start_with(folder, &[])
    }

    pub fn start_with(folder: &Path, more: &[&str]) -> Self {
        let socket = folder.join("control");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
        let child = command.arg("vmm").arg("--control").arg(&socket).args(more).spawn().unwrap();
        let start = Instant::now();
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap());
        Self { child, stream, lines, told: VecDeque::new() }
    }

    pub fn call(&mut self, method: &str, params: Value, files: &[&File]) -> Value {
        let answer = self.answer(method, params, files);
        answer.get("result").unwrap_or_else(|| panic!("{method}: {answer}")).clone()
    }

    pub fn answer(&mut self, method: &str, params: Value, files: &[&File]) -> Value {
        let fds: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(32))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(&fds)));
        let line = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string() + "\n";
        sendmsg(&self.stream, &[IoSlice::new(line.as_bytes())], &mut control, SendFlags::empty()).unwrap();
        loop {
            let answer = self.receive();
            if answer["id"] == 1 {
                return answer;
            }
            self.told.push_back(answer);
        }
    }

    fn receive(&mut self) -> Value {
        let mut line = String::new();
        assert_ne!(self.lines.read_line(&mut line).unwrap(), 0, "the process hung up");
        serde_json::from_str(&line).unwrap()
    }

    /// The next notification whose method begins so.
    pub fn next(&mut self, method: &str) -> Value {
        loop {
            let message = self.told.pop_front().unwrap_or_else(|| self.receive());
            if message["method"].as_str().unwrap().starts_with(method) {
                return message["params"].clone();
            }
        }
    }

    /// The next notification, which must be of this kind.
    pub fn told(&mut self, method: &str) -> Value {
        loop {
            let message = self.told.pop_front().unwrap_or_else(|| self.receive());
            assert_eq!(message["method"], method, "{message}");
            // How much memory there is may be told at any time.
            if message["params"].get("memory").is_none() {
                return message["params"].clone();
            }
        }
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_guest_writes_to_a_linked_clone_and_what_it_is_based_on_stays() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    File::create(at("base.raw")).unwrap().set_len(64 << 20).unwrap();
    disk::qcow2::create_overlay(&at("clone.qcow2"), &at("base.raw"), Format::Raw).unwrap();
    let (top, backing) = disk::files(&at("clone.qcow2"), Format::Qcow2, false).unwrap();
    let (mut console, far) = UnixStream::pair().unwrap();
    console.set_read_timeout(Some(PATIENCE)).unwrap();
    let files = [File::open(tiny("vmlinuz")).unwrap(), File::open(tiny("initramfs")).unwrap()];
    let params = json!({
        "memory": 128 << 20, "engine": "soft", "kernel": 0, "initrd": 1, "console": 2,
        "command_line": "console=ttyS0 quiet do=disk",
        "disks": [{"file": 3, "format": "qcow2", "backing": [4], "serial": "CLONE"}],
    });
    let mut vmm = Vmm::start(folder.path());
    vmm.call("create", params, &[&files[0], &files[1], &File::from(OwnedFd::from(far)), &top, &backing[0]]);
    drop((top, backing));
    vmm.call("resume", Value::Null, &[]);
    let (mut text, mut buffer) = (String::new(), [0; 512]);
    while !text.contains("disk serial") {
        let n = console.read(&mut buffer).unwrap();
        text += &String::from_utf8_lossy(&buffer[..n]);
        assert_ne!(n, 0, "{text}");
    }
    assert!(text.contains("disk keeps what is written"), "{text}");
    let taken = disk::open(&at("clone.qcow2"), None, true);
    assert!(matches!(taken, Err(disk::OpenError::InUse)), "the process has the lock");
    drop(vmm);
    let disk = disk::open(&at("clone.qcow2"), None, true).expect("the lock is gone with the process");
    assert!(disk.next_data(1 << 20).unwrap().is_some());
    assert!(fs::read(at("base.raw")).unwrap().iter().all(|byte| *byte == 0));
}

/// A shell in the tiny guest, at its console.
pub struct Shell(pub UnixStream);

impl Shell {
    /// A machine that runs one.
    pub fn start(vmm: &mut Vmm, more: Value) -> Self {
        let (console, far) = UnixStream::pair().unwrap();
        console.set_read_timeout(Some(PATIENCE)).unwrap();
        let files = [File::open(tiny("vmlinuz")).unwrap(), File::open(tiny("initramfs")).unwrap()];
        let mut params = json!({
            "memory": 128 << 20, "engine": "soft", "kernel": 0, "initrd": 1, "console": 2,
            "command_line": "console=ttyS0 quiet memhp_default_state=online_movable do=shell",
        });
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        vmm.call("create", params, &[&files[0], &files[1], &File::from(OwnedFd::from(far))]);
        vmm.call("resume", Value::Null, &[]);
        let mut shell = Self(console);
        shell.until("# ");
        shell
    }

    fn until(&mut self, end: &str) -> String {
        let (mut text, mut byte) = (String::new(), [0]);
        while !text.ends_with(end) {
            assert_ne!(self.0.read(&mut byte).unwrap(), 0, "{text}");
            text.push(byte[0] as char);
        }
        text
    }

    /// Runs a command; gives what it wrote.
    pub fn run(&mut self, command: &str) -> String {
        self.0.write_all(format!("{command}; echo E''ND\n").as_bytes()).unwrap();
        self.until("ND\r\n");
        let text = self.until("END\r\n");
        self.until("# ");
        text.strip_suffix("END\r\n").unwrap().replace('\r', "")
    }

    /// The same until it writes this.
    pub fn says(&mut self, command: &str, wanted: &str) {
        let start = Instant::now();
        loop {
            let said = self.run(command);
            if said.trim() == wanted {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{command}: {said}, not {wanted}");
        }
    }
}

#[test]
fn disks_and_cards_come_and_go_while_the_guest_runs() {
    let folder = tempfile::tempdir().unwrap();
    let mut vmm = Vmm::start(folder.path());
    let mut shell = Shell::start(&mut vmm, json!({}));
    let disk = tempfile::tempfile().unwrap();
    disk.set_len(8 << 20).unwrap();
    for _ in 0..3 {
        let (_far, near) = UnixStream::pair().unwrap();
        let spec = json!({"disk": {"name": "data", "file": 0, "format": "raw", "serial": "DATA"}});
        assert_eq!(vmm.call("plug", spec, &[&disk]), json!({"name": "data"}));
        assert_eq!(vmm.told("hardware"), json!({"device": "data", "what": "taken", "status": 0}));
        shell.says("cat /sys/block/vda/serial", "DATA");
        shell.run("dd if=/dev/urandom of=/dev/vda bs=1M count=2 conv=fsync 2>/dev/null");
        let spec = json!({"net": {"mac": [2, 0, 0, 0, 0, 9], "stream": {"socket": 0, "mtu": 1500}}});
        assert_eq!(
            vmm.call("plug", spec, &[&File::from(OwnedFd::from(near))])["name"],
            "net-02:00:00:00:00:09"
        );
        assert_eq!(vmm.told("hardware")["what"], "taken");
        shell.says("cat /sys/class/net/eth0/address", "02:00:00:00:00:09");
        assert_eq!(vmm.call("stats", Value::Null, &[])["disks"].as_array().unwrap().len(), 1);

        vmm.call("unplug", json!({"name": "net-02:00:00:00:00:09"}), &[]);
        assert_eq!(
            vmm.told("hardware"),
            json!({"device": "net-02:00:00:00:00:09", "what": "gone", "status": 0})
        );
        shell.says("ls /sys/class/net", "lo");
        vmm.call("unplug", json!({"name": "data"}), &[]);
        assert_eq!(vmm.told("hardware"), json!({"device": "data", "what": "gone", "status": 0}));
        shell.says("ls /sys/block", "");
        let hardware = vmm.call("hardware", Value::Null, &[]);
        assert_eq!(hardware["devices"], json!(["random", "balloon"]));
    }
    let written = fs::read(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&disk))).unwrap();
    assert!(written[..2 << 20].iter().any(|byte| *byte != 0));
}

#[test]
fn processors_come_and_go_while_the_guest_runs() {
    let folder = tempfile::tempdir().unwrap();
    let mut vmm = Vmm::start(folder.path());
    let mut shell = Shell::start(&mut vmm, json!({"processors": 1, "most_processors": 4}));
    shell.says("cat /sys/devices/system/cpu/present", "0");
    for _ in 0..3 {
        let hardware = vmm.call("processors", json!({"count": 4}), &[]);
        assert_eq!(hardware["processors"], json!([0, 1, 2, 3]));
        // In which order its kernel takes those that came meanwhile is its own.
        let mut taken: Vec<_> = (1..4).map(|_| vmm.told("hardware")).collect();
        taken.sort_by_key(|told| told["processor"].as_u64());
        let wanted = [1, 2, 3].map(|number| json!({"processor": number, "what": "taken", "status": 0}));
        assert_eq!(taken, wanted);
        shell.says("cat /sys/devices/system/cpu/present", "0-3");
        shell.run("for n in 1 2 3; do echo 1 >/sys/devices/system/cpu/cpu$n/online; done");
        shell.says("cat /sys/devices/system/cpu/online", "0-3");
        shell.says("taskset 8 sh -c 'echo here'", "here");
        assert_eq!(vmm.call("stats", Value::Null, &[])["processors"].as_array().unwrap().len(), 4);

        vmm.call("processors", json!({"count": 1}), &[]);
        for number in [3, 2, 1] {
            assert_eq!(vmm.told("hardware"), json!({"processor": number, "what": "gone", "status": 0}));
        }
        shell.says("cat /sys/devices/system/cpu/present", "0");
        assert_eq!(vmm.call("hardware", Value::Null, &[])["processors"], json!([0]));
    }
}

#[test]
fn memory_comes_and_goes_while_the_guest_runs() {
    let folder = tempfile::tempdir().unwrap();
    let mut vmm = Vmm::start(folder.path());
    let mut shell = Shell::start(&mut vmm, json!({"most_memory": 1 << 30}));
    let mebibytes = |shell: &mut Shell| {
        let text = shell.run("sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo");
        text.trim().parse::<u64>().unwrap_or_else(|_| panic!("{text:?}")) >> 10
    };
    let becomes = |vmm: &mut Vmm, bytes: u64, field: &str, wanted: u64| {
        vmm.call("memory", json!({"bytes": bytes}), &[]);
        let start = Instant::now();
        while vmm.call("hardware", Value::Null, &[])["memory"][field] != wanted {
            assert!(start.elapsed() < PATIENCE, "{}", vmm.call("hardware", Value::Null, &[]));
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    let before = mebibytes(&mut shell);
    for _ in 0..2 {
        becomes(&mut vmm, 640 << 20, "memory", 640 << 20);
        assert!(mebibytes(&mut shell) > before + 400);
        // It is there to be used.
        let used = "mkdir -p /t && mount -t tmpfs -o size=400m t /t && dd if=/dev/zero of=/t/f bs=1M count=300 2>/dev/null; ls -l /t";
        assert!(shell.run(used).contains("314572800"));
        shell.run("umount /t");
        becomes(&mut vmm, 128 << 20, "memory", 128 << 20);
        assert_eq!(mebibytes(&mut shell), before);
        becomes(&mut vmm, 96 << 20, "balloon", 32 << 20);
        becomes(&mut vmm, 128 << 20, "balloon", 0);
    }
    // What the guest used and does not need any more is the host's again.
    let resident = |vmm: &mut Vmm| vmm.call("stats", Value::Null, &[])["resident"].as_u64().unwrap();
    let used = resident(&mut vmm);
    assert!(used < 200 << 20, "{used}");
    let total = |vmm: &mut Vmm| vmm.call("stats", Value::Null, &[])["guest_memory"]["total"].as_u64();
    let start = Instant::now();
    while total(&mut vmm).is_none_or(|bytes| bytes < 64 << 20) {
        assert!(start.elapsed() < PATIENCE, "the guest does not say what it has");
    }
}
