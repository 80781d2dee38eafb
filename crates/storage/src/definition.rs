//! What there is to manage: pools and the volumes in them, as people say what they want and as they are told what there is.

use std::path::PathBuf;

use api::{Id, ImageName, Invalid, LEAST_BANDWIDTH, Name, Size, Time};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// More than any file system here holds in one file.
pub(crate) const LARGEST: Size = Size(1 << 46);
const MEBIBYTE: u64 = 1 << 20;

/// A place that volumes are kept in, as its owner wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolDefinition {
    /// Its name.
    pub name: Name,
    /// What it is for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 4096)]
    pub description: String,
    /// What kind of place it is.
    #[serde(default)]
    pub kind: PoolKind,
    /// Its folder, which is made if it is not there.
    #[schema(value_type = String)]
    pub path: PathBuf,
    /// How many bytes each second this host may read and write there, all guests together: 4096 or more. It is divided among guests by
    /// their `disk_share`; nothing is divided if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Size>,
    /// How many requests each second, 1 or more. They are divided by weight alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 9223372036854775807i64)]
    pub operations: Option<u64>,
}

/// Kinds of pools.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PoolKind {
    /// A folder that one host uses.
    #[default]
    Directory,
    /// A folder that several hosts use, on a file system that they share: each finds out whether locks reach the others.
    Shared,
}

/// What a pool is at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolStatus {
    /// Its id, which all hosts see that share it.
    pub id: Id,
    /// Room on its file system.
    pub capacity: Size,
    /// Room on it that is free.
    pub available: Size,
    /// How many volumes it has.
    pub volumes: u32,
    /// The hosts that use it.
    pub hosts: Vec<PoolHost>,
}

/// A host that uses a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolHost {
    /// Its id.
    pub id: Id,
    /// Its name.
    pub name: String,
    /// When it last said that it uses the pool.
    #[schema(value_type = String, format = DateTime)]
    pub seen: Time,
    /// Whether its daemon runs.
    pub alive: bool,
}

/// How a volume's file is laid out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum VolumeFormat {
    /// The file is the disk.
    Raw,
    /// QEMU's copy-on-write format.
    #[default]
    Qcow2,
}

impl From<VolumeFormat> for disk::Format {
    fn from(format: VolumeFormat) -> disk::Format {
        match format {
            VolumeFormat::Raw => disk::Format::Raw,
            VolumeFormat::Qcow2 => disk::Format::Qcow2,
        }
    }
}

impl VolumeFormat {
    /// The name of the file in a volume's folder.
    pub(crate) fn file(self) -> &'static str {
        match self {
            VolumeFormat::Raw => "disk.raw",
            VolumeFormat::Qcow2 => "disk.qcow2",
        }
    }
}

/// When a volume takes its room on the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Allocation {
    /// As it is written.
    #[default]
    Thin,
    /// All of it when it is made.
    Full,
}

/// A volume that is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeDefinition {
    /// Its name.
    pub name: Name,
    /// What it is for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 4096)]
    pub description: String,
    /// How its file is laid out.
    #[serde(default)]
    pub format: VolumeFormat,
    /// The size of the disk: that of its source if nothing is said, and no less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// When it takes its room on the host.
    #[serde(default)]
    pub allocation: Allocation,
    /// What is on it; nothing if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<VolumeSource>,
    /// Whether it has only what differs from its source, which stays as it is then, rather than a copy. A volume that others are
    /// based on can only be read.
    #[serde(default)]
    pub linked: bool,
}

/// What a volume has at first, or is based on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum VolumeSource {
    /// The disk of an image.
    Image(ImageName),
    /// Another volume of the pool.
    Volume(Name),
}

/// A volume that is to be uploaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UploadDefinition {
    /// Its name.
    pub name: Name,
    /// What it is for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 4096)]
    pub description: String,
    /// How the file is laid out. A qcow2 image must have no backing file.
    pub format: VolumeFormat,
    /// The length of the file.
    pub length: Size,
    /// The SHA-256 checksum that it must have, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-9a-fA-F]{64}$")]
    pub sha256: Option<String>,
}

/// A new size for a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// The size.
    pub size: Size,
    /// Whether it may be less than before: what is beyond it is lost.
    #[serde(default)]
    pub shrink: bool,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Volume {
    /// Its id.
    pub id: Id,
    /// Its name.
    pub name: Name,
    /// What it is for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// How its file is laid out.
    pub format: VolumeFormat,
    /// The size of the disk that a guest sees.
    pub size: Size,
    /// Room that it takes on the host.
    pub allocated: Size,
    /// How much of its file is data.
    pub used: Size,
    /// What it is based on: it has only what differs from that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub based_on: Option<VolumeSource>,
    /// What is based on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub base_of: Vec<Name>,
    /// The guests that have it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub used_by: Vec<String>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created: Time,
    /// Why it cannot be used, if its image is damaged.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub problem: String,
}

/// A layer of a volume: what it was at some time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Layer {
    /// Its id.
    pub id: Id,
    /// The size of the disk that it was.
    pub size: Size,
    /// Room that it takes on the host: what was written since the one that it is based on.
    pub allocated: Size,
    /// The layer that it is based on, this volume's or the one's that this volume was cloned from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub based_on: Option<Id>,
    /// The layers that are based on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Id>,
    /// The volumes that went on from it and have made no other layer since: its own one, and clones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Name>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created: Time,
}

