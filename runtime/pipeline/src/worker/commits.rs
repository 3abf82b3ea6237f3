//! Carrying out a partition's commits beside its loop, one at a time, trying again while the store is away.

use super::backoff;
use super::partition::Partition;
use crate::commit::{CommitPlan, Committer, Manifest, Tidy};
use crate::meter::SourceMeters;
use crate::port::PartitionReader;
use crate::{Error, Result, TRACE};
use crossbeam_channel::{Receiver, TryRecvError, bounded};
use plumb_core::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How commits are carried out.
#[derive(Debug, Clone, Copy)]
pub(super) struct CommitOptions {
    /// On a thread of their own.
    pub(super) aside: bool,
}

/// How often the last commit of a run is tried before its records are left to the next run.
const LAST_TRIES: u32 = 5;

/// Once there was nothing to commit for so many intervals, rows need not wait for others of their dates.
const IDLE_INTERVALS: u32 = 8;

type Done = (Box<Committer>, Option<Box<CommitPlan>>, Result<()>);

enum Stage {
    Idle(Box<Committer>),
    /// The answer comes when it is done; none, if it has panicked.
    Running(Receiver<Done>),
    /// Failed for now; to be tried again.
    Waiting(Box<Committer>, Option<Box<CommitPlan>>, Duration),
    /// Between two of the others, or after a failure that ends the partition.
    Gone,
}

/// The commits of one partition.
pub(super) struct Commits {
    stage: Stage,
    options: CommitOptions,
    snapshot: bool,
    /// State was changed by other things than records: there is something to commit.
    changed: bool,
    failures: u32,
    meters: Arc<SourceMeters>,
    /// What is to be done about small files after the commit.
    tidy: Tidy,
    /// Somebody waits: the tidying ends as soon as it can.
    hurry: Arc<AtomicBool>,
    /// Everything was merged that there is to merge.
    tidied: bool,
    /// So many times there was nothing to commit.
    idle: u32,
}

impl Commits {
    pub(super) fn new(
        committer: Box<Committer>,
        snapshot: bool,
        options: CommitOptions,
        meters: Arc<SourceMeters>,
    ) -> Self {
        let (tidy, hurry) = (Tidy::Nothing, Arc::default());
        Self {
            stage: Stage::Idle(committer),
            options,
            snapshot,
            changed: false,
            failures: 0,
            meters,
            tidy,
            hurry,
            tidied: false,
            idle: 0,
        }
    }

    /// Whether one is under way.
    pub(super) fn is_busy(&self) -> bool {
        !matches!(self.stage, Stage::Idle(_))
    }

    /// Whether the one that is under way has failed and waits to be tried again.
    pub(super) fn has_failed(&self) -> bool {
        matches!(self.stage, Stage::Waiting(..)) || self.failures > 0
    }

    /// Tries one that has failed again without waiting: there may not be much time.
    pub(super) fn retry_now(&mut self) {
        if let Stage::Waiting(_, _, at) = &mut self.stage {
            *at = Duration::ZERO;
        }
    }

    /// Makes the next commit bring all state, because the set of views has changed.
    pub(super) fn ask_snapshot(&mut self) {
        self.snapshot = true;
    }

    /// Makes the next commit bring what changed of state although no record may have come.
    pub(super) fn ask_changes(&mut self) {
        self.changed = true;
    }

    /// Whether everything that was asked for is committed.
    pub(super) fn is_settled(&self) -> bool {
        !self.changed && !self.is_busy()
    }

    /// The last manifest, while no commit is under way.
    pub(super) fn latest(&self) -> Option<&Manifest> {
        match &self.stage {
            Stage::Idle(committer) | Stage::Waiting(committer, ..) => Some(committer.latest()),
            Stage::Running(_) | Stage::Gone => None,
        }
    }

    /// Begins a commit if there is anything to commit; one must not be under way. Small files are merged after it
    /// as `tidy` says, all of them also where there was nothing to commit.
    pub(super) fn begin(
        &mut self,
        partition: &mut Partition,
        reader: &dyn PartitionReader,
        now: Duration,
        tidy: Tidy,
    ) -> Result<bool> {
        let Stage::Idle(committer) = &self.stage else {
            return Err(Error::internal("a commit is still under way"));
        };
        let nothing_new = partition.position() == committer.latest().next_offset && !self.snapshot && !self.changed;
        self.idle = if nothing_new { self.idle.saturating_add(1) } else { 0 };
        let idle = self.idle >= IDLE_INTERVALS && tidy == Tidy::Some && committer.may_wait();
        let tidy = if idle { Tidy::Idle } else { tidy };
        if nothing_new && tidy != Tidy::Idle && (tidy != Tidy::All || self.tidied) {
            return Ok(false);
        }
        let plan = if nothing_new {
            None
        } else {
            self.changed = false;
            let snapshot = std::mem::take(&mut self.snapshot) || committer.wants_snapshot();
            Some(Box::new(partition.plan(reader.memo(), snapshot)))
        };
        self.tidied = tidy == Tidy::All;
        self.tidy = tidy;
        self.hurry.store(tidy == Tidy::Nothing, Ordering::Relaxed);
        if let Stage::Idle(committer) = std::mem::replace(&mut self.stage, Stage::Gone) {
            self.carry_out(committer, plan, now)?;
        }
        Ok(true)
    }

