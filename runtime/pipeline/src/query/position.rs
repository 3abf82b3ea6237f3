//! The position an answer was computed at, as a token.

use crate::{Error, Result};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Per source and partition the offset of the next record: an answer holds exactly the accepted events
/// below it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Position {
    /// By source name, then partition.
    pub sources: BTreeMap<String, BTreeMap<u32, u64>>,
}

impl Position {
    /// The position of one source.
    pub fn of(source: &str, partitions: BTreeMap<u32, u64>) -> Self {
        Self { sources: BTreeMap::from([(source.to_owned(), partitions)]) }
    }

    /// The partitions of a source; an error if the position says nothing of it.
    pub fn source(&self, source: &str) -> Result<&BTreeMap<u32, u64>> {
        self.sources
            .get(source)
            .ok_or_else(|| Error::invalid(format!("position `{self}` says nothing of source `{source}`")))
    }

    /// Reads a token back.
    pub fn parse(token: &str) -> Result<Self> {
        let bad = || {
            Error::invalid(format!(
                "position `{token}` is no position token: copy it from an answer, as in default:0=12,1=34"
            ))
        };
        let mut sources = BTreeMap::new();
        for part in token.split('~').filter(|_| !token.is_empty()) {
            let (source, list) = part.split_once(':').ok_or_else(bad)?;
            let name = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'_';
            if source.is_empty() || !source.bytes().all(name) {
                return Err(bad());
            }
            let mut partitions = BTreeMap::new();
            for entry in list.split(',').filter(|_| !list.is_empty()) {
                let (partition, offset) = entry.split_once('=').ok_or_else(bad)?;
                let (partition, offset) = (number(partition).ok_or_else(bad)?, number(offset).ok_or_else(bad)?);
                let partition = u32::try_from(partition).map_err(|_| bad())?;
                if partitions.insert(partition, offset).is_some() {
                    return Err(bad());
                }
            }
            if sources.insert(source.to_owned(), partitions).is_some() {
                return Err(bad());
            }
        }
        Ok(Self { sources })
    }
}

/// Decimal digits without a sign, which `parse` would allow.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The token: URL-safe, as in `default:0=12,1=34`, sources joined by `~`.
impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, (source, partitions)) in self.sources.iter().enumerate() {
            if index > 0 {
                f.write_char('~')?;
            }
            write!(f, "{source}:")?;
            for (index, (partition, offset)) in partitions.iter().enumerate() {
                let comma = if index > 0 { "," } else { "" };
                write!(f, "{comma}{partition}={offset}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_as_written() {
        let position = Position::of("default", BTreeMap::from([(0, 12), (1, 34)]));
        assert_eq!(position.to_string(), "default:0=12,1=34");
        assert_eq!(position.source("default").unwrap()[&1], 34);
        assert!(position.source("clicks").is_err());
    }

    #[test]
    fn refuses_other_text() {
        for token in [
            "default",
            "default:0",
            "default:0=",
            "default:=1",
            "default:0=1,",
            "default:0=1,0=2",
            ":0=1",
            "a:0=1~",
            "a:0=1~a:1=2",
            "a:+0=1",
            "a:0=-1",
            "a:0=18446744073709551616",
            "a:4294967296=1",
            "A b:0=1",
            "a:0=1 ",
        ] {
            assert!(Position::parse(token).is_err(), "{token}");
        }
    }

    proptest! {
        #[test]
        fn round_trips(
            sources in proptest::collection::btree_map(
                "[a-z][a-z0-9_]{0,9}",
                proptest::collection::btree_map(any::<u32>(), any::<u64>(), 0..5),
                0..4,
            ),
        ) {
            let position = Position { sources };
            let token = position.to_string();
            prop_assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_:=,~".contains(&byte)));
            prop_assert_eq!(Position::parse(&token).unwrap(), position);
        }
    }
}
