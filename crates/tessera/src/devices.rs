//! The devices of a machine that a person runs: their files are opened here, on the host's side.

use std::os::unix::net::UnixListener;
use std::path::Path;

use disk::{OpenError, Overlay};
use vmm::machine::Part;
use vmm::virtio::Device;
use vmm::virtio::block::Block;
use vmm::virtio::console::{Cable, Console, PortConfig};
use vmm::virtio::net::Net;
use vmm::virtio::rng::Rng;

use crate::cli::options::DiskOption;
use crate::failure::{Failure, Result};

/// Where QEMU's guest agent looks for its host.
const AGENT: &str = "org.qemu.guest_agent.0";

/// What the first disk of an image is called where the guest asks.
const IMAGE_SERIAL: &str = "tessera-image";

/// More queues than processors are of no use, and beyond a few more neither.
const MOST_QUEUES: u32 = 4;

/// Collects a machine's devices, in the order of their slots.
pub struct Devices {
    devices: Vec<Part>,
    queues: u16,
}

impl Devices {
    /// No devices yet, for a machine with this many processors.
    pub fn new(processors: u32) -> Devices {
        Devices { devices: Vec::new(), queues: processors.min(MOST_QUEUES) as u16 }
    }

    /// Adds the disk of an image: the image itself, or a layer over it that is gone with the process.
    pub fn add_image(&mut self, path: &Path, persist: bool) -> Result<()> {
        let told = |error: OpenError| Failure::input(format!("{}: {error}", path.display()));
        let disk = if persist {
            disk::open(path, None, false).map_err(told)?
        } else {
            Box::new(Overlay::over(path).map_err(told)?)
        };
        self.add(Block::new(disk, IMAGE_SERIAL, self.queues));
        Ok(())
    }

    /// Adds a disk that a person named.
    pub fn add_option(&mut self, option: &DiskOption) -> Result<()> {
        let told = |error: OpenError| Failure::input(format!("{}: {error}", option.file.display()));
        let disk = disk::open(&option.file, option.format, option.read_only).map_err(told)?;
        let number = self.devices.len();
        let serial = option.serial.clone().unwrap_or_else(|| format!("tessera-{number}"));
        let block = Block::new(disk, &serial, self.queues);
        block.limiter().set(&option.limits.limits()?);
        self.add(block);
        Ok(())
    }

    /// Adds a network card.
    pub fn add_card(&mut self, card: Net) {
        self.add(card);
    }

    /// Adds a port behind which the guest's agent is, for programs that connect to a socket.
    pub fn add_agent(&mut self, listener: UnixListener) -> Result<()> {
        let port = PortConfig { name: AGENT.into(), console: false, cable: Cable::Listener(listener) };
        let ports =
            Console::new(vec![port]).map_err(|error| Failure::internal(format!("--agent: {error}")))?;
        self.add(ports);
        Ok(())
    }

    /// Adds what every machine has, and gives all of them.
    pub fn finish(mut self) -> Vec<Part> {
        self.add(Rng::default());
        self.devices
    }

    /// Nobody asks for a device of such a machine by its name: its number will do.
    fn add(&mut self, device: impl Device + 'static) {
        self.devices.push(Part::new(self.devices.len().to_string(), device));
    }
}
