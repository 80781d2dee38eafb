//! Bytes as what a guest does to its machine: accesses of configuration space, ports and registers, rings, and what happens
//! meanwhile on the host's side. Shared with the fuzz target. Any bytes mean something, and most of it is nonsense that
//! comes close to sense: what is nonsense at first sight is refused at first sight.

use std::io::{Read, Write};
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress};
use vmm::memory::map;

use super::world::{CONSOLE, LAST_SLOT, World, queues};
use crate::driver::{DEVICE_ROOM, QUEUE_ROOM, QUEUES, STATUS};

/// Where guest memory ends.
const RAM_END: u64 = 16 << 20;
/// Where requests' data lie.
const DATA: u64 = 0x10_0000;
/// Registers of the common configuration (virtio 1.2, 4.1.4.3).
const REGISTERS: [u64; 21] = [
    0x00, 0x04, 0x08, 0x0c, 0x10, 0x12, 0x14, 0x15, 0x16, 0x18, 0x1a, 0x1c, 0x1e, 0x20, 0x24, 0x28, 0x2c,
    0x30, 0x34, 0x38, 0x3f,
];
/// Ports where somebody answers, and neighbours.
const PORTS: [u16; 21] = [
    0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x70, 0x71, 0x64, 0x505, 0x600, 0x602, 0x608, 0xcf8, 0xcf9,
    0xcfc, 0x620, 0x624, 0x628, 0x630, 0x63c,
];
/// Registers of configuration space that do something; the last five are the window to the others (4.1.4.9).
const CONFIG: [u64; 14] =
    [0x00, 0x04, 0x06, 0x0c, 0x10, 0x14, 0x30, 0x34, 0x3c, 0x88, 0x8c, 0x90, 0x94, 0x9a];

/// Bytes, taken from the front.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    fn below(&mut self, n: u64) -> Option<u64> {
        Some(u64::from(self.byte()?) % n)
    }

    fn one_of<T: Copy>(&mut self, list: &[T]) -> Option<T> {
        Some(list[usize::from(self.byte()?) % list.len()])
    }

    fn slot(&mut self) -> Option<u64> {
        Some(1 + self.below(LAST_SLOT)?)
    }

    fn word(&mut self) -> Option<u16> {
        self.bytes().map(u16::from_le_bytes)
    }

    /// A number: small, next to a power of two, of an address where something begins or ends, or any.
    fn number(&mut self) -> Option<u64> {
        let kind = self.byte()?;
        let near = u64::from(kind >> 4).wrapping_sub(8);
        Some(match kind & 15 {
            0..=4 => u64::from(self.byte()?),
            5 => u64::from(self.word()?),
            6 | 7 => (1u64 << self.below(64)?).wrapping_add(near),
            8 => RAM_END.wrapping_add(near),
            9 => near,
            10 => self
                .one_of(&[map::LOW_END, map::ECAM, map::IOAPIC, map::LAPIC, map::HIGH_START])?
                .wrapping_add(near),
            11 => DATA + u64::from(self.word()?),
            12 => QUEUES + DEVICE_ROOM * self.slot()? + u64::from(self.word()?),
            13 => map::LOW_END + (self.slot()? << 20) + u64::from(self.word()? >> 1),
            14 => u64::from(u32::from_le_bytes(self.bytes()?)),
            _ => u64::from_le_bytes(self.bytes()?),
        })
    }

    /// Bytes of an access: mostly a power of two.
    fn width(&mut self) -> Option<usize> {
        Some([1, 2, 4, 8, 1, 2, 4, 8, 4, 4, 4, 2, 3, 5, 6, 7][usize::from(self.byte()? & 15)])
    }
}

/// Does to `world` what `input` says.
pub fn run(world: &World, input: &[u8]) -> usize {
    let mut input = Input(input);
    let mut count = 0;
    while step(world, &mut input).is_some() {
        count += 1;
    }
    count
}

