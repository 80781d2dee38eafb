//! From an image to its backing files, one after the other, each locked against writers.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder};

use super::container::Container;
use super::header::{Backing, Header};
use super::tables;
use crate::{Format, OpenError, file};

/// More would be a mistake, or an attack.
const MOST_FILES: usize = 64;

type Access = FormatAccess<Container>;

/// The files opened so far, by device and number: who they are, whatever they are called.
#[derive(Default)]
pub struct Chain {
    seen: Vec<(u64, u64)>,
}

impl Chain {
    fn enter(&mut self, file: &File) -> Result<(), OpenError> {
        let meta = file.metadata()?;
        let who = (meta.dev(), meta.ino());
        if self.seen.contains(&who) {
            return Err(OpenError::Loop);
        }
        if self.seen.len() > MOST_FILES {
            return Err(OpenError::Chain(MOST_FILES));
        }
        self.seen.push(who);
        Ok(())
    }

    /// The qcow2 image in `file`, with its backing files, whose names are relative to `path`.
    pub fn qcow2(&mut self, file: File, path: Option<&Path>, read_only: bool) -> Result<Access, OpenError> {
        file::check_kind(&file)?;
        self.enter(&file)?;
        file::lock(&file, read_only)?;
        let header = Header::read(&file)?;
        tables::check(&file, &header, file::size(&file)?)?;
        let backing = match &header.backing {
            Some(backing) => Some(self.backing(backing, path.ok_or(OpenError::Alone)?)?),
            None => None,
        };
        let container = Container::new(file, header.cluster())?;
        let image = imago::qcow2::Qcow2::<Container, Arc<Access>>::builder(container)
            .write(!read_only)
            .backing(backing.map(Arc::new))
            .data_file(None)
            .open(DenyImplicitOpenGate::default())
            .map_err(|error| OpenError::Damaged(error.to_string()))?;
        Ok(FormatAccess::new(image))
    }

    fn raw(&mut self, file: File) -> Result<Access, OpenError> {
        file::check_kind(&file)?;
        self.enter(&file)?;
        file::lock(&file, true)?;
        // A cluster of one byte: nothing behind the end is ever asked for.
        let container = Container::new(file, 1)?;
        let image = imago::raw::Raw::builder(container).open(DenyImplicitOpenGate::default())?;
        Ok(FormatAccess::new(image))
    }

    fn backing(&mut self, backing: &Backing, image: &Path) -> Result<Access, OpenError> {
        // A raw file's first bytes are its guest's: the format is not guessed.
        let format = backing.format.ok_or(OpenError::Unrecorded)?;
        let path = image.parent().unwrap_or(Path::new("")).join(&backing.name);
        let told = |error| wrap(path.clone(), error);
        let file = file::open(&path, true).map_err(told)?;
        let opened = match format {
            Format::Qcow2 => self.qcow2(file, Some(&path), true),
            Format::Raw => self.raw(file),
        };
        opened.map_err(told)
    }
}

/// Says once which file is the matter: the one at the end of the chain.
fn wrap(path: PathBuf, error: OpenError) -> OpenError {
    match error {
        OpenError::Backing { .. } | OpenError::Loop | OpenError::Chain(_) => error,
        error => OpenError::Backing { path, error: Box::new(error) },
    }
}
