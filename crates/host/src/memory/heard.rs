//! What is known of a guest's memory.

use api::{Id, MemoryNow, MemoryShare, Name, Size};
use vmm::control::Stats;

use super::merging::Merged;

/// What a guest's process has said of its memory.
#[derive(Debug, Clone)]
pub struct Heard {
    /// The guest.
    pub id: Id,
    /// Its process.
    pub pid: u32,
    /// What it is promised.
    pub share: MemoryShare,
    /// The group that it is in.
    pub group: Option<Name>,
    /// What its process takes of the host for itself, bytes.
    pub own: u64,
    /// Whether pages of its memory that are equal to others' may be kept once.
    pub merges: bool,
    /// What of its memory is.
    pub merged: Merged,
    /// What of its memory is on a paging device, bytes.
    pub out: u64,
    /// What was said.
    pub stats: Stats,
}

impl Heard {
    /// What its system believes to have.
    pub fn size(&self) -> u64 {
        self.stats.memory.saturating_sub(self.stats.for_good())
    }

    /// What of that it has, as far as the balloon leaves it.
    pub fn held(&self) -> u64 {
        self.size().saturating_sub(self.stats.balloon.saturating_sub(self.stats.for_good()))
    }

    /// What its process is seen to take besides the guest's memory, bytes: translated code, what devices keep. While the guest has not touched all that it holds, that cannot be
    /// told apart, and does not matter.
    pub fn besides(&self) -> u64 {
        self.own.saturating_sub(if self.available().is_some() { self.held() } else { self.size() })
    }

    /// What its programs could still have, if its system says that.
    pub fn available(&self) -> Option<u64> {
        self.stats.guest_memory.available.or(self.stats.guest_memory.free)
    }

    /// How it is, for whoever wants to know.
    pub fn now(&self) -> MemoryNow {
        let (size, held) = (Size(self.size()), Size(self.held()));
        let (resident, merged, out) = (Size(self.own), Size(self.merged.all), Size(self.out));
        MemoryNow { size, held, resident, merged, out, active: None, target: None }
    }
}
