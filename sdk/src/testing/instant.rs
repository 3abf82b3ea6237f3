//! Instants in tests: RFC 3339 text, or milliseconds since the epoch.

use super::TIME_FIELD;
use crate::Time;
use serde_json::Value;

/// An instant that a test asks for: a [`Time`], or RFC 3339 text such as `2024-03-01T10:00:00.5Z` (without
/// a zone it is UTC).
#[derive(Debug, Clone, Copy)]
pub struct Instant(pub Time);

impl From<Time> for Instant {
    fn from(time: Time) -> Self {
        Self(time)
    }
}

impl From<&str> for Instant {
    /// # Panics
    /// When the text is no such instant.
    fn from(text: &str) -> Self {
        match parse(text) {
            Some(time) => Self(time),
            None => panic!("`{text}` is no instant: write it as 2024-03-01T10:00:00Z"),
        }
    }
}

/// The time of an event.
pub(super) fn time_of_event(event: &Value) -> Time {
    match &event[TIME_FIELD] {
        Value::String(text) => Instant::from(text.as_str()).0,
        Value::Number(millis) if millis.is_i64() => {
            Time::from_micros(millis.as_i64().and_then(|millis| millis.checked_mul(1_000)).expect("a time in range"))
        }
        _ => panic!("event without `{TIME_FIELD}`: {event}"),
    }
}

/// Reads RFC 3339; finer than microseconds is floored.
pub(super) fn parse(text: &str) -> Option<Time> {
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let is = |at: usize, allowed: &str| text.as_bytes().get(at).is_some_and(|byte| allowed.as_bytes().contains(byte));
    if !(is(4, "-") && is(7, "-") && is(10, "T ") && is(13, ":") && is(16, ":")) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month)
        || day < 1
        || day > days_in_month(year, month)
        || hour > 23
        || minute > 59
        || second > 59
    {
        return None;
    }
    let mut rest = &text[19..];
    let mut micros = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return None;
        }
        let padded: String = fraction[..digits].chars().chain("000000".chars()).take(6).collect();
        micros = padded.parse().ok()?;
        rest = &fraction[digits..];
    }
    let offset_minutes = match rest.as_bytes() {
        [] | b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let hours: i64 = rest.get(1..3)?.parse().ok()?;
            let minutes: i64 = rest.get(4..6)?.parse().ok()?;
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let seconds = ((days_since_epoch(year, month, day) * 24 + hour) * 60 + minute - offset_minutes) * 60 + second;
    Some(Time::from_micros(seconds * 1_000_000 + micros))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date of the Gregorian calendar; years begin in March here, so that the leap day
/// is a year's last.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    const DAYS_TO_EPOCH: i64 = 719_468;
    let year = year - i64::from(month <= 2);
    let month = (month + 9) % 12;
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - DAYS_TO_EPOCH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_read() {
        let micros = |text: &str| parse(text).map(Time::micros);
        assert_eq!(micros("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(micros("1969-12-31T23:59:59.999999Z"), Some(-1));
        assert_eq!(micros("2024-02-29T12:00:00Z"), Some(1_709_208_000_000_000));
        assert_eq!(micros("2024-02-29T14:00:00.0000019+02:00"), Some(1_709_208_000_000_001));
        assert_eq!(micros("2024-02-29 12:00:00"), Some(1_709_208_000_000_000));
        for text in ["", "2024-02-30T00:00:00Z", "2024-02-29", "2024-02-29T12:00Z", "2024-02-29T12:00:00.Z"] {
            assert_eq!(micros(text), None, "{text}");
        }
    }
}
