//! The arithmetic itself: each operation is the host's own instruction of the same name and width, and its flags are taken
//! as the host left them, so that even what the architecture leaves undefined is what a real processor does.

use std::arch::asm;

use crate::mem::Word;

/// The captured form of the flags, see [`crate::flags`].
pub(in crate::exec) type Flags = u16;

/// What the host's integer unit does with operands of one width.
pub(in crate::exec) trait Native: Word {
    /// ADD.
    fn add(a: Self, b: Self) -> (Self, Flags);
    /// SUB and CMP.
    fn sub(a: Self, b: Self) -> (Self, Flags);
    /// AND and TEST.
    fn and(a: Self, b: Self) -> (Self, Flags);
    /// OR.
    fn or(a: Self, b: Self) -> (Self, Flags);
    /// XOR.
    fn xor(a: Self, b: Self) -> (Self, Flags);
    /// ADC: reads CF.
    fn adc(a: Self, b: Self, flags: Flags) -> (Self, Flags);
    /// SBB: reads CF.
    fn sbb(a: Self, b: Self, flags: Flags) -> (Self, Flags);
    /// NEG.
    fn neg(a: Self) -> (Self, Flags);
    /// INC: keeps CF.
    fn inc(a: Self, flags: Flags) -> (Self, Flags);
    /// DEC: keeps CF.
    fn dec(a: Self, flags: Flags) -> (Self, Flags);
    /// SHL by a count that is not zero after masking.
    fn shl_some(a: Self, count: u8) -> (Self, Flags);
    /// SHR, likewise.
    fn shr_some(a: Self, count: u8) -> (Self, Flags);
    /// SAR, likewise.
    fn sar_some(a: Self, count: u8) -> (Self, Flags);
    /// SHL by any count: zero keeps the flags.
    fn shl(a: Self, count: u8, flags: Flags) -> (Self, Flags);
    /// SHR, likewise.
    fn shr(a: Self, count: u8, flags: Flags) -> (Self, Flags);
    /// SAR, likewise.
    fn sar(a: Self, count: u8, flags: Flags) -> (Self, Flags);
    /// ROL: keeps all flags but CF and OF.
    fn rol(a: Self, count: u8, flags: Flags) -> (Self, Flags);
    /// ROR, likewise.
    fn ror(a: Self, count: u8, flags: Flags) -> (Self, Flags);
    /// RCL, likewise; reads CF.
    fn rcl(a: Self, count: u8, flags: Flags) -> (Self, Flags);
    /// RCR, likewise.
    fn rcr(a: Self, count: u8, flags: Flags) -> (Self, Flags);
}

/// What the host's integer unit does with 16, 32 and 64 bits only.
pub(super) trait NativeWide: Native {
    /// SHLD: `b`'s upper bits come in from the right.
    fn shld(a: Self, b: Self, count: u8, flags: Flags) -> (Self, Flags);
    /// SHRD: `b`'s lower bits come in from the left.
    fn shrd(a: Self, b: Self, count: u8, flags: Flags) -> (Self, Flags);
    /// IMUL with two operands.
    fn imul(a: Self, b: Self) -> (Self, Flags);
    /// MUL: low half, high half.
    fn mul_wide(a: Self, b: Self) -> (Self, Self, Flags);
    /// IMUL with one operand: low half, high half.
    fn imul_wide(a: Self, b: Self) -> (Self, Self, Flags);
    /// BSF; gives `old` where `a` is zero.
    fn bsf(old: Self, a: Self, flags: Flags) -> (Self, Flags);
    /// BSR; gives `old` where `a` is zero.
    fn bsr(old: Self, a: Self, flags: Flags) -> (Self, Flags);
    /// BT with a bit number below the width: CF is the bit.
    fn bt(a: Self, bit: Self, flags: Flags) -> Flags;
    /// BTS.
    fn bts(a: Self, bit: Self, flags: Flags) -> (Self, Flags);
    /// BTR.
    fn btr(a: Self, bit: Self, flags: Flags) -> (Self, Flags);
    /// BTC.
    fn btc(a: Self, bit: Self, flags: Flags) -> (Self, Flags);
}

/// `a OP b`, all flags written.
macro_rules! plain {
    ($class:ident, $m:literal, $($name:ident)*) => {$(
        #[inline(always)]
        fn $name(mut a: Self, b: Self) -> (Self, Flags) {
            let flags: Flags;
            // SAFETY: works on registers only.
            unsafe {
                asm!(
                    concat!(stringify!($name), " {a", $m, "}, {b", $m, "}"),
                    "lahf",
                    "seto al",
                    a = inout($class) a, b = in($class) b, lateout("ax") flags,
                    options(pure, nomem, nostack)
                );
            }
            (a, flags)
        }
    )*};
}

/// `a OP b`, with CF as it was before the operation.
macro_rules! carried {
    ($class:ident, $m:literal, $($name:ident)*) => {$(
        #[inline(always)]
        fn $name(mut a: Self, b: Self, mut flags: Flags) -> (Self, Flags) {
            // SAFETY: works on registers only.
            unsafe {
                asm!(
                    "bt eax, 8",
                    concat!(stringify!($name), " {a", $m, "}, {b", $m, "}"),
                    "lahf",
                    "seto al",
                    a = inout($class) a, b = in($class) b, inout("ax") flags,
                    options(pure, nomem, nostack)
                );
            }
            (a, flags)
        }
    )*};
}

