//! Far jumps, calls and returns, IRET, and software interrupts (Intel SDM vol. 3, 5.8 and 6.12).

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use crate::cpu::Cpu;
use crate::fault::{Fault, Trap, vector};
use crate::flags::{self, rflags};
use crate::op::{Lowered, Op, leave, seg, slot};
use crate::segment::{error_of, parse};
use crate::state::Segment;

pub(super) fn lower(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    use Code::*;
    let call = matches!(insn.mnemonic(), Mnemonic::Call);
    match insn.code() {
        Jmp_ptr1616 | Call_ptr1616 | Jmp_ptr1632 | Call_ptr1632 => {
            let wide = insn.op0_kind() == OpKind::FarBranch32;
            let offset = if wide { insn.far_branch32() } else { u32::from(insn.far_branch16()) };
            op.imm = u64::from(offset) | u64::from(insn.far_branch_selector()) << 32;
            op.aux = if wide { 4 } else { 2 };
            Lowered::end(if call { leave(call_direct) } else { leave(jump_direct) })
        }
        Jmp_m1616 | Call_m1616 | Jmp_m1632 | Call_m1632 | Jmp_m1664 | Call_m1664 => {
            op.aux = match insn.code() {
                Jmp_m1616 | Call_m1616 => 2,
                Jmp_m1632 | Call_m1632 => 4,
                _ => 8,
            };
            Lowered::end(if call { leave(call_indirect) } else { leave(jump_indirect) })
        }
        Retfw | Retfw_imm16 => far_return_of(op, 2, insn),
        Retfd | Retfd_imm16 => far_return_of(op, 4, insn),
        Retfq | Retfq_imm16 => far_return_of(op, 8, insn),
        Iretw => iret_of(op, 2),
        Iretd => iret_of(op, 4),
        Iretq => iret_of(op, 8),
        Int3 => interrupt_of(op, vector::BP),
        Int1 => interrupt_of(op, vector::DB),
        Into => Lowered::end(leave(into)),
        Int_imm8 => interrupt_of(op, insn.immediate8()),
        Bound_r16_m1616 => bound_of(op, 2),
        Bound_r32_m3232 => bound_of(op, 4),
        _ => None,
    }
}

fn interrupt_of(op: &mut Op, v: u8) -> Option<Lowered> {
    op.imm = u64::from(v);
    Lowered::end(leave(interrupt))
}

fn interrupt(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    let v = op.imm as u8;
    if op.len == 2 && cpu.virtual_8086() && cpu.iopl() < 3 {
        return Err(cpu.gp0());
    }
    let next = cpu.next_rip(op);
    cpu.software_interrupt(v, next)
}

fn into(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    let next = cpu.next_rip(op);
    if cpu.arith & flags::OF != 0 { cpu.software_interrupt(vector::OF, next) } else { Ok(next) }
}

fn bound_of(op: &mut Op, size: u16) -> Option<Lowered> {
    op.aux = size;
    Lowered::end(leave(bound))
}

fn bound(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    let la = cpu.linear(op, u32::from(op.aux) * 2, false)?;
    let (index, low, high) = if op.aux == 2 {
        let (l, h) = (cpu.load::<u16>(la)?, cpu.load::<u16>(la.wrapping_add(2))?);
        (i32::from(cpu.get::<u16>(op.dst) as i16), i32::from(l as i16), i32::from(h as i16))
    } else {
        let (l, h) = (cpu.load::<u32>(la)?, cpu.load::<u32>(la.wrapping_add(4))?);
        (cpu.get::<u32>(op.dst) as i32, l as i32, h as i32)
    };
    if index < low || index > high {
        return Err(cpu.raise(Fault::plain(vector::BR)));
    }
    Ok(cpu.next_rip(op))
}

fn direct(op: &Op) -> (u16, u64) {
    ((op.imm >> 32) as u16, op.imm & 0xffff_ffff)
}

fn indirect(cpu: &mut Cpu, op: &Op) -> Result<(u16, u64), Trap> {
    let size = u64::from(op.aux);
    let la = cpu.linear(op, op.aux as u32 + 2, false)?;
    let offset = match size {
        2 => u64::from(cpu.load::<u16>(la)?),
        4 => u64::from(cpu.load::<u32>(la)?),
        _ => cpu.load::<u64>(la)?,
    };
    Ok((cpu.load::<u16>(la.wrapping_add(size))?, offset))
}

