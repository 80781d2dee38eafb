//! `/session`: logging in and out, and who one is.

use std::sync::Arc;

use api::{Login, LoginLink, PasswordChange, Problem, Session};
use axum::extract::{Request, State};
use axum::http::{Extensions, HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};

use super::audit::Named;
use super::caller::{Admin, Viewer, cookie_name, peer, session_secret};
use super::error::{Error, Result};
use super::input::{Body, Query};
use crate::access::{Origin, SESSION_LIFE};
use crate::daemon::Host;

/// Who one is, and what one may do.
#[utoipa::path(get, path = "/session", tag = "access", security(("token" = ["viewer"])), responses(
    (status = 200, description = "Who asks", body = Session),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn get(Viewer(identity): Viewer) -> axum::Json<Session> {
    axum::Json(identity.session())
}

/// From where a request comes.
fn place(extensions: &Extensions) -> String {
    let origin = peer(extensions).and_then(|peer| peer.origin);
    origin.map_or_else(String::new, Origin::place)
}

/// The cookie of a session; the one that ends it without a secret.
fn cookie(host: &Host, secret: Option<&str>, secure: bool) -> Result<HeaderValue> {
    let name = cookie_name(host);
    let (value, age) = secret.map_or(("", 0), |secret| (secret, SESSION_LIFE.as_secs()));
    // Where a connection is not encrypted a browser would not send a cookie that has to be.
    let secure = if secure { "; Secure" } else { "" };
    let cookie = format!("{name}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{secure}");
    cookie.parse().map_err(|_| Error(Problem::internal("a cookie cannot be made")))
}

/// Logs a user in. The answer's cookie is what later requests show.
#[utoipa::path(post, path = "/session", tag = "access", security(()), request_body = Login, responses(
    (status = 200, description = "Who has logged in", body = Session, headers(("Set-Cookie" = String, description = "The session"))),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn log_in(
    State(host): State<Arc<Host>>,
    extensions: Extensions,
    Body(login): Body<Login>,
) -> Response {
    let place = place(&extensions);
    let user: String = login.user.chars().take(63).collect();
    let secure = peer(&extensions).is_some_and(|peer| peer.secure);
    let answer = async {
        if login.password.chars().count() > 256 {
            return Err(Error(Problem::new(401, "Who are you?", "the user or the password is wrong")));
        }
        let begun = host.access.log_in(login, &place).await?;
        let cookie = cookie(&host, Some(&begun.secret), secure)?;
        Ok(([(header::SET_COOKIE, cookie)], axum::Json(begun.identity.session())).into_response())
    };
    let mut response = answer.await.into_response();
    response.extensions_mut().insert(Named(user));
    response
}

/// Logs out.
#[utoipa::path(delete, path = "/session", tag = "access", security(("token" = ["viewer"])), responses(
    (status = 204, description = "The session has ended"),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn log_out(State(host): State<Arc<Host>>, _: Viewer, headers: HeaderMap) -> Result<Response> {
    if let Some(secret) = session_secret(&host, &headers) {
        host.access.log_out(secret).await?;
    }
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie(&host, None, false)?)]).into_response())
}

/// Changes one's own password. One has to log in again, everywhere.
#[utoipa::path(post, path = "/session/password", tag = "access", security(("token" = ["viewer"])), request_body = PasswordChange, responses(
    (status = 204, description = "It is the new one from now on"),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn password(
    State(host): State<Arc<Host>>,
    Viewer(identity): Viewer,
    extensions: Extensions,
    Body(change): Body<PasswordChange>,
) -> Result<StatusCode> {
    let user =
        identity.user.ok_or_else(|| Problem::conflict(format!("{} has no password here", identity.actor)))?;
    let wrong = change.check();
    if !wrong.is_empty() {
        return Err(Problem::invalid(wrong).into());
    }
    host.access.change_own_password(&user, change, &place(&extensions)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes an address that logs in who opens it first: for a browser of somebody whom the host knows on the command line.
#[utoipa::path(post, path = "/session/links", tag = "access", security(("token" = ["admin"])), responses(
    (status = 201, description = "The address", body = LoginLink),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn link(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
) -> Result<(StatusCode, axum::Json<LoginLink>)> {
    Ok((StatusCode::CREATED, axum::Json(host.access.link(identity)?)))
}

/// What the address of a link says.
#[derive(serde::Deserialize)]
pub struct Once {
    once: Option<String>,
}

/// Opens a link: logs in, and leads to the page. Without a secret it is a place of the page.
pub async fn open(
    State(host): State<Arc<Host>>,
    Query(Once { once }): Query<Once>,
    request: Request,
) -> Response {
    let secure = peer(request.extensions()).is_some_and(|peer| peer.secure);
    let answer = async {
        let Some(secret) = once else { return Ok(Redirect::to("/").into_response()) };
        let begun = host.access.open_link(&secret).await?;
        let cookie = cookie(&host, Some(&begun.secret), secure)?;
        Ok::<_, Error>(([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response())
    };
    let mut response = answer.await.into_response();
    response.extensions_mut().insert(Named("a login link".into()));
    // Where the address is noted down somewhere, it is of no use any more; it should not even get there.
    response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
