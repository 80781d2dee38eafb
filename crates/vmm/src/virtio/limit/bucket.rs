//! A token bucket: what passes costs tokens, which come back at a rate, up to a burst of them.
//!
//! In any span of time no more passes than its length times the rate, plus the burst, or plus the largest request if that is more than
//! the burst: such a one passes when the bucket is full, and the bucket is in debt for the rest. Nothing here reads a clock.

use super::Rate;

/// Parts of a token. As many as a second has nanoseconds: a rate of tokens a second is that rate of parts a nanosecond, and nothing is
/// ever rounded.
const PARTS: i128 = 1_000_000_000;

/// A token bucket. Times are nanoseconds from any point; one that is before the latest known is taken for that.
#[derive(Debug)]
pub(super) struct Bucket {
    per_second: u64,
    burst: u64,
    /// Parts that are there; less than none are owed.
    level: i128,
    /// When that was so.
    at: u64,
}

impl Bucket {
    /// A full one.
    pub fn new(rate: Rate, now: u64) -> Self {
        let mut bucket = Self { per_second: rate.per_second.max(1), burst: rate.burst(), level: 0, at: now };
        bucket.level = bucket.full();
        bucket
    }

    fn full(&self) -> i128 {
        i128::from(self.burst) * PARTS
    }

    fn refill(&mut self, now: u64) {
        let passed = now.saturating_sub(self.at);
        let come = i128::from(self.per_second).saturating_mul(i128::from(passed));
        self.level = self.level.saturating_add(come).min(self.full());
        self.at = self.at.max(now);
    }

    /// How long until `amount` may pass, nanoseconds; none if it may now. Nothing never waits.
    pub fn wait(&mut self, amount: u64, now: u64) -> u64 {
        if amount == 0 {
            return 0;
        }
        self.refill(now);
        let lacks = i128::from(amount.min(self.burst)) * PARTS - self.level;
        if lacks <= 0 {
            return 0;
        }
        let rate = i128::from(self.per_second);
        u64::try_from((lacks + rate - 1) / rate).unwrap_or(u64::MAX)
    }

    /// `amount` passes: [`wait`](Self::wait) has just said that it may.
    pub fn pay(&mut self, amount: u64) {
        self.level = self.level.saturating_sub(i128::from(amount) * PARTS);
    }

    /// Another rate from now on. What is owed stays owed, and what is there is kept as far as it has room.
    pub fn change(&mut self, rate: Rate, now: u64) {
        self.refill(now);
        (self.per_second, self.burst) = (rate.per_second.max(1), rate.burst());
        self.level = self.level.min(self.full());
    }

    /// How many whole tokens there are; less than none are owed.
    pub fn level(&mut self, now: u64) -> i64 {
        self.refill(now);
        let tokens = self.level.div_euclid(PARTS);
        i64::try_from(tokens).unwrap_or(if tokens < 0 { i64::MIN } else { i64::MAX })
    }

