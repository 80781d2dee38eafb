//! Tells a guest for how long its process kept a processor still. For how long the kernel did KVM tells, in the same place: it adds to what it finds there (Linux,
//! Documentation/virt/kvm/x86/msr.rst, MSR_KVM_STEAL_TIME).

use std::time::Duration;

use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::msrs;
use crate::memory::Ram;

/// Bit 0 of the register: the guest wants to know. The structure is aligned to its size, 64 bytes.
const ENABLE: u64 = 1;
const ADDRESS: u64 = !0x3f;
/// In `struct kvm_steal_time`: the time, ns, and the version, which is odd while that changes.
const STEAL: u64 = 0;
const VERSION: u64 = 8;

/// Tells it so much more, if it wants to know. Only on the thread of the processor, which does not run.
pub fn add(vcpu: &VcpuFd, ram: &Ram, time: Duration) {
    if let Some(place) = msrs::steal_time(vcpu).filter(|value| value & ENABLE != 0) {
        // A guest that says a place outside its memory is told nothing, by KVM neither.
        let _ = write(ram, place & ADDRESS, time.as_nanos() as u64);
    }
}

fn write(ram: &Ram, at: u64, more: u64) -> Result<(), GuestMemoryError> {
    let (memory, steal, version) = (ram.memory(), GuestAddress(at + STEAL), GuestAddress(at + VERSION));
    let stolen: u64 = memory.read_obj(steal)?;
    let changing = memory.read_obj::<u32>(version)?.wrapping_add(1) | 1;
    memory.write_obj(changing, version)?;
    memory.write_obj(stolen.wrapping_add(more), steal)?;
    memory.write_obj(changing.wrapping_add(1), version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_grows_and_the_version_says_that_it_has_changed() {
        let ram = Ram::new(16 << 20).unwrap();
        let at = |offset| GuestAddress(0x1040 + offset);
        ram.memory().write_obj(100_u64, at(STEAL)).unwrap();
        // KVM may have been about to change it.
        ram.memory().write_obj(7_u32, at(VERSION)).unwrap();
        write(&ram, 0x1040, 23).unwrap();
        assert_eq!(ram.memory().read_obj::<u64>(at(STEAL)).unwrap(), 123);
        assert_eq!(ram.memory().read_obj::<u32>(at(VERSION)).unwrap(), 10);
        assert!(write(&ram, !0x3f, 1).is_err());
    }
}
