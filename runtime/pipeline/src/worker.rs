//! The partition loop: poll → accept → extract → state, publishing and committing at their intervals.
//!
//! A [`Worker`] drives a group of partitions on one thread. A round polls each partition once; between two
//! batches it publishes and commits what is due and carries out commands. A commit is planned between two
//! batches and carried out on a thread of its own while the partition goes on; there is one at a time, and a
//! partition whose buffer is full waits for it. Nothing here decides what a value is: that is the step
//! ([`partition`]); what an owner does first is [`open`]; state of a new view comes from [`build`].

pub mod build;
pub mod open;
pub mod partition;
pub mod publish;
pub mod status;

mod commits;

pub use open::{Edges, Opened, SourceSetup};
pub use partition::{Partition, PartitionView, view_ref};
pub use status::{Board, PartitionStatus, Pause, Phase, ViewStatus};

use crate::clock::Clock;
use crate::commit::{Manifest, load};
use crate::port::Polled;
use crate::{Error, Result};
use build::apply_archive;
use commits::{CommitOptions, Commits};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use open::{Opening, open};
use plumb_core::ErrorKind;
use plumb_core::plan::StateId;
use plumb_core::state::ViewState;
use plumb_transform::Transform;
use publish::{Published, Publisher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How a worker paces itself.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// How often what changed is published.
    pub publish_interval: Duration,
    /// How often it is published instead while a partition is behind its source, or the input is bounded:
    /// nobody can wait for a value that will change again at once, and publishing costs what ingesting does.
    pub catch_up_publish_interval: Duration,
    /// How often is committed at least, if anything happened.
    pub commit_interval: Duration,
    /// So much memory of accepted events makes a commit due at once.
    pub commit_bytes: u64,
    /// The most records per poll.
    pub batch_records: usize,
    /// Whether the input ends.
    pub bounded: bool,
    /// Whether commits are carried out beside the loop. Without, a step of a commit that fails is the loop's failure.
    pub commit_aside: bool,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self {
            publish_interval: Duration::from_millis(100),
            catch_up_publish_interval: Duration::from_secs(2),
            commit_interval: Duration::from_secs(30),
            commit_bytes: 128 << 20,
            batch_records: 1024,
            bounded: false,
            commit_aside: true,
        }
    }
}

/// What a running worker is asked to do, between two batches; each answer goes to `done`.
pub enum Command {
    /// Commit everything now.
    Commit {
        /// The answer of all partitions.
        done: Sender<Result<()>>,
    },
    /// Add a view to one partition: its state, built from the archive up to an offset, is brought up to now and
    /// published. The answer is the position from which on the view is applied live.
    AddView {
        /// The source.
        source: String,
        /// The partition.
        partition: u32,
        /// The view.
        view: Transform,
        /// Its state.
        state: Box<ViewState>,
        /// Up to where that is built.
        built_to: u64,
        /// The answer.
        done: Sender<Result<u64>>,
    },
    /// Remove a state from all partitions that have it.
    RemoveView {
        /// Which.
        state_id: StateId,
        /// The answer of all partitions.
        done: Sender<Result<()>>,
    },
    /// End at once as a crash would: nothing more is published or committed.
    Abandon,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Command::Commit { .. } => "Commit",
            Command::AddView { .. } => "AddView",
            Command::RemoveView { .. } => "RemoveView",
            Command::Abandon => "Abandon",
        })
    }
}

/// A partition in a worker's hands.
struct Lane {
    setup: SourceSetup,
    number: u32,
    partition: Partition,
    reader: Box<dyn crate::port::PartitionReader>,
    commits: Commits,
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
}

/// What a worker needs from outside.
#[derive(Clone)]
pub struct WorkerSetup {
    /// The edges.
    pub edges: Edges,
    /// Intervals.
    pub clock: Arc<dyn Clock>,
    /// Pace.
    pub options: WorkerOptions,
    /// Where the worker says how it is.
    pub board: Arc<Board>,
    /// Set to end the loop.
    pub stop: Arc<AtomicBool>,
}

impl std::fmt::Debug for WorkerSetup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerSetup").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Drives a group of partitions.
pub struct Worker {
    setup: WorkerSetup,
    lanes: Vec<Lane>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("partitions", &self.lanes.len()).finish_non_exhaustive()
    }
}

/// What a round of the loop found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// Some partition had records.
    Busy,
    /// None had; more may come.
    Idle,
    /// Every partition has ended, is published and committed.
    Ended,
}