    /// Has so many tokens, as far as there is room for them.
    pub fn set_level(&mut self, tokens: i64, now: u64) {
        self.refill(now);
        self.level = (i128::from(tokens) * PARTS).min(self.full());
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Random;
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn rate(per_second: u64, burst: u64) -> Rate {
        Rate { per_second, burst: Some(burst) }
    }

    /// Checks that of what passed – when, and how much – no span had more than it may: all that begin and end with something that passed.
    fn check(passed: &[(u64, u64)], rate: u64, burst: u64) {
        let largest = passed.iter().map(|(_, amount)| *amount).max().unwrap_or(0);
        for (first, (start, _)) in passed.iter().enumerate() {
            let mut sum = 0u128;
            for (end, amount) in &passed[first..] {
                sum += u128::from(*amount);
                let span = u128::from(end - start);
                let most = (u128::from(rate) * span).div_ceil(PARTS as u128) + u128::from(burst.max(largest));
                assert!(sum <= most, "{sum} of {most} in {span} ns at {rate}/s with {burst}");
            }
        }
    }

    #[test]
    fn no_span_has_more_than_its_rate_and_the_burst_and_what_has_waited_long_enough_goes_on() {
        let mut random = Random(7);
        for _ in 0..300 {
            let (per_second, burst) = (1 + random.up_to(1 << 30), 1 + random.up_to(1 << 24));
            let largest = 1 + random.up_to(2 * burst);
            let mut bucket = Bucket::new(rate(per_second, burst), 0);
            let (mut now, mut passed) = (random.up_to(SECOND), Vec::new());
            for _ in 0..120 {
                let amount = 1 + random.up_to(largest);
                let wait = bucket.wait(amount, now);
                if wait > 0 {
                    assert!(bucket.wait(amount, now + wait - 1) > 0, "it waits no longer than it must");
                    now += wait;
                    assert_eq!(bucket.wait(amount, now), 0, "after that it goes on");
                }
                bucket.pay(amount);
                passed.push((now, amount));
                now += match random.up_to(3) {
                    0 => random.up_to(SECOND / 10),
                    _ => 0,
                };
            }
            check(&passed, per_second, burst);
        }
    }

    #[test]
    fn who_is_always_there_gets_all_of_the_rate() {
        let mut random = Random(3);
        for _ in 0..100 {
            let per_second = 1000 + random.up_to(1 << 30);
            let mut bucket = Bucket::new(Rate { per_second, burst: None }, 0);
            let (mut now, mut sum) = (0, 0u128);
            while now < 10 * SECOND {
                let amount = 1 + random.up_to(per_second / 4);
                now += bucket.wait(amount, now);
                bucket.pay(amount);
                sum += u128::from(amount);
            }
            let least = u128::from(per_second) * u128::from(now) / u128::from(SECOND);
            assert!(sum + 1 >= least, "{sum} of {least}");
        }
    }

    #[test]
    fn what_is_larger_than_the_burst_passes_once_and_is_paid_for_afterwards() {
        let mut bucket = Bucket::new(rate(100, 10), 0);
        assert_eq!(bucket.wait(1000, 0), 0, "the bucket is full");
        bucket.pay(1000);
        assert_eq!(bucket.wait(1, 0), 9_910_000_000, "990 are owed, and one is needed");
        assert_eq!(bucket.wait(1000, 0), 10 * SECOND, "it has to be full again");
        assert_eq!(bucket.wait(0, 0), 0, "what costs nothing never waits");
        assert_eq!(bucket.wait(1000, 10 * SECOND), 0);
    }

    #[test]
    fn numbers_that_nobody_means_do_no_harm() {
        let odd = [0, 1, 2, 999, u64::MAX / 2, u64::MAX - 1, u64::MAX];
        for per_second in odd {
            for burst in odd {
                let mut bucket = Bucket::new(rate(per_second, burst), u64::MAX / 3);
                for (amount, now) in odd.iter().flat_map(|amount| odd.map(|now| (*amount, now))) {
                    for _ in 0..3 {
                        if bucket.wait(amount, now) == 0 {
                            bucket.pay(amount);
                        }
                    }
                    let level = bucket.level(now);
                    bucket.set_level(level, now);
                    bucket.change(rate(burst, per_second), now);
                }
            }
        }
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing_twice() {
        let mut bucket = Bucket::new(rate(1, 1), 0);
        bucket.pay(1);
        assert_eq!(bucket.wait(1, SECOND), 0);
        bucket.pay(1);
        assert_eq!(bucket.wait(1, 0), SECOND);
        assert_eq!(bucket.wait(1, SECOND), SECOND);
    }

    #[test]
    fn another_rate_forgives_nothing_and_gives_nothing_away() {
        let mut bucket = Bucket::new(rate(10, 10), 0);
        bucket.pay(110);
        bucket.change(rate(100, 1000), 0);
        assert_eq!(bucket.level(0), -100);
        assert_eq!(bucket.wait(50, 0), 3 * SECOND / 2, "at the new rate");
        bucket.change(rate(100, 20), 60 * SECOND);
        assert_eq!(bucket.level(60 * SECOND), 20);
    }
}
