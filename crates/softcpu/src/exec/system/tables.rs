//! Descriptor table registers, segment registers, and questions about selectors.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use crate::cpu::Cpu;
use crate::fault::Trap;
use crate::flags;
use crate::op::{Lowered, Op, form, leave, seg, slot, step};
use crate::segment::parse;
use crate::state::TableRegister;

/// In [`Op::aux`] of LGDT and LIDT: 24 bits of base.
const SHORT_BASE: u16 = 3;

pub(super) fn lower(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    use Mnemonic::*;
    op.aux = operand_size(insn);
    match insn.mnemonic() {
        Lgdt | Lidt => {
            op.aux =
                if matches!(insn.code(), Code::Lgdt_m1632_16 | Code::Lidt_m1632_16) { SHORT_BASE } else { 0 };
            Lowered::end(if insn.mnemonic() == Lgdt {
                leave(|cpu: &mut Cpu, op: &Op| load_table(cpu, op, true))
            } else {
                leave(|cpu: &mut Cpu, op: &Op| load_table(cpu, op, false))
            })
        }
        Sgdt => Lowered::step(step(|cpu: &mut Cpu, op: &Op| store_table(cpu, op, cpu.gdtr))),
        Sidt => Lowered::step(step(|cpu: &mut Cpu, op: &Op| store_table(cpu, op, cpu.idtr))),
        Lldt => Lowered::step(step(lldt)),
        Ltr => Lowered::step(step(ltr)),
        Sldt => Lowered::step(step(|cpu: &mut Cpu, op: &Op| {
            cpu.protected_only()?;
            store_selector(cpu, op, cpu.ldtr.selector)
        })),
        Str => Lowered::step(step(|cpu: &mut Cpu, op: &Op| {
            cpu.protected_only()?;
            store_selector(cpu, op, cpu.tr.selector)
        })),
        Lar => Lowered::step(step(lar)),
        Lsl => Lowered::step(step(lsl)),
        Verr => Lowered::step(step(|cpu: &mut Cpu, op: &Op| verify(cpu, op, false))),
        Verw => Lowered::step(step(|cpu: &mut Cpu, op: &Op| verify(cpu, op, true))),
        Arpl => Lowered::step(step(arpl)),
        Invlpg => Lowered::end(leave(invlpg)),
        Mov if insn.op0_register().is_segment_register() => {
            if insn.op0_register() == Register::CS {
                return None;
            }
            Lowered::end(leave(move_to_segment))
        }
        Mov if insn.op1_register().is_segment_register() => Lowered::step(step(move_from_segment)),
        Push if insn.op0_register().is_segment_register() => {
            op.aux = insn.stack_pointer_increment().unsigned_abs() as u16;
            Lowered::step(step(push_segment))
        }
        Pop if insn.op0_register().is_segment_register() => {
            op.aux = insn.stack_pointer_increment().unsigned_abs() as u16;
            Lowered::end(leave(pop_segment))
        }
        Lds => far_pointer(op, seg::DS),
        Les => far_pointer(op, seg::ES),
        Lss => far_pointer(op, seg::SS),
        Lfs => far_pointer(op, seg::FS),
        Lgs => far_pointer(op, seg::GS),
        _ => None,
    }
}

/// Width in bytes of the general register operand, or of the memory operand where there is none.
fn operand_size(insn: &Instruction) -> u16 {
    (0..insn.op_count())
        .filter(|&n| insn.op_kind(n) == OpKind::Register)
        .map(|n| insn.op_register(n))
        .find(|r| r.is_gpr())
        .map_or(2, |r| r.size() as u16)
}

fn load_table(cpu: &mut Cpu, op: &Op, global: bool) -> Result<u64, Trap> {
    cpu.privileged()?;
    let wide = cpu.long_mode();
    let la = cpu.linear(op, if wide { 10 } else { 6 }, false)?;
    let limit = cpu.load::<u16>(la)?;
    let base = if wide {
        cpu.load::<u64>(la.wrapping_add(2))?
    } else {
        u64::from(cpu.load::<u32>(la.wrapping_add(2))?)
    };
    if wide && !crate::mmu::canonical(base) {
        return Err(cpu.gp0());
    }
    // A 16-bit operand size loads 24 bits of base.
    let base = if op.aux == SHORT_BASE { base & 0xff_ffff } else { base };
    let table = TableRegister { base, limit };
    if global {
        cpu.gdtr = table;
    } else {
        cpu.idtr = table;
    }
    Ok(cpu.next_rip(op))
}

fn store_table(cpu: &mut Cpu, op: &Op, table: TableRegister) -> Result<(), Trap> {
    let mut bytes = [0; 10];
    bytes[..2].copy_from_slice(&table.limit.to_le_bytes());
    bytes[2..].copy_from_slice(&table.base.to_le_bytes());
    let len = if cpu.long_mode() { 10 } else { 6 };
    let la = cpu.linear(op, len, true)?;
    cpu.store_bytes(la, &bytes[..len as usize])
}

