//! Far jumps, calls and returns (Intel SDM vol. 2, JMP, CALL, RET; vol. 3, 5.8).

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use crate::cpu::Cpu;
use crate::fault::{Trap, vector};
use crate::mmu::canonical;
use crate::op::{Lowered, Op, form, leave, seg};
use crate::segment::{Descriptor, is_null, kind, null_segment};
use crate::stack::{Stack, Width};
use crate::state::Segment;
use crate::task::Switch;

pub(super) fn lower(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    use Code::*;
    match insn.code() {
        Jmp_ptr1616 | Call_ptr1616 | Jmp_ptr1632 | Call_ptr1632 => {
            let wide = insn.op0_kind() == OpKind::FarBranch32;
            let offset = if wide { insn.far_branch32() } else { u32::from(insn.far_branch16()) };
            op.imm = u64::from(offset) | u64::from(insn.far_branch_selector()) << 32;
            op.aux = if wide { 4 } else { 2 };
        }
        Jmp_m1616 | Call_m1616 => op.aux = 2,
        Jmp_m1632 | Call_m1632 => op.aux = 4,
        Jmp_m1664 | Call_m1664 => op.aux = 8,
        Retfw | Retfw_imm16 => return far_return_of(insn, op, 2),
        Retfd | Retfd_imm16 => return far_return_of(insn, op, 4),
        Retfq | Retfq_imm16 => return far_return_of(insn, op, 8),
        _ => return None,
    }
    Lowered::end(if insn.mnemonic() == Mnemonic::Call { leave(call) } else { leave(jump) })
}

fn far_return_of(insn: &Instruction, op: &mut Op, size: u16) -> Option<Lowered> {
    op.aux = size;
    op.imm = if insn.op_count() > 0 { u64::from(insn.immediate16()) } else { 0 };
    Lowered::end(leave(far_return))
}

/// The far pointer operand: immediate, or in memory with the selector behind the offset.
fn pointer(cpu: &mut Cpu, op: &Op) -> Result<(u16, u64), Trap> {
    if op.form & form::MEM == 0 {
        return Ok(((op.imm >> 32) as u16, op.imm & 0xffff_ffff));
    }
    cpu.far_pointer(op)
}

impl Cpu {
    /// A far pointer in memory whose offset has `op.aux` bytes.
    pub(super) fn far_pointer(&mut self, op: &Op) -> Result<(u16, u64), Trap> {
        let size = u32::from(op.aux);
        let la = self.linear(op, size + 2, false)?;
        let mut bytes = [0; 10];
        self.load_bytes(la, &mut bytes[..size as usize + 2])?;
        let selector = u16::from_le_bytes([bytes[size as usize], bytes[size as usize + 1]]);
        bytes[size as usize..].fill(0);
        let mut offset = [0; 8];
        offset.copy_from_slice(&bytes[..8]);
        Ok((selector, u64::from_le_bytes(offset)))
    }
}

/// What a selector in a far jump or call leads to.
enum Target {
    Code(Descriptor),
    Gate(Gate),
    /// A TSS, named directly or by a task gate.
    Task(u16),
}

/// A call gate.
struct Gate {
    selector: u16,
    code: Descriptor,
    offset: u64,
    width: Width,
    parameters: u8,
}

/// Follows `selector` with the checks that jumps and calls share.
fn follow(cpu: &mut Cpu, selector: u16) -> Result<Target, Trap> {
    if is_null(selector) {
        return Err(cpu.gp0());
    }
    let d = cpu.read_descriptor(selector, vector::GP)?;
    let rpl = selector as u8 & 3;
    let long = cpu.long_active();
    let good = if d.is_ordinary() {
        let privilege =
            if d.is_conforming() { d.dpl() <= cpu.cpl } else { rpl <= cpu.cpl && d.dpl() == cpu.cpl };
        d.is_code() && privilege && !(long && d.is_long() && d.is_big())
    } else {
        let known = match d.kind() {
            kind::CALL_GATE => true,
            kind::CALL_GATE16 | kind::TASK_GATE | kind::TSS16 | kind::TSS32 => !long,
            _ => false,
        };
        known && d.dpl() >= cpu.cpl.max(rpl)
    };
    if !good {
        return Err(cpu.selector_fault(vector::GP, selector));
    }
    // A TSS has more to be checked first; `switch_task` looks at its presence.
    let is_tss = !d.is_ordinary() && matches!(d.kind(), kind::TSS16 | kind::TSS32);
    if is_tss {
        return Ok(Target::Task(selector));
    }
    if !d.is_present() {
        return Err(cpu.selector_fault(vector::NP, selector));
    }
    match d.kind() {
        _ if d.is_ordinary() => Ok(Target::Code(d)),
        kind::TASK_GATE => Ok(Target::Task(d.gate_selector())),
        _ => follow_gate(cpu, selector, d).map(Target::Gate),
    }
}

