//! SSE, SSE2 and SSE3: executed on the host's own unit, one stub an instruction, under the guest's MXCSR
//! (see [`super::fp`]).

mod access;
mod arithmetic;
mod compare;
mod convert;
mod integer;
mod moves;
mod shuffle;
mod store;

use std::arch::x86_64::__m128i;

use iced_x86::{Code, Instruction};

use super::fp::{self, ok};
use crate::cpu::Cpu;
use crate::fault::Trap;
use crate::op::{Lowered, Op, form, step};
use access::handler;

/// Lowers the instructions on XMM registers.
pub(crate) fn lower(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    let code = insn.code();
    moves::lower(code, op)
        .or_else(|| store::lower(insn, op))
        .or_else(|| arithmetic::lower(code, op))
        .or_else(|| integer::lower(code, op))
        .or_else(|| shuffle::lower(code, op))
        .or_else(|| compare::lower(code, op))
        .or_else(|| convert::lower(code, op))
        .or_else(|| control(code))
}

pub(super) use access::{Access, Full, Width};
pub(super) use shuffle::words;
pub(super) use store::{masked_operand, store_masked};

/// What floating-point exceptions an operation may raise.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// None.
    Quiet,
    /// Some, but no underflow.
    Raises,
    /// Any; the result is one single-precision number.
    Single,
    /// Any; the result is one double-precision number.
    Double,
    /// Any; the result is four single-precision numbers.
    Singles,
    /// Any; the result is two double-precision numbers.
    Doubles,
}

impl Effect {
    /// Whether `result` holds a denormal number: with underflow unmasked that is an underflow even where it is exact.
    pub(super) fn tiny(self, result: u128) -> bool {
        let single = |n: u32| {
            let v = (result >> (32 * n)) as u32;
            v & 0x7f80_0000 == 0 && v & 0x7f_ffff != 0
        };
        let double = |n: u32| {
            let v = (result >> (64 * n)) as u64;
            v & 0x7ff0_0000_0000_0000 == 0 && v & 0xf_ffff_ffff_ffff != 0
        };
        match self {
            Self::Quiet | Self::Raises => false,
            Self::Single => single(0),
            Self::Double => double(0),
            Self::Singles => (0..4).any(single),
            Self::Doubles => (0..2).any(double),
        }
    }
}

/// An operation `destination = destination OP source` of the host's unit.
pub(super) trait Operation: Copy + 'static {
    const WIDTH: Width;
    const EFFECT: Effect;
    fn run(a: __m128i, b: __m128i) -> __m128i;
}

/// Defines an [`Operation`] for each instruction of a table and the function that lowers them. A line is iced's code, the
/// mnemonic, what it reads of memory, and what it raises.
macro_rules! operations {
    ($($code:ident $mnemonic:literal $width:ident $effect:ident;)*) => {
        $(
            #[allow(non_camel_case_types)]
            #[derive(Clone, Copy)]
            struct $code;
            impl crate::exec::sse::Operation for $code {
                const WIDTH: crate::exec::sse::Width = crate::exec::sse::Width::$width;
                const EFFECT: crate::exec::sse::Effect = crate::exec::sse::Effect::$effect;
                #[inline(always)]
                fn run(
                    mut a: std::arch::x86_64::__m128i,
                    b: std::arch::x86_64::__m128i,
                ) -> std::arch::x86_64::__m128i {
                    // SAFETY: the host has the instruction, which works on two registers and cannot trap while the
                    // host's MXCSR masks all exceptions.
                    unsafe {
                        std::arch::asm!(
                            concat!($mnemonic, " {0}, {1}"),
                            inout(xmm_reg) a,
                            in(xmm_reg) b,
                            options(nomem, nostack)
                        );
                    }
                    a
                }
            }
        )*
        fn table(code: iced_x86::Code, op: &crate::op::Op) -> Option<crate::op::Lowered> {
            match code {
                $(iced_x86::Code::$code => crate::exec::sse::binary_of::<$code>(op),)*
                _ => None,
            }
        }
    };
}
use operations;

/// The handler for operation `O`, with its source where `op` has it.
fn binary_of<O: Operation>(op: &Op) -> Option<Lowered> {
    if op.form & form::MEM != 0 { handler!(op, binary, O, true) } else { handler!(op, binary, O, false) }
}

