//! JSON merge patches (RFC 7396).

use serde_json::{Map, Value};

/// Changes `target` as a merge patch says.
pub fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    if let Value::Object(fields) = target {
        for (key, value) in patch {
            if value.is_null() {
                fields.remove(&key);
            } else {
                merge(fields.entry(key).or_insert(Value::Null), value);
            }
        }
    }
}

/// The merge patch that makes `before` what `after` is. There are none for nulls in them, of which our definitions have none.
pub fn patch(before: &Value, after: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (before, after) else { return after.clone() };
    let mut fields = Map::new();
    for (key, value) in new {
        match old.get(key) {
            Some(same) if same == value => {}
            Some(other) => drop(fields.insert(key.clone(), patch(other, value))),
            None => drop(fields.insert(key.clone(), value.clone())),
        }
    }
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    fields.extend(gone.map(|key| (key.clone(), Value::Null)));
    Value::Object(fields)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_merge_patch_changes_removes_and_adds() {
        let mut target = json!({"a": "b", "c": {"d": "e", "f": "g"}});
        merge(&mut target, json!({"a": "z", "c": {"f": null}, "n": {"m": null, "o": 1}}));
        assert_eq!(target, json!({"a": "z", "c": {"d": "e"}, "n": {"o": 1}}));
    }

    #[test]
    fn a_patch_makes_one_the_other_and_says_no_more() {
        let before = json!({ "a": 1, "b": { "c": 1, "d": 2 }, "e": [1], "f": 1 });
        let after = json!({ "a": 1, "b": { "c": 1, "x": 2 }, "e": [1, 2] });
        let patch = patch(&before, &after);
        assert_eq!(patch, json!({ "b": { "d": null, "x": 2 }, "e": [1, 2], "f": null }));
        let mut target = before;
        merge(&mut target, patch);
        assert_eq!(target, after);
    }
}
