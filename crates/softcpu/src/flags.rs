//! The arithmetic flags, kept as the host's LAHF and SETO give them: SF ZF AF PF CF in bits 15..8, OF in bit 0.
//!
//! Capturing them costs two host instructions and reading them no case distinction; flags that the architecture leaves
//! undefined are what the host's processor makes of them.

/// CF in the captured form.
pub(crate) const CF: u16 = 1 << 8;
/// PF in the captured form.
pub(crate) const PF: u16 = 1 << 10;
/// AF in the captured form.
pub(crate) const AF: u16 = 1 << 12;
/// ZF in the captured form.
pub(crate) const ZF: u16 = 1 << 14;
/// SF in the captured form.
pub(crate) const SF: u16 = 1 << 15;
/// OF in the captured form.
pub(crate) const OF: u16 = 1;
/// All arithmetic flags in the captured form.
pub(crate) const ALL: u16 = CF | PF | AF | ZF | SF | OF;

/// RFLAGS bits (Intel SDM vol. 1, 3.4.3).
#[allow(missing_docs)]
pub mod rflags {
    pub const CF: u64 = 1 << 0;
    pub const FIXED: u64 = 1 << 1;
    pub const PF: u64 = 1 << 2;
    pub const AF: u64 = 1 << 4;
    pub const ZF: u64 = 1 << 6;
    pub const SF: u64 = 1 << 7;
    pub const TF: u64 = 1 << 8;
    pub const IF: u64 = 1 << 9;
    pub const DF: u64 = 1 << 10;
    pub const OF: u64 = 1 << 11;
    pub const IOPL: u64 = 3 << 12;
    pub const NT: u64 = 1 << 14;
    pub const RF: u64 = 1 << 16;
    pub const VM: u64 = 1 << 17;
    pub const AC: u64 = 1 << 18;
    pub const VIF: u64 = 1 << 19;
    pub const VIP: u64 = 1 << 20;
    pub const ID: u64 = 1 << 21;
    /// The arithmetic flags.
    pub const STATUS: u64 = CF | PF | AF | ZF | SF | OF;
}

/// The captured form of RFLAGS' arithmetic flags.
#[inline]
pub(crate) fn capture(rflags: u64) -> u16 {
    ((rflags as u16 & 0xd5) << 8) | (rflags >> 11) as u16 & 1
}

/// RFLAGS' arithmetic flags from the captured form.
#[inline]
pub(crate) fn release(captured: u16) -> u64 {
    u64::from((captured >> 8) & 0xd5) | u64::from(captured & 1) << 11
}

/// Whether condition `cc` (the low four bits of Jcc, SETcc, CMOVcc opcodes) holds.
#[inline(always)]
pub(crate) fn condition(captured: u16, cc: u8) -> bool {
    let f = captured;
    let less = ((f >> 15) ^ f) & 1 != 0;
    let base = match cc >> 1 {
        0 => f & OF != 0,
        1 => f & CF != 0,
        2 => f & ZF != 0,
        3 => f & (CF | ZF) != 0,
        4 => f & SF != 0,
        5 => f & PF != 0,
        6 => less,
        _ => less || f & ZF != 0,
    };
    base ^ (cc & 1 != 0)
}
