//! What guests use: what their processes say of themselves, and what the kernel says of their threads.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use api::{DiskStats, NicStats, Problem, ProcessorStats, Size, Stats, Time, Vm, VmStats};
use futures_util::StreamExt;

use super::Supervisor;
use crate::vcpus;

/// So many guests are asked at a time.
const AT_A_TIME: usize = 64;
/// A guest that has not answered by then is left out: others must not wait for it.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long each of a process's vCPU threads has waited for a processor of the host, ns (proc(5), schedstat).
pub fn ready(pid: u32) -> HashMap<usize, u64> {
    let vcpus = vcpus::of(pid).unwrap_or_default().into_iter();
    vcpus.filter_map(|vcpu| Some((vcpu.number as usize, vcpu.done().ok()?.waited))).collect()
}

/// What a process takes of memory for itself, bytes: not pages of files that others may have in memory, too (proc(5), statm).
pub fn own_memory(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let mut pages = text.split_whitespace().skip(1).map(|pages| pages.parse::<u64>().ok());
    let (all, of_files) = (pages.next()??, pages.next()??);
    Some(all.saturating_sub(of_files) * rustix::param::page_size() as u64)
}

/// What a process has said, as the API has it.
pub fn told(stats: vmm::control::Stats, ready: HashMap<usize, u64>) -> Stats {
    let guest_time = stats.guest_time_ns;
    let processor = |(number, of): (usize, &vmm::control::ProcessorStats)| {
        let ready_ns = ready.get(&number).copied();
        let at_work = of.cpu_time_ns + ready_ns.unwrap_or(0);
        ProcessorStats { run_ns: of.cpu_time_ns, ready_ns, wait_ns: guest_time.saturating_sub(at_work) }
    };
    let disk = |disk: vmm::control::DiskStats| DiskStats {
        serial: disk.serial,
        reads: disk.reads,
        read_bytes: disk.read_bytes,
        reread_bytes: disk.reread_bytes,
        writes: disk.writes,
        written_bytes: disk.written_bytes,
        failed: disk.failed,
        busy_ns: disk.busy_ns,
    };
    let nic = |card: vmm::control::NetStats| NicStats {
        mac: card.mac.map(|byte| format!("{byte:02x}")).join(":"),
        received: card.received,
        received_bytes: card.received_bytes,
        sent: card.sent,
        sent_bytes: card.sent_bytes,
    };
    // What a pool has of it comes back; the rest that the balloon has is its own no more.
    let given = stats.balloon.min(stats.for_good());
    Stats {
        time: Time::now(),
        guest_time_ns: guest_time,
        processors: stats.processors.iter().enumerate().map(processor).collect(),
        process_time_ns: stats.process_time_ns,
        memory: Size(stats.memory.saturating_sub(given)),
        resident: Size(stats.resident),
        reported: Size(stats.reported),
        disks: stats.disks.into_iter().map(disk).collect(),
        nics: stats.nets.into_iter().map(nic).collect(),
    }
}

impl Supervisor {
    /// What a running guest uses.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn stats(&self, id: api::Id) -> Result<Stats, Problem> {
        self.ask(id, super::Order::Stats).await
    }

    /// The same as its process says it, and what it says of its memory.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn used(&self, id: api::Id) -> Result<vmm::control::Stats, Problem> {
        self.ask(id, super::Order::Used).await
    }

    /// Has a guest be without so much of its memory, in bytes, until it is told otherwise.
    ///
    /// # Errors
    /// If it does not run, or would have too little.
    pub async fn lend(&self, id: api::Id, bytes: u64) -> Result<(), Problem> {
        self.ask(id, |reply| super::Order::Lend(bytes, reply)).await
    }

    /// Has equal pages of a guest's memory kept once, or not.
    ///
    /// # Errors
    /// If it does not run, or the kernel refuses.
    pub async fn merge(&self, id: api::Id, merges: bool) -> Result<(), Problem> {
        self.ask(id, |reply| super::Order::Merge(merges, reply)).await
    }

    /// What those of `vms` use that run, in their order. One that does not answer at once is left out.
    pub async fn all_stats(&self, vms: impl Iterator<Item = &Vm>) -> Vec<VmStats> {
        let alive = vms.filter(|vm| vm.status.state.is_alive());
        let asked = alive.map(|vm| async move {
            let stats = tokio::time::timeout(PATIENCE, self.stats(vm.id)).await.ok()?.ok()?;
            let name = vm.definition.name.clone();
            Some(VmStats { id: vm.id, name, state: vm.status.state, stats })
        });
        let asked: Vec<_> = asked.collect();
        let answers = futures_util::stream::iter(asked).buffered(AT_A_TIME);
        answers.filter_map(std::future::ready).collect().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_called_vcpu_has_waited_for_some_time_and_others_do_not_count() {
        let (ended, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("vcpu3".into()).spawn(move || wait.recv()).unwrap();
        // The name is set by the thread itself.
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        while ready(std::process::id()).is_empty() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert_eq!(ready(std::process::id()).into_keys().collect::<Vec<_>>(), [3]);
        drop(ended);
        let _ = thread.join();
    }

    #[test]
    fn running_ready_and_waiting_are_the_guests_time() {
        let said = serde_json::json!({
            "guest_time_ns": 1000, "processors": [{ "cpu_time_ns": 300 }, { "cpu_time_ns": 1100 }], "memory": 1, "resident": 1,
        });
        let stats = told(serde_json::from_value(said).unwrap(), HashMap::from([(0, 200)]));
        let times: Vec<_> = stats.processors.iter().map(|of| (of.run_ns, of.ready_ns, of.wait_ns)).collect();
        assert_eq!(times, [(300, Some(200), 500), (1100, None, 0)]);
    }

    #[test]
    fn memory_that_the_balloon_has_for_good_is_none_of_the_guests() {
        let memory = |balloon: u64, target: u64, pooled: u64| {
            let said = serde_json::json!({
                "guest_time_ns": 1000, "processors": [], "memory": 1000, "resident": 1,
                "balloon": balloon, "balloon_target": target, "pooled": pooled,
            });
            told(serde_json::from_value(said).unwrap(), HashMap::new()).memory.0
        };
        assert_eq!(memory(0, 0, 0), 1000);
        assert_eq!(memory(300, 300, 300), 1000, "it is lent");
        assert_eq!(memory(400, 400, 300), 900);
        assert_eq!(memory(50, 400, 300), 950, "it has not been handed over yet");
    }
}