fn jump_direct(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    let (selector, offset) = direct(op);
    far_jump(cpu, selector, offset)
}

fn jump_indirect(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    let (selector, offset) = indirect(cpu, op)?;
    far_jump(cpu, selector, offset)
}

fn call_direct(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    let (selector, offset) = direct(op);
    far_call(cpu, op, selector, offset)
}

fn call_indirect(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    let (selector, offset) = indirect(cpu, op)?;
    far_call(cpu, op, selector, offset)
}

/// What a far jump or call leads to: a code segment and an offset in it, perhaps through a call gate.
struct Target {
    selector: u16,
    raw: u64,
    offset: u64,
    /// The call gate's operand size in bytes, and how many parameters it copies.
    gate: Option<(u16, u16)>,
}

/// Follows `selector` to a code segment; checks everything but privilege through a gate.
fn follow(cpu: &mut Cpu, selector: u16, offset: u64) -> Result<Target, Trap> {
    if selector & !3 == 0 {
        return Err(cpu.gp0());
    }
    let raw = cpu.read_descriptor(selector)?;
    let s = parse(selector, raw);
    if s.ordinary() {
        let rpl = (selector & 3) as u8;
        let privilege =
            if s.conforming() { s.dpl() <= cpu.cpl } else { rpl <= cpu.cpl && s.dpl() == cpu.cpl };
        let bits = cpu.long_active() && s.long() && s.big();
        if !s.code() || !privilege || bits {
            return Err(cpu.selector_fault(vector::GP, selector));
        }
        if !s.present() {
            return Err(cpu.selector_fault(vector::NP, selector));
        }
        return Ok(Target { selector, raw, offset, gate: None });
    }
    // Call gates; task gates and TSSs (hardware task switching) are refused.
    let gate = matches!(s.kind(), 12) || s.kind() == 4 && !cpu.long_active();
    if !gate || s.dpl() < cpu.cpl.max((selector & 3) as u8) {
        return Err(cpu.selector_fault(vector::GP, selector));
    }
    if !s.present() {
        return Err(cpu.selector_fault(vector::NP, selector));
    }
    let inner = (raw >> 16) as u16;
    let upper = cpu.read_upper_half(selector)?;
    let offset = raw & 0xffff | raw >> 32 & 0xffff_0000 | upper << 32;
    if inner & !3 == 0 {
        return Err(cpu.gp0());
    }
    let code_raw = cpu.read_descriptor(inner)?;
    let code = parse(inner, code_raw);
    let bits = cpu.long_active() && (!code.long() || code.big());
    if !code.code() || code.dpl() > cpu.cpl || bits {
        return Err(cpu.selector_fault(vector::GP, inner));
    }
    if !code.present() {
        return Err(cpu.selector_fault(vector::NP, inner));
    }
    let size = if cpu.long_active() {
        8
    } else if s.kind() == 12 {
        4
    } else {
        2
    };
    Ok(Target { selector: inner, raw: code_raw, offset, gate: Some((size, (raw >> 32 & 31) as u16)) })
}

/// Makes `target` the code segment at privilege `cpl`.
fn enter(cpu: &mut Cpu, target: &Target, cpl: u8) -> Result<u64, Trap> {
    let code = parse(target.selector, target.raw);
    let in_long = cpu.long_active() && code.long();
    let beyond =
        if in_long { !crate::mmu::canonical(target.offset) } else { target.offset > u64::from(code.limit) };
    if beyond {
        return Err(cpu.gp0());
    }
    cpu.mark_accessed(target.selector, target.raw)?;
    cpu.segs[usize::from(seg::CS)] =
        Segment { selector: target.selector & !3 | u16::from(cpl), rights: code.rights | 1, ..code };
    cpu.cpl = cpl;
    cpu.mode_changed();
    Ok(target.offset)
}

fn far_jump(cpu: &mut Cpu, selector: u16, offset: u64) -> Result<u64, Trap> {
    if cpu.real_segments() {
        return real_branch(cpu, selector, offset);
    }
    let target = follow(cpu, selector, offset)?;
    let code = parse(target.selector, target.raw);
    if target.gate.is_some() && !code.conforming() && code.dpl() != cpu.cpl {
        return Err(cpu.selector_fault(vector::GP, target.selector));
    }
    let cpl = cpu.cpl;
    enter(cpu, &target, cpl)
}

