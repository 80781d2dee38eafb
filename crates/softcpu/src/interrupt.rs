//! Exceptions and interrupts: from a vector to its handler (Intel SDM vol. 3, chapter 6).

use crate::cpu::{Cpu, Exit};
use crate::fault::{Fault, Pending, Trap, vector};
use crate::flags::rflags;
use crate::op::seg;
use crate::segment::{error_of, parse};
use crate::state::Segment;

/// What brings a vector in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The processor itself or the local APIC.
    External,
    /// INT n, INT3, INTO: the gate's privilege is checked.
    Software,
}

/// A new stack in the making.
struct Stack {
    segment: Segment,
    pointer: u64,
    /// Width of a slot in bytes.
    width: u64,
    /// The pointer's width: 16 or 32 bits wrap.
    mask: u64,
    cpl: u8,
}

fn contributory(v: u8) -> bool {
    matches!(v, vector::DE | vector::TS | vector::NP | vector::SS | vector::GP)
}

impl Cpu {
    /// Delivers an exception with RIP at the faulting instruction; exceptions on the way become double and triple faults.
    pub(crate) fn deliver_fault(&mut self, fault: Fault) {
        let mut current = fault;
        loop {
            match current.vector {
                vector::PF => self.cr2 = current.info,
                vector::DB => {
                    self.dr[6] |= current.info;
                    self.dr[7] &= !(1 << 13);
                }
                _ => {}
            }
            let error = if self.cr0 & crate::paging::CR0_PE == 0 { None } else { current.error };
            let resume = !matches!(current.vector, vector::DB | vector::DF | vector::NMI);
            if self.enter_vector(current.vector, Source::External, error, resume).is_ok() {
                return;
            }
            let Pending::Fault(second) = std::mem::replace(&mut self.pending, Pending::None) else { return };
            if current.vector == vector::DF {
                self.exit = Some(Exit::Shutdown);
                return;
            }
            let double = contributory(current.vector) && contributory(second.vector)
                || current.vector == vector::PF
                    && (second.vector == vector::PF || contributory(second.vector));
            current = if double { Fault::coded(vector::DF, 0) } else { second };
        }
    }

    /// Delivers an interrupt from the local APIC.
    pub(crate) fn deliver_interrupt(&mut self, vector: u8) {
        self.deliver_event(vector);
    }

    /// Delivers an NMI; further ones wait for IRET.
    pub(crate) fn deliver_nmi(&mut self) {
        self.nmi_blocked = true;
        self.deliver_event(vector::NMI);
    }

    fn deliver_event(&mut self, v: u8) {
        if self.enter_vector(v, Source::External, None, false).is_err()
            && let Pending::Fault(fault) = std::mem::replace(&mut self.pending, Pending::None)
        {
            self.deliver_fault(fault);
        }
    }

    /// INT n, INT3, INTO: enters `v` with the address of the next instruction, or says what it faults with. RIP is the
    /// current block's on entry; gives the handler's.
    pub(crate) fn software_interrupt(&mut self, v: u8, return_to: u64) -> Result<u64, Trap> {
        let block_rip = self.block_rip();
        self.set_rip(return_to);
        match self.enter_vector(v, Source::Software, None, false) {
            Ok(()) => Ok(self.block_rip()),
            Err(Trap) => {
                self.set_rip(block_rip);
                // A software interrupt is no external event.
                if let Pending::Fault(f) = &mut self.pending
                    && f.vector != vector::PF
                {
                    f.error = f.error.map(|e| e & !1);
                }
                Err(Trap)
            }
        }
    }

