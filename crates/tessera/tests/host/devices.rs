//! Hardware that comes and goes while a guest runs.

use crate::agent::{start, tessera, told};
use crate::{Daemon, waits};

/// What a program in the guest writes.
fn inside(daemon: &Daemon, line: &str) -> String {
    let (status, out, errors) = told(&tessera(daemon, &["vm", "exec", "a", "--", "sh", "-c", line], ""));
    assert_eq!(status, Some(0), "{line}: {errors}");
    out.trim().to_owned()
}

fn becomes(daemon: &Daemon, line: &str, wanted: &str) {
    daemon.eventually(&format!("{line} says {wanted}"), |daemon| inside(daemon, line) == wanted);
}

/// The disks that guests have of their own.
fn volumes(daemon: &Daemon) -> usize {
    daemon.run("volume ls -o name").lines().filter(|name| name.contains("vm-")).count()
}

/// Whether the guest has more than 400 MB of memory.
const MEMORY: &str = r#"awk '/MemTotal/ { print ($2 > 400000) ? "much" : "little" }' /proc/meminfo"#;

#[test]
fn a_running_guest_gets_and_loses_hardware_and_says_so_itself() {
    let daemon = Daemon::start();
    start(&daemon, "a", &["--cpus-max", "3", "--memory-max", "512M", "--new-disk", "16M"]);
    daemon.run("vm edit a --cpus 3 --live");
    becomes(&daemon, "cat /sys/devices/system/cpu/online", "0-2");
    daemon.run("vm edit a --memory 512M --live");
    becomes(&daemon, MEMORY, "much");
    daemon.run("vm disk add a --new 32M");
    assert_eq!(
        inside(&daemon, "echo $(cat /sys/block/vdb/serial) $(cat /sys/block/vdb/size)"),
        "tessera-1 65536"
    );
    daemon.run("vm nic add a user");
    let nics = daemon.json("vm nic ls a");
    let mac = nics[0]["mac"].as_str().unwrap().to_owned();
    assert_eq!(inside(&daemon, "cat /sys/class/net/eth0/address"), mac);
    assert_eq!(daemon.vm("a")["status"]["pending_restart"], false);

    // The first disk goes, and the second one stays what it is.
    inside(&daemon, "echo kept >/dev/vdb; sync");
    assert_eq!(volumes(&daemon), 2);
    daemon.run("vm disk remove a tessera-0");
    assert_eq!(inside(&daemon, "ls /sys/block"), "vdb");
    assert_eq!(volumes(&daemon), 1);
    daemon.run(&format!("vm nic remove a {mac}"));
    assert_eq!(inside(&daemon, "ls /sys/class/net"), "lo");

    // Where it goes on it has what it had.
    daemon.run("vm suspend a");
    daemon.run("vm resume a");
    assert_eq!(
        inside(&daemon, "echo $(cat /sys/devices/system/cpu/online) $(head -n 1 /dev/vdb)"),
        "0-2 kept"
    );

    daemon.run("vm edit a --cpus 1 --memory 128M --live");
    becomes(&daemon, "cat /sys/devices/system/cpu/present", "0");
    becomes(&daemon, MEMORY, "little");

    // Another disc in the drive.
    for name in ["one", "two"] {
        std::fs::write(daemon.state().join(name), format!("{name:512}")).unwrap();
    }
    let disc = |name: &str| daemon.state().join(name).display().to_string();
    daemon.run(&format!("vm disk add a --file {},ro,serial=drive", disc("one")));
    let reads =
        "head -c 3 $(grep -l drive /sys/block/*/serial | sed 's,/sys/block/\\(.*\\)/serial,/dev/\\1,')";
    assert_eq!(inside(&daemon, reads), "one");
    daemon.run(&format!("vm disk change a drive --file {},ro,serial=drive", disc("two")));
    assert_eq!(inside(&daemon, reads), "two");

    // Started anew, it is as it was left.
    daemon.run("vm shutdown a");
    daemon.run("vm start a");
    daemon.eventually("its agent answers", |daemon| daemon.tessera("vm agent a").status.success());
    assert_eq!(inside(&daemon, "echo $(cat /sys/block/vda/serial) $(head -n 1 /dev/vda)"), "tessera-1 kept");
    assert_eq!(daemon.vm("a")["status"]["pending_restart"], false);
}

