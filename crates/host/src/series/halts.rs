//! For how long KVM's processors were halted. They halt within the kernel, which counts it in a file that the guest's process holds open for us
//! (Linux, Documentation/virt/kvm/api.rst, 4.133 KVM_GET_STATS_FD): it can be had from there by who may look into the process, and is read without waking it.
//!
//! The kernel counts a halt when it begins, adds its time when it has ended, and says whether the processor waits for something now.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// How the kernel names such a file, before the processor's number.
const NAME: &str = "anon_inode:kvm-vcpu-stats:";
/// In the header: a name's length, how many things are counted, where their descriptions and the counts begin. All are 32 bits.
const HEADER: usize = 24;
const NAME_SIZE: usize = 4;
const COUNT: usize = 8;
const DESCRIPTIONS: usize = 16;
const DATA: usize = 20;
/// A description without its name, and where in it is said where the count is.
const DESCRIPTION: usize = 16;
const OFFSET: usize = 8;
/// How often the guest was left, for whatever reason; the halts that have begun (HLT); the time of those that have ended, ns, but for what was waited for actively; and whether the processor waits: in a halt, to be
/// started, or for memory that is fetched in the meantime (from Linux 5.17 on).
const EXITS: &str = "exits";
const BEGUN: &str = "halt_exits";
const HALTED: &str = "halt_wait_ns";
const BLOCKING: &str = "blocking";
/// No kernel counts more, nor has longer names.
const MOST: u32 = 1024;
/// So many of a process's files are looked at: one may have a million to keep us busy.
const MOST_FILES: usize = 4096;

/// What the kernel says at a time.
#[derive(Debug, Clone, Copy, Default)]
struct Said {
    /// How often the guest was left.
    exits: u64,
    /// How many halts have begun.
    begun: u64,
    /// How long those took that have ended, ns.
    ended: u64,
    /// Whether it waits.
    blocking: bool,
}

/// A processor's file.
#[derive(Debug)]
struct Counts {
    file: File,
    /// Where what it counts is.
    exits: u64,
    begun: u64,
    halted: u64,
    blocking: u64,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes)
}

impl Counts {
    /// Finds them in the file.
    fn open(file: File) -> io::Result<Self> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0)?;
        let said = |at| word(&header, at).ok_or_else(invalid);
        let (name, count) = (said(NAME_SIZE)?, said(COUNT)?);
        if name.max(count) > MOST {
            return Err(invalid());
        }
        let length = DESCRIPTION + name as usize;
        let mut all = vec![0; length * count as usize];
        file.read_exact_at(&mut all, said(DESCRIPTIONS)?.into())?;
        let data = said(DATA)?;
        let of = |wanted: &str| {
            let is_it = |one: &&[u8]| {
                let name = &one[DESCRIPTION..];
                name.strip_prefix(wanted.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
            };
            let offset = all.chunks_exact(length).find(is_it).and_then(|one| word(one, OFFSET));
            offset.map(|offset| u64::from(data) + u64::from(offset)).ok_or_else(invalid)
        };
        let (exits, begun, halted, blocking) = (of(EXITS)?, of(BEGUN)?, of(HALTED)?, of(BLOCKING)?);
        Ok(Self { file, exits, begun, halted, blocking })
    }

    fn read(&self) -> io::Result<Said> {
        let at = |offset| {
            let mut bytes = [0; 8];
            self.file.read_exact_at(&mut bytes, offset)?;
            io::Result::Ok(u64::from_ne_bytes(bytes))
        };
        Ok(Said {
            exits: at(self.exits)?,
            begun: at(self.begun)?,
            ended: at(self.halted)?,
            blocking: at(self.blocking)? != 0,
        })
    }
}

/// The number of the processor whose file is at the other end of this link.
fn number(link: &Path) -> Option<u32> {
    fs::read_link(link).ok()?.to_str()?.strip_prefix(NAME)?.parse().ok()
}

