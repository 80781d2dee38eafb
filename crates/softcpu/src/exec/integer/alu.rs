//! ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST, INC, DEC, NEG, NOT.

use std::marker::PhantomData;

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::native::{Flags, Native};
use super::operand::{self, Load, Modify, by_width, width};
use crate::cpu::Cpu;
use crate::op::{Handler, Lowered, Op, Stop, form, next};

/// Lowers the instructions of this file.
pub(super) fn lower(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    match insn.mnemonic() {
        Mnemonic::Add => binary::<Add>(insn, op),
        Mnemonic::Or => binary::<Or>(insn, op),
        Mnemonic::Adc => binary::<Adc>(insn, op),
        Mnemonic::Sbb => binary::<Sbb>(insn, op),
        Mnemonic::And => binary::<And>(insn, op),
        Mnemonic::Sub => binary::<Sub>(insn, op),
        Mnemonic::Xor if zeroes(insn) => by_width!(width(insn), |T| Lowered::step(zero::<T>)),
        Mnemonic::Xor => binary::<Xor>(insn, op),
        Mnemonic::Cmp => compare::<Sub>(insn, op),
        Mnemonic::Test => compare::<And>(insn, op),
        Mnemonic::Inc => unary::<Inc>(insn, op),
        Mnemonic::Dec => unary::<Dec>(insn, op),
        Mnemonic::Neg => unary::<Neg>(insn, op),
        Mnemonic::Not => unary::<Not>(insn, op),
        _ => None,
    }
}

/// An operation with two operands.
pub(super) trait Binary: 'static {
    fn run<T: Native>(a: T, b: T, flags: Flags) -> (T, Flags);
    /// The same without flags.
    fn plain<T: Native>(a: T, b: T, flags: Flags) -> T;
}

/// An operation with one operand.
trait Unary: 'static {
    fn run<T: Native>(a: T, flags: Flags) -> (T, Flags);
}

macro_rules! binary {
    ($($name:ident $f:ident |$a:ident, $b:ident| $plain:expr;)*) => {$(
        pub(super) struct $name;
        impl Binary for $name {
            #[inline(always)]
            fn run<T: Native>(a: T, b: T, _: Flags) -> (T, Flags) {
                T::$f(a, b)
            }
            #[inline(always)]
            fn plain<T: Native>($a: T, $b: T, _: Flags) -> T {
                $plain
            }
        }
    )*};
}

binary! {
    Add add |a, b| a.plus(b);
    Or or |a, b| a | b;
    And and |a, b| a & b;
    Sub sub |a, b| a.minus(b);
    Xor xor |a, b| a ^ b;
}

macro_rules! binary_with_carry {
    ($($name:ident $f:ident)*) => {$(
        pub(super) struct $name;
        impl Binary for $name {
            #[inline(always)]
            fn run<T: Native>(a: T, b: T, flags: Flags) -> (T, Flags) {
                T::$f(a, b, flags)
            }
            #[inline(always)]
            fn plain<T: Native>(a: T, b: T, flags: Flags) -> T {
                T::$f(a, b, flags).0
            }
        }
    )*};
}

binary_with_carry!(Adc adc Sbb sbb);

macro_rules! unary {
    ($($name:ident |$a:ident, $flags:ident| $run:expr;)*) => {$(
        struct $name;
        impl Unary for $name {
            #[inline(always)]
            fn run<T: Native>($a: T, $flags: Flags) -> (T, Flags) {
                $run
            }
        }
    )*};
}

unary! {
    Inc |a, flags| T::inc(a, flags);
    Dec |a, flags| T::dec(a, flags);
    Neg |a, _flags| T::neg(a);
    Not |a, flags| (!a, flags);
}

/// Where the second operand comes from.
pub(super) trait Source: 'static {
    fn get<T: Native>(cpu: &Cpu, op: &Op) -> T;
}

pub(super) struct Register;
pub(super) struct Immediate;

impl Source for Register {
    #[inline(always)]
    fn get<T: Native>(cpu: &Cpu, op: &Op) -> T {
        cpu.get(op.src)
    }
}

impl Source for Immediate {
    #[inline(always)]
    fn get<T: Native>(_: &Cpu, op: &Op) -> T {
        T::from_u64(op.imm)
    }
}

fn has_register(insn: &Instruction, n: u32) -> bool {
    insn.op_kind(n) == OpKind::Register
}

/// XOR of a register with itself, the usual way to clear it.
fn zeroes(insn: &Instruction) -> bool {
    has_register(insn, 0) && has_register(insn, 1) && insn.op0_register() == insn.op1_register()
}

/// # Safety
/// As [`Handler`], not the last of its block.
unsafe fn zero<T: Native>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid and another follows, by the contract.
    unsafe {
        cpu.set((*op).dst, T::from_u64(0));
        cpu.arith = crate::flags::ZF | crate::flags::PF;
        next(cpu, op)
    }
}

fn binary<O: Binary>(insn: &Instruction, op: &Op) -> Option<Lowered> {
    by_width!(width(insn), |T| {
        if has_register(insn, 0) && has_register(insn, 1) {
            Lowered::step(registers::<O, T, Register>(op))
        } else if has_register(insn, 0) && op.form & form::MEM == 0 {
            Lowered::step(registers::<O, T, Immediate>(op))
        } else if has_register(insn, 0) {
            operand::load::<WithMemory<O, T>>(insn, op)
        } else if has_register(insn, 1) {
            operand::modify::<InMemory<O, T, Register>>(insn, op)
        } else {
            operand::modify::<InMemory<O, T, Immediate>>(insn, op)
        }
    })
}

