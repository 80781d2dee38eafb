//! Page tables (Intel SDM vol. 3, chapter 4): 4-level, PAE and 32-bit, with accessed and dirty bits.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::bus::{PAGE_SIZE, PageFlags};
use crate::cpu::Cpu;
use crate::fault::Fault;
use crate::mmu::canonical;

pub(crate) const CR0_PE: u64 = 1 << 0;
pub(crate) const CR0_WP: u64 = 1 << 16;
pub(crate) const CR0_AM: u64 = 1 << 18;
pub(crate) const CR0_PG: u64 = 1 << 31;
pub(crate) const CR4_PSE: u64 = 1 << 4;
pub(crate) const CR4_PAE: u64 = 1 << 5;
pub(crate) const CR4_PGE: u64 = 1 << 7;
pub(crate) const EFER_LMA: u64 = 1 << 10;
pub(crate) const EFER_NXE: u64 = 1 << 11;

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
/// Bits of an entry that software may use in long mode and that are reserved in PAE paging.
const IGNORED_IN_LONG_MODE: u64 = 0x7ff << 52;
/// Low bits that are reserved in PAE paging's page-directory pointers.
const POINTER_RESERVED: u64 = 0x1e6;

bitflags::bitflags! {
    /// What an access wants; the bits of a page fault's error code.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Access: u32 {
        const WRITE = 1 << 1;
        const USER = 1 << 2;
        const FETCH = 1 << 4;
    }
}

const ERROR_PRESENT: u32 = 1 << 0;
const ERROR_RESERVED: u32 = 1 << 3;

/// Where a linear address leads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Translation {
    /// Guest-physical address.
    pub gpa: u64,
    /// The translation survives a change of address space.
    pub global: bool,
    /// log2 of the page's size.
    pub shift: u32,
}

const fn unpaged(gpa: u64) -> Translation {
    Translation { gpa, global: false, shift: 12 }
}

/// One level of a page table's radix tree.
struct Level {
    /// Lowest address bit this level's index is taken from.
    shift: u32,
    /// Whether an entry here may map a page itself.
    may_map: bool,
}

impl Cpu {
    /// Walks the page tables for `la`, sets accessed and dirty bits, or says which fault the access raises.
    pub(crate) fn walk(&mut self, la: u64, access: Access) -> Result<Translation, Fault> {
        // Another processor may change an entry between our reading it and marking it; then the walk starts over. A guest
        // that does nothing else must not hold us here for ever, so the last attempt goes on unmarked.
        for _ in 0..64 {
            if let Some(translation) = self.walk_once(la, access, true)? {
                return Ok(translation);
            }
        }
        Ok(self.walk_once(la, access, false)?.unwrap_or(unpaged(la & self.mmu.physical_mask)))
    }

    /// One attempt; `None` when an entry changed under it.
    fn walk_once(&mut self, la: u64, access: Access, mark: bool) -> Result<Option<Translation>, Fault> {
        if self.cr0 & CR0_PG == 0 {
            return Ok(Some(unpaged(la & 0xffff_ffff & self.mmu.physical_mask)));
        }
        if self.efer & EFER_LMA != 0 {
            debug_assert!(!self.long_mode() || canonical(la), "callers check canonical form");
            const LEVELS: [Level; 4] = [
                Level { shift: 39, may_map: false },
                Level { shift: 30, may_map: true },
                Level { shift: 21, may_map: true },
                Level { shift: 12, may_map: false },
            ];
            self.walk_wide(la, access, &LEVELS, self.cr3 & 0x000f_ffff_ffff_f000, mark)
        } else if self.cr4 & CR4_PAE != 0 {
            let pointer = (self.cr3 & 0xffff_ffe0) + (la >> 30 & 3) * 8;
            let pdpte = self.table_entry64(pointer).map_or(0, |e| e.load(Ordering::Relaxed));
            if pdpte & PRESENT == 0 {
                return Err(self.page_fault(la, access, 0));
            }
            const LEVELS: [Level; 2] =
                [Level { shift: 21, may_map: true }, Level { shift: 12, may_map: false }];
            self.walk_wide(la & 0xffff_ffff, access, &LEVELS, pdpte & self.mmu.physical_mask & !0xfff, mark)
        } else {
            self.walk_narrow(la & 0xffff_ffff, access).map(Some)
        }
    }

