//! BT, BTS, BTR, BTC, BSF, BSR, POPCNT.

use std::marker::PhantomData;

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::native::{Flags, NativeWide};
use super::operand::{self, Load, Modify, by_wide_width, width};
use crate::cpu::Cpu;
use crate::fault::Trap;
use crate::flags;
use crate::mem::Word;
use crate::op::{Lowered, Op, Stop, form, next, step};

/// Lowers the instructions of this file.
pub(super) fn lower(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    match insn.mnemonic() {
        Mnemonic::Bt => test::<Test>(insn, op),
        Mnemonic::Bts => test::<Set>(insn, op),
        Mnemonic::Btr => test::<Reset>(insn, op),
        Mnemonic::Btc => test::<Complement>(insn, op),
        Mnemonic::Bsf => scan::<Forward>(insn, op),
        Mnemonic::Bsr => scan::<Reverse>(insn, op),
        Mnemonic::Popcnt => scan::<Population>(insn, op),
        _ => None,
    }
}

/// What happens to the tested bit.
trait BitOperation: 'static {
    const WRITES: bool;
    /// The new value and the flags; `bit` is below the width.
    fn run<T: NativeWide>(a: T, bit: T, flags: Flags) -> (T, Flags);
}

macro_rules! bit_operation {
    ($($name:ident $writes:literal |$a:ident, $bit:ident, $flags:ident| $run:expr;)*) => {$(
        struct $name;
        impl BitOperation for $name {
            const WRITES: bool = $writes;
            #[inline(always)]
            fn run<T: NativeWide>($a: T, $bit: T, $flags: Flags) -> (T, Flags) {
                $run
            }
        }
    )*};
}

bit_operation! {
    Test false |a, bit, flags| (a, T::bt(a, bit, flags));
    Set true |a, bit, flags| T::bts(a, bit, flags);
    Reset true |a, bit, flags| T::btr(a, bit, flags);
    Complement true |a, bit, flags| T::btc(a, bit, flags);
}

fn test<O: BitOperation>(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    let immediate = insn.op1_kind() != OpKind::Register;
    let memory = op.form & form::MEM != 0;
    by_wide_width!(width(insn), |T| {
        match (memory, immediate) {
            (false, false) => Lowered::step(test_register::<O, T, false>),
            (false, true) => Lowered::step(test_register::<O, T, true>),
            (true, true) if O::WRITES => operand::modify::<InMemory<O, T>>(insn, op),
            (true, true) => operand::load::<InMemory<O, T>>(insn, op),
            (true, false) => Lowered::step(step(test_string::<O, T>)),
        }
    })
}

#[inline(always)]
fn bit_number<T: Word>(value: u64) -> T {
    T::from_u64(value & u64::from(T::BITS - 1))
}

/// # Safety
/// As [`Handler`](crate::op::Handler), not the last of its block.
unsafe fn test_register<O: BitOperation, T: NativeWide, const IMMEDIATE: bool>(
    cpu: &mut Cpu,
    op: *const Op,
) -> Stop {
    // SAFETY: `op` is valid and another follows, by the contract.
    unsafe {
        let insn = &*op;
        let bit = bit_number::<T>(if IMMEDIATE { insn.imm } else { cpu.get::<u64>(insn.src) });
        let (result, flags) = O::run(cpu.get::<T>(insn.dst), bit, cpu.arith);
        if O::WRITES {
            cpu.set(insn.dst, result);
        }
        cpu.arith = flags;
        next(cpu, op)
    }
}

/// A bit of the operand, numbered by the immediate.
struct InMemory<O, T>(PhantomData<(O, T)>);

impl<O: BitOperation, T: NativeWide> Load for InMemory<O, T> {
    type Value = T;
    #[inline(always)]
    fn apply(cpu: &mut Cpu, op: &Op, value: T) {
        cpu.arith = O::run(value, bit_number::<T>(op.imm), cpu.arith).1;
    }
}