fn registers<O: Binary, T: Native, S: Source>(op: &Op) -> Handler {
    if op.form & form::DEAD_FLAGS != 0 { binary_plain::<O, T, S> } else { binary_registers::<O, T, S> }
}

/// # Safety
/// As [`Handler`], not the last of its block.
unsafe fn binary_registers<O: Binary, T: Native, S: Source>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid and another follows, by the contract.
    unsafe {
        let insn = &*op;
        let (result, flags) = O::run(cpu.get::<T>(insn.dst), S::get::<T>(cpu, insn), cpu.arith);
        cpu.set(insn.dst, result);
        cpu.arith = flags;
        next(cpu, op)
    }
}

/// # Safety
/// As [`Handler`], not the last of its block.
unsafe fn binary_plain<O: Binary, T: Native, S: Source>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid and another follows, by the contract.
    unsafe {
        let insn = &*op;
        let result = O::plain(cpu.get::<T>(insn.dst), S::get::<T>(cpu, insn), cpu.arith);
        cpu.set(insn.dst, result);
        next(cpu, op)
    }
}

/// `register OP= memory`.
struct WithMemory<O, T>(PhantomData<(O, T)>);

impl<O: Binary, T: Native> Load for WithMemory<O, T> {
    type Value = T;
    #[inline(always)]
    fn apply(cpu: &mut Cpu, op: &Op, value: T) {
        let (result, flags) = O::run(cpu.get::<T>(op.dst), value, cpu.arith);
        cpu.set(op.dst, result);
        cpu.arith = flags;
    }
}

/// `memory OP= source`.
struct InMemory<O, T, S>(PhantomData<(O, T, S)>);

impl<O: Binary, T: Native, S: Source> Modify for InMemory<O, T, S> {
    type Value = T;
    type Input = (T, Flags);
    #[inline(always)]
    fn input(cpu: &Cpu, op: &Op) -> (T, Flags) {
        (S::get(cpu, op), cpu.arith)
    }
    #[inline(always)]
    fn compute((b, flags): (T, Flags), old: T) -> (T, Flags) {
        O::run(old, b, flags)
    }
    #[inline(always)]
    fn commit(cpu: &mut Cpu, _: &Op, _: Self::Input, _: T, flags: Flags) {
        cpu.arith = flags;
    }
}

fn compare<O: Binary>(insn: &Instruction, op: &Op) -> Option<Lowered> {
    by_width!(width(insn), |T| {
        if has_register(insn, 0) && has_register(insn, 1) {
            Lowered::step(compare_registers::<O, T, Register>)
        } else if has_register(insn, 0) && op.form & form::MEM == 0 {
            Lowered::step(compare_registers::<O, T, Immediate>)
        } else if has_register(insn, 0) {
            operand::load::<RegisterToMemory<O, T>>(insn, op)
        } else if has_register(insn, 1) {
            operand::load::<MemoryTo<O, T, Register>>(insn, op)
        } else {
            operand::load::<MemoryTo<O, T, Immediate>>(insn, op)
        }
    })
}

/// # Safety
/// As [`Handler`], not the last of its block.
pub(super) unsafe fn compare_registers<O: Binary, T: Native, S: Source>(
    cpu: &mut Cpu,
    op: *const Op,
) -> Stop {
    // SAFETY: `op` is valid and another follows, by the contract.
    unsafe {
        let insn = &*op;
        let (_, flags) = O::run(cpu.get::<T>(insn.dst), S::get::<T>(cpu, insn), cpu.arith);
        cpu.arith = flags;
        next(cpu, op)
    }
}

/// Compares a register to memory.
struct RegisterToMemory<O, T>(PhantomData<(O, T)>);

impl<O: Binary, T: Native> Load for RegisterToMemory<O, T> {
    type Value = T;
    #[inline(always)]
    fn apply(cpu: &mut Cpu, op: &Op, value: T) {
        cpu.arith = O::run(cpu.get::<T>(op.dst), value, cpu.arith).1;
    }
}

/// Compares memory to a register or an immediate.
pub(super) struct MemoryTo<O, T, S>(PhantomData<(O, T, S)>);

impl<O: Binary, T: Native, S: Source> Load for MemoryTo<O, T, S> {
    type Value = T;
    #[inline(always)]
    fn apply(cpu: &mut Cpu, op: &Op, value: T) {
        cpu.arith = O::run(value, S::get::<T>(cpu, op), cpu.arith).1;
    }
}

fn unary<O: Unary>(insn: &Instruction, op: &Op) -> Option<Lowered> {
    by_width!(width(insn), |T| {
        if has_register(insn, 0) {
            Lowered::step(unary_register::<O, T>)
        } else {
            operand::modify::<UnaryInMemory<O, T>>(insn, op)
        }
    })
}

/// # Safety
/// As [`Handler`], not the last of its block.
unsafe fn unary_register<O: Unary, T: Native>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid and another follows, by the contract.
    unsafe {
        let (result, flags) = O::run(cpu.get::<T>((*op).dst), cpu.arith);
        cpu.set((*op).dst, result);
        cpu.arith = flags;
        next(cpu, op)
    }
}

/// `OP memory`.
struct UnaryInMemory<O, T>(PhantomData<(O, T)>);

impl<O: Unary, T: Native> Modify for UnaryInMemory<O, T> {
    type Value = T;
    type Input = Flags;
    #[inline(always)]
    fn input(cpu: &Cpu, _: &Op) -> Flags {
        cpu.arith
    }
    #[inline(always)]
    fn compute(flags: Flags, old: T) -> (T, Flags) {
        O::run(old, flags)
    }
    #[inline(always)]
    fn commit(cpu: &mut Cpu, _: &Op, _: Flags, _: T, flags: Flags) {
        cpu.arith = flags;
    }
}
