//! Views, events and readers for the tests of the drivers.

use super::{Labels, Selection};
use crate::commit::waiting::Step;
use crate::port::{
    Archive, ArchiveScan, DeadLetter, EventReader, RowFile, Scratch, ScratchFolder, SnapshotDate, SnapshotRows,
    SnapshotSink, SnapshotView,
};
use crate::{Error, Result};
use plumb_core::column::{Column, DataType, Values};
use plumb_core::contribution::Contributions;
use plumb_core::entity::EntityDef;
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_core::time::HOUR_US;
use plumb_core::view::{AggregateDef, FeatureDef, FieldUse, Operator, SlotDef, SlotType, ViewDef, WindowSpec};
use plumb_transform::{Fault, Guest, GuestOutput, RowError, Transform};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// A count of views above this fails `finalize` of the test views.
pub(super) const POISON_COUNT: i64 = 6;

/// Passes aggregates through as features; slots: view (mark), any (mark), price (f64), quantity (i64), category.
struct PassThrough;

impl Guest for PassThrough {
    fn extract(&self, rows: usize, columns: &[&Column]) -> Result<GuestOutput<Contributions>, Fault> {
        let mut marks = [Column::new(&DataType::Bool), Column::new(&DataType::Bool)];
        for row in 0..rows {
            marks[0].push_bool(columns[0].str_bytes(row) == Some(b"view"));
            marks[1].push_bool(columns[0].str_bytes(row) != Some(b"silent"));
        }
        let [view, any] = marks;
        let slots = vec![view, any, columns[1].clone(), columns[2].clone(), columns[3].clone()];
        let value = Contributions { rows: (0..rows as u32).collect(), slots };
        Ok(GuestOutput { value, errors: Vec::new() })
    }

    fn finalize(&self, _: &[i64], aggregates: &[Column]) -> Result<GuestOutput<Vec<Column>>, Fault> {
        let counts = aggregates[0].as_i64().unwrap().iter().enumerate();
        let errors = counts
            .filter(|&(_, &count)| count > POISON_COUNT)
            .map(|(row, _)| RowError { row: row as u32, message: "too many views".into() });
        Ok(GuestOutput { value: aggregates.to_vec(), errors: errors.collect() })
    }
}

fn view_def(name: &str, entity: &str, key: &[&str], ttl_us: Option<i64>) -> ViewDef {
    let slots = [
        ("view", SlotType::Mark),
        ("any", SlotType::Mark),
        ("price", SlotType::F64),
        ("quantity", SlotType::I64),
        ("category", SlotType::Utf8),
    ];
    let sliding = |width_us| WindowSpec::Sliding { width_us, hop_us: None };
    let hopped = WindowSpec::Sliding { width_us: 20, hop_us: Some(6) };
    let hopping = WindowSpec::Hopping { width_us: 12, hop_us: 4 };
    let mut aggregates = vec![
        (Operator::Count, 0, WindowSpec::Lifetime),
        (Operator::Count, 0, sliding(10)),
        (Operator::Sum, 2, sliding(30)),
        (Operator::Mean, 2, hopped),
        (Operator::Sum, 3, hopping),
        (Operator::TopK { k: 2 }, 4, sliding(25)),
        (Operator::Last, 2, sliding(15)),
        (Operator::Last, 4, WindowSpec::Lifetime),
        (Operator::LastTime, 0, WindowSpec::Lifetime),
        (Operator::SessionCount { gap_us: 3 }, 1, sliding(40)),
        (Operator::SessionDurationSum { gap_us: 3 }, 1, hopping),
    ];
    if entity == "item" {
        aggregates.push((Operator::RelativeRank, 0, hopping));
    }
    let tumbling = WindowSpec::Hopping { width_us: 9, hop_us: 9 };
    for window in [sliding(25), tumbling, WindowSpec::Lifetime] {
        for slot in [2, 3] {
            aggregates.extend([
                (Operator::Min, slot, window),
                (Operator::Max, slot, window),
                (Operator::Variance, slot, window),
                (Operator::StdDev, slot, window),
                (Operator::Quantile { ppm: 500_000 }, slot, window),
            ]);
        }
        aggregates.extend([
            (Operator::CountDistinct, 4, window),
            (Operator::ApproxDistinct { k: 1 }, 4, window),
            (Operator::CollectSet { k: 2 }, 4, window),
        ]);
    }
    let aggregates: Vec<AggregateDef> = aggregates
        .into_iter()
        .enumerate()
        .map(|(index, (operator, slot, window))| AggregateDef { name: format!("f{index}"), operator, slot, window })
        .collect();
    let features = aggregates.iter().enumerate().map(|(index, aggregate)| FeatureDef {
        name: aggregate.name.clone(),
        data_type: aggregate.operator.output_type(slots[aggregate.slot].1),
        description: String::new(),
        aggregates: vec![index],
    });
    let features = features.collect();
    let fields = [
        ("event_type", DataType::Utf8, true),
        ("price", DataType::F64, false),
        ("quantity", DataType::I64, false),
        ("category", DataType::Utf8, false),
    ];
    ViewDef {
        name: name.into(),
        version: semver::Version::new(1, 0, 0),
        entity: EntityDef { name: entity.into(), key: key.iter().map(|&field| field.to_owned()).collect() },
        source: "default".into(),
        description: String::new(),
        owner: String::new(),
        team: String::new(),
        tags: Vec::new(),
        ttl_us,
        freshness_us: None,
        fields: fields.map(|(name, data_type, required)| FieldUse { name: name.into(), data_type, required }).into(),
        slots: slots.map(|(name, slot_type)| SlotDef { name: name.into(), slot_type }).into(),
        aggregates,
        features,
    }
}

