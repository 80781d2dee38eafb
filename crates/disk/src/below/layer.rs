//! One layer: a file that nobody writes to, and how the disk lies in it.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder};
use libc::iovec;

use super::chunk::{CLUSTERS, Table};
use super::place::{Numbers, ZERO};
use crate::qcow2::{Backing, Container, Header, entry, tables, vector};
use crate::{Format, OpenError, file};

type Image = FormatAccess<Container>;

/// A layer. It stays as it is for as long as it is one.
pub struct Layer {
    file: Arc<File>,
    /// Bytes of its file.
    file_len: u64,
    /// Bytes of the disk in it.
    len: u64,
    kind: Kind,
}

enum Kind {
    /// The file is the disk.
    Raw,
    Qcow2(Qcow2),
}

struct Qcow2 {
    header: Header,
    /// The first table: where the tables of the second level are.
    l1: Vec<u64>,
    /// What reads that which is not simply there. Made when it is needed.
    reader: Mutex<Option<Arc<Image>>>,
}

impl Layer {
    /// The layer in a file, whose lock the caller has.
    ///
    /// # Errors
    /// If it is no image that can be used. Its tables of the second level are looked at when they are needed.
    pub fn open(file: Arc<File>, format: Format) -> Result<Self, OpenError> {
        file::check_kind(&file)?;
        let file_len = file::size(&file)?;
        Ok(match format {
            Format::Raw => Self { file, file_len, len: file::check_size(file_len)?, kind: Kind::Raw },
            Format::Qcow2 => {
                let header = Header::read(&file)?;
                let l1 = tables::first(&file, &header, file_len)?;
                let len = header.size;
                Self {
                    file,
                    file_len,
                    len,
                    kind: Kind::Qcow2(Qcow2 { header, l1, reader: Mutex::default() }),
                }
            }
        })
    }

    /// Whether the image in a file has nothing itself.
    ///
    /// # Errors
    /// If it is damaged, or the host cannot read it.
    pub fn is_empty(file: &File, header: &Header) -> Result<bool, OpenError> {
        Ok(tables::first(file, header, file::size(file)?)?.iter().all(|table| *table == 0))
    }

    /// Bytes of the disk in it.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Its file.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Bytes of its file.
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// What its header says that it is based on.
    pub fn backing(&self) -> Option<&Backing> {
        match &self.kind {
            Kind::Raw => None,
            Kind::Qcow2(image) => image.header.backing.as_ref(),
        }
    }

    /// Bytes of its clusters, as a power of two; a raw disk has none.
    pub fn cluster_bits(&self) -> Option<u32> {
        match &self.kind {
            Kind::Raw => None,
            Kind::Qcow2(image) => Some(image.header.cluster_bits),
        }
    }

    /// Whether data of it may be holes of its file.
    pub fn has_holes(&self) -> bool {
        matches!(self.kind, Kind::Raw)
    }

    /// Adds to a table of the clusters from `first` on what this layer has.
    ///
    /// # Errors
    /// If the host cannot read its tables.
    pub fn add_to(&self, table: &mut Table, first: u64, numbers: Numbers) -> io::Result<()> {
        let bits = numbers.bits();
        let clusters = self.len.div_ceil(1 << bits).saturating_sub(first).min(CLUSTERS as u64) as usize;
        match &self.kind {
            Kind::Raw => {
                for index in 0..clusters {
                    table.add(index, numbers.at((first + index as u64) << bits));
                }
            }
            Kind::Qcow2(image) => self.add_mapped(image, table, first, clusters, numbers)?,
        }
        // It hides what lower layers have behind its end.
        table.end(clusters);
        Ok(())
    }

