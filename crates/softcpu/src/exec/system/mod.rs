//! System instructions: what operating systems use and programs mostly may not.

mod cpuid;
mod debug;
mod far;
mod interrupts;
mod iret;
mod msr;
mod ports;
mod registers;
mod segments;
mod selectors;
mod syscall;
mod tables;

use iced_x86::Instruction;

use crate::cpu::Cpu;
use crate::fault::Trap;
use crate::op::{Lowered, Op};

/// Lowers the instructions of this file's children.
pub(crate) fn lower(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    ports::lower(insn, op)
        .or_else(|| interrupts::lower(insn, op))
        .or_else(|| registers::lower(insn, op))
        .or_else(|| debug::lower(insn, op))
        .or_else(|| msr::lower(insn, op))
        .or_else(|| syscall::lower(insn, op))
        .or_else(|| iret::lower(insn, op))
        .or_else(|| segments::lower(insn, op))
        .or_else(|| cpuid::lower(insn, op))
        .or_else(|| tables::lower(insn, op))
        .or_else(|| selectors::lower(insn, op))
        .or_else(|| far::lower(insn, op))
}

impl Cpu {
    /// #GP(0) unless at privilege level 0.
    #[inline]
    fn privileged(&mut self) -> Result<(), Trap> {
        if self.cpl == 0 { Ok(()) } else { Err(self.gp0()) }
    }

    /// #UD in real and virtual-8086 mode, where the instruction does not exist.
    fn protected_only(&mut self) -> Result<(), Trap> {
        if self.real_segments() { Err(self.ud()) } else { Ok(()) }
    }

    /// Sets a register of `size` bytes.
    fn set_sized(&mut self, slot: u8, size: u16, value: u64) {
        match size {
            2 => self.set::<u16>(slot, value as u16),
            4 => self.set::<u32>(slot, value as u32),
            _ => self.set::<u64>(slot, value),
        }
    }

    /// Control and debug registers are read and written with 64 bits in 64-bit mode, with 32 elsewhere.
    fn get_natural(&self, slot: u8) -> u64 {
        if self.long_mode() { self.get::<u64>(slot) } else { u64::from(self.get::<u32>(slot)) }
    }

    /// See [`get_natural`](Self::get_natural).
    fn set_natural(&mut self, slot: u8, value: u64) {
        if self.long_mode() {
            self.set::<u64>(slot, value);
        } else {
            self.set::<u32>(slot, value as u32);
        }
    }

    /// The 16-bit operand that is in `register` or in memory.
    fn word_operand(&mut self, op: &Op, register: u8) -> Result<u16, Trap> {
        if op.form & crate::op::form::MEM != 0 {
            let la = self.linear(op, 2, false)?;
            self.load::<u16>(la)
        } else {
            Ok(self.get::<u16>(register))
        }
    }

    /// Stores a selector or status word: 16 bits to memory, the operand's size (in `aux`) to a register.
    fn store_word(&mut self, op: &Op, value: u64) -> Result<(), Trap> {
        if op.form & crate::op::form::MEM != 0 {
            let la = self.linear(op, 2, true)?;
            return self.store::<u16>(la, value as u16);
        }
        self.set_sized(op.dst, op.aux, value);
        Ok(())
    }
}

/// Width in bytes of the general register operand, 2 where there is none.
fn register_size(insn: &Instruction) -> u16 {
    (0..insn.op_count()).map(|n| insn.op_register(n)).find(|r| r.is_gpr()).map_or(2, |r| r.size() as u16)
}
