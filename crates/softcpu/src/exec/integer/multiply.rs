//! MUL, IMUL, DIV, IDIV.

use std::arch::asm;
use std::marker::PhantomData;

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::native::{Flags, Native, NativeWide};
use super::operand::{self, Load, by_wide_width, width};
use crate::cpu::Cpu;
use crate::fault::{Fault, Trap, vector};
use crate::mem::Word;
use crate::op::{Lowered, Op, Stop, form, next, slot, step};

/// Lowers the instructions of this file.
pub(super) fn lower(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    match insn.mnemonic() {
        Mnemonic::Imul if insn.op_count() > 1 => truncated(insn, op),
        Mnemonic::Mul => whole::<false>(insn, op),
        Mnemonic::Imul => whole::<true>(insn, op),
        Mnemonic::Div => divide::<false>(insn, op),
        Mnemonic::Idiv => divide::<true>(insn, op),
        _ => None,
    }
}

/// IMUL with two and three operands.
fn truncated(insn: &Instruction, op: &Op) -> Option<Lowered> {
    let memory = op.form & form::MEM != 0;
    by_wide_width!(width(insn), |T| {
        match (memory, insn.op_count()) {
            (false, 2) => Lowered::step(imul_registers::<T, false>),
            (false, _) => Lowered::step(imul_registers::<T, true>),
            (true, 2) => operand::load::<ImulMemory<T, false>>(insn, op),
            (true, _) => operand::load::<ImulMemory<T, true>>(insn, op),
        }
    })
}

#[inline(always)]
fn other_factor<T: NativeWide, const IMMEDIATE: bool>(cpu: &Cpu, op: &Op) -> T {
    if IMMEDIATE { T::from_u64(op.imm) } else { cpu.get(op.dst) }
}

/// # Safety
/// As [`Handler`](crate::op::Handler), not the last of its block.
unsafe fn imul_registers<T: NativeWide, const IMMEDIATE: bool>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid and another follows, by the contract.
    unsafe {
        let insn = &*op;
        let (product, flags) = T::imul(cpu.get(insn.src), other_factor::<T, IMMEDIATE>(cpu, insn));
        cpu.set(insn.dst, product);
        cpu.arith = flags;
        next(cpu, op)
    }
}

struct ImulMemory<T, const IMMEDIATE: bool>(PhantomData<T>);

impl<T: NativeWide, const IMMEDIATE: bool> Load for ImulMemory<T, IMMEDIATE> {
    type Value = T;
    #[inline(always)]
    fn apply(cpu: &mut Cpu, op: &Op, value: T) {
        let (product, flags) = T::imul(value, other_factor::<T, IMMEDIATE>(cpu, op));
        cpu.set(op.dst, product);
        cpu.arith = flags;
    }
}

/// Multiplication of the accumulator into twice its width.
trait Multiply: Native {
    fn multiply<const SIGNED: bool>(cpu: &mut Cpu, factor: Self);
}

macro_rules! multiply_wide {
    ($($t:ident)*) => {$(
        impl Multiply for $t {
            #[inline(always)]
            fn multiply<const SIGNED: bool>(cpu: &mut Cpu, factor: Self) {
                let a = cpu.get::<$t>(slot::RAX);
                let (low, high, flags) =
                    if SIGNED { <$t>::imul_wide(a, factor) } else { <$t>::mul_wide(a, factor) };
                cpu.set(slot::RAX, low);
                cpu.set(slot::RDX, high);
                cpu.arith = flags;
            }
        }
    )*};
}

multiply_wide!(u16 u32 u64);

impl Multiply for u8 {
    fn multiply<const SIGNED: bool>(cpu: &mut Cpu, factor: Self) {
        let a = cpu.get::<u8>(slot::RAX);
        let (product, flags) = if SIGNED { imul8(a, factor) } else { mul8(a, factor) };
        cpu.set(slot::RAX, product);
        cpu.arith = flags;
    }
}

macro_rules! multiply8 {
    ($($name:ident $mnemonic:literal)*) => {$(
        fn $name(a: u8, b: u8) -> (u16, Flags) {
            let flags: u64;
            let product: u16;
            // SAFETY: works on registers only.
            unsafe {
                asm!(
                    concat!($mnemonic, " {b}"),
                    "mov {flags}, rax",
                    "lahf",
                    "seto al",
                    "xchg rax, {flags}",
                    b = in(reg_byte) b, flags = out(reg) flags, inout("ax") u16::from(a) => product,
                    options(pure, nomem, nostack)
                );
            }
            (product, flags as Flags)
        }
    )*};
}

multiply8!(mul8 "mul" imul8 "imul");

fn whole<const SIGNED: bool>(insn: &Instruction, op: &Op) -> Option<Lowered> {
    operand::by_width!(width(insn), |T| {
        if insn.op0_kind() == OpKind::Register {
            Lowered::step(multiply_register::<T, SIGNED>)
        } else {
            operand::load::<MultiplyMemory<T, SIGNED>>(insn, op)
        }
    })
}

