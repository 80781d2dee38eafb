//! The address spaces devices answer in: ports and memory-mapped registers.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// A device that answers in a range of a [`Bus`].
///
/// Called on a vCPU's thread, by several at once; a device locks its own state for the length of a call and must not
/// block. `offset` is relative to the start of the range; `data` is 1 to 8 bytes and lies within the range.
pub trait Device: Send + Sync {
    /// A read by the guest: fills `data`.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// A write by the guest.
    fn write(&self, offset: u64, data: &[u8]);
}

/// A range cannot be added.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("Range {start:#x}+{len:#x} is empty, wraps or overlaps one that is there")]
pub struct RangeTaken {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
}

struct Range {
    len: u64,
    device: Arc<dyn Device>,
}

/// One address space. Where nobody answers, reads give all ones and writes vanish.
#[derive(Default)]
pub struct Bus {
    ranges: RwLock<BTreeMap<u64, Range>>,
}

impl Bus {
    /// Adds a device at `start`, `len` bytes long.
    ///
    /// # Errors
    /// If the range is empty, wraps round or overlaps another.
    pub fn insert(&self, start: u64, len: u64, device: Arc<dyn Device>) -> Result<(), RangeTaken> {
        let taken = RangeTaken { start, len };
        let last = len.checked_sub(1).and_then(|n| start.checked_add(n)).ok_or(taken)?;
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        let before = ranges.range(..=last).next_back();
        if before.is_some_and(|(&s, r)| s + (r.len - 1) >= start) {
            return Err(RangeTaken { start, len });
        }
        ranges.insert(start, Range { len, device });
        Ok(())
    }

    /// Removes the range that starts at `start`, if there is one.
    pub fn remove(&self, start: u64) {
        self.ranges.write().unwrap_or_else(PoisonError::into_inner).remove(&start);
    }

    /// Removes all ranges: devices that know their bus, and it them, go only then.
    pub fn clear(&self) {
        let ranges = std::mem::take(&mut *self.ranges.write().unwrap_or_else(PoisonError::into_inner));
        drop(ranges);
    }

    fn find(&self, address: u64, len: usize) -> Option<(u64, Arc<dyn Device>)> {
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        let (&start, range) = ranges.range(..=address).next_back()?;
        let offset = address - start;
        (offset.checked_add(len as u64)? <= range.len).then(|| (offset, Arc::clone(&range.device)))
    }

    /// A read of `data.len()` bytes at `address`.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address, data.len()) {
            Some((offset, device)) => device.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// A write of `data` at `address`.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((offset, device)) = self.find(address, data.len()) {
            device.write(offset, data);
        }
    }
}
