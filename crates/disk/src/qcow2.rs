//! qcow2 images (QEMU, docs/interop/qcow2.rst), through the crate imago, with their chains of backing images.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use imago::file::File as Storage;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::qcow2::Qcow2 as Driver;
use imago::raw::Raw as RawDriver;
use imago::{
    DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder, FormatDriverBuilder, StorageOpenOptions,
};
use libc::iovec;

use crate::{Disk, Format, SECTOR, lock};

/// The longest chain of backing images: beyond that it is taken for a loop.
const LONGEST_CHAIN: usize = 64;
/// Bytes of the unit in which a temporary image copies from the image below it.
const CLUSTER: usize = 64 << 10;

type Image = FormatAccess<Storage>;

/// A qcow2 image.
pub struct Qcow2 {
    image: RwLock<Image>,
    len: u64,
    read_only: bool,
}

impl Qcow2 {
    /// Opens `path`, and what it is based on for reading.
    ///
    /// # Errors
    /// If a file of the chain cannot be opened or locked, or is no image that can be used.
    pub fn open(path: &Path, read_only: bool) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(!read_only).open(path)?;
        Self::new(open_image(file, Some(path), read_only, LONGEST_CHAIN)?, read_only)
    }

    /// The image in an open file, which must not be based on another.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_file(file: File, read_only: bool) -> io::Result<Self> {
        Self::new(open_image(file, None, read_only, 0)?, read_only)
    }

    /// A temporary image over `path`: it begins as that image, and what is written to it goes into a file without a name, which
    /// is gone with it.
    ///
    /// # Errors
    /// If the image cannot be used, or there is no room for the file.
    pub fn over(path: &Path, format: Format) -> io::Result<Self> {
        let base = open_backing(path, format, LONGEST_CHAIN)?;
        let file = unnamed_file(path)?;
        let options = || StorageOpenOptions::new().write(true);
        let storage = |file: &File| Storage::from_open_file(file.try_clone()?, options());
        let create = Driver::<Storage, Image>::create_builder(storage(&file)?);
        create.size(base.size()).cluster_size(CLUSTER).create()?;
        let mut image = Driver::<Storage, Image>::open_image(storage(&file)?, true)?;
        image.set_backing(Some(base));
        Self::new(FormatAccess::new(image), false)
    }

    fn new(image: Image, read_only: bool) -> io::Result<Self> {
        let len = image.size();
        if len == 0 || !len.is_multiple_of(SECTOR) {
            return Err(invalid(format!("its size of {len} bytes is not a positive multiple of {SECTOR}")));
        }
        Ok(Self { image: RwLock::new(image), len, read_only })
    }

    fn shared(&self) -> RwLockReadGuard<'_, Image> {
        self.image.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn exclusive(&self) -> RwLockWriteGuard<'_, Image> {
        self.image.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, offset: u64, len: u64) -> io::Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(invalid("beyond the end of the disk")),
        }
    }
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why.into())
}

/// A file without a name: beside `path`, where it fits if the image did, or else where temporary files go.
fn unnamed_file(path: &Path) -> io::Result<File> {
    let unnamed = |folder: &Path| {
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(folder)
    };
    let beside = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    unnamed(beside).or_else(|_| unnamed(&std::env::temp_dir()))
}

fn open_image(file: File, path: Option<&Path>, read_only: bool, chain: usize) -> io::Result<Image> {
    lock(&file, read_only)?;
    if !read_only {
        check_refcounts(&file)?;
    }
    let storage = Storage::from_open_file(file, StorageOpenOptions::new().write(!read_only))?;
    let mut image = Driver::<Storage, Image>::open_image(storage, !read_only)?;
    if image.requires_external_data_file() {
        return Err(invalid("images with an external data file cannot be used"));
    }
    image.set_data_file(None);
    let backing = match (image.implicit_backing_file(), image.implicit_backing_format()) {
        (None, _) => None,
        (Some(name), format) => {
            let path =
                path.ok_or_else(|| invalid("it is based on another image, which was not handed over"))?;
            Some((beside(path, name)?, backing_format(format)?))
        }
    };
    let backing = backing.map(|(path, format)| {
        let told =
            |e: io::Error| io::Error::new(e.kind(), format!("its backing image {}: {e}", path.display()));
        open_backing(&path, format, chain).map_err(told)
    });
    image.set_backing(backing.transpose()?);
    Ok(FormatAccess::new(image))
}

