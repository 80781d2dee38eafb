//! Groups in which guests share: resource pools, shared processor pools.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{BandwidthShare, CpuShare, Invalid, MemoryShare, Name, Processors, Size};

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
    /// What it is promised of the host's pool of memory, for all of its members together, kept in the same way. To what is beside it it
    /// counts as a guest that is as large as its members can be together, and uses what they use.
    #[serde(default, skip_serializing_if = "MemoryShare::is_usual")]
    pub memory_share: MemoryShare,
    /// What it is promised of each storage pool, for all of its members together. What it has reserved is kept for it where a guest that
    /// runs in it, or in a group in it, has disks.
    #[serde(default, skip_serializing_if = "BandwidthShare::is_usual")]
    pub disk_share: BandwidthShare,
    /// What it is promised of each network each way, for all of its members together. What it has reserved is kept for it where a guest
    /// that runs in it, or in a group in it, has cards.
    #[serde(default, skip_serializing_if = "BandwidthShare::is_usual")]
    pub network_share: BandwidthShare,
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
        if self.cpu_share.dedicated {
            let detail =
                "a group has no processors to itself: reserve some for it, and say it of guests in it";
            wrong.push(Invalid::new("/cpu_share/dedicated", true, detail));
        }
        wrong.extend(self.memory_share.check(None));
        wrong.extend(self.disk_share.check("/disk_share"));
        wrong.extend(self.network_share.check("/network_share"));
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
    /// What is promised of processors to its members that run, and to groups in it.
    pub promised: Processors,
    /// What its members got in the last 10 s, those of groups in it, too, processors.
    pub got_10s: f64,
    /// How many guests are in it, not in groups in it.
    pub guests: u32,
    /// The host's pool of memory, in it.
    #[serde(default)]
    pub memory: GroupMemory,
    /// The storage pools that its members use which run, those of groups in it, too.
    #[serde(default)]
    pub pools: Vec<GroupPlace>,
    /// The networks that they use.
    #[serde(default)]
    pub networks: Vec<GroupPlace>,
}

/// What of a host's pool of memory is in a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupMemory {
    /// What is promised to its members that run, and to groups in it.
    pub promised: Size,
    /// What its members could touch now, those of groups in it, too.
    pub held: Size,
}

/// What of a storage pool or a network is in a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupPlace {
    /// Its name.
    pub name: String,
    /// What is promised to its members that run, and to groups in it, bytes each second.
    pub promised: Size,
    /// What its members did there in the last window of a quarter of a second, those of groups in it, too: bytes each second, of a network
    /// the way that was more.
    pub bytes: u64,
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
        assert_eq!(
            serde_json::to_value(&group).unwrap().as_object().unwrap().len(),
            4,
            "what is usual of memory, disks and networks is not said"
        );
    }

    #[test]
    fn each_wrong_field_of_each_share_is_named() {
        let text = r#"{"name": "eng", "memory_share": {"reserve": "2G", "limit": "1G"}, "disk_share": {"reserve": 1}, "network_share": {"weight": 0}}"#;
        let wrong = serde_json::from_str::<ShareGroup>(text).unwrap().check();
        let pointers: Vec<_> = wrong.iter().map(|wrong| wrong.pointer.as_str()).collect();
        assert_eq!(pointers, ["/memory_share/reserve", "/disk_share/reserve", "/network_share/weight"]);
        assert_eq!(wrong[0].detail, "the reserve 2G is above the limit 1G: at most 1G can be reserved");
    }
}
