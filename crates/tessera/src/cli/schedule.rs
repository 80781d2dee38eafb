//! `tessera schedule …`: snapshots and backups of a guest, made again and again.

use api::{List, Name, Retention, Schedule, ScheduleAction, ScheduleDefinition, Time};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::cli::output::{Column, OutputOption, age, say};
use crate::client::{Client, HostOption, segment};
use crate::failure::{self, Failure, Result};

/// What can be done with schedules.
#[derive(Debug, Subcommand)]
#[command(after_help = failure::HOST_STATUS_HELP)]
pub enum ScheduleCommand {
    /// Show the schedules of a guest
    #[command(visible_alias = "list")]
    Ls {
        /// The guest's name or id
        vm: String,
        #[command(flatten)]
        output: OutputOption,
    },
    /// Show everything about a schedule
    Show {
        /// The guest's name or id
        vm: String,
        /// The schedule's name
        schedule: String,
        #[command(flatten)]
        output: OutputOption,
    },
    /// Have snapshots of a guest made again and again, or, with --backup, backups
    Create {
        /// The guest's name or id
        vm: String,
        /// The schedule's name
        name: Name,
        /// Make backups, in the pool that --pool names
        #[arg(long, requires = "pool")]
        backup: bool,
        /// The pool that backups are put into
        #[arg(long, value_name = "NAME", requires = "backup")]
        pool: Option<Name>,
        #[command(flatten)]
        how: How,
    },
    /// Change a schedule
    Edit {
        /// The guest's name or id
        vm: String,
        /// The schedule's name
        schedule: String,
        #[command(flatten)]
        how: How,
        /// Have it at work, or not
        #[arg(long, value_name = "true|false")]
        enabled: Option<bool>,
    },
    /// Have a schedule do nothing any more; what it has made stays
    #[command(visible_alias = "rm")]
    Delete {
        /// The guest's name or id
        vm: String,
        /// The schedule's name
        schedule: String,
    },
}

/// How often, and how much is kept.
#[derive(Debug, Args)]
pub struct How {
    /// How often: 15m, 1h, 1d; at multiples of that in UTC, so that 1d is midnight
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    every: Option<u32>,
    /// So much later than that: 2h with 1d is 02:00 UTC
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    offset: Option<u32>,
    /// Keep so many of the latest
    #[arg(long, value_name = "N")]
    keep: Option<u32>,
    /// Keep the latest of each of so many hours
    #[arg(long, value_name = "N")]
    keep_hourly: Option<u32>,
    /// Keep the latest of each of so many days
    #[arg(long, value_name = "N")]
    keep_daily: Option<u32>,
    /// Keep the latest of each of so many weeks
    #[arg(long, value_name = "N")]
    keep_weekly: Option<u32>,
    /// Keep the latest of each of so many months
    #[arg(long, value_name = "N")]
    keep_monthly: Option<u32>,
    /// Have the guest's agent make its file systems rest for each
    #[arg(long)]
    quiesce: bool,
    /// Make every so manieth backup a full one [default: 7]
    #[arg(long, value_name = "N")]
    full_every: Option<u32>,
}

/// Seconds, from a number with a unit.
fn seconds(text: &str) -> std::result::Result<u32, String> {
    let wrong = || format!("{text}: a number with s, m, h, d or w behind it");
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        "w" => 7 * 86400,
        _ => return Err(wrong()),
    };
    number.parse::<u32>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(wrong)
}

/// A time as people say it.
fn span(seconds: u32) -> String {
    let units = [(86400, "d"), (3600, "h"), (60, "m")];
    let whole = units.iter().find(|(unit, _)| seconds >= *unit && seconds.is_multiple_of(*unit));
    whole.map_or_else(|| format!("{seconds}s"), |(unit, name)| format!("{}{name}", seconds / unit))
}

fn kept(keep: &Retention) -> String {
    let rules = [
        (keep.last, "last"),
        (keep.hourly, "hourly"),
        (keep.daily, "daily"),
        (keep.weekly, "weekly"),
        (keep.monthly, "monthly"),
    ];
    let told = rules.iter().filter(|(count, _)| *count > 0).map(|(count, rule)| format!("{count} {rule}"));
    told.collect::<Vec<_>>().join(", ")
}

