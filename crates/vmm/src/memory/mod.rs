//! Guest memory: where it lies and who wrote it.

mod frozen;
mod held;
mod image;
mod layout;
mod merging;
mod saving;
mod tracked;

use std::fs::File;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use softcpu::{Frame, PAGE_SIZE};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    Address, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionCollection,
    GuestRegionMmap,
};

pub use held::Held;
pub use image::{Image, ImageError};
pub use layout::{Layout, LayoutError, Range, map};
pub use saving::{Done, Saving, prepare};
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
    /// The memory that it is to go on from is of no use.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The kernel does not keep equal pages once, or not each by itself again.
    #[error("the kernel cannot change whether equal pages are kept once")]
    Merge(#[source] io::Error),
}

struct Region {
    start: u64,
    end: u64,
    host: NonNull<u8>,
    pages: TrackedPages,
}

/// A guest's RAM: private anonymous memory, given out by the host as the guest touches it; or, of a machine that goes on from a file,
/// a private mapping of that, which other machines may share as long as they do not write.
pub struct Ram {
    layout: Layout,
    memory: Arc<GuestMemory>,
    regions: Vec<Region>,
    /// What it is mapped from.
    base: Mutex<Option<Arc<Image>>>,
    /// Closed while nothing may be given back to the host.
    gate: saving::Gate,
    /// Whether equal pages are kept once.
    merges: AtomicBool,
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
        Self::map(Layout::new(bytes)?, None)
    }

    /// The same, with a place for more, up to `room` bytes in all. It is memory from the start and costs nothing until it is touched;
    /// whether the guest may, another device tells it.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_room(bytes: u64, room: u64) -> Result<Self, MemoryError> {
        Self::map(Layout::with_room(bytes, room)?, None)
    }

    /// RAM that is as `image` has it, page by page as it is touched. `layout` is that of the machine which was saved.
    ///
    /// # Errors
    /// If the image is of a machine that is laid out otherwise, or the host cannot map it.
    pub fn over(layout: Layout, image: Image) -> Result<Self, MemoryError> {
        let places = image.plan().regions().iter().map(|place| &place.range);
        if !layout.is_sound() || !places.eq(&layout.memory()) {
            return Err(ImageError::Layout.into());
        }
        Self::map(layout, Some(image))
    }

    fn map(layout: Layout, base: Option<Image>) -> Result<Self, MemoryError> {
        let code_written = CodeWritten::default();
        let failed =
            |bytes: u64, source: Box<dyn std::error::Error + Send + Sync>| MemoryError::Map { bytes, source };
        let mut mapped = Vec::new();
        let mut regions = Vec::new();
        for (number, range) in layout.memory().iter().enumerate() {
            let size = usize::try_from(range.size).map_err(|e| failed(range.size, e.into()))?;
            let pages = TrackedPages::new(range.start, range.size, code_written.clone());
            let mapping = MmapRegionBuilder::new_with_bitmap(size, pages.clone())
                .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE);
            let private = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
            let mapping = match &base {
                None => mapping.with_mmap_flags(private | libc::MAP_ANONYMOUS),
                Some(image) => {
                    let file = image.file().try_clone().map_err(|e| failed(range.size, e.into()))?;
                    let offset = image.plan().regions()[number].offset;
                    mapping.with_mmap_flags(private).with_file_offset(FileOffset::new(file, offset))
                }
            };
            let mapping = mapping.build().map_err(|e| failed(range.size, e.into()))?;
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
        let bytes = layout.memory().iter().map(|range| range.size).sum();
        let memory = GuestMemory::from_regions(mapped).map_err(|e| failed(bytes, e.into()))?;
        let base = Mutex::new(base.map(Arc::new));
        Ok(Self {
            layout,
            memory: Arc::new(memory),
            regions,
            base,
            gate: saving::Gate::default(),
            merges: AtomicBool::new(false),
        })
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

    /// Begins to write memory as it is now into `file`, which becomes an [`Image`]; see [`Saving`]. Only while nothing runs.
    ///
    /// # Errors
    /// If the host has no room for the file, or no process to spare.
    pub fn save(&self, file: File, done: Done) -> io::Result<Saving> {
        let ranges = self.layout.memory();
        let hosts = self.regions.iter().map(|region| region.host).collect();
        let base = self.base.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let source = saving::Source { plan: image::Plan::new(&ranges), hosts, base, gate: self.gate.clone() };
        Saving::begin(source, file, done)
    }

    /// Gives the whole pages of a range back to the host: the guest finds zeroes there, or what it went on from.
    ///
    /// # Errors
    /// If the range is not all memory, or the host refuses.
    pub fn give_back(&self, start: u64, len: u64) -> io::Result<()> {
        let outside = || io::Error::new(io::ErrorKind::InvalidInput, "no memory of the guest");
        let first = start.checked_next_multiple_of(PAGE_SIZE).ok_or_else(outside)?;
        let end = start.checked_add(len).ok_or_else(outside)? & !(PAGE_SIZE - 1);
        if end <= first {
            return Ok(());
        }
        let region = self.regions.iter().find(|r| r.start <= first && end <= r.end).ok_or_else(outside)?;
        self.gate.wait();
        let (offset, size) = ((first - region.start) as usize, (end - first) as usize);
        // SAFETY: the range lies in the region's mapping.
        discard(unsafe { region.host.as_ptr().add(offset) }.cast(), size)?;
        vm_memory::bitmap::Bitmap::mark_dirty(&region.pages, offset, size);
        Ok(())
    }

    /// Gives all memory back to the host: the guest finds zeroes. Only while nothing runs.
    ///
    /// # Errors
    /// If the host has no address space left.
    pub fn clear(&self) -> io::Result<()> {
        self.gate.wait();
        let mut base = self.base.lock().unwrap_or_else(PoisonError::into_inner);
        for r in &self.regions {
            let (host, size) = (r.host.as_ptr().cast(), (r.end - r.start) as usize);
            if base.is_some() {
                anonymous(host, size)?;
                self.advise_merging(r)?;
            } else {
                discard(host, size)?;
            }
            // Zeroes are a write like any other: to the dirty log, and to whoever has made code of what was there.
            vm_memory::bitmap::Bitmap::mark_dirty(&r.pages, 0, (r.end - r.start) as usize);
        }
        *base = None;
        Ok(())
    }

    /// The first address after the last RAM region.
    pub fn end(&self) -> u64 {
        self.memory.iter().map(|r| r.last_addr().raw_value() + 1).max().unwrap_or(0)
    }
}

