//! Host accesses to guest memory: the one place where guest bytes are touched by pointer.
//!
//! Guest memory is shared with other processors and devices, so every access is one machine instruction the compiler can
//! neither split, repeat nor reorder: a plain MOV gives the guest exactly the ordering x86 promises (TSO).

use std::arch::asm;

/// An operand: an unsigned integer of 8 to 64 bits.
pub(crate) trait Word:
    Copy
    + Eq
    + Ord
    + std::fmt::Debug
    + std::ops::BitAnd<Output = Self>
    + std::ops::BitOr<Output = Self>
    + std::ops::BitXor<Output = Self>
    + std::ops::Not<Output = Self>
    + 'static
{
    /// Width in bits.
    const BITS: u32;
    /// Zero-extends.
    fn to_u64(self) -> u64;
    /// Cuts off what does not fit.
    fn from_u64(v: u64) -> Self;
    /// Sign-extends.
    fn to_i64(self) -> i64;
    /// `self + other`, wrapping.
    fn plus(self, other: Self) -> Self;
    /// `self - other`, wrapping.
    fn minus(self, other: Self) -> Self;
    /// One load.
    ///
    /// # Safety
    /// `at` must be readable for the width.
    unsafe fn load(at: *const u8) -> Self;
    /// One store.
    ///
    /// # Safety
    /// `at` must be writable for the width.
    unsafe fn store(at: *mut u8, value: Self);
    /// LOCK CMPXCHG: returns what was there.
    ///
    /// # Safety
    /// `at` must be writable for the width.
    unsafe fn compare_exchange(at: *mut u8, expected: Self, new: Self) -> Self;
}

macro_rules! word {
    ($t:ident, $i:ident, $class:ident, $m:literal, $acc:tt) => {
        impl Word for $t {
            const BITS: u32 = $t::BITS;
            #[inline(always)]
            fn to_u64(self) -> u64 {
                self as u64
            }
            #[inline(always)]
            fn from_u64(v: u64) -> Self {
                v as $t
            }
            #[inline(always)]
            fn to_i64(self) -> i64 {
                self as $i as i64
            }
            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            #[inline(always)]
            fn minus(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }
            #[inline(always)]
            unsafe fn load(at: *const u8) -> Self {
                let v: $t;
                // SAFETY: the caller says `at` is readable.
                unsafe {
                    asm!(concat!("mov {0", $m, "}, [{1}]"), out($class) v, in(reg) at, options(nostack, preserves_flags, readonly))
                };
                v
            }
            #[inline(always)]
            unsafe fn store(at: *mut u8, value: Self) {
                // SAFETY: the caller says `at` is writable.
                unsafe {
                    asm!(concat!("mov [{1}], {0", $m, "}"), in($class) value, in(reg) at, options(nostack, preserves_flags))
                }
            }
            #[inline(always)]
            unsafe fn compare_exchange(at: *mut u8, expected: Self, new: Self) -> Self {
                let old: $t;
                // SAFETY: the caller says `at` is writable.
                unsafe {
                    asm!(concat!("lock cmpxchg [{1}], {0", $m, "}"), in($class) new, in(reg) at, inout($acc) expected => old, options(nostack))
                };
                old
            }
        }
    };
}

macro_rules! byte_word {
    () => {
        impl Word for u8 {
            const BITS: u32 = 8;
            #[inline(always)]
            fn to_u64(self) -> u64 {
                u64::from(self)
            }
            #[inline(always)]
            fn from_u64(v: u64) -> Self {
                v as u8
            }
            #[inline(always)]
            fn to_i64(self) -> i64 {
                i64::from(self as i8)
            }
            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            #[inline(always)]
            fn minus(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }
            #[inline(always)]
            unsafe fn load(at: *const u8) -> Self {
                let v: u32;
                // SAFETY: the caller says `at` is readable.
                unsafe {
                    asm!("movzx {0:e}, byte ptr [{1}]", out(reg) v, in(reg) at, options(nostack, preserves_flags, readonly))
                };
                v as u8
            }
            #[inline(always)]
            unsafe fn store(at: *mut u8, value: Self) {
                // SAFETY: the caller says `at` is writable.
                unsafe {
                    asm!("mov [{1}], {0}", in(reg_byte) value, in(reg) at, options(nostack, preserves_flags))
                }
            }
            #[inline(always)]
            unsafe fn compare_exchange(at: *mut u8, expected: Self, new: Self) -> Self {
                let old: u8;
                // SAFETY: the caller says `at` is writable.
                unsafe {
                    asm!("lock cmpxchg [{1}], {0}", in(reg_byte) new, in(reg) at, inout("al") expected => old, options(nostack))
                };
                old
            }
        }
    };
}

byte_word!();
word!(u16, i16, reg, ":x", "ax");
word!(u32, i32, reg, ":e", "eax");
word!(u64, i64, reg, ":r", "rax");

/// One 16-byte load (MOVUPS).
///
/// # Safety
/// `at` must be readable for 16 bytes.
#[inline(always)]
pub(crate) unsafe fn load128(at: *const u8) -> u128 {
    // SAFETY: SSE2 is part of x86-64; the caller says `at` is readable.
    unsafe { std::mem::transmute(std::arch::x86_64::_mm_loadu_si128(at.cast())) }
}

/// One 16-byte store (MOVUPS).
///
/// # Safety
/// `at` must be writable for 16 bytes.
#[inline(always)]
pub(crate) unsafe fn store128(at: *mut u8, value: u128) {
    // SAFETY: as in `load128`.
    unsafe {
        std::arch::x86_64::_mm_storeu_si128(
            at.cast(),
            std::mem::transmute::<u128, std::arch::x86_64::__m128i>(value),
        )
    }
}

/// LOCK CMPXCHG16B at a 16-byte aligned address: returns what was there.
///
/// # Safety
/// `at` must be writable for 16 bytes, aligned to 16; the host must have CMPXCHG16B.
pub(crate) unsafe fn compare_exchange128(at: *mut u8, expected: u128, new: u128) -> u128 {
    let (lo, hi): (u64, u64);
    // SAFETY: RBX is saved around because the compiler reserves it; the rest as the caller says.
    unsafe {
        asm!(
            "xchg rbx, {nl}",
            "lock cmpxchg16b [{at}]",
            "mov rbx, {nl}",
            nl = inout(reg) new as u64 => _,
            at = in(reg) at,
            in("rcx") (new >> 64) as u64,
            inout("rax") expected as u64 => lo,
            inout("rdx") (expected >> 64) as u64 => hi,
            options(nostack)
        );
    }
    u128::from(lo) | u128::from(hi) << 64
}