    /// Enters the handler of `v` with RIP as the return address. On `Err` only memory below the stack has changed.
    fn enter_vector(&mut self, v: u8, source: Source, error: Option<u32>, resume: bool) -> Result<(), Trap> {
        if self.cr0 & crate::paging::CR0_PE == 0 {
            return self.enter_real(v);
        }
        let wide = self.long_active();
        let bytes = if wide { 16 } else { 8 };
        let name = u32::from(v) * 8 + 2 + u32::from(source == Source::External);
        let at = u64::from(v) * bytes;
        if at + bytes - 1 > u64::from(self.idtr.limit) {
            return Err(self.raise(Fault::gp(name)));
        }
        let low = self.load_system::<u64>(self.idtr.base.wrapping_add(at))?;
        let high = if wide { self.load_system::<u64>(self.idtr.base.wrapping_add(at + 8))? } else { 0 };
        let kind = (low >> 40 & 0x1f) as u8;
        let known = matches!(kind, 14 | 15) || !wide && matches!(kind, 6 | 7);
        if !known || source == Source::Software && self.cpl > (low >> 45 & 3) as u8 {
            return Err(self.raise(Fault::gp(name)));
        }
        if low >> 47 & 1 == 0 {
            return Err(self.raise(Fault::coded(vector::NP, name)));
        }
        let gate = Gate {
            selector: (low >> 16) as u16,
            offset: low & 0xffff | low >> 32 & 0xffff_0000 | high << 32,
            wide: kind >= 14,
            keeps_interrupts: kind & 1 != 0,
            ist: if wide { (low >> 32 & 7) as u8 } else { 0 },
            external: u32::from(source == Source::External),
        };
        self.enter_gate(&gate, error, resume)
    }

    /// Real mode: the interrupt vector table.
    fn enter_real(&mut self, v: u8) -> Result<(), Trap> {
        let at = u64::from(v) * 4;
        if at + 3 > u64::from(self.idtr.limit) {
            return Err(self.gp0());
        }
        let entry = self.load_system::<u32>(self.idtr.base.wrapping_add(at))?;
        let ss = self.segs[usize::from(seg::SS)];
        let mut sp = self.reg(4);
        let (flags, cs, ip) = (self.rflags(), self.segs[usize::from(seg::CS)].selector, self.block_rip());
        for value in [flags as u16, cs, ip as u16] {
            sp = sp & !0xffff | sp.wrapping_sub(2) & 0xffff;
            self.store::<u16>(ss.base.wrapping_add(sp & 0xffff), value)?;
        }
        self.slots[4] = sp;
        self.segs[usize::from(seg::CS)] = self.real_segment(seg::CS, (entry >> 16) as u16);
        self.rflags_rest &= !(rflags::IF | rflags::TF | rflags::AC | rflags::RF);
        self.mode_changed();
        self.set_rip(u64::from(entry as u16));
        Ok(())
    }

    fn enter_gate(&mut self, gate: &Gate, error: Option<u32>, resume: bool) -> Result<(), Trap> {
        if gate.selector & !3 == 0 {
            return Err(self.raise(Fault::gp(gate.external)));
        }
        let named = error_of(gate.selector) | gate.external;
        let raw = self
            .read_descriptor(gate.selector)
            .inspect_err(|_| self.pending = outside(self.pending, gate))?;
        let code = parse(gate.selector, raw);
        let wide = self.long_active();
        let bits_wrong = wide && (!code.long() || code.big());
        if !code.code() || code.dpl() > self.cpl || bits_wrong {
            return Err(self.raise(Fault::gp(named)));
        }
        if !code.present() {
            return Err(self.raise(Fault::coded(vector::NP, named)));
        }
        let cpl = if code.conforming() { self.cpl } else { code.dpl() };
        if self.virtual_8086() && cpl != 0 {
            return Err(self.raise(Fault::gp(named)));
        }
        let switch = cpl != self.cpl || wide && gate.ist != 0;
        let mut stack = if wide {
            self.wide_stack(gate, cpl)?
        } else if switch {
            self.task_stack(gate, cpl)?
        } else {
            self.same_stack(gate)
        };
        self.push_frame(&mut stack, gate, cpl, error, resume)?;
        self.mark_accessed(gate.selector, raw)?;

        if self.virtual_8086() {
            for register in [seg::ES, seg::DS, seg::FS, seg::GS] {
                self.segs[usize::from(register)] = Segment::null(0);
            }
        }
        self.segs[usize::from(seg::SS)] = stack.segment;
        let rsp = self.slots[4];
        self.slots[4] = rsp & !stack.mask | stack.pointer & stack.mask;
        if wide {
            self.slots[4] = stack.pointer;
        }
        self.segs[usize::from(seg::CS)] =
            Segment { selector: gate.selector & !3 | u16::from(cpl), rights: code.rights | 1, ..code };
        self.cpl = cpl;
        let clear = rflags::TF | rflags::NT | rflags::VM | rflags::RF;
        self.rflags_rest &= !(clear | if gate.keeps_interrupts { 0 } else { rflags::IF });
        self.mode_changed();
        self.set_rip(if gate.wide { gate.offset } else { gate.offset & 0xffff });
        Ok(())
    }

