//! Where images are kept: one folder an image. An image appears under its name only when it is whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use api::{DiskFormat, ImageChange, ImageInfo, ImageName, Size, Time};
use disk::qcow2::Header;
use serde::{Deserialize, Serialize};

use crate::{Error, Result, draft};

/// The name of the file that describes an image.
pub(super) const ABOUT_FILE: &str = "image.json";

/// What is known of an image beside its disk; `image.json`. Files are named relative to the image's folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct About {
    /// What it is for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Words to find it by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// When it came to this store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Time>,
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

impl About {
    /// Reads the file of it.
    ///
    /// # Errors
    /// If it cannot be read, or says something else.
    pub fn read(path: &Path) -> Result<About> {
        let text = fs::read(path).map_err(|error| Error::unusable(path, error))?;
        serde_json::from_slice(&text).map_err(|error| Error::unusable(path, error))
    }
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

    /// How the disk's file is laid out, the size of the disk as a guest sees it, and what it takes on the host's disk, in bytes.
    fn look(&self) -> io::Result<(disk::Format, u64, u64)> {
        let file = File::open(self.disk())?;
        let (format, meta) = (disk::Format::of(&file)?, file.metadata()?);
        let size = match format {
            disk::Format::Raw => meta.len(),
            // One that is damaged has none.
            disk::Format::Qcow2 => Header::read(&file).map_or(0, |header| header.size),
        };
        Ok((format, size, meta.blocks() * 512))
    }

    /// How the disk's file is laid out.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn format(&self) -> Result<disk::Format> {
        self.look().map(|(format, ..)| format).map_err(Error::host(&self.disk()))
    }

    /// The size of the disk as a guest sees it, and what it takes on the host's disk, in bytes; zeroes if the host cannot tell.
    pub fn disk_sizes(&self) -> (u64, u64) {
        self.look().map_or((0, 0), |(_, size, used)| (size, used))
    }

    /// All there is to say of it to somebody elsewhere.
    pub fn info(&self) -> ImageInfo {
        // An image whose disk is gone is still told of.
        let (format, size, used) = self.look().unwrap_or((disk::Format::Raw, 0, 0));
        ImageInfo {
            name: self.name.clone(),
            description: self.about.description.clone(),
            labels: self.about.labels.clone(),
            origin: self.about.origin.clone(),
            size: Size(size),
            used: Size(used),
            format: match format {
                disk::Format::Raw => DiskFormat::Raw,
                disk::Format::Qcow2 => DiskFormat::Qcow2,
            },
            command_line: self.about.cmdline.clone(),
            created: self.about.created,
        }
    }
}

/// The folder of images.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// The store in a folder, which need not exist yet.
    pub fn new(folder: impl Into<PathBuf>) -> Store {
        Store { folder: folder.into() }
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Removes what others were making, or removing, who are gone.
    pub fn sweep(&self) {
        draft::sweep(&self.folder);
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
            Err(error) => return Err(Error::unusable(&about, error)),
        };
        let about = serde_json::from_slice(&text).map_err(|error| Error::unusable(&about, error))?;
        Ok(Some(Image { name: name.clone(), folder, about }))
    }

    /// The image of this name.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub fn get(&self, name: &ImageName) -> Result<Image> {
        self.find(name)?.ok_or_else(|| Error::NoImage(name.clone()))
    }

    /// Whether a new image can have a name.
    pub(super) fn check_free(&self, name: &ImageName, replace: bool) -> Result<()> {
        if !replace && self.find(name)?.is_some() {
            return Err(Error::ImageExists(name.clone()));
        }
        Ok(())
    }

    /// Starts a new image; it is in the store only when [`Draft::keep`] is called. `replace` allows the name to be taken.
    pub(super) fn draft(&self, name: &ImageName, replace: bool) -> Result<Draft> {
        self.check_free(name, replace)?;
        let folder = draft::Folder::new(&self.folder)?;
        Ok(Draft { folder, name: name.clone(), place: self.folder.join(name.as_str()), replace })
    }

    /// Changes what is said of an image, and what it is called: one thing after the other, each whole or not at all.
    ///
    /// # Errors
    /// If the change is wrong, there is no such image, the new name is taken, or the host fails.
    pub fn change(&self, name: &ImageName, change: &ImageChange) -> Result<Image> {
        let wrong = change.check();
        if !wrong.is_empty() {
            return Err(Error::Invalid(wrong));
        }
        let Image { folder, mut about, .. } = self.get(name)?;
        if let Some(description) = &change.description {
            about.description.clone_from(description);
        }
        for (key, value) in &change.labels {
            match value {
                Some(value) => about.labels.insert(key.clone(), value.clone()),
                None => about.labels.remove(key),
            };
        }
        if let Some(line) = &change.command_line {
            about.cmdline.clone_from(line);
        }
        let path = folder.join(ABOUT_FILE);
        let text = serde_json::to_vec_pretty(&about).map_err(io::Error::from);
        text.and_then(|text| draft::write(&path, &text)).map_err(Error::host(&path))?;
        match &change.name {
            Some(new) if new != name => self.rename(name, new),
            _ => self.get(name),
        }
    }

    fn rename(&self, name: &ImageName, new: &ImageName) -> Result<Image> {
        let (from, to) = (self.folder.join(name.as_str()), self.folder.join(new.as_str()));
        match fs::rename(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                return Err(Error::ImageExists(new.clone()));
            }
            result => result.and_then(|()| draft::sync(&self.folder)).map_err(Error::host(&to))?,
        }
        self.get(new)
    }

    /// Removes an image.
    ///
    /// # Errors
    /// If there is none, or the host cannot remove it.
    pub fn remove(&self, name: &ImageName) -> Result<()> {
        let folder = self.folder.join(name.as_str());
        if !folder.exists() {
            return Err(Error::NoImage(name.clone()));
        }
        draft::discard(&folder).map_err(|error| Error::unusable(&folder, error))?;
        draft::sweep(&self.folder);
        Ok(())
    }

    fn failure(&self, error: io::Error) -> Error {
        Error::unusable(&self.folder, error)
    }
}

