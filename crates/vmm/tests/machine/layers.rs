//! The layers of a machine's disks, over its control socket.

use std::fs::{self, File};
use std::path::PathBuf;

use disk::qcow2::{create, create_layer};
use disk::{Disk, Format, Stack};
use serde_json::{Value, json};

use crate::control::Client;
use crate::guest::{Code, elf_file};

const SIZE: u64 = 1 << 20;

fn open(path: &PathBuf) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

/// A machine with the disks `one`, which is raw, and `disk1`, which is qcow2 over a raw one.
struct Machine {
    client: Client,
}

impl Machine {
    fn start() -> Self {
        let mut client = Client::start();
        let at = |name: &str| client.folder.path().join(name);
        for name in ["one.raw", "base.raw"] {
            fs::write(at(name), [1; SIZE as usize]).unwrap();
        }
        create_layer(&at("two.qcow2"), "base.raw", Format::Raw, SIZE).unwrap();
        let files = [
            elf_file(&Code::default().spin()),
            open(&at("one.raw")),
            open(&at("two.qcow2")),
            open(&at("base.raw")),
        ];
        let params = json!({"memory": 16 << 20, "kernel": 0, "engine": "soft", "disks": [
            {"name": "one", "file": 1, "format": "raw"}, {"file": 2, "format": "qcow2", "backing": [3]},
        ]});
        let (answer, _) = client.call("create", params, &files.each_ref());
        assert_eq!(answer["result"]["state"], "paused", "{answer}");
        drop(files);
        client.result("resume");
        Self { client }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.client.folder.path().join(name)
    }

    /// A new file over another one, open.
    fn layer(&self, name: &str, over: &str, format: Format) -> File {
        create_layer(&self.path(name), over, format, SIZE).unwrap();
        open(&self.path(name))
    }

    fn does(&mut self, method: &str, params: Value, files: &[&File]) -> Value {
        let (answer, _) = self.client.call(method, params, files);
        answer.get("result").unwrap_or_else(|| panic!("{method}: {answer}")).clone()
    }

    /// Whether a file is read only from now on.
    fn is_left(&self, name: &str, format: Format) -> bool {
        disk::open(&self.path(name), Some(format), true).is_ok()
    }

    /// Ends the machine; gives the folder of its files.
    fn end(mut self) -> tempfile::TempDir {
        std::mem::replace(&mut self.client.folder, tempfile::tempdir().unwrap())
    }

    fn notification(&mut self, method: &str) -> Value {
        loop {
            let message = self.client.receive();
            if message["method"] == method {
                return message["params"].clone();
            }
            assert_eq!(message["method"], "disk_pulling", "{message}");
        }
    }
}

#[test]
fn all_disks_go_on_with_new_layers_or_none_does() {
    let mut machine = Machine::start();
    let one = machine.layer("one-2.qcow2", "one.raw", Format::Raw);
    let two = machine.layer("two-2.qcow2", "two.qcow2", Format::Qcow2);
    create(&machine.path("unbased.qcow2"), SIZE).unwrap();
    let unbased = open(&machine.path("unbased.qcow2"));
    let top = |name: &str, file: u32| json!({"name": name, "file": file});
    for (disks, wanted) in [
        (
            json!([top("one", 0), top("disk1", 2)]),
            "disks[1]: the disk disk1 stays as it is: it is based on nothing",
        ),
        (json!([top("one", 0), top("disk1", 0)]), "disks[1].file: file 0 is used twice"),
        (json!([top("one", 0), top("one", 1)]), "disks[1].name: the disk one is there twice"),
        (json!([top("one", 0), top("three", 1)]), "disks[1].name: there is no disk three"),
        (
            json!([top("disk1", 1), top("one", 3)]),
            "disks[1].file: there is no file 3, 3 came with the message",
        ),
    ] {
        let params = json!({ "disks": disks });
        let (_, message) = machine.client.error("disk_switch", params, &[&one, &two, &unbased]);
        assert_eq!(message, wanted);
        assert!(!machine.is_left("one.raw", Format::Raw) && !machine.is_left("two.qcow2", Format::Qcow2));
    }
    // Neither does a machine that cannot be saved at that point in time.
    let no_room = File::options().read(true).write(true).open("/dev/full").unwrap();
    let both = json!([top("one", 0), top("disk1", 1)]);
    machine.client.error("save", json!({"memory": 2, "switch": both}), &[&one, &two, &no_room]);
    let memory = tempfile::tempfile().unwrap();
    let (_, message) =
        machine.client.error("save", json!({"memory": 0, "switch": [top("one", 1)]}), &[&memory, &unbased]);
    assert_eq!(message, "switch[0]: the disk one stays as it is: it is based on nothing");
    assert_eq!(machine.client.error("save_progress", Value::Null, &[]).1, "nothing is being saved");
    assert!(!machine.is_left("one.raw", Format::Raw) && !machine.is_left("two.qcow2", Format::Qcow2));
    assert_eq!(machine.client.result("state"), json!({"state": "running"}), "it goes on");

    let switched = machine.does("disk_switch", json!({ "disks": both }), &[&one, &two]);
    assert!(switched["held_ns"].as_u64().unwrap() > 0);
    assert!(machine.is_left("one.raw", Format::Raw) && machine.is_left("two.qcow2", Format::Qcow2));
    let next = machine.layer("one-3.qcow2", "one-2.qcow2", Format::Qcow2);
    machine.does("save", json!({"memory": 1, "switch": [top("one", 0)]}), &[&next, &memory]);
    assert_eq!(machine.notification("saved")["error"], Value::Null);
    assert!(machine.is_left("one-2.qcow2", Format::Qcow2) && !machine.is_left("two-2.qcow2", Format::Qcow2));
}

