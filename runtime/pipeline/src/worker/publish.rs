//! Publishing a partition to the online store: what it holds, what is on its way, and rebuilding it.

use super::partition::{Partition, PartitionView, online_field};
use crate::meter::SourceMeters;
use crate::port::{OnlineEntity, OnlineField, OnlinePartial, OnlineRead, OnlineStore, OnlineWrite, PublishOutcome};
use crate::{Error, Result, TRACE};
use plumb_core::ErrorKind;
use plumb_core::entity::EntityKey;
use plumb_core::plan::StateId;
use plumb_core::read::tiles_needed;
use plumb_core::state::ViewState;
use plumb_transform::Transform;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Fields written at a time while nothing reads them.
const REBUILD_WRITES: usize = 20_000;

/// Keys read at a time, and fields written at a time, while others read.
const READ_KEYS: usize = 512;
const REPAIR_WRITES: usize = 6_000;

/// A key with all of its fields in order, as a store should hold them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFields {
    /// The entity, or a reserved key.
    pub key: EntityKey,
    /// Header and tiles.
    pub fields: Vec<(OnlineField, Vec<u8>)>,
}

impl KeyFields {
    /// The fields of a key of a state; `None` for one without state.
    pub fn of(state: &ViewState, key: &EntityKey) -> Option<Self> {
        let fields = state.fields_of(key)?.into_iter();
        let fields = fields.map(|write| (online_field(write.field), write.value.unwrap_or_default())).collect();
        Some(Self { key: key.clone(), fields })
    }

    /// As an online store would show it.
    pub fn into_partial(self, partition: u32) -> OnlinePartial {
        let mut partial = OnlinePartial { partition, header: Vec::new(), tiles: BTreeMap::new() };
        for (field, bytes) in self.fields {
            match field {
                OnlineField::Header => partial.header = bytes,
                OnlineField::Tile(start_us) => drop(partial.tiles.insert(start_us, bytes)),
            }
        }
        partial
    }
}

/// The reserved key whose header says that all of a state is in the store. Begins like the reserved keys of state
/// (`plumb_core::state::partition_key`), as no entity does.
fn complete_key() -> EntityKey {
    EntityKey::from_bytes(b"\xff\xff\xff\xffcomplete")
}

fn complete_mark(entity: Arc<str>, state_id: StateId) -> OnlineWrite {
    OnlineWrite { entity, state_id, key: complete_key(), field: OnlineField::Header, value: Some(vec![1]) }
}

/// Whether the store holds all of the states of these views of a partition, of each.
pub fn held(online: &dyn OnlineStore, source: &str, partition: u32, views: &[Transform]) -> Result<Vec<bool>> {
    Ok(held_everywhere(online, source, &[partition], views)?.iter().map(Vec::is_empty).collect())
}

/// The partitions whose state of a view the store does not hold all of, of each of these views.
pub fn held_everywhere(
    online: &dyn OnlineStore,
    source: &str,
    partitions: &[u32],
    views: &[Transform],
) -> Result<Vec<Vec<u32>>> {
    let read = |view: &Transform| OnlineRead {
        entity: view.def().entity.name.as_str().into(),
        state_id: view.state_id(),
        key: complete_key(),
        tiles: Vec::new(),
    };
    let reads: Vec<OnlineRead> = views.iter().map(read).collect();
    let answer = online.read(source, partitions, &reads)?;
    let missing = |entity: Option<&OnlineEntity>| -> Vec<u32> {
        let there = |partition: u32| {
            let whole = entity.filter(|entity| !entity.lost);
            whole.is_some_and(|entity| entity.partials.iter().any(|partial| partial.partition == partition))
        };
        partitions.iter().copied().filter(|&partition| !there(partition)).collect()
    };
    Ok((0..views.len()).map(|index| missing(answer.entities.get(index))).collect())
}

/// How a publish went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// The store is at the position.
    Yes,
    /// The store cannot be reached; the writes are kept for the next try.
    Deferred,
    /// The store is not where it should be: it has to be rebuilt.
    Lost,
}

