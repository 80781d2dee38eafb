//! Draws the screen.

use api::{Size, VmState};
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState};

use super::app::{App, Mode};
use super::columns::{Column, fitting};
use super::usage::HostUsage;

/// How wide a bar is.
const BAR: usize = 24;

const KEYS: &str = "↑↓ select ←→ sort / filter  s start d shut down x stop p pause  ? help q quit";

const HELP: [&str; 19] = [
    "↑ ↓ PgUp PgDn Home End   select a guest (also j, k)",
    "← →                      sort by another column (also <, >); r the other way round",
    "/                        show only guests whose name, state or labels contain the words; Enter keeps it, Esc ends it",
    "s                        start the selected guest",
    "d                        ask it to power itself off, within 90 seconds",
    "x                        pull its plug, after a question",
    "p                        have it stand still, or go on",
    "Ctrl-Z, q                back to the shell for a while, for good",
    "",
    "CPU%      time of the host's processors that the guest's process takes, devices included; 100 is all of one",
    "RDY%      the part of the time in which its processors had work and waited for one of the host's",
    "MEM, OF   memory that it takes on the host, of what it has",
    "READ/s, WRITE/s, OPS/s   bytes and requests of its disks",
    "RX/s, TX/s               bytes that its network cards receive and send",
    "",
    "A guest that has not been looked at twice while it runs has - there.",
    "promised  what guests that run have, whether they use it or not",
    "",
    "Any key goes back.",
];

/// Whether there are colours, and which.
#[derive(Debug, Clone, Copy)]
pub struct Palette {
    /// Whether there are any.
    pub colours: bool,
}

impl Palette {
    fn of(self, colour: Color) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new() }
    }

    fn state(self, state: VmState) -> Style {
        match state {
            VmState::Running => self.of(Color::Green),
            VmState::Paused | VmState::Starting | VmState::Stopping | VmState::Suspending => {
                self.of(Color::Yellow)
            }
            VmState::Crashed => self.of(Color::Red),
            VmState::Stopped | VmState::Suspended => Style::new().add_modifier(Modifier::DIM),
        }
    }

    fn load(self, percent: f64) -> Style {
        match percent {
            0.0..75.0 => self.of(Color::Green),
            75.0..90.0 => self.of(Color::Yellow),
            _ => self.of(Color::Red),
        }
    }
}

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, app: &mut App, palette: Palette) {
    let area = frame.area();
    let parts = [1, 1, 1, 1, 1].map(Constraint::Length).into_iter();
    let parts = parts.chain([Constraint::Min(0), Constraint::Length(1)]);
    let [title, cpu, memory, storage, message, table, keys] = Layout::vertical(parts).areas(area);
    first_line(frame, app, title);
    if let Some(host) = app.known.host() {
        gauges(frame, &host, palette, [cpu, memory, storage]);
    }
    if app.mode == Mode::Help {
        frame.render_widget(Paragraph::new(HELP.map(Line::from).to_vec()), table);
    } else {
        guests(frame, app, palette, table);
    }
    frame.render_widget(Paragraph::new(said(app, palette)), message);
    frame.render_widget(Paragraph::new(KEYS).style(Style::new().add_modifier(Modifier::DIM)), keys);
    if app.mode == Mode::Filter {
        // Behind what is typed.
        let column = "filter: ".len() + app.filter.chars().count();
        frame.set_cursor_position((message.x + column as u16, message.y));
    }
}

fn first_line(frame: &mut Frame<'_>, app: &App, area: Rect) {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    frame.render_widget(Paragraph::new(Span::styled(app.title.as_str(), bold)), area);
    let Some(host) = app.known.host() else { return };
    let tasks = match app.known.tasks() {
        0 => String::new(),
        1 => "   1 task".to_owned(),
        count => format!("   {count} tasks"),
    };
    let counts = format!("{} of {} guests run{tasks}", host.vms_running, host.vms);
    frame.render_widget(Paragraph::new(counts).alignment(Alignment::Right), area);
}

