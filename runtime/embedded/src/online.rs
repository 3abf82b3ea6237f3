//! The online store in the embedded database.
//!
//! An entity's field is one entry. Its key is source, 0, partition (`u32` big-endian), state id (8 bytes),
//! 0 and the entity's bytes (1 and their SHA-256 if they are long), then the field: the tile's start (8
//! bytes, ordered) and 1, or just 0 for the header. The last byte tells the field's length, so no two
//! fields share a key; one partition of one state is one range.
//!
//! Generation and position of a partition change in the batch that writes the fields, under that
//! partition's lock; a read uses one snapshot and so sees whole publishes only.

use crate::{keyspace, unavailable};
use fjall::{Database, Keyspace, PersistMode, Readable, Snapshot};
use plumb_core::plan::StateId;
use plumb_pipeline::port::{
    OnlineAnswer, OnlineField, OnlinePartial, OnlineRead, OnlineStore, OnlineWrite, PublishOutcome,
};
use plumb_pipeline::{Error, Result};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// Memory for fields before they go to a sorted file, in bytes.
const MEMTABLE_BYTES: u64 = 64 << 20;

/// Entities longer than this are stored under their digest: keys of the store are limited.
const LONGEST_ENTITY: usize = 1024;

/// Fields removed per batch by `clear`.
const CLEAR_BATCH: usize = 10_000;

/// Who may write a partition, and up to where it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Fence {
    generation: u64,
    position: Option<u64>,
}

impl Fence {
    fn encode(self) -> Vec<u8> {
        let mut bytes = self.generation.to_le_bytes().to_vec();
        if let Some(position) = self.position {
            bytes.extend_from_slice(&position.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (generation, rest) = bytes.split_first_chunk::<8>()?;
        let position = match rest {
            [] => None,
            rest => Some(u64::from_le_bytes(rest.try_into().ok()?)),
        };
        Some(Self { generation: u64::from_le_bytes(*generation), position })
    }
}

/// The online store on fjall.
pub struct EmbeddedOnline {
    db: Database,
    fields: Keyspace,
    fences: Keyspace,
    /// Serialises the writers of a partition between reading its fence and committing.
    writers: Mutex<BTreeMap<Vec<u8>, Arc<Mutex<()>>>>,
}

impl std::fmt::Debug for EmbeddedOnline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedOnline").finish_non_exhaustive()
    }
}

impl EmbeddedOnline {
    pub(crate) fn open(db: &Database) -> Result<Self> {
        Ok(Self {
            db: db.clone(),
            fields: keyspace(db, "online", MEMTABLE_BYTES)?,
            fences: keyspace(db, "online-fences", 1 << 20)?,
            writers: Mutex::new(BTreeMap::new()),
        })
    }

    fn writer(&self, prefix: &[u8]) -> Arc<Mutex<()>> {
        lock(&self.writers).entry(prefix.to_vec()).or_default().clone()
    }

    fn fence(&self, prefix: &[u8]) -> Result<Option<Fence>> {
        match self.fences.get(prefix).map_err(|error| unavailable("read a fence of the online store", error))? {
            Some(bytes) => decode_fence(&bytes).map(Some),
            None => Ok(None),
        }
    }

    /// Writes fields and the fence in one batch.
    fn write(&self, prefix: &[u8], fence: Fence, writes: &[OnlineWrite]) -> Result<()> {
        let mut batch = fjall::OwnedWriteBatch::with_capacity(self.db.clone(), writes.len() + 1);
        for write in writes {
            let key = field_key(prefix, write.state_id, write.key.as_bytes(), write.field);
            match &write.value {
                Some(value) => batch.insert(&self.fields, key, value.as_slice()),
                None => batch.remove(&self.fields, key),
            }
        }
        batch.insert(&self.fences, prefix, fence.encode());
        batch.commit().map_err(|error| unavailable("publish to the online store", error))
    }
}

impl OnlineStore for EmbeddedOnline {
    fn is_remote(&self) -> bool {
        false
    }

