//! Which of a guest's pages go to the paging device: those of blocks that are used least.
//!
//! The kernel does not tell which pages a process has touched. So of each block a few pages, by chance, are paged out as a sample: how many
//! of them are back at the next look, and after how long, tells how often a page of the block is used (C. Waldspurger, "Memory
//! Resource Management in VMware ESX Server", section 5.3, which samples by taking pages away, too). What is in the sample and does not
//! come back was no waste: it is where it belongs. Pages of a sample that are used come back from the kernel's cache of the
//! device, mostly without being read.

use std::io;

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Pages that are judged together.
const BLOCK: u64 = 256;
/// Pages of a block that are out at least while somebody wants to know how often it is used.
const SAMPLE: usize = 8;
/// The most blocks that are looked at each time before it is decided.
const LOOKS: usize = 512;
/// After so many seconds what was seen counts half: programs turn to other memory.
const HALF: f64 = 15.0;
/// So many seconds after a sample the next one is taken: each costs the guest the time that it takes to bring back what it uses.
const PAUSE: f64 = 10.0;
/// So many times what is wanted is tried, where pages do not go.
const TRIES: usize = 2;
/// A page that came back was out no longer than this, s, for all that is known.
const SOON: f64 = 1.0;

/// Some memory of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// Its first address.
    pub start: u64,
    /// Its bytes.
    pub len: u64,
}

/// Where the pages of a block are, by their number in it. Those that are neither have never been touched, or are a file's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// In memory.
    pub present: Vec<u16>,
    /// How many are on a paging device.
    pub out: usize,
}

/// A process's memory.
pub trait Pages {
    /// Where the pages of an area are.
    ///
    /// # Errors
    /// If it is not known, since the process is gone.
    fn look(&mut self, area: Area) -> io::Result<Look>;

    /// Has the pages of these areas written to the paging device and taken from the process, as far as it has room and nobody holds them.
    ///
    /// # Errors
    /// If the process is gone.
    fn page_out(&mut self, areas: &[Area]) -> io::Result<()>;
}

#[derive(Debug, Clone, PartialEq)]
struct Block {
    area: Area,
    present: usize,
    out: usize,
    /// When that was seen.
    at: f64,
    /// When a sample was taken last, if one was.
    sampled: Option<f64>,
    /// Pages that came back, and the seconds that pages were out, one by one: both with what is long ago forgotten.
    back: f64,
    exposed: f64,
}

impl Block {
    fn new(area: Area) -> Self {
        Self { area, present: 0, out: 0, at: 0.0, sampled: None, back: 0.0, exposed: 0.0 }
    }

    /// How often each of its pages is used, in a second.
    fn rate(&self) -> f64 {
        (self.back + 0.5) / (self.exposed + 1.0)
    }

    fn see(&mut self, look: &Look, now: f64) {
        let seconds = (now - self.at).max(0.0);
        let back = self.out.saturating_sub(look.out) as f64;
        let still = self.out as f64 - back;
        // A block that is out tells no more than its sample would have: else it would take as long to be seen used again.
        let weight = (SAMPLE as f64 / self.out.max(1) as f64).min(1.0);
        let kept = (-seconds / HALF).exp2();
        self.back = self.back * kept + back * weight;
        self.exposed = self.exposed * kept + (still * seconds + back * seconds.min(SOON)) * weight;
        (self.present, self.out, self.at) = (look.present.len(), look.out, now);
    }

    /// How many of its pages are to be a sample now.
    fn sample(&self, now: f64) -> usize {
        if self.sampled.is_some_and(|sampled| now - sampled < PAUSE) {
            return 0;
        }
        SAMPLE.saturating_sub(self.out).min(self.present)
    }

