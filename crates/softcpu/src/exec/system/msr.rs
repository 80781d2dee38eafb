//! RDMSR and WRMSR (Intel SDM vol. 4; AMD's from APM vol. 2, appendix A; KVM's from Linux, Documentation/virt/kvm/x86/msr.rst).

use std::ops::RangeInclusive;

use iced_x86::{Instruction, Mnemonic};

use crate::cpu::Cpu;
use crate::fault::Trap;
use crate::mmu::canonical;
use crate::op::{Lowered, Op, leave, seg, slot, step};
use crate::paging::{CR0_PG, EFER_LMA, EFER_NXE};

const TSC: u32 = 0x10;
const TSC_ADJUST: u32 = 0x3b;
const PLATFORM_ID: u32 = 0x17;
const APIC_BASE: u32 = 0x1b;
const FEATURE_CONTROL: u32 = 0x3a;
const SPEC_CTRL: u32 = 0x48;
const PRED_CMD: u32 = 0x49;
const UCODE_REV: u32 = 0x8b;
const MTRR_CAP: u32 = 0xfe;
const ARCH_CAPABILITIES: u32 = 0x10a;
const SYSENTER_CS: u32 = 0x174;
const SYSENTER_ESP: u32 = 0x175;
const SYSENTER_EIP: u32 = 0x176;
const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17a;
const PERF_STATUS: u32 = 0x198;
const PERF_CTL: u32 = 0x199;
const MISC_ENABLE: u32 = 0x1a0;
const DEBUGCTL: u32 = 0x1d9;
const MTRR_VARIABLE: RangeInclusive<u32> = 0x200..=0x20f;
const MTRR_FIXED: [u32; 11] = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];
const PAT: u32 = 0x277;
const MTRR_DEF_TYPE: u32 = 0x2ff;
const TSC_DEADLINE: u32 = 0x6e0;
const X2APIC: RangeInclusive<u32> = 0x800..=0x8ff;
const KVM_CLOCK: [u32; 4] = [0x11, 0x12, 0x4b56_4d00, 0x4b56_4d01];
const KVM_STEAL_TIME: u32 = 0x4b56_4d03;
const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const SFMASK: u32 = 0xc000_0084;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const TSC_AUX: u32 = 0xc000_0103;

/// AMD registers that operating systems look at (some on every processor): the value they read as; writes are ignored.
const AMD: [(RangeInclusive<u32>, u64); 12] = [
    // Performance event selects and counters of K7.
    (0xc001_0000..=0xc001_0007, 0),
    // SYSCFG.
    (0xc001_0010..=0xc001_0010, 0),
    // HWCR: the TSC counts at a constant rate.
    (0xc001_0015..=0xc001_0015, 1 << 24),
    // TOP_MEM and TOP_MEM2.
    (0xc001_001a..=0xc001_001a, 0),
    (0xc001_001d..=0xc001_001d, 0),
    // NB_CFG.
    (0xc001_001f..=0xc001_001f, 0),
    // Interrupt pending message.
    (0xc001_0055..=0xc001_0055, 0),
    // MMIO configuration base.
    (0xc001_0058..=0xc001_0058, 0),
    // OS-visible workarounds.
    (0xc001_0140..=0xc001_0141, 0),
    // LS_CFG … DC_CFG.
    (0xc001_1020..=0xc001_1023, 0),
    // DE_CFG: LFENCE serialises.
    (0xc001_1029..=0xc001_1029, 2),
    // BU_CFG2.
    (0xc001_102a..=0xc001_102a, 0),
];

/// SCE, LME, LMA, NXE.
const EFER_BITS: u64 = 0xd01;
const EFER_LME: u64 = 1 << 8;

/// Eight variable ranges, fixed ranges, write combining (Intel SDM vol. 3, 12.11.1).
const MTRR_CAP_VALUE: u64 = 0x508;
/// IA32_MTRR_DEF_TYPE: type, fixed ranges enabled, enabled.
const MTRR_DEF_TYPE_BITS: u64 = 0xcff;
/// IA32_SPEC_CTRL: IBRS, STIBP, SSBD.
const SPEC_CTRL_BITS: u64 = 7;
/// IA32_DEBUGCTL: LBR, BTF; kept, without effect.
const DEBUGCTL_BITS: u64 = 3;
/// IA32_FEATURE_CONTROL: locked, nothing enabled.
const FEATURE_CONTROL_VALUE: u64 = 1;
/// A microcode revision that no system considers too old.
const UCODE_REV_VALUE: u64 = 0xffff_fffe << 32;

/// IA32_ARCH_CAPABILITIES: an interpreter speculates on nothing, so all that Linux asks for is so: RDCL_NO,
/// SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, PBRSB_NO, GDS_NO, RFDS_NO.
const ARCH_CAPABILITIES_VALUE: u64 = 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 1 << 13
    | 1 << 14
    | 1 << 15
    | 1 << 24
    | 1 << 26
    | 1 << 27;

