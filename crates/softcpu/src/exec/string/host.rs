//! The host's own string instructions, on host memory, upwards. They have exactly the guest's semantics where source and
//! destination overlap, and a compiler cannot take apart what they do to memory that other processors share.

use std::arch::asm;

use crate::mem::Word;

/// REP-prefixed string instructions on elements of one width.
pub(super) trait HostString: Word {
    /// REP MOVS.
    ///
    /// # Safety
    /// `n` elements must be readable at `from` and writable at `to`.
    unsafe fn movs(from: *const u8, to: *mut u8, n: usize);
    /// REP STOS.
    ///
    /// # Safety
    /// `n` elements must be writable at `to`.
    unsafe fn stos(to: *mut u8, value: Self, n: usize);
    /// REPE CMPS: how many elements are left, and the flags of the last comparison; `n` is not zero.
    ///
    /// # Safety
    /// `n` elements must be readable at both places.
    unsafe fn repe_cmps(a: *const u8, b: *const u8, n: usize) -> (usize, u16);
    /// REPNE CMPS, likewise.
    ///
    /// # Safety
    /// As `repe_cmps`.
    unsafe fn repne_cmps(a: *const u8, b: *const u8, n: usize) -> (usize, u16);
    /// REPE SCAS for `value`, likewise.
    ///
    /// # Safety
    /// `n` elements must be readable at `at`.
    unsafe fn repe_scas(at: *const u8, value: Self, n: usize) -> (usize, u16);
    /// REPNE SCAS, likewise.
    ///
    /// # Safety
    /// As `repe_scas`.
    unsafe fn repne_scas(at: *const u8, value: Self, n: usize) -> (usize, u16);
}

macro_rules! cmps {
    ($($name:ident $mnemonic:expr;)*) => {$(
        #[inline(always)]
        unsafe fn $name(a: *const u8, b: *const u8, n: usize) -> (usize, u16) {
            let (left, flags);
            // SAFETY: the caller vouches for both places; the direction flag is clear in Rust code.
            unsafe {
                asm!(
                    $mnemonic,
                    "lahf",
                    "seto al",
                    inout("rsi") a => _, inout("rdi") b => _, inout("rcx") n => left, out("ax") flags,
                    options(nostack, readonly)
                );
            }
            (left, flags)
        }
    )*};
}

macro_rules! scas {
    ($a:tt, $($name:ident $mnemonic:expr;)*) => {$(
        #[inline(always)]
        unsafe fn $name(at: *const u8, value: Self, n: usize) -> (usize, u16) {
            let (left, flags): (usize, u64);
            // SAFETY: the caller vouches for the place; the direction flag is clear in Rust code.
            unsafe {
                asm!(
                    $mnemonic,
                    "lahf",
                    "seto al",
                    "mov {flags}, rax",
                    flags = out(reg) flags,
                    inout("rdi") at => _, inout("rcx") n => left, inout($a) value => _,
                    options(nostack, readonly)
                );
            }
            (left, flags as u16)
        }
    )*};
}

macro_rules! host_string {
    ($t:ident, $suffix:literal, $a:tt) => {
        impl HostString for $t {
            #[inline(always)]
            unsafe fn movs(from: *const u8, to: *mut u8, n: usize) {
                // SAFETY: the caller vouches for both places; the direction flag is clear in Rust code.
                unsafe {
                    asm!(
                        concat!("rep movs", $suffix),
                        inout("rsi") from => _, inout("rdi") to => _, inout("rcx") n => _,
                        options(nostack, preserves_flags)
                    );
                }
            }
            #[inline(always)]
            unsafe fn stos(to: *mut u8, value: Self, n: usize) {
                // SAFETY: the caller vouches for the place; the direction flag is clear in Rust code.
                unsafe {
                    asm!(
                        concat!("rep stos", $suffix),
                        inout("rdi") to => _, inout("rcx") n => _, in($a) value,
                        options(nostack, preserves_flags)
                    );
                }
            }
            cmps! {
                repe_cmps concat!("repe cmps", $suffix);
                repne_cmps concat!("repne cmps", $suffix);
            }
            scas! {
                $a,
                repe_scas concat!("repe scas", $suffix);
                repne_scas concat!("repne scas", $suffix);
            }
        }
    };
}

host_string!(u8, "b", "al");
host_string!(u16, "w", "ax");
host_string!(u32, "d", "eax");
host_string!(u64, "q", "rax");
