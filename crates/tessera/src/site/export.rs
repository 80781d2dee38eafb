//! Writes what a host has as a file that says so.

use api::{SITE_LABEL, SiteKind, VmDefinition};
use serde_json::{Map, Value, json};
use serde_yaml_ng::{Mapping, Value as Yaml};

use super::file::LISTS;
use super::found::{Host, plain};
use super::plan::guest;
use super::schedules;
use super::show::{SIZES, size};
use crate::failure::{Failure, Result};

/// The file of a host, in YAML.
///
/// # Errors
/// If something on the host is not what it should be.
pub fn yaml(host: &Host, site: &str) -> Result<String> {
    let mut file = Mapping::new();
    file.insert("site".into(), site.into());
    for (list, kind) in LISTS {
        let of_kind = host.things.iter().filter(|(key, _)| key.kind == kind);
        // The pool that every host has needs no file.
        let own =
            of_kind.filter(|(key, _)| kind != SiteKind::Pool || key.name != api::default_pool().as_str());
        let items = own.map(|(_, found)| {
            let template = found.definition["template"].as_str();
            let template = template.and_then(|template| host.get(SiteKind::Template, template));
            let template = template.map(|template| &template.definition["definition"]);
            Ok(ordered(&entry(kind, &found.definition, template)?))
        });
        let items = items.collect::<Result<Vec<_>>>()?;
        if !items.is_empty() {
            file.insert(list.into(), Yaml::Sequence(items));
        }
    }
    serde_yaml_ng::to_string(&file).map_err(|error| Failure::internal(error.to_string()))
}

/// What there is to say of a thing, in YAML: what is not as usual, without its name.
///
/// # Errors
/// If it is not what it should be.
pub fn described(kind: SiteKind, definition: &Value) -> Result<String> {
    let mut said = entry(kind, definition, None)?;
    said.as_object_mut().map(|fields| fields.remove("name"));
    serde_yaml_ng::to_string(&ordered(&said)).map_err(|error| Failure::internal(error.to_string()))
}

/// What a list says of a thing: what is not as usual, or not as in a guest's template.
fn entry(kind: SiteKind, definition: &Value, template: Option<&Value>) -> Result<Value> {
    let mut said = definition.clone();
    let usual: &[(&str, Value)] = match kind {
        SiteKind::Vm => return guest_entry(definition, template),
        SiteKind::Pool => &[("kind", json!("directory"))],
        SiteKind::Network => &[("dns", json!({ "enabled": true }))],
        SiteKind::Volume => &[
            ("pool", json!("default")),
            ("allocation", json!("thin")),
            ("format", json!("qcow2")),
            ("linked", json!(false)),
        ],
        SiteKind::ShareGroup => &[
            ("description", json!("")),
            ("cpu_share", json!(api::CpuShare::default())),
            ("expandable", json!(true)),
        ],
        SiteKind::Template => &[("description", json!(""))],
        SiteKind::User => &[("labels", json!({})), ("disabled", json!(false))],
    };
    if let Some(fields) = said.as_object_mut() {
        fields.retain(|field, value| !usual.iter().any(|(name, usual)| name == field && usual == value));
    }
    Ok(said)
}

fn guest_entry(definition: &Value, template: Option<&Value>) -> Result<Value> {
    let mut vm = guest(definition)?;
    vm.labels.remove(SITE_LABEL);
    for (place, disk) in vm.disks.iter_mut().enumerate() {
        // What counting gives need not be said.
        disk.unit = disk.unit.filter(|unit| *unit as usize != place);
    }
    let mut base = template.cloned().unwrap_or_else(|| Value::Object(Map::new()));
    base["name"] = json!(vm.name);
    let usual: VmDefinition = serde_json::from_value(base)
        .map_err(|error| Failure::internal(format!("the template of {}: {error}", vm.name)))?;
    let mut said = api::patch(&plain(&usual)?, &plain(&vm)?);
    said["name"] = json!(vm.name);
    if let Some(state) = definition.get("state") {
        said["state"] = state.clone();
    }
    let schedules = definition.get(schedules::FIELD).map(schedules::said).unwrap_or_default();
    if !schedules.is_empty() {
        said[schedules::FIELD] = schedules.into();
    }
    Ok(said)
}

/// JSON as YAML that people read: the name first, sizes with their units.
fn ordered(value: &Value) -> Yaml {
    match value {
        Value::Object(fields) => {
            let mut mapping = Mapping::new();
            let names = fields.keys().filter(|key| *key == "name");
            for key in names.chain(fields.keys().filter(|key| *key != "name")) {
                let value = &fields[key];
                let bytes = value.as_u64().filter(|_| SIZES.contains(&key.as_str()));
                let shown = bytes.and_then(size).map_or_else(|| ordered(value), Yaml::from);
                mapping.insert(key.as_str().into(), shown);
            }
            Yaml::Mapping(mapping)
        }
        Value::Array(items) => Yaml::Sequence(items.iter().map(ordered).collect()),
        Value::Null => Yaml::Null,
        Value::Bool(value) => (*value).into(),
        Value::String(text) => text.as_str().into(),
        Value::Number(number) => {
            let whole = number.as_u64().map(Yaml::from).or(number.as_i64().map(Yaml::from));
            whole.unwrap_or_else(|| number.as_f64().unwrap_or_default().into())
        }
    }
}
