//! `make demo ONCE=1` as the script does it, with a few lines of shell in the place of a guest: they say what a guest says.

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn demo(guest: &str) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/demo-once");
    let mut command = Command::new(script);
    command.args(["sh", "-c", guest]).env("LIMIT", "20").stdin(Stdio::null()).output().unwrap()
}

#[test]
fn the_demo_logs_in_powers_off_and_ends_as_the_guest_does() {
    let guest = r#"
        word() { word=$(dd bs=1 count=$1 2>/dev/null | tr '\r' .); echo "got $word"; }
        printf 'Some Linux\n\nhost login: '; word 5
        printf 'Password: '; word 8
        printf '\nroot@host:~# '; word 9
        echo 'Power down'; exit 0"#;
    let output = demo(guest);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    for line in
        ["got root.", "got tessera.", "got poweroff.", "Power down", "came to its login and powered off"]
    {
        assert!(said.contains(line), "{line}: {said}");
    }
}

#[test]
fn a_demo_whose_guest_ends_early_fails() {
    let output = demo("echo no kernel; exit 7");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("did not come to its login prompt (status 7)"));
}
