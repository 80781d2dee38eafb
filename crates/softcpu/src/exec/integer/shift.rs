//! SHL, SHR, SAR, ROL, ROR, RCL, RCR, SHLD, SHRD.

use std::marker::PhantomData;

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::native::{Flags, Native, NativeWide};
use super::operand::{self, Modify, by_wide_width, by_width, width};
use crate::cpu::Cpu;
use crate::op::{Lowered, Op, Stop, form, next, slot};

/// Lowers the instructions of this file.
pub(super) fn lower(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    match insn.mnemonic() {
        Mnemonic::Shl | Mnemonic::Sal => shift::<Shl>(insn, op),
        Mnemonic::Shr => shift::<Shr>(insn, op),
        Mnemonic::Sar => shift::<Sar>(insn, op),
        Mnemonic::Rol => rotate::<Rol>(insn, op),
        Mnemonic::Ror => rotate::<Ror>(insn, op),
        Mnemonic::Rcl => rotate::<Rcl>(insn, op),
        Mnemonic::Rcr => rotate::<Rcr>(insn, op),
        Mnemonic::Shld => double::<Shld>(insn, op),
        Mnemonic::Shrd => double::<Shrd>(insn, op),
        _ => None,
    }
}

/// A shift or rotation.
trait Counted: 'static {
    fn run<T: Native>(a: T, count: u8, flags: Flags) -> (T, Flags);
}

/// A shift, which writes all flags unless its count is zero.
trait Shift: Counted {
    fn run_some<T: Native>(a: T, count: u8) -> (T, Flags);
    /// The result alone; `count` is below 32, or 64 for 64 bits.
    fn plain<T: Native>(a: T, count: u8) -> T;
}

/// A shift over two registers.
trait Double: 'static {
    fn run<T: NativeWide>(a: T, b: T, count: u8, flags: Flags) -> (T, Flags);
}

macro_rules! counted {
    ($($name:ident $f:ident)*) => {$(
        struct $name;
        impl Counted for $name {
            #[inline(always)]
            fn run<T: Native>(a: T, count: u8, flags: Flags) -> (T, Flags) {
                T::$f(a, count, flags)
            }
        }
    )*};
}

counted!(Shl shl Shr shr Sar sar Rol rol Ror ror Rcl rcl Rcr rcr);

macro_rules! double {
    ($($name:ident $f:ident)*) => {$(
        struct $name;
        impl Double for $name {
            #[inline(always)]
            fn run<T: NativeWide>(a: T, b: T, count: u8, flags: Flags) -> (T, Flags) {
                T::$f(a, b, count, flags)
            }
        }
    )*};
}

double!(Shld shld Shrd shrd);

macro_rules! shift {
    ($($name:ident $some:ident |$a:ident, $count:ident| $plain:expr;)*) => {$(
        impl Shift for $name {
            #[inline(always)]
            fn run_some<T: Native>(a: T, count: u8) -> (T, Flags) {
                T::$some(a, count)
            }
            #[inline(always)]
            fn plain<T: Native>($a: T, $count: u8) -> T {
                T::from_u64($plain)
            }
        }
    )*};
}

shift! {
    Shl shl_some |a, count| a.to_u64() << (count & 63);
    Shr shr_some |a, count| a.to_u64() >> (count & 63);
    Sar sar_some |a, count| (a.to_i64() >> (count & 63)) as u64;
}

/// Where the count comes from.
trait Count: 'static {
    fn get(cpu: &Cpu, op: &Op) -> u8;
}

struct Immediate;
struct InCl;

impl Count for Immediate {
    #[inline(always)]
    fn get(_: &Cpu, op: &Op) -> u8 {
        op.imm as u8
    }
}

impl Count for InCl {
    #[inline(always)]
    fn get(cpu: &Cpu, _: &Op) -> u8 {
        cpu.get(slot::RCX)
    }
}

fn in_register(insn: &Instruction) -> bool {
    insn.op0_kind() == OpKind::Register
}

fn shift<O: Shift>(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    let mask = if width(insn) == 8 { 63 } else { 31 };
    if in_register(insn) && insn.op1_kind() != OpKind::Register && op.imm & mask != 0 {
        op.imm &= mask;
        return by_width!(width(insn), |T| {
            if op.form & form::DEAD_FLAGS != 0 {
                Lowered::step(shift_plain::<O, T>)
            } else {
                Lowered::step(shift_some::<O, T>)
            }
        });
    }
    rotate::<O>(insn, op)
}

