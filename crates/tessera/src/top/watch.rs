//! What the host tells: its stream, followed until nobody listens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::{HostStats, Id, Stats, Task, Verb, Vm};
use reqwest::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::usage::{HostUsage, Usage};
use crate::client::Client;
use crate::failure::{Failure, Result};

/// How long a host that does not answer is left alone.
const PATIENCE: Duration = Duration::from_secs(1);

/// Something that the host tells, or that becomes of what it was asked.
#[derive(Debug)]
pub enum News {
    /// The stream begins: what was told before is forgotten.
    Begins,
    /// The stream has ended, for this reason. It is begun again.
    Lost(Failure),
    /// A guest, as it is now.
    Vm(Box<Vm>),
    /// A guest is gone.
    Gone(Id),
    /// A task, as it is now.
    Task(Box<Task>),
    /// What all guests use.
    Stats(Box<HostStats>),
    /// What the person asked for has ended.
    Done {
        /// What it was, for a person.
        what: String,
        /// Why it could not be done.
        problem: Option<String>,
    },
}

#[derive(Deserialize)]
struct Gone {
    id: Id,
}

fn read<T: DeserializeOwned>(data: &str) -> Result<T> {
    serde_json::from_str(data).map_err(|error| Failure::internal(format!("the host's answer: {error}")))
}

fn news(kind: &str, data: &str) -> Result<Option<News>> {
    Ok(match kind {
        "vm" => Some(News::Vm(Box::new(read(data)?))),
        "vm-gone" => Some(News::Gone(read::<Gone>(data)?.id)),
        "task" => Some(News::Task(Box::new(read(data)?))),
        "stats" => Some(News::Stats(Box::new(read(data)?))),
        _ => None,
    })
}

/// Tells what the host tells, with statistics each `interval` seconds, until nobody listens. A stream that ends is begun again.
pub async fn follow(client: Arc<Client>, interval: u64, out: mpsc::UnboundedSender<News>) {
    let path = format!("/watch?stats={interval}");
    while !out.is_closed() {
        let mut begun = false;
        let heard = client.stream(&path, &[], |kind, data| {
            if !std::mem::replace(&mut begun, true) && out.send(News::Begins).is_err() {
                return Ok(false);
            }
            Ok(news(kind, data)?.is_none_or(|news| out.send(news).is_ok()))
        });
        if let Err(failure) = heard.await {
            // Whoever does not listen does not want to know.
            let _ = out.send(News::Lost(failure));
        }
        tokio::time::sleep(PATIENCE).await;
    }
}

/// Does a verb with a guest, and tells what became of it.
pub async fn act(client: Arc<Client>, id: Id, name: String, verb: Verb, out: mpsc::UnboundedSender<News>) {
    let path = format!("/vms/{id}/{}", verb.word());
    let asked = client.change::<Task>(Method::POST, &path, &[], None).await;
    let done = match asked {
        Ok(task) => client.settle(task).await,
        Err(failure) => Err(failure),
    };
    let problem = done.err().map(|failure| failure.to_string());
    // Whoever does not listen does not want to know.
    let _ = out.send(News::Done { what: format!("{} {name}", verb.word()), problem });
}

/// What is known of the host.
#[derive(Debug, Default)]
pub struct Known {
    vms: BTreeMap<Id, Vm>,
    tasks: BTreeMap<Id, Task>,
    before: Option<HostStats>,
    now: Option<HostStats>,
}

impl Known {
    /// Learns what the host tells.
    pub fn learn(&mut self, news: &News) {
        match news {
            News::Begins => *self = Known::default(),
            News::Vm(vm) => drop(self.vms.insert(vm.id, (**vm).clone())),
            News::Gone(id) => drop(self.vms.remove(id)),
            News::Task(task) if task.state.is_final() => drop(self.tasks.remove(&task.id)),
            News::Task(task) => drop(self.tasks.insert(task.id, (**task).clone())),
            News::Stats(stats) => self.before = self.now.replace((**stats).clone()),
            News::Lost(_) | News::Done { .. } => {}
        }
    }

    /// A guest.
    pub fn vm(&self, id: Id) -> Option<&Vm> {
        self.vms.get(&id)
    }

    /// How many tasks go on.
    pub fn tasks(&self) -> usize {
        self.tasks.len()
    }

    /// What the host uses, once it has been looked at twice.
    pub fn host(&self) -> Option<HostUsage> {
        let looks = self.before.as_ref().zip(self.now.as_ref());
        looks.map(|(before, now)| HostUsage::between(before, now, self.vms.values()))
    }

    /// What the guests use that fit the filter: those whose name, state or labels contain all its words.
    pub fn guests(&self, filter: &str) -> Vec<Usage> {
        let words: Vec<_> = filter.split_whitespace().map(str::to_lowercase).collect();
        let looks = |stats: &Option<HostStats>| -> BTreeMap<Id, Stats> {
            let vms = stats.iter().flat_map(|stats| &stats.vms);
            vms.map(|vm| (vm.id, vm.stats.clone())).collect()
        };
        let (before, now) = (looks(&self.before), looks(&self.now));
        let shown = self.vms.values().filter(|vm| words.iter().all(|word| has(vm, word)));
        shown.map(|vm| Usage::of(vm, before.get(&vm.id).zip(now.get(&vm.id)))).collect()
    }
}

fn has(vm: &Vm, word: &str) -> bool {
    let labels = || vm.definition.labels.iter().map(|(key, value)| format!("{key}={value}").to_lowercase());
    vm.definition.name.as_str().contains(word)
        || vm.status.state.word().contains(word)
        || labels().any(|label| label.contains(word))
}
