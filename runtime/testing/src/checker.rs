//! What must hold after every run, whatever happened in it: nothing lost, nothing counted twice, every value as a
//! naive recomputation from the source's records says.
//!
//! It takes what the broker holds as the truth, decides about each record anew with the oracle's own reading of
//! JSON, and looks at what is left: the manifests, the Parquet files as a plain walk finds them, the online store
//! through the running service's answers, and every answer that a [`crate::reader::Reader`] noted on the way.

use plumb_pipeline::commit;
use plumb_store_object::LocalStore;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use crate::archive;
use crate::case::{Accounting, format_instant, oracle_event};
use crate::oracle::{self, Named, OracleEvent};
use crate::process;
use crate::service::eventually;
use crate::service::kafka::Stored;

/// Offsets by partition: an answer holds the accepted events below them.
pub type Positions = BTreeMap<u32, u64>;

/// How far an event's time may be ahead of its record's, µs (the default of `max_future`).
const MAX_FUTURE_US: i64 = 5 * 60_000_000;

/// The longest record that is read, in bytes.
const RECORD_BYTES_MAX: usize = 8 << 20;

/// A window of the rank of `item_activity` begins at most so long before T, µs.
const RANK_REACH_US: i64 = 62 * 60_000_000;

/// For how long ids are remembered, µs of record time (the default of `dedupe_horizon`).
pub const HORIZON_US: i64 = 30 * 86_400_000_000;

/// The events of a block, which a partition's clock moves on after.
const BLOCK: usize = 1024;

/// An accepted event with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// The partition.
    pub partition: u32,
    /// The offset in it.
    pub offset: u64,
    /// The event.
    pub event: OracleEvent,
}

/// What the records of a topic amount to.
#[derive(Debug, Default)]
pub struct Truth {
    /// Accepted events, by partition and offset.
    pub accepted: Vec<Placed>,
    /// Rejected records: partition, offset, bytes.
    pub rejected: Vec<(u32, u64, Vec<u8>)>,
    /// The classes of records by partition.
    pub accounting: BTreeMap<u32, Accounting>,
    /// The offset after the last record by partition.
    pub ends: Positions,
    by_user: HashMap<String, Vec<usize>>,
    by_item: HashMap<String, Vec<usize>>,
    /// Views of items by time.
    views: Vec<(i64, usize)>,
}

impl Truth {
    /// Judges records, given in order of partition and offset. `partitions` without any record count too.
    pub fn of(records: &[Stored], partitions: impl IntoIterator<Item = u32>) -> Self {
        Self::remembering(records, partitions, HORIZON_US)
    }

    /// [`Truth::of`] where ids are remembered for so many µs of record time.
    pub fn remembering(records: &[Stored], partitions: impl IntoIterator<Item = u32>, horizon_us: i64) -> Self {
        let mut truth = Self::default();
        for partition in partitions {
            truth.accounting.insert(partition, Accounting::default());
            truth.ends.insert(partition, 0);
        }
        // Per id the copy that counts and the time until which it does, and the record times of each partition's events.
        let mut first: HashMap<(u32, String), (usize, i64)> = HashMap::new();
        let mut times: HashMap<u32, Times> = HashMap::new();
        for record in records {
            let partition = record.partition as u32;
            let counts = truth.accounting.entry(partition).or_default();
            counts.read += 1;
            truth.ends.insert(partition, record.offset as u64 + 1);
            let Some(event) = judge(record) else {
                counts.rejected += 1;
                let bytes = record.value.clone().unwrap_or_default();
                truth.rejected.push((partition, record.offset as u64, bytes));
                continue;
            };
            let index = truth.accepted.len();
            let stamp = record.timestamp.unwrap_or_default() * 1000;
            let clock = times.entry(partition).or_default().add(stamp);
            if let Some(id) = event.id.clone() {
                let place = (partition, id);
                if let Some((copy, _)) = first.get(&place).filter(|(_, until)| stamp <= *until && clock <= *until) {
                    counts.duplicate += 1;
                    counts.dedupe_conflict += u64::from(truth.accepted[*copy].event != event);
                    continue;
                }
                // To the full second.
                let since = stamp.max(clock).div_euclid(1_000_000) + i64::from(stamp.max(clock) % 1_000_000 > 0);
                first.insert(place, (index, since * 1_000_000 + horizon_us));
            }
            counts.applied += 1;
            for (key, keys) in [(&event.user, &mut truth.by_user), (&event.item, &mut truth.by_item)] {
                if let Some(key) = key {
                    keys.entry(key.clone()).or_default().push(index);
                }
            }
            if event.kind == "view" && event.item.is_some() {
                truth.views.push((event.time, index));
            }
            truth.accepted.push(Placed { partition, offset: record.offset as u64, event });
        }
        truth.views.sort_unstable();
        truth
    }

