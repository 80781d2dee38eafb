//! One vCPU of KVM: its run loop, and its state in and out.

use std::sync::Arc;

use kvm_bindings::kvm_run;
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use softcpu::{Activity, Bus, CpuState};
use vm_memory::{Bytes, GuestAddress};

use super::kick::Kick;
use super::{GuestClock, failed, msrs, state};
use crate::engine::{EngineError, Exit, Kicker, Processor};
use crate::memory::Ram;

/// What a processor is made of.
pub(super) struct Parts {
    pub vcpu: VcpuFd,
    pub vm: Arc<VmFd>,
    pub clock: Arc<GuestClock>,
    /// The MSRs KVM saves and restores.
    pub msrs: Vec<u32>,
    pub bus: Arc<dyn Bus>,
    pub ram: Arc<Ram>,
    pub index: usize,
}

/// A vCPU.
pub(super) struct KvmProcessor {
    parts: Parts,
    kick: Arc<Kick>,
    run: *mut kvm_run,
    /// It has run since its state was last taken or set: KVM may still owe the end of an instruction.
    has_run: bool,
    /// It has been stopped since it last ran: the guest's watchdogs must know.
    was_paused: bool,
}

// SAFETY: `run` points into the vCPU's shared page, which moves with the processor.
unsafe impl Send for KvmProcessor {}

/// What is left to do after an entry into the guest.
enum Outcome {
    Continue,
    /// The kernel was interrupted: by a kick, perhaps.
    Interrupted,
    Exit(Exit),
}

impl KvmProcessor {
    pub(super) fn new(mut parts: Parts) -> Self {
        let run = std::ptr::from_mut(parts.vcpu.get_kvm_run());
        // SAFETY: the run page stays mapped as long as the vCPU lives, and `drop` tells the kick before it goes.
        let kick = Arc::new(unsafe { Kick::new(&raw mut (*run).immediate_exit) });
        Self { parts, kick, run, has_run: false, was_paused: false }
    }

    /// Enters the guest once and answers what it asks.
    fn enter(&mut self) -> Outcome {
        let (vcpu, bus, run) = (&mut self.parts.vcpu, &*self.parts.bus, self.run);
        let exit = self.kick.running(|| vcpu.run());
        match exit {
            Ok(VcpuExit::IoOut(port, data)) => {
                // SAFETY: the exit is KVM_EXIT_IO, so this member is the one that is set.
                let size = unsafe { (*run).__bindgen_anon_1.io.size };
                data.chunks_exact(usize::from(size.max(1))).for_each(|piece| bus.port_write(port, piece));
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                // SAFETY: as above.
                let size = unsafe { (*run).__bindgen_anon_1.io.size };
                data.chunks_exact_mut(usize::from(size.max(1))).for_each(|piece| bus.port_read(port, piece));
            }
            Ok(VcpuExit::MmioRead(gpa, data)) => bus.mmio_read(gpa, data),
            Ok(VcpuExit::MmioWrite(gpa, data)) => bus.mmio_write(gpa, data),
            Ok(VcpuExit::IoapicEoi(vector)) => bus.end_of_interrupt(vector),
            Ok(VcpuExit::Shutdown) => return Outcome::Exit(Exit::Shutdown),
            Ok(VcpuExit::Hlt | VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::SetTpr) => {}
            Ok(exit) => {
                let what = format!("{exit:?}");
                return Outcome::Exit(Exit::Failed(self.describe(&what)));
            }
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => return Outcome::Interrupted,
            Err(error) => {
                let what = format!("KVM_RUN: {error}");
                return Outcome::Exit(Exit::Failed(self.describe(&what)));
            }
        }
        Outcome::Continue
    }

    /// What a person needs to find out why a guest cannot go on.
    fn describe(&self, what: &str) -> String {
        let mut text = format!("Processor {} cannot go on: {what}", self.parts.index);
        // SAFETY: a number that says which exit it was is always valid.
        if unsafe { (*self.run).exit_reason } == kvm_bindings::KVM_EXIT_INTERNAL_ERROR {
            // SAFETY: the exit reason says that this member is set.
            let suberror = unsafe { (*self.run).__bindgen_anon_1.internal.suberror };
            text += match suberror {
                kvm_bindings::KVM_INTERNAL_ERROR_EMULATION => " (KVM cannot emulate an instruction)",
                kvm_bindings::KVM_INTERNAL_ERROR_DELIVERY_EV => " (an event cannot be delivered)",
                _ => " (an unknown kind)",
            };
        }
        if let (Ok(r), Ok(s)) = (self.parts.vcpu.get_regs(), self.parts.vcpu.get_sregs()) {
            let at = s.cs.base.wrapping_add(r.rip);
            text += &format!(
                "; rip {:#x} rsp {:#x} rflags {:#x} rax {:#x} rcx {:#x} rdx {:#x} rbx {:#x} rsi {:#x} rdi {:#x} \
                 cs {:#x} cr0 {:#x} cr2 {:#x} cr3 {:#x} cr4 {:#x} efer {:#x}",
                r.rip,
                r.rsp,
                r.rflags,
                r.rax,
                r.rcx,
                r.rdx,
                r.rbx,
                r.rsi,
                r.rdi,
                s.cs.selector,
                s.cr0,
                s.cr2,
                s.cr3,
                s.cr4,
                s.efer
            );
            let mut bytes = [0u8; 15];
            let translated = self.parts.vcpu.translate_gva(at).ok().filter(|t| t.valid != 0);
            if let Some(t) = translated
                && self.parts.ram.memory().read_slice(&mut bytes, GuestAddress(t.physical_address)).is_ok()
            {
                text += &format!("; bytes at rip {bytes:02x?}");
            }
        }
        text
    }

