//! Near control flow: JMP, Jcc, CALL, RET, LOOP, JRCXZ.

use iced_x86::{Code, CodeSize, Instruction, Mnemonic, OpKind};

use super::integer::{by_condition, condition_code};
use crate::cache;
use crate::cpu::Cpu;
use crate::fault::Trap;
use crate::flags::{ZF, condition};
use crate::mem::Word;
use crate::mmu::canonical;
use crate::op::{Handler, Lowered, Op, Stop, form, slot, trapped};

/// The target of a taken branch, the way on when it is not taken: the links of a block.
pub(super) const TAKEN: usize = 1;
pub(super) const NOT_TAKEN: usize = 0;

/// Lowers the instructions of this file.
pub(crate) fn lower(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    let long = insn.code_size() == CodeSize::Code64;
    op.aux = operand_size(insn);
    if insn.is_jcc_short_or_near() {
        op.src = condition_code(insn);
    }
    Lowered::end(match insn.code() {
        Code::Jmp_rel8_64 | Code::Jmp_rel32_64 => jump,
        Code::Jmp_rel8_16 | Code::Jmp_rel8_32 | Code::Jmp_rel16 | Code::Jmp_rel32_32 => jump_legacy,
        Code::Call_rel32_64 => call,
        Code::Call_rel16 => direct_call::<u16>(),
        Code::Call_rel32_32 => direct_call::<u32>(),
        Code::Retnq => ret::<false>,
        Code::Retnq_imm16 => ret::<true>,
        Code::Retnd | Code::Retnd_imm16 => indirect(ret_legacy::<u32>),
        Code::Retnw | Code::Retnw_imm16 => indirect(ret_legacy::<u16>),
        Code::Jmp_rm64 if op.form & form::MEM == 0 => jump_register,
        Code::Jmp_rm64 => indirect(jump_through::<u64>),
        Code::Jmp_rm32 => indirect(jump_through::<u32>),
        Code::Jmp_rm16 => indirect(jump_through::<u16>),
        Code::Call_rm64 => indirect(call_through::<u64>),
        Code::Call_rm32 => indirect(call_through::<u32>),
        Code::Call_rm16 => indirect(call_through::<u16>),
        _ if insn.is_jcc_short_or_near() && long => by_condition!(condition_code(insn), |CC| jump_if::<CC>),
        _ if insn.is_jcc_short_or_near() => jump_if_legacy,
        _ => counting(insn, op)?,
    })
}

/// Operand size of a branch, in bytes: how much of the instruction pointer it leaves.
fn operand_size(insn: &Instruction) -> u16 {
    match insn.op0_kind() {
        OpKind::NearBranch16 => 2,
        OpKind::NearBranch32 => 4,
        _ => 8,
    }
}

/// JMP, 64-bit mode.
///
/// # Safety
/// As [`Handler`].
unsafe fn jump(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid by the contract, and its block is the current one.
    unsafe {
        let rip = cpu.block_rip().wrapping_add((*op).imm);
        cache::chain(cpu, rip, TAKEN)
    }
}

/// Jcc, 64-bit mode.
///
/// # Safety
/// As [`Handler`].
unsafe fn jump_if<const CC: u8>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid by the contract, and its block is the current one.
    unsafe {
        if condition(cpu.arith, CC) {
            let rip = cpu.block_rip().wrapping_add((*op).imm);
            cache::chain(cpu, rip, TAKEN)
        } else {
            let rip = cpu.block_rip().wrapping_add(u64::from((*op).next));
            cache::chain(cpu, rip, NOT_TAKEN)
        }
    }
}

/// CALL, 64-bit mode.
///
/// # Safety
/// As [`Handler`].
unsafe fn call(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid by the contract, its block is the current one, and what the TLB gives is writable.
    unsafe {
        let sp = cpu.get::<u64>(slot::RSP).wrapping_sub(8);
        let Some(at) = cpu.writable::<u64>(sp) else {
            return call_slow(cpu, op);
        };
        let from = cpu.block_rip();
        u64::store(at, from.wrapping_add(u64::from((*op).next)));
        cpu.set(slot::RSP, sp);
        cache::chain(cpu, from.wrapping_add((*op).imm), TAKEN)
    }
}

/// # Safety
/// As [`Handler`].
#[cold]
#[inline(never)]
unsafe fn call_slow(cpu: &mut Cpu, op: *const Op) -> Stop {
    let handler: Handler = direct_call::<u64>();
    // SAFETY: the caller's contract is the handler's.
    unsafe { handler(cpu, op) }
}

