//! A guest's time on KVM: kvmclock, and TSCs that stand still with it.
//!
//! While the machine runs, kvmclock is KVM's and every TSC is the host's plus an offset. While it is stopped both are kept
//! here. The offset is set exactly, by KVM_VCPU_TSC_OFFSET (Linux 5.16, Documentation/virt/kvm/devices/vcpu.rst, 4.1): a write
//! of IA32_TSC is taken for an attempt to synchronize and may change nothing. Where there is no other way it is written all
//! the same, and a TSC may count on while its machine is stopped.

use std::arch::x86_64::_rdtsc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_clock_data, kvm_device_attr};
use kvm_ioctls::{VcpuFd, VmFd};
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use super::failed;
use crate::engine::EngineError;

ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);

/// The host's TSC.
pub(super) fn host_tsc() -> u64 {
    // SAFETY: every x86-64 processor has RDTSC, and Linux lets user space use it.
    unsafe { _rdtsc() }
}

fn offset_attribute(offset: *const u64) -> kvm_device_attr {
    kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: offset as u64,
        flags: 0,
    }
}

/// Whether a vCPU's TSC offset can be set. A paravirtual KVM may take one and not use it.
pub(super) fn has_tsc_offset(vcpu: &VcpuFd) -> bool {
    let wanted = host_tsc().wrapping_neg();
    let mut set = 0u64;
    let attribute = offset_attribute(&raw mut set);
    // SAFETY: the attribute points to a u64, which is what KVM writes.
    let read = || unsafe { ioctl_with_ref(vcpu, KVM_GET_DEVICE_ATTR(), &attribute) };
    set_tsc_offset(vcpu, wanted).is_ok() && read() == 0 && set == wanted
}

/// Makes a vCPU's TSC the host's plus `offset`.
pub(super) fn set_tsc_offset(vcpu: &VcpuFd, offset: u64) -> Result<(), EngineError> {
    let attribute = offset_attribute(&raw const offset);
    // SAFETY: the attribute points to a u64, which is what KVM reads.
    match unsafe { ioctl_with_ref(vcpu, KVM_SET_DEVICE_ATTR(), &attribute) } {
        0 => Ok(()),
        _ => Err(failed("KVM_VCPU_TSC_OFFSET")(kvm_ioctls::Error::last())),
    }
}

#[derive(Debug)]
struct Time {
    /// Guest nanoseconds while stopped.
    stopped_at: Option<u64>,
    /// The machine's TSC when it was last stopped.
    tsc_at_stop: u64,
    /// The machine's TSC less the host's, as of the last start.
    origin: u64,
    /// How often the clock was started.
    starts: u64,
}

/// The clock of one partition. It starts stopped, at 0.
#[derive(Debug)]
pub(super) struct GuestClock {
    tsc_khz: u32,
    time: Mutex<Time>,
}

impl GuestClock {
    pub fn new(tsc_khz: u32) -> Self {
        let time = Time { stopped_at: Some(0), tsc_at_stop: 0, origin: 0, starts: 0 };
        Self { tsc_khz, time: Mutex::new(time) }
    }

    fn lock(&self) -> MutexGuard<'_, Time> {
        self.time.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// TSC ticks in `ns` nanoseconds.
    fn ticks(&self, ns: u64) -> u64 {
        (u128::from(ns) * u128::from(self.tsc_khz) / 1_000_000) as u64
    }

    pub fn now_ns(&self, vm: &VmFd) -> u64 {
        match self.lock().stopped_at {
            Some(ns) => ns,
            None => kvmclock(vm),
        }
    }

    pub fn stop(&self, vm: &VmFd) {
        let mut time = self.lock();
        if time.stopped_at.is_none() {
            time.stopped_at = Some(kvmclock(vm));
            time.tsc_at_stop = host_tsc().wrapping_add(time.origin);
        }
    }

    pub fn start(&self, vm: &VmFd) {
        let mut time = self.lock();
        let Some(ns) = time.stopped_at.take() else { return };
        if let Err(error) = vm.set_clock(&kvm_clock_data { clock: ns, ..Default::default() }) {
            tracing::error!(%error, "guest time cannot be set");
        }
        time.origin = time.tsc_at_stop.wrapping_sub(host_tsc());
        time.starts += 1;
    }

    /// Sets a stopped clock. The processors' TSCs go along, so it does not matter whether their state is set before or
    /// after.
    pub fn set_ns(&self, ns: u64) {
        let mut time = self.lock();
        debug_assert!(time.stopped_at.is_some(), "the clock must be stopped to be set");
        if let Some(before) = time.stopped_at.replace(ns) {
            time.tsc_at_stop = time.tsc_at_stop.wrapping_add(self.ticks(ns)).wrapping_sub(self.ticks(before));
        }
    }

    /// The host's TSC plus this is the machine's: while stopped for this moment only.
    pub fn origin(&self) -> u64 {
        let time = self.lock();
        if time.stopped_at.is_some() { time.tsc_at_stop.wrapping_sub(host_tsc()) } else { time.origin }
    }

    /// How often the clock was started: with each start [`origin`](Self::origin) changes.
    pub fn starts(&self) -> u64 {
        self.lock().starts
    }

    /// Guest time in ticks of the TSC: what [`softcpu::Clock`] calls the machine's TSC.
    pub fn ticks_now(&self, vm: &VmFd) -> u64 {
        self.ticks(self.now_ns(vm))
    }

    /// How far the machine's TSC has drifted from what guest time says: kvmclock follows the host's corrected clock, the
    /// TSC does not.
    pub fn drift(&self, vm: &VmFd) -> u64 {
        let time = self.lock();
        let (ns, tsc) = match time.stopped_at {
            Some(ns) => (ns, time.tsc_at_stop),
            None => (kvmclock(vm), host_tsc().wrapping_add(time.origin)),
        };
        tsc.wrapping_sub(self.ticks(ns))
    }
}

/// KVM's own count, nanoseconds.
fn kvmclock(vm: &VmFd) -> u64 {
    match vm.get_clock() {
        Ok(data) => data.clock,
        Err(error) => {
            tracing::error!(%error, "guest time cannot be read");
            0
        }
    }
}
