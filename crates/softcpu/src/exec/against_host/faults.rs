//! What keeps instructions from executing, and what unmasked exceptions do.

use super::processor::{processor, step};
use super::{OPERAND, decode};
use crate::cpu::Cpu;
use crate::fault::{Pending, vector};

fn fault(cpu: &mut Cpu, bytes: &[u8]) -> Option<(u8, Option<u32>)> {
    match step(cpu, &decode(bytes)).expect("an instruction") {
        Ok(()) => None,
        Err(Pending::Fault(fault)) => Some((fault.vector, fault.error)),
        Err(other) => panic!("{other:?}"),
    }
}

const ADDSD: &[u8] = &[0xf2, 0x0f, 0x58, 0xc1];
const ADDPS_AT_RSI: &[u8] = &[0x0f, 0x58, 0x06];
const DIVSD: &[u8] = &[0xf2, 0x0f, 0x5e, 0xc1];
const MULSD: &[u8] = &[0xf2, 0x0f, 0x59, 0xc1];
const PADDB_MM: &[u8] = &[0x0f, 0xfc, 0xc1];
const FLD1: &[u8] = &[0xd9, 0xe8];
const FLDZ: &[u8] = &[0xd9, 0xee];
const FDIVP: &[u8] = &[0xde, 0xf9];
const FNSTSW: &[u8] = &[0xdf, 0xe0];
const FNCLEX: &[u8] = &[0xdb, 0xe2];
const FWAIT: &[u8] = &[0x9b];
const FXSAVE: &[u8] = &[0x0f, 0xae, 0x06];
const FXRSTOR: &[u8] = &[0x0f, 0xae, 0x0e];
const LDMXCSR: &[u8] = &[0x0f, 0xae, 0x16];

const CR0_MP: u64 = 1 << 1;
const CR0_EM: u64 = 1 << 2;
const CR0_TS: u64 = 1 << 3;

#[test]
fn control_registers_decide_what_may_run() {
    let (mut cpu, _) = processor();
    let with = |cpu: &mut Cpu, cr0: u64, cr4: u64| {
        (cpu.cr0, cpu.cr4) = (0x21 | cr0, cr4);
        cpu.mode_changed();
    };
    let (nm, ud) = (Some((vector::NM, None)), Some((vector::UD, None)));
    cpu.slots[6] = OPERAND;
    with(&mut cpu, CR0_TS, 3 << 9);
    for insn in [ADDSD, PADDB_MM, FLD1, FNSTSW, FXSAVE, FXRSTOR, LDMXCSR] {
        assert_eq!(fault(&mut cpu, insn), nm, "{insn:x?} with CR0.TS");
    }
    assert_eq!(fault(&mut cpu, FWAIT), None);
    with(&mut cpu, CR0_TS | CR0_MP, 3 << 9);
    assert_eq!(fault(&mut cpu, FWAIT), nm);
    with(&mut cpu, CR0_EM, 3 << 9);
    for insn in [ADDSD, PADDB_MM, LDMXCSR] {
        assert_eq!(fault(&mut cpu, insn), ud, "{insn:x?} with CR0.EM");
    }
    for insn in [FLD1, FNSTSW, FXSAVE] {
        assert_eq!(fault(&mut cpu, insn), nm, "{insn:x?} with CR0.EM");
    }
    with(&mut cpu, 0, 0);
    assert_eq!(fault(&mut cpu, ADDSD), ud);
    assert_eq!(fault(&mut cpu, PADDB_MM), None);
    assert_eq!(fault(&mut cpu, FXSAVE), None);
}

#[test]
fn operands_that_must_be_aligned_are() {
    let (mut cpu, operand) = processor();
    cpu.slots[6] = OPERAND + 8;
    let gp = Some((vector::GP, Some(0)));
    for insn in [ADDPS_AT_RSI, FXSAVE, FXRSTOR, &[0x66, 0x0f, 0x6f, 0x06], &[0x66, 0x0f, 0xe7, 0x06]] {
        assert_eq!(fault(&mut cpu, insn), gp, "{insn:x?}");
    }
    for insn in [&[0xf3, 0x0f, 0x6f, 0x06][..], &[0xf2, 0x0f, 0xf0, 0x06], LDMXCSR] {
        operand[8..12].copy_from_slice(&0x1f80u32.to_le_bytes());
        assert_eq!(fault(&mut cpu, insn), None, "{insn:x?}");
    }
    operand[10] = 1;
    assert_eq!(fault(&mut cpu, LDMXCSR), gp, "a reserved bit of MXCSR");
}

