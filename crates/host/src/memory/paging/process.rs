//! A guest's process, of whose memory the daemon pages out what it likes: the process is neither asked nor can it refuse more than the few
//! pages that it may hold in memory.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use vmm_sys_util::syscall::SyscallReturnCode;

use super::hand::{Area, Look, PAGE, Pages};

/// Private memory in smaller pieces is what the process needs for itself: stacks, and what it allocates.
const LEAST_AREA: u64 = 16 << 20;
/// Bits of a page's entry in pagemap: it is in memory, in swap, a file's (proc_pid_pagemap(5)).
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_FILE: u64 = 1 << 61;
/// Who pages others needs these, by their number in linux/capability.h.
const NEEDED: [(u32, &str); 2] = [(19, "CAP_SYS_PTRACE"), (23, "CAP_SYS_NICE")];
/// As many areas as the kernel takes at a time (IOV_MAX).
const AT_A_TIME: usize = 1024;

/// A process and its memory.
pub struct Process {
    pid: u32,
    fd: OwnedFd,
    pages: File,
    entries: Vec<u8>,
}

impl Process {
    /// Opens the process with this number.
    ///
    /// # Errors
    /// If there is none, or we may not look into it.
    pub fn open(pid: u32) -> io::Result<Self> {
        let number = Pid::from_raw(pid as i32).ok_or(io::ErrorKind::NotFound)?;
        let fd = pidfd_open(number, PidfdFlags::empty())?;
        Ok(Self { pid, fd, pages: File::open(format!("/proc/{pid}/pagemap"))?, entries: Vec::new() })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What of its memory can be paged, and what cannot.
    ///
    /// # Errors
    /// If it is gone.
    pub fn layout(&self) -> io::Result<Layout> {
        Ok(layout(&std::fs::read_to_string(format!("/proc/{}/smaps", self.pid))?))
    }

    /// Gives how many bytes the kernel has gone through: it stops at what it cannot page.
    fn advise(&self, areas: &[Area]) -> io::Result<u64> {
        let vector: Vec<_> = areas
            .iter()
            .map(|area| libc::iovec { iov_base: area.start as *mut _, iov_len: area.len as usize })
            .collect();
        // SAFETY: the vector is as long as is said. The addresses are another process's, whose memory stays what it is wherever it lies.
        let done = unsafe {
            libc::syscall(
                libc::SYS_process_madvise,
                self.fd.as_raw_fd(),
                vector.as_ptr(),
                vector.len(),
                libc::MADV_PAGEOUT,
                0,
            )
        };
        SyscallReturnCode(done).into_result().map(|done| done as u64)
    }

    /// The same, but what cannot be paged is left out.
    fn advise_all(&self, areas: &[Area]) -> io::Result<()> {
        let mut left = areas;
        while !left.is_empty() {
            let done = match self.advise(left) {
                Ok(done) => done,
                // Held in memory, or not there any more.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOMEM)) => 0,
                Err(error) => return Err(error),
            };
            let whole = whole(left, done);
            left = &left[whole..];
            let Some((bad, rest)) = left.split_first() else { return Ok(()) };
            if bad.len > PAGE {
                self.advise_all(&halves(*bad))?;
            }
            left = rest;
        }
        Ok(())
    }
}

/// Tries with a page of our own whether the kernel pages what it is told, and says where it is.
///
/// # Errors
/// If it does not, or we may not have it do so with others.
pub fn can_page() -> io::Result<()> {
    let own = std::fs::read_to_string("/proc/self/status")?;
    if let Some(name) = missing(&own) {
        return Err(io::Error::other(format!("the daemon has no {name}: start it as root")));
    }
    let bytes = vec![1u8; 2 * PAGE as usize];
    let area = Area { start: (bytes.as_ptr() as u64).next_multiple_of(PAGE), len: PAGE };
    let mut process = Process::open(std::process::id())?;
    process.look(area).map_err(|error| io::Error::other(format!("/proc/self/pagemap: {error}")))?;
    let advised = process.advise(&[area]);
    advised.map_err(|error| io::Error::other(format!("process_madvise(2), MADV_PAGEOUT: {error}")))?;
    drop(bytes);
    Ok(())
}

/// The first capability that is needed to page other users' processes and is not there, by the text of proc_pid_status(5).
fn missing(status: &str) -> Option<&'static str> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let effective = u64::from_str_radix(effective.trim(), 16).ok()?;
    NEEDED.iter().find(|(bit, _)| effective & 1 << bit == 0).map(|(_, name)| *name)
}

/// How many of some areas are in so many bytes.
fn whole(areas: &[Area], mut bytes: u64) -> usize {
    let fits = |area: &&Area| {
        let fits = area.len <= bytes;
        bytes = bytes.saturating_sub(area.len);
        fits
    };
    areas.iter().take_while(fits).count()
}

fn halves(area: Area) -> [Area; 2] {
    let first = area.len / PAGE / 2 * PAGE;
    [Area { start: area.start, len: first }, Area { start: area.start + first, len: area.len - first }]
}

/// A process's memory, as it matters here.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Private memory in large pieces: the guest's.
    pub areas: Vec<Area>,
    /// What is in memory of the rest, which is the process's own, bytes.
    pub besides: u64,
}

