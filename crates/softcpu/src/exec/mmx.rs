//! MMX: the low 64 bits of the x87 registers.
//!
//! Each operation is executed as its SSE2 counterpart on the low half of an XMM register, which gives the same bits; where
//! the two arrange lanes differently the operands are arranged to match. Every MMX instruction makes the x87 registers'
//! tags valid (EMMS: empty) and TOP zero; one that writes a register sets its exponent to ones (Intel SDM vol. 1, 9.6).

use iced_x86::{Code, Instruction};

use super::sse::{Access, Full, Width, bits, masked_operand, store_masked, vector, watch, words};
use crate::cpu::Cpu;
use crate::fault::Trap;
use crate::mem::Word;
use crate::op::{Lowered, Op, form, step};

/// Lowers the instructions on MMX registers.
pub(crate) fn lower(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    let code = insn.code();
    if matches!(code, Code::Maskmovq_rDI_mm_mm) {
        masked_operand(insn, op);
        return Lowered::step(step(maskmovq));
    }
    table(code, op)
        .or_else(|| shift(code, op))
        .or_else(|| moves(code, op))
        .or_else(|| lanes(code, op))
        .or_else(|| convert(code, op))
}

impl Cpu {
    /// MMX register `n`.
    #[inline(always)]
    fn mm(&self, n: u8) -> u64 {
        let [mantissa @ .., _, _] = self.x87.regs[usize::from(n & 7)];
        u64::from_le_bytes(mantissa)
    }

    #[inline(always)]
    fn set_mm(&mut self, n: u8, value: u64) {
        let register = &mut self.x87.regs[usize::from(n & 7)];
        register[..8].copy_from_slice(&value.to_le_bytes());
        register[8..].copy_from_slice(&[0xff; 2]);
    }

    /// What every MMX instruction does to the x87 unit.
    #[inline(always)]
    fn enter_mmx(&mut self) {
        self.x87.status &= !(7 << 11);
        self.x87.tags = 0xff;
    }
}

/// The source operand: a register or `size` bytes of memory.
#[inline(always)]
fn source<const MEM: bool>(cpu: &mut Cpu, op: &Op, size: u32) -> Result<u64, Trap> {
    if !MEM {
        return Ok(cpu.mm(op.src));
    }
    let la = cpu.linear(op, size, false)?;
    if size == 4 { Ok(u64::from(cpu.load::<u32>(la)?)) } else { cpu.load::<u64>(la) }
}

/// An operation `destination = destination OP source`.
trait Operation: Copy + 'static {
    /// Bytes of the source if it is in memory.
    const SIZE: u32;
    fn run(a: u64, b: u64) -> u64;
}

/// How the SSE2 counterpart's lanes relate to the MMX operation's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lanes {
    /// The low half of the result is the result.
    Low,
    /// The high half of the result is the result (unpacks of the high halves).
    High,
    /// Both operands side by side are the first operand (packs).
    Packed,
}

macro_rules! operations {
    ($($code:ident $mnemonic:literal $size:literal $lanes:ident;)*) => {
        $(
            #[allow(non_camel_case_types)]
            #[derive(Clone, Copy)]
            struct $code;
            impl Operation for $code {
                const SIZE: u32 = $size;
                #[inline(always)]
                fn run(a: u64, b: u64) -> u64 {
                    const LANES: Lanes = Lanes::$lanes;
                    let second = if LANES == Lanes::Packed { b } else { 0 };
                    let mut x = vector(u128::from(a) | u128::from(second) << 64);
                    // SAFETY: SSE2 is part of x86-64; the instruction works on two registers.
                    unsafe {
                        std::arch::asm!(
                            concat!($mnemonic, " {0}, {1}"),
                            inout(xmm_reg) x,
                            in(xmm_reg) vector(u128::from(b)),
                            options(pure, nomem, nostack, preserves_flags)
                        );
                    }
                    if LANES == Lanes::High { (bits(x) >> 64) as u64 } else { bits(x) as u64 }
                }
            }
        )*
        fn table(code: Code, op: &Op) -> Option<Lowered> {
            match code {
                $(Code::$code => binary_of::<$code>(op),)*
                _ => None,
            }
        }
    };
}

