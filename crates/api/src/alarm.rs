//! Alarms: what is watched, when that is bad and when it is good again, and what is done then.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{Invalid, Name, Time};

/// The most actions that an alarm has.
const MOST_ACTIONS: usize = 8;
/// The longest time that a condition has to hold, and that events are counted within, seconds.
const LONGEST: u32 = 7 * 24 * 3600;
/// How long an action may take at most, seconds.
const SLOWEST: u32 = 300;

/// What an alarm should be: what its owner says of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AlarmDefinition {
    /// Its name, which stays.
    pub name: Name,
    /// What it is for, and what to do about it.
    #[serde(default)]
    #[schema(max_length = 4096)]
    pub description: String,
    /// Whether it watches at all.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// How bad it is.
    #[serde(default)]
    pub severity: Severity,
    /// When it is raised, and when it is cleared.
    pub trigger: Trigger,
    /// What it watches: all there is of that kind if nothing is said.
    #[serde(default)]
    pub scope: AlarmScope,
    /// What is done when it is raised and when it is cleared. Only administrators of the whole host see them.
    #[serde(default)]
    #[schema(max_items = 8)]
    pub actions: Vec<AlarmAction>,
}

fn yes() -> bool {
    true
}

/// How bad something is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Somebody should look at it.
    #[default]
    Warning,
    /// Somebody has to do something now.
    Critical,
}

impl Severity {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }
}

/// When an alarm is raised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    /// A number is beyond a threshold.
    Metric(MetricTrigger),
    /// Something happens, or happens often.
    Event(EventTrigger),
}

/// A number is beyond a threshold for a while.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MetricTrigger {
    /// The number.
    pub of: Metric,
    /// It is bad above this, in the metric's unit. Either this or `below` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above: Option<f64>,
    /// It is bad below this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<f64>,
    /// What was bad is good again only when it is not beyond this, so that a number that wavers raises one alarm and not a hundred. The
    /// threshold itself if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clear: Option<f64>,
    /// For how many seconds it has to be bad at every look before the alarm is raised.
    #[serde(default, rename = "for")]
    #[schema(maximum = 604800)]
    pub hold: u32,
}

/// Events of a kind happen to something. The alarm is cleared once none has happened to it for `within` seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EventTrigger {
    /// The kind of event: `vm.crashed`. Those of alarms themselves are none.
    pub kind: String,
    /// Only those whose detail `how` is one of these: `panic`, `killed`; all of them if none is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub how: Vec<String>,
    /// How many there have to be.
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 1000)]
    pub count: u32,
    /// Within how many seconds.
    #[serde(default = "hour")]
    #[schema(minimum = 1, maximum = 604800)]
    pub within: u32,
}

fn one() -> u32 {
    1
}

fn hour() -> u32 {
    3600
}

/// What can be watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub enum Metric {
    /// What of a storage pool's file system is in use, percent.
    #[serde(rename = "pool.used")]
    PoolUsed,
    /// How much of what a guest's disk may still grow by its pool has room for, percent: 100 or more is enough. A disk grows as the guest
    /// writes to it; one that finds no room fails in the guest.
    #[serde(rename = "disk.room")]
    DiskRoom,
    /// For how long a running guest's agent has not answered that did answer since the guest was started, seconds.
    #[serde(rename = "agent.silent")]
    AgentSilent,
    /// What of the host's memory is in use and cannot be given out, percent.
    #[serde(rename = "host.memory")]
    HostMemory,
    /// What of the time of all processors of the host they were busy, percent.
    #[serde(rename = "host.cpu")]
    HostCpu,
    /// How long a token or a certificate is still taken, days.
    #[serde(rename = "expiry.days")]
    ExpiryDays,
}

/// All of them.
pub const METRICS: [Metric; 6] = [
    Metric::PoolUsed,
    Metric::DiskRoom,
    Metric::AgentSilent,
    Metric::HostMemory,
    Metric::HostCpu,
    Metric::ExpiryDays,
];

/// What kind of thing a metric is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// The host as a whole, and what is its own.
    Host,
    /// Guests.
    Vm,
    /// Storage pools.
    Pool,
}

