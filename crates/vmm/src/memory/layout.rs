//! The guest-physical address space. The layout is part of a saved machine, so it is computed once and kept.
//!
//! ```text
//! 0x0000_0000  RAM, up to 3 GiB
//! 0xc000_0000  32-bit BARs of PCI devices
//! 0xe000_0000  PCI configuration space (ECAM), 256 MiB: one segment, 256 buses
//! 0xfec0_0000  I/O APIC
//! 0xfee0_0000  local APICs
//! 0xfffb_c000  pages KVM keeps for itself on old Intel processors (identity map, TSS)
//! 0x1_0000_0000  RAM beyond 3 GiB
//! behind it    memory that can be plugged in, aligned to 2 GiB
//! behind it    64-bit BARs, 64 GiB, aligned to that
//! ```

use serde::{Deserialize, Serialize};

/// Fixed places.
pub mod map {
    /// End of RAM below 4 GiB, and start of the 32-bit BAR window.
    pub const LOW_END: u64 = 0xc000_0000;
    /// PCI memory-mapped configuration space.
    pub const ECAM: u64 = 0xe000_0000;
    /// Its size: 256 buses.
    pub const ECAM_SIZE: u64 = 0x1000_0000;
    /// The I/O APIC's registers.
    pub const IOAPIC: u64 = 0xfec0_0000;
    /// The local APICs' registers.
    pub const LAPIC: u64 = 0xfee0_0000;
    /// KVM's identity map page; its three TSS pages follow.
    pub const KVM_PAGES: u64 = 0xfffb_c000;
    /// Start of RAM above 4 GiB.
    pub const HIGH_START: u64 = 1 << 32;
    /// Size of the 64-bit BAR window.
    pub const HIGH_BARS_SIZE: u64 = 64 << 30;
    /// Physical address bits the guest's processors have.
    pub const PHYSICAL_BITS: u32 = 40;
}

/// What memory that can be plugged in is aligned to: guests' kernels take it in pieces of up to 2 GiB, most in 128 MiB.
const ALIGNED: u64 = 2 << 30;
/// The pieces that it comes in, bytes.
const PLUGGED: u64 = 128 << 20;

/// A piece of the address space, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
}

/// A memory size that cannot be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LayoutError {
    /// Too little.
    #[error("Memory of {bytes} bytes is too little: a guest needs at least {} MiB", Layout::LEAST >> 20)]
    TooSmall {
        /// What was asked for.
        bytes: u64,
    },
    /// Too much for the address space.
    #[error("Memory of {bytes} bytes is too much: at most {most} bytes fit the guest's address space")]
    TooLarge {
        /// What was asked for.
        bytes: u64,
        /// What would fit.
        most: u64,
    },
    /// Not whole pages.
    #[error("Memory of {bytes} bytes is not a multiple of the page size, 4096 bytes")]
    Uneven {
        /// What was asked for.
        bytes: u64,
    },
}

/// Where a guest's RAM and BAR windows lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    ram: Vec<Range>,
    /// Where memory can be plugged in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    more: Option<Range>,
    high_bars: Range,
}

impl Layout {
    /// The smallest memory a guest can have, bytes.
    pub const LEAST: u64 = 8 << 20;

    /// The layout for `bytes` of RAM.
    ///
    /// # Errors
    /// If that is too little, too much or not whole pages.
    pub fn new(bytes: u64) -> Result<Self, LayoutError> {
        Self::with_room(bytes, bytes)
    }

