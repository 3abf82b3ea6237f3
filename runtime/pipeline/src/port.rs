//! The ports: what the flow needs from the outside. Edges implement them; none is async, each call may
//! block, and every error says by its kind whether to retry.

use crate::Result;
use crate::query::Position;
use crossbeam_channel::Sender;
use plumb_core::column::{Column, DataType};
use plumb_core::entity::EntityKey;
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_core::plan::StateId;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Why a record was not accepted; the text is the reason shown in the dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The record's place in its partition.
    pub offset: u64,
    /// The record's own timestamp in µs.
    pub record_time_us: i64,
    /// The undecoded record (for a row of a columnar file, its JSON).
    pub bytes: Vec<u8>,
    /// Why, e.g. ``missing field `event_type` ``.
    pub reason: String,
}

/// Decoded records of one partition, in source order; an offset is in `events` or in `rejected`, never both.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceBatch {
    /// The records that could be decoded.
    pub events: EventBatch,
    /// The records that could not.
    pub rejected: Vec<Rejected>,
    /// The offset after the last record of this batch.
    pub next_offset: u64,
}

/// What a reader has to say.
#[derive(Debug)]
pub enum Polled {
    /// Some records.
    Batch(SourceBatch),
    /// Nothing new now; more may come.
    Idle,
    /// The end; nothing more will come (files, or `--until-end`).
    End,
}

/// A source of events: a number of partitions, each an ordered log.
pub trait Source: Send + Sync {
    /// What its records look like.
    fn schema(&self) -> &Arc<SourceSchema>;
    /// The partitions, in order.
    fn partitions(&self) -> Result<Vec<u32>>;
    /// Where a partition that was never processed begins: its oldest record, or where the settings say.
    fn start(&self, partition: u32) -> Result<u64> {
        let _ = partition;
        Ok(0)
    }
    /// The offset after the partition's last record, for the figures of lag; `None` where a source cannot say.
    fn end(&self, partition: u32) -> Result<Option<u64>> {
        let _ = partition;
        Ok(None)
    }
    /// Reads a partition from an offset on. `memo` is what this source kept in the partition's last
    /// manifest (a file source: its files in the order first seen), `None` at the first start. A source that no
    /// longer has the record at `offset` fails with the gap it would leave, unless it was told to accept gaps.
    fn open(&self, partition: u32, offset: u64, memo: Option<&serde_json::Value>) -> Result<Box<dyn PartitionReader>>;
    /// Why nothing can be read at the moment, as far as is known without asking; `None` where all is well.
    fn trouble(&self) -> Option<String> {
        None
    }
    /// Joins the processes that share the partitions between them; `None` if this process works on all of them.
    fn join(&self) -> Result<Option<Box<dyn Membership>>> {
        Ok(None)
    }
}

/// Where reading begins in partitions that were never processed, if not where the settings say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartFrom {
    /// At the oldest record.
    Earliest,
    /// After the newest record.
    Latest,
    /// At an offset, in every partition.
    Offset(u64),
    /// At an offset of its own in each of these partitions, in others where the settings say.
    Offsets(BTreeMap<u32, u64>),
    /// At the first record whose own timestamp is this or later, µs.
    Time(i64),
}

/// This process's place among those that share a source's partitions (Kafka's consumer group).
pub trait Membership: Send {
    /// The next change of what this process works on; `None` if there was none within `timeout`. To be called
    /// often whatever the partitions are doing: a member that does not call is taken for dead.
    fn next(&mut self, timeout: Duration) -> Result<Option<Change>>;
    /// Notes up to where a partition is committed, for the tools that show lag. Never read back.
    fn note_committed(&mut self, partition: u32, next_offset: u64);
    /// Leaves; every partition must have been released.
    fn leave(self: Box<Self>) -> Result<()>;
}

/// A change of what a process works on.
#[derive(Debug)]
pub enum Change {
    /// Take these partitions over.
    Assigned(Vec<u32>),
    /// Publish and commit these, let go of them, then send on `released`; others wait for it.
    Revoked {
        /// Which.
        partitions: Vec<u32>,
        /// Tells the source that they are free.
        released: Sender<()>,
    },
    /// These are somebody else's already: let go of them without another write.
    Lost(Vec<u32>),
}

