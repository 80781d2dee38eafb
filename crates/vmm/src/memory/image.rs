//! A guest's memory in a file.
//!
//! ```text
//! 0          header: one page, written last, so that a file which has one is whole
//! 1 MiB      memory: the regions one behind the other; what reads as zeroes is a hole
//! behind it  a checksum for each chunk of 1 MiB; 0 for a chunk of zeroes
//! ```
//!
//! Numbers are little-endian. Memory lies in the file as it lies in the guest, so that a machine can go on by mapping the file: a page
//! comes when it is touched, however much there is. The header and the table of checksums are verified when the file is opened, the
//! memory only by [`Image::verify`], which reads all of it.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

use softcpu::PAGE_SIZE;
use twox_hash::XxHash3_64;

use super::layout::Range;

/// What a file begins with.
const MAGIC: [u8; 8] = *b"TESSERAM";
/// The version that is written here. Others are refused.
const VERSION: u32 = 1;
/// Bytes of the header; its last eight are its checksum.
const HEADER: usize = PAGE_SIZE as usize;
/// Where memory begins in the file.
const DATA: u64 = CHUNK;
/// What has a checksum of its own, bytes.
pub const CHUNK: u64 = 1 << 20;
/// The most regions a header has room for, far beyond what a layout has.
const MOST_REGIONS: usize = 64;
/// Where the regions' table begins in the header, and the bytes of a line.
const REGIONS: usize = 64;
const REGION: usize = 24;

/// A file cannot be a guest's memory.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It cannot be read or written.
    #[error("the saved memory cannot be read or written")]
    Host(#[from] io::Error),
    /// It is something else.
    #[error("the file is no saved memory")]
    Other,
    /// Whoever wrote it was interrupted.
    #[error("the saved memory is not complete: whoever wrote it was interrupted")]
    Incomplete,
    /// It is of another version.
    #[error("the saved memory has version {found}, this program knows version {VERSION}")]
    Version {
        /// What it has.
        found: u32,
    },
    /// It has been damaged.
    #[error("the saved memory is damaged: {what}")]
    Damaged {
        /// What is wrong with it.
        what: String,
    },
    /// It is laid out in another way than the machine.
    #[error("the saved memory is that of another machine")]
    Layout,
}

fn damaged(what: impl Into<String>) -> ImageError {
    ImageError::Damaged { what: what.into() }
}

/// The checksum of a chunk: 0 if it is all zeroes. Allocates nothing, for who must not.
pub fn checksum(chunk: &[u8]) -> u64 {
    if is_zero(chunk) {
        return 0;
    }
    // Nobody else may have the number that means zeroes.
    XxHash3_64::oneshot(chunk).max(1)
}

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    // SAFETY: any bytes are numbers.
    let (head, words, tail) = unsafe { bytes.align_to::<u128>() };
    head.iter().all(|byte| *byte == 0)
        && tail.iter().all(|byte| *byte == 0)
        && words.chunks(16).all(|words| words.iter().fold(0, |all, word| all | word) == 0)
}

/// Where a guest's regions lie in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    regions: Vec<Place>,
    /// Bytes of all regions.
    bytes: u64,
}

/// A region of memory and where it is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Guest-physical address and length, bytes.
    pub range: Range,
    /// Where it begins in the file.
    pub offset: u64,
}

impl Plan {
    /// The plan for these regions. Each begins at a whole chunk.
    pub fn new(regions: &[Range]) -> Plan {
        let mut offset = DATA;
        let place = |range: &Range| {
            let place = Place { range: *range, offset };
            offset += range.size.next_multiple_of(CHUNK);
            place
        };
        let regions = regions.iter().map(place).collect();
        Plan { regions, bytes: offset - DATA }
    }

    /// The regions.
    pub fn regions(&self) -> &[Place] {
        &self.regions
    }

    /// How many chunks there are.
    pub fn chunks(&self) -> usize {
        (self.bytes / CHUNK) as usize
    }

    /// Where chunk `number` begins in the file.
    pub fn offset(number: usize) -> u64 {
        DATA + number as u64 * CHUNK
    }

    /// Which part of which region chunk `number` is: the region's index, the offset in it and the length, bytes.
    pub fn chunk(&self, number: usize) -> Option<(usize, u64, u64)> {
        let offset = Self::offset(number);
        let found = self.regions.iter().enumerate().rev().find(|(_, place)| place.offset <= offset);
        let (index, place) = found?;
        let at = offset - place.offset;
        (at < place.range.size).then(|| (index, at, CHUNK.min(place.range.size - at)))
    }

