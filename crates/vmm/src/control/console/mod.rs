//! A console that several can watch and type into at once, that remembers what was said, and whose last words outlive the
//! process.
//!
//! Clients connect to a Unix socket: they get what the log remembers, then what the guest writes, as plain bytes; what they send
//! is typed. A client that does not keep up is let go: neither the guest nor the others wait for it.

mod log;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};

use log::Log;
pub use log::{create, read};

/// How many bytes a client may lag behind.
const MOST_UNSENT: usize = 1 << 20;
/// How many clients there may be.
const MOST_CLIENTS: usize = 32;

/// The clients' side of a console, served by the control thread.
pub struct Console {
    listener: Option<UnixListener>,
    shared: Arc<Shared>,
}

/// The guest's side of a console.
pub struct Output(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Some client cannot take what there is for it at once: the control thread is to wait for it.
    wake: OwnedFd,
}

struct State {
    log: Option<Log>,
    clients: Vec<Client>,
}

struct Client {
    stream: UnixStream,
    unsent: VecDeque<u8>,
    gone: bool,
}

impl Client {
    fn send(&mut self, bytes: &[u8]) {
        let room = MOST_UNSENT.saturating_sub(self.unsent.len());
        if bytes.len() > room {
            self.gone = true;
            return;
        }
        self.unsent.extend(bytes);
        self.flush();
    }

    fn flush(&mut self) {
        while !self.gone && !self.unsent.is_empty() {
            let (next, _) = self.unsent.as_slices();
            match self.stream.write(next) {
                Ok(n) => drop(self.unsent.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.gone = true,
            }
        }
    }

    /// What it has typed, at most `most` bytes.
    fn typed(&mut self, most: usize) -> Vec<u8> {
        let mut buffer = vec![0; most];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.gone = true,
            Ok(n) => {
                buffer.truncate(n);
                return buffer;
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.gone = true,
        }
        Vec::new()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Console {
    /// A console for clients that connect to `listener`; what is said is remembered in the file `log`, which [`create`] made.
    ///
    /// # Errors
    /// If the file is no log, or the host gives no descriptor.
    pub fn new(listener: Option<UnixListener>, log: Option<File>) -> io::Result<(Console, Output)> {
        if let Some(listener) = &listener {
            listener.set_nonblocking(true)?;
        }
        let state = State { log: log.map(Log::open).transpose()?, clients: Vec::new() };
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared { state: Mutex::new(state), wake });
        Ok((Console { listener, shared: Arc::clone(&shared) }, Output(shared)))
    }

    /// Calls `wait_for` with what is to be waited for; what is typed is waited for only if there is `room` for it.
    pub fn sources<R>(&self, room: bool, wait_for: impl FnOnce(Vec<PollFd<'_>>) -> R) -> R {
        // The descriptors are duplicated so that the guest can go on writing during the wait.
        let state = self.shared.lock();
        let streams: Vec<_> = state
            .clients
            .iter()
            .filter_map(|client| {
                let input = if room { PollFlags::IN } else { PollFlags::empty() };
                let output = if client.unsent.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
                // Even without flags poll would return at once, and again, when the client has left.
                let flags = Some(input | output).filter(|flags| !flags.is_empty())?;
                Some((client.stream.as_fd().try_clone_to_owned().ok()?, flags))
            })
            .collect();
        drop(state);
        let mut list = vec![PollFd::new(&self.shared.wake, PollFlags::IN)];
        list.extend(self.listener.iter().map(|listener| PollFd::new(listener, PollFlags::IN)));
        list.extend(streams.iter().map(|(stream, flags)| PollFd::new(stream, *flags)));
        wait_for(list)
    }

    /// Takes in new clients, sends what waits, and gives what was typed, at most `most` bytes a client.
    pub fn serve(&self, most: usize) -> Vec<u8> {
        // A counter that is zero already is as good.
        let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
        let mut state = self.shared.lock();
        while let Some(Ok((stream, _))) = self.listener.as_ref().map(UnixListener::accept) {
            state.welcome(stream);
        }
        let mut typed = Vec::new();
        for client in &mut state.clients {
            client.flush();
            if most > 0 {
                typed.extend(client.typed(most));
            }
        }
        state.clients.retain(|client| !client.gone);
        typed
    }
}

impl State {
    fn welcome(&mut self, stream: UnixStream) {
        // One that cannot be served hears so by the end of its connection.
        if self.clients.len() >= MOST_CLIENTS || stream.set_nonblocking(true).is_err() {
            return;
        }
        let mut client = Client { stream, unsent: VecDeque::new(), gone: false };
        if let Some(log) = &self.log {
            client.send(&log.said());
        }
        self.clients.push(client);
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        if let Some(log) = &mut state.log {
            log.add(bytes);
        }
        for client in &mut state.clients {
            client.send(bytes);
        }
        if state.clients.iter().any(|client| client.gone || !client.unsent.is_empty()) {
            // A counter that is full wakes as well.
            let _ = rustix::io::write(&self.0.wake, &1u64.to_ne_bytes());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console() -> (tempfile::TempDir, std::path::PathBuf, Console, Output) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("console.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let log = create(&folder.path().join("console.log"), 4096).unwrap();
        let (console, output) = Console::new(Some(listener), Some(log)).unwrap();
        (folder, socket, console, output)
    }

    fn read_exactly(stream: &mut UnixStream, want: &[u8]) {
        let mut got = vec![0; want.len()];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(got, want);
    }

    #[test]
    fn all_clients_hear_what_was_said_and_what_is_said_and_can_type() {
        let (_folder, socket, console, mut output) = console();
        output.write_all(b"before ").unwrap();
        let mut one = UnixStream::connect(&socket).unwrap();
        console.serve(64);
        output.write_all(b"between ").unwrap();
        let mut two = UnixStream::connect(&socket).unwrap();
        console.serve(64);
        output.write_all(b"after").unwrap();
        for stream in [&mut one, &mut two] {
            read_exactly(stream, b"before between after");
        }
        two.write_all(b"ls\n").unwrap();
        assert_eq!(console.serve(64), b"ls\n");
        assert_eq!(console.serve(0), b"");
    }

    #[test]
    fn a_client_that_does_not_read_is_let_go_and_the_guest_does_not_wait() {
        let (folder, socket, console, mut output) = console();
        let _deaf = UnixStream::connect(&socket).unwrap();
        console.serve(64);
        for _ in 0..4096 {
            output.write_all(&[b'x'; 1024]).unwrap();
        }
        console.serve(64);
        assert!(console.shared.lock().clients.is_empty());
        assert_eq!(read(&File::open(folder.path().join("console.log")).unwrap()).unwrap(), [b'x'; 4096]);
    }
}
