//! Segment registers: MOV, PUSH, POP, LDS and its like, SWAPGS.

use iced_x86::{Instruction, Mnemonic, Register};

use crate::cpu::Cpu;
use crate::fault::Trap;
use crate::op::{Lowered, Op, leave, seg, step};
use crate::stack::{Stack, Width};

use super::register_size;

pub(super) fn lower(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    use Mnemonic::*;
    match insn.mnemonic() {
        Mov if insn.op0_register().is_segment_register() => match insn.op0_register() {
            Register::CS => None,
            Register::SS => Lowered::end(leave(move_to_stack_segment)),
            _ => Lowered::step(step(move_to_segment)),
        },
        Mov if insn.op1_register().is_segment_register() => {
            op.aux = register_size(insn);
            Lowered::step(step(|cpu: &mut Cpu, op: &Op| {
                let selector = cpu.segs[usize::from(op.src)].selector;
                cpu.store_word(op, u64::from(selector))
            }))
        }
        Push if insn.op0_register().is_segment_register() => {
            op.aux = insn.stack_pointer_increment().unsigned_abs() as u16;
            Lowered::step(step(push_segment))
        }
        Pop if insn.op0_register().is_segment_register() => {
            op.aux = insn.stack_pointer_increment().unsigned_abs() as u16;
            if insn.op0_register() == Register::SS {
                Lowered::end(leave(pop_stack_segment))
            } else {
                Lowered::step(step(pop_segment))
            }
        }
        Lds => far_pointer(insn, op, seg::DS),
        Les => far_pointer(insn, op, seg::ES),
        Lfs => far_pointer(insn, op, seg::FS),
        Lgs => far_pointer(insn, op, seg::GS),
        Lss => {
            far_pointer(insn, op, seg::SS)?;
            Lowered::end(leave(load_stack_pointer))
        }
        Swapgs => Lowered::step(step(swapgs)),
        _ => None,
    }
}

fn move_to_segment(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let selector = cpu.word_operand(op, op.src)?;
    cpu.load_segment(op.dst, selector)
}

impl Cpu {
    /// After a load of SS by MOV or POP, interrupts and debug exceptions wait for one instruction: it will load RSP
    /// (Intel SDM vol. 3, 6.8.3).
    fn hold_off_interrupts(&mut self) {
        self.shadow = true;
        self.single_step = false;
        self.debug_held = true;
    }
}

fn move_to_stack_segment(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    move_to_segment(cpu, op)?;
    cpu.hold_off_interrupts();
    Ok(cpu.next_rip(op))
}

fn push_segment(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let selector = u64::from(cpu.segs[usize::from(op.dst)].selector);
    let mut stack = Stack::current(cpu);
    if op.aux == 4 {
        // The upper half of the slot is left as it is (SDM vol. 2, PUSH).
        stack.push_low_half(cpu, selector)?;
    } else {
        stack.push(cpu, Width::of(op.aux), selector)?;
    }
    stack.commit(cpu);
    Ok(())
}

fn pop_segment(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let mut stack = Stack::current(cpu);
    let selector = stack.pop(cpu, Width::Word)? as u16;
    stack.skip(u64::from(op.aux) - 2);
    let segment = cpu.checked_segment(op.dst, selector)?;
    stack.commit(cpu);
    cpu.set_segment(op.dst, segment);
    Ok(())
}

fn pop_stack_segment(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    pop_segment(cpu, op)?;
    cpu.hold_off_interrupts();
    Ok(cpu.next_rip(op))
}

/// LDS and its like: `imm` gets the segment register, `aux` the offset's size.
fn far_pointer(insn: &Instruction, op: &mut Op, register: u8) -> Option<Lowered> {
    op.aux = register_size(insn);
    op.imm = u64::from(register);
    Lowered::step(step(load_far_pointer))
}

fn load_far_pointer(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let (selector, offset) = cpu.far_pointer(op)?;
    cpu.load_segment(op.imm as u8, selector)?;
    cpu.set_sized(op.dst, op.aux, offset);
    Ok(())
}

/// LSS: ends the block, because the stack's width may change.
fn load_stack_pointer(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    load_far_pointer(cpu, op)?;
    Ok(cpu.next_rip(op))
}

fn swapgs(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    if !cpu.long_mode() {
        return Err(cpu.ud());
    }
    cpu.privileged()?;
    std::mem::swap(&mut cpu.segs[usize::from(seg::GS)].base, &mut cpu.msrs.kernel_gs_base);
    Ok(())
}
