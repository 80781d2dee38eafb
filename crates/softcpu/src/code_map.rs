//! Which pages of a guest's memory hold code that some processor has translated.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::bus::{PAGE_SIZE, PageFlags};

/// Multiplies and folds: the keys are addresses, which need no more.
#[derive(Default)]
pub(crate) struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u64(u64::from(b));
        }
    }
    fn write_u64(&mut self, v: u64) {
        let mixed = (self.0 ^ v).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 29);
    }
}

pub(crate) type AddressMap<V> = HashMap<u64, V, BuildHasherDefault<AddressHasher>>;

/// Which 64-byte pieces of guest pages somebody holds translated code of, for all processors of a guest.
#[derive(Default)]
pub(crate) struct CodeMap {
    pages: Mutex<CodePages>,
}

#[derive(Default)]
struct CodePages {
    map: AddressMap<CodePage>,
    /// How many pages were ever added: tells a page that was forgotten and added again from what it was.
    added: u64,
}

/// A page with code. It is in the map exactly as long as its flags have [`PageFlags::CODE`].
struct CodePage {
    /// The 64-byte pieces that code was made from.
    pieces: u64,
    /// No processor writes the page without telling, and none can begin to.
    settled: bool,
    added: u64,
}

/// The 64-byte pieces of its page that `len` bytes at `gpa` are in, a bit for each.
pub(crate) fn pieces(gpa: u64, len: u64) -> u64 {
    let first = gpa % PAGE_SIZE / 64;
    let last = ((gpa % PAGE_SIZE + len.max(1) - 1) / 64).min(63);
    (u64::MAX >> (63 - (last - first))) << first
}

impl CodeMap {
    fn lock(&self) -> MutexGuard<'_, CodePages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that code is made from `len` bytes at `gpa`, within one page, in the map and in the page's flags, which
    /// change under the lock so that they always agree. If some processor may still write the page without telling,
    /// gives the ticket to pass to [`settle`](Self::settle) once none does.
    pub(crate) fn add(&self, gpa: u64, len: u64, flags: &AtomicU8) -> Option<u64> {
        let mut pages = self.lock();
        let CodePages { map, added } = &mut *pages;
        let before = PageFlags::from_bits_truncate(flags.fetch_or(PageFlags::CODE.bits(), Ordering::SeqCst));
        let page = map.entry(gpa / PAGE_SIZE).or_insert_with(|| {
            *added += 1;
            CodePage { pieces: 0, settled: !before.contains(PageFlags::WRITABLE), added: *added }
        });
        page.pieces |= pieces(gpa, len);
        (!page.settled).then_some(page.added)
    }

    /// All processors have given up writing the page of `gpa` without telling since `ticket` was given. False if the page
    /// was forgotten meanwhile: then some may have begun again.
    pub(crate) fn settle(&self, gpa: u64, ticket: u64, flags: &AtomicU8) -> bool {
        let mut pages = self.lock();
        match pages.map.get_mut(&(gpa / PAGE_SIZE)) {
            Some(page) if page.added == ticket => {
                page.settled = true;
                flags.fetch_and(!PageFlags::WRITABLE.bits(), Ordering::SeqCst);
                true
            }
            _ => false,
        }
    }

    /// If a write of `len` bytes at `gpa`, within one page, touched code: forgets the page and says so. A processor that
    /// has not yet heard drops what it has when it does; one that translates anew adds the page again.
    pub(crate) fn take_if_written(&self, gpa: u64, len: u64, flags: &AtomicU8) -> bool {
        let mut pages = self.lock();
        let page = gpa / PAGE_SIZE;
        let hit = pages.map.get(&page).is_some_and(|p| p.pieces & pieces(gpa, len) != 0);
        if hit {
            pages.map.remove(&page);
            flags.fetch_and(!PageFlags::CODE.bits(), Ordering::SeqCst);
        }
        hit
    }
}
