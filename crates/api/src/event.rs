//! Events: what happened, in order, and durable.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::Time;

/// Something that happened on a host.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its number: later events have higher ones. Also the id of the server-sent event.
    pub number: u64,
    /// When it happened.
    #[schema(value_type = String, format = DateTime)]
    pub time: Time,
    /// What happened: `vm.started`.
    pub kind: String,
    /// To what: `/api/v1/vms/…`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// The name that it had then.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// In words.
    pub message: String,
    /// Who caused it; nobody if it happened by itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub actor: String,
    /// What belongs to it.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub details: Value,
}
