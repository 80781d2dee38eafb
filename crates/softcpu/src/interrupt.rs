//! Exceptions and interrupts: from a vector to the first instruction of its handler (Intel SDM vol. 3, chapter 6).

use crate::cpu::{Cpu, Exit};
use crate::fault::{Fault, Pending, Trap, vector};
use crate::flags::rflags;
use crate::mmu::canonical;
use crate::op::seg;
use crate::paging::CR0_PE;
use crate::segment::{Descriptor, is_null, kind, null_segment, selector_error};
use crate::stack::{Stack, Width};
use crate::state::{Activity, Segment};

/// DR6 bits that never change.
const DR6_FIXED: u64 = 0xffff_0ff0;
/// DR7.GD, cleared on the way to the #DB handler.
const DR7_GD: u64 = 1 << 13;

/// Error code bits: the fault arose from an event outside the program; the selector is an index into the IDT.
const ERROR_EXTERNAL: u32 = 1 << 0;
const ERROR_IDT: u32 = 1 << 1;

/// Gate types in the IDT.
mod gate {
    pub const INTERRUPT16: u8 = 6;
    pub const TRAP16: u8 = 7;
    pub const INTERRUPT: u8 = 14;
    pub const TRAP: u8 = 15;
    /// Type bit: a trap gate, which leaves IF alone.
    pub const IS_TRAP: u8 = 1;
    /// Type bit: a gate of 32 (64) bits.
    pub const IS_WIDE: u8 = 8;
}

/// What asks for a handler.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub vector: u8,
    pub error: Option<u32>,
    /// INT n, INT3 or INTO: the gate's privilege level counts.
    pub software: bool,
    /// Where the handler returns to.
    pub rip: u64,
    /// The image of RFLAGS has RF set: the instruction at `rip` has faulted and will be tried again.
    pub resume: bool,
}

impl Event {
    /// The error code for a fault in this event's own gate.
    fn gate_error(&self) -> u32 {
        u32::from(self.vector) << 3 | ERROR_IDT
    }
}

/// How two exceptions combine (Intel SDM vol. 3, tables 6-4 and 6-5).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

fn class(vector: u8) -> Class {
    match vector {
        vector::DE | vector::TS | vector::NP | vector::SS | vector::GP => Class::Contributory,
        vector::PF => Class::PageFault,
        vector::DF => Class::DoubleFault,
        _ => Class::Benign,
    }
}

/// What `second`, raised while `first` was being delivered, makes of both; `None` is shutdown.
fn combine(first: u8, second: Fault) -> Option<Fault> {
    match (class(first), class(second.vector)) {
        (Class::DoubleFault, Class::Contributory | Class::PageFault) => None,
        (Class::Contributory, Class::Contributory)
        | (Class::PageFault, Class::Contributory | Class::PageFault) => Some(Fault::coded(vector::DF, 0)),
        _ => Some(second),
    }
}

/// Whether an exception is a fault, after which its instruction runs again with RF set.
fn resumes(vector: u8) -> bool {
    !matches!(vector, vector::DB | vector::NMI | vector::BP | vector::OF | vector::DF | vector::MC)
}

impl Cpu {
    /// Delivers an exception. RIP is where its handler is to return to.
    pub(crate) fn deliver_fault(&mut self, fault: Fault) {
        self.block = std::ptr::null();
        self.activity = Activity::Running;
        let mut fault = fault;
        loop {
            self.note(&fault);
            let event = Event {
                vector: fault.vector,
                error: fault.error,
                software: false,
                rip: self.block_rip(),
                resume: resumes(fault.vector),
            };
            if self.deliver(&event).is_ok() {
                return;
            }
            let Some(second) = self.take_fault() else { return };
            match combine(fault.vector, second) {
                Some(next) => {
                    if next.vector == vector::DF {
                        self.note(&second);
                    }
                    fault = next;
                }
                None => {
                    tracing::debug!(cpu = self.index, rip = self.block_rip(), "triple fault");
                    self.exit = Some(Exit::Shutdown);
                    return;
                }
            }
        }
    }

    /// Delivers interrupt `vector`, which the APIC has accepted.
    pub(crate) fn deliver_interrupt(&mut self, vector: u8) {
        self.deliver_outside(vector);
    }

