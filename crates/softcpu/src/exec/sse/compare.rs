//! Comparisons of floating-point numbers.

use std::arch::asm;
use std::arch::x86_64::__m128i;

use iced_x86::Code;

use super::access::{Access, Width, handler};
use super::{Effect, Operation, binary_of};
use crate::cpu::Cpu;
use crate::op::{Lowered, Op, form};

pub(super) fn lower(code: Code, op: &Op) -> Option<Lowered> {
    match code {
        Code::Cmpps_xmm_xmmm128_imm8 => mask::<CMPPS>(op),
        Code::Cmppd_xmm_xmmm128_imm8 => mask::<CMPPD>(op),
        Code::Cmpss_xmm_xmmm32_imm8 => mask::<CMPSS>(op),
        Code::Cmpsd_xmm_xmmm64_imm8 => mask::<CMPSD>(op),
        Code::Ucomiss_xmm_xmmm32 => flags::<UCOMISS>(op),
        Code::Ucomisd_xmm_xmmm64 => flags::<UCOMISD>(op),
        Code::Comiss_xmm_xmmm32 => flags::<COMISS>(op),
        Code::Comisd_xmm_xmmm64 => flags::<COMISD>(op),
        _ => None,
    }
}

const CMPPS: u8 = 0;
const CMPPD: u8 = 1;
const CMPSS: u8 = 2;
const CMPSD: u8 = 3;

const UCOMISS: u8 = 0;
const UCOMISD: u8 = 1;
const COMISS: u8 = 2;
const COMISD: u8 = 3;

/// CMPxx with predicate `PREDICATE`.
#[derive(Clone, Copy)]
struct Compare<const KIND: u8, const PREDICATE: u8>;

impl<const KIND: u8, const PREDICATE: u8> Operation for Compare<KIND, PREDICATE> {
    const WIDTH: Width = match KIND {
        CMPSS => Width::Double,
        CMPSD => Width::Quad,
        _ => Width::Aligned,
    };
    const EFFECT: Effect = Effect::Raises;

    #[inline(always)]
    fn run(mut a: __m128i, b: __m128i) -> __m128i {
        macro_rules! compare {
            ($mnemonic:literal) => {
                asm!(
                    concat!($mnemonic, " {0}, {1}, {2}"),
                    inout(xmm_reg) a,
                    in(xmm_reg) b,
                    const PREDICATE,
                    options(nomem, nostack)
                )
            };
        }
        // SAFETY: these work on two registers, and exceptions are masked.
        unsafe {
            match KIND {
                CMPPS => compare!("cmpps"),
                CMPPD => compare!("cmppd"),
                CMPSS => compare!("cmpss"),
                _ => compare!("cmpsd"),
            }
        }
        a
    }
}

/// CMPxx: a mask of ones where the predicate in the immediate's low three bits holds.
fn mask<const KIND: u8>(op: &Op) -> Option<Lowered> {
    match op.imm & 7 {
        0 => binary_of::<Compare<KIND, 0>>(op),
        1 => binary_of::<Compare<KIND, 1>>(op),
        2 => binary_of::<Compare<KIND, 2>>(op),
        3 => binary_of::<Compare<KIND, 3>>(op),
        4 => binary_of::<Compare<KIND, 4>>(op),
        5 => binary_of::<Compare<KIND, 5>>(op),
        6 => binary_of::<Compare<KIND, 6>>(op),
        _ => binary_of::<Compare<KIND, 7>>(op),
    }
}

/// COMISx and UCOMISx: ZF, PF and CF tell the order.
fn flags<const KIND: u8>(op: &Op) -> Option<Lowered> {
    if op.form & form::MEM != 0 { handler!(op, order, KIND, true) } else { handler!(op, order, KIND, false) }
}

#[inline(always)]
fn order<A: Access, const KIND: u8, const MEM: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), A::Stop> {
    A::need(cpu, true)?;
    let b = if MEM { A::load(cpu, op, operand_width(KIND))? } else { cpu.vector(op.src) };
    let a = cpu.vector(op.dst);
    cpu.arith = A::compute(cpu, || compare::<KIND>(a, b), |_| false)?;
    Ok(())
}

const fn operand_width(kind: u8) -> Width {
    if matches!(kind, UCOMISS | COMISS) { Width::Double } else { Width::Quad }
}

/// The comparison's flags in the captured form (OF, SF and AF are clear).
#[inline(always)]
fn compare<const KIND: u8>(a: __m128i, b: __m128i) -> u16 {
    let flags: u16;
    macro_rules! compare {
        ($mnemonic:literal) => {
            asm!(
                concat!($mnemonic, " {0}, {1}"),
                "lahf",
                "mov al, 0",
                in(xmm_reg) a,
                in(xmm_reg) b,
                out("ax") flags,
                options(nomem, nostack)
            )
        };
    }
    // SAFETY: these compare two registers, and exceptions are masked.
    unsafe {
        match KIND {
            UCOMISS => compare!("ucomiss"),
            UCOMISD => compare!("ucomisd"),
            COMISS => compare!("comiss"),
            _ => compare!("comisd"),
        }
    }
    flags
}
