//! Changes, which are tasks: beginning them, waiting for them, and saying what became of them.

use std::time::Duration;

use api::Task;
use clap::Args;
use reqwest::Method;
use serde_json::Value;

use crate::cli::output::say;
use crate::client::Client;
use crate::failure::Result;

/// Whether to wait for a change.
#[derive(Debug, Clone, Copy, Args)]
pub struct WaitOption {
    /// Wait until it is done, which is so if nothing is said
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Do not wait until it is done
    #[arg(long)]
    no_wait: bool,
    /// Wait so many seconds at most; it goes on then, and the exit status is 8
    #[arg(long, value_name = "SECONDS", conflicts_with = "no_wait")]
    timeout: Option<u64>,
}

impl WaitOption {
    /// Waits for a task, if that is wanted.
    ///
    /// # Errors
    /// If it fails, or takes longer than somebody wants to wait.
    pub async fn wait(self, client: &Client, task: Task) -> Result<Task> {
        if self.no_wait && !self.wait {
            return Ok(task);
        }
        client.wait(task, self.timeout.map(Duration::from_secs)).await
    }
}

/// Begins a change, and waits for it if that is wanted.
///
/// # Errors
/// If it cannot be begun, or fails.
pub async fn change(
    client: &Client,
    method: Method,
    path: &str,
    query: &[(&str, String)],
    body: Option<&Value>,
    wait: WaitOption,
) -> Result<Task> {
    let task = client.change(method, path, query, body).await?;
    wait.wait(client, task).await
}

/// What is said of a change.
pub fn done(name: &str, what: &str, task: &Task) {
    if task.state.is_final() {
        say(&format!("{name} {what}"));
    } else {
        say(&format!("task {}", task.id));
    }
}

/// Begins it with all of them, and then waits for each; those that fail do not keep it from the others. Ends as the first failure.
///
/// # Errors
/// If it fails with one of them.
pub async fn all_at_once(
    client: &Client,
    names: &[String],
    begin: impl AsyncFn(&str) -> Result<Task>,
    what: impl Fn(&Task) -> String,
    wait: WaitOption,
) -> Result<()> {
    let mut first = Ok(());
    let mut failed = |name: &str, failure| {
        if names.len() > 1 {
            eprintln!("tessera: {name}: {failure}");
        }
        if first.is_ok() {
            first = Err(failure);
        }
    };
    let mut begun = Vec::new();
    for name in names {
        match begin(name).await {
            Ok(task) => begun.push((name, task)),
            Err(failure) => failed(name, failure),
        }
    }
    for (name, task) in begun {
        match wait.wait(client, task).await {
            Ok(task) => done(name, &what(&task), &task),
            Err(failure) => failed(name, failure),
        }
    }
    first
}
