//! Makes a guest's machine: opens what its definition names and hands it to its process, which opens nothing itself.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use api::{Disk, DiskFormat, DiskSource, Id, Name, OnEnd, VmDefinition};
use disk::Format;
use network::user::Passt;
use serde_json::Value;
use storage::images::Store as Images;
use storage::seed::Seed;
use vmm::control::{DiskLimits, DiskSpec, MachineSpec, OnPanic, OnReset, PortSpec, console};
use vmm::engine;
use vmm::virtio::net::Alias;

use super::saved::Saved;
use super::{cards, limits};
use crate::paths::Paths;
use crate::pools::{Pools, own_volume, volume_of};
use crate::wires::Plug;

/// How much of what a guest says is remembered, bytes.
const CONSOLE_LOG: u64 = 1 << 18;
/// Where QEMU's guest agent looks for its host.
const AGENT: &str = "org.qemu.guest_agent.0";
/// What a kernel is told if nothing is said.
const COMMAND_LINE: &str = "console=ttyS0";

/// A guest's machine cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Something that its definition names cannot be opened.
    #[error("{what} {path}: {error}")]
    Open {
        /// What it is.
        what: String,
        /// Where it is.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// It names nothing to boot.
    #[error("there is nothing to boot: give the guest an image as its first disk, or a kernel")]
    NothingToBoot,
    /// The host cannot do it.
    #[error("{0}")]
    Host(String),
}

/// The message `create` for a guest's process, and the files that go with it.
pub struct Machine {
    /// The message's parameters.
    pub params: Value,
    /// The files.
    pub files: Vec<OwnedFd>,
    /// Programs behind its network cards. They end when the process closes its end, and at once if this is dropped.
    pub programs: Vec<Passt>,
}

impl Machine {
    /// Has it go on where another one was saved; as one more machine if it goes on `again`.
    pub fn go_on_from(&mut self, saved: Saved, again: bool) {
        let memory = self.files.len();
        self.files.push(saved.memory.into());
        self.params["saved"] = serde_json::json!({ "state": saved.state, "memory": memory, "again": again });
    }

    /// Has each of its cards stand for a guest that knows these addresses instead of the card's.
    pub fn knows(&mut self, aliases: &[Option<Alias>]) {
        for (number, alias) in aliases.iter().enumerate().filter(|(_, alias)| alias.is_some()) {
            self.params["nets"][number]["alias"] = serde_json::json!(alias);
        }
    }
}

/// Files that go with a message.
#[derive(Default)]
pub struct Files(Vec<OwnedFd>);

impl Files {
    /// Opens a file; gives its number in the message.
    fn open(&mut self, what: &str, path: &Path, write: bool) -> Result<usize, MachineError> {
        let opened = File::options().read(true).write(write).open(path);
        let told = |error| MachineError::Open { what: what.into(), path: path.into(), error };
        Ok(self.add(opened.map_err(told)?))
    }

    /// The files, in the order of their numbers.
    pub fn into_inner(self) -> Vec<OwnedFd> {
        self.0
    }

    /// Adds a file; gives its number in the message.
    pub fn add(&mut self, file: impl Into<OwnedFd>) -> usize {
        self.0.push(file.into());
        self.0.len() - 1
    }
}

/// Opens what guest `id` is made of; `engine` is to execute it with processors whose TSC has a frequency, if it is not to choose that
/// itself, and `plugs` are the host's ends of its cards on networks of this host.
///
/// # Errors
/// If something that its definition names cannot be opened.
pub fn open(
    paths: &Paths,
    images: &Images,
    pools: &Pools,
    id: Id,
    definition: &VmDefinition,
    (engine, tsc_khz): (engine::Kind, Option<u32>),
    plugs: Vec<Option<Plug>>,
) -> Result<Machine, MachineError> {
    let mut files = Files::default();
    let boot = find_boot(images, definition)?;
    let mut disks = open_disks(pools, id, definition, &mut files)?;
    disks.extend(open_seed(paths, id, definition, &mut files)?);
    let (nets, programs) = cards::plug_in(definition, plugs, &mut files)?;
    let kvm = match engine {
        engine::Kind::Soft => None,
        _ => Some(files.open("the engine kvm", Path::new("/dev/kvm"), true)?),
    };
    let spec = MachineSpec {
        processors: definition.cpus,
        most_processors: definition.cpus_max,
        most_memory: definition.memory_max.map(|most| most.0),
        memory: definition.memory.0,
        tsc_khz,
        saved: None,
        engine,
        kvm,
        kernel: files.open("the kernel", &boot.kernel, false)?,
        initrd: boot.initrd.map(|path| files.open("the initial RAM disk", &path, false)).transpose()?,
        command_line: boot.command_line,
        console: None,
        console_socket: Some(files.add(listen(&paths.console_socket(id))?)),
        console_log: Some(files.add(console_log(paths, id)?)),
        disks,
        nets,
        ports: vec![PortSpec {
            name: AGENT.into(),
            socket: files.add(listen(&paths.agent_socket(id))?),
            console: false,
        }],
        on_reset: match definition.on_reboot {
            OnEnd::Restart => OnReset::Restart,
            OnEnd::Stop => OnReset::End,
        },
        on_panic: OnPanic::End,
    };
    let params = serde_json::to_value(spec).map_err(|error| MachineError::Host(error.to_string()))?;
    Ok(Machine { params, files: files.0, programs })
}

