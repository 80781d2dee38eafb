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
//! behind it    64-bit BARs, 64 GiB, aligned to 1 GiB
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

/// The smallest memory a guest can have, bytes.
const LEAST: u64 = 8 << 20;

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
    #[error("Memory of {bytes} bytes is too little: a guest needs at least {} MiB", LEAST >> 20)]
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
    high_bars: Range,
}

impl Layout {
    /// The layout for `bytes` of RAM.
    ///
    /// # Errors
    /// If that is too little, too much or not whole pages.
    pub fn new(bytes: u64) -> Result<Self, LayoutError> {
        let most = (1 << map::PHYSICAL_BITS) - map::HIGH_START - 2 * map::HIGH_BARS_SIZE + map::LOW_END;
        if bytes < LEAST {
            return Err(LayoutError::TooSmall { bytes });
        }
        if bytes > most {
            return Err(LayoutError::TooLarge { bytes, most });
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
        let start = (map::HIGH_START + high).next_multiple_of(map::HIGH_BARS_SIZE);
        Ok(Self { ram, high_bars: Range { start, size: map::HIGH_BARS_SIZE } })
    }

    /// RAM, in order.
    pub fn ram(&self) -> &[Range] {
        &self.ram
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
    fn impossible_sizes_are_refused_by_name() {
        assert_eq!(Layout::new(1 << 20), Err(LayoutError::TooSmall { bytes: 1 << 20 }));
        assert!(matches!(Layout::new(1 << 45), Err(LayoutError::TooLarge { .. })));
        assert_eq!(Layout::new((64 << 20) + 1), Err(LayoutError::Uneven { bytes: (64 << 20) + 1 }));
    }
}
