//! Layers that nobody wants any more: what others need of them is merged into those.
//!
//! A layer that is not wanted says so first. As long as several files are based on it, it stays for them. With one, the two become one
//! file, by the way that has less to copy:
//!
//! - up: what the layer has and the file over it has not is taken up into that one, which is based on what is below the layer then;
//! - down: what the file over it has is written into the layer, whose file then takes the other's place, in one step. Until then the
//!   other one hides all that was written.
//!
//! Whoever dies on the way leaves files that read as before, and whoever comes later begins again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use api::{Id, Name};
use disk::{Disk, Extent, Format, Stack};

use super::{About, Graph, who};
use crate::definition::VolumeFormat;
use crate::volumes::write_about;
use crate::{Error, Pool, Progress, Result, draft};

/// How much is copied at once.
const STEP: u64 = 1 << 20;

/// What is right over a layer.
pub(super) enum User {
    Volume(Name),
    Layer(About),
}

/// What has become of a layer that was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deleted {
    /// It has gone.
    Gone,
    /// Its file is still needed, for this reason; [`Pool::tidy_layers`] removes it when it can.
    Needed(String),
}

impl Pool {
    /// Deletes a layer of a volume. All other layers, the volume and what was cloned from them read as before. Where its file cannot
    /// go yet, because several are based on it or a guest runs with what is, it is no layer of the volume any more all the same.
    ///
    /// # Errors
    /// If there is no such volume or layer, or the host fails: then nothing has changed.
    pub fn delete_layer(&self, name: &Name, layer: Id, progress: &dyn Progress) -> Result<Deleted> {
        let about = self.own_layer(name, layer)?;
        About { volume: None, ..about }.write(&self.layer(layer))?;
        let mut needed = match self.tidy_layers(progress) {
            Ok(needed) => needed,
            Err(error) => BTreeMap::from([(layer, error.to_string())]),
        };
        Ok(needed.remove(&layer).map_or(Deleted::Gone, Deleted::Needed))
    }

    /// Deletes a layer, whatever its volume is called now; nothing if it is gone with that.
    ///
    /// # Errors
    /// If the host fails: then nothing has changed.
    pub fn forget_layer(&self, layer: Id, progress: &dyn Progress) -> Result<()> {
        if let Some(about) = self.about_layer(layer)? {
            About { volume: None, ..about }.write(&self.layer(layer))?;
            self.tidy_layers(progress)?;
        }
        Ok(())
    }

    /// Removes the files of layers that nobody wants any more, as far as that can be done now; gives those that are still needed,
    /// and why. To be called when guests have ended, and after their machines have taken layers up.
    ///
    /// # Errors
    /// If something in the pool cannot be read.
    pub fn tidy_layers(&self, progress: &dyn Progress) -> Result<BTreeMap<Id, String>> {
        let Some(_alone) = self.merging(false)? else {
            let graph = self.graph()?;
            let unwanted = graph.layers.values().filter(|(about, _)| !graph.is_kept(about));
            return Ok(unwanted
                .map(|(about, _)| (about.id, "other layers are being merged".into()))
                .collect());
        };
        self.tidy_alone(progress)
    }

    /// The same for whoever has seen to it that nobody else does it.
    pub(super) fn tidy_alone(&self, progress: &dyn Progress) -> Result<BTreeMap<Id, String>> {
        let mut needed = BTreeMap::new();
        self.sweep_layers()?;
        while let Some((layer, user)) = self.next_to_merge(&mut needed)? {
            if let Err(error) = self.merge(&layer, user, progress) {
                needed.insert(layer.id, error.to_string());
            }
            self.sweep_layers()?;
        }
        self.sweep_bases()?;
        Ok(needed)
    }

    /// A layer that is not wanted and that only one file is based on, of those that it is not known of why they stay.
    fn next_to_merge(&self, needed: &mut BTreeMap<Id, String>) -> Result<Option<(About, User)>> {
        let graph = self.graph()?;
        needed.retain(|id, _| graph.layers.contains_key(id));
        let tried: Vec<Id> = needed.keys().copied().collect();
        for (about, _) in graph.layers.values().filter(|(about, _)| !graph.is_kept(about)) {
            match only_user(&graph, about.id) {
                _ if tried.contains(&about.id) => {}
                _ if graph.damaged => {
                    needed.insert(
                        about.id,
                        "something in the pool that may be based on it cannot be read".into(),
                    );
                }
                Some(user) => return Ok(Some((about.clone(), user))),
                None if graph.is_used(about.id) => {
                    needed.insert(about.id, "several are based on it".into());
                }
                None => {
                    needed.insert(about.id, "it is in use".into());
                }
            }
        }
        Ok(None)
    }

    fn merge(&self, layer: &About, user: User, progress: &dyn Progress) -> Result<()> {
        progress.step("merging layers");
        let (path, below) = (self.path_of(&user)?, self.layer_file(layer));
        let room = |path: &Path| fs::metadata(path).map(|meta| meta.blocks()).map_err(Error::host(path));
        if layer.format == VolumeFormat::Qcow2 && room(&below)? > room(&path)? {
            self.merge_down(layer, &user, progress)
        } else {
            self.merge_up(&user, progress)
        }
    }

