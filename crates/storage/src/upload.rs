//! Files on their way into a store: in parts, each of which begins where the one before ended. What has come lies beside what is there,
//! in a folder of its own, until it is whole and is made what it is to be.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::{Name, Time};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Progress, Result, draft, sum};

/// How the names of uploads' folders begin.
const UPLOAD: &str = ".upload-";
const DEFINITION: &str = "upload.json";
/// How much is written at once. Where all of it is zeroes, nothing is.
const PIECE: usize = 64 << 10;

/// What is announced of a file before it comes.
pub trait Announced: Serialize + DeserializeOwned + PartialEq {
    /// What the upload is called.
    fn name(&self) -> &Name;
    /// The file's length, bytes.
    fn length(&self) -> u64;
    /// The SHA-256 checksum that it must have, in hexadecimal.
    fn sha256(&self) -> Option<&str>;
    /// How the file is called in the upload's folder.
    fn file(&self) -> &'static str;
}

/// A file of which a part has come, or all.
pub struct Upload<A> {
    folder: PathBuf,
    /// What was announced of it.
    pub announced: A,
}

fn folder(parent: &Path, name: &Name) -> PathBuf {
    parent.join(format!("{UPLOAD}{name}"))
}

impl<A: Announced> Upload<A> {
    /// Begins an upload, or goes on with the one that was announced in the same way.
    ///
    /// # Errors
    /// If something else is being uploaded by this name, or the host fails.
    pub fn begin(parent: &Path, wanted: A) -> Result<Self> {
        match Self::find(parent, wanted.name()) {
            Ok(found) if found.announced == wanted => return Ok(found),
            Ok(_) => return Err(Error::UploadExists(wanted.name().clone())),
            Err(Error::NoUpload(_)) => {}
            Err(error) => return Err(error),
        }
        let place = folder(parent, wanted.name());
        let draft = draft::Folder::new(parent)?;
        let text = serde_json::to_vec_pretty(&wanted).map_err(io::Error::from);
        let made = text.and_then(|text| {
            fs::write(draft.path().join(DEFINITION), text)?;
            File::create_new(draft.path().join(wanted.file()))
        });
        made.map_err(Error::host(&place))?;
        match draft.keep(&place) {
            // Somebody else began it in the same moment.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::begin(parent, wanted),
            result => result
                .map(|()| Self { folder: place.clone(), announced: wanted })
                .map_err(Error::host(&place)),
        }
    }

    /// The upload of this name.
    ///
    /// # Errors
    /// If there is none, or the host fails.
    pub fn find(parent: &Path, name: &Name) -> Result<Self> {
        let folder = folder(parent, name);
        let path = folder.join(DEFINITION);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoUpload(name.clone()));
            }
            result => result.map_err(Error::host(&path))?,
        };
        let announced = serde_json::from_slice(&text).map_err(|error| Error::unusable(&path, error))?;
        Ok(Self { folder, announced })
    }

    /// All uploads into a folder, by name.
    pub fn all(parent: &Path) -> Vec<Self> {
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        let name = |name: &str| name.strip_prefix(UPLOAD)?.parse::<Name>().ok();
        let mut names: Vec<Name> = entries.filter_map(|entry| name(entry.file_name().to_str()?)).collect();
        names.sort();
        // One that went this moment is none.
        names.iter().filter_map(|name| Self::find(parent, name).ok()).collect()
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        self.folder.join(self.announced.file())
    }

    fn meta(&self) -> Result<fs::Metadata> {
        let path = self.path();
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Error::NoUpload(self.announced.name().clone()))
            }
            result => result.map_err(Error::host(&path)),
        }
    }

    /// How many bytes are there.
    ///
    /// # Errors
    /// If it is not there any more, or the host fails.
    pub fn there(&self) -> Result<u64> {
        Ok(self.meta()?.len())
    }

    /// When something of it came last.
    ///
    /// # Errors
    /// As [`Upload::there`].
    pub fn changed(&self) -> Result<Time> {
        let changed = self.meta()?.modified().map_err(Error::host(&self.folder))?;
        Time::try_from(changed).map_err(|error| Error::unusable(&self.folder, error))
    }

    /// Opens the file so that nobody else adds to it.
    fn lock(&self) -> Result<File> {
        let path = self.path();
        let file = match File::options().read(true).write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoUpload(self.announced.name().clone()));
            }
            result => result.map_err(Error::host(&path))?,
        };
        disk::lock(&file, false).map_err(|_| Error::Uploading(self.announced.name().clone()))?;
        Ok(file)
    }

    /// Takes bytes, from `offset`, until `from` ends; gives how many are there now, durably.
    ///
    /// # Errors
    /// If somebody else uploads it, it does not go on where it was left, there is more than was announced, or `from` fails: what came
    /// before is kept.
    pub fn take(&self, offset: u64, from: &mut dyn Read, progress: &dyn Progress) -> Result<u64> {
        let file = self.lock()?;
        let path = self.path();
        let failed = Error::host(&path);
        let mut at = file.metadata().map_err(&failed)?.len();
        if offset != at {
            return Err(Error::Offset { expected: at, got: offset });
        }
        let length = self.announced.length();
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

    /// The file, locked, if all of it is there and it has the checksum that it must have.
    ///
    /// # Errors
    /// If not.
    pub fn whole(&self, progress: &dyn Progress) -> Result<File> {
        let file = self.lock()?;
        let path = self.path();
        let there = file.metadata().map_err(Error::host(&path))?.len();
        if there != self.announced.length() {
            return Err(Error::Offset { expected: there, got: self.announced.length() });
        }
        if let Some(expected) = self.announced.sha256() {
            progress.step("checking the checksum");
            let got =
                sum::sha256(&file, there, progress).map_err(Error::host(&path))?.ok_or(Error::Cancelled)?;
            if !got.eq_ignore_ascii_case(expected) {
                return Err(Error::Checksum { expected: expected.into(), got });
            }
        }
        Ok(file)
    }

    /// What it was announced as is of no use any more: the folder is something else's now.
    pub fn forget(folder: &Path) {
        let _ = fs::remove_file(folder.join(DEFINITION));
    }

    /// Gives it up.
    ///
    /// # Errors
    /// If it is going on, or the host fails.
    pub fn abort(&self) -> Result<()> {
        let _lock = self.lock()?;
        draft::discard(&self.folder).map_err(Error::host(&self.folder))
    }

    /// Gives up all uploads into a folder of which nothing has come for so long.
    pub fn expire(parent: &Path, silence: Duration) {
        for upload in Self::all(parent) {
            let age = upload.meta().and_then(|meta| meta.modified().map_err(Error::host(parent)));
            if age.is_ok_and(|changed| changed.elapsed().is_ok_and(|age| age > silence)) {
                // One that goes on this moment is not given up.
                let _ = upload.abort();
            }
        }
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
