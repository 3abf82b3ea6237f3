//! Rows that wait until they are worth a file of their date.
//!
//! A commit whose rows are spread over very many dates would write as many files, each of a few rows. Those rows go to
//! one file instead, `_pending/events/<source>/<name>.parquet`: committed, named in the manifest and read by everything
//! that reads by manifest, only not under their dates yet. Beside the loop they are *spread* in two steps, as merges
//! are made, so that no step writes more than some hundred files: eight such files to files of [`BLOCK_DAYS`] dates
//! each (`_pending/events/<source>/from=<date>/`), and those, when there are enough rows in a block or they have waited for
//! [`PATIENCE`] commits, to the dates.

use super::collect::seq_of;
use crate::port::RowFile;
use std::collections::BTreeMap;

/// The folder of what waits; hidden from globs and from readers of Hive partitions.
pub const PENDING: &str = "_pending";

/// So many consecutive dates are a block.
pub const BLOCK_DAYS: i64 = 64;

/// So many files of all dates are spread to blocks together.
const WIDE_FILES: usize = 8;
/// A block is spread to its dates once it has so many rows: a thousand a date.
const BLOCK_ROWS: u64 = 1000 * BLOCK_DAYS as u64;
/// No step is waited for over more commits of the partition than this: an hour at the default interval.
const PATIENCE: u64 = 128;
/// One spread takes files of at most about so many bytes and rows together.
const SPREAD_BYTES: u64 = 32 << 20;
const SPREAD_ROWS: u64 = 512 << 10;

/// When rows wait.
#[derive(Debug, Clone, Copy)]
pub struct Thin {
    /// A date with fewer rows than this is thin.
    pub rows: u64,
    /// The rows of thin dates wait if more dates than this are thin.
    pub dates: usize,
    /// The newest dates never wait: so many.
    pub newest: usize,
}

impl Default for Thin {
    fn default() -> Self {
        Self { rows: 1000, dates: 64, newest: 8 }
    }
}

impl Thin {
    /// For the dates of a commit, oldest first, with `rows` each: whether their rows wait.
    pub fn waiting(&self, rows: &[u64]) -> Vec<bool> {
        let old = rows.len().saturating_sub(self.newest);
        let mut waiting: Vec<bool> = rows.iter().enumerate().map(|(at, &rows)| at < old && rows < self.rows).collect();
        if waiting.iter().filter(|waits| **waits).count() <= self.dates {
            waiting.fill(false);
        }
        waiting
    }
}

/// Where rows that wait go next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Files of [`BLOCK_DAYS`] dates.
    Blocks,
    /// The files of their dates.
    Dates,
}

/// When rows are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// When it is worth it, or they have waited for long.
    Due,
    /// Now: there is nothing else to do.
    Now,
}

/// Whether a file's rows wait.
pub fn is_waiting(path: &str) -> bool {
    path.strip_prefix(PENDING).is_some_and(|rest| rest.starts_with('/'))
}

/// The folder of a source's rows that wait.
pub fn folder(source: &str) -> String {
    format!("{PENDING}/events/{source}")
}

/// Which of the waiting files, by folder, are to be spread, and where to; files of one folder and in the order of the log.
pub(super) fn due(folders: &BTreeMap<String, Vec<RowFile>>, seq: u64, when: When) -> Vec<(Step, Vec<RowFile>)> {
    let mut found = Vec::new();
    for (folder, files) in folders.iter().filter(|(folder, _)| is_waiting(folder)) {
        let is_block = folder.rsplit('/').next().is_some_and(|last| last.starts_with("from="));
        let oldest = files.iter().filter_map(|file| seq_of(&file.path)).min().unwrap_or(0);
        let worth_it = match is_block {
            true => files.iter().map(|file| file.rows).sum::<u64>() >= BLOCK_ROWS,
            false => files.len() >= WIDE_FILES,
        };
        if when == When::Now || worth_it || oldest + PATIENCE <= seq {
            found.push((if is_block { Step::Dates } else { Step::Blocks }, some(files)));
        }
    }
    found
}

