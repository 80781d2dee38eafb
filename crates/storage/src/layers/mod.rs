//! The layers of volumes: what a volume was at some time, kept as it was.
//!
//! ```text
//! NAME/disk.qcow2 ──▶ .layer-ID/ID.qcow2 ──▶ .layer-ID/ID.raw        each is based on the one that its header names
//! ```
//!
//! To freeze a volume makes a layer of its file, and the volume goes on in a new qcow2 file over it. A volume that is reverted goes on
//! over one of its layers, so they form a tree; and new volumes can begin over a layer of another one. Layers lie beside the
//! volumes, as deep in the pool as they: so the names in headers stay good when a file becomes a layer, when its volume gets
//! another name, and when the pool is moved.
//!
//! Who uses which layer is only in the headers, and whose it is in `layer.json`: what a crash leaves says itself what it is. A layer
//! goes when its volume is gone, or does not want it any more, and nothing is based on it.

pub(crate) mod delete;
mod freeze;
mod graph;
mod in_use;
mod revert;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use api::{Id, Name, Size, Time};
use disk::qcow2::Header;
use serde::{Deserialize, Serialize};

use crate::definition::{Layer, VolumeFormat};
use crate::{Error, Pool, Result, draft};

pub use delete::Deleted;
pub use graph::{Base, Graph};
pub use in_use::Below;

/// How the names of the folders of layers begin.
const LAYER: &str = ".layer-";
const ABOUT: &str = "layer.json";

/// What is known of a layer beside its file; `layer.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct About {
    id: Id,
    /// The id of the volume that it was; none if that one does not want it any more.
    #[serde(default)]
    volume: Option<Id>,
    format: VolumeFormat,
    created: Time,
}

impl About {
    fn file(&self) -> String {
        let end = match self.format {
            VolumeFormat::Raw => "raw",
            VolumeFormat::Qcow2 => "qcow2",
        };
        format!("{}.{end}", self.id)
    }

    /// What the headers of volumes and of other layers call it.
    fn name(&self) -> String {
        format!("../{LAYER}{}/{}", self.id, self.file())
    }

    fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(ABOUT);
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::from);
        text.and_then(|text| draft::write(&path, &text)).map_err(Error::host(&path))
    }
}

impl Pool {
    /// The layers of a volume, the oldest first.
    ///
    /// # Errors
    /// If there is no such volume, or something in the pool cannot be read.
    pub fn layers(&self, name: &Name) -> Result<Vec<Layer>> {
        let volume = self.about_volume(name)?;
        let graph = self.graph()?;
        let own = graph.layers.values().filter(|(about, _)| about.volume == Some(volume.id));
        let own = own.filter(|(about, _)| !self.is_link(about, &graph));
        let mut layers =
            own.map(|(about, _)| self.describe_layer(about, &graph)).collect::<Result<Vec<_>>>()?;
        layers.sort_by_key(|layer| (layer.created, layer.id));
        Ok(layers)
    }

    /// Whether there is any layer in the pool: most have none, and nothing has to be looked at then.
    ///
    /// # Errors
    /// If the pool cannot be read.
    pub fn has_layers(&self) -> Result<bool> {
        let entries = fs::read_dir(self.folder()).map_err(Error::host(self.folder()))?;
        let is_layer = |name: std::ffi::OsString| name.to_string_lossy().starts_with(LAYER);
        Ok(entries.filter_map(io::Result::ok).any(|entry| is_layer(entry.file_name())))
    }

    /// Whether there is any layer that nobody wants any more, and whose file is still there.
    ///
    /// # Errors
    /// If the pool cannot be read.
    pub fn has_unwanted_layers(&self) -> Result<bool> {
        if !self.has_layers()? {
            return Ok(false);
        }
        let graph = self.graph()?;
        Ok(graph.layers.values().any(|(about, _)| !graph.is_kept(about)))
    }

    /// The layers of all volumes, each with its volume.
    ///
    /// # Errors
    /// If the pool cannot be read.
    pub fn layers_of_all(&self) -> Result<Vec<(Name, Id)>> {
        if !self.has_layers()? {
            return Ok(Vec::new());
        }
        let graph = self.graph()?;
        let of = |about: &About| graph.volumes.iter().find(|volume| Some(volume.id) == about.volume);
        let all = graph.layers.values().filter_map(|(about, _)| Some((of(about)?.name.clone(), about.id)));
        Ok(all.collect())
    }

