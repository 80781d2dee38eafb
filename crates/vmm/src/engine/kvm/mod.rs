//! The engine that uses the processor's own virtualization, through /dev/kvm (Linux, Documentation/virt/kvm/api.rst).
//!
//! The local APICs are in the kernel, the I/O APIC is ours (a "split irqchip"): it is the same as with the software
//! processor, and what it holds is saved in one form.

mod cpuid;
mod kick;
mod msrs;
mod probe;
mod processor;
mod state;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::{
    KVM_API_VERSION, KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X2APIC_API, KVM_IRQ_ROUTING_MSI, KVM_MEM_LOG_DIRTY_PAGES,
    KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK, KVM_X2APIC_API_USE_32BIT_IDS, KvmIrqRouting, kvm_clock_data,
    kvm_enable_cap, kvm_irq_routing_entry, kvm_irq_routing_msi, kvm_msi, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, VmFd};
use softcpu::{Bus, CpuidEntry};

use super::{Engine, EngineError, Partition, Processor};
use crate::chipset::ioapic::PINS;
use crate::interrupt::{MsiMessage, MsiSink};
use crate::memory::{Ram, map};
use processor::KvmProcessor;

pub use probe::can_run_stock_guests;

const NAME: &str = "kvm";

/// What the kernel must be able to do, and what to call it.
const NEEDED: [(Cap, &str); 11] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::SetIdentityMapAddr, "KVM_CAP_SET_IDENTITY_MAP_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
    (Cap::SignalMsi, "KVM_CAP_SIGNAL_MSI"),
    (Cap::SplitIrqchip, "KVM_CAP_SPLIT_IRQCHIP"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::AdjustClock, "KVM_CAP_ADJUST_CLOCK"),
    (Cap::GetTscKhz, "KVM_CAP_GET_TSC_KHZ"),
];

/// A model-specific register that KVM did not take.
#[derive(Debug, thiserror::Error)]
#[error("KVM refuses the value {value:#x} for MSR {index:#x}")]
pub(super) struct KvmError {
    index: u32,
    value: u64,
}

impl From<KvmError> for EngineError {
    fn from(error: KvmError) -> Self {
        EngineError::State { why: error.to_string() }
    }
}

/// Names a call that failed.
fn failed(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> EngineError {
    move |error| EngineError::Call { what, source: io::Error::from_raw_os_error(error.errno()) }
}

fn unusable(why: impl Into<String>) -> EngineError {
    EngineError::Unusable { engine: NAME, why: why.into() }
}

/// What of KVM does not change while the process lives.
struct Host {
    kvm: kvm_ioctls::Kvm,
    supported_cpuid: Vec<CpuidEntry>,
    /// Registers KVM saves and restores (KVM_GET_MSR_INDEX_LIST).
    msrs: Vec<u32>,
}

/// Executes guests on the host's processors.
pub struct Kvm {
    host: Arc<Host>,
    tsc_khz: u32,
}

impl Kvm {
    /// Opens /dev/kvm and looks whether it has what is needed. Whether it can run a stock guest is another question:
    /// [`can_run_stock_guests`].
    ///
    /// # Errors
    /// If it is not there or lacks something: the error says what.
    pub fn open() -> Result<Self, EngineError> {
        let kvm = kvm_ioctls::Kvm::new().map_err(|error| match error.errno() {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => unusable("there is no /dev/kvm"),
            libc::EACCES | libc::EPERM => {
                unusable("this user may not open /dev/kvm (is it in the group kvm?)")
            }
            errno => unusable(format!("/dev/kvm cannot be opened: {}", io::Error::from_raw_os_error(errno))),
        })?;
        if kvm.get_api_version() != KVM_API_VERSION as i32 {
            return Err(unusable(format!("/dev/kvm has version {}, not 12", kvm.get_api_version())));
        }
        if let Some((_, name)) = NEEDED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
            return Err(unusable(format!("/dev/kvm lacks {name}")));
        }
        let supported_cpuid = cpuid::supported(&kvm)?;
        cpuid::check_address_width(&supported_cpuid)?;
        let msrs = kvm.get_msr_index_list().map_err(failed("KVM_GET_MSR_INDEX_LIST"))?.as_slice().to_vec();
        let tsc_khz = kvm
            .create_vm()
            .and_then(|vm| vm.create_vcpu(0))
            .and_then(|vcpu| vcpu.get_tsc_khz())
            .map_err(failed("KVM_GET_TSC_KHZ"))?;
        Ok(Self { host: Arc::new(Host { kvm, supported_cpuid, msrs }), tsc_khz })
    }
}

