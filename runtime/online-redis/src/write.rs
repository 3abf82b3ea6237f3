//! Claiming, publishing, rebuilding and clearing partitions.

use crate::fault::Fault;
use crate::key::{self, Place, push_field};
use crate::read::mark_field;
use crate::resp::Value;
use crate::scripts::Script;
use crate::store::{Held, RedisOnline, Said, lock};
use crate::topology::{Batch, slot_of};
use plumb_core::plan::StateId;
use plumb_pipeline::port::{OnlineField, OnlineWrite, PublishOutcome};
use plumb_pipeline::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Entities written by one script where nothing asks for more at once: readers wait for it.
const ENTITIES_PER_SCRIPT: usize = 128;

/// The most arguments of one HSET or HDEL in a script: Lua's stack has room for some thousands.
const ARGS_AT_ONCE: usize = 1000;

/// Keys looked at by one SCAN.
const SCAN_KEYS: &[u8] = b"1000";

/// All tags of a partition are looked at this often, so that a lost one is noticed within a second.
const CHECK_EVERY: Duration = Duration::from_millis(900);

const CLAIM: &str = "claim in the online store";
const PUBLISH: &str = "publish to the online store";
const CLEAR: &str = "clear the online store";

/// Writes of one entity that go into one HSET or HDEL: (first, end) in the list.
struct Run {
    first: usize,
    end: usize,
    removes: bool,
}

fn runs(writes: &[&OnlineWrite]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::with_capacity(writes.len());
    for (index, write) in writes.iter().enumerate() {
        let removes = write.value.is_none();
        if let Some(run) = runs.last_mut() {
            let first = writes[run.first];
            let full = 2 * (run.end - run.first) >= ARGS_AT_ONCE;
            let same = first.key == write.key && first.state_id == write.state_id && first.entity == write.entity;
            if same && run.removes == removes && !full {
                run.end = index + 1;
                continue;
            }
        }
        runs.push(Run { first: index, end: index + 1, removes });
    }
    runs
}

/// The partition that a call writes, as the scripts want it.
struct Target<'a> {
    source: &'a str,
    partition: u32,
    generation: String,
    /// The partition's field among the positions.
    whole_field: String,
    /// The hash of the positions.
    positions: Vec<u8>,
    /// The partition's field among the marks of a tag.
    tag_field: Vec<u8>,
}

impl<'a> Target<'a> {
    fn new(store: &RedisOnline, source: &'a str, partition: u32, generation: u64) -> Self {
        Self {
            source,
            partition,
            generation: generation.to_string(),
            whole_field: partition.to_string(),
            positions: store.keys.positions(source),
            tag_field: mark_field(source, partition),
        }
    }

    fn fenced(&self, current: u64, own: u64) -> Error {
        let what = format!("partition {} of source `{}`", self.partition, self.source);
        Error::Fenced { what, current, own }
    }

    /// The field that says that this partition writes an entity.
    fn entity_field(&self, entity: &str) -> String {
        format!("{}/{entity}", self.partition)
    }
}

/// One mark and what is to be written under it.
struct Marked<'a> {
    slot: u16,
    /// The hash and field of the mark.
    marks: &'a [u8],
    field: &'a [u8],
    /// What the place must be, as the script has it.
    rule: String,
    /// The new place; empty: as it is.
    place: String,
}

