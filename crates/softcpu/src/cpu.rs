//! The processor as the interpreter has it: hot state first, and the small operations everything else is made of.

use std::sync::Arc;

use crate::apic::{Apic, Mailbox};
use crate::bus::Bus;
use crate::cache::{Block, CodeCache};
use crate::fault::{Fault, Pending, Trap, vector};
use crate::features::Features;
use crate::flags::{self, rflags};
use crate::mmu::Mmu;
use crate::op::{Op, form, seg, slot};
use crate::state::{Activity, Msrs, Segment, TableRegister, X87};
use crate::system::{CpuidEntry, System};
use crate::wait::Wait;

/// Why [`Cpu::run`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Somebody called [`Mailbox::kick`].
    Kicked,
    /// HLT with nothing to do (or an application processor waiting for its startup IPI): call [`Mailbox::wait`] with
    /// the deadline, guest nanoseconds, at which the local APIC's timer wants to fire, then run again.
    Halted {
        /// When the timer fires next, if it is armed.
        deadline: Option<u64>,
    },
    /// A triple fault.
    Shutdown,
}

bitflags::bitflags! {
    /// What the meaning of code bytes depends on, besides the bytes.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub(crate) struct Mode: u8 {
        /// 64-bit code: EFER.LMA and CS.L.
        const LONG = 1 << 0;
        /// CS.D: 32-bit operands and addresses.
        const CODE32 = 1 << 1;
        /// SS.B: the stack pointer is ESP (in 64-bit mode always RSP).
        const STACK32 = 1 << 2;
        /// CR0.PE is clear or EFLAGS.VM set: selectors are not checked.
        const REAL = 1 << 3;
        /// CS has a limit below 4 GiB: blocks end at it, and are not linked, for the limit may change.
        const LIMITED = 1 << 4;
        /// Blocks of one instruction: single step, interrupt shadow, code that writes itself.
        const ALONE = 1 << 7;
    }
}

/// One virtual processor. It belongs to the thread that calls [`run`](Self::run).
#[repr(C)]
pub struct Cpu {
    /// RAX … R15, then [`slot::RIP`] and [`slot::ZERO`].
    pub(crate) slots: [u64; 18],
    /// Instructions the dispatcher still hands out before it looks around.
    pub(crate) fuel: i64,
    /// When others were last listened to and the timer was looked at, guest ns.
    pub(crate) polled: u64,
    /// Arithmetic flags, see [`crate::flags`].
    pub(crate) arith: u16,
    /// Current privilege level.
    pub(crate) cpl: u8,
    pub(crate) mode: Mode,
    /// Which floating-point instructions may run without a further look, see [`crate::exec::fp`]; kept by
    /// [`fp_mode_changed`](Self::fp_mode_changed).
    pub(crate) fp_ok: u8,
    /// RFLAGS without the arithmetic flags: DF, IF, TF, IOPL, NT, RF, VM, AC, VIF, VIP, ID and the fixed bit.
    pub(crate) rflags_rest: u64,
    pub(crate) mmu: Mmu,
    pub(crate) segs: [Segment; 6],
    pub(crate) xmm: [u128; 16],
    pub(crate) mxcsr: u32,
    pub(crate) x87: X87,
    pub(crate) stopped_at: *const Op,
    pub(crate) block: *const Block,
    pub(crate) pending: Pending,
    pub(crate) exit: Option<Exit>,
    pub(crate) code: CodeCache,

