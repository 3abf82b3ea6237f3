//! The host against guests of every kind: what cannot be loaded is named, what goes wrong is cut down to its row.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test fail by panicking")]

mod support;

use plumb_core::event::SourceSchema;
use plumb_transform::{Engine, EngineOptions, Transform};
use std::sync::{Arc, LazyLock};
use support::{Guest, component, events, totals, wit_with};

static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::new(EngineOptions::default()).unwrap());

fn load(guest: &Guest<'_>) -> Transform {
    let loaded = ENGINE.load(&guest.build()).unwrap();
    Transform::new(loaded, &Arc::new(SourceSchema::default_schema()), 0).unwrap()
}

fn refused(bytes: &[u8]) -> String {
    ENGINE.load(bytes).expect_err("this component must be refused").to_string()
}

/// Loads a guest that fails on a price of 666, and returns the reason it fails with. The rows around it survive, in
/// batches of any size.
fn reason(guest: &Guest<'_>) -> String {
    let transform = load(guest);
    let alone = transform.extract(&events(&[666.0]));
    assert_eq!(alone.contributions.len(), 0);
    assert_eq!(alone.faults.len(), 1);
    let prices: Vec<f64> = (0..21).map(|row| if row == 13 { 666.0 } else { f64::from(row) }).collect();
    let extracted = transform.extract(&events(&prices));
    let faults: Vec<_> = extracted.faults.iter().map(|fault| (fault.row, &fault.reason)).collect();
    assert_eq!(faults, [(13, &alone.faults[0].reason)]);
    let survivors: Vec<u32> = (0..21).filter(|&row| row != 13).collect();
    assert_eq!(extracted.contributions.rows, survivors);
    let amounts: Vec<f64> = survivors.iter().map(|&row| f64::from(row)).collect();
    assert_eq!(extracted.contributions.slots[0].as_f64().unwrap(), amounts);
    alone.faults[0].reason.clone()
}

#[test]
fn a_guest_that_does_its_work() {
    let transform = load(&Guest::default());
    assert_eq!(transform.def().name, "sample");
    let prices: Vec<f64> = (0..3000).map(f64::from).collect();
    let extracted = transform.extract(&events(&prices));
    assert_eq!(extracted.faults, []);
    assert_eq!(extracted.contributions.slots[0].as_f64().unwrap(), prices);
    assert!(extracted.contributions.rows.iter().copied().eq(0..3000));
    let (instants, columns) = totals(&prices);
    let finalized = transform.finalize(&instants, &columns);
    assert_eq!((finalized.features, finalized.faults), (columns, vec![]));
}

#[test]
fn faults_name_the_guilty_row_and_no_other() {
    let guest = |on_666| Guest { on_666, ..Guest::default() };
    assert_eq!(reason(&guest("(unreachable)")), "trap: unreachable");
    assert_eq!(reason(&guest("(loop $for_ever (br $for_ever))")), "out of fuel (200000000 units)");
    let eat = "(loop $eat (drop (memory.grow (i32.const 16))) (br $eat))";
    assert_eq!(reason(&guest(eat)), "memory limit (64 MiB)");
    assert_eq!(reason(&guest("(drop (i32.load (i32.const -8)))")), "trap: out of bounds memory access");
    assert_eq!(reason(&guest("(drop (i32.div_s (i32.const 1) (i32.const 0)))")), "trap: integer divide by zero");
    let deep = Guest {
        module: "(func $deep (result i32) (i32.add (call $deep) (i32.const 1)))",
        on_666: "(drop (call $deep))",
        ..Guest::default()
    };
    assert_eq!(reason(&deep), "trap: stack overflow");
}

#[test]
fn errors_of_the_guest_keep_its_words() {
    let guest = Guest {
        module: r#"(data (i32.const 512) "no such price")"#,
        on_666: "(i32.store (i32.const 80) (i32.const 256)) (i32.store (i32.const 84) (i32.const 1))
                 (i32.store (i32.const 256) (local.get $row))
                 (i32.store (i32.const 260) (i32.const 512)) (i32.store (i32.const 264) (i32.const 13))",
        ..Guest::default()
    };
    assert_eq!(reason(&guest), "guest error: no such price");
}

