//! What each guest is owed, and how its weight makes up for it.
//!
//! The kernel divides by weights on each processor, and sees to it only roughly that all processors are equally loaded: of many equal guests some get
//! a few per cent less than others for half a minute. What a guest was due and did not get is kept as a debt, and its weight is a little more
//! than its part until it has been paid; whoever had more has less.

use std::time::Duration;

/// A debt is paid within about this time: over many windows, so that weights and what follows from them do not swing.
const WITHIN: f64 = 4.0;
/// Of whoever is due so little that fewer seconds than that come together meanwhile, it is paid later: a slice more or less is much of what it gets.
const LITTLE: f64 = 0.04;
/// No more than what is due in so many seconds is ever owed, either way: what somebody could not use long ago is not their due now.
const MOST: f64 = 5.0;
/// So many seconds of processor time mean nothing: the kernel gives it in slices of some milliseconds, and a window ends in the middle of one.
const SLICE: f64 = 0.004;
/// No weight becomes more than so many times what it is, or less than that part of it.
const TRIM: f64 = 1.5;

/// What a guest was due in a window and got, processors; of one that wanted all that it was due.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// What it was due.
    pub due: f64,
    /// What it got, if that says anything: somebody may have begun to want something within the window, and the kernel has divided by that at once.
    pub got: Option<f64>,
    /// Whether it wanted more. Where nobody does there is enough for all.
    pub wants_more: bool,
}

/// What a guest is owed, seconds; less than nothing if it had more than it was due.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Debt(f64);

impl Debt {
    /// What to multiply the weight of one that is due so many processors with.
    pub fn trim(self, due: f64) -> f64 {
        let owed = (self.0.abs() - SLICE).max(0.0).copysign(self.0);
        (1.0 + owed / (due * WITHIN).max(LITTLE)).clamp(1.0 / TRIM, TRIM)
    }
}

