//! Segments (Intel SDM vol. 3, chapters 3 and 5): descriptors, what loading a segment register checks, and the limits and
//! permissions that segments impose on code and ports.

use crate::cpu::{Cpu, Mode};
use crate::fault::{Fault, Trap, vector};
use crate::flags::rflags;
use crate::mmu::canonical;
use crate::op::seg;
use crate::paging::{CR0_PE, EFER_LMA};
use crate::state::Segment;

/// System descriptor types (Intel SDM vol. 3, table 3-2).
#[allow(missing_docs)]
pub(crate) mod kind {
    pub const TSS16: u8 = 1;
    pub const LDT: u8 = 2;
    pub const TSS16_BUSY: u8 = 3;
    pub const CALL_GATE16: u8 = 4;
    pub const TASK_GATE: u8 = 5;
    pub const TSS32: u8 = 9;
    pub const TSS32_BUSY: u8 = 11;
    pub const CALL_GATE: u8 = 12;
    /// What makes an available TSS busy.
    pub const BUSY: u8 = 2;
}

/// The accessed bit in a code or data descriptor.
const ACCESSED: u64 = 1 << 40;

/// Access rights of a present, writable, accessed data segment of privilege 0.
pub(crate) const DATA_RIGHTS: u16 = 0x93;
/// The same of an executable, readable code segment.
pub(crate) const CODE_RIGHTS: u16 = 0x9b;
/// Rights bit D/B.
pub(crate) const RIGHTS_BIG: u16 = 1 << 14;
/// Rights bit L.
pub(crate) const RIGHTS_LONG: u16 = 1 << 13;
/// Rights bit G.
pub(crate) const RIGHTS_PAGES: u16 = 1 << 15;

/// An 8-byte entry of a descriptor table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor(pub u64);

impl Descriptor {
    /// Type bits 3:0.
    pub const fn kind(self) -> u8 {
        (self.0 >> 40 & 0xf) as u8
    }

    /// A segment of code or data, not a system segment or gate.
    pub const fn is_ordinary(self) -> bool {
        self.0 & 1 << 44 != 0
    }

    pub const fn is_code(self) -> bool {
        self.is_ordinary() && self.kind() & 8 != 0
    }

    /// Code that keeps its caller's privilege level.
    pub const fn is_conforming(self) -> bool {
        self.is_code() && self.kind() & 4 != 0
    }

    pub const fn is_writable_data(self) -> bool {
        self.is_ordinary() && self.kind() & 0xa == 2
    }

    /// Data, or code that may be read.
    pub const fn is_readable(self) -> bool {
        self.is_ordinary() && self.kind() & 0xa != 8
    }

    pub const fn dpl(self) -> u8 {
        (self.0 >> 45 & 3) as u8
    }

    pub const fn is_present(self) -> bool {
        self.0 & 1 << 47 != 0
    }

    /// 64-bit code.
    pub const fn is_long(self) -> bool {
        self.0 & 1 << 53 != 0
    }

    pub const fn is_big(self) -> bool {
        self.0 & 1 << 54 != 0
    }

    pub const fn base(self) -> u64 {
        self.0 >> 16 & 0xff_ffff | self.0 >> 32 & 0xff00_0000
    }

    /// The last valid offset, granularity applied.
    pub const fn limit(self) -> u32 {
        let raw = (self.0 & 0xffff | self.0 >> 32 & 0xf_0000) as u32;
        if self.0 & 1 << 55 != 0 { raw << 12 | 0xfff } else { raw }
    }

    /// Selector in a gate.
    pub const fn gate_selector(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Offset in a 32-bit gate; the low half of a 64-bit one.
    pub const fn gate_offset(self) -> u64 {
        self.0 & 0xffff | self.0 >> 32 & 0xffff_0000
    }

    /// Parameters that a call gate copies.
    pub const fn gate_parameters(self) -> u8 {
        (self.0 >> 32 & 0x1f) as u8
    }

    /// The segment register that holds this descriptor under `selector`.
    pub const fn segment(self, selector: u16) -> Segment {
        Segment {
            selector,
            base: self.base(),
            limit: self.limit(),
            rights: (self.0 >> 40) as u16 & 0xf0ff,
            unusable: false,
        }
    }
}

/// A segment register that holds a null selector; `dpl` is kept because SS says what the privilege level is.
pub(crate) const fn null_segment(selector: u16, dpl: u8) -> Segment {
    Segment { selector, base: 0, limit: 0, rights: (dpl as u16) << 5, unusable: true }
}

pub(crate) const fn is_null(selector: u16) -> bool {
    selector & !3 == 0
}

/// The error code that names `selector`.
pub(crate) const fn selector_error(selector: u16) -> u32 {
    (selector & !3) as u32
}

impl Cpu {
    /// Whether EFER.LMA is set: 64-bit or compatibility mode.
    #[inline]
    pub(crate) fn long_active(&self) -> bool {
        self.efer & EFER_LMA != 0
    }

