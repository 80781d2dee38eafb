//! The threads that are a guest's processors, and what the kernel says of them (proc(5), schedstat). Files are opened once: reading one that is
//! open costs a microsecond.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

/// A thread that is a processor of a guest.
#[derive(Debug)]
pub struct Vcpu {
    /// The processor's number.
    pub number: u32,
    /// The thread's.
    pub thread: u32,
    schedstat: File,
}

/// What a thread has done by now, ns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// It ran.
    pub ran: u64,
    /// It had work and waited for a processor of the host.
    pub waited: u64,
}

/// All threads of a process, each with the number of the processor that it is, if it is one.
///
/// # Errors
/// If it is gone.
pub fn threads(pid: u32) -> io::Result<Vec<(u32, Option<u32>)>> {
    let number = |name: &str| name.trim_end().strip_prefix("vcpu")?.parse().ok();
    let entries = fs::read_dir(format!("/proc/{pid}/task"))?.flatten();
    let threads = entries.filter_map(|thread| {
        let name = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
        Some((thread.file_name().to_str()?.parse().ok()?, number(&name)))
    });
    Ok(threads.collect())
}

/// Those of a process, by their numbers.
///
/// # Errors
/// If it is gone.
pub fn of(pid: u32) -> io::Result<Vec<Vcpu>> {
    let mut found = Vec::new();
    for (thread, number) in threads(pid)? {
        let Some(number) = number else { continue };
        // It may just have ended.
        let schedstat = File::open(format!("/proc/{pid}/task/{thread}/schedstat"));
        found.extend(schedstat.map(|schedstat| Vcpu { number, thread, schedstat }));
    }
    found.sort_by_key(|vcpu| vcpu.number);
    Ok(found)
}

impl Vcpu {
    /// What it has done.
    ///
    /// # Errors
    /// If it is gone.
    pub fn done(&self) -> io::Result<Done> {
        let [ran, waited] = numbers(&self.schedstat)?;
        Ok(Done { ran, waited })
    }
}

/// The first two numbers in a file.
///
/// # Errors
/// If there are not so many, or what it is about is gone.
pub fn numbers(file: &File) -> io::Result<[u64; 2]> {
    let mut text = [0; 128];
    let length = file.read_at(&mut text, 0)?;
    let text = std::str::from_utf8(&text[..length]).unwrap_or_default();
    let mut words = text.split_ascii_whitespace().map(|word| word.parse().unwrap_or(0));
    match (words.next(), words.next()) {
        (Some(first), Some(second)) => Ok([first, second]),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
