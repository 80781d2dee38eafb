//! The model's CPUID table, narrowed to what this host's KVM can give.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use softcpu::CpuidEntry;

use super::{EngineError, failed, unusable};
use crate::memory::{Layout, map};

/// In leaf 1, ECX: what KVM gives every guest with local APICs in the kernel, whether it lists it or not.
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// In leaf 1, EDX: several processors in the package. That is topology, and ours to say.
const HTT: u32 = 1 << 28;
/// In leaf 0x4000_0001, EAX: the machine's doing, which KVM does not list.
const MSI_EXT_DEST_ID: u32 = 1 << 15;

/// The table of KVM_GET_SUPPORTED_CPUID.
pub(super) fn supported(kvm: &kvm_ioctls::Kvm) -> Result<Vec<CpuidEntry>, EngineError> {
    let table = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(failed("KVM_GET_SUPPORTED_CPUID"))?;
    Ok(table.as_slice().iter().map(from_kvm).collect())
}

fn from_kvm(e: &kvm_cpuid_entry2) -> CpuidEntry {
    let indexed = e.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0;
    CpuidEntry { leaf: e.function, subleaf: e.index, indexed, eax: e.eax, ebx: e.ebx, ecx: e.ecx, edx: e.edx }
}

/// The table as KVM_SET_CPUID2 takes it.
pub(super) fn to_kvm(table: &[CpuidEntry]) -> Result<CpuId, EngineError> {
    let entries: Vec<_> = table
        .iter()
        .map(|e| kvm_cpuid_entry2 {
            function: e.leaf,
            index: e.subleaf,
            flags: if e.indexed { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
            eax: e.eax,
            ebx: e.ebx,
            ecx: e.ecx,
            edx: e.edx,
            ..Default::default()
        })
        .collect();
    CpuId::from_entries(&entries).map_err(|_| unusable("the CPUID table is too long for KVM"))
}

fn address_bits(supported: &[CpuidEntry]) -> u32 {
    supported.iter().find(|e| e.leaf == 0x8000_0008).map_or(36, |e| e.eax & 0xff)
}

/// Whether the host's processors have as many address bits as the guest's layout needs.
pub(super) fn check_address_width(supported: &[CpuidEntry], layout: &Layout) -> Result<(), EngineError> {
    let (bits, bars) = (address_bits(supported), layout.high_bars());
    let needed = u64::BITS - (bars.start + bars.size - 1).leading_zeros();
    if bits < needed {
        let why = format!("the processor has {bits} bits of physical address, this guest needs {needed}");
        return Err(unusable(why));
    }
    Ok(())
}

/// `table` without the features that KVM cannot give here. Topology, caches, names and frequencies stay the model's.
pub(super) fn narrowed(table: &[CpuidEntry], supported: &[CpuidEntry]) -> Vec<CpuidEntry> {
    table.iter().map(|e| narrowed_entry(e, supported)).collect()
}

fn narrowed_entry(e: &CpuidEntry, supported: &[CpuidEntry]) -> CpuidEntry {
    let there = supported.iter().find(|s| s.leaf == e.leaf && (!e.indexed || s.subleaf == e.subleaf));
    let there = there.copied().unwrap_or_default();
    let mut e = *e;
    match e.leaf {
        1 => {
            e.ecx &= there.ecx | X2APIC | TSC_DEADLINE | HYPERVISOR;
            e.edx &= there.edx | HTT;
        }
        7 => (e.ebx, e.ecx, e.edx) = (e.ebx & there.ebx, e.ecx & there.ecx, e.edx & there.edx),
        0x4000_0001 => e.eax &= there.eax | MSI_EXT_DEST_ID,
        0x8000_0001 => (e.ecx, e.edx) = (e.ecx & there.ecx, e.edx & there.edx),
        0x8000_0007 => e.edx &= there.edx,
        0x8000_0008 => {
            e.eax = e.eax & !0xff | (e.eax & 0xff).min(address_bits(supported)).min(map::PHYSICAL_BITS)
        }
        _ => {}
    }
    e
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processor::CpuModel;

    fn feature_words(table: &[CpuidEntry]) -> Vec<u32> {
        table.iter().filter(|e| matches!(e.leaf, 1 | 7 | 0x8000_0001)).flat_map(|e| [e.ecx, e.edx]).collect()
    }

    #[test]
    fn a_host_that_has_everything_takes_nothing_away() {
        let model = CpuModel::new(1_000_000).cpuid(0, 2);
        let all = |e: &CpuidEntry| CpuidEntry { eax: !0, ebx: !0, ecx: !0, edx: !0, ..*e };
        let host: Vec<_> = model.iter().map(all).collect();
        assert_eq!(narrowed(&model, &host), model);
    }

    #[test]
    fn a_host_that_has_nothing_leaves_what_kvm_itself_gives() {
        let model = CpuModel::new(1_000_000).cpuid(0, 1);
        let words = feature_words(&narrowed(&model, &[]));
        assert_eq!(words, [X2APIC | TSC_DEADLINE | HYPERVISOR, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_table_survives_the_way_through_kvm() {
        let model = CpuModel::new(1_000_000).cpuid(1, 4);
        let back: Vec<_> = to_kvm(&model).unwrap().as_slice().iter().map(from_kvm).collect();
        assert_eq!(back, model);
    }

    #[test]
    fn a_host_with_few_address_bits_runs_what_fits_into_them() {
        let host = |bits| [CpuidEntry { leaf: 0x8000_0008, eax: bits, ..CpuidEntry::default() }];
        let (small, large) = (Layout::new(1 << 30).unwrap(), Layout::new(200 << 30).unwrap());
        assert!(check_address_width(&host(37), &small).is_ok());
        assert!(check_address_width(&host(36), &small).is_err());
        assert!(check_address_width(&host(39), &large).is_ok());
        assert!(check_address_width(&host(38), &large).is_err());
    }
}