    /// Takes in where the pages are after so many of them were to go; gives how many have gone. The others count as used: they are, or they are
    /// held, and others are tried before them.
    fn went(&mut self, look: &Look, ordered: usize) -> usize {
        let gone = look.out.saturating_sub(self.out).min(ordered);
        self.back += ((ordered - gone) as f64).min(SAMPLE as f64);
        (self.present, self.out) = (look.present.len(), look.out);
        gone
    }
}

/// What is known of a guest's memory, and the place up to which it has been looked through.
#[derive(Debug, Default)]
pub struct Hand {
    blocks: Vec<Block>,
    next: usize,
    chance: u64,
}

impl Hand {
    /// Takes it that this is the memory there is; what is known of it is kept.
    pub fn lay(&mut self, areas: &[Area]) {
        let cut = |area: &Area| {
            let (start, end) = (area.start, area.start + area.len);
            // At the same places whatever is beside it.
            let first = start - start % (BLOCK * PAGE);
            (first..end).step_by((BLOCK * PAGE) as usize).map(move |at| {
                let (from, to) = (at.max(start), (at + BLOCK * PAGE).min(end));
                Area { start: from, len: to - from }
            })
        };
        let mut known = std::mem::take(&mut self.blocks).into_iter().peekable();
        self.blocks = areas
            .iter()
            .flat_map(cut)
            .map(|area| {
                while known.peek().is_some_and(|block| block.area.start < area.start) {
                    known.next();
                }
                known.next_if(|block| block.area == area).unwrap_or_else(|| Block::new(area))
            })
            .collect();
    }

    /// Has about so many bytes paged out, `now` being the time in seconds. Fewer if there is not so much, or it does not go; gives how many went.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn take(&mut self, now: f64, bytes: u64, memory: &mut impl Pages) -> io::Result<u64> {
        let wanted = (bytes / PAGE) as usize;
        let (mut areas, mut sampled, mut left) = (Vec::new(), Vec::new(), wanted);
        for _ in 0..self.blocks.len().min(LOOKS) {
            if left == 0 {
                break;
            }
            self.next = (self.next + 1) % self.blocks.len();
            let look = memory.look(self.blocks[self.next].area)?;
            self.blocks[self.next].see(&look, now);
            let sample = self.blocks[self.next].sample(now).min(left);
            if sample == 0 {
                continue;
            }
            let chosen = self.chosen(look.present, sample);
            let block = &mut self.blocks[self.next];
            areas.extend(runs(block.area.start, &chosen));
            block.sampled = Some(now);
            sampled.push((self.next, sample));
            left -= sample;
        }
        memory.page_out(&areas)?;
        let mut gone = 0;
        for (at, sample) in sampled {
            let block = &mut self.blocks[at];
            gone += block.went(&memory.look(block.area)?, sample);
        }
        gone += self.take_coldest(now, wanted - gone, memory)?;
        Ok(gone as u64 * PAGE)
    }

    /// Gives how many pages have gone.
    fn take_coldest(&mut self, now: f64, wanted: usize, memory: &mut impl Pages) -> io::Result<usize> {
        let (mut gone, mut tries) = (0, wanted * TRIES);
        let mut order: Vec<_> = (0..self.blocks.len()).filter(|at| self.blocks[*at].present > 0).collect();
        order.sort_by(|a, b| self.blocks[*a].rate().total_cmp(&self.blocks[*b].rate()));
        for at in order {
            if gone == wanted || tries == 0 {
                break;
            }
            let look = memory.look(self.blocks[at].area)?;
            let block = &mut self.blocks[at];
            block.see(&look, now);
            let chosen = &look.present[..look.present.len().min(wanted - gone).min(tries)];
            memory.page_out(&runs(block.area.start, chosen))?;
            gone += block.went(&memory.look(block.area)?, chosen.len());
            tries -= chosen.len();
        }
        Ok(gone)
    }

    /// So many of some pages, by chance, in order.
    fn chosen(&mut self, mut pages: Vec<u16>, count: usize) -> Vec<u16> {
        for at in 0..count {
            // Numbers that look like chance are enough: S. Vigna, "xorshift*".
            self.chance ^= (self.chance << 13).wrapping_add(0x9e37_79b9);
            self.chance ^= self.chance >> 7;
            self.chance ^= self.chance << 17;
            let other = at + (self.chance % (pages.len() - at) as u64) as usize;
            pages.swap(at, other);
        }
        pages.truncate(count);
        pages.sort_unstable();
        pages
    }
}

