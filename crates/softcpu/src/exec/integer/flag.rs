//! Instructions on single flags, and those that do nothing a guest can see: NOP, ENDBR, PREFETCH, fences, PAUSE.

use std::arch::asm;

use iced_x86::{Instruction, Mnemonic};

use crate::cpu::Cpu;
use crate::fault::Trap;
use crate::flags::{ALL, CF, OF, rflags};
use crate::op::{Lowered, Op, Stop, leave, next, slot, step};

/// Lowers the instructions of this file.
pub(super) fn lower(insn: &Instruction, _: &mut Op) -> Option<Lowered> {
    use Mnemonic::*;
    Lowered::step(match insn.mnemonic() {
        Nop | Reservednop | Endbr32 | Endbr64 | Rdsspd | Rdsspq | Bndmk | Bndcl | Bndcu | Bndcn | Bndmov
        | Bndldx | Bndstx | Cldemote | Prefetch | Prefetchnta | Prefetcht0 | Prefetcht1 | Prefetcht2
        | Prefetchw | Prefetchwt1 | Prefetchit0 | Prefetchit1 | Lfence | Sfence => nothing,
        Mfence => step(full_fence),
        Clflush => step(flush_line),
        Pause => return Lowered::end(leave(pause)),
        Lahf => step(lahf),
        Sahf => step(sahf),
        Clc => step(clear_carry),
        Stc => step(set_carry),
        Cmc => step(complement_carry),
        Cld => step(clear_direction),
        Std => step(set_direction),
        _ => return None,
    })
}

/// # Safety
/// As [`Handler`](crate::op::Handler), not the last of its block.
unsafe fn nothing(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: another op follows by the contract.
    unsafe { next(cpu, op) }
}

/// MFENCE: guest stores are host stores, so only this needs the host's help; LFENCE and SFENCE order what TSO orders.
fn full_fence(_: &mut Cpu, _: &Op) -> Result<(), Trap> {
    // SAFETY: orders memory accesses.
    unsafe { asm!("mfence", options(nostack, preserves_flags)) };
    Ok(())
}

/// CLFLUSH: checked as a read of one byte.
fn flush_line(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let la = cpu.linear(op, 1, false)?;
    cpu.probe(la, 1, false)
}

/// PAUSE: the guest waits for another processor, whose thread may need this one's time.
fn pause(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    cpu.wait.round();
    Ok(cpu.next_rip(op))
}

fn lahf(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    let low = cpu.rflags() as u8;
    cpu.set(slot::RAX + 1, low);
    Ok(())
}

fn sahf(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    let kept = cpu.arith & OF;
    cpu.arith = u16::from(cpu.get::<u8>(slot::RAX + 1)) << 8 & ALL | kept;
    Ok(())
}

fn clear_carry(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    cpu.arith &= !CF;
    Ok(())
}

fn set_carry(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    cpu.arith |= CF;
    Ok(())
}

fn complement_carry(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    cpu.arith ^= CF;
    Ok(())
}

fn clear_direction(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    cpu.rflags_rest &= !rflags::DF;
    Ok(())
}

fn set_direction(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    cpu.rflags_rest |= rflags::DF;
    Ok(())
}
