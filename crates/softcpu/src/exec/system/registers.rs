//! Control registers, and the caches they govern (Intel SDM vol. 3, 2.5 and 9.8.5).

use iced_x86::{Instruction, Mnemonic};

use crate::cpu::Cpu;
use crate::fault::Trap;
use crate::op::{Lowered, Op, leave, seg, step};
use crate::paging::{CR0_PE, CR0_PG, CR0_WP, CR4_PAE, CR4_PGE, CR4_PSE, EFER_LMA};
use crate::segment::kind;

use super::register_size;

const EFER_LME: u64 = 1 << 8;
/// What CR0 can hold: PE MP EM TS ET NE WP AM NW CD PG.
const CR0_BITS: u64 = 0xe005_003f;
const CR0_TS: u64 = 1 << 3;
const CR0_ET: u64 = 1 << 4;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
/// What LMSW changes: PE (only to set it) MP EM TS.
const MSW_BITS: u64 = 0xf;
/// What CR4 can hold: VME PVI TSD DE PSE PAE MCE PGE PCE OSFXSR OSXMMEXCPT.
const CR4_BITS: u64 = 0x7ff;

pub(super) fn lower(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    use Mnemonic::*;
    match insn.mnemonic() {
        Mov if insn.op0_register().is_cr() && exists(op.dst) => Lowered::end(leave(write_control)),
        Mov if insn.op1_register().is_cr() && exists(op.src) => Lowered::step(step(read_control)),
        Clts => Lowered::step(step(clts)),
        Lmsw => Lowered::end(leave(lmsw)),
        Smsw => {
            op.aux = register_size(insn);
            Lowered::step(step(|cpu: &mut Cpu, op: &Op| cpu.store_word(op, cpu.cr0)))
        }
        Invlpg => Lowered::end(leave(invlpg)),
        // Guest memory is coherent with everything.
        Invd | Wbinvd => Lowered::step(step(|cpu: &mut Cpu, _: &Op| cpu.privileged())),
        _ => None,
    }
}

fn exists(number: u8) -> bool {
    matches!(number, 0 | 2 | 3 | 4 | 8)
}

fn write_control(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    cpu.privileged()?;
    let value = cpu.get_natural(op.src);
    match op.dst {
        0 => cpu.set_cr0(value)?,
        2 => cpu.cr2 = value,
        3 => cpu.set_cr3(value)?,
        4 => cpu.set_cr4(value)?,
        _ => {
            if value & !0xf != 0 {
                return Err(cpu.gp0());
            }
            cpu.apic_set_cr8(value);
        }
    }
    cpu.serialise();
    Ok(cpu.next_rip(op))
}

fn read_control(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.privileged()?;
    let value = match op.src {
        0 => cpu.cr0,
        2 => cpu.cr2,
        3 => cpu.cr3,
        4 => cpu.cr4,
        _ => cpu.apic_cr8(),
    };
    cpu.set_natural(op.dst, value);
    Ok(())
}

impl Cpu {
    fn set_cr0(&mut self, value: u64) -> Result<(), Trap> {
        let impossible = value >> 32 != 0
            || value & CR0_PG != 0 && value & CR0_PE == 0
            || value & CR0_NW != 0 && value & CR0_CD == 0;
        if impossible {
            return Err(self.gp0());
        }
        let value = value & CR0_BITS | CR0_ET;
        let changed = self.cr0 ^ value;
        if changed & CR0_PG != 0 {
            self.check_directory_pointers(value, self.cr4, self.cr3)?;
        }
        if changed & CR0_PG != 0 {
            self.switch_paging(value & CR0_PG != 0)?;
        }
        self.cr0 = value;
        if changed & (CR0_PG | CR0_WP | CR0_PE) != 0 {
            self.flush_tlb(true);
        }
        if changed & value & CR0_PE == 0 && changed & CR0_PE != 0 {
            self.cpl = 0;
        }
        self.mode_changed();
        Ok(())
    }

    /// What CR0.PG does to EFER.LMA.
    fn switch_paging(&mut self, on: bool) -> Result<(), Trap> {
        if !on {
            if self.long_mode() {
                return Err(self.gp0());
            }
            self.efer &= !EFER_LMA;
        } else if self.efer & EFER_LME != 0 {
            let tss16 = !self.tr.unusable && matches!(self.tr.kind(), kind::TSS16 | kind::TSS16_BUSY);
            if self.cr4 & CR4_PAE == 0 || self.segs[usize::from(seg::CS)].long() || tss16 {
                return Err(self.gp0());
            }
            self.efer |= EFER_LMA;
        }
        Ok(())
    }

    fn set_cr3(&mut self, value: u64) -> Result<(), Trap> {
        if self.long_active() && value & !self.mmu.physical_mask != 0 {
            return Err(self.gp0());
        }
        self.check_directory_pointers(self.cr0, self.cr4, value)?;
        self.cr3 = value;
        self.flush_tlb(false);
        Ok(())
    }

    /// Where these control registers mean PAE paging: #GP(0) if its page-directory pointers cannot be loaded.
    fn check_directory_pointers(&mut self, cr0: u64, cr4: u64, cr3: u64) -> Result<(), Trap> {
        let pae = cr0 & CR0_PG != 0 && cr4 & CR4_PAE != 0 && self.efer & EFER_LME == 0;
        if pae && !self.good_directory_pointers(cr3) { Err(self.gp0()) } else { Ok(()) }
    }

    fn set_cr4(&mut self, value: u64) -> Result<(), Trap> {
        if value & !CR4_BITS != 0 || self.long_active() && value & CR4_PAE == 0 {
            return Err(self.gp0());
        }
        let paging = (self.cr4 ^ value) & (CR4_PAE | CR4_PSE | CR4_PGE) != 0;
        if paging {
            self.check_directory_pointers(self.cr0, value, self.cr3)?;
        }
        self.cr4 = value;
        if paging {
            self.flush_tlb(true);
        }
        self.mode_changed();
        Ok(())
    }
}

fn clts(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    cpu.privileged()?;
    cpu.cr0 &= !CR0_TS;
    cpu.fp_mode_changed();
    Ok(())
}

fn lmsw(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    cpu.privileged()?;
    let word = u64::from(cpu.word_operand(op, op.dst)?);
    cpu.set_cr0(cpu.cr0 & !(MSW_BITS & !CR0_PE) | word & MSW_BITS)?;
    Ok(cpu.next_rip(op))
}

fn invlpg(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    cpu.privileged()?;
    // No access is made: neither limits nor canonical form are checked.
    let offset = cpu.offset(op);
    let base = if cpu.long_mode() && op.seg < seg::FS { 0 } else { cpu.segs[usize::from(op.seg)].base };
    let la = cpu.wrap_linear(base.wrapping_add(offset));
    cpu.flush_page(la);
    Ok(cpu.next_rip(op))
}