#[test]
fn disks_become_longer_while_their_guest_runs_and_while_it_does_not() {
    let daemon = Daemon::start();
    daemon.run("volume create data --size 8M");
    start(&daemon, "a", &["--new-disk", "16M", "--volume", "data"]);
    let sectors = |disk: &str| inside(&daemon, &format!("cat /sys/block/{disk}/size"));
    inside(&daemon, "echo kept >/dev/vda; sync");
    daemon.run("vm disk grow a 0 24M");
    daemon.run("vm disk grow a tessera-1 12M");
    becomes(&daemon, "cat /sys/block/vda/size", "49152");
    becomes(&daemon, "cat /sys/block/vdb/size", "24576");
    // What has come is there to be used, and what was there is.
    inside(&daemon, "echo end | dd of=/dev/vda bs=512 seek=49151 conv=fsync 2>/dev/null");
    inside(&daemon, "echo end | dd of=/dev/vdb bs=512 seek=24575 conv=fsync 2>/dev/null");
    assert_eq!(daemon.vm("a")["disks"][0]["size"], 24 << 20);
    assert_eq!(daemon.vm("a")["status"]["pending_restart"], false);
    assert_eq!(daemon.json("volume show data")["size"], 12 << 20);

    let (status, said) = daemon.fails("vm disk grow a 0 8M");
    assert!(status == Some(2) && said.contains("only made longer"), "{said}");
    let (status, said) = daemon.fails("vm disk grow a 0 30000001");
    assert!(status == Some(2) && said.contains("whole sectors"), "{said}");
    let (status, said) = daemon.fails("vm disk grow a 7 64M");
    assert!(status == Some(4) && said.contains("no disk 7"), "{said}");

    // Over what a snapshot has, too, which has its own length.
    daemon.run("vm snapshot create a before");
    daemon.run("vm disk grow a 0 32M");
    becomes(&daemon, "cat /sys/block/vda/size", "65536");
    assert_eq!(
        inside(
            &daemon,
            "head -n 1 /dev/vda; dd if=/dev/vda bs=512 skip=49151 count=1 2>/dev/null | head -n 1"
        ),
        "kept\nend"
    );
    daemon.run("vm stop a");
    daemon.run("vm disk grow a 0 40M");
    daemon.run("vm start a");
    daemon.eventually("its agent answers", |daemon| daemon.tessera("vm agent a").status.success());
    assert_eq!((sectors("vda"), sectors("vdb")), ("81920".into(), "24576".into()));
    assert_eq!(inside(&daemon, "head -n 1 /dev/vda"), "kept");
    daemon.run("vm snapshot revert a before --force");
    daemon.run("vm start a");
    daemon.eventually("its agent answers", |daemon| daemon.tessera("vm agent a").status.success());
    assert_eq!(sectors("vda"), "49152");
    assert_eq!(daemon.vm("a")["disks"][0]["size"], 24 << 20);
}

#[test]
fn a_guest_that_does_not_take_part_stays_what_it_was() {
    let mut daemon = Daemon::start();
    daemon.guest("a", &waits(), "--cpus-max 2 --new-disk 1M");
    let (status, said) = daemon.fails("vm edit a --cpus 2");
    assert!(status == Some(5) && said.contains("keeps 1 processors"), "{said}");
    let (status, said) = daemon.fails("vm disk add a --new 2M --live");
    assert!(status == Some(5) && said.contains("disk 1 is not added"), "{said}");
    assert_eq!(volumes(&daemon), 1);
    assert_eq!(daemon.vm("a")["cpus"], 1);
    assert_eq!(daemon.vm("a")["disks"].as_array().unwrap().len(), 1);
    let (status, said) = daemon.fails("vm disk remove a 0");
    assert!(status == Some(5) && said.contains("disk 0 stays"), "{said}");

    // Asked for at the next start, it is there then.
    daemon.run("vm edit a --cpus 2 --next-boot");
    daemon.run("vm disk add a --new 2M --next-boot");
    assert_eq!(daemon.vm("a")["status"]["pending_restart"], true);
    daemon.run("vm stop a");
    daemon.run("vm start a");
    assert_eq!(daemon.vm("a")["status"]["pending_restart"], false);
    assert_eq!(daemon.json("vm stats a")["processors"].as_array().unwrap().len(), 2);

    // By force it goes whatever the guest makes of it.
    daemon.run("vm disk remove a 1 --force");
    assert_eq!(volumes(&daemon), 1);

    // What is wrong is said before anything is done.
    for (words, wrong) in [
        ("vm edit a --cpus 3 --live", "cpus"),
        ("vm edit a --cpus-max 1", "cpus_max"),
        ("vm edit a --memory-max 1M", "memory_max"),
        ("vm disk remove a 7", "no disk 7"),
        ("vm nic remove a 52:00:00:00:00:01", "no network card"),
    ] {
        let (_, said) = daemon.fails(words);
        assert!(said.contains(wrong), "{words}: {said}");
    }

    // A daemon that dies in the middle leaves nothing half done.
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tessera"));
    command.env("TESSERA_HOST", daemon.state().join("host.sock"));
    let mut child = command.args(["vm", "disk", "add", "a", "--new", "4M"]).spawn().unwrap();
    daemon.eventually("the disk is made", |daemon| volumes(daemon) == 2);
    std::thread::sleep(std::time::Duration::from_millis(200));
    daemon.kill();
    assert!(!child.wait().unwrap().success());
    daemon.start_again();
    assert_eq!(daemon.state_of("a"), "running");
    assert_eq!(daemon.vm("a")["disks"].as_array().unwrap().len(), 1);
    assert_eq!(volumes(&daemon), 1);
    daemon.run("vm delete a --force");
    assert!(daemon.leftovers().is_empty());
}
