//! Two native views over the default schema, and a loader that finds them by name.

use super::STAMP_US;
use crate::Result;
use crate::runtime::Loader;
use plumb_core::column::{Column, DataType};
use plumb_core::contribution::Contributions;
use plumb_core::entity::EntityDef;
use plumb_core::event::SourceSchema;
use plumb_core::time::{DAY_US, HOUR_US, MINUTE_US};
use plumb_core::view::{AggregateDef, FeatureDef, FieldUse, Operator, SlotDef, SlotType, ViewDef, WindowSpec};
use plumb_transform::{Digest, Fault, Guest, GuestOutput, LoadedComponent, RowError, Transform};
use std::sync::Arc;

/// Counts purchases, sums prices, knows categories and sessions; events of type `bad` are faults.
#[derive(Debug)]
struct FakeGuest {
    slots: Vec<SlotType>,
}

impl Guest for FakeGuest {
    fn extract(&self, rows: usize, columns: &[&Column]) -> Result<GuestOutput<Contributions>, Fault> {
        let mut value = Contributions::empty(&self.slots);
        let mut errors = Vec::new();
        for row in 0..rows {
            let kind = columns[0].str_bytes(row).unwrap_or_default();
            if kind == b"bad" {
                errors.push(RowError { row: row as u32, message: "bad event".into() });
                continue;
            }
            value.rows.push(row as u32);
            value.slots[0].push_bool(kind == b"purchase");
            value.slots[1].push_from(columns[1], row);
            value.slots[2].push_from(columns[2], row);
        }
        Ok(GuestOutput { value, errors })
    }

    fn finalize(&self, _: &[i64], _: &[Column]) -> Result<GuestOutput<Vec<Column>>, Fault> {
        Err(Fault::Trap("not part of this test".into()))
    }
}

fn def(name: &str, version: &str, key: &str, source: &str, hours: i64) -> ViewDef {
    let field = |name: &str, data_type| FieldUse { name: name.into(), data_type, required: false };
    let slot = |name: &str, slot_type| SlotDef { name: name.into(), slot_type };
    let hour = WindowSpec::Sliding { width_us: hours * HOUR_US, hop_us: None };
    let aggregate = |name: &str, operator, slot, window| AggregateDef { name: name.into(), operator, slot, window };
    ViewDef {
        name: name.into(),
        version: semver::Version::parse(version).unwrap(),
        entity: EntityDef { name: key.trim_end_matches("_id").into(), key: vec![key.into()] },
        source: source.into(),
        description: String::new(),
        owner: String::new(),
        team: String::new(),
        tags: Vec::new(),
        ttl_us: None,
        freshness_us: None,
        fields: vec![
            field("event_type", DataType::Utf8),
            field("price", DataType::F64),
            field("category", DataType::Utf8),
        ],
        slots: vec![slot("bought", SlotType::Mark), slot("price", SlotType::F64), slot("category", SlotType::Utf8)],
        aggregates: vec![
            aggregate("bought", Operator::Count, 0, hour),
            aggregate("spent", Operator::Sum, 1, WindowSpec::Lifetime),
            aggregate("top", Operator::TopK { k: 2 }, 2, hour),
            aggregate("last", Operator::Last, 2, WindowSpec::Lifetime),
            aggregate("sessions", Operator::SessionCount { gap_us: 30 * MINUTE_US }, 0, hour),
        ],
        features: vec![FeatureDef {
            name: "bought".into(),
            data_type: DataType::I64,
            description: String::new(),
            aggregates: vec![0],
        }],
    }
}

fn guest() -> Arc<dyn Guest> {
    Arc::new(FakeGuest { slots: vec![SlotType::Mark, SlotType::F64, SlotType::Utf8] })
}

fn native(def: ViewDef) -> Transform {
    Transform::native(def, guest(), &Arc::new(SourceSchema::default_schema()), HOUR_US).unwrap()
}

pub(crate) fn user_view() -> Transform {
    native(def("user_activity", "1.0.0", "user_id", "default", 2))
}

pub(crate) fn item_view() -> Transform {
    native(def("item_activity", "1.0.0", "item_id", "default", 1))
}

/// A fake component: `name version key source hours`.
pub(crate) fn component(name: &str, version: &str, key: &str, hours: i64) -> Vec<u8> {
    format!("{name} {version} {key} default {hours}").into_bytes()
}

/// Loads what [`component`] makes.
#[derive(Debug)]
pub(crate) struct FakeLoader;

impl Loader for FakeLoader {
    fn load(&self, bytes: &[u8]) -> Result<LoadedComponent> {
        let text = std::str::from_utf8(bytes).unwrap();
        let words: Vec<&str> = text.split(' ').collect();
        let [name, version, key, source, hours] = words[..] else { panic!("not a fake component: {text}") };
        Ok(LoadedComponent {
            digest: Digest::of(bytes),
            def: def(name, version, key, source, hours.parse().unwrap()),
            consumers: Vec::new(),
            guest: guest(),
            size: bytes.len() as u64,
        })
    }
}

/// `count` records from `first` on: keys that come again, repeated ids (some with another payload), records that
/// are no event, faults, late events, several days.
pub(crate) fn events(first: u64, count: u64) -> Vec<Vec<u8>> {
    (first..first + count)
        .map(|n| {
            // A fixed scramble, so that keys and times do not follow the order of the log.
            let mixed = (n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 20;
            let id = if n % 13 == 12 { n - 7 } else { n };
            let late_us = if mixed.is_multiple_of(9) { 30 * HOUR_US } else { (mixed % 7) as i64 * MINUTE_US };
            let time_us = STAMP_US - 6 * DAY_US + (n % 700) as i64 * 10 * MINUTE_US - late_us;
            let kind = ["view", "purchase", "click", "bad"][if n % 31 == 30 { 3 } else { (mixed % 3) as usize }];
            match n % 17 {
                16 => format!("{{not json {n}").into_bytes(),
                15 => format!(r#"{{"event_id":"old{n}","event_time":1,"event_type":"view"}}"#).into_bytes(),
                14 => format!(r#"{{"event_time":{},"event_type":"{kind}","user_id":"u{}"}}"#, time_us / 1000, mixed % 5)
                    .into_bytes(),
                _ => format!(
                    r#"{{"event_id":"e{id}","event_time":{},"event_type":"{kind}","user_id":"u{}","item_id":"i{}","category":"c{}","price":{}.25}}"#,
                    time_us / 1000,
                    mixed % 5,
                    mixed % 3,
                    mixed % 4,
                    mixed % 100,
                )
                .into_bytes(),
            }
        })
        .collect()
}
