//! Putting rebuilt state in the place of what is held, key by key.

use super::{ALL_MARKS, Entry, Field, FieldWrite, Mark, NO_KEY, ViewState, find};
use crate::codec::Encoder;
use crate::entity::EntityKey;
use crate::{Error, Result};

impl ViewState {
    /// Takes notice of the newest event time of the whole partition: for state that only some keys' events are applied
    /// to, whose floor is that of all. An older one than is known changes nothing.
    pub fn advance_to(&mut self, newest_us: i64) {
        self.advance(newest_us);
    }

    /// The keys, in order.
    pub fn key_list(&self) -> Vec<EntityKey> {
        let mut keys: Vec<EntityKey> =
            self.entries.iter().map(|entry| EntityKey::from_bytes(entry.key.as_bytes())).collect();
        keys.sort_unstable();
        keys
    }

    /// All fields of a key, in order; `None` for a key without state.
    pub fn fields_of(&self, key: &EntityKey) -> Option<Vec<FieldWrite>> {
        let at = find(&self.index, &self.entries, key.as_bytes())?;
        let mut writes = Vec::new();
        self.encode_entry(&mut Encoder::default(), &self.entries[at as usize], |_| true, &mut writes);
        Some(writes)
    }

    /// All fields of reserved keys, in order.
    pub fn reserved_fields(&self) -> Vec<FieldWrite> {
        let mut writes = Vec::new();
        self.write_reserved(&mut writes);
        super::fields::sort_writes(&mut writes);
        writes
    }

    /// Puts a key's state as it is in `rebuilt`, a state of the same plan and newest event time, in the place of the one
    /// that is held; what differs counts as changed. Returns whether anything did. Counts of global distributions are
    /// apart ([`ViewState::replace_counts`]).
    pub fn replace(&mut self, key: &EntityKey, rebuilt: &ViewState) -> Result<bool> {
        if rebuilt.newest_us != self.newest_us {
            return Err(Error::codec("rebuilt state is of another newest event time"));
        }
        let fields = rebuilt.fields_of(key).ok_or_else(|| Error::codec("a key was not rebuilt"))?;
        if self.fields_of(key).as_ref() == Some(&fields) {
            return Ok(false);
        }
        let held: Vec<(Field, &[u8])> =
            fields.iter().filter_map(|write| Some((write.field, write.value.as_deref()?))).collect();
        let mut state = self.decode_key(&held)?;
        let at = match find(&self.index, &self.entries, key.as_bytes()) {
            Some(at) => at as usize,
            None => self.insert(key.as_bytes(), state.first_us),
        };
        let Entry { state: before, .. } = &self.entries[at];
        for tile in &mut state.tiles {
            tile.changed = ALL_MARKS;
            tile.known = before.big_tile(tile.start_us).map_or(0, |tile| tile.known);
        }
        for tile in before.tiles.iter().filter(|tile| tile.is_big() && state.big_tile(tile.start_us).is_none()) {
            for mark in [Mark::Publish, Mark::Commit] {
                if tile.known & mark.bit() != 0 {
                    self.removed[mark as usize].push((at as u32, tile.start_us));
                }
            }
        }
        self.entries[at].state = state;
        self.touch(at);
        self.wait(at);
        Ok(true)
    }

    /// Counts the keys of `rebuilt` in the global distributions as they are counted there. Returns the keys that were
    /// counted otherwise, in order, and whether a distribution reached further back than it may. Nothing is changed
    /// without `apply`; with it, all of the keys must have state here.
    pub fn replace_counts(&mut self, rebuilt: &ViewState, apply: bool) -> Result<(Vec<EntityKey>, bool)> {
        let here = |entry: &Entry| find(&self.index, &self.entries, entry.key.as_bytes()).unwrap_or(NO_KEY);
        let here: Vec<u32> = rebuilt.entries.iter().map(here).collect();
        if apply && here.contains(&NO_KEY) {
            return Err(Error::codec("a key that was rebuilt has no state"));
        }
        let (mut differing, mut dropped) = (Vec::new(), false);
        for (held, rebuilt) in self.globals.iter_mut().zip(&rebuilt.globals) {
            let (entities, further) = held.replace(rebuilt, &here, apply);
            differing.extend(entities);
            dropped |= further;
        }
        // One without state differs anyway.
        let key = |at: u32| self.entries.get(at as usize).map(|entry| EntityKey::from_bytes(entry.key.as_bytes()));
        let mut keys: Vec<EntityKey> = differing.into_iter().filter_map(key).collect();
        keys.sort_unstable();
        keys.dedup();
        Ok((keys, dropped))
    }
}
