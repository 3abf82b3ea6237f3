//! For tests of the flow: stores in memory that die at a chosen call, a log in memory, native views.
//!
//! What a process leaves behind is [`World`]; [`World::edges`] are its ports for one life of a process, which
//! end together at the call that the [`Fuse`] names.

mod group;
mod online;
#[expect(unreachable_pub, reason = "made for tests outside this crate too")]
#[path = "../../testing/src/online_suite.rs"]
mod online_suite;
mod store;
mod views;

pub(crate) use group::{FakeMembership, Seat, seat};
pub(crate) use online::{FakeOnline, Fields};
pub(crate) use store::{FakeArchive, FakeStore};
pub(crate) use views::{FakeLoader, component, events, item_view, user_view};

use crate::accept::AcceptRules;
use crate::clock::Clock;
use crate::commit::waiting::Thin;
use crate::decode::json::{JsonDecoder, Record};
use crate::decode::time::TimeUnit;
use crate::port::{DeadLetter, DeadLetterSink, Gap, Membership, PartitionReader, Polled, Source, SourceBatch};
use crate::worker::{Edges, SourceSetup};
use crate::{Error, Result};
use plumb_core::event::{EventBatch, SourceSchema};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// When the process dies.
#[derive(Debug, Default)]
pub(crate) struct Fuse {
    calls: AtomicU64,
    /// The call that is the last, and whether it still takes effect.
    last: Option<(u64, bool)>,
    /// The call whose answer is lost; life goes on.
    lost_answer: Option<u64>,
    dead: AtomicBool,
    /// Nothing can be reached for now.
    away: AtomicBool,
}

impl Fuse {
    pub(crate) fn never() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn at(call: u64, with_effect: bool) -> Arc<Self> {
        Arc::new(Self { last: Some((call, with_effect)), ..Self::default() })
    }

    pub(crate) fn losing_answer(call: u64) -> Arc<Self> {
        Arc::new(Self { lost_answer: Some(call), ..Self::default() })
    }

    pub(crate) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// Makes a call on an outside store.
    pub(crate) fn call<T>(&self, effect: impl FnOnce() -> Result<T>) -> Result<T> {
        let died = || Error::unavailable("call a store", "the process has died");
        if self.is_dead() {
            return Err(died());
        }
        if self.away.load(Ordering::SeqCst) {
            return Err(Error::unavailable("call a store", "it is away"));
        }
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        match self.last {
            Some((last, with_effect)) if last == call => {
                self.dead.store(true, Ordering::SeqCst);
                if with_effect {
                    effect()?;
                }
                Err(died())
            }
            _ if self.lost_answer == Some(call) => {
                effect()?;
                Err(Error::unavailable("call a store", "the answer was lost"))
            }
            _ => effect(),
        }
    }
}

/// Everything that outlives a process.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) objects: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    pub(crate) online: Arc<Mutex<online::Contents>>,
    owners: Arc<AtomicU64>,
    /// The dead letters that were sent, with their partition, as often as they were.
    pub(crate) sent: Arc<Mutex<Vec<(u32, DeadLetter)>>>,
    /// When rows wait for their dates.
    pub(crate) thin: Thin,
}

impl DeadLetterSink for World {
    fn send(&self, _: &str, partition: u32, letters: &[DeadLetter]) -> Result<()> {
        self.sent.lock().unwrap().extend(letters.iter().map(|letter| (partition, letter.clone())));
        Ok(())
    }
}

impl World {
    /// The stores for one life of a process.
    pub(crate) fn edges(&self, fuse: &Arc<Fuse>) -> Edges {
        let store = Arc::new(FakeStore { objects: self.objects.clone(), fuse: fuse.clone() });
        let owner = self.owners.fetch_add(1, Ordering::SeqCst);
        Edges {
            archive: Arc::new(FakeArchive { store: store.clone(), thin: self.thin }),
            store,
            online: Arc::new(FakeOnline { contents: self.online.clone(), fuse: fuse.clone() }),
            owner: format!("owner-{owner}").into(),
        }
    }

    /// The stores for one life of a process that may lose sight of one and not of the other.
    pub(crate) fn edges_apart(&self, fuse: &Arc<Fuse>, online: &Arc<Fuse>) -> Edges {
        let online = Arc::new(FakeOnline { contents: self.online.clone(), fuse: online.clone() });
        Edges { online, ..self.edges(fuse) }
    }

    pub(crate) fn store(&self) -> FakeStore {
        FakeStore { objects: self.objects.clone(), fuse: Fuse::never() }
    }

    /// The online store's fields, without fences.
    pub(crate) fn fields(&self) -> Fields {
        self.online.lock().unwrap().fields.clone()
    }

