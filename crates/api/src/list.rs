//! Lists, a page at a time.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// One page of a list.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct List<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// What `cursor` gives the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The state of the host that it shows: a watch can begin there.
    pub revision: u64,
}

/// What part of a list is wanted.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// At most so many items.
    #[param(minimum = 1, maximum = 10000)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Where the page before ended: its `next`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Only items that this fits: terms with commas between, all of which must hold: `state=running`, `name=web*`, `label.env=test`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Only these fields of each item, with commas between.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fields: Option<String>,
    /// By which field to sort, `-` before it for the other way round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sort: Option<String>,
}
