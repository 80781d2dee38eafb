//! `tessera top`: what guests use, live on a terminal or once for programs.

use std::sync::Arc;

use clap::Args;
use serde_json::json;
use tokio::sync::mpsc;

use crate::cli::output::{Column, OutputOption, print, size};
use crate::client::{Client, HostOption};
use crate::failure::{self, Failure, Result};
use crate::top::columns::{self, short};
use crate::top::usage::{HostUsage, Rates, Usage};
use crate::top::watch::{Known, News, follow};
use crate::top::{Start, run};

/// Arguments of `tessera top`.
#[derive(Debug, Args)]
#[command(after_help = failure::HOST_STATUS_HELP)]
pub struct TopArgs {
    /// Look twice, tell what was used in between, and end
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    output: OutputOption,
    /// Look again after so many seconds
    #[arg(short, long, value_name = "SECONDS", default_value = "2", value_parser = clap::value_parser!(u64).range(1..=60))]
    interval: u64,
    /// Sort by this column, the largest first
    #[arg(long, value_name = "COLUMN", default_value = "cpu")]
    sort: columns::Column,
    /// Only guests whose name, state or labels contain these words
    #[arg(short, long, value_name = "WORDS", default_value = "")]
    filter: String,
}

fn rate(usage: &Usage, tell: fn(&Rates) -> String) -> String {
    usage.rates.as_ref().map_or_else(|| "-".to_owned(), tell)
}

const COLUMNS: [Column<Usage>; 12] = [
    Column::text("NAME", |usage| usage.name.to_string()),
    Column::text("STATE", |usage| usage.state.word().to_owned()),
    Column::number("CPU%", |usage| rate(usage, |rates| format!("{:.1}", rates.cpu_percent))),
    Column::number("RDY%", |usage| {
        let ready = usage.rates.and_then(|rates| rates.ready_percent);
        ready.map_or_else(|| "-".to_owned(), |percent| format!("{percent:.1}"))
    }),
    Column::number("MEM", |usage| rate(usage, |rates| size(rates.resident))),
    Column::number("OF", |usage| size(usage.memory)),
    Column::number("READ/s", |usage| rate(usage, |rates| short(rates.read_bytes))),
    Column::number("WRITE/s", |usage| rate(usage, |rates| short(rates.written_bytes))),
    Column::number("OPS/s", |usage| rate(usage, |rates| short(rates.operations))),
    Column::number("RX/s", |usage| rate(usage, |rates| short(rates.received_bytes))),
    Column::number("TX/s", |usage| rate(usage, |rates| short(rates.sent_bytes))),
    Column::text("ID", |usage: &Usage| usage.id.to_string()).wide(),
];

impl TopArgs {
    /// Does it.
    pub async fn execute(self, host: &HostOption) -> Result<()> {
        let client = host.client()?;
        if self.once {
            return self.once(client).await;
        }
        if !self.output.is_table() {
            return Err(Failure::input("--output: only with --once"));
        }
        run(client, Start { interval: self.interval, sort: self.sort, filter: self.filter }).await
    }

    async fn once(self, client: Client) -> Result<()> {
        let (out, mut news) = mpsc::unbounded_channel();
        let following = tokio::spawn(follow(Arc::new(client), self.interval, out));
        let mut known = Known::default();
        let host = loop {
            match news.recv().await {
                Some(News::Lost(failure)) => return Err(failure),
                None => return Err(Failure::internal("the host has ended the stream")),
                Some(told) => known.learn(&told),
            }
            if let Some(host) = known.host() {
                break host;
            }
        };
        following.abort();
        let mut guests = known.guests(&self.filter);
        guests.sort_by(|a, b| self.sort.compare(a, b, false));
        let guests = guests.iter().map(|usage| json!(usage)).collect::<Vec<_>>();
        if self.output.is_table() {
            print(&summary(&host));
            return self.output.list(&guests, &COLUMNS);
        }
        self.output.one(&json!({ "host": host, "vms": guests }))
    }
}

fn summary(host: &HostUsage) -> String {
    format!(
        "cpu      {:.1} % of {}, {} promised\nmemory   {} of {} free, {} promised\nstorage  {} of {} free\n\n",
        host.cpu_percent,
        host.cpus,
        host.cpus_promised,
        host.memory_available,
        host.memory,
        host.memory_promised,
        host.storage_available,
        host.storage,
    )
}
