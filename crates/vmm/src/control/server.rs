//! The loop that waits for clients, for the guest and for its console, on one thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use super::connection::{Connection, Message};
use super::guest::Guest;
use super::protocol::{Refusal, Request, answer, code, notification};

/// How often a guest that has had no room for what was typed is offered it again.
const OFFER_AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };

/// The socket cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("The control socket cannot be served")]
pub struct ServeError(#[from] io::Error);

impl From<rustix::io::Errno> for ServeError {
    fn from(error: rustix::io::Errno) -> Self {
        Self(error.into())
    }
}

/// Serves clients of `listener` until one says `stop`.
///
/// # Errors
/// If the host cannot wait for the socket any more. What a client does wrong ends at most that client.
pub fn serve(listener: &UnixListener) -> Result<(), ServeError> {
    listener.set_nonblocking(true)?;
    let mut server = Server { clients: Vec::new(), guest: Guest::none()?, stopped: false };
    while !server.stopped {
        server.turn(listener)?;
    }
    Ok(())
}

struct Server {
    clients: Vec<Connection>,
    guest: Guest,
    stopped: bool,
}

/// What became ready.
#[derive(Default)]
struct Ready {
    listener: bool,
    guest: bool,
    saves: bool,
    disks: bool,
    console: bool,
    consoles: bool,
    clients: Vec<bool>,
}

impl Server {
    fn turn(&mut self, listener: &UnixListener) -> Result<(), ServeError> {
        let ready = self.wait(listener)?;
        if ready.listener
            && let Ok((stream, _)) = listener.accept()
        {
            self.clients.push(Connection::new(stream)?);
        }
        for (index, _) in ready.clients.iter().enumerate().filter(|(_, ready)| **ready).rev() {
            if self.serve_client(index).is_err() {
                self.clients.remove(index);
            }
        }
        if ready.guest {
            while let Some(line) = self.guest.next_event() {
                self.tell(&line);
            }
        }
        if ready.saves
            && let Some(end) = self.guest.saves.ended()
        {
            self.tell(&notification("saved", &end));
        }
        if ready.disks {
            for line in self.guest.disks.news() {
                self.tell(&line);
            }
        }
        if ready.console {
            self.guest.read_console();
        }
        if ready.consoles {
            self.guest.serve_consoles();
        }
        if self.guest.has_typed() {
            self.guest.pass_typed();
        }
        Ok(())
    }

    /// Tells all clients something; those that cannot be told are not there any more.
    fn tell(&mut self, line: &str) {
        self.clients.retain_mut(|client| client.send(line).is_ok());
    }

    fn wait(&self, listener: &UnixListener) -> Result<Ready, ServeError> {
        let room = self.guest.room_for_typed() > 0;
        match self.guest.consoles() {
            Some(consoles) => consoles.sources(room, |sources| self.wait_also_for(listener, sources)),
            None => self.wait_also_for(listener, Vec::new()),
        }
    }

    /// Waits for everything, and for the `consoles`, which come first.
    fn wait_also_for(&self, listener: &UnixListener, consoles: Vec<PollFd<'_>>) -> Result<Ready, ServeError> {
        let input = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let count = consoles.len();
        let mut list = consoles;
        list.push(input(listener.as_fd()));
        let optional = [
            self.guest.events(),
            self.guest.saves.running(),
            Some(self.guest.disks.ready()),
            self.guest.console(),
        ];
        list.extend(optional.iter().flatten().copied().map(input));
        for client in &self.clients {
            let unsent = if client.has_unsent() { PollFlags::OUT } else { PollFlags::empty() };
            list.push(PollFd::from_borrowed_fd(client.as_fd(), PollFlags::IN | unsent));
        }
        let patience = self.guest.has_typed().then_some(&OFFER_AGAIN);
        match poll(&mut list, patience) {
            Err(rustix::io::Errno::INTR) => return Ok(Ready::default()),
            result => result?,
        };
        let mut ready = list.iter().map(|fd| !fd.revents().is_empty());
        let consoles = ready.by_ref().take(count).fold(false, |any, one| any | one);
        let mut next = |there: Option<&BorrowedFd>| there.is_some() && ready.next().unwrap_or(false);
        let listener = next(Some(&listener.as_fd()));
        let [guest, saves, disks, console] = optional.each_ref().map(|there| next(there.as_ref()));
        Ok(Ready { listener, guest, saves, disks, console, consoles, clients: ready.collect() })
    }

    fn serve_client(&mut self, index: usize) -> io::Result<()> {
        self.clients[index].flush()?;
        for message in self.clients[index].receive()? {
            if let Some(line) = self.handle(message) {
                self.clients[index].send(&line)?;
            }
        }
        Ok(())
    }

    /// Carries out a message; gives the line that answers it.
    fn handle(&mut self, message: Message) -> Option<String> {
        let value: Value = match serde_json::from_slice(&message.line) {
            Ok(value) => value,
            Err(e) => return Some(answer(&Value::Null, Err(Refusal::new(code::PARSE, e)))),
        };
        let id = value.get("id").cloned().unwrap_or(Value::Null);
        let request = match serde_json::from_value::<Request>(value) {
            Ok(request) if request.jsonrpc == "2.0" => request,
            Ok(_) => return Some(answer(&id, Err(Refusal::new(code::REQUEST, "jsonrpc must be \"2.0\"")))),
            Err(e) => return Some(answer(&id, Err(Refusal::new(code::REQUEST, e)))),
        };
        let result = if request.method == "stop" {
            self.stopped = true;
            self.guest.end();
            Ok(json!({}))
        } else {
            self.guest.call(&request.method, request.params, message.files)
        };
        request.id.map(|id| answer(&id, result))
    }
}
