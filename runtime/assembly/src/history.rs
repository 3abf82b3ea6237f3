//! Past values: what a running service answers from the archive of committed events.

use plumb_core::entity::EntityKey;
use plumb_pipeline::commit::load::KnownLists;
use plumb_pipeline::commit::{committed_partitions, latest};
use plumb_pipeline::offline::{AtRequest, Selection, at};
use plumb_pipeline::port::{Archive, ArchiveScan, ObjectStore, RowFile};
use plumb_pipeline::query::serving::labels;
use plumb_pipeline::query::{History, HistoryRows, Position};
use plumb_pipeline::runtime::Runtime;
use plumb_pipeline::{Error, Result};
use plumb_transform::Transform;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the manifests are looked at for a commit that is waited for.
const LOOK: Duration = Duration::from_millis(100);

/// The committed part of a source: its files and the next offset of each partition.
#[derive(Debug, Clone, Default)]
pub struct Committed {
    /// Every committed event file, each partition's in commit order.
    pub files: Vec<(u32, RowFile)>,
    /// The next offset of each partition.
    pub position: BTreeMap<u32, u64>,
}

impl Committed {
    /// Reads the newest manifest of each partition: files and position belong together.
    pub fn read(store: &dyn ObjectStore, source: &str) -> Result<Self> {
        Self::read_with(store, source, &KnownLists::default())
    }

    fn read_with(store: &dyn ObjectStore, source: &str, lists: &KnownLists) -> Result<Self> {
        let mut committed = Self::default();
        for partition in committed_partitions(store, source)? {
            if let Some(manifest) = latest(store, source, partition)? {
                let files = lists.row_files(store, &manifest)?;
                committed.files.extend(files.into_iter().map(|file| (partition, file)));
                committed.position.insert(partition, manifest.next_offset);
            }
        }
        Ok(committed)
    }

    /// Whether everything below `position` is in it.
    pub fn covers(&self, position: &BTreeMap<u32, u64>) -> bool {
        position.iter().all(|(partition, offset)| self.position.get(partition).copied().unwrap_or(0) >= *offset)
    }

    /// A scan of the events below `position`, or of all. A position says nothing of partitions that came later: what
    /// is in them lies above it.
    pub fn scan(self, position: Option<&BTreeMap<u32, u64>>) -> ArchiveScan {
        let Self { mut files, position: all } = self;
        let below_offset = position.cloned().unwrap_or(all);
        files.retain(|(partition, _)| below_offset.contains_key(partition));
        ArchiveScan { files, below_offset, ..ArchiveScan::default() }
    }
}

/// [`History`] over the archive of a job.
pub struct ArchiveHistory {
    store: Arc<dyn ObjectStore>,
    archive: Arc<dyn Archive>,
    lists: KnownLists,
    /// The job, where it runs in this process.
    runtime: Option<Arc<Runtime>>,
    /// How long to wait for what other processes commit; zero where there are none.
    patience: Duration,
}

impl std::fmt::Debug for ArchiveHistory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArchiveHistory").finish_non_exhaustive()
    }
}

impl ArchiveHistory {
    /// The history of a job that runs in this process. Others may run it too if it is `shared`; then a position is
    /// waited for as long as that.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        archive: Arc<dyn Archive>,
        runtime: Arc<Runtime>,
        shared: Option<Duration>,
    ) -> Self {
        Self {
            store,
            archive,
            lists: KnownLists::default(),
            runtime: Some(runtime),
            patience: shared.unwrap_or_default(),
        }
    }

    /// The history of a job that runs in other processes; a position that is not committed yet is waited for as long
    /// as `patience`.
    pub fn of_others(store: Arc<dyn ObjectStore>, archive: Arc<dyn Archive>, patience: Duration) -> Self {
        Self { store, archive, lists: KnownLists::default(), runtime: None, patience }
    }

    fn read(&self, source: &str) -> Result<Committed> {
        Committed::read_with(self.store.as_ref(), source, &self.lists)
    }

    /// The committed part of a source that holds all of `position` (of all that was applied here, if `None`);
    /// commits what was applied here and not yet committed if that takes it.
    fn committed(&self, source: &str, position: Option<&BTreeMap<u32, u64>>) -> Result<Committed> {
        let applied: BTreeMap<u32, u64>;
        let wanted = match (position, &self.runtime) {
            (Some(position), _) => position,
            (None, Some(runtime)) => {
                let partitions = runtime.status().partitions.into_iter();
                applied = partitions.filter(|p| p.source == source).map(|p| (p.partition, p.position)).collect();
                &applied
            }
            (None, None) => return self.read(source),
        };
        let committed = self.read(source)?;
        if committed.covers(wanted) {
            return Ok(committed);
        }
        if let Some(runtime) = &self.runtime {
            runtime.commit_now()?;
        }
        let until = Instant::now() + self.patience;
        loop {
            let committed = self.read(source)?;
            if committed.covers(wanted) {
                return Ok(committed);
            }
            let (wanted, so_far) =
                (Position::of(source, wanted.clone()), Position::of(source, committed.position.clone()));
            if self.patience.is_zero() {
                let why = format!("position {wanted} lies ahead of what was accepted ({so_far})");
                return Err(Error::invalid(why));
            }
            if Instant::now() >= until {
                let why = format!("committed so far is {so_far}: try again after the next commit");
                return Err(Error::unavailable(format!("read the archive up to {wanted}"), why));
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl History for ArchiveHistory {
    fn at(
        &self,
        view: &Transform,
        rows: &[(EntityKey, i64)],
        position: Option<&BTreeMap<u32, u64>>,
    ) -> Result<HistoryRows> {
        let source = view.def().source.clone();
        let committed = self.committed(&source, position)?;
        let read_at = position.cloned().unwrap_or_else(|| committed.position.clone());
        let scans = BTreeMap::from([(source, committed.scan(position))]);
        let selection = Selection::all(std::slice::from_ref(view));
        let request = AtRequest { selection: &selection, rows: &labels(view, rows)?, max_age_us: None };
        let columns = at(self.archive.as_ref(), &scans, request)?
            .pop()
            .ok_or_else(|| Error::internal("the archive gave no answer for a view"))?;
        Ok(HistoryRows::of(columns, read_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_that_a_position_does_not_name_lie_above_it() {
        let file = |path: &str| RowFile {
            staged: format!("_staging/{path}"),
            path: path.into(),
            rows: 1,
            bytes: 1,
            sha256: String::new(),
            event_time_us: (0, 0),
            offsets: (0, 0),
        };
        let committed = Committed {
            files: vec![(0, file("a")), (1, file("b")), (0, file("c"))],
            position: BTreeMap::from([(0, 9), (1, 4)]),
        };
        let scanned = |position: Option<&BTreeMap<u32, u64>>| {
            let scan = committed.clone().scan(position);
            let paths: Vec<String> = scan.files.into_iter().map(|(_, file)| file.path).collect();
            (paths.concat(), scan.below_offset)
        };
        assert_eq!(scanned(None), ("abc".into(), committed.position.clone()));
        // Of an answer that was given before the partition 1 was made.
        let before = BTreeMap::from([(0, 7)]);
        assert_eq!(scanned(Some(&before)), ("ac".into(), before));
        let empty = BTreeMap::new();
        assert_eq!(scanned(Some(&empty)), (String::new(), empty));
    }
}
