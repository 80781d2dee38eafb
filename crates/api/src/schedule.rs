//! Snapshots and backups that are made again and again.

use std::collections::HashSet;

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{Id, Invalid, Name, Time};

/// The longest time between two, seconds: a year.
const LONGEST: u32 = 366 * 24 * 3600;
/// The most that are kept by one rule.
const MOST: u32 = 10_000;

/// What a schedule makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleAction {
    /// Snapshots.
    Snapshot,
    /// Backups.
    Backup,
}

/// How many of those that a schedule has made are kept; what any of these keeps stays. The others go, and never one that was made by hand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// So many of the latest.
    #[serde(default)]
    #[schema(maximum = 10000)]
    pub last: u32,
    /// The latest of each of so many hours that have any.
    #[serde(default)]
    #[schema(maximum = 10000)]
    pub hourly: u32,
    /// The latest of each of so many days, which begin at midnight UTC.
    #[serde(default)]
    #[schema(maximum = 10000)]
    pub daily: u32,
    /// The latest of each of so many weeks, which begin with Monday.
    #[serde(default)]
    #[schema(maximum = 10000)]
    pub weekly: u32,
    /// The latest of each of so many months.
    #[serde(default)]
    #[schema(maximum = 10000)]
    pub monthly: u32,
}

/// Something that the host makes of a guest again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleDefinition {
    /// Its name: no two of a guest have the same.
    pub name: Name,
    /// What it makes.
    pub action: ScheduleAction,
    /// How often, seconds: at every multiple of this since 1970-01-01T00:00:00Z, so that `86400` is each midnight UTC.
    #[schema(minimum = 1, maximum = 31622400)]
    pub every: u32,
    /// So many seconds later than that.
    #[serde(default)]
    #[schema(maximum = 31622400)]
    pub offset: u32,
    /// How many are kept.
    pub keep: Retention,
    /// The pool that backups are put into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Name>,
    /// Whether the guest's agent has its file systems rest meanwhile.
    #[serde(default)]
    pub quiesce: bool,
    /// After how many backups one has all that is on the disks: those before can go then, when nobody keeps one of them.
    #[serde(default = "week")]
    #[schema(minimum = 1, maximum = 10000)]
    pub full_every: u32,
    /// Whether it is at work.
    #[serde(default = "yes")]
    pub enabled: bool,
}

fn week() -> u32 {
    7
}

fn yes() -> bool {
    true
}

/// A schedule, and how it goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Schedule {
    /// What it is to do.
    #[serde(flatten)]
    pub definition: ScheduleDefinition,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created: Time,
    /// When it last did something, or tried to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last: Option<Time>,
    /// When it does something next; absent if it is not at work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next: Option<Time>,
    /// Why the last one failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Retention {
    /// Which of these stay.
    pub fn kept(&self, all: &[(Id, Time)]) -> HashSet<Id> {
        let mut newest: Vec<_> = all.to_vec();
        newest.sort_by_key(|(id, time)| std::cmp::Reverse((*time, *id)));
        let mut kept: HashSet<Id> = newest.iter().take(self.last as usize).map(|(id, _)| *id).collect();
        let spans = [
            (self.hourly, "%Y-%m-%d %H"),
            (self.daily, "%Y-%m-%d"),
            (self.weekly, "%G-%V"),
            (self.monthly, "%Y-%m"),
        ];
        for (count, span) in spans {
            let mut seen = HashSet::new();
            for (id, time) in &newest {
                let span = time.strftime(span).to_string();
                if seen.len() < count as usize && seen.insert(span) {
                    kept.insert(*id);
                }
            }
        }
        kept
    }
}

impl ScheduleDefinition {
    /// What is wrong with it.
    pub fn check(&self) -> Vec<Invalid> {
        let mut wrong = Vec::new();
        let mut say = |pointer: &str, value: Value, detail: &str| {
            wrong.push(Invalid::new(pointer, value, detail));
        };
        if !(1..=LONGEST).contains(&self.every) {
            say("/every", self.every.into(), "1 second to 366 days");
        }
        if self.offset >= self.every.max(1) {
            say("/offset", self.offset.into(), "less than the time between two");
        }
        let keep = self.keep;
        let rules = [
            ("last", keep.last),
            ("hourly", keep.hourly),
            ("daily", keep.daily),
            ("weekly", keep.weekly),
            ("monthly", keep.monthly),
        ];
        for (rule, count) in rules.iter().filter(|(_, count)| *count > MOST) {
            say(&format!("/keep/{rule}"), (*count).into(), "at most 10000");
        }
        if rules.iter().all(|(_, count)| *count == 0) {
            say("/keep", Value::Null, "say how many are kept: last, hourly, daily, weekly or monthly");
        }
        if !(1..=MOST).contains(&self.full_every) {
            say("/full_every", self.full_every.into(), "1 to 10000");
        }
        match (self.action, &self.pool) {
            (ScheduleAction::Backup, None) => {
                say("/pool", Value::Null, "name the pool that the backups are put into");
            }
            (ScheduleAction::Snapshot, Some(pool)) => {
                say("/pool", pool.as_str().into(), "snapshots are in the pools of their disks");
            }
            _ => {}
        }
        wrong
    }