    fn claim(&self, source: &str, partition: u32, generation: u64) -> Result<Option<u64>> {
        let prefix = prefix_of(source, partition);
        let writer = self.writer(&prefix);
        let _writing = lock(&writer);
        let stored = self.fence(&prefix)?.unwrap_or_default();
        if stored.generation > generation {
            return Err(Error::Fenced {
                what: format!("partition {partition} of source `{source}`"),
                current: stored.generation,
                own: generation,
            });
        }
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&self.fences, prefix.as_slice(), Fence { generation, ..stored }.encode());
        batch.commit().map_err(|error| unavailable("claim in the online store", error))?;
        Ok(stored.position)
    }

    fn publish(
        &self,
        source: &str,
        partition: u32,
        generation: u64,
        expected: Option<u64>,
        position: u64,
        writes: &[OnlineWrite],
    ) -> Result<PublishOutcome> {
        let prefix = prefix_of(source, partition);
        let writer = self.writer(&prefix);
        let _writing = lock(&writer);
        let stored = self.fence(&prefix)?.unwrap_or_default();
        if stored.generation > generation {
            return Ok(PublishOutcome::Fenced { current: stored.generation });
        }
        if stored.generation < generation || stored.position != expected {
            // A lower generation than ours is a store that lost our claim: what it holds is not ours to build on.
            let stored = stored.position.filter(|_| stored.generation == generation);
            return Ok(PublishOutcome::Mismatch { stored });
        }
        self.write(&prefix, Fence { generation, position: Some(position) }, writes)?;
        Ok(PublishOutcome::Published)
    }

    fn rebuild(&self, source: &str, partition: u32, generation: u64, writes: &[OnlineWrite]) -> Result<PublishOutcome> {
        let prefix = prefix_of(source, partition);
        let writer = self.writer(&prefix);
        let _writing = lock(&writer);
        let stored = self.fence(&prefix)?.unwrap_or_default();
        if stored.generation > generation {
            return Ok(PublishOutcome::Fenced { current: stored.generation });
        }
        if stored.position.is_some() {
            return Ok(PublishOutcome::Mismatch { stored: stored.position });
        }
        self.write(&prefix, Fence { generation, position: None }, writes)?;
        Ok(PublishOutcome::Published)
    }

    fn clear(&self, source: &str, partition: u32, generation: u64, state_id: Option<StateId>) -> Result<()> {
        let prefix = prefix_of(source, partition);
        let writer = self.writer(&prefix);
        let _writing = lock(&writer);
        let stored = self.fence(&prefix)?.unwrap_or_default();
        if stored.generation > generation {
            return Err(Error::Fenced {
                what: format!("partition {partition} of source `{source}`"),
                current: stored.generation,
                own: generation,
            });
        }
        let mut range = prefix.clone();
        match state_id {
            Some(StateId(id)) => range.extend_from_slice(&id),
            // Position first: a reader must not take what is left of a half-cleared partition for all of it.
            None => self.write(&prefix, Fence { generation, position: None }, &[])?,
        }
        let failed = |error| unavailable("clear the online store", error);
        loop {
            let mut batch = self.db.batch();
            for entry in self.fields.prefix(&range).take(CLEAR_BATCH) {
                batch.remove(&self.fields, entry.key().map_err(failed)?);
            }
            if batch.is_empty() {
                return Ok(());
            }
            batch.commit().map_err(failed)?;
        }
    }

    fn read(&self, source: &str, partitions: &[u32], reads: &[OnlineRead]) -> Result<OnlineAnswer> {
        let failed = |error| unavailable("read the online store", error);
        let snapshot = self.db.snapshot();
        let mut positions = BTreeMap::new();
        let mut prefixes = Vec::with_capacity(partitions.len());
        for &partition in partitions {
            let prefix = prefix_of(source, partition);
            let fence = snapshot.get(&self.fences, &prefix).map_err(failed)?;
            let fence = fence.map(|bytes| decode_fence(&bytes)).transpose()?.unwrap_or_default();
            positions.insert(partition, fence.position);
            prefixes.push((partition, prefix));
        }
        let entities = reads
            .iter()
            .map(|read| self.read_entity(&snapshot, &prefixes, read).map(Into::into).map_err(failed))
            .collect::<Result<_>>()?;
        Ok(OnlineAnswer { positions, entities })
    }
}

impl EmbeddedOnline {
    fn read_entity(
        &self,
        snapshot: &Snapshot,
        prefixes: &[(u32, Vec<u8>)],
        read: &OnlineRead,
    ) -> fjall::Result<Vec<OnlinePartial>> {
        let mut partials = Vec::new();
        for (partition, prefix) in prefixes {
            let mut key = field_key(prefix, read.state_id, read.key.as_bytes(), OnlineField::Header);
            let Some(header) = snapshot.get(&self.fields, &key)? else { continue };
            let entity_len = key.len() - 1;
            let mut tiles = BTreeMap::new();
            for &start_us in &read.tiles {
                key.truncate(entity_len);
                push_field(&mut key, OnlineField::Tile(start_us));
                if let Some(tile) = snapshot.get(&self.fields, &key)? {
                    tiles.insert(start_us, tile.to_vec());
                }
            }
            partials.push(OnlinePartial { partition: *partition, header: header.to_vec(), tiles });
        }
        Ok(partials)
    }
}

fn decode_fence(bytes: &[u8]) -> Result<Fence> {
    Fence::decode(bytes).ok_or_else(|| Error::internal("the online store holds a damaged fence"))
}

fn prefix_of(source: &str, partition: u32) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(source.len() + 5);
    prefix.extend_from_slice(source.as_bytes());
    prefix.push(0);
    prefix.extend_from_slice(&partition.to_be_bytes());
    prefix
}

fn field_key(prefix: &[u8], state_id: StateId, entity: &[u8], field: OnlineField) -> Vec<u8> {
    let mut key = Vec::with_capacity(prefix.len() + entity.len().min(LONGEST_ENTITY) + 18);
    key.extend_from_slice(prefix);
    key.extend_from_slice(&state_id.0);
    if entity.len() <= LONGEST_ENTITY {
        key.push(0);
        key.extend_from_slice(entity);
    } else {
        key.push(1);
        key.extend_from_slice(&Sha256::digest(entity));
    }
    push_field(&mut key, field);
    key
}

fn push_field(key: &mut Vec<u8>, field: OnlineField) {
    match field {
        OnlineField::Header => key.push(0),
        OnlineField::Tile(start_us) => {
            // Flipping the sign bit makes byte order time order.
            key.extend_from_slice(&(start_us as u64 ^ 1 << 63).to_be_bytes());
            key.push(1);
        }
    }
}

/// Poison is ignored: the guarded value is `()` or a map whose only update is an insertion.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