impl RedisOnline {
    pub(crate) fn claim_partition(&self, source: &str, partition: u32, generation: u64) -> Result<Option<u64>> {
        let held = self.partition(source, partition);
        let mut held = lock(&held);
        let target = Target::new(self, source, partition, generation);
        let deadline = self.write_deadline();
        // Where the positions of a Cluster are gone, other nodes may hold something all the same.
        let new: &[u8] = if self.topology.cluster { b"-1" } else { b"-0" };
        let mut batch = Batch::default();
        let args = [target.whole_field.as_bytes(), target.generation.as_bytes(), new];
        self.call(&mut batch, self.positions_slot, Script::Claim, &[&target.positions], &args);
        let whole = match self.said(&batch, deadline, true, CLAIM)?.first() {
            Some(&Said::At(place)) => place,
            Some(&Said::Fenced(current)) => return Err(target.fenced(current, generation)),
            _ => return Err(Error::internal("a claim was not understood")),
        };
        let mut claimed = Held { generation, whole, shown: whole.position(), ..Held::default() };
        if self.topology.cluster {
            claimed.shown = self.claim_tags(&target, generation, &mut claimed)?;
        }
        *held = claimed;
        Ok(held.shown)
    }

    /// Claims the tags of all entities that the partition has written; returns the highest position.
    fn claim_tags(&self, target: &Target<'_>, generation: u64, claimed: &mut Held) -> Result<Option<u64>> {
        let deadline = self.write_deadline();
        let mut batch = Batch::default();
        let entities = self.entities(target)?;
        for entity in &entities {
            for bucket in 0..self.keys.buckets {
                let tag = key::tag(entity, bucket);
                let args: [&[u8]; 3] = [&target.tag_field, target.generation.as_bytes(), b""];
                self.call(&mut batch, slot_of(&tag), Script::Claim, &[&self.keys.tag_marks(&tag)], &args);
            }
        }
        let mut said = self.said(&batch, deadline, true, CLAIM)?.into_iter();
        let mut highest = claimed.whole.position();
        for entity in entities {
            let mut places = Vec::with_capacity(self.keys.buckets as usize);
            for said in said.by_ref().take(self.keys.buckets as usize) {
                let place = match said {
                    Said::At(place) => place,
                    Said::Fenced(current) => return Err(target.fenced(current, generation)),
                    _ => Place::Building(0),
                };
                highest = match (highest, place) {
                    (Some(highest), Place::At(position)) => Some(highest.max(position)),
                    // Something is missing, so the whole is not there.
                    _ => None,
                };
                places.push(place);
            }
            claimed.tags.insert(entity, places);
        }
        Ok(highest)
    }

    /// The entities that the partition has written.
    fn entities(&self, target: &Target<'_>) -> Result<BTreeSet<Arc<str>>> {
        let mut batch = Batch::default();
        batch.commands.command(&[b"HKEYS", &target.positions]);
        batch.end_unit(self.positions_slot, 1);
        let replies = self.topology.run(&batch, self.write_deadline(), true);
        let replies = replies.map_err(|fault| Error::unavailable(CLAIM, fault))?;
        let Some([Value::Array(fields)]) = replies.first().map(Vec::as_slice) else {
            return Err(Error::internal("the positions of the online store were not understood"));
        };
        let start = target.entity_field("");
        let name = |field: &Value| field.text()?.strip_prefix(start.as_str()).map(Arc::from);
        Ok(fields.iter().filter_map(name).collect())
    }