/// `user` (key `user_id`), `item` (key `item_id`, with a rank) and `pair` (both keys).
pub(super) fn transforms(ttl_us: Option<i64>) -> Vec<Transform> {
    let schema = Arc::new(SourceSchema::default_schema());
    [("users", "user", &["user_id"][..]), ("items", "item", &["item_id"]), ("pairs", "pair", &["user_id", "item_id"])]
        .map(|(name, entity, key)| {
            Transform::native(view_def(name, entity, key, ttl_us), Arc::new(PassThrough), &schema, 0).unwrap()
        })
        .into()
}

/// A view `users` of bounded windows only, each unit of theirs an hour.
pub(super) fn windowed() -> Transform {
    let mut def = view_def("users", "user", &["user_id"], None);
    let wide = |window: WindowSpec| match window {
        WindowSpec::Sliding { width_us, hop_us } => {
            WindowSpec::Sliding { width_us: width_us * HOUR_US, hop_us: hop_us.map(|hop_us| hop_us * HOUR_US) }
        }
        WindowSpec::Hopping { width_us, hop_us } => {
            WindowSpec::Hopping { width_us: width_us * HOUR_US, hop_us: hop_us * HOUR_US }
        }
        WindowSpec::Lifetime => WindowSpec::Lifetime,
    };
    let is_bounded = |aggregate: &AggregateDef| {
        aggregate.window != WindowSpec::Lifetime
            && !matches!(aggregate.operator, Operator::SessionCount { .. } | Operator::SessionDurationSum { .. })
    };
    let kept: Vec<usize> = (0..def.aggregates.len()).filter(|&index| is_bounded(&def.aggregates[index])).collect();
    def.features = kept.iter().map(|&index| def.features[index].clone()).collect();
    def.aggregates = kept.iter().map(|&index| def.aggregates[index].clone()).collect();
    def.aggregates.iter_mut().for_each(|aggregate| aggregate.window = wide(aggregate.window));
    def.features.iter_mut().enumerate().for_each(|(index, feature)| feature.aggregates = vec![index]);
    let schema = Arc::new(SourceSchema::default_schema());
    Transform::native(def, Arc::new(PassThrough), &schema, 0).unwrap()
}

/// As [`PassThrough`], but the quantity is the number of events that come later in the batch.
struct LookAhead;

impl Guest for LookAhead {
    fn extract(&self, rows: usize, columns: &[&Column]) -> Result<GuestOutput<Contributions>, Fault> {
        let mut output = PassThrough.extract(rows, columns)?;
        output.value.slots[3] = Column::of(Values::I64((0..rows as i64).rev().collect()));
        Ok(output)
    }

    fn finalize(&self, instants: &[i64], aggregates: &[Column]) -> Result<GuestOutput<Vec<Column>>, Fault> {
        PassThrough.finalize(instants, aggregates)
    }
}

/// A view `users` that is not row-wise: its `extract` sees later events.
pub(super) fn look_ahead() -> Transform {
    let schema = Arc::new(SourceSchema::default_schema());
    Transform::native(view_def("users", "user", &["user_id"], None), Arc::new(LookAhead), &schema, 0).unwrap()
}

