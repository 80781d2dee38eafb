//! A virtual processor on KVM.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use kvm_bindings::{KVM_SYSTEM_EVENT_RESET, kvm_xsave};
use kvm_ioctls::{VcpuExit, VcpuFd};
use rustix::time::ClockId;
use softcpu::{Bus, CpuState};

use super::kick::{self, Kick, PendingSignal};
use super::tsc::Tsc;
use super::{Shared, failed, msrs, state, stats, steal, unexpected};
use crate::engine::limit::Limit;
use crate::engine::turn::Turn;
use crate::engine::{EngineError, Exit, Kicker, Processor};
use crate::figures::{Figures, Looks, Turns, clock_ns};

/// Names of registers that the guest asked for and KVM does not know are logged up to this many.
const MOST_UNKNOWN: usize = 64;

/// What came of an entry into the guest.
enum Outcome {
    GoesOn,
    /// By a kick, perhaps.
    Interrupted,
    Ends(Exit),
}

/// A vCPU.
pub(super) struct KvmProcessor {
    vcpu: VcpuFd,
    index: usize,
    shared: Arc<Shared>,
    bus: Arc<dyn Bus>,
    kick: Arc<Kick>,
    tsc: Arc<Tsc>,
    /// The start of the clock that the processor has followed.
    start_seen: Option<u64>,
    unknown_msrs: Vec<u32>,
    turn: Turn,
    limit: Limit,
    /// How often processors had been told to look when it did.
    told: u32,
    /// For the daemon, which looks for it.
    _stats: Option<File>,
}

impl KvmProcessor {
    /// Takes over a vCPU that has its CPUID table and has not run.
    pub fn new(
        mut vcpu: VcpuFd,
        index: usize,
        shared: Arc<Shared>,
        bus: Arc<dyn Bus>,
    ) -> Result<Self, EngineError> {
        let tsc = Tsc::new(&vcpu, shared.host.exact_tsc)?;
        shared.clock.add(Arc::clone(&tsc));
        let flag = &raw mut vcpu.get_kvm_run().immediate_exit;
        // SAFETY: the run page stays where it is until `vcpu` is dropped, and `drop` calls `gone` before that.
        let kick = Arc::new(unsafe { Kick::new(flag) });
        let limit = Limit::new(Arc::clone(&shared.bucket));
        let stats = stats::of(&vcpu);
        let turn = Turn::default();
        Ok(Self {
            vcpu,
            index,
            shared,
            bus,
            kick,
            tsc,
            start_seen: None,
            unknown_msrs: Vec::new(),
            turn,
            limit,
            told: 0,
            _stats: stats,
        })
    }

    /// Does what a start of the machine's clock asks for, if there was one since the processor last ran.
    fn follow_clock(&mut self) -> Result<(), EngineError> {
        let starts = self.shared.clock.starts();
        if self.start_seen != Some(starts) {
            msrs::rearm(&self.vcpu)?;
            // The guest's watchdog shall not take the pause for a hang. Without kvmclock there is nobody to tell.
            let _ = self.vcpu.kvmclock_ctrl();
            self.start_seen = Some(starts);
        }
        Ok(())
    }

    /// The processor's TSC less guest time in ticks.
    fn tsc_offset(&self) -> u64 {
        let (clock, vm) = (&self.shared.clock, &self.shared.vm);
        if self.shared.host.exact_tsc {
            self.tsc.ahead().wrapping_add(clock.drift(vm))
        } else {
            msrs::read_tsc(&self.vcpu).wrapping_sub(clock.ticks_now(vm))
        }
    }

    /// Sets that. The TSC must be right, or nearly, before its deadline is set.
    fn set_tsc_offset(&self, offset: u64) -> Result<(), EngineError> {
        let (clock, vm) = (&self.shared.clock, &self.shared.vm);
        self.tsc.set_ahead(offset.wrapping_sub(clock.drift(vm)));
        if self.shared.host.exact_tsc {
            self.tsc.start(clock.origin())
        } else {
            msrs::write_tsc(&self.vcpu, clock.ticks_now(vm).wrapping_add(offset))
        }
    }

