//! Merging small row files of a partition, beside its loop.
//!
//! Read and merge → write the result to the stage → create a manifest that names it in place of the files it is made
//! of → let it appear as they vanish into `_trash/`. Before the manifest nothing has happened; after it the swap is
//! finished by whoever has the partition, before anything else is committed. Readers that hold an older manifest find
//! the replaced files in `_trash/`.
//!
//! A date that is still being written is merged in tiers: only when eight files or more are of about one size, so
//! that a row is written again a few times and not at every commit. A date that rests is merged to as few files as
//! they may be large. Rows that [wait](super::waiting) for their dates are spread by the same steps.

use super::collect::commit_of;
use super::manifest::{Manifest, commit_name, state_folder};
use super::waiting::{self, Step, When};
use super::{Committer, place, rows, trashed};
use crate::port::RowFile;
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A merged file has at most so many bytes and rows.
const TARGET_BYTES: u64 = 16 << 20;
const TARGET_ROWS: u64 = 256 << 10;
/// So many files of about one size make a merge worth it where more are to come.
const TIER: usize = 8;
/// A folder rests once so many commits have left it alone.
const RESTING: u64 = 64;
/// One manifest replaces at most so many files.
const ROUND_FILES: usize = 4096;
/// Rows that wait are spread to no more files than about this in one manifest.
const SPREAD_FILES: usize = 256;
/// After this time no further merge is begun before the manifest.
const ROUND_TIME: Duration = Duration::from_secs(1);

/// Merges take memory and time of a core: one partition of the process merges at a time.
static MERGING: Mutex<()> = Mutex::new(());

/// What is to be done about small files after a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tidy {
    /// Nothing: somebody is waiting.
    Nothing,
    /// What has become worth it, for about a second.
    Some,
    /// That, and what waits for its dates, for about a second: there is nothing to commit.
    Idle,
    /// Everything, because nothing more will come.
    All,
}

/// The small files of a partition, by folder; kept between merges, so that lists of row files are read once.
#[derive(Debug, Default)]
pub(super) struct Small {
    folders: BTreeMap<String, Vec<RowFile>>,
}

impl Small {
    fn of(files: impl IntoIterator<Item = RowFile>) -> Self {
        let mut small = Self::default();
        small.add(files);
        small
    }

    /// Whether rows wait for their dates.
    fn has_waiting(&self) -> bool {
        self.folders.keys().any(|folder| waiting::is_waiting(folder))
    }

    /// Adds what a commit has brought.
    pub(super) fn add(&mut self, files: impl IntoIterator<Item = RowFile>) {
        for file in files {
            if (is_small(&file) || waiting::is_waiting(&file.path))
                && let Some((folder, _)) = file.path.rsplit_once('/')
            {
                self.folders.entry(folder.to_owned()).or_default().push(file);
            }
        }
    }

    fn remove(&mut self, replaced: &BTreeSet<String>) {
        self.folders.retain(|_, files| {
            files.retain(|file| !replaced.contains(&file.path));
            !files.is_empty()
        });
    }

    /// Which files to merge now.
    fn worth_it(&self, seq: u64, all: bool) -> Vec<Vec<RowFile>> {
        let mut groups = Vec::new();
        let mut count = 0;
        for (_, files) in self.folders.iter().filter(|(folder, _)| !waiting::is_waiting(folder)) {
            if count >= ROUND_FILES {
                break;
            }
            let newest = files.iter().filter_map(|file| super::collect::seq_of(&file.path)).max().unwrap_or(0);
            let mut files: Vec<&RowFile> = files.iter().collect();
            files.sort_by_key(|file| file.offsets);
            let found = match all || newest + RESTING <= seq {
                true => packed(&files),
                false => tier(&files).into_iter().collect(),
            };
            count += found.iter().map(Vec::len).sum::<usize>();
            groups.extend(found);
        }
        groups
    }
}

fn is_small(file: &RowFile) -> bool {
    file.bytes < TARGET_BYTES / 2 && file.rows < TARGET_ROWS / 2
}

