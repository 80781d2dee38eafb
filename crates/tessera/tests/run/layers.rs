//! A guest's disks go on over what they were while it runs, locked in as the host's daemon has it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use disk::qcow2::create_layer;
use disk::{Format, Stack};
use serde_json::{Value, json};

use crate::vmm::{Shell, Vmm};
use crate::{PATIENCE, tiny};

const SIZE: u64 = 8 << 20;

/// Counts on both disks, one after the other, and looks each time whether it reads there what it knows; says in /bad if not.
const COUNT: &str = r#"count() { i=0; while :; do
for d in a b; do r=$(dd if=/dev/vd$d bs=8 count=1 2>/dev/null); [ "$r" = $(printf %08d $i) ] || echo $d $r $i >>/bad; done
i=$((i+1)); for d in a b; do printf %08d $i | dd of=/dev/vd$d conv=fsync,notrunc 2>/dev/null; done
echo 3 >/proc/sys/vm/drop_caches; done; }"#;

/// A new layer of a disk, open.
fn layer(folder: &Path, disk: &str, number: u32) -> File {
    let (over, format) = match number {
        1 => (format!("{disk}.raw"), Format::Raw),
        _ => (format!("{disk}-{}.qcow2", number - 1), Format::Qcow2),
    };
    let path = folder.join(format!("{disk}-{number}.qcow2"));
    create_layer(&path, &over, format, SIZE).unwrap();
    File::options().read(true).write(true).open(path).unwrap()
}

/// How far it was counted on a disk when this layer was left.
fn counted(folder: &Path, disk: &str, number: u32) -> u64 {
    let (name, format) = match number {
        0 => (format!("{disk}.raw"), Format::Raw),
        _ => (format!("{disk}-{number}.qcow2"), Format::Qcow2),
    };
    let disk = Stack::open(&folder.join(name), format, true).unwrap();
    let mut bytes = [0; 512];
    disk::read(&disk, &mut bytes, 0).unwrap();
    std::str::from_utf8(&bytes[..8]).unwrap().parse().unwrap()
}

/// What was on both disks at one point in time.
fn at_once(folder: &Path, number: u32) -> u64 {
    let (a, b) = (counted(folder, "a", number), counted(folder, "b", number));
    assert!(a == b || a == b + 1, "{a} is written before {b}");
    b
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn a_guest_writes_on_while_its_disks_are_frozen_saved_with_it_and_merged() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut vmm = Vmm::start_with(at, &["--sandbox"]);
    let mut shell = Shell::start(&mut vmm, json!({}));
    for name in ["a", "b"] {
        let file = File::create_new(at.join(format!("{name}.raw"))).unwrap();
        file.set_len(SIZE).unwrap();
        drop(file);
        let file = File::options().read(true).write(true).open(at.join(format!("{name}.raw"))).unwrap();
        let spec = json!({"disk": {"name": name, "file": 0, "format": "raw"}});
        vmm.call("plug", spec, &[&file]);
        assert_eq!(vmm.told("hardware")["what"], "taken");
    }
    shell.says("ls /sys/block | tr '\\n' ' '", "vda vdb");
    shell.run("for d in a b; do printf 00000000 | dd of=/dev/vd$d conv=fsync,notrunc 2>/dev/null; done");
    shell.run(COUNT);
    shell.run("count & true");
    let both = json!([{"name": "a", "file": 0}, {"name": "b", "file": 1}]);
    let mut last = 0;
    for number in 1..=3 {
        let files = [layer(at, "a", number), layer(at, "b", number)];
        vmm.call("disk_switch", json!({ "disks": both }), &files.each_ref());
        let now = at_once(at, number - 1);
        assert!(now >= last);
        last = now;
        shell.run("sleep 0.2");
    }
    let memory = tempfile::tempfile().unwrap();
    let files = [layer(at, "a", 4), layer(at, "b", 4)];
    let params = json!({"memory": 2, "switch": both});
    let saved = vmm.call("save", params, &[&files[0], &files[1], &memory]);
    assert_eq!(vmm.next("saved")["error"], Value::Null);
    let saved_at = at_once(at, 3);
    drop(files);
    // All but the first layer, which is what it was saved with, into the top.
    for name in ["a", "b"] {
        vmm.call("disk_pull", json!({"name": name, "layers": 4}), &[]);
        wait_for("the layers are not merged", || vmm.next("disk_pull").get("done").is_none());
        let (_, message) = refused(vmm.answer("disk_pull", json!({"name": name, "layers": 1}), &[]));
        assert_eq!(message, format!("layers: the disk {name} has 0 below its top, not 1"));
    }
    shell.says("cat /bad 2>/dev/null", "");
    shell.run("sleep 0.2");
    drop(vmm);
    let end = at_once(at, 4);
    assert!(end > saved_at, "it has written on: {end} and {saved_at}");

    // It goes on from where it was saved, over the layers that were left then.
    let (near, far) = UnixStream::pair().unwrap();
    near.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut files = vec![File::open(tiny("vmlinuz")).unwrap(), File::open(tiny("initramfs")).unwrap()];
    files.extend([File::from(OwnedFd::from(far)), memory]);
    let mut disks = Vec::new();
    for name in ["a", "b"] {
        let path = at.join(format!("{name}-back.qcow2"));
        create_layer(&path, &format!("{name}-3.qcow2"), Format::Qcow2, SIZE).unwrap();
        let (top, below) = disk::files(&path, Format::Qcow2, false).unwrap();
        let number = files.len();
        let backing: Vec<_> = (number + 1..=number + below.len()).collect();
        disks.push(json!({"name": name, "file": number, "format": "qcow2", "backing": backing}));
        files.push(top);
        files.extend(below);
    }
    let again = tempfile::tempdir().unwrap();
    let mut vmm = Vmm::start_with(again.path(), &["--sandbox"]);
    let params = json!({
        "memory": 128 << 20, "engine": "soft", "kernel": 0, "initrd": 1, "console": 2, "disks": disks,
        "saved": {"state": saved["state"], "memory": 3},
    });
    vmm.call("create", params, &files.iter().collect::<Vec<_>>());
    drop(files);
    vmm.call("resume", Value::Null, &[]);
    let mut shell = Shell(near);
    shell.says("cat /bad 2>/dev/null", "");
    shell.run("sleep 0.3");
    shell.says("cat /bad 2>/dev/null", "");
    drop(vmm);
    let on = ["a", "b"].map(|name| {
        let disk = Stack::open(&at.join(format!("{name}-back.qcow2")), Format::Qcow2, true).unwrap();
        let mut bytes = [0; 512];
        disk::read(&disk, &mut bytes, 0).unwrap();
        std::str::from_utf8(&bytes[..8]).unwrap().parse::<u64>().unwrap()
    });
    assert!(on[1] > saved_at && on[0] - on[1] <= 1, "{on:?} after {saved_at}");
    assert_eq!(at_once(at, 3), saved_at, "what it was saved with is as it was");
}

fn refused(answer: Value) -> (i64, String) {
    let error = answer.get("error").unwrap_or_else(|| panic!("{answer}"));
    (error["code"].as_i64().unwrap(), error["message"].as_str().unwrap().to_owned())
}
