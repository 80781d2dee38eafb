//! From an image to its backing files, one after the other, each locked against writers.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::header::{Backing, Header};
use crate::below::{Layer, MOST_LAYERS};
use crate::{Format, OpenError, file};

/// The files opened so far, and where the others come from.
#[derive(Default)]
pub struct Chain {
    /// Device and number of each file: who they are, whatever they are called.
    seen: Vec<(u64, u64)>,
    /// The backing files that were handed over, the first one first; they are opened by their names otherwise.
    handed: Option<VecDeque<File>>,
}

impl Chain {
    /// A chain of these backing files.
    pub fn handed(files: Vec<File>) -> Self {
        Self { seen: Vec::new(), handed: Some(files.into()) }
    }

    /// A file that belongs to it.
    ///
    /// # Errors
    /// If it does already, or there are too many.
    pub fn enter(&mut self, file: &File) -> Result<(), OpenError> {
        let meta = file.metadata()?;
        let who = (meta.dev(), meta.ino());
        if self.seen.contains(&who) {
            return Err(OpenError::Loop);
        }
        if self.seen.len() > MOST_LAYERS {
            return Err(OpenError::Chain(MOST_LAYERS));
        }
        self.seen.push(who);
        Ok(())
    }

    /// The layers that an image is based on, `backing` the uppermost one, each locked; the bottom first. Names are relative to
    /// `path`, the image's. All files that were handed over must be used.
    ///
    /// # Errors
    /// If one of them cannot be had.
    pub fn layers(
        &mut self,
        backing: Option<Backing>,
        path: Option<&Path>,
    ) -> Result<Vec<Arc<Layer>>, OpenError> {
        let (mut layers, mut next, mut path) = (Vec::<Arc<Layer>>::new(), backing, path.map(Path::to_owned));
        while let Some(backing) = next {
            // What is wrong with a backing file is said of it, what is wrong with the image itself needs no name.
            let told = |error| match (&path, layers.is_empty()) {
                (Some(path), false) => wrap(path.clone(), error),
                _ => error,
            };
            // A raw file's first bytes are its guest's: the format is not guessed.
            let format = backing.format.ok_or(OpenError::Unrecorded).map_err(told)?;
            let (file, to) = self.file(&backing, path.as_deref()).map_err(told)?;
            let layer = self.layer(file, format).map_err(|error| wrap(to.clone(), error))?;
            next = layer.backing().cloned();
            layers.push(Arc::new(layer));
            path = Some(to);
        }
        match self.handed.as_ref().map_or(0, VecDeque::len) {
            0 => {}
            spare => return Err(OpenError::Spare(spare)),
        }
        layers.reverse();
        Ok(layers)
    }

    fn file(&mut self, backing: &Backing, image: Option<&Path>) -> Result<(File, PathBuf), OpenError> {
        match &mut self.handed {
            Some(files) => {
                let file = files.pop_front().ok_or(OpenError::Alone)?;
                check_name(&file, backing)?;
                Ok((file, PathBuf::from(&backing.name)))
            }
            None => open(backing, image.ok_or(OpenError::Alone)?),
        }
    }

    fn layer(&mut self, file: File, format: Format) -> Result<Layer, OpenError> {
        file::check_kind(&file)?;
        self.enter(&file)?;
        file::lock(&file, true)?;
        Layer::open(Arc::new(file), format)
    }
}

/// Opens the backing file of the image in the file `image`.
fn open(backing: &Backing, image: &Path) -> Result<(File, PathBuf), OpenError> {
    let path = image.parent().unwrap_or(Path::new("")).join(&backing.name);
    let file = file::open(&path, true).map_err(|error| wrap(path.clone(), error))?;
    Ok((file, path))
}

/// Whether a file that was handed over is called what the header calls it. The kernel tells the name only where there is a
/// /proc, and only that which the file was opened by; whoever handed it over knows it.
pub fn check_name(file: &File, backing: &Backing) -> Result<(), OpenError> {
    let Ok(link) = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())) else { return Ok(()) };
    // That name is gone, and the file has another one.
    let renamed = link.to_string_lossy().ends_with(" (deleted)") && file.metadata()?.nlink() > 0;
    if renamed || link.file_name() == Path::new(&backing.name).file_name() {
        return Ok(());
    }
    Err(OpenError::Other { want: backing.name.clone(), got: link })
}

/// The files of the image in `path` of this format, itself first, each locked: what [`crate::from_files`] takes.
///
/// # Errors
/// See [`OpenError`].
pub fn files(path: &Path, format: Format, read_only: bool) -> Result<(File, Vec<File>), OpenError> {
    let top = file::open(path, read_only)?;
    file::check_kind(&top)?;
    let mut chain = Chain::default();
    chain.enter(&top)?;
    file::lock(&top, read_only)?;
    let (mut files, mut format, mut path) = (Vec::new(), format, path.to_owned());
    while format == Format::Qcow2
        && let Some(backing) =
            Header::read(files.last().unwrap_or(&top)).map_err(|e| told(&files, &path, e))?.backing
    {
        format = backing.format.ok_or(OpenError::Unrecorded).map_err(|e| told(&files, &path, e))?;
        let (file, to) = open(&backing, &path)?;
        path = to;
        let locked =
            file::check_kind(&file).and_then(|()| chain.enter(&file)).and_then(|()| file::lock(&file, true));
        locked.map_err(|error| wrap(path.clone(), error))?;
        files.push(file);
    }
    Ok((top, files))
}

/// What is wrong with a backing file is said of it, what is wrong with the image itself needs no name.
fn told(files: &[File], path: &Path, error: OpenError) -> OpenError {
    if files.is_empty() { error } else { wrap(path.to_owned(), error) }
}

/// Says once which file is the matter: the one at the end of the chain.
fn wrap(path: PathBuf, error: OpenError) -> OpenError {
    match error {
        OpenError::Backing { .. } | OpenError::Loop | OpenError::Chain(_) | OpenError::Other { .. } => error,
        error => OpenError::Backing { path, error: Box::new(error) },
    }
}
