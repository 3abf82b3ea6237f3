//! Reading entities.

use crate::fault::{Fault, FaultKind};
use crate::key::{self, Place, place_of, push_field};
use crate::resp::{Commands, Value};
use crate::store::RedisOnline;
use crate::topology::{Batch, slot_of};
use plumb_pipeline::port::{OnlineAnswer, OnlineEntity, OnlineField, OnlinePartial, OnlineRead};
use plumb_pipeline::{Error, Result};
use std::collections::BTreeMap;
use std::time::Instant;

const WHAT: &str = "read the online store";

/// The fields of all partitions for a list of tiles, packed: reads of one view ask for the same ones.
#[derive(Default)]
struct Fields {
    tiles: Option<Vec<i64>>,
    packed: Vec<u8>,
    count: usize,
}

impl Fields {
    fn of(&mut self, partitions: &[u32], tiles: &[i64]) -> (&[u8], usize) {
        if self.tiles.as_deref() != Some(tiles) {
            let mut packed = Commands::default();
            let mut field = Vec::new();
            for &partition in partitions {
                let starts = tiles.iter().map(|&start_us| OnlineField::Tile(start_us));
                for one in std::iter::once(OnlineField::Header).chain(starts) {
                    field.clear();
                    push_field(&mut field, partition, one);
                    packed.arg(&field);
                }
            }
            *self =
                Self { tiles: Some(tiles.to_vec()), packed: packed.bytes, count: partitions.len() * (1 + tiles.len()) };
        }
        (&self.packed, self.count)
    }
}

impl RedisOnline {
    pub(crate) fn read_entities(&self, source: &str, partitions: &[u32], reads: &[OnlineRead]) -> Result<OnlineAnswer> {
        if partitions.is_empty() {
            return Ok(OnlineAnswer {
                positions: BTreeMap::new(),
                entities: vec![OnlineEntity::default(); reads.len()],
            });
        }
        let deadline = self.read_deadline();
        let read = |whole| match self.topology.cluster {
            false => self.read_single(source, partitions, reads, whole, deadline),
            true => self.read_cluster(source, partitions, reads, whole, deadline),
        };
        let answer = match read(Whole::Transaction) {
            // A full server refuses transactions, even of reads.
            Err(fault) if fault.kind == FaultKind::Full => (0..LOOKS)
                .map(|_| read(Whole::Looks))
                .find(|answer| !answer.as_ref().is_err_and(|fault| fault.kind == FaultKind::Full))
                .unwrap_or(Err(fault)),
            other => other,
        };
        answer.map_err(|fault| Error::unavailable(WHAT, fault))
    }

    /// Begins what is to be read as of one moment, with the marks.
    fn begin_whole(&self, batch: &mut Batch, whole: Whole, marks: &dyn Fn(&mut Batch)) {
        if whole == Whole::Transaction {
            batch.commands.command(&[b"MULTI"]);
        }
        marks(batch);
    }

    /// Ends it, as a unit of so many reads.
    fn end_whole(&self, batch: &mut Batch, whole: Whole, marks: &dyn Fn(&mut Batch), slot: u16, reads: usize) {
        match whole {
            Whole::Transaction => {
                batch.commands.command(&[b"EXEC"]);
                batch.end_unit(slot, reads + 3);
            }
            Whole::Looks => {
                marks(batch);
                batch.end_unit(slot, reads + 2);
            }
        }
    }

    fn push_positions(&self, batch: &mut Batch, source: &str, partitions: &[u32]) {
        batch.commands.begin(2 + partitions.len());
        batch.commands.arg(b"HMGET");
        batch.commands.arg(&self.keys.positions(source));
        partitions.iter().for_each(|&partition| batch.commands.number(partition));
    }

    fn push_read(&self, batch: &mut Batch, source: &str, key: &mut Vec<u8>, read: &OnlineRead, fields: (&[u8], usize)) {
        let bytes = read.key.as_bytes();
        self.keys.entity(key, &read.entity, self.keys.bucket(bytes), source, read.state_id, bytes);
        batch.commands.begin(2 + fields.1);
        batch.commands.arg(b"HMGET");
        batch.commands.arg(key);
        batch.commands.bytes.extend_from_slice(fields.0);
    }

    fn read_single(
        &self,
        source: &str,
        partitions: &[u32],
        reads: &[OnlineRead],
        whole: Whole,
        deadline: Instant,
    ) -> std::result::Result<OnlineAnswer, Fault> {
        let mut batch = Batch::default();
        let (mut fields, mut key) = (Fields::default(), Vec::new());
        let marks = |batch: &mut Batch| self.push_positions(batch, source, partitions);
        self.begin_whole(&mut batch, whole, &marks);
        for read in reads {
            self.push_read(&mut batch, source, &mut key, read, fields.of(partitions, &read.tiles));
        }
        self.end_whole(&mut batch, whole, &marks, self.positions_slot, reads.len());
        let mut found = whole.found(self.topology.run(&batch, deadline, true)?.pop())?;
        let positions = positions_of(partitions, found.next())?;
        let entities: Vec<OnlineEntity> = reads
            .iter()
            .map(|read| partials_of(partitions, read, found.next()).map(Into::into))
            .collect::<std::result::Result<_, _>>()?;
        Ok(OnlineAnswer { positions, entities })
    }

