//! Going on from a layer: the volume that it is of, or a new one.

use std::fs::File;
use std::path::PathBuf;

use api::{Id, Name, Size, Time};

use super::About;
use crate::definition::{Volume, VolumeFormat};
use crate::volumes::{About as AboutVolume, link};
use crate::{Error, Pool, Result, draft};

impl Pool {
    /// Has a volume go on from one of its layers: what was written since it last went on from one is lost. No guest may run with it.
    ///
    /// # Errors
    /// If there is no such volume or layer, it is in use, others are based on it, or the host fails: then the volume is as it was.
    pub fn revert(&self, name: &Name, layer: Id) -> Result<Volume> {
        let lock = self.open_volume(name, false)?;
        let mut about = self.about_volume(name)?;
        let layer = self.own_layer(name, layer)?;
        let (file, path) = self.hold_layer(&layer)?;
        let size = self.size_of(&file, layer.format, &path)?;
        about.format = VolumeFormat::Qcow2;
        self.go_on_over(&layer, &self.volume(name), &about, size)?;
        drop(lock);
        // What was below the old file only.
        self.sweep_layers()?;
        self.sweep_bases()?;
        self.get(name, Vec::new())
    }

    /// Makes a volume that begins with what is in a layer, whoever's it is, and has only what differs from it: it takes no longer for a
    /// large one. It is as long as the layer unless `size` says more.
    ///
    /// # Errors
    /// If there is no such layer, the name is taken, the size is less than the layer's, or the host fails.
    pub fn clone_layer(
        &self,
        layer: Id,
        name: &Name,
        description: &str,
        size: Option<Size>,
    ) -> Result<Volume> {
        if self.volume(name).exists() {
            return Err(Error::VolumeExists(name.clone()));
        }
        let about = self.about_layer(layer)?.filter(|about| about.volume.is_some());
        let layer = about.ok_or(Error::NoLayer(layer))?;
        let _lock = self.hold_layer(&layer)?;
        let draft = draft::Folder::new(self.folder())?;
        let format = VolumeFormat::Qcow2;
        link(&draft.path().join(format.file()), &layer.name(), layer.format.into(), size)?;
        let description = description.to_owned();
        let about = AboutVolume { id: Id::new(), description, format, created: Time::now() };
        self.publish(draft, name, &about)
    }

    /// A layer's file, locked: it stays while this is there.
    fn hold_layer(&self, layer: &About) -> Result<(File, PathBuf)> {
        let path = self.layer_file(layer);
        let file = File::open(&path).map_err(Error::host(&path))?;
        disk::lock(&file, true).map_err(Error::disk(&path))?;
        // It may have gone before it was locked.
        if self.about_layer(layer.id)?.is_none_or(|about| about.volume.is_none()) {
            return Err(Error::NoLayer(layer.id));
        }
        Ok((file, path))
    }
}
