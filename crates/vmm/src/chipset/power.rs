//! The registers that end a machine: ACPI sleep and reset, the keyboard controller's reset line, the guest's panic port;
//! and the power button.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use serde::{Deserialize, Serialize};

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

/// What is saved of the sleep and event registers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerState {
    /// Events the guest has not read yet.
    events: u8,
}

/// The sleep registers and the generic event register behind them.
pub struct Power {
    listener: Listener,
    events: AtomicU8,
    pin: Pin,
}

/// In the sleep control register: "now". The sleep type is in bits 2 to 4.
const SLEEP_ENABLE: u8 = 1 << 5;

impl Power {
    /// Tells `listener` of requests and raises `pin` for events.
    pub fn new(listener: Listener, pin: Pin) -> Self {
        Self { listener, events: AtomicU8::new(0), pin }
    }

    /// Tells the guest that something happened: bits of [`ports::EVENT`].
    pub fn raise(&self, events: u8) {
        self.events.fetch_or(events, Ordering::SeqCst);
        self.pin.pulse();
    }

    /// Presses the power button.
    pub fn press_button(&self) {
        self.raise(ports::EVENT_POWER_BUTTON);
    }

    /// What is saved.
    pub fn save(&self) -> PowerState {
        PowerState { events: self.events.load(Ordering::SeqCst) }
    }

    /// Puts back what was saved.
    pub fn restore(&self, state: &PowerState) {
        self.events.store(state.events, Ordering::SeqCst);
    }

    /// As after power-on.
    pub fn reset(&self) {
        self.restore(&PowerState::default());
    }
}

impl Device for Power {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        // Reading takes the events away, so a wide read that covers the register must not.
        if let (ports::EVENT_OFFSET, [byte]) = (offset, data) {
            *byte = self.events.swap(0, Ordering::SeqCst);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let &[value] = data else { return };
        if offset == 0 && value & SLEEP_ENABLE != 0 && value >> 2 & 7 == ports::SLEEP_TYPE_OFF {
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
        if let &[value] = data
            && value & self.mask == self.wanted
        {
            (self.listener)(self.request);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::chipset::testing::Pins;

    fn heard() -> (Arc<Mutex<Vec<Request>>>, Listener) {
        let heard: Arc<Mutex<Vec<Request>>> = Arc::default();
        let mine = Arc::clone(&heard);
        (heard, Arc::new(move |request| mine.lock().unwrap().push(request)))
    }

    fn power() -> (Arc<Mutex<Vec<Request>>>, Arc<Pins>, Power) {
        let (heard, listener) = heard();
        let pins = Arc::new(Pins::default());
        (heard, pins.clone(), Power::new(listener, Pin::new(pins, ports::EVENT_PIN)))
    }

    fn events(power: &Power) -> u8 {
        let mut byte = [0];
        power.read(ports::EVENT_OFFSET, &mut byte);
        byte[0]
    }

    #[test]
    fn only_the_off_sleep_type_with_enable_powers_off() {
        let (heard, _, power) = power();
        for value in 0..=255u8 {
            power.write(0, &[value]);
            let off = value & SLEEP_ENABLE != 0 && value >> 2 & 7 == ports::SLEEP_TYPE_OFF;
            assert_eq!(std::mem::take(&mut *heard.lock().unwrap()), vec![Request::Off; usize::from(off)]);
        }
    }

    #[test]
    fn a_press_is_told_once_with_an_interrupt() {
        let (_, pins, power) = power();
        power.press_button();
        assert_eq!(pins.rises(ports::EVENT_PIN), 1);
        assert_eq!(events(&power), ports::EVENT_POWER_BUTTON);
        assert_eq!(events(&power), 0);
    }

    #[test]
    fn every_press_interrupts_though_none_was_read() {
        let (_, pins, power) = power();
        power.press_button();
        power.press_button();
        assert_eq!(pins.rises(ports::EVENT_PIN), 2);
    }

    #[test]
    fn events_are_saved_and_reset_forgets_them() {
        let (_, _, power) = power();
        power.press_button();
        let (_, _, other) = self::power();
        other.restore(&power.save());
        assert_eq!(other.save(), power.save());
        other.reset();
        assert_eq!(events(&other), 0);
    }

    #[test]
    fn each_trigger_asks_for_its_own_at_its_own_value() {
        let (heard, listener) = heard();
        let cases: [(Trigger, u8, u8, Request); 3] = [
            (Trigger::reset_register(listener.clone()), ports::RESET_VALUE, 2, Request::Reset),
            (Trigger::keyboard_reset(listener.clone()), 0xfe, 0xae, Request::Reset),
            (Trigger::panic(listener), 1, 2, Request::Panicked),
        ];
        for (trigger, right, wrong, request) in cases {
            trigger.write(0, &[wrong]);
            assert!(heard.lock().unwrap().is_empty());
            trigger.write(0, &[right]);
            assert_eq!(std::mem::take(&mut *heard.lock().unwrap()), [request]);
        }
    }
}
