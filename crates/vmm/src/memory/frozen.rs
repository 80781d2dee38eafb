//! Guest memory as it is at one moment, while the guest goes on: a child process that shares it copy-on-write and writes it into a
//! file. The pause of the guest is the time that the kernel takes to share the page tables.
//!
//! The child is a copy of one thread of a process that has several: what the others had locked stays locked in it for ever, the
//! allocator's locks among them. So it calls nothing but the kernel, allocates nothing and cannot panic. It does what it is ordered
//! through a pipe, and ends with it: nobody has to end a child whose parent is gone.

use std::fs::File;
use std::io::{self, PipeWriter, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use softcpu::PAGE_SIZE;

use super::image::{Plan, checksum, is_zero};

/// The order that ends the child.
const END: u32 = u32::MAX;

/// What the child tells, in memory that both have.
struct Told {
    map: NonNull<libc::c_void>,
    bytes: usize,
    chunks: usize,
}

// SAFETY: the mapping is shared memory that is only reached through atomics.
unsafe impl Send for Told {}
// SAFETY: as above.
unsafe impl Sync for Told {}

impl Told {
    fn new(chunks: usize) -> io::Result<Self> {
        let bytes = (chunks + 2) * size_of::<AtomicU64>();
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, which nobody else has.
        let map = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, flags, -1, 0) };
        match NonNull::new(map) {
            Some(map) if map.as_ptr() != libc::MAP_FAILED => Ok(Self { map, bytes, chunks }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has room, is aligned to pages and zeroed, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast(), self.chunks + 2) }
    }

    /// The error that ended the child, as the kernel numbers them.
    fn error(&self) -> &AtomicU64 {
        &self.words()[0]
    }

    /// How many chunks are done.
    fn done(&self) -> &AtomicU64 {
        &self.words()[1]
    }

    /// The checksum of each chunk.
    fn sums(&self) -> &[AtomicU64] {
        &self.words()[2..]
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        // SAFETY: nobody has it any more.
        unsafe { libc::munmap(self.map.as_ptr(), self.bytes) };
    }
}

/// What the child works with: made before there is one.
struct Work<'a> {
    plan: &'a Plan,
    /// Where each region of the plan lies.
    hosts: &'a [NonNull<u8>],
    file: RawFd,
    orders: RawFd,
    told: &'a Told,
}

/// Frozen memory. Dropped, its child ends.
pub(super) struct Frozen {
    child: libc::pid_t,
    orders: Option<PipeWriter>,
    told: Told,
}

impl Frozen {
    /// Freezes memory whose regions, in the order of `plan`, lie at `hosts`, to be written into `file`. Only while nobody writes to it:
    /// neither processors nor devices.
    ///
    /// # Errors
    /// If the kernel gives no process, or has no memory for its page tables.
    pub fn freeze(plan: &Plan, hosts: &[NonNull<u8>], file: &File) -> io::Result<Frozen> {
        let told = Told::new(plan.chunks())?;
        let (orders, commands) = io::pipe()?;
        let fork = |advice| {
            for (place, host) in plan.regions().iter().zip(hosts) {
                // SAFETY: advice about inheritance changes nothing in this process.
                unsafe { libc::madvise(host.as_ptr().cast(), place.range.size as usize, advice) };
            }
        };
        fork(libc::MADV_DOFORK);
        let work = Work { plan, hosts, file: file.as_raw_fd(), orders: orders.as_raw_fd(), told: &told };
        // The C library's fork() would run handlers of others, which may allocate.
        // SAFETY: the child calls `serve`, which never returns and does only what such a child may.
        let child = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
        if child == 0 {
            serve(&work);
        }
        let failed = io::Error::last_os_error();
        fork(libc::MADV_DONTFORK);
        if child < 0 {
            return Err(failed);
        }
        Ok(Frozen { child: child as libc::pid_t, orders: Some(commands), told })
    }

    /// Has chunk `number` written. Waits while the child is far behind.
    ///
    /// # Errors
    /// If the child could not write one before.
    pub fn write(&mut self, number: u32) -> io::Result<()> {
        let Some(orders) = &mut self.orders else { return Err(io::ErrorKind::BrokenPipe.into()) };
        orders.write_all(&number.to_le_bytes()).map_err(|error| self.failure().unwrap_or(error))
    }

