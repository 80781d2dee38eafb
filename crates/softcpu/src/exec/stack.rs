//! The stack: PUSH, POP, PUSHA, POPA, PUSHF, POPF, ENTER, LEAVE (segment registers excepted).

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use crate::cache;
use crate::cpu::Cpu;
use crate::fault::{Pending, Trap, vector};
use crate::flags::rflags;
use crate::mem::Word;
use crate::op::{Handler, Lowered, Op, Stop, form, next, seg, slot, step, trapped};

/// Lowers the instructions of this file.
pub(crate) fn lower(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    let size = insn.stack_pointer_increment().unsigned_abs();
    match insn.mnemonic() {
        Mnemonic::Push => push(insn, size),
        Mnemonic::Pop => pop(insn, size, op),
        _ => whole_frame(insn, op),
    }
}

fn whole_frame(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    let long = insn.code_size() == iced_x86::CodeSize::Code64;
    if matches!(insn.code(), Code::Enterw_imm16_imm8 | Code::Enterd_imm16_imm8 | Code::Enterq_imm16_imm8) {
        op.imm = u64::from(insn.immediate16());
        op.aux = u16::from(insn.immediate8_2nd() & 31);
    }
    Lowered::step(match insn.code() {
        Code::Pushaw => step(push_all::<u16>),
        Code::Pushad => step(push_all::<u32>),
        Code::Popaw => step(pop_all::<u16>),
        Code::Popad => step(pop_all::<u32>),
        Code::Pushfw => step(push_flags::<u16>),
        Code::Pushfd => step(push_flags::<u32>),
        Code::Pushfq => step(push_flags::<u64>),
        Code::Popfw => return Lowered::end(pop_flags::<u16>),
        Code::Popfd => return Lowered::end(pop_flags::<u32>),
        Code::Popfq => return Lowered::end(pop_flags::<u64>),
        Code::Enterw_imm16_imm8 => step(enter::<u16>),
        Code::Enterd_imm16_imm8 => step(enter::<u32>),
        Code::Enterq_imm16_imm8 => step(enter::<u64>),
        Code::Leavew => step(leave_frame::<u16>),
        Code::Leaved => step(leave_frame::<u32>),
        Code::Leaveq if long => leave_quick,
        _ => return None,
    })
}

impl Cpu {
    /// Reads what is on the stack at `sp`; gives it and the stack pointer behind it. RSP does not change.
    #[inline(always)]
    pub(in crate::exec) fn pop_at<T: Word>(&mut self, sp: u64) -> Result<(T, u64), Trap> {
        let size = size_of::<T>() as u32;
        let la = self.linear_at(seg::SS, sp, size, false)?;
        match self.load::<T>(la) {
            Ok(value) => Ok((value, sp.wrapping_add(u64::from(size)) & self.stack_mask())),
            Err(trap) => Err(self.on_stack(trap)),
        }
    }

    /// Writes `value` on the stack below `sp`; gives the new stack pointer. RSP does not change.
    #[inline(always)]
    pub(in crate::exec) fn push_at<T: Word>(&mut self, sp: u64, value: T) -> Result<u64, Trap> {
        let size = size_of::<T>() as u32;
        let sp = sp.wrapping_sub(u64::from(size)) & self.stack_mask();
        let la = self.linear_at(seg::SS, sp, size, true)?;
        match self.store(la, value) {
            Ok(()) => Ok(sp),
            Err(trap) => Err(self.on_stack(trap)),
        }
    }

    /// A non-canonical stack address is a stack fault, whatever segment the instruction's operand has.
    #[cold]
    pub(in crate::exec) fn on_stack(&mut self, trap: Trap) -> Trap {
        if let Pending::Fault(fault) = &mut self.pending
            && fault.non_canonical
        {
            fault.vector = vector::SS;
        }
        trap
    }
}

/// What PUSH pushes without reading memory.
trait Source: 'static {
    fn get<T: Word>(cpu: &Cpu, op: &Op) -> T;
}

struct Register;
struct Immediate;

impl Source for Register {
    #[inline(always)]
    fn get<T: Word>(cpu: &Cpu, op: &Op) -> T {
        cpu.get(op.dst)
    }
}

impl Source for Immediate {
    #[inline(always)]
    fn get<T: Word>(_: &Cpu, op: &Op) -> T {
        T::from_u64(op.imm)
    }
}

fn push(insn: &Instruction, size: u32) -> Option<Lowered> {
    if insn.op0_kind() == OpKind::Register && !insn.op0_register().is_gpr() {
        return None;
    }
    Lowered::step(match (size, insn.op0_kind()) {
        (8, OpKind::Register) => push_quick::<Register>,
        (8, OpKind::Memory) => step(push_memory::<u64>),
        (8, _) => push_quick::<Immediate>,
        (4, OpKind::Register) => step(push_value::<u32, Register>),
        (4, OpKind::Memory) => step(push_memory::<u32>),
        (4, _) => step(push_value::<u32, Immediate>),
        (2, OpKind::Register) => step(push_value::<u16, Register>),
        (2, OpKind::Memory) => step(push_memory::<u16>),
        (2, _) => step(push_value::<u16, Immediate>),
        _ => return None,
    })
}