/// Neighbours that fit into one file, where there are at least two.
fn packed(files: &[&RowFile]) -> Vec<Vec<RowFile>> {
    let mut groups: Vec<Vec<RowFile>> = Vec::new();
    let (mut bytes, mut rows) = (0, 0);
    for &file in files {
        bytes += file.bytes;
        rows += file.rows;
        match groups.last_mut() {
            Some(group) if bytes <= TARGET_BYTES && rows <= TARGET_ROWS => group.push(file.clone()),
            _ => {
                (bytes, rows) = (file.bytes, file.rows);
                groups.push(vec![file.clone()]);
            }
        }
    }
    groups.retain(|group| group.len() > 1);
    groups
}

/// The longest run of the newest files of which none is much larger than the others.
fn tier(files: &[&RowFile]) -> Option<Vec<RowFile>> {
    let (mut bytes, mut rows, mut largest, mut best) = (0, 0, 0, 0);
    for (count, file) in files.iter().rev().enumerate() {
        bytes += file.bytes;
        rows += file.rows;
        largest = largest.max(file.bytes);
        if bytes > TARGET_BYTES || rows > TARGET_ROWS {
            break;
        }
        if count + 1 >= TIER && 4 * largest <= bytes {
            best = count + 1;
        }
    }
    (best > 0).then(|| files[files.len() - best..].iter().map(|&file| file.clone()).collect())
}

/// What one manifest replaces.
#[derive(Debug, Default)]
struct Round {
    staged: Vec<RowFile>,
    replaced: BTreeSet<String>,
}

/// A merge that is staged and not finished.
#[derive(Debug)]
pub(super) struct Pending {
    next: Manifest,
    /// Whether its manifest is there.
    created: bool,
}

impl Committer {
    /// Merges small files as `tidy` says; goes on while `go_on`. After an error the next commit finishes what was
    /// begun.
    pub fn tidy(&mut self, tidy: Tidy, go_on: &dyn Fn() -> bool) -> Result<()> {
        let _alone = match tidy {
            Tidy::Nothing => return Ok(()),
            Tidy::Some | Tidy::Idle => match MERGING.try_lock() {
                Ok(guard) => guard,
                // Another partition's turn; the next commit tries again.
                Err(_) => return Ok(()),
            },
            Tidy::All => MERGING.lock().unwrap_or_else(PoisonError::into_inner),
        };
        loop {
            let merged = match self.tidy_some(tidy, go_on) {
                // Once more what was begun: an answer may have been lost.
                Err(error) if self.merge.is_some() && !matches!(error, Error::Fenced { .. }) => {
                    tracing::debug!(%error, "finishing a merge of small files again");
                    self.finish_merge()?;
                    true
                }
                merged => merged?,
            };
            if !merged || tidy != Tidy::All {
                return Ok(());
            }
        }
    }

    /// Whether rows may be waiting for their dates.
    pub fn may_wait(&self) -> bool {
        self.small.as_ref().is_none_or(Small::has_waiting)
    }

    /// One manifest's worth: rows that wait first, since merging comes after them.
    fn tidy_some(&mut self, tidy: Tidy, go_on: &dyn Fn() -> bool) -> Result<bool> {
        self.finish_merge()?;
        // Kept whatever comes of the rest.
        let small = match self.small.take() {
            Some(small) => small,
            None => {
                let list = rows::row_list(self.store.as_ref(), &self.latest)?;
                Small::of(list.rows.into_iter().chain(list.dead_letters))
            }
        };
        let when = if tidy == Tidy::Some { When::Due } else { When::Now };
        let spreads = waiting::due(&small.folders, self.latest.seq, when);
        let groups = match spreads.is_empty() && self.merges {
            true => small.worth_it(self.latest.seq, tidy == Tidy::All),
            false => Vec::new(),
        };
        self.small = Some(small);
        let round = match spreads.is_empty() {
            true => self.merge(&groups, go_on)?,
            false => self.spread(&spreads, go_on)?,
        };
        self.replace(round)
    }

