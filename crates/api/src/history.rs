//! What was used over time.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::Time;

/// What was used over time: series of spans that are equally long and follow each other.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct History {
    /// When the first span begins: a multiple of `step` since the epoch.
    #[schema(value_type = String, format = DateTime)]
    pub from: Time,
    /// How long a span is, seconds.
    pub step: u32,
    /// How many spans there are.
    pub points: u32,
    /// The series.
    pub series: Vec<Series>,
}

/// One series: a value for each span, or nothing where nothing was measured. A guest is measured while it runs.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Series {
    /// What it is.
    pub name: String,
    /// What its values count: `processors`, `bytes`, `bytes/s` or `1/s`.
    pub unit: String,
    /// The mean of each span.
    pub avg: Vec<Option<f64>>,
    /// The smallest value that was measured in it.
    pub min: Vec<Option<f64>>,
    /// The largest.
    pub max: Vec<Option<f64>>,
}

/// What part of it is wanted.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct HistoryQuery {
    /// From when on; an hour before `to` if nothing is said.
    #[param(value_type = Option<String>, format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Time>,
    /// Until when; now if nothing is said.
    #[param(value_type = Option<String>, format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Time>,
    /// How long a span should be, seconds; as short as `points` and what is kept allow if nothing is said. What is older is kept in spans
    /// that are longer: a second for an hour, 10 for a day, 300 for 30 days.
    #[param(minimum = 1, maximum = 2592000)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<u32>,
    /// At most so many spans; 600 if nothing is said.
    #[param(minimum = 1, maximum = 4000)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub points: Option<u32>,
    /// Only these series, with commas between.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub series: Option<String>,
}
