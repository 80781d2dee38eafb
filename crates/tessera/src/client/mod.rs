//! The command line's side of the API: finds a host, asks it, and makes errors of its problems.

mod bytes;
mod console;
mod follow;
mod tls;

use std::path::PathBuf;
use std::sync::Arc;

use api::{List, Problem, Task, TaskState};
use clap::Args;
use reqwest::{Method, RequestBuilder, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_rustls::rustls::ClientConfig;

use crate::failure::{self, Failure, Result, Status};

/// Which host is asked.
#[derive(Debug, Clone, Args)]
pub struct HostOption {
    /// The host to ask: https://ADDRESS:PORT, http:// for a loopback address, or the path of its socket
    #[arg(long, global = true, value_name = "URL", env = "TESSERA_HOST", help_heading = "Host")]
    host: Option<String>,
    /// The token to show, for a host that does not know this user
    #[arg(
        long,
        global = true,
        value_name = "SECRET",
        env = "TESSERA_TOKEN",
        hide_env_values = true,
        help_heading = "Host"
    )]
    token: Option<String>,
    /// The certificate of the authority that the host's own comes from (PEM), in place of those that this machine trusts
    #[arg(long, global = true, value_name = "FILE", env = "TESSERA_CA", help_heading = "Host")]
    ca: Option<PathBuf>,
}

/// Where a host listens.
#[derive(Debug, Clone)]
enum Place {
    Socket(PathBuf),
    Url(String),
}

/// A connection to a host.
pub struct Client {
    http: reqwest::Client,
    place: Place,
    token: Option<String>,
    /// How connections to it are encrypted, if they are.
    tls: Option<Arc<ClientConfig>>,
}

/// The folder of a daemon that is told nothing else: the machine's for root, one's own for others.
pub fn default_state() -> Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok("/var/lib/tessera".into());
    }
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_STATE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("tessera"))
        .ok_or_else(|| Failure::input("no place for the host's state: give --state-dir, or set HOME"))
}

impl HostOption {
    /// Whether somebody has said which host.
    pub fn is_given(&self) -> bool {
        self.host.is_some()
    }

    /// The folder of a host that can be looked into if its daemon does not answer: the one that was named, or this machine's if no other host
    /// was.
    ///
    /// # Errors
    /// If there is no place for it.
    pub fn own(&self, named: Option<PathBuf>) -> Result<Option<PathBuf>> {
        match named {
            Some(state) => Ok(Some(state)),
            None if self.host.is_some() => Ok(None),
            None => default_state().map(Some),
        }
    }

    /// The host of this folder, in place of any other.
    ///
    /// # Errors
    /// If connections cannot be made at all.
    pub fn client_of(&self, state: &std::path::Path) -> Result<Client> {
        self.connect(Place::Socket(state.join("host.sock")))
    }

    /// Who is asked.
    ///
    /// # Errors
    /// If there is no such host to be found.
    pub fn client(&self) -> Result<Client> {
        let place = match self.host.as_deref() {
            Some(url) if url.starts_with("http://") || url.starts_with("https://") => {
                Place::Url(url.trim_end_matches('/').to_owned())
            }
            Some(path) if path.starts_with(['/', '.']) => Place::Socket(path.into()),
            Some(path) if path.starts_with("unix:") => Place::Socket(path[5..].into()),
            Some(other) => {
                let detail = "write it as https://ADDRESS:PORT, or as the path of a socket";
                return Err(Failure::input(format!("--host {other}: {detail}")));
            }
            None => Place::Socket(default_state()?.join("host.sock")),
        };
        self.connect(place)
    }

    fn connect(&self, place: Place) -> Result<Client> {
        let mut builder = reqwest::Client::builder().no_proxy();
        if let Place::Socket(path) = &place {
            builder = builder.unix_socket(path.clone());
        }
        let encrypted = matches!(&place, Place::Url(url) if url.starts_with("https://"));
        let config = if encrypted { tls::config(self.ca.as_deref())? } else { tls::unused()? };
        builder = builder.tls_backend_preconfigured(config.clone());
        let tls = encrypted.then(|| Arc::new(config));
        let http = builder.build().map_err(|error| Failure::internal(failure::chain(&error)))?;
        Ok(Client { http, place, token: self.token.clone(), tls })
    }
}