    /// Whether selectors mean what they do in real or virtual-8086 mode.
    #[inline]
    pub(crate) fn real_segments(&self) -> bool {
        self.mode.contains(Mode::REAL)
    }

    /// Whether EFLAGS.VM is set.
    #[inline]
    pub(crate) fn virtual_8086(&self) -> bool {
        self.rflags_rest & rflags::VM != 0
    }

    /// Raises exception `vector` with an error code that names `selector`.
    #[cold]
    pub(crate) fn selector_fault(&mut self, vector: u8, selector: u16) -> Trap {
        self.raise(Fault::coded(vector, selector_error(selector)))
    }

    /// A linear address computed for the processor's own purposes: 32 bits outside long mode.
    #[inline]
    pub(crate) fn system_address(&self, la: u64) -> u64 {
        if self.long_active() { la } else { la & 0xffff_ffff }
    }

    /// Linear address of `selector`'s descriptor of `size` bytes, if it is within its table.
    fn descriptor_address(&self, selector: u16, size: u32) -> Option<u64> {
        let (base, limit) = if selector & 4 == 0 {
            (self.gdtr.base, u32::from(self.gdtr.limit))
        } else if self.ldtr.unusable {
            return None;
        } else {
            (self.ldtr.base, self.ldtr.limit)
        };
        let at = u32::from(selector & !7);
        (at + size - 1 <= limit).then(|| self.system_address(base.wrapping_add(u64::from(at))))
    }

    /// Reads `selector`'s descriptor; outside its table, raises `vector` with the selector.
    pub(crate) fn read_descriptor(&mut self, selector: u16, vector: u8) -> Result<Descriptor, Trap> {
        match self.descriptor_address(selector, 8) {
            Some(la) => Ok(Descriptor(self.load_system(la)?)),
            None => Err(self.selector_fault(vector, selector)),
        }
    }

    /// `selector`'s descriptor, if its table has one there: for instructions that do not fault on others.
    pub(crate) fn find_descriptor(&mut self, selector: u16) -> Result<Option<Descriptor>, Trap> {
        match self.descriptor_address(selector, 8) {
            Some(la) if !is_null(selector) => Ok(Some(Descriptor(self.load_system(la)?))),
            _ => Ok(None),
        }
    }

    /// The upper half of a system descriptor of 16 bytes (long mode).
    pub(crate) fn read_descriptor_high(&mut self, selector: u16, vector: u8) -> Result<u64, Trap> {
        match self.descriptor_address(selector, 16) {
            Some(la) => self.load_system(self.system_address(la.wrapping_add(8))),
            None => Err(self.selector_fault(vector, selector)),
        }
    }

    /// Sets bits in the type byte of `selector`'s descriptor, atomically.
    fn mark_descriptor(&mut self, selector: u16, bits: u8) -> Result<(), Trap> {
        let Some(la) = self.descriptor_address(selector, 8) else { return Ok(()) };
        let la = self.system_address(la.wrapping_add(5));
        self.as_supervisor(|cpu| cpu.update::<u8>(la, true, |b| b | bits))?;
        Ok(())
    }

    /// Clears the busy bit of a TSS descriptor.
    pub(crate) fn mark_available(&mut self, selector: u16) -> Result<(), Trap> {
        let Some(la) = self.descriptor_address(selector, 8) else { return Ok(()) };
        let la = self.system_address(la.wrapping_add(5));
        self.as_supervisor(|cpu| cpu.update::<u8>(la, true, |b| b & !kind::BUSY))?;
        Ok(())
    }

    /// Sets the busy bit of a TSS descriptor.
    pub(crate) fn mark_busy(&mut self, selector: u16) -> Result<(), Trap> {
        self.mark_descriptor(selector, kind::BUSY)
    }

