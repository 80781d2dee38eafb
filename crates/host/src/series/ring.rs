//! One file of series: always of the same length, the oldest values overwritten by the newest. It has holes where nothing was written, so that
//! it takes what it holds.
//!
//! ```text
//! header       64 bytes: MAGIC, how many series each track has
//! track 0      level 0: a slot for each second of an hour; level 1: each 10 s of a day; level 2: each 5 min of 30 days
//! track 1      the same, and so on
//! ```
//!
//! A slot is the number of its span of time (u32), how many values were gathered (u16), and of each series the mean, the smallest and the
//! largest (see [`code`]); little-endian. Span n is in slot n modulo the number of slots: a slot with another number
//! holds what is too old, and nobody has to clear it. Nothing depends on the order in which writes reach the disk.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::bucket::{Bucket, Spread};
use super::code;

/// For how long what is kept in which detail.
pub struct Level {
    /// How long a span is, s.
    pub step: u32,
    /// How many there are.
    pub slots: u32,
}

/// A second for an hour, ten for a day, five minutes for 30 days. Each step is a multiple of the one before it.
pub const LEVELS: [Level; 3] =
    [Level { step: 1, slots: 3600 }, Level { step: 10, slots: 8640 }, Level { step: 300, slots: 8640 }];

const MAGIC: &[u8; 16] = b"tessera series 1";
const HEADER: u64 = 64;

/// A file of series.
#[derive(Debug)]
pub struct Ring {
    file: File,
    /// How many series each track has.
    series: Vec<usize>,
}

fn width(series: usize) -> usize {
    6 + 6 * series
}

fn header(series: &[usize]) -> [u8; HEADER as usize] {
    let mut header = [0; HEADER as usize];
    header[..16].copy_from_slice(MAGIC);
    for (place, count) in header[16..].iter_mut().zip(series) {
        *place = *count as u8;
    }
    header
}

/// How long a file of tracks with so many series is, bytes: the most that it takes.
pub fn length(series: &[usize]) -> u64 {
    let slots: u64 = LEVELS.iter().map(|level| u64::from(level.slots)).sum();
    HEADER + series.iter().map(|count| width(*count) as u64 * slots).sum::<u64>()
}

impl Ring {
    /// Opens the file at `path` whose tracks have so many series, and makes it if it is not there. One of another layout begins anew.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn open(path: &Path, series: &[usize]) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let ring = Self { file, series: series.to_vec() };
        if !ring.fits()? {
            if ring.file.metadata()?.len() > 0 {
                tracing::warn!("{}: what was measured is of another layout: it begins anew", path.display());
                ring.file.set_len(0)?;
            }
            ring.file.set_len(length(series))?;
            ring.file.write_all_at(&header(series), 0)?;
        }
        Ok(ring)
    }

    /// Opens the file at `path` to read it, if it is there and of this layout.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn find(path: &Path, series: &[usize]) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let ring = Self { file, series: series.to_vec() };
        Ok(ring.fits()?.then_some(ring))
    }

    fn fits(&self) -> io::Result<bool> {
        let mut found = [0; HEADER as usize];
        let read = self.file.read_at(&mut found, 0)?;
        let whole = self.file.metadata()?.len() == length(&self.series);
        Ok(whole && read == found.len() && found == header(&self.series))
    }

    /// How many series a track has.
    pub fn series(&self, track: usize) -> usize {
        self.series.get(track).copied().unwrap_or_default()
    }

    fn place(&self, track: usize, level: usize, slot: u32) -> u64 {
        let slots = |levels: &[Level]| levels.iter().map(|level| u64::from(level.slots)).sum::<u64>();
        let before: u64 = self.series[..track].iter().map(|count| width(*count) as u64).sum();
        let width = width(self.series[track]) as u64;
        HEADER + before * slots(&LEVELS) + width * (slots(&LEVELS[..level]) + u64::from(slot))
    }

    /// Writes what is known of some spans.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, track: usize, level: usize, buckets: &[Bucket]) -> io::Result<()> {
        let slots = LEVELS[level].slots;
        let neighbours = |a: &Bucket, b: &Bucket| a.number + 1 == b.number && !b.number.is_multiple_of(slots);
        for run in buckets.chunk_by(neighbours) {
            let bytes: Vec<u8> = run.iter().flat_map(to_bytes).collect();
            self.file.write_all_at(&bytes, self.place(track, level, run[0].number % slots))?;
        }
        Ok(())
    }

    /// What is known of the spans from `first` to `last`, in their order; those of which nothing is are left out.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(&self, track: usize, level: usize, first: u32, last: u32) -> io::Result<Vec<Bucket>> {
        let slots = LEVELS[level].slots;
        let first = first.max(last.saturating_sub(slots - 1));
        let (series, mut found, mut next) = (self.series(track), Vec::new(), first);
        while next <= last {
            let count = (last - next + 1).min(slots - next % slots);
            let mut bytes = vec![0; count as usize * width(series)];
            self.file.read_exact_at(&mut bytes, self.place(track, level, next % slots))?;
            let all = bytes.chunks_exact(width(series)).map(from_bytes).zip(next..);
            found.extend(all.filter(|(bucket, number)| bucket.number == *number).map(|(bucket, _)| bucket));
            next += count;
        }
        Ok(found)
    }
}

