//! State from the archive: what a view would hold at a committed position had it been there from the start.

use crate::port::{Archive, ArchiveScan, RowFile};
use crate::{Error, Result};
use plumb_core::state::ViewState;
use plumb_transform::Transform;
use std::collections::BTreeMap;

/// Events applied at a time.
const BATCH_ROWS: usize = 4096;

/// Applies the archived events with `from <= offset < below` of a partition to states, each with its view, in
/// offset order where that takes bounded memory (values do not depend on it). `files` are the partition's committed
/// ones. Asks `go_on` between batches and stops with an error when it says no.
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
    let scan = ArchiveScan {
        files: files.iter().map(|file| (partition, file.clone())).collect(),
        from_offset: BTreeMap::from([(partition, offsets.start)]),
        below_offset: BTreeMap::from([(partition, offsets.end)]),
        in_order: true,
        ..ArchiveScan::default()
    };
    archive.scan(&schema, &scan, &mut |_, events| {
        if !go_on() {
            return Err(Error::unavailable("build state from the archive", "it was asked to stop"));
        }
        let whole = 0..events.len();
        for start in whole.clone().step_by(BATCH_ROWS) {
            let batch = match start + BATCH_ROWS {
                end if start == 0 && end >= whole.end => events.clone(),
                end => events.take(start..end.min(whole.end)),
            };
            for (transform, state) in states.iter_mut() {
                let extracted = transform.extract(&batch);
                state.apply(&batch, transform.key_columns(), &extracted.contributions);
            }
        }
        Ok(())
    })
}
