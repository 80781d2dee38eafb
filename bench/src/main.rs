//! Side-by-side benchmarks: the same kernel, the same program, in Tessera and in QEMU, turn by turn on this machine.
//!
//! Rates of a shared machine mean little; their ratio, measured in the same minute, means more. So each benchmark prints
//! both and the ratio: above 1 Tessera is faster.

mod measure;
mod vmm;

use clap::{Parser, Subcommand};

/// Compares Tessera with QEMU on this machine.
#[derive(Parser)]
struct Cli {
    /// What to compare; all of it if not given
    #[command(subcommand)]
    what: Option<What>,
    /// How often each is measured; the median counts
    #[arg(long, default_value = "3", global = true)]
    rounds: usize,
    /// What executes the guests: soft (against TCG) or kvm
    #[arg(long, default_value = "soft", global = true)]
    engine: vmm::Engine,
}

#[derive(Subcommand, Clone, Copy)]
enum What {
    /// From start to the guest's first program
    Boot,
    /// Integers, SSE2, x87, memory, calls of the kernel, page faults, processes
    Cpu,
    /// 4 KiB anywhere and 1 MiB in order, on a raw disk without the guest's cache
    Disk,
    /// A TCP stream each way over the user network
    Net,
    /// Memory of the host that an idle guest of 128 MiB takes beyond what it touched
    Memory,
}

fn main() {
    let cli = Cli::parse();
    let all = [What::Boot, What::Cpu, What::Disk, What::Net, What::Memory];
    for what in cli.what.map_or(all.to_vec(), |what| vec![what]) {
        match what {
            What::Boot => measure::boot(cli.engine, cli.rounds),
            What::Cpu => measure::rates(cli.engine, cli.rounds, "cpu"),
            What::Disk => measure::rates(cli.engine, cli.rounds, "disk"),
            What::Net => measure::rates(cli.engine, cli.rounds, "net"),
            What::Memory => measure::memory(cli.engine),
        }
    }
}