    /// The segment of `descriptor`, which is about to be loaded: sets its accessed bit.
    pub(crate) fn accessed(&mut self, selector: u16, descriptor: Descriptor) -> Result<Segment, Trap> {
        if descriptor.0 & ACCESSED == 0 {
            self.mark_descriptor(selector, 1)?;
        }
        Ok(Descriptor(descriptor.0 | ACCESSED).segment(selector))
    }

    /// Loads ES, SS, DS, FS or GS as MOV and POP do. After a load of SS the block must end.
    pub(crate) fn load_segment(&mut self, segment: u8, selector: u16) -> Result<(), Trap> {
        let loaded = self.checked_segment(segment, selector)?;
        self.set_segment(segment, loaded);
        Ok(())
    }

    /// What a load of `selector` into `segment` would put there.
    pub(crate) fn checked_segment(&mut self, segment: u8, selector: u16) -> Result<Segment, Trap> {
        if self.real_segments() {
            return Ok(self.real_segment(segment, selector));
        }
        if segment != seg::SS {
            return self.data_segment(selector, vector::GP);
        }
        if is_null(selector) && self.long_mode() && self.cpl < 3 && selector as u8 & 3 == self.cpl {
            return Ok(null_segment(selector, self.cpl));
        }
        self.stack_segment(selector, self.cpl, vector::GP)
    }

    /// Puts what [`checked_segment`](Self::checked_segment) gave into the register.
    pub(crate) fn set_segment(&mut self, segment: u8, value: Segment) {
        self.segs[usize::from(segment)] = value;
        if segment == seg::SS {
            self.mode_changed();
        }
    }

    /// A selector in real or virtual-8086 mode. In real mode limit and rights stay what they were ("unreal" mode).
    pub(crate) fn real_segment(&self, segment: u8, selector: u16) -> Segment {
        if self.virtual_8086() {
            return virtual_8086_segment(selector);
        }
        let base = u64::from(selector) << 4;
        let before = self.segs[usize::from(segment)];
        if before.unusable {
            return Segment { base, rights: DATA_RIGHTS, ..virtual_8086_segment(selector) };
        }
        Segment { selector, base, ..before }
    }

    /// Checks a selector for DS, ES, FS or GS; what is wrong with it raises `vector`.
    pub(crate) fn data_segment(&mut self, selector: u16, vector: u8) -> Result<Segment, Trap> {
        if is_null(selector) {
            return Ok(null_segment(selector, 0));
        }
        let d = self.read_descriptor(selector, vector)?;
        let privileged = self.cpl.max(selector as u8 & 3);
        if !d.is_readable() || !d.is_conforming() && privileged > d.dpl() {
            return Err(self.selector_fault(vector, selector));
        }
        if !d.is_present() {
            return Err(self.selector_fault(vector::NP, selector));
        }
        self.accessed(selector, d)
    }

    /// Checks a selector for SS at privilege level `cpl`; what is wrong with it raises `vector`.
    pub(crate) fn stack_segment(&mut self, selector: u16, cpl: u8, vector: u8) -> Result<Segment, Trap> {
        if is_null(selector) {
            return Err(self.raise(Fault::coded(vector, 0)));
        }
        let d = self.read_descriptor(selector, vector)?;
        if selector as u8 & 3 != cpl || !d.is_writable_data() || d.dpl() != cpl {
            return Err(self.selector_fault(vector, selector));
        }
        if !d.is_present() {
            return Err(self.selector_fault(vector::SS, selector));
        }
        self.accessed(selector, d)
    }

    /// The system descriptor of 8 or, in long mode, 16 bytes in the GDT that LLDT and LTR load.
    fn system_segment(&mut self, selector: u16, wanted: &[u8]) -> Result<Segment, Trap> {
        if selector & 4 != 0 {
            return Err(self.selector_fault(vector::GP, selector));
        }
        let d = self.read_descriptor(selector, vector::GP)?;
        let mut segment = d.segment(selector);
        let mut good = !d.is_ordinary() && wanted.contains(&d.kind());
        if self.long_active() {
            let high = self.read_descriptor_high(selector, vector::GP)?;
            segment.base |= high << 32;
            good &= high >> 40 & 0x1f == 0 && canonical(segment.base);
        }
        if !good {
            return Err(self.selector_fault(vector::GP, selector));
        }
        if !d.is_present() {
            return Err(self.selector_fault(vector::NP, selector));
        }
        Ok(segment)
    }

