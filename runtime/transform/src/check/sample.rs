//! Generated rows for the check at load: typical values, extremes and nulls; the same at every run.

use plumb_core::column::{Column, DataType, Values};
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_core::time::{DAY_US, HOUR_US, MINUTE_US};
use plumb_core::view::ViewDef;
use std::sync::Arc;

/// An instant like those of real events: 2024-01-01T00:00:00Z.
const BASE_US: i64 = 1_704_067_200_000_000;

const EVENT_TYPES: [&str; 6] = ["view", "cart", "purchase", "rating", "click", "other"];
const STRINGS: [&str; 8] = ["u1", "i42", "", "grocery", "münchen", "日本", "a\0b", "10"];
const FLOATS: [f64; 14] = [
    1.0,
    2.5,
    0.0,
    19.99,
    -3.5,
    0.1,
    -0.0,
    5e-324,
    f64::MAX,
    -f64::MAX,
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    4.0,
];
const INTEGERS: [i64; 10] = [1, 2, 3, 0, -1, 7, 1_000_000, i64::MAX, i64::MIN, 1 << 53];

/// `rows` events of a schema. Required fields are never null, others sometimes.
pub fn events(schema: &Arc<SourceSchema>, rows: usize) -> EventBatch {
    let mut batch = EventBatch::new(schema.clone());
    for row in 0..rows {
        batch.offsets.push(row as u64);
        let time_us = BASE_US + row as i64 * 7 * MINUTE_US;
        batch.record_times_us.push(time_us);
        batch.times_us.push(time_us);
        batch.columns[0].push_bytes(format!("e{row}").as_bytes());
        for (index, field) in schema.fields.iter().enumerate() {
            let column = &mut batch.columns[index + 1];
            let pick = pick(row, index);
            if !field.required && pick.is_multiple_of(5) {
                column.push_null();
            } else if field.name == "event_type" && field.data_type == DataType::Utf8 && row % 16 != 9 {
                // A typical kind first: most transforms look at nothing else before they know it.
                column.push_bytes(EVENT_TYPES[row % EVENT_TYPES.len()].as_bytes());
            } else {
                push(column, pick, time_us);
            }
        }
    }
    batch
}

/// `rows` rows of the aggregates of a view, with their instants T.
pub fn aggregates(def: &ViewDef, rows: usize) -> (Vec<i64>, Vec<Column>) {
    let as_of_us: Vec<i64> = (0..rows).map(|row| BASE_US + row as i64 * HOUR_US + 1).collect();
    let columns = def
        .aggregates
        .iter()
        .enumerate()
        .map(|(index, aggregate)| {
            let slot = def.slots[aggregate.slot].slot_type;
            let mut column = Column::new(&aggregate.operator.output_type(slot));
            for (row, &instant) in as_of_us.iter().enumerate() {
                let pick = pick(row, index);
                if pick.is_multiple_of(7) { column.push_null() } else { push(&mut column, pick, instant) }
            }
            column
        })
        .collect();
    (as_of_us, columns)
}

/// A number that looks random in both arguments and is the same everywhere (the finaliser of SplitMix64).
fn pick(row: usize, column: usize) -> usize {
    let mut z =
        (row as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (column as u64).wrapping_mul(0xd1b5_4a32_d192_ed03);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 33) as usize
}

fn push(column: &mut Column, pick: usize, near_us: i64) {
    match &mut column.values {
        Values::I64(v) => v.push(INTEGERS[pick % INTEGERS.len()]),
        Values::F64(v) => v.push(FLOATS[pick % FLOATS.len()]),
        Values::Bool(v) => v.push((pick % 2) as u8),
        Values::Timestamp(v) => v.push(match pick % 16 {
            0 => i64::MAX,
            1 => i64::MIN,
            2 => 0,
            _ => near_us - (pick % 1000) as i64 * DAY_US / 100,
        }),
        Values::Utf8(v) | Values::Bytes(v) if pick % 61 == 3 => v.push(&b"long ".repeat(200)),
        Values::Utf8(v) | Values::Bytes(v) => v.push(STRINGS[pick % STRINGS.len()].as_bytes()),
        Values::List { offsets, child } => {
            for element in 0..pick % 4 {
                push(child, pick / 4 + element, near_us);
            }
            offsets.push(child.len() as u32);
        }
    }
    column.mark_valid();
}
