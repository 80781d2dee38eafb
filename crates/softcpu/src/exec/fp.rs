//! When floating-point instructions may run, and whose MXCSR the host has meanwhile.
//!
//! While [`Cpu::run`](crate::Cpu::run) is active the host's MXCSR holds the guest's rounding mode, FTZ and DAZ, with all
//! exceptions masked, and its sticky flags accumulate the guest's. [`Cpu::enter_fp`] and [`Cpu::leave_fp`] swap it;
//! `cpu.mxcsr` has the whole truth only outside. The host's x87 unit is always left as Rust code expects it, but for exception
//! flags.

use std::arch::asm;

use crate::bus::Bus;
use crate::cpu::Cpu;
use crate::fault::{Fault, Trap, vector};

/// Bits of `Cpu::fp_ok`.
pub(crate) mod ok {
    /// SSE instructions may run (CR0.EM and CR0.TS clear, CR4.OSFXSR set).
    pub const SSE: u8 = 1 << 0;
    /// As `SSE`, and MXCSR masks every exception: arithmetic cannot fault.
    pub const SSE_MASKED: u8 = 1 << 1;
    /// x87 instructions that do not wait may run (CR0.EM and CR0.TS clear).
    pub const X87: u8 = 1 << 2;
    /// As `X87`, and no unmasked x87 exception is pending: waiting x87 and MMX instructions may run.
    pub const X87_READY: u8 = 1 << 3;
    /// As `X87_READY`, and FCW is the usual one: it masks every exception and rounds to nearest in extended precision.
    pub const X87_USUAL: u8 = 1 << 4;
}

/// CR0.MP, EM, TS, NE and CR4.OSFXSR, OSXMMEXCPT.
mod cr {
    pub const CR0_MP: u64 = 1 << 1;
    pub const CR0_EM: u64 = 1 << 2;
    pub const CR0_TS: u64 = 1 << 3;
    pub const CR0_NE: u64 = 1 << 5;
    pub const CR4_OSFXSR: u64 = 1 << 9;
    pub const CR4_OSXMMEXCPT: u64 = 1 << 10;
}

/// The exception mask bits of MXCSR.
pub(super) const MXCSR_MASKS: u32 = 0x1f80;
/// The sticky exception flags of MXCSR.
pub(super) const MXCSR_FLAGS: u32 = 0x3f;
/// MXCSR at reset, and what Rust code runs with.
pub(super) const MXCSR_DEFAULT: u32 = 0x1f80;
/// FCW at reset, and what Rust code runs with.
pub(super) const X87_USUAL: u16 = 0x37f;
/// FSW.ES, and B which mirrors it.
pub(super) const FSW_ES_B: u16 = 0x8080;

/// The host's MXCSR.
#[inline(always)]
pub(super) fn host_mxcsr() -> u32 {
    let mut value = 0u32;
    // SAFETY: STMXCSR stores four bytes.
    unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut value, options(nostack, preserves_flags)) };
    value
}

/// Sets the host's MXCSR; all exceptions stay masked and the reserved bits clear.
#[inline(always)]
pub(super) fn set_host_mxcsr(value: u32) {
    let value = value & 0xffff | MXCSR_MASKS;
    // SAFETY: no reserved bit is set, so LDMXCSR cannot fault, and masked exceptions cannot trap. Rust code meanwhile
    // does no floating-point arithmetic but in `asm!`.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const value, options(nostack)) };
}

/// Clears the host's x87 exception flags. While [`Cpu::run`](crate::Cpu::run) is active they may be left set, but only
/// those that the guest's FSW has set too: to be called when some are taken from there.
pub(super) fn clear_host_x87() {
    // SAFETY: only clears flags.
    unsafe { asm!("fnclex", options(nomem, nostack, preserves_flags)) };
}

impl Cpu {
    /// Puts the guest's rounding mode, FTZ, DAZ and sticky flags into the host's MXCSR: call when guest code is about to
    /// run.
    pub(crate) fn enter_fp(&mut self) {
        set_host_mxcsr(self.mxcsr);
    }

    /// Takes the guest's sticky flags back into `cpu.mxcsr` and gives the host its own MXCSR: call before anything but
    /// handlers runs.
    pub(crate) fn leave_fp(&mut self) {
        self.mxcsr = self.current_mxcsr();
        set_host_mxcsr(MXCSR_DEFAULT);
        clear_host_x87();
    }

    /// Calls the devices, with the host's floating-point units as Rust code expects them.
    pub(crate) fn call_out<R>(&mut self, f: impl FnOnce(&dyn Bus) -> R) -> R {
        self.leave_fp();
        let result = f(&*self.bus);
        self.enter_fp();
        result
    }

