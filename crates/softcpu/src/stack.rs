//! Stacks that the processor itself pushes to and pops from: interrupts, far transfers, returns.
//!
//! A [`Stack`] moves its own copy of the stack pointer, so an instruction commits it only when nothing can fault any more.

use crate::cpu::{Cpu, Mode};
use crate::fault::{Fault, Trap, vector};
use crate::mem::Word;
use crate::mmu::canonical;
use crate::op::{seg, slot};
use crate::state::Segment;

/// Bytes that one push or pop moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    Word = 2,
    Double = 4,
    Quad = 8,
}

impl Width {
    /// The width of `bytes` bytes: 2, 4 or 8.
    pub const fn of(bytes: u16) -> Self {
        match bytes {
            2 => Self::Word,
            4 => Self::Double,
            _ => Self::Quad,
        }
    }
}

/// A stack and a position in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stack {
    segment: Segment,
    /// The stack pointer, with the bits that pushes leave alone.
    sp: u64,
    /// The bits of the stack pointer that count.
    mask: u64,
    /// Accesses are the supervisor's, whatever the privilege level.
    supervisor: bool,
    /// Error code of #SS.
    error: u32,
}

impl Stack {
    /// The stack in use.
    pub fn current(cpu: &Cpu) -> Self {
        let sp = cpu.get(slot::RSP);
        if cpu.long_mode() {
            return Self::flat(sp, false);
        }
        Self::new(cpu.segs[usize::from(seg::SS)], sp, false, 0)
    }

    /// The stack of 64-bit mode.
    pub fn flat(sp: u64, supervisor: bool) -> Self {
        Self { segment: Segment::default(), sp, mask: u64::MAX, supervisor, error: 0 }
    }

    /// The stack in `segment`, outside 64-bit mode. `error` is the error code if it overflows.
    pub fn new(segment: Segment, sp: u64, supervisor: bool, error: u32) -> Self {
        let mask = if segment.big() { 0xffff_ffff } else { 0xffff };
        Self { segment, sp, mask, supervisor, error }
    }

    /// The stack pointer.
    pub fn sp(&self) -> u64 {
        if self.mask == 0xffff_ffff { self.sp & self.mask } else { self.sp }
    }

    /// Moves the stack pointer by `bytes`.
    pub fn skip(&mut self, bytes: u64) {
        self.sp = self.sp & !self.mask | self.sp.wrapping_add(bytes) & self.mask;
    }

    fn address(&self, cpu: &mut Cpu, width: Width) -> Result<u64, Trap> {
        let offset = self.sp & self.mask;
        let size = width as u64;
        if self.mask == u64::MAX {
            return if canonical(offset) && canonical(offset.wrapping_add(size - 1)) {
                Ok(offset)
            } else {
                Err(cpu.raise(Fault::coded(vector::SS, self.error)))
            };
        }
        let last = offset + size - 1;
        let limit = u64::from(self.segment.limit);
        let inside = if self.segment.rights & 0x1c == 0x14 {
            offset > limit && last <= self.mask
        } else {
            last <= limit
        };
        if inside && (!self.segment.unusable || cpu.mode.contains(Mode::REAL)) {
            Ok(self.segment.base.wrapping_add(offset) & 0xffff_ffff)
        } else {
            Err(cpu.raise(Fault::coded(vector::SS, self.error)))
        }
    }

    fn store<T: Word>(&self, cpu: &mut Cpu, la: u64, value: u64) -> Result<(), Trap> {
        let value = T::from_u64(value);
        if self.supervisor { cpu.store_system(la, value) } else { cpu.store(la, value) }
    }

    fn load<T: Word>(&self, cpu: &mut Cpu, la: u64) -> Result<u64, Trap> {
        let value: T = if self.supervisor { cpu.load_system(la)? } else { cpu.load(la)? };
        Ok(value.to_u64())
    }

    /// Pushes the low `width` bytes of `value`.
    pub fn push(&mut self, cpu: &mut Cpu, width: Width, value: u64) -> Result<(), Trap> {
        let before = self.sp;
        self.skip((width as u64).wrapping_neg());
        let done = self.address(cpu, width).and_then(|la| match width {
            Width::Word => self.store::<u16>(cpu, la, value),
            Width::Double => self.store::<u32>(cpu, la, value),
            Width::Quad => self.store::<u64>(cpu, la, value),
        });
        if done.is_err() {
            self.sp = before;
        }
        done
    }

    /// Pushes a slot of 32 bits of which only the low 16 are written.
    pub fn push_low_half(&mut self, cpu: &mut Cpu, value: u64) -> Result<(), Trap> {
        let before = self.sp;
        self.skip(4u64.wrapping_neg());
        let done = self.address(cpu, Width::Double).and_then(|la| self.store::<u16>(cpu, la, value));
        if done.is_err() {
            self.sp = before;
        }
        done
    }

    /// Pops `width` bytes, zero-extended.
    pub fn pop(&mut self, cpu: &mut Cpu, width: Width) -> Result<u64, Trap> {
        let la = self.address(cpu, width)?;
        let value = match width {
            Width::Word => self.load::<u16>(cpu, la)?,
            Width::Double => self.load::<u32>(cpu, la)?,
            Width::Quad => self.load::<u64>(cpu, la)?,
        };
        self.skip(width as u64);
        Ok(value)
    }

    /// Makes the position the processor's stack pointer.
    pub fn commit(&self, cpu: &mut Cpu) {
        cpu.set::<u64>(slot::RSP, self.sp());
    }
}

impl Cpu {
    /// The stack pointer, cut to the stack's width.
    #[inline(always)]
    pub(crate) fn stack_pointer(&self) -> u64 {
        self.get::<u64>(slot::RSP) & self.stack_mask()
    }

    /// The bits of RSP that are the stack pointer.
    #[inline(always)]
    pub(crate) fn stack_mask(&self) -> u64 {
        if self.long_mode() {
            u64::MAX
        } else if self.mode.contains(Mode::STACK32) {
            0xffff_ffff
        } else {
            0xffff
        }
    }

    /// Sets the part of RSP the stack's width has.
    #[inline(always)]
    pub(crate) fn set_stack_pointer(&mut self, sp: u64) {
        let mask = self.stack_mask();
        let old = self.get::<u64>(slot::RSP);
        self.set::<u64>(slot::RSP, if mask == 0xffff { old & !mask | sp & mask } else { sp & mask });
    }

    /// Runs `f`, which enters 64-bit code from 64-bit or compatibility mode: descriptor tables and the new stack are
    /// addressed with 64 bits either way. On success `f` has set the new mode.
    pub(crate) fn with_long_addresses<R>(
        &mut self,
        f: impl FnOnce(&mut Self) -> Result<R, Trap>,
    ) -> Result<R, Trap> {
        let mode = self.mode;
        self.mode |= Mode::LONG;
        let result = f(self);
        if result.is_err() {
            self.mode = mode;
        }
        result
    }
}
