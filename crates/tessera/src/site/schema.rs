//! The JSON Schema (2020-12) of site files, of the same types as the API's description (OpenAPI 3.1 has its schemas in that form).

use serde_json::{Map, Value, json};
use utoipa::{OpenApi, ToSchema};

use super::wanted::SiteUser;
use crate::failure::{Failure, Result};

/// Where a description has its schemas, and where a schema has them.
const COMPONENTS: &str = "#/components/schemas/";
const DEFS: &str = "#/$defs/";

#[derive(OpenApi)]
#[openapi(components(schemas(SiteUser)))]
struct Own;

fn json_of(value: &impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| Failure::internal(error.to_string()))
}

/// The schema.
///
/// # Errors
/// If the API's description is not what it should be.
pub fn schema() -> Result<Value> {
    let mut known = json_of(&host::http::openapi().components)?["schemas"].take();
    let own = json_of(&Own::openapi().components)?["schemas"].take();
    if let (Some(known), Value::Object(own)) = (known.as_object_mut(), own) {
        known.extend(own);
    }
    extend(
        &mut known["VmDefinition"],
        json!({
            "state": {
                "enum": ["running", "stopped"],
                "description": "Whether it runs; as it is, or not at first, if nothing is said.",
            },
            "schedules": {
                "type": ["array", "null"],
                "items": { "$ref": format!("{COMPONENTS}ScheduleDefinition") },
                "description": "What is made of it again and again; as it is if nothing is said.",
            },
        }),
    );
    extend(
        &mut known["VolumeDefinition"],
        json!({
            "pool": { "$ref": format!("{COMPONENTS}Name"), "description": "The pool that it is in: default if none is named." },
        }),
    );
    let list = |name: &str, what: &str| json!({ "type": ["array", "null"], "items": { "$ref": format!("{COMPONENTS}{name}") }, "description": what });
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tessera site",
        "description": "What a host should have: tessera apply -f FILE.",
        "type": "object",
        "required": ["site"],
        "additionalProperties": false,
        "properties": {
            "site": { "$ref": format!("{COMPONENTS}Name"), "description": "The site's name: what it has made is known by it." },
            "pools": list("PoolDefinition", "Storage pools."),
            "networks": list("NetworkDefinition", "Networks."),
            "volumes": list("VolumeDefinition", "Volumes."),
            "share_groups": list("ShareGroup", "Groups in which guests share."),
            "templates": list("NewTemplate", "Templates."),
            "vms": list("VmDefinition", "Guests."),
            "users": list(&SiteUser::name(), "Users; their passwords are set by tessera user passwd."),
        },
    });
    let mut defs = Map::new();
    gather(&schema, &known, &mut defs);
    schema["$defs"] = Value::Object(defs);
    rename(&mut schema);
    Ok(schema)
}

fn extend(definition: &mut Value, more: Value) {
    if let (Some(fields), Value::Object(more)) = (definition["properties"].as_object_mut(), more) {
        fields.extend(more);
    }
}

/// Gathers the definitions that a schema refers to, and those that they refer to.
fn gather(schema: &Value, known: &Value, defs: &mut Map<String, Value>) {
    match schema {
        Value::Object(fields) => {
            let reference = fields.get("$ref").and_then(Value::as_str);
            if let Some(name) = reference.and_then(|reference| reference.strip_prefix(COMPONENTS))
                && !defs.contains_key(name)
            {
                defs.insert(name.to_owned(), known[name].clone());
                gather(&known[name], known, defs);
            }
            fields.values().for_each(|value| gather(value, known, defs));
        }
        Value::Array(items) => items.iter().for_each(|item| gather(item, known, defs)),
        _ => {}
    }
}

/// Has references lead to where a schema has its definitions.
fn rename(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get_mut("$ref")
                && let Some(name) = reference.strip_prefix(COMPONENTS)
            {
                *reference = format!("{DEFS}{name}");
            }
            fields.values_mut().for_each(rename);
        }
        Value::Array(items) => items.iter_mut().for_each(rename),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::SiteFile;
    use super::super::found::{Found, Host};
    use super::super::{Key, wanted};
    use super::*;

    /// Whether apply would read a site.
    fn is_read(site: &Value) -> bool {
        let mut host = Host::default();
        let pool = Found { identity: String::new(), definition: json!({}), state: None };
        host.things.insert(Key::new(api::SiteKind::Pool, "default"), pool);
        host.images.insert("debian:13".into());
        SiteFile::parse("s", &site.to_string(), false).is_ok_and(|file| wanted::read(&file, &host).is_ok())
    }

    #[test]
    fn the_schema_takes_what_apply_takes_and_refuses_what_it_refuses() {
        let schema = schema().unwrap();
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        let site = |more: Value| {
            let mut site = json!({ "site": "home" });
            api::merge(&mut site, more);
            site
        };
        let vm = |more: Value| {
            let mut vm = json!({ "name": "a" });
            api::merge(&mut vm, more);
            site(json!({ "vms": [vm] }))
        };
        for good in [
            site(json!({})),
            vm(json!({ "state": "running", "cpus": 2, "memory": "1.5G", "autostart": { "enabled": true } })),
            vm(
                json!({ "disks": [{ "image": "debian:13", "grow": "8G" }, { "size": 1 << 30, "read_only": true }] }),
            ),
            vm(
                json!({ "schedules": [{ "name": "n", "action": "snapshot", "every": 60, "keep": { "last": 1 } }] }),
            ),
            vm(json!({ "nics": [{ "network": "user", "forwards": [{ "host": 2222, "guest": 22 }] }] })),
            site(
                json!({ "pools": [{ "name": "p", "path": "/p" }], "volumes": [{ "name": "v", "pool": "p", "size": "1G" }] }),
            ),
            site(
                json!({ "networks": [{ "name": "n", "kind": "nat" }, { "name": "i", "kind": "isolated", "ipv4": { "subnet": "10.1.0.0/24" } }] }),
            ),
            site(
                json!({ "share_groups": [{ "name": "g", "expandable": false }, { "name": "h", "within": "g" }] }),
            ),
            site(json!({ "templates": [{ "name": "t", "definition": { "cpus": 2 } }] })),
            site(json!({ "users": [{ "name": "u", "role": "operator", "labels": { "team": "a" } }] })),
        ] {
            assert!(is_read(&good), "{good}");
            assert!(validator.is_valid(&good), "{good}: {:?}", validator.iter_errors(&good).next());
        }
        for bad in [
            json!({}),
            site(json!({ "guests": [] })),
            site(json!({ "vms": {} })),
            site(json!({ "vms": [{}] })),
            vm(json!({ "state": "paused" })),
            vm(json!({ "schedules": [{ "name": "n" }] })),
            vm(json!({ "cpus": 0 })),
            vm(json!({ "cpu": 2 })),
            vm(json!({ "memory": "much" })),
            vm(json!({ "disks": [{ "read_only": true }] })),
            vm(json!({ "nics": [{ "mac": "x" }] })),
            site(json!({ "pools": [{ "name": "p" }] })),
            site(json!({ "networks": [{ "name": "n", "kind": "nut" }] })),
            site(json!({ "volumes": [{ "name": "A", "size": 1 }] })),
            site(json!({ "share_groups": [{ "name": "g", "members": [] }] })),
            site(json!({ "users": [{ "name": "u", "role": "admin", "password": "geheim" }] })),
        ] {
            assert!(!is_read(&bad), "{bad}");
            assert!(!validator.is_valid(&bad), "{bad}");
        }
    }
}
