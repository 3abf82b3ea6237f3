//! Instants as text and as integers of a unit; inside they are µs since the Unix epoch.
//!
//! Everything finer than a microsecond is floored, before 1970 too. The calendar is the proleptic
//! Gregorian one of RFC 3339; years outside 0000 to 9999 have a sign and six digits, as ISO 8601 extends them.

use plumb_core::time::{DAY_US, HOUR_US, MINUTE_US, SECOND_US};

/// The unit of an integer instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum TimeUnit {
    /// Seconds.
    S,
    /// Milliseconds.
    #[default]
    Ms,
    /// Microseconds.
    Us,
    /// Nanoseconds.
    Ns,
}

impl TimeUnit {
    /// Reads `s`, `ms`, `us` or `ns`.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "s" => TimeUnit::S,
            "ms" => TimeUnit::Ms,
            "us" => TimeUnit::Us,
            "ns" => TimeUnit::Ns,
            _ => return None,
        })
    }

    /// The name [`TimeUnit::parse`] reads.
    pub fn name(self) -> &'static str {
        match self {
            TimeUnit::S => "s",
            TimeUnit::Ms => "ms",
            TimeUnit::Us => "us",
            TimeUnit::Ns => "ns",
        }
    }

    /// `count` units since the Unix epoch in µs, floored; `None` beyond what 64 bits of µs can hold.
    pub fn to_us(self, count: i64) -> Option<i64> {
        match self {
            TimeUnit::S => count.checked_mul(SECOND_US),
            TimeUnit::Ms => count.checked_mul(1_000),
            TimeUnit::Us => Some(count),
            TimeUnit::Ns => Some(count.div_euclid(1_000)),
        }
    }
}

/// An instant read from text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instant {
    /// µs since the Unix epoch.
    pub us: i64,
    /// Whether the text named its zone; without one it was taken as UTC.
    pub zoned: bool,
}

/// Reads an RFC 3339 instant: `2017-01-01T11:53:26.5Z`, `2017-01-01 11:53:26+01:00`, or without a zone (UTC).
///
/// The separator is `T`, `t` or a space; the zone `Z`, `z`, `±hh:mm`, `±hhmm`, `±hh` or nothing. Any
/// number of fraction digits is read, those past the sixth are floored away. A leap second (`:60`) is
/// the first second of the next minute. A year may have a sign and six digits (`+012017-…`), as
/// [`write_rfc3339`] writes those that four do not hold. `None` for everything else: a date without a time
/// of day is no instant, nor is what 64 bits of µs do not hold.
pub fn parse_rfc3339(text: &[u8]) -> Option<Instant> {
    let (year, rest) = parse_year(text)?;
    let (head, rest) = rest.split_first_chunk::<15>()?;
    let &[b'-', mo0, mo1, b'-', d0, d1, b'T' | b't' | b' ', h0, h1, b':', mi0, mi1, b':', s0, s1] = head else {
        return None;
    };
    let (month, day) = (two(mo0, mo1)?, two(d0, d1)?);
    let (hour, minute, second) = (two(h0, h1)?, two(mi0, mi1)?, two(s0, s1)?);
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (fraction_us, rest) = parse_fraction(rest)?;
    let (zone_us, zoned) = parse_zone(rest)?;
    let day_us = i64::from(hour) * HOUR_US + i64::from(minute) * MINUTE_US + i64::from(second) * SECOND_US;
    // The midnight before the first instant of 64 bits is none itself.
    let midnight_us = i128::from(days_from_civil(year, month, day)) * i128::from(DAY_US);
    let us = i64::try_from(midnight_us + i128::from(day_us + fraction_us - zone_us)).ok()?;
    Some(Instant { us, zoned })
}

/// The year, and what follows.
fn parse_year(text: &[u8]) -> Option<(i64, &[u8])> {
    match text {
        [sign @ (b'+' | b'-'), y0, y1, y2, y3, y4, y5, rest @ ..] => {
            let year = i64::from((two(*y0, *y1)? * 100 + two(*y2, *y3)?) * 100 + two(*y4, *y5)?);
            Some((if *sign == b'-' { -year } else { year }, rest))
        }
        [y0, y1, y2, y3, rest @ ..] => Some((i64::from(two(*y0, *y1)? * 100 + two(*y2, *y3)?), rest)),
        _ => None,
    }
}

/// Two ASCII digits as a number.
fn two(tens: u8, ones: u8) -> Option<u32> {
    (tens.is_ascii_digit() && ones.is_ascii_digit()).then(|| u32::from(tens - b'0') * 10 + u32::from(ones - b'0'))
}