    /// Delivers an NMI; further ones wait for IRET.
    pub(crate) fn deliver_nmi(&mut self) {
        self.nmi_blocked = true;
        self.deliver_outside(vector::NMI);
    }

    fn deliver_outside(&mut self, vector: u8) {
        self.block = std::ptr::null();
        let rip = self.block_rip();
        let event = Event { vector, error: None, software: false, rip, resume: false };
        if self.deliver(&event).is_err()
            && let Some(fault) = self.take_fault()
        {
            self.deliver_fault(fault);
        }
    }

    /// INT n, INT3, INTO (`software`) and INT1: calls the handler that returns to `rip`; gives the handler's address.
    pub(crate) fn software_interrupt(&mut self, vector: u8, software: bool, rip: u64) -> Result<u64, Trap> {
        self.single_step = false;
        self.deliver(&Event { vector, error: None, software, rip, resume: false })?;
        Ok(self.block_rip())
    }

    fn take_fault(&mut self) -> Option<Fault> {
        match std::mem::replace(&mut self.pending, Pending::None) {
            Pending::Fault(fault) => Some(fault),
            Pending::None | Pending::Alone | Pending::Again => None,
        }
    }

    /// What an exception leaves in CR2 and the debug registers.
    fn note(&mut self, fault: &Fault) {
        match fault.vector {
            vector::PF => self.cr2 = fault.info,
            vector::DB => {
                self.dr[6] |= DR6_FIXED | fault.info;
                self.dr[7] &= !DR7_GD;
            }
            _ => {}
        }
    }

    /// Calls an event's handler, or says what went wrong before anything changed.
    fn deliver(&mut self, event: &Event) -> Result<(), Trap> {
        let done = if self.cr0 & CR0_PE == 0 {
            self.deliver_real(event)
        } else if self.long_active() {
            self.with_long_addresses(|cpu| cpu.deliver_long(event))
        } else {
            self.deliver_protected(event)
        };
        if done.is_err()
            && !event.software
            && let Pending::Fault(fault) = &mut self.pending
            && matches!(fault.vector, vector::TS | vector::NP | vector::SS | vector::GP)
        {
            fault.error = fault.error.map(|e| e | ERROR_EXTERNAL);
        }
        done
    }

    /// Real mode: through the interrupt vector table.
    fn deliver_real(&mut self, event: &Event) -> Result<(), Trap> {
        let at = u64::from(event.vector) * 4;
        if at + 3 > u64::from(self.idtr.limit) {
            return Err(self.raise(Fault::gp(event.gate_error())));
        }
        let target: u32 = self.load_system(self.system_address(self.idtr.base.wrapping_add(at)))?;
        let (selector, ip) = ((target >> 16) as u16, u64::from(target & 0xffff));
        let code = self.real_segment(seg::CS, selector);
        if ip > u64::from(code.limit) {
            return Err(self.gp0());
        }
        let mut stack = Stack::current(self);
        stack.push(self, Width::Word, self.rflags())?;
        stack.push(self, Width::Word, u64::from(self.segs[usize::from(seg::CS)].selector))?;
        stack.push(self, Width::Word, event.rip)?;
        stack.commit(self);
        self.segs[usize::from(seg::CS)] = code;
        self.enter_handler(ip, rflags::IF | rflags::TF | rflags::AC | rflags::RF);
        Ok(())
    }

    /// Checks the code segment that a gate names.
    pub(crate) fn handler_code(&mut self, selector: u16) -> Result<Descriptor, Trap> {
        if is_null(selector) {
            return Err(self.gp0());
        }
        let d = self.read_descriptor(selector, vector::GP)?;
        if !d.is_code() || d.dpl() > self.cpl {
            return Err(self.selector_fault(vector::GP, selector));
        }
        if !d.is_present() {
            return Err(self.selector_fault(vector::NP, selector));
        }
        Ok(d)
    }

    /// The privilege level at which a gate's code runs.
    pub(crate) fn handler_level(&self, code: Descriptor) -> u8 {
        if code.is_conforming() { self.cpl } else { code.dpl() }
    }

    /// Checks an IDT entry's type, privilege and presence.
    fn check_gate(&mut self, event: &Event, gate: Descriptor, kinds: &[u8]) -> Result<(), Trap> {
        let error = event.gate_error();
        if gate.is_ordinary() || !kinds.contains(&gate.kind()) || event.software && gate.dpl() < self.cpl {
            return Err(self.raise(Fault::gp(error)));
        }
        if !gate.is_present() {
            return Err(self.raise(Fault::coded(vector::NP, error)));
        }
        Ok(())
    }

