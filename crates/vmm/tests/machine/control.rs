//! A machine driven over its control socket, as the host's daemon does it.

use std::fs::File;
use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::guest::{Code, elf_file};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

/// A server on its own thread, as a process would be, and a client of it.
pub struct Client {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
    server: Option<JoinHandle<()>>,
    pub folder: tempfile::TempDir,
    next: u64,
}

impl Client {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("control")).unwrap();
        let server = std::thread::spawn(move || vmm::control::serve(&listener).unwrap());
        let stream = UnixStream::connect(folder.path().join("control")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap());
        Self { stream, lines, server: Some(server), folder, next: 0 }
    }

    fn send(&mut self, text: &str, files: &[&File]) {
        let fds: Vec<_> = files.iter().map(|f| f.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        }
        let line = format!("{text}\n");
        sendmsg(&self.stream, &[IoSlice::new(line.as_bytes())], &mut control, SendFlags::empty()).unwrap();
    }

    pub fn receive(&mut self) -> Value {
        let mut line = String::new();
        assert_ne!(self.lines.read_line(&mut line).unwrap(), 0, "the server hung up");
        serde_json::from_str(&line).unwrap()
    }

    /// Calls a method; gives the answer, and the events that came before it.
    pub fn call(&mut self, method: &str, params: Value, files: &[&File]) -> (Value, Vec<Value>) {
        self.next += 1;
        let request = json!({"jsonrpc": "2.0", "id": self.next, "method": method, "params": params});
        self.send(&request.to_string(), files);
        let mut events = Vec::new();
        loop {
            let message = self.receive();
            if message["id"] == self.next {
                return (message, events);
            }
            assert_eq!(message["method"], "event");
            events.push(message["params"].clone());
        }
    }

    /// The same with notifications of all kinds, whole.
    pub fn call_told(&mut self, method: &str, params: Value, files: &[&File]) -> (Value, Vec<Value>) {
        self.next += 1;
        let request = json!({"jsonrpc": "2.0", "id": self.next, "method": method, "params": params});
        self.send(&request.to_string(), files);
        let mut told = Vec::new();
        loop {
            match self.receive() {
                answer if answer["id"] == self.next => return (answer, told),
                other => told.push(other),
            }
        }
    }

    pub fn result(&mut self, method: &str) -> Value {
        let (answer, _) = self.call(method, Value::Null, &[]);
        answer.get("result").unwrap_or_else(|| panic!("{method}: {answer}")).clone()
    }

    pub fn error(&mut self, method: &str, params: Value, files: &[&File]) -> (i64, String) {
        let (answer, _) = self.call(method, params, files);
        let error = answer.get("error").unwrap_or_else(|| panic!("{method} was carried out: {answer}"));
        (error["code"].as_i64().unwrap(), error["message"].as_str().unwrap().to_owned())
    }

    fn event(&mut self) -> Value {
        let message = self.receive();
        assert_eq!(message["method"], "event", "{message}");
        message["params"].clone()
    }

    /// A machine that will run `code`, with a console.
    fn create(&mut self, code: Code, more: Value) -> UnixStream {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut params = json!({"memory": 16 << 20, "kernel": 0, "console": 1, "engine": "soft"});
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let console = File::from(std::os::fd::OwnedFd::from(far));
        let (answer, _) = self.call("create", params, &[&elf_file(&code), &console]);
        assert_eq!(answer["result"], json!({"state": "paused"}));
        near
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.send(r#"{"jsonrpc":"2.0","method":"stop"}"#, &[]);
        let server = self.server.take().unwrap().join();
        if !std::thread::panicking() {
            server.unwrap();
        }
    }
}