    /// The layout for `bytes` of RAM, to which more can be plugged in, up to `room` bytes in all.
    ///
    /// # Errors
    /// If that is too little, too much or not whole pages.
    pub fn with_room(bytes: u64, room: u64) -> Result<Self, LayoutError> {
        let more = room.saturating_sub(bytes).next_multiple_of(PLUGGED);
        // Room for what alignment takes, and for the BARs.
        let most =
            (1 << map::PHYSICAL_BITS) - map::HIGH_START - 2 * map::HIGH_BARS_SIZE - ALIGNED + map::LOW_END;
        if bytes < Self::LEAST {
            return Err(LayoutError::TooSmall { bytes });
        }
        let all = bytes.saturating_add(more);
        if all > most {
            return Err(LayoutError::TooLarge { bytes: all, most });
        }
        if !bytes.is_multiple_of(4096) {
            return Err(LayoutError::Uneven { bytes });
        }
        let low = bytes.min(map::LOW_END);
        let high = bytes - low;
        let mut ram = vec![Range { start: 0, size: low }];
        if high > 0 {
            ram.push(Range { start: map::HIGH_START, size: high });
        }
        let start = (map::HIGH_START + high).next_multiple_of(ALIGNED);
        let range = (more > 0).then_some(Range { start, size: more });
        let start = (start + more).next_multiple_of(map::HIGH_BARS_SIZE);
        Ok(Self { ram, more: range, high_bars: Range { start, size: map::HIGH_BARS_SIZE } })
    }

    /// RAM that is there from the start, in order.
    pub fn ram(&self) -> &[Range] {
        &self.ram
    }

    /// Where memory can be plugged in.
    pub fn more(&self) -> Option<Range> {
        self.more
    }

    /// All places where there can be memory, in order.
    pub fn memory(&self) -> Vec<Range> {
        self.ram.iter().copied().chain(self.more).collect()
    }

    /// Whether it is one that [`Self::with_room`] makes: a saved machine says where its memory lies, and must not put it elsewhere.
    pub fn is_sound(&self) -> bool {
        let bytes = self.ram.iter().map(|range| range.size).fold(0, u64::saturating_add);
        let more = self.more.map_or(0, |range| range.size);
        Self::with_room(bytes, bytes.saturating_add(more)).is_ok_and(|layout| layout == *self)
    }

    /// The window for 32-bit BARs.
    pub fn low_bars(&self) -> Range {
        Range { start: map::LOW_END, size: map::ECAM - map::LOW_END }
    }

    /// The window for 64-bit BARs.
    pub fn high_bars(&self) -> Range {
        self.high_bars
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_never_meets_the_hole_or_the_bars() {
        for bytes in [8 << 20, 128 << 20, 3 << 30, (3 << 30) + 4096, 4 << 30, 200 << 30] {
            let l = Layout::new(bytes).unwrap();
            assert_eq!(l.ram().iter().map(|r| r.size).sum::<u64>(), bytes);
            assert!(l.ram()[0].size <= map::LOW_END);
            let end = l.ram().last().map(|r| r.start + r.size).unwrap();
            assert!(end <= l.high_bars().start);
            assert!(l.high_bars().start + l.high_bars().size <= 1 << map::PHYSICAL_BITS);
        }
    }

    #[test]
    fn memory_that_can_be_plugged_in_has_a_place_of_its_own() {
        for (bytes, room) in [(128 << 20, 1 << 30), (5 << 30, 64 << 30), (1 << 30, (1 << 30) + 1)] {
            let l = Layout::with_room(bytes, room).unwrap();
            let more = l.more().unwrap();
            assert!(more.size >= room - bytes && more.size < room - bytes + PLUGGED);
            assert!(
                more.start >= map::HIGH_START
                    && more.start >= l.ram().last().map(|r| r.start + r.size).unwrap()
            );
            assert!(more.start + more.size <= l.high_bars().start);
            assert!(l.is_sound());
            assert_eq!(l.memory().len(), l.ram().len() + 1);
        }
        assert_eq!(Layout::with_room(1 << 30, 1 << 30).unwrap().more(), None);
        let mut wrong = Layout::new(64 << 20).unwrap();
        wrong.more = Some(Range { start: 0xfee0_0000, size: 128 << 20 });
        assert!(!wrong.is_sound());
    }

    #[test]
    fn impossible_sizes_are_refused_by_name() {
        assert_eq!(Layout::new(1 << 20), Err(LayoutError::TooSmall { bytes: 1 << 20 }));
        assert!(matches!(Layout::new(1 << 45), Err(LayoutError::TooLarge { .. })));
        assert_eq!(Layout::new((64 << 20) + 1), Err(LayoutError::Uneven { bytes: (64 << 20) + 1 }));
    }
}
