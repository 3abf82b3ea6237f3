//! The partition loop: poll → accept → extract → state, publishing and committing at their intervals.
//!
//! A [`Worker`] drives a group of partitions on one thread. A round polls each partition once; between two
//! batches it publishes and commits what is due and carries out commands. A commit is planned between two
//! batches and carried out on a thread of its own while the partition goes on; there is one at a time, and a
//! partition whose buffer is full waits for it. Nothing here decides what a value is: that is the step
//! ([`partition`]); what an owner does first is [`open`]; state of a new view comes from [`build`].

pub mod build;
pub mod lane;
pub mod open;
pub mod partition;
pub mod publish;
pub mod status;

mod commits;
mod proof;

pub use build::{Members, Rebuilt};
pub use lane::{Difference, Lane, Missing, Replaced, Ties};
pub use open::{Edges, Opened, SourceSetup};
pub use partition::{LETTER_BYTES_MAX, Partition, PartitionView, view_ref};
pub use proof::Pulse;
pub use status::{Board, PartitionStatus, Pause, Phase, ViewStatus};

use crate::clock::Clock;
use crate::commit::collect::KEEP;
use crate::{Error, Result};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use lane::Left;
use plumb_core::entity::EntityKey;
use plumb_core::plan::StateId;
use plumb_core::state::ViewState;
use plumb_transform::Transform;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long the end of a job waits before it looks again whether the last commits are done.
const LEAVE_WAIT: Duration = Duration::from_millis(1);

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
    /// So much memory of accepted events, of all partitions together, may wait for commits: then reading waits too. A
    /// store that is away for longer than it takes to come to that costs no more memory.
    pub max_uncommitted_bytes: u64,
    /// The most records per poll.
    pub batch_records: usize,
    /// At so many bytes of live state in this process no more is read.
    pub max_state_bytes: u64,
    /// A key with more raw contributions than this is hot.
    pub hot_key: u64,
    /// Whether the input ends.
    pub bounded: bool,
    /// How long a partition that is let go of, or the end of the job, may take to be published and committed.
    pub leave_within: Duration,
    /// How long the offline store keeps what nothing refers to any more.
    pub keep: Duration,
    /// Whether small row files are merged. Without, rows are let gather for longer while there is more to read, as
    /// files stay as they are written.
    pub merge_files: bool,
    /// How long the state of a view that was replaced is kept in a job that several processes share: others may answer
    /// from it a little longer.
    pub keep_replaced: Duration,
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
            max_uncommitted_bytes: 1 << 30,
            batch_records: 1024,
            max_state_bytes: u64::MAX,
            hot_key: 10_000,
            bounded: false,
            leave_within: Duration::from_secs(8),
            keep_replaced: Duration::from_secs(10),
            keep: KEEP,
            merge_files: true,
            commit_aside: true,
        }
    }
}

/// What a running worker is asked to do, between two batches; each answer goes to `done`.
pub enum Command {
    /// Work on a partition from now on.
    Take(Box<Lane>),
    /// Publish and commit a partition and let go of it, in the time of [`WorkerOptions::leave_within`].
    Release {
        /// The source.
        source: String,
        /// The partition.
        partition: u32,
    },
    /// Let go of a partition at once, without another write.
    Drop {
        /// The source.
        source: String,
        /// The partition.
        partition: u32,
    },
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
    /// Put the state of these keys, as rebuilt from the archive, in the place of what the partition holds of them, in
    /// memory, in its commits and in the online store. What was built comes back with the answer.
    Replace {
        /// The source.
        source: String,
        /// The partition.
        partition: u32,
        /// The state of these keys and maybe of more.
        rebuilt: Box<Rebuilt>,
        /// Some of them.
        keys: Vec<EntityKey>,
        /// Whether these are the last ones: then also what belongs to no key alone.
        last: bool,
        /// The answer.
        done: Sender<(Box<Rebuilt>, Result<Replaced>)>,
    },
    /// Let the partitions have these views, each those of its source: states of others are removed, what is missing of
    /// them is the answer (nothing at all from a worker that has ended).
    Reconcile {
        /// The views.
        wanted: Arc<Vec<Transform>>,
        /// The answer of all partitions.
        done: Sender<Vec<Missing>>,
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
            Command::Take(_) => "Take",
            Command::Release { .. } => "Release",
            Command::Drop { .. } => "Drop",
            Command::Commit { .. } => "Commit",
            Command::AddView { .. } => "AddView",
            Command::Replace { .. } => "Replace",
            Command::Reconcile { .. } => "Reconcile",
            Command::RemoveView { .. } => "RemoveView",
            Command::Abandon => "Abandon",
        })
    }
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

