//! Guest memory: where it lies and who wrote it.

mod layout;
mod tracked;

use std::ptr::NonNull;
use std::sync::Arc;

use softcpu::{Frame, PAGE_SIZE};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionCollection, GuestRegionMmap,
};

pub use layout::{Layout, LayoutError, Range, map};
pub use tracked::{CodeWritten, TrackedPages};

/// Guest memory as devices use it, through the traits of the crate vm-memory: every write is noted in the page flags.
pub type GuestMemory = GuestRegionCollection<GuestRegionMmap<TrackedPages>>;

/// Memory cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The layout is impossible.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The host has not so much address space or memory.
    #[error("Mapping {bytes} bytes of guest memory failed")]
    Map {
        /// How much was asked for.
        bytes: u64,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

struct Region {
    start: u64,
    end: u64,
    host: NonNull<u8>,
    pages: TrackedPages,
}

/// A guest's RAM: private anonymous memory, given out by the host as the guest touches it.
pub struct Ram {
    layout: Layout,
    memory: Arc<GuestMemory>,
    regions: Vec<Region>,
}

// SAFETY: `host` points into mappings that `memory` owns; the bytes are shared memory by nature.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}

impl Ram {
    /// RAM of `bytes` bytes, laid out as [`Layout`] says.
    ///
    /// # Errors
    /// If the size is impossible or the host cannot map it.
    pub fn new(bytes: u64) -> Result<Self, MemoryError> {
        let layout = Layout::new(bytes)?;
        let code_written = CodeWritten::default();
        let failed =
            |bytes: u64, source: Box<dyn std::error::Error + Send + Sync>| MemoryError::Map { bytes, source };
        let mut mapped = Vec::new();
        let mut regions = Vec::new();
        for range in layout.ram() {
            let size = usize::try_from(range.size).map_err(|e| failed(range.size, e.into()))?;
            let pages = TrackedPages::new(range.start, range.size, code_written.clone());
            let mapping = MmapRegionBuilder::new_with_bitmap(size, pages.clone())
                .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE)
                .build()
                .map_err(|e| failed(range.size, e.into()))?;
            // A child of this process (the user-mode network) must not inherit the guest's memory.
            // SAFETY: the range is the mapping just made.
            unsafe { libc::madvise(mapping.as_ptr().cast(), size, libc::MADV_DONTFORK) };
            let Some(host) = NonNull::new(mapping.as_ptr()) else {
                return Err(failed(range.size, "the mapping is at address 0".into()));
            };
            regions.push(Region { start: range.start, end: range.start + range.size, host, pages });
            let region = GuestRegionMmap::new(mapping, GuestAddress(range.start))
                .ok_or_else(|| failed(range.size, "the region wraps".into()))?;
            mapped.push(region);
        }
        let memory = GuestMemory::from_regions(mapped).map_err(|e| failed(bytes, e.into()))?;
        Ok(Self { layout, memory: Arc::new(memory), regions })
    }

    /// Where everything lies.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The memory as devices use it.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Calls `f` whenever a device wrote to a page that holds translated code. To be called once.
    pub fn on_code_written(&self, f: impl Fn(u64, u64) + Send + Sync + 'static) {
        if let Some(region) = self.regions.first() {
            region.pages.on_code_written(Box::new(f));
        }
    }

    /// Guest-physical start, length and host address of each region.
    pub fn regions(&self) -> impl Iterator<Item = (u64, u64, NonNull<u8>)> {
        self.regions.iter().map(|r| (r.start, r.end - r.start, r.host))
    }

    /// The guest-physical pages written since the last call, in order; their marks are cleared. What runs meanwhile must
    /// be told to ask again before its next write of each page (the engine does).
    pub fn take_dirty(&self) -> Vec<u64> {
        self.regions.iter().flat_map(|r| r.pages.take_dirty()).collect()
    }

    /// Marks the page of guest-physical address `gpa` as written.
    pub fn mark_dirty(&self, gpa: u64) {
        if let Some(r) = self.regions.iter().find(|r| (r.start..r.end).contains(&gpa)) {
            vm_memory::bitmap::Bitmap::mark_dirty(&r.pages, (gpa - r.start) as usize, 1);
        }
    }

    /// Gives all memory back to the host: the guest finds zeroes. Only while nothing runs.
    pub fn clear(&self) {
        for r in &self.regions {
            // SAFETY: the range is our private anonymous mapping; discarding it leaves zeroes.
            unsafe { libc::madvise(r.host.as_ptr().cast(), (r.end - r.start) as usize, libc::MADV_DONTNEED) };
            // Zeroes are a write like any other: to the dirty log, and to whoever has made code of what was there.
            vm_memory::bitmap::Bitmap::mark_dirty(&r.pages, 0, (r.end - r.start) as usize);
        }
    }

    /// The first address after the last RAM region.
    pub fn end(&self) -> u64 {
        self.memory.iter().map(|r| r.last_addr().raw_value() + 1).max().unwrap_or(0)
    }
}

