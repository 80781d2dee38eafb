//! Which arithmetic flags nobody will see.
//!
//! An instruction's flags are dead if every flag it writes is written again before anything could read it — and anything
//! that can fault, stop or leave the block counts as a reader, because the flags are then visible in RFLAGS. So executing
//! without them is exact.

use iced_x86::{Instruction, Mnemonic, OpKind, RflagsBits};

const ALL: u32 =
    RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;

/// A bit for each instruction of a block, which are at most 32, the first one's the lowest: whether all arithmetic flags it writes are
/// dead.
pub(crate) fn dead_flags(insns: &[Instruction]) -> u32 {
    let mut live = ALL;
    let mut dead = 0;
    for (i, insn) in insns.iter().enumerate().rev() {
        let Some(overwritten) = silent(insn) else {
            live = ALL;
            continue;
        };
        let written = insn.rflags_modified() & ALL;
        dead |= u32::from(written != 0 && written & live == 0) << i;
        live = live & !overwritten | insn.rflags_read() & ALL;
    }
    dead
}

/// For an instruction that can neither fault nor leave the block: the flags it always overwrites.
fn silent(insn: &Instruction) -> Option<u32> {
    use Mnemonic::*;
    // Memory, and control, debug and segment registers can fault.
    let plain = (0..insn.op_count()).all(|n| match insn.op_kind(n) {
        OpKind::Register => insn.op_register(n).is_gpr(),
        kind => immediate(kind),
    });
    if !plain && insn.mnemonic() != Lea || insn.has_lock_prefix() {
        return None;
    }
    match insn.mnemonic() {
        Add | Sub | Adc | Sbb | And | Or | Xor | Cmp | Test | Neg => Some(ALL),
        Inc | Dec => Some(ALL & !RflagsBits::CF),
        // A count of zero leaves the flags.
        Shl | Shr | Sar | Rol | Ror => Some(0),
        Mov | Movzx | Movsx | Movsxd | Lea | Not | Bswap | Cdqe | Cwde | Cbw | Cdq | Cqo | Cwd | Nop => {
            Some(0)
        }
        _ => None,
    }
}

fn immediate(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
    )
}