    /// The same for `count` clusters of a qcow2 image, whose own clusters may be larger.
    fn add_mapped(
        &self,
        image: &Qcow2,
        table: &mut Table,
        first: u64,
        count: usize,
        numbers: Numbers,
    ) -> io::Result<()> {
        let more_bits = image.header.cluster_bits - numbers.bits();
        let each = 1usize << more_bits;
        let entries = image.header.cluster() / 8;
        let (mut own, end) = (first >> more_bits, (first + count as u64).div_ceil(each as u64));
        let mut bytes = Vec::new();
        while own < end {
            let (l1, within) = (own / entries, own % entries);
            let part = (entries - within).min(end - own);
            let at = image.l1.get(l1 as usize).copied().unwrap_or(0);
            if at != 0 {
                bytes.resize(part as usize * 8, 0);
                // The end of a last cluster may be missing.
                bytes.fill(0);
                file::read_there(&self.file, &mut bytes, at + within * 8)?;
                let start = (own << more_bits) - first;
                for (n, entry) in bytes.as_chunks::<8>().0.iter().enumerate() {
                    let entry = u64::from_be_bytes(*entry);
                    if entry != 0 {
                        let index = start as usize + n * each;
                        self.add_entry(image, table, index..(index + each).min(count), entry, numbers);
                    }
                }
            }
            own += part;
        }
        Ok(())
    }

    /// Adds what an entry of a table of the second level says.
    fn add_entry(
        &self,
        image: &Qcow2,
        table: &mut Table,
        indices: std::ops::Range<usize>,
        entry: u64,
        numbers: Numbers,
    ) {
        let whole = self.file_len.next_multiple_of(image.header.cluster());
        match entry::read(entry, &image.header) {
            Some(entry::Mapping::Nothing) => {}
            Some(entry::Mapping::Zeroes { .. }) => indices.for_each(|index| table.add(index, ZERO)),
            Some(entry::Mapping::Data(at)) if at + image.header.cluster() <= whole => {
                for (n, index) in indices.enumerate() {
                    table.add(index, numbers.at(at + ((n as u64) << numbers.bits())));
                }
            }
            // What is compressed, and what makes no sense.
            _ => indices.for_each(|index| table.add(index, numbers.ask())),
        }
    }

    /// Reads what lies at `offset` of its file. What is missing of a last cluster are zeroes.
    ///
    /// # Safety
    /// The buffers must be writable for their lengths.
    pub unsafe fn read(&self, buffers: &[iovec], offset: u64) -> io::Result<()> {
        let len = file::total(buffers);
        // SAFETY: the caller vouches for the buffers.
        let n = unsafe { file::read(&self.file, buffers, offset) }?;
        if n == len {
            return Ok(());
        }
        let cluster = self.cluster_bits().map_or(1, |bits| 1 << bits);
        if offset + len > (offset + n).next_multiple_of(cluster) {
            return Err(file::past_the_end(offset + n));
        }
        let (mut rest, mut skip) = (buffers, 0);
        file::take(&mut rest, &mut skip, n);
        // SAFETY: parts of the caller's buffers.
        unsafe { file::fill_zeroes(&file::take(&mut rest, &mut skip, len - n)) };
        Ok(())
    }

    /// Reads what the layer itself has at `offset` of the disk, however it lies there.
    ///
    /// # Safety
    /// The buffers must be writable for their lengths.
    pub unsafe fn ask(&self, buffers: &[iovec], offset: u64) -> io::Result<()> {
        match &self.kind {
            // SAFETY: the caller vouches for the buffers.
            Kind::Raw => unsafe { self.read(buffers, offset) },
            Kind::Qcow2(image) => {
                let reader = self.reader(image)?;
                // SAFETY: as above.
                reader.readv(unsafe { vector::to_fill(buffers) }, offset)
            }
        }
    }

    fn reader(&self, image: &Qcow2) -> io::Result<Arc<Image>> {
        let mut reader = image.reader.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reader) = &*reader {
            return Ok(Arc::clone(reader));
        }
        let container = Container::of_file(Arc::clone(&self.file), image.header.cluster())?;
        let opened = imago::qcow2::Qcow2::<Container, Arc<Image>>::builder(container)
            .backing(None)
            .data_file(None)
            .open(DenyImplicitOpenGate::default())?;
        Ok(Arc::clone(reader.insert(Arc::new(FormatAccess::new(opened)))))
    }
}
