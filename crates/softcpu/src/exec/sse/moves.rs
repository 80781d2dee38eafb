//! Loads of XMM registers and moves between registers.

use iced_x86::Code;

use super::access::{Access, Aligned, Double, OfWidth, Quad, Whole, Width, handler};
use super::{bits, vector, with_high, with_low};
use crate::cpu::Cpu;
use crate::op::{Lowered, Op, form};

pub(super) fn lower(code: Code, op: &Op) -> Option<Lowered> {
    if op.form & form::MEM != 0 { from_memory(code, op) } else { from_register(code, op) }
}

fn from_memory(code: Code, op: &Op) -> Option<Lowered> {
    match code {
        Code::Movaps_xmm_xmmm128 | Code::Movapd_xmm_xmmm128 | Code::Movdqa_xmm_xmmm128 => {
            handler!(op, load, Aligned)
        }
        Code::Movups_xmm_xmmm128
        | Code::Movupd_xmm_xmmm128
        | Code::Movdqu_xmm_xmmm128
        | Code::Lddqu_xmm_m128 => handler!(op, load, Whole),
        Code::Movss_xmm_xmmm32 | Code::Movd_xmm_rm32 => handler!(op, load, Double),
        Code::Movsd_xmm_xmmm64 | Code::Movq_xmm_xmmm64 | Code::Movq_xmm_rm64 => handler!(op, load, Quad),
        Code::Movlps_xmm_m64 | Code::Movlpd_xmm_m64 => handler!(op, load_low),
        Code::Movhps_xmm_m64 | Code::Movhpd_xmm_m64 => handler!(op, load_high),
        Code::Movddup_xmm_xmmm64 => handler!(op, duplicate, true),
        _ => None,
    }
}

fn from_register(code: Code, op: &Op) -> Option<Lowered> {
    match code {
        Code::Movaps_xmm_xmmm128
        | Code::Movapd_xmm_xmmm128
        | Code::Movdqa_xmm_xmmm128
        | Code::Movups_xmm_xmmm128
        | Code::Movupd_xmm_xmmm128
        | Code::Movdqu_xmm_xmmm128
        | Code::Movaps_xmmm128_xmm
        | Code::Movapd_xmmm128_xmm
        | Code::Movdqa_xmmm128_xmm
        | Code::Movups_xmmm128_xmm
        | Code::Movupd_xmmm128_xmm
        | Code::Movdqu_xmmm128_xmm => handler!(op, copy),
        Code::Movss_xmm_xmmm32 | Code::Movss_xmmm32_xmm => handler!(op, merge_single),
        Code::Movsd_xmm_xmmm64 | Code::Movsd_xmmm64_xmm => handler!(op, merge_double),
        Code::Movq_xmm_xmmm64 | Code::Movq_xmmm64_xmm => handler!(op, copy_low),
        Code::Movd_xmm_rm32 => handler!(op, from_general, 32),
        Code::Movq_xmm_rm64 => handler!(op, from_general, 64),
        Code::Movd_rm32_xmm => handler!(op, to_general, 32),
        Code::Movq_rm64_xmm => handler!(op, to_general, 64),
        Code::Movhlps_xmm_xmm => handler!(op, high_to_low),
        Code::Movlhps_xmm_xmm => handler!(op, low_to_high),
        Code::Movddup_xmm_xmmm64 => handler!(op, duplicate, false),
        _ => None,
    }
}

/// The rest of the register becomes zero.
#[inline(always)]
fn load<A: Access, W: OfWidth>(cpu: &mut Cpu, op: &Op) -> Result<(), A::Stop> {
    A::need(cpu, false)?;
    let value = A::load(cpu, op, W::WIDTH)?;
    cpu.set_vector(op.dst, value);
    Ok(())
}

#[inline(always)]
fn copy<A: Access>(cpu: &mut Cpu, op: &Op) -> Result<(), A::Stop> {
    A::need(cpu, false)?;
    let v = cpu.vector(op.src);
    cpu.set_vector(op.dst, v);
    Ok(())
}

#[inline(always)]
fn merge_single<A: Access>(cpu: &mut Cpu, op: &Op) -> Result<(), A::Stop> {
    A::need(cpu, false)?;
    let low = *cpu.x(op.src) as u32;
    let value = cpu.x(op.dst);
    *value = *value >> 32 << 32 | u128::from(low);
    Ok(())
}

#[inline(always)]
fn merge_double<A: Access>(cpu: &mut Cpu, op: &Op) -> Result<(), A::Stop> {
    A::need(cpu, false)?;
    let low = *cpu.x(op.src) as u64;
    let value = cpu.x(op.dst);
    *value = with_low(*value, low);
    Ok(())
}

/// MOVQ between registers: the upper half becomes zero.
#[inline(always)]
fn copy_low<A: Access>(cpu: &mut Cpu, op: &Op) -> Result<(), A::Stop> {
    A::need(cpu, false)?;
    *cpu.x(op.dst) = u128::from(*cpu.x(op.src) as u64);
    Ok(())
}

#[inline(always)]
fn from_general<A: Access, const BITS: u32>(cpu: &mut Cpu, op: &Op) -> Result<(), A::Stop> {
    A::need(cpu, false)?;
    let value = if BITS == 32 { u64::from(cpu.get::<u32>(op.src)) } else { cpu.get::<u64>(op.src) };
    cpu.set_vector(op.dst, vector(u128::from(value)));
    Ok(())
}

#[inline(always)]
fn to_general<A: Access, const BITS: u32>(cpu: &mut Cpu, op: &Op) -> Result<(), A::Stop> {
    A::need(cpu, false)?;
    let value = *cpu.x(op.src);
    if BITS == 32 {
        cpu.set(op.dst, value as u32)
    } else {
        cpu.set(op.dst, value as u64)
    }
    Ok(())
}

#[inline(always)]
fn load_low<A: Access>(cpu: &mut Cpu, op: &Op) -> Result<(), A::Stop> {
    A::need(cpu, false)?;
    let low = bits(A::load(cpu, op, Width::Quad)?) as u64;
    let value = cpu.x(op.dst);
    *value = with_low(*value, low);
    Ok(())
}

#[inline(always)]
fn load_high<A: Access>(cpu: &mut Cpu, op: &Op) -> Result<(), A::Stop> {
    A::need(cpu, false)?;
    let high = bits(A::load(cpu, op, Width::Quad)?) as u64;
    let value = cpu.x(op.dst);
    *value = with_high(*value, high);
    Ok(())
}

#[inline(always)]
fn high_to_low<A: Access>(cpu: &mut Cpu, op: &Op) -> Result<(), A::Stop> {
    A::need(cpu, false)?;
    let low = (*cpu.x(op.src) >> 64) as u64;
    let value = cpu.x(op.dst);
    *value = with_low(*value, low);
    Ok(())
}

#[inline(always)]
fn low_to_high<A: Access>(cpu: &mut Cpu, op: &Op) -> Result<(), A::Stop> {
    A::need(cpu, false)?;
    let high = *cpu.x(op.src) as u64;
    let value = cpu.x(op.dst);
    *value = with_high(*value, high);
    Ok(())
}

/// MOVDDUP: the low half twice.
#[inline(always)]
fn duplicate<A: Access, const MEM: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), A::Stop> {
    A::need(cpu, false)?;
    let low = if MEM { bits(A::load(cpu, op, Width::Quad)?) as u64 } else { *cpu.x(op.src) as u64 };
    *cpu.x(op.dst) = u128::from(low) | u128::from(low) << 64;
    Ok(())
}
