//! UTC dates as they stand in folder names.

use plumb_core::time::DAY_US;

/// The day of an instant, counted from 1970-01-01.
pub(crate) fn day_of(time_us: i64) -> i64 {
    time_us.div_euclid(DAY_US)
}

/// The date of a day counted from 1970-01-01, as `YYYY-MM-DD` (Gregorian also before its introduction).
pub fn date_of_day(day: i64) -> String {
    // Days counted from 0000-03-01, so that the leap day is the last of a year; 400 years have 146,097 days.
    let shifted = day + 719_468;
    let cycle = shifted.div_euclid(146_097);
    let day_of_cycle = shifted.rem_euclid(146_097);
    let year_of_cycle = (day_of_cycle - day_of_cycle / 1_460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = cycle * 400 + year_of_cycle + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day_of_month:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_follow_the_calendar() {
        for (day, date) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (11_016, "2000-02-29"),
            (11_017, "2000-03-01"),
            (19_782, "2024-02-29"),
            (20_777, "2026-11-20"),
            (-25_509, "1900-02-28"),
            (-25_508, "1900-03-01"),
            (-719_468, "0000-03-01"),
        ] {
            assert_eq!(date_of_day(day), date);
        }
        assert_eq!((day_of(-1), day_of(0), day_of(DAY_US)), (-1, 0, 1));
        // Every day of eight centuries follows the one before it.
        let mut before = date_of_day(-150_000);
        for day in -149_999..150_000 {
            let date = date_of_day(day);
            assert!(before < date, "{before} {date}");
            before = date;
        }
    }
}
