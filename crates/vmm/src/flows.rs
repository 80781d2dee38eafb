//! What a machine's devices together do on what they share with other machines, and what they may do there: words of the
//! [memory](crate::figures) that its process and the daemon have both mapped. The process says the first, the daemon the second.
//!
//! A flow is one way of one place: all of a storage pool, what comes from a network, what goes to it. Each has a [`KEY`], by which the daemon
//! finds it, whichever daemon it is.

use std::sync::atomic::Ordering;

use crate::figures::{FLOWS, Figures, Page, SIZE};

/// Words of a flow.
const OF_FLOW: usize = 16;
/// So many flows there can be.
pub const MOST: usize = (SIZE / size_of::<u64>() - FLOWS) / OF_FLOW;

/// Whose flow it is: [`key`] of its name. 0 is nobody's.
const KEY: usize = 0;
/// Bytes that have been let through.
const BYTES: usize = 1;
/// Requests and frames that have been.
const OPERATIONS: usize = 2;
/// For how long something has waited for the allowance, ns, but for the wait that is now.
const WAITED: usize = 3;
/// Since when something waits, by the host's monotonic clock, ns; 0 if nothing does.
const SINCE: usize = 4;
/// Until when the daemon's word holds, by the same clock, ns; 0 if it has never said anything.
const UNTIL: usize = 5;
/// Bytes: each second, at once, each second when the word does not hold any more. 0 is no limit.
const ALLOWED_BYTES: usize = 6;
/// The same of operations.
const ALLOWED_OPERATIONS: usize = 9;
/// When something asked last and had to wait, by the host's monotonic clock, ns.
const ASKED: usize = 12;

/// Who waits asks again and again. One that has not asked for so long, ns, does not wait: its machine stands still.
const PATIENCE: u64 = 100_000_000;

/// What a flow is found by: FNV-1a of its name (draft-eastlake-fnv, 64 bits), and never 0.
pub fn key(name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash.max(1)
}

/// What has been let through of a flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Passed {
    /// Bytes.
    pub bytes: u64,
    /// Requests and frames.
    pub operations: u64,
    /// For how long something has waited for the allowance, ns.
    pub waited_ns: u64,
}

/// What of something a flow may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Part {
    /// Each second; 0 is no limit.
    pub per_second: u64,
    /// At once after a silence.
    pub burst: u64,
    /// Each second when nobody has said anything for long; 0 is no limit.
    pub alone: u64,
}

/// What a flow may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Bytes.
    pub bytes: Part,
    /// Requests and frames.
    pub operations: Part,
    /// Until when that holds, by the host's monotonic clock, ns.
    pub until: u64,
}

fn first(flow: usize) -> usize {
    FLOWS + flow.min(MOST - 1) * OF_FLOW
}

/// The daemon's side.
impl Page {
    /// Which flow has this key, if one has.
    pub fn flow(&self, key: u64) -> Option<usize> {
        (0..MOST).find(|flow| self.get(first(*flow) + KEY) == key)
    }

    /// Whether flow number `flow` still has this key.
    pub fn is_flow(&self, flow: usize, key: u64) -> bool {
        self.get(first(flow) + KEY) == key
    }

    /// What a flow has done, if `now` is the host's monotonic clock, ns.
    pub fn passed(&self, flow: usize, now: u64) -> Passed {
        let at = |word| self.get(first(flow) + word);
        let waits = match at(SINCE) {
            0 => 0,
            since => now.min(at(ASKED).saturating_add(PATIENCE)).saturating_sub(since),
        };
        let waited_ns = at(WAITED).saturating_add(waits);
        Passed { bytes: at(BYTES), operations: at(OPERATIONS), waited_ns }
    }

    /// A flow may do so much from now on.
    pub fn allow(&self, flow: usize, allowed: &Allowed) {
        let put = |word: usize, value: u64| {
            if let Some(word) = self.word(first(flow) + word) {
                word.store(value, Ordering::Relaxed);
            }
        };
        for (at, part) in [(ALLOWED_BYTES, allowed.bytes), (ALLOWED_OPERATIONS, allowed.operations)] {
            put(at, part.per_second);
            put(at + 1, part.burst);
            put(at + 2, part.alone);
        }
        put(UNTIL, allowed.until);
    }
}

/// A flow as the machine's process has it.
#[derive(Debug)]
pub struct Flow {
    figures: Figures,
    first: usize,
}

impl Flow {
    /// Flow number `number`, which has this key from now on. What it has done counts on; what it may do is said anew.
    pub fn new(figures: Figures, number: usize, key: u64) -> Self {
        let flow = Self { figures, first: first(number) };
        for word in UNTIL..=ASKED {
            flow.put(word, 0);
        }
        flow.put(SINCE, 0);
        flow.put(KEY, key);
        flow
    }

    fn put(&self, word: usize, value: u64) {
        self.figures.with(self.first + word, |word| word.store(value, Ordering::Relaxed));
    }

    fn add(&self, word: usize, amount: u64) {
        self.figures.with(self.first + word, |word| _ = word.fetch_add(amount, Ordering::Relaxed));
    }

