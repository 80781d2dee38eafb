//! Configuration space of a type 0 function: bytes, and which of their bits software may write.

use serde::{Deserialize, Serialize};

/// Bytes of the space that exists; the extended part reads as zero.
pub const SIZE: usize = 256;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const HEADER_TYPE: usize = 0x0e;
pub(super) const BAR0: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const FIRST_CAPABILITY: usize = 0x40;
/// Command: memory space.
pub(super) const MEMORY_SPACE: u16 = 1 << 1;
/// Command: I/O, memory, bus master, parity, SERR, INTx disable.
const COMMAND_WRITABLE: u16 = 0x0547;
const STATUS_CAPABILITIES: u16 = 1 << 4;

/// Who a function is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Class, subclass and interface in bits 23:0.
    pub class: u32,
    /// Revision id.
    pub revision: u8,
    /// Subsystem vendor and device id.
    pub subsystem: (u16, u16),
}

/// What is saved of a configuration space: what software wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigState {
    bytes: Vec<u8>,
}

/// A configuration space.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    writable: [u8; SIZE],
    reset: [u8; SIZE],
    next_capability: usize,
    last_pointer: usize,
}

impl ConfigSpace {
    /// The space of a function without BARs and capabilities.
    pub fn new(who: Identity) -> Self {
        let mut space = Self {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            reset: [0; SIZE],
            next_capability: FIRST_CAPABILITY,
            last_pointer: CAPABILITIES,
        };
        space.put(0, &who.vendor.to_le_bytes());
        space.put(2, &who.device.to_le_bytes());
        space.put(8, &(who.class << 8 | u32::from(who.revision)).to_le_bytes());
        space.put(HEADER_TYPE, &[0]);
        space.put(0x2c, &who.subsystem.0.to_le_bytes());
        space.put(0x2e, &who.subsystem.1.to_le_bytes());
        space.allow(COMMAND, &COMMAND_WRITABLE.to_le_bytes());
        // Cache line size and interrupt line are software's notes.
        space.allow(0x0c, &[0xff]);
        space.allow(0x3c, &[0xff]);
        space
    }

    /// Sets bytes as the function has them after reset.
    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.reset[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Lets software write these bits.
    pub fn allow(&mut self, at: usize, mask: &[u8]) {
        self.writable[at..at + mask.len()].copy_from_slice(mask);
    }

    /// Appends a capability: id, pointer to the next, then `body`. Gives its offset; `None` if there is no room.
    pub fn add_capability(&mut self, id: u8, body: &[u8]) -> Option<usize> {
        let at = self.next_capability;
        let end = (at + 2 + body.len()).next_multiple_of(4);
        if end > SIZE {
            return None;
        }
        self.put(at, &[id, 0]);
        self.put(at + 2, body);
        self.put(self.last_pointer, &[at as u8]);
        self.put(STATUS, &STATUS_CAPABILITIES.to_le_bytes());
        self.last_pointer = at + 1;
        self.next_capability = end;
        Some(at)
    }

    /// Any read, of any width at any offset.
    pub fn read(&self, at: usize, data: &mut [u8]) {
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = self.bytes.get(at + i).copied().unwrap_or(0);
        }
    }

    /// Any write; what may not be written stays.
    pub fn write(&mut self, at: usize, data: &[u8]) {
        for (i, &byte) in data.iter().enumerate() {
            if let (Some(old), Some(&mask)) = (self.bytes.get_mut(at + i), self.writable.get(at + i)) {
                *old = *old & !mask | byte & mask;
            }
        }
    }

    /// A 16-bit register.
    pub fn u16_at(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    /// A 32-bit register.
    pub fn u32_at(&self, at: usize) -> u32 {
        u32::from(self.u16_at(at)) | u32::from(self.u16_at(at + 2)) << 16
    }

    /// The command register.
    pub fn command(&self) -> u16 {
        self.u16_at(COMMAND)
    }

    /// As after reset.
    pub fn reset(&mut self) {
        self.bytes = self.reset;
    }

    /// What is saved.
    pub fn save(&self) -> ConfigState {
        ConfigState { bytes: self.bytes.to_vec() }
    }

    /// Puts back what was saved: only what software may write.
    pub fn restore(&mut self, state: &ConfigState) {
        self.write(0, &state.bytes);
    }
}