/// Records that a source no longer had when they were to be read, and that the operator agreed to do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gap {
    /// The first missing offset.
    pub from: u64,
    /// The first offset after the missing ones.
    pub to: u64,
}

/// Reads one partition.
pub trait PartitionReader: Send {
    /// The next records, at most about `max_records`. Never blocks for longer than about 50 ms.
    fn poll(&mut self, max_records: usize) -> Result<Polled>;
    /// What the source wants to find again in the next `open` (kept in the manifest); `None` if nothing.
    fn memo(&self) -> Option<serde_json::Value>;
    /// The records that were missing where this reader was to begin, if the source was told to accept that; it
    /// begins after them.
    fn gap(&self) -> Option<Gap> {
        None
    }
}

/// A field of an online entity: per source partition one header and one field per raw tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OnlineField {
    /// First event time, base, tile totals and small tiles.
    Header,
    /// The raw contributions of the tile that begins at this instant (µs).
    Tile(i64),
}

/// One write of a publish: an absolute value, or its removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnlineWrite {
    /// The name of the entity (`user`), part of where a store puts it.
    pub entity: Arc<str>,
    /// The state the entity belongs to.
    pub state_id: StateId,
    /// The entity, or a reserved key.
    pub key: EntityKey,
    /// The field.
    pub field: OnlineField,
    /// Its new bytes; `None` removes it.
    pub value: Option<Vec<u8>>,
}

/// How a publish ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishOutcome {
    /// Written, and the position moved.
    Published,
    /// A higher generation owns the partition: stop.
    Fenced {
        /// That generation.
        current: u64,
    },
    /// The store holds another position than expected (`None`: none at all, it was emptied): rebuild or catch up.
    Mismatch {
        /// The position it holds.
        stored: Option<u64>,
    },
}

/// One entity to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnlineRead {
    /// The name of the entity (`user`), part of where a store puts it.
    pub entity: Arc<str>,
    /// The state.
    pub state_id: StateId,
    /// The entity, or a reserved key.
    pub key: EntityKey,
    /// The starts (µs) of the raw tiles that the windows' edges need; a store may return more.
    pub tiles: Vec<i64>,
}

/// What one source partition holds of an entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnlinePartial {
    /// The source partition.
    pub partition: u32,
    /// The header's bytes.
    pub header: Vec<u8>,
    /// Raw tiles by start.
    pub tiles: BTreeMap<i64, Vec<u8>>,
}

/// What a store holds of one entity.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OnlineEntity {
    /// What the partitions hold (partitions without anything are absent).
    pub partials: Vec<OnlinePartial>,
    /// The partitions whose data of this entity are of a later position than the answer's, with that position: a
    /// publish is under way, in a store that cannot make one visible all at once. Empty otherwise.
    pub ahead: BTreeMap<u32, u64>,
    /// Whether this entity's part of the store was lost and is not rebuilt yet.
    pub lost: bool,
}

impl From<Vec<OnlinePartial>> for OnlineEntity {
    fn from(partials: Vec<OnlinePartial>) -> Self {
        Self { partials, ahead: BTreeMap::new(), lost: false }
    }
}

/// The answer to a read, consistent at `positions` but for what its entities say of their own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OnlineAnswer {
    /// Per source partition the position the store has been published to; `None` = not (re)built yet.
    pub positions: BTreeMap<u32, Option<u64>>,
    /// Per entity asked, in order.
    pub entities: Vec<OnlineEntity>,
}

