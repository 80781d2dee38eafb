//! The ACPI power management timer (ACPI 6.5, 4.8.3.3): a 32-bit counter at 3.579545 MHz that follows guest time.

use std::sync::Arc;

use crate::bus::Device;
use crate::engine::Partition;

/// Ports it answers at.
pub const SIZE: u64 = 4;
/// Ticks a second.
const FREQUENCY: u128 = 3_579_545;

/// The timer. It has no state of its own: what is saved is the partition's clock.
pub struct PmTimer(Arc<dyn Partition>);

impl PmTimer {
    /// A timer that follows the clock of `partition`.
    pub fn new(partition: Arc<dyn Partition>) -> Self {
        Self(partition)
    }
}

fn ticks(ns: u64) -> u32 {
    // 32 bits are all the register has.
    (u128::from(ns) * FREQUENCY / 1_000_000_000) as u32
}

impl Device for PmTimer {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let bytes = ticks(self.0.clock_ns()).to_le_bytes();
        for (to, from) in data.iter_mut().zip(bytes.iter().skip(offset as usize)) {
            *to = *from;
        }
    }

    fn write(&self, _offset: u64, _data: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Engine;
    use crate::engine::soft::Soft;
    use crate::memory::Ram;

    #[test]
    fn it_counts_at_its_frequency_and_wraps() {
        assert_eq!(ticks(1_000_000_000), 3_579_545);
        assert_eq!(ticks(3600 * 1_000_000_000), (3600u64 * 3_579_545) as u32);
        assert_eq!(ticks(u64::MAX), (u128::from(u64::MAX) * FREQUENCY / 1_000_000_000) as u32);
    }

    #[test]
    fn it_stands_while_guest_time_does() {
        let ram = Arc::new(Ram::new(8 << 20).unwrap());
        let partition = Soft.create(ram, 1, 1_000_000).unwrap();
        partition.stop_clock();
        partition.set_clock_ns(2_000_000_000);
        let timer = PmTimer::new(partition);
        for _ in 0..2 {
            let mut data = [0; 4];
            timer.read(0, &mut data);
            assert_eq!(u32::from_le_bytes(data), 7_159_090);
        }
    }
}
