//! Paths and query strings: percent-decoding, nothing guessed.

use crate::problem::Problem;

/// Decodes `%41`; a `+` stays a `+`, so that `as_of=…+01:00` reads as written.
pub(crate) fn decode(text: &str) -> Result<String, Problem> {
    let bad = || Problem::bad_request(format!("`{text}` is not valid percent-encoding of UTF-8"));
    if !text.contains('%') {
        return Ok(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = tail;
            continue;
        }
        let (digits, tail) = tail.split_first_chunk::<2>().ok_or_else(bad)?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let (high, low) = digit(digits[0]).zip(digit(digits[1])).ok_or_else(bad)?;
        bytes.push((high * 16 + low) as u8);
        rest = tail;
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

/// The parameters of a query string; each at most once, none but `allowed`.
#[derive(Debug, Default)]
pub(crate) struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub(crate) fn parse(query: Option<&str>, allowed: &[&str]) -> Result<Self, Problem> {
        let mut parameters = Vec::new();
        for part in query.unwrap_or("").split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let name = decode(name)?;
            if !allowed.contains(&name.as_str()) {
                let known = plumb_pipeline::near::quoted(allowed.iter().copied());
                let known = if allowed.is_empty() { "none is known here".into() } else { format!("known are {known}") };
                return Err(Problem::bad_request(format!("unknown parameter `{name}`; {known}")));
            }
            if parameters.iter().any(|(given, _)| *given == name) {
                return Err(Problem::bad_request(format!("parameter `{name}` is given twice")));
            }
            parameters.push((name, decode(value)?));
        }
        Ok(Self(parameters))
    }

    /// A parameter's value; `None` if it is absent or empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(given, _)| given == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_percent_and_keeps_plus() {
        assert_eq!(decode("a%20b%2Fc+d%c3%A9").unwrap(), "a b/c+dé");
        for bad in ["%", "%4", "%zz", "%ff", "a%+1"] {
            assert_eq!(decode(bad).unwrap_err().status, 400, "{bad}");
        }
    }

    #[test]
    fn parameters_are_known_and_single() {
        let parameters = Parameters::parse(Some("a=1&b=x%3Dy&&c="), &["a", "b", "c"]).unwrap();
        assert_eq!((parameters.get("a"), parameters.get("b"), parameters.get("c")), (Some("1"), Some("x=y"), None));
        assert!(Parameters::parse(None, &[]).unwrap().get("a").is_none());
        for bad in ["d=1", "a=1&a=2", "a=%"] {
            assert_eq!(Parameters::parse(Some(bad), &["a"]).unwrap_err().status, 400, "{bad}");
        }
    }
}
