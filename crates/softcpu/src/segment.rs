//! Segmentation: descriptors, loading segment registers, and what else the descriptor tables guard.

use crate::cpu::{Cpu, Mode};
use crate::fault::{Fault, Trap, vector};
use crate::flags::rflags;
use crate::op::seg;
use crate::paging::EFER_LMA;
use crate::state::Segment;

/// The accessed bit of a code or data descriptor, in the whole eight bytes.
const ACCESSED: u64 = 1 << 40;

/// Takes a descriptor apart (Intel SDM vol. 3, figure 3-8).
pub(crate) fn parse(selector: u16, raw: u64) -> Segment {
    let rights = (raw >> 40 & 0xf0ff) as u16;
    let limit = (raw & 0xffff | raw >> 32 & 0xf_0000) as u32;
    let base = raw >> 16 & 0xff_ffff | raw >> 32 & 0xff00_0000;
    let limit = if rights & 1 << 15 != 0 { limit << 12 | 0xfff } else { limit };
    Segment { selector, base, limit, rights, unusable: false }
}

impl Segment {
    pub(crate) const fn present(&self) -> bool {
        self.rights & 1 << 7 != 0
    }
    /// A code or data segment, not a system one.
    pub(crate) const fn ordinary(&self) -> bool {
        self.rights & 1 << 4 != 0
    }
    pub(crate) const fn code(&self) -> bool {
        self.rights & 0x18 == 0x18
    }
    pub(crate) const fn conforming(&self) -> bool {
        self.rights & 0x1c == 0x1c
    }
    pub(crate) const fn writable_data(&self) -> bool {
        self.rights & 0x1a == 0x12
    }
    pub(crate) const fn readable(&self) -> bool {
        !self.code() || self.rights & 2 != 0
    }
    /// A null selector's register.
    pub(crate) const fn null(selector: u16) -> Self {
        Self { selector, base: 0, limit: 0, rights: 0, unusable: true }
    }
}

/// The selector's part of an error code.
pub(crate) const fn error_of(selector: u16) -> u32 {
    selector as u32 & 0xfffc
}

impl Cpu {
    /// Whether long mode is active (64-bit or compatibility).
    pub(crate) fn long_active(&self) -> bool {
        self.efer & EFER_LMA != 0
    }

    /// Whether selectors mean what they do in real or virtual-8086 mode.
    pub(crate) fn real_segments(&self) -> bool {
        self.mode.contains(Mode::REAL)
    }

    pub(crate) fn virtual_8086(&self) -> bool {
        self.rflags_rest & rflags::VM != 0
    }

    pub(crate) fn iopl(&self) -> u8 {
        (self.rflags_rest >> 12 & 3) as u8
    }

    /// #`vector`(selector).
    pub(crate) fn selector_fault(&mut self, vector: u8, selector: u16) -> Trap {
        self.raise(Fault::coded(vector, error_of(selector)))
    }

    /// Linear address of the descriptor `selector` names.
    fn descriptor_address(&mut self, selector: u16, bytes: u64) -> Result<u64, Trap> {
        let (base, limit) = if selector & 4 != 0 {
            if self.ldtr.unusable {
                return Err(self.selector_fault(vector::GP, selector));
            }
            (self.ldtr.base, u64::from(self.ldtr.limit))
        } else {
            (self.gdtr.base, u64::from(self.gdtr.limit))
        };
        let offset = u64::from(selector & !7);
        if offset + bytes - 1 > limit {
            return Err(self.selector_fault(vector::GP, selector));
        }
        Ok(base.wrapping_add(offset))
    }

    /// The descriptor `selector` names, as it is in memory.
    pub(crate) fn read_descriptor(&mut self, selector: u16) -> Result<u64, Trap> {
        let la = self.descriptor_address(selector, 8)?;
        self.load_system::<u64>(la)
    }

    /// The upper half of a 16-byte system descriptor in long mode; zero elsewhere.
    pub(crate) fn read_upper_half(&mut self, selector: u16) -> Result<u64, Trap> {
        if !self.long_active() {
            return Ok(0);
        }
        let la = self.descriptor_address(selector, 16)?;
        self.load_system::<u64>(la.wrapping_add(8))
    }

    /// Sets the accessed bit of the descriptor `selector` names, if it is not.
    pub(crate) fn mark_accessed(&mut self, selector: u16, raw: u64) -> Result<(), Trap> {
        if raw & ACCESSED == 0 {
            let la = self.descriptor_address(selector, 8)?;
            self.store_system::<u64>(la, raw | ACCESSED)?;
        }
        Ok(())
    }

    /// Marks the TSS `selector` names busy.
    pub(crate) fn mark_busy(&mut self, selector: u16, raw: u64) -> Result<(), Trap> {
        let la = self.descriptor_address(selector, 8)?;
        self.store_system::<u64>(la, raw | 1 << 41)
    }

    /// Loads segment register `register` (not CS) as MOV and POP do.
    pub(crate) fn load_segment(&mut self, register: u8, selector: u16) -> Result<(), Trap> {
        let loaded = if self.real_segments() {
            self.real_segment(register, selector)
        } else {
            self.check_segment(register, selector, self.cpl)?
        };
        self.segs[usize::from(register)] = loaded;
        self.mode_changed();
        Ok(())
    }

