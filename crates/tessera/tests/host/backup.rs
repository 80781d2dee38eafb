//! A host in one file, and back.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::{Daemon, waits};

/// What a backup holds, by its names.
fn names(archive: &Path) -> String {
    let listed = std::process::Command::new("tar").arg("tzf").arg(archive).output().unwrap();
    String::from_utf8(listed.stdout).unwrap()
}

#[test]
fn a_host_is_backed_up_while_it_works_and_goes_on_elsewhere_from_that() {
    let mut daemon = Daemon::start();
    daemon.guest("web", &waits(), "--label team=a");
    daemon.run("token create ci --role viewer");
    let (host, guest) = (daemon.json("host info")["id"].clone(), daemon.vm("web"));
    let file = daemon.folder.path().join("host.tar.gz");
    let backup = format!("host backup {}", file.display());
    daemon.run(&backup);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(names(&file), "backup.json\nhost.db\ntls/ca.key\ntls/ca.pem\ntls/ca.name\n");
    let (status, said) = daemon.fails(&backup);
    assert_eq!(status, Some(2));
    assert!(said.contains("--force"), "{said}");
    daemon.run(&format!("{backup} --force"));

    let restore = format!("host restore {} --state-dir {}", file.display(), daemon.state().display());
    let (status, said) = daemon.fails(&restore);
    assert!(status == Some(5) && said.contains("stop it first"), "{status:?} {said}");
    daemon.run("vm delete web --force");
    daemon.terminate();
    let (status, said) = daemon.fails(&restore);
    assert!(status == Some(5) && said.contains("--force"), "{status:?} {said}");
    daemon.run(&format!("{restore} --force"));
    daemon.start_again();
    assert_eq!(daemon.json("host info")["id"], host);
    let again = daemon.vm("web");
    assert_eq!((&again["id"], &again["labels"]), (&guest["id"], &guest["labels"]));
    assert_eq!(again["status"]["state"], "stopped", "it did not come with the backup");
    assert!(daemon.run("token ls -o name").contains("ci"));
    assert!(daemon.run("event ls").contains("host.restored"));
    daemon.run("vm start web");
}

#[test]
fn a_host_whose_daemon_does_not_run_is_backed_up_from_its_folder() {
    let mut daemon = Daemon::start();
    daemon.run("token create ci --role viewer");
    daemon.kill();
    let (file, new) = (daemon.folder.path().join("host.tar.gz"), daemon.folder.path().join("new"));
    daemon.run(&format!("host backup {} --state-dir {}", file.display(), daemon.state().display()));
    daemon.run(&format!("host restore {} --state-dir {}", file.display(), new.display()));
    fs::remove_dir_all(daemon.state()).unwrap();
    fs::rename(new, daemon.state()).unwrap();
    daemon.start_again();
    assert!(daemon.run("token ls -o name").contains("ci"));
    let (status, said) = daemon.fails(&format!("host backup {} --state-dir /nowhere", file.display()));
    assert!(status == Some(2) && said.contains("--force"), "{said}");
    let (status, said) = daemon.fails(&format!("host backup {}2 --state-dir /nowhere", file.display()));
    assert!(status == Some(7) && said.contains("no host"), "{status:?} {said}");
    assert!(!file.with_extension("gz2").exists(), "nothing is left of one that failed");
}
