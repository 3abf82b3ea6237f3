//! The quarantine dataset as people look at it, and the log of what was replayed of it.
//!
//! Letters are read through the manifests, so exactly the committed ones are seen, once each. A replay publishes
//! rejected records to their source again. That must not happen twice by accident: before anything is published, the
//! positions are noted in an object `replays/<source>/<seq>`, created if absent, so of two replays at once one sees
//! the other's; after it, `<seq>.done` says that it was. A note without that is of a replay that was cut off.

use crate::{Error, Result};
use plumb_offline_parquet::read_dead_letters;
use plumb_pipeline::commit::{committed_partitions, latest, load};
use plumb_pipeline::decode::format_rfc3339;
use plumb_pipeline::port::{DeadLetter, ObjectStore};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Which letters.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only those whose reason holds this text.
    pub reason: Option<String>,
    /// Only faults of this view (`name` or `name@version`).
    pub view: Option<String>,
    /// Only those of records stamped at or after this, µs.
    pub since_us: Option<i64>,
    /// Only those at these (partition, offset); empty = all.
    pub positions: BTreeSet<(u32, u64)>,
}

impl Filter {
    /// Whether it lets everything through.
    pub fn is_empty(&self) -> bool {
        self.reason.is_none() && self.view.is_none() && self.since_us.is_none() && self.positions.is_empty()
    }

    fn takes(&self, partition: u32, letter: &DeadLetter) -> bool {
        let of_view = |wanted: &String| {
            letter.view.as_ref().is_some_and(|view| {
                view == wanted || view.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.starts_with('@'))
            })
        };
        self.since_us.is_none_or(|since_us| letter.record_time_us >= since_us)
            && self.reason.as_ref().is_none_or(|reason| letter.reason.contains(reason.as_str()))
            && self.view.as_ref().is_none_or(of_view)
            && (self.positions.is_empty() || self.positions.contains(&(partition, letter.offset)))
    }

    fn may_be_in(&self, partition: u32, file: &plumb_pipeline::port::RowFile) -> bool {
        let (first, last) = file.offsets;
        // The times of a dead-letter file are those of its records.
        self.since_us.is_none_or(|since_us| file.event_time_us.1 >= since_us)
            && (self.positions.is_empty()
                || self.positions.range((partition, first)..=(partition, last)).next().is_some())
    }
}

/// Shows `visit` the committed letters of a source that a filter takes, partition by partition, in the order they were
/// written.
pub fn scan(
    store: &Arc<dyn ObjectStore>,
    source: &str,
    filter: &Filter,
    visit: &mut dyn FnMut(u32, DeadLetter) -> Result<()>,
) -> Result<()> {
    for partition in committed_partitions(store.as_ref(), source)? {
        let Some(manifest) = latest(store.as_ref(), source, partition)? else { continue };
        let files = load::dead_letter_files(store.as_ref(), &manifest)?;
        for file in files.iter().filter(|file| filter.may_be_in(partition, file)) {
            read_dead_letters(store, file, &mut |of, letter| match filter.takes(of, &letter) {
                true => visit(of, letter),
                false => Ok(()),
            })?;
        }
    }
    Ok(())
}

/// How far a record's replay is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replayed {
    /// It was published again, at this time.
    Done(String),
    /// A replay of it began at this time and was cut off: it may have been published again or not.
    CutOff(String),
}

/// One note: what a replay is about to publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    /// 1.
    format: u32,
    /// When, RFC 3339.
    at: String,
    /// Who, so that a process knows its own note from another's with the same content.
    by: String,
    /// Partition and offset of each record.
    records: Vec<(u32, u64)>,
}

/// What was replayed of a source.
pub struct Replays {
    store: Arc<dyn ObjectStore>,
    source: String,
    records: BTreeMap<(u32, u64), Replayed>,
    next: u64,
}

impl std::fmt::Debug for Replays {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replays").field("source", &self.source).field("next", &self.next).finish_non_exhaustive()
    }
}

/// A note whose records are being published.
#[derive(Debug)]
#[must_use = "records that were published and are not said to be look cut off"]
pub struct Claim(u64);

impl Replays {
    /// Reads the notes of a source.
    pub fn open(store: Arc<dyn ObjectStore>, source: &str) -> Result<Self> {
        let mut replays = Self { store, source: source.to_owned(), records: BTreeMap::new(), next: 1 };
        replays.refresh()?;
        Ok(replays)
    }

    fn path(&self, seq: u64) -> String {
        format!("replays/{}/{seq:020}", self.source)
    }

    fn refresh(&mut self) -> Result<()> {
        let folder = format!("replays/{}", self.source);
        let paths: BTreeSet<String> = self.store.list(&folder)?.into_iter().map(|(path, _)| path).collect();
        self.records.clear();
        self.next = 1;
        for path in paths.iter().filter(|path| !path.ends_with(".done")) {
            let damaged = |why: String| Error::Damaged { path: path.clone(), why };
            let bytes = self.store.get(path)?.ok_or_else(|| damaged("it is missing".into()))?;
            let note: Note = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
            if note.format != 1 {
                return Err(damaged(format!("it has format {}, this version of plumb reads 1", note.format)));
            }
            let seq: u64 = path.rsplit('/').next().and_then(|name| name.parse().ok()).unwrap_or_default();
            self.next = self.next.max(seq + 1);
            let done = paths.contains(&format!("{path}.done"));
            for record in note.records {
                let replayed = if done { Replayed::Done(note.at.clone()) } else { Replayed::CutOff(note.at.clone()) };
                // What was done once stays done, though a later try was cut off.
                match self.records.get(&record) {
                    Some(Replayed::Done(_)) if !done => {}
                    _ => drop(self.records.insert(record, replayed)),
                }
            }
        }
        Ok(())
    }