    /// Lets KVM finish the instruction whose port or memory access was answered last, without executing another.
    fn settle(&mut self) -> Result<(), EngineError> {
        if !std::mem::take(&mut self.has_run) {
            return Ok(());
        }
        // An instruction may make several accesses, each of which is an exit of its own.
        for _ in 0..4096 {
            self.kick.finish_only();
            match self.enter() {
                Outcome::Continue => {}
                Outcome::Interrupted => return Ok(()),
                // The exit comes again when the processor runs.
                Outcome::Exit(_) => return Ok(()),
            }
        }
        Err(EngineError::State { why: "an instruction does not end".into() })
    }
}

impl Drop for KvmProcessor {
    fn drop(&mut self) {
        self.kick.gone();
    }
}

impl Kicker for Kick {
    fn kick(&self) {
        Kick::kick(self);
    }
}

impl Processor for KvmProcessor {
    fn run(&mut self) -> Exit {
        if std::mem::take(&mut self.was_paused) {
            // Refused where the guest has no kvmclock; then it has no watchdog to calm by it.
            let _ = self.parts.vcpu.kvmclock_ctrl();
        }
        self.has_run = true;
        loop {
            if self.kick.take() {
                self.was_paused = true;
                return Exit::Kicked;
            }
            if let Outcome::Exit(exit) = self.enter() {
                return exit;
            }
        }
    }

    fn kicker(&self) -> Arc<dyn Kicker> {
        self.kick.clone()
    }

    fn state(&mut self) -> Result<CpuState, EngineError> {
        self.settle()?;
        let vcpu = &self.parts.vcpu;
        // First, because it takes in an INIT or a startup IPI that waits.
        let activity = state::activity(vcpu.get_mp_state().map_err(failed("KVM_GET_MP_STATE"))?);
        let mut s = CpuState { activity, ..CpuState::default() };
        state::read_regs(&mut s, &vcpu.get_regs().map_err(failed("KVM_GET_REGS"))?);
        state::read_sregs(&mut s, &vcpu.get_sregs().map_err(failed("KVM_GET_SREGS"))?);
        state::read_fpu(&mut s, &vcpu.get_xsave().map_err(failed("KVM_GET_XSAVE"))?);
        state::read_debug(&mut s, &vcpu.get_debug_regs().map_err(failed("KVM_GET_DEBUGREGS"))?);
        let now = self.parts.clock.now_ns(&self.parts.vm);
        state::read_lapic(&mut s.apic, &vcpu.get_lapic().map_err(failed("KVM_GET_LAPIC"))?, now);
        let tsc = msrs::save(vcpu, &self.parts.msrs, &mut s);
        s.tsc_offset = tsc.wrapping_sub(self.parts.clock.tsc_at(now));
        state::read_events(&mut s, &vcpu.get_vcpu_events().map_err(failed("KVM_GET_VCPU_EVENTS"))?);
        Ok(s)
    }

    fn set_state(&mut self, s: &CpuState) -> Result<(), EngineError> {
        self.settle()?;
        let s = &state::completed(s, self.parts.index);
        let vcpu = &self.parts.vcpu;
        vcpu.set_mp_state(state::mp_state(s.activity)).map_err(failed("KVM_SET_MP_STATE"))?;
        vcpu.set_regs(&state::regs(s)).map_err(failed("KVM_SET_REGS"))?;
        vcpu.set_sregs(&state::sregs(s)).map_err(failed("KVM_SET_SREGS"))?;
        let mut xsave = vcpu.get_xsave().map_err(failed("KVM_GET_XSAVE"))?;
        state::write_fpu(s, &mut xsave);
        // SAFETY: no feature with more state than the 4096 bytes was enabled.
        unsafe { vcpu.set_xsave(&xsave) }.map_err(failed("KVM_SET_XSAVE"))?;
        vcpu.set_debug_regs(&state::debug(s)).map_err(failed("KVM_SET_DEBUGREGS"))?;
        let now = self.parts.clock.now_ns(&self.parts.vm);
        vcpu.set_lapic(&state::lapic(&s.apic, now)).map_err(failed("KVM_SET_LAPIC"))?;
        let tsc = self.parts.clock.tsc_at(now).wrapping_add(s.tsc_offset);
        msrs::restore(vcpu, &self.parts.msrs, s, tsc)?;
        vcpu.set_vcpu_events(&state::events(s)).map_err(failed("KVM_SET_VCPU_EVENTS"))?;
        // MP_STATE again: setting the registers of a halted processor makes KVM think it runs.
        if s.activity != Activity::Running {
            vcpu.set_mp_state(state::mp_state(s.activity)).map_err(failed("KVM_SET_MP_STATE"))?;
        }
        Ok(())
    }
}
