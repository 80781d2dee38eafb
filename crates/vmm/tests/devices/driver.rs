//! A virtio driver: finds its device, sets up its queues, puts requests into them (virtio 1.2, 3.1, 2.7, 4.1).

use std::sync::Arc;
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress};
use vmm::memory::{GuestMemory, map};
use vmm::virtio::feature;

use crate::rig::Rig;

/// Where queues lie in guest memory, and how much room each device and each queue has.
pub const QUEUES: u64 = 0x80_0000;
pub const DEVICE_ROOM: u64 = 0x10_0000;
pub const QUEUE_ROOM: u64 = 0x1_0000;
/// The first message's data; queue n has the n-th after it.
const MESSAGE: u32 = 0x40;
/// Any request is answered within this.
const SOON: Duration = Duration::from_secs(20);

/// Registers of the common configuration.
pub const STATUS: u64 = 0x14;
pub const GENERATION: u64 = 0x15;
pub const NEEDS_RESET: u64 = 64;

/// A driver of one device.
pub struct Driver<'a> {
    pub rig: &'a Rig,
    pub bar: u64,
    pub queues: Vec<Ring>,
    slot: u64,
    features: u64,
}

/// A split virtqueue.
pub struct Ring {
    size: u16,
    descriptors: u64,
    available: u64,
    used: u64,
    next: u16,
    free: u16,
    seen: u16,
    told: usize,
}

/// A piece of a request: where, how long, whether the device writes it.
pub type Piece = (u64, u32, bool);

impl<'a> Driver<'a> {
    /// Starts the device in slot `slot` (1 to 7) with those of `features` that it offers.
    pub fn start(rig: &'a Rig, slot: u64, features: u64) -> Self {
        let config = map::ECAM + (slot << 15);
        // Memory space, bus master, no INTx.
        rig.write(config + 4, 0x406, 2);
        let bar = (rig.read(config + 0x10, 4) & !0xf) | rig.read(config + 0x14, 4) << 32;
        let mut driver = Self { rig, bar, queues: Vec::new(), slot, features: 0 };
        driver.enable_msix(config);
        driver.negotiate(features);
        driver
    }

