//! The short way for common x87 instructions: FCW is the usual one (all exceptions masked, extended precision, nearest) and
//! no operand is missing and no register in the way. The operands are taken from and put into the guest's registers one by
//! one; whatever is not so goes the long way ([`super::image`]).
//!
//! The host's exception flags are not cleared each time: those that are set are set for the guest as well.

use std::arch::asm;

use iced_x86::Code;

use super::image::top;
use super::{on_registers, with_load, with_store};
use crate::cpu::Cpu;
use crate::exec::fp::{clear_host_x87, ok};
use crate::fault::Trap;
use crate::op::{Lowered, Op, step};

/// FSW's condition codes.
const C1: u16 = 1 << 9;
const C0_C2_C3: u16 = 1 << 8 | 1 << 10 | 1 << 14;
/// FSW's exception flags.
const FLAGS: u16 = 0x3f;

/// The arithmetic instructions, by the reg field of their ModRM byte.
const ADD: u8 = 0;
const MUL: u8 = 1;
const COM: u8 = 2;
const COMP: u8 = 3;
const SUB: u8 = 4;
const SUBR: u8 = 5;
const DIV: u8 = 6;
const DIVR: u8 = 7;

pub(super) fn lower(code: Code, op: &Op) -> Option<Lowered> {
    Lowered::step(match code {
        Code::Fld_m32fp => step(fld_m32),
        Code::Fld_m64fp => step(fld_m64),
        Code::Fld_m80fp => step(fld_m80),
        Code::Fild_m16int => step(fild::<2>),
        Code::Fild_m32int => step(fild::<4>),
        Code::Fild_m64int => step(fild::<8>),
        Code::Fld_sti => step(fld_sti),
        Code::Fld1 => step(constant::<0x3fff, { 1 << 63 }>),
        Code::Fldz => step(constant::<0, 0>),
        Code::Fxch_st0_sti => step(fxch),
        Code::Fchs => step(fchs),
        Code::Fabs => step(fabs),
        Code::Fst_sti => step(fst_sti::<false>),
        Code::Fstp_sti => step(fst_sti::<true>),
        Code::Fst_m32fp => step(fst_m32::<false>),
        Code::Fstp_m32fp => step(fst_m32::<true>),
        Code::Fst_m64fp => step(fst_m64::<false>),
        Code::Fstp_m64fp => step(fst_m64::<true>),
        Code::Fstp_m80fp => step(fstp_m80),
        Code::Fist_m16int => step(fist_m16::<false>),
        Code::Fistp_m16int => step(fist_m16::<true>),
        Code::Fist_m32int => step(fist_m32::<false>),
        Code::Fistp_m32int => step(fist_m32::<true>),
        Code::Fistp_m64int => step(fist_m64::<true>),
        Code::Fsqrt => step(unary::<0xfa>),
        Code::Frndint => step(unary::<0xfc>),
        Code::Fcom_st0_sti => step(compare::<0xded9, 0>),
        Code::Fcomp_st0_sti => step(compare::<0xded9, 1>),
        Code::Fcompp => step(compare::<0xded9, 2>),
        Code::Fucom_st0_sti => step(compare::<0xdae9, 0>),
        Code::Fucomp_st0_sti => step(compare::<0xdae9, 1>),
        Code::Fucompp => step(compare::<0xdae9, 2>),
        Code::Fcomi_st0_sti => step(order::<0xf1, false>),
        Code::Fcomip_st0_sti => step(order::<0xf1, true>),
        Code::Fucomi_st0_sti => step(order::<0xe9, false>),
        Code::Fucomip_st0_sti => step(order::<0xe9, true>),
        _ => return arithmetic(code).or_else(|| arithmetic_with_memory(code, op)),
    })
}

