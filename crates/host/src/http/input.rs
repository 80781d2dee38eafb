//! What requests bring, read so that what is wrong is named.

use std::time::Duration;

use api::{Invalid, Problem, merge};
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use super::error::{Error, Result};
use crate::store::Revision;

/// JSON of a request.
pub struct Body<T>(pub T);

/// The query of a request.
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        json_body(request, state).await.and_then(|value| read(&value)).map(Body)
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let query = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        query
            .map(|axum::extract::Query(query)| Query(query))
            .map_err(|error| Error(Problem::new(400, "The query is not valid", error.body_text())))
    }
}

/// A request's body as JSON; nothing is an empty object.
async fn json_body<S: Send + Sync>(request: Request, state: &S) -> Result<Value> {
    let kind =
        request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let json = kind == "application/json" || kind == "application/merge-patch+json";
    let bytes = Bytes::from_request(request, state).await.map_err(|error| {
        Error(Problem::new(error.status().as_u16(), "The body cannot be read", error.body_text()))
    })?;
    if bytes.is_empty() {
        return Ok(Value::Object(Default::default()));
    }
    if !json {
        let detail = "the body has to be JSON, and the header Content-Type to say so: application/json";
        return Err(Error(Problem::new(415, "Not JSON", detail)));
    }
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|error| Error(Problem::new(400, "Not JSON", format!("the body is no JSON: {error}"))))?;
    // A list would else be read as an object's fields in the order in which they are written here.
    match value {
        Value::Object(_) => Ok(value),
        _ => Err(Error(Problem::invalid(vec![Invalid::new(
            "",
            Value::Null,
            "the body has to be a JSON object",
        )]))),
    }
}

/// Reads a value as what it should be; an error names the field.
pub fn read<T: DeserializeOwned>(value: &Value) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let pointer = pointer(error.path());
        let found = value.pointer(&pointer).cloned().unwrap_or_default();
        // A long value is not sent back.
        let found = if found.to_string().len() > 200 { Value::Null } else { found };
        Error(Problem::invalid(vec![Invalid::new(pointer, found, error.into_inner().to_string())]))
    })
}

/// What something is after a JSON merge patch (RFC 7396).
///
/// # Errors
/// If that is nothing of its kind.
pub fn patched<T: Serialize + DeserializeOwned>(before: &T, patch: Value) -> Result<T> {
    read(&merged(before, patch)?)
}

/// The same, for whoever reads it in another way.
///
/// # Errors
/// If what was before is no JSON.
pub fn merged(before: &impl Serialize, patch: Value) -> Result<Value> {
    let mut whole = serde_json::to_value(before).map_err(|error| Problem::internal(error.to_string()))?;
    merge(&mut whole, patch);
    Ok(whole)
}

/// The JSON pointer (RFC 6901) of a path.
fn pointer(path: &Path) -> String {
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
            Segment::Enum { .. } | Segment::Unknown => String::new(),
        })
        .collect()
}

/// The revision that `If-Match` expects.
///
/// # Errors
/// If it is no tag of ours.
pub fn if_match(headers: &HeaderMap) -> Result<Option<Revision>> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let revision =
        text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).and_then(|text| text.parse().ok());
    let detail = "If-Match has to be the ETag that the resource came with";
    revision.map(Some).ok_or_else(|| Error(Problem::new(412, "It has changed", detail)))
}

/// A duration such as `30s`, `500ms`, `2m` or a number of seconds; at most `most`.
///
/// # Errors
/// If it is none.
pub fn duration(field: &str, text: &str, most: Duration) -> Result<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let millis = match unit {
        "ms" => Some(1),
        "s" | "" => Some(1000),
        "m" => Some(60_000),
        _ => None,
    };
    let total = number.parse::<u64>().ok().zip(millis).and_then(|(number, unit)| number.checked_mul(unit));
    let total = total.map(Duration::from_millis).filter(|total| *total <= most);
    total.ok_or_else(|| {
        let detail = format!("a duration such as 30s, at most {} s", most.as_secs());
        let shown: String = text.chars().take(80).collect();
        Error(Problem::invalid(vec![Invalid::new(format!("/{field}"), shown, detail)]))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_wrong_field_is_named_by_its_pointer() {
        let error = read::<api::VmDefinition>(
            &json!({"name": "a", "nics": [{"forwards": [{"host": "x", "guest": 1}]}]}),
        );
        let problem = error.err().unwrap().0;
        assert_eq!(problem.status, 422);
        assert_eq!(
            (problem.errors[0].pointer.as_str(), &problem.errors[0].value),
            ("/nics/0/forwards/0/host", &json!("x"))
        );
    }

    #[test]
    fn durations_have_units() {
        let most = Duration::from_secs(60);
        for (text, millis) in [("30s", 30_000), ("5", 5000), ("250ms", 250), ("1m", 60_000)] {
            assert_eq!(duration("wait", text, most).ok(), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1s", "61s", "1h", "99999999999999999999s"] {
            assert!(duration("wait", text, most).is_err(), "{text}");
        }
    }
}
