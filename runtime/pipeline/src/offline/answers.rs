//! A view's answers on their way from slices of keys to parts of labels.

use super::bounded::Parts;
use super::compute::Found;
use super::spill::Spill;
use super::{Status, ViewColumns};
use crate::parallel::in_threads;
use crate::port::ScratchFolder;
use crate::{Error, Result};
use plumb_core::codec::plain::{column_bytes, put_column, read_columns};
use plumb_core::column::{Column, DataType, Values};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

/// The least rows whose columns are gathered in threads.
const THREADS_ROWS: usize = 8 * 1024;

/// Room for the beginnings of columns, of as many parts as the answers of a slice mostly fall into.
const PART_HEADS_BYTES: usize = 4 << 10;

/// Answers by part: in memory as they were made up to a limit, further ones on disk.
#[derive(Debug)]
pub(super) struct Answers<'a> {
    /// Of the event times and the features.
    types: Vec<&'a DataType>,
    limit_bytes: usize,
    held: Mutex<Held>,
    spill: Spill<'a>,
}

#[derive(Debug)]
struct Held {
    bytes: usize,
    /// Per part.
    pieces: Vec<Vec<Piece>>,
}

/// Some of a part's answers.
#[derive(Debug)]
struct Piece {
    /// The labels, and the row that answers each.
    labels: Vec<(u32, u32)>,
    rows: Arc<Rows>,
}

/// The rows that a slice was answered with.
#[derive(Debug)]
struct Rows {
    status: Vec<Status>,
    /// The event time, then the features.
    columns: Vec<Column>,
}

impl<'a> Answers<'a> {
    /// No answers yet to labels in so many parts, by features of these types.
    pub(super) fn new(
        folder: &'a dyn ScratchFolder,
        features: impl IntoIterator<Item = &'a DataType>,
        parts: usize,
        limit_bytes: usize,
    ) -> Self {
        let held = Held { bytes: 0, pieces: std::iter::repeat_with(Vec::new).take(parts).collect() };
        Self {
            types: std::iter::once(&DataType::Timestamp).chain(features).collect(),
            limit_bytes,
            held: Mutex::new(held),
            spill: Spill::new(folder, parts, 0),
        }
    }

    fn lock(&self) -> Result<MutexGuard<'_, Held>> {
        self.held.lock().map_err(|_| Error::internal("a worker panicked while it kept answers"))
    }

    /// Keeps what was found for some labels, whose parts are `parts`.
    pub(super) fn put(&self, found: Found, parts: Parts<'_>) -> Result<()> {
        let Found { mut labels, mut status, mut columns, .. } = found;
        let Some(&(first, _)) = labels.first() else { return Ok(()) };
        let part = parts.of(first);
        let is_one = labels.iter().all(|&(label, _)| parts.of(label) == part);
        if !is_one {
            // A part's rows lie together then: it reads them one after the other.
            labels = by_label(&labels);
            let rows = || labels.iter().map(|&(_, row)| row as usize);
            status = rows().map(|row| status[row]).collect();
            columns = columns.iter().map(|column| column.take(rows())).collect();
            labels.iter_mut().zip(0..).for_each(|((_, row), at)| *row = at);
        }
        let bytes = columns.iter().map(column_bytes).sum::<usize>() + size_of_val(&*status) + size_of_val(&*labels);
        let mut held = self.lock()?;
        if held.bytes + bytes > self.limit_bytes {
            drop(held);
            return self.put_down(&labels, &status, &columns, parts);
        }
        held.bytes += bytes;
        let rows = Arc::new(Rows { status, columns });
        if is_one {
            held.pieces[part].push(Piece { labels, rows });
            return Ok(());
        }
        for labels in labels.chunk_by(|a, b| parts.of(a.0) == parts.of(b.0)) {
            held.pieces[parts.of(labels[0].0)].push(Piece { labels: labels.to_vec(), rows: rows.clone() });
        }
        Ok(())
    }

    /// Puts answers down, each label with a row of its own.
    fn put_down(&self, labels: &[(u32, u32)], status: &[Status], columns: &[Column], parts: Parts<'_>) -> Result<()> {
        let bytes = columns.iter().map(column_bytes).sum::<usize>() + labels.len() * 9 + PART_HEADS_BYTES;
        let (mut buffer, mut pieces) = (Vec::with_capacity(bytes), Vec::new());
        for labels in labels.chunk_by(|a, b| parts.of(a.0) == parts.of(b.0)) {
            let from = buffer.len();
            let rows = || labels.iter().map(|&(_, row)| row as usize);
            put_column(&mut buffer, &Column::of(Values::I64(labels.iter().map(|&(label, _)| label.into()).collect())));
            put_column(&mut buffer, &Column::of(Values::Bool(rows().map(|row| code_of(status[row])).collect())));
            columns.iter().for_each(|column| put_column(&mut buffer, &column.take(rows())));
            pieces.push((parts.of(labels[0].0), from..buffer.len()));
        }
        self.spill.put(buffer, pieces)
    }

    /// The pieces of a part, which are gone then from memory.
    fn take(&self, part: usize) -> Result<Vec<Piece>> {
        let mut pieces = std::mem::take(&mut self.lock()?.pieces[part]);
        let mut types = vec![&DataType::I64, &DataType::Bool];
        types.extend(&self.types);
        self.spill.each(part, |bytes| {
            let mut read = read_columns(bytes, types.iter().copied())?;
            let columns = read.split_off(2);
            let (Some(labels), Some(codes)) = (read[0].as_i64(), read[1].as_bool()) else {
                return Err(Error::internal("a scratch file holds no answers"));
            };
            let labels = labels.iter().zip(0..).map(|(&label, row)| (label as u32, row)).collect();
            let status = codes.iter().map(|&code| status_of(code)).collect();
            pieces.push(Piece { labels, rows: Arc::new(Rows { status, columns }) });
            Ok(())
        })?;
        Ok(pieces)
    }

    /// The answers to the labels `rows`, which are all of a part; they are taken out.
    pub(super) fn part(&self, part: usize, rows: Range<usize>) -> Result<PartAnswers<'_>> {
        let mut pieces = self.take(part)?;
        let mut status = vec![Status::NotFound; rows.len()];
        for piece in &mut pieces {
            for (label, row) in &mut piece.labels {
                *label -= rows.start as u32;
                status[*label as usize] = piece.rows.status[*row as usize];
            }
        }
        Ok(PartAnswers { types: &self.types, pieces, status })
    }
}