/// The processors of a process of which we may have files, by their numbers: none of one with the processor in software.
///
/// # Errors
/// If the process is gone, or we may not look into it.
pub fn of(pid: u32) -> io::Result<BTreeMap<u32, Halts>> {
    let process = pidfd_open(Pid::from_raw(pid as i32).ok_or(io::ErrorKind::NotFound)?, PidfdFlags::empty())?;
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.take(MOST_FILES).flatten() {
        let descriptor = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
        let (Some(wanted), Some(descriptor)) = (number(&entry.path()), descriptor) else { continue };
        let file = File::from(pidfd_getfd(&process, descriptor, PidfdGetfdFlags::empty())?);
        // The process may have put another one there in the meantime, of which reading might not end.
        if number(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd()))) == Some(wanted)
            && let Ok(counts) = Counts::open(file)
        {
            found.insert(wanted, Halts { counts, known: Known::default() });
        }
    }
    Ok(found)
}

/// How long a processor has been halted, as is known from looks at it.
///
/// Of a halt that it is in nobody knows since when: all of the time before a look that it neither ran nor waited for a processor is
/// taken for it. Once it has ended it is known how long it was, and what was taken for it beyond is taken off the halts that come next.
#[derive(Debug, Default)]
struct Known {
    /// When it was looked at last, and what it had run and waited by then, ns.
    at: u64,
    busy: u64,
    /// What the kernel said then.
    said: Said,
    /// Whether a halt is the last that its guest is known to have begun.
    has_halted: bool,
    /// What is known of it, ns.
    halted: u64,
    /// How much of that is of halts whose end the kernel has not told, ns.
    ahead: u64,
}

impl Known {
    /// What is known of it at `at`, when it had been `busy` so long, ns.
    fn look(&mut self, at: u64, busy: u64, said: Said) -> u64 {
        let window = if self.at == 0 { 0 } else { at.saturating_sub(self.at) };
        let rest = window.saturating_sub(busy.saturating_sub(self.busy));
        let ended = said.ended.saturating_sub(self.said.ended);
        // KVM has a processor wait for memory, too, where its guest's other interrupts may wake it; and one whose guest was never entered waits to be started.
        // A halt that was interrupted goes on and is no other one: the guest has done nothing in between.
        let goes_on = self.has_halted && said.exits == self.said.exits;
        self.has_halted = said.exits == 0 || said.begun > self.said.begun || goes_on;
        let in_halt = said.blocking && self.has_halted;
        let more = if in_halt { rest } else { ended.saturating_sub(self.ahead).min(rest) };
        self.halted += more;
        self.ahead = (self.ahead + more).saturating_sub(ended);
        if !in_halt {
            // It cannot have begun before the look before the first that saw it, or it was none that the kernel counts.
            self.ahead = self.ahead.min(window);
        }
        (self.at, self.busy, self.said) = (at, busy, said);
        self.halted
    }
}

/// A processor of KVM, as it is looked at.
#[derive(Debug)]
pub struct Halts {
    counts: Counts,
    known: Known,
}

