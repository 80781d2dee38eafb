//! Why something of the storage cannot be done.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use api::{Id, ImageName, Invalid, Name};
use disk::OpenError;

/// The result of a call.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something cannot be done. Each is one line for a person.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fields of what was asked for are wrong.
    #[error("{}", lines(.0))]
    Invalid(Vec<Invalid>),
    /// There is no image of this name.
    #[error("there is no image {0}")]
    NoImage(ImageName),
    /// There is one already.
    #[error("an image {0} exists already: remove it, replace it or give another name")]
    ImageExists(ImageName),
    /// There is no volume of this name.
    #[error("there is no volume {0}")]
    NoVolume(Name),
    /// There is one already.
    #[error("a volume {0} exists already")]
    VolumeExists(Name),
    /// Nothing is being uploaded by this name.
    #[error("nothing is being uploaded as {0}")]
    NoUpload(Name),
    /// Something is being uploaded by this name already, which was announced otherwise.
    #[error("something else is being uploaded as {0} already: give another name, or give that one up")]
    UploadExists(Name),
    /// Somebody sends a part of it, or makes something of it, at this moment.
    #[error("the upload {0} is in use at this moment: go on when that has ended")]
    Uploading(Name),
    /// A guest has it, or something is being done with it.
    #[error("volume {0} is in use")]
    InUse(Name),
    /// Guests have it.
    #[error("volume {name} is used by {}", by.join(", "))]
    Used {
        /// The volume.
        name: Name,
        /// The guests.
        by: Vec<String>,
    },
    /// Others are based on it.
    #[error("volume {name} must stay as it is: {} based on it", names(others))]
    BaseOf {
        /// The volume.
        name: Name,
        /// The others.
        others: Vec<Name>,
    },
    /// There is no layer of this id, or not of that volume.
    #[error("there is no layer {0}")]
    NoLayer(Id),
    /// There is one already.
    #[error("a layer {0} exists already")]
    LayerExists(Id),
    /// It has layers, which would keep what is on it.
    #[error("volume {name} has {count} layers of what was on it before: delete them first")]
    HasLayers {
        /// The volume.
        name: Name,
        /// How many.
        count: usize,
    },
    /// There is no backup of this name or id.
    #[error("there is no backup {0}")]
    NoBackup(String),
    /// Others have only what differs from it.
    #[error("the backup {name} must stay: {} only what differs from it", have(by))]
    BackupNeeded {
        /// The backup.
        name: String,
        /// The others.
        by: Vec<String>,
    },
    /// It is being read, or another one is being made of what differs from it.
    #[error("the backup {0} is being used at this moment")]
    BackupInUse(String),
    /// It is not what was written, or one that it needs is not there.
    #[error("the backup {name} cannot be used: {}", problems.join("; "))]
    BackupDamaged {
        /// The backup.
        name: String,
        /// What is wrong, of it and of those that it needs.
        problems: Vec<String>,
    },
    /// A file that a guest was exported to is not what was written, or none; what is wrong with it.
    #[error("the file cannot be used: {}", .0.join("; "))]
    ExportDamaged(Vec<String>),
    /// An upload goes on elsewhere than it was left.
    #[error("{expected} bytes are there already: go on from there, not from {got}")]
    Offset {
        /// How many bytes are there.
        expected: u64,
        /// Where it was to go on.
        got: u64,
    },
    /// Bytes are not those that were announced.
    #[error("the SHA-256 checksum is {got}, and should be {expected}")]
    Checksum {
        /// What was announced.
        expected: String,
        /// What came.
        got: String,
    },
    /// A file cannot be fetched.
    #[error("{url} cannot be fetched: {why}")]
    Fetch {
        /// Its address.
        url: String,
        /// Why.
        why: String,
    },
    /// Another host uses the folder of a pool.
    #[error("{} is used by {host}, as a pool that is not shared", path.display())]
    PoolTaken {
        /// The folder.
        path: PathBuf,
        /// The host.
        host: String,
    },
    /// Locks on files in the folder of a pool do not reach its other hosts.
    #[error("{} cannot be shared: {host} uses it too, and its locks are not seen here", path.display())]
    PoolUnlocked {
        /// The folder.
        path: PathBuf,
        /// The host.
        host: String,
    },
    /// A file or folder that somebody named is not usable.
    #[error("{}: {why}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A disk that somebody named is not usable.
    #[error("{}: {error}", path.display())]
    Disk {
        /// Its file.
        path: PathBuf,
        /// Why.
        error: OpenError,
    },
    /// The host fails.
    #[error("{}: {error}", path.display())]
    Host {
        /// The file it is about.
        path: PathBuf,
        /// How.
        error: io::Error,
    },
    /// A program that is needed is not there.
    #[error("{program} is not installed: apt install {package}")]
    NoTool {
        /// Its name.
        program: String,
        /// The Debian package that has it.
        package: String,
    },
    /// A program failed.
    #[error("{program} failed ({status})")]
    Tool {
        /// Its name.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines it said.
        words: Vec<String>,
    },
    /// Somebody called it off.
    #[error("it was cancelled")]
    Cancelled,
}

