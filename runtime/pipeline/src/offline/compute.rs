//! From gathered history to features: the kernel and `finalize` over slices of keys, in threads.

use super::{Faults, Status, ViewColumns, gather::ViewHistory};
use crate::parallel::in_threads;
use crate::{Error, Result};
use plumb_core::column::{Column, DataType};
use plumb_core::temporal::{Answers, Arranged, NO_KEY, Question, answer, ranks};
use plumb_transform::Transform;
use std::collections::BTreeMap;

/// What is asked of one view.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) transform: &'a Transform,
    /// The features to return, by index.
    pub(super) features: &'a [usize],
    /// Per label its key's number, or [`NO_KEY`].
    pub(super) keys: &'a [u32],
    /// Per label its instant T, µs.
    pub(super) as_of_us: &'a [i64],
    pub(super) max_age_us: Option<i64>,
}

/// One slice of a view's history, sorted.
pub(super) type Slices = Vec<Arranged>;

/// The features of one slice's rows.
#[derive(Debug)]
struct SliceRows {
    answers: Answers,
    /// Per row of `answers`: its row in `features`; `None` outside the max age.
    finalized: Vec<Option<u32>>,
    features: Vec<Column>,
    /// The rows of `features` that have a fault, with the reason.
    faults: Vec<plumb_transform::RowFault>,
}

/// Sorts a view's history, which is taken out of memory a slice at a time, in threads.
pub(super) fn arrange(history: &mut ViewHistory, slices: usize, threads: usize) -> Result<Slices> {
    let cuts = history.parts.cut(slices);
    in_threads(threads, cuts, |cut| Arranged::of(&history.parts, cut))
}

/// Answers all labels of one view. `total_keys` is the number of keys met, asked for or not.
pub(super) fn compute(
    asked: Asked<'_>,
    history: &ViewHistory,
    slices: &Slices,
    total_keys: usize,
    threads: usize,
) -> Result<(ViewColumns, Faults)> {
    let ranked = rank_all(asked, history, total_keys, threads)?;
    let mut questions: Vec<Vec<Question>> = vec![Vec::new(); slices.len()];
    for (label, (&key, &as_of_us)) in asked.keys.iter().zip(asked.as_of_us).enumerate() {
        if key != NO_KEY {
            let label = u32::try_from(label).map_err(|_| Error::invalid("more than 2^32 labels in one job"))?;
            questions[key as usize % slices.len()].push(Question { key, label, as_of_us });
        }
    }
    let tasks = slices.iter().zip(questions);
    let rows = in_threads(threads, tasks, |(slice, questions)| finalize_slice(asked, slice, questions, &ranked))?;
    Ok(in_label_order(asked, &rows))
}

fn finalize_slice(asked: Asked<'_>, slice: &Arranged, questions: Vec<Question>, ranked: &[Vec<f64>]) -> SliceRows {
    let answers = answer(asked.transform.plan(), slice, questions, ranked);
    let mut fresh: Vec<usize> = Vec::with_capacity(answers.as_of_us.len());
    let finalized =
        answers.newest_us.iter().zip(&answers.as_of_us).enumerate().map(|(row, (&newest_us, &as_of_us))| {
            (!Status::is_outside_max_age(newest_us, as_of_us, asked.max_age_us)).then(|| {
                fresh.push(row);
                fresh.len() as u32 - 1
            })
        });
    let finalized: Vec<Option<u32>> = finalized.collect();
    let all = if fresh.len() == answers.as_of_us.len() {
        asked.transform.finalize(&answers.as_of_us, &answers.columns)
    } else {
        let as_of_us: Vec<i64> = fresh.iter().map(|&row| answers.as_of_us[row]).collect();
        let columns: Vec<Column> = answers.columns.iter().map(|column| column.take(fresh.iter().copied())).collect();
        asked.transform.finalize(&as_of_us, &columns)
    };
    SliceRows { answers, finalized, features: all.features, faults: all.faults }
}

/// The answers to some questions about one slice: one row for each key and instant that is found.
#[derive(Debug)]
pub(super) struct Found {
    /// The labels, in no order, and the row that answers each.
    pub(super) labels: Vec<(u32, u32)>,
    pub(super) status: Vec<Status>,
    /// The newest contribution, then the asked features.
    pub(super) columns: Vec<Column>,
    pub(super) faults: Faults,
}

