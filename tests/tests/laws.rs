//! The first two laws over random streams: whatever the order, the partitions, the batches and the restarts,
//! online, backfill and join say what the oracle says, bit for bit, at every awkward instant.
//!
//! Times are multiples of the windows apart, give or take a microsecond, so that nearly every read has an
//! event on an edge. Seeds are fixed: CI runs the same streams every time; `PLUMB_TEST_FULL=1` runs more.

use plumb_pipeline::offline::Every;
use plumb_testing::case::{self, Accounting, CaseError, Read, Subject};
use plumb_testing::oracle::{self, OracleEvent};
use plumb_testing::subject::{Disturbance, Features, OfflineSubject, Restarts, ServiceSubject, Snapshot};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU8, Ordering};

const MINUTE: i64 = 60_000_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// 2024-03-10T12:00:00Z: a whole minute and hour, no whole day.
const BASE: i64 = 1_710_072_000_000_000;
/// The widths of the windows, the session gap and the hop.
const WIDTHS: [i64; 7] = [0, MINUTE, 30 * MINUTE, HOUR, DAY, 7 * DAY, 30 * DAY];

const USERS: [&str; 3] = ["u1", "u2", ""];
const ITEMS: [&str; 3] = ["i1", "i2", "i\u{e9}"];
const KINDS: [&str; 7] = ["view", "view", "view", "cart", "purchase", "purchase", "wishlist"];
const CATEGORIES: [&str; 5] = ["a", "b", "B", "", "\u{e9}"];

/// More events than this of one key within a tile of state are kept as totals beside the events.
const SMALL_TILE: usize = 16;

/// A stream and everything that must make no difference to it.
#[derive(Debug, Clone)]
struct Scenario {
    events: Vec<OracleEvent>,
    /// Which events come a second time, by index; events without an id do not.
    copies: Vec<usize>,
    /// Sort keys of the records as they come online and offline.
    order: (Vec<u32>, Vec<u32>),
    /// Records that are none, by the place they come at.
    garbage: Vec<(usize, &'static str)>,
    partitions: u32,
    /// After how many more records the service is disturbed, and how.
    cuts: Vec<(usize, Option<Disturbance>)>,
    threads: usize,
    file_records: usize,
    /// Instants to ask at: an event's, and how far after it.
    asks: Vec<(usize, i64)>,
}

fn time() -> impl Strategy<Value = i64> {
    let far = (select(&WIDTHS), select(&[-2i64, -1, 1, 2]), select(&WIDTHS), select(&[-1i64, 0, 0, 1]))
        .prop_map(|(width, times, other, sign)| width * times + other * sign);
    let jitter = prop_oneof![3 => Just(0), 1 => Just(1), 1 => Just(-1), 2 => 0..3 * HOUR];
    (prop_oneof![1 => Just(0), 3 => far], jitter).prop_map(|(far, jitter)| BASE + far + jitter)
}

fn event() -> impl Strategy<Value = OracleEvent> {
    let text = |values: &'static [&'static str]| proptest::option::weighted(0.8, select(values));
    let price = prop_oneof![
        2 => Just(None),
        4 => select(&[0.0, -0.0, 0.1, 0.2, 19.99, -3.5, 1e16, -1e16, 1e308, -1e308, 5e-324]).prop_map(Some),
        2 => (-1e6..1e6f64).prop_map(Some),
    ];
    let quantity = prop_oneof![3 => Just(None), 3 => select(&[0, 1, 2, 3, -2, i64::MAX, i64::MIN]).prop_map(Some)];
    let rating = prop_oneof![3 => Just(None), 2 => select(&[1.0, 4.5, 0.1, -2.0, 1e308]).prop_map(Some)];
    (any::<bool>(), time(), text(&USERS), text(&ITEMS), select(&KINDS), text(&CATEGORIES), price, quantity, rating)
        .prop_map(|(has_id, time, user, item, kind, category, price, quantity, rating)| OracleEvent {
            // The rest of the id comes with the event's place in the stream.
            id: has_id.then(String::new),
            time,
            user: user.map(str::to_owned),
            item: item.map(str::to_owned),
            kind: kind.to_owned(),
            category: category.map(str::to_owned),
            price,
            quantity,
            rating,
        })
}

