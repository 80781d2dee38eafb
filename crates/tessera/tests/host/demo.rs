//! `make demo ONCE=1` as its script does it, with the tiny guest.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::agent::tiny;
use crate::processes_of;

#[test]
fn the_demo_shows_a_guest_and_leaves_nothing_running() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("demo");
    let mut initrd = std::fs::read(tiny("initramfs")).unwrap();
    initrd.extend(std::fs::read(tiny("agent")).unwrap());
    let (initrd_path, disk) = (folder.path().join("initrd"), folder.path().join("disk"));
    std::fs::write(&initrd_path, initrd).unwrap();
    std::fs::File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    let tessera = env!("CARGO_BIN_EXE_tessera");
    let mut import = Command::new(tessera);
    import.env("TESSERA_HOME", &state).args(["image", "import"]).arg(disk).args(["--name", "tiny"]);
    import.arg("--kernel").arg(tiny("vmlinuz")).arg("--initrd").arg(initrd_path);
    assert!(import.args(["--append", "console=ttyS0 quiet do=agent"]).status().unwrap().success());

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/demo");
    let mut demo = Command::new(script);
    demo.arg(tessera).arg(&state).args(["tiny", "--memory", "128M", "--engine", "soft"]);
    let output = demo.envs([("ONCE", "1"), ("LIMIT", "60")]).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    for words in ["Linux", "agent starts", "the agent powers off", "came up, answered, and powered off"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(processes_of(&state).is_empty());
    assert!(!state.join("host.sock").exists(), "the host has ended in order");
}
