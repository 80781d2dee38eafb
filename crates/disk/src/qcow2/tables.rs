//! Whether the tables of an image point into the image, and whether it counts as used what they point to: a file that was cut
//! short or overwritten is found out when it is opened, not when a guest reads what is missing or is given what is another's.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;

use super::entry::{self, L1_RESERVED, Mapping, OFFSET};
use super::header::Header;
use crate::{OpenError, file};

/// How many tables of the second level are looked at: they map 512 GiB where clusters have 64 KiB. What lies behind others is
/// found out when it is read.
const MOST_TABLES: usize = 1024;

/// Entries of the table of reference counts: bits that must be zero.
const REFCOUNT_RESERVED: u64 = 0x1ff;

/// Checks the tables of the image in `file`, which is `len` bytes long.
pub fn check(file: &File, header: &Header, len: u64) -> Result<(), OpenError> {
    let image = Image { file, header, len };
    let cluster = header.cluster();
    let (counts_at, counts_clusters) = header.refcounts;
    let (l1_at, entries) = header.l1;
    image.place("its reference counts", counts_at, counts_clusters * cluster)?;
    image.place("its first table", l1_at, entries * 8)?;
    let mut counts = Counts {
        image: &image,
        table: image.table(counts_at, counts_clusters * cluster)?,
        blocks: HashMap::new(),
    };
    counts.used(0, cluster)?;
    counts.used(counts_at, counts_clusters * cluster)?;
    counts.used(l1_at, entries * 8)?;
    counts.blocks_used()?;
    let mut seen = HashSet::new();
    for at in image.first()? {
        if at == 0 || seen.len() >= MOST_TABLES || !seen.insert(at) {
            continue;
        }
        counts.used(at, cluster)?;
        for entry in image.table(at, cluster)? {
            if let Some(at) = image.mapping(entry)? {
                counts.used(at, 1)?;
            }
        }
    }
    Ok(())
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
            if !self.is_counted(cluster)? {
                let what = format!(
                    "it counts cluster {cluster}, which is in use, as free (repair it with qemu-img check -r all)"
                );
                return Err(OpenError::Damaged(what));
            }
        }
        Ok(())
    }

    fn is_counted(&mut self, cluster: u64) -> Result<bool, OpenError> {
        let (index, within) = (cluster / self.reach(), cluster % self.reach());
        let block = usize::try_from(index).ok().and_then(|index| self.table.get(index));
        let at = block.copied().unwrap_or(0) & !REFCOUNT_RESERVED;
        if at == 0 {
            return Ok(false);
        }
        if !self.blocks.contains_key(&at) {
            self.blocks.insert(at, self.image.bytes(at, self.image.header.cluster())?);
        }
        let block = &self.blocks[&at];
        let bits = self.image.header.refcount_bits();
        let first = (within * bits / 8) as usize;
        // Counts of less than a byte begin with the lowest bits.
        Ok(if bits < 8 {
            block[first] >> (within * bits % 8) & ((1u8 << bits) - 1) != 0
        } else {
            block[first..first + (bits / 8) as usize].iter().any(|byte| *byte != 0)
        })
    }
}
