//! Taking a partition over: from what is committed to a partition that goes on where the last owner stopped.
//!
//! Take over the chain → claim the online store → load state (an older commit's if the last one's is damaged) →
//! read again, silently, what the online store already shows → publish. Only then do readers see anything of
//! this process, so nothing they see goes back.

use super::build::apply_archive;
use super::partition::{Partition, PartitionView, split, take_state};
use super::publish::{Published, Publisher, held};
use crate::accept::AcceptRules;
use crate::commit::{Committer, Manifest, Recovered, ViewRef, load, recover};
use crate::meter::SourceMeters;
use crate::port::{
    Archive, DeadLetterSink, Gap, ObjectStore, OnlineStore, PartitionReader, Polled, Source, SourceBatch,
};
use crate::{Error, Result};
use plumb_core::state::ViewState;
use plumb_transform::Transform;
use std::sync::Arc;

/// So many polls in a row that bring nothing mean that a source that cannot say where it ends does so there.
const IDLE_POLLS: usize = 40;

/// The edges a partition works with.
#[derive(Clone)]
pub struct Edges {
    /// Where commits go.
    pub store: Arc<dyn ObjectStore>,
    /// Where events go.
    pub archive: Arc<dyn Archive>,
    /// Where state is read from.
    pub online: Arc<dyn OnlineStore>,
    /// This process's own mark in manifests.
    pub owner: Arc<str>,
}

impl std::fmt::Debug for Edges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Edges").field("owner", &self.owner).finish_non_exhaustive()
    }
}

/// A source and what it accepts.
#[derive(Clone)]
pub struct SourceSetup {
    /// The source.
    pub source: Arc<dyn Source>,
    /// What is accepted.
    pub rules: AcceptRules,
    /// Where its dead letters go beside the archive.
    pub dead_letters: Option<Arc<dyn DeadLetterSink>>,
}

impl std::fmt::Debug for SourceSetup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceSetup").field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// An opened partition, published.
pub struct Opened {
    /// Its state.
    pub partition: Partition,
    /// Its source, at the state's position.
    pub reader: Box<dyn PartitionReader>,
    /// Its commits.
    pub committer: Box<Committer>,
    /// Its side of the online store.
    pub publisher: Publisher,
    /// Whether the next commit must bring all state: what is committed of it is damaged or of other views.
    pub snapshot: bool,
    /// Whether something is applied that is not published.
    pub unpublished: bool,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("committer", &self.committer).finish_non_exhaustive()
    }
}

/// How opening a partition is asked to behave.
pub struct Opening<'a> {
    /// The most records per poll.
    pub batch_records: usize,
    /// Where it is counted.
    pub meters: Arc<SourceMeters>,
    /// Called as soon as readers can be answered from what the online store already holds.
    pub readable: &'a mut dyn FnMut(),
    /// Whether to go on; `false` ends the opening with an error.
    pub go_on: &'a dyn Fn() -> bool,
}

impl std::fmt::Debug for Opening<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opening").field("batch_records", &self.batch_records).finish_non_exhaustive()
    }
}