    /// The newest time of an accepted event, µs.
    pub fn newest(&self) -> i64 {
        self.accepted.iter().map(|placed| placed.event.time).max().expect("some events were accepted")
    }

    /// The users or items that events name.
    pub fn keys(&self, entity: &str) -> BTreeSet<&str> {
        let keys = if entity == "user" { &self.by_user } else { &self.by_item };
        keys.keys().map(String::as_str).collect()
    }

    /// The features of an entity at `t` from the events below a position (`None` = all); `None` = not found.
    pub fn features(&self, entity: &str, key: &str, t: i64, below: Option<&Positions>) -> Option<Vec<Named>> {
        let keys = if entity == "user" { &self.by_user } else { &self.by_item };
        let own = keys.get(key).map_or(&[][..], Vec::as_slice).iter().map(|&index| &self.accepted[index]);
        // Looked up once, not for every event.
        let below: Option<Vec<u64>> = below.map(|below| {
            let partitions = below.keys().max().map_or(0, |last| *last as usize + 1);
            (0..partitions).map(|partition| below.get(&(partition as u32)).copied().unwrap_or(0)).collect()
        });
        let seen = |placed: &&Placed| {
            let end = |below: &Vec<u64>| below.get(placed.partition as usize).copied().unwrap_or(0);
            below.as_ref().is_none_or(|below| placed.offset < end(below))
        };
        let mut events: Vec<&OracleEvent> = own.filter(seen).map(|placed| &placed.event).collect();
        if entity == "user" {
            return oracle::user_activity(&events, key, t);
        }
        // Ranks compare the views of all items; older ones and other kinds of events of others have no say.
        let from = self.views.partition_point(|(time, _)| *time < t - RANK_REACH_US);
        let views =
            self.views[from..].iter().take_while(|(time, _)| *time < t).map(|(_, index)| &self.accepted[*index]);
        let others = views.filter(|placed| placed.event.item.as_deref() != Some(key));
        events.extend(others.filter(seen).map(|placed| &placed.event));
        oracle::item_activity(&events, key, t)
    }
}

/// The record times of a partition's events.
#[derive(Debug, Default)]
struct Times {
    block: Vec<i64>,
    clock: i64,
}

impl Times {
    /// Adds that of an event; the partition's clock after it, µs: the newest among the oldest of each block.
    fn add(&mut self, stamp: i64) -> i64 {
        self.block.push(stamp);
        if self.block.len() == BLOCK {
            self.clock = self.block.drain(..).min().map_or(self.clock, |oldest| oldest.max(self.clock));
        }
        self.clock
    }
}

/// Reads a record as contract.md, "Events", says; `None` = rejected.
fn judge(record: &Stored) -> Option<OracleEvent> {
    let value = record.value.as_ref().filter(|value| value.len() <= RECORD_BYTES_MAX)?;
    let event = oracle_event(std::str::from_utf8(value).ok()?).ok()?;
    (event.time <= record.timestamp? * 1000 + MAX_FUTURE_US).then_some(event)
}

/// The view of an entity in the shipped transforms.
pub fn view_of(entity: &str) -> &'static str {
    if entity == "user" { "user_activity" } else { "item_activity" }
}

/// A position token's offsets for a view: the source's, with its own in their place where the token has some.
pub fn positions_of(token: &str, view: &str) -> Positions {
    let parts = || token.split('~').filter_map(|part| part.split_once(':'));
    let of_source = parts().filter(|(name, _)| *name == "default");
    let of_view = parts().filter(|(name, _)| name.strip_suffix("!default") == Some(view));
    let lists = of_source.chain(of_view).map(|(_, list)| list);
    let pairs = lists.flat_map(|list| list.split(',')).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (partition, offset) = pair.split_once('=').unwrap_or_else(|| panic!("position token {token}"));
            let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("position token {token}"));
            (number(partition) as u32, number(offset))
        })
        .collect()
}