fn arithmetic(code: Code) -> Option<Lowered> {
    Lowered::step(match code {
        Code::Fadd_st0_sti => step(to_st0::<0xc1>),
        Code::Fmul_st0_sti => step(to_st0::<0xc9>),
        Code::Fsub_st0_sti => step(to_st0::<0xe9>),
        Code::Fsubr_st0_sti => step(to_st0::<0xe1>),
        Code::Fdiv_st0_sti => step(to_st0::<0xf9>),
        Code::Fdivr_st0_sti => step(to_st0::<0xf1>),
        Code::Fadd_sti_st0 => step(to_sti::<0xc1, false>),
        Code::Fmul_sti_st0 => step(to_sti::<0xc9, false>),
        Code::Fsub_sti_st0 => step(to_sti::<0xe9, false>),
        Code::Fsubr_sti_st0 => step(to_sti::<0xe1, false>),
        Code::Fdiv_sti_st0 => step(to_sti::<0xf9, false>),
        Code::Fdivr_sti_st0 => step(to_sti::<0xf1, false>),
        Code::Faddp_sti_st0 => step(to_sti::<0xc1, true>),
        Code::Fmulp_sti_st0 => step(to_sti::<0xc9, true>),
        Code::Fsubp_sti_st0 => step(to_sti::<0xe9, true>),
        Code::Fsubrp_sti_st0 => step(to_sti::<0xe1, true>),
        Code::Fdivp_sti_st0 => step(to_sti::<0xf9, true>),
        Code::Fdivrp_sti_st0 => step(to_sti::<0xf1, true>),
        _ => return None,
    })
}

fn arithmetic_with_memory(code: Code, op: &Op) -> Option<Lowered> {
    /// By the reg field in the opcode, which `lower` has put into `op`.
    fn of<const ESCAPE: u8, const SIZE: u32>(op: &Op) -> Option<Lowered> {
        Lowered::step(match (op.imm >> 3) as u8 & 7 {
            ADD => step(with_memory::<ESCAPE, ADD, SIZE>),
            MUL => step(with_memory::<ESCAPE, MUL, SIZE>),
            COM => step(with_memory::<ESCAPE, COM, SIZE>),
            COMP => step(with_memory::<ESCAPE, COMP, SIZE>),
            SUB => step(with_memory::<ESCAPE, SUB, SIZE>),
            SUBR => step(with_memory::<ESCAPE, SUBR, SIZE>),
            DIV => step(with_memory::<ESCAPE, DIV, SIZE>),
            _ => step(with_memory::<ESCAPE, DIVR, SIZE>),
        })
    }
    match code {
        Code::Fadd_m32fp
        | Code::Fmul_m32fp
        | Code::Fcom_m32fp
        | Code::Fcomp_m32fp
        | Code::Fsub_m32fp
        | Code::Fsubr_m32fp
        | Code::Fdiv_m32fp
        | Code::Fdivr_m32fp => of::<0xd8, 4>(op),
        Code::Fadd_m64fp
        | Code::Fmul_m64fp
        | Code::Fcom_m64fp
        | Code::Fcomp_m64fp
        | Code::Fsub_m64fp
        | Code::Fsubr_m64fp
        | Code::Fdiv_m64fp
        | Code::Fdivr_m64fp => of::<0xdc, 8>(op),
        _ => None,
    }
}

impl Cpu {
    /// Whether the short way is open for an instruction that uses those of ST(0) … ST(7) whose bits are set in `used`.
    #[inline(always)]
    fn usual(&self, used: u8) -> bool {
        self.fp_ok & ok::X87_USUAL != 0 && !self.valid() & used == 0
    }

    /// Which of ST(0) … ST(7) are not empty.
    #[inline(always)]
    fn valid(&self) -> u8 {
        self.x87.tags.rotate_right(top(self.x87.status) as u32)
    }

    /// Whether the short way is open for an instruction that pushes and uses none.
    #[inline(always)]
    fn usual_push(&self) -> bool {
        self.fp_ok & ok::X87_USUAL != 0 && self.valid() & 0x80 == 0
    }

    #[inline(always)]
    fn st(&mut self, i: u8) -> &mut [u8; 10] {
        let n = (top(self.x87.status) + usize::from(i)) & 7;
        &mut self.x87.regs[n]
    }

