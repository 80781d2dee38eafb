//! Rearrangement: shuffles, packs and unpacks, and what moves between lanes and general registers.

use iced_x86::Code;

use super::access::{Access, Width, handler};
use super::{bits, operations};
use crate::cpu::Cpu;
use crate::fault::Trap;
use crate::op::{Lowered, Op, form, step};

pub(super) fn lower(code: Code, op: &Op) -> Option<Lowered> {
    table(code, op).or_else(|| by_immediate(code, op)).or_else(|| lanes(code, op))
}

operations! {
    Unpcklps_xmm_xmmm128 "unpcklps" Aligned Quiet;
    Unpcklpd_xmm_xmmm128 "unpcklpd" Aligned Quiet;
    Unpckhps_xmm_xmmm128 "unpckhps" Aligned Quiet;
    Unpckhpd_xmm_xmmm128 "unpckhpd" Aligned Quiet;
    Punpcklbw_xmm_xmmm128 "punpcklbw" Aligned Quiet;
    Punpcklwd_xmm_xmmm128 "punpcklwd" Aligned Quiet;
    Punpckldq_xmm_xmmm128 "punpckldq" Aligned Quiet;
    Punpcklqdq_xmm_xmmm128 "punpcklqdq" Aligned Quiet;
    Punpckhbw_xmm_xmmm128 "punpckhbw" Aligned Quiet;
    Punpckhwd_xmm_xmmm128 "punpckhwd" Aligned Quiet;
    Punpckhdq_xmm_xmmm128 "punpckhdq" Aligned Quiet;
    Punpckhqdq_xmm_xmmm128 "punpckhqdq" Aligned Quiet;
    Packsswb_xmm_xmmm128 "packsswb" Aligned Quiet;
    Packssdw_xmm_xmmm128 "packssdw" Aligned Quiet;
    Packuswb_xmm_xmmm128 "packuswb" Aligned Quiet;
    Movshdup_xmm_xmmm128 "movshdup" Aligned Quiet;
    Movsldup_xmm_xmmm128 "movsldup" Aligned Quiet;
}

/// Which lanes an immediate picks from where.
trait Shuffle: Copy + 'static {
    fn run(a: u128, b: u128, order: u8) -> u128;
}

/// The 16-bit lane of `v` that bits `2n+1:2n` of `order` name.
#[inline(always)]
fn word(v: u64, order: u8, n: u32) -> u64 {
    (v >> (16 * u32::from(order >> (2 * n) & 3)) & 0xffff) << (16 * n)
}

/// Four 16-bit lanes of `v` in the given order.
#[inline(always)]
pub(in crate::exec) fn words(v: u64, order: u8) -> u64 {
    word(v, order, 0) | word(v, order, 1) | word(v, order, 2) | word(v, order, 3)
}

/// Lane `n`'s 32-bit source in `v`.
#[inline(always)]
fn single(v: u128, order: u8, n: u32) -> u64 {
    let lane = order >> (2 * n) & 3;
    let half = if lane & 2 != 0 { (v >> 64) as u64 } else { v as u64 };
    half >> (32 * u32::from(lane & 1)) & 0xffff_ffff
}

/// Two 32-bit lanes of `v`, those that bits `2n+3:2n` of `order` name.
#[inline(always)]
fn pair(v: u128, order: u8, n: u32) -> u128 {
    u128::from(single(v, order, n) | single(v, order, n + 1) << 32)
}

#[inline(always)]
fn double(v: u128, high: bool) -> u128 {
    if high { v >> 64 } else { u128::from(v as u64) }
}

macro_rules! shuffles {
    ($($name:ident |$a:ident, $b:ident, $order:ident| $value:expr;)*) => {
        $(
            #[derive(Clone, Copy)]
            struct $name;
            impl Shuffle for $name {
                #[inline(always)]
                fn run($a: u128, $b: u128, $order: u8) -> u128 {
                    $value
                }
            }
        )*
    };
}

