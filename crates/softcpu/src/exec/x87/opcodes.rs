//! Where each x87 instruction lies in the map of opcodes (Intel SDM vol. 2, tables B-? "Escape Opcode"): its eleven bits
//! as FOP has them, the low three of the escape byte and the ModRM byte.

use iced_x86::{Code, Instruction, Register};

/// FOP of an instruction on registers, for ST(0) where it names one; `None` if it is no such instruction.
fn on_registers(code: Code) -> Option<u16> {
    Some(match code {
        Code::Fadd_st0_sti => 0x0c0,
        Code::Fmul_st0_sti => 0x0c8,
        Code::Fcom_st0_sti => 0x0d0,
        Code::Fcomp_st0_sti => 0x0d8,
        Code::Fsub_st0_sti => 0x0e0,
        Code::Fsubr_st0_sti => 0x0e8,
        Code::Fdiv_st0_sti => 0x0f0,
        Code::Fdivr_st0_sti => 0x0f8,
        Code::Fld_sti => 0x1c0,
        Code::Fxch_st0_sti => 0x1c8,
        Code::Fnop => 0x1d0,
        Code::Fstpnce_sti => 0x1d8,
        Code::Fchs => 0x1e0,
        Code::Fabs => 0x1e1,
        Code::Ftst => 0x1e4,
        Code::Fxam => 0x1e5,
        Code::Fld1 => 0x1e8,
        Code::Fldl2t => 0x1e9,
        Code::Fldl2e => 0x1ea,
        Code::Fldpi => 0x1eb,
        Code::Fldlg2 => 0x1ec,
        Code::Fldln2 => 0x1ed,
        Code::Fldz => 0x1ee,
        Code::F2xm1 => 0x1f0,
        Code::Fyl2x => 0x1f1,
        Code::Fptan => 0x1f2,
        Code::Fpatan => 0x1f3,
        Code::Fxtract => 0x1f4,
        Code::Fprem1 => 0x1f5,
        Code::Fdecstp => 0x1f6,
        Code::Fincstp => 0x1f7,
        Code::Fprem => 0x1f8,
        Code::Fyl2xp1 => 0x1f9,
        Code::Fsqrt => 0x1fa,
        Code::Fsincos => 0x1fb,
        Code::Frndint => 0x1fc,
        Code::Fscale => 0x1fd,
        Code::Fsin => 0x1fe,
        Code::Fcos => 0x1ff,
        Code::Fcmovb_st0_sti => 0x2c0,
        Code::Fcmove_st0_sti => 0x2c8,
        Code::Fcmovbe_st0_sti => 0x2d0,
        Code::Fcmovu_st0_sti => 0x2d8,
        Code::Fucompp => 0x2e9,
        Code::Fcmovnb_st0_sti => 0x3c0,
        Code::Fcmovne_st0_sti => 0x3c8,
        Code::Fcmovnbe_st0_sti => 0x3d0,
        Code::Fcmovnu_st0_sti => 0x3d8,
        Code::Fucomi_st0_sti => 0x3e8,
        Code::Fcomi_st0_sti => 0x3f0,
        Code::Fadd_sti_st0 => 0x4c0,
        Code::Fmul_sti_st0 => 0x4c8,
        Code::Fcom_st0_sti_DCD0 => 0x4d0,
        Code::Fcomp_st0_sti_DCD8 => 0x4d8,
        Code::Fsubr_sti_st0 => 0x4e0,
        Code::Fsub_sti_st0 => 0x4e8,
        Code::Fdivr_sti_st0 => 0x4f0,
        Code::Fdiv_sti_st0 => 0x4f8,
        Code::Ffree_sti => 0x5c0,
        Code::Fxch_st0_sti_DDC8 => 0x5c8,
        Code::Fst_sti => 0x5d0,
        Code::Fstp_sti => 0x5d8,
        Code::Fucom_st0_sti => 0x5e0,
        Code::Fucomp_st0_sti => 0x5e8,
        Code::Faddp_sti_st0 => 0x6c0,
        Code::Fmulp_sti_st0 => 0x6c8,
        Code::Fcomp_st0_sti_DED0 => 0x6d0,
        Code::Fcompp => 0x6d9,
        Code::Fsubrp_sti_st0 => 0x6e0,
        Code::Fsubp_sti_st0 => 0x6e8,
        Code::Fdivrp_sti_st0 => 0x6f0,
        Code::Fdivp_sti_st0 => 0x6f8,
        Code::Ffreep_sti => 0x7c0,
        Code::Fxch_st0_sti_DFC8 => 0x7c8,
        Code::Fstp_sti_DFD0 => 0x7d0,
        Code::Fstp_sti_DFD8 => 0x7d8,
        Code::Fucomip_st0_sti => 0x7e8,
        Code::Fcomip_st0_sti => 0x7f0,
        _ => return None,
    })
}