    /// How many chunks have been written.
    pub fn written(&self) -> u64 {
        self.told.done().load(Ordering::Relaxed)
    }

    /// Waits until all that was ordered is written; gives the checksums of those chunks, and 0 for the others.
    ///
    /// # Errors
    /// If something could not be written.
    pub fn finish(mut self) -> io::Result<Vec<u64>> {
        self.write(END)?;
        let status = self.wait();
        if let Some(error) = self.failure() {
            return Err(error);
        }
        if status != 0 {
            return Err(io::Error::other(format!("the process that writes memory ended with {status:#x}")));
        }
        Ok(self.told.sums().iter().map(|sum| sum.load(Ordering::Relaxed)).collect())
    }

    fn failure(&self) -> Option<io::Error> {
        let error = self.told.error().load(Ordering::SeqCst);
        (error != 0).then(|| io::Error::from_raw_os_error(error as i32))
    }

    /// Ends the child, when it has done what it was ordered; gives its status.
    fn wait(&mut self) -> i32 {
        if self.orders.take().is_none() {
            return 0;
        }
        let mut status = 0;
        // SAFETY: a child of ours that nobody else waits for.
        while unsafe { libc::waitpid(self.child, &raw mut status, 0) } < 0
            && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
        {}
        status
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.wait();
    }
}

/// The child's life.
fn serve(work: &Work<'_>) -> ! {
    close_all_but(work.file, work.orders);
    let error = loop {
        match next_order(work.orders) {
            Ok(None) => break 0,
            Ok(Some(number)) => {
                if let Err(error) = copy(work, number as usize) {
                    break error;
                }
            }
            Err(error) => break error,
        }
    };
    work.told.error().store(error as u64, Ordering::SeqCst);
    // SAFETY: ends this process and nothing else; nothing of the parent's is run.
    unsafe { libc::_exit(i32::from(error != 0)) }
}

