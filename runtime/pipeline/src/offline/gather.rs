//! Reads events once, in worker threads: `extract`, then contributions packed by key for the kernel.

use super::Faults;
use super::activity::{Active, Activity};
use super::keys::SharedKeys;
use super::prints::{Grain, Printer, Prints};
use super::spill::Unloading;
use crate::port::EventReader;
use crate::{Error, Result};
use plumb_core::column::Column;
use plumb_core::event::EventBatch;
use plumb_core::temporal::{Histories, History, NO_KEY, RankHistory};
use plumb_transform::Transform;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// One view to gather for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) transform: &'a Transform,
    /// Index of its keys among the gatherer's.
    pub(super) keys: usize,
}

impl<'a> Wanted<'a> {
    /// Views with the indices of their keys, and the fields of each distinct entity key.
    pub(super) fn of(transforms: impl IntoIterator<Item = &'a Transform>) -> (Vec<Self>, Vec<&'a [String]>) {
        let mut entities: Vec<&[String]> = Vec::new();
        let views = transforms.into_iter().map(|transform| {
            let fields = transform.def().entity.key.as_slice();
            let keys = entities.iter().position(|known| *known == fields).unwrap_or_else(|| {
                entities.push(fields);
                entities.len() - 1
            });
            Self { transform, keys }
        });
        (views.collect(), entities)
    }
}

/// What events are gathered for.
#[derive(Debug)]
pub(super) struct Gatherer<'a> {
    pub(super) views: Vec<Wanted<'a>>,
    /// The keys of each distinct entity key; the batch columns they come from are the views'.
    pub(super) keys: Vec<SharedKeys>,
    /// Events before this instant (µs) can matter to no label.
    pub(super) from_us: i64,
    /// Events at or after this instant (µs) can matter to no label.
    pub(super) before_us: i64,
    /// How many slices each history is cut into.
    pub(super) slices: usize,
    /// Where to keep which keys are active when, for generated labels; then it is also kept what identifies each view's
    /// events.
    pub(super) activity: Option<&'a Activity<'a>>,
    /// Whether to keep when events were ingested: labels are to see only those ingested before them.
    pub(super) keeps_known: bool,
}

/// What one worker gathered.
#[derive(Debug, Default)]
pub(super) struct Share {
    views: Vec<ViewShare>,
    /// Per distinct entity key, what the activity was not given yet.
    active: Vec<Vec<Active>>,
    events: u64,
    newest_us: Option<i64>,
    newest_known_us: Option<i64>,
    scratch: Vec<Vec<u32>>,
}

impl Share {
    /// The histories, one per view.
    pub(super) fn histories(&mut self) -> impl Iterator<Item = &mut History> {
        self.views.iter_mut().map(|view| &mut view.history)
    }

    /// The histories of each view's distributions.
    pub(super) fn ranks(&mut self) -> impl Iterator<Item = &mut [RankHistory]> {
        self.views.iter_mut().map(|view| view.ranks.as_mut_slice())
    }
}

#[derive(Debug)]
struct ViewShare {
    history: History,
    ranks: Vec<RankHistory>,
    faults: Faults,
    prints: Prints,
}

/// What all workers gathered for one view.
#[derive(Debug)]
pub(super) struct ViewHistory {
    pub(super) parts: Histories,
    /// Per distribution of the plan, the workers' histories.
    pub(super) ranks: Vec<Vec<RankHistory>>,
    /// The events this view could not extract, among those whose key was asked for.
    pub(super) faults: Faults,
    /// What identifies its events, where that is kept.
    pub(super) prints: Prints,
}

/// What all workers gathered.
#[derive(Debug)]
pub(super) struct Gathered {
    pub(super) views: Vec<ViewHistory>,
    /// The number of events read.
    pub(super) events: u64,
    /// The newest time of an event, whatever entities it carries.
    pub(super) newest_us: Option<i64>,
    /// When the last event was ingested, whatever entities it carries; `None` unless that is kept.
    pub(super) newest_known_us: Option<i64>,
}

