//! System instructions: what operating systems use and programs mostly may not.

mod far;
mod msr;
mod registers;
mod syscall;
mod tables;

use iced_x86::Instruction;

use crate::cpu::Cpu;
use crate::fault::{Fault, Trap, vector};
use crate::op::{Lowered, Op};

/// Lowers the instructions of this file's children.
pub(crate) fn lower(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    registers::lower(insn, op)
        .or_else(|| tables::lower(insn, op))
        .or_else(|| far::lower(insn, op))
        .or_else(|| syscall::lower(insn, op))
}

impl Cpu {
    /// #GP(0) unless at privilege level 0.
    fn privileged(&mut self) -> Result<(), Trap> {
        if self.cpl == 0 { Ok(()) } else { Err(self.gp0()) }
    }

    /// #UD in real and virtual-8086 mode, where the instruction does not exist.
    fn protected_only(&mut self) -> Result<(), Trap> {
        if self.real_segments() { Err(self.raise(Fault::plain(vector::UD))) } else { Ok(()) }
    }
}
