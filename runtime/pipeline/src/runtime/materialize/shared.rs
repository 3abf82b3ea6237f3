//! Rebuilding state in a job that several processes share: the job manifest says what is asked, every process does it in
//! the partitions it owns, and puts what became of each under `rebuild/<id>/<source>/<partition>`.
//!
//! Nothing of it depends on one process: a partition that moves is done by whoever has it next. A process that works
//! on its partitions says so again and again, so that who has asked knows when nobody does.

use super::super::deploy::SharedJob;
use super::super::{ActiveView, owner_mark};
use super::{Materialize, MaterializeProgress, MaterializeStatus, Materialized, Materializer, Materializing, lock};
use crate::commit::{JobChain, RebuildRef, committed_partitions, latest};
use crate::port::ObjectStore;
use crate::{Error, Result};
use arc_swap::ArcSwap;
use plumb_core::ErrorKind;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const FOLDER: &str = "rebuild";
/// How often a change of the manifest is tried again because another process has changed it.
const TRIES: usize = 32;
/// How often is looked what is asked, and what is done.
const LOOK: Duration = Duration::from_millis(250);
/// How often a process says that it works on its partitions.
const BEAT: Duration = Duration::from_secs(5);
/// Nobody works on a partition of which nothing was heard for so long.
const SILENCE: Duration = Duration::from_secs(60);

/// A source and a partition.
type Name = (String, u32);

/// What became of a partition.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Done(Materialized),
    Failed(String),
}

fn folder(id: &str) -> String {
    format!("{FOLDER}/{id}")
}

fn outcome_path(id: &str, (source, partition): &Name) -> String {
    format!("{}/{source}/{partition}", folder(id))
}

fn beat_path(id: &str, (source, partition): &Name) -> String {
    format!("{}/{source}/{partition}.begun", folder(id))
}

/// Asks the processes of a job to rebuild state.
pub struct MaterializeShared {
    store: Arc<dyn ObjectStore>,
    last: Mutex<Option<Materializing>>,
}

impl std::fmt::Debug for MaterializeShared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MaterializeShared").finish_non_exhaustive()
    }
}

impl MaterializeShared {
    /// For the job of this store.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, last: Mutex::default() }
    }

    /// Asks; returns at once. What another process has asked for and is not done is given up.
    pub fn begin(&self, request: Materialize) -> Result<MaterializeStatus> {
        request.check()?;
        let mut last = lock(&self.last);
        if last.as_ref().is_some_and(Materializing::is_running) {
            return Err(super::busy());
        }
        let id = owner_mark();
        let (store, of) = (self.store.clone(), id.clone());
        let begun = Materializing::begin(id, request, move |request, progress| ask(&store, &of, request, progress))?;
        let status = begun.status();
        *last = Some(begun);
        Ok(status)
    }

    /// How the last one is that was asked for here.
    pub fn status(&self) -> Option<MaterializeStatus> {
        lock(&self.last).as_ref().map(Materializing::status)
    }

    /// Takes back what was asked.
    pub fn stop(&self) {
        if let Some(last) = lock(&self.last).as_ref() {
            last.stop();
        }
    }

    /// Takes back what was asked; the thread to be waited for.
    pub(in crate::runtime) fn end(&self) -> Option<JoinHandle<()>> {
        self.stop();
        lock(&self.last).as_mut().and_then(Materializing::take_thread)
    }
}

impl Drop for MaterializeShared {
    fn drop(&mut self) {
        if let Some(thread) = self.end()
            && thread.join().is_err()
        {
            tracing::error!("asking for a rebuild of state has panicked");
        }
    }
}

/// Changes what the manifest asks for; `change` says to what, or `None` for not at all.
fn change(
    store: &Arc<dyn ObjectStore>,
    change: impl Fn(Option<&RebuildRef>) -> Option<Option<RebuildRef>>,
) -> Result<()> {
    let mut chain = JobChain::open(store.clone())?;
    for _ in 0..TRIES {
        chain.refresh()?;
        let Some(next) = change(chain.latest().rebuild.as_ref()) else { return Ok(()) };
        match chain.ask_rebuild(next) {
            Err(Error::Fenced { .. }) => {}
            done => return done.map(|_| ()),
        }
    }
    Err(Error::unavailable("ask for a rebuild of state", "other processes change the job again and again"))
}

