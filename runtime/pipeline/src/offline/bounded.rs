//! The join in bounded memory: labels come and rows go a part at a time, and what lies between is on disk.
//!
//! Labels are read once; their keys are numbered, and each becomes a question under its *slice* of keys. Events are read
//! once; the workers' shares of history are unloaded by slice whenever they get large. Then every slice is answered on
//! its own, by the kernel of [`join()`](super::join()), and its answers are put down by *part* of the label file, so that
//! the parts can be put together in the order of their rows. What fits in memory stays there. Neither the budget nor
//! the number of threads changes a value: every slice has all contributions of its keys.
//!
//! In memory stay the distinct keys of the labels (some 80 bytes each), for ranks among all entities those of all
//! events, and at any time the history of one slice per thread and some 65,000 rows of the
//! training set.

use super::answers::{Answers, PartAnswers};
use super::compute::{Asked, answer_slice};
use super::gather::{Gathered, Gatherer, ViewHistory, Wanted};
use super::join::{AsOf, ColdStart, JoinOptions, JoinSummary, Knowledge};
use super::keys::{KeyIndex, SharedKeys};
use super::ranks::{self, InTime, LabelRank, rank_labels};
use super::select::{Selection, ViewSelection};
use super::spill::{BySlice, Questions, Spill, Unloading};
use super::{Faults, Labels, Status, ViewColumns, thread_count};
use crate::parallel::in_threads;
use crate::port::{EventReader, ScratchFolder};
use crate::{Error, Result};
use plumb_core::codec::plain::{put_column, read_columns};
use plumb_core::column::{Column, DataType, Values};
use plumb_core::temporal::{Arranged, Cut, Histories, History, NO_KEY, Question, in_order};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::thread;

/// The least memory a join is given: less leaves no room for what is read at a time.
pub const MEMORY_MIN_BYTES: u64 = 64 << 20;

/// Into how many slices keys are cut: a slice of 100 million events has some ten megabytes.
const SLICES: usize = 256;

/// A training set is put together so many labels at a time, whatever the budget: a column's values stay in the nearer
/// caches until they are written.
pub(super) const PART_ROWS: usize = 64 * 1024;

/// So many batches of labels have numbers and wait to become questions.
const NUMBERED_AHEAD: usize = 2;

/// The most bytes that a worker sorts at once.
const SORT_BYTES: usize = 16 << 20;

/// How much memory a join may take for what grows with its input, and where the rest goes.
#[derive(Debug, Clone, Copy)]
pub struct Budget<'a> {
    /// The bytes; less than [`MEMORY_MIN_BYTES`] is exceeded.
    pub bytes: u64,
    /// Where what does not fit is put.
    pub scratch: &'a dyn ScratchFolder,
    /// Told how far the job is.
    pub progress: Option<&'a dyn Progress>,
}

/// Hears how far a job is.
pub trait Progress: Sync + std::fmt::Debug {
    /// Answering begins, of so many labels (a label counts for each view).
    fn begin_answers(&self, labels: u64);
    /// So many more were answered.
    fn answered(&self, labels: u64);
    /// Asked now and then; an error where the job is to stop, which it then ends with.
    fn go_on(&self) -> Result<()>;
}

/// Reads labels once, from the first to the last, with the key columns of every asked view.
pub trait LabelReader {
    /// The next labels; `None` at the end.
    fn next_labels(&mut self) -> Result<Option<Labels>>;
}

/// Some rows of a training set, whose columns are made when they are asked for: by the threads that need them, one
/// after the other, so that a column is still near when it is written.
pub trait TrainingPart: Sync {
    /// The labels kept, by their place among all labels, ascending.
    fn rows(&self) -> &[u32];
    /// A column beside the labels', by its place among [`Selection::column_types`].
    fn column(&self, index: usize) -> Column;
    /// All answers of all views.
    fn views(&self) -> Result<Vec<ViewColumns>>;
}

/// Takes a training set part by part, in the order of the labels.
pub trait TrainingSink {
    /// Takes the next rows; every part has all views.
    fn write(&mut self, part: &dyn TrainingPart) -> Result<()>;
}

