//! `plumb dead-letters`: records that could not be applied, to look at and to publish again.

use crate::args::{DeadLetters, DeadLettersAction, LetterFilter};
use crate::client::Client;
use crate::context::{Output, duration, instant, now_us, settings};
use crate::exit::{Done, usage};
use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use plumb_assembly::dead_letters::{Filter, Replayed, Replays, scan};
use plumb_assembly::settings::SourceKind;
use plumb_assembly::sources::{SourceSink, open_logs};
use plumb_assembly::{Settings, stores};
use plumb_embedded::{DataDir, Embedded, owner_of};
use plumb_pipeline::decode::format_rfc3339;
use plumb_pipeline::port::{DeadLetter, ObjectStore};
use plumb_pipeline::query::Position;
use plumb_pipeline::worker::LETTER_BYTES_MAX;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

/// How many reasons are counted apart.
const REASONS_MAX: usize = 1_000;

/// So many records, or bytes, are noted and published at a time.
const BATCH_RECORDS: usize = 500;
const BATCH_BYTES: usize = 4 << 20;

/// Lists, shows or replays.
pub(crate) fn run(arguments: &DeadLetters, output: Output) -> Result<Done> {
    let settings = settings(arguments.config.as_deref())?;
    let store = stores::offline(&settings)?;
    match &arguments.action {
        DeadLettersAction::List { filter, limit } => list(&settings, &store, filter, *limit, output),
        DeadLettersAction::Show { position } => show(&settings, &store, position, output),
        DeadLettersAction::Replay { positions, filter, limit, all, again, dry_run } => {
            let request = Request { all: *all, again: *again, dry_run: *dry_run, limit: *limit };
            replay(&settings, &store, positions, filter, &request, output)
        }
    }
}

/// A letter with where it is from.
struct Found {
    source: String,
    partition: u32,
    letter: DeadLetter,
    replayed: Option<Replayed>,
}

impl Found {
    fn position(&self) -> String {
        format!("{}:{}={}", self.source, self.partition, self.letter.offset)
    }

    fn json(&self) -> Value {
        let replayed = match &self.replayed {
            Some(Replayed::Done(at)) => json!({"at": at, "state": "done"}),
            Some(Replayed::CutOff(at)) => json!({"at": at, "state": "cut off"}),
            None => Value::Null,
        };
        json!({
            "position": self.position(),
            "source": self.source,
            "partition": self.partition,
            "offset": self.letter.offset,
            "record_time": format_rfc3339(self.letter.record_time_us),
            "view": self.letter.view,
            "reason": self.letter.reason,
            "bytes": self.letter.bytes.len(),
            "cut": is_cut(&self.letter),
            "replayed": replayed,
        })
    }

    fn line(&self) -> String {
        let what = self.letter.view.as_deref().unwrap_or("rejected");
        let replayed = match &self.replayed {
            Some(Replayed::Done(at)) => format!(", replayed {at}"),
            Some(Replayed::CutOff(at)) => format!(", replay of {at} cut off"),
            None => String::new(),
        };
        format!(
            "{}  {}  {what}: {} ({} bytes{replayed})",
            self.position(),
            format_rfc3339(self.letter.record_time_us),
            self.letter.reason,
            self.letter.bytes.len()
        )
    }
}

/// Whether a letter holds only the beginning of its record.
fn is_cut(letter: &DeadLetter) -> bool {
    letter.bytes.len() >= LETTER_BYTES_MAX
}

/// The sources a filter names: one, or all there are.
fn sources(settings: &Settings, filter: &LetterFilter) -> Result<Vec<String>> {
    match &filter.source {
        Some(source) => {
            settings.source(source)?;
            Ok(vec![source.clone()])
        }
        None => Ok(settings.sources.keys().cloned().collect()),
    }
}

