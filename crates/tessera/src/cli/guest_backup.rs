//! `tessera backup …`: what guests were, kept elsewhere, to be made again of it.

use api::{Backup, Name, NewBackup, RestoreBackup};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use crate::cli::listing::{WatchOption, show};
use crate::cli::output::{Column, OutputOption, age, size};
use crate::cli::vm::{WaitOption, change, done};
use crate::cli::waiting::all_at_once;
use crate::client::{Client, HostOption, everything, segment};
use crate::failure::{self, Failure, Result};

/// What can be done with backups.
#[derive(Debug, Subcommand)]
#[command(after_help = failure::HOST_STATUS_HELP)]
pub enum BackupCommand {
    /// Show the backups in the pools of a host
    #[command(visible_alias = "list")]
    Ls {
        /// Only those of this guest, which is still there
        vm: Option<String>,
        #[command(flatten)]
        output: OutputOption,
        /// Only those that this fits: vm_name=web*, pool=vault, with commas between
        #[arg(short, long, value_name = "TERMS")]
        filter: Option<String>,
        #[command(flatten)]
        watch: WatchOption,
    },
    /// Show everything about a backup
    Show {
        /// Its name or id
        backup: String,
        #[command(flatten)]
        output: OutputOption,
    },
    /// Back a guest up into a pool; it goes on meanwhile
    ///
    /// After the first one a backup has only what differs from the last one in the same pool.
    Create(CreateArgs),
    /// Look at all of backups, and of those that they need, whether it is what was written
    Verify {
        /// Their names or ids
        #[arg(required_unless_present = "all", value_name = "BACKUP")]
        backups: Vec<String>,
        /// All backups in all pools
        #[arg(long, conflicts_with = "backups")]
        all: bool,
        #[command(flatten)]
        wait: WaitOption,
    },
    /// Make a guest of a backup
    Restore {
        /// The backup's name or id
        backup: String,
        #[command(flatten)]
        as_what: RestoreOption,
    },
    /// Remove backups of which no others have only what differs
    #[command(visible_alias = "rm")]
    Delete {
        /// Their names or ids
        #[arg(required = true, value_name = "BACKUP")]
        backups: Vec<String>,
        #[command(flatten)]
        wait: WaitOption,
    },
}

/// What a guest that is made of a backup, or of a snapshot that was exported, is to be.
#[derive(Debug, Args)]
pub struct RestoreOption {
    /// The new guest's name
    name: Name,
    /// Give its cards the hardware and IP addresses that they had: for a guest that is gone
    #[arg(long)]
    keep_addresses: bool,
    /// Start it when it has been made
    #[arg(long)]
    pub start: bool,
    #[command(flatten)]
    wait: WaitOption,
}

impl RestoreOption {
    /// Has the host make it by a call of `path`; `words` are said of it then.
    ///
    /// # Errors
    /// If the host refuses it, or cannot.
    pub async fn make(self, client: &Client, path: &str, words: &str) -> Result<()> {
        let Self { name, keep_addresses, start, wait } = self;
        let wanted = json!(RestoreBackup { name: name.clone(), keep_addresses, start });
        let task = change(client, Method::POST, path, &[], Some(&wanted), wait).await?;
        done(name.as_str(), words, &task);
        Ok(())
    }
}

/// Arguments of `tessera backup create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The guest's name or id
    vm: String,
    /// The backup's name: the guest's and the time if nothing is said
    name: Option<Name>,
    /// The pool that it is put into: one that is not on the disks which the guest is on
    #[arg(long, value_name = "NAME")]
    pool: Name,
    /// What it is for
    #[arg(long, value_name = "TEXT", default_value = "")]
    description: String,
    /// Put all that is on the disks into it
    #[arg(long)]
    full: bool,
    /// Have the guest's agent make its file systems rest for it
    #[arg(long)]
    quiesce: bool,
    #[command(flatten)]
    wait: WaitOption,
}

