//! The running job: workers on threads, the set of active views, deployments while it runs.
//!
//! [`Runtime::start`] takes the ports, loads the views that the job manifest names and those it is given, and
//! starts the workers. The set of active views is swapped whole, so a request sees one set or the other. A
//! deployment builds the new view's state beside the running job, adds it to each partition between two
//! batches, writes the job manifest, and only then lets it answer; whatever fails before that changes nothing.

mod active;
mod deploy;
mod materialize;
mod member;
mod owners;
mod roster;
mod views;
mod watch;

pub use materialize::shared::MaterializeShared;
pub use materialize::{FirstChanged, Materialize, MaterializePhase, MaterializeStatus, Materialized, MaterializedView};
pub use roster::Roster;
pub use views::{ActiveView, Deployed, Deployment, Loader, Readiness};

use crate::clock::Clock;
use crate::commit::{ActiveRef, JobChain, JobManifest, put_component, read_component};
use crate::port::{Archive, Membership, ObjectStore, OnlineStore, Source};
use crate::snapshots::{SnapshotSetup, Snapshots};
use crate::worker::{
    Board, Command, Edges, PartitionStatus, Phase, SourceSetup, Ties, Worker, WorkerOptions, WorkerSetup, view_ref,
};
use crate::{Error, Result};
use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use deploy::SharedJob;
use materialize::{Materializer, Materializing};
use member::Member;
use owners::Owners;
use plumb_core::plan::StateId;
use plumb_core::state::ViewState;
use plumb_transform::Transform;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use watch::Watch;

/// How often and how long a deployment waits for requests that still answer from the set of views before: far
/// longer than a request may take. One that holds it even longer finds that its view is not ready any more.
const SET_WAITS: u32 = 1000;
const SET_WAIT: Duration = Duration::from_millis(10);

/// How long a process may take to follow what it has changed itself.
const FOLLOW_WITHIN: Duration = Duration::from_secs(30);
/// What the end of the threads may take beyond the time for the last commits.
const END_SLACK: Duration = Duration::from_secs(1);

/// What a runtime is made of.
#[derive(Clone)]
pub struct RuntimeParts {
    /// The sources, each with what it accepts; names are unique.
    pub sources: Vec<SourceSetup>,
    /// The online store.
    pub online: Arc<dyn OnlineStore>,
    /// Where commits go.
    pub store: Arc<dyn ObjectStore>,
    /// Where events go.
    pub archive: Arc<dyn Archive>,
    /// Loads components.
    pub loader: Arc<dyn Loader>,
    /// Intervals and labels.
    pub clock: Arc<dyn Clock>,
    /// Snapshots to make of what is committed, if any.
    pub snapshots: Option<SnapshotSetup>,
}

impl std::fmt::Debug for RuntimeParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RuntimeParts").field("sources", &self.sources).finish_non_exhaustive()
    }
}

/// Settings of a runtime.
#[derive(Debug, Clone)]
pub struct RuntimeOptions {
    /// How workers pace themselves.
    pub worker: WorkerOptions,
    /// The most worker threads; partitions are spread over them.
    pub threads: usize,
    /// Whether a component given at the start may replace another one of the same name and version.
    pub replace: bool,
}

impl Default for RuntimeOptions {
    /// A thread per core.
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { worker: WorkerOptions::default(), threads, replace: false }
    }
}

/// How the job is.
#[derive(Debug, Clone, serde::Serialize)]
pub struct RuntimeStatus {
    /// Every partition.
    pub partitions: Vec<PartitionStatus>,
    /// Why it stopped, if it did.
    pub failure: Option<String>,
}

/// A running job. Dropping it stops it like [`Runtime::stop`], without telling how that went.
pub struct Runtime {
    parts: RuntimeParts,
    threads: usize,
    roster: Arc<Roster>,
    owners: Arc<Owners>,
    commands: Vec<Sender<Command>>,
    workers: Vec<JoinHandle<()>>,
    /// Openers, and what follows the sources that are shared.
    helpers: Vec<JoinHandle<()>>,
    /// How long the threads may take to end.
    end_within: Duration,
    board: Arc<Board>,
    stop: Arc<AtomicBool>,
    /// Set to end like a crash.
    abandoned: Arc<AtomicBool>,
    active: Arc<ArcSwap<Vec<ActiveView>>>,
    /// Held over a deployment, so that there is one at a time; in a job that is shared, only over its changes.
    job: Arc<Mutex<JobChain>>,
    /// Whether other processes work on the job too.
    shared: bool,
    /// The last rebuild of state, which may be running.
    materializing: Mutex<Option<Materializing>>,
    /// In a job that is shared: asks all processes to.
    asking: Option<MaterializeShared>,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("roster", &self.roster).finish_non_exhaustive()
    }
}