fn ask(
    store: &Arc<dyn ObjectStore>,
    id: &str,
    request: &Materialize,
    progress: &MaterializeProgress,
) -> Result<Materialized> {
    let asked = RebuildRef {
        id: id.to_owned(),
        from_us: request.from_us,
        to_us: request.to_us,
        threads: request.threads,
        memory_bytes: request.memory_bytes,
    };
    change(store, |_| Some(Some(asked.clone())))?;
    let done = gather(store, id, progress);
    // Whatever came of it: nobody is to begin with it any more.
    let taken_back = change(store, |now| now.is_some_and(|now| now.id == id).then_some(None));
    let done = done?;
    taken_back?;
    let left: Vec<String> = store.list(&folder(id))?.into_iter().map(|(path, _)| path).collect();
    store.delete_all(&left)?;
    Ok(done)
}

/// Waits for all partitions.
fn gather(store: &Arc<dyn ObjectStore>, id: &str, progress: &MaterializeProgress) -> Result<Materialized> {
    let mut waiting: BTreeMap<Name, u64> = BTreeMap::new();
    let mut job = JobChain::open(store.clone())?;
    let sources: BTreeSet<String> = job.latest().active.iter().map(|active| active.source.clone()).collect();
    for source in sources {
        for partition in committed_partitions(store.as_ref(), &source)? {
            let events = latest(store.as_ref(), &source, partition)?.map_or(0, |manifest| manifest.accounting.applied);
            waiting.insert((source.clone(), partition), events);
        }
    }
    progress.total.store(waiting.values().sum(), Ordering::Relaxed);
    let mut all = Materialized::default();
    let mut look_at = Instant::now() + SILENCE;
    while !waiting.is_empty() {
        if progress.stop.load(Ordering::Relaxed) {
            return Err(Error::unavailable("rebuild online state", "it was asked to stop"));
        }
        job.refresh()?;
        if job.latest().rebuild.as_ref().is_none_or(|now| now.id != id) {
            return Err(Error::unavailable("rebuild online state", "another rebuild was asked for instead"));
        }
        let there: BTreeSet<String> = store.list(&folder(id))?.into_iter().map(|(path, _)| path).collect();
        let ready: Vec<Name> = waiting.keys().filter(|name| there.contains(&outcome_path(id, name))).cloned().collect();
        for name in ready {
            let path = outcome_path(id, &name);
            let bytes = store.get(&path)?.unwrap_or_default();
            let outcome = serde_json::from_slice(&bytes)
                .map_err(|error| Error::internal(format!("`{path}` cannot be read: {error}")))?;
            match outcome {
                Outcome::Done(part) => all.add(part)?,
                Outcome::Failed(why) => {
                    return Err(Error::internal(format!("partition {} of source `{}`: {why}", name.1, name.0)));
                }
            }
            progress.read.fetch_add(waiting.remove(&name).unwrap_or(0), Ordering::Relaxed);
        }
        if Instant::now() >= look_at {
            look_at = Instant::now() + BEAT;
            heard(store, id, waiting.keys())?;
        }
        std::thread::sleep(LOOK);
    }
    Ok(all)
}

/// An error if there are partitions that nobody works on.
fn heard<'a>(store: &Arc<dyn ObjectStore>, id: &str, waiting: impl Iterator<Item = &'a Name>) -> Result<()> {
    let ages: BTreeMap<String, Duration> = store.ages(&folder(id))?.into_iter().collect();
    let is_silent = |name: &&Name| ages.get(&beat_path(id, name)).is_none_or(|age| *age >= SILENCE);
    let silent: Vec<String> =
        waiting.filter(is_silent).map(|(source, partition)| format!("{source}/{partition}")).collect();
    match silent.is_empty() {
        true => Ok(()),
        false => Err(Error::unavailable(
            "rebuild online state",
            format!("no process works on {}; is a `plumb run` of this version running?", silent.join(", ")),
        )),
    }
}

