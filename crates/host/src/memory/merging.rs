//! Equal pages of guests that trust one another are kept once, by the kernel (Documentation/admin-guide/mm/ksm.rst).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use api::{MemoryMerging, Size};

const FOLDER: &str = "/sys/kernel/mm/ksm";

/// The kernel looks for equal pages as long as this is there.
#[derive(Debug)]
pub struct Merging {
    folder: PathBuf,
    /// Whether it did not before.
    begun: bool,
}

/// What a process has of pages that are kept once, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Merged {
    /// All of them.
    pub all: u64,
    /// What of that takes no memory.
    pub saved: u64,
}

impl Merging {
    /// Has the kernel look for equal pages of processes that want that.
    ///
    /// # Errors
    /// If it cannot, or this process may not tell it.
    pub fn begin() -> io::Result<Self> {
        Self::begin_in(Path::new(FOLDER))
    }

    fn begin_in(folder: &Path) -> io::Result<Self> {
        let run = folder.join("run");
        let begun = fs::read_to_string(&run)?.trim() != "1";
        if begun {
            fs::write(&run, "1")?;
        }
        Ok(Self { folder: folder.into(), begun })
    }

    /// The part of all merged pages that takes no memory: whose each of them is nobody can tell.
    pub fn saved_part(&self) -> f64 {
        let pages = |name: &str| -> f64 {
            let text = fs::read_to_string(self.folder.join(name)).unwrap_or_default();
            text.trim().parse().unwrap_or(0.0)
        };
        let (kept, saved) = (pages("pages_shared"), pages("pages_sharing"));
        if kept + saved > 0.0 { saved / (kept + saved) } else { 0.0 }
    }
}

impl Drop for Merging {
    fn drop(&mut self) {
        // What is merged stays so until somebody writes to it.
        if self.begun
            && let Err(error) = fs::write(self.folder.join("run"), "0")
        {
            tracing::warn!("{}: {error}: the kernel goes on to look for equal pages", self.folder.display());
        }
    }
}

/// What a process has of merged pages, of which this part takes no memory.
pub fn of(pid: u32, saved_part: f64) -> Merged {
    let pages = fs::read_to_string(format!("/proc/{pid}/ksm_merging_pages")).unwrap_or_default();
    let all = pages.trim().parse().unwrap_or(0) * rustix::param::page_size() as u64;
    Merged { all, saved: (all as f64 * saved_part) as u64 }
}

/// What all of them have.
pub fn together(each: impl Iterator<Item = Merged>) -> MemoryMerging {
    let add = |sum: Merged, one: Merged| Merged { all: sum.all + one.all, saved: sum.saved + one.saved };
    let sum = each.fold(Merged::default(), add);
    MemoryMerging { merged: Size(sum.all), saved: Size(sum.saved) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_looks_for_equal_pages_as_long_as_somebody_wants_that() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let run = || fs::read_to_string(folder.path().join("run")).unwrap();
        assert!(Merging::begin_in(folder.path()).is_err(), "a kernel that cannot");
        for (before, after) in [("0\n", "0"), ("2\n", "0"), ("1\n", "1\n")] {
            write("run", before);
            let merging = Merging::begin_in(folder.path()).unwrap();
            assert_eq!(run().trim(), "1");
            assert_eq!(merging.saved_part(), 0.0);
            drop(merging);
            assert_eq!(run(), after);
        }
        write("pages_shared", "100\n");
        write("pages_sharing", "300\n");
        let merging = Merging::begin_in(folder.path()).unwrap();
        assert_eq!(merging.saved_part(), 0.75);
    }

    #[test]
    fn what_is_saved_is_a_part_of_what_is_merged() {
        let one = Merged { all: 8 << 20, saved: 4 << 20 };
        assert_eq!(
            together([one, one].into_iter()),
            MemoryMerging { merged: Size(16 << 20), saved: Size(8 << 20) }
        );
        assert_eq!(of(std::process::id(), 0.5), Merged::default(), "nobody merges this process");
    }
}
