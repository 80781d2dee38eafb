//! The clock as a thing of its own: registers and time in, registers and interrupts out. Times are nanoseconds since 1970.

use serde::{Deserialize, Serialize};

use super::calendar::{Civil, DAY};

const SECOND: i64 = 1_000_000_000;
/// For this long before each second the time must not be read (data sheet, "update cycle": 244 µs).
const UPDATE: i64 = 244_000;

mod register {
    pub const SECONDS: u8 = 0;
    pub const SECONDS_ALARM: u8 = 1;
    pub const MINUTES: u8 = 2;
    pub const MINUTES_ALARM: u8 = 3;
    pub const HOURS: u8 = 4;
    pub const HOURS_ALARM: u8 = 5;
    pub const WEEKDAY: u8 = 6;
    pub const DAY: u8 = 7;
    pub const MONTH: u8 = 8;
    pub const YEAR: u8 = 9;
    pub const A: u8 = 0x0a;
    pub const B: u8 = 0x0b;
    pub const C: u8 = 0x0c;
    pub const D: u8 = 0x0d;
    /// Where PCs keep the century; the ACPI tables say so.
    pub const CENTURY: u8 = 0x32;
    pub const TIME: [u8; 8] = [SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY];
}

/// Register A: update in progress; the divider (010 is the running clock); the periodic interrupt's rate.
const A_UPDATING: u8 = 1 << 7;
const A_RESET: u8 = 0x26;
/// Register B.
mod b {
    /// The time stands still, to be set.
    pub const SET: u8 = 1 << 7;
    pub const PERIODIC: u8 = 1 << 6;
    pub const ALARM: u8 = 1 << 5;
    pub const UPDATE_ENDED: u8 = 1 << 4;
    pub const INTERRUPTS: u8 = PERIODIC | ALARM | UPDATE_ENDED;
    /// Binary, not BCD.
    pub const BINARY: u8 = 1 << 2;
    pub const HOURS_24: u8 = 1 << 1;
}
/// Register C: any interrupt; the flags below have register B's places.
const C_ANY: u8 = 1 << 7;
/// Register D: the battery is good.
const D_VALID: u8 = 1 << 7;
/// An alarm register with both top bits set matches everything.
const ANY: u8 = 0xc0;
const PM: u8 = 0x80;

/// What is saved of the clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RtcState {
    index: u8,
    memory: Vec<u8>,
    /// Register C without [`C_ANY`].
    flags: u8,
    /// What the guest's time is ahead of the host's.
    ahead_s: i64,
    /// Up to when [`Self::flags`] tells what happened.
    seen_ns: i64,
}

impl RtcState {
    /// A clock that shows the host's time.
    pub fn new(now: i64) -> Self {
        let mut memory = vec![0; 128];
        memory[usize::from(register::A)] = A_RESET;
        memory[usize::from(register::B)] = b::HOURS_24;
        Self { index: 0, memory, flags: 0, ahead_s: 0, seen_ns: now }
    }

    fn at(&self, register: u8) -> u8 {
        // A saved state may have been made by another version: its memory may be shorter.
        self.memory.get(usize::from(register)).copied().unwrap_or(0)
    }

    fn put(&mut self, register: u8, value: u8) {
        if let Some(byte) = self.memory.get_mut(usize::from(register)) {
            *byte = value;
        }
    }

    fn has(&self, bit: u8) -> bool {
        self.at(register::B) & bit != 0
    }

    /// Seconds since 1970 in the guest's eyes.
    fn seconds(&self, now: i64) -> i64 {
        now.div_euclid(SECOND).saturating_add(self.ahead_s)
    }

    /// Forgets interrupts (the RESET pin of the data sheet).
    pub fn reset(&mut self) {
        self.index = 0;
        self.flags = 0;
        self.put(register::B, self.at(register::B) & !b::INTERRUPTS);
    }

    /// Chooses the register that is read and written next.
    pub fn select(&mut self, register: u8) {
        self.index = register;
    }

    /// Whether the interrupt pin is up.
    pub fn interrupts(&self) -> bool {
        self.flags & self.at(register::B) & b::INTERRUPTS != 0
    }

    fn period(&self) -> Option<i64> {
        match self.at(register::A) & 15 {
            0 => None,
            // 3.9 and 7.8 ms have two codes each.
            rate @ 1..=2 => Some(SECOND << (rate + 6) >> 15),
            rate => Some(SECOND << (rate - 1) >> 15),
        }
    }