/// The online store: a fenced, positioned view that can always be rebuilt from state.
pub trait OnlineStore: Send + Sync {
    /// Whether it is a service of its own, which may be emptied, taken over or away while this process lives. Such a
    /// one is looked at every second, and written in short pieces because others wait meanwhile.
    fn is_remote(&self) -> bool {
        true
    }
    /// Claims a partition for a generation; returns the highest stored position, `None` if there is none or a part
    /// of the partition was lost. A higher stored generation is [`crate::Error::Fenced`].
    fn claim(&self, source: &str, partition: u32, generation: u64) -> Result<Option<u64>>;
    /// Writes `writes` and moves the position from `expected` to `position`, all or nothing (a store that cannot
    /// says of each entity what is ahead). Without writes and with the same position it is the heartbeat that
    /// notices a store that was emptied or taken over.
    fn publish(
        &self,
        source: &str,
        partition: u32,
        generation: u64,
        expected: Option<u64>,
        position: u64,
        writes: &[OnlineWrite],
    ) -> Result<PublishOutcome>;
    /// Writes without moving a position, while there is none (after [`OnlineStore::clear`] or at the first start):
    /// the parts of a rebuild, which readers do not see until the closing `publish` sets the position.
    /// [`PublishOutcome::Mismatch`] if the partition has a position.
    fn rebuild(&self, source: &str, partition: u32, generation: u64, writes: &[OnlineWrite]) -> Result<PublishOutcome>;
    /// Removes everything of a partition of a state (all states if `None`), and with `None` its position too.
    fn clear(&self, source: &str, partition: u32, generation: u64, state_id: Option<StateId>) -> Result<()>;
    /// Reads entities from all `partitions` of a source in one round trip, as of one consistent moment.
    fn read(&self, source: &str, partitions: &[u32], reads: &[OnlineRead]) -> Result<OnlineAnswer>;
}

/// Storage of whole files under `/`-separated paths, the base of commits.
pub trait ObjectStore: Send + Sync {
    /// Creates an object durably if the path is free: true = created, false = it exists.
    fn create(&self, path: &str, bytes: &[u8]) -> Result<bool>;
    /// Writes an object durably, replacing what is there.
    fn put(&self, path: &str, bytes: Vec<u8>) -> Result<()>;
    /// [`ObjectStore::put`] of many objects, sharing the cost of making them durable. Not atomic: after an error
    /// some may be there.
    fn put_all(&self, objects: Vec<(String, Vec<u8>)>) -> Result<()> {
        objects.into_iter().try_for_each(|(path, bytes)| self.put(&path, bytes))
    }
    /// Reads an object; `None` if it does not exist.
    fn get(&self, path: &str) -> Result<Option<Vec<u8>>>;
    /// Reads the bytes of an object from `range.start` up to `range.end` or its end; `None` if it does not exist.
    fn get_range(&self, path: &str, range: Range<u64>) -> Result<Option<Vec<u8>>> {
        let cut = |bytes: Vec<u8>| {
            let end = usize::try_from(range.end).map_or(bytes.len(), |end| end.min(bytes.len()));
            let start = usize::try_from(range.start).map_or(end, |start| start.min(end));
            bytes[start..end].to_vec()
        };
        Ok(self.get(path)?.map(cut))
    }
    /// The paths under a folder (all levels) in byte order, with their sizes.
    fn list(&self, folder: &str) -> Result<Vec<(String, u64)>>;
    /// The paths under a folder (all levels) with the time since each was written or moved there, by the clock of
    /// the store itself.
    fn ages(&self, folder: &str) -> Result<Vec<(String, Duration)>>;
    /// Moves an object durably; fine if it was moved before (`from` gone, `to` there).
    fn rename(&self, from: &str, to: &str) -> Result<()>;
    /// [`ObjectStore::rename`] of many objects (from, to), sharing the cost of making it durable. Not atomic;
    /// after an error call it again with the same moves.
    fn rename_all(&self, moves: &[(String, String)]) -> Result<()> {
        moves.iter().try_for_each(|(from, to)| self.rename(from, to))
    }
    /// [`ObjectStore::rename_all`] of `appear` and of `vanish`, such that a reader who lists the folder between the
    /// two sees one or the other: at once where a store can do that (local files: for objects of one folder),
    /// else with as little as possible in between, `appear` first. After an error call it again with the same moves.
    fn swap(&self, appear: &[(String, String)], vanish: &[(String, String)]) -> Result<()> {
        self.rename_all(appear)?;
        self.rename_all(vanish)
    }
    /// Removes an object; fine if it is gone.
    fn delete(&self, path: &str) -> Result<()>;
    /// [`ObjectStore::delete`] of many objects. After an error some may be gone.
    fn delete_all(&self, paths: &[String]) -> Result<()> {
        paths.iter().try_for_each(|path| self.delete(path))
    }
    /// Runs `work` while nobody else, of any process, runs what asks for the same `name` (a plain word): for a look and
    /// a change that is made of it. Whoever dies in it holds up nobody for long. An error if others do not end, and
    /// nothing is run then.
    fn alone(&self, name: &str, work: &mut dyn FnMut() -> Result<()>) -> Result<()>;
    /// The local path of an object where there is one, for readers that map files.
    fn local_path(&self, path: &str) -> Option<std::path::PathBuf>;
}