impl WorkerSetup {
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
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
    /// A worker without partitions; it is given them by commands.
    pub fn new(setup: WorkerSetup) -> Self {
        Self { setup, lanes: Vec::new() }
    }

    /// Takes the partitions over, one after the other, each with the views of its source. `readable` is told as
    /// soon as a partition's views can be read.
    pub fn open(
        setup: WorkerSetup,
        partitions: &[(SourceSetup, u32)],
        views: &[Transform],
        readable: &dyn Fn(&str, u32),
    ) -> Result<Self> {
        let mut worker = Self::new(setup);
        for (source, number) in partitions {
            let name = &source.source.schema().source;
            let of_source: Vec<Transform> = views.iter().filter(|view| view.def().source == *name).cloned().collect();
            let go_on = || !worker.setup.is_stopped();
            let mut readable = || readable(name, *number);
            let lane = Lane::open(&worker.setup, source, *number, &of_source, &mut readable, &go_on)?;
            lane.report(&worker.setup, true);
            worker.lanes.push(lane);
        }
        Ok(worker)
    }

    /// Runs until it is stopped, then publishes and commits what is left.
    pub fn run(mut self, commands: &Receiver<Command>) -> Result<()> {
        while !self.setup.is_stopped() {
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
        for command in commands.try_iter() {
            match command {
                Command::Abandon => return Ok(()),
                // Something of it may be applied already.
                Command::Take(lane) => self.lanes.push(*lane),
                // Whoever asked finds that the job has ended.
                _ => {}
            }
        }
        self.finish()
    }

    /// One batch of each partition, and what has become due.
    pub fn round(&mut self) -> Result<Round> {
        let mut round = Round::Ended;
        for lane in self.lanes.iter_mut().filter(|lane| !lane.is_leaving()) {
            let busy = lane.poll(&self.setup)?;
            lane.keep_up(&self.setup)?;
            match (busy, lane.is_finished()) {
                (true, _) => round = Round::Busy,
                (false, false) if round == Round::Ended => round = Round::Idle,
                _ => {}
            }
        }
        if self.lanes.iter().any(Lane::is_leaving) {
            self.let_go();
            return Ok(if round == Round::Ended { Round::Idle } else { round });
        }
        Ok(round)
    }

    /// Goes on with the lanes that leave. Whatever goes wrong with one is not this process's concern any more: what
    /// it has not written, the next owner does.
    fn let_go(&mut self) {
        let setup = &self.setup;
        self.lanes.retain_mut(|lane| {
            if !lane.is_leaving() {
                return true;
            }
            let (source, partition) = (lane.source().to_owned(), lane.number());
            let keep = match lane.leave(setup).and_then(|left| lane.publish_last(setup).map(|()| left)) {
                Ok(Left::NotYet) => return true,
                Ok(Left::Committed) => {
                    tracing::info!(source, partition, "partition released");
                    false
                }
                Ok(Left::Abandoned) => {
                    tracing::warn!(source, partition, "partition released with records that are not committed");
                    false
                }
                Err(error) => {
                    if matches!(error, Error::Fenced { .. }) {
                        setup.board.meters().fence_rejections.fetch_add(1, Ordering::Relaxed);
                    }
                    tracing::warn!(source, partition, %error, "partition released before everything was written");
                    false
                }
            };
            setup.board.remove(&source, partition);
            keep
        });
    }

    /// Publishes and commits everything, within the time for it.
    pub fn finish(mut self) -> Result<()> {
        let setup = &self.setup;
        let deadline = setup.clock.elapsed() + setup.options.leave_within;
        // The commits of all run side by side.
        for lane in &mut self.lanes {
            lane.begin_leaving(deadline);
            lane.leave(setup)?;
        }
        for lane in &mut self.lanes {
            match lane.publish_last(setup) {
                // A store that cannot be reached is not waited for once per partition.
                Ok(()) if lane.is_deferred() => break,
                Ok(()) => {}
                Err(error @ Error::Fenced { .. }) => return Err(error),
                // What cannot be published is rebuilt from state by the next owner.
                Err(error) => tracing::warn!(%error, "cannot publish at the end"),
            }
        }
        loop {
            let mut waiting = false;
            for lane in &mut self.lanes {
                match lane.leave(setup)? {
                    Left::NotYet => waiting = true,
                    Left::Committed => lane.report(setup, true),
                    Left::Abandoned => {
                        let what = format!("commit partition {} of source `{}`", lane.number(), lane.source());
                        return Err(Error::unavailable(what, "the offline store could not be reached in time"));
                    }
                }
            }
            if !waiting {
                return Ok(());
            }
            std::thread::sleep(LEAVE_WAIT);
        }
    }

    fn carry_out(&mut self, command: Command) -> Result<()> {
        let setup = &self.setup;
        match command {
            Command::Take(lane) => {
                lane.report(setup, true);
                self.lanes.push(*lane);
                Ok(())
            }
            Command::Release { source, partition } => {
                let deadline = setup.clock.elapsed() + setup.options.leave_within;
                self.lanes
                    .iter_mut()
                    .filter(|lane| lane.is(&source, partition))
                    .for_each(|lane| lane.begin_leaving(deadline));
                Ok(())
            }
            Command::Drop { source, partition } => {
                // In this order: once the lane is gone, the partition may come again and say how it is.
                setup.board.remove(&source, partition);
                self.lanes.retain(|lane| !lane.is(&source, partition));
                Ok(())
            }
            Command::Commit { done } => {
                let committed = self.lanes.iter_mut().try_for_each(|lane| {
                    lane.commit_now(setup)?;
                    lane.report(setup, true);
                    Ok(())
                });
                answer(&done, committed)
            }
            Command::AddView { source, partition, view, state, built_to, done } => {
                let added = match self.lanes.iter_mut().find(|lane| lane.is(&source, partition)) {
                    Some(lane) => lane.add_view(setup, view, *state, built_to),
                    None => Err(Error::internal(format!("no partition {partition} of source `{source}` here"))),
                };
                answer(&done, added)
            }
            Command::Replace { source, partition, mut rebuilt, keys, last, done } => {
                let lane = self.lanes.iter_mut().find(|lane| lane.is(&source, partition) && !lane.is_leaving());
                let replaced = match lane {
                    Some(lane) => lane.replace(setup, &mut rebuilt, &keys, last),
                    None => Err(Error::unavailable(
                        format!("work on partition {partition} of source `{source}`"),
                        "it is not here any more",
                    )),
                };
                let fatal = fatal(&replaced);
                // Whoever asked may have ended.
                let _gone = done.send((rebuilt, replaced));
                fatal.map_or(Ok(()), Err)
            }
            Command::Reconcile { wanted, done } => {
                let mut missing = Vec::new();
                for lane in self.lanes.iter_mut().filter(|lane| !lane.is_leaving()) {
                    missing.extend(lane.reconcile(setup, &wanted)?);
                }
                // Whoever asked may have ended.
                let _gone = done.send(missing);
                Ok(())
            }
            Command::RemoveView { state_id, done } => {
                let removed = self.lanes.iter_mut().try_for_each(|lane| lane.remove_view(setup, state_id));
                answer(&done, removed)
            }
            // The loop has ended by then.
            Command::Abandon => Ok(()),
        }
    }
}

/// Sends the answer. A failure that another try may mend is the asker's alone; any other ends the worker too.
fn answer<T>(done: &Sender<Result<T>>, result: Result<T>) -> Result<()> {
    let fatal = fatal(&result);
    // An asker that has gone away does not need the answer.
    let _gone = done.send(result);
    fatal.map_or(Ok(()), Err)
}

fn fatal<T>(result: &Result<T>) -> Option<Error> {
    match result {
        Err(Error::Fenced { what, current, own }) => {
            Some(Error::Fenced { what: what.clone(), current: *current, own: *own })
        }
        _ => None,
    }
}

/// 100 ms, doubling up to 5 s.
fn backoff(failures: u32) -> Duration {
    Duration::from_millis(100 << failures.saturating_sub(1).min(6)).min(Duration::from_secs(5))
}

#[cfg(test)]
mod tests;