    fn shown(&self, n: i64) -> u8 {
        // Everything shown is below 100.
        let n = n as u8;
        if self.has(b::BINARY) { n } else { ((n / 10) << 4) | (n % 10) }
    }

    fn meant(&self, byte: u8) -> i64 {
        i64::from(if self.has(b::BINARY) { byte } else { (byte >> 4) * 10 + (byte & 15) })
    }

    fn shown_hour(&self, hour: i64) -> u8 {
        if self.has(b::HOURS_24) {
            return self.shown(hour);
        }
        let twelve = if hour % 12 == 0 { 12 } else { hour % 12 };
        self.shown(twelve) | if hour >= 12 { PM } else { 0 }
    }

    fn meant_hour(&self, byte: u8) -> i64 {
        if self.has(b::HOURS_24) {
            return self.meant(byte);
        }
        self.meant(byte & !PM) % 12 + if byte & PM != 0 { 12 } else { 0 }
    }

    fn show(&self, register: u8, c: &Civil) -> u8 {
        match register {
            register::SECONDS => self.shown(c.second),
            register::MINUTES => self.shown(c.minute),
            register::HOURS => self.shown_hour(c.hour),
            register::WEEKDAY => self.shown(c.weekday),
            register::DAY => self.shown(c.day),
            register::MONTH => self.shown(c.month),
            register::YEAR => self.shown(c.year.rem_euclid(100)),
            _ => self.shown(c.year.div_euclid(100).rem_euclid(100)),
        }
    }

    /// Writes the time into memory, where it can be set.
    fn freeze(&mut self, now: i64) {
        let civil = Civil::from_seconds(self.seconds(now));
        for register in register::TIME {
            self.put(register, self.show(register, &civil));
        }
    }

    /// Takes the time from memory, if it is one.
    fn thaw(&mut self, now: i64) {
        let civil = Civil {
            year: self.meant(self.at(register::CENTURY)) * 100 + self.meant(self.at(register::YEAR)),
            month: self.meant(self.at(register::MONTH)),
            day: self.meant(self.at(register::DAY)),
            weekday: 1,
            hour: self.meant_hour(self.at(register::HOURS)),
            minute: self.meant(self.at(register::MINUTES)),
            second: self.meant(self.at(register::SECONDS)),
        };
        if let Some(seconds) = civil.to_seconds() {
            self.ahead_s = seconds - now.div_euclid(SECOND);
        }
    }

    /// The first second from `first` to `last` in the guest's eyes in which the alarm goes off.
    fn alarm(&self, first: i64, last: i64) -> Option<i64> {
        let matches = |register, value| {
            let wanted = self.at(register);
            wanted & ANY == ANY || wanted == value
        };
        let mut at = first;
        while at <= last {
            let of_day = at.rem_euclid(DAY);
            // What does not match is left as a whole: a guest may ask all the time.
            let left = if !matches(register::HOURS_ALARM, self.shown_hour(of_day / 3600)) {
                3600 - of_day % 3600
            } else if !matches(register::MINUTES_ALARM, self.shown(of_day / 60 % 60)) {
                60 - of_day % 60
            } else if !matches(register::SECONDS_ALARM, self.shown(of_day % 60)) {
                1
            } else {
                return Some(at);
            };
            at = at.checked_add(left)?;
        }
        None
    }

    /// The same for seconds of the host's clock.
    fn next_alarm(&self, first: i64, last: i64) -> Option<i64> {
        let ahead = self.ahead_s;
        self.alarm(first.saturating_add(ahead), last.saturating_add(ahead)).map(|at| at - ahead)
    }

    /// Notes in register C what has happened up to now.
    pub fn advance(&mut self, now: i64) {
        if now <= self.seen_ns {
            // The host's clock may be set back.
            self.seen_ns = now;
            return;
        }
        if self.period().is_some_and(|p| now.div_euclid(p) != self.seen_ns.div_euclid(p)) {
            self.flags |= b::PERIODIC;
        }
        let (before, current) = (self.seen_ns.div_euclid(SECOND), now.div_euclid(SECOND));
        if before != current && !self.has(b::SET) {
            self.flags |= b::UPDATE_ENDED;
            // The alarm is one a day: who looks at the last day has seen all.
            let first = before.max(current - DAY) + 1;
            if self.next_alarm(first, current).is_some() {
                self.flags |= b::ALARM;
            }
        }
        self.seen_ns = now;
    }

