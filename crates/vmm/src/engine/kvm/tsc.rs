//! A processor's TSC: the host's plus an offset.
//!
//! The offset is set exactly, by KVM_VCPU_TSC_OFFSET (Linux 5.16, Documentation/virt/kvm/devices/vcpu.rst, 4.1): a write of
//! IA32_TSC is taken for an attempt to synchronize and may change nothing. Where there is no other way it is written all the
//! same with the rest of the processor's state, and a TSC counts on while its machine is stopped.

use std::arch::x86_64::_rdtsc;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_device_attr};
use kvm_ioctls::VcpuFd;
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

/// Whether a vCPU's TSC offset can be set. A paravirtual KVM, or one on a host whose TSCs are not stable, may take an offset
/// and not keep it.
pub(super) fn can_be_set(vcpu: &VcpuFd) -> Result<bool, EngineError> {
    let tsc = Tsc::new(vcpu, true)?;
    let wanted = host_tsc().wrapping_neg();
    Ok(tsc.start(wanted).is_ok() && tsc.offset().is_ok_and(|offset| offset == wanted))
}

/// One processor's TSC.
#[derive(Debug)]
pub(super) struct Tsc {
    vcpu: OwnedFd,
    exact: bool,
    /// It less the machine's.
    ahead: AtomicU64,
}

impl Tsc {
    /// The TSC of `vcpu`, whose offset can be set if `exact`.
    pub fn new(vcpu: &VcpuFd, exact: bool) -> Result<Arc<Self>, EngineError> {
        // SAFETY: the descriptor is open for as long as `vcpu` is borrowed.
        let vcpu = unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) }.as_fd().try_clone_to_owned();
        let vcpu = vcpu.map_err(|source| EngineError::Call { what: "dup", source })?;
        Ok(Arc::new(Self { vcpu, exact, ahead: AtomicU64::new(0) }))
    }

    /// Ticks that it is ahead of the machine's.
    pub fn ahead(&self) -> u64 {
        self.ahead.load(Ordering::Relaxed)
    }

    /// Sets that, as of the next start.
    pub fn set_ahead(&self, ticks: u64) {
        self.ahead.store(ticks, Ordering::Relaxed);
    }

    /// Makes the TSC run, where the machine's is the host's plus `origin`. Only while the processor does not run.
    pub fn start(&self, origin: u64) -> Result<(), EngineError> {
        if !self.exact {
            return Ok(());
        }
        let offset = origin.wrapping_add(self.ahead());
        let attribute = attribute(&raw const offset);
        // SAFETY: the attribute points to a u64, which is what KVM reads.
        match unsafe { ioctl_with_ref(&self.vcpu, KVM_SET_DEVICE_ATTR(), &attribute) } {
            0 => Ok(()),
            _ => Err(failed("KVM_VCPU_TSC_OFFSET")(kvm_ioctls::Error::last())),
        }
    }

    /// Looks how far ahead it is, since the guest may have set it. Only while the processor does not run.
    pub fn look(&self, origin: u64) {
        if self.exact
            && let Ok(offset) = self.offset()
        {
            self.set_ahead(offset.wrapping_sub(origin));
        }
    }

    fn offset(&self) -> Result<u64, EngineError> {
        let mut offset = 0u64;
        let attribute = attribute(&raw mut offset);
        // SAFETY: the attribute points to a u64, which is what KVM writes.
        match unsafe { ioctl_with_ref(&self.vcpu, KVM_GET_DEVICE_ATTR(), &attribute) } {
            0 => Ok(offset),
            _ => Err(failed("KVM_VCPU_TSC_OFFSET")(kvm_ioctls::Error::last())),
        }
    }
}

fn attribute(offset: *const u64) -> kvm_device_attr {
    kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: offset as u64,
        flags: 0,
    }
}
