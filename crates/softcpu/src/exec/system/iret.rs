//! IRET in every mode (Intel SDM vol. 2, IRET).

use iced_x86::{Code, Instruction};

use crate::cpu::Cpu;
use crate::fault::Trap;
use crate::flags::rflags;
use crate::op::{Lowered, Op, leave, seg, slot};
use crate::segment::virtual_8086_segment;
use crate::stack::{Stack, Width};
use crate::task::Switch;

pub(super) fn lower(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    op.aux = match insn.code() {
        Code::Iretw => 2,
        Code::Iretd => 4,
        Code::Iretq => 8,
        _ => return None,
    };
    Lowered::end(leave(iret))
}

fn iret(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    let width = Width::of(op.aux);
    if cpu.real_segments() {
        return iret_real(cpu, width);
    }
    if cpu.rflags_rest & rflags::NT != 0 {
        return iret_task(cpu, op);
    }
    let mut stack = Stack::current(cpu);
    let rip = stack.pop(cpu, width)?;
    let selector = stack.pop(cpu, width)? as u16;
    let image = stack.pop(cpu, width)?;
    if image & rflags::VM != 0 && cpu.cpl == 0 && width == Width::Double && !cpu.long_active() {
        return iret_to_virtual_8086(cpu, stack, selector, rip, image);
    }
    let cpl = selector as u8 & 3;
    let outer = if cpu.long_mode() || cpl > cpu.cpl {
        Some((stack.pop(cpu, width)?, stack.pop(cpu, width)? as u16))
    } else {
        None
    };
    let d = cpu.return_code(selector)?;
    let keep = kept(cpu);
    if let Some((sp, ss)) = outer {
        let ss = cpu.return_stack(ss, cpl, cpu.long_active() && d.is_long())?;
        let code = cpu.code_segment(selector, d, cpl, rip)?;
        let outward = cpl != cpu.cpl;
        cpu.set_code(code);
        cpu.set_returned_stack(ss, sp, 0);
        if outward {
            cpu.drop_privileged_segments();
        }
    } else {
        let code = cpu.code_segment(selector, d, cpl, rip)?;
        stack.commit(cpu);
        cpu.set_code(code);
    }
    finish(cpu, image, keep, width);
    Ok(rip)
}

/// RFLAGS bits that IRET may not change at this privilege.
fn kept(cpu: &Cpu) -> u64 {
    let mut keep = rflags::VM;
    if cpu.cpl != 0 {
        keep |= rflags::IOPL | rflags::VIF | rflags::VIP;
    }
    if cpu.cpl > cpu.iopl() {
        keep |= rflags::IF;
    }
    keep
}

/// Takes RFLAGS from the stack and lets NMIs in again.
fn finish(cpu: &mut Cpu, image: u64, keep: u64, width: Width) {
    let keep = if width == Width::Word { keep | !0xffff } else { keep };
    let mut value = cpu.rflags() & keep | image & !keep;
    if !cpu.breakpoints_enabled() {
        // RF would be cleared by the next instruction without having done anything.
        value &= !rflags::RF;
    }
    let before = cpu.rflags_rest;
    cpu.set_rflags(value);
    cpu.nmi_blocked = false;
    cpu.mode_changed();
    cpu.serialise();
    cpu.let_interrupts_in(before);
}

/// In real mode, and in virtual-8086 mode where IOPL allows it.
fn iret_real(cpu: &mut Cpu, width: Width) -> Result<u64, Trap> {
    let virtual_8086 = cpu.virtual_8086();
    if virtual_8086 && cpu.iopl() < 3 {
        return Err(cpu.gp0());
    }
    let mut stack = Stack::current(cpu);
    let rip = stack.pop(cpu, width)?;
    let selector = stack.pop(cpu, width)? as u16;
    let image = stack.pop(cpu, width)?;
    let code = cpu.real_transfer(selector, rip)?;
    stack.commit(cpu);
    cpu.set_real_code(code);
    let keep = rflags::VM | rflags::VIF | rflags::VIP | if virtual_8086 { rflags::IOPL } else { 0 };
    finish(cpu, image, keep, width);
    Ok(rip)
}

/// From a nested task to the one that its TSS links back to.
fn iret_task(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    if cpu.long_active() {
        return Err(cpu.gp0());
    }
    let link: u16 = cpu.load_system(cpu.system_address(cpu.tr.base))?;
    let next = cpu.next_rip(op);
    let rip = cpu.transfer_to_task(link, Switch::Return, next)?;
    cpu.nmi_blocked = false;
    Ok(rip)
}

fn iret_to_virtual_8086(cpu: &mut Cpu, mut stack: Stack, cs: u16, rip: u64, image: u64) -> Result<u64, Trap> {
    let esp = stack.pop(cpu, Width::Double)?;
    let mut selectors = [0; 5];
    for selector in &mut selectors {
        *selector = stack.pop(cpu, Width::Double)? as u16;
    }
    let rip = rip & 0xffff;
    let [ss, es, ds, fs, gs] = selectors;
    for (register, selector) in
        [(seg::CS, cs), (seg::SS, ss), (seg::ES, es), (seg::DS, ds), (seg::FS, fs), (seg::GS, gs)]
    {
        cpu.segs[usize::from(register)] = virtual_8086_segment(selector);
    }
    cpu.cpl = 3;
    cpu.set::<u32>(slot::RSP, esp as u32);
    finish(cpu, image, 0, Width::Double);
    Ok(rip)
}
