//! `tessera host` from a person's side: the real daemon, the real command line, real guests' processes. The guests are kernels of a few
//! instructions, so that one starts in milliseconds.

mod access;
mod agent;
mod alarms;
mod backup;
mod bandwidth;
mod clones;
mod completion;
mod config;
mod crash;
mod daemon;
mod day;
mod demo;
mod devices;
mod exports;
#[path = "../../../vmm/tests/machine/guest.rs"]
#[allow(dead_code)]
mod guest;
mod guest_backups;
mod history;
mod hostile;
mod http;
mod images;
mod inputs;
mod install;
mod inventory;
mod keys;
mod life;
mod limits;
mod lists;
mod log;
mod memory;
mod merging;
mod networks;
mod paging;
mod privileges;
mod repeats;
mod report;
mod room;
mod sandbox;
mod schedules;
#[path = "../../../storage/tests/images/server.rs"]
#[allow(dead_code)]
mod server;
mod shares;
mod site;
mod snapshots;
mod stats;
mod storage;
mod suspend;
mod targets;
mod templates;
mod terminal;
mod top;

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use guest::Code;
use serde_json::Value;

/// More than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Registers of the machine that end a guest, and what is written there.
const POWER_OFF: (u16, u8) = (0x600, 0x34);
const PANIC: (u16, u8) = (0x505, 1);

/// `hlt; jmp` back to it: with interrupts off, as a kernel starts, it waits for ever and takes no time.
const WAIT: [u8; 3] = [0xf4, 0xeb, 0xfd];

/// Says that it runs, and waits.
fn waits() -> Code {
    Code::default().print("it runs\n").bytes(&WAIT)
}

/// A daemon in a folder of its own; both go with it, and its guests, too.
pub struct Daemon {
    folder: tempfile::TempDir,
    child: Option<Child>,
    /// Whether it has a network namespace of its own.
    apart: bool,
    /// Where it listens besides its socket.
    listen: String,
    /// What else it is told.
    options: Vec<String>,
}

impl Daemon {
    fn start() -> Self {
        Self::start_in(false)
    }

    /// One in a network namespace of its own, which may do with networks what it likes; none, with a word why, if nobody here may.
    fn start_apart() -> Option<Self> {
        let allowed = Command::new("unshare").args(["--net", "true"]).status();
        if !allowed.is_ok_and(|status| status.success()) {
            eprintln!("skipped: this user cannot make network namespaces");
            return None;
        }
        Some(Self::start_in(true))
    }

    /// The same in a network namespace of its own, if that is wanted.
    fn start_in(apart: bool) -> Self {
        Self::start_at(apart, "none")
    }

    /// The same, listening at an address.
    fn start_at(apart: bool, listen: &str) -> Self {
        Self::start_as(apart, listen, &[])
    }

    /// The same with further options.
    fn start_as(apart: bool, listen: &str, options: &[&str]) -> Self {
        let (listen, options) = (listen.to_owned(), options.iter().map(ToString::to_string).collect());
        let mut daemon = Self { folder: tempfile::tempdir().unwrap(), child: None, apart, listen, options };
        std::fs::set_permissions(daemon.folder.path(), PermissionsExt::from_mode(0o711)).unwrap();
        daemon.start_again();
        daemon
    }

