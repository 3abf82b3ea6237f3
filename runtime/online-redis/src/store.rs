//! The store: opening it, and what reading and writing share.

use crate::fault::{Fault, FaultKind};
use crate::key::{Keys, POSITIONS_TAG, Place};
use crate::net::Dial;
use crate::probe::probe;
use crate::resp::Value;
use crate::scripts::Script;
use crate::settings::RedisSettings;
use crate::topology::{Batch, Topology, load_scripts, slot_of};
use plumb_core::plan::StateId;
use plumb_pipeline::port::{OnlineAnswer, OnlineRead, OnlineStore, OnlineWrite, PublishOutcome};
use plumb_pipeline::{Error, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The most buckets: there are no more hash slots.
const MOST_BUCKETS: u32 = 16384;

/// What the deadline of a write allows for each of its fields beyond the time of a small one.
const PER_WRITE: Duration = Duration::from_micros(50);

/// The online store in Redis.
pub struct RedisOnline {
    pub(crate) keys: Keys,
    pub(crate) topology: Topology,
    /// The scripts' digests, by index.
    digests: Vec<String>,
    /// The slot of the positions.
    pub(crate) positions_slot: u16,
    read_timeout: Duration,
    write_timeout: Duration,
    partitions: Mutex<BTreeMap<(String, u32), Shared>>,
}

/// What is known of a partition; one call at a time writes it.
pub(crate) type Shared = Arc<Mutex<Held>>;

impl std::fmt::Debug for RedisOnline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisOnline").field("keys", &self.keys).finish_non_exhaustive()
    }
}

/// What this process knows of a partition that it writes.
#[derive(Debug)]
pub(crate) struct Held {
    /// Its generation; 0 = not claimed.
    pub(crate) generation: u64,
    /// The mark of the whole, as last seen or written.
    pub(crate) whole: Place,
    /// The position that `claim` found, where some tags were ahead of the whole.
    pub(crate) shown: Option<u64>,
    /// In a Cluster per entity and bucket its mark.
    pub(crate) tags: BTreeMap<Arc<str>, Vec<Place>>,
    /// When all tags were last looked at.
    pub(crate) checked: Option<Instant>,
}

impl Default for Held {
    fn default() -> Self {
        Self { generation: 0, whole: Place::Building(0), shown: None, tags: BTreeMap::new(), checked: None }
    }
}

/// What a script said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    Done,
    /// There was no mark.
    New,
    /// There is no mark, or an older generation's.
    Lost,
    Fenced(u64),
    At(Place),
}

impl Said {
    fn of(replies: &[Value]) -> Option<Self> {
        let [reply] = replies else { return None };
        let text = reply.text()?;
        match text.split_once(' ') {
            None if text == "OK" => Some(Said::Done),
            None if text == "NEW" => Some(Said::New),
            None if text == "LOST" => Some(Said::Lost),
            Some(("FENCED", generation)) => generation.parse().ok().map(Said::Fenced),
            Some(("AT", place)) => Place::parse(place).map(Said::At),
            _ => None,
        }
    }
}