    /// The same driver in a machine that goes on where its own was saved.
    pub fn go_on(mut self, rig: &Rig) -> Driver<'_> {
        self.queues.iter_mut().for_each(|ring| ring.told = 0);
        Driver { rig, bar: self.bar, queues: self.queues, slot: self.slot, features: self.features }
    }

    /// Resets the device and starts it again.
    pub fn restart(&mut self) {
        self.queues.clear();
        self.negotiate(self.features);
    }

    fn enable_msix(&self, config: u64) {
        let mut at = self.rig.read(config + 0x34, 1);
        while self.rig.read(config + at, 1) != 0x11 {
            at = self.rig.read(config + at + 1, 1);
        }
        let vectors = (self.rig.read(config + at + 2, 2) & 0x7ff) + 1;
        let table = self.bar + self.rig.read(config + at + 4, 4);
        for vector in 0..vectors {
            self.rig.write(table + 16 * vector, map::LAPIC, 8);
            self.rig.write(table + 16 * vector + 8, u64::from(MESSAGE) + vector, 4);
            self.rig.write(table + 16 * vector + 12, 0, 4);
        }
        self.rig.write(config + at + 2, 0x8000, 2);
    }

    fn negotiate(&mut self, features: u64) {
        self.write(STATUS, 0, 1);
        self.write(STATUS, 3, 1);
        self.features = self.offered() & features | feature::VERSION_1;
        for half in 0..2 {
            self.write(8, half, 4);
            self.write(0xc, self.features >> (32 * half) & 0xffff_ffff, 4);
        }
        self.write(STATUS, 11, 1);
        assert_eq!(self.read(STATUS, 1), 11, "the features are not accepted");
        self.write(0x10, 0, 2);
        for number in 0..self.read(0x12, 2) {
            self.write(0x16, number, 2);
            let size = self.read(0x18, 2) as u16;
            let at = QUEUES + self.slot * DEVICE_ROOM + number * QUEUE_ROOM;
            let ring = Ring::new(size, at);
            self.memory().write_slice(&[0; QUEUE_ROOM as usize], GuestAddress(at)).unwrap();
            self.write(0x1a, number + 1, 2);
            for (register, address) in [(0x20, ring.descriptors), (0x28, ring.available), (0x30, ring.used)] {
                self.write(register, address & 0xffff_ffff, 4);
                self.write(register + 4, address >> 32, 4);
            }
            self.write(0x1c, 1, 2);
            self.queues.push(ring);
        }
        self.write(STATUS, 15, 1);
        for (number, ring) in self.queues.iter_mut().enumerate() {
            ring.told = self.rig.messages(MESSAGE + 1 + number as u32);
        }
    }

    pub fn memory(&self) -> &'a Arc<GuestMemory> {
        self.rig.machine.guest_memory()
    }

    /// A register of the common configuration.
    pub fn read(&self, register: u64, len: usize) -> u64 {
        self.rig.read(self.bar + register, len)
    }

    pub fn write(&self, register: u64, value: u64, len: usize) {
        self.rig.write(self.bar + register, value, len);
    }

    /// A register of the device's own configuration.
    pub fn config(&self, offset: u64, len: usize) -> u64 {
        self.rig.read(self.bar + 0x2000 + offset, len)
    }

    /// What the device offers.
    pub fn offered(&self) -> u64 {
        let half = |select: u64| {
            self.write(0, select, 4);
            self.read(4, 4)
        };
        half(0) | half(1) << 32
    }

    /// Puts a request into a queue, without a kick; gives its first descriptor.
    pub fn add(&mut self, queue: usize, pieces: &[Piece]) -> u16 {
        let memory = self.memory();
        let ring = &mut self.queues[queue];
        let head = ring.free;
        for (n, &(address, len, writable)) in pieces.iter().enumerate() {
            let index = ring.free;
            ring.free = (ring.free + 1) % ring.size;
            let more = n + 1 < pieces.len();
            let flags = u16::from(more) | u16::from(writable) << 1;
            let at = ring.descriptors + 16 * u64::from(index);
            write_descriptor(memory, at, (address, len, flags, ring.free));
        }
        self.make_available(queue, head);
        head
    }

    /// Tells the device of the request whose first descriptor is `head`.
    pub fn make_available(&mut self, queue: usize, head: u16) {
        let memory = self.memory();
        let ring = &mut self.queues[queue];
        let slot = u64::from(ring.next % ring.size);
        memory.write_obj(head, GuestAddress(ring.available + 4 + 2 * slot)).unwrap();
        ring.next = ring.next.wrapping_add(1);
        memory.write_obj(ring.next, GuestAddress(ring.available + 2)).unwrap();
    }

    /// Where the descriptors of queue `queue` are.
    pub fn descriptors(&self, queue: usize) -> u64 {
        self.queues[queue].descriptors
    }

    /// Kicks if the device wants to hear of what is new since `from`.
    pub fn kick_if_wanted(&self, queue: usize, from: u16) {
        let ring = &self.queues[queue];
        let wanted: bool = if self.features & feature::EVENT_IDX != 0 {
            let at = GuestAddress(ring.used + 4 + 8 * u64::from(ring.size));
            let event: u16 = self.memory().read_obj(at).unwrap();
            ring.next.wrapping_sub(event).wrapping_sub(1) < ring.next.wrapping_sub(from)
        } else {
            self.memory().read_obj::<u16>(GuestAddress(ring.used)).unwrap() & 1 == 0
        };
        if wanted {
            self.kick(queue);
        }
    }

    /// Kicks.
    pub fn kick(&self, queue: usize) {
        self.write(0x3000 + 4 * queue as u64, queue as u64, 2);
    }

    /// Waits, as a driver does, until a request has been used; gives its first descriptor and how much was written.
    pub fn used(&mut self, queue: usize) -> (u16, u32) {
        let start = std::time::Instant::now();
        loop {
            if let Some(used) = self.poll(queue) {
                return used;
            }
            // Asks to be interrupted by the next, and looks again.
            let memory = self.memory();
            let ring = &mut self.queues[queue];
            let event = ring.available + 4 + 2 * u64::from(ring.size);
            memory.write_obj(ring.seen, GuestAddress(event)).unwrap();
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
            if ring.has_used(memory) {
                continue;
            }
            let message = MESSAGE + 1 + queue as u32;
            let told = self.rig.wait_for_message(message, ring.told, SOON.saturating_sub(start.elapsed()));
            assert!(told, "no interrupt came");
            ring.told = self.rig.messages(message);
        }
    }

    /// A request that has been used, if there is one.
    pub fn poll(&mut self, queue: usize) -> Option<(u16, u32)> {
        let memory = self.memory();
        let ring = &mut self.queues[queue];
        if !ring.has_used(memory) {
            return None;
        }
        let at = ring.used + 4 + 8 * u64::from(ring.seen % ring.size);
        ring.seen = ring.seen.wrapping_add(1);
        let [id, len]: [u32; 2] = [0, 4].map(|n| memory.read_obj(GuestAddress(at + n)).unwrap());
        Some((id as u16, len))
    }

    /// Where the device says how much of a queue it has used.
    pub fn used_index(&self, queue: usize) -> GuestAddress {
        GuestAddress(self.queues[queue].used + 2)
    }

    /// Where queue `queue` says what is available: its flags, its index, its entries.
    pub fn available(&self, queue: usize) -> GuestAddress {
        GuestAddress(self.queues[queue].available)
    }

    /// Where the next request in a queue will be.
    pub fn next(&self, queue: usize) -> u16 {
        self.queues[queue].next
    }
}

/// Writes a descriptor: address, length, flags, next (2.7.5).
pub fn write_descriptor(memory: &GuestMemory, at: u64, (address, len, flags, next): (u64, u32, u16, u16)) {
    memory.write_obj(address, GuestAddress(at)).unwrap();
    memory.write_obj(len, GuestAddress(at + 8)).unwrap();
    memory.write_obj(flags, GuestAddress(at + 12)).unwrap();
    memory.write_obj(next, GuestAddress(at + 14)).unwrap();
}

impl Ring {
    fn new(size: u16, at: u64) -> Self {
        let (available, used) = (at + 16 * u64::from(size), at + 0x8000);
        Self { size, descriptors: at, available, used, next: 0, free: 0, seen: 0, told: 0 }
    }

    fn has_used(&self, memory: &GuestMemory) -> bool {
        let index: u16 = memory.read_obj(GuestAddress(self.used + 2)).unwrap();
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        index != self.seen
    }
}
