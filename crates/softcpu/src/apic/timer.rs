//! The local APIC's timer (Intel SDM vol. 3, 11.5.4) on the machine's clock.
//!
//! The input clock is 1 GHz, one tick a guest nanosecond, so counts are times. Nothing counts down: the current count
//! is computed when it is read, and the processor asks when the timer is due.

use super::Apic;

/// LVT timer register: mode, bits 18:17.
const MODE_SHIFT: u32 = 17;
/// LVT: masked.
pub(super) const LVT_MASKED: u32 = 1 << 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimerMode {
    OneShot,
    Periodic,
    TscDeadline,
    Reserved,
}

/// The timer's state besides its LVT entry.
#[derive(Clone, Debug, Default)]
pub(super) struct Timer {
    pub initial: u32,
    pub divide: u32,
    /// Guest nanoseconds at which the count was (as if) loaded; meaningful while `deadline` is not 0.
    pub start: u64,
    /// Guest nanoseconds of the next expiry; 0 when not running.
    pub deadline: u64,
    /// IA32_TSC_DEADLINE; 0 when disarmed.
    pub tsc_deadline: u64,
}

impl Timer {
    /// The divide configuration register's divisor.
    fn divisor(&self) -> u64 {
        let code = (self.divide & 3) | (self.divide >> 1 & 4);
        1 << ((code + 1) & 7)
    }

    /// Nanoseconds from load to expiry.
    fn period(&self) -> u64 {
        u64::from(self.initial) * self.divisor()
    }

    /// A write to the initial count register.
    pub fn load(&mut self, count: u32, now: u64) {
        self.initial = count;
        self.start = now;
        self.deadline = if count == 0 { 0 } else { now.saturating_add(self.period()) };
    }

    /// A write to the divide configuration register: the count goes on from where it is at the new speed.
    pub fn set_divide(&mut self, value: u32, now: u64) {
        let left = self.current(now);
        self.divide = value & 0xb;
        if self.deadline != 0 {
            self.deadline = now.saturating_add(u64::from(left) * self.divisor());
            self.start = self.deadline.saturating_sub(self.period());
        }
    }

    /// The current count register.
    pub fn current(&self, now: u64) -> u32 {
        if self.deadline == 0 {
            return 0;
        }
        // The count shows n for a whole divided tick, so it reads 0 only once the timer has expired.
        let left = self.deadline.saturating_sub(now).div_ceil(self.divisor());
        left.min(u64::from(self.initial)) as u32
    }

    /// Brings a periodic timer to the period that `now` is in.
    pub fn catch_up(&mut self, now: u64) {
        if self.deadline != 0 && self.deadline <= now {
            let period = self.period().max(1);
            self.start = self.deadline.saturating_add((now - self.deadline) / period * period);
            self.deadline = self.start.saturating_add(period);
        }
    }

    pub fn stop(&mut self) {
        self.deadline = 0;
        self.tsc_deadline = 0;
    }
}

impl Apic {
    pub(super) fn timer_mode(&self) -> TimerMode {
        match self.lvt_timer() >> MODE_SHIFT & 3 {
            0 => TimerMode::OneShot,
            1 => TimerMode::Periodic,
            2 => TimerMode::TscDeadline,
            _ => TimerMode::Reserved,
        }
    }

    /// When the timer next expires, guest nanoseconds.
    fn timer_expiry(&self, time: &Time) -> Option<u64> {
        match self.timer_mode() {
            TimerMode::OneShot | TimerMode::Periodic if self.timer.deadline != 0 => Some(self.timer.deadline),
            TimerMode::TscDeadline if self.timer.tsc_deadline != 0 => {
                Some(time.when(self.timer.tsc_deadline))
            }
            _ => None,
        }
    }

    /// When the timer next wants the processor's attention: its expiry, unless its LVT entry is masked.
    pub(super) fn timer_event(&self, time: &Time) -> Option<u64> {
        if self.lvt_timer() & LVT_MASKED != 0 { None } else { self.timer_expiry(time) }
    }

    /// Lets the timer expire if its time has come. However many periods have passed, it expires once.
    pub(super) fn timer_poll(&mut self, time: &Time) {
        if self.timer_expiry(time).is_none_or(|at| at > time.now) {
            return;
        }
        if self.timer_mode() == TimerMode::Periodic {
            self.timer.catch_up(time.now);
        } else {
            self.timer.stop();
        }
        if self.lvt_timer() & LVT_MASKED == 0 {
            self.accept_local(self.lvt_timer() as u8);
        }
    }
}

/// A moment on one processor: the machine's time and how this processor's TSC relates to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time {
    /// Guest nanoseconds.
    pub now: u64,
    pub tsc_khz: u32,
    pub tsc_offset: u64,
}

impl Time {
    /// Guest nanoseconds at which the processor's TSC reaches `tsc`: 0 for long ago, `u64::MAX` for never.
    pub fn when(&self, tsc: u64) -> u64 {
        let ticks = i128::from(tsc) - i128::from(self.tsc_offset as i64);
        let khz = u128::from(self.tsc_khz.max(1));
        match u128::try_from(ticks) {
            Ok(ticks) => u64::try_from((ticks * 1_000_000).div_ceil(khz)).unwrap_or(u64::MAX),
            Err(_) => 0,
        }
    }
}
