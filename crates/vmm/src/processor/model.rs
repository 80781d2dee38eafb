//! The processor the guest sees: one table of CPUID leaves for both engines, so that a saved machine can move between them.
//!
//! It is an x86-64-v1 processor with CMPXCHG16B, POPCNT and SSE3, of Intel's kind (family 6), that says through
//! IA32_ARCH_CAPABILITIES that it has none of the known side channels, so that no kernel pays for mitigations it does not
//! need; ERMS and FSRM are set because bulk string instructions are the fastest way to move memory on either engine.

use softcpu::CpuidEntry;

use crate::memory::map;

/// Which model it is: whatever is different in what a guest sees of its processor makes another one, and older ones stay, so that a saved
/// machine goes on with the processor that it was made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Model {
    /// The first one. Its local APIC's timer may stop where the processor sleeps, as far as a guest knows: Linux then has its tick 250 times
    /// a second for ever.
    First,
    /// Says that the timer never stops (ARAT).
    #[default]
    Second,
}

impl Model {
    /// All there are, the newest last.
    pub const ALL: [Self; 2] = [Self::First, Self::Second];

    /// What saved machines call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::First => "tessera-1",
            Self::Second => "tessera-2",
        }
    }

    /// The one of this name, if there is one.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|model| model.name() == name)
    }
}

/// Family 6, model 15, stepping 1.
const SIGNATURE: u32 = 0x6f1;
/// What 0x80000002 to 0x80000004 spell.
const BRAND: &[u8; 48] = b"Tessera Virtual Processor\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

mod leaf1_ecx {
    pub const SSE3: u32 = 1 << 0;
    pub const CX16: u32 = 1 << 13;
    pub const X2APIC: u32 = 1 << 21;
    pub const POPCNT: u32 = 1 << 23;
    pub const TSC_DEADLINE: u32 = 1 << 24;
    pub const HYPERVISOR: u32 = 1 << 31;
}

/// FPU DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH MMX FXSR SSE SSE2.
const LEAF1_EDX: u32 = 0x0783_fbfd | 1 << 19;
const LEAF1_EDX_HTT: u32 = 1 << 28;
// With it Linux trusts an invariant TSC and does not watch it by another clock, which a busy host makes look wrong.
const LEAF7_EBX_TSC_ADJUST: u32 = 1 << 1;
const LEAF7_EBX_ERMS: u32 = 1 << 9;
// The software processor does not keep the x87 unit's segment selectors; processors of today do not either.
const LEAF7_EBX_ZERO_FCS_FDS: u32 = 1 << 13;
/// FSRM, SPEC_CTRL, ARCH_CAPABILITIES.
const LEAF7_EDX: u32 = 1 << 4 | 1 << 26 | 1 << 29;
/// SYSCALL NX RDTSCP LM.
const EXTENDED_EDX: u32 = 1 << 11 | 1 << 20 | 1 << 27 | 1 << 29;
const EXTENDED_ECX_LAHF: u32 = 1;
const INVARIANT_TSC: u32 = 1 << 8;
/// NOP_IO_DELAY, CLOCKSOURCE2, STEAL_TIME, MSI_EXT_DEST_ID, CLOCKSOURCE_STABLE (Linux, Documentation/virt/kvm/x86/cpuid.rst).
const KVM_FEATURES: u32 = 1 << 1 | 1 << 3 | 1 << 5 | 1 << 15 | 1 << 24;
/// Frequency of the local APIC's timer, kHz.
const APIC_KHZ: u32 = 1_000_000;

/// The local APIC's timer runs at a constant rate whatever the processor does (Intel SDM volume 2A, CPUID, leaf 6).
const LEAF6_EAX_ARAT: u32 = 1 << 2;

/// A processor of a model.
#[derive(Clone, Debug)]
pub struct CpuModel {
    model: Model,
    tsc_khz: u32,
}

fn entry(leaf: u32, eax: u32, ebx: u32, ecx: u32, edx: u32) -> CpuidEntry {
    CpuidEntry { leaf, subleaf: 0, indexed: false, eax, ebx, ecx, edx }
}

fn sub(leaf: u32, subleaf: u32, eax: u32, ebx: u32, ecx: u32, edx: u32) -> CpuidEntry {
    CpuidEntry { leaf, subleaf, indexed: true, eax, ebx, ecx, edx }
}

fn word(text: &[u8], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&text[at..at + 4]);
    u32::from_le_bytes(bytes)
}

impl CpuModel {
    /// One of the newest model with a TSC of `tsc_khz` kHz.
    pub fn new(tsc_khz: u32) -> Self {
        Self::of(Model::default(), tsc_khz)
    }

    /// One of a model with a TSC of `tsc_khz` kHz.
    pub fn of(model: Model, tsc_khz: u32) -> Self {
        Self { model, tsc_khz }
    }