/// The answers to the labels of a part, still as they were made.
#[derive(Debug)]
pub(super) struct PartAnswers<'a> {
    /// Of the event times and the features.
    types: &'a [&'a DataType],
    /// Their labels count from the part's first.
    pieces: Vec<Piece>,
    pub(super) status: Vec<Status>,
}

impl PartAnswers<'_> {
    /// A feature's values in the order of the labels.
    pub(super) fn feature(&self, index: usize) -> Column {
        self.gather(index + 1)
    }

    /// The newest contributions in the order of the labels.
    pub(super) fn event_time(&self) -> Column {
        self.gather(0)
    }

    fn gather(&self, column: usize) -> Column {
        let pieces = self.pieces.iter().map(|piece| (piece.labels.as_slice(), &piece.rows.columns[column]));
        Column::assemble(self.types[column], self.status.len(), &pieces.collect::<Vec<_>>())
    }

    /// All columns.
    pub(super) fn columns(&self, view: &str, threads: usize) -> Result<ViewColumns> {
        // A few rows are gathered sooner than a thread is there.
        let threads = if self.status.len() < THREADS_ROWS { 1 } else { threads };
        let mut features = in_threads(threads, 0..self.types.len(), |column| self.gather(column))?;
        let event_time = features.remove(0);
        Ok(ViewColumns { view: view.to_owned(), features, event_time, status: self.status.clone() })
    }
}

/// (label, row) pairs of distinct labels, in the order of the labels.
fn by_label(pairs: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let labels = || pairs.iter().map(|&(label, _)| label);
    let (Some(first), Some(last)) = (labels().min(), labels().max()) else { return Vec::new() };
    let span = (last - first) as usize + 1;
    // Those of a slice mostly follow each other: then each is put in its place, which takes no comparisons.
    if span / 4 > pairs.len() {
        let mut sorted = pairs.to_vec();
        sorted.sort_unstable_by_key(|&(label, _)| label);
        return sorted;
    }
    let mut rows = vec![u32::MAX; span];
    pairs.iter().for_each(|&(label, row)| rows[(label - first) as usize] = row);
    (first..=last).zip(rows).filter(|&(_, row)| row != u32::MAX).collect()
}

fn code_of(status: Status) -> u8 {
    match status {
        Status::NotFound => 0,
        Status::Found => 1,
        Status::OutsideMaxAge => 2,
        Status::Error => 3,
    }
}

fn status_of(code: u8) -> Status {
    match code {
        1 => Status::Found,
        2 => Status::OutsideMaxAge,
        3 => Status::Error,
        _ => Status::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_put_in_the_order_of_their_labels() {
        let dense = [(7, 3), (5, 0), (9, 9), (8, 1)];
        assert_eq!(by_label(&dense), [(5, 0), (7, 3), (8, 1), (9, 9)]);
        let sparse = [(700, 3), (5, 0), (u32::MAX, 9)];
        assert_eq!(by_label(&sparse), [(5, 0), (700, 3), (u32::MAX, 9)]);
        assert_eq!(by_label(&[]), []);
    }
}