/// FOP of an instruction that reads memory, without the bits of ModRM that say where.
fn that_loads(code: Code) -> Option<u16> {
    Some(match code {
        Code::Fadd_m32fp => 0x000,
        Code::Fmul_m32fp => 0x008,
        Code::Fcom_m32fp => 0x010,
        Code::Fcomp_m32fp => 0x018,
        Code::Fsub_m32fp => 0x020,
        Code::Fsubr_m32fp => 0x028,
        Code::Fdiv_m32fp => 0x030,
        Code::Fdivr_m32fp => 0x038,
        Code::Fld_m32fp => 0x100,
        Code::Fiadd_m32int => 0x200,
        Code::Fimul_m32int => 0x208,
        Code::Ficom_m32int => 0x210,
        Code::Ficomp_m32int => 0x218,
        Code::Fisub_m32int => 0x220,
        Code::Fisubr_m32int => 0x228,
        Code::Fidiv_m32int => 0x230,
        Code::Fidivr_m32int => 0x238,
        Code::Fild_m32int => 0x300,
        Code::Fld_m80fp => 0x328,
        Code::Fadd_m64fp => 0x400,
        Code::Fmul_m64fp => 0x408,
        Code::Fcom_m64fp => 0x410,
        Code::Fcomp_m64fp => 0x418,
        Code::Fsub_m64fp => 0x420,
        Code::Fsubr_m64fp => 0x428,
        Code::Fdiv_m64fp => 0x430,
        Code::Fdivr_m64fp => 0x438,
        Code::Fld_m64fp => 0x500,
        Code::Fiadd_m16int => 0x600,
        Code::Fimul_m16int => 0x608,
        Code::Ficom_m16int => 0x610,
        Code::Ficomp_m16int => 0x618,
        Code::Fisub_m16int => 0x620,
        Code::Fisubr_m16int => 0x628,
        Code::Fidiv_m16int => 0x630,
        Code::Fidivr_m16int => 0x638,
        Code::Fild_m16int => 0x700,
        Code::Fbld_m80bcd => 0x720,
        Code::Fild_m64int => 0x728,
        _ => return None,
    })
}

/// FOP of an instruction that writes memory, without the bits of ModRM that say where.
fn that_stores(code: Code) -> Option<u16> {
    Some(match code {
        Code::Fst_m32fp => 0x110,
        Code::Fstp_m32fp => 0x118,
        Code::Fisttp_m32int => 0x308,
        Code::Fist_m32int => 0x310,
        Code::Fistp_m32int => 0x318,
        Code::Fstp_m80fp => 0x338,
        Code::Fisttp_m64int => 0x508,
        Code::Fst_m64fp => 0x510,
        Code::Fstp_m64fp => 0x518,
        Code::Fisttp_m16int => 0x708,
        Code::Fist_m16int => 0x710,
        Code::Fistp_m16int => 0x718,
        Code::Fbstp_m80bcd => 0x730,
        Code::Fistp_m64int => 0x738,
        _ => return None,
    })
}

/// What an instruction does with memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Memory {
    None,
    Load,
    Store,
}

/// FOP of `insn` and what it does with memory, if it computes on the x87 stack.
pub(super) fn of(insn: &Instruction) -> Option<(u16, Memory)> {
    let code = insn.code();
    if let Some(fop) = on_registers(code) {
        return Some((fop | u16::from(stack_operand(insn)), Memory::None));
    }
    let place = |fop| fop | u16::from(place(insn));
    that_loads(code)
        .map(|fop| (place(fop), Memory::Load))
        .or_else(|| that_stores(code).map(|fop| (place(fop), Memory::Store)))
}

/// The `i` of the ST(i) that the instruction's ModRM byte names, 0 if it names none.
fn stack_operand(insn: &Instruction) -> u8 {
    let number = |n| {
        let r: Register = insn.op_register(n);
        if r.is_st() { r.number() as u8 } else { 0 }
    };
    match insn.op_count() {
        0 => 0,
        1 => number(0),
        // One of the two is ST(0).
        _ => number(0) | number(1),
    }
}

/// The mod and rm fields of the ModRM byte of `insn`, which has a memory operand.
fn place(insn: &Instruction) -> u8 {
    let (base, index) = (insn.memory_base(), insn.memory_index());
    let displacement = insn.memory_displ_size();
    if base == Register::RIP || base == Register::EIP {
        return 5;
    }
    let sixteen = base.is_gpr16() || index.is_gpr16() || displacement == 2;
    let mode = match (displacement, base) {
        (0, _) | (_, Register::None) => 0x00,
        (1, _) => 0x40,
        _ => 0x80,
    };
    let rm = if sixteen {
        match (base, index) {
            (Register::BX, Register::SI) => 0,
            (Register::BX, Register::DI) => 1,
            (Register::BP, Register::SI) => 2,
            (Register::BP, Register::DI) => 3,
            (Register::SI, _) => 4,
            (Register::DI, _) => 5,
            (Register::BX, _) => 7,
            _ => 6,
        }
    } else if base == Register::None
        && index == Register::None
        && insn.code_size() != iced_x86::CodeSize::Code64
    {
        5
    } else if index != Register::None || base == Register::None || base.number() & 7 == 4 {
        4
    } else {
        base.number() as u8 & 7
    };
    mode | rm
}