/// Why an answer is wrong; `None` = it is as the oracle says. `features` are those of the view by full name.
pub fn mistake(expected: Option<&[Named]>, view: &str, status: &str, features: &Value) -> Option<String> {
    match (expected, status) {
        (None, "not_found") => None,
        (Some(values), "found") => values.iter().find_map(|(name, value)| {
            let served = &features[format!("{view}:{name}")];
            (!value.is_json(served)).then(|| format!("{view}:{name} is {served}, the oracle says {value}"))
        }),
        (expected, status) => {
            Some(format!("{view} is `{status}`, the oracle {}", expected.map_or("finds nothing", |_| "finds it")))
        }
    }
}

/// Where a run has left its results.
pub struct Left<'a> {
    /// The offline store as a folder.
    pub offline: &'a Path,
    /// Manifests that the test has damaged: they are passed over.
    pub damaged: &'a [PathBuf],
    /// The running processes' addresses; each has to give every answer.
    pub addresses: &'a [String],
    /// Gives the names of the keys in the online store, if it is a Redis: every key of the namespace. Asked once the
    /// processes have answered for the end of the topic, so that all of them are published.
    pub online_keys: &'a dyn Fn() -> Option<Vec<Vec<u8>>>,
}

/// What was compared, for a test that wants to be sure that it was enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compared {
    /// Events in the archive.
    pub events: usize,
    /// Entities, each at several instants in each process.
    pub entities: usize,
    /// Values of features.
    pub values: usize,
}

/// Checks everything; fails with what is wrong.
#[track_caller]
pub fn check(truth: &Truth, left: &Left<'_>) -> Compared {
    manifests(truth, left.offline, left.damaged);
    let events = parquet(truth, left.offline);
    let mut compared = Compared { events, entities: 0, values: 0 };
    for address in left.addresses {
        let (entities, values) = answers(truth, address);
        compared.entities += entities;
        compared.values += values;
    }
    if let Some(keys) = (left.online_keys)() {
        online_keys(truth, &keys);
    }
    compared
}

/// The newest manifest of every partition.
pub fn newest_manifests(offline: &Path) -> BTreeMap<u32, Value> {
    chains(offline).into_iter().filter_map(|(partition, chain)| Some((partition, read_json(chain.last()?)))).collect()
}

fn chains(offline: &Path) -> BTreeMap<u32, Vec<PathBuf>> {
    let Ok(folders) = std::fs::read_dir(offline.join("manifest/default")) else { return BTreeMap::new() };
    folders
        .map(|folder| {
            let folder = folder.expect("a folder can be listed").path();
            let partition = folder.file_name().and_then(|name| name.to_str()?.parse().ok()).expect("a partition");
            let files = std::fs::read_dir(&folder).expect("a folder can be listed");
            let mut chain: Vec<PathBuf> = files
                .map(|file| file.expect("a folder can be listed").path())
                // A name of digits is a manifest; others are being written.
                .filter(|path| {
                    path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit))
                })
                .collect();
            chain.sort();
            (partition, chain)
        })
        .collect()
}

/// The number in a manifest's name.
fn seq_of(path: &Path) -> u64 {
    path.file_name().and_then(|name| name.to_str()?.parse().ok()).unwrap_or_else(|| panic!("{}", path.display()))
}

