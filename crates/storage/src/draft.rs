//! Folders in the making.
//!
//! What is made lies in a folder under a name with a dot until it is whole; then it is renamed, which is one step for everybody
//! who looks, whatever happens. Its maker holds a lock on a file in it, which goes when the maker does: a folder whose lock
//! nobody holds is swept away.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tempfile::TempDir;

use crate::{Error, Result};

/// How the names of folders in the making, and of those that are being removed, begin.
const DRAFT: &str = ".draft-";
const GONE: &str = ".gone-";
/// The file in a folder that its maker has locked.
const LOCK: &str = ".lock";
const UNLOCKED: &str = ".unlocked";
/// A folder without that file is about to get it, or else its maker died before.
const NEWBORN: Duration = Duration::from_secs(60);

/// A folder in the making. Dropping it leaves nothing behind.
#[derive(Debug)]
pub struct Folder {
    folder: TempDir,
    _lock: File,
}

impl Folder {
    /// One in `parent`, which is made if it is not there. Those whose maker is gone are swept away.
    pub fn new(parent: &Path) -> Result<Folder> {
        let failed = |error: io::Error| Error::unusable(parent, error);
        fs::create_dir_all(parent).map_err(failed)?;
        sweep(parent);
        let folder = tempfile::Builder::new().prefix(DRAFT).tempdir_in(parent).map_err(failed)?;
        let lock = lock(folder.path()).map_err(failed)?;
        Ok(Folder { folder, _lock: lock })
    }

    /// Where it is for now.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Puts it into its place, where nothing must be yet.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] if there is something; or if the host refuses.
    pub fn keep(self, place: &Path) -> io::Result<()> {
        self.settle()?;
        match fs::rename(self.path(), place) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                Err(io::ErrorKind::AlreadyExists.into())
            }
            result => result,
        }?;
        sync(place.parent().unwrap_or(Path::new("/")))
    }

    /// Puts it into its place; what was there before is removed.
    pub fn replace(self, place: &Path) -> io::Result<()> {
        self.settle()?;
        match renameat_with(CWD, self.path(), CWD, place, RenameFlags::EXCHANGE) {
            // What was there is the draft now, and goes as drafts do.
            Ok(()) => {}
            Err(Errno::NOENT) => fs::rename(self.path(), place)?,
            // A file system that cannot: for a moment there is neither.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                discard(place)?;
                fs::rename(self.path(), place)?;
            }
            Err(error) => return Err(error.into()),
        }
        sync(place.parent().unwrap_or(Path::new("/")))
    }

    /// Makes what is in it durable.
    fn settle(&self) -> io::Result<()> {
        fs::set_permissions(self.path(), PermissionsExt::from_mode(0o755))?;
        for entry in fs::read_dir(self.path())? {
            File::open(entry?.path())?.sync_all()?;
        }
        sync(self.path())
    }
}

/// Makes the lock's file in a folder, and takes it. It has its name only then: whoever found it before could take it first, and the folder away.
fn lock(folder: &Path) -> io::Result<File> {
    let unlocked = folder.join(UNLOCKED);
    let file = File::options().read(true).write(true).create_new(true).open(&unlocked)?;
    disk::lock(&file, false).map_err(io::Error::other)?;
    fs::rename(unlocked, folder.join(LOCK))?;
    Ok(file)
}

/// Takes a folder away at once, so that nobody sees half of it, and then removes it.
pub fn discard(folder: &Path) -> io::Result<()> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let gone = folder.with_file_name(format!("{GONE}{name}-{}", api::Id::new()));
    fs::rename(folder, &gone)?;
    sync(folder.parent().unwrap_or(Path::new("/")))?;
    // What cannot be removed now is swept away later.
    let _ = fs::remove_dir_all(gone);
    Ok(())
}

/// Removes what is in the making and whose maker is gone, and what was being removed.
pub fn sweep(parent: &Path) {
    sweep_older(parent, NEWBORN);
}

/// The same where nobody else can be making anything.
pub fn sweep_alone(parent: &Path) {
    sweep_older(parent, Duration::ZERO);
}

fn sweep_older(parent: &Path, newborn: Duration) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let stale = name.starts_with(GONE) || name.starts_with(DRAFT) && is_forsaken(&entry.path(), newborn);
        if stale {
            // What cannot be removed now is tried again at the next change.
            let path = entry.path();
            let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
    }
}

/// Whether the maker of a folder, or of a file, which nobody needs for long, is gone.
fn is_forsaken(folder: &Path, newborn: Duration) -> bool {
    match File::options().read(true).write(true).open(folder.join(LOCK)) {
        Ok(file) => disk::lock(&file, false).is_ok(),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            let made = fs::metadata(folder).and_then(|meta| meta.modified()).ok();
            made.and_then(|made| made.elapsed().ok()).is_some_and(|age| age > newborn)
        }
        Err(_) => false,
    }
}

/// Makes the names in a folder durable.
pub fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Puts a file with this text into a folder, durably and in one step.
pub fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::Builder::new().prefix(DRAFT).tempfile_in(folder)?;
    io::Write::write_all(&mut file, text)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    sync(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_sweeps_away_what_others_are_about_to_make() {
        let parent = tempfile::tempdir().unwrap();
        let make = || {
            for _ in 0..500 {
                let draft = Folder::new(parent.path()).unwrap();
                fs::write(draft.path().join("disk"), "").unwrap();
                assert!(draft.path().join("../").exists());
            }
        };
        std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(make))));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_appears_when_it_is_kept_and_another_one_does_not_take_its_place() {
        let home = tempfile::tempdir().unwrap();
        let place = home.path().join("a");
        for round in 0..2 {
            let draft = Folder::new(home.path()).unwrap();
            fs::write(draft.path().join("text"), [round]).unwrap();
            let kept = draft.keep(&place);
            assert_eq!(kept.is_ok(), round == 0);
            assert_eq!(
                kept.err().map(|error| error.kind()),
                [None, Some(io::ErrorKind::AlreadyExists)][round as usize]
            );
        }
        assert_eq!(fs::read(place.join("text")).unwrap(), [0]);
        let draft = Folder::new(home.path()).unwrap();
        fs::write(draft.path().join("text"), [2]).unwrap();
        draft.replace(&place).unwrap();
        assert_eq!(fs::read(place.join("text")).unwrap(), [2]);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1, "nothing is left of the others");
    }

    #[test]
    fn what_a_dead_maker_left_is_swept_away_and_a_living_one_is_not_disturbed() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        let living = Folder::new(home.path()).unwrap();
        for name in [".draft-dead", ".draft-newborn", ".gone-x"] {
            fs::create_dir(at(name)).unwrap();
        }
        drop(lock(&at(".draft-dead")).unwrap());
        sweep(home.path());
        assert!(living.path().exists() && at(".draft-newborn").exists());
        assert!(!at(".draft-dead").exists() && !at(".gone-x").exists());
    }
}
