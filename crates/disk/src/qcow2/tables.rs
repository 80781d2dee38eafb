//! Whether the tables of an image point into the image, and whether it counts as used what they point to: a file that was cut
//! short or overwritten is found out when it is opened, not when a guest reads what is missing or is given what is another's.
//!
//! imago links a new table before it writes that the table's cluster is in use. A process that is killed in between leaves an image
//! that counts as free what is in use: that is mended when it is opened for writing.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io;

use super::entry::{self, L1_RESERVED, Mapping, OFFSET};
use super::header::Header;
use crate::{OpenError, file};

/// How many tables of the second level are looked into: they map 512 GiB where clusters have 64 KiB. What lies behind others is
/// found out when it is read.
const MOST_TABLES: usize = 1024;

/// Entries of the table of reference counts: bits that must be zero.
const REFCOUNT_RESERVED: u64 = 0x1ff;

/// Checks the tables of the image in `file`, which is `len` bytes long. If it `may_mend` them, all is counted that is in use.
pub fn check(file: &File, header: &Header, len: u64, may_mend: bool) -> Result<(), OpenError> {
    let image = Image { file, header, len };
    let cluster = header.cluster();
    let (counts_at, counts_clusters) = header.refcounts;
    let (l1_at, entries) = header.l1;
    image.place("its reference counts", counts_at, counts_clusters * cluster)?;
    image.place("its first table", l1_at, entries * 8)?;
    let table = image.table(counts_at, counts_clusters * cluster)?;
    let mut counts = Counts { image: &image, table, blocks: HashMap::new(), missing: BTreeSet::new() };
    counts.used(0, cluster)?;
    counts.used(counts_at, counts_clusters * cluster)?;
    counts.used(l1_at, entries * 8)?;
    counts.blocks_used()?;
    let mut seen = HashSet::new();
    for at in image.first()?.into_iter().filter(|at| *at != 0) {
        if !seen.insert(at) {
            continue;
        }
        counts.used(at, cluster)?;
        if seen.len() > MOST_TABLES {
            continue;
        }
        for entry in image.table(at, cluster)? {
            if let Some(at) = image.mapping(entry)? {
                counts.used(at, 1)?;
            }
        }
    }
    if may_mend { counts.mend() } else { Ok(()) }
}

/// Where the tables of the second level of the image in `file`, which is `len` bytes long, are: those of an image that is only
/// read. What is in them is looked at when it is read.
pub fn first(file: &File, header: &Header, len: u64) -> Result<Vec<u64>, OpenError> {
    let image = Image { file, header, len };
    image.place("its first table", header.l1.0, header.l1.1 * 8)?;
    image.first()
}

/// An image's file, and what places there are in it.
struct Image<'a> {
    file: &'a File,
    header: &'a Header,
    len: u64,
}

impl Image<'_> {
    /// A table must be whole but for the rest of a last cluster, and begin with a cluster behind the header.
    fn place(&self, what: &str, at: u64, bytes: u64) -> Result<(), OpenError> {
        if at == 0 || !at.is_multiple_of(self.header.cluster()) {
            return Err(OpenError::Damaged(format!("{what} at {at:#x}")));
        }
        self.end(at.saturating_add(bytes))
    }

    fn end(&self, end: u64) -> Result<(), OpenError> {
        let whole = self.len.next_multiple_of(self.header.cluster());
        if end > whole { Err(OpenError::CutShort(self.len, end)) } else { Ok(()) }
    }

    /// Where the tables of the second level are; zero where there is none.
    fn first(&self) -> Result<Vec<u64>, OpenError> {
        let mut tables = self.table(self.header.l1.0, self.header.l1.1 * 8)?;
        for entry in &mut tables {
            if *entry & L1_RESERVED != 0 {
                return Err(OpenError::Damaged(format!("an entry {entry:#x} in its first table")));
            }
            *entry &= OFFSET;
            if *entry != 0 {
                self.place("a table", *entry, self.header.cluster())?;
            }
        }
        Ok(tables)
    }

    /// Where an entry of a table of the second level leads, if anywhere.
    fn mapping(&self, entry: u64) -> Result<Option<u64>, OpenError> {
        let at = match entry::read(entry, self.header) {
            None => return Err(OpenError::Damaged(format!("an entry {entry:#x} in a table"))),
            Some(Mapping::Nothing | Mapping::Zeroes { kept: None }) => return Ok(None),
            // The length of what is compressed is an upper bound; where it begins must be there.
            Some(Mapping::Data(at) | Mapping::Zeroes { kept: Some(at) } | Mapping::Compressed(at)) => at,
        };
        self.end(at.saturating_add(1)).map(|()| Some(at))
    }

    fn bytes(&self, at: u64, len: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len as usize];
        // What is at the end of the file may end within its cluster.
        file::read_there(self.file, &mut bytes, at)?;
        Ok(bytes)
    }

    fn table(&self, at: u64, len: u64) -> io::Result<Vec<u64>> {
        let bytes = self.bytes(at, len)?;
        Ok(bytes.as_chunks::<8>().0.iter().map(|bytes| u64::from_be_bytes(*bytes)).collect())
    }
}

