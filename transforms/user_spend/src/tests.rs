//! The catalogue's definitions, feature by feature.

use super::UserSpend;
use plumb_sdk::testing::{History, Value, extract_one, json};

const T: &str = "2024-03-10T12:00:00Z";

fn purchase(time: &str, price: Value, quantity: Value) -> Value {
    json!({"user_id": "u1", "event_time": time, "event_type": "purchase", "price": price, "quantity": quantity})
}

fn at_t(events: impl IntoIterator<Item = Value>) -> Value {
    History::<UserSpend>::new(events).at("u1", T)
}

#[test]
fn the_mean_is_over_three_days_of_purchases_with_a_price() {
    let features = at_t([
        purchase("2024-03-10T12:00:00Z", json!(1000), json!(1)),
        purchase("2024-03-10T11:59:59.999999Z", json!(0.1), json!(3)),
        purchase("2024-03-09T12:00:00Z", json!(null), json!(5)),
        purchase("2024-03-07T12:00:00Z", json!(2.5), json!(null)),
        purchase("2024-03-07T11:59:59.999999Z", json!(1000), json!(1)),
        json!({"user_id": "u1", "event_time": "2024-03-10T11:00:00Z", "event_type": "cart", "price": 1000}),
    ]);
    // 0.1 × 3 is 0.30000000000000004; the sum is rounded before it is divided.
    assert_eq!(features["user_avg_3day_purchase_amount"], (0.1 * 3.0 + 2.5) / 2.0);
    assert_eq!(features["user_total_transactions"], 4);
}

#[test]
fn the_mean_of_nothing_is_null() {
    let features = at_t([purchase("2023-01-01T00:00:00Z", json!(3), json!(null))]);
    assert_eq!(features, json!({"user_avg_3day_purchase_amount": null, "user_total_transactions": 1}));
    let features = at_t([json!({"user_id": "u1", "event_time": 0, "event_type": "view"})]);
    assert_eq!(features, json!({"user_avg_3day_purchase_amount": null, "user_total_transactions": 0}));
}

#[test]
fn amounts_may_be_zero_or_negative_but_not_infinite() {
    let amount = |price: Value, quantity: Value| {
        let event = json!({"event_type": "purchase", "price": price, "quantity": quantity});
        extract_one::<UserSpend>(&event).unwrap()["amount"].clone()
    };
    assert_eq!(amount(json!(0), json!(5)), 0.0);
    assert_eq!(amount(json!(2.5), json!(-2)), -5.0);
    assert_eq!(amount(json!(1e308), json!(10)), json!(null));
    assert_eq!(amount(json!(null), json!(10)), json!(null));
}
