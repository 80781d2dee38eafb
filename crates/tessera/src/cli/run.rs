//! `tessera run`: one machine in the foreground.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::cli::options::{DiskOption, NetOption, Size};
use crate::failure::{self, Failure, Result};

/// A guest's kernel has no room to start in less.
const LEAST_MEMORY: u64 = 32 << 20;

/// Arguments of `tessera run`.
#[derive(Debug, Args)]
#[command(after_help = failure::EXIT_STATUS_HELP)]
pub struct RunArgs {
    /// Boot a stored image, or a disk file whose kernel --kernel gives; what the guest writes is gone with it
    #[arg(long, value_name = "NAME|FILE", required_unless_present = "kernel")]
    image: Option<String>,
    /// Keep what the guest writes to its image
    #[arg(long, requires = "image")]
    persist: bool,
    /// Boot this kernel: a bzImage, or an ELF file that PVH can start
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The kernel's initial RAM disk
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// The kernel's command line, in place of the image's
    #[arg(long, value_name = "TEXT")]
    append: Option<String>,
    /// The number of processors
    #[arg(long, value_name = "N", default_value = "1")]
    cpus: u32,
    /// The amount of memory
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = memory)]
    memory: Size,
    /// Attach a disk: FILE[,ro][,format=raw|qcow2][,serial=TEXT] (may be repeated)
    #[arg(long = "disk", value_name = "DISK")]
    disks: Vec<DiskOption>,
    /// Attach a network: user[,forward=[ADDRESS:]HOST:GUEST]…, tap=NAME or none (may be repeated) [default: user]
    #[arg(long = "net", value_name = "NET")]
    nets: Vec<NetOption>,
    /// What executes the guest
    #[arg(long, value_enum, default_value = "auto")]
    engine: EngineOption,
    /// Where the guest's serial line goes: tty, or a file
    #[arg(long, value_name = "tty|FILE", default_value = "tty")]
    console: ConsoleOption,
    /// End when the guest resets, with status 11
    #[arg(long)]
    no_reboot: bool,
    /// Tell at the end what the machine did
    #[arg(long)]
    stats: bool,
}

/// `--engine`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum EngineOption {
    /// KVM if it can run a stock guest here, else the software processor
    Auto,
    /// The processor's own virtualization
    Kvm,
    /// The software processor
    Soft,
}

/// `--console`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ConsoleOption {
    Tty,
    File(PathBuf),
}

impl From<&str> for ConsoleOption {
    fn from(text: &str) -> ConsoleOption {
        match text {
            "tty" => ConsoleOption::Tty,
            file => ConsoleOption::File(file.into()),
        }
    }
}

fn memory(text: &str) -> std::result::Result<Size, String> {
    let size: Size = text.parse()?;
    if size.0 < LEAST_MEMORY {
        return Err(format!("{size} is too little: a guest needs {} or more", Size(LEAST_MEMORY)));
    }
    Ok(size)
}

/// Boots the machine and stays until it ends.
pub fn run(_args: RunArgs) -> Result<ExitCode> {
    Err(Failure::internal("running a machine is not connected yet"))
}