impl Gatherer<'_> {
    /// An empty share for one worker.
    pub(super) fn share(&self) -> Share {
        let view = |wanted: &Wanted<'_>| {
            let plan = wanted.transform.plan();
            let mut history = History::new(plan, self.slices);
            let mut ranks: Vec<RankHistory> =
                (0..plan.globals.len()).map(|global| RankHistory::new(plan, global)).collect();
            if self.keeps_known {
                history = history.keeping_known();
                ranks = ranks.into_iter().map(RankHistory::keeping_known).collect();
            }
            ViewShare { history, ranks, faults: Faults::default(), prints: Prints::default() }
        };
        Share {
            views: self.views.iter().map(view).collect(),
            active: vec![Vec::new(); self.keys.len()],
            events: 0,
            newest_us: None,
            newest_known_us: None,
            scratch: vec![Vec::new(); self.keys.len()],
        }
    }

    /// Reads everything with `threads` workers that take turns at the reader.
    pub(super) fn read(&self, reader: &mut dyn EventReader, threads: usize) -> Result<Vec<Share>> {
        self.read_unloading(reader, threads, None)
    }

    /// As [`read`](Self::read), shares that get large being unloaded on the way, and all that ranks need at the end.
    pub(super) fn read_unloading(
        &self,
        reader: &mut dyn EventReader,
        threads: usize,
        unloading: Option<&Unloading<'_>>,
    ) -> Result<Vec<Share>> {
        let mut shares = read_in_turns(
            reader,
            threads,
            || self.share(),
            |share, partition, batch| {
                self.add(share, partition, batch)?;
                let Some(unloading) = unloading else { return Ok(()) };
                unloading.unload_ranks(share, unloading.sort_bytes)?;
                let bytes: usize = share.histories().map(|history| history.bytes()).sum();
                if bytes > unloading.share_bytes { unloading.unload(share) } else { Ok(()) }
            },
        )?;
        for share in &mut shares {
            if let Some(activity) = self.activity {
                let of_entities = share.active.iter_mut().enumerate();
                of_entities.into_iter().try_for_each(|(entity, active)| activity.flush(entity, active))?;
            }
            if let Some(unloading) = unloading {
                unloading.unload_ranks(share, 0)?;
                if unloading.is_used() {
                    unloading.unload(share)?;
                }
            }
        }
        Ok(shares)
    }

    /// Adds a batch of a partition to a worker's share.
    pub(super) fn add(&self, share: &mut Share, partition: u32, batch: &EventBatch) -> Result<()> {
        share.events += batch.len() as u64;
        share.newest_us = share.newest_us.max(batch.times_us.iter().copied().max());
        if self.keeps_known {
            share.newest_known_us = share.newest_known_us.max(batch.record_times_us.iter().copied().max());
        }
        for (index, keys) in self.keys.iter().enumerate() {
            let Some(view) = self.views.iter().find(|view| view.keys == index) else { continue };
            let columns: Vec<&Column> =
                view.transform.key_columns().iter().map(|&column| &batch.columns[column]).collect();
            let resolved = &mut share.scratch[index];
            keys.resolve(&columns, batch.len(), resolved)?;
            for (key, &time_us) in resolved.iter_mut().zip(&batch.times_us) {
                if !(self.from_us..self.before_us).contains(&time_us) {
                    *key = NO_KEY;
                }
            }
            if self.keeps_known {
                for (key, &known_us) in resolved.iter_mut().zip(&batch.record_times_us) {
                    if known_us >= self.before_us {
                        *key = NO_KEY;
                    }
                }
            }
            if let Some(activity) = self.activity {
                let seen: Vec<u32>;
                let keys = if self.keeps_known {
                    // The first instant after an event has a row because of it only if it sees it.
                    let known = batch.times_us.iter().zip(&batch.record_times_us);
                    let seen_key = |(&key, (time_us, known_us))| if known_us > time_us { NO_KEY } else { key };
                    seen = resolved.iter().zip(known).map(seen_key).collect();
                    &seen
                } else {
                    &*resolved
                };
                activity.note(index, keys, &batch.times_us, &mut share.active[index])?;
            }
        }
        for (wanted, to) in self.views.iter().zip(&mut share.views) {
            if let Some(activity) = self.activity {
                let times_us = self.from_us..self.before_us;
                let printer = Printer::new(wanted, times_us, activity.grain(), self.keeps_known);
                printer.add(partition, batch, &mut to.prints);
            }
            self.add_view(wanted, &self.keys[wanted.keys], &share.scratch[wanted.keys], batch, to);
        }
        Ok(())
    }

    fn add_view(
        &self,
        wanted: &Wanted<'_>,
        keys: &SharedKeys,
        resolved: &[u32],
        batch: &EventBatch,
        to: &mut ViewShare,
    ) {
        // Keys that no label asks for matter to ranks among all entities only.
        let is_global = !to.ranks.is_empty();
        let counts = |key: u32| if is_global { key != NO_KEY } else { keys.is_asked(key) };
        let wanted_rows = resolved.iter().filter(|&&key| counts(key)).count();
        if wanted_rows == 0 {
            return;
        }
        if wanted_rows * 4 >= batch.len() * 3 {
            return self.add_rows(wanted, keys, resolved, batch, to);
        }
        // Most events are nobody's: cutting them out is cheaper than extracting them.
        let rows: Vec<usize> = (0..batch.len()).filter(|&row| counts(resolved[row])).collect();
        let resolved: Vec<u32> = rows.iter().map(|&row| resolved[row]).collect();
        self.add_rows(wanted, keys, &resolved, &batch.take(rows), to);
    }

    fn add_rows(
        &self,
        wanted: &Wanted<'_>,
        keys: &SharedKeys,
        resolved: &[u32],
        batch: &EventBatch,
        to: &mut ViewShare,
    ) {
        let extracted = wanted.transform.extract(batch);
        for ranks in &mut to.ranks {
            ranks.push_known(resolved, &batch.times_us, &batch.record_times_us, &extracted.contributions);
        }
        let asked: Vec<u32>;
        let resolved = if to.ranks.is_empty() {
            resolved
        } else {
            asked = resolved.iter().map(|&key| if keys.is_asked(key) { key } else { NO_KEY }).collect();
            &asked
        };
        for fault in &extracted.faults {
            if keys.is_asked(resolved[fault.row as usize]) {
                to.faults.add(batch.times_us[fault.row as usize], &fault.reason);
            }
        }
        let (times_us, known_us) = (&batch.times_us, &batch.record_times_us);
        if self.keeps_known {
            let seen_us: Vec<i64> = times_us.iter().zip(known_us).map(|(&time, &known)| time.max(known)).collect();
            to.history.see(resolved, &seen_us);
        } else {
            to.history.see(resolved, times_us);
        }
        to.history.push_known(resolved, times_us, known_us, batch.columns.first(), &extracted.contributions);
    }
}

