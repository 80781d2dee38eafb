//! MOV, MOVZX, MOVSX, MOVSXD, LEA, CMOVcc, SETcc, BSWAP, XLAT and the sign extensions of the accumulator.

use std::marker::PhantomData;

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use super::native::Native;
use super::operand::{self, Load, Store, by_condition, by_wide_width, by_width, width};
use crate::cpu::Cpu;
use crate::fault::Trap;
use crate::flags::condition;
use crate::mem::Word;
use crate::op::{Handler, Lowered, Op, Stop, form, next, slot, step};

/// Lowers the instructions of this file.
pub(super) fn lower(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    match insn.mnemonic() {
        Mnemonic::Mov => mov(insn, op),
        Mnemonic::Movzx => extend::<Zero>(insn, op),
        Mnemonic::Movsx | Mnemonic::Movsxd => extend::<Sign>(insn, op),
        Mnemonic::Lea => lea(insn, op),
        Mnemonic::Bswap => bswap(insn),
        Mnemonic::Xlatb => Lowered::step(step(xlat)),
        Mnemonic::Cbw => Lowered::step(widen::<u8, u16>),
        Mnemonic::Cwde => Lowered::step(widen::<u16, u32>),
        Mnemonic::Cdqe => Lowered::step(widen::<u32, u64>),
        Mnemonic::Cwd => Lowered::step(spread::<u16>),
        Mnemonic::Cdq => Lowered::step(spread::<u32>),
        Mnemonic::Cqo => Lowered::step(spread::<u64>),
        _ => conditional(insn, op),
    }
}

/// The low four bits of a conditional instruction's opcode.
pub(in crate::exec) fn condition_code(insn: &Instruction) -> u8 {
    (insn.condition_code() as u8).wrapping_sub(1) & 15
}

fn general_register(insn: &Instruction, n: u32) -> bool {
    insn.op_kind(n) == OpKind::Register && insn.op_register(n).is_gpr()
}

fn mov(insn: &Instruction, op: &Op) -> Option<Lowered> {
    if absolute(insn.code()) {
        return mov_absolute(insn);
    }
    let memory = op.form & form::MEM != 0;
    let (first, second) = (general_register(insn, 0), general_register(insn, 1));
    let moves_system = (0..2).any(|n| insn.op_kind(n) == OpKind::Register && !insn.op_register(n).is_gpr());
    if moves_system {
        return None;
    }
    by_width!(width(insn), |T| {
        match (memory, first, second) {
            (false, true, true) => Lowered::step(mov_register::<T>),
            (false, true, false) => Lowered::step(mov_immediate::<T>),
            (true, true, _) => operand::load::<Into<T, T, Zero>>(insn, op),
            (true, _, true) => operand::store::<Register<T>>(insn, op),
            (true, _, false) => operand::store::<Immediate<T>>(insn, op),
            _ => None,
        }
    })
}

/// # Safety
/// As [`Handler`], not the last of its block.
unsafe fn mov_register<T: Word>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid and another follows, by the contract.
    unsafe {
        let value = cpu.get::<T>((*op).src);
        cpu.set((*op).dst, value);
        next(cpu, op)
    }
}

/// # Safety
/// As [`Handler`], not the last of its block.
unsafe fn mov_immediate<T: Word>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid and another follows, by the contract.
    unsafe {
        cpu.set((*op).dst, T::from_u64((*op).imm));
        next(cpu, op)
    }
}

/// How a narrow value becomes a wide one.
trait Extension: 'static {
    fn extend<N: Word, W: Word>(value: N) -> W;
}

struct Zero;
struct Sign;

impl Extension for Zero {
    #[inline(always)]
    fn extend<N: Word, W: Word>(value: N) -> W {
        W::from_u64(value.to_u64())
    }
}

impl Extension for Sign {
    #[inline(always)]
    fn extend<N: Word, W: Word>(value: N) -> W {
        W::from_u64(value.to_i64() as u64)
    }
}

/// `register = memory`, extended.
struct Into<N, W, E>(PhantomData<(N, W, E)>);

impl<N: Word, W: Word, E: Extension> Load for Into<N, W, E> {
    type Value = N;
    #[inline(always)]
    fn apply(cpu: &mut Cpu, op: &Op, value: N) {
        cpu.set(op.dst, E::extend::<N, W>(value));
    }
}

/// `memory = register`.
struct Register<T>(PhantomData<T>);

impl<T: Word> Store for Register<T> {
    type Value = T;
    #[inline(always)]
    fn value(cpu: &Cpu, op: &Op) -> T {
        cpu.get(op.src)
    }
}

/// `memory = immediate`.
struct Immediate<T>(PhantomData<T>);

