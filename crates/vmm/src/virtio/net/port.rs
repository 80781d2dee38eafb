//! Frames between a card's two queues and its cable.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_memory::Bytes;

use super::super::limit::{Cost, Throttle};
use super::super::{ActiveQueue, Chain, Health, QueueBroken, pieces};
use super::alias::{Fate, Translator};
use super::{Backend, HEADER, LARGEST_FRAME, Meter};
use crate::memory::GuestMemory;
use crate::reactor::Ready;

/// The most frames one way before others on the device thread have their turn.
const BUDGET: usize = 256;
/// The queues (5.1.2).
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// Where the header says how many buffers a frame takes (5.1.6).
const NUM_BUFFERS: usize = 10;

/// What a port works with.
pub(super) struct Parts {
    pub memory: Arc<GuestMemory>,
    pub health: Health,
    pub receive: ActiveQueue,
    pub transmit: ActiveQueue,
    /// Whether a frame may take several buffers.
    pub mergeable: bool,
    pub backend: Arc<Mutex<Box<dyn Backend>>>,
    pub meter: Arc<Meter>,
    pub throttle: Arc<Throttle>,
    pub link: Arc<AtomicBool>,
    /// What changes frames as long as the guest knows another one's addresses.
    pub alias: Option<Translator>,
}

/// One card's queues and its cable.
pub(super) struct Port {
    parts: Parts,
    /// A frame from the cable, header included, that the guest had no buffers for.
    incoming: Vec<u8>,
    waiting: bool,
    /// Whether it has been counted against the limits.
    paid: bool,
    /// A frame from the guest that the cable had no room for.
    outgoing: Vec<u8>,
    blocked: bool,
    interest: Option<Ready>,
    wanted: Option<Ready>,
}

enum Delivery {
    Done,
    /// The frame is nothing for the guest.
    Lost,
    /// Limits do not let it pass yet.
    TooSoon,
    /// The guest has not put enough buffers into its queue.
    NoRoom,
}

impl Port {
    pub fn new(parts: Parts) -> Self {
        Self {
            parts,
            incoming: Vec::new(),
            waiting: false,
            paid: false,
            outgoing: Vec::new(),
            blocked: false,
            interest: Some(Ready::READ),
            wanted: Some(Ready::READ),
        }
    }

    /// What to wait for from now on, if that has changed since this was last asked: nothing ever again if the cable is cut or
    /// the driver has broken the device, or we would be told of a dead cable again and again.
    pub fn changed_interest(&mut self) -> Option<Option<Ready>> {
        if self.is_down() {
            self.wanted = None;
        }
        let changed = self.wanted != self.interest;
        self.interest = self.wanted;
        changed.then_some(self.wanted)
    }

    fn wait_for(&mut self, what: Ready, wanted: bool) {
        if let Some(ready) = &mut self.wanted {
            ready.set(what, wanted);
        }
    }

    fn backend(&self) -> MutexGuard<'_, Box<dyn Backend>> {
        self.parts.backend.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cable has something, has room, or is cut.
    pub fn cable_ready(&mut self, ready: Ready) {
        if ready.contains(Ready::WRITE) {
            self.transmit_all();
        }
        if ready.contains(Ready::READ) {
            self.receive_all();
        }
        if ready.intersects(Ready::GONE) && !ready.contains(Ready::READ) {
            self.cut(&io::Error::from(io::ErrorKind::BrokenPipe));
        }
    }

    /// The other end is gone: the guest sees its link go down.
    fn cut(&mut self, why: &io::Error) {
        if self.parts.link.swap(false, Ordering::SeqCst) {
            tracing::warn!("a network card has lost its cable: {why}");
            self.parts.health.config_changed();
        }
    }

    fn is_down(&self) -> bool {
        self.parts.health.broken() || !self.parts.link.load(Ordering::SeqCst)
    }

