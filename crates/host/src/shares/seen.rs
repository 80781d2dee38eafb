//! What guests got, wanted and were to have, as it was looked at last.

use std::collections::HashMap;

use api::{CpuBound, CpuNow, Id};

/// What was seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Each guest that runs.
    pub guests: HashMap<Id, CpuNow>,
    /// What everything else on the machine got in the last 10 s, processors.
    pub besides: f64,
    /// Why what is promised is not held to.
    pub not_enforced: Option<String>,
}

impl Seen {
    /// What all guests got in the last 10 s.
    pub fn all(&self) -> f64 {
        self.guests.values().map(|guest| guest.got_10s).sum()
    }
}

/// What keeps a guest from having more that asked for so much and is to have `target`, with a limit that it never passes.
pub fn bound(asked: f64, target: f64, limit: Option<f64>) -> CpuBound {
    // Nobody sees so small a difference.
    let small = 0.005 + asked * 0.02;
    match limit {
        _ if asked <= target + small => CpuBound::Nothing,
        Some(limit) if target >= limit - small => CpuBound::Limit,
        _ => CpuBound::Others,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_a_guest_from_more_is_its_limit_or_others_or_nothing() {
        assert_eq!(bound(0.2, 0.2, Some(0.5)), CpuBound::Nothing);
        assert_eq!(bound(1.0, 0.5, Some(0.5)), CpuBound::Limit);
        assert_eq!(bound(1.0, 0.3, Some(0.5)), CpuBound::Others);
        assert_eq!(bound(1.0, 0.3, None), CpuBound::Others);
    }
}
