//! Who gets how much of what is shared.
//!
//! Everything that is shared – processors, memory, disks, networks – is shared by the same three words, for a guest, a group of guests and a
//! host: what is always theirs ([`Share::reserve`]), their part of what is left ([`Share::weight`]), and what they never pass
//! ([`Share::limit`]). This crate says what follows from them, and knows no kernel: whoever enforces it asks here.
//!
//! - [`divide()`]: one resource among some, in one window of time;
//! - [`Tree`]: the same through groups of groups;
//! - [`admission`]: whether what somebody is promised can be kept;
//! - [`memory`]: memory of a pool that is smaller than all guests together;
//! - [`words`]: the same said in the words of other systems.

#![forbid(unsafe_code)]

pub mod admission;
mod divide;
pub mod memory;
mod tree;
pub mod words;

use serde::{Deserialize, Serialize};

pub use divide::{Claim, divide};
pub use tree::{Group, Tree, above};

/// An amount of a resource: processors, bytes, bytes a second or operations a second. Never negative, never infinite.
pub type Amount = f64;

/// The weight of somebody of whom nothing is said: what PowerVM calls 128, vSphere 1000 for each virtual processor (normal), z/VM 100 and
/// Linux's cgroups 100.
pub const USUAL_WEIGHT: u32 = 1000;
/// The largest weight.
pub const MOST_WEIGHT: u32 = 1_000_000;

/// What somebody never passes.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// They may have all there is.
    #[default]
    None,
    /// Never more than this.
    Hard(Amount),
    /// More than this only of what nobody else wants.
    Soft(Amount),
}

/// What somebody is promised of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Share {
    /// Always theirs when they want it.
    pub reserve: Amount,
    /// Their part of what is left, compared with others': 1 to [`MOST_WEIGHT`].
    pub weight: u32,
    /// What they never pass.
    pub limit: Limit,
}

impl Default for Share {
    fn default() -> Self {
        Self { reserve: 0.0, weight: USUAL_WEIGHT, limit: Limit::None }
    }
}

/// What is wrong with a share, whatever it is of.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Wrong {
    /// The reserve is no amount.
    #[error("the reserve {0} is no amount: give 0 or more")]
    Reserve(Amount),
    /// The limit is no amount that somebody could live on.
    #[error("the limit {0} is no amount: give more than 0, or none")]
    Limit(Amount),
    /// More is promised than may be had.
    #[error("the reserve {reserve} is above the limit {limit}: at most {limit} can be reserved")]
    Above {
        /// What is promised.
        reserve: Amount,
        /// What may be had.
        limit: Amount,
    },
    /// The weight is none.
    #[error("the weight {0} is none: give 1 to {MOST_WEIGHT}; {USUAL_WEIGHT} is usual")]
    Weight(u32),
}

impl Limit {
    /// How much it is, hard or soft; nothing if there is none.
    pub fn amount(self) -> Option<Amount> {
        match self {
            Self::None => None,
            Self::Hard(limit) | Self::Soft(limit) => Some(limit),
        }
    }
}

impl Share {
    /// Something promised, and nothing beyond it.
    pub fn capped(reserve: Amount) -> Self {
        Self { reserve, limit: Limit::Hard(reserve), ..Self::default() }
    }

    /// What is wrong with it by itself.
    pub fn check(&self) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        let is_amount = |amount: Amount| amount.is_finite() && amount >= 0.0;
        if !is_amount(self.reserve) {
            wrong.push(Wrong::Reserve(self.reserve));
        }
        match self.limit {
            Limit::Hard(limit) | Limit::Soft(limit) if !is_amount(limit) || limit == 0.0 => {
                wrong.push(Wrong::Limit(limit));
            }
            Limit::Hard(limit) | Limit::Soft(limit) if self.reserve > limit => {
                wrong.push(Wrong::Above { reserve: self.reserve, limit });
            }
            _ => {}
        }
        if !(1..=MOST_WEIGHT).contains(&self.weight) {
            wrong.push(Wrong::Weight(self.weight));
        }
        wrong
    }

    /// The most that they can ever have of so much.
    pub fn most(&self, of: Amount) -> Amount {
        match self.limit {
            Limit::Hard(limit) => of.min(limit),
            _ => of,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused_with_what_would() {
        let share = Share { reserve: 0.5, weight: 0, limit: Limit::Hard(0.25) };
        let said: Vec<_> = share.check().iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "the reserve 0.5 is above the limit 0.25: at most 0.25 can be reserved",
                "the weight 0 is none: give 1 to 1000000; 1000 is usual"
            ]
        );
        assert_eq!(
            Share { weight: 1_000_000_000, ..Share::default() }.check(),
            [Wrong::Weight(1_000_000_000)]
        );
        assert_eq!(Share { reserve: -1.0, ..Share::default() }.check(), [Wrong::Reserve(-1.0)]);
        assert!(matches!(Share { reserve: f64::NAN, ..Share::default() }.check()[..], [Wrong::Reserve(_)]));
        assert_eq!(Share { limit: Limit::Hard(0.0), ..Share::default() }.check(), [Wrong::Limit(0.0)]);
        assert!(Share::capped(0.05).check().is_empty() && Share::default().check().is_empty());
    }
}