    /// Pushes a register; the caller sets its value.
    #[inline(always)]
    fn push(&mut self) -> &mut [u8; 10] {
        let n = (top(self.x87.status) + 7) & 7;
        self.x87.status = self.x87.status & !(7 << 11) | (n as u16) << 11;
        self.x87.tags |= 1 << n;
        &mut self.x87.regs[n]
    }

    #[inline(always)]
    fn pop(&mut self) {
        let n = top(self.x87.status);
        self.x87.tags &= !(1 << n);
        self.x87.status = self.x87.status & !(7 << 11) | ((n as u16 + 1) & 7) << 11;
    }

    /// Takes the exception flags and C1 of a host status word.
    #[inline(always)]
    fn take_status(&mut self, host: u16) {
        self.x87.status = self.x87.status & !C1 | host & (FLAGS | C1);
    }

    /// As [`take_status`](Self::take_status), with the condition codes of a comparison.
    #[inline(always)]
    fn take_order(&mut self, host: u16) {
        self.x87.status = self.x87.status & !C0_C2_C3 | host & C0_C2_C3;
        self.take_status(host);
    }
}

/// Runs a few x87 instructions and gives the status word after them; then those after `then`. All leave the host's stack
/// empty.
macro_rules! host {
    ($($line:literal),+; then $($pop:literal),*; $($operands:tt)*) => {{
        let status: u16;
        // SAFETY: the operands are valid for what the instructions access; every value loaded is popped again, and no
        // exception is unmasked on the host.
        unsafe {
            asm!(
                $($line,)+
                "fnstsw ax",
                $($pop,)*
                $($operands)*,
                out("ax") status,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                options(nostack)
            );
        }
        status
    }};
}

macro_rules! fld {
    ($name:ident $t:ty, $load:literal) => {
        #[inline(always)]
        fn $name(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
            if !cpu.usual_push() {
                return with_load(cpu, op);
            }
            let la = cpu.linear(op, size_of::<$t>() as u32, false)?;
            let value = cpu.load::<$t>(la)?;
            cpu.note_x87_memory(op);
            let register = cpu.push();
            let status = host!($load; then "fstp tbyte ptr [{1}]"; in(reg) &raw const value, in(reg) register);
            cpu.take_status(status);
            Ok(())
        }
    };
}

fld!(fld_m32 u32, "fld dword ptr [{0}]");
fld!(fld_m64 u64, "fld qword ptr [{0}]");

fn fld_m80(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    if !cpu.usual_push() {
        return with_load(cpu, op);
    }
    let mut value = [0; 10];
    let la = cpu.linear(op, 10, false)?;
    cpu.load_operand(la, &mut value)?;
    cpu.note_x87_memory(op);
    *cpu.push() = value;
    cpu.x87.status &= !C1;
    Ok(())
}

fn fild<const SIZE: u32>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    if !cpu.usual_push() {
        return with_load(cpu, op);
    }
    let la = cpu.linear(op, SIZE, false)?;
    let value = match SIZE {
        2 => i64::from(cpu.load::<u16>(la)? as i16),
        4 => i64::from(cpu.load::<u32>(la)? as i32),
        _ => cpu.load::<u64>(la)? as i64,
    };
    cpu.note_x87_memory(op);
    let register = cpu.push();
    let status = host!("fild qword ptr [{0}]"; then "fstp tbyte ptr [{1}]"; in(reg) &raw const value, in(reg) register);
    cpu.take_status(status);
    Ok(())
}

fn fld_sti(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    if !cpu.usual(1 << (op.imm & 7)) || !cpu.usual_push() {
        return on_registers(cpu, op);
    }
    let value = *cpu.st(op.imm as u8 & 7);
    cpu.note_x87(op);
    *cpu.push() = value;
    cpu.x87.status &= !C1;
    Ok(())
}

fn constant<const EXPONENT: u16, const MANTISSA: u64>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    if !cpu.usual_push() {
        return on_registers(cpu, op);
    }
    cpu.note_x87(op);
    let register = cpu.push();
    register[..8].copy_from_slice(&MANTISSA.to_le_bytes());
    register[8..].copy_from_slice(&EXPONENT.to_le_bytes());
    cpu.x87.status &= !C1;
    Ok(())
}