impl<T: Word> Store for Immediate<T> {
    type Value = T;
    #[inline(always)]
    fn value(_: &Cpu, op: &Op) -> T {
        T::from_u64(op.imm)
    }
}

fn extend<E: Extension>(insn: &Instruction, op: &Op) -> Option<Lowered> {
    let memory = op.form & form::MEM != 0;
    let narrow = if memory { insn.memory_size().size() } else { insn.op1_register().size() };
    match (narrow, width(insn)) {
        (1, 2) => extend_of::<u8, u16, E>(insn, op),
        (1, 4) => extend_of::<u8, u32, E>(insn, op),
        (1, 8) => extend_of::<u8, u64, E>(insn, op),
        (2, 2) => extend_of::<u16, u16, E>(insn, op),
        (2, 4) => extend_of::<u16, u32, E>(insn, op),
        (2, 8) => extend_of::<u16, u64, E>(insn, op),
        (4, 4) => extend_of::<u32, u32, E>(insn, op),
        (4, 8) => extend_of::<u32, u64, E>(insn, op),
        _ => None,
    }
}

fn extend_of<N: Word, W: Word, E: Extension>(insn: &Instruction, op: &Op) -> Option<Lowered> {
    if op.form & form::MEM != 0 {
        operand::load::<Into<N, W, E>>(insn, op)
    } else {
        Lowered::step(extend_register::<N, W, E>)
    }
}

/// # Safety
/// As [`Handler`], not the last of its block.
unsafe fn extend_register<N: Word, W: Word, E: Extension>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid and another follows, by the contract.
    unsafe {
        let value = E::extend::<N, W>(cpu.get::<N>((*op).src));
        cpu.set((*op).dst, value);
        next(cpu, op)
    }
}

fn absolute(code: Code) -> bool {
    matches!(
        code,
        Code::Mov_AL_moffs8
            | Code::Mov_AX_moffs16
            | Code::Mov_EAX_moffs32
            | Code::Mov_RAX_moffs64
            | Code::Mov_moffs8_AL
            | Code::Mov_moffs16_AX
            | Code::Mov_moffs32_EAX
            | Code::Mov_moffs64_RAX
    )
}

fn mov_absolute(insn: &Instruction) -> Option<Lowered> {
    by_width!(width(insn), |T| {
        let loads = insn.op0_kind() == OpKind::Register;
        Lowered::step(if loads { step(load_absolute::<T>) } else { step(store_absolute::<T>) })
    })
}

fn load_absolute<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let la = cpu.linear_at(op.seg, op.imm, size_of::<T>() as u32, false)?;
    let value = cpu.load::<T>(la)?;
    cpu.set(slot::RAX, value);
    Ok(())
}

fn store_absolute<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let la = cpu.linear_at(op.seg, op.imm, size_of::<T>() as u32, true)?;
    cpu.store(la, cpu.get::<T>(slot::RAX))
}

fn lea(insn: &Instruction, op: &Op) -> Option<Lowered> {
    let full = op.form & (form::ADDR16 | form::ADDR32) == 0;
    by_wide_width!(width(insn), |T| Lowered::step(match (full, op.base, op.index) {
        (true, _, slot::ZERO) => lea_base::<T>,
        (true, _, _) => lea_full::<T>,
        _ => lea_cut::<T>,
    }))
}

/// LEA of base and displacement.
///
/// # Safety
/// As [`Handler`], not the last of its block.
unsafe fn lea_base<T: Word>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid and another follows, by the contract.
    unsafe {
        let offset = cpu.get::<u64>((*op).base).wrapping_add(i64::from((*op).disp) as u64);
        cpu.set((*op).dst, T::from_u64(offset));
        next(cpu, op)
    }
}

/// # Safety
/// As [`Handler`], not the last of its block.
unsafe fn lea_full<T: Word>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid and another follows, by the contract.
    unsafe {
        let offset = cpu.flat(&*op);
        cpu.set((*op).dst, T::from_u64(offset));
        next(cpu, op)
    }
}

/// LEA with an address of 16 or 32 bits.
///
/// # Safety
/// As [`Handler`], not the last of its block.
unsafe fn lea_cut<T: Word>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid and another follows, by the contract.
    unsafe {
        let offset = cpu.offset(&*op);
        cpu.set((*op).dst, T::from_u64(offset));
        next(cpu, op)
    }
}