/// Closes what else the parent has open: locks and connections must not outlive it by a moment.
fn close_all_but(one: RawFd, other: RawFd) {
    let (low, high) = (one.min(other) as u32, one.max(other) as u32);
    for (first, last) in [(3, low.wrapping_sub(1)), (low + 1, high.wrapping_sub(1)), (high + 1, u32::MAX)] {
        if first <= last {
            // SAFETY: nothing in this process uses them. Where the kernel does not know the call they stay open for a while.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    }
}

fn errno() -> i32 {
    // SAFETY: the C library's word for the last error of this thread.
    unsafe { *libc::__errno_location() }
}

/// The next chunk, or nothing if that was all.
fn next_order(orders: RawFd) -> Result<Option<u32>, i32> {
    // Orders are written whole, so they are read whole: a pipe does not tear what is so short.
    let mut order = [0u8; 4];
    loop {
        // SAFETY: the buffer is ours.
        match unsafe { libc::read(orders, order.as_mut_ptr().cast(), order.len()) } {
            4 => break,
            // The parent is gone, or does not want the rest.
            0 => return Err(libc::ECANCELED),
            n if n < 0 && errno() == libc::EINTR => {}
            _ => return Err(libc::EIO),
        }
    }
    Ok(Some(u32::from_le_bytes(order)).filter(|number| *number != END))
}

/// Writes what of a chunk is not zeroes, and forgets it: what the guest writes there next need not be copied.
fn copy(work: &Work<'_>, number: usize) -> Result<(), i32> {
    let (Some((region, at, len)), Some(sum)) = (work.plan.chunk(number), work.told.sums().get(number)) else {
        return Err(libc::EINVAL);
    };
    let Some(host) = work.hosts.get(region) else { return Err(libc::EINVAL) };
    // SAFETY: the plan's chunks lie within its regions, which are mapped; in this process nobody else is there to write them.
    let chunk = unsafe { std::slice::from_raw_parts(host.as_ptr().add(at as usize), len as usize) };
    let found = checksum(chunk);
    sum.store(found, Ordering::Relaxed);
    if found != 0 {
        write_sparse(work.file, chunk, Plan::offset(number))?;
    }
    // SAFETY: this process does not look there again.
    unsafe { libc::madvise(chunk.as_ptr().cast_mut().cast(), chunk.len(), libc::MADV_DONTNEED) };
    work.told.done().fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Writes the pages of `chunk` that are not zeroes, neighbours in one go. An error is as the kernel numbers them.
pub(super) fn write_sparse(file: RawFd, chunk: &[u8], offset: u64) -> Result<(), i32> {
    let page = PAGE_SIZE as usize;
    let mut at = 0;
    while at < chunk.len() {
        let zero = |at: &usize| chunk.get(*at..).is_none_or(|rest| is_zero(&rest[..page.min(rest.len())]));
        let ends = |at: &usize| *at >= chunk.len();
        let start = (at..=chunk.len()).step_by(page).find(|at| ends(at) || !zero(at)).unwrap_or(chunk.len());
        let end = (start..=chunk.len()).step_by(page).find(|at| ends(at) || zero(at)).unwrap_or(chunk.len());
        write_all(file, &chunk[start..end], offset.wrapping_add(start as u64))?;
        at = end;
    }
    Ok(())
}

fn write_all(file: RawFd, mut bytes: &[u8], mut offset: u64) -> Result<(), i32> {
    while !bytes.is_empty() {
        // SAFETY: the bytes are readable for their length.
        match unsafe { libc::pwrite(file, bytes.as_ptr().cast(), bytes.len(), offset as libc::off_t) } {
            n if n > 0 => {
                bytes = bytes.get(n as usize..).unwrap_or_default();
                offset = offset.wrapping_add(n as u64);
            }
            n if n < 0 && errno() == libc::EINTR => {}
            n if n < 0 => return Err(errno()),
            _ => return Err(libc::EIO),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::super::layout::Range;
    use super::*;

    #[test]
    fn what_is_written_after_the_freeze_is_not_in_the_file() {
        let plan = Plan::new(&[Range { start: 0, size: 3 << 20 }]);
        let file = tempfile::tempfile().unwrap();
        plan.begin(&file).unwrap();
        let mut memory = vec![0u8; 3 << 20];
        memory[5000] = 1;
        memory[2 << 20] = 2;
        let host = NonNull::new(memory.as_mut_ptr()).unwrap();
        let mut frozen = Frozen::freeze(&plan, &[host], &file).unwrap();
        memory[5000] = 77;
        memory[1 << 20] = 77;
        for number in 0..3 {
            frozen.write(number).unwrap();
        }
        let sums = frozen.finish().unwrap();
        assert!(sums[0] != 0 && sums[1] == 0 && sums[2] != 0);
        let byte = |at: u64| {
            let mut byte = [0];
            file.read_exact_at(&mut byte, Plan::offset(0) + at).unwrap();
            byte[0]
        };
        assert_eq!((byte(5000), byte(1 << 20), byte(2 << 20)), (1, 0, 2));
    }

    #[test]
    fn a_file_that_cannot_be_written_is_told() {
        let plan = Plan::new(&[Range { start: 0, size: 1 << 20 }]);
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut memory = vec![1u8; 1 << 20];
        let host = NonNull::new(memory.as_mut_ptr()).unwrap();
        let mut frozen = Frozen::freeze(&plan, &[host], &full).unwrap();
        // It may be told when the order is given, or at the end.
        let result = frozen.write(0).and_then(|()| frozen.finish());
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    }

    #[test]
    fn a_child_that_is_not_wanted_any_more_ends() {
        let plan = Plan::new(&[Range { start: 0, size: 1 << 20 }]);
        let mut memory = vec![1u8; 1 << 20];
        let host = NonNull::new(memory.as_mut_ptr()).unwrap();
        let frozen = Frozen::freeze(&plan, &[host], &tempfile::tempfile().unwrap()).unwrap();
        let child = frozen.child;
        drop(frozen);
        // SAFETY: asks whether there is such a process.
        assert_eq!(unsafe { libc::kill(child, 0) }, -1);
    }
}