    /// Stages rows that wait as files of the next step.
    fn spread(&self, spreads: &[(Step, Vec<RowFile>)], go_on: &dyn Fn() -> bool) -> Result<Round> {
        let name = commit_name(self.latest.partition, self.chain.generation(), self.chain.next_seq());
        let begun = Instant::now();
        let mut round = Round::default();
        for (number, (step, files)) in spreads.iter().enumerate() {
            let enough = round.staged.len() >= SPREAD_FILES || begun.elapsed() >= ROUND_TIME;
            if !go_on() || (enough && !round.staged.is_empty()) {
                break;
            }
            round.staged.extend(self.archive.spread(&format!("{name}-s{}", number + 1), files, *step)?);
            round.replaced.extend(files.iter().map(|file| file.path.clone()));
        }
        Ok(round)
    }

    /// Stages one file for each group.
    fn merge(&self, groups: &[Vec<RowFile>], go_on: &dyn Fn() -> bool) -> Result<Round> {
        let name = commit_name(self.latest.partition, self.chain.generation(), self.chain.next_seq());
        let begun = Instant::now();
        let mut round = Round::default();
        let mut number = 0;
        // Some at a time: what is written together shares the cost of making it durable.
        for groups in groups.chunks(64) {
            if !go_on() || (!round.staged.is_empty() && begun.elapsed() >= ROUND_TIME) {
                break;
            }
            let named: Vec<(String, Vec<RowFile>)> = groups
                .iter()
                .map(|files| {
                    number += 1;
                    (format!("{name}-m{number}"), files.clone())
                })
                .collect();
            round.staged.extend(self.archive.merge(&named)?);
            round.replaced.extend(groups.iter().flatten().map(|file| file.path.clone()));
        }
        Ok(round)
    }

    /// Commits the files of a round in place of those they are made of; whether there were any.
    fn replace(&mut self, round: Round) -> Result<bool> {
        let Round { staged: merged, replaced } = round;
        if merged.is_empty() {
            return Ok(false);
        }
        let mut next = self.latest.clone();
        let mut listed = replaced.clone();
        next.rows.retain(|file| !listed.remove(&file.path));
        next.dead_letters.retain(|file| !listed.remove(&file.path));
        next.removed.extend(listed);
        let (generation, seq) = (self.chain.generation(), self.chain.next_seq());
        let prefix = format!("{}/{generation}-{seq}", state_folder(&next.source, next.partition));
        rows::shorten(self.store.as_ref(), &prefix, &mut next)?;
        for file in merged {
            let of = if file.path.starts_with("dead_letters/") { &mut next.dead_letters } else { &mut next.rows };
            of.push(file);
        }
        next.replaced = replaced.into_iter().collect();
        self.merge = Some(Pending { next, created: false });
        self.finish_merge()?;
        Ok(true)
    }

    /// Finishes a merge that was staged.
    pub(super) fn finish_merge(&mut self) -> Result<()> {
        let Some(pending) = &mut self.merge else { return Ok(()) };
        if !pending.created {
            self.latest = self.chain.commit(pending.next.clone())?;
            pending.created = true;
        }
        let placed = place(self.store.as_ref(), &self.latest);
        self.unless_fenced(placed)?;
        self.merge = None;
        if let Some(small) = &mut self.small {
            small.remove(&self.latest.replaced.iter().cloned().collect());
            let fresh = self.latest.rows.iter().chain(&self.latest.dead_letters);
            let merged = fresh.filter(|file| is_of_commit(&self.latest, &file.path)).cloned().collect::<Vec<_>>();
            small.add(merged);
        }
        tracing::debug!(
            source = self.latest.source,
            partition = self.latest.partition,
            seq = self.latest.seq,
            files = self.latest.replaced.len(),
            "merged small files"
        );
        Ok(())
    }
}

/// Whether a file was written for this very manifest.
fn is_of_commit(manifest: &Manifest, path: &str) -> bool {
    commit_of(path, &manifest.source, manifest.partition) == Some((manifest.generation, manifest.seq))
}