    /// What loading `selector` in real or virtual-8086 mode makes of a segment register.
    pub(crate) fn real_segment(&self, register: u8, selector: u16) -> Segment {
        let base = u64::from(selector) << 4;
        if self.virtual_8086() {
            return Segment { selector, base, limit: 0xffff, rights: 0xf3, unusable: false };
        }
        let old = self.segs[usize::from(register)];
        // Real mode keeps limit and size ("unreal mode"), but a load makes the segment usable and writable.
        let (limit, rights) =
            if old.unusable { (0xffff, 0x93) } else { (old.limit, old.rights & 0xff00 | 0x93) };
        Segment { selector, base, limit, rights, unusable: false }
    }

    /// The checks of a data or stack segment load at privilege `cpl`; marks the descriptor accessed.
    pub(crate) fn check_segment(&mut self, register: u8, selector: u16, cpl: u8) -> Result<Segment, Trap> {
        let rpl = (selector & 3) as u8;
        if selector & !3 == 0 {
            if register == seg::SS && (!self.long_mode() || cpl == 3 || rpl != cpl) {
                return Err(self.gp0());
            }
            let mut null = Segment::null(selector);
            null.rights |= u16::from(cpl) << 5;
            return Ok(null);
        }
        let raw = self.read_descriptor(selector)?;
        let s = parse(selector, raw);
        let allowed = if register == seg::SS {
            s.writable_data() && rpl == cpl && s.dpl() == cpl
        } else {
            s.ordinary() && s.readable() && (s.conforming() || rpl.max(cpl) <= s.dpl())
        };
        if !allowed {
            return Err(self.selector_fault(vector::GP, selector));
        }
        if !s.present() {
            let v = if register == seg::SS { vector::SS } else { vector::NP };
            return Err(self.selector_fault(v, selector));
        }
        self.mark_accessed(selector, raw)?;
        Ok(Segment { rights: s.rights | 1, ..s })
    }

    /// LLDT.
    pub(crate) fn load_ldtr(&mut self, selector: u16) -> Result<(), Trap> {
        if selector & !3 == 0 {
            self.ldtr = Segment::null(selector);
            return Ok(());
        }
        if selector & 4 != 0 {
            return Err(self.selector_fault(vector::GP, selector));
        }
        let raw = self.read_descriptor(selector)?;
        let mut s = parse(selector, raw);
        if s.ordinary() || s.kind() != 2 {
            return Err(self.selector_fault(vector::GP, selector));
        }
        if !s.present() {
            return Err(self.selector_fault(vector::NP, selector));
        }
        s.base |= self.read_upper_half(selector)? << 32;
        self.ldtr = s;
        Ok(())
    }

    /// LTR.
    pub(crate) fn load_tr(&mut self, selector: u16) -> Result<(), Trap> {
        if selector & !3 == 0 {
            return Err(self.gp0());
        }
        if selector & 4 != 0 {
            return Err(self.selector_fault(vector::GP, selector));
        }
        let raw = self.read_descriptor(selector)?;
        let mut s = parse(selector, raw);
        let available = s.kind() == 9 || s.kind() == 1 && !self.long_active();
        if s.ordinary() || !available {
            return Err(self.selector_fault(vector::GP, selector));
        }
        if !s.present() {
            return Err(self.selector_fault(vector::NP, selector));
        }
        s.base |= self.read_upper_half(selector)? << 32;
        self.mark_busy(selector, raw)?;
        s.rights |= 2;
        self.tr = s;
        Ok(())
    }

    /// Checks a branch target against the code segment's limit; outside 64-bit mode only.
    pub(crate) fn check_code_limit(&mut self, rip: u64) -> Result<(), Trap> {
        let beyond = if self.long_mode() {
            !crate::mmu::canonical(rip)
        } else {
            rip > u64::from(self.segs[usize::from(seg::CS)].limit)
        };
        if beyond { Err(self.gp0()) } else { Ok(()) }
    }

    /// Whether `size` ports from `port` may be accessed: by privilege, or by the TSS's I/O permission map.
    pub(crate) fn check_port(&mut self, port: u16, size: u32) -> Result<(), Trap> {
        let privileged =
            self.cr0 & crate::paging::CR0_PE == 0 || !self.virtual_8086() && self.cpl <= self.iopl();
        if privileged {
            return Ok(());
        }
        let tss32 = !self.tr.unusable && matches!(self.tr.kind(), 9 | 11);
        if !tss32 || self.tr.limit < 103 {
            return Err(self.gp0());
        }
        let map = u64::from(self.load_system::<u16>(self.tr.base.wrapping_add(102))?);
        let byte = map + u64::from(port / 8);
        if byte + 1 > u64::from(self.tr.limit) {
            return Err(self.gp0());
        }
        let bits = self.load_system::<u16>(self.tr.base.wrapping_add(byte))?;
        let wanted = ((1u32 << size) - 1) << (port % 8);
        if u32::from(bits) & wanted != 0 { Err(self.gp0()) } else { Ok(()) }
    }
}