    /// LLDT.
    pub(crate) fn load_ldtr(&mut self, selector: u16) -> Result<(), Trap> {
        self.ldtr = if is_null(selector) {
            null_segment(selector, 0)
        } else {
            self.system_segment(selector, &[kind::LDT])?
        };
        Ok(())
    }

    /// LTR: the task becomes busy.
    pub(crate) fn load_tr(&mut self, selector: u16) -> Result<(), Trap> {
        if is_null(selector) {
            return Err(self.gp0());
        }
        let wanted: &[u8] = if self.long_active() { &[kind::TSS32] } else { &[kind::TSS16, kind::TSS32] };
        let mut segment = self.system_segment(selector, wanted)?;
        self.mark_busy(selector)?;
        segment.rights |= u16::from(kind::BUSY);
        self.tr = segment;
        Ok(())
    }

    /// Fails with #GP(0) if `rip` is no place for code in the current code segment.
    #[inline]
    pub(crate) fn check_code_limit(&mut self, rip: u64) -> Result<(), Trap> {
        let good = if self.long_mode() {
            canonical(rip)
        } else {
            rip <= u64::from(self.segs[usize::from(seg::CS)].limit)
        };
        if good { Ok(()) } else { Err(self.gp0()) }
    }

    /// Fails with #GP(0) if the current privilege does not let `size` ports from `port` be used (Intel SDM vol. 1, 19.5).
    pub(crate) fn check_port(&mut self, port: u16, size: u32) -> Result<(), Trap> {
        if self.breakpoints_enabled() {
            self.watch_port(port, size);
        }
        if self.cr0 & CR0_PE == 0 || !self.virtual_8086() && self.cpl <= self.iopl() {
            return Ok(());
        }
        const MAP_BASE: u64 = 102;
        let (base, limit) = (self.tr.base, u64::from(self.tr.limit));
        if self.tr.unusable
            || !matches!(self.tr.kind(), kind::TSS32 | kind::TSS32_BUSY)
            || limit < MAP_BASE + 1
        {
            return Err(self.gp0());
        }
        let map: u16 = self.load_system(self.system_address(base.wrapping_add(MAP_BASE)))?;
        let at = u64::from(map) + u64::from(port / 8);
        if at + 1 > limit {
            return Err(self.gp0());
        }
        let bits: u16 = self.load_system(self.system_address(base.wrapping_add(at)))?;
        if bits >> (port % 8) & ((1 << size) - 1) != 0 {
            return Err(self.gp0());
        }
        Ok(())
    }

    /// The I/O privilege level.
    #[inline]
    pub(crate) fn iopl(&self) -> u8 {
        (self.rflags_rest >> 12 & 3) as u8
    }
}

/// Any segment of virtual-8086 mode.
pub(crate) const fn virtual_8086_segment(selector: u16) -> Segment {
    Segment {
        selector,
        base: (selector as u64) << 4,
        limit: 0xffff,
        rights: DATA_RIGHTS | 3 << 5,
        unusable: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_taken_apart_as_the_manual_draws_it() {
        let d = Descriptor(0x12cf_9a34_5678_9abc);
        assert_eq!(d.base(), 0x1234_5678);
        assert_eq!(d.limit(), 0xf9ab_cfff);
        assert!(d.is_code() && d.is_readable() && d.is_present() && d.is_big() && !d.is_conforming());
        assert_eq!(d.segment(8).rights, 0xc09a);
        let data = Descriptor(0x0040_f200_0000_ffff);
        assert!(data.is_writable_data() && data.dpl() == 3 && !data.is_code());
        assert_eq!(data.limit(), 0xffff);
    }

    #[test]
    fn a_gate_is_taken_apart_as_the_manual_draws_it() {
        let gate = Descriptor(0x1234_ee05_0008_5678);
        assert_eq!((gate.gate_offset(), gate.gate_selector()), (0x1234_5678, 8));
        assert_eq!((gate.kind(), gate.dpl(), gate.gate_parameters()), (0xe, 3, 5));
        assert!(gate.is_present() && !gate.is_ordinary());
    }
}
