//! `tessera share receipts`: what became of what a guest was promised.

use api::{Receipt, Receipts};
use clap::Args;
use serde_json::Value;

use crate::cli::history::{NOTHING, last, span};
use crate::cli::output::{Column, OutputOption, say};
use crate::client::{HostOption, segment};
use crate::failure::{Failure, Result};

/// So many lines are shown if nothing is said.
const LINES: u32 = 30;

/// Which of them are shown.
#[derive(Debug, Args)]
pub struct ReceiptsArgs {
    /// The guest's name or id
    vm: String,
    /// How far back: 10m, 1h, 24h, 30d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = span)]
    last: u32,
    /// At most so many spans; 30 in a table, and as many as there are seconds, up to 4000, otherwise
    #[arg(long, value_name = "N")]
    points: Option<u32>,
    #[command(flatten)]
    output: OutputOption,
}

const COLUMNS: [Column<Receipt>; 7] = [
    Column::text("TIME", |receipt: &Receipt| receipt.time.to_string()),
    Column::number("PROMISED", |receipt: &Receipt| number(receipt.promised)),
    Column::number("ASKED", |receipt: &Receipt| number(receipt.asked)),
    Column::number("DUE", |receipt: &Receipt| number(receipt.due)),
    Column::number("DELIVERED", |receipt: &Receipt| number(receipt.delivered)),
    Column::number("SHORT", |receipt: &Receipt| number(receipt.short)),
    Column::text("KEPT", |receipt: &Receipt| if receipt.kept { "yes" } else { "NO" }.into()),
];

fn number(processors: f64) -> String {
    format!("{processors:.3}")
}

impl ReceiptsArgs {
    /// Shows them.
    pub async fn execute(self, host: &HostOption) -> Result<()> {
        let points =
            self.points.unwrap_or_else(|| if self.output.is_table() { LINES } else { self.last.min(4000) });
        let query = last(self.last, Some(points), None);
        let answer: Value =
            host.client()?.get(&format!("/vms/{}/receipts", segment(&self.vm)?), &query).await?;
        if !self.output.is_table() {
            return self.output.one(&answer);
        }
        self.output.list(answer["receipts"].as_array().map(Vec::as_slice).unwrap_or_default(), &COLUMNS)?;
        let told: Receipts = serde_json::from_value(answer)
            .map_err(|error| Failure::internal(format!("the host's answer: {error}")))?;
        say(&summary(&told));
        Ok(())
    }
}

fn summary(told: &Receipts) -> String {
    let all = told.receipts.len();
    if all == 0 {
        return NOTHING.into();
    }
    let step = match told.step {
        1 => "1 s".to_owned(),
        step => format!("{step} s, each with its worst second"),
    };
    format!(
        "kept in {} of {all} spans of {step}; short of at most {:.3} processors in any second",
        told.kept, told.worst_short
    )
}

#[cfg(test)]
mod tests {
    use api::Time;

    use super::*;

    #[test]
    fn what_was_kept_is_told_in_one_line() {
        let receipt = |short| Receipt::of(Time::default(), [0.5, 1.0, 0.5, 0.5, short]);
        let told = |step, shorts: &[f64]| {
            let receipts: Vec<_> = shorts.iter().copied().map(receipt).collect();
            let kept = receipts.iter().filter(|receipt| receipt.kept).count() as u32;
            summary(&Receipts {
                step,
                kept,
                worst_short: shorts.iter().copied().fold(0.0, f64::max),
                receipts,
            })
        };
        assert_eq!(
            told(1, &[0.0, 0.2]),
            "kept in 1 of 2 spans of 1 s; short of at most 0.200 processors in any second"
        );
        assert!(told(10, &[0.0]).contains("spans of 10 s, each with its worst second;"));
        assert!(told(1, &[]).contains("nothing was measured"));
    }
}
