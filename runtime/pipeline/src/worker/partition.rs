//! One source partition as a pure step: records in, changed state and rows to keep out. No IO, no clock.

use crate::accept::{AcceptRules, Accepted, Acceptor, Accounting};
use crate::commit::state_file::{Contents, IdBytes};
use crate::commit::{CommitPlan, Manifest, ViewRef, ViewWrites};
use crate::decode::json::encode;
use crate::metrics::reason_class;
use crate::port::{DeadLetter, Gap, OnlineField, OnlineWrite, SourceBatch};
use plumb_core::column::{Column, Values};
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_core::plan::StateId;
use plumb_core::state::{ApplyReport, Field, FieldWrite, ViewState};
use plumb_core::time::DAY_US;
use plumb_transform::Transform;
use rustc_hash::FxHashSet;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The longest record kept in a dead letter, in bytes.
pub const LETTER_BYTES_MAX: usize = 64 << 10;

/// So many rows of a date are worth a file that is never merged with others.
const FULL_ROWS: u64 = 100_000;

/// A view over one partition.
#[derive(Debug)]
pub struct PartitionView {
    /// The view.
    pub transform: Transform,
    /// Its entity's name.
    pub entity: Arc<str>,
    /// Its state.
    pub state: ViewState,
    /// What applying events has done since the process started.
    pub report: ApplyReport,
    /// Faults of the view since the process started.
    pub faults: u64,
    /// Whether no commit has taken the state yet: then its changes are all of it.
    uncommitted: bool,
}

impl PartitionView {
    /// A view with its state; `committed` if that is in the last commit.
    pub fn new(transform: Transform, state: ViewState, committed: bool) -> Self {
        let entity = transform.def().entity.name.as_str().into();
        Self { transform, entity, state, report: ApplyReport::default(), faults: 0, uncommitted: !committed }
    }

    /// How manifests name it.
    pub fn view_ref(&self) -> ViewRef {
        view_ref(&self.transform)
    }

    /// What changed since it was last drained, as writes to the online store.
    pub fn drain_publish(&mut self, writes: &mut Vec<OnlineWrite>) {
        let state_id = self.transform.state_id();
        let write = |write| online_write(self.entity.clone(), state_id, write);
        writes.extend(self.state.drain_publish().into_iter().map(write));
    }

    fn drain_commit(&mut self, snapshot: bool) -> ViewWrites {
        let changes = self.state.drain_commit();
        let first = std::mem::take(&mut self.uncommitted);
        let writes = if snapshot && !first { self.state.snapshot() } else { changes };
        ViewWrites { state_id: self.transform.state_id(), snapshot: snapshot || first, writes }
    }
}

/// How manifests name a view.
pub fn view_ref(transform: &Transform) -> ViewRef {
    ViewRef {
        name: transform.def().name.clone(),
        version: transform.def().version.to_string(),
        digest: transform.digest().to_string(),
        state_id: transform.state_id().to_string(),
    }
}

fn online_write(entity: Arc<str>, state_id: StateId, write: FieldWrite) -> OnlineWrite {
    OnlineWrite { entity, state_id, key: write.key, field: online_field(write.field), value: write.value }
}

/// A field of state as an online store has it.
pub fn online_field(field: Field) -> OnlineField {
    match field {
        Field::Header => OnlineField::Header,
        Field::Tile(start_us) => OnlineField::Tile(start_us),
    }
}

/// A partition between two batches.
#[derive(Debug)]
pub struct Partition {
    acceptor: Acceptor,
    views: Vec<PartitionView>,
    position: u64,
    /// The ids that a commit is to keep are every one.
    all_ids: bool,
    schema: Arc<SourceSchema>,
    /// Accepted since the last commit, as they came; the commit joins them.
    events: Vec<EventBatch>,
    event_bytes: u64,
    /// The UTC dates of `events`, and how many events there are.
    dates: FxHashSet<i64>,
    rows: u64,
    dead_letters: Vec<DeadLetter>,
    /// How many dead letters there were since the partition was taken over, by the class of their reason.
    letter_counts: BTreeMap<&'static str, u64>,
    /// Found missing since the last commit.
    gaps: Vec<Gap>,
}