operations! {
    Paddb_mm_mmm64 "paddb" 8 Low;
    Paddw_mm_mmm64 "paddw" 8 Low;
    Paddd_mm_mmm64 "paddd" 8 Low;
    Paddq_mm_mmm64 "paddq" 8 Low;
    Paddsb_mm_mmm64 "paddsb" 8 Low;
    Paddsw_mm_mmm64 "paddsw" 8 Low;
    Paddusb_mm_mmm64 "paddusb" 8 Low;
    Paddusw_mm_mmm64 "paddusw" 8 Low;
    Psubb_mm_mmm64 "psubb" 8 Low;
    Psubw_mm_mmm64 "psubw" 8 Low;
    Psubd_mm_mmm64 "psubd" 8 Low;
    Psubq_mm_mmm64 "psubq" 8 Low;
    Psubsb_mm_mmm64 "psubsb" 8 Low;
    Psubsw_mm_mmm64 "psubsw" 8 Low;
    Psubusb_mm_mmm64 "psubusb" 8 Low;
    Psubusw_mm_mmm64 "psubusw" 8 Low;
    Pmullw_mm_mmm64 "pmullw" 8 Low;
    Pmulhw_mm_mmm64 "pmulhw" 8 Low;
    Pmulhuw_mm_mmm64 "pmulhuw" 8 Low;
    Pmuludq_mm_mmm64 "pmuludq" 8 Low;
    Pmaddwd_mm_mmm64 "pmaddwd" 8 Low;
    Psadbw_mm_mmm64 "psadbw" 8 Low;
    Pavgb_mm_mmm64 "pavgb" 8 Low;
    Pavgw_mm_mmm64 "pavgw" 8 Low;
    Pmaxub_mm_mmm64 "pmaxub" 8 Low;
    Pmaxsw_mm_mmm64 "pmaxsw" 8 Low;
    Pminub_mm_mmm64 "pminub" 8 Low;
    Pminsw_mm_mmm64 "pminsw" 8 Low;
    Pcmpeqb_mm_mmm64 "pcmpeqb" 8 Low;
    Pcmpeqw_mm_mmm64 "pcmpeqw" 8 Low;
    Pcmpeqd_mm_mmm64 "pcmpeqd" 8 Low;
    Pcmpgtb_mm_mmm64 "pcmpgtb" 8 Low;
    Pcmpgtw_mm_mmm64 "pcmpgtw" 8 Low;
    Pcmpgtd_mm_mmm64 "pcmpgtd" 8 Low;
    Pand_mm_mmm64 "pand" 8 Low;
    Pandn_mm_mmm64 "pandn" 8 Low;
    Por_mm_mmm64 "por" 8 Low;
    Pxor_mm_mmm64 "pxor" 8 Low;
    Psllw_mm_mmm64 "psllw" 8 Low;
    Pslld_mm_mmm64 "pslld" 8 Low;
    Psllq_mm_mmm64 "psllq" 8 Low;
    Psrlw_mm_mmm64 "psrlw" 8 Low;
    Psrld_mm_mmm64 "psrld" 8 Low;
    Psrlq_mm_mmm64 "psrlq" 8 Low;
    Psraw_mm_mmm64 "psraw" 8 Low;
    Psrad_mm_mmm64 "psrad" 8 Low;
    Punpcklbw_mm_mmm32 "punpcklbw" 4 Low;
    Punpcklwd_mm_mmm32 "punpcklwd" 4 Low;
    Punpckldq_mm_mmm32 "punpckldq" 4 Low;
    Punpckhbw_mm_mmm64 "punpcklbw" 8 High;
    Punpckhwd_mm_mmm64 "punpcklwd" 8 High;
    Punpckhdq_mm_mmm64 "punpckldq" 8 High;
    Packsswb_mm_mmm64 "packsswb" 8 Packed;
    Packssdw_mm_mmm64 "packssdw" 8 Packed;
    Packuswb_mm_mmm64 "packuswb" 8 Packed;
}

fn binary_of<O: Operation>(op: &Op) -> Option<Lowered> {
    Lowered::step(if op.form & form::MEM != 0 { step(binary::<O, true>) } else { step(binary::<O, false>) })
}

#[inline(always)]
fn binary<O: Operation, const MEM: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_mmx()?;
    let b = source::<MEM>(cpu, op, O::SIZE)?;
    let value = O::run(cpu.mm(op.dst), b);
    cpu.enter_mmx();
    cpu.set_mm(op.dst, value);
    Ok(())
}

/// Shifts by an immediate.
fn shift(code: Code, _op: &Op) -> Option<Lowered> {
    Lowered::step(match code {
        Code::Psllw_mm_imm8 => step(shift_by::<Psllw_mm_mmm64>),
        Code::Pslld_mm_imm8 => step(shift_by::<Pslld_mm_mmm64>),
        Code::Psllq_mm_imm8 => step(shift_by::<Psllq_mm_mmm64>),
        Code::Psrlw_mm_imm8 => step(shift_by::<Psrlw_mm_mmm64>),
        Code::Psrld_mm_imm8 => step(shift_by::<Psrld_mm_mmm64>),
        Code::Psrlq_mm_imm8 => step(shift_by::<Psrlq_mm_mmm64>),
        Code::Psraw_mm_imm8 => step(shift_by::<Psraw_mm_mmm64>),
        Code::Psrad_mm_imm8 => step(shift_by::<Psrad_mm_mmm64>),
        _ => return None,
    })
}

