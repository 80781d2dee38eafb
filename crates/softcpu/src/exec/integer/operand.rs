//! How instructions reach their memory operand.
//!
//! An instruction says what it does with the operand's value ([`Load`], [`Store`], [`Modify`]); the handlers here fetch it.
//! Each comes in a quick form for addresses that need no check — it calls nothing, so it needs no stack frame — and a
//! general one, to which the quick form gives up its place when the TLB does not answer at once.

use iced_x86::{CodeSize, Instruction, OpKind};

use super::native::Flags;
use crate::cpu::Cpu;
use crate::mem::Word;
use crate::op::{Handler, Lowered, Op, Stop, form, next, seg, trapped};

/// How a memory operand's linear address comes about where nothing needs checking.
pub(super) trait Address: 'static {
    /// The linear address.
    fn linear(cpu: &Cpu, op: &Op) -> u64;
}

/// 64-bit mode, 64-bit address, no segment base.
pub(super) struct Flat;
/// 64-bit mode, 64-bit address, relative to FS or GS.
pub(super) struct Based;

impl Address for Flat {
    #[inline(always)]
    fn linear(cpu: &Cpu, op: &Op) -> u64 {
        cpu.flat(op)
    }
}

impl Address for Based {
    #[inline(always)]
    fn linear(cpu: &Cpu, op: &Op) -> u64 {
        let base = if op.seg == seg::GS { &cpu.segs[5] } else { &cpu.segs[4] }.base;
        base.wrapping_add(cpu.flat(op))
    }
}

/// An instruction that reads memory, and with the value cannot fail.
pub(super) trait Load: 'static {
    type Value: Word;
    fn apply(cpu: &mut Cpu, op: &Op, value: Self::Value);
}

/// An instruction that writes memory and nothing else.
pub(super) trait Store: 'static {
    type Value: Word;
    fn value(cpu: &Cpu, op: &Op) -> Self::Value;
}

/// An instruction that reads, computes and writes back.
pub(super) trait Modify: 'static {
    type Value: Word;
    /// What it needs besides the operand.
    type Input: Copy;
    fn input(cpu: &Cpu, op: &Op) -> Self::Input;
    /// The operand's new value and the flags.
    fn compute(input: Self::Input, old: Self::Value) -> (Self::Value, Flags);
    /// Everything that changes besides the operand.
    fn commit(cpu: &mut Cpu, op: &Op, input: Self::Input, old: Self::Value, flags: Flags);
}

/// How the address of `op`'s memory operand comes about.
fn choose(insn: &Instruction, op: &Op, flat: Handler, based: Handler, general: Handler) -> Handler {
    let full = op.form & (form::ADDR16 | form::ADDR32) == 0;
    if op.form & form::FLAT != 0 {
        flat
    } else if full && insn.code_size() == CodeSize::Code64 && op.seg >= seg::FS {
        based
    } else {
        general
    }
}

/// The handler for a [`Load`].
pub(super) fn load<L: Load>(insn: &Instruction, op: &Op) -> Option<Lowered> {
    Lowered::step(choose(insn, op, load_quick::<L, Flat>, load_quick::<L, Based>, load_general::<L>))
}

/// The handler for a [`Store`].
pub(super) fn store<S: Store>(insn: &Instruction, op: &Op) -> Option<Lowered> {
    Lowered::step(choose(insn, op, store_quick::<S, Flat>, store_quick::<S, Based>, store_general::<S>))
}

/// The handler for a [`Modify`].
pub(super) fn modify<M: Modify>(insn: &Instruction, op: &Op) -> Option<Lowered> {
    if op.form & form::LOCK != 0 {
        return modify_locked::<M>();
    }
    Lowered::step(choose(
        insn,
        op,
        modify_quick::<M, Flat>,
        modify_quick::<M, Based>,
        modify_general::<M, false>,
    ))
}

/// The handler for a [`Modify`] that is atomic towards other processors.
pub(super) fn modify_locked<M: Modify>() -> Option<Lowered> {
    Lowered::step(modify_general::<M, true>)
}

/// # Safety
/// As [`Handler`], not the last of its block.
unsafe fn load_quick<L: Load, A: Address>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid by the contract, and what the TLB gives is readable.
    unsafe {
        let Some(at) = cpu.readable::<L::Value>(A::linear(cpu, &*op)) else {
            return load_general::<L>(cpu, op);
        };
        let value = L::Value::load(at);
        L::apply(cpu, &*op, value);
        next(cpu, op)
    }
}

/// # Safety
/// As [`Handler`], not the last of its block.
#[inline(never)]
pub(super) unsafe fn load_general<L: Load>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid by the contract.
    let insn = unsafe { &*op };
    let loaded = match cpu.linear(insn, size_of::<L::Value>() as u32, false) {
        Ok(la) => cpu.load::<L::Value>(la),
        Err(trap) => Err(trap),
    };
    match loaded {
        Ok(value) => {
            L::apply(cpu, insn, value);
            // SAFETY: another op follows by the contract.
            unsafe { next(cpu, op) }
        }
        Err(_) => trapped(cpu, op),
    }
}

