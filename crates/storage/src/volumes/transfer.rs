//! Volumes from elsewhere, and to elsewhere.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use api::{Id, Name, Time};
use disk::Disk;
use disk::qcow2::Header;
use serde_json::Value;

use super::About;
use crate::definition::{UploadDefinition, Volume, VolumeFormat};
use crate::upload::{Announced, Upload};
use crate::{Error, Pool, Progress, Result, draft};

impl Pool {
    /// Begins to upload a volume, or goes on with it; gives how many bytes are there.
    ///
    /// # Errors
    /// If the definition is wrong, there is a volume of this name, or another one is being uploaded.
    pub fn begin_upload(&self, wanted: &UploadDefinition) -> Result<u64> {
        let wrong = wanted.check();
        if !wrong.is_empty() {
            return Err(Error::Invalid(wrong));
        }
        if self.volume(&wanted.name).exists() {
            return Err(Error::VolumeExists(wanted.name.clone()));
        }
        Upload::begin(self.folder(), wanted.clone())?.there()
    }

    fn upload(&self, name: &Name) -> Result<Upload<UploadDefinition>> {
        Upload::find(self.folder(), name)
    }

    /// How many bytes of an upload are there.
    ///
    /// # Errors
    /// If there is no such upload.
    pub fn uploaded(&self, name: &Name) -> Result<u64> {
        self.upload(name)?.there()
    }

    /// Takes bytes of an upload, from `offset`, until `from` ends; gives how many are there now, durably.
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
    ) -> Result<u64> {
        self.upload(name)?.take(offset, from, progress)
    }

    /// Makes a volume of what was uploaded.
    ///
    /// # Errors
    /// If bytes are missing, the checksum is another one, or it is no image that can be used.
    pub fn finish_upload(&self, name: &Name, progress: &dyn Progress) -> Result<Volume> {
        let upload = self.upload(name)?;
        let file = upload.whole(progress)?;
        let definition = &upload.announced;
        if definition.format == VolumeFormat::Qcow2 {
            check_image(&file)?;
        }
        let about = About {
            id: Id::new(),
            description: definition.description.clone(),
            format: definition.format,
            created: Time::now(),
        };
        let folder = upload.folder();
        super::write_about(folder, &about)?;
        draft::sync(folder).map_err(Error::host(folder))?;
        // The folder becomes the volume's.
        match fs::rename(folder, self.volume(name)) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                return Err(Error::VolumeExists(name.clone()));
            }
            result => result.and_then(|()| draft::sync(self.folder())).map_err(Error::host(folder))?,
        }
        Upload::<UploadDefinition>::forget(&self.volume(name));
        self.get(name, Vec::new())
    }

    /// Gives an upload up.
    ///
    /// # Errors
    /// If there is no such upload, or it is going on.
    pub fn abort_upload(&self, name: &Name) -> Result<()> {
        self.upload(name)?.abort()
    }

    /// Gives up all uploads of which nothing has come for so long.
    pub fn expire_uploads(&self, silence: Duration) {
        Upload::<UploadDefinition>::expire(self.folder(), silence);
    }

    /// What is on a volume, to be sent elsewhere: as the bytes of the disk, or as the volume's own file, which must not be based on
    /// another. Nobody can write to it meanwhile.
    ///
    /// # Errors
    /// If there is none, a guest writes to it, or its own file is wanted and is only a part.
    pub fn download(&self, name: &Name, format: VolumeFormat) -> Result<Download> {
        let opened = self.take(name, true)?;
        let path = self.volume(name).join(opened.format.file());
        let bytes: Box<dyn Disk> = match format {
            VolumeFormat::Raw => opened.disk(&path, true)?,
            VolumeFormat::Qcow2 if opened.format == format && opened.backing.is_empty() => {
                return Ok(Download { bytes: Bytes::File(opened.file), at: 0, name: path });
            }
            VolumeFormat::Qcow2 => {
                let detail = "it is no qcow2 image of its own: convert it before, or download it as raw";
                return Err(Error::invalid("/format", "qcow2", detail));
            }
        };
        Ok(Download { bytes: Bytes::Disk(bytes), at: 0, name: path })
    }
}

impl Announced for UploadDefinition {
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
        self.format.file()
    }
}

/// Whether an uploaded file is a qcow2 image of its own, and whole.
fn check_image(file: &File) -> Result<()> {
    let refused = |detail: &str| Error::invalid("/format", "qcow2", detail);
    let header = Header::read(file).map_err(|error| refused(&error.to_string()))?;
    if header.backing.is_some() {
        return Err(refused("it has a backing file: make one image of both with qemu-img convert"));
    }
    let clone =
        file.try_clone().map_err(|error| Error::invalid("/format", Value::Null, &error.to_string()))?;
    disk::from_file(clone, disk::Format::Qcow2, false).map(drop).map_err(|error| refused(&error.to_string()))
}

/// The bytes of a volume, from the first one on or from any other.
pub struct Download {
    bytes: Bytes,
    at: u64,
    name: PathBuf,
}

enum Bytes {
    Disk(Box<dyn Disk>),
    File(File),
}

impl Download {
    /// How many bytes there are in all.
    ///
    /// # Errors
    /// If the host cannot tell.
    pub fn length(&self) -> Result<u64> {
        match &self.bytes {
            Bytes::Disk(disk) => Ok(disk.len()),
            Bytes::File(file) => file.metadata().map(|meta| meta.len()).map_err(Error::host(&self.name)),
        }
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = match &self.bytes {
            Bytes::File(file) => file.read_at(buffer, self.at)?,
            Bytes::Disk(disk) => {
                let n = disk.len().saturating_sub(self.at).min(buffer.len() as u64) as usize;
                disk::read(&**disk, &mut buffer[..n], self.at)?;
                n
            }
        };
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for Download {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let length = self.length().map_err(io::Error::other)?;
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => length.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
