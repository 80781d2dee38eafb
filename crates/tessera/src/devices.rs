//! The devices of a machine that a person runs: their files are opened here, on the host's side.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use disk::{Disk, Raw};
use vmm::virtio::Device;
use vmm::virtio::block::Block;
use vmm::virtio::net::Net;
use vmm::virtio::rng::Rng;

use crate::cli::options::{DiskFormat, DiskOption};
use crate::failure::{Failure, Result};
use crate::images::import::{QCOW2_MAGIC, copy_sparse};

/// What the first disk of an image is called where the guest asks.
const IMAGE_SERIAL: &str = "tessera-image";

/// More queues than processors are of no use, and beyond a few more neither.
const MOST_QUEUES: u32 = 4;

/// Collects a machine's devices, in the order of their slots.
pub struct Devices {
    devices: Vec<Box<dyn Device>>,
    queues: u16,
}

impl Devices {
    /// No devices yet, for a machine with this many processors.
    pub fn new(processors: u32) -> Devices {
        Devices { devices: Vec::new(), queues: processors.min(MOST_QUEUES) as u16 }
    }

    /// Adds the disk of an image: the file itself, or a private copy that is gone with the process.
    pub fn add_image(&mut self, path: &Path, persist: bool) -> Result<()> {
        let told = |error: io::Error| Failure::input(format!("{}: {error}", path.display()));
        let disk = if persist {
            open(path, false, None)?
        } else {
            let original = File::open(path).map_err(told)?;
            let format = detect(&original).map_err(told)?;
            let copy = private_copy(&original, path).map_err(told)?;
            disk_in(copy, false, format, path)?
        };
        self.add_disk(disk, IMAGE_SERIAL);
        Ok(())
    }

    /// Adds a disk that a person named.
    pub fn add_option(&mut self, option: &DiskOption) -> Result<()> {
        let disk = open(&option.file, option.read_only, option.format)?;
        let number = self.devices.len();
        let serial = option.serial.clone().unwrap_or_else(|| format!("tessera-{number}"));
        self.add_disk(disk, &serial);
        Ok(())
    }

    fn add_disk(&mut self, disk: Box<dyn Disk>, serial: &str) {
        self.devices.push(Box::new(Block::new(disk, serial, self.queues)));
    }

    /// Adds a network card.
    pub fn add_card(&mut self, card: Net) {
        self.devices.push(Box::new(card));
    }

    /// Adds what every machine has, and gives all of them.
    pub fn finish(mut self) -> Vec<Box<dyn Device>> {
        self.devices.push(Box::new(Rng::default()));
        self.devices
    }
}

fn open(path: &Path, read_only: bool, format: Option<DiskFormat>) -> Result<Box<dyn Disk>> {
    let told = |error: io::Error| Failure::input(format!("{}: {error}", path.display()));
    let file = OpenOptions::new().read(true).write(!read_only).open(path).map_err(told)?;
    if file.metadata().map_err(told)?.is_dir() {
        return Err(Failure::input(format!("{}: is a folder, not a disk", path.display())));
    }
    let format = match format {
        Some(format) => format,
        None => detect(&file).map_err(told)?,
    };
    disk_in(file, read_only, format, path)
}

fn disk_in(file: File, read_only: bool, format: DiskFormat, path: &Path) -> Result<Box<dyn Disk>> {
    match format {
        DiskFormat::Raw => match Raw::from_file(file, read_only) {
            Ok(disk) => Ok(Box::new(disk)),
            Err(error) => Err(Failure::input(format!("{}: {error}", path.display()))),
        },
        DiskFormat::Qcow2 => {
            Err(Failure::input(format!("{}: qcow2 disks cannot be attached yet", path.display())))
        }
    }
}

/// Finds out a format from the first bytes.
fn detect(mut file: &File) -> io::Result<DiskFormat> {
    let mut magic = [0; QCOW2_MAGIC.len()];
    let whole = match file.read_exact(&mut magic) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
        Err(error) => return Err(error),
    };
    file.seek(SeekFrom::Start(0))?;
    Ok(if whole && magic == QCOW2_MAGIC { DiskFormat::Qcow2 } else { DiskFormat::Raw })
}

/// A copy without a name, in the folder of the original: it shares the original's blocks where the file system can, and
/// takes only the room that the original takes where it cannot.
fn private_copy(original: &File, path: &Path) -> io::Result<File> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let copy = OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE).open(folder)?;
    copy_sparse(original, &copy, |_, _| ())?;
    Ok(copy)
}
