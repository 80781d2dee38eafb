//! Where the files of an image come from.

use std::fs::File;
use std::path::{Path, PathBuf};

use api::Invalid;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::fetch::{self, Fetched};
use crate::definition::{is_sha256, shown};
use crate::{Error, Progress, Result};

/// Where a file comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, deny_unknown_fields)]
pub enum Source {
    /// This host.
    File {
        /// Its path.
        #[schema(value_type = String)]
        file: PathBuf,
    },
    /// Elsewhere.
    Url {
        /// Its address: http or https.
        url: String,
        /// The SHA-256 checksum that it must have, in hexadecimal.
        #[schema(pattern = "^[0-9a-fA-F]{64}$")]
        sha256: String,
    },
}

/// A file that is here now.
pub(super) enum Opened {
    /// It was here.
    Here { file: File, path: PathBuf },
    /// It was fetched, and goes when it has been used.
    Fetched(Fetched),
}

impl Source {
    /// What is wrong with it; `pointer` is where it is in the request.
    pub(super) fn check(&self, pointer: &str) -> Vec<Invalid> {
        let mut wrong = Vec::new();
        if let Source::Url { url, sha256 } = self {
            if !url.starts_with("https://") && !url.starts_with("http://") {
                let detail = "an address begins with https:// or http://";
                wrong.push(Invalid::new(format!("{pointer}/url"), shown(url), detail));
            }
            if !is_sha256(sha256) {
                let detail = "a SHA-256 checksum has 64 hexadecimal digits";
                wrong.push(Invalid::new(format!("{pointer}/sha256"), shown(sha256), detail));
            }
        }
        wrong
    }

    /// Opens it; what is elsewhere is fetched into `folder` before.
    pub(super) fn open(&self, folder: &Path, progress: &dyn Progress) -> Result<Opened> {
        match self {
            Source::File { file: path } => {
                let file = File::open(path).map_err(|error| Error::unusable(path, error))?;
                if file.metadata().map_err(|error| Error::unusable(path, error))?.is_dir() {
                    return Err(Error::unusable(path, "is a folder"));
                }
                Ok(Opened::Here { file, path: path.clone() })
            }
            Source::Url { url, sha256 } => fetch::fetch(url, sha256, folder, progress).map(Opened::Fetched),
        }
    }

    /// For a person.
    pub(super) fn origin(&self) -> String {
        match self {
            Source::File { file } => file.display().to_string(),
            Source::Url { url, .. } => url.clone(),
        }
    }
}

impl Opened {
    pub fn file(&self) -> &File {
        match self {
            Opened::Here { file, .. } => file,
            Opened::Fetched(fetched) => &fetched.file,
        }
    }

    pub fn path(&self) -> &Path {
        match self {
            Opened::Here { path, .. } => path,
            Opened::Fetched(fetched) => &fetched.path,
        }
    }

    /// It has been used: what was fetched is not kept.
    pub fn done(self) {
        if let Opened::Fetched(fetched) = self {
            // What is left is removed with all that nobody goes on with.
            let _ = std::fs::remove_file(fetched.path);
        }
    }
}
