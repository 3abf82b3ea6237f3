//! The steps of one commit, each done once however often the commit is tried.
//!
//! Stage rows → write state → write ids → create the manifest → move the rows. A try that fails leaves its
//! finished steps to the next one; a process that dies leaves files that nothing refers to, or, after the
//! manifest, moves that the next owner makes.

use super::chain::Chain;
use super::collect::{self, Collector};
use super::compact::{Pending, Small};
use super::load::fetch;
use super::manifest::{FileRef, Manifest, ViewRef, commit_name, state_folder};
use super::state_file::{Contents, Encoder, IdBytes};
use super::{place, rows, write_file};
use crate::Result;
use crate::accept::{Accounting, IdEntry, RecordClock, keeps, time_us};
use crate::port::{Archive, DeadLetter, DeadLetterSink, Gap, ObjectStore, RowFile};
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_core::plan::StateId;
use plumb_core::state::FieldWrite;
use std::sync::Arc;

/// A snapshot of all state is due after this many deltas at the latest: bounds what a start has to read.
pub const MAX_DELTAS: usize = 32;

/// Below this many bytes of deltas the size of the snapshot does not matter.
const SMALL_DELTAS: u64 = 1 << 20;

/// The state of one view in a commit.
#[derive(Debug, Clone)]
pub struct ViewWrites {
    /// Which state.
    pub state_id: StateId,
    /// Whether `writes` are everything, or what changed since the commit before.
    pub snapshot: bool,
    /// The fields.
    pub writes: Vec<FieldWrite>,
}

/// Everything a commit needs, taken between two batches; the partition goes on while it is carried out.
#[derive(Debug, Clone)]
pub struct CommitPlan {
    /// The offset after the last record.
    pub next_offset: u64,
    /// The newest time of an accepted event, µs.
    pub newest_event_time_us: Option<i64>,
    /// What became of the records so far.
    pub accounting: Accounting,
    /// What the source wants to find again.
    pub memo: Option<serde_json::Value>,
    /// The views whose state this is.
    pub views: Vec<ViewRef>,
    /// Their state. All snapshots if the commit before asked for them ([`Committer::wants_snapshot`]).
    pub states: Vec<ViewWrites>,
    /// What decides which ids are forgotten; none where none is.
    pub clock: Option<RecordClock>,
    /// The ids accepted since the commit before, or every one.
    pub ids: Vec<IdBytes>,
    /// Whether `ids` are every one: what was committed of them before is damaged, or lacks their times.
    pub all_ids: bool,
    /// What the events look like.
    pub schema: Arc<SourceSchema>,
    /// The events accepted since the commit before, in batches of any size.
    pub events: Vec<EventBatch>,
    /// The dead letters since the commit before.
    pub dead_letters: Vec<DeadLetter>,
    /// Records found missing since the commit before.
    pub gaps: Vec<Gap>,
}

/// The finished steps of a commit that has not succeeded yet.
#[derive(Debug, Default)]
struct Progress {
    rows: Option<Vec<RowFile>>,
    dead_letters: Option<Vec<RowFile>>,
    /// Whether the dead letters were sent.
    sent: bool,
    state: Option<Option<FileRef>>,
    ids: Option<Vec<FileRef>>,
    /// Whether the manifest is there.
    created: bool,
}

impl Progress {
    /// What was written for the commit, whose own files of state and ids begin with `own`.
    fn bytes(&self, own: &str) -> u64 {
        let rows = self.rows.iter().chain(&self.dead_letters).flatten().map(|file| file.bytes);
        let state = self.state.iter().flatten().map(|file| file.bytes);
        let ids = self.ids.iter().flatten().filter(|file| file.path.starts_with(own)).map(|file| file.bytes);
        rows.chain(state).chain(ids).sum()
    }
}

/// Commits one partition.
pub struct Committer {
    pub(super) chain: Chain,
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) archive: Arc<dyn Archive>,
    letters: Option<Arc<dyn DeadLetterSink>>,
    pub(super) latest: Manifest,
    progress: Progress,
    written: u64,
    /// A merge that is not finished; it is before the next commit.
    pub(super) merge: Option<Pending>,
    /// Whether small row files are merged.
    pub(super) merges: bool,
    /// The small row files; `None` until they are asked for.
    pub(super) small: Option<Small>,
    collector: Collector,
}

impl std::fmt::Debug for Committer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Committer").field("chain", &self.chain).finish_non_exhaustive()
    }
}

