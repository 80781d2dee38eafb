//! Ids that the host gives to things.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// The id of a thing: a UUID whose beginning is the time it was made at (version 7, RFC 9562), so that ids sort by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, format = Uuid)]
pub struct Id(Uuid);

impl Id {
    /// A new one.
    #[expect(clippy::new_without_default, reason = "a new id is no default: each is another")]
    pub fn new() -> Id {
        Id(Uuid::now_v7())
    }

    /// Its bytes, the first one first.
    pub fn bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Id {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Id, uuid::Error> {
        text.parse().map(Id)
    }
}
