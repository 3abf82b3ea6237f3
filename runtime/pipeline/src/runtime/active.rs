//! Changes of the set of active views: deployments, rollbacks, retirements.

use super::deploy::SharedJob;
use super::*;

impl Runtime {
    /// Loads a component and makes its view active in place of the version that is, without a pause: from then on
    /// answers come from the new version, which has seen every event the old one has. Another component under a
    /// version that is known already, or an older version than the active one, is refused unless `replace`.
    pub fn deploy(&self, component: &[u8], replace: bool) -> Result<Deployed> {
        if self.shared {
            return self.deploy_shared(component, replace);
        }
        let mut job = self.lock_job();
        let transform = views::bind(&self.parts, component)?;
        let old = self.active_version(&transform.def().name);
        if old.as_ref().is_some_and(|old| old.digest() == transform.digest()) {
            return Ok(Deployed { transform, outcome: Deployment::Unchanged });
        }
        views::check_version(job.latest(), old.as_ref(), &transform, replace)?;
        views::check_snapshots(&self.parts, &transform)?;
        put_component(self.parts.store.as_ref(), &transform.digest().to_string(), component)?;
        self.activate(&mut job, transform, old)
    }

    /// Makes the version active again that was before the active one.
    pub fn rollback(&self, name: &str) -> Result<Deployed> {
        if self.shared {
            return self.deploy_shared(&self.shared_job().previous(name)?, true);
        }
        let mut job = self.lock_job();
        let Some(previous) = job.latest().retired.iter().rev().find(|view| view.name == name).cloned() else {
            return Err(Error::invalid(format!("view `{name}` has no earlier version to go back to")));
        };
        let component = read_component(self.parts.store.as_ref(), &previous.digest)?;
        let transform = views::bind(&self.parts, &component)?;
        views::check_snapshots(&self.parts, &transform)?;
        let old = self.active_version(name);
        self.activate(&mut job, transform, old)
    }

    /// Takes a view out of the active ones and drops its state; its component is kept.
    pub fn retire(&self, name: &str) -> Result<()> {
        if self.shared {
            // The state goes when no process answers from it any more.
            self.shared_job().retire(name)?;
            return self.wait_active(|active| active.iter().all(|view| view.name() != name));
        }
        let mut job = self.lock_job();
        let Some(old) = self.active_version(name) else {
            return Err(Error::invalid(format!("there is no active view `{name}`")));
        };
        let refs = job.latest().active.iter().filter(|active| active.view.name != name).cloned().collect();
        job.commit(refs)?;
        self.swap_active(name, None);
        self.remove(old.state_id())
    }

    pub(super) fn shared_job(&self) -> SharedJob {
        SharedJob { parts: self.parts.clone(), chain: self.job.clone() }
    }

    fn deploy_shared(&self, component: &[u8], replace: bool) -> Result<Deployed> {
        let old = self.active_version(&views::bind(&self.parts, component)?.def().name);
        let partitions = |source: &str| self.roster.of(source);
        let deployed = self.shared_job().deploy(component, replace, old, &partitions, &self.stop)?;
        let is_it = |view: &ActiveView| view.transform.digest() == deployed.transform.digest();
        self.wait_active(|active| active.iter().any(|view| is_it(view) && view.ready.is_ready()))?;
        Ok(deployed)
    }

    /// Waits until this process has followed a change of the job manifest.
    fn wait_active(&self, reached: impl Fn(&[ActiveView]) -> bool) -> Result<()> {
        let until = Instant::now() + FOLLOW_WITHIN;
        while !reached(&self.active.load()) {
            if Instant::now() >= until || self.stop.load(Ordering::Relaxed) {
                let why = "the change is made, but this process has not followed it yet";
                return Err(Error::unavailable("change the set of active views", why));
            }
            std::thread::sleep(SET_WAIT);
        }
        Ok(())
    }

    pub(super) fn active_version(&self, name: &str) -> Option<Transform> {
        self.active.load().iter().find(|view| view.name() == name).map(|view| view.transform.clone())
    }

    /// Puts `view` in the place of the active view `name` and waits until nobody answers from the set before, so
    /// that the old state can go.
    fn swap_active(&self, name: &str, view: Option<ActiveView>) {
        let mut active: Vec<ActiveView> =
            self.active.load().iter().filter(|view| view.name() != name).cloned().collect();
        active.extend(view);
        active.sort_by(|a, b| a.name().cmp(b.name()));
        let before = self.active.swap(Arc::new(active));
        for _ in 0..SET_WAITS {
            if Arc::strong_count(&before) == 1 {
                return;
            }
            std::thread::sleep(SET_WAIT);
        }
        before.iter().filter(|view| view.name() == name).for_each(|view| view.ready.revoke());
    }

    fn activate(&self, job: &mut JobChain, transform: Transform, old: Option<Transform>) -> Result<Deployed> {
        let source = transform.def().source.clone();
        let since = match self.add_everywhere(&source, &transform) {
            Ok(since) => since,
            Err(error) => return Err(self.undo(&transform, error)),
        };
        let name = &transform.def().name;
        let mut refs: Vec<ActiveRef> =
            job.latest().active.iter().filter(|active| active.view.name != *name).cloned().collect();
        refs.push(ActiveRef { view: view_ref(&transform), source, since });
        if let Err(error) = job.commit(refs) {
            return Err(self.undo(&transform, error));
        }
        let view = ActiveView { transform: transform.clone(), ready: Arc::new(Readiness::waiting_for(0)) };
        self.swap_active(name, Some(view));
        let outcome = match old {
            Some(old) => {
                self.remove(old.state_id())?;
                Deployment::Replaced(old)
            }
            None => Deployment::Added,
        };
        Ok(Deployed { transform, outcome })
    }

    /// Builds the state of a view for every partition of its source and adds it there.
    fn add_everywhere(&self, source: &str, transform: &Transform) -> Result<BTreeMap<u32, u64>> {
        let partitions = self.owners.of(source);
        let built = self.build(source, transform, &partitions)?;
        let mut since = BTreeMap::new();
        for (partition, (built_to, state)) in partitions.into_iter().zip(built) {
            let (done, answer) = bounded(1);
            let command = Command::AddView {
                source: source.to_owned(),
                partition,
                view: transform.clone(),
                state: Box::new(state),
                built_to,
                done,
            };
            let worker = self.owners.worker(source, partition).ok_or_else(stopped)?;
            worker.send(command).map_err(|_| stopped())?;
            since.insert(partition, answer.recv().map_err(|_| stopped())??);
        }
        Ok(since)
    }

    /// The state of a view per partition as of what is committed now.
    fn build(&self, source: &str, transform: &Transform, partitions: &[u32]) -> Result<Vec<(u64, ViewState)>> {
        let build = |partition: u32| deploy::build(&self.parts, &self.stop, source, partition, transform);
        let mut built = Vec::with_capacity(partitions.len());
        for group in partitions.chunks(self.threads) {
            let results: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = group.iter().map(|&partition| scope.spawn(move || build(partition))).collect();
                let panicked = |_| Err(Error::internal("building state has panicked"));
                threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
            });
            built.extend(results.into_iter().collect::<Result<Vec<_>>>()?);
        }
        Ok(built)
    }

    fn undo(&self, transform: &Transform, error: Error) -> Error {
        if let Err(also) = self.remove(transform.state_id()) {
            tracing::warn!(%also, "cannot remove the state of a failed deployment");
        }
        error
    }

    fn remove(&self, state_id: StateId) -> Result<()> {
        self.everywhere(|done| Command::RemoveView { state_id, done })
    }
}