#[test]
fn layers_are_merged_into_the_top_and_then_nobody_needs_them() {
    let mut machine = Machine::start();
    let two = machine.layer("two-2.qcow2", "two.qcow2", Format::Qcow2);
    machine.does("disk_switch", json!({"disks": [{"name": "disk1", "file": 0}]}), &[&two]);
    drop(two);
    for (method, params, wanted) in [
        (
            "disk_pull",
            json!({"name": "disk1", "layers": 3}),
            "layers: the disk disk1 has 2 below its top, not 3",
        ),
        (
            "disk_pull",
            json!({"name": "disk1", "layers": 0}),
            "layers: the disk disk1 has 2 below its top, not 0",
        ),
        ("disk_pull", json!({"name": "one", "layers": 1}), "layers: the disk one has 0 below its top, not 1"),
        ("disk_pull", json!({"name": "none", "layers": 1}), "name: there is no disk none"),
        ("disk_pull_cancel", json!({"name": "one"}), "no layers of a disk one are being merged"),
        ("disk_replace_below", json!({"name": "one", "files": []}), "the disk one: it is based on nothing"),
    ] {
        assert_eq!(machine.client.error(method, params, &[]).1, wanted);
    }
    assert_eq!(machine.does("disk_pull", json!({"name": "disk1", "layers": 1}), &[]), json!({"layers": 2}));
    assert_eq!(machine.notification("disk_pulled"), json!({"name": "disk1"}));
    fs::remove_file(machine.path("two.qcow2")).unwrap();
    // Called off, or done before that was heard.
    machine.does("disk_pull", json!({"name": "disk1", "layers": 1}), &[]);
    let (answer, mut told) = machine.client.call_told("disk_pull_cancel", json!({"name": "disk1"}), &[]);
    let end = if answer.get("result").is_some() && told.is_empty() {
        machine.notification("disk_pulled")
    } else {
        told.pop().unwrap()["params"].clone()
    };
    if end.get("error").is_some() {
        assert_eq!(end["error"], "it was cancelled");
        machine.does("disk_pull", json!({"name": "disk1", "layers": 1}), &[]);
        assert_eq!(machine.notification("disk_pulled"), json!({"name": "disk1"}));
    }
    fs::remove_file(machine.path("base.raw")).unwrap();
    let folder = machine.end();
    let disk = Stack::open(&folder.path().join("two-2.qcow2"), Format::Qcow2, true).unwrap();
    let mut bytes = vec![0; SIZE as usize];
    disk::read(&disk, &mut bytes, 0).unwrap();
    assert!(disk.layers() == 0 && disk.len() == SIZE && bytes.iter().all(|byte| *byte == 1));
}

#[test]
fn a_disk_takes_what_somebody_else_has_merged_below_it() {
    let mut machine = Machine::start();
    for (new, over) in [("two-2.qcow2", "two.qcow2"), ("two-3.qcow2", "two-2.qcow2")] {
        let top = machine.layer(new, over, Format::Qcow2);
        machine.does("disk_switch", json!({"disks": [{"name": "disk1", "file": 0}]}), &[&top]);
    }
    // One file has what two had.
    fs::rename(machine.path("two-2.qcow2"), machine.path("old.qcow2")).unwrap();
    let merged = machine.layer("two-2.qcow2", "base.raw", Format::Raw);
    let base = File::open(machine.path("base.raw")).unwrap();
    let (_, message) =
        machine.client.error("disk_replace_below", json!({"name": "disk1", "files": [0]}), &[&merged]);
    assert!(message.starts_with("the disk disk1: "), "{message}");
    let below =
        machine.does("disk_replace_below", json!({"name": "disk1", "files": [0, 1]}), &[&merged, &base]);
    assert_eq!(below, json!({"layers": 2}));
    drop(merged);
    let free = open(&machine.path("old.qcow2"));
    disk::lock(&free, false).expect("it is closed");
    assert!(disk::lock(&open(&machine.path("two-2.qcow2")), false).is_err(), "it is in use");
}