#[inline(always)]
fn binary<A: Access, O: Operation, const MEM: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), A::Stop> {
    let raises = O::EFFECT != Effect::Quiet;
    A::need(cpu, raises)?;
    let b = if MEM { A::load(cpu, op, O::WIDTH)? } else { cpu.vector(op.src) };
    let a = cpu.vector(op.dst);
    let result =
        if raises { A::compute(cpu, || O::run(a, b), |r| O::EFFECT.tiny(bits(*r)))? } else { O::run(a, b) };
    cpu.set_vector(op.dst, result);
    Ok(())
}

/// Runs `f`, one SSE operation that may raise exceptions: they set the sticky flags, and one that the guest does not mask
/// becomes #XM (Intel SDM vol. 1, 11.5.2). With underflow unmasked a `tiny` result is one even where it is exact.
pub(super) fn watch<T>(
    cpu: &mut Cpu,
    f: impl FnOnce() -> T,
    tiny: impl FnOnce(&T) -> bool,
) -> Result<T, Trap> {
    const UNDERFLOW: u32 = 1 << 4;
    const BEFORE_COMPUTATION: u32 = 0b111;
    const FLUSH_TO_ZERO: u32 = 1 << 15;
    if cpu.fp_ok & ok::SSE_MASKED != 0 {
        return Ok(f());
    }
    let before = cpu.current_mxcsr();
    let taken = !(before >> 7) & fp::MXCSR_FLAGS;
    let takes_underflow = taken & UNDERFLOW != 0;
    let flush = if takes_underflow { FLUSH_TO_ZERO } else { 0 };
    fp::set_host_mxcsr(before & !fp::MXCSR_FLAGS & !flush);
    let result = f();
    let mut raised = fp::host_mxcsr() & fp::MXCSR_FLAGS;
    if takes_underflow && tiny(&result) {
        raised |= UNDERFLOW;
    }
    if raised & taken & BEFORE_COMPUTATION != 0 {
        raised &= BEFORE_COMPUTATION;
    }
    fp::set_host_mxcsr(before | raised);
    if raised & taken == 0 { Ok(result) } else { Err(cpu.simd_exception()) }
}

#[inline(always)]
pub(super) fn vector(bits: u128) -> __m128i {
    // SAFETY: both are 16 plain bytes.
    unsafe { std::mem::transmute(bits) }
}

#[inline(always)]
pub(super) fn bits(vector: __m128i) -> u128 {
    // SAFETY: as in `vector`.
    unsafe { std::mem::transmute(vector) }
}

/// `value` with its low half replaced.
#[inline(always)]
fn with_low(value: u128, low: u64) -> u128 {
    value >> 64 << 64 | u128::from(low)
}

/// `value` with its high half replaced.
#[inline(always)]
fn with_high(value: u128, high: u64) -> u128 {
    value as u64 as u128 | u128::from(high) << 64
}

impl Cpu {
    /// XMM register `n`; the block builder makes numbers below 16 only.
    #[inline(always)]
    pub(super) fn x(&mut self, n: u8) -> &mut u128 {
        &mut self.xmm[usize::from(n & 15)]
    }

    #[inline(always)]
    pub(super) fn vector(&self, n: u8) -> __m128i {
        vector(self.xmm[usize::from(n & 15)])
    }

    #[inline(always)]
    fn set_vector(&mut self, n: u8, value: __m128i) {
        self.xmm[usize::from(n & 15)] = bits(value);
    }
}

/// LDMXCSR and STMXCSR.
fn control(code: Code) -> Option<Lowered> {
    match code {
        Code::Ldmxcsr_m32 => Lowered::step(step(ldmxcsr)),
        Code::Stmxcsr_m32 => Lowered::step(step(stmxcsr)),
        _ => None,
    }
}

fn ldmxcsr(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_sse()?;
    let la = cpu.linear(op, 4, false)?;
    let value = cpu.load::<u32>(la)?;
    if value & !0xffff != 0 {
        return Err(cpu.gp0());
    }
    cpu.set_mxcsr(value);
    Ok(())
}

fn stmxcsr(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_sse()?;
    let la = cpu.linear(op, 4, true)?;
    let value = cpu.current_mxcsr();
    cpu.store::<u32>(la, value)
}
