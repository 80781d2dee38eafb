//! The real-time clock and its memory (Motorola MC146818A data sheet): the host's time in UTC, plus what the guest set it
//! ahead or back; alarm, periodic and update-ended interrupts.
//!
//! Nothing ticks: what has passed is worked out when the guest looks, and a timer is armed only for interrupts that are
//! enabled.

mod calendar;
mod clock;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::bus::Device;
use crate::interrupt::Pin;
use crate::reactor::{Handle, Timer};

pub use clock::RtcState;

/// Index and data port.
pub const SIZE: u64 = 2;

/// Nanoseconds since 1970 on the host.
fn host_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

struct Inner {
    state: Mutex<RtcState>,
    pin: Pin,
    timer: Mutex<Option<Timer>>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    /// Sets pin and timer to what the state wants.
    fn settle(&self, state: &RtcState, now: i64) {
        self.pin.set(state.interrupts());
        let timer = lock(&self.timer);
        let Some(timer) = &*timer else { return };
        let result = match state.next_interrupt(now) {
            Some(at) => timer.arm(Duration::from_nanos(at.saturating_sub(now).max(1).unsigned_abs())),
            None => timer.disarm(),
        };
        if let Err(error) = result {
            tracing::warn!(%error, "the real-time clock's timer cannot be set: its interrupts may be missed");
        }
    }

    fn expired(&self) {
        let mut state = lock(&self.state);
        let now = host_ns();
        state.advance(now);
        self.settle(&state, now);
    }
}

/// The clock.
pub struct Rtc(Arc<Inner>);

impl Rtc {
    /// A clock that interrupts on `pin`.
    ///
    /// # Errors
    /// If the device thread gives no timer.
    pub fn new(pin: Pin, reactor: &Handle) -> std::io::Result<Self> {
        let state = Mutex::new(RtcState::new(host_ns()));
        let inner = Arc::new(Inner { state, pin, timer: Mutex::default() });
        let weak: Weak<Inner> = Arc::downgrade(&inner);
        let timer = reactor.timer(move || {
            if let Some(inner) = weak.upgrade() {
                inner.expired();
            }
        })?;
        *lock(&inner.timer) = Some(timer);
        Ok(Self(inner))
    }

    /// What is saved.
    pub fn save(&self) -> RtcState {
        lock(&self.0.state).clone()
    }

    /// Puts back what was saved.
    pub fn restore(&self, state: RtcState) {
        let mut mine = lock(&self.0.state);
        *mine = state;
        self.0.settle(&mine, host_ns());
    }

    /// A battery keeps time and memory; only the interrupts are forgotten.
    pub fn reset(&self) {
        let mut state = lock(&self.0.state);
        state.reset();
        self.0.settle(&state, host_ns());
    }
}

impl Device for Rtc {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let (1, [byte]) = (offset, data) {
            let now = host_ns();
            let mut state = lock(&self.0.state);
            *byte = state.read(now);
            self.0.settle(&state, now);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let (&[value], mut state) = (data, lock(&self.0.state)) else { return };
        if offset == 0 {
            // The top bit is the chipset's: it masks NMIs, of which there are none.
            state.select(value & 0x7f);
        } else {
            let now = host_ns();
            state.write(value, now);
            self.0.settle(&state, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::chipset::testing::Pins;
    use crate::reactor::Reactor;

    fn write(rtc: &Rtc, register: u8, value: u8) {
        rtc.write(0, &[register]);
        rtc.write(1, &[value]);
    }

    #[test]
    fn a_periodic_interrupt_comes_by_itself_and_goes_when_it_is_read() {
        let reactor = Reactor::start("devices").unwrap();
        let pins = Arc::new(Pins::default());
        let rtc = Rtc::new(Pin::new(pins.clone(), 8), &reactor.handle()).unwrap();
        write(&rtc, 0x0b, 0x42);
        let start = Instant::now();
        while !pins.level(8) {
            assert!(start.elapsed() < Duration::from_secs(10), "no interrupt came");
            std::thread::yield_now();
        }
        rtc.write(0, &[0x0b]);
        rtc.write(1, &[2]);
        rtc.write(0, &[0x0c]);
        rtc.read(1, &mut [0]);
        assert!(!pins.level(8));
    }

    #[test]
    fn an_idle_clock_arms_no_timer() {
        let state = RtcState::new(host_ns());
        assert_eq!(state.next_interrupt(host_ns()), None);
    }

    #[test]
    fn state_goes_out_and_in() {
        let reactor = Reactor::start("devices").unwrap();
        let pins = Arc::new(Pins::default());
        let new = || Rtc::new(Pin::new(pins.clone(), 8), &reactor.handle()).unwrap();
        let rtc = new();
        write(&rtc, 0x40, 0x5a);
        write(&rtc, 0x09, 0x30);
        let saved = rtc.save();
        let other = new();
        other.restore(saved.clone());
        assert_eq!(other.save(), saved);
    }
}
