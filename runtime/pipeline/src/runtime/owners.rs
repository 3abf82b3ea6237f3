//! The partitions this process works on: opened beside those that run, handed to workers, let go of.
//!
//! A partition is opened on a thread of its own kind, because that takes as long as its state is large; the
//! workers go on meanwhile. The lane that comes of it is given to the worker with the fewest.

use crate::worker::{Command, Lane, SourceSetup, Ties, WorkerSetup};
use crate::{Error, Result};
use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, unbounded};
use plumb_core::ErrorKind;
use plumb_transform::Transform;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long an opening that could not reach a store waits before it tries again: at first, and at most.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How often it looks meanwhile whether it still should.
const RETRY_LOOK: Duration = Duration::from_millis(20);

type Key = (String, u32);
/// Told of a source and a partition.
type Readable = Box<dyn Fn(&str, u32) + Send + Sync>;

/// A partition of this process.
struct Slot {
    /// Nothing more is to be done for it.
    cancelled: Arc<AtomicBool>,
    /// The worker that has it; `None` while it is being opened.
    worker: Option<usize>,
}

/// A partition to be opened.
struct Task {
    source: SourceSetup,
    partition: u32,
    ties: Ties,
    /// Whether to go on trying while a store cannot be reached.
    patient: bool,
    cancelled: Arc<AtomicBool>,
    tenure: Tenure,
}

/// Holds a partition's place; dropped when nothing of it is left.
struct Tenure {
    owners: Weak<Owners>,
    key: Key,
}

impl Drop for Tenure {
    fn drop(&mut self) {
        if let Some(owners) = self.owners.upgrade() {
            owners.lock().remove(&self.key);
            owners.changed.notify_all();
        }
    }
}

/// The partitions of this process.
pub(super) struct Owners {
    setup: WorkerSetup,
    workers: Vec<Sender<Command>>,
    /// The views that partitions are opened with.
    wanted: ArcSwap<Vec<Transform>>,
    /// Told when a partition's views can be read.
    readable: Readable,
    slots: Mutex<BTreeMap<Key, Slot>>,
    changed: Condvar,
    /// `None` when nothing more is to be opened.
    tasks: Mutex<Option<Sender<Task>>>,
}

impl Owners {
    /// Starts `threads` openers that hand what they opened to `workers`.
    pub(super) fn start(
        setup: WorkerSetup,
        workers: Vec<Sender<Command>>,
        threads: usize,
        views: Vec<Transform>,
        readable: Readable,
    ) -> Result<(Arc<Self>, Vec<JoinHandle<()>>)> {
        let (sender, receiver) = unbounded();
        let owners = Arc::new(Self {
            setup,
            workers,
            wanted: ArcSwap::from_pointee(views),
            readable,
            slots: Mutex::default(),
            changed: Condvar::new(),
            tasks: Mutex::new(Some(sender)),
        });
        let mut openers = Vec::with_capacity(threads);
        for index in 0..threads {
            let (owners, receiver) = (owners.clone(), receiver.clone());
            let thread = std::thread::Builder::new()
                .name(format!("plumb-opener-{index}"))
                .spawn(move || owners.open_all(&receiver));
            openers.push(thread.map_err(|error| Error::unavailable("start a thread", error))?);
        }
        Ok((owners, openers))
    }

    /// The views that partitions should have.
    pub(super) fn wanted(&self) -> Arc<Vec<Transform>> {
        self.wanted.load_full()
    }

    /// Changes the views that partitions should have.
    pub(super) fn want(&self, views: Vec<Transform>) {
        self.wanted.store(Arc::new(views));
    }