fn real_branch(cpu: &mut Cpu, selector: u16, offset: u64) -> Result<u64, Trap> {
    if offset > u64::from(cpu.segs[usize::from(seg::CS)].limit) {
        return Err(cpu.gp0());
    }
    cpu.segs[usize::from(seg::CS)] = cpu.real_segment(seg::CS, selector);
    cpu.mode_changed();
    Ok(offset)
}

fn far_call(cpu: &mut Cpu, op: &Op, selector: u16, offset: u64) -> Result<u64, Trap> {
    let next = cpu.next_rip(op);
    let old_cs = u64::from(cpu.segs[usize::from(seg::CS)].selector);
    let mut sp = cpu.stack_pointer();
    if cpu.real_segments() {
        sp = cpu.poke(sp, op.aux, old_cs)?;
        sp = cpu.poke(sp, op.aux, next)?;
        let rip = real_branch(cpu, selector, offset)?;
        cpu.set_stack_pointer(sp);
        return Ok(rip);
    }
    let target = follow(cpu, selector, offset)?;
    let code = parse(target.selector, target.raw);
    let size = target.gate.map_or(op.aux, |(size, _)| size);
    if target.gate.is_some() && !code.conforming() && code.dpl() < cpu.cpl {
        return call_inward(cpu, &target, next);
    }
    sp = cpu.poke(sp, size, old_cs)?;
    sp = cpu.poke(sp, size, next)?;
    let cpl = cpu.cpl;
    let rip = enter(cpu, &target, cpl)?;
    cpu.set_stack_pointer(sp);
    Ok(rip)
}

/// A call through a gate to a more privileged segment: on that privilege's stack.
fn call_inward(cpu: &mut Cpu, target: &Target, next: u64) -> Result<u64, Trap> {
    let (size, count) = target.gate.unwrap_or((4, 0));
    let cpl = parse(target.selector, target.raw).dpl();
    let old = (cpu.segs[usize::from(seg::SS)], cpu.reg(4), cpu.segs[usize::from(seg::CS)].selector);
    let mut values = vec![u64::from(old.0.selector), old.1];
    let (segment, pointer) = if cpu.long_active() {
        let at = 4 + 8 * u64::from(cpl);
        if at + 7 > u64::from(cpu.tr.limit) {
            return Err(cpu.selector_fault(vector::TS, cpu.tr.selector));
        }
        let rsp = cpu.load_system::<u64>(cpu.tr.base.wrapping_add(at))?;
        let mut null = Segment::null(u16::from(cpl));
        null.rights = u16::from(cpl) << 5;
        (null, rsp)
    } else {
        let mut at = cpu.stack_pointer();
        let mut parameters = Vec::new();
        for _ in 0..count {
            let (value, after) = cpu.peek(at, size)?;
            parameters.push(value);
            at = after;
        }
        values.extend(parameters.into_iter().rev());
        let (selector, sp) = cpu.privilege_stack(cpl, 0)?;
        if selector & !3 == 0 {
            return Err(cpu.raise(Fault::coded(vector::TS, 0)));
        }
        let raw = cpu.read_descriptor(selector)?;
        let s = parse(selector, raw);
        if (selector & 3) as u8 != cpl || s.dpl() != cpl || !s.writable_data() {
            return Err(cpu.selector_fault(vector::TS, selector));
        }
        if !s.present() {
            return Err(cpu.selector_fault(vector::SS, selector));
        }
        (s, sp)
    };
    values.extend([u64::from(old.2), next]);
    let base = if cpu.long_active() { 0 } else { segment.base };
    let mut sp = pointer;
    for value in values {
        sp = sp.wrapping_sub(u64::from(size));
        let la = base.wrapping_add(sp);
        match size {
            8 => cpu.store_system::<u64>(la, value)?,
            4 => cpu.store_system::<u32>(la & 0xffff_ffff, value as u32)?,
            _ => cpu.store_system::<u16>(la & 0xffff_ffff, value as u16)?,
        }
    }
    let rip = enter(cpu, target, cpl)?;
    cpu.segs[usize::from(seg::SS)] = segment;
    cpu.mode_changed();
    cpu.set_stack_pointer(sp);
    Ok(rip)
}

