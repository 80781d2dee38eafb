//! One port: bytes between two queues and a program of the host.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

use rustix::net::{RecvFlags, recv};
use vm_memory::Bytes;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::{BUDGET, Cable, fill, lock};
use crate::memory::GuestMemory;
use crate::virtio::{ActiveQueue, Chain, QueueBroken, pieces};

/// How much is read from the host at once.
const CHUNK: usize = 16 << 10;
/// The most that one request of the guest may hold; what is beyond is lost. Linux sends 32 KiB.
const MOST_REQUEST: usize = 1 << 20;

/// The host's end, which stays as it is when the guest starts anew.
pub struct Host {
    listener: Option<UnixListener>,
    stream: Option<UnixStream>,
    /// Readable when something has happened here that somebody waits for.
    events: Arc<Epoll>,
    /// What is waited for at the stream, if it is.
    interest: Option<EventSet>,
    /// Whether clients are waited for.
    invites: bool,
    /// The program at the other end has said all that it will; it may still listen.
    said_all: bool,
}

impl Host {
    pub fn new(cable: Cable) -> io::Result<Self> {
        let mut host = Self {
            listener: None,
            stream: None,
            events: Arc::new(Epoll::new()?),
            interest: None,
            invites: false,
            said_all: false,
        };
        match cable {
            Cable::Listener(listener) => {
                listener.set_nonblocking(true)?;
                host.listener = Some(listener);
            }
            Cable::Stream(stream) => {
                stream.set_nonblocking(true)?;
                host.stream = Some(stream);
            }
        }
        Ok(host)
    }

    pub fn events(&self) -> Arc<Epoll> {
        Arc::clone(&self.events)
    }

    fn control(&self, operation: ControlOperation, fd: RawFd, interest: EventSet) {
        if let Err(error) = self.events.ctl(operation, fd, EpollEvent::new(interest, 0)) {
            tracing::error!(%error, "a port cannot wait for its host");
        }
    }

    /// Waits for whoever is there, or else for who comes.
    fn wake(&mut self) {
        match self.stream {
            Some(_) => self.wait_for(Some(EventSet::IN)),
            None => self.invite(true),
        }
    }

    /// Waits for nobody.
    pub fn rest(&mut self) {
        self.wait_for(None);
        self.invite(false);
    }

    /// Takes in the next client.
    fn accept(&mut self) {
        let Some(listener) = self.listener.as_ref().filter(|_| self.stream.is_none()) else { return };
        match listener.accept().and_then(|(stream, _)| stream.set_nonblocking(true).map(|()| stream)) {
            Ok(stream) => {
                // One at a time: the others wait.
                self.invite(false);
                (self.stream, self.said_all) = (Some(stream), false);
                self.wait_for(Some(EventSet::IN));
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                tracing::warn!(%error, "a port takes no more clients until its guest starts anew");
                self.invite(false);
            }
        }
    }

    fn disconnect(&mut self) {
        self.wait_for(None);
        self.stream = None;
        self.invite(true);
    }

    fn wait_for(&mut self, interest: Option<EventSet>) {
        let Some(fd) = self.stream.as_ref().map(AsRawFd::as_raw_fd) else { return };
        match (self.interest, interest) {
            (None, Some(new)) => self.control(ControlOperation::Add, fd, new),
            (Some(old), Some(new)) if old != new => self.control(ControlOperation::Modify, fd, new),
            (Some(_), None) => self.control(ControlOperation::Delete, fd, EventSet::empty()),
            _ => {}
        }
        self.interest = interest;
    }

    fn invite(&mut self, invites: bool) {
        let Some(fd) = self.listener.as_ref().map(AsRawFd::as_raw_fd) else { return };
        match (self.invites, invites) {
            (false, true) => self.control(ControlOperation::Add, fd, EventSet::IN),
            (true, false) => self.control(ControlOperation::Delete, fd, EventSet::empty()),
            _ => {}
        }
        self.invites = invites;
    }

    /// Whether the other end has gone. What it said before may be there still, unless it has said all.
    fn hung_up(&mut self) -> bool {
        let Some(stream) = &self.stream else { return false };
        let mut fd = libc::pollfd { fd: stream.as_raw_fd(), events: 0, revents: 0 };
        // SAFETY: one pollfd of ours; the call does not wait.
        unsafe { libc::poll(&raw mut fd, 1, 0) };
        let gone = fd.revents & (libc::POLLHUP | libc::POLLERR) != 0;
        self.said_all |= gone && !matches!(recv(stream, &mut [0u8; 1], RecvFlags::PEEK), Ok((n, _)) if n > 0);
        gone
    }
}

/// A port as the driver uses it.
pub struct Port {
    host: Arc<Mutex<Host>>,
    /// The driver knows of it.
    pub ready: bool,
    /// A program of the guest has opened it.
    pub open: bool,
    /// Bytes of the host that the guest has had no room for.
    incoming: Vec<u8>,
    /// Bytes of the guest that the host has had no room for.
    outgoing: Vec<u8>,
    /// A guest's terminal: what the host has no room for is lost, because Linux waits for it with interrupts off.
    terminal: bool,
    /// Whether a program of the host was there when the driver was last told.
    pub was_connected: bool,
}

