//! The API as a program asks it that is not ours.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::Value;

use crate::Daemon;

/// An answer.
pub struct Answer {
    pub status: u16,
    /// The lines before the body, in small letters.
    pub head: String,
    /// What it sets as a cookie.
    pub cookie: Option<String>,
    pub text: String,
    /// The body, if it is JSON.
    pub body: Value,
}

/// Asks for `path`, in `/api/v1` if it does not say so itself, with these headers.
pub fn ask(daemon: &Daemon, method: &str, path: &str, headers: &str, body: &Value) -> Answer {
    let root = if path == "/metrics" || path.starts_with("/api/") { "" } else { "/api/v1" };
    let mut stream = UnixStream::connect(daemon.state().join("host.sock")).unwrap();
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let length = body.len();
    // In one piece: the host may answer and close before the last of several.
    let request = format!(
        "{method} {root}{path} HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    // Not all answers are text.
    let answer = String::from_utf8_lossy(&answer);
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    Answer {
        status: head[9..12].parse().unwrap(),
        head: head.to_lowercase(),
        cookie: head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).map(str::to_owned),
        body: serde_json::from_str(text).unwrap_or_default(),
        text: text.into(),
    }
}
