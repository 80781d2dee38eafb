//! What the screen shows, and what keys do to it.

use api::{Id, Verb, VmState};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::columns::{ALL, Column};
use super::usage::Usage;
use super::watch::{Known, News};

/// How many lines a page has before the screen has been drawn.
const PAGE: usize = 10;

/// What the person wants that the screen cannot do by itself.
#[derive(Debug, PartialEq)]
pub enum Wish {
    /// No more of it.
    Quit,
    /// To have the shell back for a while.
    Suspend,
    /// A verb done with a guest.
    Do(Id, String, Verb),
}

/// What keys are for at the moment.
#[derive(Debug, Clone, PartialEq)]
pub enum Mode {
    /// Moving in the table, and verbs.
    Table,
    /// Typing a filter.
    Filter,
    /// Saying yes or no to a verb.
    Confirm(Id, String, Verb),
    /// Reading the help.
    Help,
}

/// A line for the person.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// What it says.
    pub text: String,
    /// Whether it tells of a failure.
    pub bad: bool,
}

/// Everything that is shown.
#[derive(Debug)]
pub struct App {
    /// What is known of the host.
    pub known: Known,
    /// The host's name, version and engine, for the first line.
    pub title: String,
    /// The column that guests are sorted by.
    pub sort: Column,
    /// Whether it is the other way round.
    pub reversed: bool,
    /// What guests are shown.
    pub filter: String,
    /// The guest that is selected.
    pub selected: Option<Id>,
    /// What keys are for.
    pub mode: Mode,
    /// What there is to say.
    pub message: Option<Message>,
    /// Why the host is not heard at the moment.
    pub lost: Option<String>,
    /// How many guests are seen at once.
    pub page: usize,
    /// The guests that are shown, in their order.
    rows: Vec<Usage>,
}

impl App {
    /// A screen that shows nothing yet.
    pub fn new(title: String, sort: Column, filter: String) -> App {
        App {
            known: Known::default(),
            title,
            sort,
            reversed: false,
            filter,
            selected: None,
            mode: Mode::Table,
            message: None,
            lost: None,
            page: PAGE,
            rows: Vec::new(),
        }
    }

    /// The guests that are shown, in their order.
    pub fn rows(&self) -> &[Usage] {
        &self.rows
    }

    /// Where the selected guest is in the table.
    pub fn position(&self) -> Option<usize> {
        self.rows.iter().position(|row| Some(row.id) == self.selected)
    }

    /// Sorts and filters anew. Where the selected guest is not shown any more, the one at its place is selected.
    pub fn arrange(&mut self) {
        let place = self.position().unwrap_or(0);
        self.rows = self.known.guests(&self.filter);
        self.rows.sort_by(|a, b| self.sort.compare(a, b, self.reversed));
        if self.position().is_none() {
            self.select(place);
        }
    }

    fn select(&mut self, place: usize) {
        let last = self.rows.len().saturating_sub(1);
        self.selected = self.rows.get(place.min(last)).map(|row| row.id);
    }

    /// Hears what the host tells. The table is not arranged by that.
    pub fn hear(&mut self, news: News) {
        self.known.learn(&news);
        match news {
            News::Begins => self.lost = None,
            News::Lost(why) => self.lost = Some(why.to_string()),
            News::Done { what, problem: None } => self.say(format!("{what}: done"), false),
            News::Done { what, problem: Some(why) } => self.say(format!("{what}: {why}"), true),
            News::Vm(_) | News::Gone(_) | News::Task(_) | News::Stats(_) => {}
        }
    }

    fn say(&mut self, text: String, bad: bool) {
        self.message = Some(Message { text, bad });
    }

