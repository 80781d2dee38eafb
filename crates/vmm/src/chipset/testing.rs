//! What the tests of devices are wired to.

use std::sync::Mutex;

use crate::interrupt::PinSink;

/// An interrupt controller that remembers levels and counts rises.
#[derive(Default)]
pub struct Pins(Mutex<[(bool, usize); 24]>);

impl Pins {
    /// The level of a pin.
    pub fn level(&self, pin: u8) -> bool {
        self.0.lock().unwrap()[usize::from(pin)].0
    }

    /// How often a pin went up.
    pub fn rises(&self, pin: u8) -> usize {
        self.0.lock().unwrap()[usize::from(pin)].1
    }
}

impl PinSink for Pins {
    fn set(&self, pin: u8, level: bool) {
        let mut pins = self.0.lock().unwrap();
        let (was, rises) = &mut pins[usize::from(pin)];
        *rises += usize::from(level && !*was);
        *was = level;
    }
}
