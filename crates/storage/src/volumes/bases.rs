//! Disks of images that volumes of a pool are based on.
//!
//! The first volume that is linked to an image brings the image's disk into the pool: by another name for the same file, if both
//! are on one file system, or by a copy. So the pool holds all that its volumes need, and an image can be replaced or removed
//! under them. With the last volume that is based on it the disk goes too.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;

use api::{ImageName, Name};
use disk::Format;
use serde::{Deserialize, Serialize};

use crate::images::Image;
use crate::pool::BASES;
use crate::{Error, Pool, Progress, Result, draft, sparse};

const ABOUT: &str = "base.json";

#[derive(Debug, Serialize, Deserialize)]
struct About {
    image: ImageName,
}

/// A disk that a volume can be based on.
pub struct Base {
    /// What the header of a volume calls it.
    pub name: String,
    pub format: Format,
    /// Keeps it from being removed.
    pub lock: File,
}

impl Pool {
    /// The disk of an image in this pool.
    pub(super) fn base(&self, image: &Image, progress: &dyn Progress) -> Result<Base> {
        let path = image.disk();
        let source = File::open(&path).map_err(|error| Error::unusable(&path, error))?;
        disk::lock(&source, true).map_err(Error::disk(&path))?;
        let format = Format::of(&source).map_err(Error::host(&path))?;
        let file = if format == Format::Raw { "disk.raw" } else { "disk.qcow2" };
        let key = key(&source.metadata().map_err(Error::host(&path))?);
        let place = self.folder().join(BASES).join(&key);
        loop {
            if !place.exists() {
                self.bring(&source, image, file, &place, progress)?;
            }
            let there = File::open(place.join(file));
            match there {
                Ok(there) => {
                    disk::lock(&there, true).map_err(Error::disk(&place))?;
                    if place.join(file).exists() {
                        return Ok(Base { name: format!("../{BASES}/{key}/{file}"), format, lock: there });
                    }
                }
                // Its last volume went this moment.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::host(&place)(error)),
            }
        }
    }

    fn bring(
        &self,
        source: &File,
        image: &Image,
        file: &str,
        place: &std::path::Path,
        progress: &dyn Progress,
    ) -> Result<()> {
        let draft = draft::Folder::new(&self.folder().join(BASES))?;
        let to = draft.path().join(file);
        if fs::hard_link(image.disk(), &to).is_err() {
            progress.step("copying the image into the pool");
            let to = File::create_new(&to).map_err(Error::host(&to))?;
            sparse::copy(source, &image.disk(), &to, progress)?;
        }
        let about = serde_json::to_vec_pretty(&About { image: image.name.clone() }).map_err(io::Error::from);
        about.and_then(|about| fs::write(draft.path().join(ABOUT), about)).map_err(Error::host(place))?;
        match draft.keep(place) {
            // Somebody else brought it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result.map_err(Error::host(place)),
        }
    }

    /// The image that a base is the disk of.
    pub(super) fn base_image(&self, key: &str) -> Option<ImageName> {
        let text = fs::read(self.folder().join(BASES).join(key).join(ABOUT)).ok()?;
        Some(serde_json::from_slice::<About>(&text).ok()?.image)
    }

    /// Removes the disks that no volume is based on any more. One that is being linked to is locked, and stays.
    pub(crate) fn sweep_bases(&self) -> Result<()> {
        let folder = self.folder().join(BASES);
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => result.map_err(Error::host(&folder))?,
        };
        let kept: Vec<_> = entries.flatten().filter(|entry| entry.path().join(ABOUT).exists()).collect();
        for entry in kept {
            let key = entry.file_name().to_string_lossy().into_owned();
            let file = ["disk.raw", "disk.qcow2"]
                .map(|file| entry.path().join(file))
                .into_iter()
                .find(|path| path.exists());
            let Some(file) = file.and_then(|path| File::options().read(true).write(true).open(path).ok())
            else {
                continue;
            };
            // The lock first: whoever links to it from now on waits for the answer.
            let free = disk::lock(&file, false).is_ok();
            if free && self.bases_in_use()?.is_some_and(|used| !used.contains(&key)) {
                draft::discard(&entry.path()).map_err(Error::host(&folder))?;
            }
        }
        draft::sweep(&folder);
        Ok(())
    }

    /// The keys of all that volumes and layers are based on; nothing if that of one of them cannot be read.
    fn bases_in_use(&self) -> Result<Option<HashSet<String>>> {
        let graph = self.graph()?;
        Ok((!graph.damaged).then(|| graph.images().map(str::to_owned).collect()))
    }

    /// The volumes that are based on the disk of an image, whatever it was called when they were made.
    ///
    /// # Errors
    /// If the host cannot read the pool or the image.
    pub fn based_on_image(&self, image: &Image) -> Result<Vec<Name>> {
        let path = image.disk();
        let key = key(&fs::metadata(&path).map_err(Error::host(&path))?);
        let key = Some(crate::layers::Base::Image(key));
        let based =
            |name: &Name| self.root_of(&self.volume(name).join("disk.qcow2")).is_ok_and(|base| base == key);
        Ok(self.names()?.into_iter().filter(based).collect())
    }
}

/// The same for the same file of an image, and for no other: an image's files never change.
fn key(meta: &fs::Metadata) -> String {
    format!(
        "{:x}-{:x}-{:x}-{:x}",
        meta.dev(),
        meta.ino(),
        meta.mtime() * 1_000_000_000 + meta.mtime_nsec(),
        meta.len()
    )
}
