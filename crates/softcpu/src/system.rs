//! What the processors of one guest share: memory, clock, CPUID, and a mailbox each for what others send.

use std::sync::Arc;

use crate::apic::Mailbox;
use crate::bus::GuestMemory;
use crate::cache::CodeMap;
use crate::clock::Clock;

/// One line of the CPUID table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct CpuidEntry {
    pub leaf: u32,
    pub subleaf: u32,
    /// Whether the leaf has sub-leaves (else `subleaf` is not compared).
    pub indexed: bool,
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// A guest's processors and what they have in common.
pub struct System {
    pub(crate) memory: Arc<dyn GuestMemory>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) mailboxes: Box<[Arc<Mailbox>]>,
    /// Where there is translated code.
    pub(crate) code_map: CodeMap,
}

impl System {
    /// A system of as many processors as `apic_ids` has entries (each its local APIC id, the first the bootstrap processor).
    pub fn new(memory: Arc<dyn GuestMemory>, clock: Arc<Clock>, apic_ids: &[u32]) -> Arc<Self> {
        let mailboxes = apic_ids.iter().map(|&id| Arc::new(Mailbox::new(id))).collect();
        Arc::new(Self { memory, clock, mailboxes, code_map: CodeMap::default() })
    }

    /// The mailbox of processor `index`.
    pub fn mailbox(&self, index: usize) -> &Arc<Mailbox> {
        &self.mailboxes[index]
    }

    /// The machine's clock.
    pub fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }
}