    /// The guest's MXCSR with the flags accumulated since [`enter_fp`](Self::enter_fp).
    pub(super) fn current_mxcsr(&self) -> u32 {
        self.mxcsr & !MXCSR_FLAGS | host_mxcsr() & MXCSR_FLAGS
    }

    /// Sets the guest's MXCSR, which has no reserved bit set, and puts it in force.
    pub(super) fn set_mxcsr(&mut self, value: u32) {
        self.mxcsr = value;
        set_host_mxcsr(value);
        self.fp_mode_changed();
    }

    /// Recomputes `fp_ok`: call when CR0, CR4, MXCSR's masks, FCW or FSW.ES changed.
    pub(crate) fn fp_mode_changed(&mut self) {
        let mut bits = 0;
        if self.cr0 & (cr::CR0_EM | cr::CR0_TS) == 0 {
            bits |= ok::X87;
            if self.x87.status & FSW_ES_B == 0 || self.cr0 & cr::CR0_NE == 0 {
                bits |= ok::X87_READY;
                if self.x87.control == X87_USUAL {
                    bits |= ok::X87_USUAL;
                }
            }
            if self.cr4 & cr::CR4_OSFXSR != 0 {
                bits |= ok::SSE;
                if self.mxcsr & MXCSR_MASKS == MXCSR_MASKS {
                    bits |= ok::SSE_MASKED;
                }
            }
        }
        self.fp_ok = bits;
    }

    /// Why an SSE instruction may not run: #UD without CR4.OSFXSR or with CR0.EM, else #NM.
    #[cold]
    #[inline(never)]
    pub(super) fn sse_unavailable(&mut self) -> Trap {
        if self.cr0 & cr::CR0_EM != 0 || self.cr4 & cr::CR4_OSFXSR == 0 {
            self.ud()
        } else {
            self.raise(Fault::plain(vector::NM))
        }
    }

    /// Why an MMX instruction may not run: #UD with CR0.EM, #NM with CR0.TS, else the pending x87 exception's #MF.
    #[cold]
    #[inline(never)]
    pub(super) fn mmx_unavailable(&mut self) -> Trap {
        if self.cr0 & cr::CR0_EM != 0 { self.ud() } else { self.x87_unavailable() }
    }

    /// Why an x87 instruction may not run: #NM with CR0.EM or CR0.TS, else #MF.
    #[cold]
    #[inline(never)]
    pub(super) fn x87_unavailable(&mut self) -> Trap {
        let v = if self.cr0 & (cr::CR0_EM | cr::CR0_TS) != 0 { vector::NM } else { vector::MF };
        self.raise(Fault::plain(v))
    }

    /// Fails with #UD or #NM where SSE instructions may not run.
    #[inline(always)]
    pub(super) fn need_sse(&mut self) -> Result<(), Trap> {
        if self.fp_ok & ok::SSE != 0 { Ok(()) } else { Err(self.sse_unavailable()) }
    }

    /// Fails with #UD, #NM or #MF where MMX instructions may not run.
    #[inline(always)]
    pub(super) fn need_mmx(&mut self) -> Result<(), Trap> {
        if self.fp_ok & ok::X87_READY != 0 { Ok(()) } else { Err(self.mmx_unavailable()) }
    }

    /// Fails with #UD, #NM or #MF where instructions on both XMM and MMX registers may not run.
    #[inline(always)]
    pub(super) fn need_sse_and_mmx(&mut self) -> Result<(), Trap> {
        self.need_sse()?;
        self.need_mmx()
    }

    /// Fails with #NM where x87 instructions may not run, and, if the instruction waits, with #MF.
    #[inline(always)]
    pub(super) fn need_x87(&mut self, waits: bool) -> Result<(), Trap> {
        let need = if waits { ok::X87_READY } else { ok::X87 };
        if self.fp_ok & need != 0 { Ok(()) } else { Err(self.x87_unavailable()) }
    }

    /// FWAIT's checks: #NM with both CR0.MP and CR0.TS, #MF for a pending exception.
    pub(super) fn wait_x87(&mut self) -> Result<(), Trap> {
        let both = cr::CR0_MP | cr::CR0_TS;
        if self.cr0 & both == both {
            Err(self.raise(Fault::plain(vector::NM)))
        } else if self.x87.status & FSW_ES_B != 0 && self.cr0 & cr::CR0_NE != 0 {
            Err(self.raise(Fault::plain(vector::MF)))
        } else {
            Ok(())
        }
    }

    /// The exception an SSE instruction raises for an unmasked floating-point exception: #XM, or #UD where the system
    /// does not take it (CR4.OSXMMEXCPT clear).
    #[cold]
    pub(super) fn simd_exception(&mut self) -> Trap {
        if self.cr4 & cr::CR4_OSXMMEXCPT != 0 { self.raise(Fault::plain(vector::XM)) } else { self.ud() }
    }
}
