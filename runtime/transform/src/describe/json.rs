//! The JSON text as it is written, key by key. The order of the fields is the order of the text, and the identity
//! of a view's state is a hash over some of it: it never changes.

use serde::{Deserialize, Serialize};

/// The one key that every format has.
#[derive(Deserialize)]
pub(super) struct Probe {
    pub(super) format: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct View {
    pub(super) format: u64,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) entity: Entity,
    pub(super) source: String,
    #[serde(default)]
    pub(super) description: String,
    #[serde(default)]
    pub(super) owner: String,
    #[serde(default)]
    pub(super) team: String,
    #[serde(default)]
    pub(super) tags: Vec<String>,
    #[serde(default)]
    pub(super) ttl: Option<String>,
    #[serde(default)]
    pub(super) freshness: Option<String>,
    pub(super) fields: Vec<Field>,
    pub(super) slots: Vec<Slot>,
    pub(super) aggregates: Vec<Aggregate>,
    pub(super) features: Vec<Feature>,
    #[serde(default)]
    pub(super) upstream: Vec<serde_json::Value>,
    #[serde(default)]
    pub(super) consumers: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entity {
    pub(super) name: String,
    pub(super) key: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Field {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) data_type: String,
    #[serde(default)]
    pub(super) required: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Slot {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) slot_type: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Aggregate {
    pub(super) name: String,
    pub(super) operator: String,
    pub(super) slots: Vec<String>,
    #[serde(default, skip_serializing_if = "Params::is_empty")]
    pub(super) params: Params,
    pub(super) window: Window,
}

/// The parameters of all operators; which of them an operator takes is checked where it is converted.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) k: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) gap: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) q: Option<f64>,
}

impl Params {
    fn is_empty(&self) -> bool {
        self.k.is_none() && self.gap.is_none() && self.q.is_none()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Window {
    pub(super) kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) width: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hop: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Feature {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) data_type: String,
    #[serde(default)]
    pub(super) description: String,
    #[serde(default)]
    pub(super) aggregates: Vec<String>,
}