impl Client {
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let base = match &self.place {
            Place::Socket(_) => "http://localhost",
            Place::Url(url) => url,
        };
        let request = self.http.request(method, format!("{base}{path}"));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Nobody answers.
    fn unreachable(&self, error: &dyn std::error::Error) -> Failure {
        let told = failure::chain(error);
        let why = told.rsplit(": ").next().unwrap_or(&told);
        match &self.place {
            Place::Socket(path) => Failure::unreachable(format!(
                "no host answers at {}: {why}; start one with tessera host, or name one with --host",
                path.display()
            )),
            Place::Url(url) => Failure::unreachable(format!("no host answers at {url}: {why}")),
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<reqwest::Response> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let problem = response.json::<Problem>().await.unwrap_or_else(|_| {
            Problem::new(status.as_u16(), "The host failed", format!("the host answered {status}"))
        });
        Err(told(&problem))
    }

    async fn read<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let response = self.send(request).await?;
        if response.status() == StatusCode::NO_CONTENT {
            return serde_json::from_value(Value::Null).map_err(|error| Failure::internal(error.to_string()));
        }
        response.json().await.map_err(|error| Failure::internal(failure::chain(&error)))
    }

    /// What is at a path of `/api/v1`.
    ///
    /// # Errors
    /// If the host cannot be reached or refuses.
    pub async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> Result<T> {
        self.read(self.request(Method::GET, &format!("/api/v1{path}{}", encoded(query)))).await
    }

    /// What is at a path, as text.
    ///
    /// # Errors
    /// If the host cannot be reached or refuses.
    pub async fn text(&self, path: &str) -> Result<Vec<u8>> {
        let response = self.send(self.request(Method::GET, &format!("/api/v1{path}"))).await?;
        let bytes = response.bytes().await.map_err(|error| Failure::internal(failure::chain(&error)))?;
        Ok(bytes.to_vec())
    }

    /// Asks for a change.
    ///
    /// # Errors
    /// If the host cannot be reached or refuses.
    pub async fn change<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<&Value>,
    ) -> Result<T> {
        let request = self.request(method, &format!("/api/v1{path}{}", encoded(query)));
        self.read(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await
    }

    /// Asks for something, or for a change of it if it is still the version with this tag; gives it with its tag.
    ///
    /// # Errors
    /// If the host cannot be reached or refuses.
    pub async fn tagged<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        tag: Option<&str>,
        body: Option<&Value>,
    ) -> Result<(T, String)> {
        let mut request = self.request(method, &format!("/api/v1{path}"));
        if let Some(tag) = tag {
            request = request.header(header::IF_MATCH, tag);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = self.send(request).await?;
        let tag = response.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok());
        let tag = tag.unwrap_or_default().to_owned();
        let found = response.json().await.map_err(|error| Failure::internal(failure::chain(&error)))?;
        Ok((found, tag))
    }
}

/// All items of a list, page by page.
///
/// # Errors
/// If the host cannot be reached or refuses.
pub async fn everything(client: &Client, path: &str, query: &[(&str, String)]) -> Result<Vec<Value>> {
    let mut items = Vec::new();
    let mut query = query.to_vec();
    loop {
        let page: List<Value> = client.get(path, &query).await?;
        items.extend(page.items);
        let Some(next) = page.next else { return Ok(items) };
        query.retain(|(name, _)| *name != "cursor");
        query.push(("cursor", next));
    }
}

/// A query as it stands in a URL.
fn encoded(query: &[(&str, String)]) -> String {
    let mut text = String::new();
    for (name, value) in query {
        text += if text.is_empty() { "?" } else { "&" };
        text += name;
        text += "=";
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    text.push(byte as char)
                }
                other => text += &format!("%{other:02X}"),
            }
        }
    }
    text
}

/// A problem in one line, and the exit status that goes with it.
pub fn told(problem: &Problem) -> Failure {
    let status = match problem.status {
        400 | 413 | 415 | 422 => Status::BadInput,
        404 => Status::NotFound,
        401 | 403 => Status::NotAllowed,
        409 | 412 | 503 | 504 => Status::NotNow,
        _ => Status::Internal,
    };
    Failure::new(status, &problem.detail)
}

/// A path segment of what a person typed.
///
/// # Errors
/// If it cannot be a name or an id: it would lead elsewhere.
pub fn segment(name: &str) -> Result<&str> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(good) {
        return Err(Failure::input(format!("'{name}' is no name or id")));
    }
    Ok(name)
}

/// What a task that has ended means for a command.
///
/// # Errors
/// If it failed or was called off.
pub fn ended(task: Task) -> Result<Task> {
    match (task.state, &task.error) {
        (TaskState::Failed, Some(problem)) => Err(told(problem)),
        (TaskState::Failed | TaskState::Cancelled, _) => {
            Err(Failure::new(Status::NotNow, format!("the task {} was called off", task.id)))
        }
        _ => Ok(task),
    }
}