impl Runtime {
    /// Starts a job with the views that its job manifest names and those of `components`: a view that is new is
    /// added, a newer version replaces an older one, an older one is left where it is. Returns when the workers
    /// are started; see [`Runtime::wait_live`].
    pub fn start(parts: RuntimeParts, options: RuntimeOptions, components: &[Vec<u8>]) -> Result<Self> {
        let mut partitions = BTreeMap::new();
        for setup in &parts.sources {
            let name = setup.source.schema().source.clone();
            if partitions.insert(name.clone(), setup.source.partitions()?).is_some() {
                return Err(Error::invalid(format!("two sources are named `{name}`")));
            }
        }
        let board = Arc::new(Board::default());
        let stop = Arc::new(AtomicBool::new(false));
        let mut memberships = Vec::new();
        let mut shared: BTreeMap<String, Arc<dyn Source>> = BTreeMap::new();
        for source in &parts.sources {
            let name = &source.source.schema().source;
            match source.source.join()? {
                Some(membership) => {
                    board.joining(name);
                    memberships.push((source.clone(), membership));
                    shared.insert(name.clone(), source.source.clone());
                }
                None => partitions[name].iter().for_each(|&number| board.phase(name, number, Phase::Starting)),
            }
        }
        let job = Arc::new(Mutex::new(JobChain::open(parts.store.clone())?));
        let shared_job = SharedJob { parts: parts.clone(), chain: job.clone() };
        let views = match shared.is_empty() {
            true => views::reconcile(&parts, &mut shared_job.lock(), components, &partitions, options.replace)?,
            false => views::reconcile_shared(&shared_job, components, &partitions, options.replace)?,
        };
        if let Some(snapshots) = &parts.snapshots {
            snapshots.check(&views)?;
        }
        // A view is ready when each partition's state of it is in the online store: as this process has put it there, or,
        // of a source that is shared, as the store itself says.
        let waiting = |view: &Transform| match shared.contains_key(&view.def().source) {
            true => 1,
            false => partitions.get(&view.def().source).map_or(0, Vec::len),
        };
        let of = |view: &Transform| ActiveView {
            transform: view.clone(),
            ready: Arc::new(Readiness::waiting_for(waiting(view))),
        };
        let active = Arc::new(ArcSwap::from_pointee(views.iter().map(of).collect::<Vec<_>>()));
        let setup = WorkerSetup {
            edges: Edges {
                store: parts.store.clone(),
                archive: parts.archive.clone(),
                online: parts.online.clone(),
                owner: owner_mark().into(),
            },
            clock: parts.clock.clone(),
            options: options.worker.clone(),
            board: board.clone(),
            stop: stop.clone(),
        };
        let threads = options.threads.min(partitions.values().map(Vec::len).sum()).max(1);
        let (mut commands, mut workers) = (Vec::new(), Vec::new());
        for index in 0..threads {
            let (sender, receiver) = unbounded();
            commands.push(sender);
            workers.push(spawn_worker(index, setup.clone(), receiver)?);
        }
        let readable = {
            let (active, shared) = (active.clone(), shared.keys().cloned().collect::<Vec<_>>());
            move |source: &str, _: u32| {
                let active = active.load();
                let of_source = active.iter().filter(|view: &&ActiveView| view.transform.def().source == source);
                of_source.filter(|_| !shared.iter().any(|name| name == source)).for_each(|view| view.ready.one_less());
            }
        };
        // Of a shared source the stores say which partitions count.
        let fixed = |name: &String| if shared.contains_key(name) { Vec::new() } else { partitions[name].clone() };
        let roster = Arc::new(Roster::new(partitions.keys().map(|name| (name.clone(), fixed(name))).collect()));
        let (owners, helpers) = Owners::start(setup, commands.clone(), threads, views, Box::new(readable))?;
        let watch = (!shared.is_empty()).then(|| {
            let (sources, keep) = (shared.values().cloned().collect(), options.worker.keep_replaced);
            Watch::new(shared_job, sources, owners.clone(), active.clone(), roster.clone(), stop.clone(), keep)
        });
        let mut runtime = Self {
            threads: options.threads.max(1),
            end_within: options.worker.leave_within + END_SLACK,
            roster,
            owners,
            commands,
            workers,
            helpers,
            board,
            stop,
            abandoned: Arc::new(AtomicBool::new(false)),
            active,
            job,
            shared: watch.is_some(),
            materializing: Mutex::default(),
            asking: watch.is_some().then(|| MaterializeShared::new(parts.store.clone())),
            parts,
        };
        runtime.begin(memberships, &partitions, watch)?;
        runtime.begin_snapshots(options.worker.bounded)?;
        Ok(runtime)
    }