fn fxch(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let i = op.imm as u8 & 7;
    if !cpu.usual(1 | 1 << i) {
        return on_registers(cpu, op);
    }
    cpu.note_x87(op);
    let first = *cpu.st(0);
    let other = std::mem::replace(cpu.st(i), first);
    *cpu.st(0) = other;
    cpu.x87.status &= !C1;
    Ok(())
}

fn fchs(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    if !cpu.usual(1) {
        return on_registers(cpu, op);
    }
    cpu.note_x87(op);
    cpu.st(0)[9] ^= 0x80;
    cpu.x87.status &= !C1;
    Ok(())
}

fn fabs(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    if !cpu.usual(1) {
        return on_registers(cpu, op);
    }
    cpu.note_x87(op);
    cpu.st(0)[9] &= 0x7f;
    cpu.x87.status &= !C1;
    Ok(())
}

/// FST, FSTP to a register.
fn fst_sti<const POP: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    if !cpu.usual(1) {
        return on_registers(cpu, op);
    }
    cpu.note_x87(op);
    let i = op.imm as u8 & 7;
    let value = *cpu.st(0);
    *cpu.st(i) = value;
    cpu.x87.tags |= 1 << ((top(cpu.x87.status) + usize::from(i)) & 7);
    cpu.x87.status &= !C1;
    if POP {
        cpu.pop();
    }
    Ok(())
}

macro_rules! fst {
    ($name:ident $t:ty, $store:literal) => {
        fn $name<const POP: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
            store_converted::<$t, POP>(cpu, op, |st| {
                let mut value: $t = 0;
                let status = host!("fld tbyte ptr [{0}]", $store; then; in(reg) st, in(reg) &raw mut value);
                (value, status)
            })
        }
    };
}

fst!(fst_m32 u32, "fstp dword ptr [{1}]");
fst!(fst_m64 u64, "fstp qword ptr [{1}]");
fst!(fist_m16 u16, "fistp word ptr [{1}]");
fst!(fist_m32 u32, "fistp dword ptr [{1}]");
fst!(fist_m64 u64, "fistp qword ptr [{1}]");

/// Stores ST(0) as `convert` makes it, with the status word that gives.
#[inline(always)]
fn store_converted<T: crate::mem::Word, const POP: bool>(
    cpu: &mut Cpu,
    op: &Op,
    convert: impl FnOnce(&[u8; 10]) -> (T, u16),
) -> Result<(), Trap> {
    if !cpu.usual(1) {
        return with_store(cpu, op);
    }
    let la = cpu.linear(op, T::BITS / 8, true)?;
    let (value, status) = convert(cpu.st(0));
    if let Err(trap) = cpu.store(la, value) {
        clear_host_x87();
        return Err(trap);
    }
    cpu.note_x87_memory(op);
    cpu.take_status(status);
    if POP {
        cpu.pop();
    }
    Ok(())
}

fn fstp_m80(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    if !cpu.usual(1) {
        return with_store(cpu, op);
    }
    let la = cpu.linear(op, 10, true)?;
    let value = *cpu.st(0);
    cpu.store_operand(la, &value)?;
    cpu.note_x87_memory(op);
    cpu.x87.status &= !C1;
    cpu.pop();
    Ok(())
}

/// An instruction D9 `MODRM` on ST(0) alone.
fn unary<const MODRM: u8>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    if !cpu.usual(1) {
        return on_registers(cpu, op);
    }
    cpu.note_x87(op);
    let st = cpu.st(0);
    let status =
        host!("fld tbyte ptr [{0}]", ".byte 0xd9, {1}"; then "fstp tbyte ptr [{0}]"; in(reg) st, const MODRM);
    cpu.take_status(status);
    Ok(())
}