#[test]
fn malformed_answers_are_faults_of_the_row() {
    let mark = "(global.set $bad (i32.const 1))";
    let guest = |at_end: &str| {
        let at_end = format!("(if (global.get $bad) (then {at_end}))");
        reason(&Guest {
            module: "(global $bad (mut i32) (i32.const 0))",
            on_666: mark,
            at_end: &at_end,
            ..Guest::default()
        })
    };
    let text = guest("(i32.store (local.get $out) (i32.const 999))");
    assert_eq!(text, "malformed answer: contributions: row index 999 in a batch of 1 events");
    let text = guest("(i32.store (i32.const 68) (i32.const 0))");
    assert_eq!(text, "malformed answer: slot column `amount`: has 1 rows, expected 0");
    let text = guest("(i32.store (i32.const 76) (i32.const 0))");
    assert_eq!(text, "malformed answer: contributions: 0 slot columns, 1 are declared");
    // The other column of the batch, of strings.
    let text = guest("(i32.store (i32.const 72) (local.get $columns))");
    assert_eq!(text, "malformed answer: slot column `amount`: is of type string, declared is f64");
    let far = guest("(i32.store (i32.const 68) (i32.const 0x7fffffff))");
    assert!(far.starts_with("malformed answer: ") && !far.contains("0x"), "{far}");
    let errors = guest(
        "(i32.store (i32.const 84) (i32.const 1)) (i32.store (i32.const 80) (i32.const 256))
                        (i32.store (i32.const 256) (i32.const 500))",
    );
    assert_eq!(errors, "malformed answer: error for row 500 of 1");
}

#[test]
fn nothing_survives_a_call() {
    // The amount of every event becomes the number of calls this instance has seen.
    let guest = Guest {
        module: "(global $calls (mut f64) (f64.const 0))",
        on_row: "(if (i32.eqz (local.get $row)) (then (global.set $calls (f64.add (global.get $calls) (f64.const 1)))))
                 (f64.store (local.get $price) (global.get $calls))",
        ..Guest::default()
    };
    let transform = load(&guest);
    for _ in 0..50 {
        let amounts = transform.extract(&events(&[5.0, 6.0])).contributions.slots.remove(0);
        assert_eq!(amounts.as_f64().unwrap(), [1.0, 1.0]);
    }
}

#[test]
fn a_guest_that_looks_at_other_rows_is_refused() {
    let guest =
        Guest { on_row: "(f64.store (local.get $price) (f64.convert_i32_u (local.get $row)))", ..Guest::default() };
    let text = refused(&guest.build());
    assert!(text.contains("view `sample` is not row-wise: `extract`"), "{text}");
    let guest = Guest {
        in_finalize: "(f64.store (i32.load (i32.add (local.get $columns) (i32.const 48)))
                        (f64.convert_i32_u (local.get $rows)))",
        ..Guest::default()
    };
    let text = refused(&guest.build());
    assert!(text.contains("view `sample` is not row-wise: `finalize`"), "{text}");
}

#[test]
fn a_guest_that_always_fails_can_be_loaded() {
    let guest = Guest { on_row: "(unreachable)", in_finalize: "(unreachable)", ..Guest::default() };
    let transform = load(&guest);
    assert_eq!(transform.extract(&events(&[1.0; 20])).faults.len(), 20);
    let (instants, columns) = totals(&[1.0; 3]);
    let finalized = transform.finalize(&instants, &columns);
    assert_eq!(finalized.faults.len(), 3);
    assert!((0..3).all(|row| !finalized.features[0].is_valid(row)));
}

#[test]
fn nans_have_one_form() {
    // 0 / 0 has the sign bit set on x86 and not on aarch64.
    let guest = Guest {
        on_row: "(f64.store (local.get $price) (f64.div (f64.load (local.get $price)) (f64.load (local.get $price))))",
        ..Guest::default()
    };
    let amounts = load(&guest).extract(&events(&[0.0, 2.0])).contributions.slots.remove(0);
    let bits: Vec<u64> = amounts.as_f64().unwrap().iter().map(|value| value.to_bits()).collect();
    assert_eq!(bits, [0x7ff8_0000_0000_0000, 1.0f64.to_bits()]);
}