/// `OP a`, with CF as it was before the operation.
macro_rules! stepped {
    ($class:ident, $m:literal, $($name:ident)*) => {$(
        #[inline(always)]
        fn $name(mut a: Self, mut flags: Flags) -> (Self, Flags) {
            // SAFETY: works on registers only.
            unsafe {
                asm!(
                    "bt eax, 8",
                    concat!(stringify!($name), " {a", $m, "}"),
                    "lahf",
                    "seto al",
                    a = inout($class) a, inout("ax") flags,
                    options(pure, nomem, nostack)
                );
            }
            (a, flags)
        }
    )*};
}

/// `a OP count`, with the flags as they were before the operation.
macro_rules! counted {
    ($class:ident, $m:literal, $($name:ident)*) => {$(
        #[inline(always)]
        fn $name(mut a: Self, count: u8, mut flags: Flags) -> (Self, Flags) {
            // SAFETY: works on registers only.
            unsafe {
                asm!(
                    "add al, 127",
                    "sahf",
                    concat!(stringify!($name), " {a", $m, "}, cl"),
                    "lahf",
                    "seto al",
                    a = inout($class) a, in("cl") count, inout("ax") flags,
                    options(pure, nomem, nostack)
                );
            }
            (a, flags)
        }
    )*};
}

/// `a OP count`, the count not zero.
macro_rules! counted_some {
    ($class:ident, $m:literal, $($name:ident $mnemonic:literal)*) => {$(
        #[inline(always)]
        fn $name(mut a: Self, count: u8) -> (Self, Flags) {
            let flags: Flags;
            // SAFETY: works on registers only.
            unsafe {
                asm!(
                    concat!($mnemonic, " {a", $m, "}, cl"),
                    "lahf",
                    "seto al",
                    a = inout($class) a, in("cl") count, lateout("ax") flags,
                    options(pure, nomem, nostack)
                );
            }
            (a, flags)
        }
    )*};
}

/// `a OP b, count`, with the flags as they were before the operation.
macro_rules! double {
    ($m:literal, $($name:ident)*) => {$(
        #[inline(always)]
        fn $name(mut a: Self, b: Self, count: u8, mut flags: Flags) -> (Self, Flags) {
            // SAFETY: works on registers only.
            unsafe {
                asm!(
                    "add al, 127",
                    "sahf",
                    concat!(stringify!($name), " {a", $m, "}, {b", $m, "}, cl"),
                    "lahf",
                    "seto al",
                    a = inout(reg) a, b = in(reg) b, in("cl") count, inout("ax") flags,
                    options(pure, nomem, nostack)
                );
            }
            (a, flags)
        }
    )*};
}

/// `a OP b`, with the flags as they were before the operation.
macro_rules! flagged {
    ($m:literal, $($name:ident)*) => {$(
        #[inline(always)]
        fn $name(mut a: Self, b: Self, mut flags: Flags) -> (Self, Flags) {
            // SAFETY: works on registers only.
            unsafe {
                asm!(
                    "add al, 127",
                    "sahf",
                    concat!(stringify!($name), " {a", $m, "}, {b", $m, "}"),
                    "lahf",
                    "seto al",
                    a = inout(reg) a, b = in(reg) b, inout("ax") flags,
                    options(pure, nomem, nostack)
                );
            }
            (a, flags)
        }
    )*};
}

/// The one-operand multiplications, through RAX and RDX.
macro_rules! multiply {
    ($m:literal, $a:tt, $d:tt, $($name:ident $mnemonic:literal)*) => {$(
        #[inline(always)]
        fn $name(a: Self, b: Self) -> (Self, Self, Flags) {
            let (low, high): (Self, Self);
            let flags: u64;
            // SAFETY: works on registers only.
            unsafe {
                asm!(
                    concat!($mnemonic, " {b", $m, "}"),
                    "mov {flags}, rax",
                    "lahf",
                    "seto al",
                    "xchg rax, {flags}",
                    b = in(reg) b, flags = out(reg) flags, inout($a) a => low, out($d) high,
                    options(pure, nomem, nostack)
                );
            }
            (low, high, flags as Flags)
        }
    )*};
}

macro_rules! native {
    ($t:ident, $class:ident, $m:literal) => {
        impl Native for $t {
            plain!($class, $m, add sub and or xor);
            carried!($class, $m, adc sbb);
            stepped!($class, $m, inc dec);
            counted!($class, $m, shl shr sar rol ror rcl rcr);
            counted_some!($class, $m, shl_some "shl" shr_some "shr" sar_some "sar");

            #[inline(always)]
            fn neg(a: Self) -> (Self, Flags) {
                Self::sub(0, a)
            }
        }
    };
}

macro_rules! native_wide {
    ($t:ident, $m:literal, $a:tt, $d:tt) => {
        impl NativeWide for $t {
            plain!(reg, $m, imul);
            double!($m, shld shrd);
            flagged!($m, bsf bsr bts btr btc);
            multiply!($m, $a, $d, mul_wide "mul" imul_wide "imul");

            #[inline(always)]
            fn bt(a: Self, bit: Self, mut flags: Flags) -> Flags {
                // SAFETY: works on registers only.
                unsafe {
                    asm!(
                        "add al, 127",
                        "sahf",
                        concat!("bt {a", $m, "}, {b", $m, "}"),
                        "lahf",
                        "seto al",
                        a = in(reg) a, b = in(reg) bit, inout("ax") flags,
                        options(pure, nomem, nostack)
                    );
                }
                flags
            }
        }
    };
}

native!(u8, reg_byte, "");
native!(u16, reg, ":x");
native!(u32, reg, ":e");
native!(u64, reg, ":r");
native_wide!(u16, ":x", "ax", "dx");
native_wide!(u32, ":e", "eax", "edx");
native_wide!(u64, ":r", "rax", "rdx");
