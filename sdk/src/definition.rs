//! What a view declares about itself, and its JSON text (`wit/describe.schema.json`).
//!
//! The derives fill in everything but [`Definition`], which an author writes.

use crate::json::Json;

/// Who and what a feature view is: the part of its definition that no struct can say.
///
/// ```
/// use plumb_sdk::Definition;
/// const DEFINITION: Definition = Definition {
///     description: "What a shop's users do.",
///     owner: "ana",
///     team: "ranking",
///     tags: &["activity"],
///     ..Definition::new("user_activity", "1.0.0", "user", &["user_id"])
/// };
/// # assert_eq!(DEFINITION.source, "default");
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Definition {
    /// The view's name, e.g. `user_activity`.
    pub name: &'static str,
    /// Its semantic version.
    pub version: &'static str,
    /// The entity its features are about, e.g. `user`.
    pub entity: &'static str,
    /// The event fields that are the entity's key, in order.
    pub key: &'static [&'static str],
    /// The source whose events it reads; `default` is the `[source]` section of `plumb.toml`.
    pub source: &'static str,
    /// What the view is, for people.
    pub description: &'static str,
    /// Who answers for it.
    pub owner: &'static str,
    /// The owner's team.
    pub team: &'static str,
    /// Words to find it by.
    pub tags: &'static [&'static str],
    /// Max age as a duration (`"30d"`): an entity whose newest contribution is older gets nulls. `None` = never.
    pub ttl: Option<&'static str>,
    /// How fresh its users want it (`"5s"`); not enforced.
    pub freshness: Option<&'static str>,
    /// Who uses the features, for people.
    pub consumers: &'static [&'static str],
}

impl Definition {
    /// A definition of the source `default` without the optional parts.
    pub const fn new(
        name: &'static str,
        version: &'static str,
        entity: &'static str,
        key: &'static [&'static str],
    ) -> Self {
        Self {
            name,
            version,
            entity,
            key,
            source: "default",
            description: "",
            owner: "",
            team: "",
            tags: &[],
            ttl: None,
            freshness: None,
            consumers: &[],
        }
    }

    /// Checks what a compiler can; `export!` calls it, so that a bad name is a compile error.
    ///
    /// # Panics
    /// When a name is not `[a-z][a-z0-9_]{0,62}` without `__`, the entity's name is taken, or the key is empty.
    pub const fn check(&self) {
        assert!(is_name(self.name), "a view's name is [a-z][a-z0-9_]{{0,62}} without a double underscore");
        assert!(is_name(self.entity), "an entity's name is [a-z][a-z0-9_]{{0,62}} without a double underscore");
        assert!(
            !equal(self.entity, "online")
                && !equal(self.entity, "offline")
                && !equal(self.entity, "vector")
                && !equal(self.entity, "batch"),
            "online, offline, vector and batch are no entity names"
        );
        assert!(!self.key.is_empty(), "an entity has at least one key field");
    }
}

const fn is_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() > 63 || !bytes[0].is_ascii_lowercase() {
        return false;
    }
    let mut at = 1;
    while at < bytes.len() {
        let byte = bytes[at];
        if !(byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_') {
            return false;
        }
        if byte == b'_' && bytes[at - 1] == b'_' {
            return false;
        }
        at += 1;
    }
    true
}

