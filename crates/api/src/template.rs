//! Templates: guests with holes.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::{Invalid, Name, Time};

/// A template that is to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTemplate {
    /// Its name.
    pub name: Name,
    /// What it is for.
    #[serde(default)]
    #[schema(max_length = 4096)]
    pub description: String,
    /// The part of a guest's definition that it says. What it leaves out is said when a guest is made, or is as usual.
    #[schema(value_type = Object)]
    pub definition: Map<String, Value>,
}

/// A template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Template {
    /// What it says.
    #[serde(flatten)]
    pub template: NewTemplate,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created: Time,
}

impl NewTemplate {
    /// What is wrong with it, as far as that can be told without a guest.
    pub fn check(&self) -> Vec<Invalid> {
        let mut wrong: Vec<_> = Invalid::of_description(&self.description).into_iter().collect();
        // What belongs to one guest cannot be that of many.
        if let Some(name) = self.definition.get("name") {
            wrong.push(Invalid::new("/definition/name", name.clone(), "a guest is named when it is made"));
        }
        let nics = self.definition.get("nics").and_then(Value::as_array).into_iter().flatten().enumerate();
        for (number, nic) in nics {
            for field in ["mac", "address", "address6"] {
                if let Some(value) = nic.get(field).filter(|value| !value.is_null()) {
                    let pointer = format!("/definition/nics/{number}/{field}");
                    wrong.push(Invalid::new(
                        pointer,
                        value.clone(),
                        "each guest has an address of its own: leave it out",
                    ));
                }
            }
        }
        wrong
    }
}
