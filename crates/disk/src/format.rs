//! Which formats there are, and opening an image in its format.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Disk, Qcow2, Raw};

/// The first bytes of a qcow2 image.
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";

/// How the bytes of an image's file are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// The file is the disk.
    Raw,
    /// QEMU's copy-on-write format, versions 2 and 3.
    Qcow2,
}

impl Format {
    /// The format the file's first bytes speak for. Only for files that no guest has written: a guest can write a format's
    /// first bytes into a raw disk.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn of(file: &File) -> io::Result<Self> {
        let mut magic = [0; QCOW2_MAGIC.len()];
        match file.read_exact_at(&mut magic, 0) {
            Ok(()) if magic == QCOW2_MAGIC => Ok(Self::Qcow2),
            Ok(()) => Ok(Self::Raw),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(Self::Raw),
            Err(e) => Err(e),
        }
    }
}

/// Opens the image `path`, in the format its first bytes speak for if none is given.
///
/// # Errors
/// If it cannot be opened, is in use by somebody who writes it, or is damaged.
pub fn open(path: &Path, format: Option<Format>, read_only: bool) -> io::Result<Box<dyn Disk>> {
    if path.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let format = match format {
        Some(format) => format,
        None => Format::of(&File::open(path)?)?,
    };
    Ok(match format {
        Format::Raw => Box::new(Raw::open(path, read_only)?),
        Format::Qcow2 => Box::new(Qcow2::open(path, read_only)?),
    })
}