/// # Safety
/// As [`Handler`](crate::op::Handler), not the last of its block.
unsafe fn multiply_register<T: Multiply, const SIGNED: bool>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid and another follows, by the contract.
    unsafe {
        let factor = cpu.get::<T>((*op).dst);
        T::multiply::<SIGNED>(cpu, factor);
        next(cpu, op)
    }
}

struct MultiplyMemory<T, const SIGNED: bool>(PhantomData<T>);

impl<T: Multiply, const SIGNED: bool> Load for MultiplyMemory<T, SIGNED> {
    type Value = T;
    #[inline(always)]
    fn apply(cpu: &mut Cpu, _: &Op, value: T) {
        T::multiply::<SIGNED>(cpu, value);
    }
}

/// Division of twice a width by that width: quotient and remainder, `None` where the quotient does not fit or the divisor
/// is zero.
trait Divide: Word {
    fn unsigned(high: Self, low: Self, divisor: Self) -> Option<(Self, Self)>;
    fn signed(high: Self, low: Self, divisor: Self) -> Option<(Self, Self)>;
}

macro_rules! divide_narrow {
    ($($t:ident $signed:ident)*) => {$(
        impl Divide for $t {
            #[inline(always)]
            fn unsigned(high: Self, low: Self, divisor: Self) -> Option<(Self, Self)> {
                if high >= divisor {
                    return None;
                }
                let (n, d) = (u64::from(high) << $t::BITS | u64::from(low), u64::from(divisor));
                Some(((n / d) as $t, (n % d) as $t))
            }
            #[inline(always)]
            fn signed(high: Self, low: Self, divisor: Self) -> Option<(Self, Self)> {
                let n = i64::from(high as $signed) << $t::BITS | i64::from(low);
                let d = i64::from(divisor as $signed);
                let quotient = $signed::try_from(n.checked_div(d)?).ok()?;
                Some((quotient as $t, n.wrapping_rem(d) as $t))
            }
        }
    )*};
}

divide_narrow!(u8 i8 u16 i16 u32 i32);

impl Divide for u64 {
    #[inline(always)]
    fn unsigned(high: Self, low: Self, divisor: Self) -> Option<(Self, Self)> {
        if high >= divisor {
            return None;
        }
        let (quotient, remainder);
        // SAFETY: the quotient fits (just checked), so DIV does not fault.
        unsafe {
            asm!(
                "div {d}",
                d = in(reg) divisor, inout("rax") low => quotient, inout("rdx") high => remainder,
                options(pure, nomem, nostack)
            );
        }
        Some((quotient, remainder))
    }

    #[inline(always)]
    fn signed(high: Self, low: Self, divisor: Self) -> Option<(Self, Self)> {
        let n = (u128::from(high) << 64 | u128::from(low)) as i128;
        let magnitude = n.unsigned_abs();
        let negative = (high ^ divisor) >> 63 != 0;
        let (quotient, remainder) =
            Self::unsigned((magnitude >> 64) as u64, magnitude as u64, (divisor as i64).unsigned_abs())?;
        let most = i64::MAX as u64 + u64::from(negative);
        if quotient > most {
            return None;
        }
        let signed = |v: u64, negative: bool| if negative { v.wrapping_neg() } else { v };
        Some((signed(quotient, negative), signed(remainder, n < 0)))
    }
}

/// Where DIV finds the upper half of its dividend and leaves the remainder.
const fn high_half<T>() -> u8 {
    if size_of::<T>() == 1 { slot::RAX + 1 } else { slot::RDX }
}

fn divide<const SIGNED: bool>(insn: &Instruction, op: &Op) -> Option<Lowered> {
    let memory = op.form & form::MEM != 0;
    operand::by_width!(width(insn), |T| {
        Lowered::step(if memory {
            step(divide_memory::<T, SIGNED>)
        } else {
            step(divide_register::<T, SIGNED>)
        })
    })
}

fn divide_register<T: Divide, const SIGNED: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let divisor = cpu.get::<T>(op.dst);
    divide_by::<T, SIGNED>(cpu, divisor)
}

fn divide_memory<T: Divide, const SIGNED: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let la = cpu.linear(op, size_of::<T>() as u32, false)?;
    let divisor = cpu.load::<T>(la)?;
    divide_by::<T, SIGNED>(cpu, divisor)
}

#[inline(always)]
fn divide_by<T: Divide, const SIGNED: bool>(cpu: &mut Cpu, divisor: T) -> Result<(), Trap> {
    let (high, low) = (cpu.get::<T>(high_half::<T>()), cpu.get::<T>(slot::RAX));
    let result = if SIGNED { T::signed(high, low, divisor) } else { T::unsigned(high, low, divisor) };
    let Some((quotient, remainder)) = result else {
        return Err(cpu.raise(Fault::plain(vector::DE)));
    };
    cpu.set(slot::RAX, quotient);
    cpu.set(high_half::<T>(), remainder);
    Ok(())
}
