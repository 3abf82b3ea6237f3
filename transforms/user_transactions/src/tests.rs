//! The catalogue's definitions, feature by feature.

use super::UserTransactions;
use plumb_sdk::testing::{History, Value, extract_one, json};

const T: &str = "2024-03-10T12:03:00Z";

fn bought(time: &str, item: &str, category: &str, price: f64) -> Value {
    json!({"user_id": "u1", "event_time": time, "event_type": "purchase", "item_id": item, "category": category,
        "price": price})
}

fn at_t(events: impl IntoIterator<Item = Value>) -> Value {
    History::<UserTransactions>::new(events).at("u1", T)
}

fn is_near(told: &Value, exact: f64) -> bool {
    told.as_f64().is_some_and(|told| (told - exact).abs() <= exact.abs() / 100.0)
}

#[test]
fn thirty_days_are_summed_up() {
    let features = at_t([
        bought("2024-03-10T12:03:00Z", "i9", "z", 1000.0),
        bought("2024-03-10T11:00:00Z", "i1", "b", 10.0),
        bought("2024-03-09T11:00:00Z", "i2", "a", 20.0),
        bought("2024-03-08T11:00:00Z", "i1", "b", 40.0),
        bought("2024-02-09T12:03:00Z", "i3", "C", 30.0),
        bought("2024-02-09T12:02:59.999999Z", "i4", "d", 1000.0),
    ]);
    assert_eq!(features["transaction_count_30d"], 4);
    assert_eq!(features["total_amount_30d"], 100.0);
    assert_eq!(features["avg_amount_30d"], 25.0);
    assert_eq!(features["min_amount_30d"], 10.0);
    assert_eq!(features["max_amount_30d"], 40.0);
    assert_eq!(features["amount_range_30d"], 30.0);
    assert_eq!(features["std_amount_30d"], (500.0f64 / 3.0).sqrt());
    assert!(is_near(&features["median_amount_30d"], 20.0), "the lower one: {features}");
    assert_eq!(features["unique_items_30d"], 3);
    assert_eq!(features["categories_30d"], json!(["C", "a", "b"]));
    assert_eq!(features["avg_amount_per_item_30d"], 100.0 / 3.0);
    assert_eq!(features["hours_since_last_transaction"], 63.0 * 60e6 / 3.6e9);
}

#[test]
fn the_tumbling_window_is_the_last_whole_one() {
    let features = at_t([
        bought("2024-03-10T12:00:00Z", "i1", "a", 1000.0),
        bought("2024-03-10T11:59:59.999999Z", "i1", "a", 3.0),
        bought("2024-03-10T11:55:00Z", "i1", "a", 5.0),
        bought("2024-03-10T11:54:59.999999Z", "i1", "a", 1000.0),
    ]);
    assert_eq!(features["tumbling_5m_count"], 2);
    assert_eq!(features["tumbling_5m_sum"], 8.0);
    assert_eq!(features["tumbling_5m_avg"], 4.0);
    assert_eq!(features["tumbling_5m_max"], 5.0);
    assert_eq!(features["tumbling_5m_min"], 3.0);
    assert_eq!(features["tumbling_5m_std"], 2.0f64.sqrt());
    assert_eq!(features["transaction_count_30d"], 4);
    // At its very end a window is complete, and an event there belongs to the next.
    let history = History::<UserTransactions>::new([bought("2024-03-10T11:55:00Z", "i1", "a", 5.0)]);
    let count = |at: &str| history.at("u1", at)["tumbling_5m_count"].clone();
    assert_eq!(count("2024-03-10T11:59:59.999999Z"), 0);
    assert_eq!(count("2024-03-10T12:00:00Z"), 1);
    assert_eq!(count("2024-03-10T12:04:59.999999Z"), 1);
    assert_eq!(count("2024-03-10T12:05:00Z"), 0);
}

#[test]
fn found_without_transactions_is_zero_or_null() {
    let features = at_t([json!({"user_id": "u1", "event_time": 0, "event_type": "view", "price": 3})]);
    let expected = json!({
        "transaction_count_30d": 0, "total_amount_30d": 0.0, "avg_amount_30d": null, "min_amount_30d": null,
        "max_amount_30d": null, "std_amount_30d": null, "median_amount_30d": null, "amount_range_30d": null,
        "unique_items_30d": 0, "categories_30d": [], "avg_amount_per_item_30d": null,
        "hours_since_last_transaction": null, "tumbling_5m_count": 0, "tumbling_5m_sum": 0.0, "tumbling_5m_avg": null,
        "tumbling_5m_max": null, "tumbling_5m_min": null, "tumbling_5m_std": null,
    });
    assert_eq!(features, expected);
}

#[test]
fn one_transaction_has_no_deviation_and_equal_ones_have_none() {
    let one = [bought("2024-03-10T11:57:00Z", "i1", "a", 0.1)];
    let features = at_t(one.clone());
    assert_eq!((&features["std_amount_30d"], &features["tumbling_5m_std"]), (&json!(null), &json!(null)));
    assert_eq!(features["amount_range_30d"], 0.0);
    let features = at_t(one.iter().chain(&one).chain(&one).cloned());
    assert_eq!((&features["std_amount_30d"], &features["tumbling_5m_std"]), (&json!(0.0), &json!(0.0)));
}

#[test]
fn a_purchase_without_an_amount_is_no_transaction() {
    let slots = |event: Value| extract_one::<UserTransactions>(&event).unwrap();
    let nothing = json!({"amount": null, "item": null, "category": null});
    let purchase = |price: Value, quantity: i64| json!({"event_type": "purchase", "item_id": "i1", "category": "a", "price": price, "quantity": quantity});
    assert_eq!(slots(purchase(json!(null), 1)), nothing);
    assert_eq!(slots(purchase(json!(1e308), 10)), nothing);
    assert_eq!(slots(purchase(json!(-2), 3)), json!({"amount": -6.0, "item": "i1", "category": "a"}));
    assert_eq!(slots(json!({"event_type": "cart", "item_id": "i1", "price": 3})), nothing);
}

#[test]
fn the_first_sixty_four_categories_are_kept() {
    let minutes = (0..70).map(|minute| {
        let time = format!("2024-03-10T{:02}:{:02}:00Z", 8 + minute / 60, minute % 60);
        bought(&time, "i1", &format!("c{:02}", 69 - minute), 1.0)
    });
    let expected: Vec<String> = (0..64).map(|number| format!("c{number:02}")).collect();
    assert_eq!(at_t(minutes)["categories_30d"], json!(expected));
}

#[test]
fn an_item_is_needed_for_a_share_per_item() {
    let features = at_t([json!({"user_id": "u1", "event_time": "2024-03-10T11:00:00Z", "event_type": "purchase",
        "price": 7})]);
    assert_eq!((&features["total_amount_30d"], &features["unique_items_30d"]), (&json!(7.0), &json!(0)));
    assert_eq!(features["avg_amount_per_item_30d"], json!(null));
}
