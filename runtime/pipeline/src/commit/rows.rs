//! Which row files are committed: those the manifest names itself, and lists of older ones.
//!
//! A manifest that names too many moves them to a list, which takes in the lists before it that are not much
//! longer: n files make about log n lists, and each entry is written about log n times. A list also says which files
//! of the lists before it were replaced since; where it takes those in, the two cancel out.

use super::load::fetch;
use super::manifest::{FileRef, Manifest};
use super::{damaged, write_file};
use crate::port::{ObjectStore, RowFile};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Row files, and marks of replaced ones, that a manifest names itself; more are moved to a list.
pub(super) const MAX_IN_MANIFEST: usize = 64;

/// Row files committed so long ago that the manifest only refers to their list.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowList {
    /// 1.
    pub format: u32,
    /// Event files, in commit order.
    pub rows: Vec<RowFile>,
    /// Dead-letter files, in commit order.
    pub dead_letters: Vec<RowFile>,
    /// The paths of files in earlier lists that have been replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
}

impl RowList {
    /// Adds what a later list says.
    fn add(&mut self, later: RowList) {
        if !later.removed.is_empty() {
            let before = self.rows.len() + self.dead_letters.len();
            let mut removed: HashSet<&str> = later.removed.iter().map(String::as_str).collect();
            self.rows.retain(|file| !removed.remove(file.path.as_str()));
            self.dead_letters.retain(|file| !removed.remove(file.path.as_str()));
            let found = before - self.rows.len() - self.dead_letters.len();
            if found < later.removed.len() {
                // Files of lists before this one.
                let mut unfound: Vec<String> = removed.into_iter().map(str::to_owned).collect();
                unfound.sort_unstable();
                self.removed.extend(unfound);
            }
        }
        self.rows.extend(later.rows);
        self.dead_letters.extend(later.dead_letters);
    }
}

fn read(store: &dyn ObjectStore, file: &FileRef) -> Result<RowList> {
    let list: RowList = serde_json::from_slice(&fetch(store, file)?).map_err(|error| damaged(&file.path, error))?;
    match list.format {
        1 => Ok(list),
        format => Err(Error::invalid(format!("`{}` has format {format}, this version of plumb reads 1", file.path))),
    }
}

/// Every row file a manifest commits, in commit order, in one list.
pub fn row_list(store: &dyn ObjectStore, manifest: &Manifest) -> Result<RowList> {
    join(manifest, |file| read(store, file))
}

fn join(manifest: &Manifest, mut read: impl FnMut(&FileRef) -> Result<RowList>) -> Result<RowList> {
    let mut all = RowList { format: 1, ..RowList::default() };
    for file in manifest.listed.iter().chain(&manifest.lists) {
        all.add(read(file)?);
    }
    all.add(named(manifest));
    match all.removed.first() {
        None => Ok(all),
        Some(path) => Err(damaged(path, "it was replaced and is in no list")),
    }
}

/// Lists that were read before, for whoever asks for the row files of one manifest after the other: most of a
/// partition's lists are those of the manifest before. A list under a hash never changes; those that a partition's
/// manifest does not name any more are forgotten.
#[derive(Debug, Default)]
pub struct KnownLists(Mutex<HashMap<(String, u32), Lists>>);

/// The lists of a partition by hash.
type Lists = BTreeMap<String, Arc<RowList>>;

