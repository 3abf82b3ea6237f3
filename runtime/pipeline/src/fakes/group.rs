//! A group of processes in memory: the test says who works on what.

use crate::port::{Change, Membership};
use crate::{Error, Result};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a test sees of a member of the group.
#[derive(Debug, Clone)]
pub(crate) struct Seat {
    changes: Sender<Change>,
    pub(crate) committed: Arc<Mutex<BTreeMap<u32, u64>>>,
    pub(crate) left: Arc<AtomicBool>,
}

/// The member's side.
pub(crate) struct FakeMembership {
    changes: Receiver<Change>,
    committed: Arc<Mutex<BTreeMap<u32, u64>>>,
    left: Arc<AtomicBool>,
}

/// A place in a group, and who is to take it.
pub(crate) fn seat() -> (Seat, FakeMembership) {
    let (sender, receiver) = unbounded();
    let (committed, left): (Arc<Mutex<BTreeMap<u32, u64>>>, Arc<AtomicBool>) = Default::default();
    let seat = Seat { changes: sender, committed: committed.clone(), left: left.clone() };
    (seat, FakeMembership { changes: receiver, committed, left })
}

impl Seat {
    pub(crate) fn assign(&self, partitions: &[u32]) {
        // A process that has ended is assigned nothing any more.
        let _ended = self.changes.send(Change::Assigned(partitions.to_vec()));
    }

    /// Takes partitions away; the answer comes when they are free (or the process has ended).
    pub(crate) fn revoke(&self, partitions: &[u32]) -> Receiver<()> {
        let (released, answer) = unbounded();
        let _ended = self.changes.send(Change::Revoked { partitions: partitions.to_vec(), released });
        answer
    }

    pub(crate) fn lose(&self, partitions: &[u32]) {
        let _ended = self.changes.send(Change::Lost(partitions.to_vec()));
    }
}

impl Membership for FakeMembership {
    fn next(&mut self, timeout: Duration) -> Result<Option<Change>> {
        match self.changes.recv_timeout(timeout) {
            Ok(change) => Ok(Some(change)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Error::internal("the test has let go of a seat")),
        }
    }

    fn note_committed(&mut self, partition: u32, next_offset: u64) {
        self.committed.lock().unwrap().insert(partition, next_offset);
    }

    fn leave(self: Box<Self>) -> Result<()> {
        self.left.store(true, Ordering::SeqCst);
        Ok(())
    }
}
