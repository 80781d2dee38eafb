//! What shells complete.

use std::path::Path;
use std::process::{Command, Output};

use crate::{Daemon, waits};

/// What `tessera` answers a shell that wants to know how the last word can go on.
fn asked(shell: &str, socket: &Path, line: &str) -> Output {
    let words: Vec<_> = line.split(' ').collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
    command.env("TESSERA_HOST", socket).env("TESSERA_COMPLETE", shell).env("_CLAP_IFS", "\n");
    command.env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string());
    command.arg("--").args(words).output().unwrap()
}

fn answer(daemon: &Daemon, line: &str) -> Vec<String> {
    let output = asked("zsh", &daemon.state().join("host.sock"), line);
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_shell_is_told_the_names_that_fit() {
    let daemon = Daemon::start_in(true);
    daemon.guest("web-1", &waits(), "");
    daemon.guest("web-2", &waits(), "");
    daemon.guest("db", &waits(), "");
    daemon.run("vm pause db");
    assert_eq!(answer(&daemon, "tessera vm start w"), ["web-1:running", "web-2:running"]);
    assert_eq!(answer(&daemon, "tessera vm show d"), ["db:paused"]);
    assert_eq!(answer(&daemon, "tessera vm pause web-1 d"), ["db:paused"]);
    daemon.run("network create lan --kind isolated");
    assert_eq!(answer(&daemon, "tessera network delete l"), ["lan"]);
    daemon.run("volume create data --size 1M");
    assert_eq!(answer(&daemon, "tessera volume delete d"), ["data"]);
    let pool = daemon.folder.path().join("fast");
    daemon.run(&format!("pool create fast {}", pool.display()));
    daemon.run("volume create other --size 1M --pool fast");
    assert_eq!(answer(&daemon, "tessera volume wipe --pool fast o"), ["other"]);
    assert_eq!(answer(&daemon, "tessera volume create x --pool f"), ["fast"]);
    daemon.run("template create small --from db");
    assert_eq!(answer(&daemon, "tessera vm create x --template s"), ["small"]);
    daemon.run("token create ci --role viewer");
    assert_eq!(answer(&daemon, "tessera token delete c"), ["ci"]);
    let tasks = answer(&daemon, "tessera task show 0");
    assert!(tasks.iter().any(|task| task.ends_with(":vm.pause db done")), "{tasks:?}");
    let host = daemon.state().join("host.sock");
    let elsewhere =
        asked("zsh", Path::new("/nowhere"), &format!("tessera --host {} vm start d", host.display()));
    assert_eq!(elsewhere.stdout, b"db:paused");
}

#[test]
fn a_shell_is_told_nothing_of_a_host_that_is_not_there() {
    let output = asked("bash", Path::new("/nowhere.sock"), "tessera vm start w");
    assert!(output.status.success());
    assert_eq!((output.stdout, output.stderr), (Vec::new(), Vec::new()));
}

#[test]
fn bash_completes_commands_and_names() {
    let daemon = Daemon::start();
    daemon.guest("web-1", &waits(), "");
    daemon.guest("db", &waits(), "");
    // What bash does when somebody presses the key.
    let script = r#"
        source <(tessera completion bash)
        complete -p tessera >/dev/null
        press() {
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_TYPE=9 COMPREPLY=()
            _clap_complete_tessera tessera "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
            echo "${COMPREPLY[@]}"
        }
        press tessera vm su
        press tessera vm start w
        press tessera vm start ""
    "#;
    let program = Path::new(env!("CARGO_BIN_EXE_tessera"));
    let path = format!("{}:/usr/bin:/bin", program.parent().unwrap().display());
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-ec", script]).env("PATH", path);
    let output = bash.env("TESSERA_HOST", daemon.state().join("host.sock")).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines[..2], ["suspend", "web-1"], "{printed} {}", String::from_utf8_lossy(&output.stderr));
    assert!(lines[2].contains("web-1") && lines[2].contains("db"), "{printed}");
}

#[test]
fn every_shell_has_its_script() {
    for shell in ["bash", "zsh", "fish", "elvish"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
        let output = command.args(["completion", shell]).output().unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && script.contains("TESSERA_COMPLETE"), "{shell}: {script}");
    }
}