fn gauges(frame: &mut Frame<'_>, host: &HostUsage, palette: Palette, areas: [Rect; 3]) {
    let used = |all: Size, free: Size| (Size(all.0.saturating_sub(free.0)), all);
    let part = |(used, all): (Size, Size)| 100.0 * used.0 as f64 / all.0.max(1) as f64;
    let stolen = match host.stolen_percent {
        0.05.. => format!(", {:.1} % stolen", host.stolen_percent),
        _ => String::new(),
    };
    let memory = used(host.memory, host.memory_available);
    let storage = used(host.storage, host.storage_available);
    let lines = [
        (
            "cpu",
            host.cpu_percent,
            format!("{:.1} % of {}{stolen}, {} promised", host.cpu_percent, host.cpus, host.cpus_promised),
        ),
        ("memory", part(memory), format!("{} of {}, {} promised", memory.0, memory.1, host.memory_promised)),
        ("storage", part(storage), format!("{} of {}", storage.0, storage.1)),
    ];
    for ((name, percent, words), area) in lines.into_iter().zip(areas) {
        let full = ((percent / 100.0 * BAR as f64).round() as usize).min(BAR);
        let line = Line::from(vec![
            Span::raw(format!("{name:<8}[")),
            Span::styled("|".repeat(full), palette.load(percent)),
            Span::raw(format!("{}] {words}", " ".repeat(BAR - full))),
        ]);
        frame.render_widget(Paragraph::new(line), area);
    }
}

/// What there is to say to the person.
fn said(app: &App, palette: Palette) -> Line<'static> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    match (&app.mode, &app.lost, &app.message) {
        (Mode::Confirm(_, name, _), ..) => {
            let question = format!("Pull the plug of {name}? What it has not written is lost. y/n");
            Line::styled(question, palette.of(Color::Red).add_modifier(Modifier::BOLD))
        }
        (Mode::Filter, ..) => Line::styled(format!("filter: {}", app.filter), bold),
        (_, Some(why), _) => Line::styled(format!("trying again: {why}"), palette.of(Color::Red)),
        (_, _, Some(message)) if message.bad => Line::styled(message.text.clone(), palette.of(Color::Red)),
        (_, _, Some(message)) => Line::raw(message.text.clone()),
        _ if !app.filter.is_empty() => Line::raw(format!("filter: {} (Esc ends it)", app.filter)),
        _ => Line::default(),
    }
}

fn guests(frame: &mut Frame<'_>, app: &mut App, palette: Palette, area: Rect) {
    let (columns, name) = fitting(area.width);
    // The titles take one line.
    app.page = usize::from(area.height.saturating_sub(1)).max(1);
    let title = |column: &Column| {
        let sorted = *column == app.sort;
        let style = if sorted { Modifier::BOLD | Modifier::UNDERLINED } else { Modifier::BOLD };
        aligned(*column, column.title().to_owned()).style(Style::new().add_modifier(style))
    };
    let titles = Row::new(columns.iter().map(title).collect::<Vec<_>>());
    let row = |usage| {
        let cell = |column: &Column| {
            let cell = aligned(*column, column.cell(usage));
            if *column == Column::State { cell.style(palette.state(usage.state)) } else { cell }
        };
        Row::new(columns.iter().map(cell).collect::<Vec<_>>())
    };
    // Only what is seen is made: there may be thousands.
    let (place, count) = (app.position().unwrap_or(0), app.rows().len());
    let first = place.saturating_sub(app.page / 2).min(count.saturating_sub(app.page));
    let seen = app.rows().iter().skip(first).take(app.page).map(row);
    let widths = columns
        .iter()
        .map(|column| Constraint::Length(if *column == Column::Name { name } else { column.width() }));
    let table = Table::new(seen, widths).header(titles).column_spacing(1);
    let table = table.row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::new().with_selected(app.position().map(|place| place - first));
    frame.render_stateful_widget(table, area, &mut state);
}

fn aligned(column: Column, text: String) -> Cell<'static> {
    let line = Line::from(text);
    Cell::from(if column.is_number() { line.right_aligned() } else { line })
}
