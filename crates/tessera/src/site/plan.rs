//! What has to be done to make a host what a file says.

use std::collections::{BTreeMap, BTreeSet};

use api::{
    DiskSource, Network as Cable, SITE_LABEL, SiteBefore, SiteKind, SiteMember, VmDefinition, VmState,
};
use network::definition::{Network, NetworkKind};
use serde::Serialize;
use serde_json::{Value, json};

use super::difference::{Difference, differences};
use super::found::{Found, Host, plain, power, source_of};
use super::{Key, Wanted, schedules};
use crate::failure::{Failure, Result};

/// What is done with a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Deed {
    /// It is made.
    Create,
    /// It is changed.
    Change,
    /// It is removed.
    Delete,
    /// It is the site's from now on.
    Adopt,
}

/// One thing that is to be done.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// What is done.
    pub deed: Deed,
    /// With what.
    #[serde(flatten)]
    pub key: Key,
    /// Where the file says so; empty if none does.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub place: String,
    /// Which fields change.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<Difference>,
    /// Whether it is a guest that runs and starts anew for that.
    pub restart: bool,
    /// What there is to know before one says yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Whether it is the site's afterwards.
    pub member: bool,
    /// What it is at the moment.
    #[serde(skip)]
    pub before: Value,
    /// What it is afterwards.
    #[serde(skip)]
    pub after: Value,
    /// What tells it from another one of its name, if it is there.
    #[serde(skip)]
    pub identity: Option<String>,
}

/// Everything that is to be done, in order.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
    /// What is the site's before it is done.
    #[serde(skip)]
    pub members: BTreeMap<Key, SiteMember>,
}

/// How to plan.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rules {
    /// Delete what the site has made and is not wanted any more.
    pub prune: bool,
    /// Take what is wanted and was made by others as the site's.
    pub adopt: bool,
    /// Start guests anew whose changes need it.
    pub restart: bool,
}

/// A guest's definition as it is in a plan.
///
/// # Errors
/// If it is none.
pub fn guest(definition: &Value) -> Result<VmDefinition> {
    let mut plain = definition.clone();
    plain.as_object_mut().map(|fields| fields.remove("state"));
    schedules::take(&mut plain);
    serde_json::from_value(plain).map_err(|error| Failure::internal(format!("a guest's definition: {error}")))
}

/// Plans what makes the host what is wanted. Guests that are the site's get its label; without a site labels are as they are said.
///
/// # Errors
/// If something cannot be changed so.
pub fn plan(site: Option<&str>, wanted: &[Wanted], host: &Host, rules: Rules) -> Result<Plan> {
    let mut steps = Vec::new();
    let mut wrong = Vec::new();
    for wanted in in_order(wanted) {
        match host.things.get(&wanted.key) {
            None => steps.push(create(site, wanted)),
            Some(found) => match change(site, wanted, found, host, rules) {
                Ok(step) => steps.extend(step),
                Err(why) => wrong.push(format!("{}: {why}", place_of(wanted))),
            },
        }
    }
    if !wrong.is_empty() {
        return Err(Failure::input(wrong.join("; ")));
    }
    let keys: BTreeSet<_> = wanted.iter().map(|wanted| &wanted.key).collect();
    let members = members(host);
    if rules.prune {
        let gone = members.keys().filter(|key| !keys.contains(key)).cloned().collect();
        steps.extend(deletions(gone, host));
    }
    Ok(Plan { steps, members })
}

/// Plans what makes a host what it was before the site was applied the last time.
///
/// # Errors
/// If there is nothing to undo, or something cannot be changed so.
pub fn undo(site: &str, host: &Host, rules: Rules) -> Result<Plan> {
    let before = host.site.as_ref().map(|(site, _)| site.memory.before.as_slice()).unwrap_or_default();
    if before.is_empty() {
        return Err(Failure::input(format!("there is nothing to undo of the site {site}")));
    }
    let key = |before: &SiteBefore| Key::new(before.kind, before.name.clone());
    let was = before.iter().filter(|before| !before.definition.is_null());
    let wanted = was.map(|before| Wanted {
        key: key(before),
        place: String::new(),
        definition: before.definition.clone(),
    });
    let mut plan =
        plan(None, &wanted.collect::<Vec<_>>(), host, Rules { prune: false, adopt: false, ..rules })?;
    let were_members: BTreeMap<_, _> = before.iter().map(|before| (key(before), before.member)).collect();
    for step in &mut plan.steps {
        step.member = were_members[&step.key];
        if step.deed == Deed::Create && [SiteKind::Volume, SiteKind::Vm].contains(&step.key.kind) {
            step.note = Some("what was on it is not there any more".to_owned());
        }
    }
    // Only what the site itself has made goes.
    let was_not = before.iter().filter(|before| before.definition.is_null()).map(key);
    let gone = was_not.filter(|key| plan.members.contains_key(key)).collect();
    plan.steps.extend(deletions(gone, host));
    // What was adopted and needs nothing else is the site's no more.
    let steps: BTreeSet<_> = plan.steps.iter().map(|step| &step.key).collect();
    plan.members.retain(|key, _| steps.contains(key) || were_members.get(key) != Some(&false));
    Ok(plan)
}