    fn sums_at(&self) -> u64 {
        DATA + self.bytes
    }

    /// Makes an open file one that this will be: without a header, and as long as it has to be, all zeroes.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn begin(&self, file: &File) -> io::Result<()> {
        file.set_len(0)?;
        file.set_len(self.sums_at() + 8 * self.chunks() as u64)
    }

    /// Makes the file whole, durably. Its memory is there and `sums` are its checksums.
    ///
    /// # Errors
    /// If the host cannot.
    pub fn complete(&self, file: &File, sums: &[u64]) -> io::Result<()> {
        let table: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
        file.write_all_at(&table, self.sums_at())?;
        file.sync_data()?;
        file.write_all_at(&self.header(checksum(&table)), 0)?;
        file.sync_data()
    }

    fn header(&self, sum_of_sums: u64) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(12, &(self.regions.len() as u32).to_le_bytes());
        put(16, &CHUNK.to_le_bytes());
        put(24, &self.sums_at().to_le_bytes());
        put(32, &sum_of_sums.to_le_bytes());
        for (number, place) in self.regions.iter().enumerate() {
            let at = REGIONS + number * REGION;
            put(at, &place.range.start.to_le_bytes());
            put(at + 8, &place.range.size.to_le_bytes());
            put(at + 16, &place.offset.to_le_bytes());
        }
        let sum = XxHash3_64::oneshot(&header[..HEADER - 8]);
        header[HEADER - 8..].copy_from_slice(&sum.to_le_bytes());
        header
    }
}

/// A guest's memory in a file, whole.
#[derive(Debug)]
pub struct Image {
    file: File,
    plan: Plan,
    sums: Vec<u64>,
}

