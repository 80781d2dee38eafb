//! Several buckets that all must have enough, and who waits for them: a device's limits without its threads and its timer.

use super::bucket::Bucket;
use super::{Cost, LaneState, Limit};

/// The buckets of one kind of traffic.
#[derive(Debug, Default)]
struct Lane {
    bytes: Option<Bucket>,
    operations: Option<Bucket>,
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It goes on now, and has paid. Others that had to wait may go on, too, if it is said so.
    Go {
        /// Whether to ask for those that wait again.
        others: bool,
    },
    /// It may be asked again after so many nanoseconds; for none, when one before it has gone on.
    Wait(Option<u64>),
}

/// The buckets of a device, and its queues whose next request waits for them, in the order in which they came. Of two that want of the
/// same bucket the later one waits for the earlier one: small requests of one queue cannot keep large ones of another waiting for ever.
#[derive(Debug)]
pub(super) struct Gate {
    lanes: Vec<Lane>,
    waiting: Vec<(usize, Cost)>,
}

impl Gate {
    pub fn new(limits: &[Limit], now: u64) -> Self {
        let mut gate = Self { lanes: limits.iter().map(|_| Lane::default()).collect(), waiting: Vec::new() };
        gate.change(limits, now);
        gate
    }

    /// Other limits, lane by lane.
    pub fn change(&mut self, limits: &[Limit], now: u64) {
        for (lane, limit) in self.lanes.iter_mut().zip(limits) {
            for (bucket, rate) in [(&mut lane.bytes, limit.bytes), (&mut lane.operations, limit.operations)] {
                match (bucket.as_mut(), rate) {
                    (Some(bucket), Some(rate)) => bucket.change(rate, now),
                    (_, rate) => *bucket = rate.map(|rate| Bucket::new(rate, now)),
                }
            }
        }
    }

    /// Whether anything can have to wait.
    pub fn is_limited(&self) -> bool {
        self.lanes.iter().any(|lane| lane.bytes.is_some() || lane.operations.is_some())
    }

    /// The queues that wait.
    pub fn waiting(&self) -> impl Iterator<Item = usize> {
        self.waiting.iter().map(|(queue, _)| *queue)
    }

    /// Nobody waits any more.
    pub fn forget_waiting(&mut self) {
        self.waiting.clear();
    }

    /// The next request of `queue` costs so much: may it go on?
    pub fn ask(&mut self, queue: usize, cost: Cost, now: u64) -> Answer {
        match self.look(queue, &cost, now) {
            Some(0) => Answer::Go { others: self.pass(queue, &cost) },
            wait => {
                self.hold(queue, cost);
                Answer::Wait(wait)
            }
        }
    }

    fn place(&self, queue: usize) -> Option<usize> {
        self.waiting.iter().position(|(other, _)| *other == queue)
    }

    /// How long the next request of `queue` has to wait, nanoseconds; nothing if it is behind another one.
    pub fn look(&mut self, queue: usize, cost: &Cost, now: u64) -> Option<u64> {
        let before = &self.waiting[..self.place(queue).unwrap_or(self.waiting.len())];
        let behind = before.iter().any(|(_, other)| self.compete(other, cost));
        if behind { None } else { Some(self.wait(cost, now)) }
    }

    /// The next request of `queue` goes on, and pays; true if others that had to wait may go on, too.
    pub fn pass(&mut self, queue: usize, cost: &Cost) -> bool {
        self.pay(cost);
        let had_to_wait = self.place(queue).map(|place| self.waiting.remove(place)).is_some();
        had_to_wait && !self.waiting.is_empty()
    }

    /// The next request of `queue` waits, in the place that the queue has among those that wait.
    pub fn hold(&mut self, queue: usize, cost: Cost) {
        match self.place(queue) {
            Some(place) => self.waiting[place].1 = cost,
            None => self.waiting.push((queue, cost)),
        }
    }