shuffles! {
    Pshufd |_a, b, order| pair(b, order, 0) | pair(b, order, 2) << 64;
    Pshuflw |_a, b, order| b >> 64 << 64 | u128::from(words(b as u64, order));
    Pshufhw |_a, b, order| u128::from(b as u64) | u128::from(words((b >> 64) as u64, order)) << 64;
    Shufps |a, b, order| pair(a, order, 0) | pair(b, order, 2) << 64;
    Shufpd |a, b, order| double(a, order & 1 != 0) | double(b, order & 2 != 0) << 64;
}

fn by_immediate(code: Code, op: &Op) -> Option<Lowered> {
    fn of<S: Shuffle>(op: &Op) -> Option<Lowered> {
        if op.form & form::MEM != 0 {
            handler!(op, shuffle, S, true)
        } else {
            handler!(op, shuffle, S, false)
        }
    }
    match code {
        Code::Pshufd_xmm_xmmm128_imm8 => of::<Pshufd>(op),
        Code::Pshuflw_xmm_xmmm128_imm8 => of::<Pshuflw>(op),
        Code::Pshufhw_xmm_xmmm128_imm8 => of::<Pshufhw>(op),
        Code::Shufps_xmm_xmmm128_imm8 => of::<Shufps>(op),
        Code::Shufpd_xmm_xmmm128_imm8 => of::<Shufpd>(op),
        _ => None,
    }
}

#[inline(always)]
fn shuffle<A: Access, S: Shuffle, const MEM: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), A::Stop> {
    A::need(cpu, false)?;
    let b = if MEM { bits(A::load(cpu, op, Width::Aligned)?) } else { *cpu.x(op.src) };
    let a = *cpu.x(op.dst);
    *cpu.x(op.dst) = S::run(a, b, op.imm as u8);
    Ok(())
}

/// PINSRW, PEXTRW and the MOVMSK family.
fn lanes(code: Code, op: &Op) -> Option<Lowered> {
    Lowered::step(match code {
        Code::Pinsrw_xmm_r32m16_imm8 | Code::Pinsrw_xmm_r64m16_imm8 => {
            if op.form & form::MEM != 0 {
                step(insert::<true>)
            } else {
                step(insert::<false>)
            }
        }
        Code::Pextrw_r32_xmm_imm8 | Code::Pextrw_r64_xmm_imm8 => step(extract),
        Code::Pmovmskb_r32_xmm | Code::Pmovmskb_r64_xmm => return handler!(op, byte_signs),
        Code::Movmskps_r32_xmm | Code::Movmskps_r64_xmm => step(single_signs),
        Code::Movmskpd_r32_xmm | Code::Movmskpd_r64_xmm => step(double_signs),
        _ => return None,
    })
}

fn insert<const MEM: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_sse()?;
    let value = if MEM {
        let la = cpu.linear(op, 2, false)?;
        cpu.load::<u16>(la)?
    } else {
        cpu.get::<u16>(op.src)
    };
    let at = 16 * (op.imm & 7) as u32;
    let lanes = cpu.x(op.dst);
    *lanes = *lanes & !(0xffff << at) | u128::from(value) << at;
    Ok(())
}

fn extract(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_sse()?;
    let value = (*cpu.x(op.src) >> (16 * (op.imm & 7) as u32)) as u16;
    cpu.set(op.dst, u32::from(value));
    Ok(())
}

#[inline(always)]
fn byte_signs<A: Access>(cpu: &mut Cpu, op: &Op) -> Result<(), A::Stop> {
    A::need(cpu, false)?;
    // SAFETY: SSE2 is part of x86-64.
    let mask = unsafe { std::arch::x86_64::_mm_movemask_epi8(cpu.vector(op.src)) };
    cpu.set(op.dst, mask as u32);
    Ok(())
}

fn single_signs(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_sse()?;
    let v = *cpu.x(op.src);
    let sign = |n: u32| (v >> (32 * n + 31)) as u32 & 1;
    cpu.set(op.dst, sign(0) | sign(1) << 1 | sign(2) << 2 | sign(3) << 3);
    Ok(())
}

fn double_signs(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_sse()?;
    let v = *cpu.x(op.src);
    cpu.set(op.dst, (v >> 63) as u32 & 1 | (v >> 126) as u32 & 2);
    Ok(())
}
