//! Decimal arithmetic, outside 64-bit mode only: AAA, AAS, AAM, AAD, DAA, DAS; and their neighbours SALC and BOUND.

use iced_x86::{Instruction, Mnemonic};

use super::native::Native;
use crate::cpu::Cpu;
use crate::fault::{Fault, Trap, vector};
use crate::flags::{AF, CF};
use crate::mem::Word;
use crate::op::{Lowered, Op, slot, step};

const AL: u8 = slot::RAX;
const AH: u8 = slot::RAX + 1;

/// Lowers the instructions of this file.
pub(super) fn lower(insn: &Instruction, _: &mut Op) -> Option<Lowered> {
    Lowered::step(match insn.mnemonic() {
        Mnemonic::Aaa => step(adjust_ascii::<false>),
        Mnemonic::Aas => step(adjust_ascii::<true>),
        Mnemonic::Aam => step(aam),
        Mnemonic::Aad => step(aad),
        Mnemonic::Daa => step(adjust_decimal::<false>),
        Mnemonic::Das => step(adjust_decimal::<true>),
        Mnemonic::Salc => step(salc),
        Mnemonic::Bound if insn.op0_register().size() == 2 => step(bound::<u16>),
        Mnemonic::Bound => step(bound::<u32>),
        _ => return None,
    })
}

/// SF, ZF and PF of `value`.
fn result_flags(value: u8) -> u16 {
    u8::or(value, 0).1
}

/// AAA and AAS.
fn adjust_ascii<const SUBTRACT: bool>(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    let (ax, adjust) = (cpu.get::<u16>(AL), ax_needs_adjusting(cpu));
    let adjusted = match (adjust, SUBTRACT) {
        (false, _) => ax,
        (true, false) => ax.wrapping_add(0x106),
        (true, true) => ax.wrapping_sub(0x106),
    };
    cpu.set(AL, adjusted & 0xff0f);
    let carries = if adjust { CF | AF } else { 0 };
    cpu.arith = result_flags(adjusted as u8) & !(CF | AF) | carries;
    Ok(())
}

fn ax_needs_adjusting(cpu: &Cpu) -> bool {
    cpu.get::<u8>(AL) & 0xf > 9 || cpu.arith & AF != 0
}

/// AAM: splits AL into digits of the immediate's base.
fn aam(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let (al, base) = (cpu.get::<u8>(AL), op.imm as u8);
    let (Some(high), Some(low)) = (al.checked_div(base), al.checked_rem(base)) else {
        return Err(cpu.raise(Fault::plain(vector::DE)));
    };
    cpu.set(AH, high);
    cpu.set(AL, low);
    cpu.arith = result_flags(low);
    Ok(())
}

/// AAD: puts two digits of the immediate's base together.
fn aad(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let tens = cpu.get::<u8>(AH).wrapping_mul(op.imm as u8);
    let (sum, flags) = u8::add(cpu.get::<u8>(AL), tens);
    cpu.set::<u16>(AL, u16::from(sum));
    cpu.arith = flags;
    Ok(())
}

/// DAA and DAS (Intel SDM vol. 2A).
fn adjust_decimal<const SUBTRACT: bool>(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    let old = cpu.get::<u8>(AL);
    let carry = cpu.arith & CF != 0;
    let move_by = |v: u8, n: u8| if SUBTRACT { v.wrapping_sub(n) } else { v.wrapping_add(n) };
    let mut al = old;
    let mut carries = 0;
    if ax_needs_adjusting(cpu) {
        let overflows = if SUBTRACT { old < 6 } else { old > 0xff - 6 };
        al = move_by(al, 6);
        carries |= AF;
        if carry || overflows {
            carries |= CF;
        }
    }
    if old > 0x99 || carry {
        al = move_by(al, 0x60);
        carries |= CF;
    }
    cpu.set(AL, al);
    cpu.arith = result_flags(al) & !(CF | AF) | carries;
    Ok(())
}

/// SALC: AL = CF ? 0xff : 0.
fn salc(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    let al = if cpu.arith & CF != 0 { 0xff } else { 0 };
    cpu.set::<u8>(AL, al);
    Ok(())
}

/// BOUND: #BR unless the register, signed, is within the pair of bounds in memory.
fn bound<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let size = size_of::<T>() as u32;
    let la = cpu.linear(op, size * 2, false)?;
    let lower = cpu.load::<T>(la)?.to_i64();
    let upper = cpu.load::<T>(cpu.wrap_linear(la.wrapping_add(u64::from(size))))?.to_i64();
    let index = cpu.get::<T>(op.dst).to_i64();
    if (lower..=upper).contains(&index) { Ok(()) } else { Err(cpu.raise(Fault::plain(vector::BR))) }
}
