//! Errors as the API tells them: RFC 9457, `application/problem+json`.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// What went wrong with a request (RFC 9457).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The kind of problem: `about:blank` says no more than `status` does.
    #[serde(rename = "type", default = "blank")]
    pub kind: String,
    /// The kind of problem for a person.
    pub title: String,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// What is wrong this time, and what would be right.
    pub detail: String,
    /// What is wrong with each field of the request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Invalid>,
}

fn blank() -> String {
    "about:blank".into()
}

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Invalid {
    /// Where it is in the request: a JSON pointer (RFC 6901).
    pub pointer: String,
    /// What was there.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub value: Value,
    /// What is wrong with it, and what would be right.
    pub detail: String,
}

impl Invalid {
    /// The field at `pointer` has a `value` that `detail` says what is wrong with.
    pub fn new(pointer: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), value: value.into(), detail: detail.into() }
    }

    /// What is wrong with what something is for, if anything is: it is too long.
    pub fn of_description(text: &str) -> Option<Self> {
        let detail = "a description has at most 4096 bytes";
        (text.len() > 4096).then(|| Self::new("/description", Value::Null, detail))
    }
}

impl Problem {
    /// A problem of this HTTP status.
    pub fn new(status: u16, title: &str, detail: impl Into<String>) -> Self {
        Self { kind: blank(), title: title.into(), status, detail: detail.into(), errors: Vec::new() }
    }

    /// Fields of the request are wrong.
    pub fn invalid(errors: Vec<Invalid>) -> Self {
        let detail = errors.iter().map(|e| format!("{}: {}", e.pointer, e.detail)).collect::<Vec<_>>();
        Self { errors, ..Self::new(422, "The request is not valid", detail.join("; ")) }
    }

    /// There is no such thing.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(404, "Not found", detail)
    }

    /// It cannot be done as things stand.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(409, "Not possible now", detail)
    }

    /// It cannot be done as things stand, because of one field.
    pub fn conflict_of(wrong: Invalid) -> Self {
        Self { errors: vec![wrong.clone()], ..Self::conflict(wrong.detail) }
    }

    /// The host failed.
    pub fn internal(detail: impl Into<String>) -> Self {
        Self::new(500, "The host failed", detail)
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Problem {}