    pub(crate) cr0: u64,
    pub(crate) cr2: u64,
    pub(crate) cr3: u64,
    pub(crate) cr4: u64,
    pub(crate) efer: u64,
    pub(crate) dr: [u64; 8],
    pub(crate) ldtr: Segment,
    pub(crate) tr: Segment,
    pub(crate) gdtr: TableRegister,
    pub(crate) idtr: TableRegister,
    pub(crate) msrs: Msrs,
    pub(crate) tsc_offset: u64,
    pub(crate) shadow: bool,
    pub(crate) nmi_blocked: bool,
    pub(crate) nmi_pending: bool,
    /// A single-step trap follows the instruction in execution: set by the dispatcher, changed by instructions to which
    /// other rules apply.
    pub(crate) single_step: bool,
    /// The instruction before this one loaded SS: debug exceptions wait until this one is complete.
    pub(crate) debug_held: bool,
    /// DR6 bits of the data breakpoints that the instruction in execution has met.
    pub(crate) watch_hits: u64,
    pub(crate) activity: Activity,
    pub(crate) apic: Apic,
    pub(crate) cpuid: Arc<[CpuidEntry]>,
    pub(crate) features: Features,
    pub(crate) system: Arc<System>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) index: usize,
    /// How it waits in a loop of its guest's.
    pub(crate) wait: Wait,
    /// Instructions executed.
    pub(crate) instructions: u64,
    /// Registers that do not exist and that the guest was told so about.
    pub(crate) unknown_msrs: Vec<u32>,
}

// SAFETY: `stopped_at` and `block` point into blocks that `code` owns and that move with it.
unsafe impl Send for Cpu {}

impl Cpu {
    /// Records `fault` and gives what a handler returns for it.
    #[cold]
    #[inline(never)]
    pub(crate) fn raise(&mut self, fault: Fault) -> Trap {
        self.pending = Pending::Fault(fault);
        Trap
    }

    /// #GP(0).
    #[cold]
    pub(crate) fn gp0(&mut self) -> Trap {
        self.raise(Fault::gp(0))
    }

    /// #UD.
    #[cold]
    pub(crate) fn ud(&mut self) -> Trap {
        self.raise(Fault::plain(vector::UD))
    }

    /// The value in a register slot; `T` may be narrower than the register. `slot` comes from the block builder.
    #[inline(always)]
    pub(crate) fn get<T: crate::mem::Word>(&self, slot: u8) -> T {
        debug_assert!(usize::from(slot) + size_of::<T>() <= size_of_val(&self.slots));
        // SAFETY: the block builder only makes slots that lie inside `slots` for the operand's width.
        unsafe { (&raw const self.slots).cast::<u8>().add(usize::from(slot)).cast::<T>().read_unaligned() }
    }

    /// Sets a register as an instruction of width `T` does: 8 and 16 bits leave the rest, 32 bits clear the upper half.
    #[inline(always)]
    pub(crate) fn set<T: crate::mem::Word>(&mut self, slot: u8, value: T) {
        debug_assert!(usize::from(slot) + size_of::<T>() <= size_of_val(&self.slots));
        // SAFETY: as in `get`; a 32-bit slot is 8-byte aligned and has 8 bytes.
        unsafe {
            let at = (&raw mut self.slots).cast::<u8>().add(usize::from(slot));
            if size_of::<T>() == 4 {
                at.cast::<u64>().write_unaligned(value.to_u64());
            } else {
                at.cast::<T>().write_unaligned(value);
            }
        }
    }

    /// A whole 64-bit register by number 0–15.
    #[inline(always)]
    pub(crate) fn reg(&self, number: usize) -> u64 {
        self.slots[number]
    }

    /// The address (offset in CS) of the current block's first instruction.
    #[inline(always)]
    pub(crate) fn block_rip(&self) -> u64 {
        self.slots[usize::from(slot::RIP / 8)]
    }

    /// Sets where execution goes on; the dispatcher looks the block up.
    #[inline(always)]
    pub(crate) fn set_rip(&mut self, rip: u64) {
        self.slots[usize::from(slot::RIP / 8)] = rip;
    }

    /// Address of the instruction after `op`, wrapped to the instruction pointer's width.
    #[inline(always)]
    pub(crate) fn next_rip(&self, op: &Op) -> u64 {
        self.wrap_rip(self.block_rip().wrapping_add(u64::from(op.next)))
    }

