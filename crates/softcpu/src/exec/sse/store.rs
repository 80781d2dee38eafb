//! Stores of XMM registers.

use iced_x86::{Code, Instruction, OpKind, Register};

use super::aligned;
use crate::cpu::Cpu;
use crate::fault::Trap;
use crate::op::{Lowered, Op, form, slot, step};

pub(super) fn lower(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    let code = insn.code();
    if matches!(code, Code::Maskmovdqu_rDI_xmm_xmm) {
        masked_operand(insn, op);
        return Lowered::step(step(maskmovdqu));
    }
    if op.form & form::MEM == 0 {
        return None;
    }
    Lowered::step(match code {
        Code::Movaps_xmmm128_xmm
        | Code::Movapd_xmmm128_xmm
        | Code::Movdqa_xmmm128_xmm
        | Code::Movntps_m128_xmm
        | Code::Movntpd_m128_xmm
        | Code::Movntdq_m128_xmm => step(store_aligned),
        Code::Movups_xmmm128_xmm | Code::Movupd_xmmm128_xmm | Code::Movdqu_xmmm128_xmm => step(store),
        Code::Movss_xmmm32_xmm | Code::Movd_rm32_xmm => step(store_double),
        Code::Movsd_xmmm64_xmm
        | Code::Movq_xmmm64_xmm
        | Code::Movq_rm64_xmm
        | Code::Movlps_m64_xmm
        | Code::Movlpd_m64_xmm => step(store_low),
        Code::Movhps_m64_xmm | Code::Movhpd_m64_xmm => step(store_high),
        Code::Movnti_m32_r32 => step(store_general::<u32>),
        Code::Movnti_m64_r64 => step(store_general::<u64>),
        _ => return None,
    })
}

/// Puts MASKMOVDQU's and MASKMOVQ's operands into `op`: DS:rDI as the memory operand, the value in `src`, the mask in
/// `aux`.
pub(in crate::exec) fn masked_operand(insn: &Instruction, op: &mut Op) {
    (op.base, op.index, op.scale, op.disp) = (slot::RDI, slot::ZERO, 0, 0);
    op.seg = (insn.memory_segment() as u8).saturating_sub(Register::ES as u8);
    op.src = insn.op1_register().number() as u8;
    op.aux = insn.op2_register().number() as u16;
    op.form &= !(form::FLAT | form::ADDR16 | form::ADDR32);
    op.form |= match insn.op0_kind() {
        OpKind::MemorySegDI => form::ADDR16,
        OpKind::MemorySegEDI => form::ADDR32,
        _ => 0,
    };
}

#[inline(always)]
fn store_aligned(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_sse()?;
    let la = aligned(cpu, op, true)?;
    let value = *cpu.x(op.src);
    cpu.store128(la, value)
}

#[inline(always)]
fn store(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_sse()?;
    let la = cpu.linear(op, 16, true)?;
    let value = *cpu.x(op.src);
    cpu.store128(la, value)
}

#[inline(always)]
fn store_double(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_sse()?;
    let la = cpu.linear(op, 4, true)?;
    let value = *cpu.x(op.src) as u32;
    cpu.store(la, value)
}

#[inline(always)]
fn store_low(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_sse()?;
    let la = cpu.linear(op, 8, true)?;
    let value = *cpu.x(op.src) as u64;
    cpu.store(la, value)
}

#[inline(always)]
fn store_high(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_sse()?;
    let la = cpu.linear(op, 8, true)?;
    let value = (*cpu.x(op.src) >> 64) as u64;
    cpu.store(la, value)
}

/// MOVNTI, which CR0.EM and CR0.TS do not concern.
fn store_general<T: crate::mem::Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let la = cpu.linear(op, T::BITS / 8, true)?;
    let value = cpu.get::<T>(op.src);
    cpu.store(la, value)
}

fn maskmovdqu(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_sse()?;
    let value = cpu.x(op.src).to_le_bytes();
    let mask = cpu.x(op.aux as u8).to_le_bytes();
    store_masked(cpu, op, &value, &mask)
}

/// Stores those bytes of `value` whose `mask` byte has its top bit set; all or nothing.
pub(in crate::exec) fn store_masked(cpu: &mut Cpu, op: &Op, value: &[u8], mask: &[u8]) -> Result<(), Trap> {
    let la = cpu.linear(op, value.len() as u32, true)?;
    let wanted = |n: &usize| mask[*n] & 0x80 != 0;
    for n in (0..value.len()).filter(wanted) {
        cpu.probe(la.wrapping_add(n as u64), 1, true)?;
    }
    for n in (0..value.len()).filter(wanted) {
        cpu.store::<u8>(la.wrapping_add(n as u64), value[n])?;
    }
    Ok(())
}
