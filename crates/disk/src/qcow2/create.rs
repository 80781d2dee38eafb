//! New images.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imago::FormatCreateBuilder;
use imago::format::PreallocateMode;

use super::container::Container;
use crate::{Format, OpenError, file};

/// Bytes of a cluster in images we make, as QEMU has it.
const CLUSTER: usize = 64 << 10;

/// Makes an empty image of `size` bytes in `path`, which must not exist yet.
///
/// # Errors
/// If the host refuses; then there is no file.
pub fn create(path: &Path, size: u64) -> Result<(), OpenError> {
    make(path, file::check_size(size)?, None, PreallocateMode::None)
}

/// The same with a place in the file for each byte of the disk, and room on the host for it where its file system can tell.
///
/// # Errors
/// If the host refuses or has no room; then there is no file.
pub fn create_allocated(path: &Path, size: u64) -> Result<(), OpenError> {
    make(path, file::check_size(size)?, None, PreallocateMode::FormatAllocate)?;
    let allocated = OpenOptions::new().write(true).open(path).and_then(|file| file::allocate(&file));
    if allocated.is_err() {
        let _ = fs::remove_file(path);
    }
    Ok(allocated?)
}

/// Makes an image in `path`, which must not exist yet, that has what is in `backing`, of that format, until it is overwritten.
///
/// # Errors
/// If the backing file cannot be opened or its name is not UTF-8, or the host refuses; then there is no file.
pub fn create_overlay(path: &Path, backing: &Path, format: Format) -> Result<(), OpenError> {
    let told = |error| OpenError::Backing { path: backing.to_owned(), error: Box::new(error) };
    let size = crate::open(backing, Some(format), true).map_err(told)?.len();
    let name = name_from(path, backing).map_err(|error| told(error.into()))?;
    make(path, size, Some((name, format)), PreallocateMode::None)
}

/// The same for a file called `name` as seen from the image's folder, so that both can be moved together; and longer than what is
/// in that file, if `size` is.
///
/// # Errors
/// If the backing file cannot be opened, or the host refuses; then there is no file.
pub fn create_based_on(path: &Path, name: &str, format: Format, size: Option<u64>) -> Result<(), OpenError> {
    let backing = path.parent().unwrap_or(Path::new("")).join(name);
    let opened = crate::open(&backing, Some(format), true);
    let least = opened.map_err(|error| OpenError::Backing { path: backing, error: Box::new(error) })?.len();
    let size = file::check_size(size.unwrap_or(least).max(least))?;
    make(path, size, Some((name.to_owned(), format)), PreallocateMode::None)
}

/// The same with this size, and without a look at that file: somebody may be writing to it.
///
/// # Errors
/// If the host refuses; then there is no file.
pub fn create_layer(path: &Path, name: &str, format: Format, size: u64) -> Result<(), OpenError> {
    make(path, file::check_size(size)?, Some((name.to_owned(), format)), PreallocateMode::None)
}

/// What the image in `path` calls the file `backing`: its name alone if it lies in the same folder, so that both can be moved.
fn name_from(path: &Path, backing: &Path) -> io::Result<String> {
    let folder = |path: &Path| match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let beside = fs::canonicalize(folder(path))? == fs::canonicalize(folder(backing))?;
    let name = match backing.file_name() {
        // A colon would make a protocol of the part before it.
        Some(name) if beside && !name.to_string_lossy().contains(':') => PathBuf::from(name),
        _ => std::path::absolute(backing)?,
    };
    let text = name.to_str().filter(|name| name.len() <= 1023).map(str::to_owned);
    text.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidFilename, "its name does not fit a qcow2 header"))
}

fn make(
    path: &Path,
    size: u64,
    backing: Option<(String, Format)>,
    mode: PreallocateMode,
) -> Result<(), OpenError> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    let made = file::lock(&file, false).and_then(|()| {
        let container = Container::of_file(Arc::new(file), CLUSTER as u64)?;
        let mut builder = imago::qcow2::Qcow2::<Container>::create_builder(container);
        builder = builder.size(size).cluster_size(CLUSTER).preallocate(mode);
        if let Some((name, format)) = backing {
            let format = match format {
                Format::Raw => "raw",
                Format::Qcow2 => "qcow2",
            };
            builder = builder.backing(name, format.to_owned());
        }
        Ok(builder.create()?)
    });
    if made.is_err() {
        // Half an image is nobody's.
        let _ = fs::remove_file(path);
    }
    made
}
