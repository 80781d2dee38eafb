//! Where an alarm stands with one thing, and what a look at that thing makes of it. Nothing here does anything or asks anybody.

use std::collections::VecDeque;

use api::{Acknowledgement, AlarmState, EventTrigger, MetricTrigger, Time};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

/// Something is not good.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// Its name.
    pub name: String,
    /// Since when it has been bad.
    pub since: Time,
    /// What was seen last.
    pub value: f64,
    /// When the alarm was raised, if it has been bad for long enough.
    pub raised: Option<Time>,
    /// Who knows.
    pub acknowledged: Option<Acknowledgement>,
}

/// What follows from a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing.
    Same,
    /// The alarm is raised.
    Raised,
    /// The alarm is cleared.
    Cleared,
}

impl Standing {
    fn new(name: &str, value: f64, now: Time) -> Self {
        Self { name: name.into(), since: now, value, raised: None, acknowledged: None }
    }

    /// What the alarm is for this thing.
    pub fn state(&self) -> AlarmState {
        match (&self.raised, &self.acknowledged) {
            (None, _) => AlarmState::Pending,
            (Some(_), None) => AlarmState::Raised,
            (Some(_), Some(_)) => AlarmState::Acknowledged,
        }
    }
}

/// What becomes of `standing` when `value` is seen `now`. What is not known leaves everything as it is.
pub fn look(
    trigger: &MetricTrigger,
    standing: &mut Option<Standing>,
    name: &str,
    value: Option<f64>,
    now: Time,
) -> Turn {
    let Some(value) = value else { return Turn::Same };
    let raised = standing.as_ref().is_some_and(|standing| standing.raised.is_some());
    if raised && trigger.is_good(value) {
        *standing = None;
        return Turn::Cleared;
    }
    if !raised && !trigger.is_bad(value) {
        *standing = None;
        return Turn::Same;
    }
    let current = standing.get_or_insert_with(|| Standing::new(name, value, now));
    current.value = value;
    let long = now.duration_since(current.since) >= SignedDuration::from_secs(trigger.hold.into());
    if current.raised.is_none() && long {
        current.raised = Some(now);
        return Turn::Raised;
    }
    Turn::Same
}

/// When events happened that count.
#[derive(Debug, Clone, Default)]
pub struct Counted(VecDeque<Time>);

impl Counted {
    /// One happened. More than `most` are not remembered.
    pub fn add(&mut self, time: Time, most: u32) {
        self.0.push_back(time);
        while self.0.len() > most as usize {
            self.0.pop_front();
        }
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What becomes of `standing` now. It is raised when enough have happened, and cleared when none has for as long as they are counted
    /// within.
    pub fn look(
        &mut self,
        trigger: &EventTrigger,
        standing: &mut Option<Standing>,
        name: &str,
        now: Time,
    ) -> Turn {
        let within = SignedDuration::from_secs(trigger.within.into());
        while self.0.front().is_some_and(|time| now.duration_since(*time) >= within) {
            self.0.pop_front();
        }
        if self.0.is_empty() {
            return if standing.take().is_some() { Turn::Cleared } else { Turn::Same };
        }
        if self.0.len() >= trigger.count as usize && standing.is_none() {
            let mut new = Standing::new(name, self.0.len() as f64, self.0.front().copied().unwrap_or(now));
            new.raised = Some(now);
            *standing = Some(new);
            return Turn::Raised;
        }
        if let Some(standing) = standing {
            standing.value = self.0.len() as f64;
        }
        Turn::Same
    }
}

#[cfg(test)]
mod tests {
    use api::Metric;

    use super::*;

    fn at(second: i64) -> Time {
        Time::from_second(1_800_000_000 + second).unwrap()
    }

    fn above(above: f64, clear: f64, hold: u32) -> MetricTrigger {
        MetricTrigger { of: Metric::PoolUsed, above: Some(above), below: None, clear: Some(clear), hold }
    }

    /// xorshift64* (Vigna 2016).
    struct Random(u64);

    impl Random {
        fn below(&mut self, most: u64) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % most
        }
    }

    #[test]
    fn it_is_raised_after_it_was_bad_for_as_long_as_it_has_to_be_and_cleared_below_the_other_threshold() {
        let trigger = above(80.0, 70.0, 10);
        let mut standing = None;
        let steps = [
            (0, 80.0, Turn::Same, None),
            (1, 81.0, Turn::Same, Some(AlarmState::Pending)),
            (5, 80.0, Turn::Same, None),
            (6, 90.0, Turn::Same, Some(AlarmState::Pending)),
            (15, 90.0, Turn::Same, Some(AlarmState::Pending)),
            (16, 90.0, Turn::Raised, Some(AlarmState::Raised)),
            (17, 75.0, Turn::Same, Some(AlarmState::Raised)),
            (18, 99.0, Turn::Same, Some(AlarmState::Raised)),
            (19, 70.0, Turn::Cleared, None),
            (20, 75.0, Turn::Same, None),
        ];
        for (second, value, turn, state) in steps {
            assert_eq!(look(&trigger, &mut standing, "a", Some(value), at(second)), turn, "{second}");
            assert_eq!(standing.as_ref().map(Standing::state), state, "{second}");
        }
    }

