//! `tessera share group …`: groups in which guests share.

use api::{Name, ShareGroupInfo};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::cli::bandwidth;
use crate::cli::listing::{WatchOption, show};
use crate::cli::memory;
use crate::cli::options::OrNone;
use crate::cli::output::{Column, OutputOption, say};
use crate::cli::share::{self, InBytesOption, ShareOption};
use crate::client::{Client, HostOption, segment};
use crate::failure::{self, Result};

/// The processors for which vSphere's presets of a resource pool count: its normal weight is four of them.
const LEVEL_CPUS: u32 = 4;

/// What can be done with groups.
#[derive(Debug, Subcommand)]
#[command(after_help = failure::HOST_STATUS_HELP)]
pub enum GroupCommand {
    /// Show the groups there are
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        output: OutputOption,
        #[command(flatten)]
        watch: WatchOption,
    },
    /// Show everything about a group
    Show {
        /// Its name
        group: String,
        #[command(flatten)]
        output: OutputOption,
    },
    /// Make a group; then tessera vm edit GUEST --share-group GROUP
    Create {
        /// Its name
        name: Name,
        #[command(flatten)]
        what: What,
    },
    /// Change a group, at once for its members that run
    Edit {
        /// Its name
        group: String,
        #[command(flatten)]
        what: What,
    },
    /// Remove groups that nothing is in
    Delete {
        /// Their names
        #[arg(required = true, value_name = "GROUP")]
        groups: Vec<String>,
    },
}

/// What is said of a group.
#[derive(Debug, Args)]
pub struct What {
    /// The group that it is in
    #[arg(long, value_name = "GROUP|none")]
    within: Option<OrNone<Name>>,
    /// Its members are never promised more than it has reserved
    #[arg(long, conflicts_with = "expandable")]
    fixed: bool,
    /// Its members may be promised more than it has reserved, if what it is in has that left
    #[arg(long)]
    expandable: bool,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    #[command(flatten)]
    share: ShareOption,
    #[command(flatten)]
    in_bytes: InBytesOption,
}

impl What {
    async fn patch(&self, client: &Client) -> Result<Map<String, Value>> {
        let mut fields = Map::new();
        if let Some(OrNone(within)) = &self.within {
            fields.insert("within".into(), json!(within));
        }
        if self.fixed || self.expandable {
            fields.insert("expandable".into(), self.expandable.into());
        }
        if let Some(description) = &self.description {
            fields.insert("description".into(), description.as_str().into());
        }
        if let Some(share) = self.share.patch(client, async || Ok(LEVEL_CPUS)).await? {
            fields.insert("cpu_share".into(), share);
        }
        fields.extend(self.in_bytes.patches().map(|(field, share)| (field.to_owned(), share)));
        Ok(fields)
    }
}

const COLUMNS: [Column<ShareGroupInfo>; 9] = [
    Column::text("NAME", |group: &ShareGroupInfo| group.definition.name.to_string()),
    Column::text("WITHIN", |group: &ShareGroupInfo| {
        group.definition.within.as_ref().map_or_else(|| "-".into(), ToString::to_string)
    }),
    Column::text("SHARE", |group: &ShareGroupInfo| share::told(&group.definition.cpu_share)),
    Column::text("PROMISED", |group: &ShareGroupInfo| {
        let kind = if group.definition.expandable { "expandable" } else { "fixed" };
        format!("{} ({kind})", group.promised)
    }),
    Column::number("GOT, 10 S", |group: &ShareGroupInfo| format!("{:.2}", group.got_10s)),
    Column::number("GUESTS", |group: &ShareGroupInfo| group.guests.to_string()),
    Column::text("MEMORY", |group: &ShareGroupInfo| memory::told(&group.definition.memory_share)).wide(),
    Column::text("DISKS", |group: &ShareGroupInfo| bandwidth::told(&group.definition.disk_share)).wide(),
    Column::text("NETWORKS", |group: &ShareGroupInfo| bandwidth::told(&group.definition.network_share))
        .wide(),
];

impl GroupCommand {
    /// Does it.
    pub async fn execute(self, host: &HostOption) -> Result<()> {
        let client = host.client()?;
        match self {
            GroupCommand::Ls { output, watch } => {
                show(&client, "/share-groups", &[], &COLUMNS, (output, watch)).await
            }
            GroupCommand::Show { group, output } => {
                output.one(&client.get(&format!("/share-groups/{}", segment(&group)?), &[]).await?)
            }
            GroupCommand::Create { name, what } => {
                let mut body = what.patch(&client).await?;
                body.insert("name".into(), json!(name));
                let mut whole = json!({});
                api::merge(&mut whole, Value::Object(body));
                let _: Value = client.change(Method::POST, "/share-groups", &[], Some(&whole)).await?;
                say(&format!("{name} has been made"));
                Ok(())
            }
            GroupCommand::Edit { group, what } => {
                let path = format!("/share-groups/{}", segment(&group)?);
                let patch = Value::Object(what.patch(&client).await?);
                let _: Value = client.change(Method::PATCH, &path, &[], Some(&patch)).await?;
                say(&format!("{group} has been changed"));
                Ok(())
            }
            GroupCommand::Delete { groups } => {
                for group in groups {
                    let path = format!("/share-groups/{}", segment(&group)?);
                    let _: Value = client.change(Method::DELETE, &path, &[], None).await?;
                    say(&format!("{group} has been deleted"));
                }
                Ok(())
            }
        }
    }
}
