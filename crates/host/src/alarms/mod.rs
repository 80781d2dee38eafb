//! Alarms: rules that say what is bad, and where they stand. What is raised, and who knows of it, is in the store: a daemon that starts
//! again raises nothing twice. What is bad and not for long enough is known to this run of the daemon only.
//!
//! [`standing`] decides, [`readings`] looks, [`keep`] has the one look at what the other says, [`outbox`] tells people.

mod built_in;
mod guests;
mod keep;
mod notice;
mod outbox;
mod readings;
mod rules;
mod standing;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::{AlarmDefinition, Name, Time, Trigger};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::{Mutex, MutexGuard, Notify};
use tokio::time::Instant;

use crate::events::Happening;
use crate::store::{Revision, Store, StoreError, Transaction};
use guests::Guests;
use notice::{Notice, Teller, What};
use outbox::{Due, Outbox};
use standing::{Counted, Standing};

pub use keep::keep;

/// Where alarms are in the store.
const RULES: &str = "alarm/";
/// Where what is raised is in the store: by alarm and target.
const STANDINGS: &str = "alarm-standing/";

fn key(name: &Name) -> String {
    format!("{RULES}{name}")
}

fn standing_key(name: &Name, target: &str) -> String {
    format!("{STANDINGS}{name}{target}")
}

/// Where the API has an alarm.
pub fn path(name: &Name) -> String {
    format!("/api/v1/alarms/{name}")
}

/// What the store has of an alarm.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    definition: AlarmDefinition,
    created: Time,
    /// Events before this do not count: it watched nothing then, or something else.
    armed: Time,
}

struct Rule {
    kept: Kept,
    revision: Revision,
    /// When it is looked at next.
    due: Instant,
    /// Where it stands, by target.
    standings: BTreeMap<String, Standing>,
    /// The events that count, by target.
    counted: HashMap<String, Counted>,
}

/// All that is known of alarms.
struct Book {
    rules: BTreeMap<Name, Rule>,
    guests: Guests,
}

/// The alarms of a host.
pub struct Alarms {
    store: Arc<dyn Store>,
    host: Teller,
    outbox: Outbox,
    book: Mutex<Book>,
    /// A rule has changed: it is looked at now.
    changed: Notify,
}

/// What follows from looks, to be made durable at once.
struct Turns {
    transaction: Transaction,
    due: Vec<(api::Id, Due)>,
    any: bool,
}

impl Rule {
    fn new(kept: Kept, revision: Revision) -> Self {
        Self { kept, revision, due: Instant::now(), standings: BTreeMap::new(), counted: HashMap::new() }
    }

    fn definition(&self) -> &AlarmDefinition {
        &self.kept.definition
    }
}

/// A number as people read it.
fn rounded(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// What a standing means, in words.
fn words(trigger: &Trigger, value: f64) -> String {
    match trigger {
        Trigger::Metric(metric) => {
            let (unit, side) = (metric.of.unit(), if metric.above.is_some() { "above" } else { "below" });
            let threshold = rounded(metric.threshold());
            format!("{} is {} {unit}, {side} {threshold} {unit}", metric.of.word(), rounded(value))
        }
        Trigger::Event(event) => {
            let how =
                if event.how.is_empty() { String::new() } else { format!(" ({})", event.how.join(", ")) };
            format!("{}{how}: {} within {} s", event.kind, rounded(value), event.within)
        }
    }
}

impl Turns {
    fn new() -> Self {
        Self { transaction: Transaction::new(), due: Vec::new(), any: false }
    }

    /// An alarm is raised or cleared: it is to be so in the store, told in an event, and by the alarm's actions.
    fn add(
        &mut self,
        host: &Teller,
        definition: &AlarmDefinition,
        target: &str,
        standing: &Standing,
        what: What,
        message: String,
    ) -> Result<(), StoreError> {
        self.any = true;
        let key = standing_key(&definition.name, target);
        let raised = what == What::Raised;
        let mut transaction = std::mem::take(&mut self.transaction);
        transaction = if raised { transaction.put(key, standing)? } else { transaction.delete(key) };
        let kind = if raised { "alarm.raised" } else { "alarm.cleared" };
        let details =
            json!({ "alarm": definition.name, "severity": definition.severity, "value": standing.value });
        let happening = Happening::new(kind, format!("{}: {message}", definition.name));
        transaction = happening.to(target, standing.name.as_str()).with(details).add(transaction)?;
        let notice = notice(host, definition, target, standing, what, message);
        for action in &definition.actions {
            let due = Due::new(notice.clone(), action.clone());
            let (id, more) = outbox::put(&due, transaction)?;
            transaction = more;
            self.due.push((id, due));
        }
        self.transaction = transaction;
        Ok(())
    }
}

fn notice(
    host: &Teller,
    definition: &AlarmDefinition,
    target: &str,
    standing: &Standing,
    state: What,
    message: String,
) -> Notice {
    let (threshold, unit) = match &definition.trigger {
        Trigger::Metric(metric) => (metric.threshold(), metric.of.unit()),
        Trigger::Event(event) => (event.count.into(), ""),
    };
    Notice {
        id: api::Id::new(),
        time: Time::now(),
        state,
        alarm: definition.name.clone(),
        severity: definition.severity,
        description: definition.description.clone(),
        target: target.into(),
        name: standing.name.clone(),
        value: standing.value,
        threshold,
        unit: unit.into(),
        message,
        since: standing.since,
        host: host.clone(),
    }
}

impl Alarms {
    /// The alarms in `store`, of the host `id`; those that every host has are made if they are not there.
    ///
    /// # Errors
    /// If the store cannot be read or written.
    pub async fn open(store: Arc<dyn Store>, id: api::Id, name: String) -> Result<Self, StoreError> {
        let (entries, _) = store.list(RULES).await?;
        let mut rules = BTreeMap::new();
        for entry in entries {
            let kept: Kept = serde_json::from_slice(&entry.value)?;
            rules.insert(kept.definition.name.clone(), Rule::new(kept, entry.revision));
        }
        for definition in built_in::all().unwrap_or_default() {
            if !rules.contains_key(&definition.name) {
                let (now, name) = (Time::now(), definition.name.clone());
                let kept = Kept { definition, created: now, armed: now };
                let revision = store.commit(Transaction::new().put(key(&name), &kept)?).await?;
                rules.insert(name, Rule::new(kept, revision));
            }
        }
        let (entries, _) = store.list(STANDINGS).await?;
        for entry in entries {
            let rest = entry.key.strip_prefix(STANDINGS).unwrap_or_default();
            let Some((name, _)) = rest.split_once('/') else { continue };
            let rule = name.parse::<Name>().ok().and_then(|name| rules.get_mut(&name));
            if let Some(rule) = rule {
                let target = rest[name.len()..].to_owned();
                rule.standings.insert(target, serde_json::from_slice(&entry.value)?);
            }
        }
        let book = Mutex::new(Book { rules, guests: Guests::default() });
        let outbox = Outbox::new(Arc::clone(&store));
        Ok(Self { store, host: Teller { id, name }, outbox, book, changed: Notify::new() })
    }

    async fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().await
    }

    /// Makes durable what follows from looks, and begins to tell it.
    async fn commit(&self, turns: Turns) -> Result<(), StoreError> {
        if turns.any {
            self.store.commit(turns.transaction).await?;
            for (id, due) in turns.due {
                self.outbox.begin(id, due);
            }
        }
        Ok(())
    }
}