    /// Does what a key is for.
    pub fn key(&mut self, key: KeyEvent) -> Option<Wish> {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Some(Wish::Quit),
                KeyCode::Char('z') => Some(Wish::Suspend),
                _ => None,
            };
        }
        match self.mode.clone() {
            Mode::Table => self.table_key(key.code),
            Mode::Filter => {
                self.filter_key(key.code);
                None
            }
            Mode::Confirm(id, name, verb) => {
                self.mode = Mode::Table;
                let yes = matches!(key.code, KeyCode::Char('y' | 'Y'));
                yes.then(|| self.wish(id, name, verb))
            }
            Mode::Help => {
                self.mode = Mode::Table;
                None
            }
        }
    }

    fn filter_key(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter | KeyCode::Up | KeyCode::Down => self.mode = Mode::Table,
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = Mode::Table;
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(letter) => self.filter.push(letter),
            _ => {}
        }
        self.arrange();
    }

    fn table_key(&mut self, code: KeyCode) -> Option<Wish> {
        let place = self.position().unwrap_or(0);
        match code {
            KeyCode::Char('q') => return Some(Wish::Quit),
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.mode = Mode::Help,
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Esc => {
                self.filter.clear();
                self.message = None;
                self.arrange();
            }
            KeyCode::Up | KeyCode::Char('k') => self.select(place.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.select(place + 1),
            KeyCode::PageUp => self.select(place.saturating_sub(self.page)),
            KeyCode::PageDown => self.select(place + self.page),
            KeyCode::Home => self.select(0),
            KeyCode::End => self.select(usize::MAX),
            KeyCode::Left | KeyCode::Char('<') => self.sort_beside(ALL.len() - 1),
            KeyCode::Right | KeyCode::Char('>') => self.sort_beside(1),
            KeyCode::Char('r') => {
                self.reversed = !self.reversed;
                self.arrange();
            }
            KeyCode::Char('s') => return self.act(Verb::Start),
            KeyCode::Char('d') => return self.act(Verb::Shutdown),
            KeyCode::Char('x') => return self.act(Verb::Stop),
            KeyCode::Char('p') => {
                let still = |state| matches!(state, VmState::Paused | VmState::Suspended);
                let still = self.selected().is_some_and(|(_, _, state)| still(state));
                return self.act(if still { Verb::Resume } else { Verb::Pause });
            }
            _ => {}
        }
        None
    }

    fn sort_beside(&mut self, by: usize) {
        let now = ALL.iter().position(|column| *column == self.sort).unwrap_or(0);
        self.sort = ALL[(now + by) % ALL.len()];
        self.reversed = false;
        self.arrange();
    }

    fn selected(&self) -> Option<(Id, String, VmState)> {
        let vm = self.known.vm(self.selected?)?;
        Some((vm.id, vm.definition.name.to_string(), vm.status.state))
    }

    /// Does a verb with the selected guest, or asks first where something may be lost.
    fn act(&mut self, verb: Verb) -> Option<Wish> {
        let (id, name, _) = self.selected()?;
        if verb == Verb::Stop {
            self.mode = Mode::Confirm(id, name, verb);
            return None;
        }
        Some(self.wish(id, name, verb))
    }

    fn wish(&mut self, id: Id, name: String, verb: Verb) -> Wish {
        self.say(format!("{} {name} …", verb.word()), false);
        Wish::Do(id, name, verb)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::failure::Failure;

    fn app() -> App {
        let mut app = App::new(String::new(), Column::Cpu, String::new());
        for (name, state) in [("db", "running"), ("web-1", "running"), ("web-2", "paused")] {
            let vm = json!({
                "id": Id::new(), "name": name, "created": "2026-01-01T00:00:00Z", "labels": { "team": name },
                "status": { "state": state, "since": "2026-01-01T00:00:00Z" },
            });
            app.hear(News::Vm(Box::new(serde_json::from_value(vm).unwrap())));
        }
        app.arrange();
        app
    }

    fn press(app: &mut App, keys: &str) -> Option<Wish> {
        let mut wish = None;
        for letter in keys.chars() {
            let code = match letter {
                '\n' => KeyCode::Enter,
                'v' => KeyCode::Down,
                '^' => KeyCode::Up,
                other => KeyCode::Char(other),
            };
            wish = app.key(code.into());
        }
        wish
    }

    fn shown(app: &App) -> Vec<&str> {
        app.rows().iter().map(|row| row.name.as_str()).collect()
    }

    fn verb(wish: Option<Wish>) -> Option<(String, Verb)> {
        match wish {
            Some(Wish::Do(_, name, verb)) => Some((name, verb)),
            _ => None,
        }
    }

    #[test]
    fn what_is_typed_filters_by_name_state_and_label() {
        let mut app = app();
        press(&mut app, "/web");
        assert_eq!(shown(&app), ["web-1", "web-2"]);
        press(&mut app, " paused\n");
        assert_eq!((shown(&app), &app.mode), (vec!["web-2"], &Mode::Table));
        app.key(KeyCode::Esc.into());
        assert_eq!(shown(&app).len(), 3);
        press(&mut app, "/team=db\n");
        assert_eq!(shown(&app), ["db"]);
    }

    #[test]
    fn a_guest_stays_selected_wherever_it_moves() {
        let mut app = app();
        press(&mut app, "vv");
        assert_eq!(app.position(), Some(2));
        // To the column before, which is the state: paused comes first.
        press(&mut app, "<");
        assert_eq!((app.sort, shown(&app)[0], app.position()), (Column::State, "web-2", Some(0)));
        press(&mut app, "r");
        assert_eq!(app.position(), Some(2));
        let id = app.selected.unwrap();
        app.hear(News::Gone(id));
        app.arrange();
        assert_eq!(app.position(), Some(1));
    }

    #[test]
    fn a_plug_is_pulled_only_after_a_yes() {
        let mut app = app();
        assert_eq!(verb(press(&mut app, "x")), None);
        assert_eq!(verb(press(&mut app, "n")), None);
        press(&mut app, "x");
        assert_eq!(verb(press(&mut app, "y")), Some(("db".into(), Verb::Stop)));
        assert_eq!(verb(press(&mut app, "d")), Some(("db".into(), Verb::Shutdown)));
    }

    #[test]
    fn one_key_pauses_and_resumes() {
        let mut app = app();
        assert_eq!(verb(press(&mut app, "p")), Some(("db".into(), Verb::Pause)));
        assert_eq!(verb(press(&mut app, "vvp")), Some(("web-2".into(), Verb::Resume)));
    }

    #[test]
    fn a_new_stream_forgets_what_the_old_one_told() {
        let mut app = app();
        app.hear(News::Lost(Failure::internal("it is gone")));
        assert_eq!((app.lost.as_deref(), shown(&app).len()), (Some("it is gone"), 3));
        app.hear(News::Begins);
        app.arrange();
        assert_eq!((app.lost.as_deref(), shown(&app).len()), (None, 0));
    }
}
