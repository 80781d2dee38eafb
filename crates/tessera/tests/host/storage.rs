//! Volumes and the guests that have them.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::agent::{tessera, tiny};
use crate::{Daemon, processes_of, waits};

impl Daemon {
    /// Takes the tiny guest in as the image `tiny`, with a disk of 8 MiB that begins with `words`.
    fn image(&self, words: &str) {
        let disk = self.state().join("disk");
        let mut bytes = words.as_bytes().to_vec();
        bytes.resize(8 << 20, 0);
        std::fs::write(&disk, bytes).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
        command
            .env("TESSERA_HOME", self.state())
            .args(["image", "import"])
            .arg(disk)
            .args(["--name", "tiny"]);
        command.arg("--kernel").arg(tiny("vmlinuz")).arg("--initrd").arg(tiny("initramfs"));
        let output = command.args(["--append", "console=ttyS0 quiet do=disk"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    fn volume(&self, name: &str) -> Value {
        self.json(&format!("volume show {name}"))
    }

    /// The names of the guests' own disks.
    fn own_disks(&self) -> Vec<String> {
        let volumes = self.json("volume ls -f name=vm-*");
        volumes.as_array().unwrap().iter().map(|volume| volume["name"].as_str().unwrap().into()).collect()
    }

    /// What is on a volume.
    fn contents(&self, name: &str) -> Vec<u8> {
        let file = self.folder.path().join("downloaded");
        let _ = std::fs::remove_file(&file);
        self.run(&format!("volume download {name} {}", file.display()));
        std::fs::read(file).unwrap()
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

#[test]
fn a_guest_made_from_an_image_keeps_only_what_differs_and_leaves_nothing() {
    let daemon = Daemon::start();
    daemon.image("what the image has");
    daemon.run("vm create a --image tiny --grow 16M --memory 128M --engine soft --start --no-restart");
    daemon.eventually("it has written and powered off", |daemon| daemon.state_of("a") == "stopped");
    let said = daemon.run("vm log a");
    assert!(said.contains("disk keeps what is written"), "{said}");
    assert!(said.contains(&format!("sectors {}", (16 << 20) / 512)), "{said}");
    let disks = daemon.own_disks();
    assert_eq!(disks.len(), 1);
    let disk = daemon.volume(&disks[0]);
    assert_eq!(disk["based_on"], json!({ "image": "tiny" }));
    assert_eq!((&disk["size"], &disk["used_by"]), (&json!(16 << 20), &json!(["a"])));
    let (contents, begin) = (daemon.contents(&disks[0]), b"what the image has");
    assert!(contents.starts_with(begin) && contents[1 << 20..2 << 20].iter().any(|&byte| byte != 0));
    let (status, line) = daemon.fails(&format!("volume delete {}", disks[0]));
    assert!(status == Some(5) && line.contains("is used by a"), "{line}");

    // Another one begins with what the image has; one with a copy has nothing under it.
    daemon.run("vm create b --image tiny --full --memory 128M");
    let full = daemon.own_disks().into_iter().find(|name| *name != disks[0]).unwrap();
    assert!(daemon.volume(&full)["based_on"].is_null());
    assert!(daemon.contents(&full)[1 << 20..2 << 20].iter().all(|&byte| byte == 0));
    daemon.run("vm delete a b");
    assert_eq!(daemon.own_disks(), Vec::<String>::new());
    assert_eq!(daemon.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn the_disks_of_a_guest_that_goes_stay_as_volumes_if_that_is_wanted() {
    let daemon = Daemon::start();
    daemon.image("what the image has");
    daemon.run("vm create web --image tiny --new-disk 1M --memory 128M");
    daemon.run("volume create web-disk-1 --size 1M");
    let layer = daemon.own_disks().into_iter().find(|name| name.ends_with("-0")).unwrap();
    let before = daemon.contents(&layer);
    // One that something is based on has to keep its name.
    daemon.run(&format!("volume create over --volume {layer}"));
    let (status, line) = daemon.fails("vm delete web --keep-disks");
    assert!(status == Some(5) && line.contains("over is based on it"), "{line}");
    daemon.run("volume delete over");
    assert_eq!(daemon.state_of("web"), "stopped");
    let said = daemon.run("vm delete web --keep-disks");
    assert!(said.contains("its disks are volumes now: web-disk-0, web-disk-1-2"), "{said}");
    assert_eq!(daemon.fails("vm show web").0, Some(4));
    let volume = daemon.volume("web-disk-0");
    assert_eq!((&volume["based_on"], &volume["used_by"]), (&json!({ "image": "tiny" }), &Value::Null));
    assert_eq!(volume["description"], "was disk 0 of the guest web");
    assert_eq!(daemon.contents("web-disk-0"), before);
    assert_eq!((daemon.own_disks(), daemon.leftovers()), (Vec::<String>::new(), Vec::<PathBuf>::new()));
    let event = &daemon.json("event ls -f kind=vm.deleted")[0];
    assert_eq!(event["message"], "was deleted; its disks stay: web-disk-0, web-disk-1-2");
    let task = &daemon.json("task ls -f action=vm.delete,state=done")[0];
    assert_eq!(task["result"]["volumes"][0], json!({ "pool": "default", "name": "web-disk-0" }));

    // They are volumes like others: a guest has one, and without --keep-disks it stays, too.
    let kernel = daemon.kernel("k", &waits());
    daemon.run(&format!(
        "vm create b --kernel {kernel} --memory 32M --volume web-disk-0 --new-disk 1M --start"
    ));
    assert_eq!(daemon.fails("vm delete b --keep-disks=web-disk-0").0, Some(5), "it runs");
    for (name, wanted) in
        [("web-disk-0", "/keep_as: there is a volume"), (&layer, "/keep_as: names that are vm-")]
    {
        let (status, line) = daemon.fails(&format!("vm delete b --force --keep-disks={name}"));
        assert!(status == Some(2) && line.contains(wanted), "{line}");
    }
    assert_eq!(daemon.state_of("b"), "running", "its plug was not pulled in vain");
    daemon.run("vm delete b --force --keep-disks=mine");
    assert!(daemon.volume("mine")["used_by"].is_null() && daemon.volume("web-disk-0")["used_by"].is_null());
    assert_eq!(daemon.json("volume ls").as_array().unwrap().len(), 4);
    daemon.run(&format!("vm create c --kernel {kernel} --memory 32M --label team=a"));
    let secret = daemon.run("token create t --role admin --label team=a");
    let (status, line) = daemon.fails(&format!("--token {} vm delete c --keep-disks", secret.trim()));
    assert!(status == Some(6) && line.contains("would become the host's"), "{line}");
}

#[test]
fn a_clone_has_what_the_other_had_and_goes_its_own_way() {
    let daemon = Daemon::start();
    daemon.image("first");
    daemon.run(
        "vm create a --image tiny --new-disk 1M --memory 128M --engine soft --net user --start --no-restart",
    );
    let (status, line) = daemon.fails("vm clone a b");
    assert!(status == Some(5) && line.contains("only one that does not run"), "{line}");
    daemon.eventually("it has written and powered off", |daemon| daemon.state_of("a") == "stopped");
    let before = daemon.own_disks();
    daemon.run("vm clone a b");
    let new: Vec<_> = daemon.own_disks().into_iter().filter(|name| !before.contains(name)).collect();
    assert_eq!((before.len(), new.len()), (2, 2));
    assert_eq!(daemon.contents(&new[0]), daemon.contents(&before[0]));
    let (a, b) = (daemon.vm("a"), daemon.vm("b"));
    assert_ne!(a["nics"][0]["mac"], b["nics"][0]["mac"]);
    daemon.run("vm start b");
    daemon.eventually("it runs, too", |daemon| daemon.state_of("b") == "stopped");
    assert_ne!(daemon.contents(&new[0]), daemon.contents(&before[0]), "each writes what comes to its mind");
    assert_eq!(daemon.fails("vm clone a b").0, Some(5), "the name is taken");
    assert_eq!(daemon.own_disks().len(), 4);
    daemon.run("volume create data --size 1M");
    let kernel = daemon.kernel("k", &waits());
    daemon.run(&format!("vm create c --kernel {kernel} --memory 32M --volume data"));
    let (status, line) = daemon.fails("vm clone c d");
    assert!(status == Some(5) && line.contains("only one guest can write"), "{line}");
    daemon.run("vm delete a b c");
    assert_eq!(daemon.own_disks(), Vec::<String>::new());
}

#[test]
fn what_is_uploaded_a_guest_reads_and_what_it_writes_is_downloaded() {
    let daemon = Daemon::start();
    daemon.image("");
    let bytes: Vec<u8> = (0..4 << 20).map(|n: u32| (n / 4096) as u8).collect();
    let file = daemon.file("upload", &bytes);
    daemon.run(&format!("volume upload {} data", file.display()));
    assert_eq!(daemon.contents("data"), bytes);
    daemon.run("volume resize data 8M");
    let (status, line) = daemon.fails("volume resize data 4M");
    assert!(status == Some(2) && line.contains("shrink"), "{line}");

    // The guest's init writes to the first disk it has: that is the volume.
    let kernel = format!("--kernel {} --initrd {}", tiny("vmlinuz").display(), tiny("initramfs").display());
    let rest = ["--append", "console=ttyS0 quiet do=disk", "--memory", "128M", "--engine", "soft", "--start"];
    let words: Vec<&str> =
        "vm create a --volume data --no-restart".split(' ').chain(kernel.split(' ')).collect();
    let made = tessera(&daemon, &[&words[..], &rest].concat(), "");
    assert!(made.status.success(), "{made:?}");
    let (status, line) = daemon.fails("volume resize data 9M");
    assert!(status == Some(5) && line.contains("data"), "while it runs: {line}");
    daemon.eventually("it has written and powered off", |daemon| daemon.state_of("a") == "stopped");
    let after = daemon.contents("data");
    assert_eq!(after.len(), 8 << 20);
    assert_eq!(after[..1 << 20], bytes[..1 << 20]);
    assert_ne!(after[1 << 20..2 << 20], bytes[1 << 20..2 << 20]);

    daemon.run("volume convert data qcow2");
    assert_eq!(daemon.contents("data"), after);
    assert_eq!(daemon.volume("data")["used_by"], json!(["a"]));
    assert_eq!(daemon.fails("volume delete data").0, Some(5));
    daemon.run("vm delete a");
    daemon.run("volume wipe data");
    assert!(daemon.contents("data").iter().all(|&byte| byte == 0));
    daemon.run("volume delete data");
    assert_eq!(daemon.json("volume ls"), json!([]));
}

#[test]
fn two_guests_do_not_write_to_one_volume() {
    let daemon = Daemon::start();
    daemon.run("volume create shared --size 10M");
    daemon.guest("a", &waits(), "--volume shared");
    let kernel = daemon.kernel("b", &waits());
    daemon.run(&format!("vm create b --kernel {kernel} --memory 32M --engine soft --volume shared"));
    let (status, line) = daemon.fails("vm start b");
    assert!(status == Some(5) && line.contains("shared"), "{line}");
    daemon.run("vm stop a");
    daemon.run("vm start b");
    // A guest that is killed lets go of it.
    for pid in processes_of(&daemon.state()) {
        crate::kill(pid, libc::SIGKILL);
    }
    daemon.eventually("it starts again", |daemon| {
        daemon.vm("b")["status"]["restarts"] != 0 && daemon.state_of("b") == "running"
    });
    daemon.run("vm stop b");
}

#[test]
fn the_disk_of_a_guest_that_never_came_to_be_is_removed_at_the_next_start() {
    let mut daemon = Daemon::start();
    daemon.run("volume create kept --size 1M");
    daemon.run("volume create half --size 1M");
    daemon.kill();
    let pool = daemon.state().join("pools/default");
    let lost = pool.join("vm-01a20a60-80d3-7485-87ee-99ad29dfe0b9-0");
    std::fs::rename(pool.join("half"), &lost).unwrap();
    daemon.start_again();
    assert!(!lost.exists());
    assert_eq!(daemon.json("volume ls").as_array().unwrap().len(), 1);
}

#[test]
fn pools_are_taken_in_and_left_with_what_is_in_them() {
    let mut daemon = Daemon::start();
    let folder = daemon.folder.path().join("pool");
    daemon.run(&format!("pool create fast {}", folder.display()));
    daemon.run("volume create v --pool fast --size 5M --format raw --preallocate");
    assert_eq!(daemon.json("pool show fast")["status"]["volumes"], 1);
    daemon.guest("a", &waits(), "--volume fast/v,ro");
    let (status, line) = daemon.fails("pool delete fast");
    assert!(status == Some(5) && line.contains("a has the volume v"), "{line}");
    daemon.kill();
    daemon.start_again();
    assert_eq!(daemon.json("volume ls --pool fast")[0]["used_by"], json!(["a"]));
    daemon.run("vm delete a --force");
    daemon.run("pool delete fast");
    assert!(folder.join("v").exists(), "what is in it stays");
    daemon.run(&format!("pool create again {}", folder.display()));
    assert_eq!(daemon.json("volume ls --pool again")[0]["name"], "v");
    assert_eq!(daemon.fails("pool delete default").0, Some(5));
}

#[test]
fn wrong_volumes_are_refused_and_leave_nothing() {
    let daemon = Daemon::start();
    let refused = |words: &str, status: i32, part: &str| {
        let (got, line) = daemon.fails(words);
        assert!(got == Some(status) && line.contains(part), "{words}: {got:?} {line}");
    };
    refused("volume create ../x --size 1M", 2, "cannot be a name");
    refused("volume create v", 2, "/size");
    refused("volume create v --size 1", 2, "/size");
    refused("volume create v --image nothing", 2, "nothing");
    refused("volume create v --volume nothing", 2, "nothing");
    refused("volume create v --size 1M --pool nowhere", 4, "nowhere");
    refused("volume show v", 4, "there is no volume");
    refused("pool create p relative/../x", 2, "/path");
    refused("pool create default /tmp/x", 5, "already");
    let broken = daemon.file("broken", b"QFI\xfbthis is no image");
    refused(&format!("volume upload {} v", broken.display()), 2, "");
    let kernel = daemon.kernel("k", &waits());
    let make = format!("vm create a --kernel {kernel} --memory 32M");
    refused(&format!("{make} --volume v"), 2, "/disks/0/volume");
    refused(&format!("{make} --volume nowhere/v"), 2, "/disks/0/volume");
    assert_eq!(daemon.json("volume ls"), json!([]));
}
