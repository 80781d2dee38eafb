//! The alarms that every host has from its first start.

use api::{
    AlarmDefinition, AlarmScope, EventTrigger, Metric, MetricTrigger, Name, NameError, Severity, Trigger,
};

fn alarm(
    name: &str,
    severity: Severity,
    description: &str,
    trigger: Trigger,
) -> Result<AlarmDefinition, NameError> {
    Ok(AlarmDefinition {
        name: name.parse()?,
        description: description.into(),
        enabled: true,
        severity,
        trigger,
        scope: AlarmScope::default(),
        actions: Vec::new(),
    })
}

fn above(of: Metric, above: f64, clear: f64, hold: u32) -> Trigger {
    Trigger::Metric(MetricTrigger { of, above: Some(above), below: None, clear: Some(clear), hold })
}

fn below(of: Metric, below: f64, clear: f64, hold: u32) -> Trigger {
    Trigger::Metric(MetricTrigger { of, above: None, below: Some(below), clear: Some(clear), hold })
}

fn events(kind: &str, how: &[&str], count: u32, within: u32) -> Trigger {
    let how = how.iter().map(|how| (*how).to_owned()).collect();
    Trigger::Event(EventTrigger { kind: kind.into(), how, count, within })
}

fn crashes(how: &[&str], count: u32, within: u32) -> Trigger {
    events("vm.crashed", how, count, within)
}

/// All of them.
///
/// # Errors
/// Never: their names are names.
pub fn all() -> Result<Vec<AlarmDefinition>, NameError> {
    use Severity::{Critical, Warning};
    Ok(vec![
        alarm(
            "pool-filling",
            Warning,
            "The file system of a storage pool fills up: remove volumes, or give it more room.",
            above(Metric::PoolUsed, 85.0, 80.0, 60),
        )?,
        alarm(
            "pool-full",
            Critical,
            "The file system of a storage pool is nearly full: what guests write waits when their disks cannot grow.",
            above(Metric::PoolUsed, 95.0, 92.0, 15),
        )?,
        alarm(
            "disk-room",
            Warning,
            "A guest's disk may grow by far more than its pool has room for.",
            below(Metric::DiskRoom, 2.0, 4.0, 120),
        )?,
        alarm(
            "guest-waits-for-room",
            Critical,
            "What a guest writes waits, because the pool that its disk is in is full: remove volumes, or give the pool more room.",
            events("vm.no-room", &[], 1, 3600),
        )?,
        alarm(
            "guest-panicked",
            Warning,
            "The kernel of a guest panicked. What it said last is in its events.",
            crashes(&["panic"], 1, 3600),
        )?,
        alarm(
            "guest-crashing",
            Critical,
            "A guest's process or its engine fails again and again.",
            crashes(&["killed", "engine-failure", "start-failure", "triple-fault"], 3, 900),
        )?,
        alarm(
            "agent-silent",
            Warning,
            "The agent in a guest does not answer though it did: the guest hangs, or its agent has ended.",
            above(Metric::AgentSilent, 600.0, 300.0, 0),
        )?,
        alarm(
            "host-memory",
            Critical,
            "The host runs short of memory: the kernel will end programs, guests among them.",
            above(Metric::HostMemory, 95.0, 90.0, 60),
        )?,
        alarm(
            "host-cpu",
            Warning,
            "The host's processors have been busy for long: guests wait for them.",
            above(Metric::HostCpu, 95.0, 85.0, 900),
        )?,
        alarm(
            "expiring",
            Warning,
            "A token or a certificate will soon not be taken any more: replace it.",
            below(Metric::ExpiryDays, 14.0, 15.0, 0),
        )?,
    ])
}

/// Whether every host has an alarm of this name.
pub fn is(name: &Name) -> bool {
    all().is_ok_and(|all| all.iter().any(|one| one.name == *name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_every_host_has_are_in_order() {
        for alarm in all().unwrap() {
            assert_eq!(alarm.check(), [], "{}", alarm.name);
            assert!(is(&alarm.name));
        }
        assert!(!is(&"mine".parse().unwrap()));
    }
}