    /// The ids of the rows that a glob over the tree finds, each as often as it is there.
    pub(crate) fn globbed_ids(&self, source: &str) -> Vec<String> {
        let objects = self.objects.lock().unwrap();
        let files = objects.iter().filter(|(path, _)| path.starts_with(&format!("events/{source}/")));
        let mut ids: Vec<String> = files.flat_map(|(_, bytes)| store::ids_of(bytes)).collect();
        ids.sort();
        ids
    }
}

/// A log in memory. A record without bytes is none: an offset that the log has used for itself.
pub(crate) struct FakeSource {
    pub(crate) schema: Arc<SourceSchema>,
    pub(crate) partitions: Arc<Mutex<Vec<Vec<Vec<u8>>>>>,
    /// Whether it ends where it ends now.
    pub(crate) bounded: bool,
    /// Where a partition that was never processed begins.
    pub(crate) start: u64,
    /// Records before it are gone, and may be done without.
    pub(crate) oldest: u64,
    /// A place in a group, to be taken once.
    pub(crate) membership: Mutex<Option<FakeMembership>>,
    /// The timestamp of the record at an offset, µs.
    pub(crate) stamp: fn(u64) -> i64,
}

/// The record timestamp of every fake record, unless it is said otherwise.
pub(crate) const STAMP_US: i64 = 1_700_000_000_000_000;

impl FakeSource {
    pub(crate) fn setup(partitions: &Arc<Mutex<Vec<Vec<Vec<u8>>>>>, bounded: bool) -> SourceSetup {
        Self::of(partitions, bounded).setup_with()
    }

    pub(crate) fn of(partitions: &Arc<Mutex<Vec<Vec<Vec<u8>>>>>, bounded: bool) -> Self {
        let schema = Arc::new(SourceSchema::default_schema());
        let membership = Mutex::default();
        Self { schema, partitions: partitions.clone(), bounded, start: 0, oldest: 0, membership, stamp: |_| STAMP_US }
    }

    pub(crate) fn setup_with(self) -> SourceSetup {
        SourceSetup { source: Arc::new(self), rules: AcceptRules::default(), dead_letters: None }
    }
}

impl Source for FakeSource {
    fn schema(&self) -> &Arc<SourceSchema> {
        &self.schema
    }

    fn partitions(&self) -> Result<Vec<u32>> {
        Ok((0..self.partitions.lock().unwrap().len() as u32).collect())
    }

    fn start(&self, _: u32) -> Result<u64> {
        Ok(self.start)
    }

    fn join(&self) -> Result<Option<Box<dyn Membership>>> {
        Ok(self.membership.lock().unwrap().take().map(|membership| Box::new(membership) as Box<dyn Membership>))
    }

    fn open(&self, partition: u32, offset: u64, _: Option<&serde_json::Value>) -> Result<Box<dyn PartitionReader>> {
        let gap = (offset < self.oldest).then_some(Gap { from: offset, to: self.oldest });
        let offset = offset.max(self.oldest);
        Ok(Box::new(FakeReader {
            decoder: JsonDecoder::new(self.schema.clone(), TimeUnit::Ms).with_rules(AcceptRules::default()),
            partitions: self.partitions.clone(),
            partition: partition as usize,
            offset: offset as usize,
            bounded: self.bounded,
            gap,
            stamp: self.stamp,
        }))
    }
}

struct FakeReader {
    decoder: JsonDecoder,
    partitions: Arc<Mutex<Vec<Vec<Vec<u8>>>>>,
    partition: usize,
    offset: usize,
    bounded: bool,
    gap: Option<Gap>,
    stamp: fn(u64) -> i64,
}

impl PartitionReader for FakeReader {
    fn poll(&mut self, max_records: usize) -> Result<Polled> {
        let partitions = self.partitions.lock().unwrap();
        let records = partitions[self.partition].iter().skip(self.offset).take(max_records);
        let mut batch = SourceBatch {
            events: EventBatch::new(self.decoder.schema().clone()),
            rejected: Vec::new(),
            next_offset: self.offset as u64,
        };
        for bytes in records {
            if bytes.is_empty() {
                batch.next_offset += 1;
                continue;
            }
            let record = Record { offset: batch.next_offset, record_time_us: (self.stamp)(batch.next_offset), bytes };
            self.decoder.decode_into(&mut batch, record);
        }
        match (batch.next_offset as usize > self.offset, self.bounded) {
            (true, _) => {
                self.offset = batch.next_offset as usize;
                Ok(Polled::Batch(batch))
            }
            (false, true) => Ok(Polled::End),
            (false, false) => Ok(Polled::Idle),
        }
    }

    fn memo(&self) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "read": self.offset }))
    }

    fn gap(&self) -> Option<Gap> {
        self.gap
    }
}

/// A clock that goes on by a millisecond whenever it is looked at: intervals pass without waiting.
#[derive(Debug, Default)]
pub(crate) struct StepClock(AtomicU64);

impl Clock for StepClock {
    fn now_us(&self) -> i64 {
        STAMP_US
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.0.fetch_add(1, Ordering::SeqCst))
    }
}
