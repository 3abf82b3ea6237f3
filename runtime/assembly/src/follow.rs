//! Follows a job that other processes run: which views are active, of which partitions answers are made, and whether
//! the online store holds all of their state. Needs the stores and nothing else.

use crate::settings::Settings;
use crate::{Error, Result, components};
use arc_swap::ArcSwap;
use plumb_pipeline::commit::{ActiveRef, JobChain, JobManifest, committed_partitions, latest, read_component};
use plumb_pipeline::port::{ObjectStore, OnlineStore};
use plumb_pipeline::query::{Current, ServingSet, ServingView, Views};
use plumb_pipeline::worker::publish::held_everywhere;
use plumb_transform::{Engine, Transform};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the stores are asked; more often while a view is waited for.
const ASK: Duration = Duration::from_secs(1);
const ASK_WAITING: Duration = Duration::from_millis(100);
/// How often for partitions that have come to be.
const ASK_PARTITIONS: Duration = Duration::from_secs(5);
/// How long it counts that the online store held all of a view. The state of a view that was replaced is kept for
/// longer than this after the job says so: a process that was stopped in between does not answer from what is gone.
const CONFIRMED: Duration = Duration::from_secs(5);

/// A view that the job says is active.
#[derive(Debug, Clone)]
pub struct FollowedView {
    /// The view.
    pub transform: Transform,
    /// Whether the online store holds all of it.
    ready: Arc<Ready>,
}

impl FollowedView {
    /// Whether it answers.
    pub fn is_ready(&self) -> bool {
        self.ready.is_ready()
    }
}

/// Until when a view may answer.
#[derive(Debug)]
struct Ready {
    start: Instant,
    /// In ms since `start`; 0 = it may not.
    until_ms: AtomicU64,
}

impl Ready {
    fn new() -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), until_ms: AtomicU64::new(0) })
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn is_ready(&self) -> bool {
        self.elapsed_ms() < self.until_ms.load(Ordering::Acquire)
    }

    fn confirm(&self, asked_ms: u64, holds_all: bool) {
        let until_ms = if holds_all { asked_ms + CONFIRMED.as_millis() as u64 } else { 0 };
        self.until_ms.store(until_ms, Ordering::Release);
    }
}

/// What is known now.
struct Known {
    views: Vec<FollowedView>,
    partitions: BTreeMap<String, Vec<u32>>,
    set: Arc<ServingSet>,
    job: JobManifest,
}

/// How the stores answered when they were last asked; `None` = they did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Why the online store did not.
    pub online: Option<String>,
    /// Why the offline store did not.
    pub offline: Option<String>,
}

/// Follows the job until it is dropped.
pub struct Follower {
    known: Arc<ArcSwap<Known>>,
    health: Arc<Mutex<Health>>,
    /// Closed to end the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").field("views", &self.views()).finish_non_exhaustive()
    }
}

impl Follower {
    /// Asks the stores once, which must answer, and then again and again.
    pub fn start(settings: Settings, store: Arc<dyn ObjectStore>, online: Arc<dyn OnlineStore>) -> Result<Self> {
        let job = JobChain::open(store.clone())?;
        let mut look = Look {
            engine: components::engine()?,
            settings,
            store,
            online,
            job,
            transforms: BTreeMap::new(),
            known: BTreeMap::new(),
            seen: BTreeMap::new(),
            partitions_at: None,
            made_of: None,
        };
        look.offline()?;
        let partitions = look.partitions()?;
        let known = Arc::new(ArcSwap::from_pointee(look.make(partitions)?));
        look.confirm(&known.load())?;
        let health = Arc::new(Mutex::new(Health::default()));
        let (stop, stopped) = channel();
        let run = {
            let (known, health) = (known.clone(), health.clone());
            move || loop {
                let waiting = known.load().views.iter().any(|view| !view.is_ready());
                match stopped.recv_timeout(if waiting { ASK_WAITING } else { ASK }) {
                    Err(RecvTimeoutError::Timeout) => look.again(&known, &health),
                    _ => return,
                }
            }
        };
        let thread = std::thread::Builder::new().name("plumb-follow".into()).spawn(run);
        let thread = thread.map_err(|error| Error::unavailable("start a thread", error))?;
        Ok(Self { known, health, stop: Some(stop), thread: Some(thread) })
    }

    /// The active views, by name.
    pub fn views(&self) -> Vec<FollowedView> {
        self.known.load().views.clone()
    }

    /// The last job manifest.
    pub fn job(&self) -> JobManifest {
        self.known.load().job.clone()
    }

    /// The partitions of each source that answers are made of.
    pub fn partitions(&self) -> BTreeMap<String, Vec<u32>> {
        self.known.load().partitions.clone()
    }

    /// How the stores answered when they were last asked.
    pub fn health(&self) -> Health {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The views as an evaluator asks for them.
    pub fn serving(&self) -> Arc<dyn Views> {
        Arc::new(Following(self.known.clone()))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("following the job has panicked");
        }
    }
}

struct Following(Arc<ArcSwap<Known>>);

impl Views for Following {
    fn current(&self) -> Current {
        // Nothing is held here that the owners of the state would wait for: they keep it for a while after a change.
        Current { set: self.0.load().set.clone(), guard: None }
    }
}