/// Adds what came of a window of that length. Whoever wanted less than it was due has no debt, and no part in those of the others: what there was is what
/// those who wanted more got together, whatever else the machine did. They owe only one another: what one had that wants no more, or has gone, is nobody's debt any more.
pub fn settle<'a>(window: Duration, guests: impl Iterator<Item = (&'a mut Debt, Option<Window>)>) {
    let guests: Vec<_> = guests.collect();
    let is_scarce = guests.iter().any(|(_, of)| of.is_some_and(|of| of.wants_more));
    let (mut hungry, mut due, mut got) = (Vec::new(), 0.0, 0.0);
    for (debt, of) in guests {
        match of.filter(|of| is_scarce && of.due > 0.0) {
            Some(of) => {
                if let Some(has) = of.got {
                    (due, got) = (due + of.due, got + has);
                }
                hungry.push((debt, of));
            }
            None => *debt = Debt::default(),
        }
    }
    let (owed, by) = hungry
        .iter()
        .filter(|(debt, _)| debt.0 != 0.0)
        .fold((0.0, 0.0), |(owed, by), (debt, of)| (owed + debt.0, by + of.due));
    for (debt, of) in hungry {
        let left = if debt.0 == 0.0 { 0.0 } else { debt.0 - owed * of.due / by };
        let (more, most) = (of.got.map_or(0.0, |has| of.due * got / due - has), of.due * MOST);
        debt.0 = (left + more * window.as_secs_f64()).clamp(-most, most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn settle_all(debts: &mut [Debt], windows: &[Option<Window>]) {
        settle(SECOND, debts.iter_mut().zip(windows.iter().copied()));
    }

    fn window(due: f64, got: f64) -> Option<Window> {
        Some(Window { due, got: Some(got), wants_more: true })
    }

    #[test]
    fn who_had_less_than_others_gets_more_until_all_had_the_same() {
        // One processor serves the first alone as well as three others do together: what a kernel does that looks at the number of threads.
        let favour = [1.2, 1.0, 0.9, 0.9];
        let mut debts = [Debt::default(); 4];
        let mut all = [0.0; 4];
        let mut late = [0.0; 4];
        for second in 0..60 {
            let weights: Vec<_> =
                debts.iter().zip(favour).map(|(debt, favour)| debt.trim(0.25) * favour).collect();
            let sum: f64 = weights.iter().sum();
            let got: Vec<_> = weights.iter().map(|weight| weight / sum).collect();
            let windows: Vec<_> = got.iter().map(|got| window(0.25, *got)).collect();
            settle_all(&mut debts, &windows);
            for (n, got) in got.iter().enumerate() {
                all[n] += got;
                late[n] += if second >= 30 { *got } else { 0.0 };
            }
        }
        assert!(late.iter().all(|got| (got / 7.5 - 1.0).abs() < 0.002), "{late:?}");
        assert!(all.iter().all(|got| (got / 15.0 - 1.0).abs() < 0.03), "{all:?}");
    }

    #[test]
    fn who_is_due_all_it_can_use_is_owed_what_it_lacks_while_others_want_more() {
        let full = |got| Some(Window { due: 1.0, got: Some(got), wants_more: false });
        let mut debts = [Debt::default(); 2];
        settle_all(&mut debts, &[full(0.9), full(1.0)]);
        assert_eq!(debts, [Debt::default(); 2], "there is enough for both");
        settle_all(&mut debts, &[full(0.9), window(1.0, 1.1)]);
        assert!(debts[0].trim(1.0) > 1.02 && debts[1].trim(1.0) < 0.98, "{debts:?}");
        settle_all(&mut debts, &[full(1.0), None]);
        assert_eq!(debts, [Debt::default(); 2]);
    }

    #[test]
    fn what_others_of_the_machine_take_is_nobodys_debt() {
        let mut debts = [Debt::default(); 2];
        for _ in 0..20 {
            settle_all(&mut debts, &[window(0.5, 0.2), window(1.0, 0.4)]);
        }
        assert_eq!(debts.map(|debt| debt.trim(0.5)), [1.0; 2]);
    }

    #[test]
    fn a_slice_is_no_debt_and_no_debt_is_without_end() {
        let mut debts = [Debt::default(); 2];
        settle_all(&mut debts, &[window(0.004, 0.0), window(0.004, 0.008)]);
        assert_eq!(debts.map(|debt| debt.trim(0.004)), [1.0; 2]);
        settle_all(&mut debts, &[window(0.004, 0.0), window(0.004, 0.008)]);
        assert_eq!(debts.map(|debt| debt.trim(0.004)), [1.1, 0.9]);
        for _ in 0..1000 {
            settle_all(&mut debts, &[window(1.0, 0.0), window(1.0, 2.0)]);
        }
        assert_eq!(debts.map(|debt| debt.trim(1.0)), [TRIM, 1.0 / TRIM]);
        for _ in 0..6 {
            settle_all(&mut debts, &[window(1.0, 2.0), window(1.0, 0.0)]);
        }
        assert!(debts[0].trim(1.0) < 1.0 && debts[1].trim(1.0) > 1.0, "{debts:?}");
    }

    #[test]
    fn who_wants_less_than_it_is_due_is_owed_nothing() {
        let mut debts = [Debt::default(); 3];
        settle_all(&mut debts, &[window(1.0, 0.5), window(1.0, 1.5), None]);
        assert!(debts[0].trim(1.0) > 1.0 && debts[1].trim(1.0) < 1.0);
        settle_all(&mut debts, &[None, window(1.0, 1.0), window(0.0, 0.0)]);
        assert_eq!(debts, [Debt::default(); 3], "nobody is left whom the second one owes");
    }

    #[test]
    fn a_second_in_which_others_began_is_not_booked() {
        let mut debts = [Debt::default(); 2];
        let changed = |due| Some(Window { due, got: None, wants_more: true });
        settle_all(&mut debts, &[changed(0.5), changed(0.5)]);
        assert_eq!(debts, [Debt::default(); 2]);
        settle_all(&mut debts, &[window(0.5, 0.4), window(0.5, 0.6)]);
        let before = debts;
        settle_all(&mut debts, &[changed(0.5), window(0.5, 0.6)]);
        assert_eq!(debts, before, "what is owed is owed still");
    }

    #[test]
    fn those_who_are_left_owe_only_one_another() {
        let mut debts = [Debt::default(); 3];
        settle_all(&mut debts, &[window(1.0, 0.5), window(1.0, 0.9), window(1.0, 1.6)]);
        settle_all(&mut debts, &[None, window(1.0, 1.0), window(1.0, 1.0)]);
        let trims = debts.map(|debt| debt.trim(1.0));
        assert!(trims[0] == 1.0 && (trims[1] + trims[2] - 2.0).abs() < 1e-9 && trims[1] > 1.0, "{trims:?}");
    }

    #[test]
    fn who_begins_to_want_more_has_no_part_in_what_others_owe() {
        let mut debts = [Debt::default(); 3];
        settle_all(&mut debts, &[window(0.5, 0.0), window(0.5, 1.0), None]);
        settle_all(&mut debts, &[window(0.5, 0.5), None, window(0.5, 0.5)]);
        assert_eq!(debts, [Debt::default(); 3]);
    }
}
