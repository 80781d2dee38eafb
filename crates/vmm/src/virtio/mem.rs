//! Memory that is plugged in and pulled out in blocks while the machine runs: the memory device (section 5.15). It has a region of the
//! address space; the host asks for a size, and the guest plugs and unplugs blocks of its choice until it has that, if it can.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use vm_memory::Bytes;

use super::{
    Activation, ActiveQueue, Chain, Device, DeviceState, Health, QueueBroken, RestoreError, pieces,
    read_slice,
};
use crate::memory::{GuestMemory, Ram, Range};
use crate::reactor::Source;

const QUEUE_SIZE: u16 = 64;
/// What is plugged at once, bytes: a large page of the processor.
pub const BLOCK: u64 = 2 << 20;
/// The most that a guest is asked to let go of at a time, bytes: less than what Linux adds and takes away in one piece (128 MiB), or it moves all that is in that, for seconds where much
/// is in use, and hears of nothing meanwhile.
const STEP: u64 = 64 << 20;
/// The most requests before others on the device thread have their turn.
const BUDGET: usize = 32;

/// Requests and answers (section 5.15.6.2).
mod request {
    pub const PLUG: u16 = 0;
    pub const UNPLUG: u16 = 1;
    pub const UNPLUG_ALL: u16 = 2;
    pub const STATE: u16 = 3;
    /// Bytes of a request, and of an answer.
    pub const BYTES: usize = 24;
}

mod answer {
    pub const ACK: u16 = 0;
    pub const NACK: u16 = 1;
    pub const ERROR: u16 = 3;
    pub const BYTES: usize = 10;
}

/// What is saved of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemState {
    /// Bytes that are to be plugged.
    requested: u64,
    /// Runs of blocks that are: the first one and how many.
    plugged: Vec<(u64, u64)>,
}

struct Shared {
    requested: u64,
    /// What the guest is told: that, or a step towards it, or what it has while it is not to be bothered.
    told: u64,
    /// Whether it is not.
    keeps: bool,
    /// Whether each block is plugged.
    blocks: Vec<bool>,
    health: Option<Health>,
}

/// What is called with how many bytes are plugged that should not be.
type Changed = Box<dyn Fn(u64) + Send + Sync>;

/// The device from outside.
pub struct Handle {
    region: Range,
    shared: Mutex<Shared>,
    changed: Mutex<Option<Changed>>,
}

impl Handle {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `changed` called, on the device thread, whenever the guest has plugged or unplugged something, and when it starts anew, with
    /// how many bytes are plugged that should not be.
    pub fn on_change(&self, changed: impl Fn(u64) + Send + Sync + 'static) {
        *self.changed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(changed));
    }

    /// Asks the guest to have so many bytes plugged, in whole blocks and at most what there is room for.
    pub fn request(&self, bytes: u64) {
        self.want(bytes).ask();
    }

    /// The same, but lets the guest keep what is plugged until [`go_on`](Self::go_on).
    pub fn request_later(&self, bytes: u64) {
        let mut shared = self.want(bytes);
        let told = shared.requested.max(shared.plugged());
        let before = std::mem::replace(&mut shared.told, told);
        shared.keeps = true;
        if told != before {
            shared.tell();
        }
    }

    /// Asks the guest to unplug what it was let keep.
    pub fn go_on(&self) {
        let mut shared = self.lock();
        if shared.keeps {
            shared.ask();
        }
    }

    fn want(&self, bytes: u64) -> MutexGuard<'_, Shared> {
        let mut shared = self.lock();
        shared.requested = bytes.min(self.region.size) / BLOCK * BLOCK;
        shared
    }

    /// Bytes that are plugged and should not be.
    pub fn excess(&self) -> u64 {
        let shared = self.lock();
        shared.plugged().saturating_sub(shared.requested)
    }

    fn tell(&self) {
        let excess = self.excess();
        if let Some(changed) = &*self.changed.lock().unwrap_or_else(PoisonError::into_inner) {
            changed(excess);
        }
    }

    /// Bytes that are to be plugged, that are, and that could be.
    pub fn size(&self) -> (u64, u64, u64) {
        let shared = self.lock();
        (shared.requested, shared.plugged(), self.region.size)
    }
}

impl Shared {
    fn ask(&mut self) {
        self.choose();
        self.tell();
    }

    /// Settles what the guest is to be told next.
    fn choose(&mut self) {
        self.told = self.requested.max(self.plugged().saturating_sub(STEP));
        self.keeps = false;
    }

    /// It has unplugged something.
    fn gets_on(&mut self) {
        if !self.keeps && self.told > self.requested && self.plugged() <= self.told {
            self.ask();
        }
    }

    fn tell(&self) {
        if let Some(health) = &self.health {
            health.config_changed();
        }
    }

