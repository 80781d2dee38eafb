//! Control and status words, and the environment and whole state in memory: FLDCW, FNSTCW, FNSTSW, FNCLEX, FNINIT,
//! FLDENV, FNSTENV, FRSTOR, FNSAVE (Intel SDM vol. 1, 8.1.10).

use std::arch::asm;

use iced_x86::Code;

use super::image::{self, EXCEPTIONS, top, with_summary};
use crate::cpu::{Cpu, Mode};
use crate::exec::fp::{X87_USUAL, clear_host_x87};
use crate::fault::Trap;
use crate::op::{Lowered, Op, slot, step};
use crate::state::X87;

pub(super) fn lower(code: Code) -> Option<Lowered> {
    Lowered::step(match code {
        Code::Fldcw_m2byte => step(fldcw),
        Code::Fnstcw_m2byte => step(fnstcw),
        Code::Fnstsw_m2byte => step(fnstsw),
        Code::Fnstsw_AX => step(fnstsw_ax),
        Code::Fnclex => step(fnclex),
        Code::Fninit => step(fninit),
        Code::Fldenv_m14byte => step(fldenv::<2>),
        Code::Fldenv_m28byte => step(fldenv::<4>),
        Code::Fnstenv_m14byte => step(fnstenv::<2>),
        Code::Fnstenv_m28byte => step(fnstenv::<4>),
        Code::Frstor_m94byte => step(frstor::<2>),
        Code::Frstor_m108byte => step(frstor::<4>),
        Code::Fnsave_m94byte => step(fnsave::<2>),
        Code::Fnsave_m108byte => step(fnsave::<4>),
        _ => return None,
    })
}

/// What the host's FCW becomes when `value` is loaded: some bits are not there. Clears the host's exception flags.
pub(super) fn control_word(value: u16) -> u16 {
    let (mut word, usual) = (value, X87_USUAL);
    // SAFETY: two-byte loads and stores; with no exception flag set unmasking does not trap, and the host's FCW is put
    // back.
    unsafe {
        asm!(
            "fnclex",
            "fldcw [{word}]",
            "fnstcw [{word}]",
            "fldcw [{usual}]",
            word = in(reg) &raw mut word,
            usual = in(reg) &raw const usual,
            options(nostack)
        );
    }
    word
}

fn fldcw(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_x87(true)?;
    let la = cpu.linear(op, 2, false)?;
    let value = cpu.load::<u16>(la)?;
    cpu.x87.control = if value == X87_USUAL { value } else { control_word(value) };
    cpu.x87.status = with_summary(cpu.x87.status, cpu.x87.control);
    cpu.fp_mode_changed();
    Ok(())
}

fn fnstcw(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_x87(false)?;
    let la = cpu.linear(op, 2, true)?;
    cpu.store(la, cpu.x87.control)
}

fn fnstsw(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_x87(false)?;
    let la = cpu.linear(op, 2, true)?;
    cpu.store(la, cpu.x87.status)
}

fn fnstsw_ax(cpu: &mut Cpu, _op: &Op) -> Result<(), Trap> {
    cpu.need_x87(false)?;
    cpu.set(slot::RAX, cpu.x87.status);
    Ok(())
}

/// Clears the exception flags, SF, ES and B.
fn fnclex(cpu: &mut Cpu, _op: &Op) -> Result<(), Trap> {
    cpu.need_x87(false)?;
    cpu.x87.status &= 0x7f00;
    clear_host_x87();
    cpu.fp_mode_changed();
    Ok(())
}

fn fninit(cpu: &mut Cpu, _op: &Op) -> Result<(), Trap> {
    cpu.need_x87(false)?;
    cpu.initialize_x87();
    Ok(())
}

impl Cpu {
    /// FNINIT: everything but the registers' contents is as at reset.
    fn initialize_x87(&mut self) {
        self.x87 = X87 { regs: self.x87.regs, ..X87::default() };
        clear_host_x87();
        self.fp_mode_changed();
    }
}

/// The full tag word: 0 valid, 1 zero, 2 special, 3 empty, two bits each.
fn full_tags(x87: &X87) -> u16 {
    let tag = |n: usize| -> u16 {
        let [mantissa @ .., low, high] = x87.regs[n];
        let mantissa = u64::from_le_bytes(mantissa);
        match u16::from_le_bytes([low, high]) & 0x7fff {
            _ if x87.tags >> n & 1 == 0 => 3,
            0 if mantissa == 0 => 1,
            0 | 0x7fff => 2,
            _ if mantissa >> 63 == 0 => 2,
            _ => 0,
        }
    };
    (0..8).map(|n| tag(n) << (2 * n)).sum()
}

/// The abridged form of a full tag word.
fn abridged(tags: u16) -> u8 {
    (0..8).filter(|n| tags >> (2 * n) & 3 != 3).map(|n| 1u8 << n).sum()
}