impl Halts {
    /// How long it has been halted since it was looked at first, ns. `now` is the host's monotonic clock, and `busy` the time that its thread has
    /// run and waited for a processor, or kept still for its limit, by now, ns.
    pub fn look(&mut self, now: u64, busy: u64) -> Option<u64> {
        self.counts.read().ok().map(|said| self.known.look(now, busy, said))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Looks each second at a processor: what it was busy in it, how many halts had begun, how long those took that had ended, and whether it waited at its end. What it was
    /// halted in each of them.
    fn seconds(looks: &[(f64, u64, f64, bool)]) -> Vec<f64> {
        let ns = |seconds: f64| (seconds * SECOND as f64) as u64;
        let mut known = Known::default();
        let (mut at, mut busy, mut said) = (7 * SECOND, 5, Said::default());
        let mut before = known.look(at, busy, said);
        assert_eq!(before, 0, "what was before the first look does not count");
        let mut all = Vec::new();
        for (more, begun, ended, blocking) in looks {
            (at, busy) = (at + SECOND, busy + ns(*more));
            // Whoever ran, or waits for memory, had left the guest.
            let exits = said.exits + u64::from(*more > 0.0 || *begun > 0);
            said = Said {
                exits,
                begun: said.begun + begun,
                ended: said.ended + ns(*ended),
                blocking: *blocking,
            };
            let halted = known.look(at, busy, said);
            all.push(((halted - before) as f64 / SECOND as f64 * 1000.0).round() / 1000.0);
            before = halted;
        }
        all
    }

    #[test]
    fn a_halt_counts_while_it_lasts_and_not_again_when_it_has_ended() {
        // It is halted for 2.5 s from 0.3 on, and runs from then on.
        assert_eq!(
            seconds(&[(0.3, 1, 0.0, true), (0.0, 0, 0.0, true), (0.2, 0, 2.5, false), (1.0, 0, 0.0, false)]),
            [0.7, 1.0, 0.8, 0.0]
        );
        // Short ones, in none of which it was seen, and in all of which it was seen.
        assert_eq!(seconds(&[(0.4, 9, 0.6, false), (0.5, 9, 0.5, false)]), [0.6, 0.5]);
        assert_eq!(
            seconds(&[(0.4, 9, 0.59, true), (0.5, 9, 0.5, true), (0.1, 9, 0.91, false)]),
            [0.6, 0.5, 0.9]
        );
    }

    #[test]
    fn what_is_neither_running_nor_a_halt_is_none() {
        assert_eq!(seconds(&[(0.4, 3, 0.1, false), (0.0, 0, 0.0, false)]), [0.1, 0.0]);
        // It waits for memory all the time, at the looks, too.
        assert_eq!(
            seconds(&[(0.5, 1, 0.5, false), (0.1, 0, 0.0, true), (0.0, 0, 0.0, true), (0.1, 0, 0.0, true)]),
            [0.5, 0.0, 0.0, 0.0]
        );
        // Its process was stopped in a halt for a second, and the halt goes on.
        assert_eq!(
            seconds(&[(0.0, 1, 0.0, true), (0.0, 0, 1.0, false), (0.0, 0, 0.0, true), (0.5, 0, 1.5, false)]),
            [1.0, 0.0, 1.0, 0.5]
        );
        // It waited for memory for 0.6 s, and halted for 0.1 s at the end: all of that is taken for the halt, and 0.6 s off the halts that follow.
        assert_eq!(
            seconds(&[(0.3, 1, 0.0, true), (0.2, 1, 0.5, false), (0.0, 1, 0.5, false)]),
            [0.7, 0.0, 0.3]
        );
    }

    #[test]
    fn one_that_waits_to_be_started_is_halted_which_is_taken_off_for_a_second_at_most() {
        let mut looks = vec![(0.0, 0, 0.0, true); 5];
        looks.extend([
            (0.5, 0, 0.0, false),
            (0.4, 1, 0.6, false),
            (0.4, 1, 0.6, false),
            (0.0, 1, 1.0, false),
        ]);
        assert_eq!(seconds(&looks), [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.2, 1.0]);
    }

    /// A file as the kernel makes it.
    fn counts(counted: &[(&str, u64)], said: u32) -> File {
        let mut bytes = Vec::new();
        let data = HEADER as u32 + 64 * counted.len() as u32;
        for number in [0, 48, said, 24, HEADER as u32, data] {
            bytes.extend(u32::to_ne_bytes(number));
        }
        for (n, (name, _)) in counted.iter().enumerate() {
            bytes.extend([0; OFFSET]);
            bytes.extend((8 * n as u32).to_ne_bytes());
            bytes.extend([0; 4]);
            bytes.extend(name.bytes().chain(std::iter::repeat(0)).take(48));
        }
        counted.iter().for_each(|(_, count)| bytes.extend(count.to_ne_bytes()));
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        file
    }

    #[test]
    fn what_is_counted_is_found_by_its_name_and_nothing_else_is_taken_for_it() {
        let all = [
            ("halt_wait_ns_hist", 1),
            ("blocking", 1),
            ("halt_wait_ns", 77),
            ("exits", 9),
            ("halt_exits", 5),
        ];
        let said = Counts::open(counts(&all, 5)).unwrap().read().unwrap();
        assert_eq!((said.exits, said.begun, said.ended, said.blocking), (9, 5, 77, true));
        for (counted, number) in
            [(&all[..2], 2), (&all[2..], 3), (&all[..], 6), (&all[..], u32::MAX), (&[], 0)]
        {
            assert!(Counts::open(counts(counted, number)).is_err(), "{counted:?}");
        }
        assert!(Counts::open(tempfile::tempfile().unwrap()).is_err());
    }

    #[test]
    fn a_process_without_kvm_has_no_such_file() {
        assert!(of(std::process::id()).unwrap().is_empty());
    }
}
