//! Conversions between number formats.

use std::arch::asm;
use std::arch::x86_64::__m128i;

use iced_x86::Code;

use super::access::{Access, Width, handler};
use super::{Effect, Operation, bits, operations, vector};
use crate::cpu::Cpu;
use crate::mem::Word;
use crate::op::{Lowered, Op, form};

pub(super) fn lower(code: Code, op: &Op) -> Option<Lowered> {
    table(code, op).or_else(|| from_integer(code, op)).or_else(|| to_integer(code, op))
}

operations! {
    Cvtps2pd_xmm_xmmm64 "cvtps2pd" Quad Raises;
    Cvtpd2ps_xmm_xmmm128 "cvtpd2ps" Aligned Singles;
    Cvtss2sd_xmm_xmmm32 "cvtss2sd" Double Raises;
    Cvtsd2ss_xmm_xmmm64 "cvtsd2ss" Quad Single;
    Cvtdq2ps_xmm_xmmm128 "cvtdq2ps" Aligned Raises;
    Cvtps2dq_xmm_xmmm128 "cvtps2dq" Aligned Raises;
    Cvttps2dq_xmm_xmmm128 "cvttps2dq" Aligned Raises;
    Cvtdq2pd_xmm_xmmm64 "cvtdq2pd" Quad Quiet;
    Cvtpd2dq_xmm_xmmm128 "cvtpd2dq" Aligned Raises;
    Cvttpd2dq_xmm_xmmm128 "cvttpd2dq" Aligned Raises;
}

/// CVTSI2SS and CVTSI2SD: `b` holds the integer.
macro_rules! from_integers {
    ($($name:ident $mnemonic:literal $modifier:literal $t:ty;)*) => {
        $(
            #[derive(Clone, Copy)]
            struct $name;
            impl Operation for $name {
                const WIDTH: Width = if size_of::<$t>() == 4 { Width::Double } else { Width::Quad };
                const EFFECT: Effect = Effect::Raises;
                #[inline(always)]
                fn run(mut a: __m128i, b: __m128i) -> __m128i {
                    // SAFETY: a conversion between registers; exceptions are masked.
                    unsafe {
                        asm!(
                            concat!($mnemonic, " {0}, {1", $modifier, "}"),
                            inout(xmm_reg) a,
                            in(reg) bits(b) as $t,
                            options(nomem, nostack)
                        );
                    }
                    a
                }
            }
        )*
    };
}

from_integers! {
    SingleFrom32 "cvtsi2ss" ":e" u32;
    SingleFrom64 "cvtsi2ss" ":r" u64;
    DoubleFrom32 "cvtsi2sd" ":e" u32;
    DoubleFrom64 "cvtsi2sd" ":r" u64;
}

fn from_integer(code: Code, op: &Op) -> Option<Lowered> {
    fn of<O: Operation>(op: &Op) -> Option<Lowered> {
        if op.form & form::MEM != 0 {
            handler!(op, integer, O, true)
        } else {
            handler!(op, integer, O, false)
        }
    }
    match code {
        Code::Cvtsi2ss_xmm_rm32 => of::<SingleFrom32>(op),
        Code::Cvtsi2ss_xmm_rm64 => of::<SingleFrom64>(op),
        Code::Cvtsi2sd_xmm_rm32 => of::<DoubleFrom32>(op),
        Code::Cvtsi2sd_xmm_rm64 => of::<DoubleFrom64>(op),
        _ => None,
    }
}

#[inline(always)]
fn integer<A: Access, O: Operation, const MEM: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), A::Stop> {
    A::need(cpu, true)?;
    let b = if MEM { A::load(cpu, op, O::WIDTH)? } else { vector(u128::from(cpu.get::<u64>(op.src))) };
    let a = cpu.vector(op.dst);
    let result = A::compute(cpu, || O::run(a, b), |_| false)?;
    cpu.set_vector(op.dst, result);
    Ok(())
}

/// A conversion of the lowest number in an XMM register to an integer of type `T`.
trait ToInteger<T>: Copy + 'static {
    const WIDTH: Width;
    fn run(b: __m128i) -> T;
}

macro_rules! to_integers {
    ($($name:ident $mnemonic:literal $width:ident;)*) => {
        $(
            #[derive(Clone, Copy)]
            struct $name;
            to_integers!(@one $name $mnemonic $width ":e" u32);
            to_integers!(@one $name $mnemonic $width ":r" u64);
        )*
    };
    (@one $name:ident $mnemonic:literal $width:ident $modifier:literal $t:ty) => {
        impl ToInteger<$t> for $name {
            const WIDTH: Width = Width::$width;
            #[inline(always)]
            fn run(b: __m128i) -> $t {
                let value: $t;
                // SAFETY: a conversion between registers; exceptions are masked.
                unsafe {
                    asm!(
                        concat!($mnemonic, " {0", $modifier, "}, {1}"),
                        out(reg) value,
                        in(xmm_reg) b,
                        options(nomem, nostack)
                    );
                }
                value
            }
        }
    };
}

to_integers! {
    RoundSingle "cvtss2si" Double;
    TruncateSingle "cvttss2si" Double;
    RoundDouble "cvtsd2si" Quad;
    TruncateDouble "cvttsd2si" Quad;
}

fn to_integer(code: Code, op: &Op) -> Option<Lowered> {
    fn of<T: Word, O: ToInteger<T>>(op: &Op) -> Option<Lowered> {
        if op.form & form::MEM != 0 {
            handler!(op, number, T, O, true)
        } else {
            handler!(op, number, T, O, false)
        }
    }
    match code {
        Code::Cvtss2si_r32_xmmm32 => of::<u32, RoundSingle>(op),
        Code::Cvtss2si_r64_xmmm32 => of::<u64, RoundSingle>(op),
        Code::Cvttss2si_r32_xmmm32 => of::<u32, TruncateSingle>(op),
        Code::Cvttss2si_r64_xmmm32 => of::<u64, TruncateSingle>(op),
        Code::Cvtsd2si_r32_xmmm64 => of::<u32, RoundDouble>(op),
        Code::Cvtsd2si_r64_xmmm64 => of::<u64, RoundDouble>(op),
        Code::Cvttsd2si_r32_xmmm64 => of::<u32, TruncateDouble>(op),
        Code::Cvttsd2si_r64_xmmm64 => of::<u64, TruncateDouble>(op),
        _ => None,
    }
}

#[inline(always)]
fn number<A: Access, T: Word, O: ToInteger<T>, const MEM: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<(), A::Stop> {
    A::need(cpu, true)?;
    let b = if MEM { A::load(cpu, op, O::WIDTH)? } else { cpu.vector(op.src) };
    let value = A::compute(cpu, || O::run(b), |_| false)?;
    cpu.set(op.dst, value);
    Ok(())
}