    pub(crate) fn publish_partition(
        &self,
        source: &str,
        partition: u32,
        generation: u64,
        expected: Option<u64>,
        position: u64,
        writes: &[OnlineWrite],
    ) -> Result<PublishOutcome> {
        let held = self.partition(source, partition);
        let mut held = lock(&held);
        let target = Target::new(self, source, partition, generation);
        let ours = held.generation == generation;
        let mut writes: Vec<&OnlineWrite> = writes.iter().collect();
        if self.topology.cluster {
            let known = match (expected, held.whole) {
                (None, Place::Building(_)) => true,
                (None, Place::At(_)) => false,
                (Some(expected), whole) => whole == Place::At(expected) || held.shown == Some(expected),
            };
            if !(ours && known) {
                // Before any tag is written: whether the caller or this memory of the marks is wrong.
                let rule = expected.map_or("-0".to_owned(), |expected| format!("={expected}"));
                let said = self.write_whole(&target, rule, String::new(), &[])?;
                match expected {
                    Some(expected) if said == Said::Done && ours => {
                        (held.whole, held.shown) = (Place::At(expected), Some(expected));
                    }
                    // Not claimed by this process: what the tags hold is not known.
                    _ if said == Said::Done => return Ok(PublishOutcome::Mismatch { stored: None }),
                    _ => return outcome(said),
                }
            }
            if let Some(outcome) = self.publish_tags(&target, &mut held, expected, position, &writes)? {
                return Ok(outcome);
            }
            writes.clear();
        }
        let rule = match (expected, held.whole) {
            (None, Place::Building(parts)) if ours => format!("-{parts}"),
            (None, _) => "-0".to_owned(),
            // Some tags were ahead when it was claimed: the caller goes on from there, the whole is behind.
            (Some(expected), Place::At(whole)) if ours && held.shown == Some(expected) => format!("={whole}"),
            (Some(expected), _) => format!("={expected}"),
        };
        let said = self.write_whole(&target, rule, position.to_string(), &writes)?;
        if said == Said::Done {
            (held.whole, held.shown) = (Place::At(position), Some(position));
        }
        outcome(said)
    }

    /// Checks and moves the mark of the whole, and makes writes under it.
    fn write_whole(&self, target: &Target<'_>, rule: String, place: String, writes: &[&OnlineWrite]) -> Result<Said> {
        let mut batch = Batch::default();
        let (marks, field) = (target.positions.as_slice(), target.whole_field.as_bytes());
        let marked = Marked { slot: self.positions_slot, marks, field, rule, place };
        self.write_unit(&mut batch, target, &marked, writes);
        let said = self.said(&batch, self.write_deadline_for(writes.len()), false, PUBLISH)?;
        said.first().copied().ok_or_else(|| Error::internal("a publish was not understood"))
    }

    /// Writes the tags of a publish; `None` = all is well so far.
    fn publish_tags(
        &self,
        target: &Target<'_>,
        held: &mut Held,
        expected: Option<u64>,
        position: u64,
        writes: &[&OnlineWrite],
    ) -> Result<Option<PublishOutcome>> {
        if let Some(outcome) = self.add_entities(target, held, writes, held.whole)? {
            return Ok(Some(outcome));
        }
        let mut by_tag = self.by_tag(writes);
        // A rebuild ends at one position everywhere. Otherwise what is not written is only looked at, now and then.
        let closing = expected.is_none();
        let due = writes.is_empty() || held.checked.is_none_or(|at| at.elapsed() >= CHECK_EVERY);
        if closing || due {
            for entity in held.tags.keys() {
                for bucket in 0..self.keys.buckets {
                    by_tag.entry((entity.clone(), bucket)).or_default();
                }
            }
        }
        let moves = |writes: &[&OnlineWrite]| closing || !writes.is_empty();
        let mut batch = Batch::default();
        for ((entity, bucket), writes) in &by_tag {
            let tag = key::tag(entity, *bucket);
            let place = if moves(writes) { position.to_string() } else { String::new() };
            let rule = format!(">{}", held.place(entity, *bucket));
            let (slot, marks, field) = (slot_of(&tag), &self.keys.tag_marks(&tag), target.tag_field.as_slice());
            self.write_unit(&mut batch, target, &Marked { slot, marks, field, rule, place }, writes);
        }
        let said = self.said(&batch, self.write_deadline_for(writes.len()), false, PUBLISH)?;
        if let Some(outcome) = worst(&said)? {
            return Ok(Some(match outcome {
                // Which position a tag has says nothing of the whole: it has lost something.
                PublishOutcome::Mismatch { .. } => PublishOutcome::Mismatch { stored: None },
                other => other,
            }));
        }
        for ((entity, bucket), writes) in &by_tag {
            if moves(writes) {
                held.set_place(entity, *bucket, Place::At(position));
            }
        }
        if closing || due {
            held.checked = Some(std::time::Instant::now());
        }
        Ok(None)
    }