impl Image {
    /// The memory in `file`.
    ///
    /// # Errors
    /// If it is none, not complete, of another version or damaged.
    pub fn open(file: File) -> Result<Image, ImageError> {
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => ImageError::Other,
            _ => error.into(),
        })?;
        if is_zero(&header) {
            return Err(ImageError::Incomplete);
        }
        if header[..8] != MAGIC {
            return Err(ImageError::Other);
        }
        let version = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
        if version != VERSION {
            return Err(ImageError::Version { found: version });
        }
        let plan = read_plan(&header)?;
        let mut table = vec![0; 8 * plan.chunks()];
        file.read_exact_at(&mut table, plan.sums_at()).map_err(|_| damaged("it is cut short"))?;
        if checksum(&table) != word(&header, 32) {
            return Err(damaged("its table of checksums is not what was written"));
        }
        let sums = table.chunks_exact(8).map(|bytes| word(bytes, 0)).collect();
        Ok(Image { file, plan, sums })
    }

    /// Where its regions lie.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Its file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The checksum of chunk `number`.
    pub fn sum(&self, number: usize) -> Option<u64> {
        self.sums.get(number).copied()
    }

    /// Reads all of it and compares it with what was written; `goes_on` hears how many bytes have been compared, and says whether to
    /// go on.
    ///
    /// # Errors
    /// If something is not as it was written: the error says where. [`ErrorKind::Interrupted`] if it was not to go on.
    pub fn verify(&self, mut goes_on: impl FnMut(u64) -> bool) -> Result<(), ImageError> {
        let mut chunk = vec![0; CHUNK as usize];
        for (number, sum) in self.sums.iter().enumerate() {
            let Some((region, at, len)) = self.plan.chunk(number) else { continue };
            let bytes = &mut chunk[..len as usize];
            self.file.read_exact_at(bytes, Plan::offset(number))?;
            if checksum(bytes) != *sum {
                let gpa = self.plan.regions[region].range.start + at;
                return Err(damaged(format!(
                    "the {} KiB from guest address {gpa:#x} are not what was written",
                    len >> 10
                )));
            }
            if !goes_on((number as u64 + 1) * CHUNK) {
                return Err(io::Error::from(ErrorKind::Interrupted).into());
            }
        }
        Ok(())
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

fn read_plan(header: &[u8; HEADER]) -> Result<Plan, ImageError> {
    if XxHash3_64::oneshot(&header[..HEADER - 8]) != word(header, HEADER - 8) {
        return Err(damaged("its header is not what was written"));
    }
    let count = u32::from_le_bytes([header[12], header[13], header[14], header[15]]) as usize;
    if count == 0 || count > MOST_REGIONS || word(header, 16) != CHUNK {
        return Err(damaged("its header makes no sense"));
    }
    let line = |number: usize| REGIONS + number * REGION;
    let ranges: Vec<_> = (0..count)
        .map(|number| Range { start: word(header, line(number)), size: word(header, line(number) + 8) })
        .collect();
    // Lengths that no address space has would overflow below.
    if ranges.iter().any(|range| range.size == 0 || range.size > 1 << 48) {
        return Err(damaged("its header makes no sense"));
    }
    let plan = Plan::new(&ranges);
    let agrees = plan.sums_at() == word(header, 24)
        && plan.regions.iter().enumerate().all(|(n, place)| place.offset == word(header, line(n) + 16));
    if agrees { Ok(plan) } else { Err(damaged("its header makes no sense")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan::new(&[Range { start: 0, size: (5 << 20) + 4096 }, Range { start: 1 << 32, size: 2 << 20 }])
    }

    /// A file of a few megabytes, of which two chunks are not zeroes.
    fn file() -> File {
        let (file, plan) = (tempfile::tempfile().unwrap(), plan());
        plan.begin(&file).unwrap();
        let mut sums = vec![0; plan.chunks()];
        for (number, byte) in [(1, 7), (5, 9)] {
            let (_, _, len) = plan.chunk(number).unwrap();
            let chunk = vec![byte; len as usize];
            file.write_all_at(&chunk, Plan::offset(number)).unwrap();
            sums[number] = checksum(&chunk);
        }
        plan.complete(&file, &sums).unwrap();
        file
    }

    #[test]
    fn every_byte_of_memory_is_in_one_chunk() {
        let plan = plan();
        assert_eq!(plan.chunks(), 8);
        let mut seen = [0; 2];
        for number in 0..plan.chunks() {
            let (region, at, len) = plan.chunk(number).unwrap();
            assert_eq!(at, seen[region]);
            seen[region] += len;
            assert_eq!(plan.regions()[region].offset + at, Plan::offset(number));
        }
        assert_eq!(seen, [(5 << 20) + 4096, 2 << 20]);
        assert_eq!(plan.chunk(8), None);
    }

    #[test]
    fn what_was_written_is_found_again_and_verified() {
        let image = Image::open(file()).unwrap();
        assert_eq!(image.plan(), &plan());
        assert_eq!((image.sum(0), image.sum(8)), (Some(0), None));
        assert_ne!(image.sum(1), Some(0));
        image.verify(|_| true).unwrap();
        let interrupted = image.verify(|done| done < 3 << 20).unwrap_err();
        assert!(matches!(interrupted, ImageError::Host(error) if error.kind() == ErrorKind::Interrupted));
    }

    #[test]
    fn a_changed_byte_is_found_wherever_it_is() {
        for at in [3, 9, 13, 30, 64, 4095, (2 << 20) + 77, (6 << 20) + 4000, (9 << 20) + 8] {
            let file = file();
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
            let found = Image::open(file).and_then(|image| image.verify(|_| true));
            assert!(found.is_err(), "at {at}");
        }
    }

    #[test]
    fn what_is_no_whole_image_is_refused_with_its_reason() {
        let short = file();
        short.set_len(6 << 20).unwrap();
        assert!(matches!(Image::open(short), Err(ImageError::Damaged { .. })));
        let begun = tempfile::tempfile().unwrap();
        plan().begin(&begun).unwrap();
        assert!(matches!(Image::open(begun), Err(ImageError::Incomplete)));
        let newer = file();
        newer.write_all_at(&[2], 8).unwrap();
        assert!(matches!(Image::open(newer), Err(ImageError::Version { found: 2 })));
        let other = tempfile::tempfile().unwrap();
        other.write_all_at(&[1; 8192], 0).unwrap();
        assert!(matches!(Image::open(other), Err(ImageError::Other)));
        assert!(matches!(Image::open(tempfile::tempfile().unwrap()), Err(ImageError::Other)));
    }

    #[test]
    fn zeroes_are_zeroes_at_any_alignment() {
        let mut bytes = vec![0u8; 5000];
        for start in 0..20 {
            assert!(is_zero(&bytes[start..]));
        }
        for at in [0, 1, 17, 2500, 4999] {
            bytes[at] = 1;
            assert!(!is_zero(&bytes));
            bytes[at] = 0;
        }
    }
}