/// An environment of seven fields of `SIZE` bytes each.
fn environment<const SIZE: usize>(cpu: &Cpu) -> [[u8; SIZE]; 7] {
    let x = &cpu.x87;
    let (ip, dp, opcode) = (x.instruction as u32, x.operand as u32, u32::from(x.opcode & 0x7ff));
    let reserved = 0xffff_0000;
    let words = [u32::from(x.control), u32::from(x.status), u32::from(full_tags(x))].map(|w| w | reserved);
    let pointers = if cpu.mode.contains(Mode::REAL) {
        let high = |linear: u32| if SIZE == 2 { linear >> 4 & 0xf000 } else { linear >> 4 & 0x0fff_f000 };
        [ip & 0xffff | reserved, high(ip) | opcode, dp & 0xffff | reserved, high(dp)]
    } else {
        // The selectors are not kept (CPUID.7.EBX[13]).
        [ip, opcode << 16, dp, reserved]
    };
    let fields = [words[0], words[1], words[2], pointers[0], pointers[1], pointers[2], pointers[3]];
    fields.map(|f| {
        let mut bytes = [0; SIZE];
        bytes.copy_from_slice(&f.to_le_bytes()[..SIZE]);
        bytes
    })
}

/// Takes an environment into `x87`.
fn set_environment<const SIZE: usize>(cpu: &Cpu, x87: &mut X87, bytes: &[u8]) {
    let field = |n: usize| {
        let mut word = [0; 4];
        word[..SIZE].copy_from_slice(&bytes[n * SIZE..][..SIZE]);
        u32::from_le_bytes(word)
    };
    x87.control = control_word(field(0) as u16);
    x87.status = with_summary(field(1) as u16, x87.control);
    x87.tags = abridged(field(2) as u16);
    let (ip, selector, dp, high) = (field(3), field(4), field(5), field(6));
    if cpu.mode.contains(Mode::REAL) {
        let linear = |low: u32, high: u32| u64::from(low & 0xffff | (high & 0x0fff_f000) << 4);
        x87.instruction = linear(ip, selector);
        x87.operand = linear(dp, high);
        x87.opcode = selector as u16 & 0x7ff;
    } else {
        x87.instruction = u64::from(ip);
        x87.operand = u64::from(dp);
        x87.opcode = if SIZE == 4 { (selector >> 16) as u16 & 0x7ff } else { 0 };
    }
}

fn fldenv<const SIZE: usize>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_x87(true)?;
    let mut bytes = [0; 28];
    let bytes = &mut bytes[..7 * SIZE];
    let la = cpu.linear(op, bytes.len() as u32, false)?;
    cpu.load_bytes(la, bytes)?;
    let mut x87 = cpu.x87;
    set_environment::<SIZE>(cpu, &mut x87, bytes);
    cpu.x87 = x87;
    cpu.fp_mode_changed();
    Ok(())
}

/// Stores the environment and masks all exceptions.
fn fnstenv<const SIZE: usize>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_x87(false)?;
    let la = cpu.linear(op, 7 * SIZE as u32, true)?;
    let bytes = environment::<SIZE>(cpu);
    cpu.store_bytes(la, bytes.as_flattened())?;
    cpu.x87.control |= EXCEPTIONS;
    cpu.x87.status &= !image::PENDING;
    cpu.fp_mode_changed();
    Ok(())
}

fn frstor<const SIZE: usize>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_x87(true)?;
    let mut bytes = [0; 108];
    let bytes = &mut bytes[..7 * SIZE + 80];
    let la = cpu.linear(op, bytes.len() as u32, false)?;
    cpu.load_bytes(la, bytes)?;
    let mut x87 = cpu.x87;
    set_environment::<SIZE>(cpu, &mut x87, bytes);
    let first = top(x87.status);
    for (i, value) in bytes[7 * SIZE..].as_chunks::<10>().0.iter().enumerate() {
        x87.regs[(first + i) & 7] = *value;
    }
    cpu.x87 = x87;
    cpu.fp_mode_changed();
    Ok(())
}

/// Stores the whole state and initialises the unit.
fn fnsave<const SIZE: usize>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_x87(false)?;
    let la = cpu.linear(op, 7 * SIZE as u32 + 80, true)?;
    let mut bytes = [0; 108];
    bytes[..7 * SIZE].copy_from_slice(environment::<SIZE>(cpu).as_flattened());
    let first = top(cpu.x87.status);
    for (i, value) in bytes[7 * SIZE..].as_chunks_mut::<10>().0.iter_mut().take(8).enumerate() {
        *value = cpu.x87.regs[(first + i) & 7];
    }
    cpu.store_bytes(la, &bytes[..7 * SIZE + 80])?;
    cpu.initialize_x87();
    Ok(())
}
