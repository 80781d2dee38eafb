//! One byte a page: written, holds translated code, may be written unnoticed.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use softcpu::{PAGE_SIZE, PageFlags};
use vm_memory::bitmap::{Bitmap, NewBitmap, RefSlice, WithBitmapSlice};

type Hook = Box<dyn Fn(u64, u64) + Send + Sync>;

/// What is to be called when a device wrote where there is translated code.
#[derive(Clone, Default)]
pub struct CodeWritten(Arc<OnceLock<Hook>>);

impl std::fmt::Debug for CodeWritten {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CodeWritten")
    }
}

/// The page flags of one region, as vm-memory's dirty bitmap: whatever a device writes through a slice is noted here.
#[derive(Clone, Debug)]
pub struct TrackedPages {
    start: u64,
    flags: Arc<[AtomicU8]>,
    code_written: CodeWritten,
}

impl TrackedPages {
    /// For `bytes` bytes at guest-physical `start`.
    pub(super) fn new(start: u64, bytes: u64, code_written: CodeWritten) -> Self {
        let pages = bytes.div_ceil(PAGE_SIZE);
        // Most of a large machine's pages are never looked at: their flags cost nothing until then.
        let flags = Arc::<[AtomicU8]>::new_zeroed_slice(pages as usize);
        // SAFETY: zeroes are numbers.
        let flags = unsafe { flags.assume_init() };
        Self { start, flags, code_written }
    }

    pub(super) fn on_code_written(&self, f: Hook) {
        // A second hook would be a second engine: the first stays.
        let _ = self.code_written.0.set(f);
    }

    /// The flags of the page at `offset` in the region.
    pub(super) fn flag(&self, offset: u64) -> NonNull<AtomicU8> {
        NonNull::from(&self.flags[(offset / PAGE_SIZE) as usize])
    }

    pub(super) fn take_dirty(&self) -> Vec<u64> {
        let dirty = PageFlags::DIRTY.bits();
        let mut pages = Vec::new();
        for (i, flag) in self.flags.iter().enumerate() {
            if flag.load(Ordering::Relaxed) & dirty != 0 {
                flag.fetch_and(!dirty, Ordering::SeqCst);
                pages.push(self.start + i as u64 * PAGE_SIZE);
            }
        }
        pages
    }
}

impl Default for TrackedPages {
    fn default() -> Self {
        Self::new(0, 0, CodeWritten::default())
    }
}

impl NewBitmap for TrackedPages {
    fn with_len(len: usize) -> Self {
        Self::new(0, len as u64, CodeWritten::default())
    }
}

impl<'a> WithBitmapSlice<'a> for TrackedPages {
    type S = RefSlice<'a, Self>;
}

impl Bitmap for TrackedPages {
    fn mark_dirty(&self, offset: usize, len: usize) {
        if len == 0 {
            return;
        }
        let page = PAGE_SIZE as usize;
        let last = (offset + len - 1) / page;
        let mut code = false;
        for flag in self.flags.get(offset / page..=last).unwrap_or_default() {
            // Most pages a device writes are dirty already, and reading is cheaper than a locked OR.
            let mut seen = flag.load(Ordering::SeqCst);
            if seen & PageFlags::DIRTY.bits() == 0 {
                seen |= flag.fetch_or(PageFlags::DIRTY.bits(), Ordering::SeqCst);
            }
            code |= seen & PageFlags::CODE.bits() != 0;
        }
        if code && let Some(hook) = self.code_written.0.get() {
            hook(self.start + offset as u64, len as u64);
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.flags
            .get(offset / PAGE_SIZE as usize)
            .is_some_and(|f| f.load(Ordering::Relaxed) & PageFlags::DIRTY.bits() != 0)
    }

    fn slice_at(&self, offset: usize) -> RefSlice<'_, Self> {
        RefSlice::new(self, offset)
    }
}