/// What the budget allows, in numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) slices: usize,
    /// Of a worker's share of history.
    pub(super) share_bytes: usize,
    /// That a worker sorts at once.
    pub(super) sort_bytes: usize,
    /// Of what is sorted, in memory, of one list.
    pub(super) run_bytes: usize,
    /// Of an entity's questions.
    pub(super) question_bytes: usize,
    /// Of the answers that stay in memory, of all views.
    pub(super) answer_bytes: usize,
    /// Labels answered at a time, by a thread.
    pub(super) answer_rows: usize,
    /// Labels of a join put together at a time.
    pub(super) part_rows: usize,
    /// Of the histories of the slices that are answered at a time.
    pub(super) slice_bytes: usize,
}

impl Limits {
    pub(super) fn new(bytes: u64, selection: &Selection, threads: usize) -> Self {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        // Of a label, in all views: values, and what says which are there.
        let of_type = |data_type: &DataType| match data_type {
            DataType::List(_) => 128,
            DataType::Utf8 | DataType::Bytes => 32,
            _ => 9,
        };
        let row_bytes: usize = selection
            .views
            .iter()
            .map(|view| view.transform.def().features.iter().map(|f| of_type(&f.data_type)).sum::<usize>() + 32)
            .sum();
        Self {
            slices: SLICES,
            // Blocks have room left, and what is unloaded is copied once.
            share_bytes: bytes / 8 / threads,
            sort_bytes: (bytes / 16 / threads).min(SORT_BYTES),
            run_bytes: bytes / 16,
            question_bytes: bytes / 16,
            answer_bytes: bytes / 8,
            // Aggregates, features, and both in the order of the labels.
            answer_rows: (bytes / 8 / (4 * row_bytes)).max(1024),
            part_rows: PART_ROWS,
            slice_bytes: bytes / 4,
        }
    }
}

/// Joins as [`join()`](super::join()) does, within a budget. `readers` holds one reader per source that the views name.
pub fn join_within<'r>(
    readers: &mut BTreeMap<String, Box<dyn EventReader + 'r>>,
    selection: &Selection,
    labels: &mut dyn LabelReader,
    options: &JoinOptions,
    budget: Budget<'_>,
    sink: &mut dyn TrainingSink,
) -> Result<JoinSummary> {
    let limits = Limits::new(budget.bytes, selection, thread_count(options.threads));
    run(readers, selection, labels, options, budget, limits, sink)
}

/// What is asked of one source.
struct OfSource<'a> {
    source: &'a str,
    views: Vec<&'a ViewSelection>,
    wanted: Vec<Wanted<'a>>,
    entities: Vec<&'a [String]>,
    keys: Vec<KeyIndex>,
    questions: Vec<Questions<'a>>,
    /// The labels in the order of time, of entities that are ranked.
    in_time: Vec<Option<InTime<'a>>>,
}

