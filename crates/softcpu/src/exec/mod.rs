//! What the instructions do. Each file lowers the instructions it knows ([`lower`] asks them in turn) and holds their
//! handlers.

mod control;
pub(crate) mod fp;
mod integer;
mod mmx;
mod sse;
mod stack;
mod string;
mod system;
mod x87;

#[cfg(test)]
mod against_host;

use iced_x86::Instruction;

pub(crate) use integer::fuse;

use crate::op::{Lowered, Op};

/// Finds the handler for `insn`, whose operands the block builder has already put into `op`; `None` for what no file
/// knows, which executes as #UD.
pub(crate) fn lower(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    integer::lower(insn, op)
        .or_else(|| control::lower(insn, op))
        .or_else(|| stack::lower(insn, op))
        .or_else(|| string::lower(insn, op))
        .or_else(|| sse::lower(insn, op))
        .or_else(|| mmx::lower(insn, op))
        .or_else(|| x87::lower(insn, op))
        .or_else(|| system::lower(insn, op))
}