impl Metric {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Metric::PoolUsed => "pool.used",
            Metric::DiskRoom => "disk.room",
            Metric::AgentSilent => "agent.silent",
            Metric::HostMemory => "host.memory",
            Metric::HostCpu => "host.cpu",
            Metric::ExpiryDays => "expiry.days",
        }
    }

    /// What its numbers are: `%`, `s` or `d`.
    pub fn unit(self) -> &'static str {
        match self {
            Metric::PoolUsed | Metric::DiskRoom | Metric::HostMemory | Metric::HostCpu => "%",
            Metric::AgentSilent => "s",
            Metric::ExpiryDays => "d",
        }
    }

    /// What it is of.
    pub fn watched(self) -> Watched {
        match self {
            Metric::PoolUsed => Watched::Pool,
            Metric::DiskRoom | Metric::AgentSilent => Watched::Vm,
            Metric::HostMemory | Metric::HostCpu | Metric::ExpiryDays => Watched::Host,
        }
    }
}

/// Which things an alarm watches. Nothing said is all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AlarmScope {
    /// Guests that carry all these labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The guest of this name or id; its id is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
    /// The pool of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Name>,
}

/// What is done when an alarm is raised, and when it is cleared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AlarmAction {
    /// Runs this program of the host as the daemon's user: its path and its arguments. No shell reads them. The variables
    /// `TESSERA_ALARM…` of its environment tell which alarm; what it prints is kept in an event.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64)]
    pub command: Vec<String>,
    /// Sends what happened there as JSON by HTTP POST: again, more and more seldom, if nobody answers. Either this or `command` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 2048)]
    pub webhook: Option<String>,
    /// How many seconds it may take.
    #[serde(default = "patience")]
    #[schema(minimum = 1, maximum = 300)]
    pub timeout: u32,
}

fn patience() -> u32 {
    30
}

impl AlarmAction {
    /// What it is, for a list: the program, or the host that hears of it. Addresses of webhooks may hold secrets.
    pub fn short(&self) -> String {
        match &self.webhook {
            Some(url) => {
                let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
                let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
                format!("webhook {}", host.rsplit('@').next().unwrap_or_default())
            }
            None => format!("command {}", self.command.first().map_or("", String::as_str)),
        }
    }

    fn check(&self, number: usize) -> Vec<Invalid> {
        let mut wrong = Vec::new();
        let mut say = |field: &str, value: Value, detail: &str| {
            wrong.push(Invalid::new(format!("/actions/{number}{field}"), value, detail));
        };
        match (&self.webhook, self.command.first()) {
            (None, None) | (Some(_), Some(_)) => {
                say("", Value::Null, "an action is either a command or a webhook");
            }
            (Some(url), None) => {
                let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
                let host =
                    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', '?', '#', ':']));
                let plain = url.len() <= 2048 && url.chars().all(|c| c.is_ascii_graphic());
                if !(host && plain) {
                    // It may hold a secret.
                    say(
                        "/webhook",
                        Value::Null,
                        "an address such as https://example.org/hook, at most 2048 bytes",
                    );
                }
            }
            (None, Some(program)) => {
                if !program.starts_with('/') {
                    let detail =
                        "a program is named by its whole path, and its arguments stand apart from it";
                    say("/command/0", program.as_str().into(), detail);
                }
                let long = self.command.iter().map(String::len).sum::<usize>() > 32 << 10;
                if self.command.len() > 64 || long || self.command.iter().any(|part| part.contains('\0')) {
                    say("/command", Value::Null, "at most 64 parts and 32 KiB, without zero bytes");
                }
            }
        }
        if !(1..=SLOWEST).contains(&self.timeout) {
            say("/timeout", self.timeout.into(), "an action may take 1 to 300 seconds");
        }
        wrong
    }
}

impl MetricTrigger {
    /// Whether `value` is beyond the threshold.
    pub fn is_bad(&self, value: f64) -> bool {
        self.above.is_some_and(|above| value > above) || self.below.is_some_and(|below| value < below)
    }

    /// Whether `value` is good enough for an alarm that is raised to be cleared.
    pub fn is_good(&self, value: f64) -> bool {
        match (self.above, self.below) {
            (Some(above), _) => value <= self.clear.unwrap_or(above),
            (None, Some(below)) => value >= self.clear.unwrap_or(below),
            (None, None) => true,
        }
    }

    /// The threshold.
    pub fn threshold(&self) -> f64 {
        self.above.or(self.below).unwrap_or_default()
    }

