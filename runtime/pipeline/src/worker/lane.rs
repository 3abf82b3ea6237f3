//! A partition in a worker's hands: polled, published and committed as it becomes due, until it is left.

mod replace;
mod views;

pub use replace::{Difference, Replaced};

use super::commits::{CommitOptions, Commits};
use super::open::{Opening, SourceSetup, open};
use super::partition::{Partition, PartitionView};
use super::proof::{self, Proof, Pulse};
use super::publish::{Published, Publisher};
use super::status::{self, Pause, Phase, Uncommitted};
use super::{WorkerSetup, backoff};
use crate::commit::{Manifest, Tidy};
use crate::meter::{SourceMeters, Unread};
use crate::port::{PartitionReader, Polled};
use crate::{Error, Result, TRACE};
use crossbeam_channel::Sender;
use plumb_core::ErrorKind;
use plumb_core::plan::StateId;
use plumb_transform::Transform;
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

/// So many commit intervals at most let rows gather.
const GATHER_INTERVALS: u32 = 10;
/// How often a remote online store is looked at while there is nothing to publish.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// So many changed keys (a few fields each) are published at once to a remote store: one publish stays short for those
/// who read meanwhile.
const PUBLISH_KEYS: usize = 6_000;
/// So much may wait for an online store that is away. The first publish after that brings all of it at once.
const MAX_BACKLOG: usize = 60_000;

/// A partition in a worker's hands.
pub struct Lane {
    setup: SourceSetup,
    number: u32,
    pub(super) partition: Partition,
    reader: Box<dyn PartitionReader>,
    pub(super) commits: Commits,
    publisher: Publisher,
    published_at: Duration,
    committed_at: Duration,
    /// Something was applied since the last publish.
    unpublished: bool,
    /// The last try to publish has failed; the next one waits for its interval.
    deferred: bool,
    /// The online store has to be rebuilt.
    lost: bool,
    /// The last poll was full: more is waiting.
    behind: bool,
    ended: bool,
    /// Ended, published and committed.
    finished: bool,
    failures: u32,
    retry_at: Duration,
    /// The last commit that the board and whoever listens were told of.
    told: Option<u64>,
    leaving: Option<Leaving>,
    ties: Ties,
    meters: Arc<SourceMeters>,
    unread: Unread,
    proof: Proof,
    /// When the online store was last looked at.
    heard_at: Duration,
    /// How often in a row it could not be reached.
    away: u32,
    uncommitted: Uncommitted,
    /// States that are not complete in the online store.
    unmarked: Vec<StateId>,
    /// States whose mark that they are complete was taken away for a change that is not committed yet.
    unmarked_by_change: Vec<StateId>,
    /// Bytes of the commit that is under way.
    committing: u64,
    /// The bound that keeps it from being read, and when that was last said.
    paused: Option<(Pause, Duration)>,
}

/// What ties a lane to whoever gave it to the worker.
#[derive(Default)]
pub struct Ties {
    /// Told of what is committed: partition and next offset.
    pub committed: Option<Sender<(u32, u64)>>,
    /// Beats as long as the group of processes is asked.
    pub pulse: Option<Arc<Pulse>>,
    /// Dropped when nothing more is written for the partition.
    pub tenure: Option<Box<dyn Any + Send>>,
}

impl std::fmt::Debug for Ties {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ties").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").field("source", &self.source()).field("partition", &self.number).finish_non_exhaustive()
    }
}

/// A view that a partition should have and does not.
pub struct Missing {
    /// The source.
    pub source: String,
    /// The partition.
    pub partition: u32,
    /// The view.
    pub view: Transform,
}

impl std::fmt::Debug for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Missing").field("source", &self.source).field("partition", &self.partition).finish()
    }
}

/// A lane on its way out.
#[derive(Debug, Clone, Copy)]
struct Leaving {
    /// Until when.
    deadline: Duration,
    /// What is applied was sent to the online store, once: the next owner does what is missing.
    published: bool,
}

/// How far a lane that leaves is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Something is still to be written.
    NotYet,
    /// Everything applied is committed.
    Committed,
    /// The time is up; what is not committed will be read again.
    Abandoned,
}

