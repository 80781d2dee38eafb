//! Hardware task switches, outside long mode (Intel SDM vol. 3, 8.3).

use crate::cpu::Cpu;
use crate::fault::{Fault, Pending, Trap, vector};
use crate::flags::rflags;
use crate::interrupt::Event;
use crate::op::seg;
use crate::paging::CR0_PG;
use crate::segment::{Descriptor, is_null, kind, null_segment, selector_error, virtual_8086_segment};
use crate::stack::{Stack, Width};
use crate::state::Segment;

/// CR0.TS.
const CR0_TS: u64 = 1 << 3;
/// DR6.BT: the exception comes from a switch to a task whose TSS has T set.
const DR6_BT: u64 = 1 << 15;

/// What switches tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Switch {
    /// JMP: the old task is left for good.
    Jump,
    /// CALL, an exception or an interrupt: the new task links back to the old one.
    Call,
    /// IRET with NT set.
    Return,
}

/// Where a TSS of 16 or 32 bits has its fields.
struct Layout {
    size: u32,
    width: Width,
    ip: u64,
    flags: u64,
    registers: u64,
    segments: u64,
    segment_count: u64,
    ldt: u64,
}

/// Offset of CR3 and of the T flag in a 32-bit TSS.
const CR3: u64 = 0x1c;
const TRAP: u64 = 0x64;

const TSS16: Layout = Layout {
    size: 0x2c,
    width: Width::Word,
    ip: 0x0e,
    flags: 0x10,
    registers: 0x12,
    segments: 0x22,
    segment_count: 4,
    ldt: 0x2a,
};

const TSS32: Layout = Layout {
    size: 0x68,
    width: Width::Double,
    ip: 0x20,
    flags: 0x24,
    registers: 0x28,
    segments: 0x48,
    segment_count: 6,
    ldt: 0x60,
};

impl Layout {
    fn of(kind: u8) -> &'static Self {
        if kind & 8 != 0 { &TSS32 } else { &TSS16 }
    }
}

/// The registers in a TSS.
struct Image {
    ip: u64,
    flags: u64,
    registers: [u64; 8],
    segments: [u16; 6],
    ldt: u16,
    cr3: Option<u64>,
    trap: bool,
}

impl Cpu {
    fn tss_load(&mut self, la: u64, width: Width) -> Result<u64, Trap> {
        let la = self.system_address(la);
        match width {
            Width::Word => self.load_system::<u16>(la).map(u64::from),
            _ => self.load_system::<u32>(la).map(u64::from),
        }
    }

    fn tss_store(&mut self, la: u64, width: Width, value: u64) -> Result<(), Trap> {
        let la = self.system_address(la);
        match width {
            Width::Word => self.store_system(la, value as u16),
            _ => self.store_system(la, value as u32),
        }
    }

    /// Checks the TSS that `selector` names.
    fn target_task(&mut self, selector: u16, switch: Switch) -> Result<(Descriptor, Segment), Trap> {
        let wrong = if switch == Switch::Return { vector::TS } else { vector::GP };
        if is_null(selector) || selector & 4 != 0 {
            return Err(self.selector_fault(wrong, selector));
        }
        let d = self.read_descriptor(selector, wrong)?;
        let busy = d.kind() & kind::BUSY != 0;
        let is_tss = !d.is_ordinary() && matches!(d.kind() & !kind::BUSY, kind::TSS16 | kind::TSS32);
        if !is_tss || busy != (switch == Switch::Return) {
            return Err(self.selector_fault(wrong, selector));
        }
        if !d.is_present() {
            return Err(self.selector_fault(vector::NP, selector));
        }
        if d.limit() < Layout::of(d.kind()).size - 1 {
            return Err(self.selector_fault(vector::TS, selector));
        }
        Ok((d, d.segment(selector)))
    }

    fn read_task(&mut self, base: u64, layout: &Layout) -> Result<Image, Trap> {
        let step = layout.width as u64;
        let mut registers = [0; 8];
        for (i, r) in registers.iter_mut().enumerate() {
            *r = self.tss_load(base + layout.registers + i as u64 * step, layout.width)?;
        }
        let mut segments = [0; 6];
        for i in 0..layout.segment_count {
            segments[i as usize] = self.tss_load(base + layout.segments + i * step, Width::Word)? as u16;
        }
        let wide = layout.width == Width::Double;
        Ok(Image {
            ip: self.tss_load(base + layout.ip, layout.width)?,
            flags: self.tss_load(base + layout.flags, layout.width)?,
            registers,
            segments,
            ldt: self.tss_load(base + layout.ldt, Width::Word)? as u16,
            cr3: if wide { Some(self.tss_load(base + CR3, Width::Double)?) } else { None },
            trap: wide && self.tss_load(base + TRAP, Width::Word)? & 1 != 0,
        })
    }

    /// Saves the running task, which will go on at `rip`.
    fn write_task(&mut self, layout: &Layout, rip: u64, flags: u64) -> Result<(), Trap> {
        let (base, step) = (self.tr.base, layout.width as u64);
        self.tss_store(base + layout.ip, layout.width, rip)?;
        self.tss_store(base + layout.flags, layout.width, flags)?;
        for i in 0..8 {
            self.tss_store(base + layout.registers + i * step, layout.width, self.reg(i as usize))?;
        }
        for i in 0..layout.segment_count {
            let selector = self.segs[i as usize].selector;
            self.tss_store(base + layout.segments + i * step, Width::Word, u64::from(selector))?;
        }
        Ok(())
    }

