//! Who a request is from. A handler names the role that it needs by the type of its argument.

use std::sync::Arc;

use api::{Problem, Role};
use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;

use super::error::Error;
use super::scope;
use crate::access::{Identity, Origin, Shown};
use crate::daemon::Host;

/// Where a connection comes from.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// From where.
    pub origin: Option<Origin>,
    /// Whether nobody on the way can read it.
    pub secure: bool,
}

/// Who a request is from, as far as the host knows them: what [`identify`] leaves in a request.
#[derive(Debug, Clone)]
pub struct Caller(pub Result<Identity, Problem>);

/// Somebody who may look.
pub struct Viewer(pub Identity);
/// Somebody who may start, stop and use guests.
pub struct Operator(pub Identity);
/// Somebody who may do everything.
pub struct Admin(pub Identity);

/// The name of the cookie that holds a session's secret. Cookies do not tell the ports of a machine apart, so that each host needs a name
/// of its own.
pub fn cookie_name(host: &Host) -> String {
    let id = host.id.to_string();
    format!("tessera-session-{}", id.rsplit('-').next().unwrap_or_default())
}

/// The session's secret that a request shows.
pub fn session_secret<'a>(host: &Host, headers: &'a HeaderMap) -> Option<&'a str> {
    let name = cookie_name(host);
    let all = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut cookies = all.flat_map(|line| line.split(';')).filter_map(|cookie| cookie.trim().split_once('='));
    cookies.find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// The connection that a request came by.
pub fn peer(extensions: &axum::http::Extensions) -> Option<Peer> {
    extensions.get::<ConnectInfo<Peer>>().map(|ConnectInfo(peer)| *peer)
}

async fn known(host: &Host, peer: Option<Peer>, headers: &HeaderMap) -> Result<Identity, Problem> {
    let origin = peer.and_then(|peer| peer.origin);
    let origin = origin.ok_or_else(|| Problem::internal("nobody knows where the request comes from"))?;
    let token = match headers.get(header::AUTHORIZATION) {
        None => None,
        Some(value) => {
            let secret = value.to_str().ok().and_then(|text| text.strip_prefix("Bearer "));
            let detail = "the header Authorization has to be: Bearer SECRET";
            Some(secret.ok_or_else(|| Problem::new(401, "Who are you?", detail))?.trim())
        }
    };
    host.access.identify(origin, Shown { token, session: session_secret(host, headers) }).await
}

/// Finds out who each request of the API is from.
pub async fn identify(State(host): State<Arc<Host>>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if path.starts_with("/api/") || path == "/metrics" {
        let caller = Caller(known(&host, peer(request.extensions()), request.headers()).await);
        request.extensions_mut().insert(caller);
    }
    next.run(request).await
}

/// The caller, if they have `role`, and what they ask for is theirs.
async fn caller(parts: &mut Parts, host: &Arc<Host>, role: Role) -> Result<Identity, Error> {
    let caller = parts.extensions.get::<Caller>().cloned();
    let Caller(identity) = caller.ok_or_else(|| Problem::internal("nobody asked who the request is from"))?;
    let identity = identity?;
    if identity.role < role {
        let detail =
            format!("this needs the role {}, {} is {}", role.word(), identity.actor, identity.role.word());
        return Err(Error(Problem::new(403, "Not allowed", detail)));
    }
    if identity.is_bound() {
        scope::check(parts, host, &identity).await?;
    }
    Ok(identity)
}

impl FromRequestParts<Arc<Host>> for Viewer {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, host: &Arc<Host>) -> Result<Self, Error> {
        caller(parts, host, Role::Viewer).await.map(Viewer)
    }
}

impl FromRequestParts<Arc<Host>> for Operator {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, host: &Arc<Host>) -> Result<Self, Error> {
        caller(parts, host, Role::Operator).await.map(Operator)
    }
}

impl FromRequestParts<Arc<Host>> for Admin {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, host: &Arc<Host>) -> Result<Self, Error> {
        caller(parts, host, Role::Admin).await.map(Admin)
    }
}
