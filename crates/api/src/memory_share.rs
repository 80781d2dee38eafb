//! What guests are promised of a host's pool of memory, and what they have of it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::share_in_bytes::{Faults, share, usual_weight};
use crate::{Id, Invalid, Name, Size};

/// Less is not worth to be promised: whoever asks for it has forgotten the unit.
const LEAST_RESERVE: Size = Size(1 << 20);

/// What a guest is promised of a host's pool of memory. Everyone has their reserve; what is left goes by weight, where memory that is not
/// touched counts four times, and nobody has more than their limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MemoryShare {
    /// Always theirs: nothing, or 1 MiB and more of their memory. What all guests that run have reserved is never more than the
    /// pool.
    #[serde(default)]
    pub reserve: Size,
    /// Their part of what is left, compared with others'; 1000 is usual.
    #[serde(default = "usual_weight")]
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub weight: u32,
    /// What they never pass, whatever memory they believe to have: at least 32 MiB. They may have all of theirs if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Size>,
}

impl Default for MemoryShare {
    fn default() -> Self {
        Self { reserve: Size(0), weight: share::USUAL_WEIGHT, limit: None }
    }
}

impl MemoryShare {
    /// Whether it is that of a guest of which nothing is said.
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }

    /// The same for whoever divides.
    pub fn share(&self) -> share::Share {
        share(self.reserve, self.weight, self.limit)
    }

    /// What is wrong with it for a guest that can have so much memory; a group can have all there is.
    pub fn check(&self, memory: Option<Size>) -> Vec<Invalid> {
        let mut faults = Faults::at("/memory_share");
        let reserve = self.reserve;
        let is_above = |memory: &Size| reserve > *memory;
        if let Some(memory) = memory.filter(is_above) {
            let detail =
                format!("the guest has {memory} of memory: at most {} can be reserved", memory.at_most());
            faults.say("reserve", reserve.0, detail);
        } else if reserve.0 > 0 && reserve < LEAST_RESERVE {
            let detail =
                format!("memory: none, or at least {LEAST_RESERVE}; a number without a unit is bytes");
            faults.say("reserve", reserve.0, detail);
        }
        if let Some(limit) = self.limit {
            if limit < crate::vm::LEAST_MEMORY {
                let detail = format!("a guest cannot live on less than {}", crate::vm::LEAST_MEMORY);
                faults.say("limit", limit.0, detail);
            } else if reserve > limit && !memory.is_some_and(|memory| is_above(&memory)) {
                faults.say_above(reserve, limit);
            }
        }
        faults.with_weight(&self.share())
    }
}

/// How little of a pool of memory is free.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryPressure {
    /// Enough is free.
    #[default]
    High,
    /// As little as is always to be free: less than 6 % of the pool.
    Clear,
    /// Less than 4 %: memory is taken away faster.
    Soft,
    /// Less than 2 %: as fast as guests bear it; what more they have than they are to have is paged out, if there is a paging device.
    Hard,
    /// Less than 1 %: if that stays so, the least important guest is suspended.
    Low,
}

impl MemoryPressure {
    /// All of them, from the best.
    pub const ALL: [Self; 5] = [Self::High, Self::Clear, Self::Soft, Self::Hard, Self::Low];

    /// As a person reads it.
    pub fn words(self) -> &'static str {
        match self {
            Self::High => "enough is free",
            Self::Clear => "as little is free as is always to be",
            Self::Soft => "little is free",
            Self::Hard => "very little is free",
            Self::Low => "next to nothing is free",
        }
    }
}

/// A host's pool of memory, which is smaller than all its guests together can be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MemoryPool {
    /// How much it is; nothing if this host has none: then everyone has what they touch, and nobody gives anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// What guests that run, or are about to again, have reserved of it.
    pub reserved: Size,
    /// What guests' processes take of it now.
    pub used: Size,
    /// How little of it is free.
    pub pressure: MemoryPressure,
    /// What is saved by keeping equal pages once; nothing if this host does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merging: Option<MemoryMerging>,
    /// What of it is compressed; nothing if this host does not compress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<MemoryCompression>,
    /// Where what does not fit is paged to; nothing if this host does not page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paging: Option<MemoryPaging>,
    /// What has gone out of guests' memory and come back, if this host compresses or pages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<MemoryFlow>,
    /// The guests that run, by name, as far as the one who asks may see them.
    pub guests: Vec<MemoryOfGuest>,
}