    /// Switches to the task `selector`; the running one will go on at `rip`. Fails before anything changed; a fault that
    /// arises in the new task's context is given back, with RIP in the new task.
    pub(crate) fn switch_task(
        &mut self,
        selector: u16,
        switch: Switch,
        rip: u64,
    ) -> Result<Option<Fault>, Trap> {
        let (descriptor, mut tss) = self.target_task(selector, switch)?;
        let (old, new) = (Layout::of(self.tr.kind()), Layout::of(descriptor.kind()));
        if self.tr.unusable || self.tr.limit < old.size - 1 {
            return Err(self.selector_fault(vector::TS, self.tr.selector));
        }
        let image = self.read_task(tss.base, new)?;
        let mut flags = self.rflags();
        if switch == Switch::Return {
            flags &= !rflags::NT;
        }
        self.write_task(old, rip, flags)?;
        if switch == Switch::Call {
            self.tss_store(tss.base, Width::Word, u64::from(self.tr.selector))?;
        }
        if switch != Switch::Call {
            self.mark_available(self.tr.selector)?;
        }
        if switch != Switch::Return {
            self.mark_busy(selector)?;
        }
        tss.rights |= u16::from(kind::BUSY);
        self.tr = tss;
        let link = if switch == Switch::Call { rflags::NT } else { 0 };
        self.enter_task(&image, link);
        let loaded = self.load_task_segments(&image);
        self.mode_changed();
        if loaded.is_err()
            && let Pending::Fault(fault) = std::mem::replace(&mut self.pending, Pending::None)
        {
            return Ok(Some(fault));
        }
        Ok(image.trap.then(|| Fault { info: DR6_BT, ..Fault::plain(vector::DB) }))
    }

    /// Loads what cannot fault: general registers, flags, CR3, and the selectors without their descriptors.
    fn enter_task(&mut self, image: &Image, link: u64) {
        self.cr0 |= CR0_TS;
        self.dr[7] &= !0x155;
        if let Some(cr3) = image.cr3
            && self.cr0 & CR0_PG != 0
            && cr3 != self.cr3
        {
            self.cr3 = cr3;
            self.flush_tlb(false);
        }
        self.slots[..8].copy_from_slice(&image.registers);
        self.set_rip(image.ip);
        self.set_rflags(image.flags | link);
        self.shadow = false;
        for (i, &selector) in image.segments.iter().enumerate() {
            self.segs[i] = null_segment(selector, 0);
        }
        self.ldtr = null_segment(image.ldt, 0);
        self.cpl = if self.virtual_8086() { 3 } else { image.segments[usize::from(seg::CS)] as u8 & 3 };
        self.mode_changed();
    }

    fn load_task_segments(&mut self, image: &Image) -> Result<(), Trap> {
        if !is_null(image.ldt) {
            self.load_task_ldt(image.ldt)?;
        }
        if self.virtual_8086() {
            self.segs = image.segments.map(virtual_8086_segment);
            self.mode_changed();
            return self.check_code_limit(image.ip);
        }
        let cs = image.segments[usize::from(seg::CS)];
        if is_null(cs) {
            return Err(self.raise(Fault::coded(vector::TS, 0)));
        }
        let d = self.read_descriptor(cs, vector::TS)?;
        let level_fits = if d.is_conforming() { d.dpl() <= self.cpl } else { d.dpl() == self.cpl };
        if !d.is_code() || !level_fits {
            return Err(self.selector_fault(vector::TS, cs));
        }
        if !d.is_present() {
            return Err(self.selector_fault(vector::NP, cs));
        }
        let ss = self.stack_segment(image.segments[usize::from(seg::SS)], self.cpl, vector::TS)?;
        self.segs[usize::from(seg::SS)] = ss;
        self.segs[usize::from(seg::CS)] = self.accessed(cs, d)?;
        for s in [seg::ES, seg::DS, seg::FS, seg::GS] {
            self.segs[usize::from(s)] = self.data_segment(image.segments[usize::from(s)], vector::TS)?;
        }
        self.mode_changed();
        self.check_code_limit(image.ip)
    }

    fn load_task_ldt(&mut self, selector: u16) -> Result<(), Trap> {
        if selector & 4 != 0 {
            return Err(self.selector_fault(vector::TS, selector));
        }
        let d = self.read_descriptor(selector, vector::TS)?;
        if d.is_ordinary() || d.kind() != kind::LDT || !d.is_present() {
            return Err(self.raise(Fault::coded(vector::TS, selector_error(selector))));
        }
        self.ldtr = d.segment(selector);
        Ok(())
    }

    /// An event goes through a task gate.
    pub(crate) fn switch_to_handler_task(&mut self, selector: u16, event: &Event) -> Result<(), Trap> {
        let width = match self.read_descriptor(selector, vector::GP)?.kind() & 8 {
            0 => Width::Word,
            _ => Width::Double,
        };
        if let Some(fault) = self.switch_task(selector, Switch::Call, event.rip)? {
            return Err(self.raise(fault));
        }
        if let Some(error) = event.error {
            let mut stack = Stack::current(self);
            stack.push(self, width, u64::from(error))?;
            stack.commit(self);
        }
        Ok(())
    }
}