/// `to = to OP from` by DE `MODRM`, which works on the host's ST(1) and ST(0).
#[inline(always)]
fn compute<const MODRM: u8>(cpu: &mut Cpu, to: u8, from: u8) {
    let from: *const [u8; 10] = cpu.st(from);
    let to = cpu.st(to);
    let status = host!(
        "fld tbyte ptr [{0}]", "fld tbyte ptr [{1}]", ".byte 0xde, {2}"; then "fstp tbyte ptr [{0}]";
        in(reg) to, in(reg) from, const MODRM
    );
    cpu.take_status(status);
}

fn to_st0<const MODRM: u8>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let i = op.imm as u8 & 7;
    if !cpu.usual(1 | 1 << i) {
        return on_registers(cpu, op);
    }
    cpu.note_x87(op);
    compute::<MODRM>(cpu, 0, i);
    Ok(())
}

fn to_sti<const MODRM: u8, const POP: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let i = op.imm as u8 & 7;
    if !cpu.usual(1 | 1 << i) {
        return on_registers(cpu, op);
    }
    cpu.note_x87(op);
    compute::<MODRM>(cpu, i, 0);
    if POP {
        cpu.pop();
    }
    Ok(())
}

/// Arithmetic and comparisons of ST(0) with a number in memory.
fn with_memory<const ESCAPE: u8, const KIND: u8, const SIZE: u32>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<(), Trap> {
    if !cpu.usual(1) {
        return with_load(cpu, op);
    }
    let la = cpu.linear(op, SIZE, false)?;
    let value = if SIZE == 4 { u64::from(cpu.load::<u32>(la)?) } else { cpu.load::<u64>(la)? };
    cpu.note_x87_memory(op);
    let st = cpu.st(0);
    if KIND == COM || KIND == COMP {
        let status = host!(
            "fld tbyte ptr [{0}]", ".byte {1}, 0x1f"; then;
            in(reg) st, const ESCAPE, in("rdi") &raw const value
        );
        cpu.take_order(status);
        if KIND == COMP {
            cpu.pop();
        }
    } else {
        let status = host!(
            "fld tbyte ptr [{0}]", ".byte {1}, {2}"; then "fstp tbyte ptr [{0}]";
            in(reg) st, const ESCAPE, const KIND << 3 | 7, in("rdi") &raw const value
        );
        cpu.take_status(status);
    }
    Ok(())
}

/// FCOM and FUCOM and those that pop: `.byte ESCAPE, MODRM` compares the host's ST(0) with ST(1) and pops both.
fn compare<const MODRM: u16, const POPS: u8>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let i = if POPS == 2 { 1 } else { op.imm as u8 & 7 };
    if !cpu.usual(1 | 1 << i) {
        return on_registers(cpu, op);
    }
    cpu.note_x87(op);
    let other: *const [u8; 10] = cpu.st(i);
    let first = cpu.st(0);
    let status = host!(
        "fld tbyte ptr [{0}]", "fld tbyte ptr [{1}]", ".byte {2}, {3}"; then;
        in(reg) other, in(reg) first, const MODRM >> 8, const MODRM & 0xff
    );
    cpu.take_order(status);
    for _ in 0..POPS {
        cpu.pop();
    }
    Ok(())
}

/// FCOMI and FUCOMI: DF `MODRM` compares the host's ST(0) with ST(1), sets EFLAGS and pops one.
fn order<const MODRM: u8, const POP: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let i = op.imm as u8 & 7;
    if !cpu.usual(1 | 1 << i) {
        return on_registers(cpu, op);
    }
    cpu.note_x87(op);
    let other: *const [u8; 10] = cpu.st(i);
    let first = cpu.st(0);
    let flags: u32;
    let status = host!(
        "fld tbyte ptr [{0}]", "fld tbyte ptr [{1}]", ".byte 0xdf, {2}", "lahf", "seto al", "mov {3:e}, eax"; then "fstp st(0)";
        in(reg) other, in(reg) first, const MODRM, out(reg) flags
    );
    cpu.arith = flags as u16;
    cpu.x87.status |= status & FLAGS;
    if POP {
        cpu.pop();
    }
    Ok(())
}
