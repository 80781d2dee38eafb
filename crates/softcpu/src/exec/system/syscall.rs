//! Fast calls into the kernel and back: SYSCALL, SYSRET, SYSENTER, SYSEXIT.

use iced_x86::{Instruction, Mnemonic};

use crate::cpu::Cpu;
use crate::fault::Trap;
use crate::flags::rflags;
use crate::mmu::canonical;
use crate::op::{Lowered, Op, leave, seg, slot};
use crate::segment::{CODE_RIGHTS, DATA_RIGHTS, RIGHTS_BIG, RIGHTS_LONG, RIGHTS_PAGES};
use crate::state::Segment;

const EFER_SCE: u64 = 1;
const R11: u8 = 11 * 8;
/// What SYSRET takes from R11: everything but RF and VM.
const SYSRET_FLAGS: u64 = 0x3c_7fd7;

pub(super) fn lower(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    use Mnemonic::*;
    Lowered::end(match insn.mnemonic() {
        Syscall => leave(syscall),
        Sysret | Sysretq => {
            op.aux = if insn.mnemonic() == Sysretq { 8 } else { 4 };
            leave(sysret)
        }
        Sysenter => leave(sysenter),
        Sysexit | Sysexitq => {
            op.aux = if insn.mnemonic() == Sysexitq { 8 } else { 4 };
            leave(sysexit)
        }
        _ => return None,
    })
}

impl Cpu {
    /// Flat code and stack segments at privilege `cpl`; the descriptor tables are not read.
    fn enter_flat(&mut self, cs: u16, ss: u16, cpl: u8, long: bool) {
        let flat = |selector: u16, rights: u16| Segment {
            selector: selector & !3 | u16::from(cpl),
            base: 0,
            limit: u32::MAX,
            rights: rights | RIGHTS_PAGES | u16::from(cpl) << 5,
            unusable: false,
        };
        let bits = if long { RIGHTS_LONG } else { RIGHTS_BIG };
        self.segs[usize::from(seg::CS)] = flat(cs, CODE_RIGHTS | bits);
        self.segs[usize::from(seg::SS)] = flat(ss, DATA_RIGHTS | RIGHTS_BIG);
        self.cpl = cpl;
        self.mode_changed();
    }

    /// Sets RFLAGS for SYSCALL and SYSRET, whose TF counts at once and not after the next instruction.
    fn set_rflags_and_step(&mut self, value: u64, stepping: bool) {
        self.set_rflags(value);
        self.single_step = stepping && value & rflags::TF != 0;
    }
}

fn syscall(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    // Intel's has it in 64-bit mode only, AMD's also in compatibility mode, where it enters at CSTAR.
    let known = cpu.long_mode() || cpu.long_active() && cpu.is_amd();
    if cpu.efer & EFER_SCE == 0 || !known {
        return Err(cpu.ud());
    }
    let target = if cpu.long_mode() { cpu.msrs.lstar } else { cpu.msrs.cstar };
    let next = cpu.next_rip(op);
    let image = cpu.rflags() & !rflags::RF;
    cpu.set::<u64>(slot::RCX, next);
    cpu.set::<u64>(R11, image);
    cpu.set_rflags_and_step(image & !cpu.msrs.sfmask, cpu.single_step);
    let cs = (cpu.msrs.star >> 32) as u16;
    cpu.enter_flat(cs, (cs & !3).wrapping_add(8), 0, true);
    Ok(target)
}

fn sysret(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    if cpu.efer & EFER_SCE == 0 || !cpu.long_mode() {
        return Err(cpu.ud());
    }
    cpu.privileged()?;
    let long = op.aux == 8;
    let target = if long { cpu.get::<u64>(slot::RCX) } else { u64::from(cpu.get::<u32>(slot::RCX)) };
    if !canonical(target) {
        return Err(cpu.gp0());
    }
    let image = cpu.get::<u64>(R11) & SYSRET_FLAGS | rflags::FIXED;
    let before = cpu.rflags_rest;
    cpu.set_rflags_and_step(image, true);
    cpu.let_interrupts_in(before);
    let base = (cpu.msrs.star >> 48) as u16;
    let cs = if long { base.wrapping_add(16) } else { base };
    cpu.enter_flat(cs, base.wrapping_add(8), 3, long);
    Ok(target)
}

/// The base of SYSENTER's selectors; #GP(0) where the instructions may not be used.
fn sysenter_base(cpu: &mut Cpu) -> Result<u16, Trap> {
    let base = cpu.msrs.sysenter_cs as u16 & !3;
    // AMD's have SYSENTER in legacy mode only.
    if cpu.long_active() && cpu.is_amd() {
        return Err(cpu.ud());
    }
    if cpu.cr0 & crate::paging::CR0_PE == 0 || base == 0 { Err(cpu.gp0()) } else { Ok(base) }
}

fn sysenter(cpu: &mut Cpu, _: &Op) -> Result<u64, Trap> {
    let base = sysenter_base(cpu)?;
    let long = cpu.long_active();
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    cpu.rflags_rest &= !(rflags::VM | rflags::IF | rflags::RF);
    cpu.set::<u64>(slot::RSP, cpu.msrs.sysenter_esp & mask);
    cpu.enter_flat(base, base.wrapping_add(8), 0, long);
    Ok(cpu.msrs.sysenter_eip & mask)
}

fn sysexit(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    let base = sysenter_base(cpu)?;
    cpu.privileged()?;
    let long = op.aux == 8;
    let (sp, ip) = if long {
        (cpu.get::<u64>(slot::RCX), cpu.get::<u64>(slot::RDX))
    } else {
        (u64::from(cpu.get::<u32>(slot::RCX)), u64::from(cpu.get::<u32>(slot::RDX)))
    };
    if !canonical(sp) || !canonical(ip) {
        return Err(cpu.gp0());
    }
    cpu.set::<u64>(slot::RSP, sp);
    let cs = base.wrapping_add(if long { 32 } else { 16 });
    cpu.enter_flat(cs, cs.wrapping_add(8), 3, long);
    Ok(ip)
}
