//! Why something of the storage cannot be done.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use api::{ImageName, Invalid};
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
            Error::Invalid(_) | Error::Unusable { .. } | Error::Disk { .. } => Cause::Asked,
            Error::NoImage(_) => Cause::Missing,
            Error::ImageExists(_) => Cause::State,
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

    /// What to make of an error about a disk.
    pub(crate) fn disk(path: &Path) -> impl Fn(OpenError) -> Error {
        move |error| Error::Disk { path: path.to_owned(), error }
    }
}

fn lines(wrong: &[Invalid]) -> String {
    let told: Vec<String> =
        wrong.iter().map(|wrong| format!("{}: {}", wrong.pointer, wrong.detail)).collect();
    told.join("; ")
}
