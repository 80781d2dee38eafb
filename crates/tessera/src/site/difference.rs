//! What is different between two definitions, for a person.

use serde::Serialize;
use serde_json::{Map, Value};

/// A field that is different.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// Where it is: `nics[0].vlan`.
    pub field: String,
    /// What is there; null if nothing is.
    pub before: Value,
    /// What is to be there; null if nothing is.
    pub after: Value,
}

/// All fields that are different.
pub fn differences(before: &Value, after: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    collect(String::new(), before, after, &mut found);
    found
}

fn collect(field: String, before: &Value, after: &Value, found: &mut Vec<Difference>) {
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            let keys = old.keys().chain(new.keys().filter(|key| !old.contains_key(*key)));
            for key in keys {
                let inner = if field.is_empty() { key.clone() } else { format!("{field}.{key}") };
                let of = |map: &Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                collect(inner, &of(old), &of(new), found);
            }
        }
        (Value::Array(old), Value::Array(new)) => {
            for number in 0..old.len().max(new.len()) {
                let of = |list: &[Value]| list.get(number).cloned().unwrap_or_default();
                collect(format!("{field}[{number}]"), &of(old), &of(new), found);
            }
        }
        _ if before == after => {}
        _ => found.push(Difference { field, before: before.clone(), after: after.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_different_field_is_named() {
        let before =
            json!({ "cpus": 1, "nics": [{ "vlan": 1 }, { "vlan": 2 }], "same": { "a": 1 }, "gone": 1 });
        let after = json!({ "cpus": 2, "nics": [{ "vlan": 1, "mac": "x" }], "same": { "a": 1 }, "new": [] });
        let fields: Vec<_> = differences(&before, &after).into_iter().map(|found| found.field).collect();
        assert_eq!(fields, ["cpus", "gone", "nics[0].mac", "nics[1]", "new"]);
    }
}
