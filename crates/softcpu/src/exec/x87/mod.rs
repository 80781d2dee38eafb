//! The x87 unit, on the host's own: exact 80-bit results, flags and stack behaviour.
//!
//! Instructions on common operands with all exceptions masked have a short way (`fast`); everything else goes through
//! `image`. The host's unit is left initialised after every handler.

mod environment;
mod fast;
mod fxsave;
mod image;
mod opcodes;

use iced_x86::{Code, Instruction};

use super::fp::FSW_ES_B;
use crate::cpu::{Cpu, Mode};
use crate::fault::Trap;
use crate::op::{Lowered, Op, form, seg, step};
use opcodes::Memory;

/// Lowers x87 instructions and FXSAVE, FXRSTOR.
pub(crate) fn lower(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    if let Some((fop, memory)) = opcodes::of(insn) {
        op.imm = u64::from(fop);
        op.aux = insn.memory_size().size() as u16;
        return fast::lower(insn.code(), op).or_else(|| {
            Lowered::step(match memory {
                Memory::None => step(on_registers),
                Memory::Load => step(with_load),
                Memory::Store => step(with_store),
            })
        });
    }
    match insn.code() {
        Code::Wait => Lowered::step(step(wait)),
        Code::Fneni | Code::Fndisi | Code::Fnsetpm => Lowered::step(step(nothing)),
        code => environment::lower(code).or_else(|| fxsave::lower(code)),
    }
}

/// The instruction's opcode with its memory operand at [rdi].
fn opcode(op: &Op) -> u16 {
    let fop = op.imm as u16;
    if op.form & form::MEM != 0 { fop & !0xc7 | 7 } else { fop }
}

#[inline(never)]
fn on_registers(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_x87(true)?;
    let before = cpu.x87.status;
    cpu.arith = image::execute(&mut cpu.x87, opcode(op), &mut [0; 16], cpu.arith);
    cpu.note_x87(op);
    cpu.x87_status_changed(before);
    Ok(())
}

#[inline(never)]
fn with_load(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_x87(true)?;
    let mut memory = [0; 16];
    let size = usize::from(op.aux).min(10);
    let la = cpu.linear(op, size as u32, false)?;
    cpu.load_operand(la, &mut memory[..size])?;
    let before = cpu.x87.status;
    cpu.arith = image::execute(&mut cpu.x87, opcode(op), &mut memory, cpu.arith);
    cpu.note_x87_memory(op);
    cpu.x87_status_changed(before);
    Ok(())
}

#[inline(never)]
fn with_store(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    const PRECISION: u16 = 1 << 5;
    cpu.need_x87(true)?;
    let mut memory = [0; 16];
    let size = usize::from(op.aux).min(10);
    let la = cpu.linear(op, size as u32, true)?;
    let mut x87 = cpu.x87;
    image::execute(&mut x87, opcode(op), &mut memory, cpu.arith);
    let taken = x87.status & !x87.control & image::EXCEPTIONS;
    // An unmasked exception but precision keeps the instruction from storing anything.
    if taken & !PRECISION == 0 || cpu.x87.status & FSW_ES_B != 0 {
        cpu.store_operand(la, &memory[..size])?;
    } else {
        // A store that may not be made faults all the same.
        cpu.probe(la, size as u64, true)?;
    }
    let before = cpu.x87.status;
    cpu.x87 = x87;
    cpu.note_x87_memory(op);
    cpu.x87_status_changed(before);
    Ok(())
}

fn wait(cpu: &mut Cpu, _op: &Op) -> Result<(), Trap> {
    cpu.wait_x87()
}

/// FNENI, FNDISI and FNSETPM of the 8087 and 287 do nothing.
fn nothing(cpu: &mut Cpu, _op: &Op) -> Result<(), Trap> {
    cpu.need_x87(false)
}

impl Cpu {
    /// Records `op` as the last x87 instruction.
    #[inline(always)]
    fn note_x87(&mut self, op: &Op) {
        let rip = self.this_rip(op);
        let base = if self.mode.contains(Mode::REAL) { self.segs[usize::from(seg::CS)].base } else { 0 };
        self.x87.instruction = base.wrapping_add(rip);
        self.x87.opcode = op.imm as u16 & 0x7ff;
    }

    /// As [`note_x87`](Self::note_x87), with the address of the memory operand.
    #[inline(always)]
    fn note_x87_memory(&mut self, op: &Op) {
        self.note_x87(op);
        let base = if self.mode.contains(Mode::REAL) { self.segs[usize::from(op.seg)].base } else { 0 };
        let offset = self.offset(op);
        let offset = if self.long_mode() { offset } else { offset & 0xffff_ffff };
        self.x87.operand = base.wrapping_add(offset);
    }

    /// Keeps `fp_ok` up to date after FSW, which was `before`, changed.
    #[inline(always)]
    fn x87_status_changed(&mut self, before: u16) {
        if (before ^ self.x87.status) & FSW_ES_B != 0 {
            self.fp_mode_changed();
        }
    }

    /// Reads an operand of 2, 4, 8 or 10 bytes, the first three in one access.
    fn load_operand(&mut self, la: u64, bytes: &mut [u8]) -> Result<(), Trap> {
        match bytes.len() {
            2 => bytes.copy_from_slice(&self.load::<u16>(la)?.to_le_bytes()),
            4 => bytes.copy_from_slice(&self.load::<u32>(la)?.to_le_bytes()),
            8 => bytes.copy_from_slice(&self.load::<u64>(la)?.to_le_bytes()),
            _ => self.load_bytes(la, bytes)?,
        }
        Ok(())
    }

    /// Writes an operand of 2, 4, 8 or 10 bytes, the first three in one access.
    fn store_operand(&mut self, la: u64, bytes: &[u8]) -> Result<(), Trap> {
        match *bytes {
            [a, b] => self.store(la, u16::from_le_bytes([a, b])),
            [a, b, c, d] => self.store(la, u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => self.store(la, u64::from_le_bytes([a, b, c, d, e, f, g, h])),
            _ => self.store_bytes(la, bytes),
        }
    }
}