/// Equal pages of guests that trust one another, of which each is kept once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemoryMerging {
    /// What guests have of them.
    pub merged: Size,
    /// What of that takes no memory.
    pub saved: Size,
}

/// A part of a host's memory in which guests' memory is kept compressed, before it is paged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemoryCompression {
    /// How much it can hold.
    pub size: Size,
    /// What is in it.
    pub used: Size,
    /// What that takes of the pool.
    pub taken: Size,
}

/// A host's paging device, to which guests' memory goes that a pool has no room for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemoryPaging {
    /// The file or the device.
    pub path: String,
    /// How large it is; nothing if somebody has taken it away.
    pub size: Size,
    /// What of it is in use.
    pub used: Size,
}

/// What has gone out of all guests' memory since the daemon has started, whether compressed or paged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemoryFlow {
    /// What has gone.
    pub out: Size,
    /// What has come back, or is needed no more. What the kernel still had in memory came back without being read.
    pub back: Size,
    /// What went in the last second.
    pub out_rate: Size,
    /// What came back in the last second.
    pub back_rate: Size,
}

/// What a guest has of a pool of memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MemoryOfGuest {
    /// Its id.
    pub id: Id,
    /// Its name.
    pub name: Name,
    /// What it is promised.
    pub promised: MemoryShare,
    /// What it has.
    pub now: MemoryNow,
}

/// What a guest that runs has of a pool of memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemoryNow {
    /// What its system believes to have.
    pub size: Size,
    /// What it could touch of that now: the rest is in its balloon.
    pub held: Size,
    /// What its process takes on the host.
    pub resident: Size,
    /// What of its memory is equal to others' and kept once.
    #[serde(default)]
    pub merged: Size,
    /// What of its memory is compressed, on the host's paging device, or on other swap of the host.
    #[serde(default)]
    pub out: Size,
    /// What it is taken to use; nothing if its system says nothing of its memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<Size>,
    /// What it is to have by what all are promised and use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Size>,
}

/// What a guest is promised and has of a host's memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MemoryReport {
    /// What it is promised.
    pub promised: MemoryShare,
    /// What it has, while it runs and has been looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<MemoryNow>,
    /// How much the pool is; nothing if this host has none: then what is promised is not held to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Size>,
    /// How little of it is free.
    pub pressure: MemoryPressure,
    /// The other guests that take most of it, as far as whoever asks may see them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<MemoryOfGuest>,
    /// What all further guests take of it together.
    #[serde(default)]
    pub rest: Size,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wrong_field_is_named_with_what_would_be_right() {
        for (text, wanted) in [
            (
                r#"{"reserve": "2G"}"#,
                "/memory_share/reserve: the guest has 1G of memory: at most 1G can be reserved",
            ),
            (
                r#"{"reserve": "512M", "limit": "256M"}"#,
                "/memory_share/reserve: the reserve 512M is above the limit 256M: at most 256M can be reserved",
            ),
            (r#"{"limit": "1M"}"#, "/memory_share/limit: a guest cannot live on less than 32M"),
            (
                r#"{"weight": 1000000000}"#,
                "/memory_share/weight: the weight 1000000000 is none: give 1 to 1000000; 1000 is usual",
            ),
        ] {
            let share: MemoryShare = serde_json::from_str(text).unwrap();
            let wrong = share.check(Some(Size(1 << 30)));
            let said: Vec<_> =
                wrong.iter().map(|wrong| format!("{}: {}", wrong.pointer, wrong.detail)).collect();
            assert_eq!(said, [wanted]);
        }
        for text in
            [r#"{"reserve": -1}"#, r#"{"reserve": "10 Mbit"}"#, r#"{"soft": true}"#, r#"{"weight": 1.5}"#]
        {
            assert!(serde_json::from_str::<MemoryShare>(text).is_err(), "{text}");
        }
        let all: MemoryShare = serde_json::from_str(r#"{"reserve": "1G", "limit": "1G"}"#).unwrap();
        assert!(all.check(Some(Size(1 << 30))).is_empty() && MemoryShare::default().is_usual());
    }
}
