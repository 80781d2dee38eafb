//! What guests are promised of the bandwidth of storage pools and networks, and what they have of it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::share_in_bytes::{Faults, share, usual_weight};
use crate::{Id, Invalid, Name, Size};

/// Less than that each second is nothing that a system gets on with, and nothing that a pool or a network carries.
pub const LEAST_BANDWIDTH: Size = Size(4096);

/// What a guest is promised of the bandwidth of each storage pool that its disks are on, or of each network that its cards are on. Everyone
/// has their reserve; what is left goes by weight among those who want more, and nobody has more than their limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BandwidthShare {
    /// Always theirs when they want it, bytes each second: nothing, or 4096 or more. What all guests that run have reserved of a pool or a
    /// network is never more than its bandwidth.
    #[serde(default)]
    pub reserve: Size,
    /// Their part of what is left, compared with others'; 1000 is usual.
    #[serde(default = "usual_weight")]
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub weight: u32,
    /// What they never pass, bytes each second: 4096 or more. They may have all there is if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Size>,
}

impl Default for BandwidthShare {
    fn default() -> Self {
        Self { reserve: Size(0), weight: share::USUAL_WEIGHT, limit: None }
    }
}

impl BandwidthShare {
    /// Whether it is that of a guest of which nothing is said.
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }

    /// The same for whoever divides.
    pub fn share(&self) -> share::Share {
        share(self.reserve, self.weight, self.limit)
    }

    /// What is wrong with it, if it is at `pointer`.
    pub fn check(&self, pointer: &str) -> Vec<Invalid> {
        let mut faults = Faults::at(pointer);
        let (reserve, least) = (self.reserve, LEAST_BANDWIDTH);
        if (1..least.0).contains(&reserve.0) {
            faults.say("reserve", reserve.0, format!("bytes each second: 0, or at least {least}"));
        }
        match self.limit {
            Some(limit) if limit < least => {
                let detail = format!("bytes each second: at least {least}; leave it out for no limit");
                faults.say("limit", limit.0, detail);
            }
            Some(limit) if reserve > limit => faults.say_above(reserve, limit),
            _ => {}
        }
        faults.with_weight(&self.share())
    }
}

/// Which way something flows, from the guest's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Both: reads and writes of disks count together.
    All,
    /// What it receives.
    Receive,
    /// What it sends.
    Send,
}

/// What a guest is promised of the pools or the networks that it uses, and what it has.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BandwidthReport {
    /// What it is promised of each.
    pub promised: BandwidthShare,
    /// The pools or networks that it uses, by name.
    pub places: Vec<BandwidthPlace>,
}

/// A pool or a network that a guest uses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BandwidthPlace {
    /// Its name.
    pub name: String,
    /// How much it carries each second; of a network each way. Nothing if nobody has said it: then nothing of it is divided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Size>,
    /// How many operations a pool does each second, if somebody has said that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<u64>,
    /// What all guests that run, or are about to again, have reserved of it, bytes each second.
    pub reserved: Size,
    /// What this guest did there in the last window, while it runs and has been looked at.
    pub flows: Vec<BandwidthFlow>,
    /// The other guests that did most there, as far as whoever asks may see them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<BandwidthOther>,
}

/// What another guest did on a pool or a network in the last window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BandwidthOther {
    /// Its id.
    pub id: Id,
    /// Its name.
    pub name: Name,
    /// What it is promised there.
    pub promised: BandwidthShare,
    /// Bytes each second, all ways together.
    pub bytes: u64,
}

/// What a guest did on a pool or a network in the last window of a quarter of a second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BandwidthFlow {
    /// Which way.
    pub way: Way,
    /// Bytes each second.
    pub bytes: u64,
    /// Requests or frames each second.
    pub operations: u64,
    /// The part of the window in which something of it waited for others, or for the guest's own limit: 0 to 1.
    pub waited: f64,
    /// The bytes each second that it may do now; nothing if it may do all that it wants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<Size>,
    /// The operations each second that it may do now; nothing if it may do all that it wants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_operations: Option<u64>,
    /// Whether it waited because a group that it is in does all that its limit lets it do.
    #[serde(default)]
    pub waited_for_group: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wrong_field_is_named_with_what_would_be_right() {
        for (text, wanted) in [
            (
                r#"{"reserve": "8M", "limit": "4M"}"#,
                "/disk_share/reserve: the reserve 8M is above the limit 4M: at most 4M can be reserved",
            ),
            (r#"{"reserve": 100}"#, "/disk_share/reserve: bytes each second: 0, or at least 4K"),
            (
                r#"{"limit": 0}"#,
                "/disk_share/limit: bytes each second: at least 4K; leave it out for no limit",
            ),
            (
                r#"{"weight": 0}"#,
                "/disk_share/weight: the weight 0 is none: give 1 to 1000000; 1000 is usual",
            ),
        ] {
            let share: BandwidthShare = serde_json::from_str(text).unwrap();
            let wrong = share.check("/disk_share");
            let said: Vec<_> =
                wrong.iter().map(|wrong| format!("{}: {}", wrong.pointer, wrong.detail)).collect();
            assert_eq!(said, [wanted]);
        }
        for text in
            [r#"{"reserve": -1}"#, r#"{"limit": "10 Mbit"}"#, r#"{"soft": true}"#, r#"{"weight": 1.5}"#]
        {
            assert!(serde_json::from_str::<BandwidthShare>(text).is_err(), "{text}");
        }
        let all: BandwidthShare = serde_json::from_str(r#"{"reserve": "1M", "limit": "1M"}"#).unwrap();
        assert!(all.check("/disk_share").is_empty() && BandwidthShare::default().is_usual());
    }
}
