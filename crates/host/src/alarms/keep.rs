//! Looks at what alarms watch, again and again, and follows what happens.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use api::{Event, Metric, Name, Time, Trigger};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep, sleep_until};

use super::guests::Guests;
use super::notice::What;
use super::readings::{Observer, Reading, pace};
use super::standing::{Counted, Standing, Turn, look};
use super::{Alarms, Book, Rule, Turns, words};
use crate::daemon::Host;
use crate::store::{Revision, StoreError, Update, Watch};
use crate::{events, records};

/// How often what events have raised is looked at: whether it has been quiet for long enough.
const QUIET: Duration = Duration::from_secs(5);
/// How long to wait when the store cannot be read.
const PAUSE: Duration = Duration::from_secs(5);

/// Keeps the alarms of a host. Never returns.
pub async fn keep(host: Arc<Host>) {
    let (supervisor, certificates) = (Arc::clone(&host.supervisor), Arc::clone(&host.certificates));
    let alarms = &host.alarms;
    let observer = Observer::new(supervisor, host.access.clone(), certificates, alarms.host.name.clone());
    if let Err(error) = alarms.outbox.recover().await {
        tracing::error!("what alarms had still to do cannot be read: {error}");
    }
    let mut keeper = Keeper { alarms, observer, seen: 0 };
    loop {
        if let Err(error) = keeper.follow().await {
            tracing::error!("alarms: {error}");
            sleep(PAUSE).await;
        }
    }
}

struct Keeper<'a> {
    alarms: &'a Alarms,
    observer: Observer,
    /// The last event that was counted.
    seen: Revision,
}

