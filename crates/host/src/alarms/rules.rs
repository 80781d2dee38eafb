//! What people do with alarms: they make, change, look at and acknowledge them.

use std::collections::BTreeMap;

use api::{
    Acknowledgement, ActionResult, ActiveAlarm, Alarm, AlarmDefinition, AlarmState, AlarmStatus, Name,
    Problem, Time, Watched,
};
use serde_json::json;

use super::notice::{What, tell};
use super::standing::Standing;
use super::{Alarms, Book, Kept, Rule, built_in, key, notice, path, standing_key, words};
use crate::access::Identity;
use crate::events::Happening;
use crate::store::{Revision, StoreError, Transaction};
use crate::supervisor::store_problem;

fn no_alarm(name: &str) -> Problem {
    let shown: String = name.chars().take(80).collect();
    Problem::not_found(format!("there is no alarm {shown}"))
}

fn happening(kind: &str, message: &str, name: &Name, actor: &str) -> Happening {
    Happening::new(kind, message).to(path(name), name.as_str()).by(actor)
}

/// Whether somebody may know of what is at `target`: all, but for those who are bound to labels.
fn sees(book: &Book, identity: &Identity, target: &str) -> bool {
    let guest = || book.guests.at(target).and_then(|(_, guest)| guest);
    !identity.is_bound() || guest().is_some_and(|guest| identity.sees_labels(&guest.labels))
}

/// Whether an alarm is about something that somebody may know of: for those who are bound to labels, guests that may carry these.
fn concerns(book: &Book, identity: &Identity, definition: &AlarmDefinition) -> bool {
    if !identity.is_bound() {
        return true;
    }
    let scope = &definition.scope;
    let others = |(key, value)| scope.labels.get(key).is_some_and(|wanted| wanted != value);
    definition.trigger.watched() == Watched::Vm
        && !identity.labels.iter().any(others)
        && scope.vm.as_ref().is_none_or(|vm| sees(book, identity, &format!("/api/v1/vms/{vm}")))
}

/// An alarm as somebody sees it.
fn shown(book: &Book, identity: &Identity, rule: &Rule) -> Alarm {
    let mut definition = rule.definition().clone();
    if identity.is_bound() || identity.role < api::Role::Admin {
        definition.actions.clear();
    }
    let seen = rule.standings.iter().filter(|(target, _)| sees(book, identity, target));
    let mut active: Vec<_> = seen
        .map(|(target, standing)| ActiveAlarm {
            target: target.clone(),
            name: standing.name.clone(),
            state: standing.state(),
            value: standing.value,
            message: words(&definition.trigger, standing.value),
            since: standing.since,
            raised: standing.raised,
            acknowledged: standing.acknowledged.clone(),
        })
        .collect();
    active.sort_by_key(|one| one.since);
    let worst = active.iter().map(|one| one.state).max().unwrap_or(AlarmState::Ok);
    let state = if definition.enabled { worst } else { AlarmState::Off };
    Alarm {
        built_in: built_in::is(&definition.name),
        created: rule.kept.created,
        status: AlarmStatus { state, active },
        definition,
    }
}

impl Book {
    fn find(&self, name: &str) -> Option<&Rule> {
        name.parse::<Name>().ok().and_then(|name| self.rules.get(&name))
    }

    fn seen(&self, name: &str, identity: &Identity) -> Result<&Rule, Problem> {
        let found = self.find(name).filter(|rule| concerns(self, identity, rule.definition()));
        found.ok_or_else(|| no_alarm(name))
    }
}

impl Alarms {
    /// All alarms that concern somebody, by name.
    pub async fn list(&self, identity: &Identity) -> Vec<Alarm> {
        let book = self.book().await;
        let concerning = book.rules.values().filter(|rule| concerns(&book, identity, rule.definition()));
        concerning.map(|rule| shown(&book, identity, rule)).collect()
    }

    /// One, and the revision that its definition is of.
    ///
    /// # Errors
    /// If there is none, or it does not concern them.
    pub async fn get(&self, name: &str, identity: &Identity) -> Result<(Alarm, Revision), Problem> {
        let book = self.book().await;
        let rule = book.seen(name, identity)?;
        Ok((shown(&book, identity, rule), rule.revision))
    }

