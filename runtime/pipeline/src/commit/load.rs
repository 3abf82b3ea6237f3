//! Reading back what was committed, and what to do when it is damaged.

use super::chain::{read, seqs};
use super::damaged;
use super::manifest::{FileRef, Manifest};
use super::state_file::Contents;
use crate::port::ObjectStore;
use crate::{Error, Result};

pub use super::rows::{KnownLists, RowList, dead_letter_files, row_files, row_list};

/// What the files of a manifest hold.
#[derive(Debug, Default)]
pub struct Loaded {
    /// States and ids.
    pub contents: Contents,
}

/// Where to go on from.
#[derive(Debug)]
pub struct Recovered {
    /// The last manifest: what is committed, above all which rows.
    pub manifest: Manifest,
    /// The manifest whose state could be read; an older one if the last one's is damaged. The records between
    /// the two are to be read again for state, but not archived again.
    pub base: Manifest,
    /// The state as of `base`.
    pub loaded: Loaded,
}

/// Loads the state of `manifest`, or of the last one before it whose state is undamaged.
pub fn recover(store: &dyn ObjectStore, manifest: Manifest) -> Result<Recovered> {
    let damage = match load(store, &manifest) {
        Ok(loaded) => return Ok(Recovered { base: manifest.clone(), manifest, loaded }),
        Err(error @ Error::Damaged { .. }) => error,
        Err(error) => return Err(error),
    };
    tracing::error!(error = %damage, source = manifest.source, partition = manifest.partition,
        "committed state is damaged, trying older commits");
    for seq in seqs(store, &manifest.source, manifest.partition)?.into_iter().rev() {
        if seq >= manifest.seq {
            continue;
        }
        let older = read(store, &manifest.source, manifest.partition, seq).map(|(older, _)| older);
        match older.and_then(|older| load(store, &older).map(|loaded| (older, loaded))) {
            Ok((base, loaded)) => {
                tracing::warn!(seq, offset = base.next_offset, "going on from an older commit");
                return Ok(Recovered { manifest, base, loaded });
            }
            Err(Error::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    // The beginning needs no file; whether the log still has it is the source's to say.
    let base = Manifest::start_at(&manifest.source, manifest.partition, manifest.start_offset);
    tracing::warn!("no older commit can be read either, reading the source from where the job began");
    Ok(Recovered { manifest, base, loaded: Loaded::default() })
}

/// Files read and checked at the same time.
const READ_AT_ONCE: usize = 8;

/// Reads and checks all state files of a manifest.
pub fn load(store: &dyn ObjectStore, manifest: &Manifest) -> Result<Loaded> {
    let mut contents = Contents::default();
    let files: Vec<&FileRef> = manifest.state.iter().chain(&manifest.ids).collect();
    for files in files.chunks(READ_AT_ONCE) {
        let read: Vec<Result<Vec<u8>>> = std::thread::scope(|scope| {
            let threads: Vec<_> = files.iter().map(|file| scope.spawn(move || fetch(store, file))).collect();
            let panicked = |_| Err(Error::internal("reading a state file has panicked"));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
        });
        for (file, bytes) in files.iter().zip(read) {
            contents.read_checked(&file.path, &bytes?)?;
        }
    }
    Ok(Loaded { contents })
}

/// Reads an object and checks it against its reference.
pub(super) fn fetch(store: &dyn ObjectStore, file: &FileRef) -> Result<Vec<u8>> {
    let bytes = store.get(&file.path)?.ok_or_else(|| damaged(&file.path, "it is missing"))?;
    file.check(&bytes)?;
    Ok(bytes)
}