/// As [`join_within`], with limits of any size.
pub(super) fn run<'r>(
    readers: &mut BTreeMap<String, Box<dyn EventReader + 'r>>,
    selection: &Selection,
    labels: &mut dyn LabelReader,
    options: &JoinOptions,
    budget: Budget<'_>,
    limits: Limits,
    sink: &mut dyn TrainingSink,
) -> Result<JoinSummary> {
    let keeps_known = options.knowledge == Knowledge::Ingested;
    let threads = thread_count(options.threads);
    let mut summary = JoinSummary::default();
    let mut sources = Vec::new();
    for (source, indices) in selection.by_source() {
        let views: Vec<&ViewSelection> = indices.iter().map(|&index| &selection.views[index]).collect();
        let (wanted, entities) = Wanted::of(views.iter().map(|view| &view.transform));
        let questions =
            entities.iter().map(|_| Questions::new(budget.scratch, limits.slices, limits.question_bytes)).collect();
        let keys = entities.iter().map(|_| KeyIndex::default()).collect();
        let rows = limits.sort_bytes / size_of::<(i64, u32, u32)>();
        let in_time = (0..entities.len())
            .map(|entity| is_ranked(&wanted, entity).then(|| InTime::new(budget.scratch, limits.run_bytes, rows)))
            .collect();
        sources.push(OfSource { source, views, wanted, entities, keys, questions, in_time });
    }
    let instants = keeps_known.then(|| Spill::new(budget.scratch, 1, limits.question_bytes));
    let go_on = || budget.progress.map_or(Ok(()), Progress::go_on);
    let before_us = ask(&mut sources, labels, options, instants.as_ref(), &go_on, &mut summary)?;
    if let Some(progress) = budget.progress {
        progress.begin_answers(summary.rows_in * selection.views.len() as u64);
    }

    let parts = (summary.rows_in as usize).div_ceil(limits.part_rows);
    let answers: BTreeMap<&str, Answers<'_>> = selection
        .views
        .iter()
        .map(|view| {
            let limit_bytes = limits.answer_bytes / selection.views.len();
            (view.transform.def().name.as_str(), view.answers(budget.scratch, parts, limit_bytes))
        })
        .collect();
    let mut known_until_us = i64::MAX;
    for of_source in sources {
        let OfSource { source, views, wanted, keys, questions, in_time, .. } = of_source;
        let reader = readers.get_mut(source).ok_or_else(|| {
            let view = &views[0].transform.def().name;
            Error::invalid(format!("view `{view}` reads source `{source}`, for which no events were given"))
        })?;
        // When the last event of all was ingested, says how far the archive knows what was known.
        if !keeps_known {
            reader.only_before(before_us);
        }
        let keys = keys.into_iter().enumerate();
        let keys = keys.map(|(entity, index)| SharedKeys::of(index, is_ranked(&wanted, entity)));
        let keys: Vec<SharedKeys> = keys.collect();
        let gatherer = Gatherer {
            views: wanted,
            keys,
            from_us: i64::MIN,
            before_us,
            slices: limits.slices,
            activity: None,
            keeps_known,
        };
        let unloading = Unloading::new(budget.scratch, &gatherer.views, keeps_known, &limits);
        let gathered = Gathered::of(gatherer.read_unloading(reader.as_mut(), threads, Some(&unloading))?);
        summary.events += gathered.events;
        known_until_us = known_until_us.min(gathered.newest_known_us.unwrap_or(i64::MIN));
        let Gatherer { views: wanted, keys, .. } = gatherer;
        let indexes = keys.into_iter().map(SharedKeys::into_index).collect::<Result<Vec<_>>>()?;
        let in_time = in_time.into_iter().map(|of| of.map(InTime::finish).transpose()).collect::<Result<Vec<_>>>()?;
        for (index, (mut history, wanted)) in gathered.views.into_iter().zip(wanted).enumerate() {
            let def = views[index].transform.def();
            let mut cuts = Vec::new();
            if unloading.is_used() {
                history.parts = Histories::default();
            } else {
                cuts = history.parts.cut(limits.slices).into_iter().map(Mutex::new).collect();
            }
            let mut ranks = Vec::new();
            for (ranked, in_time) in unloading.ranked[index].iter().zip(in_time[wanted.keys].iter().cycle()) {
                let by_slice = BySlice::new(budget.scratch, limits.slices, limits.question_bytes);
                ranks.push(rank_labels(ranked, in_time, &indexes[wanted.keys], by_slice)?);
            }
            let view = View {
                asked: Asked {
                    transform: &views[index].transform,
                    features: &views[index].features,
                    keys: &[],
                    as_of_us: &[],
                    max_age_us: options.max_age_us.or(def.ttl_us),
                },
                history: &history,
                keeps_known,
                slices: match unloading.is_used() {
                    true => Slices::Unloaded(&unloading.histories[index]),
                    false => Slices::Gathered(&cuts),
                },
                questions: &questions[wanted.keys],
                ranks: &ranks,
                answers: &answers[def.name.as_str()],
                parts: Parts::Of(limits.part_rows),
            };
            let faults = view.answer(limits, threads, budget.progress)?;
            for (list, faults) in
                [(&mut summary.extract_faults, history.faults), (&mut summary.finalize_faults, faults)]
            {
                if faults.count > 0 {
                    list.entry(def.name.clone()).or_default().merge(faults);
                }
            }
        }
    }
    if let Some(instants) = instants {
        instants.each(0, |bytes| {
            let columns = read_columns(bytes, [&DataType::Timestamp])?;
            let as_of_us = columns[0].as_i64().unwrap_or_default();
            // An event may still be ingested in the very µs of the last one.
            summary.rows_ahead += as_of_us.iter().filter(|&&as_of_us| as_of_us > known_until_us).count() as u64;
            Ok(())
        })?;
    }
    put_together(selection, &answers, limits.part_rows, options, &go_on, &mut summary, sink)?;
    Ok(summary)
}

