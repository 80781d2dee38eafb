//! Receipts: what became of what a guest was promised of processors.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::Time;

/// What became of what a guest was promised of processors, span by span.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Receipts {
    /// How long a span is, seconds.
    pub step: u32,
    /// The spans in which it ran, the earliest first.
    pub receipts: Vec<Receipt>,
    /// In how many of them every second was kept.
    pub kept: u32,
    /// The most that it was short of in any second, processors.
    pub worst_short: f64,
}

/// What became of it in one span: means of its seconds, processors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Receipt {
    /// When it begins.
    #[schema(value_type = String, format = DateTime)]
    pub time: Time,
    /// What the guest was promised, whoever else wanted it: its reserve.
    pub promised: f64,
    /// What it would have taken if nobody else had been there.
    pub asked: f64,
    /// What it was to have by what all were promised and asked for.
    pub due: f64,
    /// What it got.
    pub delivered: f64,
    /// The most that it got less in any one second than it was promised and asked for in that.
    pub short: f64,
    /// Whether that was never more than a tenth of what it was promised and asked for: who waits for one who runs already waits
    /// for some milliseconds.
    pub kept: bool,
}

impl Receipt {
    /// Less than that is not seen by anybody, processors.
    const SMALL: f64 = 0.005;

    /// One with this content, which is looked at to see whether it was kept.
    pub fn of(time: Time, [promised, asked, due, delivered, short]: [f64; 5]) -> Self {
        let kept = short <= (promised.min(asked) * 0.1).max(Self::SMALL);
        Self { time, promised, asked, due, delivered, short, kept }
    }
}

/// Which receipts are wanted.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReceiptsQuery {
    /// From when on; an hour before `to` if nothing is said.
    #[param(value_type = Option<String>, format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Time>,
    /// Until when; now if nothing is said.
    #[param(value_type = Option<String>, format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Time>,
    /// How long a span should be, seconds; as short as `points` and what is kept allow if nothing is said. What is older is kept in spans
    /// that are longer: a second for an hour, 10 for a day, 300 for 30 days.
    #[param(minimum = 1, maximum = 2592000)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<u32>,
    /// At most so many spans; 600 if nothing is said.
    #[param(minimum = 1, maximum = 4000)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub points: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_less_in_a_second_is_within_what_is_promised_and_more_is_not() {
        let kept =
            |promised, asked, short| Receipt::of(Time::default(), [promised, asked, 0.0, 0.0, short]).kept;
        assert!(kept(0.5, 1.0, 0.05) && !kept(0.5, 1.0, 0.06));
        assert!(kept(0.5, 0.2, 0.02) && !kept(0.5, 0.2, 0.03));
        assert!(kept(0.0, 1.0, 0.0) && kept(0.01, 1.0, 0.004));
    }
}