/// A row file staged for a commit, named in the manifest and moved to `path` after it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowFile {
    /// Where it is staged, under `_staging/`.
    pub staged: String,
    /// Where readers will find it.
    pub path: String,
    /// How many rows it holds.
    pub rows: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// SHA-256 of its bytes, hex.
    pub sha256: String,
    /// The smallest and largest event time in it, µs.
    pub event_time_us: (i64, i64),
    /// The smallest and largest source offset in it.
    pub offsets: (u64, u64),
}

/// The archive of accepted events: the truth from which every value can be computed again.
pub trait Archive: Send + Sync {
    /// Encodes and stages events of one partition, all batches one after the other (of one schema, of any size),
    /// one file per UTC date (`events/<source>/date=…/<name>.parquet`), and one file for those that
    /// [wait](crate::commit::waiting);
    /// `name` is unique to the commit (`<partition>-<generation>-<seq>`). Durable when it returns; invisible to readers.
    fn stage(&self, partition: u32, name: &str, batches: &[EventBatch]) -> Result<Vec<RowFile>>;
    /// Stages dead letters likewise (`dead_letters/<source>/…`); `view` is set for a fault of one view.
    fn stage_dead_letters(
        &self,
        source: &str,
        partition: u32,
        name: &str,
        letters: &[DeadLetter],
    ) -> Result<Vec<RowFile>>;
    /// Stages, for each (name, files), one file of that name in the folder of the files, with the rows of all of them
    /// in offset order: committed files of one partition and one folder. Their row count and a checksum of the rows
    /// in any order are the same before and after, or it is an internal error. Memory is in proportion to the
    /// largest.
    fn merge(&self, groups: &[(String, Vec<RowFile>)]) -> Result<Vec<RowFile>>;
    /// Stages the rows of all `files`, which are committed, of one partition and [wait](crate::commit::waiting), as files
    /// of the next step, all of that name, each in offset order. Checked as a merge is.
    fn spread(&self, name: &str, files: &[RowFile], step: crate::commit::waiting::Step) -> Result<Vec<RowFile>>;
    /// Reads committed events of a source.
    fn read(&self, schema: &Arc<SourceSchema>, scan: ArchiveScan) -> Result<Box<dyn EventReader>>;
    /// The same, each batch with its partition given to `visit`.
    fn scan(
        &self,
        schema: &Arc<SourceSchema>,
        scan: &ArchiveScan,
        visit: &mut dyn FnMut(u32, EventBatch) -> Result<()>,
    ) -> Result<()>;
}

/// Which committed events to read. Partitions come one after the other, each one's events in any order.
#[derive(Debug, Clone, Default)]
pub struct ArchiveScan {
    /// The committed files, as the manifests name them, with their partition.
    pub files: Vec<(u32, RowFile)>,
    /// Only fields the schema's columns at these indices (others come as nulls); `None` = all.
    pub columns: Option<Vec<usize>>,
    /// Only events with `start <= event_time < end`, µs.
    pub event_time_us: Option<(i64, i64)>,
    /// Only events whose partition's offset is below this; partitions not listed: all.
    pub below_offset: BTreeMap<u32, u64>,
    /// Only events at or above this offset, per partition.
    pub from_offset: BTreeMap<u32, u64>,
    /// Only events where this column (index) holds this string: one entity's history.
    pub equals: Option<(usize, String)>,
    /// Gives a partition's events in offset order where that takes bounded memory: files that were merged from many
    /// commits may overlap so widely that they come one after the other instead.
    pub in_order: bool,
}