impl Committer {
    /// Takes a partition over and makes the moves its last commit may have left; see [`Chain::take_over`]. Dead
    /// letters also go to `letters`.
    pub fn take_over(
        store: Arc<dyn ObjectStore>,
        archive: Arc<dyn Archive>,
        letters: Option<Arc<dyn DeadLetterSink>>,
        source: &str,
        partition: u32,
        owner: &str,
        start: &dyn Fn() -> Result<u64>,
    ) -> Result<Self> {
        let (chain, latest) = Chain::take_over(store.clone(), source, partition, owner, start)?;
        place(store.as_ref(), &latest)?;
        collect::orphans(store.as_ref(), &latest)?;
        let collector = Collector::new(latest.seq);
        Ok(Self {
            chain,
            store,
            archive,
            letters,
            latest,
            progress: Progress::default(),
            merge: None,
            merges: true,
            small: None,
            collector,
            written: 0,
        })
    }

    /// The last manifest.
    pub fn latest(&self) -> &Manifest {
        &self.latest
    }

    /// The bytes of rows, dead letters, state and ids of the last commit.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The owner's generation.
    pub fn generation(&self) -> u64 {
        self.chain.generation()
    }

    /// Takes a generation of at least `generation`, see [`Chain::raise`].
    pub fn raise(&mut self, generation: u64) -> Result<()> {
        self.latest = self.chain.raise(self.latest.clone(), generation)?;
        Ok(())
    }

    /// Names views in the chain whose state is about to be written to the online store, so that whoever comes after a
    /// crash knows what to clear there. Their state is committed with the next commit.
    pub fn name(&mut self, views: &[ViewRef]) -> Result<()> {
        let mut next = self.latest.clone();
        next.views.extend(views.iter().filter(|view| !self.latest.views.contains(view)).cloned());
        if next.views.len() > self.latest.views.len() {
            self.latest = self.chain.commit(next)?;
        }
        Ok(())
    }

    /// Whether the next commit is to bring snapshots of all states instead of changes.
    pub fn wants_snapshot(&self) -> bool {
        let Some((snapshot, deltas)) = self.latest.state.split_first() else { return true };
        let bytes: u64 = deltas.iter().map(|delta| delta.bytes).sum();
        deltas.len() >= MAX_DELTAS || bytes > snapshot.bytes.max(SMALL_DELTAS)
    }

    /// Keeps what nothing refers to for another time than [`collect::KEEP`].
    pub fn keep_for(&mut self, keep: std::time::Duration) {
        self.collector.keep_for(keep);
    }

    /// Lets row files stay as they are written; rows that wait for their dates are spread all the same.
    pub fn without_merges(&mut self) {
        self.merges = false;
    }

    /// Carries out a commit. After an error of kind `Unavailable` it may be tried again with the same plan;
    /// after [`Error::Fenced`] the partition belongs to somebody else.
    pub fn commit(&mut self, plan: &mut CommitPlan) -> Result<()> {
        if !self.progress.created {
            self.finish_merge()?;
            self.create(plan)?;
            self.progress.created = true;
        }
        let fresh = self.progress.rows.iter().chain(&self.progress.dead_letters).flatten();
        let moved = move_rows(self.store.as_ref(), fresh);
        self.unless_fenced(moved)?;
        let latest = &self.latest;
        let own =
            format!("{}/{}-{}-", state_folder(&latest.source, latest.partition), self.chain.generation(), latest.seq);
        let progress = std::mem::take(&mut self.progress);
        self.written = progress.bytes(&own);
        if let Some(small) = &mut self.small {
            small.add(progress.rows.into_iter().chain(progress.dead_letters).flatten());
        }
        if let Err(error) = self.collector.after_commit(self.store.as_ref(), &self.chain, &self.latest) {
            // What is left over is found again by the next collection.
            tracing::warn!(%error, "cannot remove what no manifest refers to");
        }
        Ok(())
    }

    /// What an error in moving files means: the files of one that has slept are moved on by whoever took over.
    pub(super) fn unless_fenced(&self, moved: Result<()>) -> Result<()> {
        if moved.is_err() {
            self.chain.seqs()?;
        }
        moved
    }

