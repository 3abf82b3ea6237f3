//! Commits: how what was processed becomes durable, at one point and once.
//!
//! A source partition has a chain of manifests, `manifest/<source>/<partition>/<seq>`. Creating the next
//! one if it is absent is the only commit point; everything else is written before it under names that
//! nothing refers to yet (state files, staged row files) or redone after it (moving row files to where
//! readers look). A process takes a partition over by creating the next manifest with a higher generation;
//! whoever had it before collides on that number with its next commit and stops.
//!
//! [`manifest`] is the format, [`chain`] take-over and conditional create, [`state_file`] the bytes of
//! state and ids, [`load`] reads them back and knows what to do when they are damaged, [`committer`] does
//! the steps of one commit, [`rows`] says which row files are committed, [`compact`] merges small ones, [`waiting`] says
//! which rows wait for that, [`collect`] removes what nothing refers to, [`job`] holds what is global: which views are active.

pub mod chain;
pub mod collect;
pub mod committer;
pub mod compact;
pub mod job;
pub mod load;
pub mod manifest;
pub mod rows;
pub mod state_file;
pub mod waiting;

pub use chain::{Chain, latest};
pub use committer::{CommitPlan, Committer, ViewWrites};
pub use compact::Tidy;
pub use job::{ActiveRef, JobChain, JobManifest, RebuildRef, put_component, read_component};
pub use load::{Loaded, Recovered, recover};
pub use manifest::{FORMAT, FileRef, Manifest, Parent, ViewRef};

use crate::port::{ObjectStore, RowFile};
use crate::{Error, Result};
use sha2::{Digest, Sha256};

/// The row files of a source that are committed, with their partition, each partition's in commit order:
/// what an [`crate::port::ArchiveScan`] reads.
pub fn committed_files(store: &dyn ObjectStore, source: &str) -> Result<Vec<(u32, RowFile)>> {
    let mut files = Vec::new();
    for partition in committed_partitions(store, source)? {
        if let Some(manifest) = latest(store, source, partition)? {
            files.extend(load::row_files(store, &manifest)?.into_iter().map(|file| (partition, file)));
        }
    }
    Ok(files)
}

/// The partitions of a source that have a manifest, ascending.
pub fn committed_partitions(store: &dyn ObjectStore, source: &str) -> Result<Vec<u32>> {
    let folder = format!("manifest/{source}/");
    let mut partitions: Vec<u32> = store
        .list(folder.trim_end_matches('/'))?
        .iter()
        .filter_map(|(path, _)| path.strip_prefix(&folder)?.split('/').next()?.parse().ok())
        .collect();
    partitions.sort_unstable();
    partitions.dedup();
    Ok(partitions)
}

/// Where an object lies after it was taken out of the tree.
pub fn trashed(path: &str) -> String {
    format!("{TRASH}/{path}")
}

/// What was taken out of the tree, until nobody reads it any more.
pub const TRASH: &str = "_trash";

/// Moves a manifest's row files to where readers look and those it replaces out of the tree; fine for those that
/// are there.
fn place(store: &dyn ObjectStore, manifest: &Manifest) -> Result<()> {
    let fresh = manifest.rows.iter().chain(&manifest.dead_letters);
    let appear: Vec<_> = fresh.map(|file| (file.staged.clone(), file.path.clone())).collect();
    match (appear.is_empty(), manifest.replaced.is_empty()) {
        (true, true) => Ok(()),
        (false, true) => store.rename_all(&appear),
        (_, false) => store.swap(&appear, &compact::vanishing(manifest)),
    }
}

/// Writes a file under a name that no other content and no other commit has.
fn write_file(store: &dyn ObjectStore, prefix: &str, kind: &str, bytes: Vec<u8>) -> Result<FileRef> {
    let sha256 = sha256_hex(&bytes);
    let path = format!("{prefix}-{kind}-{}", &sha256[..16]);
    let file = FileRef { path, bytes: bytes.len() as u64, sha256, newest_us: None };
    store.put(&file.path, bytes)?;
    Ok(file)
}

/// SHA-256 as hex.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a string cannot fail.
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// An object that plumb wrote and that is not what it should be.
pub(crate) fn damaged(path: &str, why: impl std::fmt::Display) -> Error {
    Error::Damaged { path: path.to_owned(), why: why.to_string() }
}

#[cfg(test)]
mod tests;
