//! Guest memory for tests: one piece of RAM from address 0.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU8;

use softcpu::{Frame, GuestMemory, PAGE_SIZE};

/// RAM of a whole number of pages. Its bytes are only ever touched by pointer, as those of a real guest are.
pub struct Ram {
    bytes: NonNull<u8>,
    flags: Vec<AtomicU8>,
    /// Pages from here on are ROM.
    rom: usize,
}

// SAFETY: plain memory, reached by pointer only.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}

// SAFETY: bytes and flags live as long as `self`.
unsafe impl GuestMemory for Ram {
    fn frame(&self, gpa: u64) -> Option<Frame> {
        let page = usize::try_from(gpa / PAGE_SIZE).ok()?;
        let flags = self.flags.get(page)?;
        // SAFETY: the page lies in the allocation.
        let host = unsafe { self.bytes.add(page * PAGE_SIZE as usize) };
        Some(Frame { host, flags: NonNull::from(flags), writable: page < self.rom })
    }
}

#[allow(dead_code, reason = "each test uses what it needs")]
impl Ram {
    /// `len` bytes of zeroes.
    pub fn new(len: usize) -> Self {
        // SAFETY: the size is not 0.
        let bytes = NonNull::new(unsafe { std::alloc::alloc_zeroed(Self::layout(len)) }).expect("memory");
        let pages = len / PAGE_SIZE as usize;
        Self { bytes, flags: (0..pages).map(|_| AtomicU8::new(0)).collect(), rom: pages }
    }

    /// The same with the last page read-only.
    pub fn with_rom(len: usize) -> Self {
        let mut ram = Self::new(len);
        ram.rom -= 1;
        ram
    }

    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len, PAGE_SIZE as usize).expect("a page is a power of two")
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.flags.len() * PAGE_SIZE as usize
    }

    /// The flags of the page of `gpa`.
    pub fn flags(&self, gpa: usize) -> &AtomicU8 {
        &self.flags[gpa / PAGE_SIZE as usize]
    }

    fn at(&self, gpa: usize, len: usize) -> *mut u8 {
        assert!(gpa + len <= self.len());
        // SAFETY: just checked.
        unsafe { self.bytes.as_ptr().add(gpa) }
    }

    /// Writes as a device would; no processor may run meanwhile.
    pub fn write(&self, gpa: usize, bytes: &[u8]) {
        // SAFETY: `at` checked the range.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at(gpa, bytes.len()), bytes.len()) }
    }

    /// What is at `gpa`; no processor may run meanwhile.
    pub fn read(&self, gpa: usize, len: usize) -> &[u8] {
        // SAFETY: `at` checked the range.
        unsafe { std::slice::from_raw_parts(self.at(gpa, len), len) }
    }

    /// The 64-bit word at `gpa`; no processor may run meanwhile.
    pub fn word(&self, gpa: usize) -> u64 {
        self.read(gpa, 8).iter().rev().fold(0, |v, &b| v << 8 | u64::from(b))
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { std::alloc::dealloc(self.bytes.as_ptr(), Self::layout(self.len())) }
    }
}