/// RET, 64-bit mode.
///
/// # Safety
/// As [`Handler`].
unsafe fn ret<const RELEASE: bool>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid by the contract, and what the TLB gives is readable.
    unsafe {
        let sp = cpu.get::<u64>(slot::RSP);
        let Some(at) = cpu.readable::<u64>(sp) else {
            return ret_slow(cpu, op);
        };
        let rip = u64::load(at);
        if !canonical(rip) {
            return ret_slow(cpu, op);
        }
        let release = if RELEASE { (*op).imm & 0xffff } else { 0 };
        cpu.set(slot::RSP, sp.wrapping_add(8 + release));
        cache::indirect(cpu, rip)
    }
}

/// # Safety
/// As [`Handler`].
#[cold]
#[inline(never)]
unsafe fn ret_slow(cpu: &mut Cpu, op: *const Op) -> Stop {
    let handler: Handler = indirect(ret_legacy::<u64>);
    // SAFETY: the caller's contract is the handler's.
    unsafe { handler(cpu, op) }
}

/// JMP to a register's value, 64-bit mode.
///
/// # Safety
/// As [`Handler`].
unsafe fn jump_register(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid by the contract.
    unsafe {
        let rip = cpu.get::<u64>((*op).dst);
        if !canonical(rip) {
            return not_canonical(cpu, op);
        }
        cache::indirect(cpu, rip)
    }
}

#[cold]
#[inline(never)]
fn not_canonical(cpu: &mut Cpu, op: *const Op) -> Stop {
    let _ = cpu.gp0();
    trapped(cpu, op)
}

/// Makes a handler of a function that gives the address of a branch whose target is not fixed.
fn indirect<F>(_: F) -> Handler
where
    F: Fn(&mut Cpu, &Op) -> Result<u64, Trap> + Copy + 'static,
{
    const { assert!(size_of::<F>() == 0, "a handler must be a function item") };
    unsafe fn run<F>(cpu: &mut Cpu, op: *const Op) -> Stop
    where
        F: Fn(&mut Cpu, &Op) -> Result<u64, Trap> + Copy + 'static,
    {
        // SAFETY: F has no size (checked above), so any aligned pointer is a valid F; op is valid by the contract.
        let (f, insn) = unsafe { (std::ptr::NonNull::<F>::dangling().as_ref(), &*op) };
        match f(cpu, insn) {
            // SAFETY: the current block ends with `op`.
            Ok(rip) => unsafe { cache::indirect(cpu, rip) },
            Err(Trap) => trapped(cpu, op),
        }
    }
    run::<F>
}

/// Makes a handler of a function that says which way a branch with a fixed target goes, and to what address.
fn direct<F>(_: F) -> Handler
where
    F: Fn(&mut Cpu, &Op) -> Result<(u64, usize), Trap> + Copy + 'static,
{
    const { assert!(size_of::<F>() == 0, "a handler must be a function item") };
    unsafe fn run<F>(cpu: &mut Cpu, op: *const Op) -> Stop
    where
        F: Fn(&mut Cpu, &Op) -> Result<(u64, usize), Trap> + Copy + 'static,
    {
        // SAFETY: as in `indirect`.
        let (f, insn) = unsafe { (std::ptr::NonNull::<F>::dangling().as_ref(), &*op) };
        match f(cpu, insn) {
            // SAFETY: the current block ends with `op`.
            Ok((rip, way)) => unsafe { cache::chain(cpu, rip, way) },
            Err(Trap) => trapped(cpu, op),
        }
    }
    run::<F>
}

/// Cuts a target to `size` bytes and checks that code may be there.
fn target(cpu: &mut Cpu, rip: u64, size: u16) -> Result<u64, Trap> {
    let rip = match size {
        2 => rip & 0xffff,
        4 => rip & 0xffff_ffff,
        _ => rip,
    };
    cpu.check_code_limit(rip)?;
    Ok(rip)
}

/// Where a direct branch leads.
fn branch_target(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    target(cpu, cpu.block_rip().wrapping_add(op.imm), op.aux)
}

/// JMP outside 64-bit mode.
///
/// # Safety
/// As [`Handler`].
unsafe fn jump_legacy(cpu: &mut Cpu, op: *const Op) -> Stop {
    let handler = direct(|cpu: &mut Cpu, op: &Op| Ok((branch_target(cpu, op)?, TAKEN)));
    // SAFETY: the caller's contract is the handler's.
    unsafe { handler(cpu, op) }
}

/// Jcc outside 64-bit mode.
///
/// # Safety
/// As [`Handler`].
unsafe fn jump_if_legacy(cpu: &mut Cpu, op: *const Op) -> Stop {
    let handler = direct(|cpu: &mut Cpu, op: &Op| branch_if(cpu, op, condition(cpu.arith, op.src)));
    // SAFETY: the caller's contract is the handler's.
    unsafe { handler(cpu, op) }
}

