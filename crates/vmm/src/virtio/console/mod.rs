//! The console device (section 5.3): named byte streams between programs of the host and of the guest. The guest's agent is behind
//! one; the first one that is a console is the guest's `hvc0`.

mod control;
mod port;
mod saved;

use std::collections::VecDeque;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use vm_memory::Bytes;

use self::control::{Event, Message};
use self::port::{Host, Port};
use super::{
    Activation, ActiveQueue, Chain, Device, DeviceState, Health, QueueBroken, RestoreError, pieces,
    read_slice,
};
use crate::memory::GuestMemory;
use crate::reactor::{Ready, Source};

pub use self::saved::{ConsoleState, PortState};

const QUEUE_SIZE: u16 = 64;
/// The most ports: each has two queues.
const MOST_PORTS: usize = 15;
/// The queues of control messages (5.3.2).
const CONTROL_RECEIVE: usize = 2;
const CONTROL_TRANSMIT: usize = 3;
/// The most requests of a queue before others on the device thread have their turn.
const BUDGET: usize = 64;
/// The most control messages that may wait for a driver that does not take them.
const MOST_MESSAGES: usize = 256;

mod feature {
    pub const MULTIPORT: u64 = 1 << 1;
}

/// The host's end of a port.
#[derive(Debug)]
pub enum Cable {
    /// Programs connect here, one at a time.
    Listener(UnixListener),
    /// One is connected already.
    Stream(UnixStream),
}

/// A port.
#[derive(Debug)]
pub struct PortConfig {
    /// What the guest finds it by: `/dev/virtio-ports/NAME`.
    pub name: String,
    /// Whether the guest may use it as a console.
    pub console: bool,
    /// The host's end.
    pub cable: Cable,
}

/// The console device.
pub struct Console {
    ports: Vec<Arc<Description>>,
    hosts: Vec<Arc<Mutex<Host>>>,
    sources: Vec<Source>,
    /// What it works with while the driver is there.
    board: Weak<Mutex<Board>>,
    /// What the driver knows already, when it goes on with a device that was saved.
    known: Option<ConsoleState>,
}

/// What the driver is told of a port.
struct Description {
    name: String,
    console: bool,
}

impl Console {
    /// A console device with these ports, at most 15.
    ///
    /// # Errors
    /// If there are more, or the kernel gives no descriptor.
    pub fn new(ports: Vec<PortConfig>) -> io::Result<Self> {
        if ports.len() > MOST_PORTS || ports.iter().any(|port| port.name.len() > 64) {
            let detail = "a console device has at most 15 ports, with names of at most 64 bytes";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, detail));
        }
        let mut device = Self {
            ports: Vec::new(),
            hosts: Vec::new(),
            sources: Vec::new(),
            board: Weak::new(),
            known: None,
        };
        for port in ports {
            device.ports.push(Arc::new(Description { name: port.name, console: port.console }));
            device.hosts.push(Arc::new(Mutex::new(Host::new(port.cable)?)));
        }
        Ok(device)
    }

    /// The numbers of a port's queues: from the host, to the host (5.3.2).
    fn queues_of(port: usize) -> (usize, usize) {
        if port == 0 { (0, 1) } else { (2 * port + 2, 2 * port + 3) }
    }
}

