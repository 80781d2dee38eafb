//! Why an image cannot be opened.

use std::io;
use std::path::PathBuf;

use crate::SECTOR;

/// Why an image cannot be opened. Each is one line that goes behind the image's name.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The host refuses.
    #[error("{0}")]
    Host(#[from] io::Error),
    /// Somebody else has the lock.
    #[error("it is in use by another machine")]
    InUse,
    /// A folder.
    #[error("it is a folder, not a disk")]
    Folder,
    /// A pipe, a terminal, a socket.
    #[error("it is neither a file nor a block device")]
    Kind,
    /// Nothing, or not whole sectors.
    #[error("its size of {bytes} bytes is not a positive multiple of {SECTOR}")]
    Size {
        /// The size.
        bytes: u64,
    },
    /// It looks like qcow2 with a backing file, and nobody said that it is.
    #[error("it looks like a qcow2 image with a backing file: say format=qcow2 if it is, or format=raw")]
    Untrusted,
    /// It does not say what its backing file is.
    #[error("it does not say which format its backing file has (qemu-img rebase -u -F sets it)")]
    Unrecorded,
    /// It was handed over as an open file, without its backing file.
    #[error("it has a backing file, which was not handed over")]
    Alone,
    /// Another file was handed over as its backing file.
    #[error("it is based on {want:?}, and {} was handed over", got.display())]
    Other {
        /// What its header says.
        want: String,
        /// What there is.
        got: PathBuf,
    },
    /// It is based on nothing, and should be based on the disk that it is to be the new top of.
    #[error("it is based on nothing")]
    Unbased,
    /// It is to be the new top of a disk, and has something already.
    #[error("it is not empty")]
    NotEmpty,
    /// It is to be the new top of a disk of another size.
    #[error("it has {got} bytes, and the disk {want}")]
    Unequal {
        /// What the disk has.
        want: u64,
        /// What it has.
        got: u64,
    },
    /// The disk is only read.
    #[error("the disk is only read")]
    ReadOnly,
    /// More files were handed over than it is based on.
    #[error("{0} files were handed over that it is not based on")]
    Spare(usize),
    /// It is not qcow2.
    #[error("it is not a qcow2 image")]
    NotQcow2,
    /// It uses what we do not know.
    #[error("this qcow2 image {0}, which is not supported")]
    Unsupported(String),
    /// It was open for writing when its writer died.
    #[error("this qcow2 image was not closed cleanly: repair it with qemu-img check -r all")]
    Dirty,
    /// Its tables make no sense.
    #[error("this qcow2 image is damaged: {0}")]
    Damaged(String),
    /// Bytes at its end are missing.
    #[error("this qcow2 image is cut short: {0} bytes are there of {1} or more")]
    CutShort(u64, u64),
    /// A backing file cannot be opened.
    #[error("its backing file {}: {error}", path.display())]
    Backing {
        /// The file.
        path: PathBuf,
        /// Why.
        error: Box<OpenError>,
    },
    /// An image is its own backing file, perhaps by way of others.
    #[error("its backing files lead back to it")]
    Loop,
    /// More backing files than anybody needs.
    #[error("it has more than {0} backing files")]
    Chain(usize),
}
