//! Sites: what files of text have made of a host, remembered so that it can be undone and what they say no more can go.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{Name, Time};

/// The label of guests that a site has made: its value is the site's name.
pub const SITE_LABEL: &str = "tessera.site";

/// Kinds of things that a site has, in the order in which they need each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SiteKind {
    /// A storage pool.
    Pool,
    /// A network.
    Network,
    /// A volume; its name is `POOL/NAME`.
    Volume,
    /// A group in which guests share.
    #[serde(rename = "share-group")]
    ShareGroup,
    /// A template.
    Template,
    /// A guest.
    Vm,
    /// A user.
    User,
}

impl SiteKind {
    /// The word for one of it.
    pub fn word(self) -> &'static str {
        match self {
            SiteKind::Pool => "pool",
            SiteKind::Network => "network",
            SiteKind::Volume => "volume",
            SiteKind::ShareGroup => "share-group",
            SiteKind::Template => "template",
            SiteKind::Vm => "vm",
            SiteKind::User => "user",
        }
    }
}

/// Something that a site has made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SiteMember {
    /// What it is.
    pub kind: SiteKind,
    /// Its name.
    pub name: String,
    /// What tells it from another one of this name: its id, for a template the time at which it was made, for a group its name.
    pub identity: String,
}

/// Something as it was before the site was applied the last time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SiteBefore {
    /// What it is.
    pub kind: SiteKind,
    /// Its name.
    pub name: String,
    /// Whether it was the site's.
    #[serde(default)]
    pub member: bool,
    /// What it was, as a file says it; nothing if there was no such thing.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    #[schema(value_type = Object)]
    pub definition: Value,
}

/// What is to be remembered of a site.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SiteMemory {
    /// What it has made.
    pub members: Vec<SiteMember>,
    /// What it changed the last time, as that was before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<SiteBefore>,
}

/// A site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Site {
    /// Its name.
    pub name: Name,
    /// What is remembered of it.
    #[serde(flatten)]
    pub memory: SiteMemory,
    /// When that was written.
    #[schema(value_type = String, format = DateTime)]
    pub written: Time,
    /// Who wrote it.
    pub actor: String,
}
