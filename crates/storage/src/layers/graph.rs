//! What is based on what in a pool, as the headers say.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::Path;

use api::{Id, Name};
use disk::qcow2::Header;

use super::{About, LAYER};
use crate::definition::VolumeFormat;
use crate::pool::BASES;
use crate::{Error, Pool, Result};

/// What a file is based on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// The disk of an image, by its key.
    Image(String),
    /// A volume, as it is.
    Volume(Name),
    /// A layer.
    Layer(Id),
    /// Something that cannot be read.
    Unknown,
}

impl Base {
    /// What a header in the pool means by this name.
    fn from_name(name: &str) -> Option<Base> {
        let mut parts = name.strip_prefix("../")?.split('/');
        match (parts.next()?, parts.next()?, parts.next(), parts.next()) {
            (BASES, key, Some(_), None) => Some(Base::Image(key.to_owned())),
            (folder, _, None, None) => match folder.strip_prefix(LAYER) {
                Some(id) => id.parse().ok().map(Base::Layer),
                None => folder.parse().ok().map(Base::Volume),
            },
            _ => None,
        }
    }
}

/// A volume of the graph.
pub struct Top {
    pub name: Name,
    pub id: Id,
    pub format: VolumeFormat,
    base: Option<Base>,
}

/// Layers, and what each is based on.
type Layers = BTreeMap<Id, (About, Option<Base>)>;

/// All volumes and layers of a pool.
pub struct Graph {
    pub volumes: Vec<Top>,
    pub layers: Layers,
    /// Whether something could not be read: it may be based on anything.
    pub damaged: bool,
}

impl Pool {
    /// What is based on what.
    ///
    /// # Errors
    /// If the host cannot read the pool. What cannot be read of it may be based on anything.
    pub fn graph(&self) -> Result<Graph> {
        let (layers, mut damaged) = self.all_layers()?;
        let mut volumes = Vec::new();
        for name in self.names()? {
            let about = match self.about_volume(&name) {
                Ok(about) => about,
                Err(Error::NoVolume(_)) => continue,
                Err(_) => {
                    damaged = true;
                    continue;
                }
            };
            let base = self.base_in(&self.volume(&name).join(VolumeFormat::Qcow2.file()));
            let base = base.unwrap_or(Some(Base::Unknown));
            damaged |= base == Some(Base::Unknown);
            volumes.push(Top { name, id: about.id, format: about.format, base });
        }
        Ok(Graph { volumes, layers, damaged })
    }

    /// All layers, and whether something of them cannot be read.
    fn all_layers(&self) -> Result<(Layers, bool)> {
        let (mut layers, mut damaged) = (BTreeMap::new(), false);
        for entry in fs::read_dir(self.folder()).map_err(Error::host(self.folder()))? {
            let entry = entry.map_err(Error::host(self.folder()))?;
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.strip_prefix(LAYER)?.parse::<Id>().ok());
            match id.map(|id| self.about_layer(id)).transpose() {
                Ok(Some(Some(about))) => {
                    let base = self.base_in(&self.layer_file(&about)).unwrap_or(Some(Base::Unknown));
                    damaged |= base == Some(Base::Unknown);
                    layers.insert(about.id, (about, base));
                }
                // It is none, or went this moment.
                Ok(_) => {}
                Err(_) => damaged = true,
            }
        }
        Ok((layers, damaged))
    }

    /// What the file in `path` is based on; nothing if it is none that can be, or there is none.
    ///
    /// # Errors
    /// If its header cannot be read, or names something else than what is in the pool.
    pub fn base_in(&self, path: &Path) -> Result<Option<Base>> {
        if path.extension().is_none_or(|end| end != "qcow2") {
            return Ok(None);
        }
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result.map_err(Error::host(path))?,
        };
        let Some(backing) = Header::read(&file).map_err(Error::disk(path))?.backing else { return Ok(None) };
        Base::from_name(&backing.name).map(Some).ok_or_else(|| {
            Error::unusable(path, format!("it is based on {:?}, which is not in the pool", backing.name))
        })
    }

    /// The ids of the volumes that want a layer which is right over this volume.
    pub fn owners_of_layers_on(&self, name: &Name) -> Result<HashSet<Id>> {
        let on = Some(Base::Volume(name.clone()));
        let (layers, _) = self.all_layers()?;
        // One that cannot be read is taken for based on it rather than spoilt.
        let over = layers.values().filter(|(_, base)| *base == on || *base == Some(Base::Unknown));
        Ok(over.filter_map(|(about, _)| about.volume).collect())
    }

    /// What the file in `path` is based on below all layers.
    pub fn root_of(&self, path: &Path) -> Result<Option<Base>> {
        let mut base = self.base_in(path)?;
        let mut seen = HashSet::new();
        while let Some(Base::Layer(id)) = base {
            let about = self.about_layer(id)?.filter(|_| seen.insert(id));
            let about = about.ok_or_else(|| Error::unusable(path, format!("it has no layer {id}")))?;
            base = self.base_in(&self.layer_file(&about))?;
        }
        Ok(base)
    }
}

impl Graph {
    /// Whether the volume of a layer is there and wants it.
    pub fn is_kept(&self, about: &About) -> bool {
        about.volume.is_some_and(|id| self.volumes.iter().any(|volume| volume.id == id))
    }

    /// The keys of the images that volumes and layers are based on.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        let volumes = self.volumes.iter().map(|volume| volume.base.as_ref());
        volumes.chain(self.layers.values().map(|(_, base)| base.as_ref())).flatten().filter_map(|base| {
            match base {
                Base::Image(key) => Some(key.as_str()),
                _ => None,
            }
        })
    }

    pub fn base_of_layer(&self, id: Id) -> Option<&Base> {
        self.layers.get(&id).and_then(|(_, base)| base.as_ref())
    }

    /// The names of the volumes that are right over a layer, and the layers that are.
    pub fn users(&self, id: Id) -> (Vec<Name>, Vec<Id>) {
        let on = Some(Base::Layer(id));
        let volumes = self.volumes.iter().filter(|volume| volume.base == on);
        let layers = self.layers.iter().filter(|(_, (_, base))| *base == on);
        (volumes.map(|volume| volume.name.clone()).collect(), layers.map(|(id, _)| *id).collect())
    }

    /// Whether something is based on a layer, or may be.
    pub fn is_used(&self, id: Id) -> bool {
        let (volumes, layers) = self.users(id);
        self.damaged || !volumes.is_empty() || !layers.is_empty()
    }

    /// The first layer from here downwards that its volume wants.
    pub fn kept_below<'a>(&'a self, mut base: Option<&'a Base>) -> Option<Id> {
        // No chain is longer than there are layers.
        for _ in 0..=self.layers.len() {
            let Some(Base::Layer(id)) = base else { return None };
            let (about, next) = self.layers.get(id)?;
            if self.is_kept(about) {
                return Some(*id);
            }
            base = next.as_ref();
        }
        None
    }

    /// The layers that have this one as the first below them that is wanted.
    pub fn kept_layers_over(&self, id: Id) -> Vec<Id> {
        let over = |(about, base): &&(About, Option<Base>)| {
            self.is_kept(about) && self.kept_below(base.as_ref()) == Some(id)
        };
        self.layers.values().filter(over).map(|(about, _)| about.id).collect()
    }

    /// The volumes that have it so.
    pub fn volumes_over(&self, id: Id) -> Vec<Name> {
        let over = |volume: &&Top| self.kept_below(volume.base.as_ref()) == Some(id);
        self.volumes.iter().filter(over).map(|volume| volume.name.clone()).collect()
    }
}
