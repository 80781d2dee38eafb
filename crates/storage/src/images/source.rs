//! Where the files of an image come from.

use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use api::{Invalid, Name};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::fetch::{self, Fetched, public};
use super::upload::FileUpload;
use crate::definition::{is_sha256, shown};
use crate::upload::Upload;
use crate::{Error, Progress, Result};

/// Where a file comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "where a file comes from: {\"url\": …, \"sha256\": …}, {\"upload\": …} or {\"file\": …}"
)]
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
    /// Whoever uploaded it.
    Upload {
        /// What it was called.
        upload: Name,
    },
}

/// A file that is here now.
pub(super) enum Opened {
    /// It was here.
    Here { file: File, path: PathBuf },
    /// It was fetched, and goes when it has been used.
    Fetched(Fetched),
    /// It was uploaded, and goes when it has been used.
    Uploaded { file: File, upload: Upload<FileUpload> },
}

/// What is of no use any more when the image is there.
#[must_use]
pub(super) struct Leftover(Option<PathBuf>);

impl Leftover {
    /// Removes it.
    pub fn remove(self) {
        let Some(path) = self.0 else { return };
        // What is left is removed with all that nobody goes on with.
        let _ = if path.is_dir() { crate::draft::discard(&path) } else { fs::remove_file(path) };
    }
}

impl Source {
    /// What is wrong with it; `pointer` is where it is in the request.
    pub(super) fn check(&self, pointer: &str) -> Vec<Invalid> {
        let mut wrong = Vec::new();
        if let Source::Url { url, sha256 } = self {
            if !url.starts_with("https://") && !url.starts_with("http://") {
                let detail = "an address begins with https:// or http://";
                wrong.push(Invalid::new(format!("{pointer}/url"), shown(&public(url)), detail));
            }
            if !is_sha256(sha256) {
                let detail = "a SHA-256 checksum has 64 hexadecimal digits";
                wrong.push(Invalid::new(format!("{pointer}/sha256"), shown(sha256), detail));
            }
        }
        wrong
    }

    /// Opens it; what is elsewhere is fetched into `folder` before. `pointer` is where it is in the request.
    pub(super) fn open(&self, pointer: &str, folder: &Path, progress: &dyn Progress) -> Result<Opened> {
        match self {
            Source::File { file: path } => {
                let told = |error| Error::unusable(path, error);
                // Before it is opened: a pipe would wait for its other end.
                let kind = fs::metadata(path).map_err(told)?.file_type();
                if !kind.is_file() && !kind.is_block_device() {
                    let why =
                        if kind.is_dir() { "is a folder" } else { "is neither a file nor a block device" };
                    return Err(Error::unusable(path, why));
                }
                Ok(Opened::Here { file: File::open(path).map_err(told)?, path: path.clone() })
            }
            Source::Url { url, sha256 } => {
                progress.step(&format!("fetching the {}", pointer.trim_start_matches('/')));
                fetch::fetch(url, sha256, folder, progress).map(Opened::Fetched)
            }
            Source::Upload { upload: name } => {
                let wrong =
                    |detail: &str| Error::invalid(&format!("{pointer}/upload"), name.as_str(), detail);
                let upload = Upload::<FileUpload>::find(folder, name).map_err(|error| match error {
                    Error::NoUpload(_) => wrong(&error.to_string()),
                    error => error,
                })?;
                match upload.whole(progress) {
                    Ok(file) => Ok(Opened::Uploaded { file, upload }),
                    Err(Error::Offset { expected, got }) => Err(wrong(&format!(
                        "only {expected} of its {got} bytes have come: go on with the upload"
                    ))),
                    Err(error @ Error::Checksum { .. }) => {
                        // Nobody can go on with it.
                        let _ = crate::draft::discard(upload.folder());
                        Err(error)
                    }
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// For a person.
    pub(super) fn origin(&self) -> String {
        match self {
            Source::File { file } => file.display().to_string(),
            Source::Url { url, .. } => public(url),
            Source::Upload { .. } => "an upload".into(),
        }
    }
}

impl Opened {
    pub fn file(&self) -> &File {
        match self {
            Opened::Here { file, .. } | Opened::Uploaded { file, .. } => file,
            Opened::Fetched(fetched) => &fetched.file,
        }
    }

    /// Where it lies; what people call it.
    pub fn path(&self) -> PathBuf {
        match self {
            Opened::Here { path, .. } => path.clone(),
            Opened::Fetched(fetched) => fetched.path.clone(),
            Opened::Uploaded { upload, .. } => upload.path(),
        }
    }

    /// It is not read any more. What is not kept of it can be removed when the image is there.
    pub fn close(self) -> Leftover {
        match self {
            Opened::Here { .. } => Leftover(None),
            Opened::Fetched(fetched) => Leftover(Some(fetched.path)),
            Opened::Uploaded { upload, .. } => Leftover(Some(upload.folder().to_owned())),
        }
    }
}
