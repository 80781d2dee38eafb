//! CMP or TEST with the conditional jump behind it, in one handler: the pair that ends most blocks.
//!
//! The jump's own op stays where it is and lends its operands; a handler that has to leave the comparison to the general
//! one goes on with it.

use std::marker::PhantomData;

use iced_x86::{CodeSize, Instruction, Mnemonic, OpKind};

use super::alu::{And, Binary, Immediate, MemoryTo, Register, Source, Sub, compare_registers};
use super::native::Native;
use super::operand::{by_condition, by_width, load_general, width};
use crate::cache;
use crate::cpu::Cpu;
use crate::exec::control::{NOT_TAKEN, TAKEN};
use crate::flags::condition;
use crate::op::{Handler, Op, Stop, form};

/// The handler of `op`, a comparison, together with the instruction behind it, if that is a conditional jump.
pub(crate) fn fuse(insn: &Instruction, op: &Op, second: &Instruction) -> Option<Handler> {
    if second.code_size() != CodeSize::Code64 || !second.is_jcc_short_or_near() {
        return None;
    }
    let cc = super::condition_code(second);
    match insn.mnemonic() {
        Mnemonic::Cmp => of_operation::<Sub>(insn, op, cc),
        Mnemonic::Test => of_operation::<And>(insn, op, cc),
        _ => None,
    }
}

fn of_operation<O: Binary>(insn: &Instruction, op: &Op, cc: u8) -> Option<Handler> {
    let registers = insn.op1_kind() == OpKind::Register;
    by_width!(width(insn), |T| match (op.form & (form::MEM | form::FLAT), registers) {
        (0, true) => of_condition::<Registers<O, T, Register>>(cc),
        (0, false) => of_condition::<Registers<O, T, Immediate>>(cc),
        (_, false) if op.form & form::FLAT != 0 && insn.op0_kind() == OpKind::Memory =>
            of_condition::<Memory<O, T>>(cc),
        _ => None,
    })
}

fn of_condition<C: Comparison>(cc: u8) -> Option<Handler> {
    Some(by_condition!(cc, |CC| compare_and_jump::<C, CC>))
}

/// A comparison; `None` where it takes more than a look.
trait Comparison: 'static {
    fn flags(cpu: &Cpu, op: &Op) -> Option<u16>;
    /// The comparison's own handler.
    ///
    /// # Safety
    /// As [`Handler`].
    unsafe fn alone(cpu: &mut Cpu, op: *const Op) -> Stop;
}

struct Registers<O, T, S>(PhantomData<(O, T, S)>);

impl<O: Binary, T: Native, S: Source> Comparison for Registers<O, T, S> {
    #[inline(always)]
    fn flags(cpu: &Cpu, op: &Op) -> Option<u16> {
        Some(O::run(cpu.get::<T>(op.dst), S::get::<T>(cpu, op), cpu.arith).1)
    }
    #[inline(always)]
    unsafe fn alone(cpu: &mut Cpu, op: *const Op) -> Stop {
        // SAFETY: the caller's contract is the same.
        unsafe { compare_registers::<O, T, S>(cpu, op) }
    }
}

/// Memory compared to an immediate.
struct Memory<O, T>(PhantomData<(O, T)>);

impl<O: Binary, T: Native> Comparison for Memory<O, T> {
    #[inline(always)]
    fn flags(cpu: &Cpu, op: &Op) -> Option<u16> {
        let at = cpu.readable::<T>(cpu.flat(op))?;
        // SAFETY: what the TLB gives is readable.
        let value = unsafe { T::load(at) };
        Some(O::run(value, Immediate::get::<T>(cpu, op), cpu.arith).1)
    }
    #[inline(always)]
    unsafe fn alone(cpu: &mut Cpu, op: *const Op) -> Stop {
        // SAFETY: the caller's contract is the same.
        unsafe { load_general::<MemoryTo<O, T, Immediate>>(cpu, op) }
    }
}

/// # Safety
/// As [`Handler`]; the next op must be a conditional jump of 64-bit mode and the block's last.
unsafe fn compare_and_jump<C: Comparison, const CC: u8>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` and the one behind it are valid by the contract, and their block is the current one.
    unsafe {
        let Some(flags) = C::flags(cpu, &*op) else {
            return C::alone(cpu, op);
        };
        cpu.arith = flags;
        let jump = op.add(1);
        if condition(flags, CC) {
            let rip = cpu.block_rip().wrapping_add((*jump).imm);
            cache::chain(cpu, rip, TAKEN)
        } else {
            let rip = cpu.block_rip().wrapping_add(u64::from((*jump).next));
            cache::chain(cpu, rip, NOT_TAKEN)
        }
    }
}
