//! What is asked, how far it is and what was done, as those who ask see it.

use crate::query::Position;
use crate::{Error, Result};
use serde_json::Value as Json;

/// Which entities' state to rebuild, and with what means.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Materialize {
    /// Those with an event at this instant or later, µs; `None` = from the first one on.
    pub from_us: Option<i64>,
    /// And before this one, µs; `None` = to the last one.
    pub to_us: Option<i64>,
    /// Views rebuilt at the same time.
    pub threads: usize,
    /// The memory for state that is being built.
    pub memory_bytes: u64,
}

impl Materialize {
    /// An error if the span is none.
    pub(in crate::runtime) fn check(&self) -> Result<()> {
        match (self.from_us, self.to_us) {
            (Some(from_us), Some(to_us)) if from_us >= to_us => {
                Err(Error::invalid("the span of time to rebuild state for ends before it begins"))
            }
            _ => Ok(()),
        }
    }

    /// The span as the archive is asked for it; `None` = all of it.
    pub(super) fn span(&self) -> Option<(i64, i64)> {
        match (self.from_us, self.to_us) {
            (None, None) => None,
            (from, to) => Some((from.unwrap_or(i64::MIN), to.unwrap_or(i64::MAX))),
        }
    }
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Materialized {
    /// The committed position that the entities were found at.
    pub position: String,
    /// By name and version.
    pub views: Vec<MaterializedView>,
    /// Partitions that another process took over meanwhile, as `source/partition`.
    pub missing: Vec<String>,
}

impl Materialized {
    /// Adds what was done in other partitions.
    pub(super) fn add(&mut self, other: Self) -> Result<()> {
        let mut position = Position::parse(&self.position)?;
        for (source, partitions) in Position::parse(&other.position)?.sources {
            position.sources.entry(source).or_default().extend(partitions);
        }
        self.position = position.to_string();
        self.missing.extend(other.missing);
        for other in other.views {
            let same = |view: &&mut MaterializedView| view.view == other.view && view.version == other.version;
            let Some(view) = self.views.iter_mut().find(same) else {
                self.views.push(other);
                continue;
            };
            view.states += other.states;
            view.events += other.events;
            view.changed += other.changed;
            view.changed_in_memory += other.changed_in_memory;
            view.changed_online += other.changed_online;
            view.changed_reserved |= other.changed_reserved;
            view.unconfirmed += other.unconfirmed;
            let earlier = match (&view.first, &other.first) {
                (Some(first), Some(of_other)) => of_other.key < first.key,
                (None, _) => true,
                (Some(_), None) => false,
            };
            if earlier {
                view.first = other.first;
            }
        }
        self.views.sort_by(|a, b| (&a.view, &a.version).cmp(&(&b.view, &b.version)));
        Ok(())
    }

    /// Whether everything is as it should be afterwards.
    pub fn is_right(&self) -> bool {
        self.missing.is_empty() && self.views.iter().all(|view| view.unconfirmed == 0)
    }
}

/// What was done of one view.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct MaterializedView {
    /// Its name.
    pub view: String,
    /// Its version, `1.2.0+ab12cd34`.
    pub version: String,
    /// Its entity.
    pub entity: String,
    /// How many states were rebuilt: what one partition holds of one entity is one.
    pub states: u64,
    /// How many events they were rebuilt from, one read several times counted once.
    pub events: u64,
    /// How many of them were held otherwise before.
    pub changed: u64,
    /// How many of them in the memory of the process (so in its commits too).
    pub changed_in_memory: u64,
    /// How many of them in the online store.
    pub changed_online: u64,
    /// Whether something was that belongs to no entity alone, such as the distribution behind a rank.
    pub changed_reserved: bool,
    /// How many the online store still shows otherwise, although they were written.
    pub unconfirmed: u64,
    /// The first entity that was held otherwise, by the bytes of its key.
    pub first: Option<FirstChanged>,
}

/// An entity that was held otherwise.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct FirstChanged {
    /// The values of its key fields.
    pub key: Vec<String>,
    /// The source partition.
    pub partition: u32,
    /// Whether the memory of the process held it otherwise.
    pub in_memory: bool,
    /// Whether the online store did.
    pub online: bool,
    /// The first feature that was answered otherwise just after the newest event, as `view:feature`; `None` if all were
    /// the same then.
    pub feature: Option<String>,
    /// What it was; in parentheses why where there was no answer.
    pub before: Option<Json>,
    /// What it is.
    pub after: Option<Json>,
}

/// How a rebuild of state is.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct MaterializeStatus {
    /// Which it is.
    pub id: String,
    /// What was asked.
    pub request: Materialize,
    /// How far it is.
    pub phase: MaterializePhase,
    /// Events read.
    pub read: u64,
    /// Of so many.
    pub total: u64,
    /// How long it has taken.
    pub seconds: f64,
}

/// How far a rebuild of state is.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaterializePhase {
    /// Under way.
    Running,
    /// Done.
    Done(Materialized),
    /// Ended before its end; what was replaced until then is right.
    Failed {
        /// Why.
        why: String,
        /// Whether it was asked to stop.
        stopped: bool,
        /// Whether another try may work.
        unavailable: bool,
    },
}
