//! `ls`: a list, and how it changes.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use clap::Args;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::cli::output::{Column, OutputOption, Row, say};
use crate::client::{Client, everything};
use crate::failure::{Failure, Result};

/// How long a list is left alone after it has been read, however much happens.
const PAUSE: Duration = Duration::from_secs(1);

/// Whether to go on showing changes.
#[derive(Debug, Clone, Copy, Args)]
pub struct WatchOption {
    /// Go on showing changes as they happen
    #[arg(short, long)]
    watch: bool,
}

impl WatchOption {
    /// Whether it is.
    pub fn is_wanted(self) -> bool {
        self.watch
    }
}

/// A list as it was shown, by the ids or names of what is in it.
type Shown = BTreeMap<String, Row>;

/// Shows the list at a path of the API; and if that is wanted what is new, different or gone in it, whenever something happens on the host.
///
/// # Errors
/// If the host cannot be reached or refuses, or is gone.
pub async fn show<T: DeserializeOwned>(
    client: &Client,
    path: &str,
    query: &[(&str, String)],
    columns: &[Column<T>],
    (output, watch): (OutputOption, WatchOption),
) -> Result<()> {
    if !watch.watch {
        return output.list(&everything(client, path, query).await?, columns);
    }
    let (out, mut happens) = mpsc::unbounded_channel();
    let mut ready = false;
    let hearing = client.stream("/watch", &[], |kind, _| {
        ready |= kind == "ready";
        // Only tasks change with their progress.
        if ready && (kind != "task" || path == "/tasks") {
            // Whoever has ended does not want to know.
            let _ = out.send(());
        }
        Ok(true)
    });
    let showing = async {
        let mut before: Option<Shown> = None;
        while happens.recv().await.is_some() {
            while happens.try_recv().is_ok() {}
            let items = everything(client, path, query).await?;
            let now = output.rows(&items, columns)?;
            match &before {
                None => output.list(&items, columns)?,
                Some(before) => changes(output, &items, before, &now)?,
            }
            before = Some(now.into_iter().map(|row| (row.key.clone(), row)).collect());
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    };
    tokio::select! {
        ended = hearing => ended,
        failed = showing => failed,
    }
}

/// Shows what is new, different or gone.
fn changes(output: OutputOption, items: &[Value], before: &Shown, now: &[Row]) -> Result<()> {
    for (item, row) in items.iter().zip(now) {
        if before.get(&row.key).is_some_and(|before| before.steady == row.steady) {
            continue;
        }
        line(output, item, row)?;
    }
    for gone in before.values().filter(|before| !now.iter().any(|row| row.key == before.key)) {
        say(&format!("deleted {}", gone.cells.first().unwrap_or(&gone.key)));
    }
    Ok(())
}

/// Shows one thing of a list that is watched.
fn line(output: OutputOption, item: &Value, row: &Row) -> Result<()> {
    match output.is_table() {
        true => say(&row.cells.join("  ")),
        false => output.one(item)?,
    }
    Ok(())
}

/// Shows the log at a path of the API; and if that is wanted what is written to it from then on.
///
/// # Errors
/// As [`show`].
pub async fn log<T: DeserializeOwned>(
    client: &Client,
    path: &str,
    query: &[(&str, String)],
    columns: &[Column<T>],
    (output, watch): (OutputOption, WatchOption),
) -> Result<()> {
    if !watch.watch {
        return output.list(&everything(client, path, query).await?, columns);
    }
    let (out, mut written) = mpsc::unbounded_channel();
    let hearing = client.stream(path, query, |kind, data| {
        let entry: Value = serde_json::from_str(data)
            .map_err(|error| Failure::internal(format!("the host's answer: {error}")))?;
        // Whoever has ended does not want to know.
        let _ = out.send((kind != "ready").then_some(entry));
        Ok(true)
    });
    let showing = async {
        // The stream has begun before the log is read: nothing is missed, but some of it comes twice.
        let mut listed = HashSet::new();
        while let Some(entry) = written.recv().await {
            let Some(entry) = entry else {
                let entries = everything(client, path, query).await?;
                output.list(&entries, columns)?;
                listed.extend(entries.iter().map(Value::to_string));
                continue;
            };
            if listed.contains(&entry.to_string()) {
                continue;
            }
            for row in output.rows(std::slice::from_ref(&entry), columns)? {
                line(output, &entry, &row)?;
            }
        }
        Ok(())
    };
    tokio::select! {
        ended = hearing => ended,
        failed = showing => failed,
    }
}