/// Answers questions about one slice, whose labels index `ranked`. Of `asked` only the view, the features and the max
/// age are looked at.
pub(super) fn answer_slice(asked: Asked<'_>, slice: &Arranged, questions: Vec<Question>, ranked: &[Vec<f64>]) -> Found {
    let SliceRows { answers, finalized, features, faults: row_faults } =
        finalize_slice(asked, slice, questions, ranked);
    let mut reasons: BTreeMap<u32, &str> = BTreeMap::new();
    reasons.extend(row_faults.iter().map(|fault| (fault.row, fault.reason.as_str())));
    let reason_of = |at: Option<u32>| at.and_then(|at| reasons.get(&at).copied());
    let status = finalized.iter().map(|&at| match at {
        None => Status::OutsideMaxAge,
        Some(_) if reason_of(at).is_some() => Status::Error,
        Some(_) => Status::Found,
    });
    let status = status.collect();
    let mut faults = Faults::default();
    for &(_, row) in answers.rows.iter().filter(|_| !reasons.is_empty()) {
        if let Some(reason) = reason_of(finalized[row as usize]) {
            faults.add(answers.as_of_us[row as usize], reason);
        }
    }
    let mut event_time = Column::new(&DataType::Timestamp);
    event_time.reserve(answers.newest_us.len(), 0);
    for newest_us in answers.newest_us {
        match newest_us {
            Some(newest_us) => event_time.push_i64(newest_us),
            None => event_time.push_null(),
        }
    }
    let def = asked.transform.def();
    let mut columns = vec![event_time];
    let is_whole = finalized.iter().all(Option::is_some);
    // Outside the max age there is no piece to take a value from.
    let places: Vec<(u32, u32)> =
        if is_whole { Vec::new() } else { finalized.iter().map(|at| at.map_or(NOWHERE, |at| (0, at))).collect() };
    let mut made: Vec<Option<Column>> = features.into_iter().map(Some).collect();
    for (index, &feature) in asked.features.iter().enumerate() {
        let is_last = !asked.features[index + 1..].contains(&feature);
        let column = if is_last { made[feature].take() } else { made[feature].clone() };
        let column = column.unwrap_or_else(|| Column::new(&def.features[feature].data_type));
        columns.push(match is_whole {
            true => column,
            false => Column::gather(&def.features[feature].data_type, &[&column], &places),
        });
    }
    Found { labels: answers.rows, status, columns, faults }
}

/// The place of a row that has no value.
pub(super) const NOWHERE: (u32, u32) = (u32::MAX, 0);

/// Brings the slices' rows into the order of the labels.
fn in_label_order(asked: Asked<'_>, slices: &[SliceRows]) -> (ViewColumns, Faults) {
    let labels = asked.keys.len();
    let def = asked.transform.def();
    let mut status = vec![Status::NotFound; labels];
    let mut newest_us: Vec<Option<i64>> = vec![None; labels];
    let mut places = vec![NOWHERE; labels];
    let mut faults = Faults::default();
    for (slice, rows) in slices.iter().enumerate() {
        let mut reasons = vec![None; rows.features.first().map_or(0, Column::len)];
        rows.faults.iter().for_each(|fault| reasons[fault.row as usize] = Some(fault.reason.as_str()));
        for &(label, row) in &rows.answers.rows {
            let (label, row) = (label as usize, row as usize);
            newest_us[label] = rows.answers.newest_us[row];
            status[label] = match rows.finalized[row] {
                None => Status::OutsideMaxAge,
                Some(at) => {
                    places[label] = (slice as u32, at);
                    match reasons.get(at as usize).copied().flatten() {
                        Some(reason) => {
                            faults.add(rows.answers.as_of_us[row], reason);
                            Status::Error
                        }
                        None => Status::Found,
                    }
                }
            };
        }
    }
    let gather = |feature: usize| {
        let pieces: Vec<&Column> = slices.iter().map(|rows| &rows.features[feature]).collect();
        Column::gather(&def.features[feature].data_type, &pieces, &places)
    };
    let mut event_time = Column::new(&DataType::Timestamp);
    for newest_us in newest_us {
        match newest_us {
            Some(newest_us) => event_time.push_i64(newest_us),
            None => event_time.push_null(),
        }
    }
    let features = asked.features.iter().map(|&feature| gather(feature)).collect();
    (ViewColumns { view: def.name.clone(), features, event_time, status }, faults)
}

/// The ranks of all labels in each distribution of the view: labels cut along time, a sweep for each part.
pub(super) fn rank_all(
    asked: Asked<'_>,
    history: &ViewHistory,
    total_keys: usize,
    threads: usize,
) -> Result<Vec<Vec<f64>>> {
    let mut ranked = Vec::with_capacity(history.ranks.len());
    if history.ranks.is_empty() {
        return Ok(ranked);
    }
    let mut order: Vec<usize> = (0..asked.keys.len()).filter(|&label| asked.keys[label] != NO_KEY).collect();
    order.sort_unstable_by_key(|&label| asked.as_of_us[label]);
    let parts: Vec<&[usize]> = order.chunks(order.len().div_ceil(threads.max(1)).max(1)).collect();
    for histories in &history.ranks {
        let swept = in_threads(threads, &parts, |part| {
            let keys: Vec<u32> = part.iter().map(|&label| asked.keys[label]).collect();
            let as_of_us: Vec<i64> = part.iter().map(|&label| asked.as_of_us[label]).collect();
            ranks(histories, total_keys, &keys, &as_of_us)
        })?;
        let mut all = vec![0.0; asked.keys.len()];
        for (part, swept) in parts.iter().zip(swept) {
            part.iter().zip(swept).for_each(|(&label, rank)| all[label] = rank);
        }
        ranked.push(all);
    }
    Ok(ranked)
}