    /// Makes an alarm.
    ///
    /// # Errors
    /// If there is one of this name, or the store fails.
    pub async fn create(&self, definition: AlarmDefinition, identity: &Identity) -> Result<Alarm, Problem> {
        let name = definition.name.clone();
        let now = Time::now();
        let kept = Kept { definition, created: now, armed: now };
        let mut book = self.book().await;
        let happening = happening("alarm.created", "was made", &name, &identity.actor);
        let transaction = Transaction::new().expect_none(key(&name)).put(key(&name), &kept);
        let transaction = transaction.and_then(|all| happening.add(all)).map_err(store_problem)?;
        let revision = match self.store.commit(transaction).await {
            Ok(revision) => revision,
            Err(StoreError::Conflict { .. }) => {
                let detail = format!("there is an alarm called {name} already: give it another name");
                return Err(Problem::conflict_of(api::Invalid::new("/name", name.as_str(), detail)));
            }
            Err(error) => return Err(store_problem(error)),
        };
        let rule = Rule::new(kept, revision);
        let made = shown(&book, identity, &rule);
        book.rules.insert(name, rule);
        self.changed.notify_one();
        Ok(made)
    }

    /// Makes an alarm what `definition` says, if it is still of revision `expect`. What is raised stays so until the next look, but for one
    /// that is switched off.
    ///
    /// # Errors
    /// If there is none, it has changed, or the store fails.
    pub async fn edit(
        &self,
        definition: AlarmDefinition,
        expect: Revision,
        identity: &Identity,
    ) -> Result<Alarm, Problem> {
        let name = definition.name.clone();
        let mut guard = self.book().await;
        let book = &mut *guard;
        let rule = book.rules.get_mut(&name).ok_or_else(|| no_alarm(name.as_str()))?;
        let before = &rule.kept.definition;
        let anew = (&before.trigger, before.enabled) != (&definition.trigger, definition.enabled);
        let armed = if anew { Time::now() } else { rule.kept.armed };
        let kept = Kept { definition, created: rule.kept.created, armed };
        let happening = happening("alarm.edited", "was edited", &name, &identity.actor);
        let transaction = Transaction::new().expect(key(&name), expect).put(key(&name), &kept);
        let mut transaction = transaction.and_then(|all| happening.add(all)).map_err(store_problem)?;
        if !kept.definition.enabled {
            transaction =
                forget(&name, &rule.standings, transaction, "was switched off").map_err(store_problem)?;
        }
        rule.revision = self.store.commit(transaction).await.map_err(store_problem)?;
        if !kept.definition.enabled {
            rule.standings.clear();
        }
        if anew {
            rule.counted.clear();
        }
        rule.kept = kept;
        rule.due = tokio::time::Instant::now();
        self.changed.notify_one();
        Ok(shown(&guard, identity, guard.seen(name.as_str(), identity)?))
    }

    /// Removes an alarm.
    ///
    /// # Errors
    /// If there is none, it is one that every host has, or the store fails.
    pub async fn delete(&self, name: &str, identity: &Identity) -> Result<(), Problem> {
        let mut book = self.book().await;
        let rule = book.find(name).ok_or_else(|| no_alarm(name))?;
        let name = rule.definition().name.clone();
        if built_in::is(&name) {
            let detail = format!(
                "every host has the alarm {name}: switch it off if it is not wanted (enabled: false)"
            );
            return Err(Problem::conflict(detail));
        }
        let happening = happening("alarm.deleted", "was deleted", &name, &identity.actor);
        let transaction = happening.add(Transaction::new().delete(key(&name))).map_err(store_problem)?;
        let transaction =
            forget(&name, &rule.standings, transaction, "was deleted").map_err(store_problem)?;
        self.store.commit(transaction).await.map_err(store_problem)?;
        book.rules.remove(&name);
        Ok(())
    }

