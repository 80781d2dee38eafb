//! What the description of the API needs and no method can say alone.

use std::collections::BTreeMap;

use utoipa::openapi::path::{Operation, Parameter, PathItem};
use utoipa::openapi::schema::{AdditionalProperties, AllOf, ArrayItems, Object, ObjectBuilder, Schema, Type};
use utoipa::openapi::{OpenApi, RefOr};

/// Makes the description one that programs can work with.
pub fn finish(description: &mut OpenApi) {
    for (path, item) in &mut description.paths.paths {
        name_operations(path, item);
        let methods = [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete];
        let operations = methods.into_iter().filter_map(Option::as_mut);
        operations.flat_map(|operation| operation.parameters.iter_mut().flatten()).for_each(form);
    }
    if let Some(components) = &mut description.components {
        let objects = closed(&components.schemas);
        components.schemas.values_mut().for_each(|schema| open(schema, &objects));
    }
}

/// Joins the parts of a schema and of those in it, where they cannot be said apart.
fn open(schema: &mut RefOr<Schema>, objects: &BTreeMap<String, Object>) {
    match schema {
        RefOr::T(Schema::AllOf(parts)) => {
            if let Some(whole) = joined(parts, objects) {
                *schema = RefOr::T(Schema::Object(whole));
            }
        }
        RefOr::T(Schema::Object(object)) => {
            object.properties.values_mut().for_each(|inner| open(inner, objects))
        }
        RefOr::T(Schema::Array(array)) => {
            if let ArrayItems::RefOrSchema(inner) = &mut array.items {
                open(inner, objects);
            }
        }
        _ => {}
    }
}

/// Gives each operation a name that no other one has (OpenAPI 3.1, section 4.8.10.1), from its method and path: `get_vms_vm`.
fn name_operations(path: &str, item: &mut PathItem) {
    let words: Vec<_> =
        path.trim_start_matches("/api/v1/").split('/').filter(|word| !word.is_empty()).collect();
    let words = words.join("_").replace(['{', '}'], "");
    let name = |operation: &mut Option<Operation>, method: &str| {
        if let Some(operation) = operation {
            operation.operation_id = Some(format!("{method}_{words}"));
        }
    };
    name(&mut item.get, "get");
    name(&mut item.put, "put");
    name(&mut item.post, "post");
    name(&mut item.patch, "patch");
    name(&mut item.delete, "delete");
}

/// Says what the texts look like that methods share: see [`super::input`].
fn form(parameter: &mut RefOr<Parameter>) {
    let RefOr::T(parameter) = parameter else { return };
    let pattern = match parameter.name.as_str() {
        "wait" => "^[0-9]+(ms|s|m)?$",
        "If-Match" => r#"^(\*|"[0-9]+")$"#,
        _ => return,
    };
    let text = ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern)).build();
    parameter.schema = Some(RefOr::T(Schema::Object(text)));
}

/// The objects that take no fields but their own.
fn closed(schemas: &BTreeMap<String, RefOr<Schema>>) -> BTreeMap<String, Object> {
    let closed = |object: &Object| {
        object
            .additional_properties
            .as_deref()
            .is_some_and(|more| matches!(more, AdditionalProperties::FreeForm(false)))
    };
    let objects = schemas.iter().filter_map(|(name, schema)| match schema {
        RefOr::T(Schema::Object(object)) if closed(object) => Some((name.clone(), object.clone())),
        _ => None,
    });
    objects.collect()
}

/// All fields of the parts in one object, if a part takes no others: nothing could be all of them (JSON Schema, section 10.3.2.3).
fn joined(parts: &AllOf, objects: &BTreeMap<String, Object>) -> Option<Object> {
    let named = |part: &RefOr<Schema>| match part {
        RefOr::Ref(reference) => {
            objects.get(reference.ref_location.rsplit('/').next().unwrap_or_default()).cloned()
        }
        RefOr::T(_) => None,
    };
    parts.items.iter().find_map(named)?;
    let mut whole = Object::new();
    whole.description = parts.description.clone();
    for part in &parts.items {
        let object = match part {
            RefOr::T(Schema::Object(object)) => object.clone(),
            other => named(other)?,
        };
        whole.properties.extend(object.properties);
        whole.required.extend(object.required);
    }
    Some(whole)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    fn description() -> Value {
        serde_json::to_value(super::super::openapi()).unwrap()
    }

    #[test]
    fn each_operation_has_a_name_of_its_own() {
        let description = description();
        let mut names = BTreeSet::new();
        for methods in description["paths"].as_object().unwrap().values() {
            for operation in methods.as_object().unwrap().values() {
                let name = operation["operationId"].as_str().unwrap();
                assert!(names.insert(name.to_owned()), "{name}");
            }
        }
        assert!(names.contains("get_vms_vm") && names.contains("post_vms_vm_start"), "{names:?}");
    }

    #[test]
    fn something_can_be_all_that_a_schema_says() {
        let description = description();
        let schemas = description["components"]["schemas"].as_object().unwrap();
        let mut left = schemas.values().collect::<Vec<_>>();
        while let Some(schema) = left.pop() {
            for part in schema["allOf"].as_array().into_iter().flatten() {
                let name = part["$ref"].as_str().and_then(|reference| reference.rsplit('/').next());
                let other = name.map_or(part, |name| &schemas[name]);
                assert_ne!(other["additionalProperties"], Value::Bool(false), "{schema}");
            }
            left.extend(schema.as_object().into_iter().flat_map(|object| object.values()));
            left.extend(schema.as_array().into_iter().flatten());
        }
        let guest = &schemas["Vm"];
        assert!(
            guest["properties"]["name"].is_object() && guest["properties"]["status"].is_object(),
            "{guest}"
        );
        assert_eq!(schemas["VmDefinition"]["additionalProperties"], false);
    }
}
