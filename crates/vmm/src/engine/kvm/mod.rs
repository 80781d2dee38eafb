//! The engine that uses the processor's own virtualization, through Linux's KVM (Documentation/virt/kvm/api.rst).
//!
//! Local APICs are in the kernel, the I/O APIC is the machine's own ("split"), so that devices and their state are the same
//! for both engines.

mod clock;
mod cpuid;
mod kick;
mod memory;
mod msrs;
mod probe;
mod processor;
mod state;
mod stats;
mod steal;
mod tsc;
mod unexpected;

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{
    KVM_CAP_ENFORCE_PV_FEATURE_CPUID, KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X2APIC_API, KVM_CAP_X86_USER_SPACE_MSR,
    KVM_IRQ_ROUTING_MSI, KVM_MSR_EXIT_REASON_UNKNOWN, KVM_X2APIC_API_USE_32BIT_IDS, KvmIrqRouting,
    kvm_enable_cap, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_msi, kvm_msi,
};
use kvm_ioctls::{Cap, Kvm as Device, VmFd};
use softcpu::{Bus, CpuidEntry};

use self::clock::GuestClock;
use self::memory::Slots;
use self::processor::KvmProcessor;
use super::limit::Bucket;
use super::{Engine, EngineError, Partition, Processor};
use crate::chipset::ioapic::PINS;
use crate::interrupt::{MsiMessage, MsiSink};
use crate::memory::{Ram, map};

pub use probe::can_run_stock_guests;

const NAME: &str = "kvm";

/// KVM_GET_API_VERSION since Linux 2.6.22.
const API_VERSION: i32 = 12;