    /// Gives the guest frames as long as there are frames and buffers.
    pub fn receive_all(&mut self) {
        if self.is_down() {
            return;
        }
        let mut used = false;
        let mut budget = BUDGET;
        let mut too_soon = false;
        while self.waiting || self.read_frame() {
            match self.receive_one() {
                Ok(Delivery::Done) => used = true,
                Ok(Delivery::Lost) => {}
                Ok(Delivery::NoRoom) => break,
                Ok(Delivery::TooSoon) => {
                    too_soon = true;
                    break;
                }
                Err(error) => return self.parts.health.give_up(&error),
            }
            budget -= 1;
            if budget == 0 {
                // The cable may hold frames that its descriptor does not tell of any more: come back by a kick.
                let _ = self.parts.receive.kick.write(1);
                break;
            }
        }
        // What may not come yet stays where whoever sends it notices.
        let listens = !self.is_down() && !too_soon && (!self.waiting || self.absorb());
        self.wait_for(Ready::READ, listens);
        if used {
            self.parts.receive.tell(&self.parts.memory);
        }
    }

    /// Gives the guest the frame that has come or waits.
    fn receive_one(&mut self) -> Result<Delivery, QueueBroken> {
        if !self.waiting && !self.is_of_guest() {
            return Ok(Delivery::Lost);
        }
        if !self.paid && !self.admits(RECEIVE, self.incoming.len()) {
            self.waiting = true;
            return Ok(Delivery::TooSoon);
        }
        let delivery = self.deliver()?;
        self.waiting = matches!(delivery, Delivery::NoRoom);
        self.paid = self.waiting;
        Ok(delivery)
    }

    /// Whether a frame of `len` bytes with its header may pass now, as far as limits say; queue `queue` is kicked later otherwise.
    fn admits(&self, queue: usize, len: usize) -> bool {
        let bytes = len.saturating_sub(HEADER) as u64;
        self.parts.throttle.admits(queue, || Cost { lanes: 1 << queue, bytes, operations: 1 })
    }

    /// Without buffers of the guest the cable takes in what it can; false when what comes must wait on the other side.
    fn absorb(&mut self) -> bool {
        let result = self.backend().absorb();
        result.unwrap_or_else(|e| {
            self.cut(&e);
            false
        })
    }

    /// Makes what came a frame of the guest's; false if it cannot be one.
    fn is_of_guest(&mut self) -> bool {
        let fate = self.parts.alias.as_ref().map(|alias| alias.incoming(&mut self.incoming));
        fate != Some(Fate::Goes)
    }

    /// Reads the next frame from the cable; false if there is none.
    fn read_frame(&mut self) -> bool {
        let mut buffer = std::mem::take(&mut self.incoming);
        buffer.resize(HEADER + LARGEST_FRAME, 0);
        let result = self.backend().receive(&mut buffer);
        let got = match &result {
            Ok(len) => *len,
            Err(_) => 0,
        };
        buffer.truncate(got);
        self.incoming = buffer;
        match result {
            Ok(_) => true,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => false,
            Err(e) => {
                self.cut(&e);
                false
            }
        }
    }

    /// Puts the frame into as many of the guest's buffers as it takes, or leaves all as it was.
    fn deliver(&mut self) -> Result<Delivery, QueueBroken> {
        let Parts { memory, receive, mergeable, meter, .. } = &mut self.parts;
        let before = receive.position();
        let mut chains: Vec<Chain> = Vec::new();
        let mut room = 0;
        while room < self.incoming.len() {
            if !chains.is_empty() && !*mergeable {
                // Without mergeable buffers a frame that does not fit its buffer is lost.
                break;
            }
            let Some(chain) = receive.next(memory)? else {
                receive.put_back(before);
                return Ok(Delivery::NoRoom);
            };
            let buffers = pieces(chain.clone()).filter(|d| d.is_write_only());
            room += buffers.map(|d| d.len() as usize).sum::<usize>();
            chains.push(chain);
        }
        let lost = room < self.incoming.len();
        if !lost {
            meter.received.add(1);
            meter.received_bytes.add(self.incoming.len().saturating_sub(HEADER) as u64);
        }
        let count = chains.len() as u16;
        self.incoming[NUM_BUFFERS..HEADER].copy_from_slice(&count.to_le_bytes());
        let mut left = &self.incoming[..];
        for chain in chains {
            let head = chain.head_index();
            let written = if lost { 0 } else { write_chain(chain, &mut left, memory) };
            receive.give_back(memory, head, written)?;
        }
        Ok(Delivery::Done)
    }