fn read_json(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Each partition's chain has no hole and no generation that falls, and its newest manifest accounts for exactly
/// the records of the partition.
fn manifests(truth: &Truth, offline: &Path, damaged: &[PathBuf]) {
    let chains = chains(offline);
    for (partition, chain) in &chains {
        let numbers: Vec<u64> = chain.iter().map(|path| seq_of(path)).collect();
        let whole = numbers.windows(2).all(|pair| pair[1] == pair[0] + 1);
        assert!(whole, "partition {partition}: a hole in the chain: {numbers:?}");
        let good = chain.iter().filter(|path| !damaged.contains(path));
        let read: Vec<Value> = good.map(|path| read_json(path)).collect();
        for pair in read.windows(2) {
            let (before, after) = (&pair[0], &pair[1]);
            let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("partition {partition}: {value}"));
            assert!(number(&after["generation"]) >= number(&before["generation"]), "partition {partition}: {after}");
            assert!(number(&after["next_offset"]) >= number(&before["next_offset"]), "partition {partition}: {after}");
        }
    }
    for (partition, expected) in &truth.accounting {
        let newest = chains.get(partition).and_then(|chain| chain.last()).map(|path| read_json(path));
        let Some(newest) = newest else {
            assert_eq!(expected.read, 0, "partition {partition} has records and no manifest");
            continue;
        };
        let count = |name: &str| newest["accounting"][name].as_u64().unwrap_or_else(|| panic!("{newest}"));
        let found = Accounting {
            read: count("read"),
            applied: count("applied"),
            duplicate: count("duplicate"),
            rejected: count("rejected"),
            dedupe_conflict: count("dedupe_conflict"),
        };
        assert_eq!(found, *expected, "partition {partition}: the accounting against the topic");
        if expected.read > 0 {
            assert!(newest["next_offset"].as_u64() >= truth.ends.get(partition).copied(), "partition {partition}");
        }
    }
}

/// The archive holds the accepted events, each once, as a plain walk of the folder finds them (and of that of rows that
/// wait for their dates) and as the manifests name them; the dead letters are the rejected records.
fn parquet(truth: &Truth, offline: &Path) -> usize {
    let (dated, waiting) = (offline.join("events/default"), offline.join("_pending/events/default"));
    let mut found = archive::read(&dated);
    found.extend(archive::read(&waiting));
    found.sort_by_key(|row| (row.partition, row.offset));
    let mut expected = truth.accepted.iter();
    for row in &found {
        let next = expected.next().unwrap_or_else(|| panic!("the archive has more than was accepted: {row:?}"));
        let place = (row.partition as u32, row.offset as u64);
        assert_eq!(place, (next.partition, next.offset), "the archive against the accepted events: {row:?} {next:?}");
        assert_eq!(row.event, next.event, "the archived event at {place:?}");
    }
    assert_eq!(expected.next(), None, "accepted and not in the archive, of {} found", found.len());
    let store = LocalStore::open(offline).expect("the offline store can be opened");
    let files = commit::committed_files(&store, "default").expect("the manifests can be read");
    let named: BTreeSet<PathBuf> = files.iter().map(|(_, file)| offline.join(&file.path)).collect();
    assert_eq!(named.len(), files.len(), "a file is named twice");
    let walked = [&dated, &waiting].into_iter().flat_map(|folder| archive::parquet_files(folder));
    let events: BTreeSet<PathBuf> = walked.collect();
    let named_events: BTreeSet<PathBuf> = named.into_iter().filter(|path| !is_dead_letters(path, offline)).collect();
    assert_eq!(named_events, events, "the files of the manifests and those of a plain walk");
    let letters = archive::dead_letters(&offline.join("dead_letters/default"));
    let letters: Vec<(u32, u64)> = letters
        .iter()
        .filter(|letter| letter.view.is_none())
        .map(|letter| (letter.partition as u32, letter.offset as u64))
        .collect();
    let rejected: Vec<(u32, u64)> = truth.rejected.iter().map(|(partition, offset, _)| (*partition, *offset)).collect();
    assert_eq!(letters, rejected, "the dead letters against the rejected records");
    found.len()
}

fn is_dead_letters(path: &Path, offline: &Path) -> bool {
    path.starts_with(offline.join("dead_letters"))
}