    /// Whether PAE paging's four page-directory pointers at `cr3` may be loaded: a present one has no reserved bit set
    /// (4.4.1).
    pub(crate) fn good_directory_pointers(&self, cr3: u64) -> bool {
        let reserved = !self.mmu.physical_mask | POINTER_RESERVED;
        (0..4).all(|n| {
            let pointer = self.table_entry64((cr3 & 0xffff_ffe0) + n * 8);
            let pointer = pointer.map_or(0, |e| e.load(Ordering::Relaxed));
            pointer & PRESENT == 0 || pointer & reserved == 0
        })
    }

    fn page_fault(&self, la: u64, access: Access, more: u32) -> Fault {
        let mut bits = access;
        if self.cr4 & CR4_PAE == 0 || self.efer & EFER_NXE == 0 {
            bits.remove(Access::FETCH);
        }
        Fault::page(la, bits.bits() | more)
    }

    /// Whether the rights gathered over the levels permit `access`.
    fn permitted(&self, writable: bool, user: bool, executable: bool, access: Access) -> bool {
        if access.contains(Access::USER) && !user {
            return false;
        }
        if access.contains(Access::FETCH) && !executable {
            return false;
        }
        !access.contains(Access::WRITE)
            || writable
            || !access.contains(Access::USER) && self.cr0 & CR0_WP == 0
    }

    fn walk_wide(
        &mut self,
        la: u64,
        access: Access,
        levels: &[Level],
        mut table: u64,
        mark: bool,
    ) -> Result<Option<Translation>, Fault> {
        let reserved_always = !self.mmu.physical_mask & 0x000f_ffff_ffff_f000
            | if self.efer & EFER_NXE == 0 { NO_EXECUTE } else { 0 }
            | if self.efer & EFER_LMA == 0 { IGNORED_IN_LONG_MODE } else { 0 };
        let (mut writable, mut user, mut executable) = (true, true, true);
        let mut seen: [Option<(&AtomicU64, u64, u64)>; 4] = [None; 4];
        for (depth, level) in levels.iter().enumerate() {
            let at = table + (la >> level.shift & 0x1ff) * 8;
            let cell = self.table_entry64(at);
            let entry = cell.map_or(0, |e| e.load(Ordering::Relaxed));
            if entry & PRESENT == 0 {
                return Err(self.page_fault(la, access, 0));
            }
            let large = level.shift != 12 && entry & LARGE != 0;
            let mut reserved = reserved_always;
            if large {
                let may_map = level.may_map && (level.shift != 30 || self.features.giant_pages);
                reserved |= if may_map { ((1 << level.shift) - 1) & !0x1fff } else { LARGE };
            }
            if entry & reserved != 0 {
                return Err(self.page_fault(la, access, ERROR_PRESENT | ERROR_RESERVED));
            }
            writable &= entry & WRITE != 0;
            user &= entry & USER != 0;
            executable &= entry & NO_EXECUTE == 0;
            seen[depth] = cell.map(|c| (c, entry, at));
            if large || level.shift == 12 {
                if !self.permitted(writable, user, executable, access) {
                    return Err(self.page_fault(la, access, ERROR_PRESENT));
                }
                if mark && !self.mark_walked(&seen[..=depth], access) {
                    return Ok(None);
                }
                let mask = (1u64 << level.shift) - 1;
                let gpa = entry & 0x000f_ffff_ffff_f000 & !mask | la & mask;
                let global = entry & GLOBAL != 0 && self.cr4 & CR4_PGE != 0;
                return Ok(Some(Translation { gpa, global, shift: level.shift }));
            }
            table = entry & 0x000f_ffff_ffff_f000;
        }
        Err(self.page_fault(la, access, 0))
    }

    /// Sets the accessed bit in each entry of a walk and the dirty bit in the last; false if one changed meanwhile.
    fn mark_walked(&self, walked: &[Option<(&AtomicU64, u64, u64)>], access: Access) -> bool {
        for (i, step) in walked.iter().enumerate() {
            let Some((cell, entry, at)) = *step else { continue };
            let mut want = ACCESSED;
            if i + 1 == walked.len() && access.contains(Access::WRITE) {
                want |= DIRTY;
            }
            if entry & want != want {
                if cell.compare_exchange(entry, entry | want, Ordering::SeqCst, Ordering::Relaxed).is_err() {
                    return false;
                }
                self.note_table_write(at);
            }
        }
        true
    }