    #[test]
    fn what_is_too_little_raises_it_as_well() {
        let trigger =
            MetricTrigger { of: Metric::DiskRoom, above: None, below: Some(5.0), clear: None, hold: 0 };
        let mut standing = None;
        assert_eq!(look(&trigger, &mut standing, "a", Some(5.0), at(0)), Turn::Same);
        assert_eq!(look(&trigger, &mut standing, "a", Some(4.0), at(1)), Turn::Raised);
        assert_eq!(look(&trigger, &mut standing, "a", Some(4.9), at(2)), Turn::Same);
        assert_eq!(look(&trigger, &mut standing, "a", Some(5.0), at(3)), Turn::Cleared);
    }

    #[test]
    fn whatever_is_seen_it_is_raised_only_when_bad_for_long_and_cleared_only_when_good() {
        let mut random = Random(0x5eed);
        for round in 0..300 {
            let clear = random.below(100) as f64;
            let threshold = clear + random.below(20) as f64;
            let hold = random.below(20) as u32;
            let trigger = above(threshold, clear, hold);
            let (mut standing, mut now) = (None::<Standing>, 0i64);
            // When it was first bad without being anything else since, as somebody who only sees the values would say.
            let mut bad_since: Option<i64> = None;
            let mut raised = false;
            for step in 0..200 {
                now += random.below(6) as i64;
                let value = (random.below(8) != 0).then(|| random.below(130) as f64);
                if let Some(standing) = standing.as_mut().filter(|_| raised && random.below(4) == 0) {
                    standing.acknowledged = Some(Acknowledgement { actor: "me".into(), time: at(now) });
                }
                let known = standing.as_ref().and_then(|standing| standing.acknowledged.clone());
                let turn = look(&trigger, &mut standing, "a", value, at(now));
                let told = format!("round {round}, step {step}: {value:?} with {trigger:?}");
                match value {
                    Some(value) if value > threshold => bad_since = bad_since.or(Some(now)),
                    Some(_) => bad_since = None,
                    None => assert_eq!(turn, Turn::Same, "{told}"),
                }
                match turn {
                    Turn::Raised => {
                        assert!(!raised, "{told}: raised twice");
                        assert!(bad_since.is_some_and(|since| now - since >= i64::from(hold)), "{told}");
                    }
                    Turn::Cleared => {
                        assert!(raised && value.is_some_and(|value| value <= clear), "{told}");
                    }
                    Turn::Same if raised => {
                        assert!(value.is_none_or(|value| value > clear), "{told}: not cleared");
                        let after = standing.as_ref().and_then(|standing| standing.acknowledged.clone());
                        assert_eq!(after, known, "{told}: who knows is forgotten");
                    }
                    Turn::Same => {
                        let late = bad_since.is_some_and(|since| now - since >= i64::from(hold));
                        assert!(!late || value.is_none(), "{told}: not raised");
                    }
                }
                raised = (raised || turn == Turn::Raised) && turn != Turn::Cleared;
                let stands = standing.as_ref().is_some_and(|standing| standing.raised.is_some());
                assert_eq!(stands, raised, "{told}");
                if turn == Turn::Raised {
                    assert!(standing.as_ref().unwrap().acknowledged.is_none(), "{told}");
                }
            }
        }
    }

    #[test]
    fn events_raise_it_when_there_are_enough_at_once_and_none_for_a_while_clears_it() {
        let trigger = EventTrigger { kind: "vm.crashed".into(), how: Vec::new(), count: 3, within: 60 };
        let (mut counted, mut standing) = (Counted::default(), None);
        let happens = |counted: &mut Counted, standing: &mut Option<Standing>, second| {
            counted.add(at(second), trigger.count);
            counted.look(&trigger, standing, "a", at(second))
        };
        assert_eq!(happens(&mut counted, &mut standing, 0), Turn::Same);
        assert_eq!(happens(&mut counted, &mut standing, 30), Turn::Same);
        // The first one is too long ago.
        assert_eq!(happens(&mut counted, &mut standing, 60), Turn::Same);
        assert_eq!(happens(&mut counted, &mut standing, 61), Turn::Raised);
        assert_eq!(happens(&mut counted, &mut standing, 70), Turn::Same);
        assert_eq!(counted.look(&trigger, &mut standing, "a", at(129)), Turn::Same);
        assert_eq!(counted.look(&trigger, &mut standing, "a", at(130)), Turn::Cleared);
        assert!(standing.is_none() && counted.is_empty());
        assert_eq!(counted.look(&trigger, &mut standing, "a", at(131)), Turn::Same);
    }
}
