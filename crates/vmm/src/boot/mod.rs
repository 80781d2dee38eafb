//! From files to a processor about to execute the first instruction of a kernel.

pub mod acpi;
mod linux;
mod pvh;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use softcpu::{Activity, CpuState, Msrs, Segment};
use vm_memory::{Bytes, GuestAddress};

use crate::memory::{GuestMemory, Ram, Range};

/// Where the kernel's arguments are put.
const COMMAND_LINE: u64 = 0x2_0000;
/// The longest command line Linux reads on x86 (COMMAND_LINE_SIZE), its final zero included.
const COMMAND_LINE_MOST: usize = 2048;
/// Where conventional memory ends and the area of the ACPI tables begins; RAM goes on at 1 MiB.
const LOW_RAM_END: u64 = 0x9_fc00;

/// The guest cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file cannot be read.
    #[error("Cannot read {what} {name}")]
    Read {
        /// Kernel or initrd.
        what: &'static str,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not a kernel.
    #[error(
        "{name} is no kernel this machine can start: {why}; wanted is a Linux bzImage or an ELF file with a PVH entry note"
    )]
    NotAKernel {
        /// Which file.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// Does not fit.
    #[error("{what} of {size} bytes does not fit into the guest's memory of {memory} bytes")]
    TooLarge {
        /// Kernel or initrd.
        what: &'static str,
        /// Its size, bytes.
        size: u64,
        /// The guest's memory, bytes.
        memory: u64,
    },
    /// The arguments are too long.
    #[error("The kernel's arguments are {len} bytes long; at most {} fit", COMMAND_LINE_MOST - 1)]
    CommandLine {
        /// Their length.
        len: usize,
    },
    /// Writing guest memory failed.
    #[error("Writing the guest's memory failed")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

/// An open file, read again at each reset, and what people know it by.
#[derive(Debug)]
pub struct Source {
    name: String,
    file: File,
}

impl Source {
    /// An open file with a name for messages.
    pub fn new(name: impl Into<String>, file: File) -> Self {
        Self { name: name.into(), file }
    }

    /// Opens `path`.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        Ok(Self::new(path.display().to_string(), File::open(path)?))
    }

    /// The file, at its start.
    fn rewound(&self, what: &'static str) -> Result<&File, BootError> {
        (&self.file).seek(SeekFrom::Start(0)).map_err(|e| self.read_error(what, e))?;
        Ok(&self.file)
    }

    fn read_error(&self, what: &'static str, source: std::io::Error) -> BootError {
        BootError::Read { what, name: self.name.clone(), source }
    }
}

/// What to start.
#[derive(Debug)]
pub struct Kernel {
    /// A bzImage, or an ELF file with a PVH note.
    pub image: Source,
    /// An initial RAM disk.
    pub initrd: Option<Source>,
    /// Arguments.
    pub command_line: String,
}

/// Where a processor begins after reset, as software that jumps there means it: F000:FFF0.
const RESET_VECTOR: u64 = 0xf_fff0;
/// What lies there in place of a BIOS: `mov dx, 0xcf9; mov al, 6; out dx, al; hlt`. Linux restarts this way where ACPI is
/// hardware-reduced and there is no EFI.
const RESET_CODE: [u8; 7] = [0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xf4];

/// A line of the memory map, in e820's and PVH's common numbering: 1 RAM, 2 reserved, 3 ACPI.
struct MapLine {
    range: Range,
    kind: u32,
}

const RAM: u32 = 1;
const RESERVED: u32 = 2;
const ACPI: u32 = 3;

