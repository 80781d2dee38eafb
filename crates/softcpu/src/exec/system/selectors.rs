//! Questions about selectors, which answer in ZF and do not fault: LAR, LSL, VERR, VERW, ARPL.

use iced_x86::{Instruction, Mnemonic};

use crate::cpu::Cpu;
use crate::fault::Trap;
use crate::flags;
use crate::op::{Lowered, Op, form, step};
use crate::segment::{Descriptor, kind};

use super::register_size;

pub(super) fn lower(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    use Mnemonic::*;
    op.aux = register_size(insn);
    Lowered::step(match insn.mnemonic() {
        Lar => step(lar),
        Lsl => step(lsl),
        Verr => step(|cpu: &mut Cpu, op: &Op| verify(cpu, op, Descriptor::is_readable)),
        Verw => step(|cpu: &mut Cpu, op: &Op| verify(cpu, op, Descriptor::is_writable_data)),
        Arpl => step(arpl),
        _ => return None,
    })
}

fn answer(cpu: &mut Cpu, yes: bool) {
    cpu.arith = cpu.arith & !flags::ZF | if yes { flags::ZF } else { 0 };
}

/// The descriptor of `selector`, if privilege lets it be seen.
fn seen(cpu: &mut Cpu, selector: u16) -> Result<Option<Descriptor>, Trap> {
    let privilege = cpu.cpl.max(selector as u8 & 3);
    Ok(cpu.find_descriptor(selector)?.filter(|d| d.is_conforming() || d.dpl() >= privilege))
}

/// Whether LAR tells of descriptors of this type; LSL only of those that have a limit.
fn told(cpu: &Cpu, d: Descriptor, has_limit: bool) -> bool {
    if d.is_ordinary() {
        return true;
    }
    match d.kind() {
        kind::LDT | kind::TSS32 | kind::TSS32_BUSY => true,
        kind::TSS16 | kind::TSS16_BUSY => !cpu.long_active(),
        kind::CALL_GATE => !has_limit,
        kind::CALL_GATE16 | kind::TASK_GATE => !has_limit && !cpu.long_active(),
        _ => false,
    }
}

fn lar(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.protected_only()?;
    let selector = cpu.word_operand(op, op.src)?;
    let found = seen(cpu, selector)?.filter(|&d| told(cpu, d, false));
    if let Some(d) = found {
        cpu.set_sized(op.dst, op.aux, d.0 >> 32 & 0x00ff_ff00);
    }
    answer(cpu, found.is_some());
    Ok(())
}

fn lsl(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.protected_only()?;
    let selector = cpu.word_operand(op, op.src)?;
    let found = seen(cpu, selector)?.filter(|&d| told(cpu, d, true));
    if let Some(d) = found {
        cpu.set_sized(op.dst, op.aux, u64::from(d.limit()));
    }
    answer(cpu, found.is_some());
    Ok(())
}

fn verify(cpu: &mut Cpu, op: &Op, allows: fn(Descriptor) -> bool) -> Result<(), Trap> {
    cpu.protected_only()?;
    let selector = cpu.word_operand(op, op.dst)?;
    let good = seen(cpu, selector)?.is_some_and(allows);
    answer(cpu, good);
    Ok(())
}

fn arpl(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.protected_only()?;
    let rpl = cpu.get::<u16>(op.src) & 3;
    let raise = |selector: u16| if selector & 3 < rpl { selector & !3 | rpl } else { selector };
    let (old, new) = if op.form & form::MEM != 0 {
        let la = cpu.linear(op, 2, true)?;
        cpu.update::<u16>(la, false, raise)?
    } else {
        let old = cpu.get::<u16>(op.dst);
        cpu.set::<u16>(op.dst, raise(old));
        (old, raise(old))
    };
    answer(cpu, old != new);
    Ok(())
}
