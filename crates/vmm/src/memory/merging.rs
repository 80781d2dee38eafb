//! Equal pages that the kernel keeps once (Documentation/admin-guide/mm/ksm.rst).

use std::io;
use std::sync::atomic::Ordering;

use super::{Ram, Region};

impl Ram {
    /// Has the kernel keep pages that are equal to others' once, or each by itself again. All processes that want that on this machine share them: how long a write takes
    /// tells whether somebody else has the same page.
    ///
    /// # Errors
    /// If the kernel cannot, or has no room for what is each one's own again.
    pub fn merge(&self, merges: bool) -> io::Result<()> {
        let advice = if merges { libc::MADV_MERGEABLE } else { libc::MADV_UNMERGEABLE };
        self.regions.iter().try_for_each(|region| advise(region, advice))?;
        // What has failed is still to be done: whoever asks is not told otherwise.
        self.merges.store(merges, Ordering::SeqCst);
        Ok(())
    }

    /// Whether it does.
    pub fn merges(&self) -> bool {
        self.merges.load(Ordering::SeqCst)
    }

    /// Has that hold for what has just been mapped.
    pub(super) fn advise_merging(&self, region: &Region) -> io::Result<()> {
        if self.merges() { advise(region, libc::MADV_MERGEABLE) } else { Ok(()) }
    }
}

fn advise(region: &Region, advice: libc::c_int) -> io::Result<()> {
    let (host, size) = (region.host.as_ptr().cast(), (region.end - region.start) as usize);
    // SAFETY: the range is a mapping of ours; the advice changes no byte of it.
    match unsafe { libc::madvise(host, size, advice) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Whether the kernel would merge the memory that begins at this address (proc(5), smaps: "mg").
    fn would(ram: &Ram) -> bool {
        let begin = format!("{:x}-", ram.regions().next().unwrap().2.as_ptr() as usize);
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = maps.lines().skip_while(|line| !line.starts_with(&begin));
        let flags = lines.find(|line| line.starts_with("VmFlags:")).unwrap();
        flags.split_whitespace().any(|flag| flag == "mg")
    }

    #[test]
    fn memory_is_merged_while_that_is_wanted_after_a_reset_too() {
        if !fs::exists("/sys/kernel/mm/ksm").unwrap() {
            eprintln!("this kernel merges nothing");
            return;
        }
        let ram = Ram::new(8 << 20).unwrap();
        assert!(!would(&ram));
        ram.merge(true).unwrap();
        assert!(would(&ram) && ram.merges());
        ram.clear().unwrap();
        assert!(would(&ram));
        ram.merge(false).unwrap();
        assert!(!would(&ram) && !ram.merges());
    }
}