/// Whether some view ranks an entity among all.
fn is_ranked(wanted: &[Wanted<'_>], entity: usize) -> bool {
    wanted.iter().any(|view| view.keys == entity && !view.transform.plan().globals.is_empty())
}

/// Labels whose keys have numbers, for the questions of one entity of one source.
struct Numbered {
    source: usize,
    entity: usize,
    /// The place of the first among all labels.
    first: u64,
    keys: Vec<u32>,
    as_of_us: Arc<Vec<i64>>,
}

/// Reads all labels and makes them questions; keeps their instants where wanted, and returns the newest. Keys are numbered
/// while those of the labels before become questions, with more than one thread.
fn ask(
    sources: &mut [OfSource<'_>],
    labels: &mut dyn LabelReader,
    options: &JoinOptions,
    instants: Option<&Spill<'_>>,
    go_on: &dyn Fn() -> Result<()>,
    summary: &mut JoinSummary,
) -> Result<i64> {
    let (mut keys, mut lists) = (Vec::new(), Vec::new());
    for OfSource { wanted, entities, keys: numbers, questions, in_time, .. } in sources {
        keys.push((&*wanted, &*entities, numbers));
        lists.push((questions, in_time));
    }
    let mut put = |Numbered { source, entity, first, keys, as_of_us }: Numbered| -> Result<()> {
        let (questions, in_time) = &mut lists[source];
        for (row, (key, &as_of_us)) in keys.into_iter().zip(as_of_us.iter()).enumerate() {
            if key != NO_KEY {
                let label = (first + row as u64) as u32;
                questions[entity].push(key, Question { key, label, as_of_us })?;
                in_time[entity].as_mut().map_or(Ok(()), |in_time| in_time.push(as_of_us, key, label))?;
            }
        }
        Ok(())
    };
    let mut number = |put: &mut dyn FnMut(Numbered) -> Result<()>| -> Result<i64> {
        let mut before_us = i64::MIN;
        while let Some(labels) = labels.next_labels()? {
            go_on()?;
            let first = summary.rows_in;
            summary.rows_in += labels.len() as u64;
            if summary.rows_in >= u64::from(u32::MAX) {
                return Err(Error::invalid("more than 2^32 labels in one job"));
            }
            let as_of = |&time_us: &i64| match options.as_of {
                AsOf::Before => time_us,
                AsOf::At => time_us.saturating_add(1),
            };
            let as_of_us: Arc<Vec<i64>> = Arc::new(labels.times_us.iter().map(as_of).collect());
            before_us = before_us.max(as_of_us.iter().copied().max().unwrap_or(i64::MIN));
            if let Some(instants) = instants.filter(|_| !labels.is_empty()) {
                let mut bytes = Vec::new();
                put_column(&mut bytes, &Column::of(Values::Timestamp(as_of_us.to_vec())));
                let all = 0..bytes.len();
                instants.put(bytes, vec![(0, all)])?;
            }
            for (source, (wanted, entities, keys)) in keys.iter_mut().enumerate() {
                for (entity, (fields, keys)) in entities.iter().zip(keys.iter_mut()).enumerate() {
                    let view = wanted.iter().find(|view| view.keys == entity);
                    let view = view.map_or("", |view| view.transform.def().name.as_str());
                    let keys = keys.number(&labels.key_columns(view, fields)?, labels.len())?;
                    put(Numbered { source, entity, first, keys, as_of_us: as_of_us.clone() })?;
                }
            }
        }
        Ok(before_us)
    };
    if thread_count(options.threads) == 1 {
        return number(&mut put);
    }
    thread::scope(|scope| {
        let (to, from) = sync_channel(NUMBERED_AHEAD);
        let putting = scope.spawn(move || from.into_iter().try_for_each(put));
        let gone = || Error::internal("the thread that puts questions down ended early");
        let newest = number(&mut |numbered| to.send(numbered).map_err(|_| gone()));
        drop(to);
        // It ends early by an error of its own, which is the one to tell.
        putting.join().map_err(|_| Error::internal("a thread that put questions down panicked"))??;
        newest
    })
}

/// Where a view's slices are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Slices<'a> {
    /// As the workers gathered them, each for one look.
    Gathered(&'a [Mutex<Cut>]),
    /// Sorted.
    Arranged(&'a [Arranged]),
    /// Put down.
    Unloaded(&'a Spill<'a>),
}

/// The parts of all labels that are put together one at a time.
#[derive(Debug, Clone, Copy)]
pub(super) enum Parts<'a> {
    /// Each of so many labels.
    Of(usize),
    /// By the first label of each, the first one's being 0.
    From(&'a [u32]),
}

impl ViewSelection {
    /// Room for the answers of the asked features to labels in so many parts.
    pub(super) fn answers<'a>(
        &'a self,
        folder: &'a dyn ScratchFolder,
        parts: usize,
        limit_bytes: usize,
    ) -> Answers<'a> {
        let features = &self.transform.def().features;
        Answers::new(folder, self.features.iter().map(|&feature| &features[feature].data_type), parts, limit_bytes)
    }
}

impl Parts<'_> {
    /// The part of a label.
    pub(super) fn of(self, label: u32) -> usize {
        match self {
            Parts::Of(rows) => label as usize / rows,
            Parts::From(starts) => starts.partition_point(|&start| start <= label) - 1,
        }
    }
}