    /// The latest moment up to `now` at which it is to do something.
    fn latest(&self, now: Time) -> Time {
        let (every, offset) = (i64::from(self.every.max(1)), i64::from(self.offset));
        let seconds = (now.as_second() - offset).div_euclid(every) * every + offset;
        Time::from_second(seconds).unwrap_or(now)
    }

    /// Whether it has to do something at `now`, if it last did at `last`: once, however often it was to meanwhile.
    pub fn is_due(&self, last: Time, now: Time) -> bool {
        self.enabled && last < self.latest(now)
    }

    /// When it has to do something next after `now`.
    pub fn next(&self, now: Time) -> Time {
        self.latest(now).saturating_add(SignedDuration::from_secs(self.every.into())).unwrap_or(Time::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Time {
        text.parse().unwrap()
    }

    fn daily() -> ScheduleDefinition {
        serde_json::from_value(serde_json::json!({
            "name": "daily", "action": "snapshot", "every": 86400, "offset": 7200, "keep": { "last": 3 }
        }))
        .unwrap()
    }

    #[test]
    fn what_was_missed_is_due_once() {
        let daily = daily();
        assert!(daily.check().is_empty());
        let last = time("2026-11-20T02:00:01Z");
        assert!(!daily.is_due(last, time("2026-11-21T01:59:59Z")));
        assert!(daily.is_due(last, time("2026-11-21T02:00:00Z")));
        // Days later it is due as it was, and then not before the next morning.
        let now = time("2026-11-27T12:00:00Z");
        assert!(daily.is_due(last, now));
        assert!(!daily.is_due(now, time("2026-11-28T01:00:00Z")));
        assert_eq!(daily.next(now), time("2026-11-28T02:00:00Z"));
        assert!(!ScheduleDefinition { enabled: false, ..daily }.is_due(last, now));
    }

    #[test]
    fn what_no_rule_keeps_goes() {
        let times = [
            "2026-10-30T10:00:00Z",
            "2026-11-15T10:00:00Z",
            "2026-11-16T10:00:00Z",
            "2026-11-26T09:00:00Z",
            "2026-11-26T10:00:00Z",
            "2026-11-27T09:10:00Z",
            "2026-11-27T10:00:00Z",
            "2026-11-27T10:30:00Z",
        ];
        let all: Vec<_> = times.iter().map(|text| (Id::new(), time(text))).collect();
        let kept = |keep: Retention| -> Vec<usize> {
            let kept = keep.kept(&all);
            (0..all.len()).filter(|n| kept.contains(&all[*n].0)).collect()
        };
        assert_eq!(kept(Retention { last: 3, ..Retention::default() }), [5, 6, 7]);
        assert_eq!(kept(Retention { hourly: 3, ..Retention::default() }), [4, 5, 7]);
        assert_eq!(kept(Retention { daily: 3, ..Retention::default() }), [2, 4, 7]);
        assert_eq!(kept(Retention { weekly: 2, ..Retention::default() }), [2, 7]);
        assert_eq!(kept(Retention { monthly: 5, ..Retention::default() }), [0, 7]);
        assert_eq!(kept(Retention { last: 1, daily: 2, monthly: 2, ..Retention::default() }), [0, 4, 7]);
        assert!(kept(Retention::default()).is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let wrong = ScheduleDefinition {
            every: 0,
            offset: 9,
            keep: Retention::default(),
            pool: Some("p".parse().unwrap()),
            full_every: 0,
            ..daily()
        };
        let pointers: Vec<_> = wrong.check().into_iter().map(|wrong| wrong.pointer).collect();
        assert_eq!(pointers, ["/every", "/offset", "/keep", "/full_every", "/pool"]);
        let backup = ScheduleDefinition { action: ScheduleAction::Backup, ..daily() };
        assert_eq!(backup.check()[0].pointer, "/pool");
    }
}
