//! `Idempotency-Key`: what is asked for twice with the same key is done once.

use std::sync::Arc;

use api::Problem;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};

use super::LONGEST_BODY;
use super::caller::Caller;
use super::error::Error;
use crate::daemon::Host;
use crate::repeats::{Answer, Asked, Begun, Turn};

const KEY: &str = "idempotency-key";
/// An answer that was given before says so.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// The longest key, bytes.
const LONGEST_KEY: usize = 255;
/// Who logs in is nobody yet, and each session is one of its own. What the host tells of itself is too long to keep, and changes nothing.
const WITHOUT: [&str; 2] = ["/api/v1/session", "/api/v1/host/"];
/// Whose answers tell a secret.
const SECRET: &str = "/api/v1/tokens";

/// The key of a request, if it has one that counts.
fn key(request: &Request) -> Result<Option<String>, Error> {
    let path = request.uri().path();
    if *request.method() != Method::POST
        || !path.starts_with("/api/")
        || WITHOUT.iter().any(|without| path.starts_with(without))
    {
        return Ok(None);
    }
    let Some(value) = request.headers().get(KEY) else { return Ok(None) };
    let wrong = || {
        let detail =
            format!("the header Idempotency-Key has to be 1 to {LONGEST_KEY} characters that can be seen");
        Error(Problem::new(400, "The request is not valid", detail))
    };
    let text = value.to_str().map_err(|_| wrong())?;
    // The draft has it in quotes, most clients send it without.
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let good = (1..=LONGEST_KEY).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if good { Ok(Some(text.to_owned())) } else { Err(wrong()) }
}

/// Lets a request through that has not been made before, and answers one that has.
pub async fn once(State(host): State<Arc<Host>>, request: Request, next: Next) -> Response {
    let key = match key(&request) {
        Ok(Some(key)) => key,
        Ok(None) => return next.run(request).await,
        Err(error) => return error.into_response(),
    };
    let Some(Caller(Ok(identity))) = request.extensions().get::<Caller>().cloned() else {
        return next.run(request).await;
    };
    // What somebody may no longer do they are not told of either.
    let who = format!("{}\n{:?}\n{:?}", identity.actor, identity.role, identity.labels);
    let what = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
    let secret = request.uri().path() == SECRET;
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, LONGEST_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            let detail = format!("a body has {LONGEST_BODY} bytes at most");
            return Error(Problem::new(413, "Too long", detail)).into_response();
        }
        Err(error) => {
            return Error(Problem::new(400, "The request broke off", error.to_string())).into_response();
        }
    };
    let condition = parts.headers.get(header::IF_MATCH).map(HeaderValue::as_bytes);
    let asked = Asked { who: &who, what: &what, key: &key, condition, body: &body };
    let begun = match host.repeats.begin(&asked).await {
        Ok(Turn::First(begun)) => begun,
        Ok(Turn::Again(answer)) => return replay(answer),
        Err(problem) => return Error(problem).into_response(),
    };
    // A client that goes away must not leave its request half done and its key taken.
    let doing = async move {
        let response = next.run(Request::from_parts(parts, Body::from(body))).await;
        keep(&host, begun, response, secret).await
    };
    match tokio::spawn(doing).await {
        Ok(response) => response,
        Err(error) => Error(Problem::internal(format!("the request ended early: {error}"))).into_response(),
    }
}

/// Keeps the answer, if what was asked for has been done.
async fn keep(host: &Host, begun: Begun, response: Response, secret: bool) -> Response {
    let (mut parts, body) = response.into_parts();
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return Error(Problem::internal(error.to_string())).into_response(),
    };
    let kept = match parts.status.is_success() {
        true => {
            let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
            let (status, kind) = (parts.status.as_u16(), kind.map(str::to_owned));
            host.repeats.ended(&begun, &Answer { status, kind, body: body.to_vec() }, secret).await
        }
        false => host.repeats.forget(&begun).await,
    };
    if let Err(problem) = kept {
        tracing::warn!("the answer to a request that has a key is not kept: {}", problem.detail);
    }
    parts.headers.remove(header::TRANSFER_ENCODING);
    Response::from_parts(parts, Body::from(body))
}

fn replay(answer: Answer) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    if let Some(kind) = answer.kind.and_then(|kind| HeaderValue::from_str(&kind).ok()) {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    (status, headers, answer.body).into_response()
}

/// Says in the description of each method that takes a key that it does.
pub fn describe(description: &mut utoipa::openapi::OpenApi) {
    for (path, item) in &mut description.paths.paths {
        if WITHOUT.iter().any(|without| path.starts_with(without)) {
            continue;
        }
        if let Some(operation) = &mut item.post {
            add_key(operation);
        }
    }
}

fn add_key(operation: &mut Operation) {
    let text = "A key of the client's own, for instance a UUID: a request that is sent again with the same key within a day is not \
        done again, but answered as it was the first time, with the header Idempotency-Replayed.";
    let schema = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(LONGEST_KEY))
        .pattern(Some("^[!-~]+$"));
    let parameter = ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .description(Some(text))
        .schema(Some(schema));
    operation.parameters.get_or_insert_default().push(parameter.build().into());
}