/// Takes a partition over and brings it to where the last owner left it.
pub fn open(
    edges: &Edges,
    setup: &SourceSetup,
    number: u32,
    views: &[Transform],
    opening: &mut Opening<'_>,
) -> Result<Opened> {
    let schema = setup.source.schema().clone();
    let source = schema.source.as_str();
    let (store, archive, letters) = (edges.store.clone(), edges.archive.clone(), setup.dead_letters.clone());
    let start = || setup.source.start(number);
    let mut committer = Committer::take_over(store, archive, letters, source, number, &edges.owner, &start)?;
    let shown = claim(edges, source, number, &mut committer)?;
    clear_others(edges, source, number, &committer, views)?;
    // A store that is behind what is committed has lost something.
    let committed = committer.latest().next_offset;
    let mut shown = shown.filter(|&position| position >= committed);
    if shown.is_some() && !holds(edges, source, number, committed)? {
        shown = None;
    }
    let held = match shown {
        Some(_) => held(edges.online.as_ref(), source, number, views)?,
        None => Vec::new(),
    };
    if shown.is_some() && !held.contains(&false) {
        (opening.readable)();
    }

    let mut recovered = recover(edges.store.as_ref(), committer.latest().clone())?;
    let fell_back = recovered.base.seq != recovered.manifest.seq;
    let views = restore_views(edges, number, views, &mut recovered, opening.go_on)?;
    let Recovered { manifest, base, loaded } = recovered;
    let other_views = base.views != views.iter().map(PartitionView::view_ref).collect::<Vec<_>>();
    let mut partition = Partition::new(&schema, setup.rules, &base, loaded.contents.ids, views);
    let mut reader = setup.source.open(number, base.next_offset, base.memo.as_ref())?;
    let mut rest = None;
    if fell_back {
        partition.keep_all_ids();
        if let Some(gap) = reader.gap() {
            return Err(unreadable(&manifest, gap));
        }
        rest = replay(&mut partition, setup, number, reader.as_mut(), manifest.next_offset, false, None, opening)?
            .map_err(|at| truncated(&manifest, at))?;
        if *partition.accounting() != manifest.accounting {
            return Err(Error::internal(format!(
                "source `{source}` partition {number} reads otherwise than when it was committed: {:?}, committed {:?}",
                partition.accounting(),
                manifest.accounting
            )));
        }
    }

    if !fell_back && let Some(gap) = reader.gap() {
        tracing::warn!(
            source,
            partition = number,
            from = gap.from,
            to = gap.to,
            "going on after records that are gone"
        );
        partition.skip(gap);
        // What the store shows may hold some of them.
        shown = None;
    }
    let meters = opening.meters.clone();
    let named: Vec<ViewRef> = partition.views().iter().map(PartitionView::view_ref).collect();
    committer.name(&named)?;
    let mut publisher = Publisher::new(edges.online.clone(), source, number, committer.generation(), shown, meters);
    let mut caught_up = shown.is_some();
    if let Some(target) = shown {
        match replay(&mut partition, setup, number, reader.as_mut(), target, true, rest.take(), opening)? {
            Ok(after) => rest = after,
            Err(_) => {
                tracing::warn!(source, partition = number, "online store is ahead of the source, rebuilding it");
                caught_up = false;
            }
        }
    }
    if caught_up && publisher.publish(&mut partition)? != Published::Lost {
        // Views the store does not hold all of come beside those that are being read.
        for (view, _) in partition.views_mut().iter_mut().zip(&held).filter(|(_, held)| !**held) {
            publisher.add(view)?;
        }
    } else {
        publisher.rebuild(&mut partition)?;
    }
    (opening.readable)();
    let mut unpublished = publisher.position() != Some(partition.position());
    if let Some(batch) = rest {
        partition.step(batch, true);
        unpublished = true;
    }
    let (committer, snapshot) = (Box::new(committer), fell_back || other_views);
    Ok(Opened { partition, reader, committer, publisher, snapshot, unpublished })
}

/// Whether all of a partition in the online store is at least of a position. `claim` says how far any of it is, which
/// in a store of several parts may be further: a publish was under way when its owner ended.
fn holds(edges: &Edges, source: &str, number: u32, position: u64) -> Result<bool> {
    let whole = edges.online.read(source, &[number], &[])?.positions.remove(&number).flatten();
    Ok(whole.is_some_and(|whole| whole >= position))
}

/// Claims the online store and returns the position it shows, if that belongs to this chain.
fn claim(edges: &Edges, source: &str, number: u32, committer: &mut Committer) -> Result<Option<u64>> {
    match edges.online.claim(source, number, committer.generation()) {
        Err(Error::Fenced { current, .. }) => {
            // A later owner of this chain would have added to it, which the next commit shows. Otherwise the store
            // was written by another chain (the offline store was replaced), and nothing in it is ours.
            tracing::warn!(source, partition = number, current, "online store is of another history, taking it over");
            committer.raise(current + 1)?;
            edges.online.claim(source, number, committer.generation())?;
            Ok(None)
        }
        // A chain that has only begun has shown nothing yet.
        Ok(_) if committer.latest().seq == 1 => Ok(None),
        claimed => claimed,
    }
}

/// Removes from the online store what is left of views that are not active any more, or never came to be.
fn clear_others(edges: &Edges, source: &str, number: u32, committer: &Committer, views: &[Transform]) -> Result<()> {
    let named = committer.latest().views.iter().filter_map(|view| view.state_id());
    for state_id in named.filter(|&state_id| views.iter().all(|view| view.state_id() != state_id)) {
        edges.online.clear(source, number, committer.generation(), Some(state_id))?;
    }
    Ok(())
}