#[test]
fn an_unmasked_simd_exception_leaves_the_destination_and_sets_its_flag() {
    const ZERO_DIVIDE: u32 = 1 << 2;
    const UNDERFLOW: u32 = 1 << 4;
    let (mut cpu, _) = processor();
    let one = u128::from(1f64.to_bits());
    let tiny = u128::from(f64::MIN_POSITIVE.to_bits());
    let half = u128::from(0.5f64.to_bits());
    let set = |cpu: &mut Cpu, a, b, mxcsr| {
        (cpu.xmm[0], cpu.xmm[1], cpu.mxcsr) = (a, b, mxcsr);
        cpu.fp_mode_changed();
    };
    set(&mut cpu, one, 0, 0x1f80 & !(ZERO_DIVIDE << 7));
    assert_eq!(fault(&mut cpu, DIVSD), Some((vector::XM, None)));
    assert_eq!((cpu.xmm[0], cpu.mxcsr & 0x3f), (one, ZERO_DIVIDE));

    // An exact denormal result underflows only where underflow is taken.
    set(&mut cpu, tiny, half, 0x1f80);
    assert_eq!(fault(&mut cpu, MULSD), None);
    assert_eq!((cpu.xmm[0], cpu.mxcsr & 0x3f), (1 << 51, 0));
    set(&mut cpu, tiny, half, 0x1f80 & !(UNDERFLOW << 7));
    assert_eq!(fault(&mut cpu, MULSD), Some((vector::XM, None)));
    assert_eq!((cpu.xmm[0], cpu.mxcsr & 0x3f), (tiny, UNDERFLOW));

    set(&mut cpu, one, one, 0);
    assert_eq!(fault(&mut cpu, ADDSD), None);
    assert_eq!((cpu.xmm[0], cpu.mxcsr), (u128::from(2f64.to_bits()), 0));

    set(&mut cpu, one, 0, 0);
    cpu.cr4 = 1 << 9;
    assert_eq!(fault(&mut cpu, DIVSD), Some((vector::UD, None)), "without CR4.OSXMMEXCPT");
}

#[test]
fn an_unmasked_x87_exception_is_taken_by_the_next_waiting_instruction() {
    let (mut cpu, _) = processor();
    cpu.x87.control = 0x37b;
    cpu.fp_mode_changed();
    for insn in [FLD1, FLDZ, FDIVP, FNSTSW] {
        assert_eq!(fault(&mut cpu, insn), None);
    }
    assert_eq!(cpu.slots[0] & 0x8080 | 4, 0x8084, "ES, B and ZE are set");
    assert_eq!(cpu.x87.status >> 11 & 7, 6, "nothing was popped");
    let mf = Some((vector::MF, None));
    for insn in [FLD1, FWAIT, PADDB_MM] {
        assert_eq!(fault(&mut cpu, insn), mf, "{insn:x?}");
    }
    assert_eq!(fault(&mut cpu, ADDSD), None);
    assert_eq!(fault(&mut cpu, FNCLEX), None);
    assert_eq!(fault(&mut cpu, FLD1), None);
}

#[test]
fn the_last_x87_instruction_is_remembered_in_guest_terms() {
    let (mut cpu, operand) = processor();
    cpu.set_rip(0x1230);
    cpu.slots[6] = OPERAND - 8;
    operand[..8].copy_from_slice(&1f64.to_bits().to_le_bytes());
    assert_eq!(fault(&mut cpu, &[0xdd, 0x46, 0x08]), None);
    assert_eq!((cpu.x87.instruction, cpu.x87.operand, cpu.x87.opcode), (0x1230, OPERAND, 0x546));
    cpu.set_rip(0x1230);
    assert_eq!(fault(&mut cpu, FNSTSW), None);
    assert_eq!((cpu.x87.instruction, cpu.x87.opcode), (0x1230, 0x546), "not by control instructions");
}
