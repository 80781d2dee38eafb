//! How a processor comes to be: power-up, RESET and INIT (Intel SDM vol. 3, 9.1).

use std::sync::Arc;

use crate::apic::Apic;
use crate::bus::Bus;
use crate::cache::CodeCache;
use crate::cpu::{Cpu, Mode};
use crate::fault::Pending;
use crate::features::Features;
use crate::mmu::Mmu;
use crate::op::{seg, slot};
use crate::segment::{CODE_RIGHTS, DATA_RIGHTS};
use crate::state::{Activity, ApicState, CpuState, Msrs, Segment, TableRegister, X87};
use crate::system::{CpuidEntry, System};
use crate::wait::Wait;

/// CR0.CD and NW, which INIT leaves alone.
const CR0_CACHE: u64 = 3 << 29;
/// CR0 after power-up: caches off, ET.
const CR0_RESET: u64 = 0x6000_0010;
/// DR6 and DR7 after power-up.
const DR6_RESET: u64 = 0xffff_0ff0;
const DR7_RESET: u64 = 0x400;
/// IA32_PAT after power-up: write-back, write-through, uncached-, uncached, and again.
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
/// IA32_MISC_ENABLE: fast strings; branch trace store and event sampling are unavailable.
const MISC_ENABLE_RESET: u64 = 1 | 1 << 11 | 1 << 12;
/// Bits of physical address where CPUID does not say.
const PHYSICAL_BITS: u32 = 36;

impl Default for Msrs {
    /// As after power-up.
    fn default() -> Self {
        Self {
            star: 0,
            lstar: 0,
            cstar: 0,
            sfmask: 0,
            kernel_gs_base: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            pat: PAT_RESET,
            misc_enable: MISC_ENABLE_RESET,
            tsc_aux: 0,
            tsc_adjust: 0,
            mtrr_def_type: 0,
            mtrr_fixed: [0; 11],
            mtrr_variable: [0; 16],
            kvm_system_time: 0,
            kvm_wall_clock: 0,
            kvm_steal_time: 0,
            spec_ctrl: 0,
            debugctl: 0,
        }
    }
}

impl Default for CpuState {
    /// The bootstrap processor after power-up: about to execute FFFF:FFF0.
    fn default() -> Self {
        let data = Segment { limit: 0xffff, rights: DATA_RIGHTS, ..Segment::default() };
        let mut segments = [data; 6];
        segments[usize::from(seg::CS)] = Segment {
            selector: 0xf000,
            base: 0xffff_0000,
            limit: 0xffff,
            rights: CODE_RIGHTS,
            unusable: false,
        };
        let mut dr = [0; 8];
        (dr[6], dr[7]) = (DR6_RESET, DR7_RESET);
        let table = TableRegister { base: 0, limit: 0xffff };
        Self {
            gpr: [0; 16],
            rip: 0xfff0,
            rflags: 2,
            segments,
            ldtr: Segment { limit: 0xffff, rights: 0x82, ..Segment::default() },
            tr: Segment { limit: 0xffff, rights: 0x8b, ..Segment::default() },
            gdtr: table,
            idtr: table,
            cr0: CR0_RESET,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            dr,
            xmm: [0; 16],
            mxcsr: 0x1f80,
            x87: X87::default(),
            msrs: Msrs::default(),
            apic: ApicState::default(),
            activity: Activity::Running,
            shadow: false,
            nmi_blocked: false,
            nmi_pending: false,
            tsc_offset: 0,
        }
    }
}

impl Cpu {
    /// Processor `index` of `system` after power-up; the first runs, the others wait for an INIT. `cpuid` is what CPUID
    /// tells on this processor.
    ///
    /// # Panics
    /// If `system` has no processor `index`.
    pub fn new(system: Arc<System>, index: usize, cpuid: Arc<[CpuidEntry]>, bus: Arc<dyn Bus>) -> Self {
        let mailbox = Arc::clone(system.mailbox(index));
        let physical_bits = cpuid
            .iter()
            .find(|e| e.leaf == 0x8000_0008)
            .map_or(PHYSICAL_BITS, |e| e.eax & 0xff)
            .clamp(32, 52);
        let mut cpu = Self {
            slots: [0; 18],
            fuel: 0,
            polled: 0,
            arith: 0,
            cpl: 0,
            mode: Mode::empty(),
            fp_ok: 0,
            rflags_rest: 2,
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
            cr0: CR0_RESET,
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
            single_step: false,
            debug_held: false,
            watch_hits: 0,
            activity: Activity::Running,
            apic: Apic::new(Arc::clone(&mailbox), index == 0),
            features: Features::of(&cpuid),
            cpuid,
            system,
            mailbox,
            bus,
            index,
            wait: Wait::new(),
            instructions: 0,
            unknown_msrs: Vec::new(),
        };
        cpu.reset();
        cpu
    }

    /// Power-up once more: everything as [`new`](Self::new) made it, translated code forgotten.
    pub fn reset(&mut self) {
        let state = CpuState {
            activity: if self.index == 0 { Activity::Running } else { Activity::Uninitialized },
            ..CpuState::default()
        };
        self.set_core(&state);
        self.set_floating_point(&state);
        self.msrs = state.msrs;
        self.tsc_offset = 0;
        self.identify();
        self.apic = Apic::new(Arc::clone(&self.mailbox), self.index == 0);
        let apic = self.apic_save();
        self.apic_restore(&apic);
    }

    /// INIT: as power-up, but the caches' mode, floating-point registers, MSRs and the TSC stay; all but the bootstrap
    /// processor wait for a startup IPI. The APIC sees to itself, and must not forget one that follows at once.
    pub(crate) fn reset_init(&mut self) {
        let cache = self.cr0 & CR0_CACHE;
        let activity = if self.index == 0 { Activity::Running } else { Activity::WaitForSipi };
        self.set_core(&CpuState { activity, ..CpuState::default() });
        self.cr0 = self.cr0 & !CR0_CACHE | cache;
        self.identify();
    }

    /// RDX says what processor this is.
    fn identify(&mut self) {
        let signature = self.cpuid.iter().find(|e| e.leaf == 1).map_or(0, |e| e.eax);
        self.set::<u64>(slot::RDX, u64::from(signature));
    }

    /// The processor's number among those of its system.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Instructions executed so far.
    pub fn instructions(&self) -> u64 {
        self.instructions
    }

    /// How many guest instructions are translated: 32 bytes each, and their blocks.
    pub fn translated(&self) -> usize {
        self.code.len()
    }

    /// Frees the memory of translated code that was not executed since this was called the last time. What is needed again is translated
    /// again.
    pub fn forget_cold_code(&mut self) {
        self.code.forget_cold();
    }

    /// What others reach the processor through.
    pub fn mailbox(&self) -> &Arc<crate::apic::Mailbox> {
        &self.mailbox
    }
}