const fn equal(left: &str, right: &str) -> bool {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    if left.len() != right.len() {
        return false;
    }
    let mut at = 0;
    while at < left.len() {
        if left[at] != right[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// The type of a field, slot or feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// Presence alone; of slots.
    Mark,
    /// 64-bit integer.
    I64,
    /// 64-bit float.
    F64,
    /// Truth value.
    Bool,
    /// String.
    Utf8,
    /// Bytes.
    Bytes,
    /// Instant.
    Timestamp,
    /// List of another.
    List(&'static Type),
}

impl Type {
    /// The name in `describe`.
    pub fn name(self) -> String {
        match self {
            Type::Mark => "mark".into(),
            Type::I64 => "i64".into(),
            Type::F64 => "f64".into(),
            Type::Bool => "bool".into(),
            Type::Utf8 => "string".into(),
            Type::Bytes => "bytes".into(),
            Type::Timestamp => "timestamp".into(),
            Type::List(of) => format!("list<{}>", of.name()),
        }
    }
}

/// An event field a view reads.
#[derive(Debug, Clone, Copy)]
pub struct FieldDef {
    /// Its name in the source's schema.
    pub name: &'static str,
    /// Its type.
    pub field_type: Type,
    /// Whether an event without it is a fault of this view on that event.
    pub required: bool,
}

/// A typed input of aggregation.
#[derive(Debug, Clone, Copy)]
pub struct SlotDef {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub slot_type: Type,
}

/// One aggregate: an operator over a slot's contributions in a window.
#[derive(Debug, Clone, Copy)]
pub struct AggregateDef {
    /// Its name.
    pub name: &'static str,
    /// The operator's name and parameters.
    pub operator: Operator,
    /// The slot's name.
    pub slot: &'static str,
    /// Over which events.
    pub window: Window,
}

/// What an aggregate computes; the meaning is in the documentation of [`crate::Aggregates`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "documented where authors meet them, at the derive")]
pub enum Operator {
    Count,
    Sum,
    Mean,
    TopK { k: u32 },
    Last,
    LastTime,
    SessionCount { gap: &'static str, gap_us: i64 },
    SessionDurationSum { gap: &'static str, gap_us: i64 },
    RelativeRank,
    Min,
    Max,
    Variance,
    StdDev,
    Quantile { q: &'static str, ppm: u32 },
    CountDistinct,
    ApproxDistinct { k: u32 },
    CollectSet { k: u32 },
}

impl Operator {
    /// The name in `describe`.
    pub fn name(self) -> &'static str {
        match self {
            Operator::Count => "count",
            Operator::Sum => "sum",
            Operator::Mean => "mean",
            Operator::TopK { .. } => "top_k",
            Operator::Last => "last",
            Operator::LastTime => "last_time",
            Operator::SessionCount { .. } => "session_count",
            Operator::SessionDurationSum { .. } => "session_duration_sum",
            Operator::RelativeRank => "relative_rank",
            Operator::Min => "min",
            Operator::Max => "max",
            Operator::Variance => "variance",
            Operator::StdDev => "stddev",
            Operator::Quantile { .. } => "quantile",
            Operator::CountDistinct => "count_distinct",
            Operator::ApproxDistinct { .. } => "approx_distinct",
            Operator::CollectSet { .. } => "collect_set",
        }
    }
}

/// A duration: as written, and in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// As the author wrote it, e.g. `24h`.
    pub text: &'static str,
    /// In microseconds.
    pub us: i64,
}

/// Which event times an aggregate sees at T; always strictly before T.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// `[T − width, T)`; with a hop the left edge is aligned down to a multiple of it.
    Sliding {
        /// The width.
        width: Span,
        /// The grid of the left edge.
        hop: Option<Span>,
    },
    /// `[B − width, B)` with B = T floored to a multiple of the hop.
    Hopping {
        /// The width.
        width: Span,
        /// The grid of both edges.
        hop: Span,
    },
    /// Everything before T.
    Lifetime,
}

/// A feature.
#[derive(Debug, Clone, Copy)]
pub struct FeatureDef {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub feature_type: Type,
    /// What it is, for people.
    pub description: &'static str,
    /// The aggregates it is made from.
    pub aggregates: &'static [&'static str],
}

/// Writes a view's definition as the JSON text of `describe`, format 1.
pub(crate) fn to_json(
    definition: &Definition,
    fields: &[FieldDef],
    slots: &[SlotDef],
    aggregates: &[AggregateDef],
    features: &[FeatureDef],
) -> String {
    let mut json = Json::default();
    json.object(|json| {
        json.key("format").raw("1");
        json.key("name").text(definition.name);
        json.key("version").text(definition.version);
        json.key("entity").object(|json| {
            json.key("name").text(definition.entity);
            json.key("key").texts(definition.key);
        });
        json.key("source").text(definition.source);
        json.key("description").text(definition.description);
        json.key("owner").text(definition.owner);
        json.key("team").text(definition.team);
        json.key("tags").texts(definition.tags);
        json.key("ttl").optional_text(definition.ttl);
        json.key("freshness").optional_text(definition.freshness);
        json.key("fields").array(fields, |json, field| {
            json.object(|json| {
                json.key("name").text(field.name);
                json.key("type").text(&field.field_type.name());
                json.key("required").raw(if field.required { "true" } else { "false" });
            });
        });
        json.key("slots").array(slots, |json, slot| {
            json.object(|json| {
                json.key("name").text(slot.name);
                json.key("type").text(&slot.slot_type.name());
            });
        });
        json.key("aggregates")
            .array(aggregates, |json, aggregate| json.object(|json| write_aggregate(json, aggregate)));
        json.key("features").array(features, |json, feature| {
            json.object(|json| {
                json.key("name").text(feature.name);
                json.key("type").text(&feature.feature_type.name());
                json.key("description").text(feature.description);
                json.key("aggregates").texts(feature.aggregates);
            });
        });
        json.key("upstream").texts(&[]);
        json.key("consumers").texts(definition.consumers);
    });
    json.into_string()
}

fn write_aggregate(json: &mut Json, aggregate: &AggregateDef) {
    json.key("name").text(aggregate.name);
    json.key("operator").text(aggregate.operator.name());
    json.key("slots").texts(&[aggregate.slot]);
    match aggregate.operator {
        Operator::TopK { k } | Operator::ApproxDistinct { k } | Operator::CollectSet { k } => {
            json.key("params").object(|json| json.key("k").raw(&k.to_string()));
        }
        Operator::Quantile { q, .. } => json.key("params").object(|json| json.key("q").raw(q)),
        Operator::SessionCount { gap, .. } | Operator::SessionDurationSum { gap, .. } => {
            json.key("params").object(|json| json.key("gap").text(gap));
        }
        _ => {}
    }
    json.key("window").object(|json| match aggregate.window {
        Window::Sliding { width, hop } => {
            json.key("kind").text("sliding");
            json.key("width").text(width.text);
            if let Some(hop) = hop {
                json.key("hop").text(hop.text);
            }
        }
        Window::Hopping { width, hop } => {
            json.key("kind").text("hopping");
            json.key("width").text(width.text);
            json.key("hop").text(hop.text);
        }
        Window::Lifetime => json.key("kind").text("lifetime"),
    });
}
