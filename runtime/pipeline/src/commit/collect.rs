//! Removing what no manifest refers to: state files that were replaced, manifests nobody falls back to,
//! staged files of owners that died.
//!
//! Only files of a generation not above ours are touched: those of a later one belong to an owner that has
//! taken over, whose references we may not have seen.

use super::chain::{Chain, read};
use super::load::row_list;
use super::manifest::{Manifest, manifest_path, state_folder};
use crate::port::{ObjectStore, RowFile};
use crate::{Error, Result};
use std::collections::BTreeSet;

/// A collection is made every so many commits.
pub const EVERY: u64 = 16;

/// So many manifests are kept, with all they refer to, for falling back to.
pub const KEPT: usize = 16;

/// Removes manifests but for the last [`KEPT`] and the state files that none of those refers to.
pub fn unreferenced(store: &dyn ObjectStore, chain: &Chain, latest: &Manifest) -> Result<()> {
    let (source, partition) = (&latest.source, latest.partition);
    let files = store.list(&state_folder(source, partition))?;
    // After the listing, so that a file of a commit made in between counts as referred to.
    let seqs = chain.seqs()?;
    let (old, kept) = seqs.split_at(seqs.len().saturating_sub(KEPT));
    let mut referenced = BTreeSet::new();
    for &seq in kept {
        match read(store, source, partition, seq) {
            Ok((manifest, _)) => {
                let named = manifest.state.into_iter().chain(manifest.ids).chain(manifest.listed);
                referenced.extend(named.map(|file| file.path));
            }
            // What a damaged manifest referred to is of no use to anybody.
            Err(Error::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    for &seq in old {
        store.delete(&manifest_path(source, partition, seq))?;
    }
    for (path, _) in files {
        let generation = path.rsplit('/').next().and_then(|name| name.split('-').next()?.parse::<u64>().ok());
        if generation.is_some_and(|generation| generation <= chain.generation()) && !referenced.contains(&path) {
            store.delete(&path)?;
        }
    }
    Ok(())
}

/// Removes staged row files of earlier owners of a partition that never became part of a commit.
pub fn orphans(store: &dyn ObjectStore, latest: &Manifest) -> Result<()> {
    for (path, _) in store.list("_staging")? {
        if let Some((generation, _)) = commit_of(&path, &latest.source, latest.partition)
            && generation < latest.generation
        {
            store.delete(&path)?;
        }
    }
    Ok(())
}

/// Takes row files of commits after `seq` out of the tree, into `_trash/`: their manifests are damaged, so they
/// are not committed, and their records will be read again.
pub fn trash_rows(store: &dyn ObjectStore, source: &str, partition: u32, seq: u64) -> Result<()> {
    for folder in [format!("events/{source}"), format!("dead_letters/{source}")] {
        for (path, _) in store.list(&folder)? {
            if commit_of(&path, source, partition).is_some_and(|(_, commit_seq)| commit_seq > seq) {
                tracing::warn!(path, "taking a row file of a damaged commit out of the tree");
                store.rename(&path, &format!("_trash/{path}"))?;
            }
        }
    }
    Ok(())
}

/// Generation and number of the commit whose row file this is, if it is of this source's partition.
fn commit_of(path: &str, source: &str, partition: u32) -> Option<(u64, u64)> {
    let mut parts = path.rsplit('/');
    let name = parts.next()?.split('.').next()?;
    let mut numbers = name.split('-');
    let of_partition = numbers.next()?.parse::<u32>().ok()? == partition;
    let commit = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
    (of_partition && parts.any(|part| part == source)).then_some(commit)
}

/// Every event file of a manifest that is not where readers look: for checks.
pub fn missing_rows(store: &dyn ObjectStore, manifest: &Manifest) -> Result<Vec<RowFile>> {
    let mut missing = row_list(store, manifest)?.rows;
    missing.extend(manifest.rows.iter().cloned());
    let present: BTreeSet<String> =
        store.list(&format!("events/{}", manifest.source))?.into_iter().map(|(path, _)| path).collect();
    missing.retain(|file| !present.contains(&file.path));
    Ok(missing)
}
