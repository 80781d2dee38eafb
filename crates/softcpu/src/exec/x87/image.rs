//! Any x87 instruction, exactly: the guest's whole x87 state is loaded into the host's unit, the instruction executed
//! there and the state taken back.
//!
//! This holds for every combination of masks, tags and operands because the host does what its architecture says: an
//! unmasked exception only traps at the next waiting instruction, and FNSAVE, which does not wait, leaves the host's unit
//! initialised.

use std::arch::{asm, global_asm};

use crate::state::X87;

// Every x87 opcode as a function: `escape, modrm, ret, nop`, four bytes each, by FOP. Memory operands are at [rdi]
// (mod 0, rm 7); entries with other memory operands are there only to keep the places and are never called.
global_asm!(
    ".pushsection .text.tessera_x87, \"ax\", @progbits",
    ".balign 64",
    ".globl tessera_softcpu_x87",
    ".hidden tessera_softcpu_x87",
    "tessera_softcpu_x87:",
    ".set tessera_fop, 0",
    ".rept 2048",
    ".byte 0xd8 + (tessera_fop >> 8), tessera_fop & 0xff, 0xc3, 0x90",
    ".set tessera_fop, tessera_fop + 1",
    ".endr",
    ".popsection",
);

unsafe extern "C" {
    #[link_name = "tessera_softcpu_x87"]
    static INSTRUCTIONS: [u8; 4 * 2048];
}

/// The exception flags of FSW, which are the mask bits of FCW.
pub(super) const EXCEPTIONS: u16 = 0x3f;
/// FSW.ES and FSW.B.
pub(super) const PENDING: u16 = 0x8080;

/// What FNSAVE stores in 32-bit protected mode and in 64-bit mode (Intel SDM vol. 1, figure 8-9).
#[repr(C, align(16))]
struct Image {
    control: u32,
    status: u32,
    tags: u32,
    pointers: [u32; 4],
    /// ST(0) … ST(7).
    stack: [[u8; 10]; 8],
}

/// TOP.
pub(super) fn top(status: u16) -> usize {
    usize::from(status >> 11 & 7)
}

/// `status` with ES and B as its flags and the masks in `control` have it.
pub(super) fn with_summary(status: u16, control: u16) -> u16 {
    if status & !control & EXCEPTIONS != 0 { status | PENDING } else { status & !PENDING }
}

/// Executes the instruction with opcode `fop` on `x87`. Memory it reads or writes is `memory`; `arith` are the arithmetic
/// flags in the captured form before and, returned, after.
///
/// A memory operand's opcode must have mod 0 and rm 7. No exception may be pending that the instruction waits for.
pub(super) fn execute(x87: &mut X87, fop: u16, memory: &mut [u8; 16], arith: u16) -> u16 {
    debug_assert!(fop & 0xc0 == 0xc0 || fop & 0xc7 == 7, "an entry of the table that is an instruction");
    // With CR0.NE clear an instruction may find exceptions pending: they count as masked then.
    let ignored = if x87.status & !x87.control & EXCEPTIONS != 0 { EXCEPTIONS } else { 0 };
    let before = top(x87.status);
    let mut image = Image {
        control: u32::from(x87.control | ignored),
        status: u32::from(if ignored != 0 { x87.status & !PENDING } else { x87.status }),
        tags: (0..8).map(|n| if x87.tags >> n & 1 != 0 { 0 } else { 3 << (2 * n) }).sum(),
        pointers: [0; 4],
        stack: std::array::from_fn(|i| x87.regs[(before + i) & 7]),
    };
    let mut flags = arith;
    // SAFETY: FRSTOR and FNSAVE access 108 bytes of `image`; the function called is one x87 instruction that accesses at
    // most ten bytes at RDI and a return. No exception is pending when it waits: the host's unit was clean, and the image
    // has none unmasked. FNSAVE leaves the unit initialised, as Rust code expects it.
    unsafe {
        let entry = (&raw const INSTRUCTIONS).cast::<u8>().add(usize::from(fop & 0x7ff) * 4);
        asm!(
            "frstor [{image}]",
            "add al, 0x7f",
            "sahf",
            "call {entry}",
            "lahf",
            "seto al",
            "fnsave [{image}]",
            image = in(reg) &raw mut image,
            entry = in(reg) entry,
            in("rdi") memory.as_mut_ptr(),
            inout("ax") flags,
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
        );
    }
    let status = image.status as u16;
    x87.status = if ignored != 0 { with_summary(status, x87.control) } else { status };
    let after = top(status);
    for (i, value) in image.stack.iter().enumerate() {
        x87.regs[(after + i) & 7] = *value;
    }
    x87.tags = (0..8).filter(|n| image.tags >> (2 * n) & 3 != 3).map(|n| 1u8 << n).sum();
    flags
}
