//! Integer instructions.
//!
//! The frequent ones are handlers made from generics over operation, width and kind of operand; `native` has the
//! arithmetic, `operand` the ways to memory.

mod alu;
mod bits;
mod data;
mod decimal;
mod exchange;
mod flag;
mod fused;
mod multiply;
mod native;
mod operand;
mod shift;

use iced_x86::Instruction;

pub(super) use data::condition_code;
pub(crate) use fused::fuse;
pub(super) use native::Native;
pub(super) use operand::by_condition;

use crate::op::{Lowered, Op};

/// Lowers the integer instructions.
pub(crate) fn lower(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    data::lower(insn, op)
        .or_else(|| alu::lower(insn, op))
        .or_else(|| shift::lower(insn, op))
        .or_else(|| bits::lower(insn, op))
        .or_else(|| flag::lower(insn, op))
        .or_else(|| multiply::lower(insn, op))
        .or_else(|| exchange::lower(insn, op))
        .or_else(|| decimal::lower(insn, op))
}