fn filter_of(filter: &LetterFilter) -> Result<Filter> {
    let since_us = match &filter.since {
        None => None,
        Some(text) => Some(match instant("--since", text) {
            Ok(us) => us,
            Err(_) => duration("--since", text).map(|us| now_us().saturating_sub(us)).map_err(|_| {
                usage(format!("--since {text}: write an instant as in 2024-01-31T12:00:00Z, or how long ago as in 24h"))
            })?,
        }),
    };
    Ok(Filter { reason: filter.reason.clone(), view: filter.view.clone(), since_us, ..Filter::default() })
}

fn list(
    settings: &Settings,
    store: &Arc<dyn ObjectStore>,
    filter: &LetterFilter,
    limit: usize,
    output: Output,
) -> Result<Done> {
    let wanted = filter_of(filter)?;
    let (mut matched, mut newest, mut reasons) = (0u64, Vec::new(), BTreeMap::<String, u64>::new());
    for source in sources(settings, filter)? {
        let replays = Replays::open(store.clone(), &source)?;
        scan(store, &source, &wanted, &mut |partition, letter| {
            matched += 1;
            let known = reasons.len() < REASONS_MAX || reasons.contains_key(&letter.reason);
            let reason = if known { letter.reason.as_str() } else { "other reasons" };
            *reasons.entry(reason.to_owned()).or_default() += 1;
            let replayed = replays.of(partition, letter.offset).filter(|_| letter.view.is_none()).cloned();
            newest.push(Found { source: source.clone(), partition, letter, replayed });
            if newest.len() >= 2 * limit.max(1_000) {
                keep_newest(&mut newest, limit);
            }
            Ok(())
        })?;
    }
    keep_newest(&mut newest, limit);
    let document = json!({
        "matched": matched,
        "by_reason": reasons,
        "dead_letters": newest.iter().map(Found::json).collect::<Vec<_>>(),
    });
    output.print(&document, || {
        if matched == 0 {
            return "no dead letters".to_owned();
        }
        let mut text: String = newest.iter().map(|found| found.line() + "\n").collect();
        text.push_str(&format!("{} of {matched} dead letters, newest first\n", newest.len()));
        for (reason, count) in &reasons {
            text.push_str(&format!("  {count} {reason}\n"));
        }
        text
    });
    Ok(Done::Ok)
}

fn keep_newest(found: &mut Vec<Found>, limit: usize) {
    found.sort_by(|a, b| {
        let key = |found: &Found| (found.letter.record_time_us, found.partition, found.letter.offset);
        key(b).cmp(&key(a)).then_with(|| a.source.cmp(&b.source)).then_with(|| a.letter.view.cmp(&b.letter.view))
    });
    found.truncate(limit);
}

/// Positions typed by a person, by source.
fn positions(settings: &Settings, words: &[String]) -> Result<BTreeMap<String, Vec<(u32, u64)>>> {
    let mut positions: BTreeMap<String, Vec<(u32, u64)>> = BTreeMap::new();
    for word in words {
        let bad =
            || usage(format!("`{word}` is no position: copy it from `plumb dead-letters list`, as in default:0=12"));
        let position = Position::parse(word).map_err(|_| bad())?;
        for (source, offsets) in position.sources {
            settings.source(&source)?;
            positions.entry(source).or_default().extend(offsets);
        }
    }
    Ok(positions)
}

