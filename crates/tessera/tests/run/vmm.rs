//! `tessera vmm`, as the host's daemon starts it: it opens nothing, and has its disks handed over.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, IoSlice, Read};
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
struct Vmm {
    child: Child,
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Vmm {
    fn start(folder: &Path) -> Self {
        let socket = folder.join("control");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
        let child = command.arg("vmm").arg("--control").arg(&socket).spawn().unwrap();
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
        Self { child, stream, lines }
    }

    fn call(&mut self, method: &str, params: Value, files: &[&File]) -> Value {
        let fds: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(&fds)));
        let line = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string() + "\n";
        sendmsg(&self.stream, &[IoSlice::new(line.as_bytes())], &mut control, SendFlags::empty()).unwrap();
        let mut answer = String::new();
        self.lines.read_line(&mut answer).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        answer.get("result").unwrap_or_else(|| panic!("{method}: {answer}")).clone()
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