const COLUMNS: [Column<Backup>; 7] = [
    Column::text("NAME", |backup: &Backup| backup.name.to_string()),
    Column::text("GUEST", |backup: &Backup| match backup.vm_name.as_str() {
        "" => "-".into(),
        name => name.into(),
    }),
    Column::text("POOL", |backup: &Backup| backup.pool.to_string()),
    Column::text("CREATED", |backup: &Backup| age(backup.created)).passing(),
    Column::text("KIND", |backup: &Backup| match (&backup.problem, backup.parent) {
        (Some(problem), _) => problem.clone(),
        (None, None) => "full".into(),
        (None, Some(_)) => "incremental".into(),
    }),
    Column::number("STORED", |backup: &Backup| size(backup.stored)),
    Column::text("ID", |backup: &Backup| backup.id.to_string()).wide(),
];

fn path(backup: &str, rest: &str) -> Result<String> {
    Ok(format!("/backups/{}{rest}", segment(backup)?))
}

/// Has the host look at backups.
async fn verify(client: &Client, backups: &[String], wait: WaitOption) -> Result<()> {
    let begin = async |name: &str| client.change(Method::POST, &path(name, "/verify")?, &[], None).await;
    let what = |task: &api::Task| {
        let read = serde_json::from_value::<api::Size>(task.result["bytes"].clone()).unwrap_or_default();
        format!("is good: {} were read", size(read))
    };
    all_at_once(client, backups, begin, what, wait).await
}

impl BackupCommand {
    /// Does it.
    ///
    /// # Errors
    /// If the host refuses it, or cannot be reached.
    pub async fn execute(self, host: &HostOption) -> Result<()> {
        let client = host.client()?;
        match self {
            BackupCommand::Ls { vm, output, filter, watch } => {
                let at = match &vm {
                    Some(vm) => format!("/vms/{}/backups", segment(vm)?),
                    None => "/backups".into(),
                };
                let query: Vec<_> = filter.into_iter().map(|filter| ("filter", filter)).collect();
                show(&client, &at, &query, &COLUMNS, (output, watch)).await
            }
            BackupCommand::Show { backup, output } => {
                output.one(&client.get(&path(&backup, "")?, &[]).await?)
            }
            BackupCommand::Create(args) => args.execute(&client).await,
            BackupCommand::Verify { backups, all, wait } => {
                let backups = match all {
                    false => backups,
                    true => {
                        let all = everything(&client, "/backups", &[]).await?;
                        all.iter().filter_map(|one| one["id"].as_str().map(str::to_owned)).collect()
                    }
                };
                verify(&client, &backups, wait).await
            }
            BackupCommand::Restore { backup, as_what } => {
                let words = format!("has been made of {backup}");
                as_what.make(&client, &path(&backup, "/restore")?, &words).await
            }
            BackupCommand::Delete { backups, wait } => {
                let begin =
                    async |name: &str| client.change(Method::DELETE, &path(name, "")?, &[], None).await;
                all_at_once(&client, &backups, begin, |_| "has been deleted".into(), wait).await
            }
        }
    }
}

impl CreateArgs {
    async fn execute(self, client: &Client) -> Result<()> {
        let CreateArgs { vm, name, pool, description, full, quiesce, wait } = self;
        let new = json!(NewBackup { pool, name, description, full, quiesce, schedule: None });
        let at = format!("/vms/{}/backups", segment(&vm)?);
        let task = change(client, Method::POST, &at, &[], Some(&new), wait).await?;
        let made = task.result.clone();
        if made == Value::Null {
            done(&vm, "is being backed up", &task);
            return Ok(());
        }
        let made: Backup =
            serde_json::from_value(made).map_err(|error| Failure::internal(error.to_string()))?;
        let kind = if made.parent.is_some() { "what differs" } else { "all of it" };
        done(&vm, &format!("has been backed up as {}: {kind}, {}", made.name, size(made.stored)), &task);
        Ok(())
    }
}