/// # Safety
/// As [`Handler`], not the last of its block.
unsafe fn store_quick<S: Store, A: Address>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid by the contract, and what the TLB gives is writable.
    unsafe {
        let Some(at) = cpu.writable::<S::Value>(A::linear(cpu, &*op)) else {
            return store_general::<S>(cpu, op);
        };
        S::Value::store(at, S::value(cpu, &*op));
        next(cpu, op)
    }
}

/// # Safety
/// As [`Handler`], not the last of its block.
#[inline(never)]
unsafe fn store_general<S: Store>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid by the contract.
    let insn = unsafe { &*op };
    let stored = match cpu.linear(insn, size_of::<S::Value>() as u32, true) {
        Ok(la) => {
            let value = S::value(cpu, insn);
            cpu.store::<S::Value>(la, value)
        }
        Err(trap) => Err(trap),
    };
    match stored {
        // SAFETY: another op follows by the contract.
        Ok(()) => unsafe { next(cpu, op) },
        Err(_) => trapped(cpu, op),
    }
}

/// # Safety
/// As [`Handler`], not the last of its block.
unsafe fn modify_quick<M: Modify, A: Address>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid by the contract, and what the TLB gives is readable and writable.
    unsafe {
        let Some(at) = cpu.writable::<M::Value>(A::linear(cpu, &*op)) else {
            return modify_general::<M, false>(cpu, op);
        };
        let input = M::input(cpu, &*op);
        let old = M::Value::load(at);
        let (new, flags) = M::compute(input, old);
        M::Value::store(at, new);
        M::commit(cpu, &*op, input, old, flags);
        next(cpu, op)
    }
}

/// # Safety
/// As [`Handler`], not the last of its block.
#[inline(never)]
unsafe fn modify_general<M: Modify, const LOCK: bool>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid by the contract.
    let insn = unsafe { &*op };
    let input = M::input(cpu, insn);
    let updated = match cpu.linear(insn, size_of::<M::Value>() as u32, true) {
        Ok(la) => cpu.update::<M::Value>(la, LOCK, |old| M::compute(input, old).0),
        Err(trap) => Err(trap),
    };
    match updated {
        Ok((old, _)) => {
            let (_, flags) = M::compute(input, old);
            M::commit(cpu, insn, input, old, flags);
            // SAFETY: another op follows by the contract.
            unsafe { next(cpu, op) }
        }
        Err(_) => trapped(cpu, op),
    }
}

/// The width in bytes of `insn`'s first operand.
pub(super) fn width(insn: &Instruction) -> usize {
    if insn.op0_kind() == OpKind::Register { insn.op0_register().size() } else { insn.memory_size().size() }
}

/// Calls a generic function with the operand type of a width in bytes.
macro_rules! by_width {
    ($width:expr, |$t:ident| $body:expr) => {
        match $width {
            1 => {
                type $t = u8;
                $body
            }
            2 => {
                type $t = u16;
                $body
            }
            4 => {
                type $t = u32;
                $body
            }
            8 => {
                type $t = u64;
                $body
            }
            _ => None,
        }
    };
}

/// As [`by_width`] for what there is in 16, 32 and 64 bits only.
macro_rules! by_wide_width {
    ($width:expr, |$t:ident| $body:expr) => {
        match $width {
            2 => {
                type $t = u16;
                $body
            }
            4 => {
                type $t = u32;
                $body
            }
            8 => {
                type $t = u64;
                $body
            }
            _ => None,
        }
    };
}

/// The value of a generic handler for each of the sixteen conditions.
macro_rules! by_condition {
    ($cc:expr, |$c:ident| $body:expr) => {
        match $cc {
            0 => {
                const $c: u8 = 0;
                $body
            }
            1 => {
                const $c: u8 = 1;
                $body
            }
            2 => {
                const $c: u8 = 2;
                $body
            }
            3 => {
                const $c: u8 = 3;
                $body
            }
            4 => {
                const $c: u8 = 4;
                $body
            }
            5 => {
                const $c: u8 = 5;
                $body
            }
            6 => {
                const $c: u8 = 6;
                $body
            }
            7 => {
                const $c: u8 = 7;
                $body
            }
            8 => {
                const $c: u8 = 8;
                $body
            }
            9 => {
                const $c: u8 = 9;
                $body
            }
            10 => {
                const $c: u8 = 10;
                $body
            }
            11 => {
                const $c: u8 = 11;
                $body
            }
            12 => {
                const $c: u8 = 12;
                $body
            }
            13 => {
                const $c: u8 = 13;
                $body
            }
            14 => {
                const $c: u8 = 14;
                $body
            }
            _ => {
                const $c: u8 = 15;
                $body
            }
        }
    };
}
pub(in crate::exec) use by_condition;
pub(super) use {by_wide_width, by_width};
