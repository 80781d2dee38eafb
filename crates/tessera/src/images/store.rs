//! Where images are kept: one folder an image, under `$TESSERA_HOME/images` or `~/.local/share/tessera/images`.
//!
//! An image appears under its name only when it is whole: it is made in a folder whose name starts with a dot and then
//! renamed. Folders that a killed process left are swept away at the next change.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use api::ImageName;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Result};

/// The name of the file that describes an image.
const ABOUT_FILE: &str = "image.json";

/// What is known of an image beside its disk; `image.json`. Files are named relative to the image's folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct About {
    /// Where it came from, for a person.
    pub origin: String,
    /// The disk.
    pub disk: String,
    /// The kernel.
    pub kernel: String,
    /// The initial RAM disk.
    pub initrd: Option<String>,
    /// The kernel's command line.
    pub cmdline: String,
}

/// One image in the store.
#[derive(Debug)]
pub struct Image {
    /// Its name.
    pub name: ImageName,
    /// Its folder.
    pub folder: PathBuf,
    /// What it consists of.
    pub about: About,
}

impl Image {
    /// The disk's file.
    pub fn disk(&self) -> PathBuf {
        self.folder.join(&self.about.disk)
    }

    /// The kernel's file.
    pub fn kernel(&self) -> PathBuf {
        self.folder.join(&self.about.kernel)
    }

    /// The initial RAM disk's file.
    pub fn initrd(&self) -> Option<PathBuf> {
        self.about.initrd.as_ref().map(|initrd| self.folder.join(initrd))
    }

    /// The length of the disk's file and what it takes on the host's disk, in bytes.
    pub fn disk_sizes(&self) -> (u64, u64) {
        fs::metadata(self.disk()).map(|meta| (meta.len(), meta.blocks() * 512)).unwrap_or((0, 0))
    }
}

/// The folder of images.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// Opens the store of this user; its folder need not exist yet.
    pub fn open() -> Result<Store> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = set("TESSERA_HOME")
            .or_else(|| set("XDG_DATA_HOME").map(|data| data.join("tessera")))
            .or_else(|| set("HOME").map(|home| home.join(".local/share/tessera")))
            .ok_or_else(|| Failure::input("no place for images: set TESSERA_HOME to a folder"))?;
        Ok(Store { folder: home.join("images") })
    }

    /// All images, by name. A folder that holds none is passed over.
    pub fn list(&self) -> Result<Vec<Image>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.failure(error)),
        };
        let mut images = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| self.failure(error))?;
            let name = entry.file_name();
            if let Some(Ok(name)) = name.to_str().map(ImageName::from_str)
                && let Some(image) = self.find(&name)?
            {
                images.push(image);
            }
        }
        images.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(images)
    }

    /// The image of this name, or `None` if there is none.
    pub fn find(&self, name: &ImageName) -> Result<Option<Image>> {
        let folder = self.folder.join(name.as_str());
        let about = folder.join(ABOUT_FILE);
        let text = match fs::read(&about) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::input(format!("{}: {error}", about.display()))),
        };
        let about = serde_json::from_slice(&text)
            .map_err(|error| Failure::input(format!("{}: {error}", about.display())))?;
        Ok(Some(Image { name: name.clone(), folder, about }))
    }

    /// Starts a new image; it is in the store only when [`Draft::keep`] is called. `replace` allows the name to be taken.
    pub fn draft(&self, name: &ImageName, replace: bool) -> Result<Draft> {
        if !replace && self.find(name)?.is_some() {
            return Err(Failure::input(format!(
                "an image {name} exists already: remove it, use --force or give another name"
            )));
        }
        fs::create_dir_all(&self.folder).map_err(|error| self.failure(error))?;
        self.sweep();
        let folder = tempfile::Builder::new()
            .prefix(".draft-")
            .tempdir_in(&self.folder)
            .map_err(|error| self.failure(error))?;
        let lock = File::open(folder.path()).map_err(|error| self.failure(error))?;
        try_lock(&lock);
        Ok(Draft { folder, target: self.folder.join(name.as_str()), _lock: lock })
    }

    /// Removes an image.
    pub fn remove(&self, name: &ImageName) -> Result<()> {
        let folder = self.folder.join(name.as_str());
        if !folder.exists() {
            return Err(Failure::input(format!("there is no image {name}")));
        }
        discard(&folder).map_err(|error| Failure::input(format!("{}: {error}", folder.display())))?;
        self.sweep();
        Ok(())
    }

    /// Removes drafts whose maker is gone: a living one holds the lock on its folder.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            let dotted = entry.file_name().to_string_lossy().starts_with('.');
            if dotted && File::open(entry.path()).is_ok_and(|folder| try_lock(&folder)) {
                // What cannot be removed now is tried again at the next change.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    fn failure(&self, error: io::Error) -> Failure {
        Failure::input(format!("{}: {error}", self.folder.display()))
    }
}

