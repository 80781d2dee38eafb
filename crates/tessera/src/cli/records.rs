//! `tessera task …` and `tessera event …`: what goes on, and what happened.

use std::time::Duration;

use api::{Event, Task};
use clap::Subcommand;
use reqwest::Method;
use serde_json::Value;

use crate::cli::listing::{WatchOption, log, show};
use crate::cli::output::{Column, OutputOption, age, say};
use crate::cli::vm::query;
use crate::client::{HostOption, ended, segment};
use crate::failure::{self, Result};

/// What can be done with tasks.
#[derive(Debug, Subcommand)]
#[command(after_help = failure::HOST_STATUS_HELP)]
pub enum TaskCommand {
    /// Show the tasks there are, the newest first
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        output: OutputOption,
        /// Only those that this fits: state=failed, action=vm.*, with commas between
        #[arg(short, long, value_name = "TERMS")]
        filter: Option<String>,
        #[command(flatten)]
        watch: WatchOption,
    },
    /// Show everything about a task
    Show {
        /// Its id
        task: String,
        #[command(flatten)]
        output: OutputOption,
    },
    /// Wait until a task has ended
    Wait {
        /// Its id
        task: String,
        /// Wait so many seconds at most; it goes on then, and the exit status is 8
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
    },
    /// Call a task off
    Cancel {
        /// Its id
        task: String,
    },
}

const TASKS: [Column<Task>; 7] = [
    Column::text("ACTION", |task| task.action.clone()),
    Column::text("NAME", |task| task.name.clone()),
    Column::text("STATE", |task| format!("{:?}", task.state).to_lowercase()),
    Column::text("AGE", |task: &Task| age(task.created)).passing(),
    Column::text("ACTOR", |task| task.actor.clone()),
    Column::text("WHAT", |task| {
        task.error.as_ref().map_or_else(|| task.step.clone(), |error| error.detail.clone())
    }),
    Column::text("ID", |task: &Task| task.id.to_string()).wide(),
];

impl TaskCommand {
    /// Does it.
    pub async fn execute(self, host: &HostOption) -> Result<()> {
        let client = host.client()?;
        match self {
            TaskCommand::Ls { output, filter, watch } => {
                show(&client, "/tasks", &query(&[("filter", filter)]), &TASKS, (output, watch)).await
            }
            TaskCommand::Show { task, output } => {
                output.one(&client.get(&format!("/tasks/{}", segment(&task)?), &[]).await?)
            }
            TaskCommand::Wait { task, timeout } => {
                let task = client.get(&format!("/tasks/{}", segment(&task)?), &[]).await?;
                ended(client.wait(task, timeout.map(Duration::from_secs)).await?).map(drop)
            }
            TaskCommand::Cancel { task } => {
                let path = format!("/tasks/{}", segment(&task)?);
                let _: Value = client.change(Method::DELETE, &path, &[], None).await?;
                say("the task will end");
                Ok(())
            }
        }
    }
}

/// What can be done with events.
#[derive(Debug, Subcommand)]
#[command(after_help = failure::HOST_STATUS_HELP)]
pub enum EventCommand {
    /// Show what happened, the oldest first
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        output: OutputOption,
        /// Only those that this fits: kind=vm.*, name=web-1, with commas between
        #[arg(short, long, value_name = "TERMS")]
        filter: Option<String>,
        #[command(flatten)]
        watch: WatchOption,
    },
}

const EVENTS: [Column<Event>; 5] = [
    Column::text("TIME", |event| event.time.strftime("%Y-%m-%d %H:%M:%S").to_string()),
    Column::text("KIND", |event| event.kind.clone()),
    Column::text("NAME", |event| event.name.clone()),
    Column::text("WHAT", |event| event.message.clone()),
    Column::text("ACTOR", |event| event.actor.clone()),
];

impl EventCommand {
    /// Does it.
    pub async fn execute(self, host: &HostOption) -> Result<()> {
        let client = host.client()?;
        let EventCommand::Ls { output, filter, watch } = self;
        log(&client, "/events", &query(&[("filter", filter)]), &EVENTS, (output, watch)).await
    }
}
