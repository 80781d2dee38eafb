//! `tessera top` on a terminal: what guests use, live.

mod app;
pub mod columns;
mod draw;
pub mod usage;
pub mod watch;

use std::io;
use std::sync::Arc;

use api::HostInfo;
use crossterm::event::{Event, EventStream, KeyEventKind};
use futures_util::StreamExt;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::client::Client;
use crate::colour;
use crate::console::terminal::FullScreen;
use crate::failure::{Failure, Result};
use app::{App, Wish};
use columns::Column;
use draw::{Palette, draw};
use watch::{News, act, follow};

/// What the screen begins with.
#[derive(Debug)]
pub struct Start {
    /// Seconds between two looks.
    pub interval: u64,
    /// The column to sort by.
    pub sort: Column,
    /// What guests to show.
    pub filter: String,
}

fn failed(error: io::Error) -> Failure {
    Failure::internal(format!("the terminal: {error}"))
}

/// Shows it until the person has seen enough.
///
/// # Errors
/// If the host cannot be reached at first, or there is no terminal.
pub async fn run(client: Client, start: Start) -> Result<()> {
    let host: HostInfo = client.get("/host", &[]).await?;
    let title = format!("tessera {} on {}", host.version, host.name);
    let mut app = App::new(title, start.sort, start.filter);
    let palette = Palette { colours: colour::wanted(&io::stdout()) };
    let needed = || Failure::input("there is no terminal to show it on: give --once");
    let mut full = FullScreen::enter().map_err(failed)?.ok_or_else(needed)?;
    let mut terminal = screen()?;
    let mut stopped = signal(SignalKind::from_raw(libc::SIGTSTP)).map_err(failed)?;
    let (client, mut keys) = (Arc::new(client), EventStream::new());
    let (out, mut news) = mpsc::unbounded_channel();
    tokio::spawn(follow(Arc::clone(&client), start.interval, out.clone()));
    loop {
        terminal.draw(|frame| draw(frame, &mut app, palette)).map_err(failed)?;
        let wish = tokio::select! {
            key = keys.next() => match key {
                Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => app.key(key),
                // Another size: it is drawn anew.
                Some(Ok(_)) => None,
                Some(Err(error)) => return Err(failed(error)),
                None => Some(Wish::Quit),
            },
            Some(told) = news.recv() => {
                hear(&mut app, told, &mut news);
                None
            }
            _ = stopped.recv() => Some(Wish::Suspend),
        };
        match wish {
            Some(Wish::Quit) => return Ok(()),
            Some(Wish::Suspend) => {
                drop(full);
                suspend()?;
                full = FullScreen::enter().map_err(failed)?.ok_or_else(needed)?;
                terminal = screen()?;
            }
            Some(Wish::Do(id, name, verb)) => {
                tokio::spawn(act(Arc::clone(&client), id, name, verb, out.clone()));
            }
            None => {}
        }
    }
}

/// Hears all that has been told by now, and arranges the table once.
fn hear(app: &mut App, first: News, more: &mut mpsc::UnboundedReceiver<News>) {
    app.hear(first);
    while let Ok(news) = more.try_recv() {
        app.hear(news);
    }
    app.arrange();
}

/// Stands still until the shell wants us again.
fn suspend() -> Result<()> {
    kill_process(getpid(), Signal::STOP).map_err(|error| failed(error.into()))
}

/// A screen on which nothing has been drawn.
fn screen() -> Result<Terminal<CrosstermBackend<io::Stdout>>> {
    Terminal::new(CrosstermBackend::new(io::stdout())).map_err(failed)
}