/// A record or (record, view) that could not be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The record's place in its partition.
    pub offset: u64,
    /// The record's own timestamp in µs.
    pub record_time_us: i64,
    /// The record (for a view's fault, its JSON).
    pub bytes: Vec<u8>,
    /// Why.
    pub reason: String,
    /// The view and version for a fault of one view; `None` = the record was rejected.
    pub view: Option<String>,
}

/// Where dead letters go beside the archive (a topic).
pub trait DeadLetterSink: Send + Sync {
    /// Sends letters durably. Called before the commit that holds them, so after a crash they may be sent again;
    /// each carries its position, by which copies are known.
    fn send(&self, source: &str, partition: u32, letters: &[DeadLetter]) -> Result<()>;
}

/// A record on its way to a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SinkRecord<'a> {
    /// What partitions it: the source's key field, or else the event's id.
    pub key: Option<&'a [u8]>,
    /// The record.
    pub bytes: &'a [u8],
}

/// Where `POST /events` and `plumb produce` put records: the embedded log or a topic.
pub trait EventSink: Send + Sync {
    /// Appends records durably. Returns the next offset of each partition written to.
    fn append(&self, records: &[SinkRecord<'_>]) -> Result<BTreeMap<u32, u64>>;
}

/// Where events are appended before they are processed: the embedded log.
pub trait EventLog: Send + Sync {
    /// The number of partitions.
    fn partitions(&self) -> u32;
    /// Appends records durably, each to its partition, all or nothing; `stamp_us` is their record timestamp.
    /// Returns each partition's next offset.
    fn append(&self, stamp_us: i64, records: &[(u32, Vec<u8>)]) -> Result<BTreeMap<u32, u64>>;
    /// Up to `max_records` records of a partition from an offset on: (offset, stamp, bytes).
    fn read(&self, partition: u32, offset: u64, max_records: usize) -> Result<Vec<(u64, i64, Vec<u8>)>>;
    /// The offset after a partition's last record.
    fn end(&self, partition: u32) -> Result<u64>;
}

/// Reads accepted events of one source once, from the first to the last: event files,
/// or a scan of the archive. The order of events never changes a feature value.
pub trait EventReader: Send {
    /// The next events; `None` at the end. Batches of some 10,000 events read fastest.
    fn next_batch(&mut self) -> Result<Option<EventBatch>>;
    /// The same with the source partition that all events of the batch are of; files are partition 0.
    fn next_of_partition(&mut self) -> Result<Option<(u32, EventBatch)>> {
        Ok(self.next_batch()?.map(|batch| (0, batch)))
    }
    /// Says before the first batch that events at or after an instant (µs) are of no use; they may be left out.
    fn only_before(&mut self, _before_us: i64) {}
}

/// Opens the events of a source of this name, each time from the first one again.
pub type OpenEvents<'a> = dyn FnMut(&str) -> Result<Box<dyn EventReader>> + 'a;

/// Room on disk for what a job cannot keep in memory. What is in it is gone once this is dropped, however the process
/// ends.
pub trait Scratch: Send + Sync + std::fmt::Debug {
    /// Adds bytes at the end; returns where they begin.
    fn append(&self, bytes: &[u8]) -> Result<u64>;
    /// Reads as many bytes as the buffer holds, from where they were said to begin.
    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<()>;
}

/// Where a job makes its scratch files.
pub trait ScratchFolder: Send + Sync + std::fmt::Debug {
    /// A new one, empty.
    fn create(&self) -> Result<Box<dyn Scratch>>;
}

/// The view whose values a [`SnapshotSink`] gets, with what its files need to say about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotView {
    /// The entity's name.
    pub entity: String,
    /// The fields of the entity's key, in declared order.
    pub key_fields: Vec<String>,
    /// The view's name.
    pub view: String,
    /// The source that it reads.
    pub source: String,
    /// Version and digest as a folder name, e.g. `1.2.0_ab12cd34`.
    pub version_folder: String,
    /// The SHA-256 of the component, hex.
    pub digest: String,
    /// The features' names and types, in declared order.
    pub features: Vec<(String, DataType)>,
    /// The instants, as on the command line: `event`, `1h` or `1d`.
    pub every: String,
    /// Whose rows there are, as on the command line: `active` or `all`.
    pub entities: String,
    /// The max age in µs that the values follow, the view's own or another.
    pub max_age_us: Option<i64>,
}

/// What the snapshots of one view and UTC date were made from. Equal inputs give equal rows, however many files the
/// events were in, in which order, and in however many runs the dates were made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInputs {
    /// The date's first instant that was asked for, µs.
    pub first_us: i64,
    /// The date's last instant that was asked for, µs.
    pub last_us: i64,
    /// How many accepted events lie on the dates that the values can depend on.
    pub events: u64,
    /// What identifies those events, in any order: the sum of the xxh3-128 of each one's fields that the view reads.
    pub events_hash: u128,
    /// The least position (a token, as in `default:0=12,1=34`) that holds all of them.
    pub position: String,
}

