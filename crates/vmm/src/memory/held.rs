//! Guest memory that the host's kernel keeps in memory whatever it pages: the rings of queues. A device looks at them for each request,
//! on threads that serve others, too; a ring that has to be read from a disk first would have all of them wait.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use softcpu::PAGE_SIZE;
use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::GuestMemory;

/// How many hold each page of this process, by its address: the kernel does not count.
static HOLDERS: LazyLock<Mutex<HashMap<usize, u32>>> = LazyLock::new(Mutex::default);

fn holders() -> MutexGuard<'static, HashMap<usize, u32>> {
    HOLDERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pages that are held in memory until this is dropped, as far as the host allows (RLIMIT_MEMLOCK): one that is not is merely slower.
#[derive(Debug, Default)]
pub struct Held(Vec<usize>);

impl Held {
    /// Holds the pages of some ranges, each a guest-physical address and a length. A page that nobody has touched yet is held once somebody does.
    pub fn new(memory: &GuestMemory, ranges: &[(GuestAddress, usize)]) -> Self {
        let mut pages: Vec<_> = ranges.iter().flat_map(|(at, len)| pages(memory, *at, *len)).collect();
        pages.sort_unstable();
        pages.dedup();
        let mut holders = holders();
        for page in &pages {
            let count = holders.entry(*page).or_default();
            *count += 1;
            if *count == 1 {
                // SAFETY: a page of a mapping that is the guest's memory; whether it stays in memory changes nothing in it.
                let held =
                    unsafe { libc::mlock2(*page as *const _, PAGE_SIZE as usize, libc::MLOCK_ONFAULT as _) };
                if held != 0 {
                    tracing::debug!("a ring may be paged: {}", std::io::Error::last_os_error());
                }
            }
        }
        Self(pages)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut holders = holders();
        for page in &self.0 {
            let Some(count) = holders.get_mut(page) else { continue };
            *count -= 1;
            if *count == 0 {
                holders.remove(page);
                // SAFETY: as when it was held; if the mapping is gone the kernel refuses, and nothing is lost.
                unsafe { libc::munlock(*page as *const _, PAGE_SIZE as usize) };
            }
        }
    }
}

/// The addresses in this process of a range's pages; nothing where it is not all in one piece of memory.
fn pages(memory: &GuestMemory, at: GuestAddress, len: usize) -> impl Iterator<Item = usize> + use<> {
    let slice = memory.get_slice(at, len).ok().filter(|_| len > 0);
    let range = slice.map(|slice| {
        let start = slice.ptr_guard().as_ptr() as usize;
        start & !(PAGE_SIZE as usize - 1)..start + len
    });
    range.into_iter().flatten().step_by(PAGE_SIZE as usize)
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;
    use crate::memory::Ram;

    /// What of this process the kernel holds in memory, KiB, within a region of the guest's memory.
    fn locked(ram: &Ram) -> u64 {
        let (_, len, host) = ram.regions().next().unwrap();
        let (start, end) = (host.as_ptr() as u64, host.as_ptr() as u64 + len);
        let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let (mut inside, mut sum) = (false, 0);
        for line in text.lines() {
            let first = line.split(['-', ' ']).next().unwrap();
            if let Ok(at) = u64::from_str_radix(first, 16) {
                inside = (start..end).contains(&at);
            } else if let Some(kib) = line.strip_prefix("Locked:").filter(|_| inside) {
                sum += kib.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
            }
        }
        sum
    }

    #[test]
    fn rings_stay_in_memory_as_long_as_one_of_their_holders_does_and_can_be_given_back_even_so() {
        let ram = Ram::new(8 << 20).unwrap();
        let memory = ram.memory();
        let first = Held::new(memory, &[(GuestAddress(0x10_0ff8), 16), (GuestAddress(0x40_0000), 4096)]);
        let second = Held::new(memory, &[(GuestAddress(0x10_1800), 6), (GuestAddress((8 << 20) - 8), 64)]);
        assert_eq!(locked(&ram), 0, "nobody has touched them");
        for page in [0x10_0000, 0x10_1000, 0x40_0000, 0x50_0000] {
            memory.write_obj(7u8, GuestAddress(page)).unwrap();
        }
        assert_eq!(locked(&ram), 12);
        drop(first);
        assert_eq!(locked(&ram), 4, "the other one holds it, too");
        ram.give_back(0x10_0000, 0x2000).unwrap();
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x10_1000)).unwrap(), 0);
        memory.write_obj(7u8, GuestAddress(0x10_1000)).unwrap();
        ram.clear().unwrap();
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x10_1000)).unwrap(), 0);
        drop(second);
        assert_eq!(locked(&ram), 0);
    }
}