fn text(console: &mut UnixStream, len: usize) -> String {
    let mut text = vec![0; len];
    console.read_exact(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}

fn says_hello_and_powers_off() -> Code {
    Code::default().print("hello").out(0x600, 0x34).spin()
}

#[test]
fn a_machine_lives_from_create_to_its_end_and_again() {
    let mut client = Client::start();
    assert_eq!(client.result("state"), json!({"state": "empty"}));
    let mut console = client.create(says_hello_and_powers_off(), json!({}));
    assert_eq!(client.result("resume"), json!({"state": "running"}));
    assert_eq!(client.event(), json!({"state": "ended", "event": "power_off"}));
    assert_eq!(text(&mut console, 5), "hello");
    assert_eq!(client.result("state"), json!({"state": "ended", "event": "power_off"}));
    assert_eq!(client.result("reset")["state"], "running");
    assert_eq!(client.event()["event"], "power_off");
    assert_eq!(text(&mut console, 5), "hello");
}

#[test]
fn a_paused_machine_uses_no_time_and_goes_on() {
    let mut client = Client::start();
    let mut console = client.create(Code::default().print("a").spin(), json!({}));
    client.result("resume");
    assert_eq!(text(&mut console, 1), "a");
    assert_eq!(client.result("pause"), json!({"state": "paused"}));
    // A thread says that it has stopped a moment before it sleeps.
    std::thread::sleep(Duration::from_millis(20));
    let before = client.result("stats");
    std::thread::sleep(Duration::from_millis(20));
    let after = client.result("stats");
    assert_eq!(after["processors"], before["processors"]);
    assert_eq!(after["guest_time_ns"], before["guest_time_ns"]);
    assert_eq!(after["memory"], 16 << 20);
    client.result("resume");
    std::thread::sleep(Duration::from_millis(20));
    let later = client.result("stats");
    assert!(later["guest_time_ns"].as_u64() > after["guest_time_ns"].as_u64());
}

#[test]
fn a_reset_starts_the_guest_again_or_ends_it_as_asked() {
    let resets = || Code::default().print("r").out(0xcf9, 6).spin();
    let mut client = Client::start();
    let mut console = client.create(resets(), json!({}));
    client.result("resume");
    assert_eq!(client.event(), json!({"state": "running", "event": "reset"}));
    assert_eq!(text(&mut console, 2), "rr");
    drop(client);
    let mut client = Client::start();
    let _console = client.create(resets(), json!({"on_reset": "end"}));
    client.result("resume");
    assert_eq!(client.event(), json!({"state": "ended", "event": "reset"}));
    let (code, message) = client.error("resume", Value::Null, &[]);
    assert_eq!(code, i64::from(vmm::control::code::STATE));
    assert_eq!(message, "the machine is ended: reset starts it");
}

#[test]
fn what_is_typed_at_the_console_reaches_the_guest() {
    // mov dx, 0x3fd; l: in al, dx; test al, 1; jz l; mov dx, 0x3f8; in al, dx; out dx, al
    let echo = [0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 1, 0x74, 0xfb, 0x66, 0xba, 0xf8, 0x03, 0xec, 0xee];
    let code = (0..40).fold(Code::default(), |code, _| code.bytes(&echo)).spin();
    let mut client = Client::start();
    let mut console = client.create(code, json!({}));
    client.result("resume");
    let typed = "more than the receiver's FIFO has room f";
    console.write_all(typed.as_bytes()).unwrap();
    assert_eq!(text(&mut console, typed.len()), typed);
}

#[test]
fn keys_and_breaks_reach_the_guest_in_order() {
    // mov dx, 0x3fd; l: in al, dx; test al, 0x11; jz l; mov ah, al; mov dx, 0x3f8; in al, dx
    let receive =
        [0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x11, 0x74, 0xfb, 0x88, 0xc4, 0x66, 0xba, 0xf8, 0x03, 0xec];
    // test ah, 0x10; jz s; mov al, '!'; s: out dx, al
    let tell = [0xf6, 0xc4, 0x10, 0x74, 2, 0xb0, b'!', 0xee];
    let one = [&receive[..], &tell].concat();
    let code = (0..40).fold(Code::default(), |code, _| code.bytes(&one)).spin();
    let mut client = Client::start();
    assert_eq!(
        client.error("type", json!({"keys": []}), &[]).1,
        "there is no machine yet: create comes first"
    );
    let mut console = client.create(code, json!({}));
    let keys = json!({"keys": [{"text": "before the\u{1b}[A"}, "break", {"text": "h"}, "break", "break"]});
    assert_eq!(client.error("type", keys.clone(), &[]).1, "the machine does not run: it is paused");
    client.result("resume");
    assert_eq!(client.call("type", keys, &[]).0["result"]["state"], "running");
    assert_eq!(text(&mut console, 17), "before the\u{1b}[A!h!!");
    for (params, wanted) in [
        (json!({"keys": ["dance"]}), "unknown variant `dance`"),
        (json!({"key": []}), "unknown field `key`"),
        (json!({"keys": [{"text": "x".repeat(5000)}]}), "there is room for 4096 of 5000 bytes"),
    ] {
        let (_, message) = client.error("type", params, &[]);
        assert!(message.contains(wanted), "{message}");
    }
    console.write_all(b"on").unwrap();
    assert_eq!(text(&mut console, 2), "on");
}

#[test]
fn a_console_that_nobody_reads_does_not_hold_the_guest_up() {
    let mut client = Client::start();
    // mov ecx, 1000000; mov dx, 0x3f8; l: out dx, al; loop l
    let floods = [0xb9, 0x40, 0x42, 0x0f, 0, 0x66, 0xba, 0xf8, 0x03, 0xee, 0xe2, 0xfd];
    let _console = client.create(Code::default().bytes(&floods).out(0x600, 0x34).spin(), json!({}));
    client.result("resume");
    assert_eq!(client.event()["event"], "power_off");
}

#[test]
fn a_machine_is_saved_while_it_runs_and_goes_on_in_another_process() {
    // Prints "s", waits until something is typed, and prints it.
    let echo = [0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 1, 0x74, 0xfb, 0x66, 0xba, 0xf8, 0x03, 0xec, 0xee];
    let code = || Code::default().print("s").bytes(&echo).out(0x600, 0x34).spin();
    let mut client = Client::start();
    let mut console = client.create(code(), json!({}));
    client.result("resume");
    assert_eq!(text(&mut console, 1), "s");
    let memory = tempfile::tempfile().unwrap();
    let (answer, _) = client.call("save", json!({"memory": 0}), &[&memory]);
    let saved = answer["result"].clone();
    assert!(saved["pause_ns"].as_u64().unwrap() > 0, "{answer}");
    let end = client.receive();
    assert_eq!((&end["method"], &end["params"]["error"]), (&json!("saved"), &Value::Null), "{end}");
    assert_eq!(client.result("state"), json!({"state": "running"}));
    console.write_all(b"1").unwrap();
    assert_eq!(client.event()["event"], "power_off");
    assert_eq!(text(&mut console, 1), "1");

    let mut other = Client::start();
    let (mut near, far) = UnixStream::pair().unwrap();
    near.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let params = json!({
        "memory": 16 << 20, "kernel": 0, "console": 1, "engine": "soft",
        "saved": {"state": saved["state"], "memory": 2, "again": true},
    });
    let far = File::from(std::os::fd::OwnedFd::from(far));
    let (answer, _) = other.call("create", params, &[&elf_file(&code()), &far, &memory]);
    assert_eq!(answer["result"], json!({"state": "paused"}), "{answer}");
    other.result("resume");
    near.write_all(b"2").unwrap();
    assert_eq!(other.event()["event"], "power_off");
    assert_eq!(text(&mut near, 1), "2");
    assert_eq!(other.result("reset")["state"], "running");
    assert_eq!(text(&mut near, 1), "s", "its kernel is there, too");
}

#[test]
fn a_save_tells_its_end_whatever_that_is_and_the_machine_goes_on() {
    let mut client = Client::start();
    assert_eq!(
        client.error("save", json!({"memory": 0}), &[&tempfile::tempfile().unwrap()]).1,
        "there is no machine yet: create comes first"
    );
    let _console = client.create(Code::default().spin(), json!({}));
    client.result("resume");
    assert_eq!(client.error("save_cancel", Value::Null, &[]).1, "nothing is being saved");
    assert_eq!(
        client.error("save", json!({"memory": 2}), &[]).1,
        "memory: there is no file 2, 0 came with the message"
    );
    let no_room = File::options().read(true).write(true).open("/dev/full").unwrap();
    client.error("save", json!({"memory": 0}), &[&no_room]);
    assert_eq!(client.result("state"), json!({"state": "running"}), "it goes on");
    let memory = tempfile::tempfile().unwrap();
    let (answer, _) = client.call("save", json!({"memory": 0, "stay": true}), &[&memory]);
    assert!(answer.get("result").is_some(), "{answer}");
    // It may have ended before it was called off.
    client.send(r#"{"jsonrpc":"2.0","method":"save_cancel"}"#, &[]);
    assert_eq!(client.receive()["method"], "saved");
    assert_eq!(client.result("state"), json!({"state": "paused"}));
    client.result("resume");
}

#[test]
fn what_is_no_saved_machine_is_refused_with_its_reason() {
    let mut client = Client::start();
    let kernel = elf_file(&Code::default().spin());
    let params = |state: Value| json!({"memory": 16 << 20, "kernel": 0, "engine": "soft", "saved": {"state": state, "memory": 1}});
    let other = tempfile::tempfile().unwrap();
    let (_, message) = client.error("create", params(json!({})), &[&kernel, &other]);
    assert_eq!(message, "saved.state: the saved machine has no section shape");
    let newer = json!({"shape": {"version": 99}});
    let (_, message) = client.error("create", params(newer), &[&kernel, &other]);
    assert!(
        message.starts_with("saved.state: section shape of the saved machine has version 99"),
        "{message}"
    );
    client.create(Code::default().spin(), json!({}));
    let (answer, _) = client.call("save", json!({"memory": 0}), &[&tempfile::tempfile().unwrap()]);
    let state = answer["result"]["state"].clone();
    let mut client = Client::start();
    let (_, message) = client.error("create", params(state), &[&kernel, &other]);
    assert_eq!(message, "saved.memory: the file is no saved memory");
}

#[test]
fn wrong_requests_are_refused_with_a_reason_and_change_nothing() {
    let mut client = Client::start();
    client.send("{", &[]);
    assert_eq!(client.receive()["error"]["code"], -32700);
    client.send(r#"{"id": 7, "method": "state"}"#, &[]);
    let answer = client.receive();
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(7), &json!(-32600)));
    assert_eq!(client.error("dance", Value::Null, &[]).0, -32601);
    assert_eq!(client.error("pause", Value::Null, &[]).1, "there is no machine yet: create comes first");
    assert_eq!(client.error("state", json!({"loud": true}), &[]).0, -32602);

    let kernel = elf_file(&Code::default().spin());
    for (params, wanted) in [
        (json!({"kernel": 0}), "missing field `memory`"),
        (json!({"memory": 16 << 20, "kernel": 3}), "kernel: there is no file 3, 1 came with the message"),
        (json!({"memory": 16 << 20, "kernel": 0, "initrd": 0}), "initrd: file 0 is used twice"),
        (json!({"memory": 16 << 20, "kernel": 0, "colour": "red"}), "unknown field `colour`"),
        (json!({"memory": 16 << 20, "kernel": 0, "processors": 300}), "300 processors are not possible"),
        (json!({"memory": 4097, "kernel": 0}), "4097"),
        (json!({"memory": 16 << 20, "kernel": 0, "disks": [{"file": 1, "format": "raw"}]}), "disks[0].file"),
        (
            json!({"memory": 16 << 20, "kernel": 0, "nets": [{"mac": [2, 0, 0, 0, 0, 1], "tap": 4}]}),
            "nets[0].tap",
        ),
        (
            json!({"memory": 16 << 20, "kernel": 0, "nets": [{"mac": [2, 0], "tap": 0}]}),
            "an array of length 6",
        ),
        (
            json!({"memory": 16 << 20, "kernel": 0, "disks": [
                {"file": 0, "format": "raw", "limits": {"read": {"bytes": {"per_second": -1}}}},
            ]}),
            "invalid value: integer `-1`",
        ),
    ] {
        let (_, message) = client.error("create", params.clone(), &[&kernel]);
        assert!(message.contains(wanted), "{params}: {message}");
    }
    let mut no_kernel = tempfile::tempfile().unwrap();
    no_kernel.write_all(b"just text").unwrap();
    let (_, message) =
        client.error("create", json!({"memory": 16 << 20, "kernel": 0, "engine": "soft"}), &[&no_kernel]);
    assert!(message.contains("is no kernel"), "{message}");
    assert_eq!(client.result("state"), json!({"state": "empty"}));
    client.create(Code::default().spin(), json!({}));
    assert_eq!(
        client.error("create", json!({"memory": 1, "kernel": 0}), &[&kernel]).1,
        "there is a machine already"
    );
}

#[test]
fn limits_are_said_when_a_disk_comes_and_changed_at_any_time() {
    let mut client = Client::start();
    let (kernel, mut disk) = (elf_file(&Code::default().spin()), tempfile::tempfile().unwrap());
    disk.write_all(&[0; 4096]).unwrap();
    let with = |limits: Value| {
        json!({"memory": 16 << 20, "kernel": 0, "engine": "soft", "disks": [
            {"file": 1, "format": "raw", "limits": limits},
        ]})
    };
    let wrong = with(json!({"total": {"operations": {"per_second": 0}}}));
    let (_, message) = client.error("create", wrong, &[&kernel, &disk]);
    assert!(message.starts_with("disks[0].limits.total.operations.per_second: 0"), "{message}");
    assert_eq!(client.error("limit", json!({"name": "disk0", "disk": {}}), &[]).0, -32000);
    let right = with(json!({"total": {"operations": {"per_second": 5}}}));
    let (answer, _) = client.call("create", right, &[&kernel, &disk]);
    assert_eq!(answer["result"], json!({"state": "paused"}), "{answer}");
    for (params, wanted) in [
        (json!({"name": "disk1", "disk": {}}), "name: there is no disk disk1"),
        (json!({"name": "disk0", "net": {}}), "name: there is no network card disk0"),
        (json!({"name": "disk0"}), "give the limits of a disk or of a net"),
        (json!({"name": "disk0", "disk": {"all": {}}}), "unknown field `all`"),
        (
            json!({"name": "disk0", "disk": {"write": {"bytes": {"per_second": 1, "burst": 0}}}}),
            "disk.write.bytes.burst: 0",
        ),
    ] {
        let (_, message) = client.error("limit", params.clone(), &[]);
        assert!(message.contains(wanted), "{params}: {message}");
    }
    for limits in [json!({"read": {"bytes": {"per_second": u64::MAX, "burst": u64::MAX}}}), json!({})] {
        let (answer, _) = client.call("limit", json!({"name": "disk0", "disk": limits}), &[]);
        assert_eq!(answer["result"], json!({}), "{answer}");
    }
}

#[test]
fn an_image_that_is_based_on_others_comes_with_all_of_them() {
    let mut client = Client::start();
    let at = |name: &str| client.folder.path().join(name);
    File::create(at("base.raw")).unwrap().set_len(1 << 20).unwrap();
    File::create(at("other.raw")).unwrap().set_len(1 << 20).unwrap();
    disk::qcow2::create_overlay(&at("clone.qcow2"), &at("base.raw"), disk::Format::Raw).unwrap();
    let (kernel, other) = (elf_file(&Code::default().spin()), File::open(at("other.raw")).unwrap());
    let (top, backing) = disk::files(&at("clone.qcow2"), disk::Format::Qcow2, false).unwrap();
    let base = &backing[0];
    let params = |backing: Value| {
        let disk = json!({"file": 1, "format": "qcow2", "backing": backing});
        json!({"memory": 16 << 20, "kernel": 0, "engine": "soft", "disks": [disk]})
    };
    for (backing, wanted) in [
        (json!([]), "disks[0]: it has a backing file, which was not handed over"),
        (json!([2, 3]), "disks[0]: 1 files were handed over that it is not based on"),
        (json!([3]), "disks[0]: it is based on \"base.raw\""),
        (json!([2, 2]), "disks[0].backing[1]: file 2 is used twice"),
    ] {
        let (_, message) = client.error("create", params(backing), &[&kernel, &top, base, &other]);
        assert!(message.contains(wanted), "{message}");
    }
    let (answer, _) = client.call("create", params(json!([2])), &[&kernel, &top, base]);
    assert_eq!(answer["result"]["state"], "paused", "{answer}");
    let path = client.folder.path().join("clone.qcow2");
    drop((top, backing));
    let taken = disk::files(&path, disk::Format::Qcow2, false);
    assert!(matches!(taken, Err(disk::OpenError::InUse)), "the machine has the lock now");
    drop(client);
}

#[test]
fn a_client_that_vanishes_or_talks_nonsense_ends_alone() {
    let mut client = Client::start();
    let path = client.folder.path().join("control");
    let mut rude = UnixStream::connect(&path).unwrap();
    rude.write_all(&vec![b'x'; 3 << 20]).unwrap_err();
    drop(UnixStream::connect(&path).unwrap());
    assert_eq!(client.result("state"), json!({"state": "empty"}));
}