// SAFETY: `host` and `flags` point into mappings and arrays that live as long as `self`; a page is handed out only where
// all its bytes are RAM, since regions are page-aligned.
unsafe impl softcpu::GuestMemory for Ram {
    fn frame(&self, gpa: u64) -> Option<Frame> {
        let r = self.regions.iter().find(|r| (r.start..r.end).contains(&gpa))?;
        let offset = (gpa - r.start) & !(PAGE_SIZE - 1);
        Some(Frame {
            // SAFETY: `offset` is inside the region's mapping.
            host: unsafe { r.host.add(offset as usize) },
            flags: r.pages.flag(offset),
            writable: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::Ordering;

    use softcpu::{GuestMemory as _, PageFlags};
    use vm_memory::Bytes;

    use super::*;

    fn ram() -> Ram {
        Ram::new(8 << 20).unwrap()
    }

    #[test]
    fn a_devices_write_is_in_the_dirty_log_once() {
        let ram = ram();
        ram.memory().write_slice(&[1; 5000], GuestAddress(0x1ffe)).unwrap();
        assert_eq!(ram.take_dirty(), [0x1000, 0x2000, 0x3000]);
        assert!(ram.take_dirty().is_empty());
        ram.mark_dirty(0x7fff);
        assert_eq!(ram.take_dirty(), [0x7000]);
    }

    #[test]
    fn reading_is_not_in_the_dirty_log() {
        let ram = ram();
        ram.memory().read_slice(&mut [0; 64], GuestAddress(0x1000)).unwrap();
        assert!(ram.take_dirty().is_empty());
    }

    #[test]
    fn a_write_to_code_is_told_and_one_elsewhere_is_not() {
        let ram = ram();
        let told: Arc<Mutex<Vec<(u64, u64)>>> = Arc::default();
        let mine = Arc::clone(&told);
        ram.on_code_written(move |gpa, len| mine.lock().unwrap().push((gpa, len)));
        let frame = ram.frame(0x5000).unwrap();
        // SAFETY: the flags live as long as `ram`.
        unsafe { frame.flags.as_ref() }.fetch_or(PageFlags::CODE.bits(), Ordering::SeqCst);
        ram.memory().write_slice(&[0x90; 16], GuestAddress(0x4000)).unwrap();
        assert!(told.lock().unwrap().is_empty());
        ram.memory().write_slice(&[0x90; 16], GuestAddress(0x5010)).unwrap();
        assert_eq!(*told.lock().unwrap(), [(0x5010, 16)]);
    }

    #[test]
    fn cleared_memory_reads_as_zero_and_counts_as_written() {
        let ram = ram();
        ram.memory().write_slice(&[7; 4096], GuestAddress(0x9000)).unwrap();
        ram.take_dirty();
        ram.clear();
        let mut page = [1; 4096];
        ram.memory().read_slice(&mut page, GuestAddress(0x9000)).unwrap();
        assert_eq!(page, [0; 4096]);
        assert_eq!(ram.take_dirty().len(), (8 << 20) / 4096);
    }

    #[test]
    fn there_is_no_frame_outside_ram() {
        let ram = ram();
        assert!(ram.frame((8 << 20) - 1).is_some());
        assert!(ram.frame(8 << 20).is_none());
        assert!(ram.frame(u64::MAX).is_none());
    }
}