/// Reads that out of the text of proc_pid_smaps(5). Neighbours are one piece: a page that is held in memory is a mapping of its own.
fn layout(text: &str) -> Layout {
    let mut pieces: Vec<(Area, u64)> = Vec::new();
    let (mut besides, mut private) = (0, false);
    for line in text.lines() {
        if let Some((area, is_private)) = mapping(line) {
            private = is_private;
            match pieces.last_mut().filter(|_| private) {
                Some((before, _)) if before.start + before.len == area.start => before.len += area.len,
                _ if private => pieces.push((area, 0)),
                _ => {}
            }
        } else if let Some(kib) = line.strip_prefix("Anonymous:") {
            let bytes = kib.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) << 10;
            match pieces.last_mut().filter(|_| private) {
                Some((_, own)) => *own += bytes,
                None => besides += bytes,
            }
        }
    }
    let (large, small): (Vec<_>, Vec<_>) = pieces.into_iter().partition(|(area, _)| area.len >= LEAST_AREA);
    besides += small.iter().map(|(_, bytes)| bytes).sum::<u64>();
    Layout { areas: large.into_iter().map(|(area, _)| area).collect(), besides }
}

/// The head of a mapping, and whether it is private memory that can be written, and neither the heap nor a stack.
fn mapping(line: &str) -> Option<(Area, bool)> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end) = (number(start)?, number(end)?);
    let private = words.next()?.starts_with("rw-p") && !line.ends_with(']');
    (end > start).then_some((Area { start, len: end - start }, private))
}

impl Pages for Process {
    fn look(&mut self, area: Area) -> io::Result<Look> {
        self.entries.resize((area.len / PAGE * 8) as usize, 0);
        self.pages.read_exact_at(&mut self.entries, area.start / PAGE * 8)?;
        let mut look = Look::default();
        for (page, entry) in self.entries.chunks_exact(8).enumerate() {
            let entry = entry.iter().rev().fold(0, |all: u64, byte| all << 8 | u64::from(*byte));
            if entry & SWAPPED != 0 {
                look.out += 1;
            } else if entry & PRESENT != 0 && entry & OF_FILE == 0 {
                look.present.push(page as u16);
            }
        }
        Ok(look)
    }

    fn page_out(&mut self, areas: &[Area]) -> io::Result<()> {
        areas.chunks(AT_A_TIME).try_for_each(|areas| self.advise_all(areas))
    }
}

/// What of a process's memory is on paging devices, bytes (proc_pid_status(5), VmSwap).
pub fn out_of_memory(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmSwap:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn large_private_pieces_are_memory_of_the_guest_and_a_page_that_is_held_does_not_part_them() {
        let text = "\
55d0c0000000-55d0c8000000 rw-p 00000000 00:00 0                          [heap]
Anonymous:         12000 kB
7f0000000000-7f0000800000 rw-p 00000000 00:00 0
Size:               8192 kB
Anonymous:          8000 kB
VmFlags: rd wr mr mw me dc ac sd
7f0000800000-7f0000801000 rw-p 00000000 00:00 0
Anonymous:             4 kB
7f0000801000-7f0004000000 rw-p 00000000 00:00 0
7f0004000000-7f0014000000 r--p 00000000 00:00 0
Anonymous:             8 kB
7f0020000000-7f0020200000 rw-p 00000000 00:00 0
Anonymous:            16 kB
7f0030000000-7f0034000000 rw-s 00000000 00:01 1027                       /memfd:code (deleted)
Anonymous:             0 kB
7f0040000000-7f0042000000 rw-p 00001000 fe:00 77                         /var/lib/tessera/vms/1/memory
Anonymous:         16000 kB
nonsense
";
        let areas = vec![
            Area { start: 0x7f00_0000_0000, len: 64 * MIB },
            Area { start: 0x7f00_4000_0000, len: 32 * MIB },
        ];
        assert_eq!(layout(text), Layout { areas, besides: (12000 + 8 + 16) << 10 });
    }

    #[test]
    fn what_the_kernel_has_gone_through_is_counted_in_whole_areas() {
        let some = [1, 2, 3].map(|pages| Area { start: 0, len: pages * PAGE });
        assert_eq!([0, PAGE, 2 * PAGE, 3 * PAGE, 6 * PAGE].map(|done| whole(&some, done)), [0, 1, 1, 2, 3]);
        let [a, b] = halves(Area { start: 10 * PAGE, len: 3 * PAGE });
        assert_eq!((a.len, b.start, b.len), (PAGE, 11 * PAGE, 2 * PAGE));
    }

    #[test]
    fn what_a_daemon_needs_to_page_others_is_named_if_it_lacks() {
        assert_eq!(missing("Name:\tx\nCapEff:\t000001ffffffffff\n"), None);
        assert_eq!(missing("CapEff:\t000001ffff7fffff\n"), Some("CAP_SYS_NICE"));
        assert_eq!(missing("CapEff:\t0000000000000000\n"), Some("CAP_SYS_PTRACE"));
        assert_eq!(missing("nothing"), None, "a kernel that does not say so is tried");
    }

    #[test]
    fn a_process_tells_where_its_pages_are() {
        let own = std::process::id();
        assert!(out_of_memory(own).is_some());
        assert_eq!(out_of_memory(u32::MAX), None);
        let touched = vec![1u8; 64 << 20];
        let mut process = Process::open(own).unwrap();
        let area = process.layout().unwrap().areas.into_iter().find(|area| {
            let at = touched.as_ptr() as u64;
            (area.start..area.start + area.len).contains(&at)
        });
        let start = area.unwrap().start.next_multiple_of(PAGE);
        let look = process.look(Area { start, len: 256 * PAGE }).unwrap();
        assert_eq!(look.present.len() + look.out, 256);
    }
}