/// An image in the making. Dropping it leaves nothing behind.
#[derive(Debug)]
pub(super) struct Draft {
    folder: draft::Folder,
    name: ImageName,
    place: PathBuf,
    replace: bool,
}

impl Draft {
    /// The folder to put the image's files into.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Puts the image into the store under its name.
    pub fn keep(self, about: &About) -> Result<()> {
        let text = serde_json::to_vec_pretty(about).map_err(io::Error::from);
        let written = text.and_then(|text| fs::write(self.folder().join(ABOUT_FILE), text));
        written.map_err(Error::host(&self.place))?;
        let kept =
            if self.replace { self.folder.replace(&self.place) } else { self.folder.keep(&self.place) };
        kept.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::ImageExists(self.name),
            _ => Error::host(&self.place)(error),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("images");
        (home, Store::new(folder))
    }

    fn about() -> About {
        About {
            description: String::new(),
            labels: BTreeMap::new(),
            created: None,
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
    fn an_image_is_called_otherwise_and_described_anew() {
        let (_home, store) = store();
        let [one, two, three] = ["one", "two", "three"].map(|name| name.parse::<ImageName>().unwrap());
        for name in [&one, &three] {
            let draft = store.draft(name, false).unwrap();
            fs::write(draft.folder().join("disk.raw"), b"12345").unwrap();
            draft.keep(&about()).unwrap();
        }
        let change = |text: &str| serde_json::from_str::<ImageChange>(text).unwrap();
        let said = r#"{"name": "two", "description": "for web", "labels": {"a": "b", "c": null}}"#;
        let image = store.change(&one, &change(said)).unwrap();
        assert_eq!((image.name.as_str(), image.about.description.as_str()), ("two", "for web"));
        assert_eq!(image.about.labels, BTreeMap::from([("a".into(), "b".into())]));
        assert_eq!(fs::read(image.disk()).unwrap(), b"12345");
        assert!(store.find(&one).unwrap().is_none());
        let image = store.change(&two, &change(r#"{"labels": {"a": null}}"#)).unwrap();
        assert_eq!((image.about.description.as_str(), image.about.labels.len()), ("for web", 0));
        let error = store.change(&two, &change(r#"{"name": "three"}"#)).unwrap_err();
        assert!(matches!(error, Error::ImageExists(name) if name == three));
        assert!(matches!(store.change(&one, &change("{}")), Err(Error::NoImage(_))));
        let error = store.change(&two, &change(r#"{"labels": {"a b": "c"}}"#)).unwrap_err();
        assert!(matches!(&error, Error::Invalid(wrong) if wrong[0].pointer == "/labels"), "{error}");
    }

    #[test]
    fn a_taken_name_is_replaced_only_when_asked() {
        let (_home, store) = store();
        let name = "one".parse::<ImageName>().unwrap();
        store.draft(&name, false).unwrap().keep(&about()).unwrap();
        assert!(store.draft(&name, false).is_err());
        store.draft(&name, true).unwrap().keep(&about()).unwrap();
        store.remove(&name).unwrap();
        assert!(matches!(store.remove(&name), Err(Error::NoImage(_))));
        assert_eq!(fs::read_dir(&store.folder).unwrap().count(), 0);
    }
}
