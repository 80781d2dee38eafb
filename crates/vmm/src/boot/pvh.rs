//! ELF kernels with a PVH entry note (Xen, docs/misc/pvh.pandoc): 32-bit protected mode, paging off, EBX at the start info.

use std::fs::File;

use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use softcpu::CpuState;
use vm_memory::{Bytes, GuestAddress};

use super::{BootError, COMMAND_LINE, Kernel, acpi, flat_state, load_initrd, memory_map};
use crate::memory::Ram;

const START_INFO: u64 = 0x6000;
const MODULES: u64 = 0x6040;
const MEMORY_MAP: u64 = 0x6080;
/// XEN_HVM_START_MAGIC_VALUE.
const MAGIC: u32 = 0x336e_c578;

pub(super) fn load(ram: &Ram, kernel: &Kernel, mut file: &File) -> Result<CpuState, BootError> {
    let not_a_kernel = |why: String| BootError::NotAKernel { name: kernel.image.name.clone(), why };
    let loaded = Elf::load(&**ram.memory(), None, &mut file, Some(GuestAddress(0x10_0000)))
        .map_err(|e| not_a_kernel(e.to_string()))?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(not_a_kernel("it has no PVH entry note".into()));
    };
    let initrd = load_initrd(ram, kernel, loaded.kernel_end, u64::from(u32::MAX))?;
    let lines = memory_map(ram);
    let memory = ram.memory();
    let words = [MAGIC, 1, 0, u32::from(initrd.is_some())];
    for (i, word) in words.into_iter().enumerate() {
        memory.write_obj(word, GuestAddress(START_INFO + 4 * i as u64))?;
    }
    for (i, pointer) in [MODULES, COMMAND_LINE, acpi::TABLES, MEMORY_MAP].into_iter().enumerate() {
        memory.write_obj(pointer, GuestAddress(START_INFO + 16 + 8 * i as u64))?;
    }
    memory.write_obj(lines.len() as u64, GuestAddress(START_INFO + 48))?;
    if let Some(r) = initrd {
        for (i, word) in [r.start, r.size, 0, 0].into_iter().enumerate() {
            memory.write_obj(word, GuestAddress(MODULES + 8 * i as u64))?;
        }
    }
    for (i, line) in lines.iter().enumerate() {
        let at = MEMORY_MAP + 24 * i as u64;
        memory.write_obj(line.range.start, GuestAddress(at))?;
        memory.write_obj(line.range.size, GuestAddress(at + 8))?;
        memory.write_obj(u64::from(line.kind), GuestAddress(at + 16))?;
    }
    let mut state = flat_state(0xc09b);
    state.rip = entry.0;
    state.gpr[3] = START_INFO;
    state.cr0 = 0x11;
    state.segments[1].selector = 8;
    Ok(state)
}
