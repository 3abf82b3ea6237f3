//! A component that misbehaves when an event tells it to: by its `category`.
//!
//! | category | what happens |
//! |---|---|
//! | `poison:error` | a row error, the polite way |
//! | `poison:trap` | a trap |
//! | `poison:loop` | an endless loop |
//! | `poison:memory` | memory until there is none |
//! | `poison:stack` | recursion without an end |
//! | `poison:short-slot` | a slot column that is one row short |
//! | `poison:missing-slot` | no slot columns at all |
//! | `poison:row-index` | a contribution of an event that is not in the batch |
//! | `poison:error-index` | an error of an event that is not in the batch |
//! | `poison:offsets` | a string column whose offsets go backwards |
//! | `poison:utf8` | a string column that is no UTF-8 |
//! | `poison:validity` | a validity bitmap of another length |
//! | `poison:type` | a slot column of another type |
//! | `poison:state` | every later row of the batch contributes twice |
//! | `poison:finalize-error`, `poison:finalize-trap`, `poison:finalize-loop`, `poison:finalize-short` | the same, when the entity's features are read |
//!
//! Without such events it is an honest view: it counts, and remembers the last category.

use plumb_sdk::prelude::*;

/// What is read of an event.
#[derive(Debug, Event)]
pub struct Event<'a> {
    event_type: &'a str,
    category: Option<&'a str>,
}

/// What an event contributes.
#[derive(Debug, Slots)]
pub struct Slots<'a> {
    any: bool,
    category: Option<&'a str>,
}

/// What the features are made of.
#[derive(Debug, Aggregates)]
pub struct Aggregates<'a> {
    #[count(any)]
    events: i64,
    #[last(category)]
    last_category: Option<&'a str>,
}

/// The features.
#[derive(Debug, Features)]
pub struct Features<'a> {
    /// All events.
    events: i64,
    /// The newest category.
    last_category: Option<&'a str>,
}

/// The view.
#[derive(Debug)]
pub struct Hostile;

impl<'a> View<'a> for Hostile {
    const DEFINITION: Definition = Definition {
        description: "Misbehaves when an event tells it to.",
        owner: "tests",
        ..Definition::new("hostile", env!("CARGO_PKG_VERSION"), "user", &["user_id"])
    };
    type Event = Event<'a>;
    type Slots = Slots<'a>;
    type Aggregates = Aggregates<'a>;
    type Features = Features<'a>;

    fn extract(event: Event<'a>) -> Result<Slots<'a>> {
        match event.category {
            Some("poison:error") => Err(Error::new(format!("event of type {} is poisoned", event.event_type))),
            category => Ok(Slots { any: true, category }),
        }
    }

    fn finalize(of: Aggregates<'a>, _at: Time) -> Result<Features<'a>> {
        match of.last_category {
            Some("poison:finalize-error") => Err(Error::new("the last category is poisoned")),
            last_category => Ok(Features { events: of.events, last_category }),
        }
    }
}

#[cfg(target_arch = "wasm32")]
mod component;