fn follow_gate(cpu: &mut Cpu, selector: u16, gate: Descriptor) -> Result<Gate, Trap> {
    let long = cpu.long_active();
    let mut offset = gate.gate_offset();
    if long {
        let high = cpu.read_descriptor_high(selector, vector::GP)?;
        if high >> 40 & 0x1f != 0 {
            return Err(cpu.selector_fault(vector::GP, selector));
        }
        offset |= high << 32;
    }
    let target = gate.gate_selector();
    let code = if is_null(target) { None } else { Some(cpu.read_descriptor(target, vector::GP)?) };
    let Some(code) = code else { return Err(cpu.gp0()) };
    let bits_fit = !long || code.is_long() && !code.is_big();
    if !code.is_code() || code.dpl() > cpu.cpl || !bits_fit {
        return Err(cpu.selector_fault(vector::GP, target));
    }
    if !code.is_present() {
        return Err(cpu.selector_fault(vector::NP, target));
    }
    let width = match gate.kind() {
        _ if long => Width::Quad,
        kind::CALL_GATE => Width::Double,
        _ => Width::Word,
    };
    let offset = if width == Width::Word { offset & 0xffff } else { offset };
    Ok(Gate { selector: target, code, offset, width, parameters: gate.gate_parameters() })
}

impl Cpu {
    /// What CS becomes by a transfer to `rip` in `descriptor`'s segment at privilege `cpl`: checks `rip`.
    pub(super) fn code_segment(
        &mut self,
        selector: u16,
        descriptor: Descriptor,
        cpl: u8,
        rip: u64,
    ) -> Result<Segment, Trap> {
        let good = if self.long_active() && descriptor.is_long() {
            canonical(rip)
        } else {
            rip <= u64::from(descriptor.limit())
        };
        if !good {
            return Err(self.gp0());
        }
        let segment = self.accessed(selector, descriptor)?;
        Ok(Segment { selector: selector & !3 | u16::from(cpl), ..segment })
    }

    /// Makes `segment` the code segment; its selector has the new privilege level.
    pub(super) fn set_code(&mut self, segment: Segment) {
        self.cpl = segment.selector as u8 & 3;
        self.segs[usize::from(seg::CS)] = segment;
        self.mode_changed();
    }

    /// A transfer in real or virtual-8086 mode.
    pub(super) fn real_transfer(&mut self, selector: u16, rip: u64) -> Result<Segment, Trap> {
        let segment = self.real_segment(seg::CS, selector);
        if rip > u64::from(segment.limit) { Err(self.gp0()) } else { Ok(segment) }
    }

    /// Makes `segment` the code segment of real or virtual-8086 mode.
    pub(super) fn set_real_code(&mut self, segment: Segment) {
        self.segs[usize::from(seg::CS)] = segment;
        self.mode_changed();
    }

    /// Switches tasks for an instruction; gives where the new task goes on.
    pub(super) fn transfer_to_task(&mut self, selector: u16, switch: Switch, next: u64) -> Result<u64, Trap> {
        if let Some(fault) = self.switch_task(selector, switch, next)? {
            // It arose in the new task, which the instruction has already reached.
            self.deliver_fault(fault);
        }
        Ok(self.block_rip())
    }