    /// Address of `op` itself.
    #[inline(always)]
    pub(crate) fn this_rip(&self, op: &Op) -> u64 {
        self.wrap_rip(self.block_rip().wrapping_add(u64::from(op.next)).wrapping_sub(u64::from(op.len)))
    }

    /// Cuts an instruction address to the code segment's width.
    #[inline(always)]
    pub(crate) fn wrap_rip(&self, rip: u64) -> u64 {
        if self.mode.contains(Mode::LONG) {
            rip
        } else if self.mode.contains(Mode::CODE32) {
            rip & 0xffff_ffff
        } else {
            rip & 0xffff
        }
    }

    /// Whether code is 64-bit.
    #[inline(always)]
    pub(crate) fn long_mode(&self) -> bool {
        self.mode.contains(Mode::LONG)
    }

    /// RFLAGS as PUSHF would store it, RF and VM included.
    pub(crate) fn rflags(&self) -> u64 {
        self.rflags_rest | flags::release(self.arith)
    }

    /// Sets RFLAGS from a full image; the caller has masked what may not change. Call
    /// [`mode_changed`](Self::mode_changed) if VM, AC or TF may have changed.
    pub(crate) fn set_rflags(&mut self, value: u64) {
        self.arith = flags::capture(value);
        self.rflags_rest = value & 0x3f_7fd5 & !rflags::STATUS | rflags::FIXED;
    }

    /// Linear address of a plain memory operand (`form::FLAT`).
    #[inline(always)]
    pub(crate) fn flat(&self, op: &Op) -> u64 {
        self.get::<u64>(op.base)
            .wrapping_add(self.get::<u64>(op.index) << op.scale)
            .wrapping_add(i64::from(op.disp) as u64)
    }

    /// The memory operand's offset in its segment, wrapped to the address size (what LEA gives).
    #[inline]
    pub(crate) fn offset(&self, op: &Op) -> u64 {
        let ea = self.flat(op);
        if op.form & form::ADDR32 != 0 {
            ea & 0xffff_ffff
        } else if op.form & form::ADDR16 != 0 {
            ea & 0xffff
        } else {
            ea
        }
    }

    /// Linear address of `op`'s memory operand of `size` bytes, any mode; checks segment limits and rights outside
    /// 64-bit mode. Canonical form is checked by the access itself.
    #[inline(always)]
    pub(crate) fn linear(&mut self, op: &Op, size: u32, write: bool) -> Result<u64, Trap> {
        if op.form & form::FLAT != 0 {
            return Ok(self.flat(op));
        }
        self.linear_at(op.seg, self.offset(op), size, write)
    }

    /// Linear address of `offset` in segment `segment`, with the checks of the current mode.
    pub(crate) fn linear_at(
        &mut self,
        segment: u8,
        offset: u64,
        size: u32,
        write: bool,
    ) -> Result<u64, Trap> {
        let s = &self.segs[usize::from(segment)];
        if self.mode.contains(Mode::LONG) {
            return Ok(if segment >= seg::FS { s.base.wrapping_add(offset) } else { offset });
        }
        let offset = offset & 0xffff_ffff;
        let last = offset + u64::from(size) - 1;
        let data_down = s.rights & 0x1c == 0x14;
        let inside = if data_down {
            offset > u64::from(s.limit) && last <= if s.big() { 0xffff_ffff } else { 0xffff }
        } else {
            last <= u64::from(s.limit)
        };
        let code = s.rights & 0x18 == 0x18;
        let allowed = self.mode.contains(Mode::REAL)
            || !s.unusable && if write { !code && s.rights & 2 != 0 } else { !code || s.rights & 2 != 0 };
        if inside && allowed {
            Ok(s.base.wrapping_add(offset) & 0xffff_ffff)
        } else {
            let v = if segment == seg::SS { vector::SS } else { vector::GP };
            Err(self.raise(Fault::coded(v, 0)))
        }
    }
}
