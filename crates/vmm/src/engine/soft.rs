//! The engine that brings its own processor: the crate softcpu.

mod idle;
mod steal;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use softcpu::apic::Mailbox;
use softcpu::{Bus, Clock, Cpu, CpuState, CpuidEntry, Exit as CpuExit, System};

use self::idle::Idle;
use self::steal::{Clocks, Steal};
use super::limit::{Bucket, Limit};
use super::turn::Turn;
use super::{Engine, EngineError, Exit, Kicker, Partition, Processor};
use crate::figures::{Figures, Halts, Looks, Turns};
use crate::heap;
use crate::interrupt::{MsiMessage, MsiSink};
use crate::memory::Ram;

/// The guest's TSC, if nobody asks for another one: one tick a nanosecond.
const TSC_KHZ: u32 = 1_000_000;

/// So long a processor runs at most before it looks whether others are to run.
const LOOK: Duration = Duration::from_micros(100);

/// Executes guests in software, on any x86-64 host.
#[derive(Debug, Default)]
pub struct Soft;

impl Engine for Soft {
    fn name(&self) -> &'static str {
        "soft"
    }

    fn tsc_khz(&self) -> u32 {
        TSC_KHZ
    }

    fn create(
        &self,
        ram: Arc<Ram>,
        processors: usize,
        tsc_khz: u32,
    ) -> Result<Arc<dyn Partition>, EngineError> {
        let clock = Arc::new(Clock::new(tsc_khz));
        let ids: Vec<u32> = (0..processors as u32).collect();
        let system = System::new(ram.clone() as Arc<dyn softcpu::GuestMemory>, clock, &ids);
        let weak = Arc::downgrade(&system);
        ram.on_code_written(move |gpa, len| {
            if let Some(system) = weak.upgrade() {
                system.code_written(gpa, len);
            }
        });
        Ok(Arc::new(SoftPartition { system, ram, bucket: Arc::default() }))
    }
}

struct SoftPartition {
    system: Arc<System>,
    ram: Arc<Ram>,
    /// What its processors may use together.
    bucket: Arc<Mutex<Bucket>>,
}

impl MsiSink for SoftPartition {
    fn signal(&self, message: MsiMessage) {
        self.system.signal_msi(message.address, message.data);
    }
}

impl Partition for SoftPartition {
    fn create_processor(
        &self,
        index: usize,
        cpuid: &[CpuidEntry],
        bus: Arc<dyn Bus>,
    ) -> Result<Box<dyn Processor>, EngineError> {
        let cpu = Cpu::new(Arc::clone(&self.system), index, cpuid.into(), bus);
        let mailbox = Arc::clone(self.system.mailbox(index));
        Ok(Box::new(SoftProcessor {
            cpu,
            mailbox,
            system: Arc::clone(&self.system),
            idle: Idle::new(Instant::now()),
            halts: None,
            turn: Turn::default(),
            steal: Steal::default(),
            limit: Limit::new(Arc::clone(&self.bucket)),
        }))
    }

    fn stop_clock(&self) {
        self.system.clock().stop();
    }

    fn start_clock(&self) {
        self.system.clock().start();
    }

    fn clock_ns(&self) -> u64 {
        self.system.clock().now_ns()
    }

    fn set_clock_ns(&self, ns: u64) {
        self.system.clock().set_ns(ns);
    }

    fn take_dirty(&self) -> Result<Vec<u64>, EngineError> {
        let pages = self.ram.take_dirty();
        self.system.forget_writable();
        Ok(pages)
    }
}

struct SoftProcessor {
    cpu: Cpu,
    mailbox: Arc<Mailbox>,
    system: Arc<System>,
    idle: Idle,
    halts: Option<Halts>,
    turn: Turn,
    steal: Steal,
    limit: Limit,
}

impl SoftProcessor {
    /// Sleeps until something arrives or `deadline` (guest nanoseconds) has come. A processor that has been idle for a while gives the memory of translated code
    /// back to the host that it does not execute any more.
    fn rest(&mut self, deadline: Option<u64>) {
        self.wants(false);
        let now = Instant::now();
        let translated = self.cpu.translated();
        if self.idle.is_due(now, self.cpu.instructions(), translated) {
            self.cpu.forget_cold_code();
            self.idle.forgot(translated, self.cpu.translated());
            heap::give_back();
        }
        let clock = self.system.clock();
        let look_again =
            self.idle.rests(now, self.cpu.translated()).map(|rests| clock.now_ns() + rests.as_nanos() as u64);
        let until = [deadline, look_again].into_iter().flatten().min();
        let wait = || self.mailbox.wait(clock, until);
        match &self.halts {
            Some(halts) => halts.during(wait),
            None => wait(),
        }
        self.turn.end();
        let late = deadline.and_then(|deadline| steal::late(deadline, self.system.clock().now_ns()));
        if let Some(late) = late {
            self.cpu.add_steal_time(late);
        }
        self.wants(true);
        self.keep_still();
    }

    /// Keeps still for as long as the guest's limit has it. That is time in which it cannot run.
    fn keep_still(&mut self) {
        if !self.limit.keep(|| self.mailbox.is_kicked()).is_zero() {
            self.turn.end();
        }
    }

    /// The guest wants to run from now on, or not: if it is told for how long it could not, that is counted.
    fn wants(&mut self, to_run: bool) {
        if !self.cpu.tells_steal_time() {
            self.steal.forget();
            return;
        }
        let now = Clocks::now(self.cpu.slept());
        if to_run {
            self.steal.begin(now);
        } else if let Some(stolen) = self.steal.end(now) {
            self.cpu.add_steal_time(stolen);
        }
    }

    /// Lets others run if it is time, and tells the guest for how long it could not.
    fn look(&mut self) {
        let tells = self.cpu.tells_steal_time();
        if !tells {
            self.steal.forget();
        }
        if !tells && !self.turn.is_taken() && !self.limit.is_kept() {
            return;
        }
        self.keep_still();
        let now = Clocks::now(self.cpu.slept());
        if tells && let Some(stolen) = self.steal.look(now) {
            self.cpu.add_steal_time(stolen);
        }
        self.turn.look(Duration::from_nanos(now.ran));
    }
}

impl Processor for SoftProcessor {
    fn run(&mut self) -> Exit {
        self.wants(true);
        let exit = loop {
            match self.cpu.run_at_most(LOOK) {
                None => self.look(),
                Some(CpuExit::Kicked) => break Exit::Kicked,
                Some(CpuExit::Shutdown) => break Exit::Shutdown,
                Some(CpuExit::Halted { deadline }) => self.rest(deadline),
            }
        };
        self.wants(false);
        exit
    }

    fn tell_halts(&mut self, figures: &Figures, index: u32) {
        self.halts = Some(figures.halts(index));
    }

    fn take_turns(&mut self, turns: Turns) {
        self.turn.follow(turns);
    }

    fn keep_limit(&mut self, figures: &Figures, index: u32) {
        self.limit.follow(figures.limits(index, Looks::ByItself));
    }

    fn kicker(&self) -> Arc<dyn Kicker> {
        Arc::new(SoftKicker(Arc::clone(&self.mailbox)))
    }

    fn state(&mut self) -> Result<CpuState, EngineError> {
        Ok(self.cpu.state())
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), EngineError> {
        self.cpu.set_state(state);
        Ok(())
    }

    fn instructions(&self) -> Option<u64> {
        Some(self.cpu.instructions())
    }
}

struct SoftKicker(Arc<Mailbox>);

impl Kicker for SoftKicker {
    fn kick(&self) {
        self.0.kick();
    }
}
