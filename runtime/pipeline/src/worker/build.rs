//! State from the archive: what a view would hold at a committed position had it been there from the start.

use crate::port::{Archive, ArchiveScan, RowFile};
use crate::{Error, Result};
use plumb_core::event::EventBatch;
use plumb_core::state::ViewState;
use plumb_transform::Transform;
use std::collections::BTreeMap;

/// Events applied at a time.
const BATCH_ROWS: usize = 4096;

/// Applies the archived events with `from <= offset < below` of a partition to states, each with its view, in
/// offset order. `files` are the partition's committed ones. Asks `go_on` between files and stops with an error
/// when it says no.
pub fn apply_archive(
    archive: &dyn Archive,
    partition: u32,
    files: &[RowFile],
    offsets: std::ops::Range<u64>,
    states: &mut [(Transform, ViewState)],
    go_on: &dyn Fn() -> bool,
) -> Result<()> {
    let Some((first, _)) = states.first() else { return Ok(()) };
    let schema = first.schema().clone();
    for group in overlapping(files, &offsets) {
        if !go_on() {
            return Err(Error::unavailable("build state from the archive", "it was asked to stop"));
        }
        let mut scan =
            ArchiveScan { files: group.into_iter().map(|file| (partition, file)).collect(), ..Default::default() };
        scan.from_offset.insert(partition, offsets.start);
        scan.below_offset.insert(partition, offsets.end);
        let mut events = EventBatch::new(schema.clone());
        archive.scan(&schema, &scan, &mut |_, batch| {
            events.append(&batch);
            Ok(())
        })?;
        // A commit has one file per date, so its offsets are spread over them.
        let mut order: Vec<usize> = (0..events.len()).collect();
        order.sort_by_key(|&row| events.offsets[row]);
        for rows in order.chunks(BATCH_ROWS) {
            let batch = events.take(rows.iter().copied());
            for (transform, state) in states.iter_mut() {
                let extracted = transform.extract(&batch);
                state.apply(&batch, transform.key_columns(), &extracted.contributions);
            }
        }
    }
    Ok(())
}

/// The files with offsets in the range, in groups that share no offsets, ascending.
fn overlapping(files: &[RowFile], offsets: &std::ops::Range<u64>) -> Vec<Vec<RowFile>> {
    let mut wanted: BTreeMap<(u64, u64, &str), &RowFile> = BTreeMap::new();
    for file in files.iter().filter(|file| file.offsets.1 >= offsets.start && file.offsets.0 < offsets.end) {
        wanted.insert((file.offsets.0, file.offsets.1, &file.path), file);
    }
    let mut groups: Vec<(u64, Vec<RowFile>)> = Vec::new();
    for ((first, last, _), file) in wanted {
        match groups.last_mut() {
            Some((end, group)) if first <= *end => {
                *end = last.max(*end);
                group.push(file.clone());
            }
            _ => groups.push((last, vec![file.clone()])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_one_commit_are_read_together() {
        let file = |path: &str, offsets| RowFile {
            staged: String::new(),
            path: path.into(),
            rows: 1,
            bytes: 1,
            sha256: String::new(),
            event_time_us: (0, 0),
            offsets,
        };
        let files = [file("d1/a", (0, 8)), file("d2/a", (3, 9)), file("d1/b", (10, 10)), file("d1/c", (11, 20))];
        let paths = |offsets| -> Vec<Vec<String>> {
            let groups = overlapping(&files, &offsets);
            groups.into_iter().map(|group| group.into_iter().map(|file| file.path).collect()).collect()
        };
        assert_eq!(paths(0..21), vec![vec!["d1/a", "d2/a"], vec!["d1/b"], vec!["d1/c"]]);
        assert_eq!(paths(9..11), vec![vec!["d2/a"], vec!["d1/b"]]);
        assert_eq!(paths(21..30), Vec::<Vec<String>>::new());
    }
}