/// The views with their state as of `recovered.base`: as loaded, or else from the archive.
fn restore_views(
    edges: &Edges,
    number: u32,
    views: &[Transform],
    recovered: &mut Recovered,
    go_on: &dyn Fn() -> bool,
) -> Result<Vec<PartitionView>> {
    let mut restored = Vec::with_capacity(views.len());
    let mut missing = Vec::new();
    let contents = &mut recovered.loaded.contents;
    let loaded: Vec<_> = views.iter().map(|transform| take_state(contents, transform)).collect();
    // A core for each view: what a start has to wait for.
    let states: Vec<_> = std::thread::scope(|scope| {
        let restore = |(transform, writes): (&Transform, Option<Vec<_>>)| {
            let plan = transform.plan().clone();
            writes.map(|writes| scope.spawn(move || ViewState::restore(plan, writes)))
        };
        let threads: Vec<_> = views.iter().zip(loaded).map(restore).collect();
        threads.into_iter().map(|thread| thread.map(|thread| thread.join())).collect()
    });
    for ((index, transform), state) in views.iter().enumerate().zip(states) {
        let state = match state {
            Some(Err(_)) => return Err(Error::internal("restoring state has panicked")),
            Some(Ok(state)) => Some(state),
            None => None,
        };
        match state {
            Some(Ok(state)) => restored.push((index, PartitionView::new(transform.clone(), state, true))),
            Some(Err(error)) => {
                tracing::error!(%error, view = transform.def().name, "committed state cannot be read, building it again");
                missing.push(index);
            }
            None => missing.push(index),
        }
    }
    if !missing.is_empty() {
        let mut states: Vec<_> =
            missing.iter().map(|&index| (views[index].clone(), ViewState::new(views[index].plan().clone()))).collect();
        let files = load::row_files(edges.store.as_ref(), &recovered.manifest)?;
        let offsets = 0..recovered.base.next_offset;
        apply_archive(edges.archive.as_ref(), number, &files, offsets, &mut states, go_on)?;
        let built = states.into_iter().map(|(transform, state)| PartitionView::new(transform, state, false));
        restored.extend(missing.into_iter().zip(built));
    }
    restored.sort_by_key(|(index, _)| *index);
    Ok(restored.into_iter().map(|(_, view)| view).collect())
}

/// Reads on to exactly `target`. Returns what was read beyond it, or the position where the source ended before.
#[allow(clippy::too_many_arguments, reason = "each is another part of what is being opened")]
fn replay(
    partition: &mut Partition,
    setup: &SourceSetup,
    number: u32,
    reader: &mut dyn PartitionReader,
    target: u64,
    keep: bool,
    mut first: Option<SourceBatch>,
    opening: &Opening<'_>,
) -> Result<Result<Option<SourceBatch>, u64>> {
    let mut idle = 0;
    while partition.position() < target {
        if !(opening.go_on)() {
            return Err(Error::unavailable("read a source again", "it was asked to stop"));
        }
        let missing = usize::try_from(target - partition.position()).unwrap_or(usize::MAX);
        let batch = match first.take() {
            Some(batch) => batch,
            None => match reader.poll(missing.min(opening.batch_records))? {
                Polled::Batch(batch) => batch,
                // Records that are there may take their time.
                Polled::Idle if idle < IDLE_POLLS || setup.source.end(number)?.is_some_and(|end| end >= target) => {
                    idle += 1;
                    continue;
                }
                Polled::Idle | Polled::End => return Ok(Err(partition.position())),
            },
        };
        idle = 0;
        let (before, after) = split(batch, target);
        partition.step(before, keep);
        if after.is_some() {
            return Ok(Ok(after));
        }
    }
    Ok(Ok(first))
}

fn truncated(manifest: &Manifest, at: u64) -> Error {
    Error::invalid(format!(
        "source `{}` partition {} ends at offset {at}, but records up to {} were processed: it was truncated or replaced",
        manifest.source, manifest.partition, manifest.next_offset
    ))
}

fn unreadable(manifest: &Manifest, gap: Gap) -> Error {
    Error::invalid(format!(
        "source `{}` partition {}: the committed state is damaged, and the source no longer has the records {} to {} \
         to build it again",
        manifest.source, manifest.partition, gap.from, gap.to
    ))
}
