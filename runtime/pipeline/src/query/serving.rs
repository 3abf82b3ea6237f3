//! What there is to ask: the active views, and the archive behind them.

use super::Status;
use crate::offline::{Labels, ViewColumns};
use crate::runtime::{ActiveView, Roster};
use crate::{Error, Result};
use arc_swap::ArcSwap;
use plumb_core::column::{Column, DataType};
use plumb_core::entity::EntityKey;
use plumb_transform::Transform;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The views that answer now.
pub trait Views: Send + Sync {
    /// The current set; another `Arc` whenever it has changed.
    fn current(&self) -> Current;
}

/// The current set, for as long as a query takes.
pub struct Current {
    /// The set.
    pub set: Arc<ServingSet>,
    /// Held while the set is read from, so that no state of it goes away.
    pub guard: Option<Arc<Vec<ActiveView>>>,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.set.fmt(f)
    }
}

/// The active views of a running job.
#[derive(Debug)]
pub struct RuntimeViews {
    active: Arc<ArcSwap<Vec<ActiveView>>>,
    roster: Arc<Roster>,
    /// What was made of the set last seen. Weak, because the job waits until nobody holds a set it has replaced;
    /// a set at the same place is the same set all the same, as its memory is not given away while this is held.
    last: Mutex<Option<Made>>,
}

/// A set, and what it was made of.
type Made = (Weak<Vec<ActiveView>>, Arc<BTreeMap<String, Vec<u32>>>, Arc<ServingSet>);

impl RuntimeViews {
    /// Follows a job's active views and the partitions that answers are made of.
    pub fn new(active: Arc<ArcSwap<Vec<ActiveView>>>, roster: Arc<Roster>) -> Self {
        Self { active, roster, last: Mutex::new(None) }
    }
}

impl Views for RuntimeViews {
    fn current(&self) -> Current {
        let active = self.active.load_full();
        let partitions = self.roster.current();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, over, set)) = last.as_ref()
            && std::ptr::eq(of.as_ptr(), Arc::as_ptr(&active))
            && Arc::ptr_eq(over, &partitions)
        {
            return Current { set: set.clone(), guard: Some(active) };
        }
        let view = |view: &ActiveView| {
            let ready = view.ready.clone();
            ServingView::new(view.transform.clone(), Arc::new(move || ready.is_ready()))
        };
        let mut views: Vec<ServingView> = active.iter().map(view).collect();
        // A job has no view of a source it does not run.
        views.retain(|view| partitions.contains_key(&view.transform.def().source));
        views.sort_by(|a, b| a.name.cmp(&b.name));
        let set = Arc::new(ServingSet { views, partitions: BTreeMap::clone(&partitions) });
        *last = Some((Arc::downgrade(&active), partitions, set.clone()));
        Current { set, guard: Some(active) }
    }
}

/// Views that answer together, and the partitions of their sources.
#[derive(Debug)]
pub struct ServingSet {
    pub(super) views: Vec<ServingView>,
    pub(super) partitions: BTreeMap<String, Vec<u32>>,
}

impl ServingSet {
    /// A set; `partitions` are those of each source. A view of a source without an entry is an error.
    pub fn new(mut views: Vec<ServingView>, partitions: BTreeMap<String, Vec<u32>>) -> Result<Self> {
        views.sort_by(|a, b| a.name.cmp(&b.name));
        for view in &views {
            let source = &view.transform.def().source;
            if !partitions.contains_key(source) {
                return Err(Error::internal(format!("view `{}` reads the unknown source `{source}`", view.name)));
            }
        }
        Ok(Self { views, partitions })
    }

    pub(super) fn position_of(&self, name: &str) -> Option<usize> {
        self.views.binary_search_by(|view| view.name.as_ref().cmp(name)).ok()
    }
}

/// A view with what every answer says of it.
#[derive(Clone)]
pub struct ServingView {
    pub(super) transform: Transform,
    pub(super) name: Arc<str>,
    pub(super) entity: Arc<str>,
    pub(super) version: Arc<str>,
    /// `view:feature` of each feature.
    pub(super) features: Vec<Arc<str>>,
    ready: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl ServingView {
    /// A view; `ready` says whether all of its state can be read. It is asked before and after each read, and must
    /// turn false before state is taken away.
    pub fn new(transform: Transform, ready: Arc<dyn Fn() -> bool + Send + Sync>) -> Self {
        let def = transform.def();
        let name: Arc<str> = def.name.as_str().into();
        let features = def.features.iter().map(|feature| format!("{name}:{}", feature.name).into()).collect();
        let (entity, version) = (def.entity.name.as_str().into(), transform.version_label().into());
        Self { name, entity, version, features, ready, transform }
    }

    /// Whether it answers.
    pub fn is_ready(&self) -> bool {
        (self.ready)()
    }
}

impl std::fmt::Debug for ServingView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServingView({} {})", self.name, self.version)
    }
}

/// Features from the archive of accepted events.
pub trait History: Send + Sync {
    /// Computes all features of a view for entities at instants, from the accepted events below `position` (the
    /// next offsets of the view's source); `None` = all there are. What has been accepted and not committed yet
    /// is committed first, if the position needs it.
    fn at(
        &self,
        view: &Transform,
        rows: &[(EntityKey, i64)],
        position: Option<&BTreeMap<u32, u64>>,
    ) -> Result<HistoryRows>;
}

/// One row per row asked.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryRows {
    /// The view's features, in declared order.
    pub features: Vec<Column>,
    /// The newest contribution before T, µs.
    pub event_time_us: Vec<Option<i64>>,
    /// How each row was answered.
    pub status: Vec<Status>,
    /// The next offsets of the source's partitions below which events were read.
    pub position: BTreeMap<u32, u64>,
}

impl HistoryRows {
    /// The rows of the offline drivers' answer for all features of a view.
    pub fn of(columns: ViewColumns, position: BTreeMap<u32, u64>) -> Self {
        let times = &columns.event_time;
        let time = |row| times.as_i64().filter(|_| times.is_valid(row)).map(|times| times[row]);
        Self {
            event_time_us: (0..times.len()).map(time).collect(),
            status: columns.status.iter().map(|&status| status.into()).collect(),
            features: columns.features,
            position,
        }
    }
}

/// The rows of a history request as labels for the offline drivers.
pub fn labels(view: &Transform, rows: &[(EntityKey, i64)]) -> Result<Labels> {
    let fields = &view.def().entity.key;
    let mut columns = vec![Column::new(&DataType::Utf8); fields.len()];
    for (key, _) in rows {
        let parts = key.parts(fields.len()).ok_or_else(|| Error::internal("a key has other parts than its view"))?;
        columns.iter_mut().zip(parts).for_each(|(column, part)| column.push_bytes(part));
    }
    let times_us = rows.iter().map(|&(_, as_of_us)| as_of_us).collect();
    Ok(Labels { times_us, keys: fields.iter().cloned().zip(columns).collect() })
}

impl From<crate::offline::Status> for Status {
    fn from(status: crate::offline::Status) -> Self {
        match status {
            crate::offline::Status::Found => Status::Found,
            crate::offline::Status::NotFound => Status::NotFound,
            crate::offline::Status::OutsideMaxAge => Status::OutsideMaxAge,
            crate::offline::Status::Error => Status::Error,
        }
    }
}