impl Lane {
    /// Takes a partition over with these views, all of its source. `readable` is called as soon as they can be read;
    /// the opening ends with an error once `go_on` says no.
    pub fn open(
        setup: &WorkerSetup,
        source: &SourceSetup,
        number: u32,
        views: &[Transform],
        readable: &mut dyn FnMut(),
        go_on: &dyn Fn() -> bool,
    ) -> Result<Self> {
        setup.board.phase(&source.source.schema().source, number, Phase::Starting);
        let mut told = false;
        let mut readable = || {
            if !std::mem::replace(&mut told, true) {
                readable();
            }
        };
        let meters = setup.board.meters().of(&source.source.schema().source);
        let batch_records = setup.options.batch_records;
        let mut opening = Opening { batch_records, meters: meters.clone(), readable: &mut readable, go_on };
        let mut opened = open(&setup.edges, source, number, views, &mut opening)?;
        opened.committer.keep_for(setup.options.keep);
        if !setup.options.merge_files {
            opened.committer.without_merges();
        }
        let now = setup.clock.elapsed();
        let options = CommitOptions { aside: setup.options.commit_aside };
        let lane = Self {
            setup: source.clone(),
            number,
            partition: opened.partition,
            reader: opened.reader,
            commits: Commits::new(opened.committer, opened.snapshot, options, meters.clone()),
            publisher: opened.publisher,
            published_at: now,
            committed_at: now,
            unpublished: opened.unpublished,
            deferred: false,
            lost: false,
            behind: false,
            ended: false,
            finished: false,
            failures: 0,
            retry_at: Duration::ZERO,
            told: None,
            leaving: None,
            ties: Ties::default(),
            meters,
            proof: Proof::new(setup.clock.as_ref()),
            heard_at: now,
            away: 0,
            uncommitted: setup.board.uncommitted(),
            committing: 0,
            unmarked: Vec::new(),
            unmarked_by_change: Vec::new(),
            unread: Unread::default(),
            paused: None,
        };
        Ok(lane)
    }

    /// Ties the lane to whoever gives it to a worker.
    pub fn tied(mut self, ties: Ties) -> Self {
        self.ties = ties;
        self
    }

    /// The name of its source.
    pub fn source(&self) -> &str {
        &self.setup.source.schema().source
    }

    /// Its partition.
    pub fn number(&self) -> u32 {
        self.number
    }

    pub(super) fn is(&self, source: &str, number: u32) -> bool {
        self.number == number && self.source() == source
    }

    /// Whether it was read to its end, published and committed.
    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// Whether the online store could not be reached the last time.
    pub(super) fn is_deferred(&self) -> bool {
        self.deferred
    }

