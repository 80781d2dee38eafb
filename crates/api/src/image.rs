//! What guests boot from.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ImageName, Size};

/// A disk with the kernel that boots it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ImageInfo {
    /// Its name.
    pub name: ImageName,
    /// Where it came from.
    pub origin: String,
    /// Size of its disk.
    pub size: Size,
    /// What that takes on the host.
    pub used: Size,
    /// The arguments of its kernel.
    pub command_line: String,
}

/// An image to be made from Debian's packages.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewImage {
    /// The release: `debian:12` or `debian:13`.
    pub release: String,
    /// Its name, if it is not to be the release's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ImageName>,
    /// Debian packages to put into it.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Size of its disk: 4 GiB if nothing is said. Only what is used takes room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// Where to take packages from, if not from where Debian has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<String>,
}
