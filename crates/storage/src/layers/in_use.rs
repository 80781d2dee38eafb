//! Layers that nobody wants any more, below guests that run.
//!
//! What the layer over one has is written into it, and its file then takes the other's place, as for those that nobody uses. Whoever
//! reads the two meanwhile reads through the upper one, which has all that is written: it sees nothing of that, now or later, whether it
//! goes on with the file that was replaced or takes the new one. So a machine may be told of it, for the old file to go, and need not be.
//!
//! All of it holds shared locks on the files, as those who read them do: so nobody else writes to them, and nobody removes them. Who
//! reads a layer itself, not through one over it, has a lock besides, on a file in its folder.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use api::{Id, Name};
use disk::qcow2::Header;
use disk::{Disk, Format, Stack};

use super::delete::{User, cancelled_or, clones, only_user, write_into};
use super::{About, Base, who};
use crate::definition::VolumeFormat;
use crate::volumes::{MOMENT, is_gone};
use crate::{Error, Pool, Progress, Result, draft};

/// What a volume's own file is over.
#[derive(Debug)]
pub struct Below {
    /// The layers, the nearest one first.
    pub layers: Vec<Id>,
    /// All the files, those of an image or of another volume, too, each locked for reading.
    pub files: Vec<File>,
}

/// A layer that is read as it is. Nothing is written into it as long as this is there.
pub struct ReadLayer {
    /// What is in it.
    pub disk: Stack,
    /// How many layers from it downwards have what was written since another one.
    pub since: Option<usize>,
    _lock: File,
}

/// The file in a layer's folder that is locked by who reads the layer as it is.
const READ: &str = "read";
/// A file that is about to be a layer's.
const NEXT: &str = "next";

