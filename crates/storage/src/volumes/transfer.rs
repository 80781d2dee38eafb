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
use crate::{Error, Pool, Progress, Result, draft, sum};

/// How the names of the folders of uploads begin.
const UPLOAD: &str = ".upload-";
const DEFINITION: &str = "upload.json";
/// How much is written at once. Where all of it is zeroes, nothing is.
const PIECE: usize = 64 << 10;

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
        let place = self.upload(&wanted.name);
        if place.exists() {
            return match self.upload_definition(&wanted.name)? == *wanted {
                true => self.uploaded(&wanted.name),
                false => Err(Error::UploadExists(wanted.name.clone())),
            };
        }
        let draft = draft::Folder::new(self.folder())?;
        let text = serde_json::to_vec_pretty(wanted).map_err(io::Error::from);
        let made = text.and_then(|text| {
            fs::write(draft.path().join(DEFINITION), text)?;
            File::create_new(draft.path().join(wanted.format.file()))
        });
        made.map_err(Error::host(&place))?;
        match draft.keep(&place) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.begin_upload(wanted),
            result => result.map(|()| 0).map_err(Error::host(&place)),
        }
    }

    /// How many bytes of an upload are there.
    ///
    /// # Errors
    /// If there is no such upload.
    pub fn uploaded(&self, name: &Name) -> Result<u64> {
        let (path, _) = self.upload_file(name)?;
        fs::metadata(&path).map(|meta| meta.len()).map_err(Error::host(&path))
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
        let (path, definition) = self.upload_file(name)?;
        let failed = Error::host(&path);
        let file = File::options().read(true).write(true).open(&path).map_err(&failed)?;
        disk::lock(&file, false).map_err(|_| Error::InUse(name.clone()))?;
        let mut at = file.metadata().map_err(&failed)?.len();
        if offset != at {
            return Err(Error::Offset { expected: at, got: offset });
        }
        let length = definition.length.0;
        let received = receive(&file, &mut at, length, from, progress);
        // Also what came before a failure is there to go on from.
        file.sync_all().map_err(&failed)?;
        received.map(|()| at).map_err(|error| match error.kind() {
            io::ErrorKind::FileTooLarge => {
                Error::invalid("/length", length, "more bytes came than were announced")
            }
            io::ErrorKind::Interrupted => Error::Cancelled,
            _ => failed(error),
        })
    }

    /// Makes a volume of what was uploaded.
    ///
    /// # Errors
    /// If bytes are missing, the checksum is another one, or it is no image that can be used.
    pub fn finish_upload(&self, name: &Name, progress: &dyn Progress) -> Result<Volume> {
        let (path, definition) = self.upload_file(name)?;
        let file = File::options().read(true).write(true).open(&path).map_err(Error::host(&path))?;
        disk::lock(&file, false).map_err(|_| Error::InUse(name.clone()))?;
        let there = file.metadata().map_err(Error::host(&path))?.len();
        if there != definition.length.0 {
            return Err(Error::Offset { expected: there, got: definition.length.0 });
        }
        if let Some(expected) = &definition.sha256 {
            progress.step("checking the checksum");
            let got =
                sum::sha256(&file, there, progress).map_err(Error::host(&path))?.ok_or(Error::Cancelled)?;
            if !got.eq_ignore_ascii_case(expected) {
                return Err(Error::Checksum { expected: expected.clone(), got });
            }
        }
        if definition.format == VolumeFormat::Qcow2 {
            check_image(&file)?;
        }
        let about = About {
            id: Id::new(),
            description: definition.description,
            format: definition.format,
            created: Time::now(),
        };
        let folder = self.upload(name);
        super::write_about(&folder, &about)?;
        draft::sync(&folder).map_err(Error::host(&folder))?;
        // The folder becomes the volume's.
        match fs::rename(&folder, self.volume(name)) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                return Err(Error::VolumeExists(name.clone()));
            }
            result => result.and_then(|()| draft::sync(self.folder())).map_err(Error::host(&folder))?,
        }
        // The volume is there; this is only what it was before.
        let _ = fs::remove_file(self.volume(name).join(DEFINITION));
        self.get(name, Vec::new())
    }

    /// Gives an upload up.
    ///
    /// # Errors
    /// If there is no such upload, or it is going on.
    pub fn abort_upload(&self, name: &Name) -> Result<()> {
        let (path, _) = self.upload_file(name)?;
        let file = File::options().read(true).write(true).open(&path).map_err(Error::host(&path))?;
        disk::lock(&file, false).map_err(|_| Error::InUse(name.clone()))?;
        draft::discard(&self.upload(name)).map_err(Error::host(&path))
    }

    /// Gives up all uploads of which nothing has come for so long.
    ///
    /// # Errors
    /// If the host cannot read the pool.
    pub fn expire_uploads(&self, silence: Duration) -> Result<()> {
        let entries = fs::read_dir(self.folder()).map_err(Error::host(self.folder()))?;
        for entry in entries.flatten() {
            let file = entry.file_name();
            let name =
                file.to_str().and_then(|name| name.strip_prefix(UPLOAD)).and_then(|name| name.parse().ok());
            let Some(name) = name else { continue };
            let Ok((path, _)) = self.upload_file(&name) else { continue };
            let changed = fs::metadata(path).and_then(|meta| meta.modified());
            if changed.is_ok_and(|changed| changed.elapsed().is_ok_and(|age| age > silence)) {
                // One that goes on this moment is not given up.
                let _ = self.abort_upload(&name);
            }
        }
        Ok(())
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

    fn upload(&self, name: &Name) -> PathBuf {
        self.folder().join(format!("{UPLOAD}{name}"))
    }

    fn upload_definition(&self, name: &Name) -> Result<UploadDefinition> {
        let path = self.upload(name).join(DEFINITION);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoUpload(name.clone()));
            }
            result => result.map_err(Error::host(&path))?,
        };
        serde_json::from_slice(&text).map_err(|error| Error::unusable(&path, error))
    }

    fn upload_file(&self, name: &Name) -> Result<(PathBuf, UploadDefinition)> {
        let definition = self.upload_definition(name)?;
        Ok((self.upload(name).join(definition.format.file()), definition))
    }
}

/// Writes what comes to the end of a file, at `at`, which moves on.
fn receive(
    file: &File,
    at: &mut u64,
    length: u64,
    from: &mut dyn Read,
    progress: &dyn Progress,
) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        if progress.cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        // Up to a whole piece, so that zeroes lie in whole blocks.
        let room = PIECE - (*at % PIECE as u64) as usize;
        let mut filled = 0;
        let mut failure = None;
        while filled < room {
            match from.read(&mut buffer[filled..room]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        if *at + filled as u64 > length {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let piece = &buffer[..filled];
        if piece.iter().any(|byte| *byte != 0) {
            file.write_all_at(piece, *at)?;
        } else {
            file.set_len(*at + filled as u64)?;
        }
        *at += filled as u64;
        progress.amount(*at, length);
        match failure {
            Some(error) => return Err(error),
            None if filled == 0 => return Ok(()),
            None => {}
        }
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