    /// Sends what the guest has put into its queue, as long as the cable has room.
    pub fn transmit_all(&mut self) {
        if self.is_down() || !self.flush() {
            return;
        }
        let before = self.parts.transmit.given_back();
        match self.transmit_some() {
            Ok(()) if self.parts.transmit.given_back() == before => {}
            Ok(()) => self.parts.transmit.tell(&self.parts.memory),
            Err(error) => self.parts.health.give_up(&error),
        }
    }

    fn transmit_some(&mut self) -> Result<(), QueueBroken> {
        let memory = Arc::clone(&self.parts.memory);
        self.parts.transmit.ignore_kicks(&memory)?;
        for _ in 0..BUDGET {
            let position = self.parts.transmit.position();
            let Some(chain) = self.parts.transmit.next(&memory)? else {
                self.parts.throttle.has_none(TRANSMIT);
                return Ok(());
            };
            let head = chain.head_index();
            let whole = self.read_chain(chain);
            if whole && !self.admits(TRANSMIT, self.outgoing.len()) {
                self.outgoing.clear();
                self.parts.transmit.put_back(position);
                return Ok(());
            }
            self.parts.transmit.give_back(&memory, head, 0)?;
            let whole = whole && self.is_of_card();
            if whole {
                self.parts.meter.sent.add(1);
                self.parts.meter.sent_bytes.add((self.outgoing.len() - HEADER) as u64);
            }
            if whole && !self.send() {
                // There is more when the cable has room.
                return Ok(());
            }
        }
        // A guest that sends as fast as we take must not keep the device thread from others: it is called again.
        let _ = self.parts.transmit.kick.write(1);
        Ok(())
    }

    /// Makes what the guest sends a frame of this card; false if it cannot be one.
    fn is_of_card(&mut self) -> bool {
        let fate = self.parts.alias.as_mut().map(|alias| alias.outgoing(&mut self.outgoing));
        if fate == Some(Fate::Goes) {
            self.outgoing.clear();
        }
        fate != Some(Fate::Goes)
    }

    /// Sends what was left; true when there is room for more.
    fn flush(&mut self) -> bool {
        if !self.blocked {
            return true;
        }
        self.blocked = false;
        let flushed = self.backend().flush();
        match flushed {
            Ok(true) if self.outgoing.is_empty() => {
                self.wait_for(Ready::WRITE, false);
                true
            }
            Ok(true) => self.send(),
            Ok(false) => {
                self.block();
                false
            }
            Err(e) => {
                self.cut(&e);
                false
            }
        }
    }

    fn block(&mut self) {
        self.blocked = true;
        self.wait_for(Ready::WRITE, true);
    }

    /// Sends the frame in `outgoing`; false if the cable has no room for more.
    fn send(&mut self) -> bool {
        let frame = std::mem::take(&mut self.outgoing);
        let result = self.backend().send(&frame);
        self.outgoing = frame;
        match result {
            Ok(()) => {
                self.outgoing.clear();
                self.wait_for(Ready::WRITE, false);
                true
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.block();
                false
            }
            Err(e) => {
                self.cut(&e);
                false
            }
        }
    }

    /// Reads a frame with its header out of guest memory; false for what is no frame.
    fn read_chain(&mut self, chain: Chain) -> bool {
        self.outgoing.clear();
        for d in pieces(chain).filter(|d| !d.is_write_only()) {
            let start = self.outgoing.len();
            let len = d.len() as usize;
            if start + len > HEADER + LARGEST_FRAME {
                return false;
            }
            self.outgoing.resize(start + len, 0);
            if self.parts.memory.read_slice(&mut self.outgoing[start..], d.addr()).is_err() {
                return false;
            }
        }
        self.outgoing.len() > HEADER
    }
}

/// Writes as much of `left` as fits into a chain, and takes it away; gives how much.
fn write_chain(chain: Chain, left: &mut &[u8], memory: &GuestMemory) -> u32 {
    let mut written = 0;
    for d in pieces(chain).filter(|d| d.is_write_only()) {
        let (now, later) = left.split_at(left.len().min(d.len() as usize));
        if memory.write_slice(now, d.addr()).is_err() {
            break;
        }
        written += now.len() as u32;
        *left = later;
    }
    written
}
