//! For how long KVM's processors were halted. They halt within the kernel, which counts it in a file that the guest's process holds open for us
//! (Linux, Documentation/virt/kvm/api.rst, 4.133 KVM_GET_STATS_FD): it can be had from there by who may look into the process, and is read without waking it.
//!
//! The kernel counts a halt when it has ended, and says whether the processor is in one.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;

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
/// The time of halts that have ended, ns, but for what was waited for actively; and whether the processor is in one (from Linux 5.17 on).
const HALTED: &str = "halt_wait_ns";
const BLOCKING: &str = "blocking";
/// No kernel counts more, nor has longer names.
const MOST: u32 = 1024;

/// What the kernel says at a time.
#[derive(Debug, Clone, Copy, Default)]
struct Said {
    /// The halts that have ended, ns.
    ended: u64,
    /// Whether it is in one, or waits to be started, or for memory that is asked for in the meantime.
    blocking: bool,
}

/// A processor's file.
#[derive(Debug)]
struct Counts {
    file: File,
    /// Where the two counts are.
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
        let (halted, blocking) = (of(HALTED)?, of(BLOCKING)?);
        Ok(Self { file, halted, blocking })
    }

    fn read(&self) -> io::Result<Said> {
        let at = |offset| {
            let mut bytes = [0; 8];
            self.file.read_exact_at(&mut bytes, offset)?;
            io::Result::Ok(u64::from_ne_bytes(bytes))
        };
        Ok(Said { ended: at(self.halted)?, blocking: at(self.blocking)? != 0 })
    }
}

/// The file of processor `number` of process `pid`, if that has one and we may have it.
fn find(pid: u32, number: u32) -> io::Result<File> {
    let name = format!("{NAME}{number}");
    let is_it = |path: String| fs::read_link(path).is_ok_and(|to| to.to_str() == Some(&name));
    let process = pidfd_open(Pid::from_raw(pid as i32).ok_or(io::ErrorKind::NotFound)?, PidfdFlags::empty())?;
    let mut entries = fs::read_dir(format!("/proc/{pid}/fd"))?.flatten();
    let found = entries.find_map(|entry| {
        let descriptor: RawFd = entry.file_name().to_str()?.parse().ok()?;
        is_it(format!("/proc/{pid}/fd/{descriptor}")).then_some(descriptor)
    });
    let file =
        File::from(pidfd_getfd(&process, found.ok_or(io::ErrorKind::NotFound)?, PidfdGetfdFlags::empty())?);
    // The process may have put another one there in the meantime, of which reading might not end.
    let ours = format!("/proc/self/fd/{}", file.as_raw_fd());
    if is_it(ours) { Ok(file) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// How long a processor has been halted, as is known from looks at it.
///
/// Of a halt that it is in nobody knows since when: all of the time before a look that it neither ran nor waited for a processor is
/// taken for it. Once it has ended it is known how long it was, and what was taken for it beyond is taken off what comes next.
#[derive(Debug, Default)]
struct Known {
    /// When it was looked at last, and what it had run and waited, and had been halted as the kernel says, by then, ns.
    at: u64,
    busy: u64,
    ended: u64,
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
        let ended = said.ended.saturating_sub(self.ended);
        let more = if said.blocking { rest } else { ended.saturating_sub(self.ahead).min(rest) };
        self.halted += more;
        self.ahead = (self.ahead + more).saturating_sub(ended);
        if !said.blocking {
            // It cannot have begun before the look before the first that saw it, or it was none that the kernel counts.
            self.ahead = self.ahead.min(window);
        }
        (self.at, self.busy, self.ended) = (at, busy, said.ended);
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
    /// Those of processor `number` of process `pid`.
    ///
    /// # Errors
    /// If the process holds no such file, as one with the processor in software does not, or we may not have it, or the kernel counts something else there.
    pub fn of(pid: u32, number: u32) -> io::Result<Self> {
        Ok(Self { counts: Counts::open(find(pid, number)?)?, known: Known::default() })
    }

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

    /// Looks each second at a processor: what it was busy in it, what halts had ended, and whether it was in one at its end. What it was
    /// halted in each of them.
    fn seconds(looks: &[(f64, f64, bool)]) -> Vec<f64> {
        let ns = |seconds: f64| (seconds * SECOND as f64) as u64;
        let mut known = Known::default();
        let (mut at, mut busy, mut said) = (7 * SECOND, 5, Said { ended: 9 * SECOND, blocking: true });
        let mut before = known.look(at, busy, said);
        assert_eq!(before, 0, "what was before the first look does not count");
        looks
            .iter()
            .map(|(more, ended, blocking)| {
                (at, busy) = (at + SECOND, busy + ns(*more));
                said = Said { ended: said.ended + ns(*ended), blocking: *blocking };
                let halted = known.look(at, busy, said);
                let grown = (halted - before) as f64 / SECOND as f64;
                before = halted;
                (grown * 1000.0).round() / 1000.0
            })
            .collect()
    }

    #[test]
    fn a_halt_counts_while_it_lasts_and_not_again_when_it_has_ended() {
        // It is halted for 2.5 s from 0.3 on, and runs from then on.
        assert_eq!(
            seconds(&[(0.3, 0.0, true), (0.0, 0.0, true), (0.2, 2.5, false), (1.0, 0.0, false)]),
            [0.7, 1.0, 0.8, 0.0]
        );
        // Short ones, in none of which it was seen, and in all of which it was seen.
        assert_eq!(seconds(&[(0.4, 0.6, false), (0.5, 0.5, false)]), [0.6, 0.5]);
        assert_eq!(seconds(&[(0.4, 0.59, true), (0.5, 0.5, true), (0.1, 0.91, false)]), [0.6, 0.5, 0.9]);
    }

    #[test]
    fn what_is_neither_running_nor_a_halt_is_none() {
        assert_eq!(seconds(&[(0.4, 0.1, false), (0.0, 0.0, false)]), [0.1, 0.0]);
        // It waited for memory for 0.6 s, and halted for 0.1 s at the end: all of that is taken for the halt, and 0.6 s off what follows.
        assert_eq!(seconds(&[(0.3, 0.0, true), (0.2, 0.5, false), (0.0, 0.5, false)]), [0.7, 0.0, 0.3]);
    }

    #[test]
    fn what_the_kernel_never_counts_is_taken_off_for_a_second_at_most() {
        // It waited to be started for 5 s.
        let mut looks = vec![(0.0, 0.0, true); 5];
        looks.extend([(0.5, 0.0, false), (0.4, 0.6, false), (0.4, 0.6, false), (0.0, 1.0, false)]);
        assert_eq!(seconds(&looks)[5..], [0.0, 0.0, 0.2, 1.0]);
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
    fn the_two_counts_are_found_by_their_names_and_nothing_else_is_taken_for_them() {
        let all = [("halt_wait_ns_hist", 1), ("blocking", 1), ("halt_wait_ns", 77), ("halt", 3)];
        let said = Counts::open(counts(&all, 4)).unwrap().read().unwrap();
        assert_eq!((said.ended, said.blocking), (77, true));
        for (counted, number) in
            [(&all[..2], 2), (&all[2..], 2), (&all[..], 5), (&all[..], u32::MAX), (&[], 0)]
        {
            assert!(Counts::open(counts(counted, number)).is_err(), "{counted:?}");
        }
        assert!(Counts::open(tempfile::tempfile().unwrap()).is_err());
    }

    #[test]
    fn a_process_without_kvm_has_no_such_file() {
        assert_eq!(Halts::of(std::process::id(), 0).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
