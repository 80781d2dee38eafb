//! `tessera alarm …`: what is bad on a host, and who hears of it.

use api::{Alarm, AlarmState, Name, Trigger};
use clap::{Args, Subcommand, ValueEnum};
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::cli::output::{Column, OutputOption, say};
use crate::cli::vm::{WaitOption, change, everything, query, read_json};
use crate::client::{HostOption, segment};
use crate::failure::{self, Failure, Result};

/// What can be done with alarms.
#[derive(Debug, Subcommand)]
#[command(after_help = failure::HOST_STATUS_HELP)]
pub enum AlarmCommand {
    /// Show the alarms there are, and where they stand
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        output: OutputOption,
        /// Only those that this fits: state=raised, severity=critical, with commas between
        #[arg(short, long, value_name = "TERMS")]
        filter: Option<String>,
    },
    /// Show everything about an alarm: what it watches, and what of that is not good
    Show {
        /// Its name
        alarm: String,
        #[command(flatten)]
        output: OutputOption,
    },
    /// Make an alarm: tessera alarm create full --metric pool.used --above 90 --clear 85 --for 60 -- /usr/bin/logger full
    Create(CreateArgs),
    /// Change an alarm; the rest stays
    Edit(EditArgs),
    /// Remove alarms; those that every host has can only be switched off: tessera alarm edit NAME --disable
    Delete {
        /// Their names
        #[arg(required = true, value_name = "ALARM")]
        alarms: Vec<String>,
    },
    /// Say that you know that alarms are raised
    #[command(visible_alias = "acknowledge")]
    Ack {
        /// Their names
        #[arg(required = true, value_name = "ALARM")]
        alarms: Vec<String>,
        /// Only what is raised for this guest, pool or other thing
        #[arg(long, value_name = "NAME")]
        target: Option<String>,
    },
    /// Do what an alarm does when it is raised, as a test
    Test {
        /// Its name
        alarm: String,
        #[command(flatten)]
        wait: WaitOption,
    },
}

/// How bad it is.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum SeverityOption {
    /// Good to know
    Info,
    /// Somebody should look at it
    Warning,
    /// Somebody has to do something now
    Critical,
}

/// What both a new and a changed alarm can be told.
#[derive(Debug, Args)]
struct Saying {
    /// What it is for, and what to do about it
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// How bad it is
    #[arg(long)]
    severity: Option<SeverityOption>,
    /// Raise it above this
    #[arg(long, value_name = "NUMBER", conflicts_with = "below")]
    above: Option<f64>,
    /// Raise it below this
    #[arg(long, value_name = "NUMBER")]
    below: Option<f64>,
    /// Clear it only when the number is not beyond this, so that one that wavers raises it once
    #[arg(long, value_name = "NUMBER")]
    clear: Option<f64>,
    /// Raise it when it was bad for so long
    #[arg(long = "for", value_name = "SECONDS")]
    hold: Option<u32>,
    /// Raise it when there are so many events
    #[arg(long, value_name = "N")]
    count: Option<u32>,
    /// Within so many seconds; it is cleared when there was none for as long
    #[arg(long, value_name = "SECONDS")]
    within: Option<u32>,
    /// Only guests that carry this label (may be repeated)
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Only this guest
    #[arg(long, value_name = "VM", conflicts_with = "labels")]
    vm: Option<String>,
    /// Only this pool
    #[arg(long, value_name = "POOL", conflicts_with_all = ["labels", "vm"])]
    pool: Option<Name>,
    /// Send it there as JSON when it is raised and when it is cleared (may be repeated)
    #[arg(long = "webhook", value_name = "URL")]
    webhooks: Vec<String>,
    /// How many seconds each action may take
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    timeout: u32,
    /// Run this program of the host when it is raised and when it is cleared: its path, and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Arguments of `tessera alarm create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Its name
    name: Name,
    /// What number it watches: pool.used, disk.room, host.memory, host.cpu (percent), agent.silent (seconds), expiry.days
    #[arg(long, value_name = "METRIC", required_unless_present = "event", conflicts_with_all = ["event", "how", "count", "within"])]
    metric: Option<String>,
    /// What kind of event it watches: vm.crashed
    #[arg(long, value_name = "KIND", conflicts_with_all = ["above", "below", "clear", "hold"])]
    event: Option<String>,
    /// Only events that happened so: panic, killed (may be repeated)
    #[arg(long, value_name = "HOW")]
    how: Vec<String>,
    #[command(flatten)]
    saying: Saying,
}

