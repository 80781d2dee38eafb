//! Control and debug registers, CPUID, time stamps, ports, HLT, and the interrupt flag.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use crate::cpu::Cpu;
use crate::fault::{Fault, Trap, vector};
use crate::flags::rflags;
use crate::mem::Word;
use crate::op::{Lowered, Op, form, leave, slot, step};
use crate::paging::{CR0_PE, CR0_PG, CR0_WP, CR4_PAE, CR4_PGE, CR4_PSE, EFER_LMA};
use crate::state::Activity;

const EFER_LME: u64 = 1 << 8;
/// What CR0 can hold: PE MP EM TS ET NE WP AM NW CD PG.
const CR0_BITS: u64 = 0xe005_003f;
const CR0_ET: u64 = 1 << 4;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
/// What CR4 can hold: VME PVI TSD DE PSE PAE MCE PGE PCE OSFXSR OSXMMEXCPT.
const CR4_BITS: u64 = 0x7ff;
const CR4_TSD: u64 = 1 << 2;
const CR4_DE: u64 = 1 << 3;

pub(super) fn lower(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    use Mnemonic::*;
    match insn.mnemonic() {
        Mov if insn.op0_register().is_cr() => Lowered::end(leave(write_control)),
        Mov if insn.op1_register().is_cr() => Lowered::step(step(read_control)),
        Mov if insn.op0_register().is_dr() => Lowered::end(leave(write_debug)),
        Mov if insn.op1_register().is_dr() => Lowered::step(step(read_debug)),
        Clts => Lowered::end(leave(clts)),
        Lmsw => Lowered::end(leave(lmsw)),
        Smsw => {
            op.aux = if insn.op0_kind() == OpKind::Memory { 0 } else { insn.op0_register().size() as u16 };
            Lowered::step(step(smsw))
        }
        Cli => Lowered::step(step(cli)),
        Sti => Lowered::end(leave(sti)),
        Hlt => Lowered::end(leave(hlt)),
        Invd | Wbinvd => Lowered::step(step(|cpu: &mut Cpu, _: &Op| cpu.privileged())),
        Cpuid => Lowered::step(step(cpuid)),
        Rdtsc => Lowered::step(step(rdtsc)),
        Rdtscp => Lowered::step(step(rdtscp)),
        Rdpmc => Lowered::step(step(|cpu: &mut Cpu, _: &Op| Err(cpu.gp0()))),
        Rdmsr => Lowered::step(step(rdmsr)),
        Wrmsr => Lowered::end(leave(wrmsr)),
        In | Out => {
            port_operands(insn, op);
            Lowered::end(if insn.mnemonic() == In { leave(port_in) } else { leave(port_out) })
        }
        _ => None,
    }
}

fn write_control(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    cpu.privileged()?;
    let value = if cpu.long_mode() { cpu.get::<u64>(op.src) } else { u64::from(cpu.get::<u32>(op.src)) };
    match op.dst {
        0 => cpu.set_cr0(value)?,
        2 => cpu.cr2 = value,
        3 => {
            if cpu.long_active() && value & !cpu.mmu.physical_mask != 0 {
                return Err(cpu.gp0());
            }
            cpu.cr3 = value;
            cpu.flush_tlb(false);
        }
        4 => cpu.set_cr4(value)?,
        8 => {
            if value & !15 != 0 {
                return Err(cpu.gp0());
            }
            cpu.apic_set_cr8(value);
        }
        _ => return Err(cpu.ud()),
    }
    Ok(cpu.next_rip(op))
}

fn read_control(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.privileged()?;
    let value = match op.src {
        0 => cpu.cr0,
        2 => cpu.cr2,
        3 => cpu.cr3,
        4 => cpu.cr4,
        8 => cpu.apic_cr8(),
        _ => return Err(cpu.ud()),
    };
    store_word(cpu, op.dst, value);
    Ok(())
}

/// Control and debug registers move 64 bits in 64-bit mode, 32 elsewhere.
fn store_word(cpu: &mut Cpu, to: u8, value: u64) {
    if cpu.long_mode() {
        cpu.set::<u64>(to, value);
    } else {
        cpu.set::<u32>(to, value as u32);
    }
}

