//! The processor as a whole: made, reset, read out and set.

use std::sync::Arc;

use crate::apic::Apic;
use crate::bus::Bus;
use crate::cache::CodeCache;
use crate::cpu::{Cpu, Mode};
use crate::fault::Pending;
use crate::flags::rflags;
use crate::mmu::Mmu;
use crate::op::seg;
use crate::state::{Activity, CpuState, Msrs, Segment, TableRegister, X87};
use crate::system::{CpuidEntry, System};

/// Value of IA32_PAT after reset (Intel SDM vol. 3, 12.12.4).
const PAT_RESET: u64 = 0x0007_0406_0007_0406;

impl Default for CpuState {
    /// The state after power-on (Intel SDM vol. 3, table 10-1) of a bootstrap processor.
    fn default() -> Self {
        let data = Segment { selector: 0, base: 0, limit: 0xffff, rights: 0x93, unusable: false };
        let mut segments = [data; 6];
        segments[usize::from(seg::CS)] =
            Segment { selector: 0xf000, base: 0xffff_0000, limit: 0xffff, rights: 0x9b, unusable: false };
        let table = TableRegister { base: 0, limit: 0xffff };
        let mut dr = [0; 8];
        (dr[6], dr[7]) = (0xffff_0ff0, 0x400);
        Self {
            gpr: [0; 16],
            rip: 0xfff0,
            rflags: rflags::FIXED,
            segments,
            ldtr: Segment { rights: 0x82, ..data },
            tr: Segment { rights: 0x8b, ..data },
            gdtr: table,
            idtr: table,
            cr0: 0x6000_0010,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            dr,
            xmm: [0; 16],
            mxcsr: 0x1f80,
            x87: X87::default(),
            msrs: Msrs { pat: PAT_RESET, misc_enable: 1, ..Msrs::default() },
            apic: crate::state::ApicState::default(),
            activity: Activity::Running,
            shadow: false,
            nmi_blocked: false,
            nmi_pending: false,
            tsc_offset: 0,
        }
    }
}

impl Cpu {
    /// Processor `index` of `system`, as after power-on: the first runs, the others wait for a startup IPI. `cpuid` is
    /// what it says of itself.
    pub fn new(system: Arc<System>, index: usize, cpuid: Arc<[CpuidEntry]>, bus: Arc<dyn Bus>) -> Self {
        let mailbox = Arc::clone(system.mailbox(index));
        let physical_bits = cpuid.iter().find(|e| e.leaf == 0x8000_0008).map_or(36, |e| e.eax & 0xff);
        let mut cpu = Self {
            slots: [0; 18],
            fuel: 0,
            arith: 0,
            cpl: 0,
            mode: Mode::REAL,
            fp_ok: 0,
            rflags_rest: rflags::FIXED,
            mmu: Mmu::new(physical_bits),
            segs: [Segment::default(); 6],
            xmm: [0; 16],
            mxcsr: 0x1f80,
            x87: X87::default(),
            stopped_at: std::ptr::null(),
            block: std::ptr::null(),
            pending: Pending::None,
            exit: None,
            code: CodeCache::new(),
            cr0: 0,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            dr: [0; 8],
            ldtr: Segment::default(),
            tr: Segment::default(),
            gdtr: TableRegister::default(),
            idtr: TableRegister::default(),
            msrs: Msrs::default(),
            tsc_offset: 0,
            shadow: false,
            nmi_blocked: false,
            nmi_pending: false,
            activity: Activity::Running,
            apic: Apic::new(Arc::clone(&mailbox), index == 0),
            cpuid,
            system,
            mailbox,
            bus,
            index,
            instructions: 0,
        };
        let apic = cpu.apic_save();
        let activity = if index == 0 { Activity::Running } else { Activity::Uninitialized };
        cpu.set_state(&CpuState { apic, activity, ..CpuState::default() });
        cpu.slots[2] = u64::from(cpu.signature());
        cpu
    }