fn far_return_of(op: &mut Op, size: u16, insn: &Instruction) -> Option<Lowered> {
    op.aux = size;
    op.imm = if insn.op_count() > 0 { u64::from(insn.immediate16()) } else { 0 };
    Lowered::end(leave(far_return))
}

fn far_return(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    let sp = cpu.stack_pointer();
    let (rip, sp) = cpu.peek(sp, op.aux)?;
    let (cs, sp) = cpu.peek(sp, op.aux)?;
    let sp = sp.wrapping_add(op.imm);
    let cs = cs as u16;
    if cpu.real_segments() {
        let rip = real_branch(cpu, cs, rip)?;
        cpu.set_stack_pointer(sp);
        return Ok(rip);
    }
    let target = return_target(cpu, cs, rip)?;
    let rpl = (cs & 3) as u8;
    if rpl == cpu.cpl {
        let rip = enter(cpu, &target, rpl)?;
        cpu.set_stack_pointer(sp);
        return Ok(rip);
    }
    let (new_sp, after) = cpu.peek(sp, op.aux)?;
    let (ss, _) = cpu.peek(after, op.aux)?;
    return_outward(cpu, &target, ss as u16, new_sp.wrapping_add(op.imm))
}

/// The code segment a return goes to, checked.
fn return_target(cpu: &mut Cpu, cs: u16, rip: u64) -> Result<Target, Trap> {
    if cs & !3 == 0 {
        return Err(cpu.gp0());
    }
    let raw = cpu.read_descriptor(cs)?;
    let s = parse(cs, raw);
    let rpl = (cs & 3) as u8;
    let privilege = rpl >= cpu.cpl && if s.conforming() { s.dpl() <= rpl } else { s.dpl() == rpl };
    let bits = cpu.long_active() && s.long() && s.big();
    if !s.code() || !privilege || bits {
        return Err(cpu.selector_fault(vector::GP, cs));
    }
    if !s.present() {
        return Err(cpu.selector_fault(vector::NP, cs));
    }
    Ok(Target { selector: cs, raw, offset: rip, gate: None })
}

/// A return to a less privileged level, with that level's stack.
fn return_outward(cpu: &mut Cpu, target: &Target, ss: u16, sp: u64) -> Result<u64, Trap> {
    let cpl = (target.selector & 3) as u8;
    let segment = return_stack(cpu, target, ss, cpl)?;
    let rip = enter(cpu, target, cpl)?;
    cpu.segs[usize::from(seg::SS)] = segment;
    cpu.mode_changed();
    cpu.set_stack_pointer(sp);
    drop_privileged_segments(cpu);
    Ok(rip)
}

/// SS for a return to `cpl` by way of `target`.
fn return_stack(cpu: &mut Cpu, target: &Target, ss: u16, cpl: u8) -> Result<Segment, Trap> {
    let to_long = cpu.long_active() && parse(target.selector, target.raw).long();
    if ss & !3 == 0 {
        if to_long && cpl != 3 && (ss & 3) as u8 == cpl {
            let mut null = Segment::null(ss);
            null.rights = u16::from(cpl) << 5;
            return Ok(null);
        }
        return Err(cpu.gp0());
    }
    let raw = cpu.read_descriptor(ss)?;
    let s = parse(ss, raw);
    if (ss & 3) as u8 != cpl || s.dpl() != cpl || !s.writable_data() {
        return Err(cpu.selector_fault(vector::GP, ss));
    }
    if !s.present() {
        return Err(cpu.raise(Fault::coded(vector::SS, error_of(ss))));
    }
    cpu.mark_accessed(ss, raw)?;
    Ok(Segment { rights: s.rights | 1, ..s })
}

/// After a return outward no data segment may be more privileged than the code.
fn drop_privileged_segments(cpu: &mut Cpu) {
    for register in [seg::ES, seg::DS, seg::FS, seg::GS] {
        let s = cpu.segs[usize::from(register)];
        if !s.unusable && !s.conforming() && s.dpl() < cpu.cpl {
            cpu.segs[usize::from(register)] = Segment::null(0);
        }
    }
}

