//! The columns of the table, what is in them, and how guests are sorted by them.

use std::cmp::Ordering;

use clap::ValueEnum;

use super::usage::{Rates, Usage};

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Column {
    /// The guest's name
    Name,
    /// Its state
    State,
    /// Time of the host's processors that it takes; 100 is all of one
    Cpu,
    /// How much of the time its processors had work and waited for one of the host's, percent
    Ready,
    /// Memory that it takes on the host
    Memory,
    /// Memory that it has
    Promised,
    /// Bytes read from its disks each second
    Read,
    /// Bytes written to them each second
    Write,
    /// Requests to its disks each second
    Ops,
    /// Bytes that its network cards receive each second
    Received,
    /// Bytes that they send each second
    Sent,
}

use Column::{Cpu, Memory, Name, Ops, Promised, Read, Ready, Received, Sent, State, Write};

/// All of them, from left to right.
pub const ALL: [Column; 11] = [Name, State, Cpu, Ready, Memory, Promised, Read, Write, Ops, Received, Sent];

/// Those that a narrow screen goes without, the first one first.
const SPARE: [Column; 9] = [Ops, Promised, Ready, Sent, Received, Write, Read, Memory, State];

/// What the name has at least.
const SHORTEST_NAME: u16 = 16;

/// A number of at most five characters: `999`, `1.0K`, `123M`, in binary multiples.
pub fn short(number: f64) -> String {
    let mut number = number.max(0.0);
    let mut units = ["", "K", "M", "G", "T"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    while number >= 999.5 {
        let Some(next) = units.next() else { break };
        (number, unit) = (number / 1024.0, next);
    }
    if number < 9.95 && !unit.is_empty() {
        format!("{number:.1}{unit}")
    } else {
        format!("{number:.0}{unit}")
    }
}

impl Column {
    /// Its title.
    pub fn title(self) -> &'static str {
        match self {
            Name => "NAME",
            State => "STATE",
            Cpu => "CPU%",
            Ready => "RDY%",
            Memory => "MEM",
            Promised => "OF",
            Read => "READ/s",
            Write => "WRITE/s",
            Ops => "OPS/s",
            Received => "RX/s",
            Sent => "TX/s",
        }
    }

    /// Its width in characters; the name takes what is left.
    pub fn width(self) -> u16 {
        match self {
            Name => SHORTEST_NAME,
            State => 8,
            Cpu | Write => 7,
            Read => 6,
            _ => 5,
        }
    }

    /// Whether it holds numbers, which stand at the right and whose largest come first.
    pub fn is_number(self) -> bool {
        !matches!(self, Name | State)
    }

    fn number(self, usage: &Usage) -> Option<f64> {
        let of = |rate: fn(&Rates) -> f64| usage.rates.as_ref().map(rate);
        match self {
            Name | State => None,
            Cpu => of(|rates| rates.cpu_percent),
            Ready => usage.rates.and_then(|rates| rates.ready_percent),
            Memory => of(|rates| rates.resident.0 as f64),
            Promised => Some(usage.memory.0 as f64),
            Read => of(|rates| rates.read_bytes),
            Write => of(|rates| rates.written_bytes),
            Ops => of(|rates| rates.operations),
            Received => of(|rates| rates.received_bytes),
            Sent => of(|rates| rates.sent_bytes),
        }
    }

    /// What is in it.
    pub fn cell(self, usage: &Usage) -> String {
        match (self, self.number(usage)) {
            (Name, _) => usage.name.to_string(),
            (State, _) => usage.state.word().to_owned(),
            (_, None) => "-".to_owned(),
            (Cpu | Ready, Some(percent)) => format!("{percent:.1}"),
            (_, Some(number)) => short(number),
        }
    }

    /// The order of two guests: by this column, those that have nothing in it last, and by name where that is the same.
    pub fn compare(self, a: &Usage, b: &Usage, reversed: bool) -> Ordering {
        let order = match self {
            Name => a.name.cmp(&b.name),
            State => a.state.word().cmp(b.state.word()),
            number => match (number.number(a), number.number(b)) {
                (Some(a), Some(b)) => b.total_cmp(&a),
                (of_a, of_b) => {
                    return of_b.is_some().cmp(&of_a.is_some()).then_with(|| a.name.cmp(&b.name));
                }
            },
        };
        let order = if reversed { order.reverse() } else { order };
        order.then_with(|| a.name.cmp(&b.name))
    }
}

/// The columns that there is room for, and the name's width.
pub fn fitting(width: u16) -> (Vec<Column>, u16) {
    let mut columns = ALL.to_vec();
    // One space between two.
    let needs = |columns: &[Column]| columns.iter().map(|column| column.width() + 1).sum::<u16>() - 1;
    for spare in SPARE {
        if needs(&columns) <= width {
            break;
        }
        columns.retain(|column| *column != spare);
    }
    let name = SHORTEST_NAME + width.saturating_sub(needs(&columns));
    (columns, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 9.6, 999.0, 999.6, 1024.0, 10.0 * 1024.0, 1e6, 1023.9 * 1048576.0, 5e12].map(short);
        assert_eq!(shown, ["0", "10", "999", "1.0K", "1.0K", "10K", "977K", "1.0G", "4.5T"]);
    }

    #[test]
    fn a_narrow_screen_goes_without_what_matters_least() {
        assert_eq!(fitting(200).0, ALL);
        let (columns, name) = fitting(80);
        assert!(columns.contains(&Cpu) && columns.contains(&Received) && !columns.contains(&Ops));
        assert!(name >= SHORTEST_NAME);
        assert_eq!(fitting(20).0, [Name, Cpu]);
    }
}
