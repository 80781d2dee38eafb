//! `tessera run` from a person's side: the program as it is installed, and Debian's kernel in it.
//!
//! The guest is the tiny one, which `make guests` puts into build/tiny: it does what its command line says and powers off.

mod inputs;
mod layers;
mod networks;
mod vmm;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Long enough for a guest to boot on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

/// A file of the tiny guest.
fn tiny(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../build/tiny").join(name);
    assert!(path.exists(), "{} is missing: make guests", path.display());
    path
}

/// `tessera run` with the tiny guest, which is told `words`.
fn guest(words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
    command.arg("run").arg("--kernel").arg(tiny("vmlinuz")).arg("--initrd").arg(tiny("initramfs"));
    command.args([
        "--memory",
        "128M",
        "--engine",
        "soft",
        "--append",
        &format!("console=ttyS0 quiet {words}"),
    ]);
    command.stdin(Stdio::null());
    command
}

/// Runs it to its end.
fn run(mut command: Command) -> (Option<i32>, String, String) {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let Output { status, stdout, stderr } = wait(child);
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (status.code(), text(&stdout), text(&stderr))
}

/// Waits for the end, and ends what does not end.
fn wait(child: Child) -> Output {
    let (id, start) = (child.id(), Instant::now());
    let (done, over) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        if over.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            // SAFETY: the child has not been waited for, so the number is still its.
            unsafe { libc::kill(id as libc::pid_t, libc::SIGKILL) };
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(done);
    watch.join().unwrap();
    assert!(start.elapsed() < PATIENCE, "it did not end: {}", String::from_utf8_lossy(&output.stdout));
    output
}

#[test]
fn a_guest_boots_says_so_and_its_power_off_is_success() {
    let (status, console, errors) = run(guest(""));
    assert!(console.contains("first user program"), "{console}");
    assert_eq!((status, errors.as_str()), (Some(0), ""));
}

#[test]
fn a_guest_with_two_processors_writes_its_console_to_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("console");
    let mut command = guest("loglevel=7");
    command.args(["--cpus", "2", "--net", "none", "--stats", "--console"]).arg(&file);
    let (status, console, errors) = run(command);
    assert_eq!((status, console.as_str()), (Some(0), ""));
    assert!(errors.contains("guest instructions"), "{errors}");
    let written = std::fs::read_to_string(file).unwrap();
    assert!(written.contains("smp: Brought up 1 node, 2 CPUs"), "{written}");
}

#[test]
fn a_reset_ends_the_machine_if_it_is_not_to_start_again() {
    let mut command = guest("do=reboot");
    command.arg("--no-reboot");
    assert_eq!(run(command).0, Some(11));
}

#[test]
fn a_reset_starts_the_guest_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("console");
    let mut child = guest("do=reboot").arg("--console").arg(&file).spawn().unwrap();
    let start = Instant::now();
    let boots = || std::fs::read_to_string(&file).unwrap_or_default().matches("first user program").count();
    while boots() < 3 {
        assert_eq!(child.try_wait().unwrap(), None);
        assert!(start.elapsed() < PATIENCE, "it does not start again");
        std::thread::sleep(Duration::from_millis(50));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_panic_has_its_own_status_and_its_message_is_told() {
    let (status, console, _) = run(guest("do=panic"));
    assert!(console.contains("Kernel panic") || console.contains("sysrq: Trigger a crash"), "{console}");
    assert_eq!(status, Some(10));
}

#[test]
fn a_disk_keeps_what_the_guest_writes_and_says_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    std::fs::File::create(&raw).unwrap().set_len(64 << 20).unwrap();
    let mut command = guest("do=disk");
    command.arg("--disk").arg(format!("{},serial=NUMBER-1", raw.display()));
    let (_, console, _) = run(command);
    assert!(console.contains("disk keeps what is written"), "{console}");
    assert!(console.contains("disk serial NUMBER-1 sectors 131072 read-only 0"), "{console}");
    let bytes = std::fs::read(&raw).unwrap();
    let (before, rest) = bytes.split_at(1 << 20);
    assert!(before.iter().all(|&b| b == 0) && rest[..1 << 20].iter().any(|&b| b != 0));

    let mut command = guest("do=disk");
    command.arg("--image").arg(&raw);
    let (_, console, _) = run(command);
    assert!(console.contains("disk keeps what is written"), "{console}");
    assert_eq!(std::fs::read(&raw).unwrap(), bytes, "what is written to an image is gone");

    let mut command = guest("do=disk");
    command.arg("--disk").arg(format!("{},ro", raw.display()));
    let (_, console, _) = run(command);
    assert!(console.contains("disk refused a write") && console.contains("read-only 1"), "{console}");
    assert_eq!(std::fs::read(&raw).unwrap(), bytes);
}