const COLUMNS: [Column<Schedule>; 7] = [
    Column::text("NAME", |one: &Schedule| one.definition.name.to_string()),
    Column::text("MAKES", |one: &Schedule| match (&one.definition.action, &one.definition.pool) {
        (ScheduleAction::Backup, Some(pool)) => format!("backups in {pool}"),
        _ => "snapshots".into(),
    }),
    Column::text("EVERY", |one: &Schedule| match one.definition.offset {
        0 => span(one.definition.every),
        offset => format!("{} + {}", span(one.definition.every), span(offset)),
    }),
    Column::text("KEEPS", |one: &Schedule| kept(&one.definition.keep)),
    Column::text("LAST", |one: &Schedule| one.last.map_or_else(|| "-".into(), age)),
    Column::text("NEXT IN", |one: &Schedule| match one.next {
        Some(next) => span(next.duration_since(Time::now()).as_secs().clamp(0, u32::MAX.into()) as u32),
        None => "off".into(),
    }),
    Column::text("STATE", |one: &Schedule| one.error.clone().unwrap_or_else(|| "good".into())),
];

impl How {
    /// What is said, as a merge patch.
    fn said(&self) -> Value {
        let mut keep = Map::new();
        let rules = [
            ("last", self.keep),
            ("hourly", self.keep_hourly),
            ("daily", self.keep_daily),
            ("weekly", self.keep_weekly),
            ("monthly", self.keep_monthly),
        ];
        for (rule, count) in rules {
            keep.extend(count.map(|count| (rule.to_owned(), json!(count))));
        }
        let mut said = Map::new();
        let fields = [("every", self.every), ("offset", self.offset), ("full_every", self.full_every)];
        for (field, value) in fields {
            said.extend(value.map(|value| (field.to_owned(), json!(value))));
        }
        if self.quiesce {
            said.insert("quiesce".into(), true.into());
        }
        if !keep.is_empty() {
            said.insert("keep".into(), keep.into());
        }
        said.into()
    }
}

fn path(vm: &str, schedule: Option<&str>) -> Result<String> {
    let all = format!("/vms/{}/schedules", segment(vm)?);
    schedule.map_or(Ok(all.clone()), |one| Ok(format!("{all}/{}", segment(one)?)))
}

impl ScheduleCommand {
    /// Does it.
    ///
    /// # Errors
    /// If the host refuses it, or cannot be reached.
    pub async fn execute(self, host: &HostOption) -> Result<()> {
        let client = host.client()?;
        match self {
            ScheduleCommand::Ls { vm, output } => {
                let all: List<Value> = client.get(&path(&vm, None)?, &[]).await?;
                output.list(&all.items, &COLUMNS)
            }
            ScheduleCommand::Show { vm, schedule, output } => {
                output.one(&client.get(&path(&vm, Some(&schedule))?, &[]).await?)
            }
            ScheduleCommand::Create { vm, name, backup, pool, how } => {
                create(&client, &vm, (name, backup, pool), &how).await
            }
            ScheduleCommand::Edit { vm, schedule, how, enabled } => {
                let mut said = how.said();
                if let Some(enabled) = enabled {
                    said["enabled"] = enabled.into();
                }
                let at = path(&vm, Some(&schedule))?;
                client.change::<Value>(Method::PATCH, &at, &[], Some(&said)).await?;
                say(&format!("{schedule} has been changed"));
                Ok(())
            }
            ScheduleCommand::Delete { vm, schedule } => {
                let at = path(&vm, Some(&schedule))?;
                client.change::<Value>(Method::DELETE, &at, &[], None).await?;
                say(&format!("{schedule} does nothing any more; what it has made stays"));
                Ok(())
            }
        }
    }
}

async fn create(
    client: &Client,
    vm: &str,
    (name, backup, pool): (Name, bool, Option<Name>),
    how: &How,
) -> Result<()> {
    if how.every.is_none() {
        return Err(Failure::input("--every: say how often, as 1h or 1d"));
    }
    let mut said = how.said();
    said["name"] = json!(name);
    said["action"] = json!(if backup { ScheduleAction::Backup } else { ScheduleAction::Snapshot });
    said["pool"] = json!(pool);
    if said["keep"].is_null() {
        return Err(Failure::input("--keep: say how many are kept, by that or by --keep-daily and the like"));
    }
    let definition: ScheduleDefinition =
        serde_json::from_value(said).map_err(|error| Failure::internal(error.to_string()))?;
    let made: Schedule = client.change(Method::POST, &path(vm, None)?, &[], Some(&json!(definition))).await?;
    let next = made.next.map_or_else(String::new, |next| format!(", the first at {next}"));
    say(&format!("{name} is at work: every {}{next}", span(made.definition.every)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_told_with_their_units() {
        for (text, wanted) in [("30s", 30), ("15m", 900), ("1h", 3600), ("2d", 172_800), ("1w", 604_800)] {
            assert_eq!(seconds(text), Ok(wanted));
        }
        assert_eq!((span(90).as_str(), span(900).as_str(), span(86400).as_str()), ("90s", "15m", "1d"));
        for text in ["", "h", "1", "1y", "-1h", "99999999w"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