    /// Protected mode and virtual-8086 mode: 16- and 32-bit gates, task gates.
    fn deliver_protected(&mut self, event: &Event) -> Result<(), Trap> {
        let at = u64::from(event.vector) * 8;
        if at + 7 > u64::from(self.idtr.limit) {
            return Err(self.raise(Fault::gp(event.gate_error())));
        }
        let gate = Descriptor(self.load_system(self.system_address(self.idtr.base.wrapping_add(at)))?);
        const KINDS: [u8; 5] =
            [kind::TASK_GATE, gate::INTERRUPT16, gate::TRAP16, gate::INTERRUPT, gate::TRAP];
        self.check_gate(event, gate, &KINDS)?;
        if gate.kind() == kind::TASK_GATE {
            return self.switch_to_handler_task(gate.gate_selector(), event);
        }
        let selector = gate.gate_selector();
        let code = self.handler_code(selector)?;
        let cpl = self.handler_level(code);
        if self.virtual_8086() && cpl != 0 {
            return Err(self.selector_fault(vector::GP, selector));
        }
        let wide = gate.kind() & gate::IS_WIDE != 0;
        let (width, rip) = if wide {
            (Width::Double, gate.gate_offset())
        } else {
            (Width::Word, gate.gate_offset() & 0xffff)
        };
        if rip > u64::from(code.limit()) {
            return Err(self.gp0());
        }
        let inner = cpl < self.cpl;
        let (ss, mut stack) =
            if inner { self.inner_stack(cpl)? } else { (Segment::default(), Stack::current(self)) };
        if inner {
            self.push_outer(&mut stack, width)?;
        }
        self.push_frame(&mut stack, width, event)?;
        let code = self.accessed(selector & !3 | u16::from(cpl), code)?;
        if inner {
            self.segs[usize::from(seg::SS)] = ss;
            if self.virtual_8086() {
                for s in [seg::DS, seg::ES, seg::FS, seg::GS] {
                    self.segs[usize::from(s)] = null_segment(0, 0);
                }
            }
        }
        stack.commit(self);
        self.segs[usize::from(seg::CS)] = code;
        self.cpl = cpl;
        self.enter_handler(rip, cleared_by(gate.kind()));
        Ok(())
    }

    /// Pushes the stack pointer of the interrupted program, and its data segments where they are virtual-8086 ones.
    fn push_outer(&mut self, stack: &mut Stack, width: Width) -> Result<(), Trap> {
        if self.virtual_8086() {
            for s in [seg::GS, seg::FS, seg::DS, seg::ES] {
                stack.push(self, width, u64::from(self.segs[usize::from(s)].selector))?;
            }
        }
        stack.push(self, width, u64::from(self.segs[usize::from(seg::SS)].selector))?;
        stack.push(self, width, self.reg(4))
    }

    /// Pushes RFLAGS, CS, RIP and the error code.
    fn push_frame(&mut self, stack: &mut Stack, width: Width, event: &Event) -> Result<(), Trap> {
        let resume = if event.resume { rflags::RF } else { 0 };
        stack.push(self, width, self.rflags() | resume)?;
        stack.push(self, width, u64::from(self.segs[usize::from(seg::CS)].selector))?;
        stack.push(self, width, event.rip)?;
        match event.error {
            Some(error) => stack.push(self, width, u64::from(error)),
            None => Ok(()),
        }
    }

    /// The stack that the TSS has for privilege level `cpl`, outside long mode.
    pub(crate) fn inner_stack(&mut self, cpl: u8) -> Result<(Segment, Stack), Trap> {
        let level = u64::from(cpl);
        let (at, size) = match self.tr.kind() {
            kind::TSS32 | kind::TSS32_BUSY => (4 + level * 8, 8),
            _ => (2 + level * 4, 4),
        };
        if self.tr.unusable || at + size - 1 > u64::from(self.tr.limit) {
            return Err(self.selector_fault(vector::TS, self.tr.selector));
        }
        let la = self.system_address(self.tr.base.wrapping_add(at));
        let (sp, selector) = if size == 8 {
            let high = self.system_address(la.wrapping_add(4));
            (u64::from(self.load_system::<u32>(la)?), self.load_system::<u16>(high)?)
        } else {
            let high = self.system_address(la.wrapping_add(2));
            (u64::from(self.load_system::<u16>(la)?), self.load_system::<u16>(high)?)
        };
        let ss = self.stack_segment(selector, cpl, vector::TS)?;
        Ok((ss, Stack::new(ss, sp, true, selector_error(selector))))
    }

