//! State that was rebuilt from the archive takes the place of what a partition holds, while it runs.
//!
//! Between two batches what was applied is published, so that the online store and memory are at one position, and
//! what was rebuilt is brought there. Then every key is compared, byte for byte, with both. What only the store holds
//! otherwise is written there, each key whole, at the position it has: a crash in between leaves the old or the new
//! bytes of a key. What memory holds otherwise goes a longer way, as memory, commit and store must not part: the store's
//! mark that all of the state is there is taken away first and given back last, so whoever comes after a crash writes
//! all of it again from what is committed.

use super::{Lane, WorkerSetup};
use crate::commit::load;
use crate::port::OnlinePartial;
use crate::worker::build::Rebuilt;
use crate::worker::publish::KeyFields;
use crate::{Error, Result};
use plumb_core::entity::EntityKey;

/// What replacing the state of some keys did.
#[derive(Debug, Clone, Default)]
pub struct Replaced {
    /// The position at which it did.
    pub position: u64,
    /// The newest event time of the partition there, µs.
    pub newest_us: Option<i64>,
    /// The keys that were held otherwise, in order.
    pub differing: Vec<Difference>,
    /// Whether something was that belongs to no key alone: a distribution, the newest event time, the mark of a
    /// complete state.
    pub reserved_differed: bool,
    /// Keys that the online store still holds otherwise after they were written.
    pub unconfirmed: Vec<EntityKey>,
}

/// A key that was held otherwise.
#[derive(Debug, Clone)]
pub struct Difference {
    /// The key.
    pub key: EntityKey,
    /// Whether in memory.
    pub in_memory: bool,
    /// Whether in the online store.
    pub online: bool,
    /// What the online store (where that differed, else memory) held of it in this partition; `None` = nothing.
    pub held: Option<OnlinePartial>,
    /// What it holds now.
    pub rebuilt: KeyFields,
}

impl Lane {
    pub(in crate::worker) fn replace(
        &mut self,
        setup: &WorkerSetup,
        rebuilt: &mut Rebuilt,
        keys: &[EntityKey],
        last: bool,
    ) -> Result<Replaced> {
        self.settle(setup)?;
        self.bring_here(setup, rebuilt)?;
        let mut replaced = Replaced {
            position: self.partition.position(),
            newest_us: self.partition.newest_us(),
            ..Replaced::default()
        };
        let expected: Option<Vec<KeyFields>> = keys.iter().map(|key| KeyFields::of(&rebuilt.state, key)).collect();
        let expected = expected.ok_or_else(|| Error::internal("a key was not rebuilt"))?;
        let index = self.view_index(rebuilt)?;
        let view = &self.partition.views()[index];
        let mut online = self.publisher.differing(view, &expected)?.into_iter().peekable();
        for (at, expected) in expected.iter().enumerate() {
            let of_store = online.next_if(|(index, _)| *index == at).map(|(_, held)| held);
            let in_memory = KeyFields::of(&view.state, &expected.key);
            if of_store.is_none() && in_memory.as_ref() == Some(expected) {
                continue;
            }
            replaced.differing.push(Difference {
                key: expected.key.clone(),
                in_memory: in_memory.as_ref() != Some(expected),
                online: of_store.is_some(),
                held: of_store.unwrap_or_else(|| in_memory.map(|fields| fields.into_partial(self.number))),
                rebuilt: expected.clone(),
            });
        }
        let miscounted = if last { Some(self.miscounted(index, rebuilt)?) } else { None }.filter(|differs| *differs);
        if miscounted.is_some() || replaced.differing.iter().any(|difference| difference.in_memory) {
            self.replace_in_memory(setup, index, rebuilt, keys, last)?;
        }
        let wrong: Vec<&KeyFields> = replaced.differing.iter().map(|difference| &difference.rebuilt).collect();
        let mut written: Vec<KeyFields> = wrong.into_iter().cloned().collect();
        self.put(index, &written)?;
        replaced.reserved_differed = miscounted.is_some();
        if last {
            let reserved = self.publisher.reserved(&self.partition.views()[index]);
            let wrong = self.publisher.differing(&self.partition.views()[index], &reserved)?;
            let wrong: Vec<KeyFields> = wrong.into_iter().map(|(at, _)| reserved[at].clone()).collect();
            replaced.reserved_differed |= !wrong.is_empty();
            self.put(index, &wrong)?;
            written.extend(wrong);
        }
        let still = self.publisher.differing(&self.partition.views()[index], &written)?;
        replaced.unconfirmed = still.into_iter().map(|(at, _)| written[at].key.clone()).collect();
        self.report(setup, false);
        Ok(replaced)
    }

