//! Numbers for people.

use plumb_core::time::format_duration;
use plumb_pipeline::decode::time::format_rfc3339;

/// A number in at most six significant digits.
pub fn figure(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return if value == 0.0 { "0".to_owned() } else { value.to_string() };
    }
    let magnitude = value.abs().log10().floor();
    if !(-5.0..15.0).contains(&magnitude) {
        return format!("{value:.4e}");
    }
    let decimals = (5.0 - magnitude).clamp(0.0, 10.0) as usize;
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A share in percent.
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        _ if percent == 0.0 => "0 %".to_owned(),
        _ if percent.abs() < 0.01 => format!("{} 0.01 %", if percent > 0.0 { "<" } else { "> -" }),
        _ if percent < 100.0 && percent > 99.99 => "> 99.99 %".to_owned(),
        _ => format!("{} %", figure((percent * 100.0).round() / 100.0)),
    }
}

/// A count with thin groups of digits: `1,234,567`.
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// An instant of µs since 1970, whole seconds without their zeros.
pub fn instant(us: f64) -> String {
    let text = format_rfc3339(us as i64);
    text.strip_suffix(".000000Z").map_or(text.clone(), |seconds| format!("{seconds}Z"))
}

/// A length of time in µs, in its two largest units at most.
pub fn duration(us: f64) -> String {
    if us == 0.0 {
        return "0 s".to_owned();
    }
    let sign = if us < 0.0 { "-" } else { "" };
    let us = us.abs().min(i64::MAX as f64) as i64;
    let units = [86_400_000_000, 3_600_000_000, 60_000_000, 1_000_000, 1_000];
    let unit = units.into_iter().find(|&unit| us >= unit).unwrap_or(1);
    let text = match unit {
        1_000_000.. => format!("{} {}", figure(us as f64 / unit as f64), name_of(unit)),
        _ => format_duration(us),
    };
    format!("{sign}{text}")
}

fn name_of(unit: i64) -> &'static str {
    match unit {
        86_400_000_000 => "d",
        3_600_000_000 => "h",
        60_000_000 => "min",
        _ => "s",
    }
}

/// Text of bounded length for a cell; control characters become spaces.
pub fn clipped(text: &str, characters: usize) -> String {
    let clean = |letter: char| if letter.is_control() { ' ' } else { letter };
    let mut clipped: String = text.chars().map(clean).take(characters).collect();
    if text.chars().nth(characters).is_some() {
        clipped.pop();
        clipped.push('…');
    }
    clipped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let cases = [
            (0.0, "0"),
            (-0.0, "0"),
            (1.0, "1"),
            (0.1 + 0.2, "0.3"),
            (1234.5678, "1234.57"),
            (123_456_789.0, "123456789"),
            (-0.000_012_345, "-0.000012345"),
            (1e-7, "1.0000e-7"),
            (2.5e20, "2.5000e20"),
            (f64::INFINITY, "inf"),
        ];
        for (value, text) in cases {
            assert_eq!(figure(value), text);
        }
        assert_eq!(
            [percent(0.0), percent(1e-6), percent(0.12345), percent(1.0)],
            ["0 %", "< 0.01 %", "12.35 %", "100 %"]
        );
        assert_eq!([grouped(7), grouped(1_234), grouped(1_234_567)], ["7", "1,234", "1,234,567"]);
        assert_eq!(instant(0.0), "1970-01-01T00:00:00Z");
        assert_eq!([duration(90e6), duration(-1.5 * 86_400e6), duration(2_000.0)], ["1.5 min", "-1.5 d", "2ms"]);
        assert_eq!([clipped("abc", 3), clipped("abcd", 3), clipped("a\nb", 9)], ["abc", "ab…", "a b"]);
    }
}