impl Device for Console {
    fn id(&self) -> u16 {
        3
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2 * self.ports.len().max(1) + 2]
    }

    fn features(&self) -> u64 {
        feature::MULTIPORT
    }

    /// The configuration structure (5.3.4): columns, rows, the most ports.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; 8];
        config[4..].copy_from_slice(&(self.ports.len() as u32).to_le_bytes());
        read_slice(&config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let Activation { memory, features, queues, health, reactor } = activation;
        let kicks: Vec<_> =
            queues.iter().map(|queue| queue.as_ref().map(|queue| Arc::clone(&queue.kick))).collect();
        let multiport = features & feature::MULTIPORT != 0;
        let ports = self.hosts.iter().zip(&self.ports).map(|(host, description)| {
            Port::new(Arc::clone(host), !multiport, description.console || !multiport)
        });
        let mut board = Board {
            memory,
            health,
            queues,
            multiport,
            descriptions: self.ports.clone(),
            ports: ports.collect(),
            messages: VecDeque::new(),
        };
        if let Some(known) = self.known.take() {
            board.go_on(known);
        }
        let board = Arc::new(Mutex::new(board));
        self.board = Arc::downgrade(&board);
        // Without control messages nobody says that the guest is ready: it is. The device thread does what follows, when it may.
        if let Some(Some(kick)) = kicks.first() {
            // A counter that is full wakes as well.
            let _ = kick.write(1);
        }
        for (number, kick) in kicks.into_iter().enumerate().filter_map(|(n, kick)| Some((n, kick?))) {
            let mut work = worker(&board, move |board, _| board.kicked(number));
            self.sources.push(reactor.on_event(kick, move || work(Ready::empty()))?);
        }
        for (number, host) in self.hosts.iter().enumerate() {
            let events = lock(host).events();
            self.sources.push(reactor.add(
                events,
                Ready::READ,
                worker(&board, move |board, _| board.host_ready(number)),
            )?);
        }
        // The first source keeps the board; the others' callbacks do not.
        self.sources.push(reactor.on_event(Arc::new(keeper()?), move || drop(Arc::clone(&board)))?);
        Ok(())
    }

    fn deactivate(&mut self) {
        self.sources.clear();
        self.known = None;
    }

    fn save(&self, active: bool) -> DeviceState {
        let board = self.board.upgrade().filter(|_| active);
        board.map_or(DeviceState::Plain, |board| DeviceState::Console(lock(&board).save()))
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        let DeviceState::Console(state) = state else { return Err(RestoreError::Kind) };
        if state.ports.len() != self.ports.len() {
            return Err(RestoreError::Ports { saved: state.ports.len(), here: self.ports.len() });
        }
        self.known = Some(state.clone());
        Ok(())
    }
}

/// An event that never happens: its callback holds what the others work with.
fn keeper() -> io::Result<vmm_sys_util::eventfd::EventFd> {
    use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
    EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn worker(
    board: &Arc<Mutex<Board>>,
    work: impl Fn(&mut Board, Ready) -> Result<(), QueueBroken> + Send + 'static,
) -> impl FnMut(Ready) + Send + 'static {
    let board: Weak<Mutex<Board>> = Arc::downgrade(board);
    move |ready| {
        if let Some(board) = board.upgrade() {
            lock(&board).work(|board| work(board, ready));
        }
    }
}

/// Everything that the device works with while the driver is there.
struct Board {
    memory: Arc<GuestMemory>,
    health: Health,
    queues: Vec<Option<ActiveQueue>>,
    multiport: bool,
    descriptions: Vec<Arc<Description>>,
    ports: Vec<Port>,
    /// What the driver is to be told.
    messages: VecDeque<Message>,
}

impl Board {
    fn work(&mut self, work: impl FnOnce(&mut Board) -> Result<(), QueueBroken>) {
        if !self.health.broken()
            && let Err(error) = work(self)
        {
            self.health.give_up(&error);
        }
        if self.health.broken() {
            self.ports.iter().for_each(Port::rest);
        }
    }

    fn kicked(&mut self, queue: usize) -> Result<(), QueueBroken> {
        match queue {
            CONTROL_RECEIVE => self.tell(),
            CONTROL_TRANSMIT => self.listen(),
            _ => match (0..self.ports.len()).find(|port| {
                let (receive, transmit) = Console::queues_of(*port);
                queue == receive || queue == transmit
            }) {
                Some(port) => self.carry(port),
                None => Ok(()),
            },
        }
    }

    /// Something has happened at the host's end of a port.
    fn host_ready(&mut self, port: usize) -> Result<(), QueueBroken> {
        let Some(one) = self.ports.get_mut(port) else { return Ok(()) };
        if let Some(connected) = one.look() {
            let known = one.ready;
            if known && self.multiport {
                self.tell_of(port, connected);
            }
        }
        self.carry(port)?;
        self.tell()
    }

    /// Carries bytes both ways.
    fn carry(&mut self, port: usize) -> Result<(), QueueBroken> {
        let (receive, transmit) = Console::queues_of(port);
        let Some(one) = self.ports.get_mut(port) else { return Ok(()) };
        if let Some(Some(queue)) = self.queues.get_mut(transmit) {
            one.carry_out(queue, &self.memory)?;
        }
        let mut room = false;
        if let Some(Some(queue)) = self.queues.get_mut(receive) {
            room = one.carry_in(queue, &self.memory)?;
        }
        if let Some(connected) = one.settle(room)
            && one.ready
            && self.multiport
        {
            self.tell_of(port, connected);
            self.tell()?;
        }
        Ok(())
    }

