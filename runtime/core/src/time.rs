//! Instants and durations: UTC microseconds since the Unix epoch as `i64`, one unit everywhere inside.
//!
//! Names of such values end in `_us`. Text forms: durations here (`"7d"`), instants (RFC 3339) at the
//! edges, which own the calendar.

use crate::{Error, Result};

/// One second in microseconds.
pub const SECOND_US: i64 = 1_000_000;
/// One minute in microseconds.
pub const MINUTE_US: i64 = 60 * SECOND_US;
/// One hour in microseconds.
pub const HOUR_US: i64 = 60 * MINUTE_US;
/// One day in microseconds.
pub const DAY_US: i64 = 24 * HOUR_US;

/// Rounds an instant down to a multiple of `grid_us` since the Unix epoch, also before 1970.
pub fn floor_to(instant_us: i64, grid_us: i64) -> i64 {
    instant_us.div_euclid(grid_us).saturating_mul(grid_us)
}

/// Parses a duration: an integer and a unit of `us`, `ms`, `s`, `m`, `h`, `d`, as in `"30m"`; positive.
pub fn parse_duration(text: &str) -> Result<i64> {
    let bad = || {
        Error::definition(
            format!("duration `{text}`"),
            "write a positive whole number and a unit (us, ms, s, m, h, d), as in \"30m\"",
        )
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: i64 = number.parse().map_err(|_| bad())?;
    let unit_us = match unit {
        "us" => 1,
        "ms" => 1_000,
        "s" => SECOND_US,
        "m" => MINUTE_US,
        "h" => HOUR_US,
        "d" => DAY_US,
        _ => return Err(bad()),
    };
    match number.checked_mul(unit_us) {
        Some(us) if us > 0 => Ok(us),
        _ => Err(bad()),
    }
}

/// Writes a duration with the largest unit that divides it, as in `"30m"`; `parse_duration` reads it back.
pub fn format_duration(duration_us: i64) -> String {
    for (unit_us, unit) in [(DAY_US, "d"), (HOUR_US, "h"), (MINUTE_US, "m"), (SECOND_US, "s"), (1_000, "ms")] {
        if duration_us % unit_us == 0 {
            // 24h reads better than 1d for a window; whole days from two on are days.
            if unit == "d" && duration_us == DAY_US {
                return "24h".to_owned();
            }
            return format!("{}{unit}", duration_us / unit_us);
        }
    }
    format!("{duration_us}us")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_round_trip() {
        for text in ["1h", "24h", "7d", "30d", "30m", "1s", "5ms", "7us"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
        for text in ["", "h", "0s", "-1h", "1.5h", "1w", "99999999999999999999d", "9999999999999d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn floors_before_1970_too() {
        assert_eq!(floor_to(-1, MINUTE_US), -MINUTE_US);
        assert_eq!(floor_to(0, MINUTE_US), 0);
        assert_eq!(floor_to(MINUTE_US + 1, MINUTE_US), MINUTE_US);
    }
}
