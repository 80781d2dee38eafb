//! Days and dates (the proleptic Gregorian calendar), UTC.

/// Seconds of a day.
pub const DAY: i64 = 86_400;

/// A moment as a clock shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    /// The year, 0 to 9999.
    pub year: i64,
    /// 1 to 12.
    pub month: i64,
    /// 1 to 31.
    pub day: i64,
    /// 1 (Sunday) to 7.
    pub weekday: i64,
    /// 0 to 23.
    pub hour: i64,
    /// 0 to 59.
    pub minute: i64,
    /// 0 to 59.
    pub second: i64,
}

impl Civil {
    /// The moment `seconds` after the start of 1970.
    pub fn from_seconds(seconds: i64) -> Self {
        let (days, of_day) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
        // Days since 1 March of year 0, in eras of 400 years; a year that begins in March ends with its leap day.
        let z = days + 719_468;
        let (era, day_of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * shifted + 2) / 5 + 1,
            weekday: (days + 4).rem_euclid(7) + 1,
            hour: of_day / 3600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
        }
    }

    /// Seconds since the start of 1970, if there is such a date; the weekday is not looked at.
    pub fn to_seconds(self) -> Option<i64> {
        let fits = (0..=9999).contains(&self.year)
            && (1..=12).contains(&self.month)
            && (1..=31).contains(&self.day)
            && (0..24).contains(&self.hour)
            && (0..60).contains(&self.minute)
            && (0..60).contains(&self.second);
        if !fits {
            return None;
        }
        let year = self.year - i64::from(self.month <= 2);
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let shifted = (self.month + 9) % 12;
        let day_of_year = (153 * shifted + 2) / 5 + self.day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * 146_097 + day_of_era - 719_468;
        Some(days * DAY + self.hour * 3600 + self.minute * 60 + self.second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(seconds: i64) -> (i64, i64, i64, i64, i64, i64, i64) {
        let c = Civil::from_seconds(seconds);
        (c.year, c.month, c.day, c.weekday, c.hour, c.minute, c.second)
    }

    #[test]
    fn dates_are_right_on_leap_days_and_at_the_turn_of_centuries() {
        assert_eq!(shown(0), (1970, 1, 1, 5, 0, 0, 0));
        assert_eq!(shown(951_782_400), (2000, 2, 29, 3, 0, 0, 0));
        assert_eq!(shown(4_107_542_399), (2100, 2, 28, 1, 23, 59, 59));
        assert_eq!(shown(1_795_435_506), (2026, 11, 23, 2, 12, 5, 6));
    }

    #[test]
    fn there_and_back_again_is_the_same_second() {
        for seconds in (0..8_000_000_000).step_by(7_654_321) {
            assert_eq!(Civil::from_seconds(seconds).to_seconds(), Some(seconds));
        }
    }

    #[test]
    fn a_thirteenth_month_is_no_date() {
        let date = Civil { month: 13, ..Civil::from_seconds(0) };
        assert_eq!(date.to_seconds(), None);
    }
}