    /// Carries out IN or OUT: `count` accesses of `size` bytes for a string instruction, one for the others.
    fn access_port(&mut self) {
        let run = self.vcpu.get_kvm_run();
        // SAFETY: KVM has just exited with KVM_EXIT_IO, so this member of the union is the valid one.
        let io = unsafe { run.__bindgen_anon_1.io };
        let len = usize::from(io.size) * io.count as usize;
        let start = std::ptr::from_mut(run).cast::<u8>().wrapping_add(io.data_offset as usize);
        // SAFETY: KVM put `count` items of `size` bytes at `data_offset` of the mapping that `run` is the start of, and
        // touches them only within KVM_RUN.
        let data = unsafe { std::slice::from_raw_parts_mut(start, len) };
        for item in data.chunks_exact_mut(usize::from(io.size).max(1)) {
            if u32::from(io.direction) == kvm_bindings::KVM_EXIT_IO_IN {
                self.bus.port_read(io.port, item);
            } else {
                self.bus.port_write(io.port, item);
            }
        }
    }

    /// Notes that the guest asked for a register nobody knows; it gets #GP.
    fn unknown_msr(&mut self, index: u32) {
        if self.unknown_msrs.len() < MOST_UNKNOWN && !self.unknown_msrs.contains(&index) {
            self.unknown_msrs.push(index);
            tracing::debug!(cpu = self.index, "the guest asked for the unknown MSR {index:#x}");
        }
    }

    fn failure(&mut self, what: &str) -> Exit {
        let registers = unexpected::describe(&self.vcpu, &self.shared.ram);
        Exit::Failed(format!("processor {}: {what}; {registers}", self.index))
    }

    /// Enters the guest once and does what it exits for.
    fn step(&mut self) -> Outcome {
        match self.vcpu.run() {
            Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => self.access_port(),
            Ok(VcpuExit::MmioRead(gpa, data)) => self.bus.mmio_read(gpa, data),
            Ok(VcpuExit::MmioWrite(gpa, data)) => self.bus.mmio_write(gpa, data),
            Ok(VcpuExit::IoapicEoi(vector)) => self.bus.end_of_interrupt(vector),
            Ok(VcpuExit::X86Rdmsr(msr)) => {
                *msr.error = 1;
                let index = msr.index;
                self.unknown_msr(index);
            }
            Ok(VcpuExit::X86Wrmsr(msr)) => {
                *msr.error = 1;
                let index = msr.index;
                self.unknown_msr(index);
            }
            Ok(VcpuExit::Shutdown | VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _)) => {
                return Outcome::Ends(Exit::Shutdown);
            }
            Ok(VcpuExit::InternalError) => {
                let what = unexpected::internal_error(self.vcpu.get_kvm_run());
                return Outcome::Ends(self.failure(&what));
            }
            Ok(VcpuExit::FailEntry(reason, _)) => {
                let what = format!("the host's processor refuses the guest's state ({reason:#x})");
                return Outcome::Ends(self.failure(&what));
            }
            // With the local APICs in the kernel none of the others means anything, HLT included.
            Ok(other) => {
                let what = format!("KVM exited with {other:?}");
                return Outcome::Ends(self.failure(&what));
            }
            // KVM_RUN finishes what an exit owed before it looks for signals: when it returns so, no instruction is half done.
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => return Outcome::Interrupted,
            Err(error) => return Outcome::Ends(self.failure(&format!("KVM_RUN failed: {error}"))),
        }
        Outcome::GoesOn
    }

    /// Lets others run if it is time, and keeps still for as long as the guest's limit has it. The guest is told, as KVM tells it when the kernel lets others run.
    fn look(&mut self) {
        self.told = kick::told();
        let kept = self.limit.keep(|| self.kick.is_wanted());
        if !kept.is_zero() {
            steal::add(&self.vcpu, &self.shared.ram, kept);
            self.turn.end();
        }
        if self.turn.is_taken() {
            self.turn.look(Duration::from_nanos(clock_ns(ClockId::ThreadCPUTime)));
        }
    }

    /// Lets KVM do what it has not done yet for the guest, which executes nothing: then all there is of the processor is in
    /// its state.
    fn stop(&mut self) -> Exit {
        let _signal = match PendingSignal::new(&self.vcpu) {
            Ok(signal) => signal,
            Err(error) => return self.failure(&error.to_string()),
        };
        loop {
            match self.step() {
                Outcome::GoesOn => {}
                Outcome::Interrupted if self.kick.take() => {}
                Outcome::Interrupted => return Exit::Kicked,
                Outcome::Ends(exit) => return exit,
            }
        }
    }
}