/// Whose matter an error is: what a command's exit status and the API's HTTP status are made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// What was asked for is wrong, whatever the state of things.
    Asked,
    /// It is not there.
    Missing,
    /// It cannot be done as things stand.
    State,
    /// The host fails.
    Host,
    /// It was called off.
    Cancelled,
}

impl Error {
    /// Whose matter it is.
    pub fn cause(&self) -> Cause {
        match self {
            Error::Invalid(_)
            | Error::Unusable { .. }
            | Error::ExportDamaged(_)
            | Error::Disk { .. }
            | Error::Checksum { .. }
            | Error::Fetch { .. } => Cause::Asked,
            Error::NoImage(_)
            | Error::NoVolume(_)
            | Error::NoUpload(_)
            | Error::NoLayer(_)
            | Error::NoBackup(_) => Cause::Missing,
            Error::ImageExists(_)
            | Error::VolumeExists(_)
            | Error::UploadExists(_)
            | Error::Uploading(_)
            | Error::InUse(_)
            | Error::Used { .. }
            | Error::BaseOf { .. }
            | Error::LayerExists(_)
            | Error::HasLayers { .. }
            | Error::BackupNeeded { .. }
            | Error::BackupInUse(_)
            | Error::BackupDamaged { .. }
            | Error::Offset { .. }
            | Error::PoolTaken { .. }
            | Error::PoolUnlocked { .. } => Cause::State,
            Error::Host { .. } | Error::NoTool { .. } | Error::Tool { .. } => Cause::Host,
            Error::Cancelled => Cause::Cancelled,
        }
    }

    /// A file that somebody named is not usable, for this reason.
    pub(crate) fn unusable(path: &Path, why: impl ToString) -> Error {
        Error::Unusable { path: path.to_owned(), why: why.to_string() }
    }

    /// What to make of an error of the host's about a file.
    pub(crate) fn host(path: &Path) -> impl Fn(io::Error) -> Error {
        move |error| Error::Host { path: path.to_owned(), error }
    }

    /// One field is wrong.
    pub(crate) fn invalid(pointer: &str, value: impl Into<serde_json::Value>, detail: &str) -> Error {
        Error::Invalid(vec![Invalid::new(pointer, value, detail)])
    }

    /// What to make of an error about a disk.
    pub(crate) fn disk(path: &Path) -> impl Fn(OpenError) -> Error {
        move |error| Error::Disk { path: path.to_owned(), error }
    }
}

fn have(names: &[String]) -> String {
    let verb = if names.len() == 1 { "has" } else { "have" };
    format!("{} {verb}", names.join(", "))
}

fn names(names: &[Name]) -> String {
    let verb = if names.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", names.iter().map(Name::as_str).collect::<Vec<_>>().join(", "))
}

fn lines(wrong: &[Invalid]) -> String {
    let told: Vec<String> =
        wrong.iter().map(|wrong| format!("{}: {}", wrong.pointer, wrong.detail)).collect();
    told.join("; ")
}