impl Partition {
    /// A partition as of `base`; `contents` hold its ids.
    pub fn new(
        schema: &Arc<SourceSchema>,
        rules: AcceptRules,
        base: &Manifest,
        ids: Vec<IdBytes>,
        views: Vec<PartitionView>,
    ) -> Self {
        Self {
            acceptor: Acceptor::restore(schema, rules, base.accounting, base.newest_event_time_us, base.clock, ids),
            views,
            position: base.next_offset,
            all_ids: false,
            schema: schema.clone(),
            events: Vec::new(),
            event_bytes: 0,
            dates: FxHashSet::default(),
            rows: 0,
            dead_letters: Vec::new(),
            letter_counts: BTreeMap::new(),
            gaps: Vec::new(),
        }
    }

    /// Goes past records that the source no longer has; the next commit says so.
    pub fn skip(&mut self, gap: Gap) {
        assert!(gap.to >= self.position, "a source goes forward");
        self.position = gap.to;
        self.gaps.push(gap);
    }

    /// Applies a batch that begins at the position. With `keep` its rows go into the next commit; without, they
    /// are in one already and only state is brought forward.
    pub fn step(&mut self, batch: SourceBatch, keep: bool) {
        let Accepted { events, rejected, next_offset } = self.acceptor.accept(batch);
        assert!(next_offset >= self.position, "a source goes forward");
        assert!(self.acceptor.accounting().is_consistent(), "records read must equal records accounted for");
        for view in &mut self.views {
            let extracted = view.transform.extract(&events);
            let key_columns = view.transform.key_columns();
            view.report.add(&view.state.apply(&events, key_columns, &extracted.contributions));
            view.faults += extracted.faults.len() as u64;
            if keep && !extracted.faults.is_empty() {
                for fault in &extracted.faults {
                    *self.letter_counts.entry(reason_class(&fault.reason, true)).or_default() += 1;
                }
                let label = format!("{}@{}", view.transform.def().name, view.transform.version_label());
                self.dead_letters.extend(extracted.faults.into_iter().map(|fault| {
                    let mut bytes = Vec::new();
                    encode(&events, fault.row as usize, &mut bytes);
                    letter(&events, fault.row as usize, bytes, fault.reason, &label)
                }));
            }
        }
        self.position = next_offset;
        if !keep {
            return;
        }
        for rejected in &rejected {
            *self.letter_counts.entry(reason_class(&rejected.reason, false)).or_default() += 1;
        }
        self.dead_letters.extend(rejected.into_iter().map(|rejected| DeadLetter {
            offset: rejected.offset,
            record_time_us: rejected.record_time_us,
            bytes: cut(rejected.bytes),
            reason: rejected.reason,
            view: None,
        }));
        self.event_bytes += batch_bytes(&events);
        self.rows += events.len() as u64;
        let mut day = i64::MIN..i64::MIN;
        for &time_us in &events.times_us {
            // Neighbours are mostly of one date.
            if !day.contains(&time_us) {
                let start_us = time_us.div_euclid(DAY_US).saturating_mul(DAY_US);
                day = start_us..start_us.saturating_add(DAY_US);
                self.dates.insert(start_us);
            }
        }
        if !events.is_empty() {
            self.events.push(events);
        }
    }

    /// The offset after the last record applied.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// What became of the records.
    pub fn accounting(&self) -> &Accounting {
        self.acceptor.accounting()
    }

    /// The newest time of an accepted event, µs.
    pub fn newest_us(&self) -> Option<i64> {
        self.acceptor.newest_us()
    }

    /// The number of event ids in memory.
    pub fn remembered_ids(&self) -> usize {
        self.acceptor.remembered()
    }