impl SnapshotInputs {
    /// Whether a date was made of all events that another one is made of, at all of its instants.
    pub fn holds(&self, other: &Self) -> bool {
        let (Ok(has), Ok(wants)) = (Position::parse(&self.position), Position::parse(&other.position)) else {
            return false;
        };
        let reaches = |source: &str, partition: u32, offset: u64| {
            has.sources.get(source).and_then(|of| of.get(&partition)).is_some_and(|&has| has >= offset)
        };
        self.covers(other)
            && wants
                .sources
                .iter()
                .all(|(source, of)| of.iter().all(|(&partition, &next)| reaches(source, partition, next)))
    }

    /// Whether a date has all instants that another one has.
    pub fn covers(&self, other: &Self) -> bool {
        self.first_us <= other.first_us && self.last_us >= other.last_us
    }
}

/// A finished date of a view's snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotDate {
    /// What it was made from.
    pub inputs: SnapshotInputs,
    /// How many rows it has.
    pub rows: u64,
    /// How many of them are null because `finalize` failed.
    pub faulty: u64,
}

/// Feature values of one view at instants of one UTC date, ordered by instant, then by key bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotRows {
    /// The date's 00:00 UTC in µs; every instant lies in the day that begins here.
    pub day_us: i64,
    /// [`SnapshotInputs::position`] of the date.
    pub position: String,
    /// The instant each row's values hold at, µs.
    pub times_us: Vec<i64>,
    /// One string column per key field, in declared order, without nulls.
    pub keys: Vec<Column>,
    /// One column per feature, in declared order.
    pub features: Vec<Column>,
}

impl SnapshotRows {
    /// The number of rows.
    pub fn len(&self) -> usize {
        self.times_us.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.times_us.is_empty()
    }
}

/// Holds a backfill's snapshots, one folder per view, version and date
/// (`features/entity=E/view=V/version=…/date=YYYY-MM-DD/`). Dates are named by their 00:00 UTC in µs.
pub trait SnapshotSink: Send {
    /// The dates of a view that there are; `None` for one of which it is not known what it was made from, or of which
    /// something is missing. An error if they were made with other options than the view's.
    fn dates(&mut self, view: &SnapshotView) -> Result<BTreeMap<i64, Option<SnapshotDate>>>;
    /// Takes rows of one view and date. Dates of a view come in rising order; a large date comes in several calls.
    fn write(&mut self, view: &SnapshotView, rows: &SnapshotRows) -> Result<()>;
    /// All rows of a date have been written: at any time from now on they, and nothing else, become what the date has,
    /// whole. A date without rows may not have been written at all.
    fn complete(&mut self, view: &SnapshotView, day_us: i64, date: &SnapshotDate) -> Result<()>;
    /// Nothing belongs on a date any more.
    fn remove(&mut self, view: &SnapshotView, day_us: i64) -> Result<()>;
    /// Makes everything completed durable and visible; what was written and not completed is dropped.
    fn finish(&mut self) -> Result<()>;
}

/// Opens the place where a running job's snapshots are.
pub trait SnapshotSinks: Send + Sync {
    /// A sink that knows nothing yet of what is there.
    fn open(&self) -> Box<dyn SnapshotSink>;
}