    /// Reads and applies one batch; whether there was one.
    pub(super) fn poll(&mut self, setup: &WorkerSetup) -> Result<bool> {
        if self.ended || self.leaving.is_some() || self.is_paused(setup)? || setup.clock.elapsed() < self.retry_at {
            return Ok(false);
        }
        let polled = match self.reader.poll(setup.options.batch_records) {
            Ok(polled) => polled,
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                self.failures += 1;
                self.retry_at = setup.clock.elapsed() + backoff(self.failures);
                tracing::warn!(%error, "cannot read the source, trying again");
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        self.failures = 0;
        match polled {
            Polled::Batch(batch) => {
                self.behind = batch.events.len() + batch.rejected.len() >= setup.options.batch_records;
                self.unread.note(&batch.events.record_times_us);
                let (source, partition) = (&self.setup.source.schema().source, self.number);
                let (offset, records) = (self.partition.position(), batch.events.len() + batch.rejected.len());
                tracing::info_span!(target: TRACE, "batch", source, partition, offset, records)
                    .in_scope(|| self.partition.step(batch, true));
                self.unpublished = true;
                Ok(true)
            }
            Polled::Idle => {
                self.behind = false;
                Ok(false)
            }
            Polled::End => {
                self.ended = true;
                Ok(false)
            }
        }
    }

    /// Whether a bound keeps the partition from being read. Nothing is dropped at a bound: what is not read yet stays
    /// in the source.
    fn is_paused(&mut self, setup: &WorkerSetup) -> Result<bool> {
        let bound = match () {
            () if self.is_full(setup) => Some(Pause::Uncommitted),
            () if (self.deferred || self.lost) && self.backlog() >= MAX_BACKLOG => Some(Pause::Online),
            () if setup.board.state_bytes() >= setup.options.max_state_bytes => Some(Pause::State),
            () => None,
        };
        if bound.is_none() && self.paused.is_none() {
            return Ok(false);
        }
        let before = self.paused.map(|(pause, _)| pause);
        let now = setup.clock.elapsed();
        let said = self.paused.filter(|_| before == bound).map(|(_, said)| said);
        let say = said.is_none_or(|said| now.saturating_sub(said) >= status::SAY_AGAIN);
        self.paused = bound.map(|pause| (pause, said.filter(|_| !say).unwrap_or(now)));
        if before != bound {
            setup.board.update(self.source(), self.number, |status| status.paused = bound);
        }
        if bound == Some(Pause::State) && say {
            let why = setup.board.state_words(setup.options.max_state_bytes);
            if setup.options.bounded {
                // Nobody would be there to make room.
                return Err(Error::invalid(why));
            }
            tracing::warn!(source = self.source(), partition = self.number, "paused: {why}");
        }
        if before == Some(Pause::State) && bound != before {
            tracing::info!(source = self.source(), partition = self.number, "there is room for state again");
        }
        Ok(bound.is_some())
    }

    /// Whether the partition has to wait for a commit.
    fn is_full(&self, setup: &WorkerSetup) -> bool {
        // A store that is away is no reason to stop before the bound of all.
        let going_on = self.commits.is_busy() && !self.commits.has_failed();
        (going_on && self.partition.uncommitted_bytes() >= setup.options.commit_bytes)
            || setup.board.uncommitted_bytes() >= setup.options.max_uncommitted_bytes
    }

    /// What waits for the online store: keys and fields.
    fn backlog(&self) -> usize {
        self.publisher.kept() + self.partition.unpublished_keys()
    }

    fn count_uncommitted(&mut self) {
        if !self.commits.is_busy() {
            self.committing = 0;
        }
        self.uncommitted.set(self.partition.uncommitted_bytes() + self.committing);
    }

    /// Begins a commit if there is anything to commit.
    fn begin_commit(&mut self, setup: &WorkerSetup, now: Duration, tidy: Tidy) -> Result<bool> {
        self.proof.begin(setup.clock.as_ref());
        self.committing = self.partition.uncommitted_bytes();
        let begun = self.commits.begin(&mut self.partition, self.reader.as_ref(), now, tidy)?;
        self.count_uncommitted();
        Ok(begun)
    }

    /// Publishes and commits what is due.
    pub(super) fn keep_up(&mut self, setup: &WorkerSetup) -> Result<()> {
        if self.finished {
            return Ok(());
        }
        let options = &setup.options;
        let now = setup.clock.elapsed();
        let interval = match (self.behind || options.bounded) && !self.ended {
            true => options.catch_up_publish_interval,
            false => options.publish_interval,
        };
        // One that is away is tried less and less often, because each try may take its time.
        let interval = if self.away > 0 { interval.max(backoff(self.away)) } else { interval };
        let remote = setup.edges.online.is_remote();
        let many = remote && self.away == 0 && self.partition.unpublished_keys() >= PUBLISH_KEYS;
        let publish_due = (self.ended && !self.deferred) || many || now.saturating_sub(self.published_at) >= interval;
        if (self.unpublished || self.lost) && publish_due {
            self.publish(setup)?;
            self.published_at = now;
            self.report(setup, false);
        } else if remote
            && !self.unpublished
            && !self.lost
            && now.saturating_sub(self.heard_at) >= HEARTBEAT.max(backoff(self.away))
        {
            self.heartbeat(setup)?;
        }
        self.commits.poll(now)?;
        self.count_uncommitted();
        match self.mark_again() {
            Err(error) if error.kind() == ErrorKind::Unavailable && !matches!(error, Error::Fenced { .. }) => {
                tracing::warn!(%error, "cannot say yet that a state is complete, trying again");
            }
            marked => marked?,
        }
        if self.tell() {
            // Where nothing more comes, nobody else would say what is committed now.
            self.report(setup, false);
        }
        let all = setup.board.uncommitted_bytes() >= options.max_uncommitted_bytes;
        let waiting = self.partition.uncommitted_bytes();
        let full = waiting >= options.commit_bytes || (all && waiting > 0);
        let since = now.saturating_sub(self.committed_at);
        // Where files stay as they are written, rows are let gather until they are worth it, while more can be read.
        let small = !options.merge_files && self.partition.is_small();
        let gathers = self.behind && small && since < options.commit_interval * GATHER_INTERVALS;
        let due = full || self.ended || (since >= options.commit_interval && !gathers);
        if due && !self.commits.is_busy() {
            self.committed_at = now;
            let tidy = if self.ended { Tidy::All } else { Tidy::Some };
            if self.begin_commit(setup, now, tidy)? {
                self.report(setup, true);
            } else if self.ended && !self.unpublished && !self.lost {
                self.finished = true;
                self.report(setup, true);
            }
        }
        Ok(())
    }

    fn publish(&mut self, setup: &WorkerSetup) -> Result<()> {
        self.deferred = false;
        let held = self.publish_or_rebuild(setup);
        self.heard_at = setup.clock.elapsed();
        self.away = if self.deferred { self.away + 1 } else { 0 };
        held
    }

    /// Notices a store that was emptied or taken over while there is nothing to publish.
    fn heartbeat(&mut self, setup: &WorkerSetup) -> Result<()> {
        let heard = self.publisher.heartbeat()?;
        self.heard_at = setup.clock.elapsed();
        match heard {
            Published::Yes => self.away = 0,
            Published::Deferred => {
                self.away += 1;
                self.deferred = true;
            }
            Published::Lost => {
                self.lost = true;
                self.publish(setup)?;
                self.report(setup, false);
            }
        }
        Ok(())
    }

    /// Whether this process may write for the partition, as far as anybody can tell.
    fn is_ours(&mut self, setup: &WorkerSetup) -> Result<bool> {
        if !setup.edges.online.is_remote() {
            return Ok(true);
        }
        let (source, generation) = (&self.setup.source.schema().source, self.publisher.generation());
        self.proof.holds(setup, self.ties.pulse.as_deref(), source, self.number, generation)
    }

    fn publish_or_rebuild(&mut self, setup: &WorkerSetup) -> Result<()> {
        if !self.lost && !self.is_ours(setup)? {
            self.deferred = true;
            return Ok(());
        }
        if !self.lost {
            match self.publisher.publish(&mut self.partition)? {
                Published::Yes => self.now_readable(setup),
                Published::Deferred => self.deferred = true,
                Published::Lost => self.lost = true,
            }
        }
        // Whoever has the partition next rebuilds it. What was changed by other things than records has to be committed
        // first: after a crash there would be another state than the one that is shown as complete.
        if self.lost && !self.unmarked_by_change.is_empty() && !self.commits.is_settled() {
            self.deferred = true;
        } else if self.lost && self.leaving.is_none() {
            setup.board.phase(self.source(), self.number, Phase::Rebuilding);
            // A store that was emptied has forgotten its fences: the chain says whose the partition is.
            let generation = self.publisher.generation();
            let rebuilt = proof::look(setup, &self.setup.source.schema().source, self.number, generation)
                .and_then(|()| self.publisher.claim_again())
                .and_then(|()| self.publisher.rebuild(&mut self.partition));
            match rebuilt {
                Ok(()) => {
                    self.lost = false;
                    self.unmarked.clear();
                    self.unmarked_by_change.clear();
                    self.now_readable(setup);
                }
                Err(error) if error.kind() == ErrorKind::Unavailable && !matches!(error, Error::Fenced { .. }) => {
                    tracing::warn!(%error, "cannot rebuild the online store, trying again");
                    self.deferred = true;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn now_readable(&mut self, setup: &WorkerSetup) {
        self.unpublished = false;
        self.unread.readable(setup.clock.now_us(), &self.meters);
    }

    /// Commits what there is and waits for it.
    pub(super) fn commit_now(&mut self, setup: &WorkerSetup) -> Result<()> {
        self.commits.finish()?;
        self.tell();
        self.begin_commit(setup, Duration::ZERO, Tidy::Nothing)?;
        self.commits.finish()?;
        self.count_uncommitted();
        self.tell();
        Ok(())
    }

    /// Stops reading: from now on [`Lane::leave`] is to be called until it is done, which it is at `deadline`.
    pub(super) fn begin_leaving(&mut self, deadline: Duration) {
        self.commits.retry_now();
        let deadline = self.leaving.map_or(deadline, |leaving| leaving.deadline.min(deadline));
        self.leaving = Some(Leaving { deadline, published: self.leaving.is_some_and(|leaving| leaving.published) });
    }

    /// Goes on committing what was applied; waits for nothing.
    pub(super) fn leave(&mut self, setup: &WorkerSetup) -> Result<Left> {
        let now = setup.clock.elapsed();
        self.commits.poll(now)?;
        let idle = !self.commits.is_busy();
        self.commits.hurry();
        self.tell();
        let begun = idle && self.begin_commit(setup, now, Tidy::Nothing)?;
        match (idle && !begun, self.leaving.is_some_and(|leaving| now >= leaving.deadline)) {
            (true, _) => Ok(Left::Committed),
            (false, true) => Ok(Left::Abandoned),
            (false, false) => Ok(Left::NotYet),
        }
    }

    /// Publishes what was applied, if there is still time. Tried once: what cannot be published is done by the next
    /// owner.
    pub(super) fn publish_last(&mut self, setup: &WorkerSetup) -> Result<()> {
        let Some(leaving) = self.leaving else { return Ok(()) };
        if leaving.published || setup.clock.elapsed() >= leaving.deadline {
            return Ok(());
        }
        self.leaving = Some(Leaving { published: true, ..leaving });
        match self.unpublished && !self.lost {
            true => self.publish(setup),
            false => Ok(()),
        }
    }

    fn committed(&self) -> Result<&Manifest> {
        self.commits.latest().ok_or_else(|| Error::internal("a commit is still under way"))
    }

    /// Tells whoever listens of a commit that is done; whether there was one.
    fn tell(&mut self) -> bool {
        if self.commits.is_busy() {
            return false;
        }
        let Some(manifest) = self.commits.latest() else { return false };
        if self.told == Some(manifest.seq) {
            return false;
        }
        self.told = Some(manifest.seq);
        self.proof.committed();
        if let Some(listener) = &self.ties.committed {
            // One that has ended needs no news.
            let _gone = listener.send((self.number, manifest.next_offset));
        }
        true
    }

    /// Says how the partition is; with `state` also what its state takes, which costs time in proportion to it.
    pub(super) fn report(&self, setup: &WorkerSetup, state: bool) {
        let phase = match (self.lost, self.finished) {
            (true, _) => Phase::Rebuilding,
            (false, true) => Phase::Ended,
            (false, false) => Phase::Live,
        };
        let now_us = setup.clock.now_us();
        setup.board.update(self.source(), self.number, |status| {
            status.phase = phase;
            status.position = self.partition.position();
            status.published = self.publisher.position();
            status.accounting = *self.partition.accounting();
            status.newest_event_time_us = self.partition.newest_us();
            status.uncommitted_bytes = self.partition.uncommitted_bytes();
            status.remembered_ids = self.partition.remembered_ids() as u64;
            status.dead_letters.clone_from(self.partition.letter_counts());
            if let Some(manifest) = self.commits.latest() {
                if status.commit_seq != manifest.seq {
                    status.committed_at_us = Some(now_us);
                }
                status.commit_seq = manifest.seq;
                status.generation = manifest.generation;
                status.committed = manifest.next_offset;
                status.gap_records = manifest.gaps.iter().map(|gap| gap.to - gap.from).sum();
            }
            let hot_key = setup.options.hot_key;
            status::update_views(&mut status.views, self.partition.views(), state.then_some(hot_key));
        });
        if state {
            setup.board.measured(setup.clock.elapsed(), setup.options.hot_key);
        }
    }
}