/// PUSH in 64-bit mode.
///
/// # Safety
/// As [`Handler`], not the last of its block.
unsafe fn push_quick<S: Source>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid by the contract, and what the TLB gives is writable.
    unsafe {
        let sp = cpu.get::<u64>(slot::RSP).wrapping_sub(8);
        let Some(at) = cpu.writable::<u64>(sp) else {
            return push_slow::<S>(cpu, op);
        };
        u64::store(at, S::get::<u64>(cpu, &*op));
        cpu.set(slot::RSP, sp);
        next(cpu, op)
    }
}

/// # Safety
/// As [`Handler`], not the last of its block.
#[cold]
#[inline(never)]
unsafe fn push_slow<S: Source>(cpu: &mut Cpu, op: *const Op) -> Stop {
    let handler: Handler = step(push_value::<u64, S>);
    // SAFETY: the caller's contract is the handler's.
    unsafe { handler(cpu, op) }
}

fn push_value<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let sp = cpu.push_at(cpu.stack_pointer(), S::get::<T>(cpu, op))?;
    cpu.set_stack_pointer(sp);
    Ok(())
}

fn push_memory<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let la = cpu.linear(op, size_of::<T>() as u32, false)?;
    let value = cpu.load::<T>(la)?;
    let sp = cpu.push_at(cpu.stack_pointer(), value)?;
    cpu.set_stack_pointer(sp);
    Ok(())
}

fn pop(insn: &Instruction, size: u32, op: &Op) -> Option<Lowered> {
    if insn.op0_kind() == OpKind::Register && !insn.op0_register().is_gpr() {
        return None;
    }
    Lowered::step(match (size, op.form & form::MEM != 0) {
        (8, false) => pop_quick,
        (8, true) => step(pop_memory::<u64>),
        (4, false) => step(pop_register::<u32>),
        (4, true) => step(pop_memory::<u32>),
        (2, false) => step(pop_register::<u16>),
        (2, true) => step(pop_memory::<u16>),
        _ => return None,
    })
}

/// POP of a register in 64-bit mode.
///
/// # Safety
/// As [`Handler`], not the last of its block.
unsafe fn pop_quick(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid by the contract, and what the TLB gives is readable.
    unsafe {
        let sp = cpu.get::<u64>(slot::RSP);
        let Some(at) = cpu.readable::<u64>(sp) else {
            return pop_slow(cpu, op);
        };
        let value = u64::load(at);
        cpu.set(slot::RSP, sp.wrapping_add(8));
        cpu.set((*op).dst, value);
        next(cpu, op)
    }
}

/// # Safety
/// As [`Handler`], not the last of its block.
#[cold]
#[inline(never)]
unsafe fn pop_slow(cpu: &mut Cpu, op: *const Op) -> Stop {
    let handler: Handler = step(pop_register::<u64>);
    // SAFETY: the caller's contract is the handler's.
    unsafe { handler(cpu, op) }
}

fn pop_register<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let (value, sp) = cpu.pop_at::<T>(cpu.stack_pointer())?;
    cpu.set_stack_pointer(sp);
    cpu.set(op.dst, value);
    Ok(())
}

/// POP to memory: an address made with RSP is made with the new one.
fn pop_memory<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let before = cpu.get::<u64>(slot::RSP);
    let (value, sp) = cpu.pop_at::<T>(cpu.stack_pointer())?;
    cpu.set_stack_pointer(sp);
    let stored = match cpu.linear(op, size_of::<T>() as u32, true) {
        Ok(la) => cpu.store(la, value),
        Err(trap) => Err(trap),
    };
    if stored.is_err() {
        cpu.set(slot::RSP, before);
    }
    stored
}

const ALL: [u8; 8] = [slot::RAX, slot::RCX, slot::RDX, slot::RBX, slot::RSP, slot::RBP, slot::RSI, slot::RDI];

fn push_all<T: Word>(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    let mut sp = cpu.stack_pointer();
    for register in ALL {
        sp = cpu.push_at(sp, cpu.get::<T>(register))?;
    }
    cpu.set_stack_pointer(sp);
    Ok(())
}

fn pop_all<T: Word>(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    let mut sp = cpu.stack_pointer();
    let mut values = [T::from_u64(0); 8];
    for value in values.iter_mut().rev() {
        (*value, sp) = cpu.pop_at(sp)?;
    }
    for (register, value) in ALL.into_iter().zip(values).filter(|(r, _)| *r != slot::RSP) {
        cpu.set(register, value);
    }
    cpu.set_stack_pointer(sp);
    Ok(())
}

