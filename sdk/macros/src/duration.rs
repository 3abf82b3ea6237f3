//! Durations as written in attributes; the same grammar as the host's.

/// Microseconds of a duration such as `30m`; `None` if it is none.
pub(crate) fn parse(text: &str) -> Option<i64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_us: i64 = match unit {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => return None,
    };
    let us = number.parse::<i64>().ok()?.checked_mul(unit_us)?;
    (us > 0).then_some(us)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        assert_eq!(parse("30m"), Some(1_800_000_000));
        assert_eq!(parse("7us"), Some(7));
        for text in ["", "h", "0s", "-1h", "1.5h", "1w", "9999999999999d"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
