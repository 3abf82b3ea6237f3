//! `user_spend`: what a user's purchases cost.

use plumb_sdk::prelude::*;

/// What is read of an event.
#[derive(Debug, Event)]
pub struct Event<'a> {
    event_type: &'a str,
    price: Option<f64>,
    quantity: Option<i64>,
}

/// What an event contributes.
#[derive(Debug, Slots)]
pub struct Slots {
    purchase: bool,
    amount: Option<f64>,
}

/// What the features are made of.
#[derive(Debug, Aggregates)]
pub struct Aggregates {
    #[mean(amount, window = "3d")]
    user_avg_3day_purchase_amount: Option<f64>,
    #[count(purchase)]
    user_total_transactions: i64,
}

/// The features of a user.
#[derive(Debug, Features)]
pub struct Features {
    /// Mean price × quantity of the purchases of the last 3 days that have a price.
    user_avg_3day_purchase_amount: Option<f64>,
    /// Purchases ever.
    user_total_transactions: i64,
}

/// The view.
#[derive(Debug)]
pub struct UserSpend;

impl<'a> View<'a> for UserSpend {
    const DEFINITION: Definition = Definition {
        description: "What a user's purchases cost.",
        owner: "payments",
        team: "payments",
        tags: &["spend"],
        freshness: Some("5s"),
        ..Definition::new("user_spend", env!("CARGO_PKG_VERSION"), "user", &["user_id"])
    };
    type Event = Event<'a>;
    type Slots = Slots;
    type Aggregates = Aggregates;
    type Features = Features;

    fn extract(event: Event<'a>) -> Result<Slots> {
        let purchase = event.event_type == "purchase";
        // A purchase without a price is NaN: no number, so the host counts it and the mean leaves it out.
        let amount = event.price.unwrap_or(f64::NAN) * event.quantity.unwrap_or(1) as f64;
        Ok(Slots { purchase, amount: purchase.then_some(amount) })
    }

    fn finalize(of: Aggregates, _at: Time) -> Result<Features> {
        Ok(Features {
            user_avg_3day_purchase_amount: of.user_avg_3day_purchase_amount,
            user_total_transactions: of.user_total_transactions,
        })
    }
}

plumb_sdk::export!(UserSpend);

#[cfg(test)]
mod tests;