fn show(settings: &Settings, store: &Arc<dyn ObjectStore>, position: &str, output: Output) -> Result<Done> {
    let mut found = Vec::new();
    for (source, positions) in positions(settings, &[position.to_owned()])? {
        let replays = Replays::open(store.clone(), &source)?;
        let filter = Filter { positions: positions.into_iter().collect(), ..Filter::default() };
        scan(store, &source, &filter, &mut |partition, letter| {
            let replayed = replays.of(partition, letter.offset).filter(|_| letter.view.is_none()).cloned();
            found.push(Found { source: source.clone(), partition, letter, replayed });
            Ok(())
        })?;
    }
    let Some(first) = found.first() else {
        return Err(usage(format!("there is no dead letter at {position} (what was not committed yet is not seen)")));
    };
    if output.json {
        let letters: Vec<Value> = found
            .iter()
            .map(|found| {
                let mut document = found.json();
                match std::str::from_utf8(&found.letter.bytes) {
                    Ok(text) => document["text"] = text.into(),
                    Err(_) => document["base64"] = BASE64.encode(&found.letter.bytes).into(),
                }
                document
            })
            .collect();
        output.print(&json!({"dead_letters": letters}), String::new);
        return Ok(Done::Ok);
    }
    // What it is goes to stderr, so that a file or a pipe gets the record's bytes and nothing else.
    for found in &found {
        eprintln!("{}", found.line());
    }
    if is_cut(&first.letter) {
        eprintln!("plumb: only the first {LETTER_BYTES_MAX} bytes of the record are kept");
    }
    let bytes = &first.letter.bytes;
    let mut stdout = std::io::stdout();
    let shown = match std::str::from_utf8(bytes) {
        Err(_) if stdout.is_terminal() => format!("{}\n", BASE64.encode(bytes)).into_bytes(),
        _ => bytes.clone(),
    };
    // A closed pipe is the reader's wish.
    drop(stdout.write_all(&shown).and_then(|()| stdout.flush()));
    Ok(Done::Ok)
}

/// How to replay.
struct Request {
    all: bool,
    again: bool,
    dry_run: bool,
    limit: Option<usize>,
}

fn replay(
    settings: &Settings,
    store: &Arc<dyn ObjectStore>,
    words: &[String],
    filter: &LetterFilter,
    request: &Request,
    output: Output,
) -> Result<Done> {
    let wanted = filter_of(filter)?;
    let mut named = positions(settings, words)?;
    if named.is_empty() && wanted.is_empty() && filter.source.is_none() && !request.all {
        return Err(usage("say which dead letters: positions, --source, --reason, --since, or --all"));
    }
    let sources = if named.is_empty() { sources(settings, filter)? } else { named.keys().cloned().collect() };
    let (mut published, mut lines) = (Vec::new(), Vec::new());
    let mut skipped: BTreeMap<&'static str, u64> = BTreeMap::new();
    for source in sources {
        let mut replays = Replays::open(store.clone(), &source)?;
        let positions = named.remove(&source).unwrap_or_default().into_iter().collect();
        let wanted = Filter { positions, ..wanted.clone() };
        // Opened when there is something to publish.
        let mut target: Option<Target> = None;
        let mut batch: Vec<Found> = Vec::new();
        let mut failed = None;
        let mut left = request.limit.unwrap_or(usize::MAX).saturating_sub(published.len());
        let mut flush = |batch: &mut Vec<Found>, replays: &mut Replays| -> Result<()> {
            if batch.is_empty() {
                return Ok(());
            }
            lines.extend(batch.iter().map(Found::line));
            published.extend(batch.iter().map(Found::position));
            if !request.dry_run {
                let target = match &mut target {
                    Some(target) => target,
                    None => target.insert(Target::open(settings, &source)?),
                };
                let records: Vec<(u32, u64)> =
                    batch.iter().map(|found| (found.partition, found.letter.offset)).collect();
                let claim = replays.claim(&records, now_us())?;
                target.publish(batch).with_context(|| {
                    let first = batch.first().map(Found::position).unwrap_or_default();
                    format!("replay of {} records from {first} on was cut off", batch.len())
                })?;
                replays.done(claim)?;
            }
            batch.clear();
            Ok(())
        };
        let mut queued: BTreeSet<(u32, u64)> = BTreeSet::new();
        scan(store, &source, &wanted, &mut |partition, letter| {
            if failed.is_some() || left == 0 {
                return Ok(());
            }
            let replayed = replays.of(partition, letter.offset).cloned();
            if let Some(why) = unfit(&letter, replayed.as_ref(), request.again) {
                *skipped.entry(why).or_default() += 1;
                return Ok(());
            }
            // Whatever the files hold, a position is one record.
            if !queued.insert((partition, letter.offset)) {
                return Ok(());
            }
            left -= 1;
            batch.push(Found { source: source.clone(), partition, letter, replayed });
            let bytes: usize = batch.iter().map(|found| found.letter.bytes.len()).sum();
            if batch.len() >= BATCH_RECORDS || bytes >= BATCH_BYTES {
                failed = flush(&mut batch, &mut replays).err();
            }
            Ok(())
        })?;
        match failed {
            Some(error) => return Err(error),
            None => flush(&mut batch, &mut replays)?,
        }
    }
    let word = if request.dry_run { "would_replay" } else { "replayed" };
    let document = json!({word: published.len(), "positions": published, "skipped": skipped});
    output.print(&document, || {
        let mut text = String::new();
        if request.dry_run {
            lines.iter().for_each(|line| text.push_str(&format!("{line}\n")));
        }
        let what = if request.dry_run { "would be published again" } else { "published again" };
        text.push_str(&format!("{} records {what}\n", published.len()));
        for (why, count) in &skipped {
            text.push_str(&format!("  {count} left out: {why}\n"));
        }
        text
    });
    Ok(Done::Ok)
}

