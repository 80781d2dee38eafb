//! What is wanted of a machine's memory.

use serde::{Deserialize, Serialize};

/// How much memory `memory` wants.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemorySpec {
    /// So many bytes: more than the machine began with is plugged in, less is taken away by the balloon.
    pub bytes: u64,
    /// Whether the balloon stands in for what is plugged in that the guest has not let go of.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insist: bool,
}

/// What `balloon` wants of a guest's memory for others.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalloonSpec {
    /// So many bytes, besides what it is to be without for good.
    pub bytes: u64,
}

/// What `merge` wants.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MergeSpec {
    /// Whether pages of the guest's memory that are equal to others' are kept once.
    pub merges: bool,
}

/// What `reporting` wants.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportingSpec {
    /// Whether what the guest reports as free is given back to the host.
    pub gives: bool,
}