impl Worker {
    /// Takes the partitions over, one after the other, each with the views of its source. `readable` is told as
    /// soon as a partition's views can be read.
    pub fn open(
        setup: WorkerSetup,
        partitions: &[(SourceSetup, u32)],
        views: &[Transform],
        readable: &dyn Fn(&str, u32),
    ) -> Result<Self> {
        let mut lanes = Vec::with_capacity(partitions.len());
        for (source, number) in partitions {
            let name = source.source.schema().source.clone();
            setup.board.phase(&name, *number, Phase::Starting);
            let of_source: Vec<Transform> = views.iter().filter(|view| view.def().source == name).cloned().collect();
            let mut told = false;
            let mut opening = Opening {
                batch_records: setup.options.batch_records,
                readable: &mut || {
                    if !std::mem::replace(&mut told, true) {
                        readable(&name, *number);
                    }
                },
                go_on: &|| !setup.stop.load(Ordering::Relaxed),
            };
            let opened = open(&setup.edges, source, *number, &of_source, &mut opening)?;
            let now = setup.clock.elapsed();
            let options = CommitOptions { aside: setup.options.commit_aside };
            let lane = Lane {
                setup: source.clone(),
                number: *number,
                partition: opened.partition,
                reader: opened.reader,
                commits: Commits::new(opened.committer, opened.snapshot, options),
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
            };
            lane.report(&setup, true);
            lanes.push(lane);
        }
        Ok(Self { setup, lanes })
    }

    /// Runs until it is stopped, then publishes and commits what is left.
    pub fn run(mut self, commands: &Receiver<Command>) -> Result<()> {
        while !self.setup.stop.load(Ordering::Relaxed) {
            let wait = match self.round()? {
                Round::Busy => Duration::ZERO,
                // A source waits itself for new records where it can; this only keeps one that cannot from spinning.
                Round::Idle => Duration::from_millis(2),
                Round::Ended => Duration::from_millis(50),
            };
            let command = match wait {
                Duration::ZERO => commands.try_recv().ok(),
                wait => match commands.recv_timeout(wait) {
                    Ok(command) => Some(command),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => break,
                },
            };
            match command {
                Some(Command::Abandon) => return Ok(()),
                Some(command) => self.carry_out(command)?,
                None => {}
            }
        }
        self.finish()
    }

    /// One batch of each partition, and what has become due.
    pub fn round(&mut self) -> Result<Round> {
        let mut round = Round::Ended;
        for lane in &mut self.lanes {
            let busy = lane.poll(&self.setup)?;
            lane.keep_up(&self.setup)?;
            match (busy, lane.finished) {
                (true, _) => round = Round::Busy,
                (false, false) if round == Round::Ended => round = Round::Idle,
                _ => {}
            }
        }
        Ok(round)
    }

    /// Publishes and commits everything.
    pub fn finish(mut self) -> Result<()> {
        for lane in &mut self.lanes {
            // What cannot be published is rebuilt from state by the next owner.
            if let Err(error) = lane.publish(&self.setup) {
                match error {
                    Error::Fenced { .. } => return Err(error),
                    error => tracing::warn!(%error, "cannot publish at the end"),
                }
            }
            lane.commit_now()?;
            lane.report(&self.setup, true);
        }
        Ok(())
    }

    fn carry_out(&mut self, command: Command) -> Result<()> {
        let setup = &self.setup;
        match command {
            Command::Commit { done } => {
                let committed = self.lanes.iter_mut().try_for_each(|lane| {
                    lane.commit_now()?;
                    lane.report(setup, true);
                    Ok(())
                });
                answer(&done, committed)
            }
            Command::AddView { source, partition, view, state, built_to, done } => {
                let lane = self
                    .lanes
                    .iter_mut()
                    .find(|lane| lane.number == partition && lane.setup.source.schema().source == source);
                let added = match lane {
                    Some(lane) => lane.add_view(setup, view, *state, built_to),
                    None => Err(Error::internal(format!("no partition {partition} of source `{source}` here"))),
                };
                answer(&done, added)
            }
            Command::RemoveView { state_id, done } => {
                let removed = self.lanes.iter_mut().try_for_each(|lane| match lane.partition.remove_view(state_id) {
                    Some(_) => {
                        // The next manifest no longer names the view. Should this process die before, the next owner
                        // finds it there and clears what is left of it.
                        lane.commits.ask_snapshot();
                        lane.report(setup, true);
                        lane.publisher.remove(state_id)
                    }
                    None => Ok(()),
                });
                answer(&done, removed)
            }
            // The loop has ended by then.
            Command::Abandon => Ok(()),
        }
    }
}

/// Sends the answer. A failure that another try may mend is the asker's alone; any other ends the worker too.
fn answer<T>(done: &Sender<Result<T>>, result: Result<T>) -> Result<()> {
    let fatal = match &result {
        Err(Error::Fenced { what, current, own }) => {
            Some(Error::Fenced { what: what.clone(), current: *current, own: *own })
        }
        _ => None,
    };
    // An asker that has gone away does not need the answer.
    let _gone = done.send(result);
    fatal.map_or(Ok(()), Err)
}

