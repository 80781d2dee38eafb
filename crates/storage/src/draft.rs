//! Files and folders in the making.
//!
//! What is made lies beside its place under a name with a dot until it is whole; then it is renamed, which is one step for
//! everybody who looks, and whatever happens. Its maker holds a lock on it, which goes when the maker does: what has none is
//! swept away.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;
use tempfile::TempDir;

use crate::{Error, Result};

/// How the names of drafts, and of what is being removed, begin.
const DRAFT: &str = ".draft-";
const GONE: &str = ".gone-";

/// A folder in the making. Dropping it leaves nothing behind.
#[derive(Debug)]
pub struct Folder {
    folder: TempDir,
    _lock: File,
}

impl Folder {
    /// One in `parent`, which is made if it is not there. Drafts of others that are gone are swept away.
    pub fn new(parent: &Path) -> Result<Folder> {
        let failed = |error: io::Error| Error::unusable(parent, error);
        fs::create_dir_all(parent).map_err(failed)?;
        sweep(parent);
        loop {
            let folder = tempfile::Builder::new().prefix(DRAFT).tempdir_in(parent).map_err(failed)?;
            let lock = File::open(folder.path()).map_err(failed)?;
            flock(&lock, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
            // Somebody may have swept it away before it was locked.
            if folder.path().exists() {
                return Ok(Folder { folder, _lock: lock });
            }
        }
    }

    /// Where it is for now.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Puts it into its place; what was there before is removed.
    pub fn keep(self, place: &Path) -> Result<()> {
        let keep = || {
            fs::set_permissions(self.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
            for entry in fs::read_dir(self.path())? {
                File::open(entry?.path())?.sync_all()?;
            }
            sync(self.path())?;
            self.rename(place)?;
            sync(place.parent().unwrap_or(Path::new("/")))
        };
        keep().map_err(Error::host(place))
    }

    fn rename(&self, place: &Path) -> io::Result<()> {
        if !place.exists() {
            return fs::rename(self.path(), place);
        }
        match renameat_with(CWD, self.path(), CWD, place, RenameFlags::EXCHANGE) {
            // A file system that cannot: for a moment there is neither.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                discard(place)?;
                fs::rename(self.path(), place)
            }
            // What was there is the draft now, and goes as drafts do.
            result => Ok(result?),
        }
    }
}

/// Takes a folder away at once, so that nobody sees half of it, and then removes it.
pub fn discard(folder: &Path) -> io::Result<()> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let gone = folder.with_file_name(format!("{GONE}{name}-{}", std::process::id()));
    fs::rename(folder, &gone)?;
    fs::remove_dir_all(gone)
}

/// Removes what is in the making and whose maker is gone: a living one holds the lock on it.
pub fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let ours = name.starts_with(DRAFT) || name.starts_with(GONE);
        if ours && File::open(entry.path()).is_ok_and(|file| try_lock(&file)) {
            remove(&entry.path());
        }
    }
}

/// What cannot be removed now is tried again at the next change.
fn remove(path: &PathBuf) {
    let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}

/// Makes the names in a folder durable.
pub fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Takes the lock on a file or folder, if nobody has it.
fn try_lock(file: &File) -> bool {
    flock(file, FlockOperation::NonBlockingLockExclusive).is_ok()
}
