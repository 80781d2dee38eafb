//! sse instructions.

use iced_x86::Instruction;

use crate::op::{Lowered, Op};

/// Lowers the instructions of this file.
pub(crate) fn lower(_insn: &Instruction, _op: &mut Op) -> Option<Lowered> {
    None
}
