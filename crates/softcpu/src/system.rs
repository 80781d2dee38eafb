//! What the processors of one guest share: memory, clock, CPUID, and a mailbox each for what others send.

use std::sync::Arc;

use crate::apic::{Mailbox, Request};
use crate::bus::{GuestMemory, PAGE_SIZE};
use crate::clock::Clock;
use crate::code_map::CodeMap;
use crate::cpu::Cpu;
use crate::wait;

/// Pages of stale code that are forgotten one by one; beyond that, all code is.
const MOST_PAGES: u64 = 1024;

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

    /// Tells all processors but `except` that code made of `len` bytes at guest-physical `gpa` is stale. Each acts on it
    /// before it takes its next interrupt. Waits for nobody.
    pub(crate) fn invalidate_code(&self, except: Option<usize>, gpa: u64, len: u64) {
        for (_, mailbox) in self.mailboxes.iter().enumerate().filter(|(i, _)| Some(*i) != except) {
            mailbox.request(Request::InvalidateCode { gpa, len });
        }
    }

    /// Makes all processors tell the next write of every page again: a new epoch of the dirty log begins. When this
    /// returns, no processor writes a page whose flag was cleared before the call without setting it anew. Not to be
    /// called from a processor's thread.
    pub fn forget_writable(&self) {
        let asked: Vec<_> = self.mailboxes.iter().map(|m| (m, m.request(Request::ForgetWritable))).collect();
        for (mailbox, ticket) in asked {
            wait::until(|| mailbox.is_done(ticket));
        }
    }

    fn others(&self, than: usize) -> impl Iterator<Item = &Arc<Mailbox>> {
        self.mailboxes.iter().enumerate().filter(move |(i, _)| *i != than).map(|(_, m)| m)
    }

    /// The machine's clock.
    pub fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }
}

impl Cpu {
    /// Does what others asked. To be called between blocks, and while waiting for others.
    pub(crate) fn drain_inbox(&mut self) {
        for request in self.mailbox.take_requests().into_iter().flatten() {
            match request {
                Request::DropWritable(gpa) => self.mmu.drop_writable(gpa),
                Request::InvalidateCode { gpa, len } => {
                    let (first, last) = (gpa / PAGE_SIZE, gpa.saturating_add(len.max(1) - 1) / PAGE_SIZE);
                    if last - first < MOST_PAGES {
                        (first..=last).for_each(|page| self.code.drop_page(page * PAGE_SIZE));
                    } else {
                        self.code.clear();
                    }
                }
                Request::FlushCode => self.code.clear(),
                Request::ForgetWritable => self.mmu.drop_all_writable(),
                Request::FlushTlb => self.flush_tlb(true),
            }
        }
    }

    /// What a serialising instruction promises: code that another processor changed before something this one has already
    /// seen is executed as changed. Only for instructions that leave their block.
    #[inline]
    pub(crate) fn serialise(&mut self) {
        self.drain_inbox();
    }

    /// Makes sure that no other processor writes page `gpa` of guest memory without telling, before code is made from it.
    /// Waits for those that run and meanwhile answers their requests, for they may be waiting for this one.
    pub(crate) fn drop_writable_elsewhere(&mut self, gpa: u64) {
        let system = Arc::clone(&self.system);
        let asked: Vec<_> =
            system.others(self.index).map(|m| (m, m.request(Request::DropWritable(gpa)))).collect();
        for (mailbox, ticket) in asked {
            // The other looks every couple of thousand instructions, unless the host has taken it off its processor.
            wait::until(|| {
                let done = mailbox.is_done(ticket);
                if !done {
                    self.drain_inbox();
                }
                done
            });
        }
    }
}