/// An optional `.` and digits, in µs (floored), and what follows.
fn parse_fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some((b'.', digits)) = text.split_first() else { return Some((0, text)) };
    let len = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if len == 0 {
        return None;
    }
    let us = (0..6).fold(0, |us, place| us * 10 + if place < len { i64::from(digits[place] - b'0') } else { 0 });
    Some((us, &digits[len..]))
}

/// The offset from UTC in µs, and whether there was a zone at all.
fn parse_zone(text: &[u8]) -> Option<(i64, bool)> {
    let (sign, hours, minutes) = match *text {
        [] => return Some((0, false)),
        [b'Z' | b'z'] => return Some((0, true)),
        [sign, h0, h1, b':', m0, m1] | [sign, h0, h1, m0, m1] => (sign, two(h0, h1)?, two(m0, m1)?),
        [sign, h0, h1] => (sign, two(h0, h1)?, 0),
        _ => return None,
    };
    if hours > 23 || minutes > 59 {
        return None;
    }
    let offset = i64::from(hours) * HOUR_US + i64::from(minutes) * MINUTE_US;
    match sign {
        b'+' => Some((offset, true)),
        b'-' => Some((-offset, true)),
        _ => None,
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        2 => 28 + u32::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 (H. Hinnant, "chrono-compatible low-level date algorithms").
fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = i64::from((153 * ((month + 9) % 12) + 2) / 5 + day - 1);
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The year, month and day of a number of days since 1970-01-01 (the same source).
fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * shifted + 2) / 5 + 1) as u32;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 } as u32;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// Appends an instant as `2017-01-01T11:53:26.000000Z`. A year outside 0000 to 9999 gets a sign and six
/// digits, as ISO 8601 extends them.
pub fn write_rfc3339(us: i64, out: &mut Vec<u8>) {
    let (year, month, day) = civil_from_days(us.div_euclid(DAY_US));
    let of_day = us.rem_euclid(DAY_US);
    match u32::try_from(year) {
        Ok(year) if year <= 9_999 => write_digits(year, 4, out),
        _ => {
            out.push(if year < 0 { b'-' } else { b'+' });
            // 64 bits of µs reach about 292,000 years.
            write_digits(year.unsigned_abs() as u32, 6, out);
        }
    }
    let parts = [
        (b'-', month),
        (b'-', day),
        (b'T', (of_day / HOUR_US) as u32),
        (b':', (of_day / MINUTE_US % 60) as u32),
        (b':', (of_day / SECOND_US % 60) as u32),
    ];
    for (separator, number) in parts {
        out.push(separator);
        write_digits(number, 2, out);
    }
    out.push(b'.');
    write_digits((of_day % SECOND_US) as u32, 6, out);
    out.push(b'Z');
}