impl KnownLists {
    /// Every event file a manifest commits, in commit order.
    pub fn row_files(&self, store: &dyn ObjectStore, manifest: &Manifest) -> Result<Vec<RowFile>> {
        let partition = (manifest.source.clone(), manifest.partition);
        // The lock is not held while a store is asked: of two that ask at once each may read a new list.
        let known = self.lock().get(&partition).cloned().unwrap_or_default();
        let mut used = Lists::new();
        let joined = join(manifest, |file| {
            let list = match known.get(&file.sha256) {
                Some(list) => list.clone(),
                None => Arc::new(read(store, file)?),
            };
            used.insert(file.sha256.clone(), list.clone());
            Ok(RowList::clone(&list))
        })?;
        self.lock().insert(partition, used);
        Ok(joined.rows)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, u32), Lists>> {
        // An entry is put in whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a manifest names itself.
fn named(manifest: &Manifest) -> RowList {
    RowList {
        format: 1,
        rows: manifest.rows.clone(),
        dead_letters: manifest.dead_letters.clone(),
        removed: manifest.removed.clone(),
    }
}

/// Every event file a manifest commits, in commit order.
pub fn row_files(store: &dyn ObjectStore, manifest: &Manifest) -> Result<Vec<RowFile>> {
    Ok(row_list(store, manifest)?.rows)
}

/// Every dead-letter file a manifest commits, in commit order.
pub fn dead_letter_files(store: &dyn ObjectStore, manifest: &Manifest) -> Result<Vec<RowFile>> {
    Ok(row_list(store, manifest)?.dead_letters)
}

/// Moves what a manifest names itself to a list if it is too much.
pub(super) fn shorten(store: &dyn ObjectStore, prefix: &str, manifest: &mut Manifest) -> Result<()> {
    if manifest.rows.len() + manifest.dead_letters.len() + manifest.removed.len() <= MAX_IN_MANIFEST {
        return Ok(());
    }
    let mut list = named(manifest);
    let mut lists: Vec<FileRef> = manifest.listed.iter().chain(&manifest.lists).cloned().collect();
    let mut bytes = encode(&list)?;
    while let Some(last) = lists.last().filter(|last| last.bytes <= 2 * bytes.len() as u64) {
        let mut older = read(store, last)?;
        older.add(list);
        list = older;
        lists.pop();
        bytes = encode(&list)?;
    }
    if lists.is_empty()
        && let Some(path) = list.removed.first()
    {
        return Err(damaged(path, "it was replaced and is in no list"));
    }
    lists.push(write_file(store, prefix, "files", bytes)?);
    manifest.listed = None;
    manifest.lists = lists;
    manifest.rows.clear();
    manifest.dead_letters.clear();
    manifest.removed.clear();
    Ok(())
}

fn encode(list: &RowList) -> Result<Vec<u8>> {
    serde_json::to_vec(list).map_err(|error| Error::internal(format!("cannot encode a list of row files: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::World;

    fn file(n: usize) -> RowFile {
        RowFile {
            staged: format!("_staging/events/default/date=2026-01-01/0-1-{n}.parquet"),
            path: format!("events/default/date=2026-01-01/0-1-{n}.parquet"),
            rows: n as u64,
            bytes: 10_000,
            sha256: "0".repeat(64),
            event_time_us: (0, 1),
            offsets: (0, 1),
        }
    }

    /// 20,000 files added one commit after the other, every eighth commit replacing the eight before it.
    #[test]
    fn lists_grow_in_proportion_to_what_is_added() {
        let world = World::default();
        let store = world.store();
        let mut manifest = Manifest::start("default", 0);
        let mut expected: Vec<usize> = Vec::new();
        let (mut written, mut most) = (0, 0);
        for n in 0..20_000 {
            if n % 8 == 7 {
                let replaced: Vec<String> =
                    expected.split_off(expected.len() - 7).into_iter().map(|n| file(n).path).collect();
                let named = manifest.rows.len();
                manifest.rows.retain(|file| !replaced.contains(&file.path));
                let gone = named - manifest.rows.len();
                manifest.removed.extend(replaced.into_iter().take(7 - gone));
            }
            let before = manifest.lists.clone();
            shorten(&store, &format!("state/default/0/1-{n}"), &mut manifest).unwrap();
            written += manifest.lists.iter().filter(|list| !before.contains(list)).map(|list| list.bytes).sum::<u64>();
            manifest.rows.push(file(n));
            expected.push(n);
            most = most.max(manifest.lists.len()).max(manifest.encode().unwrap().len() / 1024);
        }
        let found: Vec<usize> = row_files(&store, &manifest).unwrap().iter().map(|file| file.rows as usize).collect();
        assert_eq!(found, expected);
        // Known lists give the same, and those of a later manifest are read once.
        let known = KnownLists::default();
        let files = known.row_files(&store, &manifest).unwrap();
        assert_eq!(files, row_files(&store, &manifest).unwrap());
        manifest.lists.iter().for_each(|list| store.delete(&list.path).unwrap());
        assert_eq!(known.row_files(&store, &manifest).unwrap(), files);
        assert!(row_files(&store, &manifest).is_err());
        assert!(known.row_files(&store, &Manifest::start("default", 0)).unwrap().is_empty());
        assert_eq!(known.lock().values().map(BTreeMap::len).sum::<usize>(), 0, "what is not named is forgotten");
        assert!(manifest.lists.len() <= 12, "{}", manifest.lists.len());
        assert!(most < 48, "a manifest of {most} KiB");
        let once =
            20_000 * encode(&named(&Manifest { rows: vec![file(1)], ..Manifest::start("default", 0) })).unwrap().len();
        assert!(written < 16 * once as u64, "{written} bytes of lists for {once} bytes of entries");
    }
}