/// How often each cluster is used, as the image has it.
struct Counts<'a> {
    image: &'a Image<'a>,
    table: Vec<u64>,
    blocks: HashMap<u64, Vec<u8>>,
    /// The clusters that are in use, by one each, and counted as free.
    missing: BTreeSet<u64>,
}

impl Counts<'_> {
    /// Clusters whose counts lie in one block.
    fn reach(&self) -> u64 {
        self.image.header.cluster() * 8 / self.image.header.refcount_bits()
    }

    /// The blocks themselves must be in their places, and counted.
    fn blocks_used(&mut self) -> Result<(), OpenError> {
        for entry in self.table.clone().into_iter().filter(|entry| *entry != 0) {
            if entry & REFCOUNT_RESERVED != 0 {
                return Err(OpenError::Damaged(format!("an entry {entry:#x} in its reference counts")));
            }
            self.image.place("a block of reference counts", entry, self.image.header.cluster())?;
            self.used(entry, 1)?;
        }
        Ok(())
    }

    /// All clusters that a range touches must be counted.
    fn used(&mut self, at: u64, len: u64) -> Result<(), OpenError> {
        let bits = self.image.header.cluster_bits;
        for cluster in at >> bits..=(at + len.max(1) - 1) >> bits {
            if !self.is_counted(cluster)? && !self.missing.insert(cluster) {
                return Err(uncounted(cluster));
            }
        }
        Ok(())
    }

    /// Where the count of a cluster is: the block, and the bit in it.
    fn place(&self, cluster: u64) -> Option<(u64, u64)> {
        let (index, within) = (cluster / self.reach(), cluster % self.reach());
        let block = usize::try_from(index).ok().and_then(|index| self.table.get(index));
        let at = block.copied().unwrap_or(0) & !REFCOUNT_RESERVED;
        (at != 0).then(|| (at, within * self.image.header.refcount_bits()))
    }

    /// Counts what is missing, durably.
    fn mend(&mut self) -> Result<(), OpenError> {
        if self.missing.is_empty() {
            return Ok(());
        }
        let bits = self.image.header.refcount_bits();
        for cluster in std::mem::take(&mut self.missing) {
            let (at, bit) = self.place(cluster).ok_or_else(|| uncounted(cluster))?;
            // Counts of less than a byte begin with the lowest bits; others end with the last byte.
            let byte = if bits < 8 { bit / 8 } else { (bit + bits) / 8 - 1 };
            let block = self.blocks.get_mut(&at).ok_or_else(|| uncounted(cluster))?;
            block[byte as usize] |= if bits < 8 { 1 << (bit % 8) } else { 1 };
            file::write_all(self.image.file, &block[byte as usize..][..1], at + byte)?;
        }
        file::sync(self.image.file)?;
        Ok(())
    }

    fn is_counted(&mut self, cluster: u64) -> Result<bool, OpenError> {
        let Some((at, bit)) = self.place(cluster) else { return Ok(false) };
        if !self.blocks.contains_key(&at) {
            self.blocks.insert(at, self.image.bytes(at, self.image.header.cluster())?);
        }
        let block = &self.blocks[&at];
        let (bits, first) = (self.image.header.refcount_bits(), (bit / 8) as usize);
        Ok(if bits < 8 {
            block[first] >> (bit % 8) & ((1u8 << bits) - 1) != 0
        } else {
            block[first..first + (bits / 8) as usize].iter().any(|byte| *byte != 0)
        })
    }
}

fn uncounted(cluster: u64) -> OpenError {
    OpenError::Damaged(format!(
        "it counts cluster {cluster}, which is in use, as free (repair it with qemu-img check -r all)"
    ))
}
