//! What a processor is plugged into: guest memory and the device bus.
//!
//! The crate knows both only through these traits; it opens no file and starts no thread.

use std::ptr::NonNull;
use std::sync::atomic::AtomicU8;

/// Bytes in a guest page frame.
pub const PAGE_SIZE: u64 = 4096;

bitflags::bitflags! {
    /// What is known of one page of guest RAM, kept in one shared byte a page.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PageFlags: u8 {
        /// The page was written since the dirty log was last taken.
        const DIRTY = 1 << 0;
        /// Some processor holds translated blocks made from this page.
        const CODE = 1 << 1;
        /// Some processor may hold a TLB entry through which it writes the page without telling anyone.
        const WRITABLE = 1 << 2;
    }
}

/// One page of guest RAM as the host sees it.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Where the page lies in this process; page-aligned and mapped for the life of the memory.
    pub host: NonNull<u8>,
    /// The page's [`PageFlags`].
    pub flags: NonNull<AtomicU8>,
    /// Whether the guest may write it (false for ROM).
    pub writable: bool,
}

/// The guest's physical memory.
///
/// # Safety
/// For as long as the implementor lives, [`frame`](Self::frame) must return pointers that stay valid: `host` to 4096
/// readable (and, if `writable`, writable) bytes that only guests and devices access, `flags` to that page's byte.
pub unsafe trait GuestMemory: Send + Sync {
    /// The RAM page at page-aligned guest-physical address `gpa`, or `None` where there is no RAM.
    fn frame(&self, gpa: u64) -> Option<Frame>;
}

/// The devices a processor reaches. Called on the processor's own thread; may take locks, must not block for long.
pub trait Bus: Send + Sync {
    /// IN from `port`; `data` is 1, 2 or 4 bytes long.
    fn port_read(&self, port: u16, data: &mut [u8]);
    /// OUT to `port`; `data` is 1, 2 or 4 bytes long.
    fn port_write(&self, port: u16, data: &[u8]);
    /// A read of guest-physical memory where there is no RAM; `data` is 1 to 8 bytes long and within one page.
    fn mmio_read(&self, gpa: u64, data: &mut [u8]);
    /// A write of guest-physical memory where there is no RAM.
    fn mmio_write(&self, gpa: u64, data: &[u8]);
    /// End of interrupt for a level-triggered `vector`, broadcast to the I/O APICs (Intel SDM vol. 3, 11.8.5).
    fn end_of_interrupt(&self, vector: u8);
}