    /// When the pin goes up next by itself: never, if it is up or nothing is enabled.
    pub fn next_interrupt(&self, now: i64) -> Option<i64> {
        if self.interrupts() {
            return None;
        }
        let second = now.div_euclid(SECOND);
        let periodic = self.period().filter(|_| self.has(b::PERIODIC)).map(|p| (now.div_euclid(p) + 1) * p);
        let running = !self.has(b::SET);
        let update = (running && self.has(b::UPDATE_ENDED)).then(|| (second + 1) * SECOND);
        let alarm = (running && self.has(b::ALARM)).then(|| self.next_alarm(second + 1, second + DAY));
        let alarm = alarm.flatten().map(|s| s * SECOND);
        [periodic, update, alarm].into_iter().flatten().min()
    }

    /// The chosen register.
    pub fn read(&mut self, now: i64) -> u8 {
        self.advance(now);
        match self.index {
            register::A => {
                let updating = !self.has(b::SET) && now.rem_euclid(SECOND) >= SECOND - UPDATE;
                self.at(register::A) | if updating { A_UPDATING } else { 0 }
            }
            register::C => {
                let any = if self.interrupts() { C_ANY } else { 0 };
                any | std::mem::take(&mut self.flags)
            }
            register::D => D_VALID,
            index if register::TIME.contains(&index) && !self.has(b::SET) => {
                self.show(index, &Civil::from_seconds(self.seconds(now)))
            }
            index => self.at(index),
        }
    }

    /// Writes the chosen register.
    pub fn write(&mut self, value: u8, now: i64) {
        self.advance(now);
        match self.index {
            register::A => self.put(register::A, value & !A_UPDATING),
            register::B => self.write_b(value, now),
            register::C | register::D => {}
            index if register::TIME.contains(&index) && !self.has(b::SET) => {
                self.freeze(now);
                self.put(index, value);
                self.thaw(now);
            }
            index => self.put(index, value),
        }
    }