fn shift_by<O: Operation>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_mmx()?;
    let value = O::run(cpu.mm(op.dst), u64::from(op.imm as u8));
    cpu.enter_mmx();
    cpu.set_mm(op.dst, value);
    Ok(())
}

fn moves(code: Code, op: &Op) -> Option<Lowered> {
    let memory = op.form & form::MEM != 0;
    Lowered::step(match code {
        Code::Emms => step(emms),
        Code::Movq_mm_mmm64 if !memory => step(load::<false, 8>),
        Code::Movq_mmm64_mm if !memory => step(load::<false, 8>),
        Code::Movq_mm_mmm64 => step(load::<true, 8>),
        Code::Movd_mm_rm32 if memory => step(load::<true, 4>),
        Code::Movq_mm_rm64 if memory => step(load::<true, 8>),
        Code::Movd_mm_rm32 => step(from_general::<u32>),
        Code::Movq_mm_rm64 => step(from_general::<u64>),
        Code::Movq_mmm64_mm | Code::Movntq_m64_mm => step(store::<u64>),
        Code::Movd_rm32_mm if memory => step(store::<u32>),
        Code::Movq_rm64_mm if memory => step(store::<u64>),
        Code::Movd_rm32_mm => step(to_general::<u32>),
        Code::Movq_rm64_mm => step(to_general::<u64>),
        Code::Movq2dq_xmm_mm => step(movq2dq),
        Code::Movdq2q_mm_xmm => step(movdq2q),
        _ => return None,
    })
}

fn emms(cpu: &mut Cpu, _op: &Op) -> Result<(), Trap> {
    cpu.need_mmx()?;
    cpu.enter_mmx();
    cpu.x87.tags = 0;
    Ok(())
}

fn load<const MEM: bool, const SIZE: u32>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_mmx()?;
    let value = source::<MEM>(cpu, op, SIZE)?;
    cpu.enter_mmx();
    cpu.set_mm(op.dst, value);
    Ok(())
}

fn from_general<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_mmx()?;
    let value = cpu.get::<T>(op.src).to_u64();
    cpu.enter_mmx();
    cpu.set_mm(op.dst, value);
    Ok(())
}

fn to_general<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_mmx()?;
    cpu.enter_mmx();
    cpu.set(op.dst, T::from_u64(cpu.mm(op.src)));
    Ok(())
}

fn store<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_mmx()?;
    let la = cpu.linear(op, T::BITS / 8, true)?;
    cpu.store(la, T::from_u64(cpu.mm(op.src)))?;
    cpu.enter_mmx();
    Ok(())
}

fn maskmovq(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_mmx()?;
    let (value, mask) = (cpu.mm(op.src).to_le_bytes(), cpu.mm(op.aux as u8).to_le_bytes());
    store_masked(cpu, op, &value, &mask)?;
    cpu.enter_mmx();
    Ok(())
}

fn movq2dq(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_sse_and_mmx()?;
    cpu.enter_mmx();
    *cpu.x(op.dst) = u128::from(cpu.mm(op.src));
    Ok(())
}

fn movdq2q(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_sse_and_mmx()?;
    cpu.enter_mmx();
    let value = *cpu.x(op.src) as u64;
    cpu.set_mm(op.dst, value);
    Ok(())
}

/// PSHUFW, PINSRW, PEXTRW, PMOVMSKB.
fn lanes(code: Code, op: &Op) -> Option<Lowered> {
    let memory = op.form & form::MEM != 0;
    Lowered::step(match code {
        Code::Pshufw_mm_mmm64_imm8 if memory => step(pshufw::<true>),
        Code::Pshufw_mm_mmm64_imm8 => step(pshufw::<false>),
        Code::Pinsrw_mm_r32m16_imm8 | Code::Pinsrw_mm_r64m16_imm8 if memory => step(pinsrw::<true>),
        Code::Pinsrw_mm_r32m16_imm8 | Code::Pinsrw_mm_r64m16_imm8 => step(pinsrw::<false>),
        Code::Pextrw_r32_mm_imm8 | Code::Pextrw_r64_mm_imm8 => step(pextrw),
        Code::Pmovmskb_r32_mm | Code::Pmovmskb_r64_mm => step(pmovmskb),
        _ => return None,
    })
}

fn pshufw<const MEM: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_mmx()?;
    let b = source::<MEM>(cpu, op, 8)?;
    cpu.enter_mmx();
    cpu.set_mm(op.dst, words(b, op.imm as u8));
    Ok(())
}