    /// Starts the thread that makes snapshots.
    fn begin_snapshots(&mut self, bounded: bool) -> Result<()> {
        let Some(setup) = self.parts.snapshots.clone() else { return Ok(()) };
        self.board.set_finishing(bounded);
        let snapshots = Snapshots {
            setup,
            sources: self.parts.sources.clone(),
            store: self.parts.store.clone(),
            archive: self.parts.archive.clone(),
            active: self.active.clone(),
            board: self.board.clone(),
            clock: self.parts.clock.clone(),
            bounded,
            stop: self.stop.clone(),
        };
        let thread = std::thread::Builder::new().name("plumb-snapshots".into()).spawn(move || snapshots.run());
        self.helpers.push(thread.map_err(|error| Error::unavailable("start a thread", error))?);
        Ok(())
    }

    /// Opens the partitions that are this process's alone, and follows the sources that say which are.
    fn begin(
        &mut self,
        memberships: Vec<(SourceSetup, Box<dyn Membership>)>,
        partitions: &BTreeMap<String, Vec<u32>>,
        watch: Option<Watch>,
    ) -> Result<()> {
        let shared: Vec<String> = memberships.iter().map(|(source, _)| source.source.schema().source.clone()).collect();
        for source in &self.parts.sources {
            let name = &source.source.schema().source;
            if !shared.contains(name) {
                partitions[name].iter().for_each(|&number| self.owners.open(source, number, Ties::default(), false));
            }
        }
        if memberships.is_empty() {
            self.owners.close();
        }
        if let Some(watch) = watch {
            let board = self.board.clone();
            let run = move || {
                if catch_unwind(AssertUnwindSafe(|| watch.run())).is_err() {
                    board.fail(Error::internal("watching the stores has panicked"));
                }
            };
            let thread = std::thread::Builder::new().name("plumb-watch".into()).spawn(run);
            self.helpers.push(thread.map_err(|error| Error::unavailable("start a thread", error))?);
            let (parts, owners, workers) = (self.parts.clone(), self.owners.clone(), self.commands.clone());
            let (board, stop) = (self.board.clone(), self.stop.clone());
            let run = move || {
                let whole = AssertUnwindSafe(|| deploy::reconcile(&parts, &owners, &workers, &stop));
                if catch_unwind(whole).is_err() {
                    board.fail(Error::internal("building state has panicked"));
                }
            };
            let thread = std::thread::Builder::new().name("plumb-views".into()).spawn(run);
            self.helpers.push(thread.map_err(|error| Error::unavailable("start a thread", error))?);
            let (materializer, active, job) = (self.materializer(), self.active.clone(), self.shared_job());
            let (board, stop) = (self.board.clone(), self.stop.clone());
            let run = move || {
                let whole = AssertUnwindSafe(|| materialize::shared::follow(&materializer, &job, &active, &stop));
                if catch_unwind(whole).is_err() {
                    board.fail(Error::internal("rebuilding state has panicked"));
                }
            };
            let thread = std::thread::Builder::new().name("plumb-materialize".into()).spawn(run);
            self.helpers.push(thread.map_err(|error| Error::unavailable("start a thread", error))?);
        }
        for (source, membership) in memberships {
            let (board, stop) = (self.board.clone(), self.stop.clone());
            let member = Member::new(
                source,
                self.owners.clone(),
                board.clone(),
                stop.clone(),
                self.abandoned.clone(),
                self.parts.clock.clone(),
            );
            let run = move || {
                let failure = match catch_unwind(AssertUnwindSafe(|| member.run(membership))) {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => error,
                    Err(_) => Error::internal("following the group of processes has panicked"),
                };
                if stop.load(Ordering::Relaxed) {
                    // The others learn that this process is gone when its session is over.
                    tracing::warn!(error = %failure, "cannot leave the group of processes in good order");
                } else {
                    board.fail(failure);
                    stop.store(true, Ordering::Relaxed);
                }
            };
            let thread = std::thread::Builder::new().name("plumb-member".into()).spawn(run);
            self.helpers.push(thread.map_err(|error| Error::unavailable("start a thread", error))?);
        }
        Ok(())
    }