    /// Queue `queue` has nothing that waits; true if others may go on therefore.
    pub fn leave(&mut self, queue: usize) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|(other, _)| *other != queue);
        before > self.waiting.len() && !self.waiting.is_empty()
    }

    fn lanes_of<'a>(lanes: &'a mut [Lane], cost: &Cost) -> impl Iterator<Item = &'a mut Lane> {
        let used = cost.lanes;
        lanes.iter_mut().enumerate().filter(move |(number, _)| used >> number & 1 != 0).map(|(_, lane)| lane)
    }

    fn wait(&mut self, cost: &Cost, now: u64) -> u64 {
        let wait = |bucket: &mut Option<Bucket>, amount| {
            bucket.as_mut().map_or(0, |bucket| bucket.wait(amount, now))
        };
        let waits = Self::lanes_of(&mut self.lanes, cost)
            .map(|lane| wait(&mut lane.bytes, cost.bytes).max(wait(&mut lane.operations, cost.operations)));
        waits.max().unwrap_or(0)
    }

    fn pay(&mut self, cost: &Cost) {
        for lane in Self::lanes_of(&mut self.lanes, cost) {
            lane.bytes.iter_mut().for_each(|bucket| bucket.pay(cost.bytes));
            lane.operations.iter_mut().for_each(|bucket| bucket.pay(cost.operations));
        }
    }

    /// Whether two want of the same bucket.
    fn compete(&self, one: &Cost, other: &Cost) -> bool {
        let both = one.lanes & other.lanes;
        let bytes = one.bytes > 0 && other.bytes > 0;
        let operations = one.operations > 0 && other.operations > 0;
        self.lanes
            .iter()
            .enumerate()
            .filter(|(number, _)| both >> number & 1 != 0)
            .any(|(_, lane)| bytes && lane.bytes.is_some() || operations && lane.operations.is_some())
    }

    /// What is there, and what is owed, lane by lane.
    pub fn levels(&mut self, now: u64) -> Vec<LaneState> {
        let level = |bucket: &mut Option<Bucket>| bucket.as_mut().map(|bucket| bucket.level(now));
        let lane = |lane: &mut Lane| LaneState {
            bytes: level(&mut lane.bytes),
            operations: level(&mut lane.operations),
        };
        self.lanes.iter_mut().map(lane).collect()
    }

    /// Puts back what [`levels`](Self::levels) gave, as far as the limits are there.
    pub fn set_levels(&mut self, levels: &[LaneState], now: u64) {
        for (lane, state) in self.lanes.iter_mut().zip(levels) {
            for (bucket, level) in [(&mut lane.bytes, state.bytes), (&mut lane.operations, state.operations)]
            {
                if let (Some(bucket), Some(level)) = (bucket, level) {
                    bucket.set_level(level, now);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Rate;
    use super::super::testing::Random;
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const GO: Answer = Answer::Go { others: false };

    fn limit(bytes: (u64, u64), operations: Option<(u64, u64)>) -> Limit {
        let rate = |(per_second, burst)| Rate { per_second, burst: Some(burst) };
        Limit { bytes: Some(rate(bytes)), operations: operations.map(rate) }
    }

    fn cost(lanes: u8, bytes: u64) -> Cost {
        Cost { lanes, bytes, operations: 1 }
    }

    #[test]
    fn a_request_waits_for_all_that_it_needs_and_pays_nothing_until_it_goes() {
        let mut gate = Gate::new(&[limit((100, 100), Some((1, 1))), limit((10, 10), None)], 0);
        assert_eq!(gate.ask(0, cost(0b11, 10), 0), GO);
        assert_eq!(gate.ask(0, cost(0b11, 5), 0), Answer::Wait(Some(SECOND)), "for an operation");
        assert_eq!(gate.ask(0, cost(0b01, 0), SECOND), Answer::Go { others: false });
        assert_eq!(gate.levels(SECOND)[1].bytes, Some(10), "who does not need of it pays nothing there");
    }

    #[test]
    fn what_needs_nothing_of_what_others_wait_for_overtakes_them() {
        let mut gate = Gate::new(&[limit((1, 1), None)], 0);
        assert_eq!(gate.ask(0, cost(1, 50), 0), GO);
        assert_eq!(gate.ask(0, cost(1, 1), 0), Answer::Wait(Some(50 * SECOND)));
        assert_eq!(gate.ask(1, cost(1, 0), 0), GO, "a flush has no bytes");
        assert_eq!(gate.ask(1, cost(2, 9), 0), GO, "another lane");
        assert_eq!(gate.ask(1, cost(1, 1), 0), Answer::Wait(None), "it is behind");
        assert!(gate.leave(0), "now it is not");
        assert!(!gate.leave(0));
    }

    #[test]
    fn small_requests_of_one_queue_do_not_keep_large_ones_of_another_waiting() {
        let mut gate = Gate::new(&[limit((1000, 100), None)], 0);
        let (mut now, mut large) = (0, 0);
        assert_eq!(gate.ask(0, cost(1, 100), now), GO);
        for _ in 0..1000 {
            now += SECOND / 1000;
            large += u32::from(matches!(gate.ask(0, cost(1, 300), now), Answer::Go { .. }));
            // Always somebody there who wants little.
            while matches!(gate.ask(1, cost(1, 1), now), Answer::Go { .. }) {}
        }
        assert!(large >= 2, "{large} large ones in a second");
    }

    /// Whatever is asked, changed and left, in whatever order: who waits is told when to ask again, and then goes on.
    #[test]
    fn nobody_is_forgotten() {
        let mut random = Random(11);
        for _ in 0..300 {
            let limits = |random: &mut Random| {
                let rate = |random: &mut Random| {
                    let rate =
                        Rate { per_second: 1 + random.up_to(5000), burst: Some(1 + random.up_to(500)) };
                    (random.up_to(3) > 0).then_some(rate)
                };
                std::array::from_fn::<_, 3, _>(|_| Limit { bytes: rate(random), operations: rate(random) })
            };
            let mut gate = Gate::new(&limits(&mut random), 0);
            let mut now = 0;
            for _ in 0..50 {
                let queue = random.up_to(3) as usize;
                let lanes = 1 + random.up_to(6) as u8;
                let cost = Cost { lanes, bytes: random.up_to(1000), operations: random.up_to(1) };
                gate.ask(queue, cost, now);
                now += random.up_to(SECOND / 50);
                if random.up_to(9) == 0 {
                    gate.change(&limits(&mut random), now);
                }
            }
            let mut rounds = 0;
            while let Some((queue, cost)) = gate.waiting.first().copied() {
                match gate.ask(queue, cost, now) {
                    Answer::Go { others } => assert_eq!(others, !gate.waiting.is_empty()),
                    Answer::Wait(wait) => now += wait.expect("the first one is behind nobody"),
                }
                rounds += 1;
                assert!(rounds < 100, "it does not go on");
            }
        }
    }
}