impl Cpu {
    /// Writes CR0 with all checks and consequences (Intel SDM vol. 3, 2.5 and 9.8.5).
    pub(crate) fn set_cr0(&mut self, value: u64) -> Result<(), Trap> {
        let bad = value >> 32 != 0
            || value & CR0_PG != 0 && value & CR0_PE == 0
            || value & CR0_NW != 0 && value & CR0_CD == 0;
        if bad {
            return Err(self.gp0());
        }
        let value = value & CR0_BITS | CR0_ET;
        let changed = self.cr0 ^ value;
        if changed & CR0_PG != 0 {
            if value & CR0_PG != 0 && self.efer & EFER_LME != 0 {
                if self.cr4 & CR4_PAE == 0 || self.segs[usize::from(crate::op::seg::CS)].long() {
                    return Err(self.gp0());
                }
                self.efer |= EFER_LMA;
            } else if value & CR0_PG == 0 {
                if self.long_mode() {
                    return Err(self.gp0());
                }
                self.efer &= !EFER_LMA;
            }
        }
        self.cr0 = value;
        if changed & (CR0_PG | CR0_WP | CR0_PE) != 0 {
            self.flush_tlb(true);
        }
        self.mode_changed();
        Ok(())
    }

    /// Writes CR4 with all checks and consequences.
    pub(crate) fn set_cr4(&mut self, value: u64) -> Result<(), Trap> {
        if value & !CR4_BITS != 0 || self.long_active() && value & CR4_PAE == 0 {
            return Err(self.gp0());
        }
        let changed = self.cr4 ^ value;
        self.cr4 = value;
        if changed & (CR4_PAE | CR4_PSE | CR4_PGE) != 0 {
            self.flush_tlb(true);
        }
        self.mode_changed();
        Ok(())
    }

    /// This processor's time-stamp counter.
    pub(crate) fn time_stamp(&self) -> u64 {
        self.system.clock.tsc().wrapping_add(self.tsc_offset)
    }
}

fn clts(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    cpu.privileged()?;
    cpu.cr0 &= !(1 << 3);
    cpu.mode_changed();
    Ok(cpu.next_rip(op))
}

fn lmsw(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    cpu.privileged()?;
    let word = if op.form & form::MEM != 0 {
        let la = cpu.linear(op, 2, false)?;
        cpu.load::<u16>(la)?
    } else {
        cpu.get::<u16>(op.dst)
    };
    // LMSW can set PE but not clear it.
    let cr0 = cpu.cr0 & !0xe | u64::from(word) & 0xf;
    cpu.set_cr0(cr0)?;
    Ok(cpu.next_rip(op))
}

fn smsw(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    match op.aux {
        0 => {
            let la = cpu.linear(op, 2, true)?;
            cpu.store::<u16>(la, cpu.cr0 as u16)?;
        }
        2 => cpu.set::<u16>(op.dst, cpu.cr0 as u16),
        4 => cpu.set::<u32>(op.dst, cpu.cr0 as u32),
        _ => cpu.set::<u64>(op.dst, cpu.cr0),
    }
    Ok(())
}

/// DR4 and DR5 are DR6 and DR7 unless CR4.DE is set; DR7.GD makes every access fault.
fn debug_number(cpu: &mut Cpu, number: u8) -> Result<usize, Trap> {
    cpu.privileged()?;
    let number = match number {
        4 | 5 if cpu.cr4 & CR4_DE != 0 => return Err(cpu.ud()),
        4 | 5 => usize::from(number) + 2,
        0..8 => usize::from(number),
        _ => return Err(cpu.ud()),
    };
    if cpu.dr[7] & 1 << 13 != 0 {
        return Err(cpu.raise(Fault { info: 1 << 13, ..Fault::plain(vector::DB) }));
    }
    Ok(number)
}

fn write_debug(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    let number = debug_number(cpu, op.dst)?;
    let value = if cpu.long_mode() { cpu.get::<u64>(op.src) } else { u64::from(cpu.get::<u32>(op.src)) };
    if number >= 6 && value >> 32 != 0 {
        return Err(cpu.gp0());
    }
    cpu.dr[number] = match number {
        6 => value & 0xe00f | 0xffff_0ff0,
        7 => value & 0xffff_2bff | 0x400,
        _ => value,
    };
    cpu.flush_tlb(true);
    cpu.mode_changed();
    Ok(cpu.next_rip(op))
}

fn read_debug(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let number = debug_number(cpu, op.src)?;
    store_word(cpu, op.dst, cpu.dr[number]);
    Ok(())
}

fn interrupt_flag_allowed(cpu: &mut Cpu) -> Result<(), Trap> {
    if cpu.cr0 & CR0_PE != 0 && cpu.cpl > cpu.iopl() { Err(cpu.gp0()) } else { Ok(()) }
}