fn step(world: &World, input: &mut Input) -> Option<()> {
    match input.byte()? & 31 {
        0..=1 => ecam(world, input),
        2 => agent(world, input),
        3 => config_ports(world, input),
        4..=6 => port(world, input),
        7..=9 => memory_mapped(world, input),
        10..=12 => common(world, input),
        13..=14 => start(world, input),
        15..=17 => descriptor(world, input),
        18..=22 => request(world, input),
        23..=24 => available(world, input),
        25..=27 => kick(world, input),
        28 => fill(world, input),
        29 => host(world, input),
        30 => cable(world, input),
        _ => table(world, input),
    }
}

fn access(world: &World, write: bool, address: u64, value: u64, width: usize) {
    if write {
        world.rig.write(address, value, width);
    } else {
        world.rig.read(address, width);
    }
}

fn ecam(world: &World, input: &mut Input) -> Option<()> {
    let kind = input.byte()?;
    let function = match kind & 15 {
        0 => u64::from(input.word()?),
        // Any of the devices, or the host bridge, or nobody.
        n => (u64::from(n) % (LAST_SLOT + 2)) << 3,
    };
    let register = if kind & 0x10 == 0 { input.one_of(&CONFIG)? } else { u64::from(input.word()? & 0xfff) };
    let address = map::ECAM + (function << 12) + register;
    access(world, kind & 0x20 == 0, address, input.number()?, input.width()?);
    Some(())
}

fn config_ports(world: &World, input: &mut Input) -> Option<()> {
    let address = 1 << 31 | input.slot()? << 11 | u64::from(input.byte()?);
    world.rig.bus.port_write(0xcf8, &(address as u32).to_le_bytes());
    let (offset, width, value) = (input.below(4)?, input.one_of(&[1, 2, 4])?, input.number()?);
    if value & 1 == 0 {
        world.rig.bus.port_write(0xcfc + offset as u16, &value.to_le_bytes()[..width]);
    } else {
        world.rig.bus.port_read(0xcfc + offset as u16, &mut [0; 8][..width]);
    }
    Some(())
}

fn port(world: &World, input: &mut Input) -> Option<()> {
    let kind = input.byte()?;
    let port = if kind & 3 == 0 { input.word()? } else { input.one_of(&PORTS)? };
    let (width, value) = (input.one_of(&[1, 1, 2, 4])?, input.number()?);
    if kind & 4 == 0 {
        world.rig.bus.port_write(port, &value.to_le_bytes()[..width]);
    } else {
        world.rig.bus.port_read(port, &mut [0; 8][..width]);
    }
    Some(())
}

fn memory_mapped(world: &World, input: &mut Input) -> Option<()> {
    let kind = input.byte()?;
    let address = match kind & 3 {
        0 => map::IOAPIC + input.one_of(&[0, 0, 0x10, 0x10, 0x40, 1, 0x11, 0xffc])?,
        1 => input.number()?,
        _ => world.bar(input.slot()?).wrapping_add(u64::from(input.word()? & 0x7fff)),
    };
    access(world, kind & 4 == 0, address, input.number()?, input.width()?);
    Some(())
}

fn common(world: &World, input: &mut Input) -> Option<()> {
    let kind = input.byte()?;
    let address = world.bar(input.slot()?).wrapping_add(input.one_of(&REGISTERS)?);
    access(world, kind & 3 != 0, address, input.number()?, input.width()?);
    Some(())
}