    /// The stack of a 64-bit handler: from the interrupt stack table, the TSS's privilege stacks, or the current one.
    fn wide_stack(&mut self, gate: &Gate, cpl: u8) -> Result<Stack, Trap> {
        let slot = match (gate.ist, cpl != self.cpl) {
            (0, false) => None,
            (0, true) => Some(4 + 8 * u64::from(cpl)),
            (ist, _) => Some(36 + 8 * (u64::from(ist) - 1)),
        };
        let pointer = match slot {
            None => self.reg(4),
            Some(at) => {
                if at + 7 > u64::from(self.tr.limit) {
                    return Err(
                        self.raise(Fault::coded(vector::TS, error_of(self.tr.selector) | gate.external))
                    );
                }
                self.load_system::<u64>(self.tr.base.wrapping_add(at))?
            }
        };
        if !crate::mmu::canonical(pointer) {
            return Err(self.raise(Fault::coded(vector::SS, gate.external)));
        }
        let segment = if cpl != self.cpl {
            let mut null = Segment::null(u16::from(cpl));
            null.rights = u16::from(cpl) << 5;
            null
        } else {
            self.segs[usize::from(seg::SS)]
        };
        Ok(Stack { segment, pointer: pointer & !15, width: 8, mask: u64::MAX, cpl })
    }

    /// The stack of a more privileged handler, from a 32- or 16-bit TSS.
    fn task_stack(&mut self, gate: &Gate, cpl: u8) -> Result<Stack, Trap> {
        let (selector, pointer) = self.privilege_stack(cpl, gate.external)?;
        let named = error_of(selector) | gate.external;
        if selector & !3 == 0 {
            return Err(self.raise(Fault::coded(vector::TS, gate.external)));
        }
        let raw = self.read_descriptor(selector).map_err(|_| self.raise(Fault::coded(vector::TS, named)))?;
        let segment = parse(selector, raw);
        if (selector & 3) as u8 != cpl || segment.dpl() != cpl || !segment.writable_data() {
            return Err(self.raise(Fault::coded(vector::TS, named)));
        }
        if !segment.present() {
            return Err(self.raise(Fault::coded(vector::SS, named)));
        }
        let mask = if segment.big() { 0xffff_ffff } else { 0xffff };
        Ok(Stack { segment, pointer, width: if gate.wide { 4 } else { 2 }, mask, cpl })
    }

    /// SS:ESP for privilege `cpl` from the TSS (outside long mode).
    pub(crate) fn privilege_stack(&mut self, cpl: u8, external: u32) -> Result<(u16, u64), Trap> {
        let wide = self.tr.kind() & 8 != 0;
        let at = u64::from(cpl) * if wide { 8 } else { 4 } + if wide { 4 } else { 2 };
        if self.tr.unusable || at + if wide { 5 } else { 3 } > u64::from(self.tr.limit) {
            return Err(self.raise(Fault::coded(vector::TS, error_of(self.tr.selector) | external)));
        }
        let at = self.tr.base.wrapping_add(at);
        Ok(if wide {
            (self.load_system::<u16>(at.wrapping_add(4))?, u64::from(self.load_system::<u32>(at)?))
        } else {
            (self.load_system::<u16>(at.wrapping_add(2))?, u64::from(self.load_system::<u16>(at)?))
        })
    }

