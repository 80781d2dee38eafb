//! One port: bytes between two queues and a program of the host.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

use virtio_queue::QueueT;
use vm_memory::Bytes;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::{BUDGET, Cable, fill, lock};
use crate::memory::GuestMemory;
use crate::virtio::{ActiveQueue, Chain, QueueBroken};

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
    /// What is waited for at the stream.
    interest: EventSet,
}

impl Host {
    pub fn new(cable: Cable) -> io::Result<Self> {
        let mut host = Self {
            listener: None,
            stream: None,
            events: Arc::new(Epoll::new()?),
            interest: EventSet::empty(),
        };
        match cable {
            Cable::Listener(listener) => {
                listener.set_nonblocking(true)?;
                host.control(ControlOperation::Add, listener.as_raw_fd(), EventSet::IN);
                host.listener = Some(listener);
            }
            Cable::Stream(stream) => host.connect(stream),
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

    fn connect(&mut self, stream: UnixStream) {
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        if let Some(listener) = &self.listener {
            // One at a time: the others wait.
            self.control(ControlOperation::Modify, listener.as_raw_fd(), EventSet::empty());
        }
        self.interest = EventSet::IN;
        self.control(ControlOperation::Add, stream.as_raw_fd(), self.interest);
        self.stream = Some(stream);
    }

    fn disconnect(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.control(ControlOperation::Delete, stream.as_raw_fd(), EventSet::empty());
        }
        if let Some(listener) = &self.listener {
            self.control(ControlOperation::Modify, listener.as_raw_fd(), EventSet::IN);
        }
    }

    fn wait_for(&mut self, interest: EventSet) {
        let Some(stream) = self.stream.as_ref().filter(|_| self.interest != interest) else { return };
        self.control(ControlOperation::Modify, stream.as_raw_fd(), interest);
        self.interest = interest;
    }

    /// Whether the other end has gone, with nothing left to be read.
    fn hung_up(&self) -> bool {
        let Some(stream) = &self.stream else { return false };
        let mut fd = libc::pollfd { fd: stream.as_raw_fd(), events: 0, revents: 0 };
        // SAFETY: one pollfd of ours; the call does not wait.
        unsafe { libc::poll(&raw mut fd, 1, 0) };
        fd.revents & (libc::POLLHUP | libc::POLLERR) != 0
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
    was_connected: bool,
}

impl Port {
    /// A port that is `open` from the start where there are no messages to say so.
    pub fn new(host: Arc<Mutex<Host>>, open: bool) -> Self {
        let was_connected = lock(&host).stream.is_some();
        Self { host, ready: open, open, incoming: Vec::new(), outgoing: Vec::new(), was_connected }
    }

    /// Whether a program of the host is there.
    pub fn connected(&self) -> bool {
        lock(&self.host).stream.is_some()
    }

    /// Takes in who wants to connect; says so if whether somebody is connected has changed.
    pub fn look(&mut self) -> Option<bool> {
        let mut host = lock(&self.host);
        if host.stream.is_none()
            && let Some(Ok((stream, _))) = host.listener.as_ref().map(UnixListener::accept)
        {
            host.connect(stream);
        }
        drop(host);
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
        let wants_input = self.open && room && self.incoming.is_empty();
        let mut interest = EventSet::empty();
        interest.set(EventSet::IN, wants_input);
        interest.set(EventSet::OUT, !self.outgoing.is_empty());
        // What it left unread when it went nobody will answer.
        if host.hung_up() && !wants_input {
            host.disconnect();
            self.outgoing.clear();
        }
        host.wait_for(interest);
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
        let mut room = self.open && has_room(queue, memory)?;
        for _ in 0..BUDGET {
            if !room || (self.incoming.is_empty() && !self.read()) {
                break;
            }
            let Some(chain) = queue.next(memory)? else { break };
            let head = chain.head_index();
            let written = fill(chain, memory, &self.incoming);
            self.incoming.drain(..written as usize);
            queue.give_back(memory, head, written)?;
            used = true;
            room = has_room(queue, memory)?;
        }
        if used {
            queue.tell(memory);
        }
        Ok(room)
    }

    /// Reads from the host; true if there is something.
    fn read(&mut self) -> bool {
        let mut host = lock(&self.host);
        let Some(stream) = &mut host.stream else { return false };
        let mut buffer = vec![0; CHUNK];
        match stream.read(&mut buffer) {
            Ok(0) => host.disconnect(),
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

/// Whether the guest has put buffers into a queue. If not, it kicks when it does.
fn has_room(queue: &mut ActiveQueue, memory: &GuestMemory) -> Result<bool, QueueBroken> {
    Ok(queue.has_more(memory) || queue.queue.enable_notification(memory)?)
}

/// Appends what a request of the guest holds, as far as it is there.
fn take(chain: Chain, memory: &GuestMemory, to: &mut Vec<u8>) {
    for descriptor in chain.filter(|descriptor| !descriptor.is_write_only()) {
        let start = to.len();
        let len = (descriptor.len() as usize).min(MOST_REQUEST.saturating_sub(start));
        to.resize(start + len, 0);
        if memory.read_slice(&mut to[start..], descriptor.addr()).is_err() {
            to.truncate(start);
            return;
        }
    }
}
