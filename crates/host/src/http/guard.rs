//! What a browser must not be used for: a page from elsewhere that makes requests to this host in the name of who looks at it.

use api::Problem;
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::Error;

/// Refuses requests of pages that are not this host's own (by `Origin` and `Sec-Fetch-Site`), and names that somebody else's
/// name server gives to a loopback address (by `Host`).
pub async fn check(request: Request, next: Next) -> Response {
    let headers = request.headers();
    if foreign(headers) {
        let detail = "the request comes from a page that is not this host's";
        return Error(Problem::new(403, "Not allowed", detail)).into_response();
    }
    next.run(request).await
}

fn text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn foreign(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").and_then(|value| value.to_str().ok());
    if matches!(site, Some("cross-site" | "same-site")) {
        return true;
    }
    let Some(host) = text(headers, &header::HOST) else { return false };
    match text(headers, &header::ORIGIN) {
        // Only a browser says where its page is from; what it says has to be where it asks.
        Some(origin) => {
            let own = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            own != Some(host) || !literal(host)
        }
        None => site.is_some() && !literal(host),
    }
}

/// Whether `host` is an address or this machine's loopback name: names that nobody else can point somewhere else.
fn literal(host: &str) -> bool {
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    let name = name.map_or(host, |(name, _)| name);
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || bare.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_page_from_elsewhere_is_refused_and_programs_are_not() {
        for good in [
            &[("host", "localhost:7443")][..],
            &[("host", "any.name")],
            &[
                ("host", "127.0.0.1:7443"),
                ("origin", "http://127.0.0.1:7443"),
                ("sec-fetch-site", "same-origin"),
            ],
            &[("host", "[::1]:7443"), ("origin", "https://[::1]:7443")],
            &[("host", "localhost:7443"), ("sec-fetch-site", "none")],
        ] {
            assert!(!foreign(&headers(good)), "{good:?}");
        }
        for bad in [
            &[("host", "localhost:7443"), ("origin", "http://evil.example")][..],
            &[("host", "localhost:7443"), ("origin", "null")],
            &[("host", "localhost:7443"), ("sec-fetch-site", "cross-site")],
            &[("host", "evil.example:7443"), ("origin", "http://evil.example:7443")],
            &[("host", "evil.example:7443"), ("sec-fetch-site", "same-origin")],
        ] {
            assert!(foreign(&headers(bad)), "{bad:?}");
        }
    }
}