    /// How many dead letters there were since the partition was taken over, by the class of their reason.
    pub fn letter_counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.letter_counts
    }

    /// What was accepted since the last commit was planned, in order.
    pub fn uncommitted(&self) -> &[EventBatch] {
        &self.events
    }

    /// The views.
    pub fn views(&self) -> &[PartitionView] {
        &self.views
    }

    /// The views, to publish them.
    pub fn views_mut(&mut self) -> &mut [PartitionView] {
        &mut self.views
    }

    /// Adds a view whose state is as of the position.
    pub fn add_view(&mut self, view: PartitionView) {
        self.remove_view(view.transform.state_id());
        self.views.push(view);
    }

    /// Removes a view and its state.
    pub fn remove_view(&mut self, state_id: StateId) -> Option<PartitionView> {
        let index = self.views.iter().position(|view| view.transform.state_id() == state_id)?;
        Some(self.views.remove(index))
    }

    /// How many keys have changed since they were last published.
    pub fn unpublished_keys(&self) -> usize {
        self.views.iter().map(|view| view.state.unpublished_keys()).sum()
    }

    /// The memory that waits for the next commit, in bytes.
    pub fn uncommitted_bytes(&self) -> u64 {
        self.event_bytes + self.dead_letters.iter().map(|letter| letter.bytes.len() as u64).sum::<u64>()
    }

    /// Whether a commit now would write a file of a date that is small even if nothing is merged later.
    pub fn is_small(&self) -> bool {
        self.rows < self.dates.len() as u64 * FULL_ROWS
    }

    /// Makes the next commit keep every id: the ones committed before are damaged.
    pub fn keep_all_ids(&mut self) {
        self.all_ids = true;
    }

    /// Takes what the next commit needs. `snapshot` asks for all state instead of changes.
    pub fn plan(&mut self, memo: Option<serde_json::Value>, snapshot: bool) -> CommitPlan {
        let fresh = self.acceptor.drain_ids();
        let all_ids = std::mem::take(&mut self.all_ids) | self.acceptor.take_stamped();
        self.event_bytes = 0;
        self.dates.clear();
        self.rows = 0;
        CommitPlan {
            next_offset: self.position,
            newest_event_time_us: self.acceptor.newest_us(),
            accounting: *self.acceptor.accounting(),
            memo,
            views: self.views.iter().map(PartitionView::view_ref).collect(),
            states: self.views.iter_mut().map(|view| view.drain_commit(snapshot)).collect(),
            clock: self.acceptor.clock(),
            ids: if all_ids { self.acceptor.snapshot_ids() } else { fresh },
            all_ids,
            schema: self.schema.clone(),
            events: std::mem::take(&mut self.events),
            dead_letters: std::mem::take(&mut self.dead_letters),
            gaps: std::mem::take(&mut self.gaps),
        }
    }
}

/// Splits a batch at an offset: what lies before it, and the rest.
pub fn split(batch: SourceBatch, offset: u64) -> (SourceBatch, Option<SourceBatch>) {
    if batch.next_offset <= offset {
        return (batch, None);
    }
    let rows = batch.events.offsets.partition_point(|&at| at < offset);
    let (early, late) = batch.rejected.into_iter().partition(|rejected| rejected.offset < offset);
    let before = SourceBatch { events: batch.events.take(0..rows), rejected: early, next_offset: offset };
    let events = batch.events.take(rows..batch.events.len());
    (before, Some(SourceBatch { events, rejected: late, next_offset: batch.next_offset }))
}

/// The state of a view among what was loaded; `None` if it is not in it.
pub fn take_state(contents: &mut Contents, transform: &Transform) -> Option<Vec<FieldWrite>> {
    contents.states.remove(&transform.state_id())
}

fn letter(events: &EventBatch, row: usize, bytes: Vec<u8>, reason: String, view: &str) -> DeadLetter {
    DeadLetter {
        offset: events.offsets[row],
        record_time_us: events.record_times_us[row],
        bytes: cut(bytes),
        reason,
        view: Some(view.to_owned()),
    }
}

fn cut(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(LETTER_BYTES_MAX);
    bytes
}

/// The memory of a batch, in bytes.
fn batch_bytes(batch: &EventBatch) -> u64 {
    (24 * batch.len()) as u64 + batch.columns.iter().map(column_bytes).sum::<u64>()
}

fn column_bytes(column: &Column) -> u64 {
    (match &column.values {
        Values::I64(v) | Values::Timestamp(v) => 8 * v.len() as u64,
        Values::F64(v) => 8 * v.len() as u64,
        Values::Bool(v) => v.len() as u64,
        Values::Utf8(v) | Values::Bytes(v) => (v.bytes.len() + 4 * v.offsets.len()) as u64,
        Values::List { offsets, child } => 4 * offsets.len() as u64 + column_bytes(child),
    }) + column.len() as u64 / 8
}