    fn write_b(&mut self, value: u8, now: i64) {
        match (self.has(b::SET), value & b::SET != 0) {
            (false, true) => {
                self.put(register::B, value);
                self.freeze(now);
            }
            (true, false) => {
                self.put(register::B, value);
                self.thaw(now);
            }
            _ => self.put(register::B, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-23 12:05:06 UTC, a Monday.
    const NOW: i64 = 1_795_435_506 * SECOND;

    fn read(state: &mut RtcState, index: u8, now: i64) -> u8 {
        state.select(index);
        state.read(now)
    }

    fn write(state: &mut RtcState, index: u8, value: u8, now: i64) {
        state.select(index);
        state.write(value, now);
    }

    fn shown(state: &mut RtcState, now: i64) -> [u8; 8] {
        register::TIME.map(|r| read(state, r, now))
    }

    #[test]
    fn time_is_shown_in_bcd_and_in_binary() {
        let mut rtc = RtcState::new(NOW);
        assert_eq!(shown(&mut rtc, NOW), [0x06, 0x05, 0x12, 2, 0x23, 0x11, 0x26, 0x20]);
        write(&mut rtc, register::B, b::BINARY | b::HOURS_24, NOW);
        assert_eq!(shown(&mut rtc, NOW), [6, 5, 12, 2, 23, 11, 26, 20]);
        write(&mut rtc, register::B, b::BINARY, NOW);
        assert_eq!(read(&mut rtc, register::HOURS, NOW), 12 | PM);
    }

    #[test]
    fn a_set_clock_stays_set_and_runs_on() {
        let mut rtc = RtcState::new(NOW);
        write(&mut rtc, register::B, b::SET | b::HOURS_24, NOW);
        for (register, value) in register::TIME.into_iter().zip([0x58, 0x59, 0x23, 5, 0x31, 0x12, 0x99, 0x19])
        {
            write(&mut rtc, register, value, NOW);
        }
        assert_eq!(read(&mut rtc, register::SECONDS, NOW + 9 * SECOND), 0x58, "it stands while it is set");
        write(&mut rtc, register::B, b::HOURS_24, NOW);
        assert_eq!(shown(&mut rtc, NOW + 2 * SECOND), [0, 0, 0, 7, 1, 1, 0, 0x20]);
    }

    #[test]
    fn nonsense_leaves_the_clock_as_it_was() {
        let mut rtc = RtcState::new(NOW);
        let before = shown(&mut rtc, NOW);
        for value in 0..=255 {
            write(&mut rtc, register::MONTH, value | 0xa0, NOW);
            write(&mut rtc, register::SECONDS_ALARM, value, NOW);
        }
        assert_eq!(shown(&mut rtc, NOW), before);
    }

    #[test]
    fn the_last_moments_of_a_second_are_marked() {
        let mut rtc = RtcState::new(NOW);
        assert_eq!(read(&mut rtc, register::A, NOW), A_RESET);
        assert_eq!(read(&mut rtc, register::A, NOW + SECOND - 1000), A_RESET | A_UPDATING);
    }

    #[test]
    fn an_alarm_goes_off_in_its_second_and_only_if_enabled() {
        let mut rtc = RtcState::new(NOW);
        write(&mut rtc, register::SECONDS_ALARM, 0x10, NOW);
        write(&mut rtc, register::MINUTES_ALARM, 0xff, NOW);
        write(&mut rtc, register::HOURS_ALARM, 0xc0, NOW);
        assert_eq!(rtc.next_interrupt(NOW), None);
        write(&mut rtc, register::B, b::ALARM | b::HOURS_24, NOW);
        assert_eq!(rtc.next_interrupt(NOW), Some(NOW + 4 * SECOND));
        rtc.advance(NOW + 3 * SECOND);
        assert!(!rtc.interrupts());
        rtc.advance(NOW + 4 * SECOND);
        assert!(rtc.interrupts());
        assert_eq!(
            read(&mut rtc, register::C, NOW + 4 * SECOND),
            C_ANY | b::PERIODIC | b::ALARM | b::UPDATE_ENDED
        );
        assert!(!rtc.interrupts());
    }

    #[test]
    fn an_alarm_that_can_never_match_is_never_waited_for() {
        let mut rtc = RtcState::new(NOW);
        write(&mut rtc, register::SECONDS_ALARM, 0x7f, NOW);
        write(&mut rtc, register::B, b::ALARM | b::HOURS_24, NOW);
        assert_eq!(rtc.next_interrupt(NOW), None);
        rtc.advance(NOW + 1000 * DAY * SECOND);
        assert!(!rtc.interrupts());
    }

    #[test]
    fn an_alarm_is_found_wherever_in_the_day_it_is() {
        for (hour, minute, second) in
            [(0, 0, 0), (23, 59, 59), (12, 5, 5), (12, 5, 7), (11, 59, 0), (0xff, 0, 0xc0)]
        {
            let mut rtc = RtcState::new(NOW);
            write(&mut rtc, register::B, b::BINARY | b::HOURS_24 | b::ALARM, NOW);
            for (register, value) in [(register::HOURS_ALARM, hour), (register::MINUTES_ALARM, minute)] {
                write(&mut rtc, register, value, NOW);
            }
            write(&mut rtc, register::SECONDS_ALARM, second, NOW);
            let now = NOW / SECOND;
            let one = |wanted: u8, value: i64| wanted & ANY == ANY || i64::from(wanted) == value;
            let goes_off = |s: &i64| {
                let t = s.rem_euclid(DAY);
                one(hour, t / 3600) && one(minute, t / 60 % 60) && one(second, t % 60)
            };
            let wanted = (now + 1..=now + DAY).find(goes_off).map(|s| s * SECOND);
            assert_eq!(rtc.next_interrupt(NOW), wanted, "{hour}:{minute}:{second}");
        }
    }

    #[test]
    fn the_periodic_rate_is_the_data_sheets() {
        let mut rtc = RtcState::new(NOW);
        for (rate, ns) in [(1, 3_906_250), (2, 7_812_500), (3, 122_070), (6, 976_562), (15, 500_000_000)] {
            write(&mut rtc, register::A, 0x20 | rate, NOW);
            assert_eq!(rtc.period(), Some(ns));
        }
        write(&mut rtc, register::A, 0x20, NOW);
        assert_eq!(rtc.period(), None);
    }

    #[test]
    fn a_host_clock_set_back_does_no_harm() {
        let mut rtc = RtcState::new(NOW);
        rtc.advance(NOW - 5000 * SECOND);
        rtc.advance(NOW - 4999 * SECOND);
        assert_eq!(read(&mut rtc, register::C, NOW - 4999 * SECOND) & b::UPDATE_ENDED, b::UPDATE_ENDED);
    }

    #[test]
    fn reset_forgets_interrupts_and_keeps_memory() {
        let mut rtc = RtcState::new(NOW);
        write(&mut rtc, 0x40, 0x5a, NOW);
        write(&mut rtc, register::B, b::UPDATE_ENDED | b::HOURS_24, NOW);
        rtc.advance(NOW + SECOND);
        rtc.reset();
        assert!(!rtc.interrupts());
        assert_eq!(read(&mut rtc, 0x40, NOW), 0x5a);
    }
}