/// Looks whether the refcount table has a block for all of the file. Without one imago looks for room for it where it is
/// itself missing, for ever.
fn check_refcounts(file: &File) -> io::Result<()> {
    let damaged = || invalid("its reference counts are damaged (qemu-img check -r all repairs them)");
    let mut header = [0; 104];
    // What is shorter, or of another version, is refused with a better reason later.
    let len = file.read_at(&mut header, 0)?;
    let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (version, cluster_bits, table_clusters) = (word(4), word(20), word(56));
    let table = u64::from(word(48)) << 32 | u64::from(word(52));
    let order = if version >= 3 && len == header.len() { word(96) } else { 4 };
    if !(9..=21).contains(&cluster_bits) || order > 6 {
        return Err(damaged());
    }
    let bytes_per_block = 1u64 << (2 * cluster_bits + 3 - order);
    let blocks = file.metadata()?.len().div_ceil(bytes_per_block);
    if blocks > (u64::from(table_clusters) << cluster_bits) / 8 {
        return Err(damaged());
    }
    let mut entries = vec![0; 8 * usize::try_from(blocks).map_err(|_| damaged())?];
    file.read_exact_at(&mut entries, table).map_err(|_| damaged())?;
    // Bits 0 to 8 are reserved.
    if entries.chunks_exact(8).any(|e| e[..7] == [0; 7]) { Err(damaged()) } else { Ok(()) }
}

/// The path of a backing image, which is relative to the image that names it.
fn beside(path: &Path, name: &str) -> io::Result<PathBuf> {
    let name = name.strip_prefix("file:").unwrap_or(name);
    if name.is_empty() || name.starts_with("json:") || name.contains("://") {
        return Err(invalid(format!("its backing image {name:?} is no file")));
    }
    Ok(path.parent().unwrap_or(Path::new("")).join(name))
}

/// A raw image's first bytes are its guest's, so a format is never guessed.
fn backing_format(format: Option<&String>) -> io::Result<Format> {
    match format.map(String::as_str) {
        Some("raw") => Ok(Format::Raw),
        Some("qcow2") => Ok(Format::Qcow2),
        Some(other) => {
            Err(invalid(format!("its backing image has the format {other}; raw and qcow2 can be used")))
        }
        None => {
            Err(invalid("it does not say which format its backing image has (qemu-img rebase -u -F sets it)"))
        }
    }
}

fn open_backing(path: &Path, format: Format, chain: usize) -> io::Result<Image> {
    let Some(chain) = chain.checked_sub(1) else {
        return Err(invalid("the chain of backing images is too long, or a loop"));
    };
    let file = File::open(path)?;
    match format {
        Format::Qcow2 => open_image(file, Some(path), true, chain),
        Format::Raw => {
            lock(&file, true)?;
            let storage = Storage::from_open_file(file, StorageOpenOptions::new().filename(path))?;
            Ok(FormatAccess::new(RawDriver::builder(storage).open(DenyImplicitOpenGate::default())?))
        }
    }
}

impl Disk for Qcow2 {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    unsafe fn read(&self, buffers: &[iovec], offset: u64) -> io::Result<()> {
        let slices: Vec<_> = buffers
            .iter()
            // SAFETY: the caller vouches for the buffers; they are guest memory, in which only bytes are moved.
            .map(|b| IoSliceMut::new(unsafe { std::slice::from_raw_parts_mut(b.iov_base.cast(), b.iov_len) }))
            .collect();
        let vector = IoVectorMut::from(slices);
        self.check(offset, vector.len())?;
        self.shared().readv(vector, offset)
    }

    unsafe fn write(&self, buffers: &[iovec], offset: u64) -> io::Result<()> {
        let slices: Vec<_> = buffers
            .iter()
            // SAFETY: as above.
            .map(|b| IoSlice::new(unsafe { std::slice::from_raw_parts(b.iov_base.cast(), b.iov_len) }))
            .collect();
        let vector = IoVector::from(slices);
        self.check(offset, vector.len())?;
        self.shared().writev(vector, offset)
    }

    fn flush(&self) -> io::Result<()> {
        let image = self.shared();
        image.flush()?;
        image.sync()
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check(offset, len)?;
        match self.exclusive().discard_to_any(offset, len) {
            // A hint that an image of version 2 has no way to take.
            Err(e) if e.kind() == io::ErrorKind::Unsupported => Ok(()),
            result => result,
        }
    }

    fn write_zeroes(&self, offset: u64, len: u64, _unmap: bool) -> io::Result<()> {
        self.check(offset, len)?;
        let image = self.shared();
        match image.write_zeroes(offset, len) {
            // An image of version 2 has no clusters of zeroes.
            Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                let zeroes = vec![0; CLUSTER];
                let mut at = offset;
                while at < offset + len {
                    let n = zeroes.len().min((offset + len - at) as usize);
                    image.write(&zeroes[..n], at)?;
                    at += n as u64;
                }
                Ok(())
            }
            result => result,
        }
    }
}