    fn describe_layer(&self, about: &About, graph: &Graph) -> Result<Layer> {
        let path = self.layer_file(about);
        let file = File::open(&path).map_err(Error::host(&path))?;
        let allocated = std::os::unix::fs::MetadataExt::blocks(&file.metadata().map_err(Error::host(&path))?);
        Ok(Layer {
            id: about.id,
            size: Size(self.size_of(&file, about.format, &path)?),
            allocated: Size(allocated * 512),
            based_on: graph.kept_below(graph.base_of_layer(about.id)),
            layers: graph.kept_layers_over(about.id),
            volumes: graph.volumes_over(about.id),
            created: about.created,
        })
    }

    /// The layer of this volume.
    fn own_layer(&self, name: &Name, layer: Id) -> Result<About> {
        let volume = self.about_volume(name)?;
        let about = self.about_layer(layer)?.filter(|about| about.volume == Some(volume.id));
        about.ok_or(Error::NoLayer(layer))
    }

    fn layer(&self, id: Id) -> PathBuf {
        self.folder().join(format!("{LAYER}{id}"))
    }

    fn layer_file(&self, about: &About) -> PathBuf {
        self.layer(about.id).join(about.file())
    }

    /// What is known of a layer, if it is there.
    fn about_layer(&self, id: Id) -> Result<Option<About>> {
        let path = self.layer(id).join(ABOUT);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result.map_err(Error::host(&path))?,
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| Error::unusable(&path, error))
    }

    /// Bytes of the disk in a file.
    fn size_of(&self, file: &File, format: VolumeFormat, path: &Path) -> Result<u64> {
        match format {
            VolumeFormat::Raw => file.metadata().map(|meta| meta.len()).map_err(Error::host(path)),
            VolumeFormat::Qcow2 => Header::read(file).map(|header| header.size).map_err(Error::disk(path)),
        }
    }

    /// Whether a layer is only one more name of what is a volume's disk: somebody died before its volume went on over it, or after it
    /// was made the volume's disk again.
    fn is_link(&self, about: &About, graph: &Graph) -> bool {
        let Ok(layer) = who(&self.layer_file(about)) else { return false };
        let tops = graph.volumes.iter().filter(|volume| Some(volume.id) == about.volume);
        let mut tops = tops.map(|volume| self.volume(&volume.name).join(volume.format.file()));
        tops.any(|top| who(&top).is_ok_and(|top| top == layer))
    }

    /// Whether a layer is only one more name of what is another one's file: somebody died after the two were merged. Who has that file
    /// locked has it by the other name.
    fn is_twin(&self, about: &About, graph: &Graph) -> bool {
        let Ok(file) = who(&self.layer_file(about)) else { return false };
        let mut others = graph.layers.values().filter(|(other, _)| other.id != about.id);
        others.any(|(other, _)| who(&self.layer_file(other)).is_ok_and(|other| other == file))
    }

    /// Removes the layers that nobody needs any more. One that is in use is locked, and stays.
    pub(crate) fn sweep_layers(&self) -> Result<()> {
        // A layer that goes may have been the last that needed another one.
        while self.sweep_once()? {}
        Ok(())
    }

    fn sweep_once(&self) -> Result<bool> {
        let forsaken = |graph: &Graph| {
            let mut all = graph.layers.values().map(|(about, _)| about.clone()).collect::<Vec<_>>();
            all.retain(|about| {
                !graph.is_used(about.id) && (!graph.is_kept(about) || self.is_link(about, graph))
            });
            all
        };
        let mut any = false;
        for about in forsaken(&self.graph()?) {
            let path = self.layer_file(&about);
            let file = File::options().read(true).write(true).open(&path);
            let locked = match &file {
                Ok(file) => disk::lock(file, false).is_ok() || self.is_twin(&about, &self.graph()?),
                // Without its file it is of no use to anybody.
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            };
            // The lock first: who begins something over it from now on waits for the answer.
            if locked && forsaken(&self.graph()?).iter().any(|other| other.id == about.id) {
                draft::discard(&self.layer(about.id)).map_err(Error::host(&path))?;
                any = true;
            }
        }
        Ok(any)
    }
}

/// Which file a name leads to.
fn who(path: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).map(|meta| (meta.dev(), meta.ino()))
}
