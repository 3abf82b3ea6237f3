//! The catalogue's definitions, feature by feature.

use super::ItemActivity;
use plumb_sdk::testing::{History, Value, json};

const T: &str = "2024-03-10T12:00:30Z";

fn event(item: &str, time: &str, event_type: &str) -> Value {
    json!({"item_id": item, "event_time": time, "event_type": event_type})
}

fn at_t(events: impl IntoIterator<Item = Value>) -> Value {
    History::<ItemActivity>::new(events).at("i1", T)
}

#[test]
fn counts_are_of_the_item_over_all_users() {
    let features = at_t([
        json!({"item_id": "i1", "user_id": "u1", "event_time": "2024-03-10T11:30:00Z", "event_type": "view"}),
        json!({"item_id": "i1", "user_id": null, "event_time": "2024-03-10T10:30:00Z", "event_type": "view"}),
        event("i1", "2024-03-10T11:10:00Z", "cart"),
        event("i1", "2024-03-10T11:00:00Z", "cart"),
        event("i1", "2024-03-10T01:10:00Z", "purchase"),
        event("i2", "2024-03-10T11:10:00Z", "view"),
    ]);
    assert_eq!(features["view_count_1h"], 1);
    assert_eq!(features["view_count_24h"], 2);
    assert_eq!(features["cart_add_count_1h"], 1);
    assert_eq!(features["purchase_count_24h"], 1);
    assert_eq!(features["conversion_rate_24h"], 0.5);
    assert_eq!(features["revenue_24h"], 0.0);
}

#[test]
fn ratings_count_whatever_the_event_and_for_ever() {
    let rated = |time: &str, event_type: &str, rating: Value| json!({"item_id": "i1", "event_time": time, "event_type": event_type, "rating": rating});
    let features = at_t([
        rated("2020-01-01T00:00:00Z", "rating", json!(5.0)),
        rated("2024-03-10T11:00:00Z", "purchase", json!(2.0)),
        rated("2024-03-10T11:00:00Z", "rating", json!(null)),
        rated("2024-03-10T12:00:30Z", "rating", json!(1.0)),
    ]);
    assert_eq!(features["avg_rating"], 3.5);
}

#[test]
fn revenue_is_exact_whatever_the_order() {
    let bought = |time: &str, price: f64, quantity: i64| json!({"item_id": "i1", "event_time": time, "event_type": "purchase", "price": price, "quantity": quantity});
    let features = at_t([
        bought("2024-03-10T11:00:00Z", 1e16, 1),
        bought("2024-03-10T11:01:00Z", 0.5, 2),
        bought("2024-03-10T11:02:00Z", 1e16, -1),
    ]);
    assert_eq!(features["revenue_24h"], 1.0);
    assert_eq!(features["conversion_rate_24h"], json!(null));
}

#[test]
fn rank_is_relative_among_the_viewed_in_the_hour_before_the_minute() {
    let views = |item: &'static str, number: usize| {
        (0..number).map(move |second| event(item, &format!("2024-03-10T11:30:{second:02}Z"), "view"))
    };
    let events: Vec<Value> = views("i1", 2)
        .chain(views("i2", 1))
        .chain(views("i3", 2))
        .chain(views("i4", 5))
        .chain([event("i5", "2024-03-10T11:30:00Z", "cart"), event("i2", "2024-03-10T12:00:10Z", "view")])
        .collect();
    let history = History::<ItemActivity>::new(events);
    let rank = |item: &str| history.at(item, T)["popularity_rank_1h"].clone();
    assert_eq!(rank("i1"), 1.0 / 3.0);
    assert_eq!(rank("i2"), 0.0);
    assert_eq!(rank("i3"), 1.0 / 3.0);
    assert_eq!(rank("i4"), 1.0);
    assert_eq!(rank("i5"), 0.0);
    let alone = History::<ItemActivity>::new([event("i1", "2024-03-10T11:00:00Z", "view")]);
    assert_eq!(alone.at("i1", "2024-03-10T12:00:59Z")["popularity_rank_1h"], 1.0);
    assert_eq!(alone.at("i1", "2024-03-10T12:01:00Z")["popularity_rank_1h"], 0.0);
}
