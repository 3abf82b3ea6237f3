//! `user_daily`: how active a user is, made for daily snapshots.

use plumb_sdk::prelude::*;

/// What is read of an event.
#[derive(Debug, Event)]
pub struct Event<'a> {
    event_type: Option<&'a str>,
}

/// What an event contributes.
#[derive(Debug, Slots)]
pub struct Slots<'a> {
    any: bool,
    event_type: Option<&'a str>,
}

/// What the features are made of.
#[derive(Debug, Aggregates)]
pub struct Aggregates {
    #[count(any, window = "7d")]
    event_count_7d: i64,
    #[count(any, window = "30d")]
    event_count_30d: i64,
    #[last_time(any)]
    last_event: Option<Time>,
    #[count_distinct(event_type, window = "30d")]
    event_type_counts: i64,
}

/// The features of a user.
#[derive(Debug, Features)]
pub struct Features {
    /// Events in the last 7 days.
    event_count_7d: i64,
    /// Events in the last 30 days.
    event_count_30d: i64,
    /// Whole days since the last event.
    #[from(last_event)]
    last_event_days_ago: Option<i64>,
    /// Distinct event types in the last 30 days.
    event_type_counts: i64,
}

/// The view.
#[derive(Debug)]
pub struct UserDaily;

impl<'a> View<'a> for UserDaily {
    const DEFINITION: Definition = Definition {
        description: "How active a user is.",
        owner: "growth",
        team: "growth",
        tags: &["activity", "daily"],
        ..Definition::new("user_daily", env!("CARGO_PKG_VERSION"), "user", &["user_id"])
    };
    type Event = Event<'a>;
    type Slots = Slots<'a>;
    type Aggregates = Aggregates;
    type Features = Features;

    fn extract(event: Event<'a>) -> Result<Slots<'a>> {
        Ok(Slots { any: true, event_type: event.event_type })
    }

    fn finalize(of: Aggregates, at: Time) -> Result<Features> {
        const DAY_US: i64 = 86_400_000_000;
        Ok(Features {
            event_count_7d: of.event_count_7d,
            event_count_30d: of.event_count_30d,
            last_event_days_ago: of.last_event.map(|last| at.micros_since(last).div_euclid(DAY_US)),
            event_type_counts: of.event_type_counts,
        })
    }
}

plumb_sdk::export!(UserDaily);

#[cfg(test)]
mod tests;
