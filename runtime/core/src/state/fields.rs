//! Live state as fields: what changed, everything, and back again.

use super::key::{KeyState, Tile};
use super::{ALL_MARKS, Entry, Field, FieldWrite, Mark, ViewState, find, partition, partition_key};
use crate::codec::{Encoder, decode_header, decode_tile};
use crate::entity::EntityKey;
use crate::global::{global_index, global_key};
use crate::plan::Plan;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

impl ViewState {
    /// The fields changed since the last `drain_publish`, in order of key and field.
    pub fn drain_publish(&mut self) -> Vec<FieldWrite> {
        self.drain(Mark::Publish)
    }

    /// The number of keys with fields that the next `drain_publish` returns.
    pub fn unpublished_keys(&self) -> usize {
        self.changed[0].len()
    }

    /// The fields changed since the last `drain_commit`, in order of key and field.
    pub fn drain_commit(&mut self) -> Vec<FieldWrite> {
        self.drain(Mark::Commit)
    }

    /// Makes the next `drain_publish` return everything, for a store that has been emptied: it does not remove
    /// fields that the store may hold from before.
    pub fn mark_all_for_publish(&mut self) {
        let bit = Mark::Publish.bit();
        for (at, entry) in self.entries.iter_mut().enumerate() {
            if entry.changed & bit == 0 {
                entry.changed |= bit;
                self.changed[0].push(at as u32);
            }
            for tile in &mut entry.state.tiles {
                tile.changed |= bit;
            }
        }
        for global in &mut self.globals {
            global.mark_all(bit);
        }
        self.newest_changed |= bit;
    }

    /// Everything, in order of key and field. Leaves the marks alone.
    pub fn snapshot(&self) -> Vec<FieldWrite> {
        let mut encoder = Encoder::default();
        let mut writes = Vec::with_capacity(self.entries.len());
        for entry in &self.entries {
            self.encode_entry(&mut encoder, entry, |_| true, &mut writes);
        }
        self.write_reserved(&mut writes);
        sort_writes(&mut writes);
        writes
    }

    /// Rebuilds state from a snapshot and the deltas after it, in their order: later writes win. No writes at
    /// all are the state before the first event; damaged or missing fields are an error.
    ///
    /// Nothing is marked as changed. An online store at this position or a later one (whose events are then
    /// applied before anything is published) goes on from here; one that is behind has to be emptied and
    /// everything published ([`ViewState::mark_all_for_publish`]).
    pub fn restore(plan: Arc<Plan>, writes: impl IntoIterator<Item = FieldWrite>) -> Result<Self> {
        let mut writes: Vec<FieldWrite> = writes.into_iter().collect();
        // A snapshot and the deltas after it, each in order: a few runs to merge. Stable, so that of equal fields the
        // last is the latest.
        writes.sort_by(|a, b| a.key.cmp(&b.key).then(a.field.cmp(&b.field)));
        let mut state = Self::new(plan);
        let mut held = Vec::new();
        if !writes.is_empty() {
            let key = partition_key();
            let start = writes.partition_point(|write| write.key < key);
            let end = writes.partition_point(|write| write.key <= key);
            latest(&writes[start..end], &mut held);
            let header = held.first().filter(|(field, _)| *field == Field::Header).map(|(_, bytes)| *bytes);
            let newest_us = partition::decode(header)?;
            state.newest_us = Some(newest_us);
            state.floor_us = state.plan.floor_us(newest_us);
            state.next_fold_us = state.plan.next_fold_us(state.floor_us);
            for global in &mut state.globals {
                global.fold(state.floor_us);
            }
            writes.drain(start..end);
        }
        let mut globals: Vec<(usize, BTreeMap<Field, Vec<u8>>)> = Vec::new();
        let mut held = Vec::new();
        for writes in writes.chunk_by(|a, b| a.key == b.key) {
            latest(writes, &mut held);
            if held.is_empty() {
                continue;
            }
            let key = &writes[0].key;
            match global_index(key) {
                Some(global) if global < state.globals.len() => {
                    globals.push((global, held.iter().map(|(field, bytes)| (*field, bytes.to_vec())).collect()));
                }
                Some(global) => return Err(Error::codec(format!("global distribution {global} is not in the plan"))),
                None => state.restore_key(key, &held)?,
            }
        }
        for (global, held) in globals {
            let Self { globals, index, entries, .. } = &mut state;
            let find = |key: &[u8]| find(index, entries, key);
            globals[global].restore(held, find)?;
        }
        Ok(state)
    }

    /// `held` are the key's fields in order.
    fn restore_key(&mut self, key: &EntityKey, held: &[(Field, &[u8])]) -> Result<()> {
        let decoded = self.decode_key(held)?;
        let at = self.insert(key.as_bytes(), decoded.first_us);
        self.entries[at].state = decoded;
        self.entries[at].changed = 0;
        self.changed[0].clear();
        self.changed[1].clear();
        self.wait(at);
        Ok(())
    }

