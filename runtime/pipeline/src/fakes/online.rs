//! The online store in memory.

use super::Fuse;
use crate::port::{OnlineAnswer, OnlineField, OnlinePartial, OnlineRead, OnlineStore, OnlineWrite, PublishOutcome};
use crate::{Error, Result};
use plumb_core::plan::StateId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Source, partition, state, key, field.
pub(crate) type FieldId = (String, u32, [u8; 8], Vec<u8>, OnlineField);

/// What the store holds.
pub(crate) type Fields = BTreeMap<FieldId, Vec<u8>>;

#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// Generation and position.
    pub(crate) fences: BTreeMap<(String, u32), (u64, Option<u64>)>,
    pub(crate) fields: Fields,
    /// Every position ever shown, per partition.
    pub(crate) shown: Vec<(u32, u64)>,
}

#[derive(Debug)]
pub(crate) struct FakeOnline {
    pub(crate) contents: Arc<Mutex<Contents>>,
    pub(crate) fuse: Arc<Fuse>,
}

impl Contents {
    fn fence(&self, source: &str, partition: u32) -> (u64, Option<u64>) {
        self.fences.get(&(source.to_owned(), partition)).copied().unwrap_or_default()
    }

    fn write(&mut self, source: &str, partition: u32, writes: &[OnlineWrite]) {
        for write in writes {
            let key = (source.to_owned(), partition, write.state_id.0, write.key.as_bytes().to_vec(), write.field);
            match &write.value {
                Some(value) => drop(self.fields.insert(key, value.clone())),
                None => drop(self.fields.remove(&key)),
            }
        }
    }
}

fn fenced(current: u64, own: u64) -> Error {
    Error::Fenced { what: "a partition".into(), current, own }
}

impl OnlineStore for FakeOnline {
    fn claim(&self, source: &str, partition: u32, generation: u64) -> Result<Option<u64>> {
        self.fuse.call(|| {
            let mut contents = self.contents.lock().unwrap();
            let (stored, position) = contents.fence(source, partition);
            if stored > generation {
                return Err(fenced(stored, generation));
            }
            contents.fences.insert((source.to_owned(), partition), (generation, position));
            Ok(position)
        })
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
        self.fuse.call(|| {
            let mut contents = self.contents.lock().unwrap();
            let (stored, at) = contents.fence(source, partition);
            if stored > generation {
                return Ok(PublishOutcome::Fenced { current: stored });
            }
            if stored < generation || at != expected {
                return Ok(PublishOutcome::Mismatch { stored: at.filter(|_| stored == generation) });
            }
            contents.write(source, partition, writes);
            contents.fences.insert((source.to_owned(), partition), (generation, Some(position)));
            contents.shown.push((partition, position));
            Ok(PublishOutcome::Published)
        })
    }

    fn rebuild(&self, source: &str, partition: u32, generation: u64, writes: &[OnlineWrite]) -> Result<PublishOutcome> {
        self.fuse.call(|| {
            let mut contents = self.contents.lock().unwrap();
            let (stored, at) = contents.fence(source, partition);
            if stored > generation {
                return Ok(PublishOutcome::Fenced { current: stored });
            }
            if at.is_some() {
                return Ok(PublishOutcome::Mismatch { stored: at });
            }
            contents.write(source, partition, writes);
            Ok(PublishOutcome::Published)
        })
    }

    fn clear(&self, source: &str, partition: u32, generation: u64, state_id: Option<StateId>) -> Result<()> {
        self.fuse.call(|| {
            let mut contents = self.contents.lock().unwrap();
            let (stored, _) = contents.fence(source, partition);
            if stored > generation {
                return Err(fenced(stored, generation));
            }
            if state_id.is_none() {
                contents.fences.insert((source.to_owned(), partition), (generation, None));
            }
            contents.fields.retain(|(of_source, of_partition, id, _, _), _| {
                of_source != source || *of_partition != partition || state_id.is_some_and(|state_id| state_id.0 != *id)
            });
            Ok(())
        })
    }

    fn read(&self, source: &str, partitions: &[u32], reads: &[OnlineRead]) -> Result<OnlineAnswer> {
        self.fuse.call(|| {
            let contents = self.contents.lock().unwrap();
            let field = |partition, read: &OnlineRead, field| {
                let key = (source.to_owned(), partition, read.state_id.0, read.key.as_bytes().to_vec(), field);
                contents.fields.get(&key).cloned()
            };
            let partial = |partition: u32, read: &OnlineRead| {
                let header = field(partition, read, OnlineField::Header)?;
                let tile = |&at: &i64| Some((at, field(partition, read, OnlineField::Tile(at))?));
                let tiles = read.tiles.iter().filter_map(tile).collect();
                Some(OnlinePartial { partition, header, tiles })
            };
            Ok(OnlineAnswer {
                positions: partitions.iter().map(|&number| (number, contents.fence(source, number).1)).collect(),
                entities: reads
                    .iter()
                    .map(|read| {
                        partitions.iter().filter_map(|&number| partial(number, read)).collect::<Vec<_>>().into()
                    })
                    .collect(),
            })
        })
    }
}

#[test]
fn the_fake_is_an_online_store() {
    let store = FakeOnline { contents: Arc::default(), fuse: Fuse::never() };
    super::online_suite::conforms(&store, "s");
    let cases = std::cell::Cell::new(0);
    super::online_suite::equals_a_model(&store, 200, || {
        cases.set(cases.get() + 1);
        format!("case{}", cases.get())
    });
}