    fn plugged(&self) -> u64 {
        self.blocks.iter().filter(|plugged| **plugged).count() as u64 * BLOCK
    }
}

/// The device.
pub struct Mem {
    handle: Arc<Handle>,
    ram: Arc<Ram>,
    source: Option<Source>,
}

impl Mem {
    /// A device for `region`, which is memory of `ram` that the guest is told of by nobody else; and the way to drive it.
    pub fn new(ram: Arc<Ram>, region: Range) -> (Self, Arc<Handle>) {
        let blocks = vec![false; (region.size / BLOCK) as usize];
        let shared = Shared { requested: 0, told: 0, keeps: false, blocks, health: None };
        let handle = Arc::new(Handle { region, shared: Mutex::new(shared), changed: Mutex::default() });
        (Self { handle: Arc::clone(&handle), ram, source: None }, handle)
    }
}

impl Device for Mem {
    fn id(&self) -> u16 {
        24
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        0
    }

    /// The configuration structure (5.15.4): block size, node, address, size of the region, of its usable part, plugged and requested
    /// size.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let Range { start, size, .. } = self.handle.region;
        let shared = self.handle.lock();
        let words = [BLOCK, 0, start, size, size, shared.plugged(), shared.told];
        drop(shared);
        let config: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        read_slice(&config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let Activation { memory, queues, health, reactor, .. } = activation;
        let Some(mut queue) = queues.into_iter().next().flatten() else { return Ok(()) };
        let worker = Worker { handle: Arc::clone(&self.handle), ram: Arc::clone(&self.ram), memory };
        let (kick, mine) = (Arc::clone(&queue.kick), health.clone());
        let serve = move || {
            if !mine.broken()
                && let Err(error) = worker.serve(&mut queue)
            {
                mine.give_up(&error);
            }
        };
        self.source = Some(reactor.on_event(kick, serve)?);
        self.handle.lock().health = Some(health);
        Ok(())
    }

    fn deactivate(&mut self) {
        self.source = None;
        self.handle.lock().health = None;
    }

    /// A machine that starts anew has its first memory only, and is asked for the rest again.
    fn machine_reset(&mut self) {
        let mut shared = self.handle.lock();
        shared.blocks.fill(false);
        shared.choose();
        drop(shared);
        self.handle.tell();
    }

    fn save(&self, _active: bool) -> DeviceState {
        let shared = self.handle.lock();
        let mut plugged: Vec<(u64, u64)> = Vec::new();
        for (number, _) in (0u64..).zip(&shared.blocks).filter(|(_, plugged)| **plugged) {
            match plugged.last_mut() {
                Some((first, count)) if *first + *count == number => *count += 1,
                _ => plugged.push((number, 1)),
            }
        }
        DeviceState::Mem(MemState { requested: shared.requested, plugged })
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        let DeviceState::Mem(state) = state else { return Err(RestoreError::Kind) };
        let mut shared = self.handle.lock();
        shared.requested = state.requested.min(self.handle.region.size);
        shared.blocks.fill(false);
        for (first, count) in &state.plugged {
            let end = first.saturating_add(*count);
            let blocks = usize::try_from(*first).ok().zip(usize::try_from(end).ok());
            let run = blocks.and_then(|(first, end)| shared.blocks.get_mut(first..end));
            run.ok_or(RestoreError::Region)?.fill(true);
        }
        shared.choose();
        Ok(())
    }
}

struct Worker {
    handle: Arc<Handle>,
    ram: Arc<Ram>,
    memory: Arc<GuestMemory>,
}

impl Worker {
    fn serve(&self, queue: &mut ActiveQueue) -> Result<(), QueueBroken> {
        let mut used = false;
        for _ in 0..BUDGET {
            let Some(chain) = queue.next(&self.memory)? else {
                if used {
                    queue.tell(&self.memory);
                }
                return Ok(());
            };
            let head = chain.head_index();
            let written = self.answer(chain);
            queue.give_back(&self.memory, head, written)?;
            used = true;
        }
        queue.tell(&self.memory);
        // The counter cannot be full, it was read before this call.
        let _ = queue.kick.write(1);
        Ok(())
    }

    fn answer(&self, chain: Chain) -> u32 {
        let (mut bytes, mut place) = ([0; request::BYTES], None);
        for descriptor in pieces(chain) {
            if descriptor.is_write_only() {
                place.get_or_insert((descriptor.addr(), descriptor.len() as usize));
            } else {
                let len = bytes.len().min(descriptor.len() as usize);
                if self.memory.read_slice(&mut bytes[..len], descriptor.addr()).is_err() {
                    return 0;
                }
            }
        }
        let Some((address, room)) = place else { return 0 };
        let (kind, state) = self.execute(&bytes);
        let mut answer = [0; answer::BYTES];
        answer[..2].copy_from_slice(&kind.to_le_bytes());
        answer[8..].copy_from_slice(&state.to_le_bytes());
        let len = answer.len().min(room);
        match self.memory.write_slice(&answer[..len], address) {
            Ok(()) => len as u32,
            Err(_) => 0,
        }
    }