impl Drop for KvmProcessor {
    fn drop(&mut self) {
        self.kick.gone();
    }
}

impl Processor for KvmProcessor {
    fn run(&mut self) -> Exit {
        if let Err(error) = self.follow_clock() {
            return self.failure(&error.to_string());
        }
        let kick = Arc::clone(&self.kick);
        let _inside = kick.enter();
        loop {
            match self.step() {
                // It may have been told while it was not in the guest.
                Outcome::GoesOn if self.told == kick::told() => {}
                Outcome::GoesOn => self.look(),
                Outcome::Interrupted if self.kick.take() => return self.stop(),
                Outcome::Interrupted => self.look(),
                Outcome::Ends(exit) => return exit,
            }
        }
    }

    fn take_turns(&mut self, turns: Turns) {
        self.turn.follow(turns);
    }

    fn keep_limit(&mut self, figures: &Figures, index: u32) {
        self.limit.follow(figures.limits(index, Looks::WhenTold));
    }

    fn kicker(&self) -> Arc<dyn Kicker> {
        Arc::clone(&self.kick) as Arc<dyn Kicker>
    }

    fn state(&mut self) -> Result<CpuState, EngineError> {
        let (vcpu, shared) = (&self.vcpu, &*self.shared);
        let now = shared.clock.now_ns(&shared.vm);
        // First, because it makes KVM act on an INIT or a startup IPI that waits.
        let activity = state::activity(vcpu.get_mp_state().map_err(failed("KVM_GET_MP_STATE"))?);
        let mut s = CpuState { activity, ..CpuState::default() };
        state::read_regs(&mut s, &vcpu.get_regs().map_err(failed("KVM_GET_REGS"))?);
        state::read_sregs(&mut s, &vcpu.get_sregs().map_err(failed("KVM_GET_SREGS"))?);
        state::read_fpu(&mut s, &vcpu.get_xsave().map_err(failed("KVM_GET_XSAVE"))?);
        state::read_debug(&mut s, &vcpu.get_debug_regs().map_err(failed("KVM_GET_DEBUGREGS"))?);
        state::read_lapic(&mut s.apic, &vcpu.get_lapic().map_err(failed("KVM_GET_LAPIC"))?, now);
        msrs::save(vcpu, &shared.host.msrs, &mut s);
        state::read_events(&mut s, &vcpu.get_vcpu_events().map_err(failed("KVM_GET_VCPU_EVENTS"))?);
        s.tsc_offset = self.tsc_offset();
        Ok(s)
    }

    fn set_state(&mut self, s: &CpuState) -> Result<(), EngineError> {
        let s = &state::completed(s, self.index);
        let (vcpu, shared) = (&self.vcpu, &*self.shared);
        let activity = state::mp_state(s.activity);
        vcpu.set_mp_state(activity).map_err(failed("KVM_SET_MP_STATE"))?;
        vcpu.set_regs(&state::regs(s)).map_err(failed("KVM_SET_REGS"))?;
        vcpu.set_sregs(&state::sregs(s)).map_err(failed("KVM_SET_SREGS"))?;
        let mut xsave = kvm_xsave::default();
        state::write_fpu(s, &mut xsave);
        // SAFETY: no feature is switched on that needs more than the 4096 bytes of `xsave`.
        unsafe { vcpu.set_xsave(&xsave) }.map_err(failed("KVM_SET_XSAVE"))?;
        vcpu.set_debug_regs(&state::debug(s)).map_err(failed("KVM_SET_DEBUGREGS"))?;
        let now = shared.clock.now_ns(&shared.vm);
        vcpu.set_lapic(&state::lapic(&s.apic, now)).map_err(failed("KVM_SET_LAPIC"))?;
        self.set_tsc_offset(s.tsc_offset)?;
        self.start_seen = None;
        msrs::restore(vcpu, &shared.host.msrs, s)?;
        vcpu.set_vcpu_events(&state::events(s)).map_err(failed("KVM_SET_VCPU_EVENTS"))?;
        // Again: setting the registers of a processor as after reset makes KVM let it run.
        vcpu.set_mp_state(activity).map_err(failed("KVM_SET_MP_STATE"))
    }
}
