//! Following what goes on: tasks until they end, and streams of server-sent events.

use std::time::{Duration, Instant};

use api::Task;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{Method, header};

use super::{Client, encoded, ended};
use crate::failure::{self, Failure, Result, Status};

/// The longest that the host is asked to wait for a task before we show how far it is.
const GLANCE: Duration = Duration::from_secs(1);

/// The longest that it is asked to wait where nobody looks.
const LONG: &str = "30s";

impl Client {
    /// Waits until a task has ended, with a bar on the terminal, but not for longer than somebody has patience; gives what it gave.
    ///
    /// # Errors
    /// If it fails, or there is no more patience, or the host cannot be reached any more: the task goes on then.
    pub async fn wait(&self, mut task: Task, patience: Option<Duration>) -> Result<Task> {
        let bar = ProgressBar::new(1000);
        if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:30} {wide_msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(format!("{} {}", task.action, task.name));
        let begun = Instant::now();
        while !task.state.is_final() {
            let left =
                patience.map_or(GLANCE, |patience| patience.saturating_sub(begun.elapsed()).min(GLANCE));
            if left.is_zero() {
                bar.finish_and_clear();
                let why = format!("{} of {} goes on: tessera task wait {}", task.action, task.name, task.id);
                return Err(Failure::new(Status::TimedOut, why));
            }
            bar.set_message(task.step.clone());
            bar.set_position((task.progress.unwrap_or(0.0) * 1000.0) as u64);
            let wait = [("wait", format!("{}ms", left.as_millis().max(1)))];
            task = self.get(&format!("/tasks/{}", task.id), &wait).await?;
        }
        bar.finish_and_clear();
        ended(task)
    }

    /// Waits until a task has ended, and shows nothing; gives what it gave.
    ///
    /// # Errors
    /// As [`Client::wait`].
    pub async fn settle(&self, mut task: Task) -> Result<Task> {
        while !task.state.is_final() {
            task = self.get(&format!("/tasks/{}", task.id), &[("wait", LONG.into())]).await?;
        }
        ended(task)
    }

    /// Calls `each` with the kind and the data of every server-sent event at a path, until it says that that is enough.
    ///
    /// # Errors
    /// If the host cannot be reached or refuses, or the stream breaks.
    pub async fn stream(
        &self,
        path: &str,
        query: &[(&str, String)],
        mut each: impl FnMut(&str, &str) -> Result<bool>,
    ) -> Result<()> {
        let path = format!("/api/v1{path}{}", encoded(query));
        let request = self.request(Method::GET, &path).header(header::ACCEPT, "text/event-stream");
        let mut response = self.send(request).await?;
        let mut waiting = Vec::new();
        let broken = |error: &dyn std::error::Error| Failure::internal(failure::chain(error));
        while let Some(chunk) = response.chunk().await.map_err(|error| broken(&error))? {
            waiting.extend_from_slice(&chunk);
            while let Some(end) = waiting.windows(2).position(|two| two == b"\n\n") {
                let event: Vec<u8> = waiting.drain(..end + 2).collect();
                let event = String::from_utf8_lossy(&event);
                let field = |name: &str| {
                    event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim()
                };
                let (kind, data) = (field("event:"), field("data:"));
                if !data.is_empty() && !each(kind, data)? {
                    return Ok(());
                }
            }
        }
        Err(Failure::internal("the host has ended the stream"))
    }
}
