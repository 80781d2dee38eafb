//! What a browser must not be used for: a page from elsewhere that makes requests to this host in the name of who looks at it.

use api::Problem;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::caller::peer;
use super::error::Error;

/// Refuses requests of pages that are not this host's own (by `Origin` and `Sec-Fetch-Site`), and names that somebody else's
/// name server gives to a loopback address (by `Host`). Over TLS, which is not for loopback addresses, a name has to be in the certificate.
pub async fn check(request: Request, next: Next) -> Response {
    let secure = peer(request.extensions()).is_some_and(|peer| peer.secure);
    let shows = *request.method() == Method::GET && !request.uri().path().starts_with("/api/");
    // Anybody may lead people to the page; what it then asks for comes from this host.
    if !shows && foreign(request.headers(), secure) {
        let detail = "the request comes from a page that is not this host's";
        return Error(Problem::new(403, "Not allowed", detail)).into_response();
    }
    next.run(request).await
}

fn text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn foreign(headers: &HeaderMap, secure: bool) -> bool {
    let site = headers.get("sec-fetch-site").and_then(|value| value.to_str().ok());
    if matches!(site, Some("cross-site" | "same-site")) {
        return true;
    }
    let Some(host) = text(headers, &header::HOST) else { return false };
    match text(headers, &header::ORIGIN) {
        // Only a browser says where its page is from; what it says has to be where it asks.
        Some(origin) => {
            let own = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            own != Some(host) || !(secure || literal(host))
        }
        None => site.is_some() && !(secure || literal(host)),
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
            assert!(!foreign(&headers(good), false), "{good:?}");
        }
        for bad in [
            &[("host", "localhost:7443"), ("origin", "http://evil.example")][..],
            &[("host", "localhost:7443"), ("origin", "null")],
            &[("host", "localhost:7443"), ("sec-fetch-site", "cross-site")],
            &[("host", "evil.example:7443"), ("origin", "http://evil.example:7443")],
            &[("host", "evil.example:7443"), ("sec-fetch-site", "same-origin")],
        ] {
            assert!(foreign(&headers(bad), false), "{bad:?}");
        }
    }
}