#[derive(Debug, Clone, Default)]
pub(super) struct Event {
    pub(super) id: Option<String>,
    pub(super) time_us: i64,
    pub(super) ingest_us: i64,
    pub(super) user: Option<String>,
    pub(super) item: Option<String>,
    pub(super) kind: String,
    pub(super) price: Option<f64>,
    pub(super) quantity: Option<i64>,
    pub(super) category: Option<String>,
}

pub(super) fn batch(events: &[Event]) -> EventBatch {
    let mut batch = EventBatch::new(Arc::new(SourceSchema::default_schema()));
    let texts = |column: &mut Column, value: &Option<String>| match value {
        Some(value) => column.push_bytes(value.as_bytes()),
        None => column.push_null(),
    };
    for (offset, event) in events.iter().enumerate() {
        batch.offsets.push(offset as u64);
        batch.record_times_us.push(event.ingest_us);
        batch.times_us.push(event.time_us);
        texts(&mut batch.columns[0], &event.id);
        texts(&mut batch.columns[1], &event.user);
        texts(&mut batch.columns[2], &event.item);
        batch.columns[3].push_bytes(event.kind.as_bytes());
        texts(&mut batch.columns[4], &event.category);
        match event.price {
            Some(price) => batch.columns[5].push_f64(price),
            None => batch.columns[5].push_null(),
        }
        match event.quantity {
            Some(quantity) => batch.columns[6].push_i64(quantity),
            None => batch.columns[6].push_null(),
        }
        batch.columns[7].push_null();
        batch.columns[8].push_null();
    }
    batch
}

struct Batches(VecDeque<EventBatch>);

impl EventReader for Batches {
    fn next_batch(&mut self) -> Result<Option<EventBatch>> {
        Ok(self.0.pop_front())
    }
}

/// A reader of source `default` that gives these events, `size` at a time.
pub(super) fn readers(events: &[Event], size: usize) -> BTreeMap<String, Box<dyn EventReader>> {
    let batches = Batches(events.chunks(size.max(1)).map(batch).collect());
    BTreeMap::from([("default".to_owned(), Box::new(batches) as Box<dyn EventReader>)])
}

pub(super) fn text_column(values: &[Option<&str>]) -> Column {
    let mut column = Column::new(&DataType::Utf8);
    for value in values {
        match value {
            Some(value) => column.push_bytes(value.as_bytes()),
            None => column.push_null(),
        }
    }
    column
}

/// Labels of (user, item, time).
pub(super) fn labels(rows: &[(Option<&str>, Option<&str>, i64)]) -> Labels {
    let times = Column::of(Values::Timestamp(rows.iter().map(|row| row.2).collect()));
    let keys = BTreeMap::from([
        ("user_id".to_owned(), text_column(&rows.iter().map(|row| row.0).collect::<Vec<_>>())),
        ("item_id".to_owned(), text_column(&rows.iter().map(|row| row.1).collect::<Vec<_>>())),
    ]);
    Labels::new("event_time", &times, keys).unwrap()
}

pub(super) fn everything(ttl_us: Option<i64>) -> Selection {
    Selection::all(&transforms(ttl_us))
}

/// Scratch files in memory, which say no after so many bytes.
#[derive(Debug, Clone)]
pub(super) struct FakeScratch {
    bytes: Arc<Mutex<Vec<u8>>>,
    pub(super) written: Arc<AtomicUsize>,
    room: usize,
}

impl FakeScratch {
    pub(super) fn with_room(room: usize) -> Self {
        Self { bytes: Arc::default(), written: Arc::default(), room }
    }
}

impl Scratch for FakeScratch {
    fn append(&self, bytes: &[u8]) -> Result<u64> {
        if self.written.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len() > self.room {
            return Err(Error::unavailable("write a scratch file", "no space left on device"));
        }
        let mut all = self.bytes.lock().unwrap();
        all.extend_from_slice(bytes);
        Ok((all.len() - bytes.len()) as u64)
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        let all = self.bytes.lock().unwrap();
        bytes.copy_from_slice(&all[at as usize..at as usize + bytes.len()]);
        Ok(())
    }
}

impl ScratchFolder for FakeScratch {
    fn create(&self) -> Result<Box<dyn Scratch>> {
        Ok(Box::new(Self { bytes: Arc::default(), written: self.written.clone(), room: self.room }))
    }
}

/// What is kept of a date.
pub(super) type KeptDate = (SnapshotDate, Vec<SnapshotRows>);