    /// Notes that the driver is to be told whether somebody is at the host's end. What it has not heard yet is old.
    fn tell_of(&mut self, port: usize, connected: bool) {
        self.messages.retain(|message| message.port != port as u32 || message.event != Event::PortOpen);
        self.messages.push_back(Message::new(port, Event::PortOpen, u16::from(connected)));
    }

    /// Takes what the driver says (5.3.6.2).
    fn listen(&mut self) -> Result<(), QueueBroken> {
        for _ in 0..BUDGET {
            let Some(Some(queue)) = self.queues.get_mut(CONTROL_TRANSMIT) else { return Ok(()) };
            let Some(chain) = queue.next(&self.memory)? else { return self.tell() };
            let head = chain.head_index();
            let message = read_message(chain, &self.memory);
            queue.give_back(&self.memory, head, 0)?;
            queue.tell(&self.memory);
            if let Some(message) = message {
                self.heard(&message)?;
            }
        }
        self.come_back(CONTROL_TRANSMIT);
        self.tell()
    }

    /// Has the queue served again, after others have had their turn.
    fn come_back(&self, queue: usize) {
        if let Some(Some(queue)) = self.queues.get(queue) {
            // A counter that is full wakes as well.
            let _ = queue.kick.write(1);
        }
    }

    fn heard(&mut self, message: &Message) -> Result<(), QueueBroken> {
        if self.messages.len() > MOST_MESSAGES {
            return Err(QueueBroken::Flood);
        }
        let number = message.port as usize;
        match (message.event, self.ports.get_mut(number)) {
            (Event::DeviceReady, _) if message.value == 1 => {
                let ports = 0..self.ports.len();
                self.messages.extend(ports.map(|port| Message::new(port, Event::DeviceAdd, 0)));
            }
            (Event::PortReady, Some(port)) if message.value == 1 => {
                port.ready = true;
                let connected = port.connected();
                let Description { name, console } = &*self.descriptions[number];
                if *console {
                    self.messages.push_back(Message::new(number, Event::ConsolePort, 1));
                }
                self.messages.push_back(Message::named(number, name));
                if connected {
                    self.messages.push_back(Message::new(number, Event::PortOpen, 1));
                }
            }
            (Event::PortOpen, Some(port)) => {
                port.open = message.value == 1;
                return self.carry(number);
            }
            _ => {}
        }
        Ok(())
    }

    /// Tells the driver what it is to be told, as far as it has room.
    fn tell(&mut self) -> Result<(), QueueBroken> {
        let Some(Some(queue)) = self.queues.get_mut(CONTROL_RECEIVE) else { return Ok(()) };
        let mut told = false;
        while let Some(message) = self.messages.front() {
            let Some(chain) = queue.next(&self.memory)? else { break };
            let head = chain.head_index();
            let written = fill(chain, &self.memory, &message.bytes());
            queue.give_back(&self.memory, head, written)?;
            self.messages.pop_front();
            told = true;
        }
        if told {
            queue.tell(&self.memory);
        }
        Ok(())
    }
}

/// Writes bytes into a chain's buffers; gives how many had room.
fn fill(chain: Chain, memory: &GuestMemory, bytes: &[u8]) -> u32 {
    let mut left = bytes;
    for descriptor in pieces(chain).filter(|descriptor| descriptor.is_write_only()) {
        let (now, later) = left.split_at(left.len().min(descriptor.len() as usize));
        if memory.write_slice(now, descriptor.addr()).is_err() {
            break;
        }
        left = later;
    }
    (bytes.len() - left.len()) as u32
}

fn read_message(chain: Chain, memory: &GuestMemory) -> Option<Message> {
    let mut bytes = Vec::with_capacity(Message::LEN);
    for descriptor in pieces(chain).filter(|descriptor| !descriptor.is_write_only()) {
        let mut part = vec![0; (Message::LEN - bytes.len()).min(descriptor.len() as usize)];
        memory.read_slice(&mut part, descriptor.addr()).ok()?;
        bytes.extend(part);
    }
    Message::read(&bytes)
}