/// The owner's side of the online store for one partition.
pub struct Publisher {
    online: Arc<dyn OnlineStore>,
    source: String,
    partition: u32,
    generation: u64,
    /// The position the store holds, as far as known.
    position: Option<u64>,
    /// Positions of publishes whose answers were lost: the store may hold any of them.
    uncertain: Vec<u64>,
    /// Writes that have not arrived for sure.
    kept: Vec<OnlineWrite>,
    meters: Arc<SourceMeters>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher")
            .field("source", &self.source)
            .field("partition", &self.partition)
            .field("generation", &self.generation)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl Publisher {
    /// A publisher for a store that has been claimed and holds `position`.
    pub fn new(
        online: Arc<dyn OnlineStore>,
        source: &str,
        partition: u32,
        generation: u64,
        position: Option<u64>,
        meters: Arc<SourceMeters>,
    ) -> Self {
        let source = source.to_owned();
        Self { online, source, partition, generation, position, uncertain: Vec::new(), kept: Vec::new(), meters }
    }

    /// The position the store holds.
    pub fn position(&self) -> Option<u64> {
        self.position
    }

    /// The owner's generation.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How many writes have not arrived for sure.
    pub fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Looks whether the store is where it was left; there must be nothing to publish.
    pub fn heartbeat(&mut self) -> Result<Published> {
        match self.position {
            Some(position) => self.send(position, Vec::new()),
            None => Ok(Published::Lost),
        }
    }

    /// Claims the partition again in a store that has forgotten the claim.
    pub fn claim_again(&mut self) -> Result<()> {
        self.online.claim(&self.source, self.partition, self.generation).map(|_| ())
    }

    /// Publishes what changed in all views.
    pub fn publish(&mut self, partition: &mut Partition) -> Result<Published> {
        let mut writes = std::mem::take(&mut self.kept);
        let retried = !writes.is_empty();
        partition.views_mut().iter_mut().for_each(|view| view.drain_publish(&mut writes));
        if retried {
            writes = last_of_each(writes);
        }
        self.send(partition.position(), writes)
    }

    fn send(&mut self, position: u64, writes: Vec<OnlineWrite>) -> Result<Published> {
        loop {
            let (source, partition) = (&self.source, self.partition);
            let writes_sent = writes.len();
            let _span =
                tracing::info_span!(target: TRACE, "publish", source, partition, position, writes = writes_sent)
                    .entered();
            let started = Instant::now();
            let outcome =
                self.online.publish(&self.source, self.partition, self.generation, self.position, position, &writes);
            match outcome {
                Ok(PublishOutcome::Published) => {
                    self.meters.publishes.add_duration(started.elapsed());
                    self.position = Some(position);
                    self.uncertain.clear();
                    return Ok(Published::Yes);
                }
                Ok(PublishOutcome::Fenced { current }) => return Err(self.fenced(current)),
                // One of ours has arrived after all. All writes are absolute, so sending them again is fine.
                Ok(PublishOutcome::Mismatch { stored: Some(stored) }) if self.uncertain.contains(&stored) => {
                    self.position = Some(stored);
                    self.uncertain.clear();
                }
                Ok(PublishOutcome::Mismatch { stored }) => {
                    tracing::warn!(
                        source = self.source,
                        partition = self.partition,
                        expected = self.position,
                        ?stored,
                        "online store is not where it was left, rebuilding it"
                    );
                    return Ok(Published::Lost);
                }
                Err(error) if error.kind() == ErrorKind::Unavailable && !matches!(error, Error::Fenced { .. }) => {
                    self.meters.publish_failures.fetch_add(1, Ordering::Relaxed);
                    if self.uncertain.is_empty() {
                        tracing::warn!(%error, "cannot publish, trying again");
                    }
                    if self.uncertain.last() != Some(&position) {
                        self.uncertain.push(position);
                    }
                    self.kept = writes;
                    return Ok(Published::Deferred);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Empties the partition in the store and writes everything again. Readers are told that it is being rebuilt
    /// until the last write.
    pub fn rebuild(&mut self, partition: &mut Partition) -> Result<()> {
        let meters = self.meters.clone();
        meters.rebuilding(self.partition, 0, 1);
        let rebuilt = self.write_all(partition, &meters);
        // A rebuild that failed is begun again from nothing.
        match rebuilt {
            Ok(()) => meters.rebuilt(self.partition),
            Err(_) => meters.rebuilding(self.partition, 0, 1),
        }
        rebuilt
    }

    fn write_all(&mut self, partition: &mut Partition, meters: &SourceMeters) -> Result<()> {
        self.online.clear(&self.source, self.partition, self.generation, None)?;
        self.position = None;
        self.uncertain.clear();
        self.kept.clear();
        let mut marks = Vec::new();
        let keys: u64 = partition.views().iter().map(|view| view.state.keys() as u64).sum();
        let mut done = 0;
        for view in partition.views_mut() {
            let of_view = view.state.keys() as u64;
            let writes = everything(view);
            for (index, part) in writes.chunks(REBUILD_WRITES).enumerate() {
                let so_far = of_view.saturating_mul((index * REBUILD_WRITES) as u64) / writes.len() as u64;
                meters.rebuilding(self.partition, done + so_far, keys);
                match self.online.rebuild(&self.source, self.partition, self.generation, part)? {
                    PublishOutcome::Published => {}
                    PublishOutcome::Fenced { current } => return Err(self.fenced(current)),
                    PublishOutcome::Mismatch { stored } => return Err(self.moved(stored)),
                }
            }
            done += of_view;
            marks.push(complete_mark(view.entity.clone(), view.transform.state_id()));
        }
        match self.send(partition.position(), marks)? {
            Published::Yes => Ok(()),
            Published::Deferred => Err(Error::unavailable("publish to the online store", "it cannot be reached")),
            Published::Lost => Err(self.moved(self.position)),
        }
    }

    /// Writes all of one more state, which nobody reads yet, at the position the store holds.
    pub fn add(&mut self, view: &mut PartitionView) -> Result<()> {
        let state_id = view.transform.state_id();
        self.online.clear(&self.source, self.partition, self.generation, Some(state_id))?;
        let Some(position) = self.position else { return Err(self.moved(None)) };
        let mut writes = everything(view);
        writes.push(complete_mark(view.entity.clone(), state_id));
        for part in writes.chunks(REBUILD_WRITES) {
            match self.send(position, part.to_vec())? {
                Published::Yes => {}
                Published::Deferred => {
                    self.kept.clear();
                    return Err(Error::unavailable("publish to the online store", "it cannot be reached"));
                }
                Published::Lost => return Err(self.moved(self.position)),
            }
        }
        Ok(())
    }

    /// Takes back that all of a state is in the store, before it is changed in a way that has to be whole: whoever
    /// comes after a crash writes all of it again.
    pub fn unmark(&mut self, view: &PartitionView) -> Result<()> {
        let mark = OnlineWrite { value: None, ..complete_mark(view.entity.clone(), view.transform.state_id()) };
        self.write(vec![vec![mark]])
    }

    /// What the store should hold under the reserved keys of a view.
    pub fn reserved(&self, view: &PartitionView) -> Vec<KeyFields> {
        let mut keys: Vec<KeyFields> = Vec::new();
        for write in view.state.reserved_fields() {
            let field = (online_field(write.field), write.value.unwrap_or_default());
            match keys.last_mut() {
                Some(last) if last.key == write.key => last.fields.push(field),
                _ => keys.push(KeyFields { key: write.key, fields: vec![field] }),
            }
        }
        keys.push(KeyFields { key: complete_key(), fields: vec![(OnlineField::Header, vec![1])] });
        keys
    }

    /// Which of these keys of a view the store holds otherwise: their indices, with what it holds. There must be
    /// nothing to publish.
    pub fn differing(&self, view: &PartitionView, keys: &[KeyFields]) -> Result<Vec<(usize, Option<OnlinePartial>)>> {
        let mut differing = Vec::new();
        for (part, keys) in keys.chunks(READ_KEYS).enumerate() {
            let tile = |(field, _): &(OnlineField, Vec<u8>)| match field {
                OnlineField::Tile(start_us) => Some(*start_us),
                OnlineField::Header => None,
            };
            // Also what a reader would ask for now, which may be more than there should be.
            let now = view.state.newest_us().map(|newest_us| newest_us.saturating_add(1));
            let needed = now.map_or_else(Vec::new, |now| tiles_needed(view.transform.plan(), now));
            let read = |key: &KeyFields| {
                let mut tiles: Vec<i64> = key.fields.iter().filter_map(tile).chain(needed.iter().copied()).collect();
                tiles.sort_unstable();
                tiles.dedup();
                OnlineRead {
                    entity: view.entity.clone(),
                    state_id: view.transform.state_id(),
                    key: key.key.clone(),
                    tiles,
                }
            };
            let reads: Vec<OnlineRead> = keys.iter().map(read).collect();
            let mut answer = self.online.read(&self.source, &[self.partition], &reads)?;
            let stored = answer.positions.remove(&self.partition).flatten();
            if self.position.is_none() || stored != self.position || answer.entities.iter().any(|entity| entity.lost) {
                return Err(self.moved(stored));
            }
            for (index, (key, entity)) in keys.iter().zip(answer.entities).enumerate() {
                let held = entity.partials.into_iter().find(|partial| partial.partition == self.partition);
                let same = |(field, bytes): &(OnlineField, Vec<u8>)| {
                    let held = held.as_ref().and_then(|held| match field {
                        OnlineField::Header => Some(&held.header),
                        OnlineField::Tile(start_us) => held.tiles.get(start_us),
                    });
                    held == Some(bytes)
                };
                if !key.fields.iter().all(same) {
                    differing.push((part * READ_KEYS + index, held));
                }
            }
        }
        Ok(differing)
    }

    /// Writes keys of a view whole, at the position the store holds.
    pub fn put(&mut self, view: &PartitionView, keys: &[&KeyFields]) -> Result<()> {
        let (entity, state_id) = (&view.entity, view.transform.state_id());
        let write = |key: &EntityKey, (field, bytes): &(OnlineField, Vec<u8>)| OnlineWrite {
            entity: entity.clone(),
            state_id,
            key: key.clone(),
            field: *field,
            value: Some(bytes.clone()),
        };
        let whole = |key: &&KeyFields| key.fields.iter().map(|field| write(&key.key, field)).collect();
        self.write(keys.iter().map(whole).collect())
    }

    /// Sends writes at the position the store holds, those of a group together.
    fn write(&mut self, groups: Vec<Vec<OnlineWrite>>) -> Result<()> {
        let Some(position) = self.position else { return Err(self.moved(None)) };
        let mut part = Vec::new();
        let mut groups = groups.into_iter().peekable();
        while let Some(group) = groups.next() {
            part.extend(group);
            let full = groups.peek().is_none_or(|next| part.len() + next.len() > REPAIR_WRITES);
            if !full {
                continue;
            }
            match self.send(position, std::mem::take(&mut part))? {
                Published::Yes => {}
                Published::Deferred => {
                    return Err(Error::unavailable("publish to the online store", "it cannot be reached"));
                }
                Published::Lost => return Err(self.moved(self.position)),
            }
        }
        Ok(())
    }

    /// Removes a state nobody reads any more.
    pub fn remove(&mut self, state_id: StateId) -> Result<()> {
        self.kept.retain(|write| write.state_id != state_id);
        self.online.clear(&self.source, self.partition, self.generation, Some(state_id))
    }

    fn fenced(&self, current: u64) -> Error {
        Error::Fenced {
            what: format!("partition {} of source `{}`", self.partition, self.source),
            current,
            own: self.generation,
        }
    }

    fn moved(&self, stored: Option<u64>) -> Error {
        Error::unavailable(
            format!("write partition {} of source `{}` to the online store", self.partition, self.source),
            format!("it moved to position {stored:?} meanwhile"),
        )
    }
}

/// All of a view's state; nothing counts as changed afterwards.
fn everything(view: &mut PartitionView) -> Vec<OnlineWrite> {
    view.state.mark_all_for_publish();
    let mut writes = Vec::new();
    view.drain_publish(&mut writes);
    // The store has been emptied, so there is nothing to remove.
    writes.retain(|write| write.value.is_some());
    writes
}

/// The last write of each field.
fn last_of_each(writes: Vec<OnlineWrite>) -> Vec<OnlineWrite> {
    let mut fields = BTreeMap::new();
    for write in writes {
        fields.insert((write.state_id, write.key, write.field), (write.entity, write.value));
    }
    let write = |((state_id, key, field), (entity, value))| OnlineWrite { entity, state_id, key, field, value };
    fields.into_iter().map(write).collect()
}
