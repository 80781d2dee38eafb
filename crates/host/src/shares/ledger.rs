//! What a guest was promised of processors, asked for, was to have and got, as sums that only grow: two looks give what it was in between.

use std::time::Duration;

/// The sums, in processors times ns.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Ledger {
    /// The time that they are about, ns.
    pub time: f64,
    /// It was promised.
    pub promised: f64,
    /// It would have taken if nobody else had been there.
    pub asked: f64,
    /// It was to have by what all were promised and asked for.
    pub due: f64,
    /// It got.
    pub got: f64,
    /// How long it was kept from running by its limit, by what the kernel says, ns.
    pub throttled: u64,
}

impl Ledger {
    /// One more window, in which it was promised, asked for, was to have and got so many processors.
    pub fn add(&mut self, window: Duration, promised: f64, asked: f64, due: f64, got: f64) {
        let time = window.as_nanos() as f64;
        self.time += time;
        self.promised += promised * time;
        self.asked += asked * time;
        self.due += due * time;
        self.got += got * time;
    }

    /// What it was since an earlier look, in processors; nothing if no time went by.
    pub fn since(&self, before: &Self) -> Option<Receipt> {
        let time = self.time - before.time;
        let part = |before: f64, after: f64| (after - before) / time;
        (time > 0.0).then(|| Receipt {
            promised: part(before.promised, self.promised),
            asked: part(before.asked, self.asked),
            due: part(before.due, self.due),
            got: part(before.got, self.got),
        })
    }
}

/// What it was in some time, processors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Receipt {
    /// Promised.
    pub promised: f64,
    /// Asked for.
    pub asked: f64,
    /// What it was to have.
    pub due: f64,
    /// What it got.
    pub got: f64,
}

impl Receipt {
    /// How much it got less than it was promised and asked for.
    pub fn short(&self) -> f64 {
        (self.promised.min(self.asked) - self.got).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_of_any_length_count_as_long_as_they_are() {
        let mut ledger = Ledger::default();
        ledger.add(Duration::from_millis(250), 0.5, 1.0, 0.5, 0.25);
        let before = ledger;
        ledger.add(Duration::from_millis(750), 0.5, 0.2, 0.2, 0.2);
        ledger.add(Duration::from_millis(250), 0.5, 1.0, 0.6, 0.6);
        let receipt = ledger.since(&before).unwrap();
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(near(receipt.promised, 0.5) && near(receipt.asked, 0.4) && near(receipt.due, 0.3));
        assert!(near(receipt.got, 0.3) && near(receipt.short(), 0.1));
        assert!(ledger.since(&ledger).is_none());
        assert!(near(before.since(&Ledger::default()).unwrap().short(), 0.25));
    }

    #[test]
    fn whoever_asks_for_less_than_is_promised_is_short_of_nothing_with_what_is_asked_for() {
        assert_eq!(Receipt { promised: 0.5, asked: 0.1, due: 0.1, got: 0.1 }.short(), 0.0);
        assert_eq!(Receipt { promised: 0.5, asked: 2.0, due: 0.9, got: 0.9 }.short(), 0.0);
        assert_eq!(Receipt { promised: 0.0, asked: 2.0, due: 0.0, got: 0.0 }.short(), 0.0);
    }
}
