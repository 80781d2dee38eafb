//! When a processor lets others of the host come to their turn.
//!
//! The kernel looks at its clock's tick who is to run, every 4 ms where it has 250 of them a second: of twenty guests that share a processor each waits 80 ms for the others, and one whose limit
//! is 1 ms in 20 runs for 4 before it is stopped, and pays for that as long. A processor in software goes to the kernel by itself, and sooner.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::figures::Turns;

/// So long it runs between two looks.
const LOOK: Duration = Duration::from_micros(100);
/// Instructions in that time, at least and at most: code that is met for the first time takes a hundred times as long as what has been translated.
const INSTRUCTIONS: RangeInclusive<u64> = 2_000..=50_000;

/// The turn that a processor has.
#[derive(Debug)]
pub struct Turn {
    turns: Option<Turns>,
    /// Instructions until the next look.
    instructions: u64,
    /// What the thread had run at the last one, if it has not slept since.
    looked: Option<Duration>,
    /// What the thread had run when it began, if that is known.
    began: Option<Duration>,
}

impl Default for Turn {
    fn default() -> Self {
        Self { turns: None, instructions: *INSTRUCTIONS.end(), looked: None, began: None }
    }
}

impl Turn {
    /// Instructions to execute until the next look.
    pub fn instructions(&self) -> u64 {
        self.instructions
    }

    /// Turns are as long as that says.
    pub fn follow(&mut self, turns: Turns) {
        self.turns = Some(turns);
    }

    /// The thread has slept: what it runs from now on is a turn.
    pub fn end(&mut self) {
        (self.looked, self.began) = (None, None);
    }

    /// Whether there are turns.
    pub fn is_taken(&self) -> bool {
        self.length().is_some()
    }

    fn length(&self) -> Option<Duration> {
        self.turns.as_ref().and_then(Turns::length)
    }

    /// Lets others run if this thread has for long enough, by its own clock.
    pub fn look(&mut self, ran: Duration) {
        let Some(length) = self.length() else { return };
        self.pace(ran);
        if self.is_over(ran, length) {
            std::thread::yield_now();
        }
    }

    /// Takes as many instructions to the next look as will take that long, if they go on as they did.
    fn pace(&mut self, ran: Duration) {
        if let Some(looked) = self.looked.replace(ran) {
            let took = ran.saturating_sub(looked).max(Duration::from_nanos(1));
            let next = self.instructions as f64 * LOOK.as_secs_f64() / took.as_secs_f64();
            self.instructions = (next as u64).clamp(*INSTRUCTIONS.start(), *INSTRUCTIONS.end());
        }
    }

    /// Whether a turn of that length is over when the thread has run for so long; the next one begins then.
    fn is_over(&mut self, ran: Duration, length: Duration) -> bool {
        let over = self.began.is_some_and(|began| ran.saturating_sub(began) >= length);
        if over || self.began.is_none() {
            self.began = Some(ran);
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::{Figures, Page};

    #[test]
    fn a_turn_ends_when_it_has_been_run_for_so_long() {
        let (mut turn, ms) = (Turn::default(), Duration::from_millis);
        assert!(!turn.is_over(ms(9), ms(2)), "nobody knows what it ran before");
        assert!(!turn.is_over(ms(10), ms(2)) && turn.is_over(ms(11), ms(2)) && !turn.is_over(ms(12), ms(2)));
        assert!(turn.is_over(ms(19), ms(2)), "it was not looked at for long");
        turn.end();
        assert!(!turn.is_over(ms(30), ms(2)) && turn.is_over(ms(32), ms(2)));
    }

    #[test]
    fn looks_come_as_often_however_fast_the_code_is() {
        let (mut turn, us) = (Turn::default(), Duration::from_micros);
        turn.pace(us(1_000));
        assert_eq!(turn.instructions(), 50_000);
        turn.pace(us(2_000));
        assert_eq!(turn.instructions(), 5_000);
        turn.pace(us(2_050));
        assert_eq!(turn.instructions(), 10_000);
        turn.pace(us(9_000));
        assert_eq!(turn.instructions(), 2_000);
        turn.end();
        turn.pace(us(9_001));
        assert_eq!(turn.instructions(), 2_000, "nobody knows how long these took");
        turn.pace(us(9_002));
        assert_eq!(turn.instructions(), 50_000);
    }

    #[test]
    fn there_are_turns_only_where_the_daemon_says_so() {
        let figures = Figures::new().unwrap();
        let mut turn = Turn::default();
        turn.look(Duration::from_secs(1));
        turn.follow(figures.turns());
        turn.look(Duration::from_secs(1));
        assert_eq!(turn.began, None);
        let (page, file) = Page::create().unwrap();
        page.set_turn(Duration::from_nanos(1));
        figures.publish(Page::open(file).unwrap());
        turn.look(Duration::from_secs(1));
        assert!(turn.began.is_some());
        let (page, file) = Page::create().unwrap();
        turn.end();
        figures.publish(Page::open(file).unwrap());
        turn.look(Duration::from_secs(1));
        assert_eq!(turn.began, None, "another daemon says nothing of turns");
        drop(page);
    }
}
