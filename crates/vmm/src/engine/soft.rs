//! The engine that brings its own processor: the crate softcpu.

use std::sync::Arc;

use softcpu::apic::Mailbox;
use softcpu::{Bus, Clock, Cpu, CpuState, CpuidEntry, Exit as CpuExit, System};

use super::{Engine, EngineError, Exit, Kicker, Partition, Processor};
use crate::interrupt::{MsiMessage, MsiSink};
use crate::memory::Ram;

/// The guest's TSC: one tick a nanosecond.
const TSC_KHZ: u32 = 1_000_000;

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

    fn create(&self, ram: Arc<Ram>, processors: usize) -> Result<Arc<dyn Partition>, EngineError> {
        let clock = Arc::new(Clock::new(TSC_KHZ));
        let ids: Vec<u32> = (0..processors as u32).collect();
        let system = System::new(ram.clone() as Arc<dyn softcpu::GuestMemory>, clock, &ids);
        let weak = Arc::downgrade(&system);
        ram.on_code_written(move |gpa, len| {
            if let Some(system) = weak.upgrade() {
                system.code_written(gpa, len);
            }
        });
        Ok(Arc::new(SoftPartition { system, ram }))
    }
}

struct SoftPartition {
    system: Arc<System>,
    ram: Arc<Ram>,
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
        Ok(Box::new(SoftProcessor { cpu, mailbox, system: Arc::clone(&self.system) }))
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
}

impl Processor for SoftProcessor {
    fn run(&mut self) -> Exit {
        loop {
            match self.cpu.run() {
                CpuExit::Kicked => return Exit::Kicked,
                CpuExit::Shutdown => return Exit::Shutdown,
                CpuExit::Halted { deadline } => self.mailbox.wait(self.system.clock(), deadline),
            }
        }
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