    /// CPUID.1:EAX, which RDX holds after reset.
    fn signature(&self) -> u32 {
        self.cpuid.iter().find(|e| e.leaf == 1).map_or(0, |e| e.eax)
    }

    /// The state after an INIT: as after power-on, but caches, TSC, most MSRs and the x87 and SSE units are kept, and the
    /// processor waits for a startup IPI unless it is the bootstrap processor (Intel SDM vol. 3, 9.1.1 and table 10-1).
    pub(crate) fn reset_init(&mut self) {
        let kept = self.state();
        let bootstrap = kept.apic.base & 1 << 8 != 0;
        let fresh = CpuState::default();
        let mut gpr = [0; 16];
        gpr[2] = u64::from(self.signature());
        // The local APIC sees to itself, and must not forget a startup IPI that follows at once.
        self.set_registers(&CpuState {
            gpr,
            cr0: 0x10 | kept.cr0 & 0x6000_0000,
            xmm: kept.xmm,
            mxcsr: kept.mxcsr,
            x87: kept.x87,
            msrs: Msrs { kernel_gs_base: kept.msrs.kernel_gs_base, ..kept.msrs },
            tsc_offset: kept.tsc_offset,
            activity: if bootstrap { Activity::Running } else { Activity::WaitForSipi },
            ..fresh
        });
    }

    /// The whole architectural state.
    pub fn state(&mut self) -> CpuState {
        let mut gpr = [0; 16];
        gpr.copy_from_slice(&self.slots[..16]);
        CpuState {
            gpr,
            rip: self.block_rip(),
            rflags: self.rflags(),
            segments: self.segs,
            ldtr: self.ldtr,
            tr: self.tr,
            gdtr: self.gdtr,
            idtr: self.idtr,
            cr0: self.cr0,
            cr2: self.cr2,
            cr3: self.cr3,
            cr4: self.cr4,
            efer: self.efer,
            dr: self.dr,
            xmm: self.xmm,
            mxcsr: self.mxcsr,
            x87: self.x87,
            msrs: self.msrs.clone(),
            apic: self.apic_save(),
            activity: self.activity,
            shadow: self.shadow,
            nmi_blocked: self.nmi_blocked,
            nmi_pending: self.nmi_pending,
            tsc_offset: self.tsc_offset,
        }
    }

    /// Sets the whole architectural state; everything derived from it is forgotten.
    pub fn set_state(&mut self, s: &CpuState) {
        self.apic_restore(&s.apic);
        self.set_registers(s);
    }

    /// All of the state but the local APIC.
    fn set_registers(&mut self, s: &CpuState) {
        self.slots[..16].copy_from_slice(&s.gpr);
        self.set_rip(s.rip);
        self.set_rflags(s.rflags);
        self.segs = s.segments;
        self.ldtr = s.ldtr;
        self.tr = s.tr;
        self.gdtr = s.gdtr;
        self.idtr = s.idtr;
        (self.cr0, self.cr2, self.cr3, self.cr4) = (s.cr0, s.cr2, s.cr3, s.cr4);
        self.efer = s.efer;
        self.dr = s.dr;
        self.xmm = s.xmm;
        self.mxcsr = s.mxcsr;
        self.x87 = s.x87;
        self.msrs = s.msrs.clone();
        self.activity = s.activity;
        self.shadow = s.shadow;
        self.nmi_blocked = s.nmi_blocked;
        self.nmi_pending = s.nmi_pending;
        self.tsc_offset = s.tsc_offset;
        self.pending = Pending::None;
        self.exit = None;
        let real = s.cr0 & crate::paging::CR0_PE == 0;
        self.cpl = match (real, s.rflags & rflags::VM != 0) {
            (true, _) => 0,
            (false, true) => 3,
            (false, false) => s.segments[usize::from(seg::SS)].dpl(),
        };
        self.flush_tlb(true);
        self.mode_changed();
    }

    /// Instructions executed since the processor was made.
    pub fn instructions(&self) -> u64 {
        self.instructions
    }
}
