//! Snapshots of guests.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Id, Invalid, Name, Size, Time, VmState};

/// What a guest was at some time: it can go back there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Snapshot {
    /// Its id.
    pub id: Id,
    /// Its name: no two of a guest have the same.
    pub name: Name,
    /// What it is for.
    #[serde(default)]
    pub description: String,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created: Time,
    /// The one that the guest had gone on from then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Id>,
    /// Whether the guest goes on from this one now.
    #[serde(default)]
    pub current: bool,
    /// What the guest was doing.
    pub state: VmState,
    /// Bytes that its memory takes on storage, if that was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// Whether the guest's file systems were made to rest for it.
    #[serde(default)]
    pub quiesced: bool,
    /// How long the guest stood still for it, or its disks' requests waited, nanoseconds.
    #[serde(default)]
    pub pause_ns: u64,
    /// The schedule that it was made by; absent if somebody made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Name>,
    /// The numbers of the disks that are in it.
    pub disks: Vec<u32>,
}

/// A snapshot that is to be made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSnapshot {
    /// Its name.
    pub name: Name,
    /// What it is for.
    #[serde(default)]
    #[schema(max_length = 4096)]
    pub description: String,
    /// Whether the memory of a guest that runs is kept, too: it goes on from there as if nothing had been.
    #[serde(default)]
    pub memory: bool,
    /// Whether the guest's agent has its file systems rest meanwhile, so that they are whole on the disks.
    #[serde(default)]
    pub quiesce: bool,
    /// The schedule that makes it: nobody else can say so.
    #[serde(skip)]
    #[schema(ignore)]
    pub schedule: Option<Name>,
}

/// What can be said of a snapshot that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotLabel {
    /// Its name.
    pub name: Name,
    /// What it is for.
    #[serde(default)]
    #[schema(max_length = 4096)]
    pub description: String,
}

impl SnapshotLabel {
    /// What is wrong with it.
    pub fn check(&self) -> Vec<Invalid> {
        Invalid::of_description(&self.description).into_iter().collect()
    }
}

impl NewSnapshot {
    /// What is wrong with it.
    pub fn check(&self) -> Vec<Invalid> {
        let mut wrong: Vec<_> = Invalid::of_description(&self.description).into_iter().collect();
        if self.memory && self.quiesce {
            let detail = "with its memory nothing has to rest: what is not on the disks yet is in the memory";
            wrong.push(Invalid::new("/quiesce", true, detail));
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_snapshot_has_an_end() {
        let label =
            |length: usize| SnapshotLabel { name: "a".parse().unwrap(), description: "x".repeat(length) };
        assert!(label(4096).check().is_empty());
        assert_eq!(label(4097).check()[0].pointer, "/description");
    }
}
