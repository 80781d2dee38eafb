//! The whole processor as data, out and in. Both directions are complete: nothing of a processor is anywhere else but in
//! caches.

use crate::cpu::Cpu;
use crate::fault::Pending;
use crate::op::seg;
use crate::paging::{CR0_PE, EFER_LMA};
use crate::state::CpuState;

impl Cpu {
    /// The processor's state. To be called when [`run`](Self::run) has returned; what was posted to the mailbox before is
    /// in it.
    pub fn state(&mut self) -> CpuState {
        self.apic_poll();
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

    /// Makes the processor what `state` says; what was posted to its mailbox before is forgotten.
    pub fn set_state(&mut self, state: &CpuState) {
        self.set_core(state);
        self.set_floating_point(state);
        self.msrs = state.msrs.clone();
        self.tsc_offset = state.tsc_offset;
        self.apic_restore(&state.apic);
        self.kvmclock_update();
        self.steal_time_runs();
    }

    /// Everything but floating point, MSRs, the TSC and the APIC.
    pub(crate) fn set_core(&mut self, state: &CpuState) {
        self.slots[..16].copy_from_slice(&state.gpr);
        self.set_rip(state.rip);
        self.set_rflags(state.rflags);
        self.segs = state.segments;
        (self.ldtr, self.tr) = (state.ldtr, state.tr);
        (self.gdtr, self.idtr) = (state.gdtr, state.idtr);
        (self.cr0, self.cr2, self.cr3, self.cr4) = (state.cr0, state.cr2, state.cr3, state.cr4);
        self.efer = state.efer;
        self.dr = state.dr;
        self.activity = state.activity;
        self.shadow = state.shadow;
        (self.single_step, self.debug_held, self.watch_hits) = (false, false, 0);
        (self.nmi_blocked, self.nmi_pending) = (state.nmi_blocked, state.nmi_pending);
        self.cpl = if self.cr0 & CR0_PE == 0 {
            0
        } else if self.virtual_8086() {
            3
        } else {
            self.segs[usize::from(seg::SS)].dpl()
        };
        if self.efer & EFER_LMA == 0 {
            self.set_rip(state.rip & 0xffff_ffff);
        }
        self.pending = Pending::None;
        self.exit = None;
        self.block = std::ptr::null();
        self.code.clear();
        self.flush_tlb(true);
        self.mode_changed();
    }

    /// The XMM registers, MXCSR and the x87 unit.
    pub(crate) fn set_floating_point(&mut self, state: &CpuState) {
        self.xmm = state.xmm;
        self.mxcsr = state.mxcsr & 0xffff;
        self.x87 = state.x87;
        self.fp_mode_changed();
    }
}
