//! What guests boot from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{DiskFormat, ImageName, Invalid, Size, Time};

/// A disk with the kernel that boots it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ImageInfo {
    /// Its name.
    pub name: ImageName,
    /// What it is for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Words to find it by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Where it came from.
    pub origin: String,
    /// Size of its disk, as a guest sees it.
    pub size: Size,
    /// What that takes on the host.
    pub used: Size,
    /// How the disk's file is laid out.
    pub format: DiskFormat,
    /// The arguments of its kernel.
    pub command_line: String,
    /// When it came to this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub created: Option<Time>,
}

/// An image, and who uses it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ImageDetails {
    /// The image.
    #[serde(flatten)]
    pub image: ImageInfo,
    /// Who uses it.
    pub used_by: ImageUsers,
}

/// Who uses an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageUsers {
    /// Guests that have a disk made of it. They boot its kernel, so that it stays as long as they do.
    pub vms: Vec<String>,
    /// Templates of such guests. It stays as long as they do.
    pub templates: Vec<String>,
    /// Volumes that are based on it, each as `POOL/NAME`. Their pool holds what they need of it: it may go.
    pub volumes: Vec<String>,
}

impl ImageUsers {
    /// Those that the image must stay for, for a person.
    pub fn keepers(&self) -> Vec<String> {
        let templates = self.templates.iter().map(|name| format!("the template {name}"));
        self.vms.iter().cloned().chain(templates).collect()
    }
}

/// What is to change of an image.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageChange {
    /// Its new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ImageName>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 4096)]
    pub description: Option<String>,
    /// Words to find it by: these are set, and those that are null are taken away.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, Option<String>>,
    /// The arguments of its kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 2047)]
    pub command_line: Option<String>,
}

impl ImageChange {
    /// What is wrong with it.
    pub fn check(&self) -> Vec<Invalid> {
        let labels = self.labels.iter().map(|(key, value)| (key.clone(), value.clone().unwrap_or_default()));
        let mut wrong = crate::access::check_labels("/labels", &labels.collect());
        wrong.extend(self.description.as_deref().and_then(Invalid::of_description));
        if self.command_line.as_ref().is_some_and(|line| line.len() > 2047 || line.contains('\0')) {
            wrong.push(Invalid::new("/command_line", (), "at most 2047 bytes, none of them zero"));
        }
        wrong
    }
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
    /// Whether an image that has the name gives way to it.
    #[serde(default)]
    pub replace: bool,
}
