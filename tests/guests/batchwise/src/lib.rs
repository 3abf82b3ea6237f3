//! A component whose rows depend on their batch: it puts into its slot how many of its events came before in the
//! same batch. A host must refuse it at load.

use plumb_sdk::prelude::*;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// The forbidden thing: something that outlives a row.
static SEEN: AtomicI64 = AtomicI64::new(0);

/// What is read of an event.
#[derive(Debug, Event)]
pub struct Event<'a> {
    #[expect(dead_code, reason = "a view reads at least something")]
    event_type: &'a str,
}

/// What an event contributes.
#[derive(Debug, Slots)]
pub struct Slots {
    seen: Option<i64>,
}

/// What the features are made of.
#[derive(Debug, Aggregates)]
pub struct Aggregates {
    #[sum(seen)]
    seen: Option<f64>,
}

/// The features.
#[derive(Debug, Features)]
pub struct Features {
    /// Nothing that can be said before knowing the batches.
    seen: Option<f64>,
}

/// The view.
#[derive(Debug)]
pub struct Batchwise;

impl<'a> View<'a> for Batchwise {
    const DEFINITION: Definition = Definition {
        description: "Depends on its batches.",
        owner: "tests",
        ..Definition::new("batchwise", env!("CARGO_PKG_VERSION"), "user", &["user_id"])
    };
    type Event = Event<'a>;
    type Slots = Slots;
    type Aggregates = Aggregates;
    type Features = Features;

    fn extract(_event: Event<'a>) -> Result<Slots> {
        Ok(Slots { seen: Some(SEEN.fetch_add(1, Relaxed)) })
    }

    fn finalize(of: Aggregates, _at: Time) -> Result<Features> {
        Ok(Features { seen: of.seen })
    }
}

plumb_sdk::export!(Batchwise);
