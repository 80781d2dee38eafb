//! A volume's file becomes a layer, and the volume goes on over it.
//!
//! The layer comes first, as one more name of the volume's file; then a new file over it takes the volume's place, in one step. Who
//! dies between leaves a name too many, which is seen by what it leads to.

use std::fs::{self, File};
use std::io;

use api::{Id, Name, Time};

use super::{About, Base};
use crate::definition::{Layer, VolumeFormat};
use crate::volumes::write_about;
use crate::{Error, Pool, Result, draft};

impl Pool {
    /// Makes a layer of what is on a volume, called `layer`; the volume goes on over it. No guest may run with it.
    ///
    /// # Errors
    /// If there is no such volume, it is in use, others are based on it, there is such a layer, or the host fails: then the volume is as
    /// it was.
    pub fn freeze(&self, name: &Name, layer: Id) -> Result<Layer> {
        let _lock = self.open_volume(name, false)?;
        self.put_over(name, layer)?;
        self.frozen(name, layer)
    }

    /// The same for a volume that a guest runs with: gives the new file, locked, for its machine to go on with. Until it does, the
    /// layer is what the guest writes to. If it does not, [`unfreeze`](Self::unfreeze) is to be called.
    ///
    /// Should this process die before that is done, the volume has all that its guest has written, whether it was in the layer or over it.
    /// Only that nothing was written to the layer later is not known then: it is to be deleted.
    ///
    /// # Errors
    /// As for [`freeze`](Self::freeze), but that it is in use.
    pub fn freeze_running(&self, name: &Name, layer: Id) -> Result<File> {
        self.check_not_base(name)?;
        self.put_over(name, layer)
    }

    /// Has a volume go on in the file that became the layer `layer`, as if it had not been frozen. Nothing may have been written over
    /// it; a guest may write to the layer's file meanwhile.
    ///
    /// # Errors
    /// If there is no such volume or layer, the volume is not right over it, or in use over it, or something was written there.
    pub fn unfreeze(&self, name: &Name, layer: Id) -> Result<()> {
        let mut about = self.about_volume(name)?;
        let frozen = self.own_layer(name, layer)?;
        let (place, graph) = (self.volume(name), self.graph()?);
        let path = place.join(about.format.file());
        let top = File::options().read(true).write(true).open(&path).map_err(Error::host(&path))?;
        disk::lock(&top, false).map_err(|_| Error::InUse(name.clone()))?;
        let over = self.base_in(&path)? == Some(Base::Layer(layer));
        if !over || graph.users(layer) != (vec![name.clone()], Vec::new()) {
            return Err(Error::unusable(&path, format!("it is not alone over the layer {layer}")));
        }
        if !disk::qcow2::is_empty(&top).map_err(Error::disk(&path))? {
            return Err(Error::unusable(&path, format!("it has what was written over the layer {layer}")));
        }
        let draft = draft::Folder::new(self.folder())?;
        about.format = frozen.format;
        let link = fs::hard_link(self.layer_file(&frozen), draft.path().join(about.format.file()));
        link.map_err(Error::host(draft.path()))?;
        write_about(draft.path(), &about)?;
        draft.replace(&place).map_err(Error::host(&place))?;
        draft::discard(&self.layer(layer)).map_err(Error::host(&place))
    }

    /// The layer that a volume has become.
    fn frozen(&self, name: &Name, layer: Id) -> Result<Layer> {
        let layers = self.layers(name)?;
        layers.into_iter().find(|other| other.id == layer).ok_or(Error::NoLayer(layer))
    }

    /// Makes a layer of a volume's file, and a new file over it that takes its place; gives that one, locked.
    fn put_over(&self, name: &Name, layer: Id) -> Result<File> {
        let mut about = self.about_volume(name)?;
        let place = self.volume(name);
        let path = place.join(about.format.file());
        let file = File::open(&path).map_err(Error::host(&path))?;
        let size = self.size_of(&file, about.format, &path)?;
        self.forget_links(name)?;
        let frozen = About { id: layer, volume: Some(about.id), format: about.format, created: Time::now() };
        let draft = draft::Folder::new(self.folder())?;
        fs::hard_link(&path, draft.path().join(frozen.file())).map_err(Error::host(&path))?;
        frozen.write(draft.path())?;
        draft.keep(&self.layer(layer)).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::LayerExists(layer),
            _ => Error::host(&path)(error),
        })?;
        about.format = VolumeFormat::Qcow2;
        let top = self.go_on_over(&frozen, &place, &about, size);
        if top.is_err() {
            // It is one more name of the file that is the volume's still.
            let _ = draft::discard(&self.layer(layer));
        }
        top
    }

    /// Puts a new file of `size` bytes over a layer into the place of a volume; gives it, locked.
    pub(super) fn go_on_over(
        &self,
        layer: &About,
        place: &std::path::Path,
        about: &crate::volumes::About,
        size: u64,
    ) -> Result<File> {
        let draft = draft::Folder::new(self.folder())?;
        let path = draft.path().join(VolumeFormat::Qcow2.file());
        let made = disk::qcow2::create_layer(&path, &layer.name(), layer.format.into(), size);
        made.map_err(Error::disk(&path))?;
        let top = File::options().read(true).write(true).open(&path).map_err(Error::host(&path))?;
        disk::lock(&top, false).map_err(Error::disk(&path))?;
        write_about(draft.path(), about)?;
        draft.replace(place).map_err(Error::host(place))?;
        Ok(top)
    }

    /// Removes what is one more name of a volume's file: nobody goes on over it any more.
    fn forget_links(&self, name: &Name) -> Result<()> {
        let (about, graph) = (self.about_volume(name)?, self.graph()?);
        for (layer, _) in graph.layers.values() {
            if layer.volume == Some(about.id) && self.is_link(layer, &graph) && !graph.is_used(layer.id) {
                draft::discard(&self.layer(layer.id)).map_err(Error::host(self.folder()))?;
            }
        }
        Ok(())
    }
}