/// A view to answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) asked: Asked<'a>,
    pub(super) history: &'a ViewHistory,
    /// Whether it keeps when events became known.
    pub(super) keeps_known: bool,
    pub(super) slices: Slices<'a>,
    pub(super) questions: &'a Questions<'a>,
    /// Per distribution of the plan the ranks of all labels.
    pub(super) ranks: &'a [BySlice<'a, LabelRank>],
    /// Where the answers go, by part.
    pub(super) answers: &'a Answers<'a>,
    pub(super) parts: Parts<'a>,
}

impl View<'_> {
    /// Answers all questions of the view, a few slices at a time.
    pub(super) fn answer(&self, limits: Limits, threads: usize, progress: Option<&dyn Progress>) -> Result<Faults> {
        let faults = Mutex::new(Faults::default());
        let mut slice = 0;
        while slice < limits.slices {
            let first = slice;
            let (mut rows, mut largest) = (0, 0);
            while slice < limits.slices && (slice == first || rows < limits.answer_rows * threads) {
                rows += self.questions.count(slice);
                if let Slices::Unloaded(unloaded) = self.slices {
                    largest = largest.max(unloaded.bytes(slice)?);
                }
                slice += 1;
            }
            // Read, loaded, and by key.
            let workers = (limits.slice_bytes / (3 * largest).max(1)).clamp(1, threads);
            let ranked = self.ranks(first..slice)?;
            let mut base = 0;
            let tasks: Vec<(usize, usize)> = (first..slice)
                .map(|slice| {
                    base += self.questions.count(slice);
                    (slice, base - self.questions.count(slice))
                })
                .filter(|&(slice, _)| self.questions.count(slice) > 0)
                .collect();
            let done = in_threads(workers, tasks, |(slice, base)| -> Result<()> {
                let questions = self.questions.of_slice(slice)?;
                let labels = questions.len() as u64;
                let found = self.answer_slice(slice, base, questions, &ranked, limits)?;
                faults.lock().map_err(|_| Error::internal("a worker of the join panicked"))?.merge(found);
                let Some(progress) = progress else { return Ok(()) };
                progress.answered(labels);
                progress.go_on()
            })?;
            done.into_iter().collect::<Result<()>>()?;
        }
        faults.into_inner().map_err(|_| Error::internal("a worker of the join panicked"))
    }

    /// The ranks of the questions of some slices, by their place among all of them.
    fn ranks(&self, slices: Range<usize>) -> Result<Vec<Vec<f64>>> {
        let of_slices = |ranks: &BySlice<'_, LabelRank>| -> Result<Vec<f64>> {
            let of_slice = |slice| ranks::of_slice(ranks, slice, self.questions.count(slice));
            Ok(slices.clone().map(of_slice).collect::<Result<Vec<_>>>()?.concat())
        };
        self.ranks.iter().map(of_slices).collect()
    }

    fn answer_slice(
        &self,
        slice: usize,
        base: usize,
        mut questions: Vec<Question>,
        ranked: &[Vec<f64>],
        limits: Limits,
    ) -> Result<Faults> {
        let made;
        let arranged = match self.slices {
            Slices::Arranged(slices) => &slices[slice],
            Slices::Gathered(cuts) => {
                let mut cut = cuts[slice].lock().map_err(|_| Error::internal("a worker of the join panicked"))?;
                made = Arranged::of(&self.history.parts, std::mem::take(&mut *cut));
                &made
            }
            Slices::Unloaded(unloaded) => {
                let mut history = History::new(self.asked.transform.plan(), limits.slices);
                if self.keeps_known {
                    history = history.keeping_known();
                }
                unloaded.each(slice, |bytes| Ok(history.load(slice, bytes)?))?;
                made = Arranged::new(&history.into(), slice);
                &made
            }
        };
        let rows: Vec<u32> = questions.iter().map(|question| question.label).collect();
        for (place, question) in questions.iter_mut().enumerate() {
            question.label = (base + place) as u32;
        }
        // Cut by key and time, so that each cut slides on from label to label.
        let questions = in_order(questions, limits.slices as u32);
        let mut faults = Faults::default();
        for questions in questions.chunks(limits.answer_rows) {
            let mut found = answer_slice(self.asked, arranged, questions.to_vec(), ranked);
            found.labels.iter_mut().for_each(|(label, _)| *label = rows[*label as usize - base]);
            faults.merge(std::mem::take(&mut found.faults));
            self.answers.put(found, self.parts)?;
        }
        Ok(faults)
    }
}