    fn check(&self) -> Vec<Invalid> {
        let mut wrong = Vec::new();
        let mut say = |field: &str, value: Value, detail: &str| {
            wrong.push(Invalid::new(format!("/trigger/metric/{field}"), value, detail));
        };
        match (self.above, self.below) {
            (Some(_), Some(below)) => say("below", below.into(), "either above or below, not both"),
            (None, None) => say("above", Value::Null, "a threshold is needed: above or below"),
            (Some(above), None) if self.clear.is_some_and(|clear| clear > above) => {
                say("clear", self.clear.into(), "it is cleared at or below the threshold, not above it");
            }
            (None, Some(below)) if self.clear.is_some_and(|clear| clear < below) => {
                say("clear", self.clear.into(), "it is cleared at or above the threshold, not below it");
            }
            _ => {}
        }
        for (field, value) in [("above", self.above), ("below", self.below), ("clear", self.clear)] {
            if value.is_some_and(|value| !value.is_finite() || !(0.0..=1e15).contains(&value)) {
                say(field, value.into(), "a number that is not negative");
            }
        }
        if self.hold > LONGEST {
            say("for", self.hold.into(), "at most a week: 604800 seconds");
        }
        wrong
    }
}

impl EventTrigger {
    fn check(&self) -> Vec<Invalid> {
        let mut wrong = Vec::new();
        let mut say = |field: &str, value: Value, detail: &str| {
            wrong.push(Invalid::new(format!("/trigger/event/{field}"), value, detail));
        };
        let word = |text: &str| {
            !text.is_empty() && text.len() <= 40 && text.chars().all(|c| c.is_ascii_lowercase() || c == '-')
        };
        let shown: String = self.kind.chars().take(80).collect();
        if !self.kind.split_once('.').is_some_and(|(first, second)| word(first) && word(second)) {
            say("kind", shown.into(), "the kind of an event is two words such as vm.crashed");
        } else if self.kind.starts_with("alarm.") {
            say("kind", shown.into(), "an alarm about alarms would raise itself");
        }
        if self.how.len() > 16 || !self.how.iter().all(|how| word(how)) {
            say("how", Value::Null, "at most 16 words such as panic or killed");
        }
        if !(1..=1000).contains(&self.count) {
            say("count", self.count.into(), "1 to 1000 events");
        }
        if !(1..=LONGEST).contains(&self.within) {
            say("within", self.within.into(), "1 to 604800 seconds");
        }
        wrong
    }

    /// Whether an event is one of those that count.
    pub fn fits(&self, event: &crate::Event) -> bool {
        let how = event.details.get("how").and_then(Value::as_str);
        self.kind == event.kind
            && (self.how.is_empty() || how.is_some_and(|how| self.how.iter().any(|one| one == how)))
    }
}

impl Trigger {
    /// What kind of thing it is about.
    pub fn watched(&self) -> Watched {
        match self {
            Trigger::Metric(metric) => metric.of.watched(),
            Trigger::Event(event) => match event.kind.split('.').next() {
                Some("vm") => Watched::Vm,
                Some("pool" | "volume") => Watched::Pool,
                _ => Watched::Host,
            },
        }
    }
}

impl AlarmDefinition {
    /// What is wrong with it, as far as that can be told without looking at the host.
    pub fn check(&self) -> Vec<Invalid> {
        let mut wrong = crate::access::check_labels("/scope/labels", &self.scope.labels);
        wrong.extend(match &self.trigger {
            Trigger::Metric(metric) => metric.check(),
            Trigger::Event(event) => event.check(),
        });
        let mut say = |pointer: &str, value: Value, detail: &str| {
            wrong.push(Invalid::new(pointer, value, detail));
        };
        if self.description.len() > 4096 {
            say("/description", Value::Null, "a description has at most 4096 bytes");
        }
        let watched = self.trigger.watched();
        if watched != Watched::Vm && !self.scope.labels.is_empty() {
            say("/scope/labels", Value::Null, "what it watches carries no labels: only guests do");
        }
        if watched != Watched::Vm && self.scope.vm.is_some() {
            say("/scope/vm", self.scope.vm.clone().into(), "what it watches is no guest");
        }
        if watched != Watched::Pool && self.scope.pool.is_some() {
            say("/scope/pool", Value::Null, "what it watches is no pool");
        }
        if self.scope.vm.is_some() && !self.scope.labels.is_empty() {
            say("/scope/vm", self.scope.vm.clone().into(), "either one guest or those with labels, not both");
        }
        if self.actions.len() > MOST_ACTIONS {
            say("/actions", self.actions.len().into(), "an alarm has at most 8 actions");
        }
        wrong.extend(self.actions.iter().enumerate().flat_map(|(number, action)| action.check(number)));
        wrong
    }
}

/// An alarm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Alarm {
    /// What it should be.
    #[serde(flatten)]
    pub definition: AlarmDefinition,
    /// Whether every host has it: it can be changed and switched off, and not deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub built_in: bool,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created: Time,
    /// What it is now.
    pub status: AlarmStatus,
}

/// What an alarm is at the moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AlarmStatus {
    /// The worst of what it watches.
    pub state: AlarmState,
    /// What of that is not good, the oldest first.
    #[serde(default)]
    pub active: Vec<ActiveAlarm>,
}