fn scenario() -> impl Strategy<Value = Scenario> {
    let order = || proptest::collection::vec(any::<u32>(), 128);
    // Many events like one of the others, close together, as many as need totals and then some more or fewer.
    let burst = proptest::option::weighted(
        0.4,
        (0..40usize, SMALL_TILE - 2..2 * SMALL_TILE + 8, select(&[0, 1, 1_000_000, MINUTE])),
    );
    let delta = (select(&WIDTHS), select(&[-1i64, 0, 0, 1])).prop_map(|(width, off)| width + off);
    let disturbance = proptest::option::weighted(0.6, select(&Disturbance::ALL));
    let garbage = select(&["[]", "{", r#"{"event_id":"e0","event_time":"2024-03-10T12:00:00Z","user_id":"u1"}"#]);
    (
        proptest::collection::vec(event(), 1..40),
        proptest::collection::vec(0..40usize, 0..10),
        (order(), order()),
        proptest::collection::vec((0..50usize, garbage), 0..3),
        select(&[1u32, 2, 4, 7]),
        proptest::collection::vec((1..30usize, disturbance), 0..4),
        1..4usize,
        1..50usize,
        (burst, proptest::collection::vec((0..40usize, delta), 1..8)),
    )
        .prop_map(
            |(mut events, copies, order, garbage, partitions, cuts, threads, file_records, (burst, asks))| {
                if let Some((like, count, step)) = burst {
                    let like = events[like % events.len()].clone();
                    let price = |nth: usize| like.price.map(|price| price + (nth % 3) as f64 * 0.1);
                    let one =
                        |nth| OracleEvent { time: like.time + nth as i64 * step, price: price(nth), ..like.clone() };
                    events.extend((1..=count).map(one));
                }
                for (index, event) in events.iter_mut().enumerate() {
                    event.id = event.id.take().map(|_| format!("e{index}"));
                }
                Scenario { events, copies, order, garbage, partitions, cuts, threads, file_records, asks }
            },
        )
}

fn record(event: &OracleEvent) -> String {
    json!({
        "event_id": event.id, "event_time": case::format_instant(event.time), "user_id": event.user,
        "item_id": event.item, "event_type": event.kind, "category": event.category, "price": event.price,
        "quantity": event.quantity, "rating": event.rating,
    })
    .to_string()
}

/// A record, and the event that it is of.
type Record<'a> = (String, Option<&'a OracleEvent>);

impl Scenario {
    /// The records in an order: events, copies and garbage.
    fn records(&self, order: &[u32]) -> Vec<Record<'_>> {
        let copies = self.copies.iter().filter_map(|&index| self.events.get(index));
        let mut sorted: Vec<(u32, &OracleEvent)> = self
            .events
            .iter()
            .chain(copies.filter(|event| event.id.is_some()))
            .enumerate()
            .map(|(at, event)| (order[at % order.len()], event))
            .collect();
        sorted.sort_by_key(|(key, _)| *key);
        let mut records: Vec<Record<'_>> = sorted.into_iter().map(|(_, event)| (record(event), Some(event))).collect();
        for (at, garbage) in &self.garbage {
            records.insert((*at).min(records.len()), ((*garbage).to_owned(), None));
        }
        records
    }

    /// Every entity, ones that never were and null, at every instant asked.
    fn reads(&self) -> Vec<Read> {
        let instants = self.asks.iter().map(|&(event, delta)| self.events[event % self.events.len()].time + delta);
        let before_all = self.events.iter().map(|event| event.time).min().unwrap_or(BASE);
        let mut reads = Vec::new();
        for at_us in instants.chain([before_all, before_all - 400 * DAY]) {
            for (view, entity, _) in oracle::VIEWS {
                let keys = if entity == "user" { USERS } else { ITEMS };
                for key in keys.into_iter().chain(["nobody"]).map(Some).chain([None]) {
                    reads.push(Read {
                        view: view.to_owned(),
                        key: key.map(str::to_owned),
                        at: case::format_instant(at_us),
                        at_us,
                        features: Vec::new(),
                    });
                }
            }
        }
        reads
    }
}