    /// How far a record's replay is; `None` if there was none.
    pub fn of(&self, partition: u32, offset: u64) -> Option<&Replayed> {
        self.records.get(&(partition, offset))
    }

    /// Notes that these records are about to be published. Refused if another process has noted any of them
    /// since this was opened; `now_us` is the time of day.
    pub fn claim(&mut self, records: &[(u32, u64)], now_us: i64) -> Result<Claim> {
        let known: Vec<Option<Replayed>> = records.iter().map(|record| self.records.get(record).cloned()).collect();
        let note = Note {
            format: 1,
            at: format_rfc3339(now_us),
            by: format!("{}-{now_us}", std::process::id()),
            records: records.to_vec(),
        };
        let bytes =
            serde_json::to_vec(&note).map_err(|error| Error::internal(format!("cannot encode a note: {error}")))?;
        loop {
            let (seq, path) = (self.next, self.path(self.next));
            let created = self.store.create(&path, &bytes);
            // Ours after all if its bytes are there.
            let ours = matches!(created, Ok(true)) || self.store.get(&path)?.is_some_and(|found| found == bytes);
            if ours {
                self.next += 1;
                return Ok(Claim(seq));
            }
            created?;
            self.refresh()?;
            for (record, before) in records.iter().zip(&known) {
                if self.records.get(record) != before.as_ref() {
                    let (source, (partition, offset)) = (&self.source, record);
                    return Err(Error::invalid(format!(
                        "{source}:{partition}={offset} is being replayed by another process: look at what it did, then \
                         try again"
                    )));
                }
            }
        }
    }

    /// Notes that the claimed records are published.
    pub fn done(&mut self, claim: Claim) -> Result<()> {
        self.store.put(&format!("{}.done", self.path(claim.0)), b"{}".to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plumb_store_object::LocalStore;

    fn store(folder: &tempfile::TempDir) -> Arc<dyn ObjectStore> {
        Arc::new(LocalStore::open(folder.path()).unwrap())
    }

    #[test]
    fn a_record_is_noted_before_and_after_it_is_published() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder);
        let mut replays = Replays::open(store.clone(), "clicks").unwrap();
        assert_eq!(replays.of(0, 7), None);
        let first = replays.claim(&[(0, 7), (1, 2)], 1_000_000).unwrap();
        let reopened = Replays::open(store.clone(), "clicks").unwrap();
        assert_eq!(reopened.of(1, 2), Some(&Replayed::CutOff("1970-01-01T00:00:01.000000Z".into())));
        replays.done(first).unwrap();
        let mut reopened = Replays::open(store.clone(), "clicks").unwrap();
        let done = Replayed::Done("1970-01-01T00:00:01.000000Z".into());
        assert_eq!((reopened.of(0, 7), reopened.of(0, 8)), (Some(&done), None));
        assert_eq!(Replays::open(store.clone(), "other").unwrap().of(0, 7), None);
        // Again, as asked for, and cut off: it was published before all the same.
        let _cut_off = reopened.claim(&[(0, 7)], 2_000_000).unwrap();
        assert_eq!(Replays::open(store, "clicks").unwrap().of(0, 7), Some(&done));
    }

    #[test]
    fn of_two_replays_of_one_record_one_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder);
        let mut one = Replays::open(store.clone(), "clicks").unwrap();
        let mut other = Replays::open(store.clone(), "clicks").unwrap();
        let mut third = Replays::open(store.clone(), "clicks").unwrap();
        let claim = one.claim(&[(0, 1), (0, 2)], 1).unwrap();
        let error = other.claim(&[(0, 2), (0, 3)], 2).unwrap_err().to_string();
        assert!(error.starts_with("clicks:0=2 is being replayed by another process"), "{error}");
        one.done(claim).unwrap();
        // Others' records do not matter.
        let claim = third.claim(&[(0, 3)], 3).unwrap();
        third.done(claim).unwrap();
        let all = Replays::open(store, "clicks").unwrap();
        assert!((1..=3).all(|offset| matches!(all.of(0, offset), Some(Replayed::Done(_)))));
    }

    #[test]
    fn filters_take_what_they_name() {
        let letter = |view: Option<&str>| DeadLetter {
            offset: 5,
            record_time_us: 100,
            bytes: Vec::new(),
            reason: "missing field `event_type`".into(),
            view: view.map(str::to_owned),
        };
        let all = Filter::default();
        assert!(all.is_empty() && all.takes(0, &letter(None)) && all.takes(3, &letter(Some("a@1.0.0+ab"))));
        let view = |name: &str| Filter { view: Some(name.into()), ..Filter::default() };
        assert!(
            view("a").takes(0, &letter(Some("a@1.0.0+ab"))) && view("a@1.0.0+ab").takes(0, &letter(Some("a@1.0.0+ab")))
        );
        assert!(!view("a").takes(0, &letter(Some("ab@1.0.0+ab"))) && !view("a").takes(0, &letter(None)));
        let since = |us| Filter { since_us: Some(us), ..Filter::default() };
        assert!(since(100).takes(0, &letter(None)) && !since(101).takes(0, &letter(None)));
        let reason = Filter { reason: Some("event_type".into()), ..Filter::default() };
        assert!(reason.takes(0, &letter(None)) && !reason.is_empty());
        let at = Filter { positions: BTreeSet::from([(1, 5)]), ..Filter::default() };
        assert!(at.takes(1, &letter(None)) && !at.takes(0, &letter(None)));
    }
}