/// Where an alarm is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AlarmState {
    /// It is switched off.
    Off,
    /// All is good.
    Ok,
    /// Something is bad, and not for long enough yet.
    Pending,
    /// It is raised, and somebody knows.
    Acknowledged,
    /// It is raised.
    Raised,
}

impl AlarmState {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            AlarmState::Off => "off",
            AlarmState::Ok => "ok",
            AlarmState::Pending => "pending",
            AlarmState::Acknowledged => "acknowledged",
            AlarmState::Raised => "raised",
        }
    }
}

/// Something is not good.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ActiveAlarm {
    /// What: `/api/v1/vms/…`.
    pub target: String,
    /// Its name.
    pub name: String,
    /// `pending`, `raised` or `acknowledged`.
    pub state: AlarmState,
    /// The number that was seen last, in the metric's unit; how many events there were.
    pub value: f64,
    /// In words.
    pub message: String,
    /// Since when it has been bad.
    #[schema(value_type = String, format = DateTime)]
    pub since: Time,
    /// When the alarm was raised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub raised: Option<Time>,
    /// Who knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<Acknowledgement>,
}

/// Somebody knows that an alarm is raised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Acknowledgement {
    /// Who.
    pub actor: String,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub time: Time,
}

/// What is acknowledged.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Acknowledge {
    /// Only what is raised for this: its target, or its name; everything if nothing is said.
    #[serde(default)]
    pub target: Option<String>,
}

/// What came of an action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ActionResult {
    /// Which one.
    pub action: String,
    /// Whether it did what it should.
    pub ok: bool,
    /// How it ended, in words.
    pub message: String,
    /// What it printed, or was answered, the end of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn definition(more: Value) -> AlarmDefinition {
        let mut whole = json!({"name": "a", "trigger": {"metric": {"of": "pool.used", "above": 80}}});
        for (key, value) in more.as_object().unwrap() {
            whole[key] = value.clone();
        }
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn each_wrong_field_is_named() {
        let metric = |more: Value| json!({"trigger": {"metric": more}});
        let event = |more: Value| json!({"trigger": {"event": more}});
        assert_eq!(definition(json!({})).check(), []);
        for (more, pointer) in [
            (metric(json!({"of": "pool.used"})), "/trigger/metric/above"),
            (metric(json!({"of": "pool.used", "above": 1, "below": 2})), "/trigger/metric/below"),
            (metric(json!({"of": "pool.used", "above": 80, "clear": 81})), "/trigger/metric/clear"),
            (metric(json!({"of": "disk.room", "below": 10, "clear": 9})), "/trigger/metric/clear"),
            (metric(json!({"of": "pool.used", "above": -1})), "/trigger/metric/above"),
            (metric(json!({"of": "pool.used", "above": 1, "for": 604801})), "/trigger/metric/for"),
            (event(json!({"kind": "crashed"})), "/trigger/event/kind"),
            (event(json!({"kind": "alarm.raised"})), "/trigger/event/kind"),
            (event(json!({"kind": "vm.crashed", "count": 0})), "/trigger/event/count"),
            (event(json!({"kind": "vm.crashed", "within": 0})), "/trigger/event/within"),
            (json!({"scope": {"labels": {"a": "b"}}}), "/scope/labels"),
            (json!({"scope": {"vm": "a"}}), "/scope/vm"),
            (json!({"actions": [{}]}), "/actions/0"),
            (json!({"actions": [{"command": ["/bin/true"], "webhook": "http://a"}]}), "/actions/0"),
            (json!({"actions": [{"command": ["true"]}]}), "/actions/0/command/0"),
            (json!({"actions": [{"webhook": "ftp://a"}]}), "/actions/0/webhook"),
            (json!({"actions": [{"webhook": "http:///x"}]}), "/actions/0/webhook"),
            (json!({"actions": [{"webhook": "http://a/b c"}]}), "/actions/0/webhook"),
            (json!({"actions": [{"webhook": "http://a", "timeout": 0}]}), "/actions/0/timeout"),
        ] {
            let wrong = definition(more.clone()).check();
            assert_eq!(wrong.iter().map(|w| w.pointer.as_str()).collect::<Vec<_>>(), [pointer], "{more}");
        }
    }

    #[test]
    fn what_an_action_is_called_tells_no_secret() {
        let action =
            |webhook: &str| AlarmAction { command: Vec::new(), webhook: Some(webhook.into()), timeout: 1 };
        assert_eq!(action("https://me:word@hooks.example/T0/secret").short(), "webhook hooks.example");
    }
}
