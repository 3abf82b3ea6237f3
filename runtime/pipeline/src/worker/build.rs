//! State from the archive: what a view would hold at a committed position had it been there from the start.

use crate::offline::needed_columns;
use crate::port::{Archive, ArchiveScan, RowFile};
use crate::{Error, Result};
use plumb_core::column::Column;
use plumb_core::entity::{EntityKey, key_of_row};
use plumb_core::event::EventBatch;
use plumb_core::state::ViewState;
use plumb_transform::Transform;
use rustc_hash::FxHashSet;
use std::collections::BTreeMap;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

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

/// Some of the keys of a view.
#[derive(Debug, Clone)]
pub struct Members {
    /// Of so many parts by hash, this one.
    part: (u64, u64),
    /// Only these; `None` = all of the part.
    only: Option<Arc<FxHashSet<EntityKey>>>,
}

impl Members {
    /// Part `index` of `parts` of these keys, or of all there are.
    pub fn of(index: u64, parts: u64, only: Option<Arc<FxHashSet<EntityKey>>>) -> Self {
        Self { part: (index, parts.max(1)), only }
    }

    /// Whether a key is one of them.
    pub fn has(&self, key: &EntityKey) -> bool {
        let (index, parts) = self.part;
        (parts == 1 || xxh3_64(key.as_bytes()) % parts == index)
            && self.only.as_ref().is_none_or(|only| only.contains(key))
    }
}

/// State of some keys of a view in one partition, built again from events.
#[derive(Debug)]
pub struct Rebuilt {
    /// The view.
    pub view: Transform,
    /// The state of the keys, with the floor of the whole partition.
    pub state: ViewState,
    /// Every event of the keys below this offset is in it.
    pub built_to: u64,
    /// How many events of the keys were applied.
    pub applied: u64,
    members: Members,
}

impl Rebuilt {
    /// No event applied yet. `newest_us` is the newest event time of the whole partition: what lies below the floor
    /// that it implies goes into the base at once, as folding would bring it there.
    pub fn new(view: Transform, newest_us: Option<i64>, members: Members) -> Self {
        let mut state = ViewState::new(view.plan().clone());
        if let Some(newest_us) = newest_us {
            state.advance_to(newest_us);
        }
        Self { view, state, built_to: 0, applied: 0, members }
    }

    /// Applies the archived events of the keys from where it is built to up to an offset; `read` is told of the rows
    /// looked at. Asks `go_on` between batches and stops with an error when it says no.
    pub fn read_archive(
        &mut self,
        archive: &dyn Archive,
        partition: u32,
        files: &[RowFile],
        to: u64,
        go_on: &dyn Fn() -> bool,
        read: &dyn Fn(u64),
    ) -> Result<()> {
        if to <= self.built_to {
            return Ok(());
        }
        let scan = ArchiveScan {
            files: files.iter().map(|file| (partition, file.clone())).collect(),
            columns: Some(needed_columns([&self.view])),
            from_offset: BTreeMap::from([(partition, self.built_to)]),
            below_offset: BTreeMap::from([(partition, to)]),
            ..ArchiveScan::default()
        };
        let schema = self.view.schema().clone();
        archive.scan(&schema, &scan, &mut |_, events| {
            if !go_on() {
                return Err(Error::unavailable("build state from the archive", "it was asked to stop"));
            }
            read(events.len() as u64);
            self.apply(&events);
            Ok(())
        })?;
        self.built_to = to;
        Ok(())
    }

    /// Applies the events of the keys among these.
    pub fn apply(&mut self, events: &EventBatch) {
        let columns: Vec<&Column> = self.view.key_columns().iter().map(|&column| &events.columns[column]).collect();
        let mut bytes = Vec::new();
        let is_ours =
            |row: &usize| key_of_row(&columns, *row, &mut bytes) && self.members.has(&EntityKey::from_bytes(&bytes));
        let rows: Vec<usize> = (0..events.len()).filter(is_ours).collect();
        self.applied += rows.len() as u64;
        for rows in rows.chunks(BATCH_ROWS) {
            let batch = events.take(rows.iter().copied());
            let extracted = self.view.extract(&batch);
            self.state.apply(&batch, self.view.key_columns(), &extracted.contributions);
        }
    }
}
