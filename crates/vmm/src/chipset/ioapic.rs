//! The I/O APIC (Intel 82093AA datasheet): 24 pins, each turned into a message.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::bus::Device;
use crate::interrupt::{MsiMessage, MsiSink, PinSink};

/// Number of pins.
pub const PINS: usize = 24;
/// Bytes of its register window.
pub const SIZE: u64 = 0x1000;

/// Version 0x20 with a directed EOI register, and the number of the last pin.
const VERSION: u32 = 0x20 | ((PINS as u32 - 1) << 16);
const MASKED: u64 = 1 << 16;
const LEVEL: u64 = 1 << 15;
const REMOTE_IRR: u64 = 1 << 14;
const PENDING: u64 = 1 << 12;
/// Bits software may write: vector, delivery mode, destination mode, polarity, trigger, mask, destination.
const WRITABLE: u64 = 0xff00_0000_0001_afff | 0x00fe_0000_0000_0000;

/// What is saved of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoApicState {
    index: u8,
    id: u32,
    entries: [u64; PINS],
    levels: u32,
}

impl Default for IoApicState {
    fn default() -> Self {
        Self { index: 0, id: 0, entries: [MASKED; PINS], levels: 0 }
    }
}

/// What hears of changed routes: an engine whose local APICs are in the kernel.
pub type RouteListener = Box<dyn Fn(&[Option<MsiMessage>]) + Send + Sync>;

/// The I/O APIC.
pub struct IoApic {
    state: Mutex<IoApicState>,
    sink: Arc<dyn MsiSink>,
    routes: RouteListener,
}

/// The message an entry sends (the formats match but for where the bits are).
fn message(entry: u64) -> MsiMessage {
    let destination = entry >> 56 & 0xff | (entry >> 49 & 0x7f) << 8;
    let address = 0xfee0_0000 | (destination & 0xff) << 12 | (destination >> 8) << 5 | (entry >> 11 & 1) << 2;
    let data = (entry & 0xff | entry & 0x700 | ((entry & LEVEL != 0) as u64 * 0xc000)) as u32;
    MsiMessage { address, data }
}

impl IoApic {
    /// Sends to `sink`; tells `routes` what each pin would send whenever that changes.
    pub fn new(sink: Arc<dyn MsiSink>, routes: RouteListener) -> Self {
        Self { state: Mutex::default(), sink, routes }
    }

    fn lock(&self) -> MutexGuard<'_, IoApicState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is saved.
    pub fn save(&self) -> IoApicState {
        self.lock().clone()
    }

    /// Puts back what was saved.
    pub fn restore(&self, state: IoApicState) {
        let entries = state.entries;
        *self.lock() = state;
        self.announce(&entries);
    }

    /// As after power-on; the levels of the pins are the devices' and stay.
    pub fn reset(&self) {
        let levels = self.lock().levels;
        self.restore(IoApicState { levels, ..IoApicState::default() });
    }

    /// A level-triggered interrupt may end after its pin was masked, so those are told whether masked or not.
    fn announce(&self, entries: &[u64; PINS]) {
        (self.routes)(&entries.map(|e| (e & MASKED == 0 || e & LEVEL != 0).then(|| message(e))));
    }

    /// Sends what pin `pin` has to say, if it may.
    fn service(&self, state: &mut IoApicState, pin: usize) {
        let entry = &mut state.entries[pin];
        if *entry & MASKED != 0 {
            return;
        }
        if *entry & LEVEL != 0 {
            if state.levels >> pin & 1 == 0 || *entry & REMOTE_IRR != 0 {
                return;
            }
            *entry |= REMOTE_IRR;
        } else if *entry & PENDING == 0 {
            return;
        }
        *entry &= !PENDING;
        self.sink.signal(message(*entry));
    }

    /// A processor ended a level-triggered interrupt with this vector: a pin that is still up interrupts again.
    pub fn end_of_interrupt(&self, vector: u8) {
        let mut state = self.lock();
        for pin in 0..PINS {
            let entry = &mut state.entries[pin];
            if *entry & (LEVEL | REMOTE_IRR) == LEVEL | REMOTE_IRR && *entry as u8 == vector {
                *entry &= !REMOTE_IRR;
                self.service(&mut state, pin);
            }
        }
    }

    fn read_register(&self) -> u32 {
        let state = self.lock();
        match state.index {
            0 | 2 => state.id,
            1 => VERSION,
            i @ 0x10.. if usize::from(i - 0x10) < 2 * PINS => {
                let entry = state.entries[usize::from(i - 0x10) / 2];
                (if i & 1 == 0 { entry } else { entry >> 32 }) as u32
            }
            _ => 0,
        }
    }