    fn get(&self, word: usize) -> u64 {
        let mut value = 0;
        self.figures.with(self.first + word, |word| value = word.load(Ordering::Relaxed));
        value
    }

    /// Something has been let through.
    pub fn pass(&self, bytes: u64, operations: u64) {
        self.add(BYTES, bytes);
        self.add(OPERATIONS, operations);
    }

    /// Something has asked, and has to wait.
    pub fn waits(&self, now: u64) {
        // A machine that stood still meanwhile did not wait.
        if now > self.get(ASKED).saturating_add(PATIENCE) {
            self.waits_no_more(now);
        }
        self.put(ASKED, now);
        if self.get(SINCE) == 0 {
            self.put(SINCE, now.max(1));
        }
    }

    /// Nothing waits any more.
    pub fn waits_no_more(&self, now: u64) {
        let since = self.get(SINCE);
        if since != 0 {
            let until = now.min(self.get(ASKED).saturating_add(PATIENCE));
            self.put(SINCE, 0);
            self.add(WAITED, until.saturating_sub(since));
        }
    }

    /// What it may do now, as rates and bursts of bytes and operations; 0 is no limit.
    pub fn allowed(&self, now: u64) -> [(u64, u64); 2] {
        let held = now <= self.get(UNTIL);
        [ALLOWED_BYTES, ALLOWED_OPERATIONS]
            .map(|at| (if held { self.get(at) } else { self.get(at + 2) }, self.get(at + 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both() -> (Figures, Page) {
        let (figures, (page, file)) = (Figures::new().unwrap(), Page::create().unwrap());
        figures.publish(Page::open(file).unwrap());
        (figures, page)
    }

    #[test]
    fn each_of_the_two_reads_what_the_other_one_says() {
        let (figures, page) = both();
        assert_eq!(page.flow(key("pool/a")), None);
        let flow = Flow::new(figures, 3, key("pool/a"));
        assert_eq!(page.flow(key("pool/a")), Some(3));
        assert_eq!(flow.allowed(7), [(0, 0); 2], "nobody has said anything: there is no limit");
        flow.pass(4096, 1);
        flow.waits(100);
        flow.waits(120);
        assert_eq!(page.passed(3, 150), Passed { bytes: 4096, operations: 1, waited_ns: 50 });
        flow.waits_no_more(180);
        assert_eq!(page.passed(3, 999).waited_ns, 80);
        flow.waits_no_more(999);
        assert_eq!(page.passed(3, 999).waited_ns, 80);
        // A machine that stands still does not ask, and does not wait.
        flow.waits(1000);
        assert_eq!(page.passed(3, u64::MAX).waited_ns, 80 + PATIENCE);
        flow.waits_no_more(u64::MAX);
        assert_eq!(page.passed(3, u64::MAX).waited_ns, 80 + PATIENCE);
        let (begin, end) = (10 * PATIENCE, 100 * PATIENCE);
        flow.waits(begin);
        flow.waits(end);
        flow.waits_no_more(end + 5);
        assert_eq!(page.passed(3, end + 5).waited_ns, 80 + 2 * PATIENCE + 5, "nor does one that asks again");

        let bytes = Part { per_second: 10, burst: 5, alone: 7 };
        page.allow(3, &Allowed { bytes, operations: Part::default(), until: 1000 });
        assert_eq!(flow.allowed(1000), [(10, 5), (0, 0)]);
        assert_eq!(flow.allowed(1001), [(7, 5), (0, 0)], "nobody looks after it any more");
    }

    #[test]
    fn the_next_daemon_finds_flows_and_what_they_may_do() {
        let (figures, page) = both();
        let flow = Flow::new(figures.clone(), 1, key("pool/a"));
        flow.pass(4096, 1);
        let bytes = Part { per_second: 10, burst: 5, alone: 7 };
        page.allow(1, &Allowed { bytes, operations: Part::default(), until: 1000 });
        let (next, file) = Page::create().unwrap();
        figures.publish(Page::open(file).unwrap());
        assert_eq!(next.flow(key("pool/a")), Some(1));
        assert_eq!(next.passed(1, 0), Passed { bytes: 4096, operations: 1, waited_ns: 0 });
        assert_eq!([1000, 1001].map(|now| flow.allowed(now)[0]), [(10, 5), (7, 5)]);
    }

    #[test]
    fn a_flow_that_becomes_another_one_is_not_taken_for_the_one_before() {
        let (figures, page) = both();
        drop(Flow::new(figures.clone(), MOST - 1, key("pool/a")));
        page.allow(
            MOST - 1,
            &Allowed { bytes: Part { per_second: 1, burst: 1, alone: 1 }, ..Allowed::default() },
        );
        let flow = Flow::new(figures, MOST - 1, key("pool/b"));
        assert!(!page.is_flow(MOST - 1, key("pool/a")) && page.is_flow(MOST - 1, key("pool/b")));
        assert_eq!(flow.allowed(0), [(0, 0); 2]);
        assert_ne!(key(""), 0);
    }

    #[test]
    fn flows_are_behind_everything_else_in_that_memory() {
        let (_, page) = both();
        assert!(
            page.word(first(MOST - 1) + OF_FLOW - 1).is_some() && page.word(first(MOST) + OF_FLOW).is_none()
        );
    }
}