/// As many as one spread takes, at least one.
fn some(files: &[RowFile]) -> Vec<RowFile> {
    let mut files: Vec<&RowFile> = files.iter().collect();
    files.sort_by_key(|file| file.offsets);
    let (mut bytes, mut rows) = (0, 0);
    let fits = |file: &&&RowFile| {
        let first = bytes == 0;
        bytes += file.bytes;
        rows += file.rows;
        first || (bytes <= SPREAD_BYTES && rows <= SPREAD_ROWS)
    };
    files.iter().take_while(fits).map(|&file| file.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(folder: &str, seq: u64, rows: u64) -> RowFile {
        RowFile {
            staged: String::new(),
            path: format!("{folder}/0-1-{seq}.parquet"),
            rows,
            bytes: 10 * rows,
            sha256: String::new(),
            event_time_us: (0, 0),
            offsets: (seq, seq),
        }
    }

    fn counts(folders: &[(&str, &[RowFile])], seq: u64, when: When) -> Vec<(Step, usize)> {
        let folders = folders.iter().map(|(folder, files)| ((*folder).to_owned(), files.to_vec())).collect();
        due(&folders, seq, when).into_iter().map(|(step, files)| (step, files.len())).collect()
    }

    #[test]
    fn only_rows_of_very_many_thin_dates_wait_and_the_newest_never() {
        let thin = Thin::default();
        assert!(thin.waiting(&[]).is_empty());
        assert_eq!(thin.waiting(&[1; 72]), [false; 72], "64 thin dates before the newest 8");
        let waiting = thin.waiting(&[1; 73]);
        assert_eq!(waiting, [[true; 65].as_slice(), &[false; 8]].concat());
        let mut rows = vec![999; 100];
        rows[7] = 1000;
        let waiting = thin.waiting(&rows);
        assert_eq!(waiting.iter().filter(|waits| **waits).count(), 91);
        assert!(!waiting[7], "worth a file");
    }

    #[test]
    fn rows_are_spread_when_it_is_worth_it_or_they_have_waited() {
        let (wide, block) = (folder("s"), format!("{}/from=2020-01-01", folder("s")));
        let files = |folder: &str, count: u64, rows: u64| -> Vec<RowFile> {
            (1..=count).map(|seq| file(folder, seq, rows)).collect()
        };
        let wide_files = |count: u64| files(&wide, count, 100);
        assert!(counts(&[(&wide, &wide_files(7))], 10, When::Due).is_empty());
        assert_eq!(counts(&[(&wide, &wide_files(8))], 10, When::Due), [(Step::Blocks, 8)]);
        assert_eq!(counts(&[(&wide, &wide_files(1))], 1 + PATIENCE, When::Due), [(Step::Blocks, 1)]);
        assert_eq!(counts(&[(&wide, &wide_files(1))], 2, When::Now), [(Step::Blocks, 1)]);
        assert!(counts(&[(&block, &files(&block, 63, 1000))], 64, When::Due).is_empty());
        assert_eq!(counts(&[(&block, &files(&block, 64, 1000))], 64, When::Due), [(Step::Dates, 64)]);
        assert_eq!(counts(&[(&block, &files(&block, 2, 1))], 1 + PATIENCE, When::Due), [(Step::Dates, 2)]);
        // No more at once than fits into memory.
        assert_eq!(counts(&[(&block, &files(&block, 9, SPREAD_ROWS / 4))], 64, When::Due), [(Step::Dates, 4)]);
        assert_eq!(counts(&[(&block, &files(&block, 1, SPREAD_ROWS * 4))], 64, When::Due), [(Step::Dates, 1)]);
        assert!(
            counts(&[("events/s/date=2020-01-01", &files("events/s/date=2020-01-01", 99, 1))], 999, When::Now)
                .is_empty()
        );
    }
}