impl RedisOnline {
    /// Connects and checks that the servers can keep features: an evicting server, a replica and one that is too old
    /// are the caller's mistake, as are a wrong password and another number of buckets than the namespace has.
    pub fn open(settings: RedisSettings) -> Result<Arc<Self>> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        if settings.namespace.is_empty() || !settings.namespace.bytes().all(allowed) {
            let why = format!("namespace `{}`: use letters, digits, `_`, `-` and `.`", settings.namespace);
            return Err(Error::invalid(why));
        }
        if settings.buckets == 0 || settings.buckets > MOST_BUCKETS {
            return Err(Error::invalid(format!("buckets is {}; it must be 1 to {MOST_BUCKETS}", settings.buckets)));
        }
        let topology = Topology::new(&settings, Dial::new(&settings)?);
        let deadline = Instant::now() + settings.connect_timeout + settings.write_timeout;
        topology.refresh(deadline).map_err(opening)?;
        let mut digests = Vec::new();
        for node in topology.nodes() {
            // A connection of its own, so that a wrong password is told from a server that is away.
            drop(node.take(deadline).map_err(opening)?);
            probe(&node, settings.cluster, deadline)?;
            digests = load_scripts(&node, deadline).map_err(opening)?;
        }
        let store = Self {
            keys: Keys::new(&settings.namespace, settings.buckets),
            topology,
            digests,
            positions_slot: slot_of(POSITIONS_TAG),
            read_timeout: settings.read_timeout,
            write_timeout: settings.write_timeout,
            partitions: Mutex::new(BTreeMap::new()),
        };
        store.check_buckets(deadline)?;
        Ok(Arc::new(store))
    }

    fn check_buckets(&self, deadline: Instant) -> Result<()> {
        let key = self.keys.layout();
        let own = self.keys.buckets.to_string();
        let mut batch = Batch::default();
        batch.commands.command(&[b"SET", &key, own.as_bytes(), b"NX"]);
        batch.commands.command(&[b"GET", &key]);
        batch.end_unit(self.positions_slot, 2);
        let replies = self.topology.run(&batch, deadline, true).map_err(opening)?;
        match replies.first().and_then(|replies| replies.get(1)).and_then(Value::text) {
            Some(found) if found == own => Ok(()),
            Some(found) => Err(Error::invalid(format!(
                "buckets is {own}, but this namespace was written with {found}: use that, or another namespace"
            ))),
            None => Err(Error::internal("Redis does not say how many buckets the namespace has")),
        }
    }

    pub(crate) fn read_deadline(&self) -> Instant {
        Instant::now() + self.read_timeout
    }

    pub(crate) fn write_deadline(&self) -> Instant {
        Instant::now() + self.write_timeout
    }

    /// The deadline of so many writes. After a long outage very many are published at once, and they would never
    /// arrive by a deadline that is too short for them.
    pub(crate) fn write_deadline_for(&self, writes: usize) -> Instant {
        self.write_deadline() + PER_WRITE * u32::try_from(writes).unwrap_or(u32::MAX)
    }

    pub(crate) fn partition(&self, source: &str, partition: u32) -> Shared {
        let mut partitions = lock(&self.partitions);
        let held = partitions.entry((source.to_owned(), partition));
        held.or_default().clone()
    }

    /// Begins a call of a script with so many keys and arguments, which follow.
    pub(crate) fn begin(&self, batch: &mut Batch, script: Script, keys: usize, args: usize) {
        batch.commands.begin(3 + keys + args);
        batch.commands.arg(b"EVALSHA");
        batch.commands.arg(self.digests.get(script as usize).map_or(b"", |digest| digest.as_bytes()));
        batch.commands.number(keys);
    }

    /// A call of a script as a unit of its own.
    pub(crate) fn call(&self, batch: &mut Batch, slot: u16, script: Script, keys: &[&[u8]], args: &[&[u8]]) {
        self.begin(batch, script, keys.len(), args.len());
        keys.iter().chain(args).for_each(|arg| batch.commands.arg(arg));
        batch.end_unit(slot, 1);
    }

    /// Runs scripts and returns what each said.
    pub(crate) fn said(&self, batch: &Batch, deadline: Instant, again: bool, what: &str) -> Result<Vec<Said>> {
        let replies = self.topology.run(batch, deadline, again).map_err(|fault| Error::unavailable(what, fault))?;
        let strange = || Error::internal(format!("{what}: a script's answer was not understood"));
        replies.iter().map(|replies| Said::of(replies).ok_or_else(strange)).collect()
    }
}

/// An error of the start: what only the settings can cure is the caller's mistake.
fn opening(fault: Fault) -> Error {
    match fault.kind {
        FaultKind::Refused | FaultKind::Replica => Error::invalid(fault.text),
        _ => Error::unavailable("open the online store", fault),
    }
}

/// Poison is ignored: a partition whose writer panicked has a mark that the next write checks.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OnlineStore for RedisOnline {
    fn claim(&self, source: &str, partition: u32, generation: u64) -> Result<Option<u64>> {
        self.claim_partition(source, partition, generation)
    }

    fn publish(
        &self,
        source: &str,
        partition: u32,
        generation: u64,
        expected: Option<u64>,
        position: u64,
        writes: &[OnlineWrite],
    ) -> Result<PublishOutcome> {
        self.publish_partition(source, partition, generation, expected, position, writes)
    }

    fn rebuild(&self, source: &str, partition: u32, generation: u64, writes: &[OnlineWrite]) -> Result<PublishOutcome> {
        self.rebuild_partition(source, partition, generation, writes)
    }

    fn clear(&self, source: &str, partition: u32, generation: u64, state_id: Option<StateId>) -> Result<()> {
        self.clear_partition(source, partition, generation, state_id)
    }

    fn read(&self, source: &str, partitions: &[u32], reads: &[OnlineRead]) -> Result<OnlineAnswer> {
        self.read_entities(source, partitions, reads)
    }
}
