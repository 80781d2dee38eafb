//! `tessera network …`: the networks of a host.

use clap::{Args, Subcommand, ValueEnum};
use host::wires::NetworkInfo;
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::cli::bandwidth::NetworkBandwidthOption;
use crate::cli::listing::{WatchOption, show};
use crate::cli::output::{Column, OutputOption};
use crate::cli::vm::{WaitOption, change, done, everything, query, read_json};
use crate::client::{Client, HostOption, segment};
use crate::failure::{self, Failure, Result};

/// What can be done with networks.
#[derive(Debug, Subcommand)]
#[command(after_help = failure::HOST_STATUS_HELP)]
pub enum NetworkCommand {
    /// Show the networks there are
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        output: OutputOption,
        /// Only those that this fits: kind=nat, name=web*, with commas between
        #[arg(short, long, value_name = "TERMS")]
        filter: Option<String>,
        #[command(flatten)]
        watch: WatchOption,
    },
    /// Show everything about a network
    Show {
        /// Its name or id
        network: String,
        #[command(flatten)]
        output: OutputOption,
    },
    /// Make a network
    Create(CreateArgs),
    /// Change a network, at once for the guests on it
    Edit {
        /// Its name or id
        network: String,
        /// A JSON merge patch of the definition, or @FILE with one
        #[arg(long, value_name = "JSON|@FILE")]
        patch: Option<String>,
        #[command(flatten)]
        bandwidth: NetworkBandwidthOption,
        #[command(flatten)]
        wait: WaitOption,
    },
    /// Remove networks that no guest uses
    Delete {
        /// Their names or ids
        #[arg(required = true, value_name = "NETWORK")]
        networks: Vec<String>,
        #[command(flatten)]
        wait: WaitOption,
    },
    /// Show the addresses that guests have taken
    Leases {
        /// The network's name or id
        network: String,
        #[command(flatten)]
        output: OutputOption,
    },
}

/// What a network's guests can reach.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// Each other, and by the host's address whatever the host reaches
    Nat,
    /// Each other, and by their own addresses whatever the host reaches
    Routed,
    /// Each other
    Isolated,
    /// What a network card of the host reaches
    Bridged,
    /// What the host's unprivileged programs reach
    User,
}

/// Arguments of `tessera network create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Its name
    name: String,
    /// What its guests can reach
    #[arg(long, default_value = "nat")]
    kind: Kind,
    /// Its IPv4 addresses; a free subnet if none is given
    #[arg(long, value_name = "ADDRESS/BITS")]
    subnet: Option<String>,
    /// Its IPv6 addresses
    #[arg(long, value_name = "ADDRESS/64")]
    subnet6: Option<String>,
    /// The interface of the host that a bridged network is on
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Let nobody tell its guests their addresses
    #[arg(long)]
    no_dhcp: bool,
    /// The longest packet, bytes
    #[arg(long)]
    mtu: Option<u16>,
    #[command(flatten)]
    bandwidth: NetworkBandwidthOption,
    /// More of its definition: JSON, or @FILE with it
    #[arg(long, value_name = "JSON|@FILE")]
    patch: Option<String>,
    #[command(flatten)]
    wait: WaitOption,
}

const COLUMNS: [Column<NetworkInfo>; 5] = [
    Column::text("NAME", |network: &NetworkInfo| network.definition.name.clone()),
    Column::text("KIND", |network: &NetworkInfo| word(&json!(network.definition.kind))),
    Column::text("SUBNET", |network: &NetworkInfo| {
        network.definition.ipv4.as_ref().map_or_else(|| "-".to_owned(), |ipv4| ipv4.subnet.to_string())
    }),
    Column::number("CARDS", |network: &NetworkInfo| network.status.ports.len().to_string()),
    Column::text("STATE", |network: &NetworkInfo| match network.status.problems.as_slice() {
        [] => "good".to_owned(),
        problems => problems.join("; "),
    }),
];

fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}

const LEASES: [Column<Value>; 4] = [
    Column::text("ADDRESS", |lease: &Value| word(&lease["address"])),
    Column::text("MAC", |lease: &Value| word(&lease["mac"])),
    Column::text("NAME", |lease: &Value| word(&lease["hostname"])),
    Column::text("EXPIRES", |lease: &Value| {
        let expires =
            lease["expires"].as_i64().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
        expires.map_or_else(|| "never".into(), |expires| expires.to_string())
    }),
];

impl NetworkCommand {
    /// Does it.
    pub async fn execute(self, host: &HostOption) -> Result<()> {
        let client = host.client()?;
        match self {
            NetworkCommand::Ls { output, filter, watch } => {
                show(&client, "/networks", &query(&[("filter", filter)]), &COLUMNS, (output, watch)).await
            }
            NetworkCommand::Show { network, output } => {
                output.one(&client.get(&format!("/networks/{}", segment(&network)?), &[]).await?)
            }
            NetworkCommand::Create(args) => {
                let body = args.body()?;
                let task = change(&client, Method::POST, "/networks", &[], Some(&body), args.wait).await?;
                done(&args.name, "has been made", &task);
                Ok(())
            }
            NetworkCommand::Edit { network, patch, bandwidth, wait } => {
                let mut patch = patch.map_or_else(|| Ok(json!({})), |patch| read_json("--patch", &patch))?;
                let none = || Failure::input("--patch: it has to be a JSON object");
                bandwidth.add_to(patch.as_object_mut().ok_or_else(none)?);
                if patch == json!({}) {
                    return Err(Failure::input("say what is to change: --bandwidth or --patch"));
                }
                let path = format!("/networks/{}", segment(&network)?);
                let task = change(&client, Method::PATCH, &path, &[], Some(&patch), wait).await?;
                done(&network, "has changed", &task);
                Ok(())
            }
            NetworkCommand::Delete { networks, wait } => delete(&client, &networks, wait).await,
            NetworkCommand::Leases { network, output } => {
                let path = format!("/networks/{}/leases", segment(&network)?);
                output.list(&everything(&client, &path, &[]).await?, &LEASES)
            }
        }
    }
}

async fn delete(client: &Client, networks: &[String], wait: WaitOption) -> Result<()> {
    for network in networks {
        let path = format!("/networks/{}", segment(network)?);
        let task = change(client, Method::DELETE, &path, &[], None, wait).await?;
        done(network, "has been deleted", &task);
    }
    Ok(())
}

impl CreateArgs {
    fn body(&self) -> Result<Value> {
        let kind = self.kind.to_possible_value().map(|value| value.get_name().to_owned());
        let mut body =
            Map::from_iter([("name".to_owned(), json!(self.name)), ("kind".to_owned(), json!(kind))]);
        if let Some(subnet) = &self.subnet {
            body.insert("ipv4".into(), json!({ "subnet": subnet, "dhcp": !self.no_dhcp }));
        } else if self.no_dhcp {
            return Err(Failure::input("--no-dhcp: give the addresses with --subnet, too"));
        }
        if let Some(subnet) = &self.subnet6 {
            body.insert("ipv6".into(), json!({ "subnet": subnet, "dhcp": !self.no_dhcp }));
        }
        if let Some(interface) = &self.interface {
            body.insert("interface".into(), json!(interface));
        }
        if let Some(mtu) = self.mtu {
            body.insert("mtu".into(), json!(mtu));
        }
        self.bandwidth.add_to(&mut body);
        if let Some(patch) = &self.patch {
            let Value::Object(more) = read_json("--patch", patch)? else {
                return Err(Failure::input("--patch: it has to be a JSON object"));
            };
            body.extend(more);
        }
        Ok(Value::Object(body))
    }
}
