//! The words of `plumb run --from` and `--accept-gap`.

use crate::args::Run;
use crate::context::instant;
use crate::exit::usage;
use anyhow::Result;
use plumb_assembly::Settings;
use plumb_assembly::settings::SourceKind;
use plumb_pipeline::port::StartFrom;
use plumb_pipeline::query::Position;
use std::collections::BTreeMap;

/// Where to begin, by source.
pub(crate) fn from(arguments: &Run, settings: &Settings) -> Result<BTreeMap<String, StartFrom>> {
    let has_start = |name: &str| settings.sources.get(name).is_some_and(|source| source.kind != SourceKind::File);
    if arguments.accept_gap && !settings.sources.values().any(|source| source.kind == SourceKind::Kafka) {
        return Err(usage("--accept-gap: no source reads from Kafka, and files and the embedded log lose no records"));
    }
    let Some(text) = &arguments.from else { return Ok(BTreeMap::new()) };
    // A token names its sources; everything else is for all that have a log.
    if let Ok(Position { sources, .. }) = Position::parse(text)
        && !sources.is_empty()
    {
        let of_source = |(name, offsets): (String, BTreeMap<u32, u64>)| {
            settings.source(&name)?;
            match has_start(&name) {
                true => Ok((name, StartFrom::Offsets(offsets))),
                false => {
                    Err(usage(format!("--from {text}: source `{name}` reads files, which begin at their first row")))
                }
            }
        };
        return sources.into_iter().map(of_source).collect();
    }
    let start = parse(text)?;
    let sources: BTreeMap<_, _> =
        settings.sources.keys().filter(|name| has_start(name)).map(|name| (name.clone(), start.clone())).collect();
    match sources.is_empty() {
        true => Err(usage(format!("--from {text}: every source reads files, which begin at their first row"))),
        false => Ok(sources),
    }
}

fn parse(text: &str) -> Result<StartFrom> {
    match text {
        "earliest" => return Ok(StartFrom::Earliest),
        "latest" => return Ok(StartFrom::Latest),
        _ => {}
    }
    if let Ok(offset) = text.parse() {
        return Ok(StartFrom::Offset(offset));
    }
    if text.contains('=') {
        // The part of a token after the source's name.
        let position = Position::parse(&format!("any:{text}")).ok();
        let offsets = position.and_then(|mut position| position.sources.remove("any")).filter(|all| !all.is_empty());
        return offsets.map(StartFrom::Offsets).ok_or_else(|| bad(text));
    }
    instant("--from", text).map(StartFrom::Time).map_err(|_| bad(text))
}

fn bad(text: &str) -> anyhow::Error {
    usage(format!(
        "--from {text}: write earliest, latest, an offset, offsets by partition as in 0=12,1=34, a position token, or \
         an instant as in 2024-01-31T12:00:00Z"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_starts() {
        let offsets = |offsets: &[(u32, u64)]| StartFrom::Offsets(offsets.iter().copied().collect());
        for (text, start) in [
            ("earliest", StartFrom::Earliest),
            ("latest", StartFrom::Latest),
            ("12", StartFrom::Offset(12)),
            ("3=4", offsets(&[(3, 4)])),
            ("0=12,1=34", offsets(&[(0, 12), (1, 34)])),
            ("1970-01-01T00:00:01Z", StartFrom::Time(1_000_000)),
        ] {
            assert_eq!(parse(text).unwrap(), start, "{text}");
        }
        for text in ["", "first", "-1", "0=", "0=1,0=2", "1.5", "yesterday", "0=1~"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--from {text}: write earliest, ")), "{error}");
        }
    }
}