    /// The partitions that answers are made of.
    pub fn roster(&self) -> Arc<Roster> {
        self.roster.clone()
    }

    /// The views that answer, in order of name.
    pub fn active_views(&self) -> Arc<Vec<ActiveView>> {
        self.active.load_full()
    }

    /// The set of active views itself, for readers that outlive a borrow of the runtime.
    pub fn active_handle(&self) -> Arc<ArcSwap<Vec<ActiveView>>> {
        self.active.clone()
    }

    /// How the job is.
    pub fn status(&self) -> RuntimeStatus {
        RuntimeStatus { partitions: self.board.partitions(), failure: self.board.failure() }
    }

    /// The board the workers report to, for readers that outlive a borrow of the runtime.
    pub fn board(&self) -> Arc<Board> {
        self.board.clone()
    }

    /// The last job manifest: active and retired versions.
    pub fn job(&self) -> JobManifest {
        self.lock_job().latest().clone()
    }

    /// Waits until every partition follows its source; the error that stopped a worker if one did.
    pub fn wait_live(&self) -> Result<()> {
        self.board.wait(|phase| matches!(phase, Phase::Live | Phase::Rebuilding | Phase::Ended))
    }

    /// Whether every partition has been read to its end, published and committed, and the snapshots of it are made.
    pub fn has_ended(&self) -> bool {
        self.board.has_ended()
    }

    /// Waits until every partition has been read to its end, published and committed, and the snapshots of it are made:
    /// for bounded input.
    pub fn wait_ended(&self) -> Result<()> {
        self.board.wait_ended()
    }

    /// Waits until answers from the online store hold every record of a source below `position` (next offsets by
    /// partition), so that who has appended records can read what they did. The error that stopped a worker if one did.
    pub fn wait_published(&self, source: &str, position: &BTreeMap<u32, u64>) -> Result<()> {
        self.board.wait_published(source, position)
    }

    /// Publishes nothing new but commits everything applied so far, and waits for it.
    pub fn commit_now(&self) -> Result<()> {
        self.everywhere(|done| Command::Commit { done })
    }

    /// Begins to rebuild state from the archive, beside everything else; see [`Runtime::materializing`]. There is one at
    /// a time.
    pub fn materialize(&self, request: Materialize) -> Result<MaterializeStatus> {
        request.check()?;
        if let Some(asking) = &self.asking {
            return asking.begin(request);
        }
        let mut held = self.lock_materializing();
        if held.as_ref().is_some_and(Materializing::is_running) {
            return Err(materialize::busy());
        }
        let materializer = self.materializer();
        let (active, commands) = (self.active.clone(), self.commands.clone());
        let id = owner_mark();
        let begun = Materializing::begin(id, request, move |request, progress| {
            // What was accepted before is in the archive then.
            everywhere(&commands, |done| Command::Commit { done })?;
            let views = active.load_full();
            let partitions = materializer.partitions();
            materializer.run(&views, &partitions, request, progress)
        })?;
        let status = begun.status();
        *held = Some(begun);
        Ok(status)
    }

    fn materializer(&self) -> Materializer {
        Materializer {
            parts: self.parts.clone(),
            owners: self.owners.clone(),
            roster: self.roster.clone(),
            board: self.board.clone(),
            stop: self.stop.clone(),
        }
    }

    /// How the last rebuild of state is; `None` if there was none since the start.
    pub fn materializing(&self) -> Option<MaterializeStatus> {
        if let Some(asking) = &self.asking {
            return asking.status();
        }
        self.lock_materializing().as_ref().map(Materializing::status)
    }

    /// Asks a rebuild of state that is under way to end. What it has replaced until then stays.
    pub fn stop_materializing(&self) {
        if let Some(asking) = &self.asking {
            asking.stop();
        }
        if let Some(materializing) = self.lock_materializing().as_ref() {
            materializing.stop();
        }
    }