impl Port {
    /// A port that is `open` from the start where there are no messages to say so.
    pub fn new(host: Arc<Mutex<Host>>, open: bool, terminal: bool) -> Self {
        let mut end = lock(&host);
        end.wake();
        let was_connected = end.stream.is_some();
        drop(end);
        Self { host, ready: open, open, incoming: Vec::new(), outgoing: Vec::new(), terminal, was_connected }
    }

    /// Nothing is done for this driver any more: nobody is waited for.
    pub fn rest(&self) {
        lock(&self.host).rest();
    }

    /// Whether a program of the host is there.
    pub fn connected(&self) -> bool {
        lock(&self.host).stream.is_some()
    }

    /// Takes in who wants to connect; says so if whether somebody is connected has changed.
    pub fn look(&mut self) -> Option<bool> {
        lock(&self.host).accept();
        self.changed()
    }

    fn changed(&mut self) -> Option<bool> {
        let connected = self.connected();
        let changed = connected != self.was_connected;
        self.was_connected = connected;
        changed.then_some(connected)
    }

    /// Waits for what can go on; `room` says whether the guest has buffers. Says so if whether somebody is connected has changed.
    pub fn settle(&mut self, room: bool) -> Option<bool> {
        let mut host = lock(&self.host);
        let hung_up = host.hung_up();
        let wants_input = self.open && room && self.incoming.is_empty() && !host.said_all;
        let mut interest = EventSet::empty();
        interest.set(EventSet::IN, wants_input);
        interest.set(EventSet::OUT, !self.outgoing.is_empty());
        match hung_up {
            false => host.wait_for(Some(interest)),
            true if wants_input => host.wait_for(Some(EventSet::IN)),
            // It is read to its end when the guest has room; until then we would be told again and again.
            true if self.open && !(host.said_all && self.incoming.is_empty()) => host.wait_for(None),
            true => {
                host.disconnect();
                self.incoming.clear();
                self.outgoing.clear();
            }
        }
        drop(host);
        self.changed()
    }

    /// Gives the host what the guest has written. What nobody is there for is lost.
    pub fn carry_out(
        &mut self,
        queue: &mut ActiveQueue,
        memory: &Arc<GuestMemory>,
    ) -> Result<(), QueueBroken> {
        let mut used = false;
        let mut budget = BUDGET;
        while self.flush() {
            if budget == 0 {
                // A counter that is full wakes as well.
                let _ = queue.kick.write(1);
                break;
            }
            budget -= 1;
            let Some(chain) = queue.next(memory)? else { break };
            let head = chain.head_index();
            take(chain, memory, &mut self.outgoing);
            queue.give_back(memory, head, 0)?;
            used = true;
        }
        if used {
            queue.tell(memory);
        }
        Ok(())
    }

    /// Writes what waits; true when nothing is left.
    fn flush(&mut self) -> bool {
        let mut host = lock(&self.host);
        let Some(stream) = &mut host.stream else {
            self.outgoing.clear();
            return true;
        };
        while !self.outgoing.is_empty() {
            match stream.write(&self.outgoing) {
                Ok(n) => drop(self.outgoing.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.terminal => {
                    self.outgoing.clear();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(_) => {
                    self.outgoing.clear();
                    host.disconnect();
                    return true;
                }
            }
        }
        true
    }

    /// Gives the guest what the host has written; true if the guest has room for more.
    pub fn carry_in(
        &mut self,
        queue: &mut ActiveQueue,
        memory: &Arc<GuestMemory>,
    ) -> Result<bool, QueueBroken> {
        let mut used = false;
        let mut room = self.open && queue.listen(memory)?;
        let mut budget = BUDGET;
        while room && (!self.incoming.is_empty() || self.read()) {
            if budget == 0 {
                // A counter that is full wakes as well.
                let _ = queue.kick.write(1);
                break;
            }
            budget -= 1;
            let Some(chain) = queue.next(memory)? else { break };
            let head = chain.head_index();
            let written = fill(chain, memory, &self.incoming);
            self.incoming.drain(..written as usize);
            queue.give_back(memory, head, written)?;
            used = true;
            room = queue.listen(memory)?;
        }
        if used {
            queue.tell(memory);
        }
        Ok(room)
    }

    /// Reads from the host; true if there is something.
    fn read(&mut self) -> bool {
        let mut host = lock(&self.host);
        let said_all = host.said_all;
        let Some(stream) = host.stream.as_mut().filter(|_| !said_all) else { return false };
        let mut buffer = vec![0; CHUNK];
        match stream.read(&mut buffer) {
            // Whoever has asked may wait for the answer: it goes when it hangs up.
            Ok(0) => host.said_all = true,
            Ok(n) => {
                buffer.truncate(n);
                self.incoming = buffer;
                return true;
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => host.disconnect(),
        }
        false
    }
}

/// Appends what a request of the guest holds, as far as it is there.
fn take(chain: Chain, memory: &GuestMemory, to: &mut Vec<u8>) {
    for descriptor in pieces(chain).filter(|descriptor| !descriptor.is_write_only()) {
        let start = to.len();
        let len = (descriptor.len() as usize).min(MOST_REQUEST.saturating_sub(start));
        to.resize(start + len, 0);
        if memory.read_slice(&mut to[start..], descriptor.addr()).is_err() {
            to.truncate(start);
            return;
        }
    }
}