/// Keeps snapshots in memory.
#[derive(Debug, Default)]
pub(super) struct FakeSnapshots {
    /// By view and date.
    pub(super) dates: BTreeMap<String, BTreeMap<i64, KeptDate>>,
    /// What was written and not completed.
    pub(super) open: Vec<(String, SnapshotRows)>,
    /// The dates completed and removed, in order.
    pub(super) completed: Vec<(String, i64)>,
    pub(super) removed: Vec<(String, i64)>,
    pub(super) finished: bool,
    /// Fails once it has completed so many dates.
    pub(super) fails_after: Option<usize>,
}

impl FakeSnapshots {
    /// Begins another run over what is there.
    pub(super) fn again(self, fails_after: Option<usize>) -> Self {
        Self { dates: self.dates, fails_after, ..Self::default() }
    }
}

impl SnapshotSink for FakeSnapshots {
    fn dates(&mut self, view: &SnapshotView) -> Result<BTreeMap<i64, Option<SnapshotDate>>> {
        let dates = self.dates.get(&view.view).into_iter().flatten();
        Ok(dates.map(|(&day_us, (date, _))| (day_us, Some(date.clone()))).collect())
    }

    fn write(&mut self, view: &SnapshotView, rows: &SnapshotRows) -> Result<()> {
        self.open.push((view.view.clone(), rows.clone()));
        Ok(())
    }

    fn complete(&mut self, view: &SnapshotView, day_us: i64, date: &SnapshotDate) -> Result<()> {
        if self.fails_after.is_some_and(|dates| self.completed.len() >= dates) {
            return Err(Error::internal("killed"));
        }
        let is_ours = |(of, rows): &(String, SnapshotRows)| *of == view.view && rows.day_us == day_us;
        let (ours, others) = std::mem::take(&mut self.open).into_iter().partition(is_ours);
        self.open = others;
        let rows: Vec<SnapshotRows> = ours.into_iter().map(|(_, rows)| rows).collect();
        assert_eq!(rows.iter().map(|rows| rows.len() as u64).sum::<u64>(), date.rows);
        self.dates.entry(view.view.clone()).or_default().insert(day_us, (date.clone(), rows));
        self.completed.push((view.view.clone(), day_us));
        Ok(())
    }

    fn remove(&mut self, view: &SnapshotView, day_us: i64) -> Result<()> {
        self.dates.entry(view.view.clone()).or_default().remove(&day_us);
        self.removed.push((view.view.clone(), day_us));
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        assert!(self.open.is_empty(), "rows of a date that was never completed");
        self.finished = true;
        Ok(())
    }
}

/// An archive of events in memory that honours what a scan narrows.
#[derive(Debug)]
pub(super) struct Memory(pub(super) Vec<Event>);

impl Archive for Memory {
    fn stage(&self, _: u32, _: &str, _: &[EventBatch]) -> Result<Vec<RowFile>> {
        unreachable!("the tests write nothing")
    }

    fn stage_dead_letters(&self, _: &str, _: u32, _: &str, _: &[DeadLetter]) -> Result<Vec<RowFile>> {
        unreachable!("the tests write nothing")
    }

    fn merge(&self, _: &[(String, Vec<RowFile>)]) -> Result<Vec<RowFile>> {
        unreachable!("the tests write nothing")
    }

    fn spread(&self, _: &str, _: &[RowFile], _: Step) -> Result<Vec<RowFile>> {
        unreachable!("the tests write nothing")
    }

    fn read(&self, _: &Arc<SourceSchema>, _: ArchiveScan) -> Result<Box<dyn EventReader>> {
        unreachable!("the tests scan")
    }

    fn scan(
        &self,
        schema: &Arc<SourceSchema>,
        scan: &ArchiveScan,
        visit: &mut dyn FnMut(u32, EventBatch) -> Result<()>,
    ) -> Result<()> {
        let (start_us, end_us) = scan.event_time_us.unwrap();
        let mut batch = batch(&self.0);
        let kept: Vec<usize> = (0..batch.len())
            .filter(|&row| (start_us..end_us).contains(&batch.times_us[row]))
            .filter(|&row| {
                scan.equals
                    .as_ref()
                    .is_none_or(|(column, value)| batch.columns[*column].str_bytes(row) == Some(value.as_bytes()))
            })
            .collect();
        let wanted = scan.columns.as_ref().unwrap();
        for column in (0..schema.columns()).filter(|column| !wanted.contains(column)) {
            batch.columns[column] = Column::nulls(&batch.columns[column].data_type(), batch.len());
        }
        visit(0, batch.take(kept))
    }
}