/// Starts a device as a driver does, or nearly so.
fn start(world: &World, input: &mut Input) -> Option<()> {
    let (slot, kind) = (input.slot()?, input.byte()?);
    world.rig.write(map::ECAM + (slot << 15) + 4, 6, 2);
    let bar = world.bar(slot);
    let write = |register: u64, value: u64, width| world.rig.write(bar.wrapping_add(register), value, width);
    let read = |register: u64, width| world.rig.read(bar.wrapping_add(register), width);
    write(STATUS, 0, 1);
    write(STATUS, 3, 1);
    let leave_out = if kind & 1 == 0 { 0 } else { input.number()? };
    for half in 0..2 {
        write(0, half, 4);
        write(8, half, 4);
        write(0xc, (read(4, 4) & !(leave_out >> (32 * half))) | half, 4);
    }
    write(STATUS, 11, 1);
    for queue in 0..read(0x12, 2).min(8) {
        write(0x16, queue, 2);
        write(0x1a, queue + 1, 2);
        if kind & 2 != 0 {
            write(0x18, 1 << input.below(10)?, 2);
        }
        let at = QUEUES + DEVICE_ROOM * slot + QUEUE_ROOM * queue;
        let mut places = [at, at + 0x4000, at + 0x8000];
        if kind & 0x1c == 0 {
            places[input.below(3)? as usize] = input.number()?;
        }
        for (register, place) in [0x20, 0x28, 0x30].into_iter().zip(places) {
            write(register, place, 4);
            write(register + 4, place >> 32, 4);
        }
        // What the last one left there would be work at once.
        let _ = world.rig.machine.guest_memory().write_slice(&[0; 8], GuestAddress(at + 0x4000));
        write(0x1c, u64::from(kind & 0xe0 != 0xe0), 2);
    }
    write(STATUS, 15, 1);
    Some(())
}

/// The ring that [`start`] puts a queue into.
fn ring(input: &mut Input) -> Option<u64> {
    let slot = input.slot()?;
    Some(QUEUES + DEVICE_ROOM * slot + QUEUE_ROOM * input.below(queues(slot))?)
}

fn write_descriptor(world: &World, at: u64, fields: (u64, u64, u64, u64)) {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&fields.0.to_le_bytes());
    bytes[8..12].copy_from_slice(&(fields.1 as u32).to_le_bytes());
    bytes[12..14].copy_from_slice(&(fields.2 as u16).to_le_bytes());
    bytes[14..].copy_from_slice(&(fields.3 as u16).to_le_bytes());
    // It may be told to lie outside of memory.
    let _ = world.rig.machine.guest_memory().write_slice(&bytes, GuestAddress(at));
}

/// One descriptor, of a ring or of an indirect table.
fn descriptor(world: &World, input: &mut Input) -> Option<()> {
    let table = if input.byte()? & 3 == 0 { DATA } else { ring(input)? };
    let at = table + 16 * input.below(16)?;
    let fields = (input.number()?, input.number()?, input.below(8)?, input.number()?);
    write_descriptor(world, at, fields);
    Some(())
}

/// A request that may well be good: a header, up to four pieces, a status.
fn request(world: &World, input: &mut Input) -> Option<()> {
    let (ring, first) = (ring(input)?, input.below(64)?);
    let header = [input.below(16)?, input.number()?];
    let memory = world.rig.machine.guest_memory();
    memory.write_slice(&header.map(u64::to_le_bytes).concat(), GuestAddress(DATA)).ok()?;
    let mut chain = vec![(DATA, 16, 0)];
    for n in 0..input.below(5)? {
        let usual = (DATA + 0x1000 + n * 0x1000, 512 * input.below(4)?, input.below(4)? & 2);
        let strange = input.below(8)?;
        chain.push(match strange {
            0 => (input.number()?, usual.1, usual.2),
            1 => (usual.0, input.number()?, usual.2),
            2 => (usual.0, 16 * input.below(8)?, 4 | usual.2),
            _ => usual,
        });
    }
    chain.push((DATA + 0x800, 1, 2));
    let last = chain.len() - 1;
    for (n, (address, len, flags)) in chain.into_iter().enumerate() {
        let next = first + n as u64 + 1;
        write_descriptor(
            world,
            ring + 16 * ((next - 1) & 63),
            (address, len, flags | u64::from(n < last), next & 63),
        );
    }
    add_available(world, ring, first, 1)
}