/// The entities in Redis are those of the accepted events, no more and no fewer.
fn online_keys(truth: &Truth, keys: &[Vec<u8>]) {
    for entity in ["user", "item"] {
        let mut states: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>> = BTreeMap::new();
        for key in keys {
            // plumb:<namespace>:{<entity>/<bucket>}:<source>:<state>:<key>
            let Some(open) = key.iter().position(|byte| *byte == b'{') else { continue };
            let Some(close) = key.iter().position(|byte| *byte == b'}') else { continue };
            if !key[open + 1..close].starts_with(format!("{entity}/").as_bytes()) {
                continue;
            }
            let mut parts = key[close + 2..].splitn(3, |byte| *byte == b':');
            let (source, state, id) = (parts.next(), parts.next(), parts.next());
            let (Some(b"default"), Some(state), Some(id)) = (source, state, id) else { continue };
            // Reserved keys hold what is global to a view.
            if !id.starts_with(&[0xff; 4]) {
                states.entry(state.to_vec()).or_default().insert(id.to_vec());
            }
        }
        let expected: BTreeSet<Vec<u8>> = truth.keys(entity).into_iter().map(|key| key.as_bytes().to_vec()).collect();
        assert_eq!(states.len(), 1, "states of {entity} in the online store: {:?}", states.keys());
        for (state, found) in states {
            let state = String::from_utf8_lossy(&state).into_owned();
            let missing: Vec<_> = expected.difference(&found).map(|id| String::from_utf8_lossy(id)).collect();
            let more: Vec<_> = found.difference(&expected).map(|id| String::from_utf8_lossy(id)).collect();
            assert!(missing.is_empty() && more.is_empty(), "{entity} {state}: missing {missing:?}, too many {more:?}");
        }
    }
}

