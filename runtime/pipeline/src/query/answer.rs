//! Answers: values with how they came about.

use super::Position;
use plumb_core::column::{Column, Values};
use std::sync::Arc;

/// The answer to one request.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The instant T, µs.
    pub as_of_us: i64,
    /// What the answer was computed from.
    pub position: Arc<Position>,
    /// `view:feature` and its value, in the order asked.
    pub features: Vec<(Arc<str>, Value)>,
    /// The entities asked, by name.
    pub entities: Vec<EntityAnswer>,
    /// The views asked, by name.
    pub views: Vec<ViewAnswer>,
}

/// How an entity was answered, over all asked views of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityAnswer {
    /// The entity's name.
    pub entity: Arc<str>,
    /// `Found` if any asked view finds it, else the first asked view's.
    pub status: Status,
    /// The newest contribution before T to any asked view, µs.
    pub event_time_us: Option<i64>,
}

/// How a view was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewAnswer {
    /// The view's name.
    pub view: Arc<str>,
    /// Its version: `1.2.0+ab12cd34`.
    pub version: Arc<str>,
    /// Its status for the entity.
    pub status: Status,
    /// What it was computed from.
    pub source: ReadSource,
}

/// How a view answers for an entity at T.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// An accepted event before T carries the key.
    Found,
    /// None does, or the key is null: every feature is null.
    NotFound,
    /// The newest contribution is older than the view's max age: every feature is null.
    OutsideMaxAge,
    /// The online store is being rebuilt: nothing is known, every feature is null.
    Rebuilding,
    /// The view's state is still being built from the archive: every feature is null.
    Warming,
    /// The component failed for this row: every feature is null.
    Error,
}

impl Status {
    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Status::Found => "found",
            Status::NotFound => "not_found",
            Status::OutsideMaxAge => "outside_max_age",
            Status::Rebuilding => "rebuilding",
            Status::Warming => "warming",
            Status::Error => "error",
        }
    }
}

/// What an answer was computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReadSource {
    /// State in the online store.
    Online,
    /// Events in the archive.
    Offline,
}

impl ReadSource {
    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            ReadSource::Online => "online",
            ReadSource::Offline => "offline",
        }
    }
}

/// One feature's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Null.
    Null,
    /// `i64`
    I64(i64),
    /// `f64`, finite
    F64(f64),
    /// `bool`
    Bool(bool),
    /// `string`
    Utf8(String),
    /// `bytes`
    Bytes(Vec<u8>),
    /// `timestamp`, µs
    Timestamp(i64),
    /// `list<…>`
    List(Vec<Value>),
    /// A caller's default in place of a null.
    Default(Arc<serde_json::Value>),
}

impl Value {
    /// The value of a row of a column.
    pub fn of(column: &Column, row: usize) -> Self {
        if !column.is_valid(row) {
            return Value::Null;
        }
        match &column.values {
            Values::I64(values) => Value::I64(values[row]),
            Values::F64(values) => Value::F64(values[row]),
            Values::Bool(values) => Value::Bool(values[row] != 0),
            Values::Utf8(values) => Value::Utf8(String::from_utf8_lossy(values.get(row)).into_owned()),
            Values::Bytes(values) => Value::Bytes(values.get(row).to_vec()),
            Values::Timestamp(values) => Value::Timestamp(values[row]),
            Values::List { offsets, child } => Value::List(
                (offsets[row]..offsets[row + 1]).map(|element| Value::of(child, element as usize)).collect(),
            ),
        }
    }
}