    /// Somebody knows that an alarm is raised: for everything that it is raised for and that they see, or for that alone which has this
    /// `target` or is called so. It stays raised until what is bad is good again.
    ///
    /// # Errors
    /// If there is none, or nothing of it is raised that nobody knows of.
    pub async fn acknowledge(
        &self,
        name: &str,
        target: Option<&str>,
        identity: &Identity,
    ) -> Result<Alarm, Problem> {
        let mut book = self.book().await;
        let rule = book.seen(name, identity)?;
        let name = rule.definition().name.clone();
        let known = Acknowledgement { actor: identity.actor.clone(), time: Time::now() };
        let wanted = |at: &str, standing: &Standing| {
            target.is_none_or(|target| target == at || target == standing.name)
        };
        let mut transaction = Transaction::new();
        let mut changed = BTreeMap::new();
        for (at, standing) in &rule.standings {
            if standing.state() != AlarmState::Raised || !wanted(at, standing) || !sees(&book, identity, at) {
                continue;
            }
            let after = Standing { acknowledged: Some(known.clone()), ..standing.clone() };
            let happening = Happening::new("alarm.acknowledged", format!("{name}: somebody knows"));
            let happening = happening.to(at, standing.name.as_str()).by(&identity.actor);
            let put = transaction.put(standing_key(&name, at), &after);
            transaction = put
                .and_then(|all| happening.with(json!({ "alarm": name })).add(all))
                .map_err(store_problem)?;
            changed.insert(at.clone(), after);
        }
        if changed.is_empty() {
            let detail = format!("nothing of the alarm {name} is raised that nobody knows of yet");
            return Err(Problem::conflict(detail));
        }
        self.store.commit(transaction).await.map_err(store_problem)?;
        if let Some(rule) = book.rules.get_mut(&name) {
            rule.standings.extend(changed);
        }
        Ok(shown(&book, identity, book.seen(name.as_str(), identity)?))
    }

    /// Does what an alarm does when it is raised, once, and says that it is a test.
    ///
    /// # Errors
    /// If there is none, it does nothing, or an action fails.
    pub async fn test(&self, name: &str, identity: &Identity) -> Result<Vec<ActionResult>, Problem> {
        let definition = self.book().await.seen(name, identity)?.definition().clone();
        let target = path(&definition.name);
        let now = Time::now();
        let standing = Standing {
            name: definition.name.to_string(),
            since: now,
            value: 0.0,
            raised: None,
            acknowledged: None,
        };
        let message = "this is a test: nothing is wrong".to_owned();
        let notice = notice(&self.host, &definition, &target, &standing, What::Test, message);
        let mut results = Vec::new();
        for action in &definition.actions {
            results.push(tell(action, &notice).await.result);
        }
        let bad: Vec<_> = results.iter().filter(|result| !result.ok).collect();
        if bad.is_empty() {
            return Ok(results);
        }
        let told: Vec<_> = bad.iter().map(|one| format!("{}: {}", one.action, one.message)).collect();
        Err(Problem::conflict(told.join("; ")))
    }

    /// How many things stand where, of each alarm that concerns somebody: pending, raised, acknowledged.
    pub async fn counts(&self, identity: &Identity) -> Vec<(AlarmDefinition, [usize; 3])> {
        let book = self.book().await;
        let concerning = book.rules.values().filter(|rule| concerns(&book, identity, rule.definition()));
        let count = |rule: &Rule| {
            let seen = rule.standings.iter().filter(|(target, _)| sees(&book, identity, target));
            let states: Vec<_> = seen.map(|(_, standing)| standing.state()).collect();
            [AlarmState::Pending, AlarmState::Raised, AlarmState::Acknowledged]
                .map(|state| states.iter().filter(|one| **one == state).count())
        };
        concerning.map(|rule| (rule.definition().clone(), count(rule))).collect()
    }
}

/// Nothing stands any more, and that is told in events; no action is done.
fn forget(
    name: &Name,
    standings: &BTreeMap<String, Standing>,
    mut transaction: Transaction,
    why: &str,
) -> Result<Transaction, StoreError> {
    for (target, standing) in standings.iter().filter(|(_, standing)| standing.raised.is_some()) {
        let happening = Happening::new("alarm.cleared", format!("{name}: the alarm {why}"));
        let happening = happening.to(target, standing.name.as_str()).with(json!({ "alarm": name }));
        transaction = happening.add(transaction.delete(standing_key(name, target)))?;
    }
    Ok(transaction)
}
