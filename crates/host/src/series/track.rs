//! Series that are measured together: each second once, gathered into spans of all levels, and written now and then.

use std::io;

use super::bucket::{Bucket, Spread, coarser};
use super::ring::{LEVELS, Level, Ring};

/// What cannot be written is kept for so many spans.
const MOST_UNWRITTEN: usize = 600;

/// How much of a file's track is not written yet.
#[derive(Debug)]
pub struct Track {
    /// Which one it is in its file.
    number: usize,
    levels: [Pending; LEVELS.len()],
}

/// Spans that are not written yet, the last of which still grows.
#[derive(Debug, Default)]
struct Pending(Vec<Bucket>);

impl Pending {
    fn open(&mut self, number: u32) -> Option<&mut Bucket> {
        self.0.last_mut().filter(|last| last.number == number)
    }
}

impl Track {
    /// Goes on with track `number` of a file.
    pub fn new(number: usize) -> Self {
        Self { number, levels: Default::default() }
    }

    /// Adds what was measured in a second (since the epoch).
    ///
    /// # Errors
    /// If what is known of the spans that the second is in cannot be read.
    pub fn add(&mut self, ring: &Ring, second: u32, values: &[Option<f64>]) -> io::Result<()> {
        let part: Vec<_> = values.iter().map(|value| value.map(Spread::of)).collect();
        for (level, Level { step, .. }) in LEVELS.iter().enumerate() {
            let number = second / step;
            if self.levels[level].open(number).is_none() {
                let known = self.resumed(ring, level, number)?;
                self.levels[level].0.push(known);
            }
            if let Some(open) = self.levels[level].open(number) {
                open.add(&part);
            }
        }
        Ok(())
    }

    /// What is known already of a span that is begun: this daemon may have been another one a moment ago, and clocks are set back. Its seconds
    /// are written more often than itself, but there no longer than an hour.
    fn resumed(&self, ring: &Ring, level: usize, number: u32) -> io::Result<Bucket> {
        let empty = Bucket::empty(number, ring.series(self.number));
        if level == 0 {
            return Ok(empty);
        }
        let length = LEVELS[level].step / LEVELS[0].step;
        let first = number.saturating_mul(length);
        let mut seconds = ring.read(self.number, 0, first, first.saturating_add(length - 1))?;
        // What still grows there has been begun just now, and holds nothing that is not added here as well.
        seconds.retain(|second| self.levels[0].0.iter().all(|own| own.number != second.number));
        let written = ring.read(self.number, level, number, number)?.pop();
        let known = [written, coarser(&seconds, length).pop()].into_iter().flatten();
        Ok(known.max_by_key(Bucket::count).unwrap_or(empty))
    }

    /// Writes what has been added; the spans that still grow only if `all` is wanted, or if they are short.
    ///
    /// # Errors
    /// If it cannot be written. It is tried again with what comes next.
    pub fn flush(&mut self, ring: &Ring, all: bool) -> io::Result<()> {
        for (level, pending) in self.levels.iter_mut().enumerate() {
            let grown = pending.0.len().saturating_sub(1);
            let until = if all || level == 0 { pending.0.len() } else { grown };
            let written = ring.write(self.number, level, &pending.0[..until]);
            if written.is_ok() || grown > MOST_UNWRITTEN {
                pending.0.drain(..grown);
            }
            written?;
        }
        Ok(())
    }

    /// What is known of the spans from `first` to `last` of a level, what is not written yet among it.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(&self, ring: &Ring, level: usize, first: u32, last: u32) -> io::Result<Vec<Bucket>> {
        let mut found = ring.read(self.number, level, first, last)?;
        let own = self.levels[level].0.iter().filter(|bucket| (first..=last).contains(&bucket.number));
        for bucket in own {
            match found.binary_search_by_key(&bucket.number, |known| known.number) {
                Ok(at) => found[at] = bucket.clone(),
                Err(at) => found.insert(at, bucket.clone()),
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The beginning of a span of five minutes.
    const BEGIN: u32 = 300 * 6_000_000;

    fn ring() -> (tempfile::TempDir, Ring) {
        let folder = tempfile::tempdir().unwrap();
        let ring = Ring::open(&folder.path().join("one"), &[1]).unwrap();
        (folder, ring)
    }

    fn spread(track: &Track, ring: &Ring, level: usize, second: u32) -> Spread {
        let number = second / LEVELS[level].step;
        track.read(ring, level, number, number).unwrap()[0].of[0].unwrap()
    }

    #[test]
    fn each_level_tells_the_same_in_its_detail_written_or_not() {
        let (_folder, ring) = ring();
        let mut track = Track::new(0);
        for second in 0..25 {
            track.add(&ring, BEGIN + second, &[Some(f64::from(second))]).unwrap();
            if second == 12 {
                track.flush(&ring, false).unwrap();
            }
        }
        for _ in 0..2 {
            assert_eq!(spread(&track, &ring, 0, BEGIN + 7), Spread::of(7.0));
            let ten = spread(&track, &ring, 1, BEGIN + 10);
            assert_eq!((ten.count, ten.avg(), ten.min, ten.max), (10, 14.5, 10.0, 19.0));
            let whole = spread(&track, &ring, 2, BEGIN);
            assert_eq!((whole.count, whole.avg(), whole.min, whole.max), (25, 12.0, 0.0, 24.0));
            track.flush(&ring, true).unwrap();
            track = Track::new(0);
        }
    }

    #[test]
    fn who_is_killed_loses_what_was_not_flushed_and_the_next_goes_on_in_the_same_spans() {
        let (_folder, ring) = ring();
        let mut track = Track::new(0);
        for second in 0..44 {
            track.add(&ring, BEGIN + second, &[Some(8.0)]).unwrap();
            if second == 40 {
                track.flush(&ring, false).unwrap();
            }
        }
        drop(track);
        let mut track = Track::new(0);
        track.add(&ring, BEGIN + 50, &[Some(16.0)]).unwrap();
        track.add(&ring, BEGIN + 51, &[Some(16.0)]).unwrap();
        let whole = spread(&track, &ring, 2, BEGIN);
        assert_eq!((whole.count, whole.sum), (43, 41.0 * 8.0 + 2.0 * 16.0));
        assert!(track.read(&ring, 0, BEGIN + 41, BEGIN + 43).unwrap().is_empty());
    }

    #[test]
    fn a_clock_that_is_set_back_adds_to_what_was_known_then() {
        let (_folder, ring) = ring();
        let mut track = Track::new(0);
        for second in (0..40).chain(20..25) {
            track.add(&ring, BEGIN + second, &[Some(1.0)]).unwrap();
            track.flush(&ring, false).unwrap();
        }
        assert!(spread(&track, &ring, 2, BEGIN).count >= 40);
        assert_eq!(spread(&track, &ring, 2, BEGIN).avg(), 1.0);
    }
}
