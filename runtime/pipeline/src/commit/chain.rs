//! The chain of a partition's manifests: reading its end, taking it over, adding to it.

use super::manifest::{FORMAT, Manifest, Parent, manifest_folder, manifest_path};
use super::{collect, compact, damaged, sha256_hex};
use crate::port::ObjectStore;
use crate::{Error, Result};
use std::sync::Arc;

/// How often a take-over is tried again when others take over at the same time.
const TAKE_OVER_TRIES: usize = 16;

/// A partition's chain in the hands of its owner.
pub struct Chain {
    store: Arc<dyn ObjectStore>,
    source: String,
    partition: u32,
    generation: u64,
    owner: String,
    seq: u64,
    sha256: String,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain")
            .field("source", &self.source)
            .field("partition", &self.partition)
            .field("generation", &self.generation)
            .field("seq", &self.seq)
            .finish_non_exhaustive()
    }
}

/// The numbers of a partition's manifests, ascending.
pub fn seqs(store: &dyn ObjectStore, source: &str, partition: u32) -> Result<Vec<u64>> {
    let folder = manifest_folder(source, partition);
    let mut seqs: Vec<u64> = store
        .list(&folder)?
        .iter()
        .filter_map(|(path, _)| path.strip_prefix(&folder)?.strip_prefix('/')?.parse().ok())
        .collect();
    seqs.sort_unstable();
    Ok(seqs)
}

/// Reads a manifest and the hash of its bytes.
pub fn read(store: &dyn ObjectStore, source: &str, partition: u32, seq: u64) -> Result<(Manifest, String)> {
    let path = manifest_path(source, partition, seq);
    let bytes = store.get(&path)?.ok_or_else(|| damaged(&path, "it is missing"))?;
    Ok((Manifest::decode(&path, &bytes)?, sha256_hex(&bytes)))
}

/// The last manifest of a partition; `None` if it has none.
pub fn latest(store: &dyn ObjectStore, source: &str, partition: u32) -> Result<Option<Manifest>> {
    match seqs(store, source, partition)?.last() {
        Some(&seq) => read(store, source, partition, seq).map(|(manifest, _)| Some(manifest)),
        None => Ok(None),
    }
}

impl Chain {
    /// Takes a partition over: creates the next manifest with a higher generation and otherwise unchanged
    /// content. Returns it. From then on every commit of the owner before is refused. `owner` is a mark that no
    /// other process has; `start` says where a partition without any manifest begins.
    ///
    /// A last manifest that is damaged is passed over for the one before it; its rows are not committed then,
    /// and their records are read again.
    pub fn take_over(
        store: Arc<dyn ObjectStore>,
        source: &str,
        partition: u32,
        owner: &str,
        start: &dyn Fn() -> Result<u64>,
    ) -> Result<(Self, Manifest)> {
        for _ in 0..TAKE_OVER_TRIES {
            let seqs = seqs(store.as_ref(), source, partition)?;
            let (mut manifest, sha256) = last_good(store.as_ref(), source, partition, &seqs, start)?;
            let last_seq = seqs.last().copied().unwrap_or(0);
            if last_seq > manifest.seq {
                collect::trash_rows(store.as_ref(), source, partition, manifest.seq)?;
                compact::put_back(store.as_ref(), &manifest)?;
            }
            let generation = manifest.generation + 1 + (last_seq - manifest.seq);
            let mut chain = Self {
                store: store.clone(),
                source: source.to_owned(),
                partition,
                generation,
                owner: owner.to_owned(),
                seq: last_seq,
                sha256: sha256.clone(),
            };
            manifest.parent = (manifest.seq > 0).then_some(Parent { seq: manifest.seq, sha256 });
            match chain.create(manifest) {
                Ok(manifest) => return Ok((chain, manifest)),
                Err(Error::Fenced { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::unavailable(
            format!("take over partition {partition} of source `{source}`"),
            "other processes take it over again and again",
        ))
    }

    /// The owner's generation.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The number the next manifest will have.
    pub fn next_seq(&self) -> u64 {
        self.seq + 1
    }

    /// The numbers of the manifests there are; an error if another owner has added to them.
    pub fn seqs(&self) -> Result<Vec<u64>> {
        let seqs = seqs(self.store.as_ref(), &self.source, self.partition)?;
        match seqs.last() {
            Some(&last) if last > self.seq => Err(self.fenced(last)),
            _ => Ok(seqs),
        }
    }

    /// Adds `manifest` to the chain, setting its number, parent and generation.
    pub fn commit(&mut self, mut manifest: Manifest) -> Result<Manifest> {
        manifest.parent = Some(Parent { seq: self.seq, sha256: self.sha256.clone() });
        self.create(manifest)
    }

    /// Commits the unchanged content under a generation of at least `generation`: an online store from another
    /// chain has known that one.
    pub fn raise(&mut self, manifest: Manifest, generation: u64) -> Result<Manifest> {
        self.generation = self.generation.max(generation);
        self.commit(manifest)
    }

    fn create(&mut self, mut manifest: Manifest) -> Result<Manifest> {
        manifest.format = FORMAT;
        manifest.seq = self.seq + 1;
        manifest.generation = self.generation;
        manifest.owner.clone_from(&self.owner);
        let path = manifest_path(&self.source, self.partition, manifest.seq);
        let bytes = manifest.encode()?;
        let created = match self.store.create(&path, &bytes) {
            Ok(created) => created,
            // It may have been created all the same. What is there says so; if it cannot be read, nothing is
            // known and the caller tries again.
            Err(error) => match self.store.get(&path)? {
                Some(_) => false,
                None => return Err(error),
            },
        };
        if !created {
            let found = self.store.get(&path)?.ok_or_else(|| damaged(&path, "it exists and cannot be read"))?;
            if found != bytes {
                return Err(self.fenced(manifest.seq));
            }
        }
        // An owner that has slept while others committed and old manifests were removed finds its number free.
        let after = seqs(self.store.as_ref(), &self.source, self.partition)?;
        if let Some(&last) = after.last()
            && last > manifest.seq
        {
            return Err(self.fenced(last));
        }
        self.seq = manifest.seq;
        self.sha256 = sha256_hex(&bytes);
        Ok(manifest)
    }

    fn fenced(&self, seq: u64) -> Error {
        let current = read(self.store.as_ref(), &self.source, self.partition, seq);
        Error::Fenced {
            what: format!("partition {} of source `{}`", self.partition, self.source),
            current: current.map_or(0, |(manifest, _)| manifest.generation),
            own: self.generation,
        }
    }
}

/// The last manifest that can be read, or the start if there are none at all.
fn last_good(
    store: &dyn ObjectStore,
    source: &str,
    partition: u32,
    seqs: &[u64],
    start: &dyn Fn() -> Result<u64>,
) -> Result<(Manifest, String)> {
    let mut first_error = None;
    for &seq in seqs.iter().rev() {
        match read(store, source, partition, seq) {
            Ok(found) => return Ok(found),
            Err(error @ Error::Damaged { .. }) => {
                tracing::error!(%error, source, partition, "manifest damaged, trying the one before");
                first_error.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    match first_error {
        Some(error) => Err(error),
        None => Ok((Manifest::start_at(source, partition, start()?), String::new())),
    }
}
