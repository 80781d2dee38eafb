//! Arithmetic on integers packed in XMM registers.

use std::arch::x86_64::__m128i;

use iced_x86::Code;

use super::access::{Access, handler};
use super::{Operation, operations, vector};
use crate::cpu::Cpu;
use crate::op::{Lowered, Op};

pub(super) fn lower(code: Code, op: &Op) -> Option<Lowered> {
    table(code, op).or_else(|| by_immediate(code, op))
}

operations! {
    Paddb_xmm_xmmm128 "paddb" Aligned Quiet;
    Paddw_xmm_xmmm128 "paddw" Aligned Quiet;
    Paddd_xmm_xmmm128 "paddd" Aligned Quiet;
    Paddq_xmm_xmmm128 "paddq" Aligned Quiet;
    Paddsb_xmm_xmmm128 "paddsb" Aligned Quiet;
    Paddsw_xmm_xmmm128 "paddsw" Aligned Quiet;
    Paddusb_xmm_xmmm128 "paddusb" Aligned Quiet;
    Paddusw_xmm_xmmm128 "paddusw" Aligned Quiet;
    Psubb_xmm_xmmm128 "psubb" Aligned Quiet;
    Psubw_xmm_xmmm128 "psubw" Aligned Quiet;
    Psubd_xmm_xmmm128 "psubd" Aligned Quiet;
    Psubq_xmm_xmmm128 "psubq" Aligned Quiet;
    Psubsb_xmm_xmmm128 "psubsb" Aligned Quiet;
    Psubsw_xmm_xmmm128 "psubsw" Aligned Quiet;
    Psubusb_xmm_xmmm128 "psubusb" Aligned Quiet;
    Psubusw_xmm_xmmm128 "psubusw" Aligned Quiet;
    Pmullw_xmm_xmmm128 "pmullw" Aligned Quiet;
    Pmulhw_xmm_xmmm128 "pmulhw" Aligned Quiet;
    Pmulhuw_xmm_xmmm128 "pmulhuw" Aligned Quiet;
    Pmuludq_xmm_xmmm128 "pmuludq" Aligned Quiet;
    Pmaddwd_xmm_xmmm128 "pmaddwd" Aligned Quiet;
    Psadbw_xmm_xmmm128 "psadbw" Aligned Quiet;
    Pavgb_xmm_xmmm128 "pavgb" Aligned Quiet;
    Pavgw_xmm_xmmm128 "pavgw" Aligned Quiet;
    Pmaxub_xmm_xmmm128 "pmaxub" Aligned Quiet;
    Pmaxsw_xmm_xmmm128 "pmaxsw" Aligned Quiet;
    Pminub_xmm_xmmm128 "pminub" Aligned Quiet;
    Pminsw_xmm_xmmm128 "pminsw" Aligned Quiet;
    Pcmpeqb_xmm_xmmm128 "pcmpeqb" Aligned Quiet;
    Pcmpeqw_xmm_xmmm128 "pcmpeqw" Aligned Quiet;
    Pcmpeqd_xmm_xmmm128 "pcmpeqd" Aligned Quiet;
    Pcmpgtb_xmm_xmmm128 "pcmpgtb" Aligned Quiet;
    Pcmpgtw_xmm_xmmm128 "pcmpgtw" Aligned Quiet;
    Pcmpgtd_xmm_xmmm128 "pcmpgtd" Aligned Quiet;
    Pand_xmm_xmmm128 "pand" Aligned Quiet;
    Pandn_xmm_xmmm128 "pandn" Aligned Quiet;
    Por_xmm_xmmm128 "por" Aligned Quiet;
    Pxor_xmm_xmmm128 "pxor" Aligned Quiet;
    Psllw_xmm_xmmm128 "psllw" Aligned Quiet;
    Pslld_xmm_xmmm128 "pslld" Aligned Quiet;
    Psllq_xmm_xmmm128 "psllq" Aligned Quiet;
    Psrlw_xmm_xmmm128 "psrlw" Aligned Quiet;
    Psrld_xmm_xmmm128 "psrld" Aligned Quiet;
    Psrlq_xmm_xmmm128 "psrlq" Aligned Quiet;
    Psraw_xmm_xmmm128 "psraw" Aligned Quiet;
    Psrad_xmm_xmmm128 "psrad" Aligned Quiet;
}

/// Shifts by an immediate: as the shift by a register that holds it.
fn by_immediate(code: Code, op: &Op) -> Option<Lowered> {
    match code {
        Code::Psllw_xmm_imm8 => handler!(op, shift, Psllw_xmm_xmmm128),
        Code::Pslld_xmm_imm8 => handler!(op, shift, Pslld_xmm_xmmm128),
        Code::Psllq_xmm_imm8 => handler!(op, shift, Psllq_xmm_xmmm128),
        Code::Psrlw_xmm_imm8 => handler!(op, shift, Psrlw_xmm_xmmm128),
        Code::Psrld_xmm_imm8 => handler!(op, shift, Psrld_xmm_xmmm128),
        Code::Psrlq_xmm_imm8 => handler!(op, shift, Psrlq_xmm_xmmm128),
        Code::Psraw_xmm_imm8 => handler!(op, shift, Psraw_xmm_xmmm128),
        Code::Psrad_xmm_imm8 => handler!(op, shift, Psrad_xmm_xmmm128),
        Code::Pslldq_xmm_imm8 => handler!(op, shift_bytes, true),
        Code::Psrldq_xmm_imm8 => handler!(op, shift_bytes, false),
        _ => None,
    }
}

#[inline(always)]
fn shift<A: Access, O: Operation>(cpu: &mut Cpu, op: &Op) -> Result<(), A::Stop> {
    A::need(cpu, false)?;
    let count: __m128i = vector(u128::from(op.imm as u8));
    let a = cpu.vector(op.dst);
    cpu.set_vector(op.dst, O::run(a, count));
    Ok(())
}

#[inline(always)]
fn shift_bytes<A: Access, const LEFT: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), A::Stop> {
    A::need(cpu, false)?;
    let count = 8 * u32::from(op.imm as u8);
    let value = cpu.x(op.dst);
    let shifted = if LEFT { value.checked_shl(count) } else { value.checked_shr(count) };
    *value = shifted.unwrap_or(0);
    Ok(())
}