fn said(events: &[OracleEvent], view: &str, key: &str, t: i64) -> Features {
    let named = oracle::view(view)?(events, key, t)?;
    Some(named.into_iter().map(|(name, value)| (name.to_owned(), value.to_string())).collect())
}

fn compare(who: &str, events: &[OracleEvent], reads: &[Read], answers: &[Features]) -> Result<(), CaseError> {
    if answers.len() != reads.len() {
        return Err(format!("{who}: {} answers to {} reads", answers.len(), reads.len()).into());
    }
    for (read, answer) in reads.iter().zip(answers) {
        let expected = read.key.as_deref().and_then(|key| said(events, &read.view, key, read.at_us));
        if *answer != expected {
            let Read { view, key, at, .. } = read;
            return Err(format!("{who}: {view} {key:?} at {at}\n says {answer:?}\noracle {expected:?}").into());
        }
    }
    Ok(())
}

fn accepted(records: &[Record<'_>]) -> Vec<OracleEvent> {
    oracle::accepted(&records.iter().filter_map(|(_, event)| event.cloned()).collect::<Vec<_>>())
}

fn counts(records: &[Record<'_>]) -> Accounting {
    let (read, applied) = (records.len() as u64, accepted(records).len() as u64);
    let rejected = records.iter().filter(|(_, event)| event.is_none()).count() as u64;
    Accounting { read, applied, duplicate: read - applied - rejected, rejected, dedupe_conflict: 0 }
}

fn online(scenario: &Scenario) -> Result<(), CaseError> {
    let records = scenario.records(&scenario.order.0);
    let reads = scenario.reads();
    let mut service = ServiceSubject::start(scenario.partitions, Restarts::None)?;
    let mut at = 0;
    for (length, disturbance) in &scenario.cuts {
        let end = (at + length).min(records.len());
        append(&mut service, &records[at..end])?;
        at = end;
        if let Some(disturbance) = disturbance {
            service.restart(*disturbance)?;
        } else {
            compare("online, not all of it yet", &accepted(&records[..at]), &reads, &service.answers(&reads, false)?)?;
        }
    }
    append(&mut service, &records[at..])?;
    let events = accepted(&records);
    compare("online", &events, &reads, &service.answers(&reads, false)?)?;
    // Each answer alone, and what the archive says at its position.
    for read in reads.iter().step_by(7) {
        let one = std::slice::from_ref(read);
        compare("online, alone", &events, one, &service.answers(one, true)?)?;
    }
    let (counted, expected) = (service.counts()?, counts(&records));
    if counted == expected { Ok(()) } else { Err(format!("online counts {counted:?}, not {expected:?}").into()) }
}

fn append(service: &mut ServiceSubject, records: &[Record<'_>]) -> Result<(), CaseError> {
    service.append(&records.iter().map(|(record, _)| record.as_bytes()).collect::<Vec<_>>())
}

fn offline(scenario: &Scenario) -> Result<(), CaseError> {
    let records = scenario.records(&scenario.order.1);
    let (events, reads) = (accepted(&records), scenario.reads());
    let mut files = OfflineSubject::new(scenario.threads, scenario.file_records)?;
    for (record, _) in &records {
        files.record(record)?;
    }
    compare("join", &events, &reads, &files.answers(&reads)?)?;
    let (counted, expected) = (files.accounting()?, counts(&records));
    if counted != expected {
        return Err(format!("files count {counted:?}, not {expected:?}").into());
    }
    snapshots(&events, files.snapshots(Every::Event, None, None)?, after_each_event(&events))?;
    snapshots(&events, files.snapshots(Every::Day, None, None)?, each_day(&events))
}

type At = (String, String, i64);

fn entities(event: &OracleEvent) -> impl Iterator<Item = (&'static str, &String)> {
    oracle::VIEWS.iter().filter_map(|&(view, entity, _)| {
        let key = if entity == "user" { &event.user } else { &event.item };
        Some((view, key.as_ref()?))
    })
}

/// One row per event and entity, 1 µs after it.
fn after_each_event(events: &[OracleEvent]) -> Vec<At> {
    let rows = events
        .iter()
        .flat_map(|event| entities(event).map(|(view, key)| (view.to_owned(), key.clone(), event.time + 1)));
    rows.collect()
}

/// One row per 00:00 UTC and entity found then, up to the first that has seen every event.
fn each_day(events: &[OracleEvent]) -> Vec<At> {
    let next_day = |time: i64| (time.div_euclid(DAY) + 1) * DAY;
    let mut rows = BTreeSet::new();
    let last = events.iter().map(|event| next_day(event.time)).max().unwrap_or(0);
    for event in events {
        for (view, key) in entities(event) {
            let days = (next_day(event.time)..=last).step_by(usize::try_from(DAY).unwrap());
            rows.extend(days.map(|day| (view.to_owned(), key.clone(), day)));
        }
    }
    rows.into_iter().collect()
}

fn snapshots(events: &[OracleEvent], mut given: Vec<Snapshot>, mut expected: Vec<At>) -> Result<(), CaseError> {
    given.sort_by(|a, b| a.0.cmp(&b.0));
    expected.sort();
    let rows: Vec<&At> = given.iter().map(|(at, _)| at).collect();
    if rows != expected.iter().collect::<Vec<_>>() {
        return Err(format!("backfill has the rows {rows:?}\nnot {expected:?}").into());
    }
    for ((view, key, time), features) in &given {
        let expected = said(events, view, key, *time);
        if expected.as_ref() != Some(features) {
            let at = case::format_instant(*time);
            return Err(format!("backfill: {view} {key} at {at}\n says {features:?}\noracle {expected:?}").into());
        }
    }
    Ok(())
}

/// Runs a law over scenarios of fixed seeds, several at a time.
fn hold(name: &str, in_ci: u32, law: fn(&Scenario) -> Result<(), CaseError>) {
    const SHARDS: u8 = 16;
    const NONE: u8 = u8::MAX;
    let all = if std::env::var_os("PLUMB_TEST_FULL").is_some() { 20 * in_ci } else { in_ci };
    let next = AtomicU8::new(0);
    let failed = AtomicU8::new(NONE);
    let shard = |number: u8| {
        let config = Config {
            cases: all.div_ceil(u32::from(SHARDS)),
            failure_persistence: None,
            max_shrink_iters: 100,
            ..Config::default()
        };
        let mut seed = [number; 32];
        seed[..name.len().min(31)].copy_from_slice(&name.as_bytes()[..name.len().min(31)]);
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
        let outcome = runner.run(&scenario(), |scenario| {
            // One failure is enough to look at: only its shard goes on, to make it smaller.
            if ![NONE, number].contains(&failed.load(Ordering::Relaxed)) {
                return Ok(());
            }
            law(&scenario).map_err(|error| {
                // An earlier failure keeps its place.
                let _earlier = failed.compare_exchange(NONE, number, Ordering::Relaxed, Ordering::Relaxed);
                TestCaseError::fail(error.to_string())
            })
        });
        outcome.unwrap_or_else(|error| panic!("{name}, seed {number}: {error}"));
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= SHARDS {
                        break;
                    }
                    shard(number);
                }
            });
        }
    });
}

#[test]
fn online_says_what_the_oracle_says() {
    hold("online", 96, online);
}

#[test]
fn join_and_backfill_say_what_the_oracle_says() {
    hold("offline", 320, offline);
}
