//! How much of the host a device may use each second: bytes and operations, with a burst of them after a silence.
//!
//! A [`Limit`] is on a lane, a kind of traffic: all of a disk, its reads, its writes; what a card receives, what it sends. A request costs
//! of each lane that it is in.
//!
//! Besides, all of a machine's devices on the same storage pool or network together have an [`Allowance`] there, which the daemon changes all
//! the time: it sees all machines.

mod allowance;
mod bucket;
mod gate;
mod throttle;

use serde::{Deserialize, Serialize};

pub use allowance::{Allowance, Allowances};
pub use throttle::Throttle;

/// How fast, and how much at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// So many each second, 1 or more.
    pub per_second: u64,
    /// So many at once after a silence, 1 or more: a tenth of a second's unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
}

impl Rate {
    /// How many at once.
    pub fn burst(&self) -> u64 {
        self.burst.unwrap_or(self.per_second / 10).max(1)
    }
}

/// What may pass in a lane. What is not said has no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Rate>,
    /// Requests of a disk, frames of a card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<Rate>,
}

impl Limit {
    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        self.bytes.is_none() && self.operations.is_none()
    }

    /// What is wrong with it, with the field.
    pub fn check(&self) -> Result<(), String> {
        for (field, rate) in [("bytes", self.bytes), ("operations", self.operations)] {
            let Some(rate) = rate else { continue };
            if rate.per_second == 0 {
                return Err(format!("{field}.per_second: 0 would let nothing pass ever: give 1 or more"));
            }
            if rate.burst == Some(0) {
                return Err(format!("{field}.burst: 0 would let nothing pass at once: give 1 or more"));
            }
        }
        Ok(())
    }
}

/// What a request costs.
#[derive(Clone, Copy, Debug)]
pub(in crate::virtio) struct Cost {
    /// The lanes that it is in: bit n is lane n.
    pub lanes: u8,
    /// Bytes that it carries.
    pub bytes: u64,
    /// One, if it counts.
    pub operations: u64,
}

/// What is saved of a device's limits: not what they are, which is said where the device is made, but what has been used of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitState {
    /// Lane by lane.
    pub lanes: Vec<LaneState>,
}

/// What may pass at once in a lane; less than nothing is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneState {
    /// Bytes, if they are limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// Operations, if they are limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<i64>,
}

#[cfg(test)]
mod testing {
    /// Numbers that are the same each time (xorshift64).
    pub struct Random(pub u64);

    impl Random {
        /// One of 0 to `most`.
        pub fn up_to(&mut self, most: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % most.saturating_add(1).max(1)
        }
    }
}
