//! What exists only where CPUID offers it.

use iced_x86::{CpuidFeature, Instruction};

use crate::system::CpuidEntry;

/// Optional features of one processor. What its CPUID table does not speak of at all is there.
pub(crate) struct Features {
    /// What instructions must not need.
    absent: Vec<CpuidFeature>,
    /// Pages of 1 GiB.
    pub giant_pages: bool,
}

/// Takes a register from a line of the CPUID table.
type Register = fn(&CpuidEntry) -> u32;

/// The instruction sets that this processor knows and a guest need not have, with their bits in CPUID.
const OPTIONAL: [(CpuidFeature, u32, Register, u32); 4] = [
    (CpuidFeature::SSE3, 1, |e| e.ecx, 0),
    (CpuidFeature::CMPXCHG16B, 1, |e| e.ecx, 13),
    (CpuidFeature::POPCNT, 1, |e| e.ecx, 23),
    (CpuidFeature::RDTSCP, 0x8000_0001, |e| e.edx, 27),
];

impl Features {
    /// The features of a processor with this CPUID table.
    pub fn of(cpuid: &[CpuidEntry]) -> Self {
        let offers = |leaf: u32, register: Register, bit: u32| {
            cpuid.iter().find(|e| e.leaf == leaf).is_none_or(|e| register(e) >> bit & 1 != 0)
        };
        let absent = OPTIONAL
            .into_iter()
            .filter(|&(_, leaf, register, bit)| !offers(leaf, register, bit))
            .map(|(feature, ..)| feature)
            .collect();
        Self { absent, giant_pages: offers(0x8000_0001, |e| e.edx, 26) }
    }

    /// Whether `insn` needs what the processor does not have.
    pub fn lacks(&self, insn: &Instruction) -> bool {
        !self.absent.is_empty() && insn.cpuid_features().iter().any(|f| self.absent.contains(f))
    }
}