    fn write_register(&self, value: u32) {
        let mut state = self.lock();
        match state.index {
            0 => state.id = value & 0x0f00_0000,
            i @ 0x10.. if usize::from(i - 0x10) < 2 * PINS => {
                let pin = usize::from(i - 0x10) / 2;
                let old = state.entries[pin];
                let whole = if i & 1 == 0 {
                    old & !0xffff_ffff | u64::from(value)
                } else {
                    old & 0xffff_ffff | u64::from(value) << 32
                };
                let mut new = whole & WRITABLE | old & (REMOTE_IRR | PENDING) & !WRITABLE;
                if new & LEVEL == 0 {
                    new &= !REMOTE_IRR;
                }
                state.entries[pin] = new;
                self.service(&mut state, pin);
                let entries = state.entries;
                drop(state);
                self.announce(&entries);
            }
            _ => {}
        }
    }
}

impl PinSink for IoApic {
    fn set(&self, pin: u8, level: bool) {
        let mut state = self.lock();
        let pin = usize::from(pin);
        if pin >= PINS {
            return;
        }
        let was = state.levels >> pin & 1 != 0;
        if level == was {
            return;
        }
        state.levels ^= 1 << pin;
        if level {
            // An edge that comes while the pin is masked is lost, as in the chip.
            if state.entries[pin] & (LEVEL | MASKED) == 0 {
                state.entries[pin] |= PENDING;
            }
            self.service(&mut state, pin);
        }
    }
}

impl Device for IoApic {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let value = match offset & !3 {
            0 => u32::from(self.lock().index),
            0x10 => self.read_register(),
            _ => 0,
        };
        let bytes = value.to_le_bytes();
        for (i, b) in data.iter_mut().enumerate() {
            *b = bytes.get((offset & 3) as usize + i).copied().unwrap_or(0);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut bytes = [0; 4];
        let n = data.len().min(4);
        bytes[..n].copy_from_slice(&data[..n]);
        let value = u32::from_le_bytes(bytes);
        match offset {
            0 => self.lock().index = value as u8,
            0x10 => self.write_register(value),
            0x40 => self.end_of_interrupt(value as u8),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Sent(Mutex<Vec<MsiMessage>>);
    impl MsiSink for Sent {
        fn signal(&self, message: MsiMessage) {
            self.0.lock().unwrap().push(message);
        }
    }

    fn ioapic() -> (Arc<Sent>, IoApic) {
        let sent = Arc::new(Sent::default());
        (sent.clone(), IoApic::new(sent, Box::new(|_| {})))
    }

    fn set(io: &IoApic, register: u32, value: u32) {
        io.write(0, &register.to_le_bytes());
        io.write(0x10, &value.to_le_bytes());
    }

    #[test]
    fn an_edge_sends_one_message() {
        let (sent, io) = ioapic();
        set(&io, 0x11 + 8, 3 << 24);
        set(&io, 0x10 + 8, 0x41);
        io.set(4, true);
        io.set(4, true);
        io.set(4, false);
        assert_eq!(*sent.0.lock().unwrap(), [MsiMessage { address: 0xfee0_3000, data: 0x41 }]);
    }

    #[test]
    fn a_level_that_stays_up_interrupts_again_after_its_end() {
        let (sent, io) = ioapic();
        set(&io, 0x10 + 10, 0x8055);
        io.set(5, true);
        assert_eq!(sent.0.lock().unwrap().len(), 1);
        io.end_of_interrupt(0x55);
        assert_eq!(sent.0.lock().unwrap().len(), 2);
        io.set(5, false);
        io.end_of_interrupt(0x55);
        assert_eq!(sent.0.lock().unwrap().len(), 2);
    }

    #[test]
    fn a_level_that_rose_while_masked_comes_when_unmasked() {
        let (sent, io) = ioapic();
        set(&io, 0x10 + 10, 0x1_8055);
        io.set(5, true);
        assert!(sent.0.lock().unwrap().is_empty());
        set(&io, 0x10 + 10, 0x8055);
        assert_eq!(sent.0.lock().unwrap().len(), 1);
    }

    #[test]
    fn state_goes_out_and_in() {
        let (_, io) = ioapic();
        set(&io, 0x10 + 10, 0x8055);
        io.set(5, true);
        let saved = io.save();
        let (_, other) = ioapic();
        other.restore(saved.clone());
        assert_eq!(other.save(), saved);
    }
}