fn cli(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    interrupt_flag_allowed(cpu)?;
    cpu.rflags_rest &= !rflags::IF;
    Ok(())
}

fn sti(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    interrupt_flag_allowed(cpu)?;
    if cpu.rflags_rest & rflags::IF == 0 {
        cpu.rflags_rest |= rflags::IF;
        cpu.shadow = true;
    }
    Ok(cpu.next_rip(op))
}

fn hlt(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    cpu.privileged()?;
    cpu.activity = Activity::Halted;
    Ok(cpu.next_rip(op))
}

fn cpuid(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    let (leaf, subleaf) = (cpu.get::<u32>(slot::RAX), cpu.get::<u32>(slot::RCX));
    let found = cpu.cpuid.iter().find(|e| e.leaf == leaf && (!e.indexed || e.subleaf == subleaf));
    let (eax, ebx, mut ecx, mut edx) = found.map_or((0, 0, 0, 0), |e| (e.eax, e.ebx, e.ecx, e.edx));
    if leaf == 1 {
        // The APIC bit follows IA32_APIC_BASE.
        edx = edx & !(1 << 9) | u32::from(cpu.apic_enabled()) << 9;
    }
    if found.is_none() && leaf == 0xb {
        ecx = subleaf & 0xff;
        edx = cpu.cpuid.iter().find(|e| e.leaf == 0xb).map_or(0, |e| e.edx);
    }
    cpu.set::<u32>(slot::RAX, eax);
    cpu.set::<u32>(slot::RBX, ebx);
    cpu.set::<u32>(slot::RCX, ecx);
    cpu.set::<u32>(slot::RDX, edx);
    Ok(())
}

fn rdtsc(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    if cpu.cr4 & CR4_TSD != 0 && cpu.cpl != 0 {
        return Err(cpu.gp0());
    }
    let tsc = cpu.time_stamp();
    cpu.set::<u32>(slot::RAX, tsc as u32);
    cpu.set::<u32>(slot::RDX, (tsc >> 32) as u32);
    Ok(())
}

fn rdtscp(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    rdtsc(cpu, op)?;
    cpu.set::<u32>(slot::RCX, cpu.msrs.tsc_aux as u32);
    Ok(())
}

fn rdmsr(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    cpu.privileged()?;
    let value = cpu.read_msr(cpu.get::<u32>(slot::RCX))?;
    cpu.set::<u32>(slot::RAX, value as u32);
    cpu.set::<u32>(slot::RDX, (value >> 32) as u32);
    Ok(())
}

fn wrmsr(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    cpu.privileged()?;
    let value = u64::from(cpu.get::<u32>(slot::RDX)) << 32 | u64::from(cpu.get::<u32>(slot::RAX));
    cpu.write_msr(cpu.get::<u32>(slot::RCX), value)?;
    Ok(cpu.next_rip(op))
}

/// `aux` gets the width in bytes; `src` the slot of DX or `slot::ZERO` for an immediate port (in `imm`).
fn port_operands(insn: &Instruction, op: &mut Op) {
    let (data, port) = if insn.mnemonic() == Mnemonic::In { (0, 1) } else { (1, 0) };
    op.aux = insn.op_register(data).size() as u16;
    let by_register = insn.op_kind(port) == OpKind::Register && insn.op_register(port) == Register::DX;
    op.src = if by_register { slot::RDX } else { slot::ZERO };
    debug_assert!(insn.code() != Code::INVALID);
}

fn port_of(cpu: &mut Cpu, op: &Op) -> Result<u16, Trap> {
    let port = if op.src == slot::RDX { cpu.get::<u16>(slot::RDX) } else { op.imm as u16 & 0xff };
    cpu.check_port(port, u32::from(op.aux))?;
    Ok(port)
}

fn port_in(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    let port = port_of(cpu, op)?;
    let mut data = [0; 4];
    let width = usize::from(op.aux).min(4);
    cpu.call_out(|bus| bus.port_read(port, &mut data[..width]));
    let value = u32::from_le_bytes(data);
    match width {
        1 => cpu.set::<u8>(slot::RAX, value as u8),
        2 => cpu.set::<u16>(slot::RAX, value as u16),
        _ => cpu.set::<u32>(slot::RAX, value),
    }
    Ok(cpu.next_rip(op))
}

fn port_out(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    let port = port_of(cpu, op)?;
    let data = cpu.get::<u32>(slot::RAX).to_u64().to_le_bytes();
    cpu.call_out(|bus| bus.port_write(port, &data[..usize::from(op.aux).min(4)]));
    Ok(cpu.next_rip(op))
}