/// Neighbours in one piece.
fn runs(start: u64, pages: &[u16]) -> Vec<Area> {
    let run = |run: &[u16]| Area { start: start + u64::from(run[0]) * PAGE, len: run.len() as u64 * PAGE };
    pages.chunk_by(|a, b| a + 1 == *b).map(run).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// A process whose first pages are used all the time, and none of the others; some have never been touched.
    struct Process {
        out: HashSet<u64>,
        hot: std::ops::Range<u64>,
        touched: u64,
        back: usize,
        /// Those before this do not go.
        held: u64,
    }

    impl Process {
        fn new(hot: std::ops::Range<u64>, touched: u64) -> Self {
            Self { out: HashSet::new(), hot, touched, back: 0, held: 0 }
        }

        fn run(&mut self) {
            let (before, hot) = (self.out.len(), self.hot.clone());
            self.out.retain(|page| !hot.contains(page));
            self.back = before - self.out.len();
        }
    }

    impl Pages for Process {
        fn look(&mut self, area: Area) -> io::Result<Look> {
            let pages = area.start / PAGE..((area.start + area.len) / PAGE).min(self.touched);
            let (out, present): (Vec<_>, Vec<_>) = pages.partition(|page| self.out.contains(page));
            let present = present.iter().map(|page| (page - area.start / PAGE) as u16).collect();
            Ok(Look { present, out: out.len() })
        }

        fn page_out(&mut self, areas: &[Area]) -> io::Result<()> {
            for area in areas {
                assert!((area.start + area.len) / PAGE <= self.touched);
                let pages = area.start / PAGE..(area.start + area.len) / PAGE;
                self.out.extend(pages.filter(|page| *page >= self.held));
            }
            Ok(())
        }
    }

    #[test]
    fn what_is_used_stays_and_what_is_not_goes() {
        // 64 MiB, of which 40 are used all the time and 48 have been touched.
        let mut process = Process::new(0..40 * 256, 48 * 256);
        let mut hand = Hand::default();
        hand.lay(&[Area { start: 0, len: 64 * MIB }]);
        let mut came_back = Vec::new();
        for second in 0..20 {
            // It is to have 42 of the 48.
            let over = (process.touched as usize - process.out.len()).saturating_sub(42 * 256);
            hand.take(f64::from(second), over as u64 * PAGE, &mut process).unwrap();
            process.run();
            came_back.push(process.back);
        }
        let late: usize = came_back[10..].iter().sum();
        assert!(late < 40 * 8 + 100, "what is used is found out, and left where it is: {came_back:?}");
        assert!(process.out.len() >= 6 * 256 - 100, "{}", process.out.len());
    }

    #[test]
    fn what_was_used_once_is_found_cold_later() {
        let mut process = Process::new(0..256 * 16, 256 * 32);
        let mut hand = Hand::default();
        hand.lay(&[Area { start: 0, len: 32 * MIB }]);
        for second in 0..20 {
            let over = (process.touched as usize - process.out.len()).saturating_sub(17 * 256);
            hand.take(f64::from(second), over as u64 * PAGE, &mut process).unwrap();
            process.run();
        }
        // It turns to the other half.
        process.hot = 256 * 16..256 * 32;
        process.run();
        let mut came_back = Vec::new();
        for second in 20..140 {
            let over = (process.touched as usize - process.out.len()).saturating_sub(17 * 256);
            hand.take(f64::from(second), over as u64 * PAGE, &mut process).unwrap();
            process.run();
            came_back.push(process.back);
        }
        let late: usize = came_back[30..].iter().sum();
        assert!(late < 11 * 16 * 8 + 256, "{came_back:?}");
    }

    #[test]
    fn no_more_is_taken_than_is_wanted_or_there_is() {
        let mut process = Process::new(0..0, 300);
        let mut hand = Hand::default();
        hand.take(0.0, 1 << 30, &mut process).unwrap();
        // It begins and ends within blocks.
        hand.lay(&[Area { start: 100 * PAGE, len: 1000 * PAGE }]);
        assert_eq!(hand.take(0.0, 50 * PAGE, &mut process).unwrap(), 50 * PAGE);
        assert_eq!(process.out.len(), 50);
        assert_eq!(hand.take(1.0, 1 << 30, &mut process).unwrap(), 150 * PAGE);
        assert_eq!(process.out.len(), 200);
    }

    #[test]
    fn only_what_has_gone_counts_and_what_does_not_go_is_tried_behind_the_rest() {
        let mut process = Process::new(0..0, 4 * BLOCK);
        process.held = 2 * BLOCK;
        let mut hand = Hand::default();
        hand.lay(&[Area { start: 0, len: 4 * MIB }]);
        let mut went = 0;
        for second in 0..8 {
            went += hand.take(f64::from(second), MIB, &mut process).unwrap();
            assert_eq!(went, process.out.len() as u64 * PAGE);
        }
        assert_eq!(went, 2 * MIB, "all that can go is found behind what cannot");
        assert_eq!(hand.blocks.iter().map(|block| block.out).sum::<usize>(), process.out.len());
        assert!(hand.blocks[0].rate() > hand.blocks[3].rate());
    }

    #[test]
    fn a_sample_that_was_not_taken_is_taken_later() {
        let mut process = Process::new(0..0, 4 * BLOCK);
        let mut hand = Hand::default();
        hand.lay(&[Area { start: 0, len: 4 * MIB }]);
        hand.take(0.0, SAMPLE as u64 * PAGE, &mut process).unwrap();
        assert_eq!(hand.blocks.iter().filter(|block| block.sampled.is_some()).count(), 1);
        hand.take(1.0, SAMPLE as u64 * PAGE, &mut process).unwrap();
        let outs = hand.blocks.iter().map(|block| block.out).collect::<Vec<_>>();
        assert_eq!(outs, [0, SAMPLE, SAMPLE, 0]);
    }

    #[test]
    fn chance_goes_on_whatever_it_was() {
        let mut hand = Hand { chance: u64::MAX << 5, ..Hand::default() };
        assert_eq!(hand.chosen((0..256).collect(), 256), (0..256).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_known_of_a_block_is_kept_when_there_is_more_memory() {
        let mut hand = Hand::default();
        hand.lay(&[Area { start: 0, len: 4 * MIB }]);
        hand.take(0.0, 4 * MIB, &mut Process::new(0..0, 1024)).unwrap();
        let before = hand.blocks[1..4].to_vec();
        // A ring is held in its first block.
        let areas = [
            Area { start: 0, len: MIB / 2 },
            Area { start: MIB / 2 + PAGE, len: 4 * MIB - MIB / 2 - PAGE },
            Area { start: 8 * MIB, len: MIB },
        ];
        hand.lay(&areas);
        assert_eq!(hand.blocks.len(), 6);
        assert_eq!(hand.blocks[2..5], before);
        assert_eq!(hand.blocks[0].exposed, 0.0);
    }

    #[test]
    fn neighbours_go_in_one_piece() {
        let area = |start: u64, pages: u64| Area { start: start * PAGE, len: pages * PAGE };
        assert_eq!(runs(7 * PAGE, &[0, 1, 2, 5, 7, 8]), [area(7, 3), area(12, 1), area(14, 2)]);
        assert!(runs(0, &[]).is_empty());
    }
}
