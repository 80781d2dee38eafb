//! XCHG, XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B.

use std::marker::PhantomData;

use iced_x86::{Instruction, Mnemonic};

use super::native::{Flags, Native};
use super::operand::{self, Modify, by_width, width};
use crate::cpu::Cpu;
use crate::fault::Trap;
use crate::flags::ZF;
use crate::op::{Lowered, Op, Stop, form, next, slot, step};

/// Lowers the instructions of this file.
pub(super) fn lower(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    let memory = op.form & form::MEM != 0;
    match insn.mnemonic() {
        Mnemonic::Xchg => by_width!(width(insn), |T| {
            if memory { operand::modify_locked::<Exchange<T>>() } else { Lowered::step(exchange::<T>) }
        }),
        Mnemonic::Xadd => by_width!(width(insn), |T| {
            if memory {
                operand::modify::<ExchangeAdd<T>>(insn, op)
            } else {
                Lowered::step(exchange_add::<T>)
            }
        }),
        Mnemonic::Cmpxchg => by_width!(width(insn), |T| {
            if memory {
                operand::modify::<CompareExchange<T>>(insn, op)
            } else {
                Lowered::step(compare_exchange::<T>)
            }
        }),
        Mnemonic::Cmpxchg8b => Lowered::step(step(compare_exchange_8)),
        Mnemonic::Cmpxchg16b => Lowered::step(step(compare_exchange_16)),
        _ => None,
    }
}

/// # Safety
/// As [`Handler`](crate::op::Handler), not the last of its block.
unsafe fn exchange<T: Native>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid and another follows, by the contract.
    unsafe {
        let (a, b) = (cpu.get::<T>((*op).dst), cpu.get::<T>((*op).src));
        cpu.set((*op).dst, b);
        cpu.set((*op).src, a);
        next(cpu, op)
    }
}

/// # Safety
/// As [`Handler`](crate::op::Handler), not the last of its block.
unsafe fn exchange_add<T: Native>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid and another follows, by the contract.
    unsafe {
        let (a, b) = (cpu.get::<T>((*op).dst), cpu.get::<T>((*op).src));
        let (sum, flags) = T::add(a, b);
        cpu.set((*op).src, a);
        cpu.set((*op).dst, sum);
        cpu.arith = flags;
        next(cpu, op)
    }
}

/// # Safety
/// As [`Handler`](crate::op::Handler), not the last of its block.
unsafe fn compare_exchange<T: Native>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid and another follows, by the contract.
    unsafe {
        let (accumulator, old) = (cpu.get::<T>(slot::RAX), cpu.get::<T>((*op).dst));
        cpu.arith = T::sub(accumulator, old).1;
        if accumulator == old {
            let new = cpu.get::<T>((*op).src);
            cpu.set((*op).dst, new);
        } else {
            cpu.set((*op).dst, old);
            cpu.set(slot::RAX, old);
        }
        next(cpu, op)
    }
}

/// XCHG with memory.
struct Exchange<T>(PhantomData<T>);

impl<T: Native> Modify for Exchange<T> {
    type Value = T;
    type Input = T;
    #[inline(always)]
    fn input(cpu: &Cpu, op: &Op) -> T {
        cpu.get(op.src)
    }
    #[inline(always)]
    fn compute(new: T, _: T) -> (T, Flags) {
        (new, 0)
    }
    #[inline(always)]
    fn commit(cpu: &mut Cpu, op: &Op, _: T, old: T, _: Flags) {
        cpu.set(op.src, old);
    }
}

/// XADD with memory.
struct ExchangeAdd<T>(PhantomData<T>);

impl<T: Native> Modify for ExchangeAdd<T> {
    type Value = T;
    type Input = T;
    #[inline(always)]
    fn input(cpu: &Cpu, op: &Op) -> T {
        cpu.get(op.src)
    }
    #[inline(always)]
    fn compute(addend: T, old: T) -> (T, Flags) {
        T::add(old, addend)
    }
    #[inline(always)]
    fn commit(cpu: &mut Cpu, op: &Op, _: T, old: T, flags: Flags) {
        cpu.set(op.src, old);
        cpu.arith = flags;
    }
}

/// CMPXCHG with memory, which is written even when it is not equal.
struct CompareExchange<T>(PhantomData<T>);

impl<T: Native> Modify for CompareExchange<T> {
    type Value = T;
    type Input = (T, T);
    #[inline(always)]
    fn input(cpu: &Cpu, op: &Op) -> (T, T) {
        (cpu.get(slot::RAX), cpu.get(op.src))
    }
    #[inline(always)]
    fn compute((accumulator, new): (T, T), old: T) -> (T, Flags) {
        let (_, flags) = T::sub(accumulator, old);
        (if accumulator == old { new } else { old }, flags)
    }
    #[inline(always)]
    fn commit(cpu: &mut Cpu, _: &Op, (accumulator, _): (T, T), old: T, flags: Flags) {
        if accumulator != old {
            cpu.set(slot::RAX, old);
        }
        cpu.arith = flags;
    }
}

/// ZF tells whether it was equal; the other flags stay.
fn set_equal(cpu: &mut Cpu, equal: bool) {
    cpu.arith = cpu.arith & !ZF | if equal { ZF } else { 0 };
}

fn compare_exchange_8(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let pair = |cpu: &Cpu, low, high| u64::from(cpu.get::<u32>(low)) | u64::from(cpu.get::<u32>(high)) << 32;
    let (expected, new) = (pair(cpu, slot::RAX, slot::RDX), pair(cpu, slot::RBX, slot::RCX));
    let la = cpu.linear(op, 8, true)?;
    let lock = op.form & form::LOCK != 0;
    let (old, _) = cpu.update::<u64>(la, lock, |old| if old == expected { new } else { old })?;
    if old != expected {
        cpu.set(slot::RAX, old as u32);
        cpu.set(slot::RDX, (old >> 32) as u32);
    }
    set_equal(cpu, old == expected);
    Ok(())
}

fn compare_exchange_16(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let pair =
        |cpu: &Cpu, low, high| u128::from(cpu.get::<u64>(low)) | u128::from(cpu.get::<u64>(high)) << 64;
    let (expected, new) = (pair(cpu, slot::RAX, slot::RDX), pair(cpu, slot::RBX, slot::RCX));
    let la = cpu.linear(op, 16, true)?;
    if la & 15 != 0 {
        return Err(cpu.gp0());
    }
    let old = cpu.compare_exchange128(la, expected, new)?;
    if old != expected {
        cpu.set(slot::RAX, old as u64);
        cpu.set(slot::RDX, (old >> 64) as u64);
    }
    set_equal(cpu, old == expected);
    Ok(())
}