    /// 32-bit paging: two levels of 4-byte entries, 4 MiB pages with PSE (and PSE-36).
    fn walk_narrow(&mut self, la: u64, access: Access) -> Result<Translation, Fault> {
        let pde_at = (self.cr3 & 0xffff_f000) + (la >> 22) * 4;
        let pde_cell = self.table_entry32(pde_at);
        let pde = pde_cell.map_or(0, |e| e.load(Ordering::Relaxed));
        if u64::from(pde) & PRESENT == 0 {
            return Err(self.page_fault(la, access, 0));
        }
        if u64::from(pde) & LARGE != 0 && self.cr4 & CR4_PSE != 0 {
            if pde & 1 << 21 != 0 {
                return Err(self.page_fault(la, access, ERROR_PRESENT | ERROR_RESERVED));
            }
            let bits = u64::from(pde);
            if !self.permitted(bits & WRITE != 0, bits & USER != 0, true, access) {
                return Err(self.page_fault(la, access, ERROR_PRESENT));
            }
            self.mark_narrow(pde_cell, pde, pde_at, access.contains(Access::WRITE));
            let base = bits & 0xffc0_0000 | (bits >> 13 & 0xff) << 32;
            let global = bits & GLOBAL != 0 && self.cr4 & CR4_PGE != 0;
            return Ok(Translation { gpa: base | la & 0x3f_ffff, global, shift: 22 });
        }
        let pte_at = (u64::from(pde) & 0xffff_f000) + (la >> 12 & 0x3ff) * 4;
        let pte_cell = self.table_entry32(pte_at);
        let pte = pte_cell.map_or(0, |e| e.load(Ordering::Relaxed));
        if u64::from(pte) & PRESENT == 0 {
            return Err(self.page_fault(la, access, 0));
        }
        let both = u64::from(pde & pte);
        if !self.permitted(both & WRITE != 0, both & USER != 0, true, access) {
            return Err(self.page_fault(la, access, ERROR_PRESENT));
        }
        self.mark_narrow(pde_cell, pde, pde_at, false);
        self.mark_narrow(pte_cell, pte, pte_at, access.contains(Access::WRITE));
        let global = u64::from(pte) & GLOBAL != 0 && self.cr4 & CR4_PGE != 0;
        Ok(Translation { gpa: u64::from(pte) & 0xffff_f000 | la & 0xfff, global, shift: 12 })
    }

    fn mark_narrow(&self, cell: Option<&AtomicU32>, entry: u32, at: u64, dirty: bool) {
        let want = (ACCESSED | if dirty { DIRTY } else { 0 }) as u32;
        if let Some(cell) = cell.filter(|_| entry & want != want) {
            cell.fetch_or(want, Ordering::SeqCst);
            self.note_table_write(at);
        }
    }

    /// The page-table page at `at` was written by the walk itself.
    fn note_table_write(&self, at: u64) {
        if let Some(frame) = self.system.memory.frame(at & !(PAGE_SIZE - 1)) {
            // SAFETY: `GuestMemory::frame` promises a valid flag byte.
            unsafe { frame.flags.as_ref() }.fetch_or(PageFlags::DIRTY.bits(), Ordering::Relaxed);
        }
    }

    fn table_entry64<'a>(&self, at: u64) -> Option<&'a AtomicU64> {
        let frame = self.system.memory.frame(at & !(PAGE_SIZE - 1))?;
        // SAFETY: the page stays mapped for the life of the memory, which outlives the walk; `at` is 8-byte aligned.
        Some(unsafe { &*frame.host.as_ptr().add((at & (PAGE_SIZE - 1)) as usize).cast::<AtomicU64>() })
    }

    fn table_entry32<'a>(&self, at: u64) -> Option<&'a AtomicU32> {
        let frame = self.system.memory.frame(at & !(PAGE_SIZE - 1))?;
        // SAFETY: as in `table_entry64`, 4-byte aligned.
        Some(unsafe { &*frame.host.as_ptr().add((at & (PAGE_SIZE - 1)) as usize).cast::<AtomicU32>() })
    }
}
