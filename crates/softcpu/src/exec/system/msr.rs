//! RDMSR and WRMSR (Intel SDM vol. 4; AMD's from APM vol. 2, appendix A; KVM's from Linux, Documentation/virt/kvm/x86/msr.rst).

use crate::cpu::Cpu;
use crate::fault::Trap;
use crate::mmu::canonical;
use crate::op::seg;

const TSC: u32 = 0x10;
const PLATFORM_ID: u32 = 0x17;
const APIC_BASE: u32 = 0x1b;
const FEATURE_CONTROL: u32 = 0x3a;
const TSC_ADJUST: u32 = 0x3b;
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
const MCG_CTL: u32 = 0x17b;
const MISC_ENABLE: u32 = 0x1a0;
const DEBUGCTL: u32 = 0x1d9;
const MTRR_VARIABLE: std::ops::RangeInclusive<u32> = 0x200..=0x20f;
const MTRR_FIXED: [u32; 11] = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];
const PAT: u32 = 0x277;
const MTRR_DEF_TYPE: u32 = 0x2ff;
const TSC_DEADLINE: u32 = 0x6e0;
const X2APIC: std::ops::RangeInclusive<u32> = 0x800..=0x8ff;
const KVM_CLOCK: [u32; 4] = [0x11, 0x12, 0x4b56_4d00, 0x4b56_4d01];
const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const SFMASK: u32 = 0xc000_0084;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const TSC_AUX: u32 = 0xc000_0103;
/// AMD registers that operating systems look at and that read as zero here: SYSCFG, HWCR, TOP_MEM, performance counters,
/// OSVW, LS_CFG, DE_CFG.
const AMD_ZERO: [u32; 14] = [
    0xc001_0000,
    0xc001_0004,
    0xc001_0010,
    0xc001_0015,
    0xc001_001a,
    0xc001_001d,
    0xc001_001f,
    0xc001_0055,
    0xc001_0058,
    0xc001_0140,
    0xc001_0141,
    0xc001_1020,
    0xc001_1029,
    0xc001_102a,
];

/// SCE, LME, LMA, NXE.
const EFER_BITS: u64 = 0xd01;
const EFER_LME: u64 = 1 << 8;

/// Eight variable ranges, fixed ranges, write combining (Intel SDM vol. 3, 12.11.1).
const MTRR_CAP_VALUE: u64 = 0x508;

impl Cpu {
    /// RDMSR: the value, or #GP(0) for a register that does not exist.
    pub(crate) fn read_msr(&mut self, msr: u32) -> Result<u64, Trap> {
        Ok(match msr {
            TSC => self.time_stamp(),
            TSC_ADJUST | PLATFORM_ID | FEATURE_CONTROL | MCG_CAP | MCG_STATUS | MCG_CTL => 0,
            UCODE_REV => 1 << 32,
            SPEC_CTRL if self.cpuid_bit(7, |e| e.edx, 26) => self.msrs.spec_ctrl,
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
            _ if MTRR_VARIABLE.contains(&msr) => self.msrs.mtrr_variable[(msr - 0x200) as usize],
            _ if AMD_ZERO.contains(&msr) => 0,
            _ => match MTRR_FIXED.iter().position(|&m| m == msr) {
                Some(i) => self.msrs.mtrr_fixed[i],
                None => return Err(self.unknown_msr("read", msr)),
            },
        })
    }

