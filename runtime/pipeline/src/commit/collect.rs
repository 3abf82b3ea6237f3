//! Removing what nothing refers to: state that was replaced, manifests nobody falls back to, files of merges and of
//! owners that died, row files long since replaced, leftovers of killed backfills.
//!
//! An object goes if no manifest that is kept refers to it and if it is older than an age limit by its store's own
//! clock, and if looking a second time finds the same: a reader or another owner has had all that time. Files of a
//! generation above ours belong to an owner that has taken over, whose references we may not have seen.

use super::chain::{Chain, read};
use super::manifest::{Manifest, manifest_path, state_folder};
use super::rows::row_list;
use super::{trashed, waiting};
use crate::port::{ObjectStore, RowFile};
use crate::{Error, Result};
use std::collections::BTreeSet;
use std::time::Duration;

/// A collection is made every so many commits.
pub const EVERY: u64 = 16;

/// So many manifests are kept, with all they refer to, for falling back to.
pub const KEPT: usize = 16;

/// What nothing refers to is kept for so long.
pub const KEEP: Duration = Duration::from_secs(24 * 3600);

/// Where backfills stage what they write.
const FEATURES: &str = "_staging/features";

/// The collections of one owner.
#[derive(Debug)]
pub struct Collector {
    keep: Duration,
    /// The number of the manifest that it saw last.
    seen: u64,
}

impl Collector {
    /// Begins after a manifest.
    pub fn new(seen: u64) -> Self {
        Self { keep: KEEP, seen }
    }

    /// Keeps what nothing refers to for another time than [`KEEP`].
    pub fn keep_for(&mut self, keep: Duration) {
        self.keep = keep;
    }

    /// Notes a commit; collects if that is due.
    pub fn after_commit(&mut self, store: &dyn ObjectStore, chain: &Chain, latest: &Manifest) -> Result<()> {
        let before = std::mem::replace(&mut self.seen, latest.seq);
        if before / EVERY == latest.seq / EVERY { Ok(()) } else { self.collect(store, chain, latest) }
    }

    /// Removes what has been of no use for long, and manifests but for the last [`KEPT`].
    pub fn collect(&self, store: &dyn ObjectStore, chain: &Chain, latest: &Manifest) -> Result<()> {
        let mut useless = self.useless(store, chain, latest)?;
        if !useless.is_empty() {
            let again = self.useless(store, chain, latest)?;
            useless.retain(|path| again.contains(path));
        }
        let seqs = chain.seqs()?;
        for &seq in &seqs[..seqs.len().saturating_sub(KEPT)] {
            store.delete(&manifest_path(&latest.source, latest.partition, seq))?;
        }
        if useless.is_empty() {
            return Ok(());
        }
        let paths: Vec<String> = useless.into_iter().collect();
        let (source, partition, seq) = (&latest.source, latest.partition, latest.seq);
        tracing::info!(source, partition, seq, ?paths, "removing what no manifest refers to");
        store.delete_all(&paths)
    }

    /// Old objects of ours that no manifest that is kept refers to.
    fn useless(&self, store: &dyn ObjectStore, chain: &Chain, latest: &Manifest) -> Result<BTreeSet<String>> {
        let (source, partition, generation) = (&latest.source, latest.partition, chain.generation());
        let mut found = BTreeSet::new();
        let mut old = |folder: &str, ours: &dyn Fn(&str) -> bool| -> Result<()> {
            let ages = store.ages(folder)?.into_iter();
            found.extend(ages.filter(|(path, age)| *age >= self.keep && ours(path)).map(|(path, _)| path));
            Ok(())
        };
        old(&state_folder(source, partition), &|path| generation_of_state(path).is_some_and(|of| of <= generation))?;
        let of_ours = |path: &str| commit_of(path, source, partition).is_some_and(|(of, _)| of <= generation);
        for kind in ["events", "dead_letters"] {
            old(&trashed(&format!("{kind}/{source}")), &of_ours)?;
            old(&format!("_staging/{kind}/{source}"), &of_ours)?;
        }
        old(&trashed(&waiting::folder(source)), &of_ours)?;
        old(FEATURES, &|_| true)?;
        // After the listing, so that a file of a commit made in between counts as referred to.
        let seqs = chain.seqs()?;
        for &seq in &seqs[seqs.len().saturating_sub(KEPT)..] {
            match read(store, source, partition, seq) {
                Ok((manifest, _)) => {
                    for file in manifest.rows.iter().chain(&manifest.dead_letters) {
                        found.remove(&file.staged);
                    }
                    let state = manifest.state.iter().chain(&manifest.ids);
                    for file in state.chain(&manifest.listed).chain(&manifest.lists) {
                        found.remove(&file.path);
                    }
                }
                // What a damaged manifest referred to is of no use to anybody.
                Err(Error::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

/// Removes what killed backfills have left in a store that has no owner of partitions to do it.
pub fn staged_features(store: &dyn ObjectStore) -> Result<()> {
    let old = store.ages(FEATURES)?.into_iter().filter(|(_, age)| *age >= KEEP);
    let old: Vec<String> = old.map(|(path, _)| path).collect();
    if old.is_empty() { Ok(()) } else { store.delete_all(&old) }
}

fn generation_of_state(path: &str) -> Option<u64> {
    path.rsplit('/').next()?.split('-').next()?.parse().ok()
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
    for folder in [format!("events/{source}"), format!("dead_letters/{source}"), waiting::folder(source)] {
        for (path, _) in store.list(&folder)? {
            if commit_of(&path, source, partition).is_some_and(|(_, commit_seq)| commit_seq > seq) {
                tracing::warn!(path, "taking a row file of a damaged commit out of the tree");
                store.rename(&path, &trashed(&path))?;
            }
        }
    }
    Ok(())
}

/// Generation and number of the commit whose row file this is, if it is of this source's partition.
pub(super) fn commit_of(path: &str, source: &str, partition: u32) -> Option<(u64, u64)> {
    let (folders, name) = path.rsplit_once('/')?;
    let [of, generation, seq] = numbers(name)?;
    let of_partition = u32::try_from(of).ok()? == partition;
    (of_partition && folders.split('/').any(|part| part == source)).then_some((generation, seq))
}

/// The number of the commit that a row file was written for.
pub(super) fn seq_of(path: &str) -> Option<u64> {
    numbers(path.rsplit('/').next()?).map(|[_, _, seq]| seq)
}

/// Partition, generation and number at the beginning of a row file's name.
fn numbers(name: &str) -> Option<[u64; 3]> {
    let mut numbers = name.split('.').next()?.split('-');
    Some([numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?])
}

/// Every event file of a manifest that is not where readers look: for checks.
pub fn missing_rows(store: &dyn ObjectStore, manifest: &Manifest) -> Result<Vec<RowFile>> {
    let mut missing = row_list(store, manifest)?.rows;
    let mut present = BTreeSet::new();
    for folder in [format!("events/{}", manifest.source), waiting::folder(&manifest.source)] {
        present.extend(store.list(&folder)?.into_iter().map(|(path, _)| path));
    }
    missing.retain(|file| !present.contains(&file.path));
    Ok(missing)
}