/// What asks the stores.
struct Look {
    engine: Engine,
    settings: Settings,
    store: Arc<dyn ObjectStore>,
    online: Arc<dyn OnlineStore>,
    job: JobChain,
    /// By digest.
    transforms: BTreeMap<String, FollowedView>,
    /// Per source the partitions there may be.
    known: BTreeMap<String, BTreeSet<u32>>,
    /// Per source the partitions that have shown something, once and for all.
    seen: BTreeMap<String, BTreeSet<u32>>,
    partitions_at: Option<Instant>,
    /// The job manifest and the partitions that the last set was made of.
    made_of: Option<(u64, BTreeMap<String, Vec<u32>>)>,
}

impl Look {
    /// Asks once more. What was known holds where a store does not answer.
    fn again(&mut self, known: &ArcSwap<Known>, health: &Mutex<Health>) {
        let offline = self.offline();
        let online = self.partitions().and_then(|partitions| {
            if self.made_of.as_ref() != Some(&(self.job.latest().seq, partitions.clone())) {
                known.store(Arc::new(self.make(partitions)?));
            }
            self.confirm(&known.load())
        });
        let why = |result: Result<()>| result.err().map(|error| error.to_string());
        let now = Health { online: why(online), offline: why(offline) };
        let mut health = health.lock().unwrap_or_else(PoisonError::into_inner);
        if *health != now {
            match now.online.as_ref().or(now.offline.as_ref()) {
                Some(error) => tracing::warn!(error, "cannot ask the stores how the job is, trying again"),
                None => tracing::info!("the stores answer again"),
            }
            *health = now;
        }
    }

    /// What the offline store says: the job, and which partitions there are.
    fn offline(&mut self) -> Result<()> {
        self.job.refresh()?;
        if self.partitions_at.is_none_or(|at| at.elapsed() >= ASK_PARTITIONS) {
            for source in self.settings.sources.keys() {
                let partitions = committed_partitions(self.store.as_ref(), source)?;
                self.known.entry(source.clone()).or_default().extend(partitions);
            }
            self.partitions_at = Some(Instant::now());
        }
        Ok(())
    }

    /// The partitions that answers are made of, as the processes that run the job see it: those that a view was built
    /// over, and those that have come since and have something to show.
    fn partitions(&mut self) -> Result<BTreeMap<String, Vec<u32>>> {
        let mut all = BTreeMap::new();
        for (source, known) in &self.known {
            let seen = self.seen.entry(source.clone()).or_default();
            let of_source = self.job.latest().active.iter().filter(|active| active.source == *source);
            let mut partitions: BTreeSet<u32> = of_source.flat_map(|active| active.since.keys().copied()).collect();
            partitions.extend(seen.iter());
            let open: Vec<u32> = known.difference(&partitions).copied().collect();
            if !open.is_empty() {
                let answer = self.online.read(source, &open, &[])?;
                for partition in open {
                    let shown = answer.positions.get(&partition).copied().flatten().is_some();
                    let has_records = || -> Result<bool> {
                        let manifest = latest(self.store.as_ref(), source, partition)?;
                        Ok(manifest.is_some_and(|manifest| manifest.next_offset > manifest.start_offset))
                    };
                    if shown || has_records()? {
                        seen.insert(partition);
                        partitions.insert(partition);
                    }
                }
            }
            all.insert(source.clone(), partitions.into_iter().collect());
        }
        Ok(all)
    }

    /// The set of the active views over these partitions.
    fn make(&mut self, partitions: BTreeMap<String, Vec<u32>>) -> Result<Known> {
        let job = self.job.latest().clone();
        let views: Vec<FollowedView> = job.active.iter().map(|active| self.view(active)).collect::<Result<_>>()?;
        self.transforms.retain(|digest, _| job.active.iter().any(|active| active.view.digest == *digest));
        let serving = |view: &FollowedView| {
            let ready = view.ready.clone();
            ServingView::new(view.transform.clone(), Arc::new(move || ready.is_ready()))
        };
        let set = Arc::new(ServingSet::new(views.iter().map(serving).collect(), partitions.clone())?);
        self.made_of = Some((job.seq, partitions.clone()));
        Ok(Known { views, partitions, set, job })
    }

    fn view(&mut self, active: &ActiveRef) -> Result<FollowedView> {
        if let Some(view) = self.transforms.get(&active.view.digest) {
            return Ok(view.clone());
        }
        let component = self.engine.load(&read_component(self.store.as_ref(), &active.view.digest)?)?;
        let view = FollowedView { transform: components::bind(&component, &self.settings)?, ready: Ready::new() };
        self.transforms.insert(active.view.digest.clone(), view.clone());
        Ok(view)
    }

    /// Asks the online store whether it holds all of each view.
    fn confirm(&self, known: &Known) -> Result<()> {
        for (source, partitions) in &known.partitions {
            let views: Vec<&FollowedView> =
                known.views.iter().filter(|view| view.transform.def().source == *source).collect();
            if views.is_empty() || partitions.is_empty() {
                continue;
            }
            let transforms: Vec<Transform> = views.iter().map(|view| view.transform.clone()).collect();
            let asked_ms: Vec<u64> = views.iter().map(|view| view.ready.elapsed_ms()).collect();
            let missing = held_everywhere(self.online.as_ref(), source, partitions, &transforms)?;
            for ((view, asked_ms), missing) in views.iter().zip(asked_ms).zip(missing) {
                view.ready.confirm(asked_ms, missing.is_empty());
            }
        }
        Ok(())
    }
}