/// In virtual-8086 mode PUSHF and POPF are for I/O privilege level 3 only.
fn check_flags_access(cpu: &mut Cpu) -> Result<(), Trap> {
    let virtual_8086 = cpu.rflags_rest & rflags::VM != 0;
    if virtual_8086 && cpu.rflags_rest & rflags::IOPL != rflags::IOPL { Err(cpu.gp0()) } else { Ok(()) }
}

fn push_flags<T: Word>(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    check_flags_access(cpu)?;
    let image = cpu.rflags() & !(rflags::RF | rflags::VM);
    let sp = cpu.push_at(cpu.stack_pointer(), T::from_u64(image))?;
    cpu.set_stack_pointer(sp);
    Ok(())
}

/// POPF. Ends its block, because it may let interrupts in or begin single stepping.
///
/// # Safety
/// As [`Handler`].
unsafe fn pop_flags<T: Word>(cpu: &mut Cpu, op: *const Op) -> Stop {
    const WATCHED: u64 = rflags::TF | rflags::IF | rflags::AC;
    let before = cpu.rflags_rest;
    if load_flags::<T>(cpu).is_err() {
        return trapped(cpu, op);
    }
    // SAFETY: `op` is valid by the contract, and its block is the current one.
    unsafe {
        let rip = cpu.next_rip(&*op);
        if (before ^ cpu.rflags_rest) & WATCHED == 0 {
            return cache::chain(cpu, rip, 0);
        }
        cpu.set_rip(rip);
    }
    if (before ^ cpu.rflags_rest) & (rflags::TF | rflags::AC) != 0 {
        cpu.mode_changed();
    }
    // Interrupts that waited come in before the next instruction.
    if before & rflags::IF == 0 && cpu.rflags_rest & rflags::IF != 0 { Stop::Exit } else { Stop::Dispatch }
}

/// POPF's effect on the registers (Intel SDM vol. 2B).
fn load_flags<T: Word>(cpu: &mut Cpu) -> Result<(), Trap> {
    check_flags_access(cpu)?;
    let (image, sp) = cpu.pop_at::<T>(cpu.stack_pointer())?;
    let iopl = (cpu.rflags_rest & rflags::IOPL) >> 12;
    let mut mask = rflags::STATUS | rflags::TF | rflags::DF | rflags::NT | rflags::AC | rflags::ID;
    if u64::from(cpu.cpl) <= iopl {
        mask |= rflags::IF;
    }
    if cpu.cpl == 0 {
        mask |= rflags::IOPL;
    }
    if size_of::<T>() == 2 {
        mask &= 0xffff;
    }
    let kept = cpu.rflags() & !mask & !rflags::RF;
    cpu.set_stack_pointer(sp);
    cpu.set_rflags(kept | image.to_u64() & mask);
    Ok(())
}

/// ENTER: `imm` bytes of locals, nesting level in `aux`.
fn enter<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let size = size_of::<T>() as u64;
    let mask = cpu.stack_mask();
    let mut frame = cpu.get::<u64>(slot::RBP);
    let mut sp = cpu.push_at(cpu.stack_pointer(), cpu.get::<T>(slot::RBP))?;
    let base = sp;
    for _ in 1..op.aux {
        frame = frame.wrapping_sub(size);
        let (outer, _) = cpu.pop_at::<T>(frame & mask)?;
        sp = cpu.push_at(sp, outer)?;
    }
    if op.aux > 0 {
        sp = cpu.push_at(sp, T::from_u64(base))?;
    }
    sp = sp.wrapping_sub(op.imm) & mask;
    // The processor makes sure that the new top of the stack can be written.
    let la = cpu.linear_at(seg::SS, sp, size as u32, true)?;
    if let Err(trap) = cpu.probe(la, size, true) {
        return Err(cpu.on_stack(trap));
    }
    cpu.set(slot::RBP, T::from_u64(base));
    cpu.set_stack_pointer(sp);
    Ok(())
}

fn leave_frame<T: Word>(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    let frame = cpu.get::<u64>(slot::RBP) & cpu.stack_mask();
    let (value, sp) = cpu.pop_at::<T>(frame)?;
    cpu.set_stack_pointer(sp);
    cpu.set(slot::RBP, value);
    Ok(())
}

/// LEAVE in 64-bit mode.
///
/// # Safety
/// As [`Handler`], not the last of its block.
unsafe fn leave_quick(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid by the contract, and what the TLB gives is readable.
    unsafe {
        let frame = cpu.get::<u64>(slot::RBP);
        let Some(at) = cpu.readable::<u64>(frame) else {
            return leave_slow(cpu, op);
        };
        cpu.set(slot::RSP, frame.wrapping_add(8));
        cpu.set(slot::RBP, u64::load(at));
        next(cpu, op)
    }
}

/// # Safety
/// As [`Handler`], not the last of its block.
#[cold]
#[inline(never)]
unsafe fn leave_slow(cpu: &mut Cpu, op: *const Op) -> Stop {
    let handler: Handler = step(leave_frame::<u64>);
    // SAFETY: the caller's contract is the handler's.
    unsafe { handler(cpu, op) }
}
