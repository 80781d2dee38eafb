//! The two ways SSE instructions reach their operands: quickly, where the TLB knows the page and nothing can go wrong, and
//! in full. Handlers are written once for both.

use std::arch::asm;
use std::arch::x86_64::__m128i;

use super::{bits, vector, watch};
use crate::cpu::Cpu;
use crate::exec::fp::ok;
use crate::fault::Trap;
use crate::mem;
use crate::op::{Lowered, NotQuick, Op, form, quick_step, step};

/// A memory operand's size and alignment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::exec) enum Width {
    /// 16 bytes, which must be aligned.
    Aligned,
    /// 16 bytes anywhere.
    Whole,
    /// 8 bytes.
    Quad,
    /// 4 bytes.
    Double,
}

/// A [`Width`] as a type.
pub(super) trait OfWidth: Copy + 'static {
    const WIDTH: Width;
}

macro_rules! widths {
    ($($name:ident)*) => {
        $(
            #[derive(Clone, Copy)]
            pub(super) struct $name;
            impl OfWidth for $name {
                const WIDTH: Width = Width::$name;
            }
        )*
    };
}

widths! { Aligned Whole Quad Double }

/// A way to reach operands.
pub(in crate::exec) trait Access: Copy + 'static {
    /// Why the instruction is not executed.
    type Stop;

    /// Checks that SSE instructions may run and, if this one `raises` exceptions, that they may be raised this way.
    fn need(cpu: &mut Cpu, raises: bool) -> Result<(), Self::Stop>;

    /// Reads the memory operand; the rest of the vector is zero.
    fn load(cpu: &mut Cpu, op: &Op, width: Width) -> Result<__m128i, Self::Stop>;

    /// Writes the low part of `value` to the memory operand.
    fn store(cpu: &mut Cpu, op: &Op, width: Width, value: __m128i) -> Result<(), Self::Stop>;

    /// Runs `f`, which may raise floating-point exceptions; `tiny` tells whether its result is denormal.
    fn compute<T>(
        cpu: &mut Cpu,
        f: impl FnOnce() -> T,
        tiny: impl FnOnce(&T) -> bool,
    ) -> Result<T, Self::Stop>;
}

/// Only for flat operands in pages the TLB has, with all exceptions masked.
#[derive(Clone, Copy)]
pub(in crate::exec) struct Quick;

impl Access for Quick {
    type Stop = NotQuick;

    #[inline(always)]
    fn need(cpu: &mut Cpu, raises: bool) -> Result<(), NotQuick> {
        let need = if raises { ok::SSE_MASKED } else { ok::SSE };
        if cpu.fp_ok & need != 0 { Ok(()) } else { Err(NotQuick) }
    }

    #[inline(always)]
    fn load(cpu: &mut Cpu, op: &Op, width: Width) -> Result<__m128i, NotQuick> {
        let la = cpu.flat(op);
        let at = match width {
            Width::Aligned if la & 15 != 0 => None,
            Width::Aligned | Width::Whole => cpu.readable128(la),
            Width::Quad => cpu.readable::<u64>(la),
            Width::Double => cpu.readable::<u32>(la),
        };
        let Some(at) = at else { return Err(NotQuick) };
        // SAFETY: `at` is readable for the width.
        unsafe {
            let value;
            match width {
                Width::Aligned | Width::Whole => value = vector(mem::load128(at)),
                Width::Quad => asm!(
                    "movq {}, qword ptr [{}]", out(xmm_reg) value, in(reg) at,
                    options(nostack, preserves_flags, readonly)
                ),
                Width::Double => asm!(
                    "movd {}, dword ptr [{}]", out(xmm_reg) value, in(reg) at,
                    options(nostack, preserves_flags, readonly)
                ),
            }
            Ok(value)
        }
    }

    #[inline(always)]
    fn store(cpu: &mut Cpu, op: &Op, width: Width, value: __m128i) -> Result<(), NotQuick> {
        let la = cpu.flat(op);
        let at = match width {
            Width::Aligned if la & 15 != 0 => None,
            Width::Aligned | Width::Whole => cpu.writable128(la),
            Width::Quad => cpu.writable::<u64>(la),
            Width::Double => cpu.writable::<u32>(la),
        };
        let Some(at) = at else { return Err(NotQuick) };
        // SAFETY: `at` is writable for the width.
        unsafe {
            match width {
                Width::Aligned | Width::Whole => mem::store128(at, bits(value)),
                Width::Quad => asm!(
                    "movq qword ptr [{}], {}", in(reg) at, in(xmm_reg) value,
                    options(nostack, preserves_flags)
                ),
                Width::Double => asm!(
                    "movd dword ptr [{}], {}", in(reg) at, in(xmm_reg) value,
                    options(nostack, preserves_flags)
                ),
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn compute<T>(_: &mut Cpu, f: impl FnOnce() -> T, _: impl FnOnce(&T) -> bool) -> Result<T, NotQuick> {
        Ok(f())
    }
}

/// For all operands and states.
#[derive(Clone, Copy)]
pub(in crate::exec) struct Full;

impl Full {
    fn address(cpu: &mut Cpu, op: &Op, width: Width, write: bool) -> Result<u64, Trap> {
        let size = match width {
            Width::Aligned | Width::Whole => 16,
            Width::Quad => 8,
            Width::Double => 4,
        };
        let la = cpu.linear(op, size, write)?;
        if width == Width::Aligned && la & 15 != 0 { Err(cpu.gp0()) } else { Ok(la) }
    }
}

impl Access for Full {
    type Stop = Trap;

    fn need(cpu: &mut Cpu, _: bool) -> Result<(), Trap> {
        cpu.need_sse()
    }

    fn load(cpu: &mut Cpu, op: &Op, width: Width) -> Result<__m128i, Trap> {
        let la = Self::address(cpu, op, width, false)?;
        Ok(vector(match width {
            Width::Aligned | Width::Whole => cpu.load128(la)?,
            Width::Quad => u128::from(cpu.load::<u64>(la)?),
            Width::Double => u128::from(cpu.load::<u32>(la)?),
        }))
    }

    fn store(cpu: &mut Cpu, op: &Op, width: Width, value: __m128i) -> Result<(), Trap> {
        let la = Self::address(cpu, op, width, true)?;
        match width {
            Width::Aligned | Width::Whole => cpu.store128(la, bits(value)),
            Width::Quad => cpu.store(la, bits(value) as u64),
            Width::Double => cpu.store(la, bits(value) as u32),
        }
    }

    fn compute<T>(cpu: &mut Cpu, f: impl FnOnce() -> T, tiny: impl FnOnce(&T) -> bool) -> Result<T, Trap> {
        watch(cpu, f, tiny)
    }
}

/// The handler that goes the quick way where `op` may, and the full way otherwise.
pub(super) fn choose<Q, F>(op: &Op, quick: Q, full: F) -> Option<Lowered>
where
    Q: Fn(&mut Cpu, &Op) -> Result<(), NotQuick> + Copy + 'static,
    F: Fn(&mut Cpu, &Op) -> Result<(), Trap> + Copy + 'static,
{
    let plain = op.form & form::MEM == 0 || op.form & form::FLAT != 0;
    Lowered::step(if plain { quick_step(quick, full) } else { step(full) })
}

/// The handler of a function that is generic over its [`Access`].
macro_rules! handler {
    ($op:expr, $f:ident $(, $generic:tt)*) => {
        crate::exec::sse::access::choose(
            $op,
            $f::<crate::exec::sse::access::Quick $(, $generic)*>,
            $f::<crate::exec::sse::access::Full $(, $generic)*>,
        )
    };
}
pub(super) use handler;