    /// WRMSR: #GP(0) for a register that does not exist or a value it cannot hold.
    pub(crate) fn write_msr(&mut self, msr: u32, value: u64) -> Result<(), Trap> {
        match msr {
            TSC => self.tsc_offset = value.wrapping_sub(self.system.clock.tsc()),
            TSC_ADJUST | UCODE_REV | MCG_STATUS | MCG_CTL | FEATURE_CONTROL => {}
            SPEC_CTRL if self.cpuid_bit(7, |e| e.edx, 26) => self.msrs.spec_ctrl = value,
            PRED_CMD if self.cpuid_bit(7, |e| e.edx, 26) => {}
            SYSENTER_CS => self.msrs.sysenter_cs = value & 0xffff_ffff,
            SYSENTER_ESP => self.msrs.sysenter_esp = self.canonical_value(value)?,
            SYSENTER_EIP => self.msrs.sysenter_eip = self.canonical_value(value)?,
            MISC_ENABLE => self.msrs.misc_enable = value,
            DEBUGCTL => self.msrs.debugctl = value & 3,
            PAT => self.msrs.pat = self.memory_types(value, 7)?,
            MTRR_DEF_TYPE => self.msrs.mtrr_def_type = value & 0xcff,
            EFER => self.set_efer(value)?,
            STAR => self.msrs.star = value,
            LSTAR => self.msrs.lstar = self.canonical_value(value)?,
            CSTAR => self.msrs.cstar = self.canonical_value(value)?,
            SFMASK => self.msrs.sfmask = value & 0xffff_ffff,
            FS_BASE => self.segs[usize::from(seg::FS)].base = self.canonical_value(value)?,
            GS_BASE => self.segs[usize::from(seg::GS)].base = self.canonical_value(value)?,
            KERNEL_GS_BASE => self.msrs.kernel_gs_base = self.canonical_value(value)?,
            TSC_AUX => self.msrs.tsc_aux = value & 0xffff_ffff,
            APIC_BASE | TSC_DEADLINE => return self.apic_write_msr(msr, value),
            _ if X2APIC.contains(&msr) => return self.apic_write_msr(msr, value),
            _ if KVM_CLOCK.contains(&msr) => return self.kvmclock_write(msr, value),
            _ if MTRR_VARIABLE.contains(&msr) => self.msrs.mtrr_variable[(msr - 0x200) as usize] = value,
            _ if AMD_ZERO.contains(&msr) => {}
            _ => match MTRR_FIXED.iter().position(|&m| m == msr) {
                Some(i) => self.msrs.mtrr_fixed[i] = self.memory_types(value, 6)?,
                None => return Err(self.unknown_msr("write", msr)),
            },
        }
        Ok(())
    }

    #[cold]
    fn unknown_msr(&mut self, access: &str, msr: u32) -> Trap {
        tracing::debug!("the guest's {access} of MSR {msr:#x} gives #GP: there is no such register");
        self.gp0()
    }

    /// Bit `bit` of a register of CPUID leaf `leaf`.
    fn cpuid_bit(&self, leaf: u32, register: impl Fn(&crate::system::CpuidEntry) -> u32, bit: u32) -> bool {
        self.cpuid.iter().any(|e| e.leaf == leaf && register(e) >> bit & 1 != 0)
    }

    fn canonical_value(&mut self, value: u64) -> Result<u64, Trap> {
        if canonical(value) { Ok(value) } else { Err(self.gp0()) }
    }

    /// Eight memory types, each at most `most` and none of the reserved 2 and 3.
    fn memory_types(&mut self, value: u64, most: u8) -> Result<u64, Trap> {
        if value.to_le_bytes().iter().all(|&t| t <= most && t != 2 && t != 3) {
            Ok(value)
        } else {
            Err(self.gp0())
        }
    }

    fn set_efer(&mut self, value: u64) -> Result<(), Trap> {
        let changes_lme = (value ^ self.efer) & EFER_LME != 0;
        if value & !EFER_BITS != 0 || changes_lme && self.cr0 & crate::paging::CR0_PG != 0 {
            return Err(self.gp0());
        }
        // LMA is the processor's to set.
        let lma = crate::paging::EFER_LMA;
        self.efer = value & !lma | self.efer & lma;
        self.flush_tlb(true);
        self.mode_changed();
        Ok(())
    }
}

/// RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO, BHI_NO, and the later ones Linux asks for: an
/// interpreter speculates on nothing (Intel SDM vol. 4, IA32_ARCH_CAPABILITIES).
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
