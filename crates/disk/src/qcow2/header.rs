//! The header of a qcow2 image (QEMU, docs/interop/qcow2.rst), read to see whether the image is one that we can use.
//!
//! imago reads it again for itself. It is the reader of a good header; what is wrong with a bad one is said here.

use std::fs::File;
use std::io;

use crate::{Format, OpenError, file};

/// The first four bytes.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Bytes of the header's fixed part, version 2 and 3.
const LENGTH_V2: usize = 72;
const LENGTH_V3: usize = 104;
/// The most bytes the first of the two mapping tables may have, as QEMU has it.
const MOST_L1_BYTES: u64 = 32 << 20;
/// The most bytes of the reference counts' table, as QEMU has it.
const MOST_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
/// The longest name of a backing file.
const MOST_NAME: usize = 1023;

/// Incompatible features.
const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

/// Types of header extensions: the backing file's format, and names of features, of so many bytes each.
const BACKING_FORMAT: u32 = 0xe279_2aca;
const FEATURE_NAMES: u32 = 0x6803_f857;
const FEATURE_NAME: usize = 48;

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Bytes of a cluster, as a power of two: 9 to 21.
    pub cluster_bits: u32,
    /// Bytes of the disk.
    pub size: u64,
    /// Where the first mapping table begins, and how many entries it has.
    pub l1: (u64, u64),
    /// Where the table of reference counts begins, and its clusters.
    pub refcounts: (u64, u64),
    /// Bits of a reference count, as a power of two: 0 to 6.
    pub refcount_order: u32,
    /// The backing file.
    pub backing: Option<Backing>,
}

/// What a header says of its backing file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// Its name, relative to the image's folder.
    pub name: String,
    /// Its format, where the header has it.
    pub format: Option<Format>,
}

/// A header extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Its type.
    pub kind: u32,
    /// How long it says that it is.
    len: usize,
    data: Vec<u8>,
}

/// Where things are in the first cluster.
#[derive(Debug)]
pub struct Layout {
    /// The header extensions.
    pub extensions: Vec<Extension>,
    /// Where they begin.
    pub extensions_at: u64,
    /// Where they end, behind what says so.
    pub end: u64,
    /// Where the name of the backing file is, and its length; zeroes if there is none.
    pub name: (u64, u64),
}

impl Extension {
    /// The one that says how the backing file is laid out.
    pub fn of_format(format: Format) -> Self {
        let text = match format {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        };
        Self { kind: BACKING_FORMAT, len: text.len(), data: text.into() }
    }

    /// Appends it as it is in a file.
    pub fn append_to(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.kind.to_be_bytes());
        bytes.extend((self.len as u32).to_be_bytes());
        bytes.extend(&self.data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
}

/// The bytes of the first cluster, with the numbers in them.
struct Bytes(Vec<u8>);

impl Bytes {
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let end = at.saturating_add(N);
        self.0.get(at..end).and_then(|b| b.try_into().ok()).unwrap_or([0; N])
    }
    fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.array(at))
    }
    fn u64(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.array(at))
    }
    fn text(&self, at: usize, len: usize, what: &str) -> Result<String, OpenError> {
        let bytes = at.checked_add(len).and_then(|end| self.0.get(at..end));
        let text = bytes.and_then(|bytes| str::from_utf8(bytes).ok());
        text.map(str::to_owned).ok_or_else(|| damaged(format!("{what} is no text of its first cluster")))
    }
}

fn damaged(what: impl Into<String>) -> OpenError {
    OpenError::Damaged(what.into())
}

fn unsupported(what: impl Into<String>) -> OpenError {
    OpenError::Unsupported(what.into())
}

impl Header {
    /// Reads and checks the header of the image in `file`.
    ///
    /// # Errors
    /// If it is not one of an image that can be used: the error says why.
    pub fn read(file: &File) -> Result<Header, OpenError> {
        let fixed = first_bytes(file, LENGTH_V3)?;
        if fixed.array(0) != MAGIC || fixed.0.len() < LENGTH_V2 {
            return Err(OpenError::NotQcow2);
        }
        let (version, cluster_bits) = (fixed.u32(4), fixed.u32(20));
        match version {
            2 => {}
            3 if fixed.0.len() == LENGTH_V3 => check_features(fixed.u64(72))?,
            3 => return Err(OpenError::CutShort(fixed.0.len() as u64, LENGTH_V3 as u64)),
            other => return Err(unsupported(format!("is of version {other}"))),
        }
        if !(9..=21).contains(&cluster_bits) {
            return Err(damaged(format!("clusters of 2^{cluster_bits} bytes")));
        }
        match fixed.u32(32) {
            0 => {}
            1 | 2 => return Err(unsupported("is encrypted")),
            other => return Err(unsupported(format!("is encrypted by method {other}"))),
        }
        let bytes = first_bytes(file, 1 << cluster_bits)?;
        let header = Header {
            version,
            cluster_bits,
            size: fixed.u64(24),
            l1: (fixed.u64(40), u64::from(fixed.u32(36))),
            refcounts: (fixed.u64(48), u64::from(fixed.u32(56))),
            refcount_order: if version == 2 { 4 } else { fixed.u32(96) },
            backing: backing(&bytes, backing_format(&bytes, version)?)?,
        };
        header.check_sizes()?;
        Ok(header)
    }

