//! The uppermost layer of a disk, where that is a qcow2 image: imago reads and writes it, and reads what is below by [`Below`].

use std::fs::File;
use std::io;
use std::sync::Arc;

use imago::format::PreallocateMode;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, ShallowMapping};
use libc::iovec;

use super::container::Container;
use super::header::Header;
use super::{tables, vector};
use crate::below::Below;
use crate::{OpenError, file};

type Access = FormatAccess<Container>;

/// An image that is open.
#[derive(Debug)]
pub struct Image {
    access: Access,
    file: Arc<File>,
    cluster: u64,
    /// What it is based on, if anything.
    below: Option<Arc<Below>>,
}

/// What an image itself has at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// Data.
    Data,
    /// Zeroes.
    Zeroes,
    /// Nothing: what it is based on shows.
    Nothing,
}

impl Image {
    /// The image in a file, whose lock the caller has, over what it is based on.
    ///
    /// # Errors
    /// If it cannot be used: see [`OpenError`].
    pub fn open(
        file: Arc<File>,
        header: &Header,
        below: Option<Arc<Below>>,
        read_only: bool,
    ) -> Result<Self, OpenError> {
        tables::check(&file, header, file::size(&file)?, !read_only)?;
        let cluster = header.cluster();
        let access = access(&file, cluster, below.as_ref(), read_only)?;
        Ok(Self { access, file, cluster, below })
    }

    /// Opens it anew, for writing, over what it is based on now: imago keeps the header in memory and writes it again.
    pub fn reopen(&mut self, below: Option<Arc<Below>>) -> Result<(), OpenError> {
        self.write_back()?;
        self.access = access(&self.file, self.cluster, below.as_ref(), false)?;
        self.below = below;
        Ok(())
    }

    /// Bytes of the disk.
    pub fn len(&self) -> u64 {
        self.access.size()
    }

    /// Its file.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Bytes of a cluster.
    pub fn cluster(&self) -> u64 {
        self.cluster
    }

    /// What it is based on, if anything.
    pub fn below(&self) -> Option<&Arc<Below>> {
        self.below.as_ref()
    }

    /// Reads from `offset` into the buffers, all of them.
    ///
    /// # Safety
    /// The buffers must be writable for their lengths.
    pub unsafe fn read(&self, buffers: &[iovec], offset: u64) -> io::Result<()> {
        file::check_range(offset, file::total(buffers), self.len())?;
        // SAFETY: the caller vouches for the buffers.
        self.access.readv(unsafe { vector::to_fill(buffers) }, offset)
    }

    /// Writes the buffers, all of them, at `offset`.
    ///
    /// # Safety
    /// The buffers must be readable for their lengths.
    pub unsafe fn write(&self, buffers: &[iovec], offset: u64) -> io::Result<()> {
        file::check_range(offset, file::total(buffers), self.len())?;
        // SAFETY: the caller vouches for the buffers.
        self.access.writev(unsafe { vector::to_write(buffers) }, offset)
    }

    /// What the image itself has at `at`, and up to where, at most `end`, that holds.
    pub fn own(&self, at: u64, end: u64) -> io::Result<(Own, u64)> {
        let (mapping, len) = self.access.get_shallow_mapping(at, end - at)?;
        let own = match mapping {
            ShallowMapping::Raw { .. } | ShallowMapping::Special { .. } => Own::Data,
            ShallowMapping::Zero { explicit: true, .. } => Own::Zeroes,
            ShallowMapping::Eof { .. } => return Ok((Own::Nothing, end)),
            _ => Own::Nothing,
        };
        Ok((own, at + len))
    }

