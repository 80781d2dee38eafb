//! What a process that is locked in still reaches. Each probe runs in a process of its own, as root and as somebody else.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Output};

/// Somebody who is not root.
const NOBODY: u32 = 65534;

/// Runs a probe: as whoever runs the tests, and if that is root, as somebody else, too.
fn probe(name: &str) -> Vec<Output> {
    let command = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reach"));
        command.arg(name);
        command
    };
    let mut outputs = vec![command().output().unwrap()];
    if rustix::process::geteuid().is_root() {
        // What cargo built may lie where others cannot look.
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("reach");
        std::fs::copy(env!("CARGO_BIN_EXE_reach"), &copy).unwrap();
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        outputs.push(Command::new(copy).arg(name).uid(NOBODY).gid(NOBODY).output().unwrap());
    }
    outputs
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn what_a_machine_does_works() {
    for output in probe("works") {
        assert!(said(&output).contains("works: kept 120 8388608"), "{output:?}");
        assert!(output.status.success());
    }
}

#[test]
fn no_path_can_be_opened() {
    for output in probe("paths") {
        let said = said(&output);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(said.matches("Err(PermissionDenied)").count(), 5, "{said}");
        assert!(said.contains("made: false"), "{said}");
    }
}

#[test]
fn what_reaches_out_ends_the_process() {
    let out = [
        "socket",
        "local socket",
        "program",
        "fork",
        "signal",
        "ptrace",
        "code",
        "root again",
        "mount",
        "terminal",
    ];
    for name in out {
        for output in probe(name) {
            assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{name}: {output:?}");
            assert!(!said(&output).contains("come through"), "{name}");
        }
    }
}

#[test]
fn a_copy_of_the_process_is_locked_in_as_well() {
    for output in probe("copy") {
        assert!(
            said(&output).contains(&format!("the copy was ended by signal {}", libc::SIGSYS)),
            "{output:?}"
        );
        assert!(output.status.success());
    }
}

#[test]
fn who_it_is_and_what_it_sees_is_nothing() {
    for output in probe("itself") {
        let said = said(&output);
        for line in
            ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000"]
        {
            assert!(said.contains(line), "{line}: {said}");
        }
        assert!(!said.contains("Uid:\t0\t"), "{said}");
        assert!(said.contains("Groups:\t \n") || !rustix::process::geteuid().is_root(), "{said}");
    }
}