fn pinsrw<const MEM: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_mmx()?;
    let value = if MEM {
        let la = cpu.linear(op, 2, false)?;
        cpu.load::<u16>(la)?
    } else {
        cpu.get::<u16>(op.src)
    };
    let at = 16 * (op.imm & 3) as u32;
    let lanes = cpu.mm(op.dst) & !(0xffff << at) | u64::from(value) << at;
    cpu.enter_mmx();
    cpu.set_mm(op.dst, lanes);
    Ok(())
}

fn pextrw(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_mmx()?;
    cpu.enter_mmx();
    cpu.set(op.dst, (cpu.mm(op.src) >> (16 * (op.imm & 3))) as u32 & 0xffff);
    Ok(())
}

fn pmovmskb(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_mmx()?;
    cpu.enter_mmx();
    // SAFETY: SSE2 is part of x86-64.
    let mask = unsafe { std::arch::x86_64::_mm_movemask_epi8(vector(u128::from(cpu.mm(op.src)))) };
    cpu.set(op.dst, mask as u32);
    Ok(())
}

/// Conversions between packed integers in MMX registers and floating-point numbers in XMM registers.
fn convert(code: Code, op: &Op) -> Option<Lowered> {
    fn to<C: Convert>(op: &Op) -> Option<Lowered> {
        Lowered::step(if op.form & form::MEM != 0 {
            step(to_integers::<C, true>)
        } else {
            step(to_integers::<C, false>)
        })
    }
    fn from<C: Convert>(op: &Op) -> Option<Lowered> {
        Lowered::step(if op.form & form::MEM != 0 {
            step(from_integers::<C, true>)
        } else {
            step(from_integers::<C, false>)
        })
    }
    match code {
        Code::Cvtpi2ps_xmm_mmm64 => from::<IntegersToSingles>(op),
        Code::Cvtpi2pd_xmm_mmm64 => from::<IntegersToDoubles>(op),
        Code::Cvtps2pi_mm_xmmm64 => to::<RoundSingles>(op),
        Code::Cvttps2pi_mm_xmmm64 => to::<TruncateSingles>(op),
        Code::Cvtpd2pi_mm_xmmm128 => to::<RoundDoubles>(op),
        Code::Cvttpd2pi_mm_xmmm128 => to::<TruncateDoubles>(op),
        _ => None,
    }
}

/// A conversion of two numbers.
trait Convert: Copy + 'static {
    /// Whether the floating-point side is 128 bits wide: doubles.
    const WIDE: bool;
    fn run(b: u128) -> u128;
}

macro_rules! conversions {
    ($($name:ident $mnemonic:literal $wide:literal;)*) => {
        $(
            #[derive(Clone, Copy)]
            struct $name;
            impl Convert for $name {
                const WIDE: bool = $wide;
                #[inline(always)]
                fn run(b: u128) -> u128 {
                    let x;
                    // SAFETY: a conversion between registers; exceptions are masked.
                    unsafe {
                        std::arch::asm!(
                            concat!($mnemonic, " {0}, {1}"),
                            out(xmm_reg) x,
                            in(xmm_reg) vector(b),
                            options(nomem, nostack)
                        );
                    }
                    bits(x)
                }
            }
        )*
    };
}

conversions! {
    IntegersToSingles "cvtdq2ps" false;
    IntegersToDoubles "cvtdq2pd" true;
    RoundSingles "cvtps2dq" false;
    TruncateSingles "cvttps2dq" false;
    RoundDoubles "cvtpd2dq" true;
    TruncateDoubles "cvttpd2dq" true;
}

/// CVTPS2PI, CVTPD2PI and the truncating ones.
fn to_integers<C: Convert, const MEM: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.need_sse_and_mmx()?;
    let width = if C::WIDE { Width::Aligned } else { Width::Quad };
    let b = if MEM { bits(Full::load(cpu, op, width)?) } else { *cpu.x(op.src) };
    // The upper singles take no part.
    let b = if C::WIDE { b } else { u128::from(b as u64) };
    let value = run::<C>(cpu, b)? as u64;
    cpu.enter_mmx();
    cpu.set_mm(op.dst, value);
    Ok(())
}

/// CVTPI2PS and CVTPI2PD. They do not touch the x87 unit where their source is in memory.
fn from_integers<C: Convert, const MEM: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    if MEM {
        cpu.need_sse()?
    } else {
        cpu.need_sse_and_mmx()?
    }
    let b = source::<MEM>(cpu, op, 8)?;
    let value = run::<C>(cpu, u128::from(b))?;
    if !MEM {
        cpu.enter_mmx();
    }
    let x = cpu.x(op.dst);
    *x = if C::WIDE { value } else { *x >> 64 << 64 | u128::from(value as u64) };
    Ok(())
}

fn run<C: Convert>(cpu: &mut Cpu, b: u128) -> Result<u128, Trap> {
    watch(cpu, || C::run(b), |_| false)
}
