//! Whether the tables of an image point into the image, and whether it counts as used what they point to: a file that was cut
//! short or overwritten is found out when it is opened, not when a guest reads what is missing or is given what is another's.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::header::Header;
use crate::OpenError;

/// How many tables of the second level are looked at: they map 512 GiB where clusters have 64 KiB. What lies behind others is
/// found out when it is read.
const MOST_TABLES: usize = 1024;

/// Bits 55:9 of an entry: an offset.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Entries of the first table: bits that must be zero.
const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
/// Entries of the second: bits that must be zero (bit 0 says "zeroes" since version 3), and compressed data.
const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;
const L2_ZERO: u64 = 1;
const L2_COMPRESSED: u64 = 1 << 62;
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
    for entry in image.table(l1_at, entries * 8)? {
        if entry & L1_RESERVED != 0 {
            return Err(OpenError::Damaged(format!("an entry {entry:#x} in its first table")));
        }
        let at = entry & OFFSET;
        if at == 0 || seen.len() >= MOST_TABLES || !seen.insert(at) {
            continue;
        }
        image.place("a table", at, cluster)?;
        counts.used(at, cluster)?;
        for entry in image.table(at, cluster)? {
            if let Some(at) = image.mapping(entry)? {
                counts.used(at, 1)?;
            }
        }
    }
    Ok(())
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

    /// Where an entry of a table of the second level leads, if anywhere.
    fn mapping(&self, entry: u64) -> Result<Option<u64>, OpenError> {
        if entry & L2_COMPRESSED != 0 {
            // The length in sectors is an upper bound; where it begins must be there.
            let offset_bits = 62 - (self.header.cluster_bits - 8);
            let at = entry & ((1 << offset_bits) - 1);
            return self.end(at.saturating_add(1)).map(|()| Some(at));
        }
        let reserved = if self.header.version == 2 { L2_RESERVED | L2_ZERO } else { L2_RESERVED };
        let at = entry & OFFSET;
        if entry & reserved != 0 || !at.is_multiple_of(self.header.cluster()) {
            return Err(OpenError::Damaged(format!("an entry {entry:#x} in a table")));
        }
        if at == 0 { Ok(None) } else { self.end(at + 1).map(|()| Some(at)) }
    }

    fn bytes(&self, at: u64, len: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len as usize];
        // What is at the end of the file may end within its cluster.
        let mut filled = 0;
        while filled < bytes.len() {
            match self.file.read_at(&mut bytes[filled..], at + filled as u64)? {
                0 => break,
                n => filled += n,
            }
        }
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