    fn same_stack(&self, gate: &Gate) -> Stack {
        let segment = self.segs[usize::from(seg::SS)];
        let mask = if segment.big() { 0xffff_ffff } else { 0xffff };
        Stack { segment, pointer: self.reg(4), width: if gate.wide { 4 } else { 2 }, mask, cpl: self.cpl }
    }

    fn push_frame(
        &mut self,
        stack: &mut Stack,
        gate: &Gate,
        cpl: u8,
        error: Option<u32>,
        resume: bool,
    ) -> Result<(), Trap> {
        let (old_ss, old_sp) = (self.segs[usize::from(seg::SS)].selector, self.reg(4));
        if self.virtual_8086() {
            for register in [seg::GS, seg::FS, seg::DS, seg::ES] {
                let selector = self.segs[usize::from(register)].selector;
                self.push_on(stack, gate, u64::from(selector))?;
            }
        }
        if stack.width == 8 || cpl != self.cpl {
            self.push_on(stack, gate, u64::from(old_ss))?;
            self.push_on(stack, gate, old_sp)?;
        }
        let flags = self.rflags() | if resume { rflags::RF } else { 0 };
        self.push_on(stack, gate, flags)?;
        self.push_on(stack, gate, u64::from(self.segs[usize::from(seg::CS)].selector))?;
        self.push_on(stack, gate, self.block_rip())?;
        if let Some(error) = error {
            self.push_on(stack, gate, u64::from(error))?;
        }
        Ok(())
    }

    fn push_on(&mut self, stack: &mut Stack, gate: &Gate, value: u64) -> Result<(), Trap> {
        stack.pointer = stack.pointer.wrapping_sub(stack.width);
        let offset = stack.pointer & stack.mask;
        let mut la = offset;
        if stack.width != 8 {
            let s = &stack.segment;
            let last = offset + stack.width - 1;
            let down = s.rights & 0xc == 4;
            let inside = if down { offset > u64::from(s.limit) } else { last <= u64::from(s.limit) };
            if !inside {
                let named = if stack.cpl != self.cpl { error_of(s.selector) } else { 0 };
                return Err(self.raise(Fault::coded(vector::SS, named | gate.external)));
            }
            la = s.base.wrapping_add(offset) & 0xffff_ffff;
        } else if !crate::mmu::canonical(la) {
            return Err(self.raise(Fault::coded(vector::SS, gate.external)));
        }
        match (stack.width, stack.cpl) {
            (8, 3) => self.store::<u64>(la, value),
            (8, _) => self.store_system::<u64>(la, value),
            (4, 3) => self.store::<u32>(la, value as u32),
            (4, _) => self.store_system::<u32>(la, value as u32),
            (_, 3) => self.store::<u16>(la, value as u16),
            _ => self.store_system::<u16>(la, value as u16),
        }
    }
}

/// A fault while a gate is followed is an external event's if the gate was entered by one.
fn outside(pending: Pending, gate: &Gate) -> Pending {
    match pending {
        Pending::Fault(f) if f.vector != vector::PF => {
            Pending::Fault(Fault { error: f.error.map(|e| e | gate.external), ..f })
        }
        other => other,
    }
}

/// An interrupt or trap gate.
struct Gate {
    selector: u16,
    offset: u64,
    /// 32 or 64 bits, not 16.
    wide: bool,
    /// A trap gate: IF stays.
    keeps_interrupts: bool,
    ist: u8,
    /// The EXT bit of error codes.
    external: u32,
}