    /// Makes tags for entities that the partition has not written before. `place`: up to where they hold nothing.
    fn add_entities(
        &self,
        target: &Target<'_>,
        held: &mut Held,
        writes: &[&OnlineWrite],
        place: Place,
    ) -> Result<Option<PublishOutcome>> {
        let mut added: BTreeSet<&Arc<str>> = BTreeSet::new();
        let mut last: Option<&Arc<str>> = None;
        for write in writes {
            if last.is_none_or(|last| !Arc::ptr_eq(last, &write.entity)) && !held.tags.contains_key(&write.entity) {
                added.insert(&write.entity);
            }
            last = Some(&write.entity);
        }
        for entity in added {
            let deadline = self.write_deadline();
            let at = place.to_string();
            let mut batch = Batch::default();
            for bucket in 0..self.keys.buckets {
                let tag = key::tag(entity, bucket);
                let args: [&[u8]; 3] = [&target.tag_field, target.generation.as_bytes(), at.as_bytes()];
                self.call(&mut batch, slot_of(&tag), Script::Reset, &[&self.keys.tag_marks(&tag)], &args);
            }
            let said = self.said(&batch, deadline, true, PUBLISH)?;
            if let Some(&Said::Fenced(current)) = said.iter().find(|said| matches!(said, Said::Fenced(_))) {
                return Ok(Some(PublishOutcome::Fenced { current }));
            }
            let field = target.entity_field(entity);
            let args = [target.whole_field.as_bytes(), target.generation.as_bytes(), field.as_bytes()];
            let mut batch = Batch::default();
            self.call(&mut batch, self.positions_slot, Script::Register, &[&target.positions], &args);
            if let Some(outcome) = worst(&self.said(&batch, deadline, true, PUBLISH)?)? {
                return Ok(Some(outcome));
            }
            held.tags.insert(entity.clone(), vec![place; self.keys.buckets as usize]);
        }
        Ok(None)
    }