    /// What CPUID says on processor `index` of `count`, which are the cores of one package.
    pub fn cpuid(&self, index: u32, count: u32) -> Vec<CpuidEntry> {
        let mut table = self.basic(index, count);
        table.extend(self.hypervisor());
        table.extend(Self::extended());
        table
    }

    fn basic(&self, index: u32, count: u32) -> Vec<CpuidEntry> {
        use leaf1_ecx::*;
        let vendor = b"GenuineIntel";
        let ids = count.next_power_of_two();
        let ecx = SSE3 | CX16 | X2APIC | POPCNT | TSC_DEADLINE | HYPERVISOR;
        let edx = LEAF1_EDX | if count > 1 { LEAF1_EDX_HTT } else { 0 };
        let mhz = self.tsc_khz / 1000;
        let mut table = vec![
            entry(0, 0x16, word(vendor, 0), word(vendor, 8), word(vendor, 4)),
            entry(1, SIGNATURE, (index & 0xff) << 24 | ids.min(255) << 16 | 8 << 8, ecx, edx),
            // No descriptors: leaf 4 tells of the caches.
            entry(2, 0x00ff_ff01, 0, 0, 0),
            sub(7, 0, 0, LEAF7_EBX_TSC_ADJUST | LEAF7_EBX_ERMS | LEAF7_EBX_ZERO_FCS_FDS, 0, LEAF7_EDX),
            entry(0x15, 1, 1, self.tsc_khz.saturating_mul(1000), 0),
            entry(0x16, mhz, mhz, 100, 0),
        ];
        if self.model != Model::First {
            table.push(entry(6, LEAF6_EAX_ARAT, 0, 0, 0));
        }
        // 32 KiB of L1 data and instructions a core, 2 MiB of L2 a core: type and level, sharing, ways and line, sets.
        for (i, (kind, level, ways, sets)) in
            [(1, 1, 8, 64), (2, 1, 8, 64), (3, 2, 16, 2048u32)].into_iter().enumerate()
        {
            let eax = kind | level << 5 | 1 << 8 | (ids.min(64) - 1) << 26;
            table.push(sub(4, i as u32, eax, (ways - 1) << 22 | 63, sets - 1, 0));
        }
        // One thread a core; the cores of the package.
        let bits = ids.trailing_zeros();
        table.push(sub(0xb, 0, 0, 1, 1 << 8, index));
        table.push(sub(0xb, 1, bits, count, 2 << 8 | 1, index));
        table
    }

    fn hypervisor(&self) -> Vec<CpuidEntry> {
        let signature = b"KVMKVMKVM\0\0\0";
        vec![
            entry(0x4000_0000, 0x4000_0010, word(signature, 0), word(signature, 4), word(signature, 8)),
            entry(0x4000_0001, KVM_FEATURES, 0, 0, 0),
            // TSC and local APIC frequency, kHz: the leaf VMware began and others follow.
            entry(0x4000_0010, self.tsc_khz, APIC_KHZ, 0, 0),
        ]
    }

    fn extended() -> Vec<CpuidEntry> {
        let mut table = vec![
            entry(0x8000_0000, 0x8000_0008, 0, 0, 0),
            entry(0x8000_0001, SIGNATURE, 0, EXTENDED_ECX_LAHF, EXTENDED_EDX),
            entry(0x8000_0006, 0, 0, 2048 << 16 | 8 << 12 | 64, 0),
            entry(0x8000_0007, 0, 0, 0, INVARIANT_TSC),
            entry(0x8000_0008, map::PHYSICAL_BITS | 48 << 8, 0, 0, 0),
        ];
        for i in 0..3 {
            let at = 16 * i;
            let [a, b, c, d] = [0, 4, 8, 12].map(|n| word(BRAND, at + n));
            table.push(entry(0x8000_0002 + i as u32, a, b, c, d));
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_what_it_was_and_has_a_name_of_its_own() {
        let of = |model| CpuModel::of(model, 1_000_000).cpuid(0, 1);
        assert!(of(Model::First).iter().all(|e| e.leaf != 6));
        assert!(of(Model::Second).contains(&entry(6, LEAF6_EAX_ARAT, 0, 0, 0)));
        assert!(Model::ALL.iter().all(|model| Model::named(model.name()) == Some(*model)));
        assert_eq!(Model::named("tessera-9"), None);
    }

    #[test]
    fn every_processor_has_its_own_apic_id_and_no_leaf_twice() {
        for index in 0..4 {
            let table = CpuModel::new(1_000_000).cpuid(index, 4);
            let one = table.iter().find(|e| e.leaf == 1).unwrap();
            assert_eq!(one.ebx >> 24, index);
            assert!(table.iter().filter(|e| e.leaf == 0xb).all(|e| e.edx == index));
            let mut keys: Vec<_> = table.iter().map(|e| (e.leaf, e.subleaf)).collect();
            keys.sort_unstable();
            let all = keys.len();
            keys.dedup();
            assert_eq!(keys.len(), all);
        }
    }
}