impl Engine for Kvm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn tsc_khz(&self) -> u32 {
        self.tsc_khz
    }

    fn create(&self, ram: Arc<Ram>, processors: usize) -> Result<Arc<dyn Partition>, EngineError> {
        let most = self.host.kvm.get_max_vcpus();
        if processors > most {
            return Err(unusable(format!("this host's KVM runs at most {most} processors a guest")));
        }
        let vm = self.host.kvm.create_vm().map_err(failed("KVM_CREATE_VM"))?;
        vm.set_identity_map_address(map::KVM_PAGES).map_err(failed("KVM_SET_IDENTITY_MAP_ADDR"))?;
        vm.set_tss_address(map::KVM_PAGES as usize + 0x1000).map_err(failed("KVM_SET_TSS_ADDR"))?;
        enable(&vm, KVM_CAP_SPLIT_IRQCHIP, PINS as u64).map_err(failed("KVM_CAP_SPLIT_IRQCHIP"))?;
        let ids = KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;
        enable(&vm, KVM_CAP_X2APIC_API, ids.into()).map_err(failed("KVM_CAP_X2APIC_API"))?;
        let partition = KvmPartition {
            vm: Arc::new(vm),
            ram,
            host: Arc::clone(&self.host),
            clock: Arc::new(GuestClock { stopped_at: Mutex::new(Some(0)), tsc_khz: self.tsc_khz }),
            logging: AtomicBool::new(false),
        };
        partition.map_memory(0)?;
        Ok(Arc::new(partition))
    }
}

fn enable(vm: &VmFd, cap: u32, argument: u64) -> Result<(), kvm_ioctls::Error> {
    let mut request = kvm_enable_cap { cap, ..Default::default() };
    request.args[0] = argument;
    vm.enable_cap(&request)
}

/// Guest time while it stands still; KVM has it while it runs.
pub(super) struct GuestClock {
    /// Nanoseconds.
    stopped_at: Mutex<Option<u64>>,
    tsc_khz: u32,
}

impl GuestClock {
    fn lock(&self) -> MutexGuard<'_, Option<u64>> {
        self.stopped_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Guest time, nanoseconds.
    pub(super) fn now_ns(&self, vm: &VmFd) -> u64 {
        let stopped = *self.lock();
        stopped.unwrap_or_else(|| vm.get_clock().map_or(0, |clock| clock.clock))
    }

    /// What the machine's TSC shows at guest time `ns`: every processor's differs from it by its own offset only.
    pub(super) fn tsc_at(&self, ns: u64) -> u64 {
        (u128::from(ns) * u128::from(self.tsc_khz) / 1_000_000) as u64
    }
}

struct KvmPartition {
    vm: Arc<VmFd>,
    ram: Arc<Ram>,
    host: Arc<Host>,
    clock: Arc<GuestClock>,
    /// Whether KVM notes written pages.
    logging: AtomicBool,
}

impl KvmPartition {
    fn map_memory(&self, flags: u32) -> Result<(), EngineError> {
        for (slot, (start, len, host)) in self.ram.regions().enumerate() {
            let region = kvm_userspace_memory_region {
                slot: slot as u32,
                flags,
                guest_phys_addr: start,
                memory_size: len,
                userspace_addr: host.as_ptr() as u64,
            };
            // SAFETY: the mapping is `ram`'s, which lives as long as the VM, and regions do not overlap.
            unsafe { self.vm.set_user_memory_region(region) }
                .map_err(failed("KVM_SET_USER_MEMORY_REGION"))?;
        }
        Ok(())
    }

    /// The pages that processors wrote since they were last asked for.
    fn processors_dirty(&self) -> Result<Vec<u64>, EngineError> {
        let mut pages = Vec::new();
        for (slot, (start, len, _)) in self.ram.regions().enumerate() {
            let log =
                self.vm.get_dirty_log(slot as u32, len as usize).map_err(failed("KVM_GET_DIRTY_LOG"))?;
            for (word, mut bits) in log.into_iter().enumerate() {
                while bits != 0 {
                    let page = word as u64 * 64 + u64::from(bits.trailing_zeros());
                    pages.push(start + page * softcpu::PAGE_SIZE);
                    bits &= bits - 1;
                }
            }
        }
        Ok(pages)
    }
}

