//! When a processor lets others of the host come to their turn.
//!
//! The kernel looks at its clock's tick who is to run, every 4 ms where it has 250 of them a second: of twenty guests that share a processor each waits 80 ms for the others, and one whose limit
//! is 1 ms in 20 runs for 4 before it is stopped, and pays for that as long. A processor in software goes to the kernel by itself, and sooner; one of KVM
//! when it is told to.

use std::time::Duration;

use crate::figures::Turns;

/// The turn that a processor has.
#[derive(Debug, Default)]
pub struct Turn {
    turns: Option<Turns>,
    /// What the thread had run when it began, if that is known.
    began: Option<Duration>,
}

impl Turn {
    /// Turns are as long as that says.
    pub fn follow(&mut self, turns: Turns) {
        self.turns = Some(turns);
    }

    /// The thread has slept: what it runs from now on is a turn.
    pub fn end(&mut self) {
        self.began = None;
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
        if self.is_over(ran, length) {
            std::thread::yield_now();
        }
    }

    /// Whether a turn of that length is over when the thread has run for so long; the next one begins then.
    fn is_over(&mut self, ran: Duration, length: Duration) -> bool {
        // Who is told to look when it has run for so long may find that it has run a little less.
        let over = self.began.is_some_and(|began| ran.saturating_sub(began) >= length - length / 8);
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