    /// A key's state from its fields in order, with the codes of this state; its big tiles count as known to everyone.
    pub(super) fn decode_key(&mut self, held: &[(Field, &[u8])]) -> Result<KeyState> {
        let Some((&(Field::Header, header), tiles)) = held.split_first() else {
            return Err(Error::codec("a key without a header"));
        };
        let mut used = 0;
        let plan = self.plan.clone();
        let (mut decoded, strings) = decode_header(&plan, header, &[])?;
        let codes: Vec<u32> = strings.iter().map(|string| self.strings.code(string)).collect();
        decoded.map_codes(&plan, |code| codes[code as usize]);
        for tile in decoded.tiles.iter_mut().filter(|tile| tile.is_big()) {
            let at = tiles.binary_search_by_key(&Field::Tile(tile.start_us), |(field, _)| *field);
            let at = at.map_err(|_| Error::codec(format!("the tile at {} is missing", tile.start_us)))?;
            used += 1;
            let (mut words, strings) = decode_tile(&plan, tiles[at].1)?;
            if words.len() != tile.count as usize * plan.layout.width {
                return Err(Error::codec(format!("the tile at {} is not the header's", tile.start_us)));
            }
            let codes: Vec<u32> = strings.iter().map(|string| self.strings.code(string)).collect();
            for record in words.chunks_exact_mut(plan.layout.width) {
                plan.layout.map_codes(record, |code| codes[code as usize]);
            }
            tile.raw = words;
            tile.known = ALL_MARKS;
        }
        if used != tiles.len() {
            return Err(Error::codec(format!("the header knows {used} of {} tiles", tiles.len())));
        }
        Ok(decoded)
    }

    fn drain(&mut self, mark: Mark) -> Vec<FieldWrite> {
        let changed = std::mem::take(&mut self.changed[mark as usize]);
        let mut encoder = std::mem::take(&mut self.encoder);
        let mut writes = Vec::with_capacity(changed.len());
        for &at in &changed {
            let entry = &self.entries[at as usize];
            self.encode_entry(&mut encoder, entry, |tile| tile.changed & mark.bit() != 0, &mut writes);
            let entry = &mut self.entries[at as usize];
            entry.changed &= !mark.bit();
            for tile in entry.state.tiles.iter_mut().filter(|tile| tile.is_big()) {
                tile.changed &= !mark.bit();
                tile.known |= mark.bit();
            }
        }
        self.encoder = encoder;
        for (at, start_us) in std::mem::take(&mut self.removed[mark as usize]) {
            // A tile that was replaced by none may have come again.
            if self.entries[at as usize].state.big_tile(start_us).is_some() {
                continue;
            }
            let key = EntityKey::from_bytes(self.entries[at as usize].key.as_bytes());
            writes.push(FieldWrite { key, field: Field::Tile(start_us), value: None });
        }
        for (global, held) in self.globals.iter_mut().enumerate() {
            let entries = &self.entries;
            held.drain(
                mark,
                |at| entries[at as usize].key.as_bytes(),
                |field, value| {
                    writes.push(FieldWrite { key: global_key(global), field, value });
                },
            );
        }
        if self.newest_changed & mark.bit() != 0 {
            self.newest_changed &= !mark.bit();
            writes.extend(self.newest_us.map(partition::write));
        }
        sort_writes(&mut writes);
        writes
    }

    pub(super) fn encode_entry(
        &self,
        encoder: &mut Encoder,
        entry: &Entry,
        wanted: impl Fn(&Tile) -> bool,
        writes: &mut Vec<FieldWrite>,
    ) {
        let key = EntityKey::from_bytes(entry.key.as_bytes());
        let header = encoder.header(&self.plan, &entry.state, &self.strings);
        writes.push(FieldWrite { key: key.clone(), field: Field::Header, value: Some(header) });
        for tile in entry.state.tiles.iter().filter(|tile| tile.is_big() && wanted(tile)) {
            let value = encoder.tile(&self.plan, tile, &self.strings);
            writes.push(FieldWrite { key: key.clone(), field: Field::Tile(tile.start_us), value: Some(value) });
        }
    }

    pub(super) fn write_reserved(&self, writes: &mut Vec<FieldWrite>) {
        for (global, held) in self.globals.iter().enumerate() {
            held.snapshot(
                |at| self.entries[at as usize].key.as_bytes(),
                |field, value| {
                    writes.push(FieldWrite { key: global_key(global), field, value: Some(value) });
                },
            );
        }
        writes.extend(self.newest_us.map(partition::write));
    }
}

pub(super) fn sort_writes(writes: &mut [FieldWrite]) {
    writes.sort_unstable_by(|left, right| (&left.key, left.field).cmp(&(&right.key, right.field)));
}

/// Of writes of one key, in order, the last of each field, without those that were removed.
fn latest<'a>(writes: &'a [FieldWrite], held: &mut Vec<(Field, &'a [u8])>) {
    held.clear();
    for (at, write) in writes.iter().enumerate() {
        let superseded = writes.get(at + 1).is_some_and(|next| next.field == write.field);
        if let (Some(value), false) = (&write.value, superseded) {
            held.push((write.field, value));
        }
    }
}
