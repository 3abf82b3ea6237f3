//! The catalogue's definitions, feature by feature.

use super::UserActivity;
use plumb_sdk::testing::{History, Value, extract_one, json};

const T: &str = "2024-03-10T12:00:00Z";

fn event(time: &str, event_type: &str) -> Value {
    json!({"user_id": "u1", "event_time": time, "event_type": event_type})
}

fn purchase(time: &str, price: Value, quantity: Value) -> Value {
    json!({"user_id": "u1", "event_time": time, "event_type": "purchase", "price": price, "quantity": quantity})
}

fn at_t(events: impl IntoIterator<Item = Value>) -> Value {
    History::<UserActivity>::new(events).at("u1", T)
}

#[test]
fn windows_begin_at_their_width_and_end_before_t() {
    let features = at_t([
        event("2024-03-10T12:00:00Z", "view"),
        event("2024-03-10T11:59:59.999999Z", "view"),
        event("2024-03-10T11:00:00Z", "view"),
        event("2024-03-10T10:59:59.999999Z", "view"),
        event("2024-03-09T12:00:00Z", "view"),
        event("2024-03-09T11:59:59.999999Z", "view"),
    ]);
    assert_eq!(features["item_view_count_1h"], 2);
    assert_eq!(features["item_view_count_24h"], 4);
}

#[test]
fn types_are_counted_apart() {
    let features = at_t([
        event("2024-03-10T11:30:00Z", "cart"),
        event("2024-03-10T11:31:00Z", "purchase"),
        event("2024-03-10T01:00:00Z", "purchase"),
        event("2024-03-10T11:32:00Z", "click"),
    ]);
    assert_eq!(features["cart_count_1h"], 1);
    assert_eq!(features["purchase_count_1h"], 1);
    assert_eq!(features["purchase_count_24h"], 2);
    assert_eq!(features["item_view_count_1h"], 0);
}

#[test]
fn spend_is_price_times_quantity_and_skips_what_has_no_price() {
    let features = at_t([
        purchase("2024-03-10T11:00:00Z", json!(0.1), json!(3)),
        purchase("2024-03-10T10:00:00Z", json!(2.5), json!(null)),
        purchase("2024-03-10T09:00:00Z", json!(4.0), json!(-1)),
        purchase("2024-03-10T08:00:00Z", json!(null), json!(7)),
    ]);
    // The exact sum rounded once: adding one after the other gives -1.2000000000000002.
    assert_eq!(features["total_spend_24h"], -1.2);
    assert_eq!(features["purchase_count_24h"], 4);
}

#[test]
fn found_without_contributions_is_zero_or_null() {
    let features = at_t([event("2023-01-01T00:00:00Z", "view")]);
    let expected = json!({
        "purchase_count_1h": 0, "purchase_count_24h": 0, "item_view_count_1h": 0, "item_view_count_24h": 0,
        "cart_count_1h": 0, "total_spend_24h": 0.0, "avg_session_duration": null, "conversion_rate_7d": null,
        "category_affinity": [], "days_since_last_purchase": null,
    });
    assert_eq!(features, expected);
    assert_eq!(History::<UserActivity>::new([event(T, "view")]).at("u1", T)["cart_count_1h"], json!(null));
}

#[test]
fn sessions_split_at_more_than_thirty_minutes_and_count_by_their_end() {
    let features = at_t([
        event("2024-03-10T09:00:00Z", "view"),
        event("2024-03-10T09:30:00Z", "click"),
        event("2024-03-10T10:00:00.000001Z", "cart"),
    ]);
    // 30 minutes and 0 minutes: the third event is one microsecond too late for the first session.
    assert_eq!(features["avg_session_duration"], 15.0);
    let across = at_t([event("2024-02-09T11:50:00Z", "view"), event("2024-02-09T12:10:00Z", "view")]);
    assert_eq!(across["avg_session_duration"], 20.0);
    let before = at_t([event("2024-02-09T11:50:00Z", "view"), event("2024-02-09T11:59:59Z", "view")]);
    assert_eq!(before["avg_session_duration"], json!(null));
}

#[test]
fn conversion_is_purchases_per_view() {
    let features = at_t([
        event("2024-03-05T12:00:00Z", "purchase"),
        event("2024-03-05T11:00:00Z", "view"),
        event("2024-03-04T11:00:00Z", "view"),
        event("2024-03-03T12:00:00Z", "view"),
        event("2024-03-03T11:59:59Z", "view"),
    ]);
    assert_eq!(features["conversion_rate_7d"], 1.0 / 3.0);
}

#[test]
fn categories_are_those_of_views_most_first_ties_ascending() {
    let viewed = |minute: usize, event_type: &str, category: Value| {
        let time = format!("2024-03-10T11:{minute:02}:00Z");
        json!({"user_id": "u1", "event_time": time, "event_type": event_type, "category": category})
    };
    let features = at_t([
        viewed(0, "view", json!("d")),
        viewed(1, "view", json!("c")),
        viewed(2, "view", json!("b")),
        viewed(3, "view", json!("c")),
        viewed(4, "view", json!("a")),
        viewed(5, "view", json!(null)),
        viewed(6, "cart", json!("d")),
        viewed(7, "cart", json!("d")),
    ]);
    assert_eq!(features["category_affinity"], json!(["c", "a", "b"]));
}

#[test]
fn days_since_the_last_purchase_never_expire() {
    let features = at_t([event("2023-03-11T12:00:00Z", "purchase"), event("2023-03-11T00:00:00Z", "purchase")]);
    assert_eq!(features["days_since_last_purchase"], 365.0);
}

#[test]
fn an_event_without_a_type_is_an_error_of_this_view() {
    let history = History::<UserActivity>::new([json!({"user_id": "u1", "event_time": 0, "event_type": null})]);
    assert_eq!(history.errors()[0].message, "required field `event_type` is null");
    assert_eq!(history.at("u1", T)["purchase_count_1h"], 0);
}

#[test]
fn amount_is_no_number_without_a_price() {
    let slots = extract_one::<UserActivity>(&json!({"event_type": "purchase", "price": 1.5, "quantity": 2})).unwrap();
    assert_eq!(slots["amount"], 3.0);
    let slots = extract_one::<UserActivity>(&json!({"event_type": "purchase"})).unwrap();
    assert_eq!((&slots["purchase"], &slots["amount"]), (&json!(true), &json!(null)));
    let slots = extract_one::<UserActivity>(&json!({"event_type": "cart", "price": 1.5})).unwrap();
    assert_eq!((&slots["any"], &slots["amount"]), (&json!(true), &json!(null)));
}
