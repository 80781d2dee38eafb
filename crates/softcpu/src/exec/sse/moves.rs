//! Loads of XMM registers and moves between registers.

use iced_x86::Code;

use super::{Width, aligned, source, with_high, with_low};
use crate::cpu::Cpu;
use crate::fault::Trap;
use crate::op::{Lowered, Op, form, step};

pub(super) fn lower(code: Code, op: &Op) -> Option<Lowered> {
    let memory = op.form & form::MEM != 0;
    Lowered::step(match code {
        Code::Movaps_xmm_xmmm128 | Code::Movapd_xmm_xmmm128 | Code::Movdqa_xmm_xmmm128 => {
            if memory {
                step(load_aligned)
            } else {
                step(copy)
            }
        }
        Code::Movups_xmm_xmmm128 | Code::Movupd_xmm_xmmm128 | Code::Movdqu_xmm_xmmm128 => {
            if memory {
                step(load)
            } else {
                step(copy)
            }
        }
        Code::Movaps_xmmm128_xmm
        | Code::Movapd_xmmm128_xmm
        | Code::Movdqa_xmmm128_xmm
        | Code::Movups_xmmm128_xmm
        | Code::Movupd_xmmm128_xmm
        | Code::Movdqu_xmmm128_xmm
            if !memory =>
        {
            step(copy)
        }
        Code::Lddqu_xmm_m128 => step(load),
        Code::Movss_xmm_xmmm32 if memory => step(load_zeroing::<32>),
        Code::Movss_xmm_xmmm32 | Code::Movss_xmmm32_xmm if !memory => step(merge_single),
        Code::Movsd_xmm_xmmm64 if memory => step(load_zeroing::<64>),
        Code::Movsd_xmm_xmmm64 | Code::Movsd_xmmm64_xmm if !memory => step(merge_double),
        Code::Movq_xmm_xmmm64 if memory => step(load_zeroing::<64>),
        Code::Movq_xmm_xmmm64 | Code::Movq_xmmm64_xmm if !memory => step(copy_low),
        Code::Movd_xmm_rm32 => {
            if memory {
                step(load_zeroing::<32>)
            } else {
                step(from_general::<32>)
            }
        }
        Code::Movq_xmm_rm64 => {
            if memory {
                step(load_zeroing::<64>)
            } else {
                step(from_general::<64>)
            }
        }
        Code::Movd_rm32_xmm if !memory => step(to_general::<32>),
        Code::Movq_rm64_xmm if !memory => step(to_general::<64>),
        Code::Movlps_xmm_m64 | Code::Movlpd_xmm_m64 => step(load_low),
        Code::Movhps_xmm_m64 | Code::Movhpd_xmm_m64 => step(load_high),
        Code::Movhlps_xmm_xmm => step(high_to_low),
        Code::Movlhps_xmm_xmm => step(low_to_high),
        Code::Movddup_xmm_xmmm64 => {
            if memory {
                step(duplicate::<true>)
            } else {
                step(duplicate::<false>)
            }
        }
        _ => return None,
    })
}

#[inline(always)]
fn copy(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_sse()?;
    let v = cpu.vector(op.src);
    cpu.set_vector(op.dst, v);
    Ok(())
}

#[inline(always)]
fn load_aligned(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_sse()?;
    let la = aligned(cpu, op, false)?;
    *cpu.x(op.dst) = cpu.load128(la)?;
    Ok(())
}

#[inline(always)]
fn load(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_sse()?;
    let la = cpu.linear(op, 16, false)?;
    *cpu.x(op.dst) = cpu.load128(la)?;
    Ok(())
}

/// MOVSS, MOVSD, MOVD, MOVQ from memory: the rest of the register becomes zero.
#[inline(always)]
fn load_zeroing<const BITS: u32>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_sse()?;
    *cpu.x(op.dst) = source(cpu, op, if BITS == 32 { Width::Double } else { Width::Quad })?;
    Ok(())
}

#[inline(always)]
fn merge_single(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_sse()?;
    let low = *cpu.x(op.src) as u32;
    let value = cpu.x(op.dst);
    *value = *value >> 32 << 32 | u128::from(low);
    Ok(())
}

#[inline(always)]
fn merge_double(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_sse()?;
    let low = *cpu.x(op.src) as u64;
    let value = cpu.x(op.dst);
    *value = with_low(*value, low);
    Ok(())
}

/// MOVQ between registers: the upper half becomes zero.
#[inline(always)]
fn copy_low(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_sse()?;
    *cpu.x(op.dst) = u128::from(*cpu.x(op.src) as u64);
    Ok(())
}

#[inline(always)]
fn from_general<const BITS: u32>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_sse()?;
    let value = if BITS == 32 { u64::from(cpu.get::<u32>(op.src)) } else { cpu.get::<u64>(op.src) };
    *cpu.x(op.dst) = u128::from(value);
    Ok(())
}

#[inline(always)]
fn to_general<const BITS: u32>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_sse()?;
    let value = *cpu.x(op.src);
    if BITS == 32 {
        cpu.set(op.dst, value as u32)
    } else {
        cpu.set(op.dst, value as u64)
    }
    Ok(())
}

#[inline(always)]
fn load_low(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_sse()?;
    let low = source(cpu, op, Width::Quad)? as u64;
    let value = cpu.x(op.dst);
    *value = with_low(*value, low);
    Ok(())
}

#[inline(always)]
fn load_high(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_sse()?;
    let high = source(cpu, op, Width::Quad)? as u64;
    let value = cpu.x(op.dst);
    *value = with_high(*value, high);
    Ok(())
}

fn high_to_low(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_sse()?;
    let low = (*cpu.x(op.src) >> 64) as u64;
    let value = cpu.x(op.dst);
    *value = with_low(*value, low);
    Ok(())
}

fn low_to_high(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_sse()?;
    let high = *cpu.x(op.src) as u64;
    let value = cpu.x(op.dst);
    *value = with_high(*value, high);
    Ok(())
}

/// MOVDDUP: the low half twice.
fn duplicate<const MEM: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_sse()?;
    let low = if MEM { source(cpu, op, Width::Quad)? as u64 } else { *cpu.x(op.src) as u64 };
    *cpu.x(op.dst) = u128::from(low) * (1 << 64 | 1);
    Ok(())
}