fn iret_of(op: &mut Op, size: u16) -> Option<Lowered> {
    op.aux = size;
    Lowered::end(leave(iret))
}

fn iret(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    let virtual_8086 = cpu.virtual_8086();
    if virtual_8086 && cpu.iopl() < 3 || cpu.rflags_rest & rflags::NT != 0 && !cpu.real_segments() {
        // A return from a nested task is a hardware task switch, which this processor refuses.
        return Err(cpu.gp0());
    }
    let sp = cpu.stack_pointer();
    let (rip, sp) = cpu.peek(sp, op.aux)?;
    let (cs, sp) = cpu.peek(sp, op.aux)?;
    let (image, sp) = cpu.peek(sp, op.aux)?;
    let cs = cs as u16;
    if cpu.real_segments() {
        let rip = real_branch(cpu, cs, rip)?;
        cpu.set_stack_pointer(sp);
        let keep = if virtual_8086 { rflags::IOPL } else { 0 };
        return_flags(cpu, op, image, keep);
        return Ok(rip);
    }
    if image & rflags::VM != 0 && cpu.cpl == 0 && op.aux == 4 && !cpu.long_active() {
        return iret_to_virtual_8086(cpu, sp, cs, rip, image);
    }
    let target = return_target(cpu, cs, rip)?;
    let rpl = (cs & 3) as u8;
    let keep = flags_kept(cpu);
    let rip = if rpl != cpu.cpl || cpu.long_mode() {
        let (new_sp, after) = cpu.peek(sp, op.aux)?;
        let (ss, _) = cpu.peek(after, op.aux)?;
        if rpl == cpu.cpl {
            return_same(cpu, &target, ss as u16, new_sp)?
        } else {
            return_outward(cpu, &target, ss as u16, new_sp)?
        }
    } else {
        let rip = enter(cpu, &target, rpl)?;
        cpu.set_stack_pointer(sp);
        rip
    };
    return_flags(cpu, op, image, keep);
    Ok(rip)
}

/// IRETQ to the same privilege also loads the stack.
fn return_same(cpu: &mut Cpu, target: &Target, ss: u16, sp: u64) -> Result<u64, Trap> {
    let cpl = cpu.cpl;
    let segment = return_stack(cpu, target, ss, cpl)?;
    let rip = enter(cpu, target, cpl)?;
    cpu.segs[usize::from(seg::SS)] = segment;
    cpu.mode_changed();
    cpu.set_stack_pointer(sp);
    Ok(rip)
}

/// RFLAGS bits IRET may not change at this privilege.
fn flags_kept(cpu: &Cpu) -> u64 {
    let mut keep = rflags::VM;
    if cpu.cpl != 0 {
        keep |= rflags::IOPL | rflags::VIF | rflags::VIP;
    }
    if cpu.cpl > cpu.iopl() {
        keep |= rflags::IF;
    }
    keep
}

fn return_flags(cpu: &mut Cpu, op: &Op, image: u64, keep: u64) {
    let keep = keep | if op.aux == 2 { !0xffff } else { 0 };
    let value = cpu.rflags() & keep | image & !keep;
    cpu.set_rflags(value);
    cpu.nmi_blocked = false;
    cpu.mode_changed();
}

fn iret_to_virtual_8086(cpu: &mut Cpu, sp: u64, cs: u16, rip: u64, image: u64) -> Result<u64, Trap> {
    let (esp, mut at) = cpu.peek(sp, 4)?;
    let mut selectors = [0u16; 5];
    for s in &mut selectors {
        let (value, after) = cpu.peek(at, 4)?;
        *s = value as u16;
        at = after;
    }
    cpu.set_rflags(image);
    cpu.cpl = 3;
    let [ss, es, ds, fs, gs] = selectors;
    for (register, selector) in
        [(seg::CS, cs), (seg::SS, ss), (seg::ES, es), (seg::DS, ds), (seg::FS, fs), (seg::GS, gs)]
    {
        cpu.segs[usize::from(register)] = cpu.real_segment(register, selector);
    }
    cpu.set::<u32>(slot::RSP, esp as u32);
    cpu.nmi_blocked = false;
    cpu.mode_changed();
    debug_assert!(cpu.virtual_8086());
    Ok(rip & 0xffff)
}