/// Does what the manifest asks for in the partitions of this process, until the job ends.
pub(in crate::runtime) fn follow(
    materializer: &Materializer,
    job: &SharedJob,
    active: &ArcSwap<Vec<ActiveView>>,
    stop: &AtomicBool,
) {
    let mut done: (String, BTreeSet<Name>) = Default::default();
    while !stop.load(Ordering::Relaxed) {
        // As this process has seen it last, which it does every second.
        let asked = job.lock().latest().rebuild.clone();
        if let Some(asked) = asked {
            if done.0 != asked.id {
                done = (asked.id.clone(), BTreeSet::new());
            }
            let works = Works { materializer, job, active, stop, asked: &asked };
            if let Err(error) = works.look(&mut done.1) {
                tracing::warn!(%error, "cannot rebuild the state of a partition yet");
            }
        }
        std::thread::sleep(LOOK);
    }
}

/// One request, and what it is done with.
struct Works<'a> {
    materializer: &'a Materializer,
    job: &'a SharedJob,
    active: &'a ArcSwap<Vec<ActiveView>>,
    stop: &'a AtomicBool,
    asked: &'a RebuildRef,
}

impl Works<'_> {
    /// Does what is missing of it here.
    fn look(&self, done: &mut BTreeSet<Name>) -> Result<()> {
        let store = self.materializer.parts.store.as_ref();
        let mut open = Vec::new();
        for name in self.materializer.partitions() {
            if done.contains(&name) {
                continue;
            }
            match store.get(&outcome_path(&self.asked.id, &name))? {
                Some(_) => drop(done.insert(name)),
                None => open.push(name),
            }
        }
        if open.is_empty() {
            return Ok(());
        }
        let (progress, ended) = (MaterializeProgress::default(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let beats = scope.spawn(|| self.beat(&open, &progress, &ended));
            let worked = open.iter().try_for_each(|name| {
                if self.one(name, &progress)? {
                    done.insert(name.clone());
                }
                Ok(())
            });
            ended.store(true, Ordering::Relaxed);
            beats.thread().unpark();
            worked
        })
    }

    /// Rebuilds one partition; whether that is settled.
    fn one(&self, name: &Name, progress: &MaterializeProgress) -> Result<bool> {
        let request = Materialize {
            from_us: self.asked.from_us,
            to_us: self.asked.to_us,
            threads: self.asked.threads,
            memory_bytes: self.asked.memory_bytes,
        };
        let views = self.active.load_full();
        self.materializer.commit(&name.0, name.1)?;
        let outcome = match self.materializer.run(&views, std::slice::from_ref(name), &request, progress) {
            // It is another process's by now, which does it.
            Ok(done) if !done.missing.is_empty() => return Ok(false),
            Ok(done) => Outcome::Done(done),
            // Another try may do it, here or elsewhere.
            Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
            Err(error) => Outcome::Failed(error.to_string()),
        };
        let bytes = serde_json::to_vec(&outcome)
            .map_err(|error| Error::internal(format!("cannot encode what became of a partition: {error}")))?;
        // Where another owner was faster, that one's stays.
        self.materializer.parts.store.create(&outcome_path(&self.asked.id, name), &bytes)?;
        Ok(true)
    }

    /// Says again and again that partitions are worked on, and ends that work when it is not asked for any more.
    fn beat(&self, partitions: &[Name], progress: &MaterializeProgress, ended: &AtomicBool) {
        let mut next = Instant::now();
        while !ended.load(Ordering::Relaxed) {
            let wanted = self.job.lock().latest().rebuild.as_ref().is_some_and(|now| now.id == self.asked.id);
            if !wanted || self.stop.load(Ordering::Relaxed) {
                progress.stop.store(true, Ordering::Relaxed);
                return;
            }
            if Instant::now() >= next {
                for name in partitions {
                    let said = self.materializer.parts.store.put(&beat_path(&self.asked.id, name), b"begun".to_vec());
                    if let Err(error) = said {
                        tracing::debug!(%error, "cannot say that a partition is worked on");
                    }
                }
                next = Instant::now() + BEAT;
            }
            std::thread::park_timeout(LOOK);
        }
    }
}