#[inline(always)]
fn branch_if(cpu: &mut Cpu, op: &Op, taken: bool) -> Result<(u64, usize), Trap> {
    if taken { Ok((branch_target(cpu, op)?, TAKEN)) } else { Ok((cpu.next_rip(op), NOT_TAKEN)) }
}

/// CALL with a fixed target and an operand size of `T`.
fn direct_call<T: Word>() -> Handler {
    direct(|cpu: &mut Cpu, op: &Op| {
        let rip = branch_target(cpu, op)?;
        push_return::<T>(cpu, op)?;
        Ok((rip, TAKEN))
    })
}

#[inline(always)]
fn push_return<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let sp = cpu.push_at(cpu.stack_pointer(), T::from_u64(cpu.next_rip(op)))?;
    cpu.set_stack_pointer(sp);
    Ok(())
}

/// RET with an operand size of `T`, any mode.
fn ret_legacy<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    let (rip, sp) = cpu.pop_at::<T>(cpu.stack_pointer())?;
    let rip = target(cpu, rip.to_u64(), size_of::<T>() as u16)?;
    cpu.set_stack_pointer(sp.wrapping_add(op.imm & 0xffff));
    Ok(rip)
}

#[inline(always)]
fn operand<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    let value = if op.form & form::MEM != 0 {
        let la = cpu.linear(op, size_of::<T>() as u32, false)?;
        cpu.load::<T>(la)?
    } else {
        cpu.get::<T>(op.dst)
    };
    target(cpu, value.to_u64(), size_of::<T>() as u16)
}

fn jump_through<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    operand::<T>(cpu, op)
}

fn call_through<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    let rip = operand::<T>(cpu, op)?;
    push_return::<T>(cpu, op)?;
    Ok(rip)
}

/// LOOP, LOOPE, LOOPNE and JRCXZ; the counter's size in bytes goes into `src`.
fn counting(insn: &Instruction, op: &mut Op) -> Option<Handler> {
    use Code::*;
    op.src = match insn.code() {
        Loopne_rel8_16_CX | Loopne_rel8_32_CX | Loope_rel8_16_CX | Loope_rel8_32_CX | Loop_rel8_16_CX
        | Loop_rel8_32_CX | Jcxz_rel8_16 | Jcxz_rel8_32 => 2,
        Loopne_rel8_16_ECX | Loopne_rel8_32_ECX | Loopne_rel8_64_ECX | Loope_rel8_16_ECX
        | Loope_rel8_32_ECX | Loope_rel8_64_ECX | Loop_rel8_16_ECX | Loop_rel8_32_ECX | Loop_rel8_64_ECX
        | Jecxz_rel8_16 | Jecxz_rel8_32 | Jecxz_rel8_64 => 4,
        Loopne_rel8_16_RCX | Loopne_rel8_64_RCX | Loope_rel8_16_RCX | Loope_rel8_64_RCX
        | Loop_rel8_16_RCX | Loop_rel8_64_RCX | Jrcxz_rel8_16 | Jrcxz_rel8_64 => 8,
        _ => return None,
    };
    Some(match insn.mnemonic() {
        Mnemonic::Loop => direct(|cpu: &mut Cpu, op: &Op| count_down(cpu, op, true)),
        Mnemonic::Loope => direct(|cpu: &mut Cpu, op: &Op| count_down(cpu, op, cpu.arith & ZF != 0)),
        Mnemonic::Loopne => direct(|cpu: &mut Cpu, op: &Op| count_down(cpu, op, cpu.arith & ZF == 0)),
        _ => direct(|cpu: &mut Cpu, op: &Op| branch_if(cpu, op, counter(cpu, op) == 0)),
    })
}

fn counter(cpu: &Cpu, op: &Op) -> u64 {
    match op.src {
        2 => u64::from(cpu.get::<u16>(slot::RCX)),
        4 => u64::from(cpu.get::<u32>(slot::RCX)),
        _ => cpu.get(slot::RCX),
    }
}

/// LOOPcc: one less in the counter, and back while it is not zero and the condition `holds`.
fn count_down(cpu: &mut Cpu, op: &Op, holds: bool) -> Result<(u64, usize), Trap> {
    let left = counter(cpu, op).wrapping_sub(1);
    let left = match op.src {
        2 => left & 0xffff,
        4 => left & 0xffff_ffff,
        _ => left,
    };
    let way = branch_if(cpu, op, left != 0 && holds)?;
    match op.src {
        2 => cpu.set(slot::RCX, left as u16),
        4 => cpu.set(slot::RCX, left as u32),
        _ => cpu.set(slot::RCX, left),
    }
    Ok(way)
}