impl Gathered {
    /// Brings the workers' shares together.
    pub(super) fn of(shares: Vec<Share>) -> Self {
        let mut all = Gathered { views: Vec::new(), events: 0, newest_us: None, newest_known_us: None };
        let mut histories: Vec<Vec<History>> = Vec::new();
        for share in shares {
            all.events += share.events;
            all.newest_us = all.newest_us.max(share.newest_us);
            all.newest_known_us = all.newest_known_us.max(share.newest_known_us);
            all.views.resize_with(share.views.len(), || ViewHistory {
                parts: Histories::default(),
                ranks: Vec::new(),
                faults: Faults::default(),
                prints: Prints::default(),
            });
            histories.resize_with(share.views.len(), Vec::new);
            for ((to, histories), from) in all.views.iter_mut().zip(&mut histories).zip(share.views) {
                histories.push(from.history);
                to.ranks.resize_with(from.ranks.len(), Vec::new);
                to.ranks.iter_mut().zip(from.ranks).for_each(|(to, from)| to.push(from));
                to.faults.merge(from.faults);
                to.prints.merge(from.prints);
            }
        }
        all.views.iter_mut().zip(histories).for_each(|(view, parts)| view.parts = Histories::new(parts));
        all
    }
}

/// What identifies each view's events, read without looking into them any further.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Per view.
    pub(super) views: Vec<Prints>,
    /// The number of events read.
    pub(super) events: u64,
    /// The newest time of an event, whatever entities it carries.
    pub(super) newest_us: Option<i64>,
}

impl Survey {
    pub(super) fn read(
        views: &[Wanted<'_>],
        grain: Grain,
        reader: &mut dyn EventReader,
        threads: usize,
    ) -> Result<Self> {
        let printer = |wanted| Printer::new(wanted, i64::MIN..i64::MAX, grain, false);
        let printers: Vec<Printer> = views.iter().map(printer).collect();
        let empty = || Self { views: vec![Prints::default(); views.len()], ..Self::default() };
        let shares = read_in_turns(reader, threads, empty, |share, partition, batch| {
            share.events += batch.len() as u64;
            share.newest_us = share.newest_us.max(batch.times_us.iter().copied().max());
            for (printer, prints) in printers.iter().zip(&mut share.views) {
                printer.add(partition, batch, prints);
            }
            Ok(())
        })?;
        Ok(shares.into_iter().fold(empty(), |mut all, share| {
            all.events += share.events;
            all.newest_us = all.newest_us.max(share.newest_us);
            for (to, from) in all.views.iter_mut().zip(share.views) {
                to.merge(from);
            }
            all
        }))
    }
}

/// Reads everything with `threads` workers that take turns at the reader; each has a share that batches are added to.
fn read_in_turns<S: Send>(
    reader: &mut dyn EventReader,
    threads: usize,
    share: impl Fn() -> S + Sync,
    add: impl Fn(&mut S, u32, &EventBatch) -> Result<()> + Sync,
) -> Result<Vec<S>> {
    let stop = AtomicBool::new(false);
    let reader = Mutex::new(reader);
    let work = || -> Result<S> {
        let mut share = share();
        loop {
            let batch = {
                let mut reader = reader.lock().map_err(|_| Error::internal("an event reader panicked"))?;
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                // Said before the next one's turn: a reader that failed has nothing more to say, and what it
                // answered all the same would hide why it failed.
                reader.next_of_partition().inspect_err(|_| stop.store(true, Ordering::Relaxed))?
            };
            let Some((partition, batch)) = batch else { break };
            add(&mut share, partition, &batch).inspect_err(|_| stop.store(true, Ordering::Relaxed))?;
        }
        Ok(share)
    };
    if threads <= 1 {
        return Ok(vec![work()?]);
    }
    let shares: Vec<Result<S>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|_| Err(Error::internal("a worker that read events panicked"))))
            .collect()
    });
    shares.into_iter().collect()
}