/// What of the site is there.
fn members(host: &Host) -> BTreeMap<Key, SiteMember> {
    let all = host.site.iter().flat_map(|(site, _)| &site.memory.members);
    let keyed = all.map(|member| (Key::new(member.kind, member.name.clone()), member.clone()));
    keyed.filter(|(key, _)| host.is_member(key)).collect()
}

fn place_of(wanted: &Wanted) -> String {
    if wanted.place.is_empty() { wanted.key.to_string() } else { wanted.place.clone() }
}

/// By kind, volumes after those that they begin with, and groups after those that they are in.
fn in_order(wanted: &[Wanted]) -> Vec<&Wanted> {
    let mut left: Vec<_> = wanted.iter().collect();
    left.sort_by_key(|wanted| wanted.key.kind);
    let mut ordered = Vec::new();
    while !left.is_empty() {
        let waits = |wanted: &Wanted| {
            let source = source_of(&wanted.key, &wanted.definition);
            source.is_some_and(|source| left.iter().any(|other| other.key == source))
        };
        // Those that wait for each other are told so by the host.
        let next = left.iter().position(|wanted| !waits(wanted)).unwrap_or(0);
        ordered.push(left.remove(next));
    }
    ordered
}

/// Removes things, against the order in which they need each other.
fn deletions(mut gone: Vec<Key>, host: &Host) -> Vec<Step> {
    gone.sort_by_key(|key| std::cmp::Reverse(key.kind));
    let mut steps = Vec::new();
    while !gone.is_empty() {
        let source = |key: &Key| source_of(key, &host.things.get(key)?.definition);
        let needed = |key: &Key| gone.iter().any(|other| source(other).as_ref() == Some(key));
        let key = gone.remove(gone.iter().position(|key| !needed(key)).unwrap_or(0));
        if let Some(found) = host.things.get(&key) {
            steps.push(delete(found, key));
        }
    }
    steps
}

fn set_label(definition: &mut Value, label: Value) {
    let Some(labels) = definition.get_mut("labels").and_then(Value::as_object_mut) else { return };
    match label {
        Value::Null => drop(labels.remove(SITE_LABEL)),
        label => drop(labels.insert(SITE_LABEL.to_owned(), label)),
    }
}

fn create(site: Option<&str>, wanted: &Wanted) -> Step {
    let mut after = wanted.definition.clone();
    let mut note = None;
    match (wanted.key.kind, site) {
        (SiteKind::Vm, Some(site)) => set_label(&mut after, site.into()),
        (SiteKind::User, _) => {
            note = Some(format!("cannot log in before tessera user passwd {}", wanted.key.name));
        }
        _ => {}
    }
    Step {
        deed: Deed::Create,
        key: wanted.key.clone(),
        place: wanted.place.clone(),
        differences: Vec::new(),
        restart: false,
        note,
        member: true,
        before: Value::Null,
        after,
        identity: None,
    }
}

fn delete(found: &Found, key: Key) -> Step {
    let note = match (key.kind, found.state) {
        (SiteKind::Vm, Some(state)) if state.is_alive() => {
            Some("it runs: its plug is pulled, its own disks are lost")
        }
        (SiteKind::Vm, _) => Some("its own disks are lost"),
        (SiteKind::Volume, _) => Some("what is on it is lost"),
        (SiteKind::Pool, _) => Some("what is in it stays"),
        _ => None,
    };
    Step {
        deed: Deed::Delete,
        key,
        place: String::new(),
        differences: Vec::new(),
        restart: false,
        note: note.map(str::to_owned),
        member: false,
        before: found.definition.clone(),
        after: Value::Null,
        identity: Some(found.identity.clone()),
    }
}

