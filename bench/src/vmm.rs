//! The two ways to run the same guest.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

/// What executes guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    /// Software processors: Tessera's, and QEMU's TCG.
    Soft,
    /// KVM in both.
    Kvm,
}

/// Who runs the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vmm {
    Tessera,
    Qemu,
}

/// A guest to run.
pub struct Guest<'a> {
    pub engine: Engine,
    /// What the guest is told to do.
    pub words: &'a str,
    /// MiB.
    pub memory: u32,
    pub disk: Option<&'a Path>,
    pub network: bool,
}

/// The folder that `make guests` and `make bench` fill.
pub fn build() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../build")
}

fn tessera() -> PathBuf {
    let this = std::env::current_exe().expect("this program's path");
    this.with_file_name("tessera")
}

impl Vmm {
    fn command(self, guest: &Guest) -> Command {
        let file = |name: &str| build().join("bench").join(name);
        let line = format!("console=ttyS0 quiet {}", guest.words);
        match self {
            Vmm::Tessera => {
                let mut command = Command::new(tessera());
                command
                    .arg("run")
                    .arg("--kernel")
                    .arg(file("vmlinuz"))
                    .arg("--initrd")
                    .arg(file("initramfs"));
                command.args(["--memory", &format!("{}M", guest.memory), "--append", &line]);
                command.args(["--engine", if guest.engine == Engine::Soft { "soft" } else { "kvm" }]);
                command.args(["--net", if guest.network { "user" } else { "none" }]);
                if let Some(disk) = guest.disk {
                    command.arg("--disk").arg(format!("{},format=raw", disk.display()));
                }
                command
            }
            Vmm::Qemu => {
                let mut command = Command::new("qemu-system-x86_64");
                command.args([
                    "-nodefaults",
                    "-no-user-config",
                    "-display",
                    "none",
                    "-serial",
                    "stdio",
                    "-no-reboot",
                ]);
                command.args(["-m", &guest.memory.to_string(), "-append", &line]);
                command.arg("-kernel").arg(file("vmlinuz")).arg("-initrd").arg(file("initramfs"));
                command.args(["-accel", if guest.engine == Engine::Soft { "tcg" } else { "kvm" }]);
                if guest.network {
                    command.args(["-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n"]);
                }
                if let Some(disk) = guest.disk {
                    command.args(["-device", "virtio-blk-pci,drive=d", "-drive"]);
                    command.arg(format!("file={},if=none,id=d,format=raw,cache=writeback", disk.display()));
                }
                command
            }
        }
    }

    /// Starts the guest; gives its process and its console.
    pub fn start(self, guest: &Guest) -> (Child, BufReader<ChildStdout>) {
        let mut command = self.command(guest);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
        let console = child.stdout.take().expect("a piped stdout");
        (child, BufReader::new(console))
    }

    /// Runs the guest to its end; gives the lines of its console.
    pub fn lines(self, guest: &Guest) -> Vec<String> {
        let (mut child, console) = self.start(guest);
        let lines =
            console.split(b'\n').map_while(Result::ok).map(|l| String::from_utf8_lossy(&l).trim().to_owned());
        let lines: Vec<_> = lines.collect();
        let status = child.wait().expect("the end of the guest");
        assert!(status.success(), "{self:?} ended with {status}: {}", lines.join("\n"));
        lines
    }
}
