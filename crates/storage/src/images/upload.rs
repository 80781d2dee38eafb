//! Files that images are to be made of, on their way to the host.

use std::fs::File;
use std::io::Read;
use std::time::Duration;

use api::{Invalid, Name, Size, Time};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::source::{Opened, Source};
use super::store::Store;
use crate::definition::{LARGEST, is_sha256, shown};
use crate::upload::{Announced, Upload};
use crate::{Error, Progress, Result};

/// A file that is to be uploaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FileUpload {
    /// What it is called until an image is made of it.
    pub name: Name,
    /// Its length.
    pub length: Size,
    /// The SHA-256 checksum that it must have, in hexadecimal. It is compared when an image is made of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-9a-fA-F]{64}$")]
    pub sha256: Option<String>,
}

/// A file that is being uploaded, or has been.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UploadStatus {
    /// What it is called until an image is made of it.
    pub name: Name,
    /// Its length.
    pub length: Size,
    /// The SHA-256 checksum that it must have, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Bytes that are there, durably: it goes on from here.
    pub uploaded: Size,
    /// When something of it came last. What nobody goes on with for a day is given up.
    #[schema(value_type = String, format = DateTime)]
    pub changed: Time,
}

impl Announced for FileUpload {
    fn name(&self) -> &Name {
        &self.name
    }

    fn length(&self) -> u64 {
        self.length.0
    }

    fn sha256(&self) -> Option<&str> {
        self.sha256.as_deref()
    }

    fn file(&self) -> &'static str {
        "data"
    }
}

impl FileUpload {
    /// What is wrong with it, as far as it can be told before it is there.
    pub fn check(&self) -> Vec<Invalid> {
        let mut wrong = Vec::new();
        if self.length.0 == 0 || self.length > LARGEST {
            wrong.push(Invalid::new("/length", self.length.0, "a file has 1 byte to 64 TiB"));
        }
        if let Some(sum) = &self.sha256
            && !is_sha256(sum)
        {
            wrong.push(Invalid::new("/sha256", shown(sum), "a SHA-256 checksum has 64 hexadecimal digits"));
        }
        wrong
    }
}

fn status(upload: &Upload<FileUpload>) -> Result<UploadStatus> {
    let FileUpload { name, length, sha256 } = upload.announced.clone();
    Ok(UploadStatus { name, length, sha256, uploaded: Size(upload.there()?), changed: upload.changed()? })
}

/// An upload all of which is there.
pub struct WholeUpload(Opened);

impl WholeUpload {
    /// Its bytes.
    pub fn file(&self) -> &File {
        self.0.file()
    }

    /// It is not needed any more.
    pub fn remove(self) {
        self.0.close().remove();
    }
}

impl Store {
    /// Begins to upload a file, or goes on with it.
    ///
    /// # Errors
    /// If it is announced wrongly, or something else is being uploaded by this name.
    pub fn begin_upload(&self, wanted: FileUpload) -> Result<UploadStatus> {
        let wrong = wanted.check();
        if !wrong.is_empty() {
            return Err(Error::Invalid(wrong));
        }
        status(&Upload::begin(self.folder(), wanted)?)
    }

    /// Takes bytes of an upload, from `offset`, until `from` ends.
    ///
    /// # Errors
    /// If there is no such upload, somebody else uploads it, it does not go on where it was left, there is more than was
    /// announced, or `from` fails: what came before is kept.
    pub fn upload_part(
        &self,
        name: &Name,
        offset: u64,
        from: &mut dyn Read,
        progress: &dyn Progress,
    ) -> Result<UploadStatus> {
        let upload = Upload::<FileUpload>::find(self.folder(), name)?;
        upload.take(offset, from, progress)?;
        status(&upload)
    }

    /// All uploads, by name.
    pub fn uploads(&self) -> Vec<UploadStatus> {
        Upload::all(self.folder()).iter().filter_map(|upload| status(upload).ok()).collect()
    }

    /// The upload of this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn upload(&self, name: &Name) -> Result<UploadStatus> {
        status(&Upload::find(self.folder(), name)?)
    }

    /// Opens an upload all of which is there; nobody adds to it meanwhile.
    ///
    /// # Errors
    /// If there is none, bytes are missing, or the checksum is another one.
    pub fn open_upload(&self, name: &Name, progress: &dyn Progress) -> Result<WholeUpload> {
        self.upload(name)?;
        let opened = Source::Upload { upload: name.clone() }.open("", self.folder(), progress)?;
        Ok(WholeUpload(opened))
    }

    /// Gives an upload up.
    ///
    /// # Errors
    /// If there is none, or it is going on.
    pub fn abort_upload(&self, name: &Name) -> Result<()> {
        Upload::<FileUpload>::find(self.folder(), name)?.abort()
    }

    /// Gives up all uploads of which nothing has come for so long.
    pub fn expire_uploads(&self, silence: Duration) {
        Upload::<FileUpload>::expire(self.folder(), silence);
    }
}