/// # Safety
/// As [`Handler`](crate::op::Handler), not the last of its block.
unsafe fn shift_some<O: Shift, T: Native>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid and another follows, by the contract.
    unsafe {
        let (result, flags) = O::run_some(cpu.get::<T>((*op).dst), (*op).imm as u8);
        cpu.set((*op).dst, result);
        cpu.arith = flags;
        next(cpu, op)
    }
}

/// # Safety
/// As [`Handler`](crate::op::Handler), not the last of its block.
unsafe fn shift_plain<O: Shift, T: Native>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid and another follows, by the contract.
    unsafe {
        let result = O::plain(cpu.get::<T>((*op).dst), (*op).imm as u8);
        cpu.set((*op).dst, result);
        next(cpu, op)
    }
}

fn rotate<O: Counted>(insn: &Instruction, op: &Op) -> Option<Lowered> {
    by_width!(width(insn), |T| {
        match (in_register(insn), insn.op1_kind() == OpKind::Register) {
            (true, true) => Lowered::step(counted_register::<O, T, InCl>),
            (true, false) => Lowered::step(counted_register::<O, T, Immediate>),
            (false, true) => operand::modify::<InMemory<O, T, InCl>>(insn, op),
            (false, false) => operand::modify::<InMemory<O, T, Immediate>>(insn, op),
        }
    })
}

/// # Safety
/// As [`Handler`](crate::op::Handler), not the last of its block.
unsafe fn counted_register<O: Counted, T: Native, C: Count>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid and another follows, by the contract.
    unsafe {
        let count = C::get(cpu, &*op);
        let (result, flags) = O::run(cpu.get::<T>((*op).dst), count, cpu.arith);
        cpu.set((*op).dst, result);
        cpu.arith = flags;
        next(cpu, op)
    }
}

struct InMemory<O, T, C>(PhantomData<(O, T, C)>);

impl<O: Counted, T: Native, C: Count> Modify for InMemory<O, T, C> {
    type Value = T;
    type Input = (u8, Flags);
    #[inline(always)]
    fn input(cpu: &Cpu, op: &Op) -> (u8, Flags) {
        (C::get(cpu, op), cpu.arith)
    }
    #[inline(always)]
    fn compute((count, flags): (u8, Flags), old: T) -> (T, Flags) {
        O::run(old, count, flags)
    }
    #[inline(always)]
    fn commit(cpu: &mut Cpu, _: &Op, _: Self::Input, _: T, flags: Flags) {
        cpu.arith = flags;
    }
}

fn double<O: Double>(insn: &Instruction, op: &Op) -> Option<Lowered> {
    by_wide_width!(width(insn), |T| {
        match (in_register(insn), insn.op2_kind() == OpKind::Register) {
            (true, true) => Lowered::step(double_registers::<O, T, InCl>),
            (true, false) => Lowered::step(double_registers::<O, T, Immediate>),
            (false, true) => operand::modify::<DoubleInMemory<O, T, InCl>>(insn, op),
            (false, false) => operand::modify::<DoubleInMemory<O, T, Immediate>>(insn, op),
        }
    })
}

/// # Safety
/// As [`Handler`](crate::op::Handler), not the last of its block.
unsafe fn double_registers<O: Double, T: NativeWide, C: Count>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid and another follows, by the contract.
    unsafe {
        let insn = &*op;
        let count = C::get(cpu, insn);
        let (result, flags) = O::run(cpu.get::<T>(insn.dst), cpu.get::<T>(insn.src), count, cpu.arith);
        cpu.set(insn.dst, result);
        cpu.arith = flags;
        next(cpu, op)
    }
}

struct DoubleInMemory<O, T, C>(PhantomData<(O, T, C)>);

impl<O: Double, T: NativeWide, C: Count> Modify for DoubleInMemory<O, T, C> {
    type Value = T;
    type Input = (T, u8, Flags);
    #[inline(always)]
    fn input(cpu: &Cpu, op: &Op) -> Self::Input {
        (cpu.get(op.src), C::get(cpu, op), cpu.arith)
    }
    #[inline(always)]
    fn compute((b, count, flags): Self::Input, old: T) -> (T, Flags) {
        O::run(old, b, count, flags)
    }
    #[inline(always)]
    fn commit(cpu: &mut Cpu, _: &Op, _: Self::Input, _: T, flags: Flags) {
        cpu.arith = flags;
    }
}