    /// All steps up to the manifest.
    fn create(&mut self, plan: &mut CommitPlan) -> Result<()> {
        assert!(
            plan.accounting.is_consistent(),
            "records read must equal records accounted for: {:?}",
            plan.accounting
        );
        assert!(plan.next_offset >= self.latest.next_offset, "a commit never goes back");
        let (source, partition) = (self.latest.source.clone(), self.latest.partition);
        let (generation, seq) = (self.chain.generation(), self.chain.next_seq());
        let name = commit_name(partition, generation, seq);
        let progress = &mut self.progress;
        let fresh = match &progress.rows {
            Some(rows) => rows,
            None if plan.events.is_empty() => progress.rows.insert(Vec::new()),
            None => progress.rows.insert(self.archive.stage(partition, &name, &plan.events)?),
        };
        let dead_letters = match &progress.dead_letters {
            Some(files) => files,
            None if plan.dead_letters.is_empty() => progress.dead_letters.insert(Vec::new()),
            None => {
                let files = self.archive.stage_dead_letters(&source, partition, &name, &plan.dead_letters)?;
                progress.dead_letters.insert(files)
            }
        };
        if let Some(letters) = &self.letters
            && !progress.sent
        {
            if !plan.dead_letters.is_empty() {
                letters.send(&source, partition, &plan.dead_letters)?;
            }
            progress.sent = true;
        }
        let prefix = format!("{}/{generation}-{seq}", state_folder(&source, partition));
        let store = self.store.as_ref();
        let state = match &progress.state {
            Some(state) => state,
            None => progress.state.insert(write_state(store, &prefix, plan)?),
        };
        let ids = match &progress.ids {
            Some(ids) => ids,
            None => progress.ids.insert(write_ids(store, &prefix, &self.latest.ids, plan)?),
        };

        let mut next = self.latest.clone();
        next.next_offset = plan.next_offset;
        next.gaps.extend(plan.gaps.iter().copied());
        next.newest_event_time_us = plan.newest_event_time_us;
        next.accounting = plan.accounting;
        next.memo.clone_from(&plan.memo);
        next.views.clone_from(&plan.views);
        if plan.states.iter().all(|state| state.snapshot) {
            next.state.clear();
        }
        next.state.extend(state.clone());
        next.ids.clone_from(ids);
        next.clock = plan.clock;
        next.replaced.clear();
        rows::shorten(store, &prefix, &mut next)?;
        next.rows.extend(fresh.iter().cloned());
        next.dead_letters.extend(dead_letters.iter().cloned());
        self.latest = self.chain.commit(next)?;
        Ok(())
    }
}

/// Moves committed row files to where readers look; fine for those that are there.
fn move_rows<'a>(store: &dyn ObjectStore, files: impl IntoIterator<Item = &'a RowFile>) -> Result<()> {
    let moves: Vec<_> = files.into_iter().map(|file| (file.staged.clone(), file.path.clone())).collect();
    if moves.is_empty() { Ok(()) } else { store.rename_all(&moves) }
}

/// Writes what the plan says of state; `None` if nothing has changed.
fn write_state(store: &dyn ObjectStore, prefix: &str, plan: &CommitPlan) -> Result<Option<FileRef>> {
    if plan.states.iter().all(|state| !state.snapshot && state.writes.is_empty()) {
        return Ok(None);
    }
    let mut encoder = Encoder::default();
    for state in &plan.states {
        encoder.state(state.state_id, state.snapshot, &state.writes);
    }
    write_file(store, prefix, "state", encoder.finish()).map(Some)
}

/// Writes the new ids and merges files that have become as long as the one before them, so that n commits
/// leave about log n files and every id is rewritten about log n times. What is forgotten is left out, whole files
/// at once.
fn write_ids(store: &dyn ObjectStore, prefix: &str, files: &[FileRef], plan: &CommitPlan) -> Result<Vec<FileRef>> {
    let forgotten_us = plan.clock.map_or(i64::MIN, |clock| clock.forgotten_us);
    let mut files = if plan.all_ids { Vec::new() } else { files.to_vec() };
    files.retain(|file| file.newest_us.is_none_or(|newest_us| newest_us >= forgotten_us));
    if plan.ids.is_empty() {
        return Ok(files);
    }
    let mut bytes = size_of_val(plan.ids.as_slice()) as u64;
    let mut merged = Vec::new();
    while files.last().is_some_and(|last| last.bytes <= 2 * bytes) {
        if let Some(last) = files.pop() {
            bytes += last.bytes;
            merged.push(last);
        }
    }
    let mut encoder = Encoder::default();
    let newest_us = if merged.is_empty() {
        encoder.ids(&plan.ids);
        newest(&plan.ids)
    } else {
        let mut contents = Contents::default();
        for file in merged.iter().rev() {
            contents.read(&file.path, &fetch(store, file)?)?;
        }
        contents.ids.retain(|entry| keeps(IdEntry::from_bytes(entry).time_s, forgotten_us));
        contents.ids.extend_from_slice(&plan.ids);
        encoder.ids(&contents.ids);
        newest(&contents.ids)
    };
    files.push(FileRef { newest_us, ..write_file(store, prefix, "ids", encoder.finish())? });
    Ok(files)
}

/// The newest time of ids, µs, if all have one.
fn newest(ids: &[IdBytes]) -> Option<i64> {
    let times = || ids.iter().map(|entry| IdEntry::from_bytes(entry).time_s);
    if times().any(|time_s| time_s == 0) { None } else { times().max().map(time_us) }
}
