//! What a guest reads of its disks although it has had it before: what it had no room for in its cache of files.
//!
//! Of all blocks a hash chooses some, always the same ones. Of these, those are known that were read or written last: with what lies between them as
//! much as the guest's memory. So what is known and is read would still be in the guest's memory, had the guest all of it for its files. What is
//! read once, however much it is, says nothing, and neither does what is read again at once: no cache has lost that, so it is read around it.
//!
//! After C. Waldspurger and others, "Efficient MRC Construction with SHARDS" (FAST 2015), sections 3.1 and 3.2.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use hashlink::LruCache;

/// Bytes of a block: a page, as guests' caches are made of.
const BLOCK: u64 = 4096;
/// So many blocks stand for all of the memory: about 50 KiB.
const MOST: u64 = 1024;
/// So many are known. Which are chosen is chance: of as much as the memory a few per cent more or fewer, and of more than are known, read in turn, none would be.
const KNOWN: u64 = MOST + MOST / 8;
/// Between two readings of a block so many others that are known were carried at least, or it is read around the cache: a 64th of the memory.
const SOON: u64 = MOST / 64;

/// A block of one of the guest's disks.
type Block = (u32, u64);

/// Which blocks all disks of a guest have carried lately.
pub struct Rereads {
    /// The guest's memory, bytes; 0 as long as nobody has said it, and nothing is known.
    memory: AtomicU64,
    known: Mutex<Known>,
}

struct Known {
    /// Each with how many had been carried before.
    blocks: LruCache<Block, u64>,
    carried: u64,
}

impl Default for Known {
    fn default() -> Self {
        Self { blocks: LruCache::new(KNOWN as usize), carried: 0 }
    }
}

impl Default for Rereads {
    fn default() -> Self {
        Self { memory: AtomicU64::new(0), known: Mutex::default() }
    }
}

impl std::fmt::Debug for Rereads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rereads").field("memory", &self.memory).finish_non_exhaustive()
    }
}

impl Rereads {
    /// The guest's memory is so large from now on, bytes.
    pub fn set_memory(&self, bytes: u64) {
        self.memory.store(bytes, Ordering::Relaxed);
    }

    /// The guest begins anew, without a cache.
    pub fn forget(&self) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Known::default();
    }

    /// `len` bytes of disk number `disk` from `offset` on have been carried; gives how many of them had been before, about, bytes.
    pub fn carry(&self, disk: u32, offset: u64, len: u64) -> u64 {
        let blocks = self.memory.load(Ordering::Relaxed) / BLOCK;
        if blocks == 0 || len == 0 {
            return 0;
        }
        // One of so many is chosen, at least of all.
        let of = blocks.div_ceil(MOST);
        let most = u64::MAX / of;
        let range = offset / BLOCK..=offset.saturating_add(len - 1) / BLOCK;
        let mut chosen = range.filter(|block| mixed(mixed(u64::from(disk)) ^ block) <= most).peekable();
        if chosen.peek().is_none() {
            return 0;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let again = chosen.filter(|block| known.carry((disk, *block))).count();
        again as u64 * of * BLOCK
    }
}

impl Known {
    /// One has been carried; whether it is read again because it was not kept.
    fn carry(&mut self, block: Block) -> bool {
        self.carried += 1;
        let before = self.blocks.insert(block, self.carried);
        before.is_some_and(|before| self.carried - before > SOON)
    }
}

/// A number that looks as if it had nothing to do with this one (S. Vigna's SplitMix64).
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn of(memory: u64) -> Rereads {
        let guest = Rereads::default();
        guest.set_memory(memory);
        guest
    }

    /// Reads so many MiB of a disk, as a guest's kernel does; gives what was read again, MiB.
    fn read(guest: &Rereads, disk: u32, mib: u64) -> f64 {
        let each = 128 << 10;
        let bytes: u64 = (0..mib * MIB / each).map(|n| guest.carry(disk, n * each, each)).sum();
        bytes as f64 / MIB as f64
    }

    #[test]
    fn what_is_read_once_is_not_read_again_however_much_it_is() {
        let guest = of(512 * MIB);
        assert_eq!(read(&guest, 0, 4096), 0.0);
        assert_eq!(read(&guest, 0, 400), 0.0, "it could not have kept that");
    }

    #[test]
    fn what_would_have_been_in_memory_is_read_again() {
        let guest = of(512 * MIB);
        assert_eq!(read(&guest, 0, 400), 0.0);
        for _ in 0..3 {
            let read = read(&guest, 0, 400);
            assert!((360.0..440.0).contains(&read), "{read}");
        }
        guest.forget();
        assert_eq!(read(&guest, 0, 400), 0.0, "its system has begun anew");
    }

    #[test]
    fn nearly_all_of_the_memory_read_in_turn_is_read_again_whichever_blocks_are_chosen() {
        for disk in 0..64 {
            let guest = of(512 * MIB);
            read(&guest, disk, 500);
            let read = read(&guest, disk, 500);
            assert!((450.0..550.0).contains(&read), "{disk}: {read}");
        }
    }

    #[test]
    fn all_disks_share_one_memory() {
        let guest = of(512 * MIB);
        for _ in 0..3 {
            for disk in 0..4 {
                assert_eq!(read(&guest, disk, 300), 0.0, "it could not have kept four times as much");
            }
        }
        read(&guest, 4, 200);
        read(&guest, 5, 200);
        assert!(read(&guest, 4, 200) > 180.0 && read(&guest, 5, 200) > 180.0);
    }

    #[test]
    fn what_is_read_again_at_once_is_read_around_the_cache() {
        let guest = of(MIB);
        for _ in 0..100 {
            assert_eq!(guest.carry(0, 4096, 4096), 0, "a lock that is looked at");
        }
        read(&guest, 1, 1);
        assert_eq!(guest.carry(0, 8191, 1), 4096, "the whole block is in the guest's memory");
        assert_eq!((guest.carry(0, u64::MAX, u64::MAX), guest.carry(0, 4096, 0)), (0, 0));
    }

    #[test]
    fn nothing_is_known_before_the_memory_is_and_a_size_that_changes_counts_from_then_on() {
        let guest = Rereads::default();
        assert_eq!(read(&guest, 0, 100) + read(&guest, 0, 100), 0.0);
        guest.set_memory(64 * MIB);
        read(&guest, 0, 100);
        assert_eq!(read(&guest, 0, 100), 0.0);
        guest.set_memory(256 * MIB);
        read(&guest, 0, 100);
        assert!(read(&guest, 0, 100) > 80.0);
        assert!(guest.known.lock().unwrap().blocks.len() <= KNOWN as usize);
    }
}