/// The high bits of a destination, which our messages have in address bits 11:5 and KVM in the high word
/// (KVM_X2APIC_API_USE_32BIT_IDS).
fn kvm_address(address: u64) -> (u32, u32) {
    let high = (address >> 5 & 0x7f) << 8;
    ((address & !0xfe0) as u32, high as u32)
}

impl MsiSink for KvmPartition {
    fn signal(&self, message: MsiMessage) {
        let (address_lo, address_hi) = kvm_address(message.address);
        let msi = kvm_msi { address_lo, address_hi, data: message.data, ..Default::default() };
        if let Err(error) = self.vm.signal_msi(msi) {
            // The guest gave the address and the data.
            tracing::debug!(%error, ?message, "an interrupt reached nobody");
        }
    }
}

impl Partition for KvmPartition {
    fn create_processor(
        &self,
        index: usize,
        cpuid: &[CpuidEntry],
        bus: Arc<dyn Bus>,
    ) -> Result<Box<dyn Processor>, EngineError> {
        let vcpu = self.vm.create_vcpu(index as u64).map_err(failed("KVM_CREATE_VCPU"))?;
        let table = cpuid::narrowed(cpuid, &self.host.supported_cpuid);
        vcpu.set_cpuid2(&cpuid::to_kvm(&table)?).map_err(failed("KVM_SET_CPUID2"))?;
        msrs::tell_capabilities(&self.host.kvm, &vcpu, &table);
        let parts = processor::Parts {
            vcpu,
            vm: Arc::clone(&self.vm),
            clock: Arc::clone(&self.clock),
            msrs: self.host.msrs.clone(),
            bus,
            ram: Arc::clone(&self.ram),
            index,
        };
        Ok(Box::new(KvmProcessor::new(parts)))
    }

    fn stop_clock(&self) {
        let mut stopped = self.clock.lock();
        if stopped.is_none() {
            *stopped = Some(self.vm.get_clock().map_or(0, |clock| clock.clock));
        }
    }

    fn start_clock(&self) {
        if let Some(clock) = self.clock.lock().take()
            && let Err(error) = self.vm.set_clock(&kvm_clock_data { clock, ..Default::default() })
        {
            tracing::error!(%error, "KVM_SET_CLOCK");
        }
    }

    fn clock_ns(&self) -> u64 {
        self.clock.now_ns(&self.vm)
    }

    fn set_clock_ns(&self, ns: u64) {
        *self.clock.lock() = Some(ns);
    }

    /// Every pin has a route, so that KVM knows which vectors are level-triggered and tells when they end.
    fn set_pin_routes(&self, routes: &[Option<MsiMessage>]) {
        let entries: Vec<_> = (0..).zip(routes).filter_map(|(pin, m)| m.map(|m| route(pin, m))).collect();
        let result = KvmIrqRouting::from_entries(&entries)
            .map_err(|_| kvm_ioctls::Error::new(libc::E2BIG))
            .and_then(|routing| self.vm.set_gsi_routing(&routing));
        if let Err(error) = result {
            tracing::error!(%error, "KVM_SET_GSI_ROUTING");
        }
    }

    fn take_dirty(&self) -> Result<Vec<u64>, EngineError> {
        if !self.logging.swap(true, Ordering::SeqCst) {
            // Nobody noted anything until now, so everything may have been written. Noting costs a guest nothing before.
            self.map_memory(KVM_MEM_LOG_DIRTY_PAGES)?;
            self.ram.take_dirty();
            let pages = self.ram.regions().flat_map(|(start, len, _)| (start..start + len).step_by(4096));
            return Ok(pages.collect());
        }
        let mut pages = self.ram.take_dirty();
        pages.extend(self.processors_dirty()?);
        pages.sort_unstable();
        pages.dedup();
        Ok(pages)
    }
}

fn route(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let (address_lo, address_hi) = kvm_address(message.address);
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    entry.u.msi = kvm_irq_routing_msi { address_lo, address_hi, data: message.data, ..Default::default() };
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn high_destination_bits_go_where_kvm_wants_them() {
        // Destination 0x1234, to one processor only.
        let address = 0xfee0_0000 | 0x34 << 12 | 0x12 << 5;
        assert_eq!(kvm_address(address), (0xfee3_4000, 0x1200));
        assert_eq!(kvm_address(0xfeef_f00c), (0xfeef_f00c, 0));
    }
}
