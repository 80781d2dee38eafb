//! How little of a pool is free.

use crate::Amount;

/// How little of a pool is free. Each is entered below a part of the pool ([`Pressure::below`]) and left when a quarter more than that is
/// free again, so that a number that wavers changes nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Enough is free.
    #[default]
    High,
    /// As little as is always to be free.
    Clear,
    /// Less: memory is taken away faster.
    Soft,
    /// Much less: as fast as guests bear it, and with a paging device the rest goes there.
    Hard,
    /// Next to nothing.
    Low,
}

/// All of them, from the best.
const ALL: [Pressure; 5] = [Pressure::High, Pressure::Clear, Pressure::Soft, Pressure::Hard, Pressure::Low];
/// How much more must be free for a better one.
const BACK: f64 = 1.25;

impl Pressure {
    /// The part of a pool that is always to be free.
    pub const MARGIN: f64 = 0.06;

    /// Less than this part of the pool is free then.
    pub fn below(self) -> f64 {
        match self {
            Pressure::High => f64::INFINITY,
            Pressure::Clear => Self::MARGIN,
            Pressure::Soft => 0.04,
            Pressure::Hard => 0.02,
            Pressure::Low => 0.01,
        }
    }

    /// What it is when so much is free of a pool, which may be less than nothing.
    pub fn next(self, free: Amount, pool: Amount) -> Self {
        let part = free / pool.max(1.0);
        let holds = |state: &Pressure| {
            let back = if *state <= self { BACK } else { 1.0 };
            part < state.below() * back
        };
        // The worst that holds: each worse one needs less.
        ALL.into_iter().rev().find(holds).unwrap_or_default()
    }

    /// Whether balloons are too slow, or guests cannot give more, so that what they use is paged.
    pub fn pages(self) -> bool {
        self >= Pressure::Hard
    }

    /// The bytes that are to be free after something has been paged: as much as has balloons alone go on with the rest.
    pub fn paged_until(pool: Amount) -> Amount {
        pool * Pressure::Soft.below()
    }

    /// The part of its size that may be taken from a guest in a second.
    pub fn pace(self) -> f64 {
        match self {
            Pressure::High => 1.0 / 32.0,
            Pressure::Clear => 1.0 / 16.0,
            Pressure::Soft => 1.0 / 8.0,
            Pressure::Hard => 1.0 / 4.0,
            Pressure::Low => 1.0 / 2.0,
        }
    }
}

/// What is said of a pressure: that it has become worse at once, that it is better when it has been for [`CALM`]. One that comes and goes
/// each second is told once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Told {
    told: Pressure,
    /// The worst since it has been better, and for how long it has.
    better: Option<(Pressure, f64)>,
}

/// So many seconds it is better before that is said.
const CALM: f64 = 30.0;

impl Told {
    /// Takes in what it is, `seconds` after the last time; gives what is to be said, if anything is.
    pub fn look(&mut self, now: Pressure, seconds: f64) -> Option<Pressure> {
        if now >= self.told {
            self.better = None;
            return (now > self.told).then(|| self.say(now));
        }
        let (worst, since) =
            self.better.map_or((now, 0.0), |(worst, since)| (worst.max(now), since + seconds));
        self.better = Some((worst, since));
        (since >= CALM).then(|| self.say(worst))
    }

    fn say(&mut self, what: Pressure) -> Pressure {
        *self = Self { told: what, better: None };
        what
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_worse_is_said_at_once_and_what_is_better_when_it_has_been_for_long() {
        let mut told = Told::default();
        let mut look = |now| told.look(now, 1.0);
        assert_eq!(look(Pressure::High), None);
        assert_eq!(look(Pressure::Soft), Some(Pressure::Soft));
        assert_eq!(look(Pressure::Hard), Some(Pressure::Hard));
        for _ in 0..100 {
            assert_eq!((look(Pressure::Soft), look(Pressure::Hard)), (None, None), "it wavers");
        }
        let said: Vec<_> = (0..40)
            .filter_map(|second| look(if second == 5 { Pressure::Soft } else { Pressure::High }))
            .collect();
        assert_eq!(said, [Pressure::Soft], "the worst of half a minute");
        let said: Vec<_> = (0..40).filter_map(|_| look(Pressure::High)).collect();
        assert_eq!(said, [Pressure::High]);
    }

    #[test]
    fn it_gets_worse_at_once_and_better_only_a_quarter_later() {
        let mut state = Pressure::High;
        let mut look = |free: f64| {
            state = state.next(free, 100.0);
            state
        };
        for (free, wanted) in [
            (6.0, Pressure::High),
            (5.9, Pressure::Clear),
            (7.4, Pressure::Clear),
            (7.5, Pressure::High),
            (3.9, Pressure::Soft),
            (4.9, Pressure::Soft),
            (5.1, Pressure::Clear),
            (0.5, Pressure::Low),
            (1.2, Pressure::Low),
            (1.3, Pressure::Hard),
            (-20.0, Pressure::Low),
            (100.0, Pressure::High),
        ] {
            assert_eq!(look(free), wanted, "{free}");
        }
    }
}
