//! The shipped components as they were built: they load, are row-wise, and compute the same bits in every cut.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test fail by panicking")]

use plumb_core::event::SourceSchema;
use plumb_testing::process::component;
use plumb_transform::{Engine, EngineOptions, Transform, check, check_row_wise};
use std::sync::Arc;

fn shipped(engine: &Engine, view: &str) -> Transform {
    let bytes = std::fs::read(component(view)).unwrap();
    let loaded = engine.load(&bytes).unwrap_or_else(|error| panic!("{view}: {error}"));
    Transform::new(loaded, &Arc::new(SourceSchema::default_schema()), 0).unwrap()
}

#[test]
fn shipped_views_load_and_are_row_wise_over_the_whole_schema() {
    let engine = Engine::new(EngineOptions::default()).unwrap();
    let views = [
        ("user_activity", "user", 10),
        ("item_activity", "item", 8),
        ("user_daily", "user", 4),
        ("user_spend", "user", 2),
        ("user_transactions", "user", 18),
    ];
    for (view, entity, features) in views {
        let transform = shipped(&engine, view);
        assert_eq!((transform.def().name.as_str(), transform.def().entity.name.as_str()), (view, entity));
        assert_eq!(transform.def().features.len(), features, "{view}");
        let sample = check::events(transform.schema(), 300);
        check_row_wise(&transform, &sample).unwrap();
        assert_eq!(transform.extract(&sample).faults, [], "no generated event is a fault of {view}");
        let (instants, aggregates) = check::aggregates(transform.def(), 300);
        assert_eq!(transform.finalize(&instants, &aggregates).features.len(), features);
    }
}

#[test]
fn compiled_code_from_the_cache_computes_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let options = EngineOptions { cache_dir: Some(folder.path().to_owned()), ..EngineOptions::default() };
    let compiled = shipped(&Engine::new(options.clone()).unwrap(), "user_activity");
    let cached = shipped(&Engine::new(options).unwrap(), "user_activity");
    assert_eq!((compiled.state_id(), compiled.version_label()), (cached.state_id(), cached.version_label()));
    let (instants, aggregates) = check::aggregates(compiled.def(), 100);
    let (left, right) = (compiled.finalize(&instants, &aggregates), cached.finalize(&instants, &aggregates));
    assert_eq!(left.faults, right.faults);
    for (left, right) in left.features.iter().zip(&right.features) {
        // By text: a NaN is equal to itself there.
        assert_eq!(format!("{left:?}"), format!("{right:?}"));
    }
}
