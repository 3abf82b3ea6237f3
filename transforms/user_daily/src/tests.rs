//! The catalogue's definitions, feature by feature.

use super::UserDaily;
use plumb_sdk::testing::{History, Value, json};

const T: &str = "2024-03-10T00:00:00Z";

fn event(time: &str, event_type: &str) -> Value {
    json!({"user_id": "u1", "event_time": time, "event_type": event_type})
}

fn at_t(events: impl IntoIterator<Item = Value>) -> Value {
    History::<UserDaily>::new(events).at("u1", T)
}

#[test]
fn every_event_counts_in_its_windows() {
    let features = at_t([
        event("2024-03-10T00:00:00Z", "view"),
        event("2024-03-09T23:59:59.999999Z", "view"),
        event("2024-03-03T00:00:00Z", "cart"),
        event("2024-03-02T23:59:59.999999Z", "wishlist"),
        event("2024-02-09T00:00:00Z", "purchase"),
        event("2024-02-08T23:59:59.999999Z", "click"),
    ]);
    let expected = json!({"event_count_7d": 2, "event_count_30d": 4, "last_event_days_ago": 0, "event_type_counts": 4});
    assert_eq!(features, expected);
}

#[test]
fn types_are_counted_once_each() {
    let features = at_t([
        event("2024-03-09T01:00:00Z", "view"),
        event("2024-03-08T01:00:00Z", "view"),
        event("2024-03-07T01:00:00Z", "View"),
        json!({"user_id": "u1", "event_time": "2024-03-06T01:00:00Z"}),
    ]);
    assert_eq!(features["event_type_counts"], 2);
    assert_eq!(features["event_count_30d"], 4);
}

#[test]
fn days_are_whole_and_never_expire() {
    let days = |time: &str| at_t([event(time, "view")])["last_event_days_ago"].clone();
    assert_eq!(days("2024-03-09T00:00:00Z"), 1);
    assert_eq!(days("2024-03-09T00:00:00.000001Z"), 0);
    assert_eq!(days("2023-03-11T00:00:00Z"), 365);
}

#[test]
fn found_long_ago_is_zero() {
    let features = at_t([event("2023-01-01T00:00:00Z", "view")]);
    let expected =
        json!({"event_count_7d": 0, "event_count_30d": 0, "last_event_days_ago": 434, "event_type_counts": 0});
    assert_eq!(features, expected);
    let nobody = History::<UserDaily>::new([event(T, "view")]).at("u1", T);
    assert_eq!(nobody["last_event_days_ago"], json!(null));
}
