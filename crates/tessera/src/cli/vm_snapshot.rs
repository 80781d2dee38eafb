//! `tessera vm snapshot …`: what guests were, and going back there.

use std::collections::HashMap;
use std::path::PathBuf;

use api::{Id, List, Name, NewSnapshot, Size, Snapshot};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::cli::backup::Draft;
use crate::cli::guest_backup::RestoreOption;
use crate::cli::output::{Column, OutputOption, age, say, size};
use crate::cli::vm::{WaitOption, change, done};
use crate::client::{Client, segment};
use crate::failure::{Failure, Result};

/// What can be done with a guest's snapshots.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Show a guest's snapshots as the tree that they are
    #[command(visible_alias = "list")]
    Ls {
        /// The guest's name or id
        vm: String,
        #[command(flatten)]
        output: OutputOption,
    },
    /// Show one snapshot
    Show {
        /// The guest's name or id
        vm: String,
        /// The snapshot's name or id
        snapshot: String,
        #[command(flatten)]
        output: OutputOption,
    },
    /// Keep what a guest is now; it goes on meanwhile
    Create {
        /// The guest's name or id
        vm: String,
        /// The snapshot's name
        name: Name,
        /// What it is for
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
        /// Keep the memory, too: it goes on from there as if nothing had been
        #[arg(long)]
        memory: bool,
        /// Have the guest's agent make its file systems rest for it
        #[arg(long, conflicts_with = "memory")]
        quiesce: bool,
        #[command(flatten)]
        wait: WaitOption,
    },
    /// Change a snapshot's name, or what it is for
    Edit {
        /// The guest's name or id
        vm: String,
        /// The snapshot's name or id
        snapshot: String,
        /// What it is to be called
        #[arg(long, required_unless_present = "description")]
        name: Option<Name>,
        /// What it is for
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// Write a snapshot into one file, for tessera vm import on this host or another one; without its memory
    Export {
        /// The guest's name or id
        vm: String,
        /// The snapshot's name or id
        snapshot: String,
        /// The file, which must not be there yet: a tar archive
        file: PathBuf,
    },
    /// Have a guest go back to a snapshot: what was written since the last one is lost
    Revert {
        /// The guest's name or id
        vm: String,
        /// The snapshot's name or id
        snapshot: String,
        /// Pull its plug first if it runs
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        wait: WaitOption,
    },
    /// Delete a snapshot; the guest and its other snapshots stay what they are
    #[command(visible_alias = "rm")]
    Delete {
        /// The guest's name or id
        vm: String,
        /// The snapshot's name or id
        snapshot: String,
        #[command(flatten)]
        wait: WaitOption,
    },
}

/// Arguments of `tessera vm import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The file that a snapshot was exported to
    file: PathBuf,
    #[command(flatten)]
    as_what: RestoreOption,
}

impl ImportArgs {
    /// Does it.
    ///
    /// # Errors
    /// If the file cannot be read or used, or the host refuses it.
    pub async fn execute(self, client: &Client) -> Result<()> {
        let upload = client.upload_file(&self.file).await?;
        let words = if self.as_what.start { "runs" } else { "has been made" };
        self.as_what.make(client, &format!("/uploads/{upload}/restore"), words).await
    }
}

/// A snapshot and its place in the tree.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    tree: String,
    #[serde(flatten)]
    snapshot: Snapshot,
}

const COLUMNS: [Column<Row>; 7] = [
    Column::text("NAME", |row: &Row| row.tree.clone()),
    Column::text("CREATED", |row: &Row| age(row.snapshot.created)),
    Column::text("STATE", |row: &Row| row.snapshot.state.word().to_owned()),
    Column::number("MEMORY", |row: &Row| {
        row.snapshot.memory.map_or_else(|| "-".to_owned(), |bytes: Size| size(bytes))
    }),
    Column::number("DISKS", |row: &Row| row.snapshot.disks.len().to_string()),
    Column::text("DESCRIPTION", |row: &Row| row.snapshot.description.clone()),
    Column::text("ID", |row: &Row| row.snapshot.id.to_string()).wide(),
];

/// The snapshots in the order of their tree, each with what is drawn before its name.
fn tree(all: Vec<Snapshot>) -> Vec<Row> {
    let ids: Vec<Id> = all.iter().map(|one| one.id).collect();
    let mut children: HashMap<Option<Id>, Vec<Snapshot>> = HashMap::new();
    for one in all {
        // What its parent was is gone with it.
        let parent = one.parent.filter(|parent| ids.contains(parent));
        children.entry(parent).or_default().push(one);
    }
    let mut rows = Vec::new();
    grow(&mut children, None, "", &mut rows);
    rows
}

