//! How guests come from what they have to what they are to have.

use crate::Amount;

/// What a guest has and is to have, bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// The memory that its system believes to have.
    pub size: Amount,
    /// What it has of that now.
    pub held: Amount,
    /// What it is to have.
    pub target: Amount,
    /// What it can be without at once.
    pub spare: Amount,
}

/// What each may have next, `seconds` after the last time: whoever has too much gives what they can be without, no more of their size than
/// `pace` in each second; whoever has too little gets it at once, as far as `pool` has room beside what the others still have. If it has
/// too little room, all get the same part of what they lack.
pub fn steps(pool: Amount, pace: f64, seconds: f64, places: &[Place]) -> Vec<Amount> {
    let held: Amount = places.iter().map(|place| place.held).sum();
    let lacks = |place: &Place| (place.target - place.held).max(0.0);
    let lacking: Amount = places.iter().map(lacks).sum();
    let part = if lacking > 0.0 { ((pool - held).max(0.0) / lacking).min(1.0) } else { 0.0 };
    let next = |place: &Place| {
        let gives = (place.held - place.target).max(0.0);
        let gives = gives.min(place.spare.max(0.0)).min(place.size * pace * seconds);
        place.held - gives + lacks(place) * part
    };
    places.iter().map(next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(held: Amount, target: Amount, spare: Amount) -> Place {
        Place { size: 100.0, held, target, spare }
    }

    #[test]
    fn who_has_too_much_gives_slowly_and_no_more_than_they_can_be_without() {
        assert_eq!(steps(100.0, 0.125, 1.0, &[place(80.0, 20.0, 60.0)]), [67.5]);
        assert_eq!(steps(100.0, 0.125, 2.0, &[place(80.0, 20.0, 60.0)]), [55.0]);
        assert_eq!(steps(100.0, 0.125, 1.0, &[place(80.0, 20.0, 3.0)]), [77.0]);
        assert_eq!(steps(100.0, 0.125, 1.0, &[place(80.0, 20.0, -3.0)]), [80.0]);
        assert_eq!(steps(100.0, 0.5, 1.0, &[place(80.0, 75.0, 60.0)]), [75.0]);
    }

    #[test]
    fn who_has_too_little_gets_what_others_have_given_before() {
        let full = [place(60.0, 20.0, 40.0), place(40.0, 80.0, 0.0)];
        assert_eq!(steps(100.0, 0.125, 1.0, &full), [47.5, 40.0]);
        let given = [place(47.5, 20.0, 27.5), place(40.0, 80.0, 0.0)];
        assert_eq!(steps(100.0, 0.125, 1.0, &given), [35.0, 52.5]);
        let both = [place(10.0, 30.0, 0.0), place(70.0, 80.0, 0.0)];
        assert_eq!(steps(95.0, 0.125, 1.0, &both), [20.0, 75.0]);
        assert_eq!(steps(50.0, 0.125, 1.0, &both), [10.0, 70.0]);
    }
}
