//! Backups of guests.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Id, Invalid, Name, Size, Time, VmState};

/// What a guest was at some time, in a pool, with all that is needed to make it again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Backup {
    /// Its id.
    pub id: Id,
    /// Its name: that of its guest and when it was made, if nobody gave it another one.
    pub name: Name,
    /// What it is for.
    #[serde(default)]
    pub description: String,
    /// The pool that it is in.
    pub pool: Name,
    /// The guest that it is of; absent if it cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<Id>,
    /// What that guest was called.
    pub vm_name: String,
    /// The name of the host that made it.
    pub host: String,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created: Time,
    /// What the guest was doing.
    pub state: VmState,
    /// Whether the guest's file systems were made to rest for it.
    #[serde(default)]
    pub quiesced: bool,
    /// The backup before, of which it has only what differs; absent if it is a full one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Id>,
    /// The backups that have only what differs from it.
    #[serde(default)]
    pub children: Vec<Id>,
    /// The schedule that it was made by; absent if somebody made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Name>,
    /// Its disks.
    pub disks: Vec<BackupDisk>,
    /// Bytes that it takes in the pool.
    pub stored: Size,
    /// Why it cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A disk in a backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BackupDisk {
    /// The disk's number.
    pub unit: u32,
    /// Its size.
    pub size: Size,
    /// Bytes of its file in the backup.
    pub stored: Size,
    /// Whether the file has only what differs from the backup before.
    pub incremental: bool,
}

/// A backup that is to be made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewBackup {
    /// The pool that it is put into.
    pub pool: Name,
    /// Its name: that of the guest and the time if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// What it is for.
    #[serde(default)]
    #[schema(max_length = 4096)]
    pub description: String,
    /// Whether it has all that is on the disks, though there is a backup before of which it could have what differs.
    #[serde(default)]
    pub full: bool,
    /// Whether the guest's agent has its file systems rest meanwhile, so that they are whole on the disks.
    #[serde(default)]
    pub quiesce: bool,
    /// The schedule that makes it: nobody else can say so.
    #[serde(skip)]
    #[schema(ignore)]
    pub schedule: Option<Name>,
}

impl NewBackup {
    /// What is wrong with it.
    pub fn check(&self) -> Vec<Invalid> {
        Invalid::of_description(&self.description).into_iter().collect()
    }
}

/// The guest that is made of a backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreBackup {
    /// Its name.
    pub name: Name,
    /// Whether its cards have the hardware and IP addresses that they had: that is for a guest that is gone.
    #[serde(default)]
    pub keep_addresses: bool,
    /// Whether it is started when it has been made.
    #[serde(default)]
    pub start: bool,
}

/// What was looked at of a backup, all of which was what had been written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerifiedBackup {
    /// The backup, and those that it needs, back to the full one.
    pub backups: Vec<Id>,
    /// Bytes that were read.
    pub bytes: Size,
}