    /// Where things are in the first cluster of the image in `file`, whose header is good.
    ///
    /// # Errors
    /// If the host cannot read, or the extensions do not end where they should.
    pub fn layout(file: &File) -> Result<Layout, OpenError> {
        let header = Header::read(file)?;
        let mut bytes = first_bytes(file, header.cluster() as usize)?;
        bytes.0.resize(header.cluster() as usize, 0);
        let (extensions, end) = extensions(&bytes, header.version);
        let name = if header.backing.is_some() { (bytes.u64(8), u64::from(bytes.u32(16))) } else { (0, 0) };
        let (at, end) = (extensions_at(&bytes, header.version) as u64, end as u64 + 8);
        // QEMU lets them end with the name; there would be no telling where without it.
        if end > header.cluster() || bytes.u32(end as usize - 8) != 0 || name.0 != 0 && end > name.0 {
            return Err(unsupported("has header extensions without an end"));
        }
        Ok(Layout { extensions, extensions_at: at, end, name })
    }

    /// Bytes of a cluster.
    pub fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bits of a reference count.
    pub fn refcount_bits(&self) -> u64 {
        1 << self.refcount_order
    }

    /// Bytes of the disk that one entry of the first table maps.
    fn l1_reach(&self) -> u64 {
        self.cluster() * (self.cluster() / 8)
    }

    fn check_sizes(&self) -> Result<(), OpenError> {
        file::check_size(self.size)?;
        let (_, entries) = self.l1;
        let needed = self.size.div_ceil(self.l1_reach());
        if needed.max(entries).saturating_mul(8) > MOST_L1_BYTES {
            return Err(unsupported(format!("has {} bytes, more than its clusters can map", self.size)));
        }
        if entries < needed {
            return Err(damaged(format!("a table of {entries} entries, where {needed} are needed")));
        }
        if self.refcount_order > 6 {
            return Err(damaged(format!("reference counts of 2^{} bits", self.refcount_order)));
        }
        let (_, clusters) = self.refcounts;
        if clusters == 0 || clusters.saturating_mul(self.cluster()) > MOST_REFCOUNT_TABLE_BYTES {
            return Err(damaged(format!("a table of reference counts of {clusters} clusters")));
        }
        Ok(())
    }
}

/// Reads at most `len` bytes from the start.
fn first_bytes(file: &File, len: usize) -> io::Result<Bytes> {
    let mut bytes = vec![0; len];
    let there = file::read_there(file, &mut bytes, 0)?;
    bytes.truncate(there);
    Ok(Bytes(bytes))
}

fn check_features(incompatible: u64) -> Result<(), OpenError> {
    match incompatible {
        f if f & CORRUPT != 0 => Err(damaged("it is marked as such")),
        f if f & DIRTY != 0 => Err(OpenError::Dirty),
        f if f & EXTERNAL_DATA != 0 => Err(unsupported("keeps its data in another file")),
        f if f & COMPRESSION != 0 => Err(unsupported("is compressed by other means than zlib")),
        f if f & EXTENDED_L2 != 0 => Err(unsupported("has subclusters")),
        0 => Ok(()),
        f => Err(unsupported(format!("has the unknown feature {}", f.trailing_zeros()))),
    }
}

fn backing(bytes: &Bytes, format: Option<Format>) -> Result<Option<Backing>, OpenError> {
    let (at, len) = (bytes.u64(8), bytes.u32(16) as usize);
    if at == 0 || len == 0 {
        return Ok(None);
    }
    if len > MOST_NAME {
        return Err(damaged(format!("a backing file's name of {len} bytes")));
    }
    let at = usize::try_from(at).map_err(|_| damaged("a backing file's name far away"))?;
    let name = bytes.text(at, len, "the name of its backing file")?;
    if name.contains('\0') {
        return Err(damaged("a zero in the name of its backing file"));
    }
    // QEMU takes what has a colon before any slash for a protocol and its address.
    if name.split('/').next().is_some_and(|first| first.contains(':')) {
        return Err(unsupported(format!("has the backing file {name:?}")));
    }
    Ok(Some(Backing { name, format }))
}

fn extensions_at(bytes: &Bytes, version: u32) -> usize {
    if version == 2 { LENGTH_V2 } else { bytes.u32(100) as usize }
}

/// The header extensions: type, length, data padded to eight bytes. Gives where they end, too, before the type zero that ends them.
fn extensions(bytes: &Bytes, version: u32) -> (Vec<Extension>, usize) {
    let mut at = extensions_at(bytes, version);
    let mut list = Vec::new();
    while at + 8 <= bytes.0.len() && bytes.u32(at) != 0 {
        let (kind, len) = (bytes.u32(at), bytes.u32(at + 4) as usize);
        let end = at.saturating_add(8).saturating_add(len).min(bytes.0.len());
        list.push(Extension { kind, len, data: bytes.0[(at + 8).min(end)..end].to_vec() });
        at = at.saturating_add(8).saturating_add(len.next_multiple_of(8));
    }
    (list, at)
}

/// The backing file's format.
fn backing_format(bytes: &Bytes, version: u32) -> Result<Option<Format>, OpenError> {
    let mut format = None;
    for extension in extensions(bytes, version).0 {
        let whole = extension.data.len() == extension.len;
        match extension.kind {
            BACKING_FORMAT => {
                let text = String::from_utf8(extension.data).ok().filter(|_| whole);
                let what = "the format of its backing file is no text of its first cluster";
                format = Some(text.ok_or_else(|| damaged(what))?);
            }
            FEATURE_NAMES if !extension.len.is_multiple_of(FEATURE_NAME) => {
                return Err(damaged(format!("names of features of {} bytes", extension.len)));
            }
            _ => {}
        }
    }
    match format.as_deref() {
        None => Ok(None),
        Some("qcow2") => Ok(Some(Format::Qcow2)),
        Some("raw" | "file" | "host_device") => Ok(Some(Format::Raw)),
        Some(other) => Err(unsupported(format!("has a backing file of the format {other:?}"))),
    }
}
