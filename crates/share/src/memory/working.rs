//! How much of its memory a guest uses, by what its system says.

use crate::Amount;

/// What a guest's system says of its memory, bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// The memory that it believes to have.
    pub size: Amount,
    /// What the balloon holds of that.
    pub balloon: Amount,
    /// What its programs could still have.
    pub available: Amount,
    /// How often it waited for a disk each second since the last reading: for a page, or for a file.
    pub faults: f64,
}

/// A guest that waits for a disk so often in a second lacks memory.
const FAULTS: f64 = 64.0;
/// How much more one that lacks memory is taken to use than it has.
const MORE: f64 = 1.25;
/// In how many seconds what was used once is forgotten, nearly.
const MEMORY: f64 = 30.0;
/// The least floor, bytes.
const LEAST: Amount = (4u64 << 20) as Amount;

/// What a guest of this size always has available, bytes: with less its system would begin to end programs.
pub fn floor(size: Amount) -> Amount {
    (size / 32.0).max(LEAST)
}

impl Reading {
    /// What the guest has of the host's memory, at most.
    pub fn held(&self) -> Amount {
        (self.size - self.balloon).max(0.0)
    }

    /// What it can be without at once: it keeps twice the floor.
    pub fn spare(&self) -> Amount {
        (self.available - 2.0 * floor(self.size)).max(0.0)
    }

    /// What it cannot be without at once.
    pub fn stays(&self) -> Amount {
        self.held() - self.spare().min(self.held())
    }

    /// Whether it lacks memory now.
    pub fn is_short(&self) -> bool {
        self.lacks() || self.faults > FAULTS
    }

    /// Whether its programs lack memory now, and not only its cache of files.
    fn lacks(&self) -> bool {
        self.available < floor(self.size)
    }

    /// What its programs need, bytes: what cannot be taken from its system without ending one of them. What it would like to have for files
    /// it can read again; on a paging device that would be no better off than where it is now.
    pub fn needs(&self) -> Amount {
        let needs = (self.held() - self.available).max(0.0) + 2.0 * floor(self.size);
        let needs = if self.lacks() { needs.max(self.held() * MORE) } else { needs };
        needs.min(self.size)
    }
}

/// An estimate of what a guest uses, bytes: what it has and could not give away, and a little more. What it does not have cannot be seen;
/// one that is short is taken to use more than it has until it is not short any more.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Working {
    /// It follows upwards at once, and downwards slowly.
    kept: Amount,
}

impl Working {
    /// Takes in a reading, `seconds` after the last one; gives what is used.
    pub fn look(&mut self, reading: &Reading, seconds: f64) -> Amount {
        let used = (reading.held() - reading.available).max(0.0) + 2.0 * floor(reading.size);
        let now = if reading.is_short() { used.max(reading.held() * MORE) } else { used };
        let forgotten = (seconds / MEMORY).clamp(0.0, 1.0);
        self.kept = now.max(self.kept + (now - self.kept) * forgotten).min(reading.size);
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: Amount = (1u64 << 20) as Amount;

    fn reading(balloon: Amount, available: Amount, faults: f64) -> Reading {
        Reading { size: 128.0 * MIB, balloon: balloon * MIB, available: available * MIB, faults }
    }

    #[test]
    fn what_a_guest_could_give_away_it_does_not_use() {
        let look = |reading| Working::default().look(&reading, 1.0) / MIB;
        assert_eq!(look(reading(0.0, 100.0, 0.0)), 28.0 + 8.0);
        assert_eq!(look(reading(60.0, 40.0, 0.0)), 28.0 + 8.0);
        assert_eq!(reading(60.0, 40.0, 0.0).spare(), 32.0 * MIB);
        assert_eq!(reading(60.0, 6.0, 0.0).spare(), 0.0);
        assert_eq!(reading(60.0, 40.0, 0.0).stays(), 36.0 * MIB);
        assert_eq!(reading(60.0, 6.0, 0.0).stays(), 68.0 * MIB);
        assert_eq!(reading(100.0, 120.0, 0.0).stays(), 0.0, "it does not say the truth");
    }

    #[test]
    fn one_that_is_short_uses_more_than_it_has_and_no_more_than_it_can_have() {
        let look = |reading| Working::default().look(&reading, 1.0) / MIB;
        assert_eq!(look(reading(64.0, 3.0, 0.0)), 64.0 * 1.25);
        assert_eq!(look(reading(64.0, 30.0, 100.0)), 64.0 * 1.25);
        assert_eq!(look(reading(0.0, 1.0, 0.0)), 128.0);
    }

    #[test]
    fn what_programs_need_is_not_what_files_would_like() {
        let needs = |available, faults| reading(64.0, available, faults).needs() / MIB;
        assert_eq!(needs(30.0, 1000.0), 34.0 + 8.0);
        assert_eq!(needs(3.0, 0.0), 64.0 * 1.25);
        assert_eq!(reading(0.0, 1.0, 0.0).needs(), 128.0 * MIB);
    }

    #[test]
    fn what_was_used_once_is_forgotten_slowly() {
        let mut working = Working::default();
        assert_eq!(working.look(&reading(0.0, 8.0, 0.0), 1.0), 128.0 * MIB);
        let idle = reading(0.0, 120.0, 0.0);
        let soon = working.look(&idle, 1.0);
        assert!(soon < 128.0 * MIB && soon > 120.0 * MIB, "{soon}");
        for _ in 0..120 {
            working.look(&idle, 1.0);
        }
        assert!(working.look(&idle, 1.0) < 20.0 * MIB);
        // A host that has slept does not overshoot.
        assert_eq!(Working { kept: 128.0 * MIB }.look(&idle, 1e9), 16.0 * MIB);
    }
}
