//! What the daemon says of its work.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{Daemon, http, waits};

#[test]
fn the_log_is_read_followed_and_there_when_the_daemon_is_not() {
    let mut daemon = Daemon::start();
    daemon.guest("a", &waits(), "");
    let log = daemon.run("host log");
    assert!(log.contains("INFO") && log.contains("the daemon has started"), "{log}");
    assert!(log.contains("vm.create a by root: done"), "{log}");
    assert_eq!(daemon.run("host log -n 1").lines().count(), 1);

    let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
    command
        .env("TESSERA_HOST", daemon.state().join("host.sock"))
        .args(["host", "log", "--follow", "-n", "1"]);
    let mut follower = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("vm.create a"));
    daemon.run("vm stop a");
    assert!(lines.any(|line| line.unwrap().contains("vm.stop a by root: done")));
    follower.kill().unwrap();
    follower.wait().unwrap();

    daemon.kill();
    let file = daemon.state().join("log/host.log");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let words = format!("host log --state-dir {}", daemon.state().display());
    let output = daemon.tessera(&words);
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("vm.stop a"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no daemon answers"));
    assert_eq!(daemon.fails("host log --state-dir /does/not/exist").0, Some(7));
    assert_eq!(daemon.fails(&format!("{words} -f")).0, Some(7));
    daemon.start_again();
    assert_eq!(daemon.run("host log").matches("the daemon has started").count(), 2, "it goes on");
    let answer = http::ask(&daemon, "GET", "/host/log?lines=10001", "", &Value::Null);
    assert_eq!((answer.status, &answer.body["errors"][0]["pointer"]), (422, &"/lines".into()));
}
