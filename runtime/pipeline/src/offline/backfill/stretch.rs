//! From labels to rows of snapshots: some parts of labels at a time are answered, and written in their order.

use super::super::bounded::{Budget, Limits, Parts, Progress, Slices, View};
use super::super::compute::Asked;
use super::super::dates::DatePlan;
use super::super::gather::ViewHistory;
use super::super::keys::KeyIndex;
use super::super::ranks::{LabelRank, Ranked, Sweep};
use super::super::select::ViewSelection;
use super::super::spill::{BySlice, Questions, Record, Spill};
use super::super::{Faults, Status, ViewColumns};
use crate::port::{SnapshotDate, SnapshotRows, SnapshotSink, SnapshotView};
use crate::{Error, Result};
use plumb_core::column::{Column, DataType};
use plumb_core::entity::EntityKey;
use plumb_core::temporal::Question;
use plumb_core::time::{DAY_US, floor_to};

/// One view, and where its history is.
#[derive(Debug, Clone, Copy)]
pub(super) struct OfView<'a> {
    pub(super) max_age_us: Option<i64>,
    pub(super) history: &'a ViewHistory,
    pub(super) slices: Slices<'a>,
    /// By distribution of the plan.
    pub(super) ranked: &'a [Ranked<'a>],
    pub(super) index: &'a KeyIndex,
    pub(super) threads: usize,
    /// Whether events say from when on they are seen.
    pub(super) keeps_known: bool,
    pub(super) limits: Limits,
    pub(super) budget: Budget<'a>,
}

impl<'a> OfView<'a> {
    fn by_slice<R: Record>(&self) -> BySlice<'a, R> {
        BySlice::new(self.budget.scratch, self.limits.slices, self.limits.question_bytes)
    }

    fn labels(&self) -> Spill<'a> {
        Spill::new(self.budget.scratch, 0, self.limits.question_bytes)
    }
}

/// Labels whose rows are made together, and their questions. A slice of history is looked at once for all of them.
#[derive(Debug)]
pub(super) struct Stretch<'a> {
    selected: &'a ViewSelection,
    of: OfView<'a>,
    /// The standings at the last label, by distribution.
    sweeps: Vec<Sweep<'a>>,
    ranks: Vec<BySlice<'a, LabelRank>>,
    /// The labels that it has at least before they are answered.
    enough: usize,
    questions: Questions<'a>,
    /// The instants and keys, by part.
    labels: Spill<'a>,
    /// The first label of each part, and the date (µs) before which all labels were given with it.
    starts: Vec<u32>,
    done_before_us: Vec<i64>,
    rows: usize,
    faults: Faults,
}

impl<'a> Stretch<'a> {
    /// None yet; labels are answered once there are `enough`.
    pub(super) fn new(selected: &'a ViewSelection, of: OfView<'a>, enough: usize) -> Result<Self> {
        let sweeps = of.ranked.iter().map(|ranked| ranked.sweep(of.index.len())).collect::<Result<_>>()?;
        Ok(Self {
            selected,
            of,
            sweeps,
            ranks: of.ranked.iter().map(|_| of.by_slice()).collect(),
            enough,
            questions: of.by_slice(),
            labels: of.labels(),
            starts: Vec::new(),
            done_before_us: Vec::new(),
            rows: 0,
            faults: Faults::default(),
        })
    }

    /// Adds a part of the labels, which is done with the dates before `done_before_us`.
    pub(super) fn add(
        &mut self,
        keys: &[u32],
        as_of_us: &[i64],
        done_before_us: i64,
        dates: &mut Dates<'_>,
    ) -> Result<()> {
        let too_many = || Error::internal("more than 2^32 rows of snapshots at a time");
        let first = u32::try_from(self.rows).map_err(|_| too_many())?;
        first.checked_add(keys.len() as u32).ok_or_else(too_many)?;
        let mut bytes = Vec::with_capacity(keys.len() * <(i64, u32)>::BYTES);
        for (label, (&key, &as_of_us)) in (first..).zip(keys.iter().zip(as_of_us)) {
            self.questions.push(key, Question { key, label, as_of_us })?;
            for (sweep, ranks) in self.sweeps.iter_mut().zip(&mut self.ranks) {
                ranks.push(key, (label, sweep.rank(key, as_of_us)?))?;
            }
            (as_of_us, key).put(&mut bytes);
        }
        let (part, all) = (self.labels.add_bucket()?, 0..bytes.len());
        self.labels.put(bytes, vec![(part, all)])?;
        self.starts.push(first);
        self.done_before_us.push(done_before_us);
        self.rows += keys.len();
        if self.rows < self.enough { Ok(()) } else { self.write(dates) }
    }

    /// Writes what is left.
    pub(super) fn finish(mut self, dates: &mut Dates<'_>) -> Result<Faults> {
        self.write(dates)?;
        dates.complete_before(i64::MAX)?;
        Ok(self.faults)
    }