fn to_bytes(bucket: &Bucket) -> Vec<u8> {
    let mut bytes = bucket.number.to_le_bytes().to_vec();
    bytes.extend((bucket.count().min(u16::MAX.into()) as u16).to_le_bytes());
    for spread in &bucket.of {
        for value in [spread.map(|of| of.avg()), spread.map(|of| of.min), spread.map(|of| of.max)] {
            bytes.extend(code::encode(value).to_le_bytes());
        }
    }
    bytes
}

fn from_bytes(bytes: &[u8]) -> Bucket {
    let words: Vec<u16> = bytes.chunks_exact(2).map(|two| u16::from_le_bytes([two[0], two[1]])).collect();
    let count = u32::from(words[2]).max(1);
    let spread = |of: &[u16]| {
        let [avg, min, max] = [of[0], of[1], of[2]].map(code::decode);
        Some(Spread { count, sum: avg? * f64::from(count), min: min?, max: max? })
    };
    Bucket {
        number: u32::from(words[0]) | u32::from(words[1]) << 16,
        of: words[3..].chunks_exact(3).map(spread).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(number: u32, value: f64) -> Bucket {
        Bucket { number, of: vec![Some(Spread::of(value)), None] }
    }

    #[test]
    fn what_was_written_is_read_again_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("one");
        let ring = Ring::open(&path, &[2, 3]).unwrap();
        // Around the end of the slots.
        let begin = 3600 * 5 - 3;
        let all: Vec<_> = (begin..begin + 6).map(|n| bucket(n, f64::from(n - begin))).collect();
        ring.write(0, 0, &all).unwrap();
        assert_eq!(ring.read(0, 0, begin - 2, begin + 9).unwrap(), all);
        assert_eq!(ring.read(0, 0, 0, begin + 9).unwrap(), all, "no more than there can be is looked for");
        assert!(ring.read(1, 0, begin, begin + 9).unwrap().is_empty());
        assert!(ring.read(0, 1, begin, begin + 9).unwrap().is_empty());
        ring.write(0, 0, &[bucket(begin + 3600, 7.0)]).unwrap();
        drop(ring);
        let ring = Ring::find(&path, &[2, 3]).unwrap().unwrap();
        assert_eq!(ring.read(0, 0, begin, begin + 5).unwrap(), all[1..]);
        assert_eq!(ring.read(0, 0, begin + 3600, begin + 3600).unwrap(), [bucket(begin + 3600, 7.0)]);
    }

    #[test]
    fn it_is_as_long_as_is_said_and_takes_what_it_holds() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("one");
        let ring = Ring::open(&path, &[4, 6]).unwrap();
        ring.write(1, 2, &[bucket(1, 1.0)]).unwrap();
        let about = path.metadata().unwrap();
        assert_eq!(about.len(), length(&[4, 6]));
        assert!(about.blocks() * 512 < 32 << 10, "{} blocks", about.blocks());
        assert_eq!(about.mode() & 0o777, 0o600);
        // All slots of all levels and tracks are in it, and apart.
        let last = (LEVELS.len() - 1, LEVELS[2].slots - 1);
        assert_eq!(ring.place(1, last.0, last.1) + width(6) as u64, length(&[4, 6]));
        assert_eq!(ring.place(1, 0, 0), ring.place(0, last.0, last.1) + width(4) as u64);
    }

    #[test]
    fn a_file_of_another_layout_or_none_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("one");
        Ring::open(&path, &[2]).unwrap().write(0, 0, &[bucket(5, 1.0)]).unwrap();
        assert!(Ring::find(&path, &[3]).unwrap().is_none());
        assert!(Ring::open(&path, &[3]).unwrap().read(0, 0, 5, 5).unwrap().is_empty());
        std::fs::write(&path, "short").unwrap();
        assert!(Ring::find(&path, &[2]).unwrap().is_none());
        assert!(Ring::open(&path, &[2]).unwrap().read(0, 0, 5, 5).unwrap().is_empty());
        assert!(Ring::find(&folder.path().join("none"), &[2]).unwrap().is_none());
    }
}
