//! Stores of XMM registers.

use iced_x86::{Code, Instruction, OpKind, Register};

use super::access::{Access, Aligned, Double, OfWidth, Quad, Whole, Width, handler};
use super::vector;
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
    match code {
        Code::Movaps_xmmm128_xmm
        | Code::Movapd_xmmm128_xmm
        | Code::Movdqa_xmmm128_xmm
        | Code::Movntps_m128_xmm
        | Code::Movntpd_m128_xmm
        | Code::Movntdq_m128_xmm => handler!(op, store, Aligned),
        Code::Movups_xmmm128_xmm | Code::Movupd_xmmm128_xmm | Code::Movdqu_xmmm128_xmm => {
            handler!(op, store, Whole)
        }
        Code::Movss_xmmm32_xmm | Code::Movd_rm32_xmm => handler!(op, store, Double),
        Code::Movsd_xmmm64_xmm
        | Code::Movq_xmmm64_xmm
        | Code::Movq_rm64_xmm
        | Code::Movlps_m64_xmm
        | Code::Movlpd_m64_xmm => handler!(op, store, Quad),
        Code::Movhps_m64_xmm | Code::Movhpd_m64_xmm => handler!(op, store_high),
        Code::Movnti_m32_r32 => Lowered::step(step(store_general::<u32>)),
        Code::Movnti_m64_r64 => Lowered::step(step(store_general::<u64>)),
        _ => None,
    }
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
fn store<A: Access, W: OfWidth>(cpu: &mut Cpu, op: &Op) -> Result<(), A::Stop> {
    A::need(cpu, false)?;
    let value = cpu.vector(op.src);
    A::store(cpu, op, W::WIDTH, value)
}

#[inline(always)]
fn store_high<A: Access>(cpu: &mut Cpu, op: &Op) -> Result<(), A::Stop> {
    A::need(cpu, false)?;
    let high = *cpu.x(op.src) >> 64;
    A::store(cpu, op, Width::Quad, vector(high))
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