/// Puts `first` into the ring of available requests, and its index on by `step`.
fn add_available(world: &World, ring: u64, first: u64, step: u64) -> Option<()> {
    let (memory, at) = (world.rig.machine.guest_memory(), ring + 0x4000);
    let index: u16 = memory.read_obj(GuestAddress(at + 2)).ok()?;
    for size in [1u64, 2, 64, 256] {
        let slot = u64::from(index) % size;
        memory.write_obj(first as u16, GuestAddress(at + 4 + 2 * slot)).ok()?;
    }
    memory.write_obj(index.wrapping_add(step as u16), GuestAddress(at + 2)).ok()
}

fn available(world: &World, input: &mut Input) -> Option<()> {
    let (ring, first, step) = (ring(input)?, input.number()?, input.number()?);
    add_available(world, ring, first, if step & 3 == 0 { step >> 2 } else { 1 })
}

fn kick(world: &World, input: &mut Input) -> Option<()> {
    let slot = input.slot()?;
    let queue = input.below(queues(slot) + 1)?;
    world.rig.write(world.bar(slot).wrapping_add(0x3000 + 4 * queue), queue, 2);
    Some(())
}

/// Any bytes in the rings or the data.
fn fill(world: &World, input: &mut Input) -> Option<()> {
    let at = if input.byte()? & 1 == 0 { DATA } else { ring(input)? + u64::from(input.word()?) };
    let bytes: [u8; 24] = input.bytes()?;
    let _ = world.rig.machine.guest_memory().write_slice(&bytes, GuestAddress(at));
    Some(())
}

/// The MSI-X table and its pending bits.
fn table(world: &World, input: &mut Input) -> Option<()> {
    let at =
        world.bar(input.slot()?).wrapping_add(input.one_of(&[0x4000, 0x6000])? + u64::from(input.byte()?));
    let kind = input.byte()?;
    access(world, kind & 1 == 0, at, input.number()?, input.width()?);
    Some(())
}

/// What the machine's owner does meanwhile.
fn host(world: &World, input: &mut Input) -> Option<()> {
    let machine = &world.rig.machine;
    match input.byte()? & 15 {
        0 => {
            machine.pause();
            machine.resume();
        }
        1 => machine.reset().ok()?,
        2..=5 => machine.press_power_button(),
        6..=9 => drop(machine.wait(Duration::ZERO)),
        _ => drop(machine.input(&input.bytes::<20>()?)),
    }
    Some(())
}

/// What happens at the guest agent's port: on the host's side, or a control message of the driver.
fn agent(world: &World, input: &mut Input) -> Option<()> {
    match input.byte()? & 15 {
        0..=1 => world.connect(),
        2 => world.hang_up(),
        3 => world.client(|client| drop(client.shutdown(std::net::Shutdown::Write))),
        4..=6 => {
            let bytes = vec![7; usize::from(input.word()?)];
            world.client(|client| drop(client.write_all(&bytes)));
        }
        7 => world.client(|client| drop(client.read(&mut [0; 5000]))),
        8 => drop((&world.terminal).write_all(&input.bytes::<16>()?)),
        _ => {
            let [port, event, value] = input.bytes()?;
            let message = [port % 3, 0, 0, 0, event % 8, 0, value & 1, 0];
            world.rig.machine.guest_memory().write_slice(&message, GuestAddress(DATA + 0x900)).ok()?;
            let ring = QUEUES + DEVICE_ROOM * CONSOLE + QUEUE_ROOM * 3;
            write_descriptor(world, ring + 16 * 63, (DATA + 0x900, 8, 0, 0));
            add_available(world, ring, 63, 1)?;
            world.rig.write(world.bar(CONSOLE).wrapping_add(0x300c), 3, 2);
        }
    }
    Some(())
}

/// What comes and goes at the other end of the cable: frames, now and then one that makes no sense.
fn cable(world: &World, input: &mut Input) -> Option<()> {
    world.drain();
    let (len, kind) = (u32::from(input.word()?) >> 4, input.byte()?);
    match kind & 15 {
        0 => world.send(&input.bytes::<16>()?),
        _ => world.send(&[&len.to_be_bytes()[..], &vec![kind; len as usize]].concat()),
    }
    Some(())
}