    /// Checks the code segment to which a return goes.
    pub(super) fn return_code(&mut self, selector: u16) -> Result<Descriptor, Trap> {
        if is_null(selector) {
            return Err(self.gp0());
        }
        let d = self.read_descriptor(selector, vector::GP)?;
        let rpl = selector as u8 & 3;
        let privilege = rpl >= self.cpl && if d.is_conforming() { d.dpl() <= rpl } else { d.dpl() == rpl };
        if !d.is_code() || !privilege || self.long_active() && d.is_long() && d.is_big() {
            return Err(self.selector_fault(vector::GP, selector));
        }
        if !d.is_present() {
            return Err(self.selector_fault(vector::NP, selector));
        }
        Ok(d)
    }

    /// SS for a return to `cpl`; `long`: to 64-bit code, where it may be null but at level 3.
    pub(super) fn return_stack(&mut self, selector: u16, cpl: u8, long: bool) -> Result<Segment, Trap> {
        if is_null(selector) {
            return if long && cpl != 3 && selector as u8 & 3 == cpl {
                Ok(null_segment(selector, cpl))
            } else {
                Err(self.gp0())
            };
        }
        self.stack_segment(selector, cpl, vector::GP)
    }

    /// Puts a returned-to stack in force, with `release` bytes taken off it.
    pub(super) fn set_returned_stack(&mut self, ss: Segment, sp: u64, release: u64) {
        self.segs[usize::from(seg::SS)] = ss;
        self.mode_changed();
        let mut stack = if self.long_mode() {
            Stack::flat(sp, false)
        } else {
            // A 16-bit stack takes only SP.
            let sp = if ss.big() { sp } else { self.reg(4) & !0xffff | sp & 0xffff };
            Stack::new(ss, sp, false, 0)
        };
        stack.skip(release);
        stack.commit(self);
    }

    /// After a return outward no data segment may be more privileged than the code.
    pub(super) fn drop_privileged_segments(&mut self) {
        for register in [seg::ES, seg::DS, seg::FS, seg::GS] {
            let s = self.segs[usize::from(register)];
            let conforming = s.rights & 0x1c == 0x1c;
            if !s.unusable && !conforming && s.dpl() < self.cpl {
                self.segs[usize::from(register)] = Segment { base: s.base, ..null_segment(0, 0) };
            }
        }
    }
}

fn jump(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    let (selector, offset) = pointer(cpu, op)?;
    if cpu.real_segments() {
        let code = cpu.real_transfer(selector, offset)?;
        cpu.set_real_code(code);
        return Ok(offset);
    }
    let (selector, d, rip) = match follow(cpu, selector)? {
        Target::Task(tss) => {
            let next = cpu.next_rip(op);
            return cpu.transfer_to_task(tss, Switch::Jump, next);
        }
        Target::Code(d) => (selector, d, offset),
        Target::Gate(gate) => {
            if !gate.code.is_conforming() && gate.code.dpl() != cpu.cpl {
                return Err(cpu.selector_fault(vector::GP, gate.selector));
            }
            (gate.selector, gate.code, gate.offset)
        }
    };
    let code = cpu.code_segment(selector, d, cpu.cpl, rip)?;
    cpu.set_code(code);
    Ok(rip)
}

fn call(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    let (selector, offset) = pointer(cpu, op)?;
    let next = cpu.next_rip(op);
    let width = Width::of(op.aux);
    if cpu.real_segments() {
        let mut stack = Stack::current(cpu);
        push_return(cpu, &mut stack, width, next)?;
        let code = cpu.real_transfer(selector, offset)?;
        stack.commit(cpu);
        cpu.set_real_code(code);
        return Ok(offset);
    }
    match follow(cpu, selector)? {
        Target::Task(tss) => cpu.transfer_to_task(tss, Switch::Call, next),
        Target::Code(d) => call_level(cpu, selector, d, offset, width, next),
        Target::Gate(gate) if !gate.code.is_conforming() && gate.code.dpl() < cpu.cpl => {
            if gate.width == Width::Quad {
                cpu.with_long_addresses(|cpu| call_inward_long(cpu, &gate, next))
            } else {
                call_inward(cpu, &gate, next)
            }
        }
        Target::Gate(gate) if gate.width == Width::Quad => cpu.with_long_addresses(|cpu| {
            call_level(cpu, gate.selector, gate.code, gate.offset, Width::Quad, next)
        }),
        Target::Gate(gate) => call_level(cpu, gate.selector, gate.code, gate.offset, gate.width, next),
    }
}