#[test]
fn imports_are_refused_by_name() {
    let clocks = "package wasi:clocks@0.2.0; interface monotonic-clock { now: func() -> u64; }";
    let world = "world transform {\n    import wasi:clocks/monotonic-clock@0.2.0;\n    export view;";
    let wit = wit_with(&[("world transform {\n    export view;", world)]);
    let import = r#"(import "wasi:clocks/monotonic-clock@0.2.0" "now" (func $now (result i64)))"#;
    let guest = Guest { module: import, on_row: "(drop (call $now))", ..Guest::default() };
    let text = refused(&component(&guest.wat("0.1.0"), &[clocks, &wit]));
    assert!(text.contains("imports `wasi:clocks/monotonic-clock@0.2.0`"), "{text}");
    assert!(text.contains("clock") && text.contains("wasm32-unknown-unknown"), "{text}");
}

#[test]
fn other_worlds_are_refused_by_name() {
    let later = wit_with(&[("plumb:transform@0.1.0", "plumb:transform@0.2.0")]);
    let text = refused(&component(&Guest::default().wat("0.2.0"), &[&later]));
    assert!(text.contains("`plumb:transform/view@0.1.0`") && text.contains("`plumb:transform/view@0.2.0`"), "{text}");
    let empty = "package other:thing; world transform { export run: func(); }";
    let text = refused(&component(r#"(module (func (export "run")))"#, &[empty]));
    assert!(text.contains("`plumb:transform/view@0.1.0`") && text.contains("it exports run"), "{text}");
    let shape = wit_with(&[("describe: func() -> string;", "describe: func() -> list<u8>;")]);
    let text = refused(&component(&Guest::default().wat("0.1.0"), &[&shape]));
    assert!(text.contains("another shape"), "{text}");
    let core = wat::parse_str(Guest::default().wat("0.1.0")).unwrap();
    assert!(refused(&core).contains("is a core module, not a component: run `plumb build`"));
}

#[test]
fn definitions_and_modules_out_of_bounds_are_refused() {
    let guest = |describe| Guest { describe, ..Guest::default() };
    assert!(refused(&guest("{}").build()).contains("missing field `format`"));
    let text = refused(&Guest { pages: 1025, ..Guest::default() }.build());
    assert!(text.contains("memory") || text.contains("Memory"), "{text}");
    let threads = Guest { module: "(func $wait (drop (i32.atomic.load (i32.const 0))))", ..Guest::default() };
    let text = refused(&threads.build());
    assert!(text.contains("threads"), "{text}");
    let mut cut = Guest::default().build();
    cut.truncate(cut.len() / 2);
    assert!(refused(&cut).starts_with("cannot compile component: "));
}

#[test]
fn compiled_code_is_kept_and_a_damaged_file_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache_dir = folder.path().join("compiled");
    let engine = Engine::new(EngineOptions { cache_dir: Some(cache_dir.clone()), instances: 2 }).unwrap();
    let bytes = Guest::default().build();
    let digest = engine.load(&bytes).unwrap().digest;
    let files = || -> Vec<_> { std::fs::read_dir(&cache_dir).unwrap().map(|entry| entry.unwrap().path()).collect() };
    let [file] = files().try_into().expect("one file for one component");
    assert!(file.file_name().unwrap().to_str().unwrap().starts_with(&digest.to_string()));
    let good = std::fs::read(&file).unwrap();
    assert_eq!(engine.load(&bytes).unwrap().digest, digest);
    for damaged in [&good[..good.len() / 2], b"", &[&good[..good.len() - 1], b"!"].concat()] {
        std::fs::write(&file, damaged).unwrap();
        let loaded = engine.load(&bytes).unwrap();
        let transform = Transform::new(loaded, &Arc::new(SourceSchema::default_schema()), 0).unwrap();
        assert_eq!(transform.extract(&events(&[1.0])).contributions.len(), 1);
        assert_eq!(std::fs::read(&file).unwrap().len(), good.len());
    }
    assert_eq!(files(), [file]);
}

#[test]
fn more_threads_than_instances_wait_for_their_turn() {
    let engine = Engine::new(EngineOptions { cache_dir: None, instances: 1 }).unwrap();
    let loaded = engine.load(&Guest { on_666: "(unreachable)", ..Guest::default() }.build()).unwrap();
    let transform = Transform::new(loaded, &Arc::new(SourceSchema::default_schema()), 0).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let extracted = transform.extract(&events(&[1.0, 666.0, 2.0]));
                    assert_eq!((extracted.contributions.len(), extracted.faults.len()), (2, 1));
                }
            });
        }
    });
}