/// Arguments of `tessera alarm edit`.
#[derive(Debug, Args)]
pub struct EditArgs {
    /// Its name
    alarm: String,
    /// Have it watch
    #[arg(long, conflicts_with = "disable")]
    enable: bool,
    /// Have it watch nothing
    #[arg(long)]
    disable: bool,
    /// Have it do nothing any more
    #[arg(long, conflicts_with_all = ["webhooks", "command"])]
    no_actions: bool,
    /// A JSON merge patch of the definition, or @FILE with one
    #[arg(long, value_name = "JSON|@FILE")]
    patch: Option<String>,
    #[command(flatten)]
    saying: Saying,
}

const COLUMNS: [Column<Alarm>; 7] = [
    Column::text("NAME", |alarm: &Alarm| alarm.definition.name.to_string()),
    Column::text("SEVERITY", |alarm: &Alarm| alarm.definition.severity.word().to_owned()),
    Column::text("STATE", |alarm: &Alarm| alarm.status.state.word().to_owned()),
    Column::text("RAISED FOR", |alarm: &Alarm| {
        let raised = alarm.status.active.iter().filter(|one| one.state != AlarmState::Pending);
        let names: Vec<_> = raised.map(|one| one.name.as_str()).collect();
        match names.as_slice() {
            [] => "-".to_owned(),
            [first, second, third, rest @ ..] if !rest.is_empty() => {
                format!("{first}, {second}, {third} and {} more", rest.len())
            }
            names => names.join(", "),
        }
    }),
    Column::text("WHEN", |alarm: &Alarm| when(&alarm.definition.trigger)),
    Column::text("OF", |alarm: &Alarm| {
        let scope = &alarm.definition.scope;
        let labels = scope.labels.iter().map(|(key, value)| format!("{key}={value}"));
        let all: Vec<_> =
            labels.chain(scope.vm.clone()).chain(scope.pool.as_ref().map(Name::to_string)).collect();
        if all.is_empty() { "all".to_owned() } else { all.join(",") }
    })
    .wide(),
    Column::text("ACTIONS", |alarm: &Alarm| {
        let all: Vec<_> = alarm.definition.actions.iter().map(api::AlarmAction::short).collect();
        if all.is_empty() { "-".to_owned() } else { all.join(", ") }
    })
    .wide(),
];

/// When an alarm is raised, in a few words.
fn when(trigger: &Trigger) -> String {
    match trigger {
        Trigger::Metric(metric) => {
            let side = if metric.above.is_some() { "above" } else { "below" };
            let hold = if metric.hold == 0 { String::new() } else { format!(" for {}s", metric.hold) };
            format!("{} {side} {}{}{hold}", metric.of.word(), metric.threshold(), metric.of.unit())
        }
        Trigger::Event(event) => {
            let how =
                if event.how.is_empty() { String::new() } else { format!(" ({})", event.how.join(", ")) };
            format!("{}{how} {}x in {}s", event.kind, event.count, event.within)
        }
    }
}

impl AlarmCommand {
    /// Does it.
    pub async fn execute(self, host: &HostOption) -> Result<()> {
        let client = host.client()?;
        match self {
            AlarmCommand::Ls { output, filter } => {
                output.list(&everything(&client, "/alarms", &query(&[("filter", filter)])).await?, &COLUMNS)
            }
            AlarmCommand::Show { alarm, output } => {
                output.one(&client.get(&format!("/alarms/{}", segment(&alarm)?), &[]).await?)
            }
            AlarmCommand::Create(args) => {
                let _: Value = client.change(Method::POST, "/alarms", &[], Some(&args.body()?)).await?;
                say(&format!("{} has been made", args.name));
                Ok(())
            }
            AlarmCommand::Edit(args) => {
                let path = format!("/alarms/{}", segment(&args.alarm)?);
                let now: Value = client.get(&path, &[]).await?;
                let _: Value = client.change(Method::PATCH, &path, &[], Some(&args.body(&now)?)).await?;
                say(&format!("{} has been changed", args.alarm));
                Ok(())
            }
            AlarmCommand::Delete { alarms } => {
                for alarm in &alarms {
                    let path = format!("/alarms/{}", segment(alarm)?);
                    let () = client.change(Method::DELETE, &path, &[], None).await?;
                    say(&format!("{alarm} has been deleted"));
                }
                Ok(())
            }
            AlarmCommand::Ack { alarms, target } => {
                for alarm in &alarms {
                    let path = format!("/alarms/{}/acknowledge", segment(alarm)?);
                    let body = json!({ "target": target });
                    let _: Value = client.change(Method::POST, &path, &[], Some(&body)).await?;
                    say(&format!("{alarm} is acknowledged"));
                }
                Ok(())
            }
            AlarmCommand::Test { alarm, wait } => {
                let path = format!("/alarms/{}/test", segment(&alarm)?);
                let task = change(&client, Method::POST, &path, &[], None, wait).await?;
                if !task.state.is_final() {
                    say(&format!("task {}", task.id));
                }
                for result in task.result.as_array().into_iter().flatten() {
                    let word = |field: &str| result[field].as_str().unwrap_or_default().to_owned();
                    say(&format!("{}: {}", word("action"), word("message")));
                }
                Ok(())
            }
        }
    }
}

