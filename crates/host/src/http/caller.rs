//! Who a request is from. A handler names the role that it needs by the type of its argument.

use std::sync::Arc;

use api::{Problem, Role};
use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::header;
use axum::http::request::Parts;

use super::error::Error;
use crate::access::{Identity, Origin};
use crate::daemon::Host;

/// Where a connection comes from.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub Option<Origin>);

/// Somebody who may look.
pub struct Viewer;
/// Somebody who may start, stop and use guests.
pub struct Operator(pub Identity);
/// Somebody who may do everything.
pub struct Admin(pub Identity);

/// The caller, if they have `role`.
async fn caller(parts: &mut Parts, host: &Host, role: Role) -> Result<Identity, Error> {
    let peer = parts.extensions.get::<ConnectInfo<Peer>>().and_then(|ConnectInfo(Peer(origin))| *origin);
    let origin = peer.ok_or_else(|| Problem::internal("nobody knows where the request comes from"))?;
    let header = parts.headers.get(header::AUTHORIZATION);
    let secret = match header.map(|value| value.to_str().ok().and_then(|text| text.strip_prefix("Bearer "))) {
        None => None,
        Some(Some(secret)) => Some(secret.trim()),
        Some(None) => {
            let detail = "the header Authorization has to be: Bearer SECRET";
            return Err(Error(Problem::new(401, "Who are you?", detail)));
        }
    };
    let identity = host.access.identify(origin, secret).await?;
    if identity.role < role {
        let detail =
            format!("this needs the role {}, {} is {}", role.word(), identity.actor, identity.role.word());
        return Err(Error(Problem::new(403, "Not allowed", detail)));
    }
    Ok(identity)
}

impl FromRequestParts<Arc<Host>> for Viewer {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, host: &Arc<Host>) -> Result<Self, Error> {
        caller(parts, host, Role::Viewer).await.map(|_| Viewer)
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
