//! The position an answer was computed at, as a token.

use crate::{Error, Result};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Per source and partition the offset of the next record: an answer holds exactly the accepted events
/// below it.
///
/// A store that cannot make a publish visible all at once may show some entities further than the rest. A view that
/// was answered from such ones has its own offsets for their partitions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Position {
    /// By source name, then partition.
    pub sources: BTreeMap<String, BTreeMap<u32, u64>>,
    /// By view and source name: the partitions in which the view was further, with its offsets.
    pub views: BTreeMap<(String, String), BTreeMap<u32, u64>>,
}

impl Position {
    /// The position of one source.
    pub fn of(source: &str, partitions: BTreeMap<u32, u64>) -> Self {
        Self { sources: BTreeMap::from([(source.to_owned(), partitions)]), views: BTreeMap::new() }
    }

    /// The partitions of a source; an error if the position says nothing of it.
    pub fn source(&self, source: &str) -> Result<&BTreeMap<u32, u64>> {
        self.sources
            .get(source)
            .ok_or_else(|| Error::invalid(format!("position `{self}` says nothing of source `{source}`")))
    }

    /// The partitions of a source as a view was answered from them.
    pub fn view(&self, view: &str, source: &str) -> Result<Cow<'_, BTreeMap<u32, u64>>> {
        let all = self.source(source)?;
        // Only the few answers that were made during a publish have any.
        let mut own = self.views.iter().filter(|((name, of), _)| name == view && of == source);
        Ok(match own.next() {
            Some((_, own)) => Cow::Owned(further(all, own)),
            None => Cow::Borrowed(all),
        })
    }

    /// Reads a token back.
    pub fn parse(token: &str) -> Result<Self> {
        let bad = || {
            Error::invalid(format!(
                "position `{token}` is no position token: copy it from an answer, as in default:0=12,1=34"
            ))
        };
        let named = |name: &str| {
            let letter = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'_';
            if name.is_empty() || !name.bytes().all(letter) { Err(bad()) } else { Ok(name.to_owned()) }
        };
        let mut position = Self::default();
        for part in token.split('~').filter(|_| !token.is_empty()) {
            let (name, list) = part.split_once(':').ok_or_else(bad)?;
            let mut partitions = BTreeMap::new();
            for entry in list.split(',').filter(|_| !list.is_empty()) {
                let (partition, offset) = entry.split_once('=').ok_or_else(bad)?;
                let (partition, offset) = (number(partition).ok_or_else(bad)?, number(offset).ok_or_else(bad)?);
                let partition = u32::try_from(partition).map_err(|_| bad())?;
                if partitions.insert(partition, offset).is_some() {
                    return Err(bad());
                }
            }
            let twice = match name.split_once('!') {
                Some((view, source)) => {
                    let source = named(source)?;
                    // What a view was ahead of comes first.
                    position.sources.get(&source).ok_or_else(bad)?;
                    position.views.insert((named(view)?, source), partitions).is_some()
                }
                None => position.sources.insert(named(name)?, partitions).is_some(),
            };
            if twice {
                return Err(bad());
            }
        }
        Ok(position)
    }
}

/// Offsets with those of `own` in place of theirs.
pub(super) fn further(all: &BTreeMap<u32, u64>, own: &BTreeMap<u32, u64>) -> BTreeMap<u32, u64> {
    let mut further = all.clone();
    further.extend(own);
    further
}

/// Decimal digits without a sign, which `parse` would allow.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The token: URL-safe, as in `default:0=12,1=34`, sources joined by `~`, then the views that were further with their
/// sources, as in `default:0=12,1=34~item_activity!default:0=13`.
impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sources = self.sources.iter().map(|(source, partitions)| (None, source, partitions));
        let views = self.views.iter().map(|((view, source), partitions)| (Some(view), source, partitions));
        for (index, (view, source, partitions)) in sources.chain(views).enumerate() {
            if index > 0 {
                f.write_char('~')?;
            }
            if let Some(view) = view {
                write!(f, "{view}!")?;
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
    fn a_view_may_be_further_than_its_source() {
        let mut position = Position::of("default", BTreeMap::from([(0, 12), (1, 34)]));
        position.views.insert(("item_activity".into(), "default".into()), BTreeMap::from([(0, 13)]));
        assert_eq!(position.to_string(), "default:0=12,1=34~item_activity!default:0=13");
        let of = |view| position.view(view, "default").unwrap().into_owned();
        assert_eq!(of("item_activity"), BTreeMap::from([(0, 13), (1, 34)]));
        assert_eq!(of("user_activity"), BTreeMap::from([(0, 12), (1, 34)]));
        assert!(position.view("item_activity", "clicks").is_err());
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
            "v!a:0=1",
            "v!a:0=1~a:0=1",
            "a:0=1~v!a:0=1~v!a:1=1",
            "a:0=1~!a:0=1",
            "a:0=1~v!:0=1",
            "a:0=1~v!w!a:0=1",
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
            views in proptest::collection::vec(
                (
                    "[a-z][a-z0-9_]{0,9}",
                    any::<proptest::sample::Index>(),
                    proptest::collection::btree_map(any::<u32>(), any::<u64>(), 0..3),
                ),
                0..4,
            ),
        ) {
            let names: Vec<String> = sources.keys().cloned().collect();
            let views = views.into_iter().filter(|_| !names.is_empty());
            let views = views.map(|(view, source, own)| ((view, source.get(&names).clone()), own)).collect();
            let position = Position { sources, views };
            let token = position.to_string();
            prop_assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_:=,~!".contains(&byte)));
            prop_assert_eq!(Position::parse(&token).unwrap(), position);
        }

        #[test]
        fn a_token_is_the_only_text_for_its_position(text in "[a-b01:=,~!]{0,24}") {
            if let Ok(position) = Position::parse(&text) {
                // But for the order, and zeros in front.
                let again = Position::parse(&position.to_string()).unwrap();
                prop_assert_eq!(&again, &position);
                prop_assert_eq!(again.to_string().matches('=').count(), text.matches('=').count());
            }
        }
    }
}