    fn by_tag<'a>(&self, writes: &[&'a OnlineWrite]) -> BTreeMap<(Arc<str>, u32), Vec<&'a OnlineWrite>> {
        let mut by_tag: BTreeMap<(Arc<str>, u32), Vec<&OnlineWrite>> = BTreeMap::new();
        for write in writes {
            let bucket = self.keys.bucket(write.key.as_bytes());
            by_tag.entry((write.entity.clone(), bucket)).or_default().push(write);
        }
        by_tag
    }

    pub(crate) fn rebuild_partition(
        &self,
        source: &str,
        partition: u32,
        generation: u64,
        writes: &[OnlineWrite],
    ) -> Result<PublishOutcome> {
        let held = self.partition(source, partition);
        let mut held = lock(&held);
        let target = Target::new(self, source, partition, generation);
        let ours = held.generation == generation;
        let parts = match held.whole {
            Place::Building(parts) if ours => parts,
            // Whatever is there is for the script to find.
            _ => 0,
        };
        let writes: Vec<&OnlineWrite> = writes.iter().collect();
        if self.topology.cluster || writes.is_empty() {
            let said = self.write_whole(&target, format!("-{parts}"), String::new(), &[])?;
            return match said {
                Said::Done if writes.is_empty() => Ok(PublishOutcome::Published),
                // Not claimed by this process: what the tags hold is not known.
                Said::Done if !ours => Ok(PublishOutcome::Mismatch { stored: None }),
                Said::Done => self.rebuild_tags(&target, &mut held, &writes),
                said => outcome(said),
            };
        }
        let (marks, field) = (target.positions.as_slice(), target.whole_field.as_bytes());
        let mut batch = Batch::default();
        let mut written = parts;
        for part in parts_of(&writes) {
            let (rule, place) = (format!("-{written}"), format!("-{}", written + 1));
            self.write_unit(&mut batch, &target, &Marked { slot: 0, marks, field, rule, place }, part);
            written += 1;
        }
        let said = self.said(&batch, self.write_deadline_for(writes.len()), false, PUBLISH)?;
        if let Some(outcome) = worst(&said)? {
            return Ok(outcome);
        }
        if ours {
            (held.whole, held.shown) = (Place::Building(written), None);
        } else {
            *held = Held { generation, whole: Place::Building(written), ..Held::default() };
        }
        Ok(PublishOutcome::Published)
    }

    fn rebuild_tags(&self, target: &Target<'_>, held: &mut Held, writes: &[&OnlineWrite]) -> Result<PublishOutcome> {
        if let Some(outcome) = self.add_entities(target, held, writes, Place::Building(0))? {
            return Ok(outcome);
        }
        let by_tag = self.by_tag(writes);
        let mut batch = Batch::default();
        let mut moved = Vec::with_capacity(by_tag.len());
        for ((entity, bucket), writes) in &by_tag {
            let tag = key::tag(entity, *bucket);
            let (slot, marks, field) = (slot_of(&tag), &self.keys.tag_marks(&tag), target.tag_field.as_slice());
            let mut written = match held.place(entity, *bucket) {
                Place::Building(parts) => parts,
                Place::At(_) => 0,
            };
            for part in parts_of(writes) {
                let (rule, place) = (format!("-{written}"), format!("-{}", written + 1));
                self.write_unit(&mut batch, target, &Marked { slot, marks, field, rule, place }, part);
                written += 1;
            }
            moved.push((entity, *bucket, Place::Building(written)));
        }
        let said = self.said(&batch, self.write_deadline_for(writes.len()), false, PUBLISH)?;
        if let Some(outcome) = worst(&said)? {
            return Ok(outcome);
        }
        moved.into_iter().for_each(|(entity, bucket, place)| held.set_place(entity, bucket, place));
        Ok(PublishOutcome::Published)
    }

    pub(crate) fn clear_partition(
        &self,
        source: &str,
        partition: u32,
        generation: u64,
        state_id: Option<StateId>,
    ) -> Result<()> {
        let held = self.partition(source, partition);
        let mut held = lock(&held);
        let target = Target::new(self, source, partition, generation);
        if state_id.is_some() {
            return self.remove(&target, generation, state_id);
        }
        // The position first: a reader must not take what is left of a half-cleared partition for all of it.
        let was = self.reset_whole(&target, generation, b"-1")?;
        let mut cleared = Held { generation, whole: Place::Building(1), ..Held::default() };
        if self.topology.cluster {
            let mut entities = self.entities(&target)?;
            entities.extend(held.tags.keys().cloned());
            *held = cleared;
            let (nothing, marks) = (Place::Building(1), self.keys.buckets as usize);
            let mut batch = Batch::default();
            for entity in &entities {
                for bucket in 0..self.keys.buckets {
                    let tag = key::tag(entity, bucket);
                    let args: [&[u8]; 3] = [&target.tag_field, target.generation.as_bytes(), b"-1"];
                    self.call(&mut batch, slot_of(&tag), Script::Reset, &[&self.keys.tag_marks(&tag)], &args);
                }
            }
            for said in self.said(&batch, self.write_deadline(), true, CLEAR)? {
                if let Said::Fenced(current) = said {
                    return Err(target.fenced(current, generation));
                }
            }
            held.tags = entities.into_iter().map(|entity| (entity, vec![nothing; marks])).collect();
            return self.remove(&target, generation, None);
        }
        // A partition that has written nothing has nothing to remove: no need to look at every key.
        if !matches!(was, Said::New | Said::At(Place::Building(0))) {
            self.remove(&target, generation, None)?;
        }
        self.reset_whole(&target, generation, b"-0")?;
        cleared.whole = Place::Building(0);
        *held = cleared;
        Ok(())
    }

    fn reset_whole(&self, target: &Target<'_>, generation: u64, place: &[u8]) -> Result<Said> {
        let mut batch = Batch::default();
        let args = [target.whole_field.as_bytes(), target.generation.as_bytes(), place];
        self.call(&mut batch, self.positions_slot, Script::Reset, &[&target.positions], &args);
        match self.said(&batch, self.write_deadline(), true, CLEAR)?.first() {
            Some(&Said::Fenced(current)) => Err(target.fenced(current, generation)),
            Some(&said) => Ok(said),
            None => Err(Error::internal("clearing was not understood")),
        }
    }

    /// Removes a partition's fields from all entities (of a state), wherever they are.
    fn remove(&self, target: &Target<'_>, generation: u64, state_id: Option<StateId>) -> Result<()> {
        let failed = |fault: Fault| Error::unavailable(CLEAR, fault);
        let pattern = self.keys.pattern(target.source, state_id);
        let mut header = Vec::new();
        push_field(&mut header, target.partition, OnlineField::Header);
        let tiles = format!("t{}:", target.partition);
        let mut fence = Batch::default();
        let args: [&[u8]; 4] = [target.whole_field.as_bytes(), target.generation.as_bytes(), &header, tiles.as_bytes()];
        self.call(&mut fence, self.positions_slot, Script::Remove, &[&target.positions], &args);
        self.removed(&fence, target, generation)?;
        for node in self.topology.nodes() {
            let mut cursor = b"0".to_vec();
            loop {
                let deadline = self.write_deadline();
                let mut lease = node.take(deadline).map_err(failed)?;
                let scan: [&[u8]; 6] = [b"SCAN", &cursor, b"MATCH", &pattern, b"COUNT", SCAN_KEYS];
                let reply = lease.connection().map_err(failed)?.ask(&scan, deadline);
                let reply = reply.map_err(|fault| failed(fault.at(&node.name)))?;
                lease.keep();
                let Value::Array(reply) = reply else { return Err(failed(unclear(reply).at(&node.name))) };
                let [Value::Bulk(next), Value::Array(keys)] = reply.as_slice() else {
                    return Err(Error::internal("SCAN was not understood"));
                };
                let mut by_tag: BTreeMap<&[u8], Vec<&[u8]>> = BTreeMap::new();
                for key in keys {
                    let Value::Bulk(key) = key else { continue };
                    if let Some(tag) = self.keys.tag_of(key, target.source, state_id) {
                        by_tag.entry(tag).or_default().push(key);
                    }
                }
                self.remove_keys(target, generation, &by_tag, &header, tiles.as_bytes())?;
                if next == b"0" {
                    break;
                }
                cursor.clone_from(next);
            }
        }
        Ok(())
    }

    fn remove_keys(
        &self,
        target: &Target<'_>,
        generation: u64,
        by_tag: &BTreeMap<&[u8], Vec<&[u8]>>,
        header: &[u8],
        tiles: &[u8],
    ) -> Result<()> {
        let mut batch = Batch::default();
        let mut remove = |slot, marks: &[u8], field: &[u8], keys: &[&[u8]]| {
            let keys: Vec<&[u8]> = std::iter::once(marks).chain(keys.iter().copied()).collect();
            let args: [&[u8]; 4] = [field, target.generation.as_bytes(), header, tiles];
            self.call(&mut batch, slot, Script::Remove, &keys, &args);
        };
        if self.topology.cluster {
            for (tag, keys) in by_tag {
                remove(slot_of(tag), &self.keys.tag_marks(tag), &target.tag_field, keys);
            }
        } else {
            let keys: Vec<&[u8]> = by_tag.values().flatten().copied().collect();
            for keys in keys.chunks(ENTITIES_PER_SCRIPT) {
                remove(0, &target.positions, target.whole_field.as_bytes(), keys);
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.removed(&batch, target, generation)
    }

    fn removed(&self, batch: &Batch, target: &Target<'_>, generation: u64) -> Result<()> {
        match worst(&self.said(batch, self.write_deadline(), true, CLEAR)?)? {
            Some(PublishOutcome::Fenced { current }) => Err(target.fenced(current, generation)),
            _ => Ok(()),
        }
    }

    /// Packs a call that checks and moves one mark and makes writes.
    fn write_unit(&self, batch: &mut Batch, target: &Target<'_>, marked: &Marked<'_>, writes: &[&OnlineWrite]) {
        let runs = runs(writes);
        let fields = |run: &Run| (run.end - run.first) * if run.removes { 1 } else { 2 };
        let args = 4 + runs.iter().map(|run| 1 + fields(run)).sum::<usize>();
        self.begin(batch, Script::Write, 1 + runs.len(), args);
        batch.commands.arg(marked.marks);
        let mut scratch = Vec::new();
        for run in &runs {
            let write = writes[run.first];
            let bytes = write.key.as_bytes();
            let bucket = self.keys.bucket(bytes);
            self.keys.entity(&mut scratch, &write.entity, bucket, target.source, write.state_id, bytes);
            batch.commands.arg(&scratch);
        }
        batch.commands.arg(marked.field);
        batch.commands.arg(target.generation.as_bytes());
        batch.commands.arg(marked.rule.as_bytes());
        batch.commands.arg(marked.place.as_bytes());
        for run in &runs {
            let count = fields(run) as i64;
            batch.commands.number(if run.removes { -count } else { count });
            for write in &writes[run.first..run.end] {
                scratch.clear();
                push_field(&mut scratch, target.partition, write.field);
                batch.commands.arg(&scratch);
                if let Some(value) = &write.value {
                    batch.commands.arg(value);
                }
            }
        }
        batch.end_unit(marked.slot, 1);
    }
}

impl Held {
    fn place(&self, entity: &Arc<str>, bucket: u32) -> Place {
        let places = self.tags.get(entity);
        places.and_then(|places| places.get(bucket as usize)).copied().unwrap_or(Place::Building(0))
    }

    fn set_place(&mut self, entity: &Arc<str>, bucket: u32, place: Place) {
        if let Some(at) = self.tags.get_mut(entity).and_then(|places| places.get_mut(bucket as usize)) {
            *at = place;
        }
    }
}

/// Writes in parts of few entities, each entity in one part.
fn parts_of<'w, 'a>(writes: &'w [&'a OnlineWrite]) -> Vec<&'w [&'a OnlineWrite]> {
    let mut parts = Vec::new();
    let (mut first, mut entities) = (0, 0);
    for index in 0..writes.len() {
        if index > first && writes[index - 1].key == writes[index].key {
            continue;
        }
        if entities == ENTITIES_PER_SCRIPT {
            parts.push(&writes[first..index]);
            (first, entities) = (index, 0);
        }
        entities += 1;
    }
    if first < writes.len() {
        parts.push(&writes[first..]);
    }
    parts
}

fn outcome(said: Said) -> Result<PublishOutcome> {
    match said {
        Said::Done => Ok(PublishOutcome::Published),
        Said::Fenced(current) => Ok(PublishOutcome::Fenced { current }),
        Said::Lost => Ok(PublishOutcome::Mismatch { stored: None }),
        Said::At(place) => Ok(PublishOutcome::Mismatch { stored: place.position() }),
        Said::New => Err(Error::internal("a write was not understood")),
    }
}

/// What was said that is not `Done`, a fence before all else.
fn worst(said: &[Said]) -> Result<Option<PublishOutcome>> {
    let fenced = said.iter().find(|said| matches!(said, Said::Fenced(_)));
    let other = fenced.or_else(|| said.iter().find(|&&said| said != Said::Done));
    other.map(|&said| outcome(said)).transpose()
}

fn unclear(reply: Value) -> Fault {
    match reply {
        Value::Error(text) => Fault::server(&text),
        _ => Fault::other("SCAN was not understood"),
    }
}