/// An image in the making. Dropping it leaves nothing behind.
#[derive(Debug)]
pub struct Draft {
    folder: tempfile::TempDir,
    target: PathBuf,
    _lock: File,
}

impl Draft {
    /// The folder to put the image's files into.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Puts the image into the store under its name.
    pub fn keep(self, about: &About) -> Result<()> {
        let keep = || {
            fs::write(self.folder().join(ABOUT_FILE), serde_json::to_vec_pretty(about)?)?;
            fs::set_permissions(self.folder(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
            if self.target.exists() {
                discard(&self.target)?;
            }
            fs::rename(self.folder(), &self.target)
        };
        keep().map_err(|error: io::Error| Failure::internal(format!("{}: {error}", self.target.display())))
    }
}

/// Takes an image's folder away at once, so that nobody sees half of it, and then removes it.
fn discard(folder: &Path) -> io::Result<()> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let gone = folder.with_file_name(format!(".gone-{name}-{}", std::process::id()));
    fs::rename(folder, &gone)?;
    fs::remove_dir_all(gone)
}

/// Takes the lock on a folder, if nobody has it.
fn try_lock(folder: &File) -> bool {
    // SAFETY: flock only reads its two integers, and the descriptor is open for as long as `folder` is borrowed.
    unsafe { libc::flock(folder.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("images");
        (home, Store { folder })
    }

    fn about() -> About {
        About {
            origin: "test".into(),
            disk: "disk.raw".into(),
            kernel: "vmlinuz".into(),
            initrd: None,
            cmdline: "x".into(),
        }
    }

    #[test]
    fn an_image_is_seen_only_when_it_is_kept() {
        let (_home, store) = store();
        let name = "one".parse::<ImageName>().unwrap();
        let draft = store.draft(&name, false).unwrap();
        fs::write(draft.folder().join("disk.raw"), b"12345").unwrap();
        assert!(store.list().unwrap().is_empty());
        draft.keep(&about()).unwrap();
        let image = store.find(&name).unwrap().unwrap();
        assert_eq!(fs::read(image.disk()).unwrap(), b"12345");
        assert_eq!(store.list().unwrap().len(), 1);
    }

    #[test]
    fn a_dropped_draft_leaves_nothing() {
        let (_home, store) = store();
        drop(store.draft(&"one".parse::<ImageName>().unwrap(), false).unwrap());
        assert_eq!(fs::read_dir(&store.folder).unwrap().count(), 0);
    }

    #[test]
    fn a_draft_whose_maker_died_is_swept_and_a_living_one_is_not() {
        let (_home, store) = store();
        let dead = store.folder.join(".draft-dead");
        fs::create_dir_all(&dead).unwrap();
        let one = store.draft(&"one".parse::<ImageName>().unwrap(), false).unwrap();
        assert!(!dead.exists());
        let _two = store.draft(&"two".parse::<ImageName>().unwrap(), false).unwrap();
        assert!(one.folder().exists());
    }

    #[test]
    fn a_taken_name_is_replaced_only_when_asked() {
        let (_home, store) = store();
        let name = "one".parse::<ImageName>().unwrap();
        store.draft(&name, false).unwrap().keep(&about()).unwrap();
        assert!(store.draft(&name, false).is_err());
        store.draft(&name, true).unwrap().keep(&about()).unwrap();
        store.remove(&name).unwrap();
        assert!(store.remove(&name).is_err());
        assert_eq!(fs::read_dir(&store.folder).unwrap().count(), 0);
    }
}