/// The 16-bit operand: register or memory.
fn selector_operand(cpu: &mut Cpu, op: &Op, register: u8) -> Result<u16, Trap> {
    if op.form & form::MEM != 0 {
        let la = cpu.linear(op, 2, false)?;
        cpu.load::<u16>(la)
    } else {
        Ok(cpu.get::<u16>(register))
    }
}

fn store_selector(cpu: &mut Cpu, op: &Op, selector: u16) -> Result<(), Trap> {
    if op.form & form::MEM != 0 {
        let la = cpu.linear(op, 2, true)?;
        return cpu.store::<u16>(la, selector);
    }
    set_sized(cpu, op.dst, op.aux, u64::from(selector));
    Ok(())
}

fn set_sized(cpu: &mut Cpu, to: u8, size: u16, value: u64) {
    match size {
        2 => cpu.set::<u16>(to, value as u16),
        4 => cpu.set::<u32>(to, value as u32),
        _ => cpu.set::<u64>(to, value),
    }
}

fn lldt(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.protected_only()?;
    cpu.privileged()?;
    let selector = selector_operand(cpu, op, op.dst)?;
    cpu.load_ldtr(selector)
}

fn ltr(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.protected_only()?;
    cpu.privileged()?;
    let selector = selector_operand(cpu, op, op.dst)?;
    cpu.load_tr(selector)
}

fn set_zero_flag(cpu: &mut Cpu, on: bool) {
    cpu.arith = cpu.arith & !flags::ZF | if on { flags::ZF } else { 0 };
}

/// The descriptor of the selector operand, if it names one (a fault on the way to the table does not count; a page fault
/// does).
fn described(cpu: &mut Cpu, selector: u16) -> Result<Option<u64>, Trap> {
    if selector & !3 == 0 {
        return Ok(None);
    }
    match cpu.read_descriptor(selector) {
        Ok(raw) => Ok(Some(raw)),
        Err(trap) => match cpu.pending {
            crate::fault::Pending::Fault(f) if f.vector == crate::fault::vector::GP => {
                cpu.pending = crate::fault::Pending::None;
                Ok(None)
            }
            _ => Err(trap),
        },
    }
}

/// Whether LAR (or LSL) may look at the descriptor from this privilege.
fn visible(cpu: &Cpu, selector: u16, raw: u64, lsl: bool) -> bool {
    let s = parse(selector, raw);
    let known = s.ordinary()
        || match s.kind() {
            2 | 9 | 11 => true,
            1 | 3 => !cpu.long_active(),
            4 | 5 => !lsl && !cpu.long_active(),
            12 => !lsl,
            _ => false,
        };
    known && (s.conforming() || cpu.cpl.max((selector & 3) as u8) <= s.dpl())
}

fn lar(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.protected_only()?;
    let selector = selector_operand(cpu, op, op.src)?;
    let found = described(cpu, selector)?.filter(|&raw| visible(cpu, selector, raw, false));
    set_zero_flag(cpu, found.is_some());
    if let Some(raw) = found {
        set_sized(cpu, op.dst, op.aux, raw >> 32 & 0x00ff_ff00);
    }
    Ok(())
}

fn lsl(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.protected_only()?;
    let selector = selector_operand(cpu, op, op.src)?;
    let found = described(cpu, selector)?.filter(|&raw| visible(cpu, selector, raw, true));
    set_zero_flag(cpu, found.is_some());
    if let Some(raw) = found {
        set_sized(cpu, op.dst, op.aux, u64::from(parse(selector, raw).limit));
    }
    Ok(())
}

fn verify(cpu: &mut Cpu, op: &Op, write: bool) -> Result<(), Trap> {
    cpu.protected_only()?;
    let selector = selector_operand(cpu, op, op.dst)?;
    let good = described(cpu, selector)?.is_some_and(|raw| {
        let s = parse(selector, raw);
        let kind = s.ordinary() && if write { s.writable_data() } else { s.readable() };
        kind && (!write && s.conforming() || cpu.cpl.max((selector & 3) as u8) <= s.dpl())
    });
    set_zero_flag(cpu, good);
    Ok(())
}

fn arpl(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.protected_only()?;
    let rpl = cpu.get::<u16>(op.src) & 3;
    let raise = |v: u16| if v & 3 < rpl { v & !3 | rpl } else { v };
    let (old, new) = if op.form & form::MEM != 0 {
        let la = cpu.linear(op, 2, true)?;
        cpu.update::<u16>(la, false, raise)?
    } else {
        let old = cpu.get::<u16>(op.dst);
        cpu.set::<u16>(op.dst, raise(old));
        (old, raise(old))
    };
    set_zero_flag(cpu, old != new);
    Ok(())
}

fn invlpg(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    cpu.privileged()?;
    // No access is made: neither limits nor canonical form are checked.
    let offset = cpu.offset(op);
    let base = if cpu.long_mode() && op.seg < seg::FS { 0 } else { cpu.segs[usize::from(op.seg)].base };
    cpu.flush_page(base.wrapping_add(offset));
    Ok(cpu.next_rip(op))
}