/// Puts the answers together, part by part, and hands them on.
fn put_together(
    selection: &Selection,
    answers: &BTreeMap<&str, Answers<'_>>,
    part_rows: usize,
    options: &JoinOptions,
    go_on: &dyn Fn() -> Result<()>,
    summary: &mut JoinSummary,
    sink: &mut dyn TrainingSink,
) -> Result<()> {
    let total = summary.rows_in as usize;
    for (part, first) in (0..total).step_by(part_rows).enumerate() {
        go_on()?;
        let rows = part_rows.min(total - first);
        let of_view =
            |view: &ViewSelection| answers[view.transform.def().name.as_str()].part(part, first..first + rows);
        let views = selection.views.iter().map(of_view).collect::<Result<Vec<_>>>()?;
        let cold = |row: usize| views.iter().any(|view| view.status[row] == Status::NotFound);
        let kept: Vec<u32> = match options.cold_start {
            ColdStart::Null => (0..rows as u32).collect(),
            ColdStart::Drop => (0..rows as u32).filter(|&row| !cold(row as usize)).collect(),
        };
        summary.rows_kept += kept.len() as u64;
        summary.rows_dropped += (rows - kept.len()) as u64;
        let rows = kept.iter().map(|row| row + first as u32).collect();
        sink.write(&Part { selection, views, kept, rows })?;
    }
    Ok(())
}

/// A part of the labels and its answers.
struct Part<'a> {
    selection: &'a Selection,
    views: Vec<PartAnswers<'a>>,
    /// The labels kept, by their place in the part and among all.
    kept: Vec<u32>,
    rows: Vec<u32>,
}

impl TrainingPart for Part<'_> {
    fn rows(&self) -> &[u32] {
        &self.rows
    }

    fn column(&self, index: usize) -> Column {
        let order = &self.selection.order;
        let column = match order.get(index) {
            Some(&(view, feature)) => self.views[view].feature(feature),
            None => self.views[index - order.len()].event_time(),
        };
        if self.kept.len() == column.len() { column } else { column.take(self.kept.iter().map(|&row| row as usize)) }
    }

    fn views(&self) -> Result<Vec<ViewColumns>> {
        let names = self.selection.views.iter().map(|view| view.transform.def().name.as_str());
        names.zip(&self.views).map(|(name, view)| Ok(view.columns(name, 1)?.take(&self.kept))).collect()
    }
}

#[cfg(test)]
mod tests;
