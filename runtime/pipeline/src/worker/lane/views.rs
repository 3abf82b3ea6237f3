//! The views of a lane: they come and go while it runs.

use super::super::build::apply_archive;
use super::{Lane, Missing, PartitionView, WorkerSetup};
use crate::commit::load;
use crate::{Error, Result};
use plumb_core::ErrorKind;
use plumb_core::plan::StateId;
use plumb_core::state::ViewState;
use plumb_transform::Transform;

impl Lane {
    pub(in crate::worker) fn add_view(
        &mut self,
        setup: &WorkerSetup,
        view: Transform,
        state: ViewState,
        built_to: u64,
    ) -> Result<u64> {
        self.commit_now(setup)?;
        self.publish(setup)?;
        if self.lost || self.unpublished {
            return Err(Error::unavailable("publish to the online store", "it cannot be reached"));
        }
        let position = self.partition.position();
        let manifest = self.committed()?;
        assert_eq!(manifest.next_offset, position, "everything applied has just been committed");
        let files = load::row_files(setup.edges.store.as_ref(), manifest)?;
        let mut states = [(view, state)];
        let go_on = || !setup.is_stopped();
        apply_archive(setup.edges.archive.as_ref(), self.number, &files, built_to..position, &mut states, &go_on)?;
        let [(view, state)] = states;
        let state_id = view.state_id();
        self.partition.add_view(PartitionView::new(view, state, false));
        // Named in a manifest first, so that whoever comes after a crash knows what to clear.
        self.commits.ask_snapshot();
        self.commit_now(setup)?;
        if !self.publish_state(state_id)? {
            return Err(Error::unavailable("publish to the online store", "it cannot be reached"));
        }
        self.report(setup, true);
        Ok(position)
    }

    /// Lets the partition have the views of its source among `wanted`; what is missing of them.
    pub(in crate::worker) fn reconcile(&mut self, setup: &WorkerSetup, wanted: &[Transform]) -> Result<Vec<Missing>> {
        let of_source = |view: &&Transform| view.def().source == self.setup.source.schema().source;
        let wanted: Vec<&Transform> = wanted.iter().filter(of_source).collect();
        let ids: Vec<StateId> = self.partition.views().iter().map(|view| view.transform.state_id()).collect();
        if self.lost || self.away > 0 {
            // The online store comes first.
            return Ok(Vec::new());
        }
        for &state_id in ids.iter().filter(|&&id| wanted.iter().all(|view| view.state_id() != id)) {
            match self.remove_view(setup, state_id) {
                Err(error) if error.kind() == ErrorKind::Unavailable && !matches!(error, Error::Fenced { .. }) => {
                    tracing::warn!(%error, "cannot remove the state of a view yet");
                    // Part of it may be gone.
                    self.unmarked.push(state_id);
                }
                removed => removed?,
            }
        }
        self.unmarked.sort_unstable();
        self.unmarked.dedup();
        for state_id in std::mem::take(&mut self.unmarked) {
            if wanted.iter().all(|view| view.state_id() != state_id) {
                self.unmarked.push(state_id);
            } else if self.publish_state(state_id)? {
                self.report(setup, true);
            }
        }
        let missing = wanted.into_iter().filter(|view| !ids.contains(&view.state_id()));
        let missing = missing.map(|view| Missing {
            source: self.source().to_owned(),
            partition: self.number,
            view: view.clone(),
        });
        Ok(missing.collect())
    }

    /// Publishes all of one state that nobody reads yet; `false` if the store is away, for another try.
    fn publish_state(&mut self, state_id: StateId) -> Result<bool> {
        let view = self.partition.views_mut().iter_mut().find(|view| view.transform.state_id() == state_id);
        let Some(view) = view else { return Ok(true) };
        match self.publisher.add(view) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::Unavailable && !matches!(error, Error::Fenced { .. }) => {
                tracing::warn!(%error, "cannot publish a view yet");
                self.unmarked.push(state_id);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Lets go of a state that nobody reads any more.
    pub(in crate::worker) fn remove_view(&mut self, setup: &WorkerSetup, state_id: StateId) -> Result<()> {
        if self.partition.views().iter().all(|view| view.transform.state_id() != state_id) {
            return Ok(());
        }
        self.publisher.remove(state_id)?;
        self.partition.remove_view(state_id);
        self.unmarked.retain(|&id| id != state_id);
        // The next manifest no longer names the view. Should this process die before, the next owner finds it there
        // and clears what is left of it.
        self.commits.ask_snapshot();
        self.report(setup, true);
        Ok(())
    }
}