/// Why a letter is not published again.
fn unfit(letter: &DeadLetter, replayed: Option<&Replayed>, again: bool) -> Option<&'static str> {
    match (&letter.view, replayed) {
        // The event itself was accepted: another copy would be a duplicate, or, without an id, count twice.
        (Some(_), _) => Some("the fault of a view, whose event is in the archive: deploy a version that takes it"),
        _ if letter.bytes.is_empty() => Some("a record without a value"),
        _ if is_cut(letter) => Some("only the beginning of the record is kept"),
        (None, Some(Replayed::Done(_))) if !again => Some("replayed before (--again publishes it once more)"),
        (None, Some(Replayed::CutOff(_))) if !again => {
            Some("an earlier replay was cut off, it may be published already (--again publishes it)")
        }
        _ => None,
    }
}

/// Where records of a source are published.
enum Target {
    /// A topic, or the log of a data folder that this process owns while it runs.
    Sink(
        Box<SourceSink>,
        #[expect(dead_code, reason = "ownership ends when it is dropped")] Option<(Embedded, DataDir)>,
    ),
    /// The process that owns the log.
    Owner(Client, String),
}

impl Target {
    fn open(settings: &Settings, source: &str) -> Result<Self> {
        if settings.source(source)?.kind != SourceKind::Log {
            return Ok(Target::Sink(Box::new(SourceSink::open(settings, source, &BTreeMap::new())?), None));
        }
        if let Some(listen) = owner_of(&settings.data_dir)?.and_then(|owner| owner.listen) {
            return Ok(Target::Owner(Client::new(&listen, Duration::from_secs(60))?, source.to_owned()));
        }
        let owned = DataDir::own(&settings.data_dir)?;
        let (embedded, logs) = open_logs(settings, &owned)?;
        Ok(Target::Sink(Box::new(SourceSink::open(settings, source, &logs)?), Some((embedded, owned))))
    }

    fn publish(&self, letters: &[Found]) -> Result<()> {
        match self {
            Target::Sink(sink, _) => {
                let records: Vec<&[u8]> = letters.iter().map(|found| found.letter.bytes.as_slice()).collect();
                sink.append(&records)?;
            }
            Target::Owner(client, source) => {
                // One by one, as bytes: a record may hold anything.
                let path = format!("/events?source={source}&as_is=true");
                for found in letters {
                    client.post_bytes(&path, "application/octet-stream", found.letter.bytes.clone())?;
                }
            }
        }
        Ok(())
    }
}
