//! Engines: what executes guest code. The rest of the machine knows only the traits here.
//!
//! An [`Engine`] makes a [`Partition`] (one guest: its memory, its interrupts, its clock), and that makes
//! [`Processor`]s. Processors answer port and memory-mapped accesses themselves by calling the bus, on their own thread.

pub mod kvm;
mod limit;
pub mod soft;
mod turn;

use std::fmt;
use std::fs::File;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use softcpu::{Bus, CpuState, CpuidEntry};

use crate::figures::{Figures, Turns};
use crate::interrupt::{MsiMessage, MsiSink};
use crate::memory::Ram;

/// What an engine could not do.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The engine is not there or lacks something.
    #[error("The engine {engine} cannot be used: {why}")]
    Unusable {
        /// Its name.
        engine: &'static str,
        /// What is missing.
        why: String,
    },
    /// A call to the kernel failed.
    #[error("{what} failed")]
    Call {
        /// Which.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// The state cannot be set.
    #[error("The processor's state cannot be restored: {why}")]
    State {
        /// Which part, and why.
        why: String,
    },
}

/// Why a processor stopped running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Its [`Kicker`] was called.
    Kicked,
    /// A triple fault: the guest reset itself by accident or on purpose.
    Shutdown,
    /// The engine cannot go on: a message for a person, with registers.
    Failed(String),
}

/// Makes a processor's [`Processor::run`] return soon; callable from any thread, never lost.
pub trait Kicker: Send + Sync {
    /// Makes the processor return [`Exit::Kicked`], now or as soon as it next runs.
    fn kick(&self);
}

/// One virtual processor. Used by one thread at a time.
pub trait Processor: Send {
    /// Executes guest code until there is a reason to stop. A halted processor sleeps inside.
    fn run(&mut self) -> Exit;
    /// Where it says when it is halted, as the one with this number, if the engine can tell: those of the kernel halt out of our sight.
    fn tell_halts(&mut self, _figures: &Figures, _index: u32) {}
    /// How long it runs before others of the host have their turn.
    fn take_turns(&mut self, _turns: Turns) {}
    /// What limit it keeps to.
    fn keep_limit(&mut self, _figures: &Figures, _index: u32) {}
    /// What makes it stop.
    fn kicker(&self) -> Arc<dyn Kicker>;
    /// The whole architectural state. Only while not running; whatever the last instruction owed is finished.
    ///
    /// # Errors
    /// If the engine cannot give it.
    fn state(&mut self) -> Result<CpuState, EngineError>;
    /// Sets the whole architectural state. Only while not running.
    ///
    /// # Errors
    /// If the engine refuses a part: the message names it.
    fn set_state(&mut self, state: &CpuState) -> Result<(), EngineError>;
    /// Instructions executed so far, if the engine counts them.
    fn instructions(&self) -> Option<u64> {
        None
    }
}

/// One guest in an engine. Shared by all threads of the machine.
pub trait Partition: MsiSink {
    /// Makes processor `index` with the given CPUID table; accesses outside RAM go to `bus`.
    ///
    /// # Errors
    /// If the engine cannot.
    fn create_processor(
        &self,
        index: usize,
        cpuid: &[CpuidEntry],
        bus: Arc<dyn Bus>,
    ) -> Result<Box<dyn Processor>, EngineError>;
    /// Stops guest time. Only while no processor runs.
    fn stop_clock(&self);
    /// Lets guest time go on. Only while no processor runs.
    fn start_clock(&self);
    /// Guest time, nanoseconds.
    fn clock_ns(&self) -> u64;
    /// Sets a stopped clock, nanoseconds.
    fn set_clock_ns(&self, ns: u64);
    /// What each pin of the I/O APIC would send: an engine with the local APICs in the kernel needs to know which vectors
    /// end level-triggered interrupts.
    fn set_pin_routes(&self, _routes: &[Option<MsiMessage>]) {}
    /// The pages written since the last call, guest-physical, in order. May be called while processors run: a page that
    /// is written again afterwards is in the next answer.
    ///
    /// # Errors
    /// If the engine cannot tell.
    fn take_dirty(&self) -> Result<Vec<u64>, EngineError>;
}

/// A way of executing guest code.
pub trait Engine: Send + Sync {
    /// Its name on the command line.
    fn name(&self) -> &'static str;
    /// Frequency of a guest's TSC if nobody asks for another one, kHz.
    fn tsc_khz(&self) -> u32;
    /// Makes a partition for `processors` processors (APIC ids 0, 1, …) with this memory, whose TSCs run at `tsc_khz` kHz.
    ///
    /// # Errors
    /// If the engine cannot.
    fn create(
        &self,
        ram: Arc<Ram>,
        processors: usize,
        tsc_khz: u32,
    ) -> Result<Arc<dyn Partition>, EngineError>;
}

/// Which engine a person asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// KVM if it can run a stock guest here, else the software processor.
    #[default]
    Auto,
    /// The processor's own virtualization.
    Kvm,
    /// The same, whether or not it can run stock guests: a guest may need less than they do.
    KvmAsItIs,
    /// The software processor.
    Soft,
}

/// The engine chosen.
pub struct Choice {
    /// It.
    pub engine: Box<dyn Engine>,
    /// Why not the other, in one line, where the choice was ours.
    pub why: Option<String>,
}

impl fmt::Debug for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Choice").field("engine", &self.engine.name()).field("why", &self.why).finish()
    }
}

/// The engine to use for `kind`.
///
/// # Errors
/// If KVM is asked for and cannot run a guest here.
pub fn choose(kind: Kind) -> Result<Choice, EngineError> {
    choose_on(kind, None)
}

/// The same with /dev/kvm as somebody else has opened it, for a process that may not.
///
/// # Errors
/// As [`choose`].
pub fn choose_on(kind: Kind, device: Option<File>) -> Result<Choice, EngineError> {
    let soft = |why| Choice { engine: Box::new(soft::Soft), why };
    let with_kvm = || {
        let kvm = device.map_or_else(kvm::Kvm::open, kvm::Kvm::from_file)?;
        if kind != Kind::KvmAsItIs {
            kvm::can_run_stock_guests(&kvm)?;
        }
        Ok(Choice { engine: Box::new(kvm), why: None })
    };
    match kind {
        Kind::Soft => Ok(soft(None)),
        Kind::Kvm | Kind::KvmAsItIs => with_kvm(),
        Kind::Auto => Ok(with_kvm().unwrap_or_else(|error: EngineError| soft(Some(error.to_string())))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_as_it_is_is_taken_wherever_it_is_there() {
        let there = kvm::Kvm::open().is_ok();
        let chosen = choose(Kind::KvmAsItIs).ok().map(|choice| choice.engine.name());
        assert_eq!(chosen, there.then_some("kvm"));
    }
}
