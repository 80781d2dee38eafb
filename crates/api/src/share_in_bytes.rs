//! What shares that are said in bytes have in common: a reserve, a weight and a limit.

use serde_json::Value;

use crate::{Invalid, Size};

/// The weight of whoever has said none.
pub fn usual_weight() -> u32 {
    share::USUAL_WEIGHT
}

/// The same for whoever divides.
pub fn share(reserve: Size, weight: u32, limit: Option<Size>) -> share::Share {
    let limit = limit.map_or(share::Limit::None, |limit| share::Limit::Hard(limit.0 as f64));
    share::Share { reserve: reserve.0 as f64, weight, limit }
}

/// What is wrong with the share at a pointer.
pub struct Faults<'a> {
    pointer: &'a str,
    wrong: Vec<Invalid>,
}

impl<'a> Faults<'a> {
    /// Nothing yet.
    pub fn at(pointer: &'a str) -> Self {
        Self { pointer, wrong: Vec::new() }
    }

    /// A field has a wrong value.
    pub fn say(&mut self, field: &str, value: impl Into<Value>, detail: String) {
        self.wrong.push(Invalid::new(format!("{}/{field}", self.pointer), value.into(), detail));
    }

    /// The reserve is above the limit.
    pub fn say_above(&mut self, reserve: Size, limit: Size) {
        let detail = format!(
            "the reserve {reserve} is above the limit {limit}: at most {} can be reserved",
            limit.at_most()
        );
        self.say("reserve", reserve.0, detail);
    }

    /// All that is wrong, with the weight if that is none.
    pub fn with_weight(mut self, share: &share::Share) -> Vec<Invalid> {
        for wrong in share.check() {
            if let share::Wrong::Weight(weight) = wrong {
                self.say("weight", weight, share::Wrong::Weight(weight).to_string());
            }
        }
        self.wrong
    }
}
