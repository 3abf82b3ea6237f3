//! Components that misbehave, built like any other: the guilty row is found, its neighbours lose nothing.

use plumb_core::column::{Column, Values};
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_testing::process::{repository, run_ok};
use plumb_transform::{Engine, EngineOptions, RowFault, Transform};
use std::sync::Arc;

/// The row that is poisoned, of so many.
const GUILTY: usize = 17;
const ROWS: usize = 40;

/// The bytes of a guest under `tests/guests`, which is not among the shipped components.
fn guest(name: &str) -> Vec<u8> {
    let root = repository();
    let file = root.join(format!("target/guests/{name}.wasm"));
    let source = root.join(format!("tests/guests/{name}"));
    run_ok(&root, ["build".as_ref(), source.as_os_str(), "-o".as_ref(), file.as_os_str()]);
    std::fs::read(file).unwrap()
}

fn hostile() -> Transform {
    let loaded = Engine::new(EngineOptions::default()).unwrap().load(&guest("hostile")).unwrap();
    Transform::new(loaded, &Arc::new(SourceSchema::default_schema()), 0).unwrap()
}

/// Views of one category each, the guilty row's being `poison`.
fn events(poison: &str) -> EventBatch {
    let mut batch = EventBatch::new(Arc::new(SourceSchema::default_schema()));
    for row in 0..ROWS {
        batch.offsets.push(row as u64);
        batch.record_times_us.push(0);
        batch.times_us.push(row as i64);
        for (index, column) in batch.columns.iter_mut().enumerate() {
            // Column 0 is the id; the schema's fields follow.
            match index.checked_sub(1).map(|field| batch.schema.fields[field].name.as_str()) {
                Some("event_type") => column.push_bytes(b"view"),
                Some("category") if row == GUILTY => column.push_bytes(poison.as_bytes()),
                Some("category") => column.push_bytes(format!("c{row}").as_bytes()),
                _ => column.push_null(),
            }
        }
    }
    batch
}

fn reason(faults: &[RowFault]) -> &str {
    match faults {
        [fault] if fault.row as usize == GUILTY => &fault.reason,
        _ => panic!("expected a fault of row {GUILTY} alone, found {faults:?}"),
    }
}

#[test]
fn the_guilty_event_is_found_and_its_neighbours_lose_nothing() {
    let transform = hostile();
    let honest = transform.extract(&events("soap"));
    assert_eq!((honest.contributions.len(), honest.faults.len()), (ROWS, 0));
    let neighbours: Vec<usize> = (0..ROWS).filter(|&row| row != GUILTY).collect();
    for (poison, expected) in [
        ("error", "event of type view is poisoned"),
        ("trap", "trap"),
        ("loop", "out of fuel"),
        ("memory", "memory limit"),
        ("stack", "trap"),
        ("short-slot", "malformed answer"),
        ("missing-slot", "malformed answer"),
        ("row-index", "malformed answer"),
        ("error-index", "malformed answer"),
        ("offsets", "malformed answer"),
        ("utf8", "malformed answer"),
        ("validity", "malformed answer"),
        ("type", "malformed answer"),
    ] {
        let output = transform.extract(&events(&format!("poison:{poison}")));
        let reason = reason(&output.faults);
        assert!(reason.contains(expected), "{poison}: {reason}");
        assert!(output.contributions.rows.iter().map(|&row| row as usize).eq(neighbours.iter().copied()), "{poison}");
        for (slot, honest) in output.contributions.slots.iter().zip(&honest.contributions.slots) {
            assert_eq!(slot.take(0..slot.len()), honest.take(neighbours.iter().copied()), "{poison}");
        }
    }
}

#[test]
fn the_guilty_row_of_features_is_null_and_its_neighbours_lose_nothing() {
    let transform = hostile();
    let instants: Vec<i64> = (0..ROWS as i64).collect();
    for (poison, expected) in [
        ("error", "the last category is poisoned"),
        ("trap", "trap"),
        ("loop", "out of fuel"),
        ("short", "malformed answer"),
    ] {
        let mut categories = Column::new(&plumb_core::column::DataType::Utf8);
        for row in 0..ROWS {
            let category = if row == GUILTY { format!("poison:finalize-{poison}") } else { format!("c{row}") };
            categories.push_bytes(category.as_bytes());
        }
        let counts = Column::of(Values::I64(vec![3; ROWS]));
        let output = transform.finalize(&instants, &[counts, categories]);
        let reason = reason(&output.faults);
        assert!(reason.contains(expected), "{poison}: {reason}");
        for column in &output.features {
            let valid: Vec<usize> = (0..ROWS).filter(|&row| column.is_valid(row)).collect();
            assert!(valid.iter().copied().eq((0..ROWS).filter(|&row| row != GUILTY)), "{poison}");
        }
    }
}

#[test]
fn a_component_that_counts_across_rows_is_refused_at_load() {
    match Engine::new(EngineOptions::default()).unwrap().load(&guest("batchwise")) {
        Ok(_) => panic!("it depends on its batches"),
        Err(error) => assert!(error.to_string().contains("row"), "{error}"),
    }
}