fn push_return(cpu: &mut Cpu, stack: &mut Stack, width: Width, next: u64) -> Result<(), Trap> {
    stack.push(cpu, width, u64::from(cpu.segs[usize::from(seg::CS)].selector))?;
    stack.push(cpu, width, next)
}

/// A call that stays at its privilege level.
fn call_level(
    cpu: &mut Cpu,
    selector: u16,
    d: Descriptor,
    rip: u64,
    width: Width,
    next: u64,
) -> Result<u64, Trap> {
    let mut stack = Stack::current(cpu);
    push_return(cpu, &mut stack, width, next)?;
    let code = cpu.code_segment(selector, d, cpu.cpl, rip)?;
    stack.commit(cpu);
    cpu.set_code(code);
    Ok(rip)
}

/// A call through a gate to a more privileged level, outside long mode: on that level's stack, with parameters copied.
fn call_inward(cpu: &mut Cpu, gate: &Gate, next: u64) -> Result<u64, Trap> {
    let cpl = gate.code.dpl();
    let mut parameters = [0; 31];
    let count = usize::from(gate.parameters);
    let mut old = Stack::current(cpu);
    for parameter in &mut parameters[..count] {
        *parameter = old.pop(cpu, gate.width)?;
    }
    let (ss, mut stack) = cpu.inner_stack(cpl)?;
    stack.push(cpu, gate.width, u64::from(cpu.segs[usize::from(seg::SS)].selector))?;
    stack.push(cpu, gate.width, cpu.reg(4))?;
    for &parameter in parameters[..count].iter().rev() {
        stack.push(cpu, gate.width, parameter)?;
    }
    push_return(cpu, &mut stack, gate.width, next)?;
    let code = cpu.code_segment(gate.selector, gate.code, cpl, gate.offset)?;
    cpu.segs[usize::from(seg::SS)] = ss;
    stack.commit(cpu);
    cpu.set_code(code);
    Ok(gate.offset)
}

/// The same in long mode, where nothing is copied and SS becomes null.
fn call_inward_long(cpu: &mut Cpu, gate: &Gate, next: u64) -> Result<u64, Trap> {
    let cpl = gate.code.dpl();
    let sp = cpu.long_stack_pointer(4 + u64::from(cpl) * 8)?;
    let mut stack = Stack::flat(sp, true);
    stack.push(cpu, Width::Quad, u64::from(cpu.segs[usize::from(seg::SS)].selector))?;
    stack.push(cpu, Width::Quad, cpu.reg(4))?;
    push_return(cpu, &mut stack, Width::Quad, next)?;
    let code = cpu.code_segment(gate.selector, gate.code, cpl, gate.offset)?;
    cpu.segs[usize::from(seg::SS)] = null_segment(u16::from(cpl), cpl);
    stack.commit(cpu);
    cpu.set_code(code);
    Ok(gate.offset)
}

fn far_return(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    let width = Width::of(op.aux);
    let mut stack = Stack::current(cpu);
    let rip = stack.pop(cpu, width)?;
    let selector = stack.pop(cpu, width)? as u16;
    stack.skip(op.imm);
    if cpu.real_segments() {
        let code = cpu.real_transfer(selector, rip)?;
        stack.commit(cpu);
        cpu.set_real_code(code);
        return Ok(rip);
    }
    let d = cpu.return_code(selector)?;
    let cpl = selector as u8 & 3;
    if cpl == cpu.cpl {
        let code = cpu.code_segment(selector, d, cpl, rip)?;
        stack.commit(cpu);
        cpu.set_code(code);
        return Ok(rip);
    }
    let sp = stack.pop(cpu, width)?;
    let ss = stack.pop(cpu, width)? as u16;
    let ss = cpu.return_stack(ss, cpl, cpu.long_active() && d.is_long())?;
    let code = cpu.code_segment(selector, d, cpl, rip)?;
    cpu.set_code(code);
    cpu.set_returned_stack(ss, sp, op.imm);
    cpu.drop_privileged_segments();
    Ok(rip)
}