fn move_to_segment(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    let selector = selector_operand(cpu, op, op.src)?;
    if op.dst > seg::GS {
        return Err(cpu.ud());
    }
    cpu.load_segment(op.dst, selector)?;
    cpu.shadow |= op.dst == seg::SS;
    Ok(cpu.next_rip(op))
}

fn move_from_segment(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    if op.src > seg::GS {
        return Err(cpu.ud());
    }
    store_selector(cpu, op, cpu.segs[usize::from(op.src)].selector)
}

fn push_segment(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let selector = cpu.segs[usize::from(op.dst)].selector;
    let sp = cpu.stack_pointer().wrapping_sub(u64::from(op.aux));
    // The slot has the operand's width; only the selector's two bytes are sure to be written (SDM, PUSH).
    let la = cpu.stack_linear(sp, u32::from(op.aux), true)?;
    match op.aux {
        8 => cpu.store::<u64>(la, u64::from(selector))?,
        4 => cpu.store::<u16>(la, selector)?,
        _ => cpu.store::<u16>(la, selector)?,
    }
    cpu.set_stack_pointer(sp);
    Ok(())
}

fn pop_segment(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    let sp = cpu.stack_pointer();
    let la = cpu.stack_linear(sp, 2, false)?;
    let selector = cpu.load::<u16>(la)?;
    cpu.load_segment(op.dst, selector)?;
    cpu.set_stack_pointer(sp.wrapping_add(u64::from(op.aux)));
    cpu.shadow |= op.dst == seg::SS;
    Ok(cpu.next_rip(op))
}

/// LDS and its like: `imm` gets the segment register.
fn far_pointer(op: &mut Op, register: u8) -> Option<Lowered> {
    op.imm = u64::from(register);
    Lowered::end(leave(load_far_pointer))
}

fn load_far_pointer(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    let size = u64::from(op.aux);
    let la = cpu.linear(op, op.aux.into(), false)?;
    let offset = match size {
        2 => u64::from(cpu.load::<u16>(la)?),
        4 => u64::from(cpu.load::<u32>(la)?),
        _ => cpu.load::<u64>(la)?,
    };
    let selector = cpu.load::<u16>(la.wrapping_add(size))?;
    cpu.load_segment(op.imm as u8, selector)?;
    set_sized(cpu, op.dst, op.aux, offset);
    Ok(cpu.next_rip(op))
}

impl Cpu {
    /// The stack pointer, cut to the stack's width.
    pub(crate) fn stack_pointer(&self) -> u64 {
        self.get::<u64>(slot::RSP) & self.stack_mask()
    }

    /// The bits of RSP that are the stack pointer.
    pub(crate) fn stack_mask(&self) -> u64 {
        if self.long_mode() {
            u64::MAX
        } else if self.mode.contains(crate::cpu::Mode::STACK32) {
            0xffff_ffff
        } else {
            0xffff
        }
    }

    /// Sets the part of RSP the stack's width has.
    pub(crate) fn set_stack_pointer(&mut self, sp: u64) {
        let mask = self.stack_mask();
        let old = self.get::<u64>(slot::RSP);
        self.set::<u64>(slot::RSP, if mask == 0xffff { old & !mask | sp & mask } else { sp & mask });
    }

    /// Linear address of stack offset `sp`, with SS's checks.
    pub(crate) fn stack_linear(&mut self, sp: u64, size: u32, write: bool) -> Result<u64, Trap> {
        let sp = sp & self.stack_mask();
        if self.long_mode() && !crate::mmu::canonical(sp) {
            return Err(self.raise(crate::fault::Fault::coded(crate::fault::vector::SS, 0)));
        }
        self.linear_at(seg::SS, sp, size, write)
    }

    /// Pops `size` bytes at offset `sp` without changing RSP; gives the value and the next offset.
    pub(crate) fn peek(&mut self, sp: u64, size: u16) -> Result<(u64, u64), Trap> {
        let la = self.stack_linear(sp, u32::from(size), false)?;
        let value = match size {
            2 => u64::from(self.load::<u16>(la)?),
            4 => u64::from(self.load::<u32>(la)?),
            _ => self.load::<u64>(la)?,
        };
        Ok((value, sp.wrapping_add(u64::from(size))))
    }

    /// Writes `size` bytes below offset `sp` without changing RSP; gives the new offset.
    pub(crate) fn poke(&mut self, sp: u64, size: u16, value: u64) -> Result<u64, Trap> {
        let sp = sp.wrapping_sub(u64::from(size));
        let la = self.stack_linear(sp, u32::from(size), true)?;
        match size {
            2 => self.store::<u16>(la, value as u16)?,
            4 => self.store::<u32>(la, value as u32)?,
            _ => self.store::<u64>(la, value)?,
        }
        Ok(sp)
    }
}