    fn lock_materializing(&self) -> MutexGuard<'_, Option<Materializing>> {
        // It is put there whole.
        self.materializing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops the workers: each publishes and commits what it has applied. The error that stopped one, if one did.
    pub fn stop(mut self) -> Result<()> {
        self.end();
        self.board.take_failure()
    }

    /// Ends like a crash, for tests of what the next start finds: what was applied since the last publish and the last
    /// commit is left to the log.
    pub fn abandon(mut self) {
        self.abandoned.store(true, Ordering::Relaxed);
        for worker in &self.commands {
            // One that has ended already has nothing to abandon.
            let _ended = worker.send(Command::Abandon);
        }
        self.join();
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.join();
    }

    fn join(&mut self) {
        let until = Instant::now() + self.end_within;
        self.owners.close();
        self.stop_materializing();
        let workers = std::mem::take(&mut self.workers);
        self.join_all(workers, until);
        let materializing = self.lock_materializing().as_mut().and_then(Materializing::take_thread);
        let asking = self.asking.as_ref().and_then(MaterializeShared::end);
        self.join_all(materializing.into_iter().chain(asking).collect(), until + END_SLACK);
        // Whoever follows a source goes on until the workers have let go of everything.
        self.stop.store(true, Ordering::Relaxed);
        let helpers = std::mem::take(&mut self.helpers);
        self.join_all(helpers, until + END_SLACK);
    }

    /// Waits for threads, but not for one that hangs in a call of a store that does not answer: what it has not
    /// written is done by the next owner.
    fn join_all(&self, threads: Vec<JoinHandle<()>>, until: Instant) {
        for thread in threads {
            while !thread.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            if !thread.is_finished() {
                let name = thread.thread().name().unwrap_or("a thread").to_owned();
                self.board.fail(Error::unavailable(format!("end {name}"), "a store did not answer in time"));
            } else if thread.join().is_err() {
                self.board.fail(Error::internal("a worker has panicked"));
            }
        }
    }

    /// Asks every worker and waits for all answers; the first error.
    fn everywhere(&self, command: impl Fn(Sender<Result<()>>) -> Command) -> Result<()> {
        everywhere(&self.commands, command)
    }

    fn lock_job(&self) -> MutexGuard<'_, JobChain> {
        // A deployment that panicked has either written its manifest or not.
        self.job.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.end();
    }
}

/// Starts a worker thread. A failure stops the other workers too: an owner works on all of its partitions or on
/// none.
fn spawn_worker(index: usize, setup: WorkerSetup, commands: Receiver<Command>) -> Result<JoinHandle<()>> {
    let run = move || {
        let (board, stop) = (setup.board.clone(), setup.stop.clone());
        match catch_unwind(AssertUnwindSafe(|| Worker::new(setup).run(&commands))) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                // Not an error line of its own: whoever runs the job reads it off the board and says it once.
                tracing::info!(%error, "a worker has stopped");
                board.fail(error);
            }
            // Whoever waits for this worker must not wait for ever; nothing of it is used again.
            Err(_) => board.fail(Error::internal("a worker has panicked")),
        }
        stop.store(true, Ordering::Relaxed);
    };
    let thread = std::thread::Builder::new().name(format!("plumb-worker-{index}")).spawn(run);
    thread.map_err(|error| Error::unavailable("start a worker thread", error))
}

/// Asks every worker and waits for all answers; the first error.
fn everywhere(workers: &[Sender<Command>], command: impl Fn(Sender<Result<()>>) -> Command) -> Result<()> {
    let mut answers = Vec::new();
    for worker in workers {
        let (done, answer) = bounded(1);
        worker.send(command(done)).map_err(|_| stopped())?;
        answers.push(answer);
    }
    let mut result = Ok(());
    for answer in answers {
        let answered = answer.recv().unwrap_or_else(|_| Err(stopped()));
        result = result.and(answered);
    }
    result
}

fn stopped() -> Error {
    Error::unavailable("reach the stream processor", "it has stopped")
}

/// A mark no other process has: random, and the process id for people.
fn owner_mark() -> String {
    let random = RandomState::new().build_hasher().finish();
    format!("{}-{random:016x}", std::process::id())
}

#[cfg(test)]
mod tests;
