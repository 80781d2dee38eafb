//! How answers are shown: tables for people, JSON and YAML for programs.

use std::io::{BufRead, IsTerminal, Write};

use api::{Size, Time};
use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::Value;

use crate::failure::{Failure, Result};

/// A way to show answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table
    #[default]
    Table,
    /// A table with more columns
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
    /// Names only
    Name,
}

/// How the answer is shown.
#[derive(Debug, Clone, Copy, Args)]
pub struct OutputOption {
    /// How to show the answer
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

/// A column of a table: its title, whether only a wide table has it, what kind it is, and how it is made.
pub struct Column<T> {
    /// Its title.
    pub title: &'static str,
    /// Whether only a wide table has it.
    pub wide: bool,
    /// Whether it holds numbers, which stand at the right.
    pub number: bool,
    /// Whether it changes by itself, as time passes.
    pub passing: bool,
    /// What is in it.
    pub cell: fn(&T) -> String,
}

impl<T> Column<T> {
    /// A column of text.
    pub const fn text(title: &'static str, cell: fn(&T) -> String) -> Self {
        Self { title, wide: false, number: false, passing: false, cell }
    }

    /// A column of numbers.
    pub const fn number(title: &'static str, cell: fn(&T) -> String) -> Self {
        Self { title, wide: false, number: true, passing: false, cell }
    }

    /// The same, but only in a wide table.
    pub const fn wide(mut self) -> Self {
        self.wide = true;
        self
    }

    /// The same, but it changes by itself: that is no change of what it tells of.
    pub const fn passing(mut self) -> Self {
        self.passing = true;
        self
    }
}

/// A row of a table.
#[derive(Debug)]
pub struct Row {
    /// The id or name of what it tells of.
    pub key: String,
    /// What is in its columns.
    pub cells: Vec<String>,
    /// What is in all columns that do not change by themselves.
    pub steady: Vec<String>,
}

impl OutputOption {
    /// Shows a list.
    ///
    /// # Errors
    /// If an item is not what its columns need.
    pub fn list<T: serde::de::DeserializeOwned>(self, items: &[Value], columns: &[Column<T>]) -> Result<()> {
        match self.output {
            Format::Json => print_json(&Value::Array(items.to_vec())),
            Format::Yaml => print_yaml(&Value::Array(items.to_vec())),
            Format::Name => {
                let names = items.iter().filter_map(|item| item["name"].as_str().or(item["id"].as_str()));
                print(&names.map(|name| format!("{name}\n")).collect::<String>());
                Ok(())
            }
            Format::Table | Format::Wide => {
                print(&table(&typed(items)?, columns, self.output == Format::Wide));
                Ok(())
            }
        }
    }

    /// What is in the columns of each item; those of a wide table only if that is wanted.
    ///
    /// # Errors
    /// If an item is not what its columns need.
    pub fn rows<T: serde::de::DeserializeOwned>(
        self,
        items: &[Value],
        columns: &[Column<T>],
    ) -> Result<Vec<Row>> {
        let shown = |column: &&Column<T>| self.output == Format::Wide || !column.wide;
        let key = |item: &Value| item["id"].as_str().or(item["name"].as_str()).unwrap_or_default().to_owned();
        let row = |(value, item): (&Value, &T)| Row {
            key: key(value),
            cells: columns.iter().filter(shown).map(|column| (column.cell)(item)).collect(),
            steady: columns
                .iter()
                .filter(|column| !column.passing)
                .map(|column| (column.cell)(item))
                .collect(),
        };
        Ok(items.iter().zip(&typed::<T>(items)?).map(row).collect())
    }

    /// Shows one thing: everything of it where programs read, as YAML where people do.
    ///
    /// # Errors
    /// If it cannot be shown.
    pub fn one(self, item: &Value) -> Result<()> {
        match self.output {
            Format::Json => print_json(item),
            Format::Name => {
                print(&format!("{}\n", item["name"].as_str().or(item["id"].as_str()).unwrap_or_default()));
                Ok(())
            }
            Format::Yaml | Format::Table | Format::Wide => print_yaml(item),
        }
    }

    /// Whether people read it.
    pub fn is_table(self) -> bool {
        matches!(self.output, Format::Table | Format::Wide)
    }
}

fn typed<T: serde::de::DeserializeOwned>(items: &[Value]) -> Result<Vec<T>> {
    let read = |item: &Value| serde_json::from_value(item.clone());
    let items = items.iter().map(read).collect::<std::result::Result<Vec<T>, _>>();
    items.map_err(|error| Failure::internal(format!("the host's answer: {error}")))
}

fn table<T>(items: &[T], columns: &[Column<T>], wide: bool) -> String {
    let columns: Vec<_> = columns.iter().filter(|column| wide || !column.wide).collect();
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(columns.iter().map(|column| column.title));
    for item in items {
        table.add_row(columns.iter().map(|column| (column.cell)(item)));
    }
    for (number, column) in columns.iter().enumerate() {
        if let Some(shown) = table.column_mut(number) {
            shown.set_padding((0, 2));
            if column.number {
                shown.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn print_json(value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::internal(error.to_string()))?;
    print(&(text + "\n"));
    Ok(())
}

fn print_yaml(value: &Value) -> Result<()> {
    print(&serde_yaml_ng::to_string(value).map_err(|error| Failure::internal(error.to_string()))?);
    Ok(())
}

/// Writes to stdout. Whoever reads may stop early; that is no failure.
pub fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Says what was done, where people read it.
pub fn say(text: &str) {
    if std::io::stdout().is_terminal() {
        println!("{text}");
    } else {
        print(&format!("{text}\n"));
    }
}

/// Asks whether to go on.
///
/// # Errors
/// If there is no terminal to ask at.
pub fn agreed(question: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::input("there is no terminal to ask at: give --yes"));
    }
    eprint!("{question} [y/N] ");
    // What cannot be shown cannot be answered, either.
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.map_err(|error| Failure::input(format!("the terminal: {error}")))?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}

/// How long ago a moment was: the two largest units.
pub fn age(since: Time) -> String {
    let seconds = Time::now().duration_since(since).as_secs().max(0) as u64;
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, ..) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

/// A size for a table.
pub fn size(size: Size) -> String {
    size.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_titles_and_numbers_at_the_right() {
        let columns = [
            Column::<(&str, u32)>::text("NAME", |item| item.0.to_owned()),
            Column::number("CPUS", |item| item.1.to_string()),
            Column::text("MORE", |_| "x".to_owned()).wide(),
        ];
        let shown = table(&[("web-1", 2), ("a", 16)], &columns, false);
        assert_eq!(shown, "NAME   CPUS\nweb-1     2\na        16\n");
        assert!(table(&[("a", 1)], &columns, true).contains("MORE"));
    }

    #[test]
    fn an_age_has_two_units() {
        let ago = |seconds: i64| age(Time::now() - std::time::Duration::from_secs(seconds as u64));
        assert_eq!(
            (ago(5), ago(65), ago(3700), ago(90_000)),
            ("5s".into(), "1m5s".into(), "1h1m".into(), "1d1h".into())
        );
    }
}
