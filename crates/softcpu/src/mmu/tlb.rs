//! The software TLB: which pages' bytes are where in the host's memory, and what may be done with them without asking anybody.

use crate::bus::{Frame, PAGE_SIZE};
use crate::paging::Translation;

/// The table of a supervisor's accesses; that of a user's is the next one.
pub(super) const SUPERVISOR: usize = 0;
/// The one that is never filled, so that all accesses are looked at.
pub(super) const NEVER_FILLED: usize = 2;

/// Entries in one table; a power of two.
const ENTRIES: usize = 1024;

#[repr(C, align(32))]
#[derive(Clone, Copy)]
pub(super) struct Entry {
    /// Page address for which reads may go straight to `host`.
    pub(super) read: u64,
    /// Likewise for writes.
    pub(super) write: u64,
    /// Host address of the page.
    pub(super) host: u64,
    /// Guest-physical address of the page.
    gpa: u64,
}

/// One translation table with a record of what is filled, so that a flush touches only that.
struct Table {
    entries: Box<[Entry; ENTRIES]>,
    used: [u64; ENTRIES / 64],
    global: [u64; ENTRIES / 64],
    /// Entries that are a piece of a larger page.
    large: [u64; ENTRIES / 64],
    /// log2 of each entry's page's size.
    shifts: Box<[u8; ENTRIES]>,
}

/// A tag no address that selects entry `index` can match.
const fn no_tag(index: usize) -> u64 {
    ((index ^ 1) as u64) << 12
}

const fn index_of(la: u64) -> usize {
    (la >> 12) as usize & (ENTRIES - 1)
}

/// The numbers of the bits that are set in `word`.
fn bits(word: u64) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(word), |w| Some(w & w.wrapping_sub(1)))
        .take_while(|w| *w != 0)
        .map(|w| w.trailing_zeros() as usize)
}

impl Table {
    fn new() -> Self {
        let mut entries = vec![Entry { read: 0, write: 0, host: 0, gpa: 0 }; ENTRIES];
        for (i, e) in entries.iter_mut().enumerate() {
            (e.read, e.write) = (no_tag(i), no_tag(i));
        }
        let entries = match entries.into_boxed_slice().try_into() {
            Ok(entries) => entries,
            Err(_) => unreachable!("the vector was made with ENTRIES elements"),
        };
        let none = [0; ENTRIES / 64];
        Self { entries, used: none, global: none, large: none, shifts: Box::new([12; ENTRIES]) }
    }

    fn drop_entry(&mut self, i: usize) {
        (self.entries[i].read, self.entries[i].write) = (no_tag(i), no_tag(i));
        self.used[i / 64] &= !(1 << (i % 64));
        self.global[i / 64] &= !(1 << (i % 64));
        self.large[i / 64] &= !(1 << (i % 64));
    }

    /// Drops what translates the page of `la`: its entry, and all pieces of the larger page it is in.
    fn drop_page(&mut self, la: u64) {
        let i = index_of(la);
        if self.entries[i].read == la & !(PAGE_SIZE - 1) {
            self.drop_entry(i);
        }
        for word in 0..ENTRIES / 64 {
            for i in bits(self.large[word]).map(|bit| word * 64 + bit) {
                if (self.entries[i].read ^ la) >> self.shifts[i] == 0 {
                    self.drop_entry(i);
                }
            }
        }
    }

    fn flush(&mut self, global: bool) {
        for word in 0..ENTRIES / 64 {
            let dropped = if global { self.used[word] } else { self.used[word] & !self.global[word] };
            bits(dropped).for_each(|bit| self.drop_entry(word * 64 + bit));
        }
    }

    fn for_each_used(&mut self, mut f: impl FnMut(usize, &mut Entry)) {
        for word in 0..ENTRIES / 64 {
            for i in bits(self.used[word]).map(|bit| word * 64 + bit) {
                f(i, &mut self.entries[i]);
            }
        }
    }
}

/// The translation state of one processor.
#[repr(C)]
pub(crate) struct Mmu {
    /// The table in force: supervisor, user, or the one that is never filled.
    current: *mut Entry,
    /// Which of `tables` `current` is.
    pub(super) which: usize,
    tables: [Table; 3],
    /// Bits a physical address may have.
    pub(crate) physical_mask: u64,
}

// SAFETY: `current` points into the boxes of `tables`, which move with the Mmu without moving their contents.
unsafe impl Send for Mmu {}

impl Mmu {
    /// An empty TLB for a processor with `physical_bits` bits of physical address.
    pub(crate) fn new(physical_bits: u32) -> Self {
        let mut tables = [Table::new(), Table::new(), Table::new()];
        let current = tables[0].entries.as_mut_ptr();
        Self { current, which: 0, tables, physical_mask: (1u64 << physical_bits.min(52)) - 1 }
    }

    /// Has another one of the tables in force.
    pub(super) fn select(&mut self, which: usize) {
        self.which = which;
        self.current = self.tables[which].entries.as_mut_ptr();
    }

    /// The entry that answers for `la`, if any does.
    #[inline(always)]
    pub(super) fn entry(&self, la: u64) -> &Entry {
        // SAFETY: `current` points to ENTRIES entries and `index_of` is below that.
        unsafe { &*self.current.add(index_of(la)) }
    }

    /// Answers accesses to the page of `la` from now on; writes, too, if `write`.
    pub(super) fn fill(&mut self, la: u64, t: &Translation, frame: &Frame, write: bool) {
        if self.which == NEVER_FILLED {
            return;
        }
        let i = index_of(la);
        let page = la & !(PAGE_SIZE - 1);
        let table = &mut self.tables[self.which];
        let e = &mut table.entries[i];
        let keep_write = e.write == page && e.gpa == t.gpa & !(PAGE_SIZE - 1);
        *e = Entry {
            read: page,
            write: if write || keep_write { page } else { no_tag(i) },
            host: frame.host.as_ptr() as u64,
            gpa: t.gpa & !(PAGE_SIZE - 1),
        };
        table.used[i / 64] |= 1 << (i % 64);
        let set = |map: &mut [u64], value: bool| {
            map[i / 64] = map[i / 64] & !(1 << (i % 64)) | u64::from(value) << (i % 64);
        };
        set(&mut table.global, t.global);
        set(&mut table.large, t.shift > 12);
        table.shifts[i] = t.shift as u8;
    }

    /// Forgets all translations, or all but global ones.
    pub(super) fn flush(&mut self, global: bool) {
        self.tables.iter_mut().for_each(|table| table.flush(global));
    }

    /// Forgets the translation of the page of `la`.
    pub(super) fn drop_page(&mut self, la: u64) {
        self.tables.iter_mut().for_each(|table| table.drop_page(la));
    }

    /// Takes back the right to write page `gpa` without telling.
    pub(crate) fn drop_writable(&mut self, gpa: u64) {
        for table in &mut self.tables {
            table.for_each_used(|i, e| {
                if e.gpa == gpa {
                    e.write = no_tag(i);
                }
            });
        }
    }

    /// Takes back the right to write any page without telling: a new epoch of the dirty log begins.
    pub(crate) fn drop_all_writable(&mut self) {
        for table in &mut self.tables {
            table.for_each_used(|i, e| e.write = no_tag(i));
        }
    }
}