impl PoolDefinition {
    /// What is wrong with it, as far as it can be told without looking at the host.
    pub fn check(&self) -> Vec<Invalid> {
        let mut wrong: Vec<_> = Invalid::of_description(&self.description).into_iter().collect();
        if !self.path.is_absolute() || self.path.components().any(|part| part.as_os_str() == "..") {
            let detail = "the path must begin with / and have no .. in it";
            wrong.push(Invalid::new("/path", self.path.to_string_lossy().as_ref(), detail));
        }
        if let Some(bandwidth) = self.bandwidth.filter(|bandwidth| *bandwidth < LEAST_BANDWIDTH) {
            let detail = "bytes each second: at least 4096 (4K); leave it out if it is not to be divided";
            wrong.push(Invalid::new("/bandwidth", bandwidth.0, detail));
        }
        if let Some(operations) = self.operations.filter(|count| !(1..=i64::MAX as u64).contains(count)) {
            let detail = "1 or more each second; leave it out if they are not to be divided";
            wrong.push(Invalid::new("/operations", operations, detail));
        }
        wrong
    }
}

impl VolumeDefinition {
    /// What is wrong with it, as far as it can be told without looking at the host.
    pub fn check(&self) -> Vec<Invalid> {
        let mut wrong: Vec<_> = Invalid::of_description(&self.description).into_iter().collect();
        match self.size {
            Some(size) => wrong.extend(whole(size)),
            None if self.source.is_none() => {
                wrong.push(Invalid::new("/size", Value::Null, "a volume without a source must have a size"));
            }
            None => {}
        }
        let mut linked = |detail: &str| wrong.push(Invalid::new("/linked", true, detail));
        match (self.linked, &self.source) {
            (true, None) => linked("a linked volume must have a source"),
            (true, _) if self.format == VolumeFormat::Raw => {
                linked("only a volume of the format qcow2 can be linked");
            }
            (true, _) if self.allocation == Allocation::Full => {
                linked("a linked volume takes its room as it is written: leave allocation thin");
            }
            _ => {}
        }
        if let Some(VolumeSource::Volume(source)) = &self.source
            && *source == self.name
        {
            wrong.push(Invalid::new("/source/volume", source.as_str(), "a volume cannot be its own source"));
        }
        wrong
    }
}

impl UploadDefinition {
    /// What is wrong with it, as far as it can be told before it is there.
    pub fn check(&self) -> Vec<Invalid> {
        let mut wrong: Vec<_> = Invalid::of_description(&self.description).into_iter().collect();
        if self.length.0 == 0 || self.length > LARGEST {
            wrong.push(Invalid::new("/length", self.length.0, "a file has 1 byte to 64 TiB"));
        } else if self.format == VolumeFormat::Raw && !self.length.0.is_multiple_of(disk::SECTOR) {
            wrong.push(Invalid::new("/length", self.length.0, "a raw disk has whole sectors of 512 bytes"));
        }
        if let Some(sum) = &self.sha256
            && !is_sha256(sum)
        {
            wrong.push(Invalid::new("/sha256", shown(sum), "a SHA-256 checksum has 64 hexadecimal digits"));
        }
        wrong
    }
}

impl Resize {
    /// What is wrong with it, whatever is to be resized.
    pub fn check(&self) -> Vec<Invalid> {
        whole(self.size).into_iter().collect()
    }
}

/// Whether a text has the form of a SHA-256 checksum.
pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Text as it is shown in an error: the beginning of what may be long.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

fn whole(size: Size) -> Option<Invalid> {
    let detail = match size.0 {
        bytes if bytes == 0 || !bytes.is_multiple_of(MEBIBYTE) => "a volume has one or more whole MiB",
        _ if size > LARGEST => "a volume has at most 64 TiB",
        _ => return None,
    };
    Some(Invalid::new("/size", size.0, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointers(wrong: Vec<Invalid>) -> Vec<String> {
        wrong.into_iter().map(|wrong| wrong.pointer).collect()
    }

    #[test]
    fn each_wrong_field_of_a_volume_is_named() {
        for (more, pointer) in [
            (r#""x": 1"#, None),
            (r#""description": "no size""#, Some("/size")),
            (r#""size": 0"#, Some("/size")),
            (r#""size": 1000"#, Some("/size")),
            (r#""size": "65T""#, Some("/size")),
            (r#""size": "1G", "linked": true"#, Some("/linked")),
            (r#""source": {"image": "a"}, "linked": true, "format": "raw""#, Some("/linked")),
            (r#""source": {"image": "a"}, "linked": true, "allocation": "full""#, Some("/linked")),
            (r#""source": {"volume": "v"}"#, Some("/source/volume")),
        ] {
            let text = format!(r#"{{"name": "v", {more}}}"#);
            let read = serde_json::from_str::<VolumeDefinition>(&text);
            match pointer {
                Some(pointer) => assert_eq!(pointers(read.unwrap().check()), [pointer], "{more}"),
                None => assert!(read.is_err(), "{more}"),
            }
        }
        let good = r#"{"name": "v", "source": {"image": "debian:13"}, "linked": true}"#;
        assert!(serde_json::from_str::<VolumeDefinition>(good).unwrap().check().is_empty());
    }

    #[test]
    fn each_wrong_field_of_pools_and_uploads_is_named() {
        for path in ["relative", "", "/a/../b"] {
            let pool: PoolDefinition =
                serde_json::from_value(serde_json::json!({"name": "p", "path": path})).unwrap();
            assert_eq!(pointers(pool.check()), ["/path"], "{path}");
        }
        for (format, length, sum, pointer) in [
            ("raw", 1000, None, "/length"),
            ("qcow2", 0, None, "/length"),
            ("raw", 512, Some("abc"), "/sha256"),
        ] {
            let json = serde_json::json!({"name": "u", "format": format, "length": length, "sha256": sum});
            let upload: UploadDefinition = serde_json::from_value(json).unwrap();
            assert_eq!(pointers(upload.check()), [pointer]);
        }
    }
}
