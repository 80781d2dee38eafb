//! Which clusters of a disk have been written: a bit each, where a part has been written at all.

use std::collections::BTreeMap;

/// Clusters whose bits lie together.
const CHUNK: u64 = 1 << 15;
const WORDS: usize = (CHUNK / 64) as usize;

enum Chunk {
    Some(Box<[u64; WORDS]>),
    All,
}

/// A set of clusters. Parts of which nothing or everything is in it take no room.
#[derive(Default)]
pub struct Map {
    chunks: BTreeMap<u64, Chunk>,
}

impl Map {
    /// Whether `cluster` is in the set.
    pub fn contains(&self, cluster: u64) -> bool {
        self.run(cluster, cluster + 1).0
    }

    /// Whether `cluster` is in the set, and up to which cluster, at most `end`, the answer is the same.
    pub fn run(&self, cluster: u64, end: u64) -> (bool, u64) {
        let first = self.run_in_chunk(cluster);
        let mut at = first.1;
        while at < end {
            let (next, to) = self.run_in_chunk(at);
            if next != first.0 {
                break;
            }
            at = to;
        }
        (first.0, at.min(end))
    }

    /// The same within a word, or a chunk that is all alike.
    fn run_in_chunk(&self, cluster: u64) -> (bool, u64) {
        let chunk_end = (cluster / CHUNK + 1) * CHUNK;
        match self.chunks.get(&(cluster / CHUNK)) {
            None => (false, chunk_end),
            Some(Chunk::All) => (true, chunk_end),
            Some(Chunk::Some(words)) => {
                let (word, bit) = (words[(cluster % CHUNK / 64) as usize], cluster % 64);
                let set = word >> bit & 1 != 0;
                let alike =
                    if set { (!(word >> bit)).trailing_zeros() } else { (word >> bit).trailing_zeros() };
                (set, cluster + u64::from(alike).min(64 - bit))
            }
        }
    }

    /// Puts the clusters from `start` to before `end` into the set.
    pub fn insert(&mut self, start: u64, end: u64) {
        let mut at = start;
        while at < end {
            let number = at / CHUNK;
            let to = end.min((number + 1) * CHUNK);
            self.insert_in_chunk(number, at - number * CHUNK, to - number * CHUNK);
            at = to;
        }
    }

    fn insert_in_chunk(&mut self, number: u64, start: u64, end: u64) {
        if end - start == CHUNK {
            self.chunks.insert(number, Chunk::All);
            return;
        }
        let chunk = self.chunks.entry(number).or_insert_with(|| Chunk::Some(Box::new([0; WORDS])));
        let Chunk::Some(words) = chunk else { return };
        let mut at = start;
        while at < end {
            let (word, bit) = ((at / 64) as usize, at % 64);
            let n = (64 - bit).min(end - at);
            words[word] |= (u64::MAX >> (64 - n)) << bit;
            at += n;
        }
        let last = words[((end - 1) / 64) as usize];
        if last == u64::MAX && words.iter().all(|w| *w == u64::MAX) {
            *chunk = Chunk::All;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_what_was_put_in() {
        let mut map = Map::default();
        let end = 5 * CHUNK;
        assert_eq!(map.run(0, end), (false, end));
        for (from, to) in [(3, 7), (64, 128), (CHUNK - 2, CHUNK + 1), (2 * CHUNK, 4 * CHUNK), (130, 131)] {
            map.insert(from, to);
        }
        let mut runs = Vec::new();
        let mut at = 0;
        while at < end {
            let (set, to) = map.run(at, end);
            assert!(to > at);
            if set {
                runs.push((at, to));
            }
            at = to;
        }
        let want = [(3, 7), (64, 128), (130, 131), (CHUNK - 2, CHUNK + 1), (2 * CHUNK, 4 * CHUNK)];
        assert_eq!(runs, want);
        assert_eq!(map.run(65, 100), (true, 100));
    }

    #[test]
    fn a_chunk_that_fills_up_takes_no_room() {
        let mut map = Map::default();
        for n in 0..CHUNK / 8 {
            map.insert(n * 8, n * 8 + 8);
        }
        assert!(matches!(map.chunks.get(&0), Some(Chunk::All)));
    }
}
