//! The registers that end a machine: ACPI sleep and reset, the keyboard controller's reset line, the guest's panic port;
//! and the power button.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::bus::Device;
use crate::chipset::ports;
use crate::interrupt::Pin;

/// What the guest asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Power off (ACPI S5).
    Off,
    /// Reset.
    Reset,
    /// It panicked; it may go on to write a dump or reset itself.
    Panicked,
}

/// Hears of requests, on a vCPU's thread.
pub type Listener = Arc<dyn Fn(Request) + Send + Sync>;

/// The sleep registers and the event register behind them.
pub struct Power {
    listener: Listener,
    events: AtomicU8,
    pin: Pin,
}

/// In the sleep control register: the sleep type, and "now".
const SLEEP_ENABLE: u8 = 1 << 5;

impl Power {
    /// Tells `listener` of requests and raises `pin` for events.
    pub fn new(listener: Listener, pin: Pin) -> Self {
        Self { listener, events: AtomicU8::new(0), pin }
    }

    /// Presses the power button.
    pub fn press_button(&self) {
        self.events.fetch_or(ports::EVENT_POWER_BUTTON, Ordering::SeqCst);
        self.pin.pulse();
    }
}

impl Device for Power {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if offset == u64::from(ports::EVENT - ports::SLEEP_CONTROL) {
            data[0] = self.events.swap(0, Ordering::SeqCst);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if offset == 0 && data[0] & SLEEP_ENABLE != 0 && data[0] >> 2 & 7 == ports::SLEEP_TYPE_OFF {
            (self.listener)(Request::Off);
        }
    }
}

/// A one-port register that asks for something when a certain value is written.
pub struct Trigger {
    listener: Listener,
    request: Request,
    /// Bits that must be set.
    wanted: u8,
    /// Which bits are looked at.
    mask: u8,
    /// What a read gives.
    reads: u8,
}

impl Trigger {
    /// The reset register at 0xcf9: bit 2 resets.
    pub fn reset_register(listener: Listener) -> Self {
        Self { listener, request: Request::Reset, wanted: 4, mask: 4, reads: 0 }
    }

    /// The keyboard controller's command port: 0xfe pulses the reset line. Its status says: no data, ready for commands.
    pub fn keyboard_reset(listener: Listener) -> Self {
        Self { listener, request: Request::Reset, wanted: 0xfe, mask: 0xff, reads: 0 }
    }

    /// pvpanic: bit 0 says that the guest panicked; a read gives what is supported.
    pub fn panic(listener: Listener) -> Self {
        Self { listener, request: Request::Panicked, wanted: 1, mask: 1, reads: 1 }
    }
}

impl Device for Trigger {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(self.reads);
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        if data[0] & self.mask == self.wanted {
            (self.listener)(self.request);
        }
    }
}