    /// The file of what is over a layer.
    fn path_of(&self, user: &User) -> Result<PathBuf> {
        Ok(match user {
            User::Volume(name) => self.volume(name).join(self.about_volume(name)?.format.file()),
            User::Layer(about) => self.layer_file(about),
        })
    }

    /// Opens a file that is over a layer, and all that it is based on, for nobody else to use it.
    fn open_user(&self, user: &User) -> Result<(File, Vec<File>)> {
        let path = self.path_of(user)?;
        if let User::Volume(name) = user {
            let opened = self.take(name, false)?;
            return Ok((opened.file, opened.backing));
        }
        let (file, backing) = disk::files(&path, Format::Qcow2, false).map_err(Error::disk(&path))?;
        let meta = file.metadata().map_err(Error::host(&path))?;
        match who(&path) {
            Ok(there) if there == (meta.dev(), meta.ino()) => Ok((file, backing)),
            _ => Err(Error::unusable(&path, "somebody else changes it")),
        }
    }

    /// Takes what a layer has into the file over it.
    fn merge_up(&self, user: &User, progress: &dyn Progress) -> Result<()> {
        let path = self.path_of(user)?;
        let (file, backing) = self.open_user(user)?;
        let disk = Stack::from_files(file, backing, Format::Qcow2, false).map_err(Error::disk(&path))?;
        let pulled = disk.pull(1, |done, total| {
            progress.amount(done, total);
            !progress.cancelled()
        });
        pulled.map_err(|error| cancelled_or(error, &path))
    }

    /// Writes what the file over a layer has into the layer, and has the layer's file take the other's place.
    fn merge_down(&self, layer: &About, user: &User, progress: &dyn Progress) -> Result<()> {
        let (path, below) = (self.path_of(user)?, self.layer_file(layer));
        let (file, mut backing) = self.open_user(user)?;
        // Files that were opened for reading only are the same otherwise.
        let target = File::options().read(true).write(true).open(&below).map_err(Error::host(&below))?;
        let rest = backing.split_off(1);
        backing = vec![target.try_clone().map_err(Error::host(&below))?];
        backing.extend(clones(&rest).map_err(Error::host(&below))?);
        let from = Stack::from_files(file, backing, Format::Qcow2, false).map_err(Error::disk(&path))?;
        let held = from.held(0..1).collect::<std::io::Result<Vec<_>>>().map_err(Error::host(&path))?;
        // Alone from here on: who would go on from the layer has to wait, and who did before is seen.
        let to = Stack::from_files(target, rest, Format::Qcow2, false).map_err(Error::disk(&below))?;
        if only_user(&self.graph()?, layer.id).is_none() {
            return Err(Error::unusable(&below, "somebody else goes on from it"));
        }
        if to.len() != from.len() {
            to.resize(from.len()).map_err(Error::host(&below))?;
        }
        write_into(&from, &to, &held, progress).map_err(|error| cancelled_or(error, &path))?;
        let draft = draft::Folder::new(self.folder())?;
        let (name, place) = match user {
            User::Volume(name) => {
                let about = self.about_volume(name)?;
                write_about(draft.path(), &about)?;
                (about.format.file().to_owned(), self.volume(name))
            }
            User::Layer(about) => {
                about.write(draft.path())?;
                (about.file(), self.layer(about.id))
            }
        };
        fs::hard_link(&below, draft.path().join(name)).map_err(Error::host(&below))?;
        draft.replace(&place).map_err(Error::host(&place))
    }
}

/// What is over a layer, if it is one file.
pub(super) fn only_user(graph: &Graph, layer: Id) -> Option<User> {
    let (mut volumes, layers) = graph.users(layer);
    match (volumes.len(), &layers[..]) {
        (1, []) => volumes.pop().map(User::Volume),
        (0, [id]) => graph.layers.get(id).map(|(about, _)| User::Layer(about.clone())),
        _ => None,
    }
}

pub(super) fn clones(files: &[File]) -> std::io::Result<Vec<File>> {
    files.iter().map(File::try_clone).collect()
}

pub(crate) fn cancelled_or(error: std::io::Error, path: &Path) -> Error {
    match error.kind() {
        std::io::ErrorKind::Interrupted => Error::Cancelled,
        _ => Error::host(path)(error),
    }
}

/// Writes what one disk has in these ranges onto another, durably.
pub(crate) fn write_into(
    from: &Stack,
    to: &Stack,
    ranges: &[Extent],
    progress: &dyn Progress,
) -> std::io::Result<()> {
    let total = ranges.iter().map(|range| range.len).sum();
    let (mut done, mut buffer) = (0, vec![0; STEP as usize]);
    for range in ranges {
        let (mut at, end) = (range.offset, range.end().min(from.len()));
        while at < end {
            if progress.cancelled() {
                return Err(std::io::ErrorKind::Interrupted.into());
            }
            let step = (end - at).min(if range.zeroes { u64::MAX } else { STEP });
            if range.zeroes {
                to.write_zeroes(at, step, true)?;
            } else {
                let buffer = &mut buffer[..step as usize];
                disk::read(from, buffer, at)?;
                disk::write(to, buffer, at)?;
            }
            (at, done) = (at + step, done + step);
            progress.amount(done, total);
        }
    }
    to.flush()
}
