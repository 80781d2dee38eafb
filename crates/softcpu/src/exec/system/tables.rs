//! The registers that say where the descriptor tables and the task are: LGDT, LIDT, LLDT, LTR and what reads them back.

use iced_x86::{Code, Instruction, Mnemonic};

use crate::cpu::Cpu;
use crate::fault::Trap;
use crate::mmu::canonical;
use crate::op::{Lowered, Op, step};
use crate::state::TableRegister;

use super::register_size;

/// In [`Op::aux`] of LGDT and LIDT: a 16-bit operand size loads 24 bits of base.
const SHORT_BASE: u16 = 1;

pub(super) fn lower(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    use Mnemonic::*;
    op.aux = match insn.code() {
        Code::Lgdt_m1632_16 | Code::Lidt_m1632_16 => SHORT_BASE,
        Code::Lgdt_m1632 | Code::Lgdt_m1664 | Code::Lidt_m1632 | Code::Lidt_m1664 => 0,
        _ => register_size(insn),
    };
    Lowered::step(match insn.mnemonic() {
        Lgdt => step(|cpu: &mut Cpu, op: &Op| {
            cpu.gdtr = table_operand(cpu, op)?;
            Ok(())
        }),
        Lidt => step(|cpu: &mut Cpu, op: &Op| {
            cpu.idtr = table_operand(cpu, op)?;
            Ok(())
        }),
        Sgdt => step(|cpu: &mut Cpu, op: &Op| store_table(cpu, op, cpu.gdtr)),
        Sidt => step(|cpu: &mut Cpu, op: &Op| store_table(cpu, op, cpu.idtr)),
        Lldt => step(|cpu: &mut Cpu, op: &Op| {
            let selector = privileged_selector(cpu, op)?;
            cpu.load_ldtr(selector)
        }),
        Ltr => step(|cpu: &mut Cpu, op: &Op| {
            let selector = privileged_selector(cpu, op)?;
            cpu.load_tr(selector)
        }),
        Sldt => step(|cpu: &mut Cpu, op: &Op| {
            cpu.protected_only()?;
            cpu.store_word(op, u64::from(cpu.ldtr.selector))
        }),
        Str => step(|cpu: &mut Cpu, op: &Op| {
            cpu.protected_only()?;
            cpu.store_word(op, u64::from(cpu.tr.selector))
        }),
        _ => return None,
    })
}

fn table_operand(cpu: &mut Cpu, op: &Op) -> Result<TableRegister, Trap> {
    cpu.privileged()?;
    let size = if cpu.long_mode() { 10 } else { 6 };
    let la = cpu.linear(op, size, false)?;
    let mut bytes = [0; 16];
    cpu.load_bytes(la, &mut bytes[..size as usize])?;
    let image = u128::from_le_bytes(bytes);
    let (limit, base) = (image as u16, (image >> 16) as u64);
    if cpu.long_mode() && !canonical(base) {
        return Err(cpu.gp0());
    }
    let base = if op.aux == SHORT_BASE { base & 0xff_ffff } else { base };
    Ok(TableRegister { base, limit })
}

fn store_table(cpu: &mut Cpu, op: &Op, table: TableRegister) -> Result<(), Trap> {
    let image = u128::from(table.limit) | u128::from(table.base) << 16;
    let size = if cpu.long_mode() { 10 } else { 6 };
    let la = cpu.linear(op, size, true)?;
    cpu.store_bytes(la, &image.to_le_bytes()[..size as usize])
}

fn privileged_selector(cpu: &mut Cpu, op: &Op) -> Result<u16, Trap> {
    cpu.protected_only()?;
    cpu.privileged()?;
    cpu.word_operand(op, op.dst)
}
