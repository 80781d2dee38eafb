//! Software interrupts, the interrupt flag, and HLT.

use iced_x86::{Code, Instruction, Mnemonic};

use crate::cpu::Cpu;
use crate::fault::{Fault, Trap, vector};
use crate::flags::{self, rflags};
use crate::op::{Lowered, Op, leave, step};
use crate::paging::CR0_PE;
use crate::state::Activity;

/// CR4.VME and CR4.PVI: where IOPL forbids IF, VIF stands for it.
const CR4_VME: u64 = 1 << 0;
const CR4_PVI: u64 = 1 << 1;

pub(super) fn lower(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    match insn.code() {
        Code::Int3 => {
            op.aux = u16::from(vector::BP);
            return Lowered::end(leave(trap));
        }
        Code::Int_imm8 => {
            op.aux = u16::from(insn.immediate8());
            return Lowered::end(leave(interrupt));
        }
        Code::Int1 => return Lowered::end(leave(int1)),
        Code::Into => {
            op.aux = u16::from(vector::OF);
            return Lowered::end(leave(into));
        }
        Code::Bound_r16_m1616 => return Lowered::step(step(bound::<2>)),
        Code::Bound_r32_m3232 => return Lowered::step(step(bound::<4>)),
        _ => {}
    }
    match insn.mnemonic() {
        Mnemonic::Cli => Lowered::step(step(cli)),
        Mnemonic::Sti => Lowered::end(leave(sti)),
        Mnemonic::Hlt => Lowered::end(leave(hlt)),
        _ => None,
    }
}

/// INT3: as INT 3, but virtual-8086 mode lets it pass.
fn trap(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    let next = cpu.next_rip(op);
    cpu.software_interrupt(op.aux as u8, true, next)
}

fn interrupt(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    if cpu.virtual_8086() && cpu.iopl() < 3 {
        return Err(cpu.gp0());
    }
    trap(cpu, op)
}

fn into(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    if cpu.arith & flags::OF == 0 {
        return Ok(cpu.next_rip(op));
    }
    trap(cpu, op)
}

/// INT1: a #DB that comes from outside as far as privilege is concerned; DR6 says nothing of it.
fn int1(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    let next = cpu.next_rip(op);
    cpu.software_interrupt(vector::DB, false, next)
}

fn bound<const SIZE: u32>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let la = cpu.linear(op, SIZE * 2, false)?;
    let mut bytes = [0; 8];
    cpu.load_bytes(la, &mut bytes[..SIZE as usize * 2])?;
    let [a, b, c, d, e, f, g, h] = bytes;
    let (index, low, high) = if SIZE == 2 {
        let index = cpu.get::<u16>(op.dst) as i16;
        (index.into(), i16::from_le_bytes([a, b]).into(), i16::from_le_bytes([c, d]).into())
    } else {
        let index = cpu.get::<u32>(op.dst) as i32;
        (index, i32::from_le_bytes([a, b, c, d]), i32::from_le_bytes([e, f, g, h]))
    };
    if index < low || index > high {
        return Err(cpu.raise(Fault::plain(vector::BR)));
    }
    Ok(())
}

/// Which flag CLI and STI change here: IF, VIF, or none (#GP).
fn interrupt_flag(cpu: &mut Cpu) -> Result<u64, Trap> {
    let virtual_8086 = cpu.virtual_8086();
    let level = if virtual_8086 { 3 } else { cpu.cpl };
    if cpu.cr0 & CR0_PE == 0 || level <= cpu.iopl() {
        Ok(rflags::IF)
    } else if cpu.cr4 & if virtual_8086 { CR4_VME } else { CR4_PVI } != 0 && level == 3 {
        Ok(rflags::VIF)
    } else {
        Err(cpu.gp0())
    }
}

fn cli(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    let flag = interrupt_flag(cpu)?;
    cpu.rflags_rest &= !flag;
    Ok(())
}

fn sti(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    let flag = interrupt_flag(cpu)?;
    if flag == rflags::VIF && cpu.rflags_rest & rflags::VIP != 0 {
        return Err(cpu.gp0());
    }
    cpu.shadow |= flag == rflags::IF && cpu.rflags_rest & rflags::IF == 0;
    cpu.rflags_rest |= flag;
    Ok(cpu.next_rip(op))
}

fn hlt(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    cpu.privileged()?;
    cpu.activity = Activity::Halted;
    Ok(cpu.next_rip(op))
}