    /// One whose guests may run on KVM, paravirtual ones included, if there is any: they are to need little.
    fn on_kvm() -> Option<Self> {
        let is_there = Path::new("/dev/kvm").exists();
        if !is_there {
            eprintln!("skipped: there is no /dev/kvm");
        }
        is_there.then(|| Self::start_as(false, "none", &["--kvm-as-it-is"]))
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Starts the daemon, and waits until it answers.
    fn start_again(&mut self) {
        let program = env!("CARGO_BIN_EXE_tessera");
        let mut command = Command::new(if self.apart { "unshare" } else { program });
        if self.apart {
            command.args(["--net", program]);
        }
        self.start_with(command);
    }

    /// Starts it again in the network namespace of a process.
    fn start_in_namespace_of(&mut self, pid: u32) {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{pid}/ns/net")).arg(env!("CARGO_BIN_EXE_tessera"));
        self.start_with(command);
    }

    fn start_with(&mut self, mut command: Command) {
        command.args(["host", "--listen", &self.listen, "--state-dir"]).arg(self.state()).args(&self.options);
        self.child = Some(command.stdin(Stdio::null()).spawn().unwrap());
        self.eventually("the daemon answers", |daemon| daemon.tessera("host info").status.success());
    }

    /// Ends it as a machine's failure would.
    fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Ends it as a person would; gives its exit status.
    fn terminate(&mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        kill(child.id(), libc::SIGTERM);
        child.wait().unwrap().code()
    }

    /// Runs `tessera` with these words.
    fn tessera(&self, words: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
        command.env("TESSERA_HOST", self.state().join("host.sock"));
        command.args(words.split_whitespace()).stdin(Stdio::null()).output().unwrap()
    }

    /// The same where it must succeed; gives what it printed.
    fn run(&self, words: &str) -> String {
        let output = self.tessera(words);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tessera {words}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same where it must fail; gives its status and the one line it says.
    fn fails(&self, words: &str) -> (Option<i32>, String) {
        let output = self.tessera(words);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "tessera {words} succeeded");
        assert_eq!(errors.lines().count(), 1, "tessera {words}: {errors}");
        (output.status.code(), errors)
    }

    fn json(&self, words: &str) -> Value {
        serde_json::from_str(&self.run(&format!("{words} -o json"))).unwrap()
    }

    fn vm(&self, name: &str) -> Value {
        self.json(&format!("vm show {name}"))
    }

    fn state_of(&self, name: &str) -> String {
        self.vm(name)["status"]["state"].as_str().unwrap().to_owned()
    }

    /// Puts a kernel where guests can boot it.
    fn kernel(&self, name: &str, code: &Code) -> String {
        let path = self.folder.path().join(name);
        let mut image = Vec::new();
        let mut file = guest::elf_file(code);
        std::io::Seek::rewind(&mut file).unwrap();
        file.read_to_end(&mut image).unwrap();
        std::fs::write(&path, image).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Makes and starts a guest that runs `code`.
    fn guest(&self, name: &str, code: &Code, more: &str) {
        self.guest_on("soft", name, code, more);
    }

    /// The same on this engine.
    fn guest_on(&self, engine: &str, name: &str, code: &Code, more: &str) {
        let kernel = self.kernel(name, code);
        self.run(&format!(
            "vm create {name} --kernel {kernel} --memory 32M --engine {engine} --start {more}"
        ));
    }

    fn eventually(&self, what: &str, mut happened: impl FnMut(&Daemon) -> bool) {
        let start = Instant::now();
        while !happened(self) {
            assert!(start.elapsed() < PATIENCE, "not so: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What its guests' folders hold.
    fn leftovers(&self) -> Vec<PathBuf> {
        let list = |name: &str| std::fs::read_dir(self.state().join(name)).unwrap();
        list("vms").chain(list("run")).map(|entry| entry.unwrap().path()).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.is_some() {
            if std::thread::panicking() {
                for told in ["event ls", "vm ls", "memory show"].map(|line| self.tessera(line)) {
                    eprintln!("{}", String::from_utf8_lossy(&told.stdout));
                }
            }
            // With its guests it removes their control groups; the test may have seen to it that it cannot.
            let names = String::from_utf8(self.tessera("vm ls -o name").stdout).unwrap_or_default();
            let names: Vec<_> = names.split_whitespace().collect();
            if !names.is_empty() {
                self.tessera(&format!("vm delete --force {}", names.join(" ")));
            }
            self.terminate();
        }
        for pid in processes_of(&self.state()) {
            kill(pid, libc::SIGKILL);
        }
    }
}

fn kill(pid: u32, signal: i32) {
    // SAFETY: only sends a signal, to a process that the test has started.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}

/// Guests' processes whose sockets are in a folder.
fn processes_of(state: &Path) -> Vec<u32> {
    let ids = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let ours = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        line.contains("\0vmm\0") && line.contains(state.to_str().unwrap())
    };
    ids.filter(ours).collect()
}
