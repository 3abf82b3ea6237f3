//! This process as one of those that share a source's partitions: follows what it is to work on.

use super::owners::Owners;
use crate::clock::Clock;
use crate::port::{Change, Membership};
use crate::worker::{Board, Pulse, SourceSetup, Ties};
use crate::{Error, Result};
use crossbeam_channel::{Receiver, Sender, unbounded};
use plumb_core::ErrorKind;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long the source is asked for a change at a time.
const ASK: Duration = Duration::from_millis(100);
/// The same while somebody waits for partitions to be released.
const ASK_RELEASING: Duration = Duration::from_millis(5);
/// How long partitions may take to be released. Then others get them all the same: nothing is written for them any
/// more, or what is gets refused.
const RELEASE_WITHIN: Duration = Duration::from_secs(10);

/// What is committed: partition and next offset.
type News = (Sender<(u32, u64)>, Receiver<(u32, u64)>);

/// Partitions that others wait for.
struct Releasing {
    partitions: Vec<u32>,
    released: Sender<()>,
    until: Instant,
}

/// What follows a membership.
pub(super) struct Member {
    source: SourceSetup,
    name: String,
    owners: Arc<Owners>,
    board: Arc<Board>,
    /// Set when the job ends.
    stop: Arc<AtomicBool>,
    /// Set when it ends like a crash.
    abandoned: Arc<AtomicBool>,
    /// Assigned.
    own: BTreeSet<u32>,
    /// Assigned, and not begun yet because something of an earlier time is not gone.
    waiting: BTreeSet<u32>,
    releasing: Vec<Releasing>,
    committed: News,
    pulse: Arc<Pulse>,
    clock: Arc<dyn Clock>,
}

impl Member {
    pub(super) fn new(
        source: SourceSetup,
        owners: Arc<Owners>,
        board: Arc<Board>,
        stop: Arc<AtomicBool>,
        abandoned: Arc<AtomicBool>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let name = source.source.schema().source.clone();
        let (own, waiting, releasing) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        let (committed, pulse) = (unbounded(), Arc::default());
        Self { source, name, owners, board, stop, abandoned, own, waiting, releasing, committed, pulse, clock }
    }

    /// Follows the membership until the job has ended, then leaves.
    pub(super) fn run(mut self, mut membership: Box<dyn Membership>) -> Result<()> {
        let mut ending: Option<Instant> = None;
        loop {
            let busy = !self.releasing.is_empty() || !self.waiting.is_empty() || ending.is_some();
            let change = match membership.next(if busy { ASK_RELEASING } else { ASK }) {
                Ok(change) => {
                    self.pulse.beat(self.clock.as_ref());
                    change
                }
                Err(error) if error.kind() == ErrorKind::Unavailable && !matches!(error, Error::Fenced { .. }) => {
                    tracing::warn!(source = self.name, %error, "cannot follow the group of processes, trying again");
                    std::thread::sleep(ASK);
                    None
                }
                Err(error) => return Err(error),
            };
            if self.abandoned.load(Ordering::Relaxed) {
                return Ok(());
            }
            if let Some(change) = change {
                self.follow(change);
            }
            // Before anybody is told that a partition is free, so that the last word on it is this one.
            let releasable = self.releasable();
            self.committed.1.try_iter().for_each(|(partition, offset)| membership.note_committed(partition, offset));
            self.tell_released(&releasable);
            if self.stop.load(Ordering::Relaxed) {
                let until = *ending.get_or_insert_with(|| Instant::now() + RELEASE_WITHIN);
                if self.owners.of(&self.name).is_empty() || Instant::now() >= until {
                    self.committed.1.try_iter().for_each(|(partition, at)| membership.note_committed(partition, at));
                    let all = vec![true; self.releasing.len()];
                    self.tell_released(&all);
                    return membership.leave();
                }
                continue;
            }
            self.begin_waiting();
        }
    }

    fn follow(&mut self, change: Change) {
        match change {
            Change::Assigned(mut partitions) => {
                // Told again of one it has, a member goes on with it.
                partitions.retain(|&partition| self.own.insert(partition));
                tracing::info!(source = self.name, ?partitions, "partitions assigned");
                for &partition in &partitions {
                    self.board.phase(&self.name, partition, crate::worker::Phase::Starting);
                }
                self.waiting.extend(partitions);
            }
            Change::Revoked { partitions, released } => {
                tracing::info!(source = self.name, ?partitions, "partitions revoked");
                for &partition in &partitions {
                    self.forget(partition);
                    self.owners.release(&self.name, partition);
                }
                let until = Instant::now() + RELEASE_WITHIN;
                self.releasing.push(Releasing { partitions, released, until });
            }
            Change::Lost(partitions) => {
                tracing::warn!(source = self.name, ?partitions, "partitions lost to other processes");
                for &partition in &partitions {
                    self.forget(partition);
                    self.owners.drop_now(&self.name, partition);
                }
            }
        }
        self.board.joined(&self.name);
    }

    /// A partition is not this process's any more, and not begun if it waits to be.
    fn forget(&mut self, partition: u32) {
        self.own.remove(&partition);
        if self.waiting.remove(&partition) {
            self.board.remove(&self.name, partition);
        }
    }

    fn begin_waiting(&mut self) {
        let free: Vec<u32> =
            self.waiting.iter().copied().filter(|&partition| !self.owners.has(&self.name, partition)).collect();
        for partition in free {
            self.waiting.remove(&partition);
            let (committed, pulse) = (Some(self.committed.0.clone()), Some(self.pulse.clone()));
            self.owners.open(&self.source, partition, Ties { committed, pulse, tenure: None }, true);
        }
    }

    /// Of each group of partitions that others wait for, whether they may have it.
    fn releasable(&self) -> Vec<bool> {
        let now = Instant::now();
        let of_group = |group: &Releasing| {
            let late = now >= group.until;
            for &partition in group.partitions.iter().filter(|_| late) {
                tracing::warn!(source = self.name, partition, "partition not released in time, abandoning it");
                self.owners.drop_now(&self.name, partition);
            }
            late || group.partitions.iter().all(|&partition| !self.owners.has(&self.name, partition))
        };
        self.releasing.iter().map(of_group).collect()
    }

    fn tell_released(&mut self, releasable: &[bool]) {
        let mut index = 0;
        self.releasing.retain(|group| {
            let releasable = releasable.get(index).copied().unwrap_or_default();
            index += 1;
            if releasable {
                // A source that has gone on without waiting needs no news.
                let _gone = group.released.send(());
            }
            !releasable
        });
    }
}