    /// Begins to open a partition; it must not be here already.
    pub(super) fn open(self: &Arc<Self>, source: &SourceSetup, partition: u32, ties: Ties, patient: bool) {
        let cancelled = Arc::new(AtomicBool::new(false));
        let key = (source.source.schema().source.clone(), partition);
        self.lock().insert(key.clone(), Slot { cancelled: cancelled.clone(), worker: None });
        let tenure = Tenure { owners: Arc::downgrade(self), key };
        let task = Task { source: source.clone(), partition, ties, patient, cancelled, tenure };
        let sent = match &*self.tasks.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(tasks) => tasks.send(task).map_err(|refused| refused.0),
            None => Err(task),
        };
        // Nothing is opened any more: its place is free again.
        drop(sent);
    }

    /// Nothing more is opened: the openers end.
    pub(super) fn close(&self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Publishes and commits a partition and lets go of it; see [`Owners::has`].
    pub(super) fn release(&self, source: &str, partition: u32) {
        self.end(source, partition, Command::Release { source: source.to_owned(), partition });
    }

    /// Lets go of a partition without another write.
    pub(super) fn drop_now(&self, source: &str, partition: u32) {
        self.end(source, partition, Command::Drop { source: source.to_owned(), partition });
    }

    fn end(&self, source: &str, partition: u32, command: Command) {
        let slots = self.lock();
        let Some(slot) = slots.get(&(source.to_owned(), partition)) else { return };
        slot.cancelled.store(true, Ordering::Relaxed);
        if let Some(worker) = slot.worker.and_then(|index| self.workers.get(index)) {
            // A worker that has ended has let go of everything.
            let _ended = worker.send(command);
        }
    }

    /// Whether something may still be written for a partition.
    pub(super) fn has(&self, source: &str, partition: u32) -> bool {
        self.lock().contains_key(&(source.to_owned(), partition))
    }

    /// The partitions of a source that are here.
    pub(super) fn of(&self, source: &str) -> Vec<u32> {
        self.lock().keys().filter(|(of, _)| of == source).map(|(_, partition)| *partition).collect()
    }

    /// The worker of a partition, once it is opened; `None` if it is not here (any more).
    pub(super) fn worker(&self, source: &str, partition: u32) -> Option<Sender<Command>> {
        let key = (source.to_owned(), partition);
        let mut slots = self.lock();
        loop {
            match slots.get(&key)?.worker {
                Some(index) => return self.workers.get(index).cloned(),
                None => slots = self.changed.wait(slots).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn open_all(self: Arc<Self>, tasks: &Receiver<Task>) {
        while let Ok(task) = tasks.recv() {
            let (board, stop) = (self.setup.board.clone(), self.setup.stop.clone());
            let failure = match catch_unwind(AssertUnwindSafe(|| self.open_one(task))) {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error,
                Err(_) => Error::internal("opening a partition has panicked"),
            };
            tracing::info!(error = %failure, "a partition could not be opened");
            board.fail(failure);
            stop.store(true, Ordering::Relaxed);
        }
    }

    fn open_one(&self, task: Task) -> Result<()> {
        let Task { source, partition, ties, patient, cancelled, tenure } = task;
        let name = source.source.schema().source.clone();
        let go_on = || !self.setup.is_stopped() && !cancelled.load(Ordering::Relaxed);
        let mut wait = RETRY_FIRST;
        while go_on() {
            let views: Vec<Transform> =
                self.wanted.load().iter().filter(|view| view.def().source == name).cloned().collect();
            let mut readable = || (self.readable)(&name, partition);
            match Lane::open(&self.setup, &source, partition, &views, &mut readable, &go_on) {
                Ok(lane) => {
                    self.place(lane, &cancelled, Ties { tenure: Some(Box::new(tenure)), ..ties });
                    return Ok(());
                }
                // Whatever it was: nobody waits for it.
                Err(_) if !go_on() => break,
                Err(error)
                    if patient && error.kind() == ErrorKind::Unavailable && !matches!(error, Error::Fenced { .. }) =>
                {
                    tracing::warn!(source = name, partition, %error, "cannot take a partition over, trying again");
                    let until = std::time::Instant::now() + wait;
                    while go_on() && std::time::Instant::now() < until {
                        std::thread::sleep(RETRY_LOOK);
                    }
                    wait = (2 * wait).min(RETRY_MAX);
                }
                Err(error) => return Err(error),
            }
        }
        self.setup.board.remove(&name, partition);
        drop(tenure);
        Ok(())
    }

    /// Gives a lane to the worker with the fewest.
    fn place(&self, lane: Lane, cancelled: &AtomicBool, ties: Ties) {
        let key = (lane.source().to_owned(), lane.number());
        let mut lanes = vec![0; self.workers.len()];
        let mut slots = self.lock();
        slots.values().filter_map(|slot| slot.worker).for_each(|index| lanes[index] += 1);
        let fewest = lanes.iter().enumerate().min_by_key(|(_, lanes)| **lanes).map(|(index, _)| index);
        let slot = slots.get_mut(&key).filter(|_| !cancelled.load(Ordering::Relaxed));
        // Whatever is dropped here is so after the lock: the lane's end takes it again.
        let unwanted = match (slot, fewest) {
            (Some(slot), Some(index)) => {
                slot.worker = fewest;
                let take = Command::Take(Box::new(lane.tied(ties)));
                self.workers[index].send(take).err().map(|refused| refused.0)
            }
            _ => Some(Command::Take(Box::new(lane.tied(ties)))),
        };
        drop(slots);
        if unwanted.is_some() {
            self.setup.board.remove(&key.0, key.1);
        }
        drop(unwanted);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Slot>> {
        // A map is whole between two calls.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