    /// Commits, if there is a plan, and merges small files.
    fn carry_out(
        &mut self,
        mut committer: Box<Committer>,
        mut plan: Option<Box<CommitPlan>>,
        now: Duration,
    ) -> Result<()> {
        let (tidy, hurry) = (self.tidy, self.hurry.clone());
        let go_on = move || !hurry.load(Ordering::Relaxed);
        let meters = self.meters.clone();
        let commit = move |committer: &mut Committer, plan: &mut Option<Box<CommitPlan>>| match plan {
            Some(plan) => metered(committer, plan, &meters),
            None => Ok(()),
        };
        if self.options.aside {
            let (sender, receiver) = bounded(1);
            let run = move || {
                let result = commit(&mut committer, &mut plan).and_then(|()| match committer.tidy(tidy, &go_on) {
                    Err(error @ Error::Fenced { .. }) => Err(error),
                    // The commit itself is done; what was begun is finished before the next.
                    Err(error) => {
                        tracing::warn!(%error, "cannot merge small files");
                        Ok(())
                    }
                    Ok(()) => Ok(()),
                });
                // Nobody waits for it any more if the partition was let go of meanwhile.
                let _gone = sender.send((committer, plan, result));
            };
            let thread = std::thread::Builder::new().name("plumb-commit".into()).spawn(run);
            thread.map_err(|error| Error::unavailable("start a thread", error))?;
            self.stage = Stage::Running(receiver);
            return Ok(());
        }
        let result = commit(&mut committer, &mut plan).and_then(|()| committer.tidy(tidy, &go_on));
        self.done((committer, plan, result), now)
    }

    fn done(&mut self, (committer, plan, result): Done, now: Duration) -> Result<()> {
        match result {
            Ok(()) => {
                self.failures = 0;
                self.stage = Stage::Idle(committer);
                Ok(())
            }
            Err(error)
                if self.options.aside
                    && error.kind() == ErrorKind::Unavailable
                    && !matches!(error, Error::Fenced { .. }) =>
            {
                self.failures += 1;
                tracing::warn!(%error, failures = self.failures, "cannot commit, trying again");
                self.stage = Stage::Waiting(committer, plan, now + backoff(self.failures));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Notices the end of a commit, and tries one again that is due.
    pub(super) fn poll(&mut self, now: Duration) -> Result<()> {
        match std::mem::replace(&mut self.stage, Stage::Gone) {
            Stage::Running(receiver) => match receiver.try_recv() {
                Ok(done) => self.done(done, now),
                Err(TryRecvError::Empty) => {
                    self.stage = Stage::Running(receiver);
                    Ok(())
                }
                Err(TryRecvError::Disconnected) => Err(panicked()),
            },
            Stage::Waiting(committer, plan, at) if now >= at => self.carry_out(committer, plan, now),
            stage => {
                self.stage = stage;
                Ok(())
            }
        }
    }

    /// Ends the tidying after a commit as soon as it can.
    pub(super) fn hurry(&self) {
        self.hurry.store(true, Ordering::Relaxed);
    }

    /// Waits for the end of the one that is running.
    pub(super) fn wait(&mut self, now: Duration) -> Result<()> {
        self.hurry();
        match std::mem::replace(&mut self.stage, Stage::Gone) {
            Stage::Running(receiver) => self.done(receiver.recv().map_err(|_| panicked())?, now),
            stage => {
                self.stage = stage;
                Ok(())
            }
        }
    }

    /// Waits until none is under way, trying a failed one some more times.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.hurry();
        for _ in 0..LAST_TRIES {
            match std::mem::replace(&mut self.stage, Stage::Gone) {
                Stage::Idle(committer) => {
                    self.stage = Stage::Idle(committer);
                    return Ok(());
                }
                Stage::Running(receiver) => self.done(receiver.recv().map_err(|_| panicked())?, Duration::ZERO)?,
                Stage::Waiting(committer, plan, _) => {
                    self.carry_out(committer, plan, Duration::ZERO)?;
                    self.wait(Duration::ZERO)?;
                }
                Stage::Gone => return Err(Error::internal("the partition has ended with a failure")),
            }
        }
        match &self.stage {
            Stage::Idle(_) => Ok(()),
            _ => Err(Error::unavailable("commit", "the offline store cannot be reached")),
        }
    }
}

/// Carries a commit out and counts it.
fn metered(committer: &mut Committer, plan: &mut CommitPlan, meters: &SourceMeters) -> Result<()> {
    let (source, partition, offset) = (&plan.schema.source, committer.latest().partition, plan.next_offset);
    let span = tracing::info_span!(target: TRACE, "commit", source, partition, offset, bytes = tracing::field::Empty);
    let _entered = span.enter();
    let started = Instant::now();
    let result = committer.commit(plan);
    match &result {
        Ok(()) => {
            meters.commits.add_duration(started.elapsed());
            meters.commit_bytes.fetch_add(committer.written(), Ordering::Relaxed);
            span.record("bytes", committer.written());
        }
        Err(_) => {
            meters.commit_failures.fetch_add(1, Ordering::Relaxed);
        }
    }
    result
}

fn panicked() -> Error {
    Error::internal("a commit has panicked")
}
