//! The thread that a rebuild of state runs on: begun, looked at, asked to end.

use super::lock;
use super::report::{Materialize, MaterializePhase, MaterializeStatus, Materialized};
use crate::{Error, Result};
use plumb_core::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How far it is, for people.
#[derive(Debug, Default)]
pub(in crate::runtime) struct MaterializeProgress {
    /// Events read.
    pub read: AtomicU64,
    /// Of so many.
    pub total: AtomicU64,
    /// Set to end it.
    pub stop: AtomicBool,
}

/// What is said where one is under way.
pub(in crate::runtime) fn busy() -> Error {
    Error::invalid("state is being rebuilt already: wait for its end, or stop it")
}

/// One that runs or has run.
pub(in crate::runtime) struct Materializing {
    id: String,
    request: Materialize,
    progress: Arc<MaterializeProgress>,
    started: Instant,
    /// The end, and how long it took.
    ended: Arc<Mutex<Option<(MaterializePhase, Duration)>>>,
    thread: Option<JoinHandle<()>>,
}

impl Materializing {
    /// Runs `work` on a thread of its own.
    pub(in crate::runtime) fn begin(
        id: String,
        request: Materialize,
        work: impl FnOnce(&Materialize, &MaterializeProgress) -> Result<Materialized> + Send + 'static,
    ) -> Result<Self> {
        let (progress, ended) = (Arc::<MaterializeProgress>::default(), Arc::<Mutex<_>>::default());
        let started = Instant::now();
        let run = {
            let (request, progress, ended) = (request.clone(), progress.clone(), ended.clone());
            move || {
                let done = catch_unwind(AssertUnwindSafe(|| work(&request, &progress)))
                    .unwrap_or_else(|_| Err(Error::internal("rebuilding state has panicked")));
                let phase = match done {
                    Ok(done) => MaterializePhase::Done(done),
                    Err(error) => {
                        let stopped = progress.stop.load(Ordering::Relaxed);
                        tracing::warn!(%error, stopped, "state was not rebuilt to the end");
                        let unavailable = error.kind() == ErrorKind::Unavailable;
                        MaterializePhase::Failed { why: error.to_string(), stopped, unavailable }
                    }
                };
                *lock(&ended) = Some((phase, started.elapsed()));
            }
        };
        let thread = std::thread::Builder::new().name("plumb-materialize".into()).spawn(run);
        let thread = Some(thread.map_err(|error| Error::unavailable("start a thread", error))?);
        Ok(Self { id, request, progress, started, ended, thread })
    }

    pub(in crate::runtime) fn is_running(&self) -> bool {
        lock(&self.ended).is_none()
    }

    pub(in crate::runtime) fn status(&self) -> MaterializeStatus {
        let ended = lock(&self.ended).clone();
        let (phase, took) = ended.unwrap_or_else(|| (MaterializePhase::Running, self.started.elapsed()));
        MaterializeStatus {
            id: self.id.clone(),
            request: self.request.clone(),
            phase,
            read: self.progress.read.load(Ordering::Relaxed),
            total: self.progress.total.load(Ordering::Relaxed),
            seconds: took.as_secs_f64(),
        }
    }

    /// Asks it to end.
    pub(in crate::runtime) fn stop(&self) {
        self.progress.stop.store(true, Ordering::Relaxed);
    }

    /// The thread, to be waited for.
    pub(in crate::runtime) fn take_thread(&mut self) -> Option<JoinHandle<()>> {
        self.thread.take()
    }
}