impl<O: BitOperation, T: NativeWide> Modify for InMemory<O, T> {
    type Value = T;
    type Input = (T, Flags);
    #[inline(always)]
    fn input(cpu: &Cpu, op: &Op) -> (T, Flags) {
        (bit_number(op.imm), cpu.arith)
    }
    #[inline(always)]
    fn compute((bit, flags): (T, Flags), old: T) -> (T, Flags) {
        O::run(old, bit, flags)
    }
    #[inline(always)]
    fn commit(cpu: &mut Cpu, _: &Op, _: Self::Input, _: T, flags: Flags) {
        cpu.arith = flags;
    }
}

/// A bit of the string that begins at the operand: the register's bit number, signed, may lead far from it.
fn test_string<O: BitOperation, T: NativeWide>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let size = size_of::<T>() as u32;
    let number = cpu.get::<T>(op.src).to_i64();
    let distance = (number >> T::BITS.trailing_zeros()).wrapping_mul(i64::from(size)) as u64;
    let mask = if op.form & form::ADDR16 != 0 {
        0xffff
    } else if op.form & form::ADDR32 != 0 {
        0xffff_ffff
    } else {
        u64::MAX
    };
    let offset = cpu.offset(op).wrapping_add(distance) & mask;
    let la = cpu.linear_at(op.seg, offset, size, O::WRITES)?;
    let (bit, flags) = (bit_number::<T>(number as u64), cpu.arith);
    let old = if O::WRITES {
        cpu.update::<T>(la, op.form & form::LOCK != 0, |old| O::run(old, bit, flags).0)?.0
    } else {
        cpu.load::<T>(la)?
    };
    cpu.arith = O::run(old, bit, flags).1;
    Ok(())
}

/// A search or count of bits, into a register.
trait Scan: 'static {
    fn run<T: NativeWide>(a: T, flags: Flags) -> (Option<T>, Flags);
}

struct Forward;
struct Reverse;
struct Population;

/// BSF and BSR leave the destination alone, all of it, when the source is zero.
#[inline(always)]
fn unless_zero<T: NativeWide>(a: T, (result, flags): (T, Flags)) -> (Option<T>, Flags) {
    ((a != T::from_u64(0)).then_some(result), flags)
}

impl Scan for Forward {
    #[inline(always)]
    fn run<T: NativeWide>(a: T, flags: Flags) -> (Option<T>, Flags) {
        unless_zero(a, T::bsf(a, a, flags))
    }
}

impl Scan for Reverse {
    #[inline(always)]
    fn run<T: NativeWide>(a: T, flags: Flags) -> (Option<T>, Flags) {
        unless_zero(a, T::bsr(a, a, flags))
    }
}

impl Scan for Population {
    #[inline(always)]
    fn run<T: NativeWide>(a: T, _: Flags) -> (Option<T>, Flags) {
        let count = a.to_u64().count_ones();
        (Some(T::from_u64(u64::from(count))), if count == 0 { flags::ZF } else { 0 })
    }
}

fn scan<O: Scan>(insn: &Instruction, op: &Op) -> Option<Lowered> {
    by_wide_width!(width(insn), |T| {
        if op.form & form::MEM != 0 {
            operand::load::<ScanMemory<O, T>>(insn, op)
        } else {
            Lowered::step(scan_register::<O, T>)
        }
    })
}

#[inline(always)]
fn finish<O: Scan, T: NativeWide>(cpu: &mut Cpu, op: &Op, value: T) {
    let (result, flags) = O::run(value, cpu.arith);
    if let Some(result) = result {
        cpu.set(op.dst, result);
    }
    cpu.arith = flags;
}

/// # Safety
/// As [`Handler`](crate::op::Handler), not the last of its block.
unsafe fn scan_register<O: Scan, T: NativeWide>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid and another follows, by the contract.
    unsafe {
        let value = cpu.get::<T>((*op).src);
        finish::<O, T>(cpu, &*op, value);
        next(cpu, op)
    }
}

struct ScanMemory<O, T>(PhantomData<(O, T)>);

impl<O: Scan, T: NativeWide> Load for ScanMemory<O, T> {
    type Value = T;
    #[inline(always)]
    fn apply(cpu: &mut Cpu, op: &Op, value: T) {
        finish::<O, T>(cpu, op, value);
    }
}