    /// Answers all labels there are, and hands the rows on.
    fn write(&mut self, dates: &mut Dates<'_>) -> Result<()> {
        let OfView { max_age_us, history, slices, threads, keeps_known, limits, budget, .. } = self.of;
        let selected = self.selected;
        let answers = selected.answers(budget.scratch, self.starts.len(), limits.answer_bytes);
        let view = View {
            asked: Asked {
                transform: &selected.transform,
                features: &selected.features,
                keys: &[],
                as_of_us: &[],
                max_age_us,
            },
            history,
            keeps_known,
            slices,
            questions: &self.questions,
            ranks: &self.ranks,
            answers: &answers,
            parts: Parts::From(&self.starts),
        };
        self.faults.merge(view.answer(limits, threads, budget.progress)?);
        let mut bytes = Vec::new();
        for (part, &first) in self.starts.iter().enumerate() {
            budget.progress.map_or(Ok(()), Progress::go_on)?;
            self.labels.piece(part, 0, &mut bytes)?;
            let labels = bytes.chunks_exact(<(i64, u32)>::BYTES).map(<(i64, u32)>::of);
            let labels = labels.collect::<Option<Vec<_>>>();
            let labels = labels.ok_or_else(|| Error::internal("a scratch file holds no labels"))?;
            let rows = first as usize..first as usize + labels.len();
            let columns = answers.part(part, rows)?.columns(&selected.transform.def().name, threads)?;
            dates.write(&labels, &columns)?;
            dates.complete_before(self.done_before_us[part])?;
        }
        self.questions = self.of.by_slice();
        self.ranks.iter_mut().for_each(|ranks| *ranks = self.of.by_slice());
        self.labels = self.of.labels();
        self.starts.clear();
        self.done_before_us.clear();
        self.rows = 0;
        Ok(())
    }
}

/// What a date has been given.
#[derive(Debug, Default)]
struct DateRows {
    rows: u64,
    faulty: u64,
}

/// The dates of one view on their way into the sink.
pub(super) struct Dates<'a> {
    sink: &'a mut dyn SnapshotSink,
    view: &'a SnapshotView,
    index: &'a KeyIndex,
    plans: Vec<(DatePlan, DateRows)>,
    /// How many are complete.
    pub(super) completed: usize,
    /// The rows of all.
    pub(super) rows: u64,
}

impl<'a> Dates<'a> {
    /// No rows yet of these dates.
    pub(super) fn new(
        sink: &'a mut dyn SnapshotSink,
        view: &'a SnapshotView,
        index: &'a KeyIndex,
        plans: Vec<DatePlan>,
    ) -> Self {
        let plans = plans.into_iter().map(|plan| (plan, DateRows::default())).collect();
        Self { sink, view, index, plans, completed: 0, rows: 0 }
    }

    /// Hands rows that rise in time to the sink, a date at a time.
    fn write(&mut self, labels: &[(i64, u32)], computed: &ViewColumns) -> Result<()> {
        let mut start = 0;
        for day in labels.chunk_by(|a, b| floor_to(a.0, DAY_US) == floor_to(b.0, DAY_US)) {
            let (end, day_us) = (start + day.len(), floor_to(day[0].0, DAY_US));
            let planned = self.plans.binary_search_by_key(&day_us, |(plan, _)| plan.day_us);
            let unplanned = |_| Error::internal("rows of a date that was not planned");
            let (plan, given) = &mut self.plans[planned.map_err(unplanned)?];
            given.rows += day.len() as u64;
            let faulty = computed.status[start..end].iter().filter(|&&status| status == Status::Error);
            given.faulty += faulty.count() as u64;
            while start < end {
                let (position, until_us) = plan.position_at(labels[start].0);
                let of_position =
                    start..start + labels[start..end].partition_point(|&(as_of_us, _)| as_of_us <= until_us);
                let labels = &labels[of_position.clone()];
                let mut columns: Vec<Column> =
                    self.view.key_fields.iter().map(|_| Column::new(&DataType::Utf8)).collect();
                for &(_, key) in labels {
                    let key = EntityKey::from_bytes(self.index.get(key));
                    let parts = key.parts(columns.len());
                    let parts = parts.ok_or_else(|| Error::internal("an entity key lost its fields"))?;
                    columns.iter_mut().zip(parts).for_each(|(column, part)| column.push_bytes(part));
                }
                let rows = SnapshotRows {
                    day_us,
                    position: position.to_owned(),
                    times_us: labels.iter().map(|&(as_of_us, _)| as_of_us).collect(),
                    keys: columns,
                    features: computed.features.iter().map(|column| column.slice(of_position.clone())).collect(),
                };
                self.sink.write(self.view, &rows)?;
                start = of_position.end;
            }
        }
        self.rows += labels.len() as u64;
        Ok(())
    }

    /// Completes the dates before one (µs).
    fn complete_before(&mut self, day_us: i64) -> Result<()> {
        let done = self.plans.partition_point(|(plan, _)| plan.day_us < day_us);
        for (plan, rows) in &self.plans[self.completed.min(done)..done] {
            let date = SnapshotDate { inputs: plan.inputs.clone(), rows: rows.rows, faulty: rows.faulty };
            self.sink.complete(self.view, plan.day_us, &date)?;
            self.completed += 1;
        }
        Ok(())
    }
}