/// Opens a file to be read, and all that it is based on: something of it may be merged this moment, and have another name the next one.
fn files(path: &Path, format: Format) -> Result<(File, Vec<File>)> {
    let deadline = Instant::now() + MOMENT;
    loop {
        match disk::files(path, format, true) {
            Err(error) if is_gone(&error) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result.map_err(Error::disk(path)),
        }
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Pool {
    /// Merges layers that nobody wants any more with the ones over them, those below guests that run, too. What is right below a volume
    /// that a guest runs with, or is a raw file, stays until it has ended. Gives the layers that have another file now: machines that
    /// read the old one are to be told of it ([`Pool::below`]), or keep it until they end.
    ///
    /// # Errors
    /// If the pool cannot be read. What cannot be merged stays.
    pub fn merge_in_use(&self, progress: &dyn Progress) -> Result<Vec<Id>> {
        // Another host does it.
        let Some(_alone) = self.merging(true)? else { return Ok(Vec::new()) };
        let (mut tried, mut replaced) = (HashSet::new(), Vec::new());
        // What nobody uses goes by the way that has less to copy.
        self.tidy_alone(progress)?;
        while let Some((layer, over)) = self.next_below_layer(&tried)? {
            progress.go_on()?;
            tried.insert(layer.id);
            match self.merge_hidden(&layer, &over, progress) {
                Ok(true) => replaced.push(over.id),
                Ok(false) | Err(Error::Disk { .. } | Error::Host { .. } | Error::Unusable { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.sweep_bases()?;
        Ok(replaced)
    }

    /// A layer that is not wanted with the one layer that is over it.
    fn next_below_layer(&self, tried: &HashSet<Id>) -> Result<Option<(About, About)>> {
        let graph = self.graph()?;
        if graph.damaged {
            return Ok(None);
        }
        let mut unwanted = graph.layers.values().filter(|(about, _)| !graph.is_kept(about));
        Ok(unwanted.find_map(|(about, _)| match only_user(&graph, about.id) {
            Some(User::Layer(over)) if !tried.contains(&about.id) => Some((about.clone(), over)),
            _ => None,
        }))
    }

    /// Writes what the layer `over` has into the one below it, whose file then takes the other's place. False if that cannot be.
    fn merge_hidden(&self, layer: &About, over: &About, progress: &dyn Progress) -> Result<bool> {
        if layer.format != VolumeFormat::Qcow2 || over.format != VolumeFormat::Qcow2 {
            return Ok(false);
        }
        progress.step("merging layers");
        let (path, below) = (self.layer_file(over), self.layer_file(layer));
        // Somebody copies it.
        let Ok(_read) = self.lock_layer(layer.id, false) else { return Ok(false) };
        let (file, backing) = files(&path, Format::Qcow2)?;
        let target = File::options().read(true).write(true).open(&below).map_err(Error::host(&below))?;
        let cluster =
            |file: &File, path| Header::read(file).map(|h| h.cluster_bits).map_err(Error::disk(path));
        // Of a larger cluster the upper one would hide only a part.
        if cluster(&target, &below)? > cluster(&file, &path)? {
            return Ok(false);
        }
        let rest = clones(&backing[1..]).map_err(Error::host(&below))?;
        let from = Stack::from_files(file, backing, Format::Qcow2, true).map_err(Error::disk(&path))?;
        let held = from.held(0..1).collect::<io::Result<Vec<_>>>().map_err(Error::host(&path))?;
        let to = Stack::hidden(target, rest).map_err(Error::disk(&below))?;
        let alone = || -> Result<bool> {
            let graph = self.graph()?;
            Ok(matches!(only_user(&graph, layer.id), Some(User::Layer(user)) if user.id == over.id))
        };
        if !alone()? {
            return Ok(false);
        }
        if to.len() != from.len() {
            to.resize(from.len()).map_err(Error::host(&below))?;
        }
        write_into(&from, &to, &held, progress).map_err(|error| cancelled_or(error, &path))?;
        if !alone()? {
            return Ok(false);
        }
        // Only the file: what is known of the layer may change meanwhile.
        let (place, next) = (self.layer(over.id), self.layer(over.id).join(NEXT));
        let put = || {
            remove_if_there(&next)?;
            fs::hard_link(&below, &next)?;
            fs::rename(&next, &path)?;
            draft::sync(&place)
        };
        put().map_err(Error::host(&place))?;
        draft::discard(&self.layer(layer.id)).map_err(Error::host(&place))?;
        Ok(true)
    }

    /// The lock on what is read of a layer as it is, with nothing over it: nothing is written into it then.
    fn lock_layer(&self, layer: Id, shared: bool) -> Result<File> {
        let path = self.layer(layer).join(READ);
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(Error::host(&path))?;
        disk::lock(&file, shared).map_err(Error::disk(&path))?;
        Ok(file)
    }

    /// Opens a layer of a volume, to be read; gives how many layers from it downwards have what was written since the layer `since` of the
    /// same volume was made, if that one is below it.
    ///
    /// # Errors
    /// If there is no such volume or layer, or it cannot be read.
    pub(crate) fn read_layer(&self, name: &Name, layer: Id, since: Option<Id>) -> Result<ReadLayer> {
        let about = self.own_layer(name, layer)?;
        let path = self.layer_file(&about);
        let lock = self.lock_layer(layer, true)?;
        loop {
            let (file, backing) = files(&path, about.format.into())?;
            let old = since.map(|since| self.own_layer(name, since)).transpose().unwrap_or_default();
            let place = match &old {
                Some(old) => who(&self.layer_file(old)).ok().and_then(|old| {
                    backing
                        .iter()
                        .position(|file| file.metadata().is_ok_and(|meta| (meta.dev(), meta.ino()) == old))
                }),
                None => None,
            };
            // Its file was replaced between two looks.
            if place.is_none() && old.is_some_and(|old| self.is_below(old.id, layer).unwrap_or(false)) {
                continue;
            }
            let disk = Stack::from_files(file, backing, about.format.into(), true);
            let disk = disk.map_err(Error::disk(&path))?;
            return Ok(ReadLayer { disk, since: place.map(|place| place + 1), _lock: lock });
        }
    }

    fn is_below(&self, lower: Id, upper: Id) -> Result<bool> {
        let graph = self.graph()?;
        let mut next = graph.base_of_layer(upper);
        for _ in 0..graph.layers.len() {
            let Some(Base::Layer(id)) = next else { break };
            if *id == lower {
                return Ok(true);
            }
            next = graph.base_of_layer(*id);
        }
        Ok(false)
    }

    /// What is below a volume that a guest runs with: what its machine is handed when layers have been merged.
    ///
    /// # Errors
    /// If there is no such volume, or a file cannot be read.
    pub fn below(&self, name: &Name) -> Result<Below> {
        let path = self.volume(name).join(self.about_volume(name)?.format.file());
        let mut below = Below { layers: Vec::new(), files: Vec::new() };
        let mut next = self.base_in(&path)?;
        while let Some(Base::Layer(id)) = next {
            let about = self.about_layer(id)?.filter(|_| !below.layers.contains(&id));
            let about = about.ok_or_else(|| Error::unusable(&path, format!("it has no layer {id}")))?;
            below.layers.push(id);
            next = self.base_in(&self.layer_file(&about))?;
        }
        let top = File::open(&path).map_err(Error::host(&path))?;
        if path.extension().is_some_and(|end| end == "qcow2")
            && let Some(backing) = Header::read(&top).map_err(Error::disk(&path))?.backing
        {
            let first = self.volume(name).join(&backing.name);
            let format = backing.format.unwrap_or(Format::Raw);
            let (file, rest) = files(&first, format)?;
            below.files.push(file);
            below.files.extend(rest);
        }
        Ok(below)
    }
}