fn conditional(insn: &Instruction, op: &Op) -> Option<Lowered> {
    let code = insn.code();
    if (Code::Cmovo_r16_rm16..=Code::Cmovg_r64_rm64).contains(&code) {
        by_wide_width!(width(insn), |T| {
            if op.form & form::MEM != 0 {
                by_condition!(condition_code(insn), |CC| operand::load::<MoveIf<T, CC>>(insn, op))
            } else {
                let run: Handler = by_condition!(condition_code(insn), |CC| cmov_register::<T, CC>);
                Lowered::step(run)
            }
        })
    } else if (Code::Seto_rm8..=Code::Setg_rm8).contains(&code) {
        by_condition!(condition_code(insn), |CC| {
            if op.form & form::MEM != 0 {
                operand::store::<Condition<CC>>(insn, op)
            } else {
                Lowered::step(set_register::<CC>)
            }
        })
    } else {
        None
    }
}

/// # Safety
/// As [`Handler`], not the last of its block.
unsafe fn cmov_register<T: Word, const CC: u8>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid and another follows, by the contract.
    unsafe {
        let from = if condition(cpu.arith, CC) { (*op).src } else { (*op).dst };
        let value = cpu.get::<T>(from);
        cpu.set((*op).dst, value);
        next(cpu, op)
    }
}

/// CMOVcc from memory, which is read whatever the condition.
struct MoveIf<T, const CC: u8>(PhantomData<T>);

impl<T: Word, const CC: u8> Load for MoveIf<T, CC> {
    type Value = T;
    #[inline(always)]
    fn apply(cpu: &mut Cpu, op: &Op, value: T) {
        let value = if condition(cpu.arith, CC) { value } else { cpu.get(op.dst) };
        cpu.set(op.dst, value);
    }
}

/// # Safety
/// As [`Handler`], not the last of its block.
unsafe fn set_register<const CC: u8>(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid and another follows, by the contract.
    unsafe {
        let value = u8::from(condition(cpu.arith, CC));
        cpu.set((*op).dst, value);
        next(cpu, op)
    }
}

/// SETcc to memory.
struct Condition<const CC: u8>;

impl<const CC: u8> Store for Condition<CC> {
    type Value = u8;
    #[inline(always)]
    fn value(cpu: &Cpu, _: &Op) -> u8 {
        u8::from(condition(cpu.arith, CC))
    }
}

fn bswap(insn: &Instruction) -> Option<Lowered> {
    match insn.code() {
        Code::Bswap_r16 => Lowered::step(bswap16),
        Code::Bswap_r32 => Lowered::step(bswap32),
        Code::Bswap_r64 => Lowered::step(bswap64),
        _ => None,
    }
}

/// BSWAP of a 16-bit register: undefined, on every processor known zero.
///
/// # Safety
/// As [`Handler`], not the last of its block.
unsafe fn bswap16(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid and another follows, by the contract.
    unsafe {
        cpu.set::<u16>((*op).dst, 0);
        next(cpu, op)
    }
}

/// # Safety
/// As [`Handler`], not the last of its block.
unsafe fn bswap32(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid and another follows, by the contract.
    unsafe {
        let value = cpu.get::<u32>((*op).dst);
        cpu.set((*op).dst, value.swap_bytes());
        next(cpu, op)
    }
}

/// # Safety
/// As [`Handler`], not the last of its block.
unsafe fn bswap64(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid and another follows, by the contract.
    unsafe {
        let value = cpu.get::<u64>((*op).dst);
        cpu.set((*op).dst, value.swap_bytes());
        next(cpu, op)
    }
}

/// CBW, CWDE, CDQE.
///
/// # Safety
/// As [`Handler`], not the last of its block.
unsafe fn widen<N: Native, W: Native>(cpu: &mut Cpu, op: *const Op) -> Stop {
    let value = cpu.get::<N>(slot::RAX).to_i64() as u64;
    cpu.set(slot::RAX, W::from_u64(value));
    // SAFETY: another op follows by the contract.
    unsafe { next(cpu, op) }
}

/// CWD, CDQ, CQO.
///
/// # Safety
/// As [`Handler`], not the last of its block.
unsafe fn spread<T: Native>(cpu: &mut Cpu, op: *const Op) -> Stop {
    let sign = cpu.get::<T>(slot::RAX).to_i64() >> 63;
    cpu.set(slot::RDX, T::from_u64(sign as u64));
    // SAFETY: another op follows by the contract.
    unsafe { next(cpu, op) }
}

/// XLAT: AL = segment:[rBX + AL].
fn xlat(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let offset = cpu.get::<u64>(slot::RBX).wrapping_add(u64::from(cpu.get::<u8>(slot::RAX)));
    let offset = if op.form & form::ADDR32 != 0 {
        offset & 0xffff_ffff
    } else if op.form & form::ADDR16 != 0 {
        offset & 0xffff
    } else {
        offset
    };
    let la = cpu.linear_at(op.seg, offset, 1, false)?;
    let value = cpu.load::<u8>(la)?;
    cpu.set(slot::RAX, value);
    Ok(())
}
