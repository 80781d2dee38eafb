//! FXSAVE and FXRSTOR (Intel SDM vol. 1, 10.5).

use iced_x86::Code;

use super::environment::control_word;
use super::image::{top, with_summary};
use crate::cpu::Cpu;
use crate::exec::fp::ok;
use crate::fault::Trap;
use crate::op::{Lowered, Op, step};
use crate::state::X87;

/// The area's size in bytes.
const AREA: usize = 512;
/// The bits MXCSR has.
const MXCSR_MASK: u32 = 0xffff;

pub(super) fn lower(code: Code) -> Option<Lowered> {
    Lowered::step(match code {
        Code::Fxsave_m512byte => step(fxsave::<false>),
        Code::Fxsave64_m512byte => step(fxsave::<true>),
        Code::Fxrstor_m512byte => step(fxrstor::<false>),
        Code::Fxrstor64_m512byte => step(fxrstor::<true>),
        _ => return None,
    })
}

/// The area's address: #NM with CR0.EM or CR0.TS, #GP(0) where it is not aligned.
fn area(cpu: &mut Cpu, op: &Op, write: bool) -> Result<u64, Trap> {
    if cpu.fp_ok & ok::X87 == 0 {
        return Err(cpu.x87_unavailable());
    }
    let la = cpu.linear(op, AREA as u32, write)?;
    if la & 15 == 0 { Ok(la) } else { Err(cpu.gp0()) }
}

/// How many XMM registers the current mode has.
fn registers(cpu: &Cpu) -> usize {
    if cpu.long_mode() { 16 } else { 8 }
}

fn fxsave<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let la = area(cpu, op, true)?;
    cpu.probe(la, AREA as u64, true)?;
    let x = cpu.x87;
    let mut bytes = [0u8; AREA];
    bytes[0..2].copy_from_slice(&x.control.to_le_bytes());
    bytes[2..4].copy_from_slice(&x.status.to_le_bytes());
    bytes[4] = x.tags;
    bytes[6..8].copy_from_slice(&x.opcode.to_le_bytes());
    let kept = if WIDE { 8 } else { 4 };
    bytes[8..][..kept].copy_from_slice(&x.instruction.to_le_bytes()[..kept]);
    bytes[16..][..kept].copy_from_slice(&x.operand.to_le_bytes()[..kept]);
    bytes[24..28].copy_from_slice(&cpu.current_mxcsr().to_le_bytes());
    bytes[28..32].copy_from_slice(&MXCSR_MASK.to_le_bytes());
    let first = top(x.status);
    for i in 0..8 {
        bytes[32 + 16 * i..][..10].copy_from_slice(&x.regs[(first + i) & 7]);
    }
    let count = registers(cpu);
    for (i, value) in cpu.xmm[..count].iter().enumerate() {
        bytes[160 + 16 * i..][..16].copy_from_slice(&value.to_le_bytes());
    }
    // What lies behind the registers is left alone.
    cpu.store_bytes(la, &bytes[..160 + 16 * count])
}

fn fxrstor<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let la = area(cpu, op, false)?;
    let mut bytes = [0u8; AREA];
    cpu.load_bytes(la, &mut bytes)?;
    let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let double = |at: usize| u32::from(word(at)) | u32::from(word(at + 2)) << 16;
    let address = |at: usize| u64::from(double(at)) | if WIDE { u64::from(double(at + 4)) << 32 } else { 0 };
    let mxcsr = double(24);
    if mxcsr & !MXCSR_MASK != 0 {
        return Err(cpu.gp0());
    }
    let control = control_word(word(0));
    let status = with_summary(word(2), control);
    let mut x87 = X87 {
        control,
        status,
        tags: bytes[4],
        opcode: word(6) & 0x7ff,
        instruction: address(8),
        operand: address(16),
        ..X87::default()
    };
    let first = top(status);
    for i in 0..8 {
        x87.regs[(first + i) & 7].copy_from_slice(&bytes[32 + 16 * i..][..10]);
    }
    cpu.x87 = x87;
    for i in 0..registers(cpu) {
        let mut value = [0; 16];
        value.copy_from_slice(&bytes[160 + 16 * i..][..16]);
        cpu.xmm[i] = u128::from_le_bytes(value);
    }
    cpu.set_mxcsr(mxcsr);
    Ok(())
}
