//! Boots a kernel on the software engine: `boot KERNEL INITRD COMMAND-LINE [CPUS [MIB [DISK]]]`.

use std::time::{Duration, Instant};

use vmm::boot::{Kernel, Source};
use vmm::engine::soft::Soft;
use vmm::machine::{Machine, MachineConfig, Part};
use vmm::virtio::block::Block;
use vmm::virtio::rng::Rng;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let text = |i: usize| args.get(i).cloned().unwrap_or_default();
    let initrd = Some(text(1)).filter(|s| !s.is_empty()).map(|s| Source::open(s.as_ref())).transpose()?;
    let mut devices = vec![Part::new("random", Rng::default())];
    if let Some(disk) = args.get(5) {
        let disk = Block::new(Box::new(disk::Raw::open(disk.as_ref(), false)?), "disk0", 1);
        devices.push(Part::new("disk0", disk));
    }
    let config = MachineConfig {
        figures: None,
        processors: args.get(3).map_or(Ok(1), |s| s.parse())?,
        most_processors: None,
        memory: args.get(4).map_or(Ok(512), |s| s.parse::<u64>())? << 20,
        most_memory: None,
        tsc_khz: None,
        kernel: Kernel { image: Source::open(text(0).as_ref())?, initrd, command_line: text(2) },
        console: Box::new(std::io::stdout()),
        devices,
    };
    let start = Instant::now();
    let machine = Machine::new(&Soft, config)?;
    machine.resume();
    let event = machine.wait(Duration::from_secs(120));
    machine.pause();
    eprintln!("{event:?} after {:?}, {:?} instructions", start.elapsed(), machine.instructions());
    Ok(())
}