/// Every entity at several instants, from the online store at the end of the topic, bit for bit.
fn answers(truth: &Truth, address: &str) -> (usize, usize) {
    let (mut entities, mut values) = (0, 0);
    let newest = truth.newest();
    // Just past the last event, inside the windows of the newest, and where the short ones have emptied.
    let instants = [newest + 1, newest + 30 * 60_000_000, newest + 25 * 3_600_000_000];
    for entity in ["user", "item"] {
        let view = view_of(entity);
        let keys: Vec<&str> = truth.keys(entity).into_iter().chain(["nobody-and-nothing"]).collect();
        for t in instants {
            for some in keys.chunks(500) {
                let request = |key: &&str| json!({"entities": {entity: key}, "features": [format!("{view}:*")], "as_of": format_instant(t)});
                let body = json!({"requests": some.iter().map(request).collect::<Vec<_>>()});
                let results = eventually(&format!("{address} at the end of the topic {:?}", truth.ends), || {
                    let (status, text) =
                        process::request(address, "POST", "/features/batch", body.to_string().as_bytes()).ok()?;
                    let answer: Value = (status == 200).then(|| serde_json::from_str(&text).expect("JSON"))?;
                    let results = answer["results"].as_array()?.clone();
                    let whole = results.iter().all(|result| {
                        let at = positions_of(result["position"].as_str().unwrap_or_default(), view);
                        truth.ends.iter().all(|(partition, end)| at.get(partition).copied().unwrap_or(0) >= *end)
                            && result["views"][view]["status"] != "rebuilding"
                    });
                    whole.then_some(results)
                });
                assert_eq!(results.len(), some.len());
                for (key, result) in some.iter().zip(&results) {
                    let expected = truth.features(entity, key, t, None);
                    let status = result["views"][view]["status"].as_str().unwrap_or_default();
                    if let Some(why) = mistake(expected.as_deref(), view, status, &result["features"]) {
                        panic!("{address}: {entity} {key} at {}: {why}\n{result}", format_instant(t));
                    }
                    assert_eq!(result["views"][view]["source"], "online", "{result}");
                    values += expected.map_or(0, |values| values.len());
                    entities += 1;
                }
            }
        }
    }
    (entities, values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(partition: i32, offset: i64, value: Option<&str>) -> Stored {
        let value = value.map(|value| value.as_bytes().to_vec());
        Stored { partition, offset, key: None, value, timestamp: Some(1_710_072_100_000), headers: Vec::new() }
    }

    fn event(id: &str, time: &str) -> String {
        json!({"event_id": id, "event_time": time, "user_id": "u", "item_id": "i", "event_type": "view"}).to_string()
    }

    #[test]
    fn records_are_judged_one_by_one() {
        let (a, b) = (event("a", "2024-03-10T12:00:00Z"), event("b", "2024-03-10T12:00:30Z"));
        let records = [
            stored(0, 3, Some(&a)),
            stored(0, 5, Some(&b)),
            stored(0, 6, Some(&a)),
            stored(0, 7, Some(&event("a", "2024-03-10T12:00:01Z"))),
            stored(0, 8, None),
            stored(0, 9, Some("{")),
            stored(0, 10, Some(&event("c", "2024-03-10T12:20:00Z"))),
            stored(1, 0, Some(&a)),
        ];
        let truth = Truth::of(&records, 0..3);
        let counts = |read, applied, duplicate, rejected, dedupe_conflict| Accounting {
            read,
            applied,
            duplicate,
            rejected,
            dedupe_conflict,
        };
        assert_eq!(truth.accounting[&0], counts(7, 2, 2, 3, 1));
        assert_eq!(truth.accounting[&1], counts(1, 1, 0, 0, 0));
        assert_eq!(truth.accounting[&2], counts(0, 0, 0, 0, 0));
        assert_eq!(truth.ends, Positions::from([(0, 11), (1, 1), (2, 0)]));
        let rejected: Vec<_> = truth.rejected.iter().map(|(_, offset, _)| *offset).collect();
        assert_eq!(rejected, [8, 9, 10]);
        let views = |below: Option<&Positions>| {
            let features = truth.features("item", "i", truth.newest() + 1, below)?;
            Some(features.into_iter().find(|(name, _)| *name == "view_count_1h").expect("a feature").1.to_string())
        };
        assert_eq!(views(None).as_deref(), Some("3"));
        assert_eq!(views(Some(&Positions::from([(0, 5), (1, 1)]))).as_deref(), Some("2"));
        assert_eq!(views(Some(&Positions::from([(0, 3)]))), None);
    }

    #[test]
    fn copies_beyond_the_horizon_count_again() {
        let a = event("a", "2024-03-10T12:00:00Z");
        let at =
            |offset: i64, ms: i64| Stored { timestamp: Some(1_710_072_100_000 + ms), ..stored(0, offset, Some(&a)) };
        let offsets = |records: &[Stored]| -> Vec<u64> {
            Truth::remembering(records, [0], 10_000_000).accepted.iter().map(|placed| placed.offset).collect()
        };
        // 10 s after the first, not after the last; a stamp in the future moves nothing.
        assert_eq!(offsets(&[at(0, 0), at(1, 9000), at(2, 10_000), at(3, 10_001), at(4, 20_001)]), [0, 3]);
        assert_eq!(offsets(&[at(0, 0), at(1, 500_000), at(2, 5)]), [0, 1]);
        // A block of events that are later lets it go, whatever the stamp of the copy.
        let events: Vec<String> = (0..1024).map(|n| event(&format!("e{n}"), "2024-03-10T12:00:00Z")).collect();
        let block = |from: i64| {
            let later = events.iter().zip(from..).map(move |(event, offset)| Stored {
                timestamp: Some(1_710_072_100_000 + 20_000),
                ..stored(0, offset, Some(event))
            });
            later.collect::<Vec<_>>()
        };
        let records = [block(0), vec![at(1024, -50_000), at(1025, 3000)], block(2000)].concat();
        assert_eq!(offsets(&records).len(), 1025);
        let records = [vec![at(0, 0)], block(1), vec![at(2000, 3000)]].concat();
        assert_eq!(offsets(&records).len(), 1025);
        let records = [vec![at(0, 0)], block(1), block(1025), vec![at(3000, 3000)]].concat();
        assert_eq!(offsets(&records).last(), Some(&3000));
    }

    #[test]
    fn a_token_may_have_a_position_for_one_view() {
        let token = "default:0=12,1=34~item_activity!default:0=13";
        assert_eq!(positions_of(token, "user_activity"), Positions::from([(0, 12), (1, 34)]));
        assert_eq!(positions_of(token, "item_activity"), Positions::from([(0, 13), (1, 34)]));
        assert_eq!(positions_of("default:", "item_activity"), Positions::new());
    }

    #[test]
    fn a_wrong_answer_is_a_mistake() {
        let expected = [("n", oracle::OracleValue::Int(3))];
        let served = json!({"v:n": 3});
        assert_eq!(mistake(Some(&expected), "v", "found", &served), None);
        assert_eq!(mistake(None, "v", "not_found", &json!({"v:n": null})), None);
        assert!(mistake(Some(&expected), "v", "found", &json!({"v:n": 2})).is_some());
        assert!(mistake(Some(&expected), "v", "found", &json!({"v:n": null})).is_some());
        assert!(mistake(Some(&expected), "v", "not_found", &served).is_some());
        assert!(mistake(None, "v", "found", &served).is_some());
        assert!(mistake(Some(&expected), "v", "error", &served).is_some());
    }
}
