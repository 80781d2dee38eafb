//! What the host and its guests use each second: the difference between two looks at counters that only grow.

use api::{HostStats, Id, Name, Size, Stats, Vm, VmState};
use serde::{Deserialize, Serialize};

/// One in a hundred of a processor's time in each second, ns.
const PERCENT_NS: f64 = 1e7;

/// What a guest uses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Its id.
    pub id: Id,
    /// Its name.
    pub name: Name,
    /// Its state.
    pub state: VmState,
    /// How many processors it has.
    pub cpus: u32,
    /// Memory it has.
    pub memory: Size,
    /// What it does, if it has been looked at twice while it ran.
    #[serde(flatten)]
    pub rates: Option<Rates>,
}

/// What a guest that runs does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Time of the host's processors that its process takes, devices included: 100 is all of one processor.
    pub cpu_percent: f64,
    /// The part of the time in which its processors had work and waited for one of the host's, on average; 100 is always.
    pub ready_percent: Option<f64>,
    /// Memory that its process takes on the host.
    pub resident: Size,
    /// Bytes that its disks read each second.
    pub read_bytes: f64,
    /// Bytes that they write each second.
    pub written_bytes: f64,
    /// Their requests each second, both ways.
    pub operations: f64,
    /// Bytes that its cards receive each second.
    pub received_bytes: f64,
    /// Bytes that they send each second.
    pub sent_bytes: f64,
}

/// What a host uses.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct HostUsage {
    /// Processors it has.
    pub cpus: u32,
    /// How busy they are: 100 is all of them.
    pub cpu_percent: f64,
    /// How much of them a machine below this one gave to others.
    pub stolen_percent: f64,
    /// Processors that guests that run have.
    pub cpus_promised: u32,
    /// Memory it has.
    pub memory: Size,
    /// Memory that could be given out.
    pub memory_available: Size,
    /// Memory that guests that run have.
    pub memory_promised: Size,
    /// Room on the file system of the host's folder.
    pub storage: Size,
    /// What of it is free.
    pub storage_available: Size,
    /// Guests there are.
    pub vms: u32,
    /// Guests that run.
    pub vms_running: u32,
}

/// A rate as it is told: two decimals, and nothing below nothing.
fn rounded(rate: f64) -> f64 {
    (rate.max(0.0) * 100.0).round() / 100.0
}

impl Rates {
    /// What a guest did between two looks. Gives none if the second one is not later, or of another process: its counters are less.
    pub fn between(before: &Stats, after: &Stats) -> Option<Rates> {
        let seconds = after.time.duration_since(before.time).as_secs_f64();
        if seconds <= 0.0 || after.process_time_ns < before.process_time_ns {
            return None;
        }
        // A disk or card that is gone takes its counters with it.
        let grown = |sum: &dyn Fn(&Stats) -> u64| sum(after).saturating_sub(sum(before)) as f64 / seconds;
        let rate = |sum: &dyn Fn(&Stats) -> u64| rounded(grown(sum));
        let disks = |of: fn(&api::DiskStats) -> u64| rate(&|stats| stats.disks.iter().map(of).sum());
        let cards = |of: fn(&api::NicStats) -> u64| rate(&|stats| stats.nics.iter().map(of).sum());
        let ready = |stats: &Stats| stats.processors.iter().map(|of| of.ready_ns).sum::<Option<u64>>();
        let waited = ready(before).zip(ready(after)).map(|(before, after)| after.saturating_sub(before));
        let count = after.processors.len().max(1) as f64;
        Some(Rates {
            cpu_percent: rounded(grown(&|stats| stats.process_time_ns) / PERCENT_NS),
            ready_percent: waited.map(|waited| rounded(waited as f64 / seconds / count / PERCENT_NS)),
            resident: after.resident,
            read_bytes: disks(|disk| disk.read_bytes),
            written_bytes: disks(|disk| disk.written_bytes),
            operations: disks(|disk| disk.reads + disk.writes),
            received_bytes: cards(|card| card.received_bytes),
            sent_bytes: cards(|card| card.sent_bytes),
        })
    }
}

impl Usage {
    /// What a guest uses between two looks at it, if there are two.
    pub fn of(vm: &Vm, looks: Option<(&Stats, &Stats)>) -> Usage {
        Usage {
            id: vm.id,
            name: vm.definition.name.clone(),
            state: vm.status.state,
            cpus: vm.definition.cpus,
            memory: vm.definition.memory,
            rates: looks.and_then(|(before, after)| Rates::between(before, after)),
        }
    }
}

impl HostUsage {
    /// What a host with these guests uses between two looks at it.
    pub fn between<'a>(
        before: &HostStats,
        after: &HostStats,
        vms: impl Iterator<Item = &'a Vm>,
    ) -> HostUsage {
        let grown = |of: fn(&HostStats) -> u64| of(after).saturating_sub(of(before)) as f64;
        let (busy, stolen) = (grown(|stats| stats.busy_ns), grown(|stats| stats.stolen_ns));
        let all = busy + stolen + grown(|stats| stats.idle_ns);
        let part = |time: f64| if all > 0.0 { rounded(100.0 * time / all) } else { 0.0 };
        let mut usage = HostUsage {
            cpus: after.cpus,
            cpu_percent: part(busy),
            stolen_percent: part(stolen),
            cpus_promised: 0,
            memory: after.memory,
            memory_available: after.memory_available,
            memory_promised: Size(0),
            storage: after.storage,
            storage_available: after.storage_available,
            vms: 0,
            vms_running: 0,
        };
        for vm in vms {
            usage.vms += 1;
            usage.vms_running += u32::from(vm.status.state == VmState::Running);
            if vm.status.state.is_alive() {
                usage.cpus_promised += vm.definition.cpus;
                usage.memory_promised.0 += vm.definition.memory.0;
            }
        }
        usage
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn look(second: u32, times: u64) -> Stats {
        let processor = json!({ "run_ns": 0, "ready_ns": times * 250_000_000, "wait_ns": 0 });
        serde_json::from_value(json!({
            "time": format!("2026-01-01T00:00:{second:02}Z"), "guest_time_ns": 0, "process_time_ns": times * 3_000_000_000_u64,
            "processors": [processor, processor], "memory": 1, "resident": times,
            "disks": [{ "serial": "", "reads": times * 10, "read_bytes": times * 4096, "writes": times * 2, "written_bytes": 0, "failed": 0, "busy_ns": 0 }],
            "nics": [{ "mac": "", "received": 0, "received_bytes": times * 100, "sent": 0, "sent_bytes": 0 }],
        }))
        .unwrap()
    }

    #[test]
    fn rates_are_what_counters_grew_by_each_second() {
        let rates = Rates::between(&look(1, 1), &look(3, 2)).unwrap();
        let wanted = Rates {
            cpu_percent: 150.0,
            ready_percent: Some(12.5),
            resident: Size(2),
            read_bytes: 2048.0,
            operations: 6.0,
            received_bytes: 50.0,
            ..Rates::default()
        };
        assert_eq!(rates, wanted);
    }

    #[test]
    fn a_clock_that_stands_still_and_a_new_process_give_no_rates() {
        assert_eq!(Rates::between(&look(1, 1), &look(1, 2)), None);
        assert_eq!(Rates::between(&look(1, 2), &look(3, 1)), None);
    }
}