/// Where the files that a manifest has replaced go.
pub(super) fn vanishing(manifest: &Manifest) -> Vec<(String, String)> {
    manifest.replaced.iter().map(|path| (path.clone(), trashed(path))).collect()
}

/// Puts files back that a manifest names and that a later, damaged one has replaced.
pub(super) fn put_back(store: &dyn crate::port::ObjectStore, manifest: &Manifest) -> Result<()> {
    let list = match rows::row_list(store, manifest) {
        Ok(list) => list,
        Err(error @ Error::Damaged { .. }) => {
            tracing::error!(%error, "cannot say which row files are committed");
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let (source, present) = (&manifest.source, |folder: String| -> Result<BTreeSet<String>> {
        Ok(store.list(&folder)?.into_iter().map(|(path, _)| path).collect())
    });
    for folder in [format!("events/{source}"), format!("dead_letters/{source}"), waiting::folder(source)] {
        let away = present(trashed(&folder))?;
        let here = present(folder)?;
        for file in list.rows.iter().chain(&list.dead_letters) {
            if away.contains(&trashed(&file.path)) && !here.contains(&file.path) {
                store.rename(&trashed(&file.path), &file.path)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(offset: u64, bytes: u64) -> RowFile {
        RowFile {
            staged: String::new(),
            path: format!("events/s/date=1/0-1-{offset}.parquet"),
            rows: 10,
            bytes,
            sha256: String::new(),
            event_time_us: (0, 0),
            offsets: (offset, offset),
        }
    }

    fn sizes(groups: &[Vec<RowFile>]) -> Vec<Vec<u64>> {
        groups.iter().map(|group| group.iter().map(|file| file.bytes).collect()).collect()
    }

    #[test]
    fn a_date_that_is_written_is_merged_in_tiers() {
        let of = |sizes_of: &[u64]| {
            let files = sizes_of.iter().enumerate().map(|(at, &bytes)| file(at as u64, bytes));
            sizes(&Small::of(files).worth_it(sizes_of.len() as u64, false))
        };
        assert!(of(&[10; 7]).is_empty());
        assert_eq!(of(&[10; 8]), [vec![10; 8]]);
        // The result of a merge waits for others like it.
        assert!(of(&[&[80][..], &[10; 7]].concat()).is_empty());
        assert_eq!(of(&[&[80][..], &[10; 8]].concat()), [vec![10; 8]]);
        assert_eq!(of(&[80; 8]), [vec![80; 8]]);
        // Large ones are left alone.
        assert!(of(&[TARGET_BYTES; 20]).is_empty());
    }

    #[test]
    fn a_row_is_written_again_a_few_times_only_and_files_stay_few() {
        let mut small = Small::default();
        let (mut written, mut most, mut added) = (0, 0, 0);
        for seq in 1..20_000u64 {
            small.add([file(seq, 20_000)]);
            added += 20_000;
            for group in small.worth_it(seq, false) {
                let bytes = group.iter().map(|file| file.bytes).sum::<u64>();
                written += bytes;
                small.remove(&group.iter().map(|file| file.path.clone()).collect());
                small.add([RowFile { offsets: group[0].offsets, ..file(seq, bytes) }]);
            }
            most = most.max(small.folders.values().map(Vec::len).sum::<usize>());
        }
        assert!(written < 4 * added, "{written} bytes written again of {added}");
        assert!(most <= 40, "{most} small files at once");
    }

    #[test]
    fn a_date_that_rests_is_packed() {
        let files =
            [file(1, 10), file(2, 500), file(3, TARGET_BYTES / 2 - 1), file(4, TARGET_BYTES / 2 - 2), file(5, 7)];
        let small = Small::of(files.clone());
        assert!(small.worth_it(6, false).is_empty());
        let half = TARGET_BYTES / 2;
        assert_eq!(sizes(&small.worth_it(5 + RESTING, false)), [vec![10, 500, half - 1], vec![half - 2, 7]]);
        assert_eq!(small.worth_it(6, true).len(), 2);
        assert!(Small::of([file(1, 10)]).worth_it(6, true).is_empty());
    }
}