/// Discards private memory: what it was mapped from is left, zeroes if that is nothing.
fn discard(host: *mut libc::c_void, size: usize) -> io::Result<()> {
    // SAFETY: the range is a mapping of ours, whose bytes may change at any time.
    let discarded = |advice| match unsafe { libc::madvise(host, size, advice) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // A page that is held in memory can be discarded all the same, but has to be meant: a guest may do so with a ring.
    discarded(libc::MADV_DONTNEED).or_else(|_| discarded(libc::MADV_DONTNEED_LOCKED))
}

/// Puts zeroes in the place of a file that memory was mapped from.
fn anonymous(host: *mut libc::c_void, size: usize) -> io::Result<()> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: the range is a mapping of ours, which is replaced at its place; whoever knows its addresses finds zeroes there.
    let mapped = unsafe { libc::mmap(host, size, access, flags, -1, 0) };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as where memory is first mapped.
    unsafe { libc::madvise(host, size, libc::MADV_DONTFORK) };
    Ok(())
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
        ram.clear().unwrap();
        let mut page = [1; 4096];
        ram.memory().read_slice(&mut page, GuestAddress(0x9000)).unwrap();
        assert_eq!(page, [0; 4096]);
        assert_eq!(ram.take_dirty().len(), (8 << 20) / 4096);
    }

    /// Saves memory, and gives the memory of a machine that goes on from there.
    fn saved(ram: &Ram) -> Ram {
        let file = tempfile::tempfile().unwrap();
        let (told, hear) = std::sync::mpsc::channel();
        let done = Box::new(move |result| told.send(result).unwrap());
        let saving = ram.save(file.try_clone().unwrap(), done).unwrap();
        hear.recv_timeout(std::time::Duration::from_secs(20)).unwrap().unwrap();
        assert_eq!(saving.progress(), (8 << 20, 8 << 20));
        let image = Image::open(file).unwrap();
        image.verify(|_| true).unwrap();
        Ram::over(ram.layout().clone(), image).unwrap()
    }

    fn byte(ram: &Ram, at: u64) -> u8 {
        ram.memory().read_obj(GuestAddress(at)).unwrap()
    }

    #[test]
    fn memory_goes_on_from_a_file_and_from_what_was_saved_of_that() {
        let first = ram();
        first.memory().write_slice(&[7; 4096], GuestAddress(0x9000)).unwrap();
        first.memory().write_slice(&[8; 4096], GuestAddress(5 << 20)).unwrap();
        let second = saved(&first);
        assert_eq!((byte(&second, 0x9fff), byte(&second, 5 << 20), byte(&second, 0xa000)), (7, 8, 0));
        assert!(second.take_dirty().is_empty());
        second.memory().write_slice(&[9], GuestAddress(0x9000)).unwrap();
        assert_eq!(byte(&saved(&first), 0x9000), 7, "what it writes is its own");
        let third = saved(&second);
        let bytes = [0x9000, 0x9001, 5 << 20, 6 << 20].map(|at| byte(&third, at));
        assert_eq!(bytes, [9, 7, 8, 0]);
        third.clear().unwrap();
        assert_eq!((byte(&third, 0x9000), byte(&third, 5 << 20)), (0, 0));
        assert_eq!(byte(&saved(&third), 5 << 20), 0, "what it went on from is forgotten");
    }

    #[test]
    fn memory_of_another_machine_is_refused() {
        let file = tempfile::tempfile().unwrap();
        let plan = image::Plan::new(&[Range { start: 0, size: 16 << 20 }]);
        plan.begin(&file).unwrap();
        plan.complete(&file, &vec![0; plan.chunks()]).unwrap();
        let refused = Ram::over(ram().layout().clone(), Image::open(file).unwrap());
        assert!(matches!(refused, Err(MemoryError::Image(ImageError::Layout))));
    }

    #[test]
    fn a_save_that_is_called_off_leaves_no_image() {
        let ram = ram();
        ram.memory().write_slice(&[7; 4096], GuestAddress(0x9000)).unwrap();
        let file = tempfile::tempfile().unwrap();
        drop(ram.save(file.try_clone().unwrap(), Box::new(|_| {})).unwrap());
        // It may have been done already.
        assert!(matches!(Image::open(file), Ok(_) | Err(ImageError::Incomplete)));
    }

    #[test]
    fn whole_pages_are_given_back_and_nothing_else() {
        let ram = ram();
        ram.memory().write_slice(&[7; 4 * 4096], GuestAddress(0x8000)).unwrap();
        ram.take_dirty();
        ram.give_back(0x8001, 2 * 4096 + 10).unwrap();
        assert_eq!([0x8fff, 0x9000, 0x9fff, 0xa000].map(|at| byte(&ram, at)), [7, 0, 0, 7]);
        assert_eq!(ram.take_dirty(), [0x9000]);
        ram.give_back(0xa800, 100).unwrap();
        for (start, len) in [((8 << 20) - 4096, 8192), (u64::MAX - 10, 4096), (64 << 20, 4096)] {
            assert!(ram.give_back(start, len).is_err());
        }
        let other = saved(&ram);
        other.memory().write_slice(&[9; 4096], GuestAddress(0x8000)).unwrap();
        other.give_back(0x8000, 4096).unwrap();
        assert_eq!(byte(&other, 0x8000), 7, "what it went on from");
    }

    #[test]
    fn there_is_no_frame_outside_ram() {
        let ram = ram();
        assert!(ram.frame((8 << 20) - 1).is_some());
        assert!(ram.frame(8 << 20).is_none());
        assert!(ram.frame(u64::MAX).is_none());
    }
}