    /// See [`crate::Disk::next_data`].
    pub fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        let (mut at, mut data, len) = (offset, None, self.len());
        while at < len {
            let (own, mut to) = self.own(at, len)?;
            let there = match (own, &self.below) {
                (Own::Data, _) => true,
                (Own::Nothing, Some(below)) => {
                    let there;
                    (there, to) = below.data(at, to)?;
                    there
                }
                _ => false,
            };
            match data {
                None if there => data = Some(at),
                Some(start) if !there => return Ok(Some((start, at))),
                _ => {}
            }
            at = to;
        }
        Ok(data.map(|start| (start, len)))
    }

    /// Writes what is kept in memory of its tables to its file. It is durable only after [`file::sync`].
    pub fn write_back(&self) -> io::Result<()> {
        self.access.flush()
    }

    /// Makes everything written so far durable.
    pub fn flush(&self) -> io::Result<()> {
        self.write_back()?;
        file::sync(&self.file)
    }

    /// See [`crate::Disk::discard`].
    pub fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        file::check_range(offset, len, self.len())?;
        match self.access.discard_to_any(offset, len) {
            // Version 2 cannot; it is advice.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            result => result,
        }
    }

    /// See [`crate::Disk::write_zeroes`].
    pub fn write_zeroes(&mut self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        file::check_range(offset, len, self.len())?;
        let result = match unmap {
            true => self.access.discard_to_zero(offset, len),
            false => self.access.write_zeroes(offset, len),
        };
        match result {
            // Version 2 has no mapping for zeroes.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.fill_zeroes(offset, len),
            result => result,
        }
    }

    fn fill_zeroes(&self, mut offset: u64, mut len: u64) -> io::Result<()> {
        while len > 0 {
            let n = len.min(file::ZEROES.len() as u64);
            self.access.write(&file::ZEROES[..n as usize], offset)?;
            offset += n;
            len -= n;
        }
        Ok(())
    }

    /// Makes the disk `len` bytes long: what is added reads as zeroes, what is taken away is lost.
    pub fn resize(&mut self, len: u64) -> io::Result<()> {
        let old = self.len();
        // What it is based on must not show, nor what lies behind the old end in a last cluster. All else is zeroes already.
        let below = self.below.as_ref().map_or(0, |below| below.len());
        let zeroed = old.next_multiple_of(self.cluster).max(below).min(len);
        if len > old && zeroed > old {
            self.access.resize(zeroed, PreallocateMode::Zero)?;
        }
        self.access.resize(len, PreallocateMode::None)?;
        self.flush()
    }

    /// Takes what is below into the image, where the image has nothing itself. What is read stays the same, also meanwhile.
    pub fn take_up(&self, mut at: u64, end: u64) -> io::Result<()> {
        while at < end {
            let (own, to) = self.own(at, end)?;
            at = match own {
                Own::Nothing => {
                    let mapping = self.access.prepare_data_mapping(at, to - at, false)?;
                    let taken = mapping.length();
                    self.access.commit_data_mapping(mapping)?;
                    at + taken
                }
                _ => to,
            };
        }
        Ok(())
    }

    /// The same where there are zeroes below, in whole clusters, without writing them.
    pub fn take_up_zeroes(&mut self, mut at: u64, end: u64) -> io::Result<()> {
        while at < end {
            let (own, to) = self.own(at, end)?;
            if own == Own::Nothing {
                match self.access.inner().ensure_zero_mapping(at, to - at) {
                    Ok((from, len)) if from == at && len > 0 => at += len,
                    Err(error) if error.kind() != io::ErrorKind::Unsupported => return Err(error),
                    // Version 2 has no mapping for zeroes.
                    _ => {
                        self.take_up(at, to)?;
                        at = to;
                    }
                }
            } else {
                at = to;
            }
        }
        Ok(())
    }
}

/// imago's view of an image.
fn access(
    file: &Arc<File>,
    cluster: u64,
    below: Option<&Arc<Below>>,
    read_only: bool,
) -> Result<Access, OpenError> {
    let backing = match below {
        Some(below) => {
            let container = Container::of_layers(Arc::clone(below));
            let raw = imago::raw::Raw::builder(container).open(DenyImplicitOpenGate::default())?;
            Some(Arc::new(FormatAccess::new(raw)))
        }
        None => None,
    };
    let container = Container::of_file(Arc::clone(file), cluster)?;
    let image = imago::qcow2::Qcow2::<Container, Arc<Access>>::builder(container)
        .write(!read_only)
        .backing(backing)
        .data_file(None)
        .open(DenyImplicitOpenGate::default())
        .map_err(|error| OpenError::Damaged(error.to_string()))?;
    Ok(FormatAccess::new(image))
}
