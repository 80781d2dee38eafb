//! The schedules of a guest, which are beside its definition on the host, and in it in a file: a list there, by their names in a plan.

use std::collections::BTreeMap;

use api::{Invalid, List, Name, Schedule, ScheduleDefinition};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::found::plain;
use crate::client::Client;
use crate::failure::{Failure, Result};

/// The field of a guest in a file and in a plan.
pub const FIELD: &str = "schedules";

/// Those that a guest has on a host, by name.
///
/// # Errors
/// If the host refuses, or cannot be reached.
pub async fn look(client: &Client, vm: api::Id) -> Result<Value> {
    let all: List<Schedule> = client.get(&format!("/vms/{vm}/schedules"), &[]).await?;
    by_name(all.items.iter().map(|schedule| &schedule.definition))
}

fn by_name<'a>(all: impl Iterator<Item = &'a ScheduleDefinition>) -> Result<Value> {
    let mut fields = Map::new();
    for definition in all {
        let mut said = plain(definition)?;
        said.as_object_mut().map(|fields| fields.remove("name"));
        fields.insert(definition.name.to_string(), said);
    }
    Ok(Value::Object(fields))
}

/// What a file says, by name; what is wrong otherwise, each with where it is.
///
/// # Errors
/// If one makes no sense, or two have one name.
pub fn read(
    place: &str,
    list: &Value,
    typed: impl Fn(&str, &Value) -> std::result::Result<ScheduleDefinition, String>,
) -> std::result::Result<Value, String> {
    let list = list.as_array().ok_or_else(|| format!("{place}: it has to be a list"))?;
    let (mut all, mut places, mut wrong) = (Vec::new(), BTreeMap::<Name, String>::new(), Vec::new());
    for (number, item) in list.iter().enumerate() {
        let place = format!("{place}[{number}]");
        match typed(&place, item) {
            Ok(definition) => {
                let told = |one: &Invalid| format!("{place}{}: {}", super::field(&one.pointer), one.detail);
                wrong.extend(definition.check().iter().map(told));
                if let Some(first) = places.insert(definition.name.clone(), place.clone()) {
                    wrong.push(format!("{place}.name: {first} is the schedule {} already", definition.name));
                }
                all.push(definition);
            }
            Err(error) => wrong.push(error),
        }
    }
    match wrong.is_empty() {
        true => by_name(all.iter()).map_err(|failure| format!("{place}: {failure}")),
        false => Err(wrong.join("; ")),
    }
}

/// What a file says of those that are by name: a list, without what is as usual.
pub fn said(by_name: &Value) -> Vec<Value> {
    let usual =
        [("offset", json!(0)), ("quiesce", json!(false)), ("full_every", json!(7)), ("enabled", json!(true))];
    let one = |(name, definition): (&String, &Value)| {
        let mut said = definition.clone();
        if let Some(fields) = said.as_object_mut() {
            fields.retain(|field, value| !usual.iter().any(|(name, usual)| name == field && usual == value));
            fields.insert("name".into(), name.as_str().into());
        }
        if let Some(keep) = said["keep"].as_object_mut() {
            keep.retain(|_, count| *count != 0);
        }
        said
    };
    by_name.as_object().into_iter().flatten().map(one).collect()
}

/// Takes a guest's schedules out of what it is in a plan.
pub fn take(definition: &mut Value) -> Option<Value> {
    definition.as_object_mut()?.remove(FIELD).filter(|said| !said.is_null())
}

/// Has a guest that had some have these.
///
/// # Errors
/// If the host refuses one; those before it are as they are to be.
pub async fn apply(client: &Client, vm: &str, before: &Value, after: &Value) -> Result<()> {
    let none = Map::new();
    let (before, after) = (before.as_object().unwrap_or(&none), after.as_object().unwrap_or(&none));
    let all = format!("/vms/{vm}/schedules");
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        let _: Value = client.change(Method::DELETE, &format!("{all}/{name}"), &[], None).await?;
    }
    for (name, definition) in after {
        let told = |failure: Failure| failure.within(format!("the schedule {name}"));
        let changed: Result<Value> = match before.get(name) {
            Some(same) if same == definition => continue,
            Some(other) => {
                let patch = api::patch(other, definition);
                client.change(Method::PATCH, &format!("{all}/{name}"), &[], Some(&patch)).await
            }
            None => {
                let mut body = definition.clone();
                body["name"] = name.as_str().into();
                client.change(Method::POST, &all, &[], Some(&body)).await
            }
        };
        changed.map_err(told)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(_: &str, value: &Value) -> std::result::Result<ScheduleDefinition, String> {
        serde_json::from_value(value.clone()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_written_is_what_is_read_without_what_is_as_usual() {
        let list = json!([
            { "name": "hourly", "action": "snapshot", "every": 3600, "keep": { "last": 24 } },
            { "name": "nightly", "action": "backup", "every": 86400, "offset": 7200, "pool": "vault",
              "keep": { "daily": 7 }, "enabled": false },
        ]);
        let all = read("vms[0].schedules", &list, typed).unwrap();
        assert_eq!((&all["hourly"]["full_every"], &all["nightly"]["pool"]), (&json!(7), &json!("vault")));
        assert_eq!(Value::Array(said(&all)), list);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let one = json!({ "name": "a", "action": "snapshot", "every": 3600, "keep": { "last": 1 } });
        let backup = json!({ "name": "b", "action": "backup", "every": 1, "keep": { "last": 1 } });
        for (list, wrong) in [
            (json!({}), "s: it has to be a list"),
            (json!([one, one]), "s[1].name: s[0] is the schedule a already"),
            (json!([backup]), "s[0].pool: name the pool that the backups are put into"),
            (json!([{}]), "missing field"),
        ] {
            let error = read("s", &list, typed).unwrap_err();
            assert!(error.contains(wrong), "{error}");
        }
    }
}
