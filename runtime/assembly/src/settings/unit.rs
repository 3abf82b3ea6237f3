//! Sizes and addresses as text.

/// Reads a size in bytes: a whole number and a unit of `B`, `KiB`, `MiB`, `GiB`, as in `"64 MiB"`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_bytes: Option<u64> = match unit.trim_start() {
        "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let bytes = number.parse::<u64>().ok().zip(unit_bytes).and_then(|(number, unit)| number.checked_mul(unit));
    match bytes {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err("write a positive whole number and a unit (B, KiB, MiB, GiB), as in \"64MiB\"".into()),
    }
}

/// Writes a size with the largest unit that divides it.
pub(super) fn format_size(bytes: u64) -> String {
    for (unit_bytes, unit) in [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes.is_multiple_of(unit_bytes) {
            return format!("{}{unit}", bytes / unit_bytes);
        }
    }
    format!("{bytes}B")
}

/// Checks `host:port`.
pub(super) fn parse_address(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(text.to_owned()),
        _ => Err("write host:port, as in \"127.0.0.1:8080\"".into()),
    }
}

/// Whether an address can only be reached from this machine.
pub(super) fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_round_trip() {
        for text in ["1B", "3KiB", "64MiB", "2GiB", "1025B"] {
            assert_eq!(format_size(parse_size(text).unwrap()), text);
        }
        assert_eq!(parse_size("64 MiB"), Ok(64 << 20));
        for text in ["", "64", "0B", "-1B", "1.5MiB", "1MB", "99999999999GiB", "1 mib"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_are_host_and_port() {
        for good in ["127.0.0.1:0", "localhost:8080", "[::1]:80", "0.0.0.0:9100"] {
            assert!(parse_address(good).is_ok(), "{good}");
        }
        for bad in ["", "8080", ":8080", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:65536"] {
            assert!(parse_address(bad).is_err(), "{bad}");
        }
        assert!(is_loopback("127.0.0.2:1") && is_loopback("[::1]:1") && is_loopback("localhost:1"));
        assert!(!is_loopback("0.0.0.0:1") && !is_loopback("[::]:1") && !is_loopback("plumb.example:1"));
    }
}
