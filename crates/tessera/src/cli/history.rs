//! `tessera vm history` and `tessera host history`: what was used over time.

use api::{History, Series, Size, Time};
use clap::Args;
use serde_json::Value;

use crate::cli::output::{Column, OutputOption};
use crate::cli::vm::query;
use crate::client::Client;
use crate::failure::{Failure, Result};

/// How many characters a line of values has.
const WIDTH: u32 = 40;
/// The characters of it, the lowest first.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What part of it is shown.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// How far back: 10m, 1h, 24h, 30d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = span)]
    last: u32,
    /// Only these series, with commas between
    #[arg(long, value_name = "NAMES")]
    series: Option<String>,
    /// At most so many values of each; all that a line has room for if nothing is said
    #[arg(long, value_name = "N")]
    points: Option<u32>,
    #[command(flatten)]
    output: OutputOption,
}

/// A number of seconds as people write it.
pub fn span(text: &str) -> std::result::Result<u32, String> {
    let wrong = || format!("'{text}' is no time: write it as 10m, 1h or 30d");
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[number.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return Err(wrong()),
    };
    let number: u32 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(unit).filter(|seconds| *seconds > 0).ok_or_else(wrong)
}

/// What is told of a time in which nothing was measured.
pub const NOTHING: &str = "nothing was measured in this time: a guest is while it runs";

/// What asks for the last so many seconds of what was measured, in at most so many spans.
pub fn last(seconds: u32, points: Option<u32>, series: Option<String>) -> Vec<(&'static str, String)> {
    let now = Time::now();
    let from = now - std::time::Duration::from_secs(seconds.into());
    query(&[
        ("from", Some(from.to_string())),
        ("to", Some(now.to_string())),
        ("points", points.map(|points| points.to_string())),
        ("series", series),
    ])
}

/// A series as it is shown.
struct Shown(Series);

impl<'de> serde::Deserialize<'de> for Shown {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Series::deserialize(deserializer).map(Shown)
    }
}

const COLUMNS: [Column<Shown>; 6] = [
    Column::text("SERIES", |shown: &Shown| shown.0.name.clone()),
    Column::text("OVER TIME", |shown: &Shown| line(&shown.0.avg)),
    Column::number("NOW", |shown: &Shown| {
        value(shown.0.avg.iter().rev().flatten().next().copied(), &shown.0.unit)
    }),
    Column::number("MEAN", |shown: &Shown| value(mean(&shown.0.avg), &shown.0.unit)),
    Column::number("LEAST", |shown: &Shown| value(known(&shown.0.min).reduce(f64::min), &shown.0.unit)),
    Column::number("MOST", |shown: &Shown| value(known(&shown.0.max).reduce(f64::max), &shown.0.unit)),
];

impl HistoryArgs {
    /// Shows the history that the host has at `path`.
    pub async fn execute(self, client: &Client, path: &str) -> Result<()> {
        let points = self.points.or(self.output.is_table().then_some(WIDTH));
        let query = last(self.last, points, self.series);
        let answer: Value = client.get(path, &query).await?;
        if !self.output.is_table() {
            return self.output.one(&answer);
        }
        let history: History = serde_json::from_value(answer.clone())
            .map_err(|error| Failure::internal(format!("the host's answer: {error}")))?;
        let series = answer["series"].as_array().map(Vec::as_slice).unwrap_or_default();
        self.output.list(series, &COLUMNS)?;
        if history.series.iter().all(|series| known(&series.avg).next().is_none()) {
            crate::cli::output::say(NOTHING);
        }
        Ok(())
    }
}

fn known(values: &[Option<f64>]) -> impl Iterator<Item = f64> {
    values.iter().copied().flatten()
}

fn mean(values: &[Option<f64>]) -> Option<f64> {
    let (count, sum) = known(values).fold((0u32, 0.0), |(count, sum), value| (count + 1, sum + value));
    (count > 0).then(|| sum / f64::from(count))
}

/// A character for each value; none where nothing was measured.
fn line(values: &[Option<f64>]) -> String {
    let most = known(values).fold(f64::MIN_POSITIVE, f64::max);
    let bar = |value: f64| BARS[((value / most * 7.0).round() as usize).min(7)];
    values.iter().map(|value| value.map_or(' ', bar)).collect()
}

fn value(value: Option<f64>, unit: &str) -> String {
    let Some(value) = value else { return "-".into() };
    match unit {
        "bytes" => Size(value as u64).to_string(),
        "bytes/s" => format!("{}/s", Size(value as u64)),
        "1/s" => format!("{value:.1}/s"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_people_do() {
        assert_eq!(
            (span("90s"), span("10m"), span("24h"), span("30d")),
            (Ok(90), Ok(600), Ok(86400), Ok(2_592_000))
        );
        for wrong in ["", "h", "1", "1w", "-1h", "0h", "99999999d"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_line_rises_with_its_values_and_has_holes() {
        assert_eq!(line(&[Some(0.0), None, Some(3.5), Some(7.0)]), "▁ ▅█");
        assert_eq!(line(&[Some(0.0), Some(0.0)]), "▁▁");
        assert_eq!(mean(&[Some(1.0), None, Some(2.0)]), Some(1.5));
        assert_eq!(value(Some(1_048_576.0), "bytes/s"), "1M/s");
        assert_eq!(value(None, "bytes"), "-");
    }
}