struct Boot {
    kernel: PathBuf,
    initrd: Option<PathBuf>,
    command_line: String,
}

fn find_boot(images: &Images, definition: &VmDefinition) -> Result<Boot, MachineError> {
    let said = &definition.boot;
    let line = |default: &str| said.command_line.clone().unwrap_or_else(|| default.to_owned());
    if let Some(kernel) = &said.kernel {
        let (kernel, initrd) = (kernel.clone(), said.initrd.clone());
        return Ok(Boot { kernel, initrd, command_line: line(COMMAND_LINE) });
    }
    let name = definition.image().ok_or(MachineError::NothingToBoot)?;
    let image = images.find(name).map_err(|error| MachineError::Host(error.to_string()))?;
    let image = image.ok_or_else(|| MachineError::Host(format!("the image {name} is not there any more")))?;
    Ok(Boot {
        kernel: image.kernel(),
        // An image's initial RAM disk fits its own kernel.
        initrd: said.initrd.clone().or_else(|| image.initrd()),
        command_line: line(&image.about.cmdline),
    })
}

fn open_disks(
    pools: &Pools,
    id: Id,
    definition: &VmDefinition,
    files: &mut Files,
) -> Result<Vec<DiskSpec>, MachineError> {
    let numbered = definition.disks.iter().enumerate();
    numbered.map(|(place, disk)| open_disk(pools, id, disk.number(place), disk, files)).collect()
}

/// What disk `number` of a guest is called by its process.
pub fn disk_name(number: usize) -> String {
    format!("disk{number}")
}

/// The volumes of these disks of a guest that are its own.
pub fn own_volumes(id: Id, disks: &[Disk]) -> Vec<Name> {
    let own = disks
        .iter()
        .enumerate()
        .filter(|(_, disk)| matches!(disk.source, DiskSource::Image(_) | DiskSource::Size(_)));
    own.filter_map(|(place, disk)| own_volume(id, disk.number(place)).ok()).collect()
}

/// Opens disk `number` of a guest.
///
/// # Errors
/// If its file, or what that is based on, cannot be opened, or somebody else writes to it.
pub fn open_disk(
    pools: &Pools,
    id: Id,
    number: usize,
    disk: &Disk,
    files: &mut Files,
) -> Result<DiskSpec, MachineError> {
    let told = |problem: api::Problem| MachineError::Host(format!("disk {number}: {}", problem.detail));
    let serial = disk.serial_at(number);
    let volume = match volume_of(id, number, disk).map_err(told)? {
        Ok(volume) => volume,
        Err(path) => {
            let file = files.open(&format!("disk {number}"), path, !disk.read_only)?;
            let format = match disk.format {
                Some(DiskFormat::Qcow2) => Format::Qcow2,
                _ => Format::Raw,
            };
            let (name, read_only, limits) = (Some(disk_name(number)), disk.read_only, limits::of_disk(disk));
            return Ok(DiskSpec { name, file, format, backing: Vec::new(), read_only, serial, limits });
        }
    };
    let pool = pools.get(volume.pool.as_str()).map_err(told)?;
    let opened = pool.open_volume(&volume.name, disk.read_only);
    let opened = opened.map_err(|error| MachineError::Host(format!("disk {number}: {error}")))?;
    Ok(DiskSpec {
        name: Some(disk_name(number)),
        format: opened.format.into(),
        file: files.add(opened.file),
        backing: opened.backing.into_iter().map(|file| files.add(file)).collect(),
        read_only: disk.read_only,
        serial,
        limits: limits::of_disk(disk),
    })
}

/// The disk that tells cloud-init in the guest who it is, if its definition says something of that. Written anew at each start: cloud-init
/// does again what belongs to another instance, and the guest's id stays the same.
fn open_seed(
    paths: &Paths,
    id: Id,
    definition: &VmDefinition,
    files: &mut Files,
) -> Result<Option<DiskSpec>, MachineError> {
    let Some(config) = &definition.cloud_init else { return Ok(None) };
    let path = paths.seed(id);
    let seed = Seed::new(config, &definition.name, &id).and_then(|seed| seed.write(&path));
    seed.map_err(|error| MachineError::Host(error.to_string()))?;
    let file = files.open("the disk for cloud-init", &path, false)?;
    let serial = "tessera-cloud-init".to_owned();
    let name = Some("cloud-init".to_owned());
    Ok(Some(DiskSpec {
        name,
        file,
        format: Format::Raw,
        backing: Vec::new(),
        read_only: true,
        serial,
        limits: DiskLimits::default(),
    }))
}

fn listen(path: &Path) -> Result<UnixListener, MachineError> {
    // One of a process that is gone.
    let _ = std::fs::remove_file(path);
    let told = |error| MachineError::Open { what: "the socket".into(), path: path.into(), error };
    UnixListener::bind(path).map_err(told)
}

fn console_log(paths: &Paths, id: Id) -> Result<File, MachineError> {
    let path = paths.console_log(id);
    let told = |error| MachineError::Open { what: "the console's log".into(), path: path.clone(), error };
    console::create(&path, CONSOLE_LOG).map_err(told)
}