/// What is used and must be there.
const NEEDED: [(Cap, &str); 16] = [
    (Cap::UserMemory, "guest memory (KVM_CAP_USER_MEMORY)"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::SetIdentityMapAddr, "KVM_CAP_SET_IDENTITY_MAP_ADDR"),
    (Cap::ExtCpuid, "CPUID tables (KVM_CAP_EXT_CPUID)"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
    (Cap::Debugregs, "KVM_CAP_DEBUGREGS"),
    (Cap::Xsave, "KVM_CAP_XSAVE"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    (Cap::SignalMsi, "KVM_CAP_SIGNAL_MSI"),
    (Cap::SplitIrqchip, "local APICs without an I/O APIC (KVM_CAP_SPLIT_IRQCHIP)"),
    (Cap::X2ApicApi, "KVM_CAP_X2APIC_API"),
    (Cap::AdjustClock, "KVM_CAP_ADJUST_CLOCK"),
    (Cap::GetTscKhz, "a stable time-stamp counter (KVM_CAP_GET_TSC_KHZ)"),
    (Cap::TscDeadlineTimer, "KVM_CAP_TSC_DEADLINE_TIMER"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

fn unusable(why: impl Into<String>) -> EngineError {
    EngineError::Unusable { engine: NAME, why: why.into() }
}

/// What makes an error of a failed call.
fn failed(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> EngineError {
    move |error| EngineError::Call { what, source: io::Error::from_raw_os_error(error.errno()) }
}

/// What of KVM does not change while the process lives.
struct Host {
    device: Device,
    supported_cpuid: Vec<CpuidEntry>,
    /// Registers KVM saves and restores (KVM_GET_MSR_INDEX_LIST).
    msrs: Vec<u32>,
    tsc_khz: u32,
    /// Whether TSCs can be given any value.
    exact_tsc: bool,
}

/// Executes guests on the host's processors.
pub struct Kvm {
    host: Arc<Host>,
}

impl Kvm {
    /// Opens /dev/kvm and looks whether it has what is needed. Whether it can run a stock guest is another question:
    /// [`can_run_stock_guests`].
    ///
    /// # Errors
    /// If it cannot be opened or lacks something: the error says what.
    pub fn open() -> Result<Self, EngineError> {
        Self::on(Device::new().map_err(|error| {
            unusable(match error.errno() {
                libc::ENOENT => {
                    "there is no /dev/kvm: the host has no virtualization, or its module is not loaded".into()
                }
                libc::EACCES | libc::EPERM => {
                    "this user may not open /dev/kvm: being in the group kvm usually allows it".into()
                }
                errno => format!("/dev/kvm does not open: {}", io::Error::from_raw_os_error(errno)),
            })
        })?)
    }

    /// The same with /dev/kvm as somebody else has opened it, for reading and writing.
    ///
    /// # Errors
    /// If it is something else, or lacks something.
    pub fn from_file(file: File) -> Result<Self, EngineError> {
        // SAFETY: the descriptor is moved in, and is the device's from here on.
        Self::on(unsafe { Device::from_raw_fd(file.into_raw_fd()) })
    }

    fn on(device: Device) -> Result<Self, EngineError> {
        match device.get_api_version() {
            API_VERSION => {}
            other => return Err(unusable(format!("/dev/kvm speaks version {other}, not {API_VERSION}"))),
        }
        if let Some((_, name)) = NEEDED.iter().find(|(cap, _)| !device.check_extension(*cap)) {
            return Err(unusable(format!("/dev/kvm lacks {name}")));
        }
        // Only a vCPU tells the frequency.
        let vm = device.create_vm().map_err(failed("KVM_CREATE_VM"))?;
        let vcpu = vm.create_vcpu(0).map_err(failed("KVM_CREATE_VCPU"))?;
        let tsc_khz = vcpu.get_tsc_khz().map_err(failed("KVM_GET_TSC_KHZ"))?;
        let exact_tsc = tsc::can_be_set(&vcpu)?;
        if !exact_tsc {
            tracing::info!(
                "/dev/kvm cannot set TSC offsets: a guest's TSC counts on while the guest is paused"
            );
        }
        let supported_cpuid = cpuid::supported(&device)?;
        let msrs = device.get_msr_index_list().map_err(failed("KVM_GET_MSR_INDEX_LIST"))?.as_slice().to_vec();
        Ok(Self { host: Arc::new(Host { device, supported_cpuid, msrs, tsc_khz, exact_tsc }) })
    }

    /// Whether a guest's TSC stands still while the guest is paused and goes along where its state goes. Linux before 5.16
    /// and paravirtual KVMs cannot do that.
    pub fn has_exact_tsc(&self) -> bool {
        self.host.exact_tsc
    }
}

impl Engine for Kvm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn tsc_khz(&self) -> u32 {
        self.host.tsc_khz
    }

    fn create(
        &self,
        ram: Arc<Ram>,
        processors: usize,
        tsc_khz: u32,
    ) -> Result<Arc<dyn Partition>, EngineError> {
        check_frequency(tsc_khz, self.host.tsc_khz)?;
        let host = Arc::clone(&self.host);
        let most = host.device.get_max_vcpus();
        if processors > most {
            return Err(unusable(format!("this host's KVM runs at most {most} processors a guest")));
        }
        cpuid::check_address_width(&host.supported_cpuid, ram.layout())?;
        let vm = host.device.create_vm().map_err(failed("KVM_CREATE_VM"))?;
        prepare(&vm)?;
        let slots = Slots::new(&vm, &ram)?;
        let clock = GuestClock::new(host.tsc_khz);
        let shared = Arc::new(Shared { vm, slots, clock, ram, host, bucket: Arc::default() });
        Ok(Arc::new(KvmPartition { shared, routes: Mutex::default() }))
    }
}

/// The most that a guest's TSC may be off what it announces, parts in a million: what clocks are corrected by without being noticed.
const MOST_PPM: u64 = 250;

/// Whether a guest whose TSC announces `wanted` kHz can run on one of `here` kHz.
fn check_frequency(wanted: u32, here: u32) -> Result<(), EngineError> {
    if u64::from(wanted.abs_diff(here)) * 1_000_000 <= u64::from(here) * MOST_PPM {
        return Ok(());
    }
    // KVM could scale it on most hosts (KVM_CAP_TSC_CONTROL); the offsets here are computed without.
    Err(unusable(format!(
        "the guest's time-stamp counter runs at {wanted} kHz, this host's at {here} kHz, and counters are not scaled"
    )))
}

/// What must be settled before there is a vCPU.
fn prepare(vm: &VmFd) -> Result<(), EngineError> {
    vm.set_identity_map_address(map::KVM_PAGES).map_err(failed("KVM_SET_IDENTITY_MAP_ADDR"))?;
    vm.set_tss_address(map::KVM_PAGES as usize + 0x1000).map_err(failed("KVM_SET_TSS_ADDR"))?;
    enable(vm, KVM_CAP_SPLIT_IRQCHIP, PINS as u64).map_err(failed("KVM_CAP_SPLIT_IRQCHIP"))?;
    // The quirk that takes destination 0xff for all processors in x2APIC mode too stays: nobody has APIC id 255.
    let api = KVM_X2APIC_API_USE_32BIT_IDS;
    enable(vm, KVM_CAP_X2APIC_API, api.into()).map_err(failed("KVM_CAP_X2APIC_API"))?;
    if vm.check_extension_raw(KVM_CAP_X86_USER_SPACE_MSR.into()) > 0 {
        // Registers KVM does not know are told to us, to be logged.
        enable(vm, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_UNKNOWN.into())
            .map_err(failed("KVM_CAP_X86_USER_SPACE_MSR"))?;
    }
    Ok(())
}

fn enable(vm: &VmFd, cap: u32, argument: u64) -> Result<(), kvm_ioctls::Error> {
    vm.enable_cap(&kvm_enable_cap { cap, args: [argument, 0, 0, 0], ..Default::default() })
}

/// What a partition and its processors have in common.
struct Shared {
    vm: VmFd,
    slots: Slots,
    clock: GuestClock,
    ram: Arc<Ram>,
    host: Arc<Host>,
    /// What the processors may use together.
    bucket: Arc<Mutex<Bucket>>,
}

struct KvmPartition {
    shared: Arc<Shared>,
    /// The level-triggered pins that KVM knows of.
    routes: Mutex<Vec<(usize, MsiMessage)>>,
}

/// Address and destination as KVM wants them: what of the destination is beyond eight bits moves from address bits 11:5
/// (KVM_FEATURE_MSI_EXT_DEST_ID) to bits 63:40 (KVM_X2APIC_API_USE_32BIT_IDS).
fn split_address(address: u64) -> (u32, u32) {
    let low = address as u32;
    (low & !0xfe0, (low >> 5 & 0x7f) << 8)
}

impl MsiSink for KvmPartition {
    fn signal(&self, message: MsiMessage) {
        let (address_lo, address_hi) = split_address(message.address);
        let msi = kvm_msi { address_lo, address_hi, data: message.data, ..Default::default() };
        // An interrupt nobody takes (a processor without APIC, a vector below 16) is lost on real hardware too.
        if let Err(error) = self.shared.vm.signal_msi(msi) {
            tracing::debug!(?message, %error, "an interrupt was not delivered");
        }
    }
}

fn route((pin, message): &(usize, MsiMessage)) -> kvm_irq_routing_entry {
    let (address_lo, address_hi) = split_address(message.address);
    let mut msi = kvm_irq_routing_msi { address_lo, address_hi, data: message.data, ..Default::default() };
    msi.__bindgen_anon_1.pad = 0;
    kvm_irq_routing_entry {
        gsi: *pin as u32,
        type_: KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 { msi },
        ..Default::default()
    }
}

/// MSI data bit 15: level-triggered.
const LEVEL: u32 = 1 << 15;

impl Partition for KvmPartition {
    fn create_processor(
        &self,
        index: usize,
        cpuid: &[CpuidEntry],
        bus: Arc<dyn Bus>,
    ) -> Result<Box<dyn Processor>, EngineError> {
        let host = &self.shared.host;
        let vcpu = self.shared.vm.create_vcpu(index as u64).map_err(failed("KVM_CREATE_VCPU"))?;
        let table = cpuid::narrowed(cpuid, &host.supported_cpuid);
        vcpu.set_cpuid2(&cpuid::to_kvm(&table)?).map_err(failed("KVM_SET_CPUID2"))?;
        msrs::tell_capabilities(&host.device, &vcpu, &table);
        if self.shared.vm.check_extension_raw(KVM_CAP_ENFORCE_PV_FEATURE_CPUID.into()) > 0 {
            // Registers of features that CPUID does not offer hold state that is not saved: the guest must not have them.
            let cap = kvm_enable_cap {
                cap: KVM_CAP_ENFORCE_PV_FEATURE_CPUID,
                args: [1, 0, 0, 0],
                ..Default::default()
            };
            vcpu.enable_cap(&cap).map_err(failed("KVM_CAP_ENFORCE_PV_FEATURE_CPUID"))?;
        }
        Ok(Box::new(KvmProcessor::new(vcpu, index, Arc::clone(&self.shared), bus)?))
    }

    fn stop_clock(&self) {
        self.shared.clock.stop(&self.shared.vm);
    }

    fn start_clock(&self) {
        self.shared.clock.start(&self.shared.vm);
    }

    fn clock_ns(&self) -> u64 {
        self.shared.clock.now_ns(&self.shared.vm)
    }

    fn set_clock_ns(&self, ns: u64) {
        self.shared.clock.set_ns(ns);
    }

    /// KVM tells of the end of an interrupt only for vectors that a route marks as level-triggered. Interrupts
    /// themselves go through [`signal`](MsiSink::signal).
    fn set_pin_routes(&self, routes: &[Option<MsiMessage>]) {
        let pins = routes.iter().enumerate().filter_map(|(pin, message)| Some((pin, (*message)?)));
        let level: Vec<_> = pins.filter(|(_, message)| message.data & LEVEL != 0).collect();
        let mut known = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        // Setting routes waits for all vCPUs to have seen the old ones: not for every mask bit.
        if *known == level {
            return;
        }
        let entries: Vec<_> = level.iter().map(route).collect();
        let set = KvmIrqRouting::from_entries(&entries).map(|table| self.shared.vm.set_gsi_routing(&table));
        match set {
            Ok(Ok(())) => *known = level,
            failure => tracing::error!(?failure, "the I/O APIC's pins cannot be told to KVM"),
        }
    }

    fn take_dirty(&self) -> Result<Vec<u64>, EngineError> {
        let mut pages = self.shared.slots.take_dirty(&self.shared.vm)?;
        // What devices wrote is not in KVM's log.
        pages.extend(self.shared.ram.take_dirty());
        pages.sort_unstable();
        pages.dedup();
        Ok(pages)
    }
}

#[cfg(test)]
mod tests {
    use super::{check_frequency, split_address};

    #[test]
    fn a_tsc_may_be_off_by_as_much_as_clocks_are_corrected() {
        assert!(check_frequency(2_000_000, 2_000_500).is_ok());
        assert!(check_frequency(2_000_600, 2_000_000).is_err());
        assert!(check_frequency(1_000_000, 2_000_000).is_err());
    }

    #[test]
    fn a_destination_beyond_eight_bits_moves_to_the_high_address() {
        // Destination 0x1234, to one processor only.
        let address = 0xfee0_0000 | 0x34 << 12 | 0x12 << 5;
        assert_eq!(split_address(address), (0xfee3_4000, 0x1200));
        assert_eq!(split_address(0xfeef_f00c), (0xfeef_f00c, 0));
    }
}