    /// Waits for the commit that is under way and publishes what was applied.
    fn settle(&mut self, setup: &WorkerSetup) -> Result<()> {
        self.commits.finish()?;
        self.count_uncommitted();
        self.tell();
        self.publish(setup)?;
        self.mark_again()?;
        let pending = self.lost || self.unpublished || self.deferred || !self.unmarked_by_change.is_empty();
        match pending {
            true => Err(Error::unavailable("publish to the online store", "it cannot be reached, or is being rebuilt")),
            false => Ok(()),
        }
    }

    /// Applies what came since the state was built: what is committed of it from the archive, the rest from memory.
    fn bring_here(&self, setup: &WorkerSetup, rebuilt: &mut Rebuilt) -> Result<()> {
        let manifest = self.committed()?;
        if rebuilt.built_to < manifest.next_offset {
            let files = load::row_files(setup.edges.store.as_ref(), manifest)?;
            let go_on = || !setup.is_stopped();
            let archive = setup.edges.archive.as_ref();
            rebuilt.read_archive(archive, self.number, &files, manifest.next_offset, &go_on, &|_| {})?;
        }
        for events in self.partition.uncommitted() {
            let from = events.offsets.partition_point(|&offset| offset < rebuilt.built_to);
            rebuilt.apply(&events.take(from..events.len()));
        }
        rebuilt.built_to = rebuilt.built_to.max(self.partition.position());
        if let Some(newest_us) = self.partition.newest_us() {
            rebuilt.state.advance_to(newest_us);
        }
        Ok(())
    }

    fn view_index(&self, rebuilt: &Rebuilt) -> Result<usize> {
        let state_id = rebuilt.view.state_id();
        let index = self.partition.views().iter().position(|view| view.transform.state_id() == state_id);
        index.ok_or_else(|| {
            Error::invalid(format!("view `{}` was replaced or retired meanwhile", rebuilt.view.def().name))
        })
    }

    /// Whether the distributions in memory count the rebuilt keys otherwise.
    fn miscounted(&mut self, index: usize, rebuilt: &Rebuilt) -> Result<bool> {
        let (keys, further) = self.partition.views_mut()[index].state.replace_counts(&rebuilt.state, false)?;
        Ok(further || !keys.is_empty())
    }

    /// Changes memory and commits it, with the mark of a complete state away.
    fn replace_in_memory(
        &mut self,
        setup: &WorkerSetup,
        index: usize,
        rebuilt: &Rebuilt,
        keys: &[EntityKey],
        last: bool,
    ) -> Result<()> {
        let Self { publisher, partition, unmarked_by_change, .. } = self;
        // From here on the mark is missing; whatever fails, it comes back once everything is committed and published.
        unmarked_by_change.push(rebuilt.view.state_id());
        publisher.unmark(&partition.views()[index])?;
        let state = &mut partition.views_mut()[index].state;
        for key in keys {
            state.replace(key, &rebuilt.state)?;
        }
        if last {
            state.replace_counts(&rebuilt.state, true)?;
        }
        self.commits.ask_changes();
        (self.unpublished, self.finished) = (true, false);
        self.commit_now(setup)?;
        self.publish(setup)?;
        self.mark_again()?;
        match self.unmarked_by_change.is_empty() {
            true => Ok(()),
            false => Err(Error::unavailable("publish to the online store", "it cannot be reached")),
        }
    }

    /// Gives the marks of complete states back that were taken away for a change, once that is committed and published.
    pub(in crate::worker) fn mark_again(&mut self) -> Result<()> {
        if self.unmarked_by_change.is_empty() || self.lost || self.unpublished || !self.commits.is_settled() {
            return Ok(());
        }
        let Self { publisher, partition, unmarked_by_change, .. } = self;
        for view in partition.views().iter().filter(|view| unmarked_by_change.contains(&view.transform.state_id())) {
            let mark = publisher.reserved(view).pop();
            publisher.put(view, &mark.iter().collect::<Vec<_>>())?;
        }
        unmarked_by_change.clear();
        Ok(())
    }

    fn put(&mut self, index: usize, keys: &[KeyFields]) -> Result<()> {
        let Self { publisher, partition, .. } = self;
        let put = publisher.put(&partition.views()[index], &keys.iter().collect::<Vec<_>>());
        // What could not be sent is kept, for the next publish.
        self.unpublished |= self.publisher.kept() > 0;
        put
    }
}