    /// A stack pointer from the 64-bit TSS: RSPn at 4, ISTn at 24h (Intel SDM vol. 3, 7.7).
    pub(crate) fn long_stack_pointer(&mut self, at: u64) -> Result<u64, Trap> {
        if self.tr.unusable || at + 7 > u64::from(self.tr.limit) {
            return Err(self.selector_fault(vector::TS, self.tr.selector));
        }
        self.load_system(self.tr.base.wrapping_add(at))
    }

    /// Long mode: 64-bit gates.
    fn deliver_long(&mut self, event: &Event) -> Result<(), Trap> {
        let at = u64::from(event.vector) * 16;
        if at + 15 > u64::from(self.idtr.limit) {
            return Err(self.raise(Fault::gp(event.gate_error())));
        }
        let la = self.idtr.base.wrapping_add(at);
        let gate = Descriptor(self.load_system(la)?);
        let high: u64 = self.load_system(la.wrapping_add(8))?;
        self.check_gate(event, gate, &[gate::INTERRUPT, gate::TRAP])?;
        let selector = gate.gate_selector();
        let code = self.handler_code(selector)?;
        if !code.is_long() || code.is_big() {
            return Err(self.selector_fault(vector::GP, selector));
        }
        let cpl = self.handler_level(code);
        let rip = gate.gate_offset() | high << 32;
        let sp = match (gate.gate_parameters() & 7, cpl < self.cpl) {
            (0, false) => self.reg(4),
            (0, true) => self.long_stack_pointer(4 + u64::from(cpl) * 8)?,
            (ist, _) => self.long_stack_pointer(0x1c + u64::from(ist) * 8)?,
        };
        if !canonical(rip) {
            return Err(self.gp0());
        }
        let mut stack = Stack::flat(sp & !0xf, cpl < 3);
        stack.push(self, Width::Quad, u64::from(self.segs[usize::from(seg::SS)].selector))?;
        stack.push(self, Width::Quad, self.reg(4))?;
        self.push_frame(&mut stack, Width::Quad, event)?;
        let code = self.accessed(selector & !3 | u16::from(cpl), code)?;
        if cpl < self.cpl {
            self.segs[usize::from(seg::SS)] = null_segment(u16::from(cpl), cpl);
        }
        stack.commit(self);
        self.segs[usize::from(seg::CS)] = code;
        self.cpl = cpl;
        self.enter_handler(rip, cleared_by(gate.kind()));
        Ok(())
    }

    /// The last step of every delivery: clears flags and goes to the handler.
    pub(crate) fn enter_handler(&mut self, rip: u64, clear: u64) {
        self.rflags_rest &= !clear;
        self.shadow = false;
        self.set_rip(rip);
        self.mode_changed();
    }
}

/// The flags that entering through a gate of type `kind` clears.
fn cleared_by(kind: u8) -> u64 {
    let always = rflags::TF | rflags::NT | rflags::RF | rflags::VM;
    if kind & gate::IS_TRAP == 0 { always | rflags::IF } else { always }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_combine_as_the_manual_tabulates() {
        let second = |v| Fault::coded(v, 0);
        let vector_of = |first, v| combine(first, second(v)).map(|f| f.vector);
        assert_eq!(vector_of(vector::UD, vector::GP), Some(vector::GP));
        assert_eq!(vector_of(vector::GP, vector::PF), Some(vector::PF));
        assert_eq!(vector_of(vector::GP, vector::NP), Some(vector::DF));
        assert_eq!(vector_of(vector::DE, vector::SS), Some(vector::DF));
        assert_eq!(vector_of(vector::PF, vector::PF), Some(vector::DF));
        assert_eq!(vector_of(vector::PF, vector::GP), Some(vector::DF));
        assert_eq!(vector_of(vector::DF, vector::GP), None);
        assert_eq!(vector_of(vector::DF, vector::PF), None);
    }
}
