//! Guest memory as KVM sees it: one slot a region, with a log of written pages once somebody asks for it.
//!
//! The log costs a guest much, because KVM then maps single pages and takes a fault for each first write, so it is switched on
//! by the first question, whose answer is every page.

use std::os::fd::AsRawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kvm_bindings::{
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_INITIALLY_SET, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
    KVM_MEM_LOG_DIRTY_PAGES, KVMIO, kvm_clear_dirty_log, kvm_clear_dirty_log__bindgen_ty_1,
    kvm_userspace_memory_region,
};
use kvm_ioctls::VmFd;
use softcpu::PAGE_SIZE;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iowr_nr;

use super::{enable, failed};
use crate::engine::EngineError;
use crate::memory::Ram;

ioctl_iowr_nr!(KVM_CLEAR_DIRTY_LOG, KVMIO, 0xc0, kvm_clear_dirty_log);

/// How many pages are protected in one go: KVM holds its lock meanwhile, and a guest that writes waits for it.
const CHUNK: u64 = 64 << 10;

struct Slot {
    start: u64,
    size: u64,
    host: u64,
}

/// The slots of one partition.
pub(super) struct Slots {
    slots: Vec<Slot>,
    /// Pages are protected again by us, in pieces, and begin as written (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2).
    manual: bool,
    /// Whether the log is on. The lock makes each question one.
    logging: Mutex<bool>,
}

impl Slots {
    /// Gives KVM all of `ram`, which must outlive the VM.
    pub fn new(vm: &VmFd, ram: &Ram) -> Result<Self, EngineError> {
        let wanted = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;
        let offered = vm.check_extension_raw(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.into());
        let manual = offered as u32 & wanted == wanted;
        if manual {
            enable(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, wanted.into())
                .map_err(failed("KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2"))?;
        }
        let slot = |(start, size, host): (u64, u64, std::ptr::NonNull<u8>)| Slot {
            start,
            size,
            host: host.as_ptr() as u64,
        };
        let slots = Self { slots: ram.regions().map(slot).collect(), manual, logging: Mutex::new(false) };
        slots.set(vm, 0)?;
        Ok(slots)
    }

    fn set(&self, vm: &VmFd, flags: u32) -> Result<(), EngineError> {
        for (number, slot) in self.slots.iter().enumerate() {
            let region = kvm_userspace_memory_region {
                slot: number as u32,
                flags,
                guest_phys_addr: slot.start,
                memory_size: slot.size,
                userspace_addr: slot.host,
            };
            // SAFETY: the memory belongs to the guest alone and stays mapped as long as the VM, by `new`'s contract.
            unsafe { vm.set_user_memory_region(region) }.map_err(failed("KVM_SET_USER_MEMORY_REGION"))?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.logging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pages the guest wrote since the last call, in order; all of them at the first.
    pub fn take_dirty(&self, vm: &VmFd) -> Result<Vec<u64>, EngineError> {
        let mut logging = self.lock();
        let first = !*logging;
        if first {
            self.set(vm, KVM_MEM_LOG_DIRTY_PAGES)?;
            *logging = true;
        }
        let mut pages = Vec::new();
        for (number, slot) in self.slots.iter().enumerate() {
            let mut written =
                vm.get_dirty_log(number as u32, slot.size as usize).map_err(failed("KVM_GET_DIRTY_LOG"))?;
            if self.manual {
                self.protect(vm, number as u32, slot, &mut written)?;
            }
            if first {
                pages.extend((slot.start..slot.start + slot.size).step_by(PAGE_SIZE as usize));
            } else {
                collect(slot.start, &written, &mut pages);
            }
        }
        Ok(pages)
    }

    /// Makes KVM notice the next write to each page of `written`. One that comes before that is in memory before our
    /// caller reads it.
    fn protect(&self, vm: &VmFd, number: u32, slot: &Slot, written: &mut [u64]) -> Result<(), EngineError> {
        let pages = slot.size / PAGE_SIZE;
        for first_page in (0..pages).step_by(CHUNK as usize) {
            let words = &mut written[(first_page / 64) as usize..];
            let num_pages = CHUNK.min(pages - first_page);
            if words.iter().take(num_pages.div_ceil(64) as usize).all(|word| *word == 0) {
                continue;
            }
            let clear = kvm_clear_dirty_log {
                slot: number,
                num_pages: num_pages as u32,
                first_page,
                __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 {
                    dirty_bitmap: words.as_mut_ptr().cast(),
                },
            };
            // SAFETY: KVM reads `num_pages` bits of the bitmap, which has a bit for each page of the slot.
            if unsafe { ioctl_with_ref(&vm.as_raw_fd(), KVM_CLEAR_DIRTY_LOG(), &clear) } != 0 {
                return Err(failed("KVM_CLEAR_DIRTY_LOG")(kvm_ioctls::Error::last()));
            }
        }
        Ok(())
    }
}

/// Appends the page of each set bit.
fn collect(start: u64, bitmap: &[u64], pages: &mut Vec<u64>) {
    for (i, word) in bitmap.iter().enumerate() {
        let mut left = *word;
        while left != 0 {
            pages.push(start + (64 * i as u64 + u64::from(left.trailing_zeros())) * PAGE_SIZE);
            left &= left - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::collect;

    #[test]
    fn bits_become_pages_in_order() {
        let mut pages = Vec::new();
        collect(0x10_0000, &[1 | 1 << 63, 0, 2], &mut pages);
        assert_eq!(pages, [0x10_0000, 0x13_f000, 0x18_1000]);
    }
}