impl Keeper<'_> {
    /// Looks and follows until the store tells more than can be followed.
    async fn follow(&mut self) -> Result<(), StoreError> {
        let (records, revision) = records::list(&*self.alarms.store).await?;
        let mut watch = self.alarms.store.watch(revision).await?;
        self.alarms.book().await.guests = Guests::new(records);
        self.take(&std::mem::take(&mut watch.missed)).await?;
        // Those that no daemon has counted yet, and those that this one has not.
        let (events, _) = events::since(&*self.alarms.store, self.seen).await?;
        self.count(events).await?;
        self.run(watch).await
    }

    async fn run(&mut self, mut watch: Watch) -> Result<(), StoreError> {
        let mut quiet = Instant::now();
        loop {
            let due = self.next().await.min(quiet);
            tokio::select! {
                commit = watch.live.recv() => match commit {
                    Ok(commit) => {
                        self.take(&commit).await?;
                        let happened = commit.iter().filter(|update| update.key.starts_with(events::PREFIX));
                        let read = |update: &Update| events::read(update.revision, update.value.as_deref()?).ok();
                        self.count(happened.filter_map(read).collect()).await?;
                    }
                    Err(RecvError::Lagged(_)) => return Ok(()),
                    Err(RecvError::Closed) => return Err(StoreError::Closed),
                },
                () = self.alarms.changed.notified() => {}
                () = sleep_until(due) => {
                    if Instant::now() >= quiet {
                        quiet = Instant::now() + QUIET;
                        self.look_for_quiet().await?;
                    }
                    self.look().await?;
                }
            }
        }
    }

    /// When a number is to be looked at.
    async fn next(&self) -> Instant {
        let book = self.alarms.book().await;
        let watching = book.rules.values().filter(|rule| metric(rule).is_some());
        watching.map(|rule| rule.due).min().unwrap_or_else(|| Instant::now() + QUIET)
    }

    async fn take(&self, updates: &[Update]) -> Result<(), StoreError> {
        if updates.iter().any(|update| update.key.starts_with(records::PREFIX)) {
            let mut book = self.alarms.book().await;
            updates.iter().for_each(|update| book.guests.follow(update));
        }
        Ok(())
    }

    /// Looks at all numbers whose time has come.
    async fn look(&mut self) -> Result<(), StoreError> {
        let now = Instant::now();
        let mut wanted: BTreeMap<Metric, HashSet<String>> = BTreeMap::new();
        let mut due = Vec::new();
        let mut book = self.alarms.book().await;
        for (name, rule) in book.rules.iter_mut().filter(|(_, rule)| rule.due <= now) {
            let Some(trigger) = metric(rule) else { continue };
            let (of, pace) = (trigger.of, pace(trigger.of, trigger.hold.max(hold_of(trigger))));
            rule.due = now + pace;
            wanted.entry(of).or_default().extend(rule.standings.keys().cloned());
            due.push((name.clone(), of));
        }
        let mut seen = BTreeMap::new();
        for (of, known) in wanted {
            if let Some(readings) = self.observer.read(of, &book.guests, &known).await {
                seen.insert(of, readings);
            }
        }
        let mut turns = Turns::new();
        let mut after = Vec::new();
        for (name, of) in due {
            if let Some(readings) = seen.get(&of) {
                after.extend(self.judge(&book, &name, readings, &mut turns)?);
            }
        }
        self.settle(&mut book, turns, after).await
    }

    /// What one alarm makes of what was seen.
    fn judge(
        &self,
        book: &Book,
        name: &Name,
        readings: &[Reading],
        turns: &mut Turns,
    ) -> Result<Vec<After>, StoreError> {
        let Some(rule) = book.rules.get(name) else { return Ok(Vec::new()) };
        let (Some(trigger), now) = (metric(rule), Time::now()) else { return Ok(Vec::new()) };
        let scope = &rule.definition().scope;
        let mut after = Vec::new();
        let mut there = HashSet::new();
        for reading in readings.iter().filter(|reading| book.guests.fits(scope, &reading.target)) {
            there.insert(reading.target.as_str());
            let before = rule.standings.get(&reading.target);
            // Most is good, and stays so.
            if before.is_none() && !reading.value.is_some_and(|value| trigger.is_bad(value)) {
                continue;
            }
            let mut standing = before.cloned();
            let turn = look(trigger, &mut standing, &reading.name, reading.value, now);
            let value = reading.value.unwrap_or_default();
            self.turn(turns, rule, &reading.target, (before, standing.as_ref()), turn, value)?;
            after.push((name.clone(), reading.target.clone(), standing));
        }
        for (target, before) in rule.standings.iter().filter(|(target, _)| !there.contains(target.as_str())) {
            self.gone(turns, rule, target, before)?;
            after.push((name.clone(), target.clone(), None));
        }
        Ok(after)
    }

    /// Records a turn, if there was one.
    fn turn(
        &self,
        turns: &mut Turns,
        rule: &Rule,
        target: &str,
        (before, after): (Option<&Standing>, Option<&Standing>),
        turn: Turn,
        value: f64,
    ) -> Result<(), StoreError> {
        let definition = rule.definition();
        match (turn, before, after) {
            (Turn::Raised, _, Some(standing)) => {
                let message = words(&definition.trigger, value);
                turns.add(&self.alarms.host, definition, target, standing, What::Raised, message)
            }
            (Turn::Cleared, Some(before), _) => {
                let message = match &definition.trigger {
                    Trigger::Metric(metric) => {
                        format!("{} is {} {}", metric.of.word(), super::rounded(value), metric.of.unit())
                    }
                    Trigger::Event(event) => format!("no {} for {} s", event.kind, event.within),
                };
                let cleared = Standing { value, ..before.clone() };
                turns.add(&self.alarms.host, definition, target, &cleared, What::Cleared, message)
            }
            _ => Ok(()),
        }
    }

    /// What was not good is there no more, or not watched any more.
    fn gone(
        &self,
        turns: &mut Turns,
        rule: &Rule,
        target: &str,
        before: &Standing,
    ) -> Result<(), StoreError> {
        if before.raised.is_none() {
            return Ok(());
        }
        let message = "it is not there any more, or not watched".to_owned();
        turns.add(&self.alarms.host, rule.definition(), target, before, What::Cleared, message)
    }

    /// Makes it so: in the store first, then in the book.
    async fn settle(&self, book: &mut Book, turns: Turns, after: Vec<After>) -> Result<(), StoreError> {
        self.alarms.commit(turns).await?;
        for (name, target, standing) in after {
            let Some(rule) = book.rules.get_mut(&name) else { continue };
            match standing {
                Some(standing) => drop(rule.standings.insert(target, standing)),
                None => drop(rule.standings.remove(&target)),
            }
        }
        Ok(())
    }

    /// Counts events, and raises what they raise.
    async fn count(&mut self, happened: Vec<Event>) -> Result<(), StoreError> {
        let fresh: Vec<_> = happened.into_iter().filter(|event| event.number > self.seen).collect();
        let Some(last) = fresh.iter().map(|event| event.number).max() else { return Ok(()) };
        let mut guard = self.alarms.book().await;
        let book = &mut *guard;
        let mut touched = HashSet::new();
        for (name, rule) in &mut book.rules {
            let definition = &rule.kept.definition;
            let Trigger::Event(trigger) = &definition.trigger else { continue };
            if !definition.enabled {
                continue;
            }
            let counts = |event: &&Event| {
                event.time >= rule.kept.armed
                    && trigger.fits(event)
                    && book.guests.fits(&definition.scope, &event.target)
            };
            for event in fresh.iter().filter(counts) {
                let counted = rule.counted.entry(event.target.clone()).or_default();
                counted.add(event.time, trigger.count);
                touched.insert((name.clone(), event.target.clone(), event.name.clone()));
            }
        }
        // They are counted: what cannot be recorded now is when it is looked at again.
        self.seen = last;
        if touched.is_empty() { Ok(()) } else { self.judge_events(book, touched).await }
    }

    /// Whether it has been quiet for long enough where events have raised something.
    async fn look_for_quiet(&self) -> Result<(), StoreError> {
        let mut book = self.alarms.book().await;
        let mut standing = HashSet::new();
        for (name, rule) in book.rules.iter().filter(|(_, rule)| metric(rule).is_none()) {
            let named = rule.standings.iter().map(|(target, of)| (target.clone(), of.name.clone()));
            let counted = rule.counted.keys().map(|target| (target.clone(), String::new()));
            let targets = counted.filter(|(target, _)| !rule.standings.contains_key(target)).chain(named);
            standing.extend(targets.map(|(target, of)| (name.clone(), target, of)));
        }
        if standing.is_empty() {
            return Ok(());
        }
        self.judge_events(&mut book, standing).await
    }

    /// What alarms make of the events that were counted for these targets.
    async fn judge_events(
        &self,
        book: &mut Book,
        targets: HashSet<(Name, String, String)>,
    ) -> Result<(), StoreError> {
        let (mut turns, mut after) = (Turns::new(), Vec::new());
        let now = Time::now();
        for (name, target, called) in targets {
            let Some(rule) = book.rules.get_mut(&name) else { continue };
            let Trigger::Event(trigger) = rule.kept.definition.trigger.clone() else { continue };
            let before = rule.standings.get(&target).cloned();
            if !book.guests.fits(&rule.kept.definition.scope, &target) {
                rule.counted.remove(&target);
                if let Some(before) = &before {
                    self.gone(&mut turns, rule, &target, before)?;
                    after.push((name, target, None));
                }
                continue;
            }
            let mut counted = rule.counted.remove(&target).unwrap_or_else(Counted::default);
            let mut standing = before.clone();
            let turn = counted.look(&trigger, &mut standing, &called, now);
            if !counted.is_empty() {
                rule.counted.insert(target.clone(), counted);
            }
            let value = standing.as_ref().map_or(0.0, |standing| standing.value);
            self.turn(&mut turns, rule, &target, (before.as_ref(), standing.as_ref()), turn, value)?;
            after.push((name, target, standing));
        }
        self.settle(book, turns, after).await
    }
}

/// What becomes of a standing: the alarm, the target and where it stands then.
type After = (Name, String, Option<Standing>);

/// What an alarm that watches a number is raised by.
fn metric(rule: &Rule) -> Option<&api::MetricTrigger> {
    match &rule.definition().trigger {
        Trigger::Metric(metric) if rule.definition().enabled => Some(metric),
        _ => None,
    }
}

/// A number that itself counts seconds is looked at twice in as many as are too many.
fn hold_of(trigger: &api::MetricTrigger) -> u32 {
    match trigger.of {
        Metric::AgentSilent => (trigger.threshold() * 2.0) as u32,
        _ => 0,
    }
}
