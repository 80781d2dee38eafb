//! SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS, and calls to the hypervisor.

use iced_x86::{Instruction, Mnemonic};

use crate::cpu::Cpu;
use crate::fault::Trap;
use crate::flags::rflags;
use crate::mmu::canonical;
use crate::op::{Lowered, Op, leave, seg, slot, step};
use crate::state::Segment;

const EFER_SCE: u64 = 1;
/// KVM's answer to a hypercall it does not know: -KVM_ENOSYS (Linux, Documentation/virt/kvm/x86/hypercalls.rst).
const NO_SUCH_HYPERCALL: u64 = -1000i64 as u64;

pub(super) fn lower(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    use Mnemonic::*;
    match insn.mnemonic() {
        Syscall => Lowered::end(leave(syscall)),
        Sysret => {
            op.aux = 4;
            Lowered::end(leave(sysret))
        }
        Sysretq => {
            op.aux = 8;
            Lowered::end(leave(sysret))
        }
        Sysenter => Lowered::end(leave(sysenter)),
        Sysexit => {
            op.aux = 4;
            Lowered::end(leave(sysexit))
        }
        Sysexitq => {
            op.aux = 8;
            Lowered::end(leave(sysexit))
        }
        Swapgs => Lowered::step(step(swapgs)),
        Vmcall | Vmmcall => Lowered::step(step(hypercall)),
        _ => None,
    }
}

/// A flat code segment: 64-bit or 32-bit.
fn flat_code(selector: u16, cpl: u8, long: bool) -> Segment {
    let rights = 0x809b | u16::from(cpl) << 5 | if long { 1 << 13 } else { 1 << 14 };
    Segment { selector, base: 0, limit: u32::MAX, rights, unusable: false }
}

/// A flat data segment.
fn flat_data(selector: u16, cpl: u8) -> Segment {
    Segment { selector, base: 0, limit: u32::MAX, rights: 0xc093 | u16::from(cpl) << 5, unusable: false }
}

impl Cpu {
    fn enter_flat(&mut self, cs: u16, ss: u16, cpl: u8, long: bool) {
        self.segs[usize::from(seg::CS)] = flat_code(cs, cpl, long);
        self.segs[usize::from(seg::SS)] = flat_data(ss, cpl);
        self.cpl = cpl;
        self.mode_changed();
    }
}

fn syscall(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    if cpu.efer & EFER_SCE == 0 || !cpu.long_active() {
        return Err(cpu.ud());
    }
    let target = if cpu.long_mode() { cpu.msrs.lstar } else { cpu.msrs.cstar };
    let next = cpu.next_rip(op);
    cpu.set::<u64>(slot::RCX, next);
    let image = cpu.rflags() & !rflags::RF;
    cpu.set::<u64>(slot::RAX + 11 * 8, image);
    let flags = image & !cpu.msrs.sfmask;
    cpu.set_rflags(flags);
    let cs = (cpu.msrs.star >> 32) as u16 & 0xfffc;
    cpu.enter_flat(cs, cs + 8, 0, true);
    Ok(target)
}

fn sysret(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    if cpu.efer & EFER_SCE == 0 || !cpu.long_mode() {
        return Err(cpu.ud());
    }
    cpu.privileged()?;
    let base = (cpu.msrs.star >> 48) as u16;
    let rcx = cpu.get::<u64>(slot::RCX);
    let image = cpu.get::<u64>(slot::RAX + 11 * 8) & 0x3c_7fd7 | rflags::FIXED;
    let ss = base.wrapping_add(8) | 3;
    if op.aux == 8 {
        if !canonical(rcx) {
            return Err(cpu.gp0());
        }
        cpu.set_rflags(image);
        cpu.enter_flat(base.wrapping_add(16) | 3, ss, 3, true);
        Ok(rcx)
    } else {
        cpu.set_rflags(image);
        cpu.enter_flat(base | 3, ss, 3, false);
        Ok(rcx & 0xffff_ffff)
    }
}

fn sysenter(cpu: &mut Cpu, _: &Op) -> Result<u64, Trap> {
    cpu.protected_only().map_err(|_| cpu.gp0())?;
    let cs = cpu.msrs.sysenter_cs as u16 & 0xfffc;
    if cs == 0 {
        return Err(cpu.gp0());
    }
    let long = cpu.long_active();
    cpu.rflags_rest &= !(rflags::VM | rflags::IF | rflags::RF);
    cpu.enter_flat(cs, cs + 8, 0, long);
    let (sp, ip) = (cpu.msrs.sysenter_esp, cpu.msrs.sysenter_eip);
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    cpu.set::<u64>(slot::RSP, sp & mask);
    Ok(ip & mask)
}

fn sysexit(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    let cs = cpu.msrs.sysenter_cs as u16 & 0xfffc;
    if cs == 0 || cpu.cpl != 0 || cpu.real_segments() {
        return Err(cpu.gp0());
    }
    let (sp, ip) = (cpu.get::<u64>(slot::RCX), cpu.get::<u64>(slot::RDX));
    if op.aux == 8 {
        if !canonical(sp) || !canonical(ip) {
            return Err(cpu.gp0());
        }
        cpu.enter_flat(cs + 32 | 3, cs + 40 | 3, 3, true);
        cpu.set::<u64>(slot::RSP, sp);
        Ok(ip)
    } else {
        cpu.enter_flat(cs + 16 | 3, cs + 24 | 3, 3, false);
        cpu.set::<u32>(slot::RSP, sp as u32);
        Ok(ip & 0xffff_ffff)
    }
}

fn swapgs(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    if !cpu.long_mode() {
        return Err(cpu.ud());
    }
    cpu.privileged()?;
    std::mem::swap(&mut cpu.segs[usize::from(seg::GS)].base, &mut cpu.msrs.kernel_gs_base);
    Ok(())
}

fn hypercall(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    cpu.set::<u64>(slot::RAX, NO_SUCH_HYPERCALL);
    Ok(())
}
