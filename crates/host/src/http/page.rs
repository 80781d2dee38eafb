//! The page: the files of `web/dist`, which are part of the binary. Addresses inside the page are the page itself.

use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use super::error::Error;

/// Path and content of each file, by path. Empty where the page was not built.
static FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/page_files.rs"));

/// What the page may load: only what this daemon serves, and no script or style that stands in a document.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const ABSENT: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Tessera</title>\
    <h1>Tessera</h1><p>This binary was built without its page. <code>make build</code> builds both; \
    the API is at <a href=\"/api/v1/openapi.json\">/api/v1</a> all the same.</p></html>";

/// Whether `path` belongs to programs, who want a problem and no page where there is nothing.
fn of_programs(path: &str) -> bool {
    path.starts_with("/api/") || matches!(path, "/api" | "/metrics" | "/healthz" | "/readyz")
}

/// Serves a file of the page, or the page for an address inside it.
pub async fn get(method: Method, uri: Uri) -> Response {
    let path = uri.path();
    if of_programs(path) || !matches!(method, Method::GET | Method::HEAD) {
        return super::nothing(uri).await.into_response();
    }
    match find(path) {
        Some(found) => found,
        None => {
            let named: String = path.chars().take(200).collect();
            Error(api::Problem::not_found(format!("the page has no file {named}"))).into_response()
        }
    }
}

fn find(path: &str) -> Option<Response> {
    if let Some(content) = file(path).filter(|_| path != "/index.html") {
        let kept =
            if path.starts_with("/assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
        return Some(answer(kind(path), kept, content));
    }
    // What has a hash in its name is there or it is not; a page in its place would be kept for a year.
    if path.starts_with("/assets/") {
        return None;
    }
    Some(match file("/index.html") {
        Some(content) => answer("text/html; charset=utf-8", "no-cache", content),
        None => {
            let mut response = answer("text/html; charset=utf-8", "no-store", ABSENT.as_bytes());
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    })
}

fn file(path: &str) -> Option<&'static [u8]> {
    FILES
        .binary_search_by_key(&path, |(name, _)| name)
        .ok()
        .and_then(|at| FILES.get(at))
        .map(|(_, content)| *content)
}

fn kind(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json") => "application/json",
        Some("html") => "text/html; charset=utf-8",
        Some("woff2") => "font/woff2",
        _ => "application/octet-stream",
    }
}

fn answer(kind: &'static str, kept: &'static str, content: &'static [u8]) -> Response {
    let mut response = content.into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, kept),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(path: &'static str) -> Response {
        get(Method::GET, Uri::from_static(path)).await
    }

    #[tokio::test]
    async fn addresses_inside_the_page_are_the_page_under_a_strict_policy() {
        for path in ["/", "/guests", "/guests/web-1"] {
            let response = asked(path).await;
            let headers = response.headers();
            assert_eq!(headers[header::CONTENT_TYPE], "text/html; charset=utf-8", "{path}");
            assert_eq!(headers[header::CONTENT_SECURITY_POLICY], POLICY);
            assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
            assert_ne!(headers[header::CACHE_CONTROL], "public, max-age=31536000, immutable");
        }
    }

    #[tokio::test]
    async fn programs_and_missing_assets_get_a_problem_and_no_page() {
        for path in ["/api/v1/nothing", "/api", "/assets/gone.js"] {
            let response = asked(path).await;
            assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
            assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json", "{path}");
        }
    }
}
