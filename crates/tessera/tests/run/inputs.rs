//! What a person may get wrong: one clear line, a status that is not 0, and nothing left behind.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::{guest, run, tiny};

/// The program, with its own empty store of images.
fn tessera(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
    command.args(arguments).env("TESSERA_HOME", home).stdin(Stdio::null());
    command
}

#[track_caller]
fn refused(command: Command, status: i32, words: &[&str]) {
    let told = format!("{command:?}");
    let (code, console, errors) = run(command);
    assert_eq!(code, Some(status), "{told}: {errors}");
    assert_eq!(errors.lines().count(), 1, "{told}: {errors}");
    assert!(errors.starts_with("tessera: ") && console.is_empty(), "{told}: {errors} {console}");
    for word in words {
        assert!(errors.contains(word), "{told}: {errors} has no {word:?}");
    }
}

fn with(arguments: &[&str]) -> Command {
    let mut command = guest("");
    command.args(arguments);
    command
}

#[test]
fn wrong_inputs_are_refused_in_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let kernel = tiny("vmlinuz").display().to_string();
    std::fs::write(path("text"), "just text, no kernel").unwrap();
    std::fs::write(path("short"), [0; 100]).unwrap();
    std::fs::write(path("bad.qcow2"), [b"QFI\xfb\0\0\0\x03".as_slice(), &[0xff; 600]].concat()).unwrap();
    File::create(path("used")).unwrap().set_len(1 << 20).unwrap();
    let _user = disk::open(path("used").as_ref(), None, false).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let forward = format!("user,forward={}:22", taken.local_addr().unwrap().port());

    refused(tessera(&home, &["run", "--kernel", &path("gone")]), 2, &["gone", "No such file"]);
    refused(
        tessera(&home, &["run", "--kernel", &path("text"), "--engine", "soft", "--net", "none"]),
        2,
        &["text", "no kernel"],
    );
    refused(with(&["--disk", &path("used")]), 2, &["used", "in use by another machine"]);
    refused(with(&["--disk", &path("short")]), 2, &["short", "100 bytes", "512"]);
    refused(with(&["--disk", &path("bad.qcow2")]), 2, &["bad.qcow2"]);
    refused(with(&["--disk", &path("gone.raw")]), 2, &["gone.raw", "No such file"]);
    refused(tessera(&home, &["run", "--kernel", &kernel, "--memory", "1M"]), 2, &["1M", "too little"]);
    refused(with(&["--cpus", "300"]), 2, &["300", "254"]);
    refused(with(&["--net", "tap=no-such-tap"]), 2, &["no-such-tap", "no such tap device"]);
    refused(with(&["--net", &forward]), 2, &["cannot be forwarded", "in use"]);
    refused(tessera(&home, &["run", "--image", "../../etc/passwd"]), 2, &["../../etc/passwd"]);
    refused(tessera(&home, &["run", "--image", "nothing"]), 2, &["no image nothing"]);
    refused(tessera(&home, &["run", "--image", &path("short")]), 2, &["no kernel beside it", "--kernel"]);
    refused(tessera(&home, &["image", "remove", "../x"]), 2, &["../x"]);
    refused(tessera(&home, &["run"]), 2, &["--kernel"]);

    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(
        left.iter().all(|name| name != "home")
            || std::fs::read_dir(home.join("images")).map_or(0, Iterator::count) == 0,
        "{left:?}"
    );
}
