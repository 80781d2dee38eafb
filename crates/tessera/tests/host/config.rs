//! The daemon's file.

use std::process::{Command, Stdio};

use crate::Daemon;

#[test]
fn the_daemon_does_what_its_file_says_but_for_what_options_say() {
    let mut daemon = Daemon::start();
    daemon.terminate();
    let state = daemon.state().display().to_string();
    let text =
        format!("# A comment\nlisten = [\"none\"]\nstate-dir = \"{state}\"\nsocket = \"elsewhere.sock\"\n");
    let file = daemon.text("host.toml", &text);
    let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
    command.args(["host", "--config"]).arg(&file).stdin(Stdio::null());
    daemon.child = Some(command.spawn().unwrap());
    // What is not absolute is beside the file.
    let socket = daemon.folder.path().join("elsewhere.sock").display().to_string();
    daemon.eventually("it answers", |daemon| {
        daemon.tessera(&format!("--host {socket} host info")).status.success()
    });
    daemon.terminate();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
    command.args(["host", "--config"]).arg(&file).arg("--socket").arg(daemon.state().join("host.sock"));
    daemon.child = Some(command.stdin(Stdio::null()).spawn().unwrap());
    daemon.eventually("it answers", |daemon| daemon.tessera("host info").status.success());
}

#[test]
fn a_file_that_makes_no_sense_is_refused_with_what_is_wrong() {
    let daemon = Daemon::start();
    for (text, told) in [
        ("lisen = []", "line 1: lisen: unknown field `lisen`"),
        ("listen = [\"nowhere\"]", "--listen nowhere: write it as 127.0.0.1:7117"),
        ("listen = [\"none\"]\ntls-key = \"key.pem\"", "--tls-key: it needs --tls-cert, too"),
    ] {
        let file = daemon.text("host.toml", text).display().to_string();
        let (status, said) = daemon.fails(&format!("host --config {file} --state-dir {file}.state"));
        assert_eq!(status, Some(2), "{said}");
        assert!(said.contains(told), "{said}");
    }
    let (status, said) = daemon.fails("host --config /nowhere.toml");
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("/nowhere.toml"), "{said}");
}
