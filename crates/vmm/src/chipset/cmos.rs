//! The real-time clock and its memory (Motorola MC146818A): the host's time in UTC, read-only but for the memory.

use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::bus::Device;

/// Index and data port.
pub const SIZE: u64 = 2;

const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const STATUS_C: u8 = 0x0c;
const STATUS_D: u8 = 0x0d;
const CENTURY: u8 = 0x32;
/// 32.768 kHz time base, 1024 Hz.
const STATUS_A_VALUE: u8 = 0x26;
/// 24 hours, BCD.
const STATUS_B_VALUE: u8 = 0x02;
/// The battery is good.
const STATUS_D_VALUE: u8 = 0x80;

/// What is saved of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CmosState {
    index: u8,
    memory: Vec<u8>,
}

/// The clock.
pub struct Cmos {
    state: Mutex<CmosState>,
}

impl Default for Cmos {
    fn default() -> Self {
        let mut memory = vec![0; 128];
        memory[usize::from(STATUS_A)] = STATUS_A_VALUE;
        memory[usize::from(STATUS_B)] = STATUS_B_VALUE;
        Self { state: Mutex::new(CmosState { index: 0, memory }) }
    }
}

/// Year, month 1–12, day 1–31, weekday 1 (Sunday) – 7, hour, minute, second of a time in UTC.
fn civil(seconds: u64) -> (u64, u64, u64, u64, u64, u64, u64) {
    let days = seconds / 86_400;
    let of_day = seconds % 86_400;
    // Days since 1 March of year 0, in 400-year eras (the proleptic Gregorian calendar's period).
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    (year, month, day, (days + 4) % 7 + 1, of_day / 3600, of_day / 60 % 60, of_day % 60)
}

fn bcd(n: u64) -> u8 {
    (n / 10 % 10 * 16 + n % 10) as u8
}

impl Cmos {
    /// What is saved.
    pub fn save(&self) -> CmosState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts back what was saved; memory of a wrong size is cut or filled.
    pub fn restore(&self, mut state: CmosState) {
        state.memory.resize(128, 0);
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn register(state: &CmosState) -> u8 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let (year, month, day, weekday, hour, minute, second) = civil(now);
        let binary = state.memory[usize::from(STATUS_B)] & 4 != 0;
        let show = |n: u64| if binary { n as u8 } else { bcd(n) };
        match state.index {
            0 => show(second),
            2 => show(minute),
            4 => show(hour),
            6 => show(weekday),
            7 => show(day),
            8 => show(month),
            9 => show(year % 100),
            CENTURY => show(year / 100),
            STATUS_C => 0,
            STATUS_D => STATUS_D_VALUE,
            i => state.memory[usize::from(i & 127)],
        }
    }
}

impl Device for Cmos {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if offset == 1 {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            data[0] = Self::register(&state);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if offset == 0 {
            state.index = data[0] & 127;
        } else {
            let index = usize::from(state.index);
            // The update-in-progress bit is the clock's.
            state.memory[index] = if state.index == STATUS_A { data[0] & 0x7f } else { data[0] };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_on_leap_days_and_at_the_turn_of_centuries() {
        assert_eq!(civil(0), (1970, 1, 1, 5, 0, 0, 0));
        assert_eq!(civil(951_782_400), (2000, 2, 29, 3, 0, 0, 0));
        assert_eq!(civil(4_107_542_399), (2100, 2, 28, 1, 23, 59, 59));
        assert_eq!(civil(1_795_435_506), (2026, 11, 23, 2, 10, 5, 6));
    }

    #[test]
    fn memory_keeps_what_is_written() {
        let cmos = Cmos::default();
        cmos.write(0, &[0x40]);
        cmos.write(1, &[0x5a]);
        let mut byte = [0];
        cmos.read(1, &mut byte);
        assert_eq!(byte, [0x5a]);
        let saved = cmos.save();
        let other = Cmos::default();
        other.restore(saved.clone());
        assert_eq!(other.save(), saved);
    }
}