fn write_digits(number: u32, width: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + width, b'0');
    let mut rest = number;
    for byte in out[start..].iter_mut().rev() {
        *byte = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

/// [`write_rfc3339`] as a string.
pub fn format_rfc3339(us: i64) -> String {
    let mut out = Vec::with_capacity(27);
    write_rfc3339(us, &mut out);
    String::from_utf8(out).expect("digits and separators are ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn us(text: &str) -> Option<i64> {
        parse_rfc3339(text.as_bytes()).map(|instant| instant.us)
    }

    #[test]
    fn reads_the_forms_of_rfc_3339() {
        let noon = 1_483_271_606_000_000;
        for (text, wanted) in [
            ("2017-01-01T11:53:26Z", noon),
            ("2017-01-01t11:53:26z", noon),
            ("2017-01-01 11:53:26", noon),
            ("2017-01-01T11:53:26", noon),
            ("2017-01-01T11:53:26+00:00", noon),
            ("2017-01-01T11:53:26-00:00", noon),
            ("2017-01-01T12:53:26+01:00", noon),
            ("2017-01-01T06:23:26-0530", noon),
            ("2017-01-01T06:53:26.000-05", noon),
            ("2016-12-31T23:53:26-12:00", noon),
            ("2017-01-01T11:53:26.5Z", noon + 500_000),
            ("2017-01-01T11:53:26.123456789Z", noon + 123_456),
            ("2017-01-01T11:53:26.9999999999999999999999Z", noon + 999_999),
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59.9999999Z", -1),
            ("1969-12-31T23:59:59.0000001Z", -1_000_000),
            ("2016-02-29T00:00:00Z", 1_456_704_000_000_000),
            ("2016-12-31T23:59:60Z", 1_483_228_800_000_000),
            ("0000-01-01T00:00:00Z", -62_167_219_200_000_000),
            ("9999-12-31T23:59:59.999999Z", 253_402_300_799_999_999),
        ] {
            assert_eq!(us(text), Some(wanted), "{text}");
        }
        assert!(parse_rfc3339(b"2017-01-01T11:53:26Z").unwrap().zoned);
        assert!(!parse_rfc3339(b"2017-01-01T11:53:26.5").unwrap().zoned);
    }

    #[test]
    fn refuses_what_is_no_instant() {
        for text in [
            "",
            "2017-01-01",
            "2017-01-01T11:53",
            "2017-1-1T11:53:26Z",
            "2017-13-01T00:00:00Z",
            "2017-00-01T00:00:00Z",
            "2017-02-29T00:00:00Z",
            "2017-04-31T00:00:00Z",
            "2017-01-00T00:00:00Z",
            "2017-01-01T24:00:00Z",
            "2017-01-01T00:60:00Z",
            "2017-01-01T00:00:61Z",
            "2017-01-01T00:00:00.Z",
            "2017-01-01T00:00:00,5Z",
            "2017-01-01T00:00:00ZZ",
            "2017-01-01T00:00:00+24:00",
            "2017-01-01T00:00:00+1:00",
            "2017-01-01T00:00:00*01:00",
            "2017-01-01T00:00:00 UTC",
            "2017-01-01X00:00:00Z",
            "+017-01-01T00:00:00Z",
            "+12017-01-01T00:00:00Z",
            "+0012017-01-01T00:00:00Z",
            "012017-01-01T00:00:00Z",
            "-000001-02-29T00:00:00Z",
            "+294247-01-10T04:00:54.775808Z",
            "-290308-12-21T19:59:05.224191Z",
            "+999999-12-31T23:59:59Z",
            " 2017-01-01T00:00:00Z",
            "1483271606",
            "２017-01-01T00:00:00Z",
        ] {
            assert_eq!(us(text), None, "{text}");
        }
    }

    #[test]
    fn integers_have_the_unit_of_the_source() {
        assert_eq!(TimeUnit::S.to_us(-2), Some(-2_000_000));
        assert_eq!(TimeUnit::Ms.to_us(1_483_271_606_001), Some(1_483_271_606_001_000));
        assert_eq!(TimeUnit::Us.to_us(7), Some(7));
        assert_eq!((TimeUnit::Ns.to_us(1_999), TimeUnit::Ns.to_us(-1)), (Some(1), Some(-1)));
        assert_eq!(TimeUnit::S.to_us(i64::MAX), None);
        assert_eq!(TimeUnit::Ms.to_us(i64::MIN), None);
        for unit in [TimeUnit::S, TimeUnit::Ms, TimeUnit::Us, TimeUnit::Ns] {
            assert_eq!(TimeUnit::parse(unit.name()), Some(unit));
        }
        assert_eq!(TimeUnit::parse("m"), None);
    }

    #[test]
    fn years_outside_four_digits_have_a_sign() {
        for (instant, text) in [
            (253_402_300_800_000_000, "+010000-01-01T00:00:00.000000Z"),
            (-62_167_219_200_000_001, "-000001-12-31T23:59:59.999999Z"),
            (i64::MIN, "-290308-12-21T19:59:05.224192Z"),
            (i64::MAX, "+294247-01-10T04:00:54.775807Z"),
        ] {
            assert_eq!(format_rfc3339(instant), text);
            assert_eq!(us(text), Some(instant));
        }
        assert_eq!(us("+002017-01-01T11:53:26+01:00"), us("2017-01-01T10:53:26Z"));
    }

    proptest! {
        #[test]
        fn text_round_trips(
            us in prop_oneof![any::<i64>(), -62_167_219_200_000_000i64..=253_402_300_799_999_999],
        ) {
            let text = format_rfc3339(us);
            prop_assert_eq!(parse_rfc3339(text.as_bytes()), Some(Instant { us, zoned: true }));
        }

        #[test]
        fn agrees_with_jiff(
            us in -62_000_000_000_000_000i64..253_000_000_000_000_000,
            offset in -1439i64..1440,
        ) {
            let stamp = jiff::Timestamp::from_microsecond(us).unwrap();
            prop_assert_eq!(format!("{stamp:.6}"), format_rfc3339(us));
            let local = jiff::Timestamp::from_microsecond(us + offset * MINUTE_US).unwrap();
            let local = format!("{local:.6}");
            let sign = if offset < 0 { '-' } else { '+' };
            let zone = format!("{sign}{:02}:{:02}", offset.abs() / 60, offset.abs() % 60);
            let text = local.replace('Z', &zone);
            prop_assert_eq!(parse_rfc3339(text.as_bytes()).map(|instant| instant.us), Some(us));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert!(parse_rfc3339(&bytes).is_none_or(|instant| instant.us != i64::MIN));
        }
    }
}