fn grow(
    children: &mut HashMap<Option<Id>, Vec<Snapshot>>,
    of: Option<Id>,
    before: &str,
    rows: &mut Vec<Row>,
) {
    let list = children.remove(&of).unwrap_or_default();
    let count = list.len();
    for (n, snapshot) in list.into_iter().enumerate() {
        let last = n + 1 == count;
        let (branch, deeper) = match of {
            None => ("", String::new()),
            Some(_) if last => ("└─ ", format!("{before}   ")),
            Some(_) => ("├─ ", format!("{before}│  ")),
        };
        let here = if snapshot.current { " *" } else { "" };
        let (id, tree) = (snapshot.id, format!("{before}{branch}{}{here}", snapshot.name));
        rows.push(Row { tree, snapshot });
        grow(children, Some(id), &deeper, rows);
    }
}

fn path(vm: &str, rest: &str) -> Result<String> {
    Ok(format!("/vms/{}/snapshots{rest}", segment(vm)?))
}

impl SnapshotCommand {
    /// Does it.
    ///
    /// # Errors
    /// If the host refuses it, or cannot be reached.
    pub async fn execute(self, client: &Client) -> Result<()> {
        let failed = |error: serde_json::Error| Failure::internal(error.to_string());
        match self {
            SnapshotCommand::Ls { vm, output } => {
                let all: List<Snapshot> = client.get(&path(&vm, "")?, &[]).await?;
                let plain = !output.is_table();
                let value = |row: Row| match plain {
                    true => serde_json::to_value(row.snapshot),
                    false => serde_json::to_value(row),
                };
                let rows: Vec<Value> = tree(all.items)
                    .into_iter()
                    .map(value)
                    .collect::<std::result::Result<_, _>>()
                    .map_err(failed)?;
                output.list(&rows, &COLUMNS)
            }
            SnapshotCommand::Show { vm, snapshot, output } => {
                output.one(&client.get(&path(&vm, &format!("/{}", segment(&snapshot)?))?, &[]).await?)
            }
            SnapshotCommand::Create { vm, name, description, memory, quiesce, wait } => {
                let new =
                    json!(NewSnapshot { name: name.clone(), description, memory, quiesce, schedule: None });
                let task = change(client, Method::POST, &path(&vm, "")?, &[], Some(&new), wait).await?;
                done(name.as_str(), "has been made", &task);
                Ok(())
            }
            SnapshotCommand::Edit { vm, snapshot, name, description } => {
                let path = path(&vm, &format!("/{}", segment(&snapshot)?))?;
                let mut patch = Map::new();
                patch.extend(name.map(|name| ("name".to_owned(), json!(name))));
                patch.extend(description.map(|text| ("description".to_owned(), text.into())));
                client.change::<Value>(Method::PATCH, &path, &[], Some(&patch.into())).await?;
                say(&format!("{snapshot} has been changed"));
                Ok(())
            }
            SnapshotCommand::Export { vm, snapshot, file } => {
                let path = path(&vm, &format!("/{}/data", segment(&snapshot)?))?;
                let draft = Draft::new(&file, false)?;
                client.download(&path, &[], draft.writer()?).await?;
                draft.finish()?;
                say(&format!("{snapshot} has been exported to {}", file.display()));
                Ok(())
            }
            SnapshotCommand::Revert { vm, snapshot, force, wait } => {
                let path = path(&vm, &format!("/{}/revert", segment(&snapshot)?))?;
                let how = json!({ "force": force });
                let task = change(client, Method::POST, &path, &[], Some(&how), wait).await?;
                done(&vm, &format!("is what it was at {snapshot}"), &task);
                Ok(())
            }
            SnapshotCommand::Delete { vm, snapshot, wait } => {
                let path = path(&vm, &format!("/{}", segment(&snapshot)?))?;
                let task = change(client, Method::DELETE, &path, &[], None, wait).await?;
                done(&snapshot, "has been deleted", &task);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_drawn_with_its_branches() {
        let id = |n: u8| format!("01a21afc-97ad-7000-8000-0000000000{n:02x}");
        let snapshot = |n: u8, parent: Option<u8>, current: bool| -> Snapshot {
            let whole = json!({ "id": id(n), "name": format!("s{n}"), "created": "2026-11-27T00:00:00Z",
                "parent": parent.map(id), "current": current, "state": "running", "disks": [] });
            serde_json::from_value(whole).unwrap()
        };
        let all = [(1, None), (2, Some(1)), (3, Some(2)), (4, Some(1)), (5, Some(99))];
        let all = all.map(|(n, parent)| snapshot(n, parent, n == 3));
        let drawn: Vec<_> = tree(all.into()).into_iter().map(|row| row.tree).collect();
        assert_eq!(drawn, ["s1", "├─ s2", "│  └─ s3 *", "└─ s4", "s5"]);
    }
}
