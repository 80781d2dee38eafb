//! What guests got, wanted and were to have, as it was looked at last.

use std::collections::HashMap;

use api::{CpuBound, CpuNow, Id, Name};

use super::ledger::Ledger;

/// What was seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Each guest that runs.
    pub guests: HashMap<Id, CpuNow>,
    /// What has become of what they are promised.
    pub ledgers: HashMap<Id, Ledger>,
    /// Each group.
    pub groups: HashMap<Name, GroupSeen>,
    /// What everything else on the machine got in the last 10 s, processors.
    pub besides: f64,
    /// Why what these are promised is not held to, though that of others is.
    pub lost: HashMap<Id, String>,
    /// Why what is promised is not held to.
    pub not_enforced: Option<String>,
}

/// What the members of a group wanted, were to have and got together, processors.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct GroupSeen {
    /// Asked for in the last window.
    pub asked: f64,
    /// To have.
    pub target: f64,
    /// Got in the last 10 s.
    pub got_10s: f64,
}

impl GroupSeen {
    /// One more member.
    pub fn add(&mut self, asked: f64, target: f64, got_10s: f64) {
        (self.asked, self.target, self.got_10s) =
            (self.asked + asked, self.target + target, self.got_10s + got_10s);
    }
}

impl Seen {
    /// What all guests got in the last 10 s.
    pub fn all(&self) -> f64 {
        self.guests.values().map(|guest| guest.got_10s).sum()
    }
}

/// What keeps a guest from having more that asked for so much and is to have `target`, with a limit that it never passes, in groups of which one
/// may have all that it has.
pub fn bound(asked: f64, target: f64, limit: Option<f64>, group_is_full: bool) -> CpuBound {
    // Nobody sees so small a difference.
    let small = 0.005 + asked * 0.02;
    match limit {
        _ if asked <= target + small => CpuBound::Nothing,
        Some(limit) if target >= limit - small => CpuBound::Limit,
        _ if group_is_full => CpuBound::Group,
        _ => CpuBound::Others,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_a_guest_from_more_is_its_limit_or_its_groups_or_others_or_nothing() {
        assert_eq!(bound(0.2, 0.2, Some(0.5), true), CpuBound::Nothing);
        assert_eq!(bound(1.0, 0.5, Some(0.5), true), CpuBound::Limit);
        assert_eq!(bound(1.0, 0.3, Some(0.5), false), CpuBound::Others);
        assert_eq!(bound(1.0, 0.3, None, false), CpuBound::Others);
        assert_eq!(bound(1.0, 0.3, None, true), CpuBound::Group);
    }
}