    /// Does what is asked; gives the answer and, where that was asked for, the state of blocks.
    fn execute(&self, bytes: &[u8; request::BYTES]) -> (u16, u16) {
        let kind = u16::from_le_bytes([bytes[0], bytes[1]]);
        let mut address = [0; 8];
        address.copy_from_slice(&bytes[8..16]);
        let (address, count) = (u64::from_le_bytes(address), u16::from_le_bytes([bytes[16], bytes[17]]));
        if kind == request::UNPLUG_ALL {
            return (self.unplug_all(), 0);
        }
        let Some(blocks) = self.blocks(address, count) else { return (answer::ERROR, 0) };
        match kind {
            request::PLUG => (self.plug(blocks), 0),
            request::UNPLUG => (self.unplug(blocks), 0),
            request::STATE => {
                let shared = self.handle.lock();
                let plugged = shared.blocks[blocks.clone()].iter().filter(|plugged| **plugged).count();
                let state = if plugged == blocks.len() {
                    0
                } else if plugged == 0 {
                    1
                } else {
                    2
                };
                (answer::ACK, state)
            }
            _ => (answer::ERROR, 0),
        }
    }

    /// The numbers of `count` blocks from guest address `address`, if they are the device's.
    fn blocks(&self, address: u64, count: u16) -> Option<std::ops::Range<usize>> {
        let offset = address.checked_sub(self.handle.region.start)?;
        let first = offset.is_multiple_of(BLOCK).then_some(offset / BLOCK)?;
        let end = first + u64::from(count);
        (count > 0 && end <= self.handle.region.size / BLOCK).then_some(first as usize..end as usize)
    }

    fn plug(&self, blocks: std::ops::Range<usize>) -> u16 {
        let mut shared = self.handle.lock();
        if shared.blocks[blocks.clone()].iter().any(|plugged| *plugged) {
            return answer::ERROR;
        }
        if shared.plugged() + blocks.len() as u64 * BLOCK > shared.requested {
            return answer::NACK;
        }
        shared.blocks[blocks].fill(true);
        drop(shared);
        self.handle.tell();
        answer::ACK
    }

    fn unplug(&self, blocks: std::ops::Range<usize>) -> u16 {
        let mut shared = self.handle.lock();
        if !shared.blocks[blocks.clone()].iter().all(|plugged| *plugged) {
            return answer::ERROR;
        }
        shared.blocks[blocks.clone()].fill(false);
        shared.gets_on();
        drop(shared);
        let start = self.handle.region.start + blocks.start as u64 * BLOCK;
        if let Err(error) = self.ram.give_back(start, blocks.len() as u64 * BLOCK) {
            tracing::warn!("unplugged memory is not given back: {error}");
        }
        self.handle.tell();
        answer::ACK
    }

    fn unplug_all(&self) -> u16 {
        let mut shared = self.handle.lock();
        shared.blocks.fill(false);
        shared.gets_on();
        drop(shared);
        if let Err(error) = self.ram.give_back(self.handle.region.start, self.handle.region.size) {
            tracing::warn!("unplugged memory is not given back: {error}");
        }
        self.handle.tell();
        answer::ACK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_asked_to_let_go_of_a_part_at_a_time() {
        let ram = Arc::new(Ram::with_room(8 << 20, (8 << 20) + 4 * STEP).unwrap());
        let region = ram.layout().more().unwrap();
        let (_, handle) = Mem::new(ram, region);
        let told = || handle.lock().told / STEP;
        let unplug = |steps: u64| {
            let mut shared = handle.lock();
            let end = (shared.plugged() / BLOCK) as usize;
            let blocks = (steps * STEP / BLOCK) as usize;
            shared.blocks[end - blocks..end].fill(false);
            shared.gets_on();
        };
        handle.request(4 * STEP);
        assert_eq!(told(), 4, "more is asked for at once");
        handle.lock().blocks.fill(true);
        handle.request(STEP);
        assert_eq!(told(), 3);
        unplug(1);
        assert_eq!(told(), 2);
        // It keeps what it has, until it is to go on.
        handle.request_later(0);
        assert_eq!(told(), 3);
        handle.go_on();
        assert_eq!(told(), 2);
        handle.go_on();
        assert_eq!(told(), 2, "it is asked already");
        for left in [1, 0, 0] {
            unplug(1);
            assert_eq!(told(), left);
        }
    }
}