/// The change of something that is there, if it is to change.
fn change(
    site: Option<&str>,
    wanted: &Wanted,
    found: &Found,
    host: &Host,
    rules: Rules,
) -> std::result::Result<Option<Step>, String> {
    let was = host.is_member(&wanted.key);
    let member = was || rules.adopt;
    let mut before = found.definition.clone();
    let mut after =
        settled(&wanted.key, &wanted.definition, &before).map_err(|failure| failure.to_string())?;
    if wanted.key.kind == SiteKind::Vm {
        if let Some(site) = site {
            let label = if member { site.into() } else { before["labels"][SITE_LABEL].clone() };
            set_label(&mut after, label);
        }
        if after.get(schedules::FIELD).is_none() {
            schedules::take(&mut before);
        }
        if after.get("state").is_none() {
            before.as_object_mut().map(|fields| fields.remove("state"));
        } else if found.state == Some(VmState::Paused) {
            before["state"] = "paused".into();
        }
    }
    let differences = differences(&before, &after);
    if let Some(fixed) = differences.iter().find(|difference| !can_change(wanted.key.kind, &difference.field))
    {
        let shown = |value: &Value| if value.is_null() { "nothing".to_owned() } else { value.to_string() };
        let (before, after) = (shown(&fixed.before), shown(&fixed.after));
        let what = &wanted.key;
        return Err(format!(
            "the {what} has {before} as its {}, which cannot become {after}: delete it first",
            fixed.field
        ));
    }
    if differences.is_empty() && was == member {
        return Ok(None);
    }
    let pending = needs_restart(&wanted.key, found, &before, &after);
    let restart = pending && rules.restart;
    Ok(Some(Step {
        deed: if differences.is_empty() { Deed::Adopt } else { Deed::Change },
        key: wanted.key.clone(),
        place: wanted.place.clone(),
        differences,
        restart,
        note: (pending && !restart).then(|| "what needs a start shows after the next one".to_owned()),
        member,
        before: found.definition.clone(),
        after,
        identity: Some(found.identity.clone()),
    }))
}

/// Whether a change of a guest that runs, and goes on to, shows only after a start.
fn needs_restart(key: &Key, found: &Found, before: &Value, after: &Value) -> bool {
    let runs = found.state.is_some_and(VmState::is_alive) && after.get("state") != Some(&json!("stopped"));
    let (Ok(before), Ok(after)) = (guest(before), guest(after)) else { return false };
    key.kind == SiteKind::Vm && runs && host::supervisor::needs_restart(&before, &after)
}

/// Whether a field of what is there can change.
fn can_change(kind: SiteKind, field: &str) -> bool {
    match kind {
        // What is in it is where it is.
        SiteKind::Pool => !matches!(field, "kind" | "path"),
        SiteKind::Volume => ["size", "format"].contains(&field),
        SiteKind::Network | SiteKind::ShareGroup | SiteKind::Template | SiteKind::Vm | SiteKind::User => true,
    }
}

/// What is wanted, with what the host has chosen where nothing is said, and what cannot be known of it.
fn settled(key: &Key, wanted: &Value, found: &Value) -> Result<Value> {
    match key.kind {
        SiteKind::Vm => settled_guest(wanted, found),
        SiteKind::Network => settled_network(wanted, found),
        SiteKind::Volume => Ok(settled_volume(wanted, found)),
        SiteKind::Pool | SiteKind::ShareGroup | SiteKind::Template | SiteKind::User => Ok(wanted.clone()),
    }
}

fn settled_guest(wanted: &Value, found: &Value) -> Result<Value> {
    let (mut after, before) = (guest(wanted)?, guest(found)?);
    let mut cards: Vec<_> = before.nics.iter().collect();
    for nic in &mut after.nics {
        let Some(same) = cards.iter().position(|card| {
            card.network == nic.network && nic.mac.as_ref().is_none_or(|mac| Some(mac) == card.mac.as_ref())
        }) else {
            continue;
        };
        let card = cards.remove(same);
        nic.mac = nic.mac.take().or_else(|| card.mac.clone());
        if matches!(nic.network, Cable::Named(_)) {
            nic.address = nic.address.or(card.address);
            nic.address6 = nic.address6.or(card.address6);
        }
    }
    after.number_disks(&before.disks);
    for (disk, was) in after.disks.iter_mut().zip(&before.disks) {
        if matches!(disk.source, DiskSource::File(_)) && disk.source == was.source {
            disk.format = disk.format.or(was.format);
        }
    }
    let mut settled = plain(&after)?;
    for beside in ["state", schedules::FIELD] {
        if let Some(said) = wanted.get(beside) {
            settled[beside] = said.clone();
        }
    }
    Ok(settled)
}