/// The memory map the guest is told.
fn memory_map(ram: &Ram) -> Vec<MapLine> {
    let line = |start, end, kind| MapLine { range: Range { start, size: end - start }, kind };
    let mut map = vec![
        line(0, LOW_RAM_END, RAM),
        line(acpi::TABLES, acpi::TABLES_END, ACPI),
        line(acpi::TABLES_END, 0x10_0000, RESERVED),
    ];
    for r in ram.layout().ram() {
        map.push(line(r.start.max(0x10_0000), r.start + r.size, RAM));
    }
    map.push(line(
        crate::memory::map::ECAM,
        crate::memory::map::ECAM + crate::memory::map::ECAM_SIZE,
        RESERVED,
    ));
    map.push(line(crate::memory::map::KVM_PAGES, crate::memory::map::KVM_PAGES + 0x4000, RESERVED));
    map
}

/// Loads the kernel and what it needs into memory; gives the state the first processor starts with.
///
/// # Errors
/// If a file cannot be read, is no kernel or does not fit.
pub fn load(ram: &Ram, kernel: &Kernel) -> Result<CpuState, BootError> {
    let memory = ram.memory();
    let mut magic = [0; 4];
    let read = kernel.image.rewound("kernel")?.read(&mut magic);
    let read = read.map_err(|e| kernel.image.read_error("kernel", e))?;
    let file = kernel.image.rewound("kernel")?;
    write_command_line(memory, &kernel.command_line)?;
    memory.write_slice(&RESET_CODE, GuestAddress(RESET_VECTOR))?;
    if read == 4 && &magic == b"\x7fELF" {
        pvh::load(ram, kernel, file)
    } else {
        linux::load(ram, kernel, file)
    }
}

fn write_command_line(memory: &GuestMemory, text: &str) -> Result<(), BootError> {
    if text.len() >= COMMAND_LINE_MOST {
        return Err(BootError::CommandLine { len: text.len() });
    }
    memory.write_slice(text.as_bytes(), GuestAddress(COMMAND_LINE))?;
    memory.write_obj(0u8, GuestAddress(COMMAND_LINE + text.len() as u64))?;
    Ok(())
}

/// Puts the initial RAM disk as high below 4 GiB (and below `limit`) as it goes; gives its address and size.
fn load_initrd(ram: &Ram, kernel: &Kernel, above: u64, limit: u64) -> Result<Option<Range>, BootError> {
    let Some(initrd) = &kernel.initrd else { return Ok(None) };
    let mut file = initrd.rewound("initrd")?;
    let size = file.metadata().map_err(|e| initrd.read_error("initrd", e))?.len();
    let low = ram.layout().ram()[0];
    let end = (low.start + low.size).min(limit.saturating_add(1));
    let start = end.saturating_sub(size) & !0xfff;
    if start < above {
        return Err(BootError::TooLarge { what: "The initrd", size, memory: ram.end() });
    }
    ram.memory().read_exact_volatile_from(GuestAddress(start), &mut file, size as usize)?;
    Ok(Some(Range { start, size }))
}

fn flat(rights: u16, selector: u16) -> Segment {
    Segment { selector, base: 0, limit: u32::MAX, rights, unusable: false }
}

/// MTRRdefType (Intel SDM vol. 3, 12.11.2.1): enabled, write-back.
const ALL_WRITE_BACK: u64 = 1 << 11 | 6;

/// What firmware sets on every processor: all memory may be cached; what devices have the page tables say.
fn firmware_msrs() -> Msrs {
    Msrs { mtrr_def_type: ALL_WRITE_BACK, ..Msrs::default() }
}

/// The state of a processor that waits for the first one to start it.
pub fn waiting_state() -> CpuState {
    CpuState { activity: Activity::Uninitialized, msrs: firmware_msrs(), ..CpuState::default() }
}

/// Flat segments: code with these rights, data, and a task register, for a state to start from.
fn flat_state(code_rights: u16) -> CpuState {
    let data = flat(0xc093, 0x18);
    let mut segments = [data; 6];
    segments[1] = flat(code_rights, 0x10);
    CpuState {
        segments,
        tr: Segment { limit: 0x67, ..flat(0x8b, 0x20) },
        msrs: firmware_msrs(),
        ..CpuState::default()
    }
}
