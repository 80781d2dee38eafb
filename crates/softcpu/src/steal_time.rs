//! Steal time: for how long a processor did not run although its guest wanted it to, in a piece of guest memory that the guest says by a
//! register (Linux, Documentation/virt/kvm/x86/msr.rst, MSR_KVM_STEAL_TIME). How long that is whoever runs the processor knows.

use std::time::Duration;

use crate::cpu::Cpu;
use crate::fault::Trap;

/// Its bit 0: the time is wanted.
const ENABLE: u64 = 1;
/// Bits 5:1 are reserved, and the structure of 64 bytes is aligned to its size.
const RESERVED: u64 = 0x3e;
/// In `struct kvm_steal_time`: the time, ns, the version, which is odd while that changes, and whether the processor does not run just now, which only
/// whoever preempts it could say.
const STEAL: u64 = 0;
const VERSION: u64 = 8;
const PREEMPTED: u64 = 16;

impl Cpu {
    /// WRMSR.
    pub(crate) fn steal_time_write(&mut self, value: u64) -> Result<(), Trap> {
        if value & RESERVED != 0 {
            return Err(self.gp0());
        }
        self.msrs.kvm_steal_time = value;
        Ok(())
    }

    /// Whether the guest wants to know for how long it did not run.
    pub fn tells_steal_time(&self) -> bool {
        self.msrs.kvm_steal_time & ENABLE != 0
    }

    /// Tells the guest that it did not run for `ns` more, if it wants to know.
    pub fn add_steal_time(&mut self, ns: u64) {
        if !self.tells_steal_time() {
            return;
        }
        let at = self.msrs.kvm_steal_time & !(ENABLE | RESERVED);
        let stolen = self.word_at::<u64>(at + STEAL).wrapping_add(ns);
        let changing = self.word_at::<u32>(at + VERSION).wrapping_add(1) | 1;
        self.write_physical(at + VERSION, &changing.to_le_bytes());
        self.write_physical(at + STEAL, &stolen.to_le_bytes());
        self.write_physical(at + VERSION, &changing.wrapping_add(1).to_le_bytes());
    }

    /// Tells the guest that it runs: KVM may have said otherwise before it was brought here.
    pub(crate) fn steal_time_runs(&mut self) {
        if self.tells_steal_time() {
            let at = self.msrs.kvm_steal_time & !(ENABLE | RESERVED);
            self.write_physical(at + PREEMPTED, &[0]);
        }
    }

    /// For how long it has slept while it ran, because its guest waited in a loop: nobody kept it from anything.
    pub fn slept(&self) -> Duration {
        self.wait.slept()
    }
}