fn settled_network(wanted: &Value, found: &Value) -> Result<Value> {
    let read = |value: &Value| serde_json::from_value::<Network>(value.clone());
    let told = |error| Failure::internal(format!("a network's definition: {error}"));
    let (mut after, before) = (read(wanted).map_err(told)?, read(found).map_err(told)?);
    if matches!(after.kind, NetworkKind::Nat | NetworkKind::Routed) && after.kind == before.kind {
        after.ipv4 = after.ipv4.or(before.ipv4);
    }
    plain(&after)
}

fn settled_volume(wanted: &Value, found: &Value) -> Value {
    let mut after = wanted.clone();
    let Some(fields) = after.as_object_mut() else { return after };
    // How it took its room is not known any more.
    fields.remove("allocation");
    if !fields.contains_key("size") {
        fields.insert("size".into(), found["size"].clone());
    }
    if wanted["linked"] == false && found["linked"] == false {
        // Nor is what a copy was made of.
        fields.remove("source");
    }
    after
}

impl Plan {
    /// What there is before it is done, for the host to remember.
    pub fn before(&self, host: &Host) -> Vec<SiteBefore> {
        let before = |step: &Step| {
            let mut definition = step.before.clone();
            // Those that it leaves alone it has not changed.
            if !step.after.is_null() && step.after.get(schedules::FIELD).is_none() {
                schedules::take(&mut definition);
            }
            if let Some(state) = host.things.get(&step.key).and_then(|found| found.state) {
                definition["state"] = power(state).into();
            }
            let member = host.is_member(&step.key);
            SiteBefore { kind: step.key.kind, name: step.key.name.clone(), member, definition }
        };
        self.steps.iter().map(before).collect()
    }

    /// How many steps do this.
    pub fn count(&self, deed: Deed) -> usize {
        self.steps.iter().filter(|step| step.deed == deed).count()
    }
}

#[cfg(test)]
mod tests {
    use api::{Name, SiteMemory, Time};

    use super::*;

    fn vm(more: Value) -> Value {
        let mut vm = json!({ "name": "a", "state": "stopped" });
        api::merge(&mut vm, more);
        let state = vm["state"].take();
        vm.as_object_mut().unwrap().remove("state");
        let schedules = schedules::take(&mut vm);
        let mut vm = plain(&serde_json::from_value::<VmDefinition>(vm).unwrap()).unwrap();
        vm["state"] = state;
        if let Some(schedules) = schedules {
            vm[schedules::FIELD] = schedules;
        }
        vm
    }

    fn wanted(kind: SiteKind, name: &str, definition: Value) -> Wanted {
        Wanted { key: Key::new(kind, name), place: String::new(), definition }
    }

    fn host(things: Vec<Wanted>, members: &[&str]) -> Host {
        let member = |name: &&str| {
            let (kind, name) = name.split_once(' ').unwrap();
            let kind = serde_json::from_value(json!(kind)).unwrap();
            SiteMember { kind, name: name.to_owned(), identity: "1".into() }
        };
        let memory = SiteMemory { members: members.iter().map(member).collect(), before: Vec::new() };
        let site = api::Site {
            name: "home".parse::<Name>().unwrap(),
            memory,
            written: Time::now(),
            actor: String::new(),
        };
        let found = |definition| Found { identity: "1".into(), definition, state: Some(VmState::Stopped) };
        let things = things.into_iter().map(|thing| (thing.key, found(thing.definition))).collect();
        Host { things, site: Some((site, String::new())), ..Host::default() }
    }

    fn steps(plan: &Plan) -> Vec<String> {
        plan.steps.iter().map(|step| format!("{:?} {}", step.deed, step.key)).collect()
    }

    #[test]
    fn what_the_host_has_chosen_stays_where_the_file_says_nothing() {
        let cards = json!({ "nics": [
            { "network": { "named": "lan" }, "mac": "52:00:00:00:00:01", "address": "10.0.0.1" },
            { "network": { "named": "dmz" }, "mac": "52:00:00:00:00:02", "address": "10.1.0.1" },
        ] });
        let host = host(vec![wanted(SiteKind::Vm, "a", vm(cards))], &[]);
        let same =
            vm(json!({ "nics": [{ "network": { "named": "lan" } }, { "network": { "named": "dmz" } }] }));
        let plan_of = |definition: Value| {
            plan(Some("home"), &[wanted(SiteKind::Vm, "a", definition)], &host, Rules::default()).unwrap()
        };
        assert!(plan_of(same).steps.is_empty());
        // A card that is left keeps its addresses though it has another place.
        let fewer = plan_of(vm(json!({ "nics": [{ "network": { "named": "dmz" } }] })));
        assert_eq!(fewer.steps[0].after["nics"][0]["mac"], "52:00:00:00:00:02");
    }

