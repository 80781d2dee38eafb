//! Groups in which guests share: resource pools, shared processor pools.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{CpuShare, Invalid, Name, Processors};

/// A group of guests and of other groups. Its members share first what the group has; what they do not want is there for others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ShareGroup {
    /// Its name.
    pub name: Name,
    /// What it is for.
    #[serde(default)]
    #[schema(max_length = 4096)]
    pub description: String,
    /// The group that it is in; none is the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Name>,
    /// What it is promised of the host's processors, for all of its members together. What it has reserved is kept for it whether any of
    /// them runs or not.
    #[serde(default)]
    pub cpu_share: CpuShare,
    /// Whether its members may be promised more than it has reserved: the rest comes from the group above it, or the host.
    #[serde(default = "yes")]
    pub expandable: bool,
}

fn yes() -> bool {
    true
}

impl ShareGroup {
    /// What is wrong with it by itself.
    pub fn check(&self) -> Vec<Invalid> {
        let mut wrong = self.cpu_share.check();
        if self.within.as_ref() == Some(&self.name) {
            let detail = "a group is not in itself: name another one, or none";
            wrong.push(Invalid::new("/within", self.name.as_str(), detail));
        }
        wrong.extend(Invalid::of_description(&self.description));
        wrong
    }
}

/// A group as a host has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ShareGroupInfo {
    /// What its owner says of it.
    #[serde(flatten)]
    pub definition: ShareGroup,
    /// What is promised to its members that run, and to groups in it.
    pub promised: Processors,
    /// What its members got in the last 10 s, those of groups in it, too, processors.
    pub got_10s: f64,
    /// How many guests are in it, not in groups in it.
    pub guests: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_of_which_nothing_is_said_expands_and_has_no_limit() {
        let group: ShareGroup = serde_json::from_str(r#"{"name": "eng"}"#).unwrap();
        assert!(group.expandable && group.cpu_share.is_usual() && group.check().is_empty());
        let own = serde_json::from_str::<ShareGroup>(r#"{"name": "eng", "within": "eng"}"#).unwrap();
        assert_eq!(own.check()[0].pointer, "/within");
        assert!(serde_json::from_str::<ShareGroup>(r#"{"name": "no name"}"#).is_err());
    }
}