impl Saying {
    /// What of a trigger of this kind is said.
    fn trigger(&self, metric: bool) -> Result<Map<String, Value>> {
        let all = [
            (true, "above", json!(self.above)),
            (true, "below", json!(self.below)),
            (true, "clear", json!(self.clear)),
            (true, "for", json!(self.hold)),
            (false, "count", json!(self.count)),
            (false, "within", json!(self.within)),
        ];
        let said: Vec<_> = all.into_iter().filter(|(.., value)| !value.is_null()).collect();
        if let Some((_, name, _)) = said.iter().find(|(of_metric, ..)| *of_metric != metric) {
            let kind = if metric { "a number" } else { "events" };
            return Err(Failure::input(format!(
                "--{name}: the alarm watches {kind}, for which this means nothing"
            )));
        }
        Ok(said.into_iter().map(|(_, name, value)| (name.to_owned(), value)).collect())
    }

    /// What else is said.
    fn rest(&self) -> Result<Map<String, Value>> {
        let mut body = Map::new();
        let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
        if let Some(text) = &self.description {
            set("description", json!(text));
        }
        if let Some(severity) = self.severity.and_then(|severity| severity.to_possible_value()) {
            set("severity", json!(severity.get_name()));
        }
        let mut labels = Map::new();
        for label in &self.labels {
            let (key, value) = label
                .split_once('=')
                .ok_or_else(|| Failure::input(format!("--label {label}: write it as KEY=VALUE")))?;
            labels.insert(key.into(), value.into());
        }
        if !labels.is_empty() || self.vm.is_some() || self.pool.is_some() {
            set("scope", json!({ "labels": labels, "vm": self.vm, "pool": self.pool }));
        }
        let timeout = self.timeout;
        let webhooks = self.webhooks.iter().map(|url| json!({ "webhook": url, "timeout": timeout }));
        let command =
            (!self.command.is_empty()).then(|| json!({ "command": self.command, "timeout": timeout }));
        let actions: Vec<_> = webhooks.chain(command).collect();
        if !actions.is_empty() {
            set("actions", json!(actions));
        }
        Ok(body)
    }
}

impl CreateArgs {
    fn body(&self) -> Result<Value> {
        let mut trigger = self.saying.trigger(self.metric.is_some())?;
        let kind = match &self.metric {
            Some(metric) => {
                trigger.insert("of".into(), json!(metric));
                "metric"
            }
            None => {
                trigger.insert("kind".into(), json!(self.event));
                trigger.insert("how".into(), json!(self.how));
                "event"
            }
        };
        let mut body = self.saying.rest()?;
        body.insert("name".into(), json!(self.name));
        body.insert("trigger".into(), json!({ kind: trigger }));
        Ok(Value::Object(body))
    }
}

impl EditArgs {
    /// The patch of the alarm that is so `now`.
    fn body(&self, now: &Value) -> Result<Value> {
        let mut body = match &self.patch {
            Some(text) => match read_json("--patch", text)? {
                Value::Object(patch) => patch,
                _ => return Err(Failure::input("--patch: it has to be a JSON object")),
            },
            None => Map::new(),
        };
        let metric = now["trigger"].get("metric").is_some();
        let mut trigger = self.saying.trigger(metric)?;
        // The one takes the place of the other.
        for (one, other) in [("above", "below"), ("below", "above")] {
            if trigger.contains_key(one) {
                trigger.insert(other.into(), Value::Null);
            }
        }
        if !trigger.is_empty() {
            body.insert("trigger".into(), json!({ if metric { "metric" } else { "event" }: trigger }));
        }
        body.extend(self.saying.rest()?);
        let labels = body.get_mut("scope").and_then(|scope| scope.get_mut("labels"));
        if let Some(labels) = labels.and_then(Value::as_object_mut) {
            // A patch keeps what it does not name: labels that are not to be there any more are taken out.
            for key in now["scope"]["labels"].as_object().into_iter().flat_map(Map::keys) {
                labels.entry(key.clone()).or_insert(Value::Null);
            }
        }
        if self.no_actions {
            body.insert("actions".into(), json!([]));
        }
        if self.enable || self.disable {
            body.insert("enabled".into(), self.enable.into());
        }
        if body.is_empty() {
            return Err(Failure::input("nothing to change: tessera alarm edit --help tells what can be"));
        }
        Ok(Value::Object(body))
    }
}