    #[test]
    fn what_a_pool_carries_can_change_and_where_it_is_cannot() {
        let pool = |more: Value| {
            let mut pool = json!({ "name": "p", "path": "/p", "kind": "directory" });
            api::merge(&mut pool, more);
            wanted(SiteKind::Pool, "p", pool)
        };
        let host = host(vec![pool(json!({ "bandwidth": 8192 }))], &["pool p"]);
        let plan_of = |more| plan(Some("home"), &[pool(more)], &host, Rules::default());
        assert_eq!(
            steps(&plan_of(json!({ "bandwidth": 4096, "operations": 9 })).unwrap()),
            ["Change pool p"]
        );
        assert_eq!(steps(&plan_of(json!({})).unwrap()), ["Change pool p"]);
        let refused = plan_of(json!({ "bandwidth": 8192, "path": "/q" })).unwrap_err().to_string();
        assert!(refused.contains("the pool p has \"/p\" as its path, which cannot become"), "{refused}");
    }

    #[test]
    fn schedules_that_a_file_says_nothing_of_are_left_alone_and_not_undone() {
        let has = json!({ "schedules": { "hourly": { "every": 3600 } } });
        let host = host(vec![wanted(SiteKind::Vm, "a", vm(has))], &["vm a"]);
        let plan_of = |more: Value| {
            let wanted = wanted(SiteKind::Vm, "a", vm(more));
            plan(None, &[wanted], &host, Rules { adopt: true, ..Rules::default() }).unwrap()
        };
        let silent = plan_of(json!({ "cpus": 2 }));
        let fields: Vec<_> = silent.steps[0].differences.iter().map(|found| found.field.as_str()).collect();
        assert_eq!(fields, ["cpus"]);
        assert!(silent.before(&host)[0].definition.get("schedules").is_none());
        let gone = plan_of(json!({ "schedules": {} }));
        assert_eq!(gone.steps[0].differences[0].field, "schedules.hourly");
        assert_eq!(gone.before(&host)[0].definition["schedules"]["hourly"]["every"], 3600);
    }

    #[test]
    fn what_others_made_is_the_sites_only_if_it_is_adopted() {
        let pool = json!({ "name": "p", "path": "/p", "kind": "directory" });
        let there = [wanted(SiteKind::Pool, "p", pool), wanted(SiteKind::Vm, "a", vm(json!({})))];
        let host = host(there.to_vec(), &[]);
        let planned = |adopt| plan(Some("home"), &there, &host, Rules { adopt, ..Rules::default() }).unwrap();
        assert_eq!(steps(&planned(false)), Vec::<String>::new());
        assert_eq!(steps(&planned(true)), ["Adopt pool p", "Change vm a"]);
        assert!(planned(true).steps.iter().all(|step| step.member));
    }

    #[test]
    fn things_are_made_after_what_they_need_and_deleted_before_it() {
        let volume = |name: &str, source: Option<&str>| {
            let source = source.map(|source| json!({ "volume": source }));
            let definition = json!({ "name": name, "pool": "p", "format": "qcow2", "size": 1, "linked": source.is_some(), "source": source });
            wanted(SiteKind::Volume, &format!("p/{name}"), definition)
        };
        let all = vec![
            volume("c", Some("b")),
            volume("b", Some("a")),
            volume("a", None),
            wanted(SiteKind::Pool, "p", json!({})),
        ];
        let made = plan(Some("home"), &all, &host(vec![], &[]), Rules::default()).unwrap();
        assert_eq!(
            steps(&made),
            ["Create pool p", "Create volume p/a", "Create volume p/b", "Create volume p/c"]
        );
        let host = host(all, &["pool p", "volume p/a", "volume p/b", "volume p/c"]);
        let gone = plan(Some("home"), &[], &host, Rules { prune: true, ..Rules::default() }).unwrap();
        assert_eq!(
            steps(&gone),
            ["Delete volume p/c", "Delete volume p/b", "Delete volume p/a", "Delete pool p"]
        );
    }
}