impl Lane {
    /// Reads and applies one batch; whether there was one.
    fn poll(&mut self, setup: &WorkerSetup) -> Result<bool> {
        if self.ended || self.is_full(setup) || setup.clock.elapsed() < self.retry_at {
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
                self.partition.step(batch, true);
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

    /// Whether the partition has to wait for a commit.
    fn is_full(&self, setup: &WorkerSetup) -> bool {
        self.commits.is_busy() && self.partition.uncommitted_bytes() >= setup.options.commit_bytes
    }

    /// Publishes and commits what is due.
    fn keep_up(&mut self, setup: &WorkerSetup) -> Result<()> {
        if self.finished {
            return Ok(());
        }
        let options = &setup.options;
        let now = setup.clock.elapsed();
        let interval = match (self.behind || options.bounded) && !self.ended {
            true => options.catch_up_publish_interval,
            false => options.publish_interval,
        };
        let publish_due = (self.ended && !self.deferred) || now.saturating_sub(self.published_at) >= interval;
        if (self.unpublished || self.lost) && publish_due {
            self.publish(setup)?;
            self.published_at = now;
            self.report(setup, false);
        }
        let full = self.partition.uncommitted_bytes() >= options.commit_bytes;
        if full && self.commits.is_busy() {
            self.commits.wait(now)?;
        }
        self.commits.poll(now)?;
        let due = full || self.ended || now.saturating_sub(self.committed_at) >= options.commit_interval;
        if due && !self.commits.is_busy() {
            self.committed_at = now;
            if self.commits.begin(&mut self.partition, self.reader.as_ref(), now)? {
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
        if !self.lost {
            match self.publisher.publish(&mut self.partition)? {
                Published::Yes => self.unpublished = false,
                Published::Deferred => self.deferred = true,
                Published::Lost => self.lost = true,
            }
        }
        if self.lost {
            let name = &self.setup.source.schema().source;
            setup.board.phase(name, self.number, Phase::Rebuilding);
            match self.publisher.rebuild(&mut self.partition) {
                Ok(()) => {
                    self.lost = false;
                    self.unpublished = false;
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

    /// Commits what there is and waits for it.
    fn commit_now(&mut self) -> Result<()> {
        self.commits.finish()?;
        self.commits.begin(&mut self.partition, self.reader.as_ref(), Duration::ZERO)?;
        self.commits.finish()
    }

    fn add_view(&mut self, setup: &WorkerSetup, view: Transform, state: ViewState, built_to: u64) -> Result<u64> {
        self.commit_now()?;
        self.publish(setup)?;
        if self.lost || self.unpublished {
            return Err(Error::unavailable("publish to the online store", "it cannot be reached"));
        }
        let position = self.partition.position();
        let manifest = self.committed()?;
        assert_eq!(manifest.next_offset, position, "everything applied has just been committed");
        let files = load::row_files(setup.edges.store.as_ref(), manifest)?;
        let mut states = [(view, state)];
        let go_on = || !setup.stop.load(Ordering::Relaxed);
        apply_archive(setup.edges.archive.as_ref(), self.number, &files, built_to..position, &mut states, &go_on)?;
        let [(view, state)] = states;
        let state_id = view.state_id();
        self.partition.add_view(PartitionView::new(view, state, false));
        // Named in a manifest first, so that whoever comes after a crash knows what to clear.
        self.commits.ask_snapshot();
        self.commit_now()?;
        let view = self.partition.views_mut().iter_mut().find(|view| view.transform.state_id() == state_id);
        let view = view.expect("the view has just been added");
        self.publisher.add(view)?;
        self.report(setup, true);
        Ok(position)
    }

    fn committed(&self) -> Result<&Manifest> {
        self.commits.latest().ok_or_else(|| Error::internal("a commit is still under way"))
    }

    /// Says how the partition is; with `state` also what its state takes, which costs time in proportion to it.
    fn report(&self, setup: &WorkerSetup, state: bool) {
        let phase = match (self.lost, self.finished) {
            (true, _) => Phase::Rebuilding,
            (false, true) => Phase::Ended,
            (false, false) => Phase::Live,
        };
        let now_us = setup.clock.now_us();
        setup.board.update(&self.setup.source.schema().source, self.number, |status| {
            status.phase = phase;
            status.position = self.partition.position();
            status.published = self.publisher.position();
            status.accounting = *self.partition.accounting();
            status.newest_event_time_us = self.partition.newest_us();
            status.uncommitted_bytes = self.partition.uncommitted_bytes();
            if let Some(manifest) = self.commits.latest() {
                if status.commit_seq != manifest.seq {
                    status.committed_at_us = Some(now_us);
                }
                status.commit_seq = manifest.seq;
                status.generation = manifest.generation;
                status.committed = manifest.next_offset;
            }
            status::update_views(&mut status.views, self.partition.views(), state);
        });
    }
}

/// 100 ms, doubling up to 5 s.
fn backoff(failures: u32) -> Duration {
    Duration::from_millis(100 << failures.saturating_sub(1).min(6)).min(Duration::from_secs(5))
}

#[cfg(test)]
mod tests;
