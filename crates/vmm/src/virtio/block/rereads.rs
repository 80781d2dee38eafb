//! What a guest reads of a disk although it has had it before: what it had no room for in its cache of files.
//!
//! Of all blocks a hash chooses some, always the same ones. Of these, those are known that were read or written last: with what lies between them as
//! much as the guest's memory. So what is known and is read would still be in the guest's memory, had the guest all of it for its files. What is
//! read once, however much it is, says nothing.
//!
//! After C. Waldspurger and others, "Efficient MRC Construction with SHARDS" (FAST 2015), sections 3.1 and 3.2.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use hashlink::LruCache;

/// Bytes of a block: a page, as guests' caches are made of.
const BLOCK: u64 = 4096;
/// So many blocks are known at most: about 50 KiB.
const MOST: u64 = 1024;

/// Which blocks a disk has carried lately.
pub struct Rereads {
    /// The guest's memory, bytes; 0 as long as nobody has said it, and nothing is known.
    memory: AtomicU64,
    known: Mutex<LruCache<u64, ()>>,
}

impl Default for Rereads {
    fn default() -> Self {
        Self { memory: AtomicU64::new(0), known: Mutex::new(LruCache::new(MOST as usize)) }
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

    /// `len` bytes from `offset` on have been carried; gives how many of them had been before, about, bytes.
    pub fn carry(&self, offset: u64, len: u64) -> u64 {
        let blocks = self.memory.load(Ordering::Relaxed) / BLOCK;
        if blocks == 0 || len == 0 {
            return 0;
        }
        // One of so many is chosen, at least of all.
        let of = blocks.div_ceil(MOST);
        let chosen = u64::MAX / of;
        let range = offset / BLOCK..=offset.saturating_add(len - 1) / BLOCK;
        let mut chosen = range.filter(|block| mixed(*block) <= chosen).peekable();
        if chosen.peek().is_none() {
            return 0;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let again = chosen.filter(|block| known.insert(*block, ()).is_some()).count();
        again as u64 * of * BLOCK
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
        let disk = Rereads::default();
        disk.set_memory(memory);
        disk
    }

    /// Reads so much from there on, as a guest's kernel does; gives what was read again, MiB.
    fn read(disk: &Rereads, from: u64, len: u64) -> f64 {
        let each = 128 << 10;
        let bytes: u64 = (0..len / each).map(|n| disk.carry(from + n * each, each)).sum();
        bytes as f64 / MIB as f64
    }

    #[test]
    fn what_is_read_once_is_not_read_again_however_much_it_is() {
        let disk = of(512 * MIB);
        assert_eq!(read(&disk, 0, 4096 * MIB), 0.0);
        assert_eq!(read(&disk, 0, 400 * MIB), 0.0, "it could not have kept that");
    }

    #[test]
    fn what_would_have_been_in_memory_is_read_again() {
        let disk = of(512 * MIB);
        assert_eq!(read(&disk, 0, 400 * MIB), 0.0);
        for _ in 0..3 {
            let read = read(&disk, 0, 400 * MIB);
            assert!((360.0..440.0).contains(&read), "{read}");
        }
        let small = of(2 * MIB);
        assert_eq!(small.carry(4096, 4096), 0);
        assert_eq!(small.carry(8191, 1), 4096, "the whole block is in the guest's memory");
        assert_eq!(small.carry(u64::MAX, u64::MAX), 0, "no such disk");
        assert_eq!(small.carry(4096, 0), 0);
    }

    #[test]
    fn nothing_is_known_before_the_memory_is_and_a_size_that_changes_counts_from_then_on() {
        let disk = Rereads::default();
        assert_eq!(read(&disk, 0, 100 * MIB) + read(&disk, 0, 100 * MIB), 0.0);
        disk.set_memory(64 * MIB);
        read(&disk, 0, 100 * MIB);
        assert_eq!(read(&disk, 0, 100 * MIB), 0.0);
        disk.set_memory(256 * MIB);
        read(&disk, 0, 100 * MIB);
        assert!(read(&disk, 0, 100 * MIB) > 80.0);
        assert!(disk.known.lock().unwrap().len() <= MOST as usize);
    }
}