/// Unknown registers of which it is logged that the guest looked for them.
const MOST_LOGGED: usize = 64;

pub(super) fn lower(insn: &Instruction, _: &mut Op) -> Option<Lowered> {
    match insn.mnemonic() {
        Mnemonic::Rdmsr => Lowered::step(step(rdmsr)),
        Mnemonic::Wrmsr => Lowered::end(leave(wrmsr)),
        _ => None,
    }
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

fn amd_value(msr: u32) -> Option<u64> {
    AMD.iter().find(|(range, _)| range.contains(&msr)).map(|&(_, value)| value)
}

impl Cpu {
    /// RDMSR: the value, or #GP(0) for a register that does not exist.
    fn read_msr(&mut self, msr: u32) -> Result<u64, Trap> {
        Ok(match msr {
            TSC => self.time_stamp(),
            TSC_ADJUST if self.has_tsc_adjust() => self.msrs.tsc_adjust,
            PLATFORM_ID | MCG_CAP | MCG_STATUS | PERF_STATUS | PERF_CTL => 0,
            FEATURE_CONTROL => FEATURE_CONTROL_VALUE,
            UCODE_REV => UCODE_REV_VALUE,
            SPEC_CTRL if self.has_spec_ctrl() => self.msrs.spec_ctrl,
            MTRR_CAP => MTRR_CAP_VALUE,
            ARCH_CAPABILITIES if self.cpuid_bit(7, |e| e.edx, 29) => ARCH_CAPABILITIES_VALUE,
            SYSENTER_CS => self.msrs.sysenter_cs,
            SYSENTER_ESP => self.msrs.sysenter_esp,
            SYSENTER_EIP => self.msrs.sysenter_eip,
            MISC_ENABLE => self.msrs.misc_enable,
            DEBUGCTL => self.msrs.debugctl,
            PAT => self.msrs.pat,
            MTRR_DEF_TYPE => self.msrs.mtrr_def_type,
            EFER => self.efer,
            STAR => self.msrs.star,
            LSTAR => self.msrs.lstar,
            CSTAR => self.msrs.cstar,
            SFMASK => self.msrs.sfmask,
            FS_BASE => self.segs[usize::from(seg::FS)].base,
            GS_BASE => self.segs[usize::from(seg::GS)].base,
            KERNEL_GS_BASE => self.msrs.kernel_gs_base,
            TSC_AUX => self.msrs.tsc_aux,
            APIC_BASE | TSC_DEADLINE => return self.apic_read_msr(msr),
            _ if X2APIC.contains(&msr) => return self.apic_read_msr(msr),
            _ if KVM_CLOCK.contains(&msr) => return self.kvmclock_read(msr),
            KVM_STEAL_TIME => self.msrs.kvm_steal_time,
            _ if MTRR_VARIABLE.contains(&msr) => self.msrs.mtrr_variable[(msr - 0x200) as usize],
            _ => match (MTRR_FIXED.iter().position(|&m| m == msr), amd_value(msr)) {
                (Some(i), _) => self.msrs.mtrr_fixed[i],
                (None, Some(value)) => value,
                (None, None) => return Err(self.unknown_msr("read", msr)),
            },
        })
    }

    /// WRMSR: #GP(0) for a register that does not exist or a value it cannot hold.
    fn write_msr(&mut self, msr: u32, value: u64) -> Result<(), Trap> {
        match msr {
            TSC => self.set_time_stamp(value),
            TSC_ADJUST if self.has_tsc_adjust() => {
                self.add_to_time_stamp(value.wrapping_sub(self.msrs.tsc_adjust))
            }
            UCODE_REV | PERF_CTL => {}
            MCG_STATUS => self.zero_beyond(value, 0)?,
            SPEC_CTRL if self.has_spec_ctrl() => {
                self.zero_beyond(value, SPEC_CTRL_BITS)?;
                self.msrs.spec_ctrl = value;
            }
            PRED_CMD if self.has_spec_ctrl() => self.zero_beyond(value, 1)?,
            SYSENTER_CS => self.msrs.sysenter_cs = value & 0xffff_ffff,
            SYSENTER_ESP => self.msrs.sysenter_esp = self.canonical_value(value)?,
            SYSENTER_EIP => self.msrs.sysenter_eip = self.canonical_value(value)?,
            MISC_ENABLE => self.msrs.misc_enable = value,
            DEBUGCTL => {
                self.zero_beyond(value, DEBUGCTL_BITS)?;
                self.msrs.debugctl = value;
            }
            PAT => self.msrs.pat = self.memory_types(value, true)?,
            MTRR_DEF_TYPE => {
                self.zero_beyond(value, MTRR_DEF_TYPE_BITS)?;
                self.memory_types(value & 0xff, false)?;
                self.msrs.mtrr_def_type = value;
            }
            EFER => self.set_efer(value)?,
            STAR => self.msrs.star = value,
            LSTAR => self.msrs.lstar = self.canonical_value(value)?,
            CSTAR => self.msrs.cstar = self.canonical_value(value)?,
            SFMASK => self.msrs.sfmask = value & 0xffff_ffff,
            FS_BASE => self.segs[usize::from(seg::FS)].base = self.canonical_value(value)?,
            GS_BASE => self.segs[usize::from(seg::GS)].base = self.canonical_value(value)?,
            KERNEL_GS_BASE => self.msrs.kernel_gs_base = self.canonical_value(value)?,
            TSC_AUX => {
                self.zero_beyond(value, 0xffff_ffff)?;
                self.msrs.tsc_aux = value;
            }
            APIC_BASE | TSC_DEADLINE => return self.apic_write_msr(msr, value),
            _ if X2APIC.contains(&msr) => return self.apic_write_msr(msr, value),
            _ if KVM_CLOCK.contains(&msr) => return self.kvmclock_write(msr, value),
            KVM_STEAL_TIME => self.steal_time_write(value)?,
            _ if MTRR_VARIABLE.contains(&msr) => self.set_variable_range((msr - 0x200) as usize, value)?,
            _ => match MTRR_FIXED.iter().position(|&m| m == msr) {
                Some(i) => self.msrs.mtrr_fixed[i] = self.memory_types(value, false)?,
                None if amd_value(msr).is_some() => {}
                None => return Err(self.unknown_msr("write", msr)),
            },
        }
        Ok(())
    }

    #[cold]
    fn unknown_msr(&mut self, access: &str, msr: u32) -> Trap {
        if self.unknown_msrs.len() < MOST_LOGGED && !self.unknown_msrs.contains(&msr) {
            self.unknown_msrs.push(msr);
            tracing::debug!(
                cpu = self.index,
                "the guest's {access} of MSR {msr:#x} gives #GP: there is none"
            );
        }
        self.gp0()
    }

    /// Whether CPUID shows IBRS and IBPB.
    fn has_spec_ctrl(&self) -> bool {
        self.cpuid_bit(7, |e| e.edx, 26)
    }

    fn has_tsc_adjust(&self) -> bool {
        self.cpuid_bit(7, |e| e.ebx, 1)
    }

    fn set_time_stamp(&mut self, value: u64) {
        self.add_to_time_stamp(value.wrapping_sub(self.time_stamp()));
    }

    /// Whichever of the two registers software writes, the other one moves by as much (Intel SDM vol. 3, 18.17.3).
    fn add_to_time_stamp(&mut self, delta: u64) {
        self.tsc_offset = self.tsc_offset.wrapping_add(delta);
        self.msrs.tsc_adjust = self.msrs.tsc_adjust.wrapping_add(delta);
        self.kvmclock_update();
    }

    fn canonical_value(&mut self, value: u64) -> Result<u64, Trap> {
        if canonical(value) { Ok(value) } else { Err(self.gp0()) }
    }

    /// #GP(0) if `value` has bits other than `bits`.
    fn zero_beyond(&mut self, value: u64, bits: u64) -> Result<(), Trap> {
        if value & !bits == 0 { Ok(()) } else { Err(self.gp0()) }
    }

    /// Eight memory types: 0, 1, 4, 5, 6, and 7 (UC-) in the PAT.
    fn memory_types(&mut self, value: u64, pat: bool) -> Result<u64, Trap> {
        let valid = |t: u8| matches!(t, 0 | 1 | 4..=6) || pat && t == 7;
        if value.to_le_bytes().into_iter().all(valid) { Ok(value) } else { Err(self.gp0()) }
    }

    /// A variable range's base (even) or mask (odd register).
    fn set_variable_range(&mut self, register: usize, value: u64) -> Result<(), Trap> {
        let pages = self.mmu.physical_mask & !0xfff;
        if register.is_multiple_of(2) {
            self.zero_beyond(value, pages | 0xff)?;
            self.memory_types(value & 0xff, false)?;
        } else {
            self.zero_beyond(value, pages | 1 << 11)?;
        }
        self.msrs.mtrr_variable[register] = value;
        Ok(())
    }

    fn set_efer(&mut self, value: u64) -> Result<(), Trap> {
        let changed = value ^ self.efer;
        if value & !EFER_BITS != 0 || changed & EFER_LME != 0 && self.cr0 & CR0_PG != 0 {
            return Err(self.gp0());
        }
        // LMA is the processor's to set.
        self.efer = value & !EFER_LMA | self.efer & EFER_LMA;
        if changed & EFER_NXE != 0 {
            self.flush_tlb(true);
        }
        Ok(())
    }
}