    fn read_cluster(
        &self,
        source: &str,
        partitions: &[u32],
        reads: &[OnlineRead],
        whole: Whole,
        deadline: Instant,
    ) -> std::result::Result<OnlineAnswer, Fault> {
        // The positions before anything else: what a tag holds afterwards is of that position or a later one.
        let mut batch = Batch::default();
        self.push_positions(&mut batch, source, partitions);
        batch.end_unit(self.positions_slot, 1);
        let reply = self.topology.run(&batch, deadline, true)?.pop().and_then(|mut replies| replies.pop());
        let positions = positions_of(partitions, reply)?;

        let mut by_tag: BTreeMap<(&str, u32), Vec<usize>> = BTreeMap::new();
        for (index, read) in reads.iter().enumerate() {
            by_tag.entry((&read.entity, self.keys.bucket(read.key.as_bytes()))).or_default().push(index);
        }
        let mut marks = Commands::default();
        for &partition in partitions {
            marks.arg(&mark_field(source, partition));
        }
        let mut batch = Batch::default();
        let (mut fields, mut key) = (Fields::default(), Vec::new());
        for (&(entity, bucket), indices) in &by_tag {
            let tag = key::tag(entity, bucket);
            let marks = |batch: &mut Batch| {
                batch.commands.begin(2 + partitions.len());
                batch.commands.arg(b"HMGET");
                batch.commands.arg(&self.keys.tag_marks(&tag));
                batch.commands.bytes.extend_from_slice(&marks.bytes);
            };
            self.begin_whole(&mut batch, whole, &marks);
            for &index in indices {
                let read = &reads[index];
                self.push_read(&mut batch, source, &mut key, read, fields.of(partitions, &read.tiles));
            }
            self.end_whole(&mut batch, whole, &marks, slot_of(&tag), indices.len());
        }
        let mut entities = vec![OnlineEntity::default(); reads.len()];
        let replies = self.topology.run(&batch, deadline, true)?;
        for (indices, replies) in by_tag.into_values().zip(replies) {
            let mut found = whole.found(Some(replies))?;
            let marks = values_of(found.next(), partitions.len())?;
            let (mut ahead, mut lost) = (BTreeMap::new(), false);
            for (partition, mark) in partitions.iter().zip(marks) {
                let Some(position) = positions.get(partition).copied().flatten() else { continue };
                match &mark {
                    Value::Bulk(mark) => match place_of(mark) {
                        Some(Place::At(at)) if at > position => drop(ahead.insert(*partition, at)),
                        Some(Place::At(_)) => {}
                        Some(Place::Building(_)) => lost = true,
                        None => return Err(Fault::other("a mark is damaged")),
                    },
                    _ => lost = true,
                }
            }
            for index in indices {
                let partials = partials_of(partitions, &reads[index], found.next())?;
                entities[index] = OnlineEntity { partials, ahead: ahead.clone(), lost };
            }
        }
        Ok(OnlineAnswer { positions, entities })
    }
}

/// A partition's field among a tag's marks.
pub(crate) fn mark_field(source: &str, partition: u32) -> Vec<u8> {
    format!("{source}/{partition}").into_bytes()
}

/// How several commands see one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whole {
    Transaction,
    /// The marks are read before and after: if they are the same, nothing was written in between.
    Looks,
}

/// How often marks are looked at until they stay the same during a read.
const LOOKS: usize = 20;

impl Whole {
    /// What the marks and the reads returned.
    fn found(self, replies: Option<Vec<Value>>) -> std::result::Result<impl Iterator<Item = Value>, Fault> {
        let mut replies = replies.unwrap_or_default();
        match (self, replies.pop()) {
            (Whole::Transaction, Some(Value::Array(values))) => Ok(values.into_iter()),
            (Whole::Looks, after) if after.as_ref() == replies.first() => Ok(replies.into_iter()),
            (Whole::Looks, _) => Err(Fault::full("it is full and written to")),
            _ => Err(Fault::other("a transaction was not executed")),
        }
    }
}

fn values_of(reply: Option<Value>, count: usize) -> std::result::Result<Vec<Value>, Fault> {
    match reply {
        Some(Value::Array(values)) if values.len() == count => Ok(values),
        Some(Value::Error(text)) => Err(Fault::server(&text)),
        _ => Err(Fault::other("a list of fields was not understood")),
    }
}

fn positions_of(partitions: &[u32], reply: Option<Value>) -> std::result::Result<BTreeMap<u32, Option<u64>>, Fault> {
    let marks = values_of(reply, partitions.len())?;
    let position = |(&partition, mark): (&u32, Value)| match mark {
        Value::Nil => Ok((partition, None)),
        Value::Bulk(mark) => match place_of(&mark) {
            Some(place) => Ok((partition, place.position())),
            None => Err(Fault::other("a mark is damaged")),
        },
        _ => Err(Fault::other("a mark was not understood")),
    };
    partitions.iter().zip(marks).map(position).collect()
}

fn partials_of(
    partitions: &[u32],
    read: &OnlineRead,
    reply: Option<Value>,
) -> std::result::Result<Vec<OnlinePartial>, Fault> {
    let mut values = values_of(reply, partitions.len() * (1 + read.tiles.len()))?.into_iter();
    let mut partials = Vec::new();
    for &partition in partitions {
        let header = values.next();
        let tiles = values.by_ref().take(read.tiles.len());
        match header {
            Some(Value::Bulk(header)) => {
                let tile = |(&start_us, value)| match value {
                    Value::Bulk(bytes) => Some((start_us, bytes)),
                    _ => None,
                };
                let tiles = read.tiles.iter().zip(tiles).filter_map(tile).collect();
                partials.push(OnlinePartial { partition, header, tiles });
            }
            _ => drop(tiles.last()),
        }
    }
    Ok(partials)
}
