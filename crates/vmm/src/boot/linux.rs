//! Linux bzImages by the 64-bit boot protocol (Linux, Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").

use std::fs::File;

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::bzimage::BzImage;
use linux_loader::loader::{Error as LoadError, KernelLoader};
use softcpu::CpuState;
use vm_memory::{Bytes, GuestAddress};

use super::{BootError, COMMAND_LINE, Kernel, acpi, flat_state, load_initrd, memory_map};
use crate::memory::{GuestMemory, Ram};

const GDT: u64 = 0x500;
const ZERO_PAGE: u64 = 0x7000;
/// A root, a second level and four third levels of page tables.
const PAGE_TABLES: u64 = 0x9000;
const STACK: u64 = 0x8ff0;
/// Where the protected-mode part is loaded.
const KERNEL: u64 = 0x10_0000;
/// The 64-bit entry lies this far behind.
const ENTRY: u64 = 0x200;
/// XLF_KERNEL_64 in `xloadflags`.
const HAS_ENTRY_64: u16 = 1;
/// `type_of_loader`: one without an assigned number.
const LOADER: u8 = 0xff;
/// `loadflags`: the protected-mode part is at 1 MiB; the heap end is valid.
const LOADED_HIGH: u8 = 1;

pub(super) fn load(ram: &Ram, kernel: &Kernel, mut file: &File) -> Result<CpuState, BootError> {
    let memory: &GuestMemory = ram.memory();
    let not_a_kernel = |why: String| BootError::NotAKernel { name: kernel.image.name.clone(), why };
    let loaded = BzImage::load(memory, None, &mut file, Some(GuestAddress(KERNEL))).map_err(|e| match e {
        LoadError::MemoryOverflow => not_a_kernel("it does not fit into the guest's memory".into()),
        e => not_a_kernel(e.to_string()),
    })?;
    let header = loaded.setup_header.ok_or_else(|| not_a_kernel("it has no setup header".into()))?;
    if { header.xloadflags } & HAS_ENTRY_64 == 0 {
        return Err(not_a_kernel("it has no 64-bit entry".into()));
    }
    let needed = KERNEL + u64::from(header.init_size);
    if needed > ram.layout().ram()[0].size {
        return Err(BootError::TooLarge { what: "The kernel", size: needed - KERNEL, memory: ram.end() });
    }
    // The kernel unpacks itself to its preferred address; nothing may lie in the way.
    let unpacked = { header.pref_address }.saturating_add(u64::from(header.init_size));
    let busy = loaded.kernel_end.max(unpacked).min(1 << 32);
    let initrd = load_initrd(ram, kernel, busy, u64::from(header.initrd_addr_max))?;
    write_zero_page(ram, kernel, header, initrd.map(|r| (r.start, r.size)))?;
    write_page_tables(memory)?;
    write_gdt(memory)?;
    Ok(start_state())
}

fn write_zero_page(
    ram: &Ram,
    kernel: &Kernel,
    header: setup_header,
    initrd: Option<(u64, u64)>,
) -> Result<(), BootError> {
    let mut params = boot_params { hdr: header, ..boot_params::default() };
    params.hdr.type_of_loader = LOADER;
    params.hdr.loadflags |= LOADED_HIGH;
    params.hdr.cmd_line_ptr = COMMAND_LINE as u32;
    params.hdr.cmdline_size = kernel.command_line.len() as u32 + 1;
    if let Some((start, size)) = initrd {
        params.hdr.ramdisk_image = start as u32;
        params.hdr.ramdisk_size = size as u32;
    }
    params.acpi_rsdp_addr = acpi::TABLES;
    for (slot, line) in params.e820_table.iter_mut().zip(memory_map(ram)) {
        *slot = boot_e820_entry { addr: line.range.start, size: line.range.size, r#type: line.kind };
        params.e820_entries += 1;
    }
    ram.memory().write_obj(params, GuestAddress(ZERO_PAGE))?;
    Ok(())
}

/// The first 4 GiB one to one with 2 MiB pages.
fn write_page_tables(memory: &GuestMemory) -> Result<(), BootError> {
    memory.write_obj((PAGE_TABLES + 0x1000) | 3, GuestAddress(PAGE_TABLES))?;
    for gib in 0..4u64 {
        let directory = PAGE_TABLES + 0x2000 + gib * 0x1000;
        memory.write_obj(directory | 3, GuestAddress(PAGE_TABLES + 0x1000 + gib * 8))?;
        for entry in 0..512u64 {
            memory.write_obj(gib << 30 | entry << 21 | 0x83, GuestAddress(directory + entry * 8))?;
        }
    }
    Ok(())
}

/// Null, unused, code at 0x10, data at 0x18, as the protocol wants them.
fn write_gdt(memory: &GuestMemory) -> Result<(), BootError> {
    let table: [u64; 6] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x0000_8b00_0000_0067, 0];
    for (i, entry) in table.into_iter().enumerate() {
        memory.write_obj(entry, GuestAddress(GDT + 8 * i as u64))?;
    }
    Ok(())
}

/// 64-bit mode with paging on, interrupts off, the zero page in RSI.
fn start_state() -> CpuState {
    let mut state = flat_state(0xa09b);
    state.rip = KERNEL + ENTRY;
    state.gpr[4] = STACK;
    state.gpr[6] = ZERO_PAGE;
    state.gdtr.base = GDT;
    state.gdtr.limit = 47;
    state.idtr.limit = 0;
    state.cr0 = 0x8000_0033;
    state.cr3 = PAGE_TABLES;
    state.cr4 = 0x20;
    state.efer = 0x500;
    state
}
