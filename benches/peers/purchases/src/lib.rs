//! `peer_purchases`: the twelve windowed features of a user's purchases that DuckDB and Polars compute beside it.

use plumb_sdk::prelude::*;

/// What is read of an event.
#[derive(Debug, Event)]
pub struct Event<'a> {
    event_type: &'a str,
    item_id: Option<&'a str>,
    price: Option<f64>,
    quantity: Option<i64>,
}

/// What an event contributes.
#[derive(Debug, Slots)]
pub struct Slots<'a> {
    purchase: bool,
    amount: Option<f64>,
    item: Option<&'a str>,
}

/// What the features are made of.
#[derive(Debug, Aggregates)]
pub struct Aggregates {
    #[count(purchase, window = "1h")]
    count_1h: i64,
    #[count(purchase, window = "24h")]
    count_24h: i64,
    #[count(purchase, window = "7d")]
    count_7d: i64,
    #[count(purchase, window = "30d")]
    count_30d: i64,
    #[sum(amount, window = "24h")]
    sum_24h: Option<f64>,
    #[sum(amount, window = "7d")]
    sum_7d: Option<f64>,
    #[sum(amount, window = "30d")]
    sum_30d: Option<f64>,
    #[mean(amount, window = "3d")]
    mean_3d: Option<f64>,
    #[min(amount, window = "30d")]
    min_30d: Option<f64>,
    #[max(amount, window = "30d")]
    max_30d: Option<f64>,
    #[stddev(amount, window = "30d")]
    stddev_30d: Option<f64>,
    #[count_distinct(item, window = "30d")]
    items_30d: i64,
}

/// The features of a user.
#[derive(Debug, Features)]
pub struct Features {
    /// Purchases.
    count_1h: i64,
    /// Purchases.
    count_24h: i64,
    /// Purchases.
    count_7d: i64,
    /// Purchases.
    count_30d: i64,
    /// Sum of price × quantity.
    sum_24h: Option<f64>,
    /// Sum of price × quantity.
    sum_7d: Option<f64>,
    /// Sum of price × quantity.
    sum_30d: Option<f64>,
    /// Mean price × quantity.
    mean_3d: Option<f64>,
    /// The least price × quantity.
    min_30d: Option<f64>,
    /// The greatest price × quantity.
    max_30d: Option<f64>,
    /// Sample standard deviation of price × quantity.
    stddev_30d: Option<f64>,
    /// Distinct items.
    items_30d: i64,
}

/// The view.
#[derive(Debug)]
pub struct PeerPurchases;

impl<'a> View<'a> for PeerPurchases {
    const DEFINITION: Definition = Definition {
        description: "The features of the peers' queries.",
        owner: "plumb",
        team: "plumb",
        ..Definition::new("peer_purchases", env!("CARGO_PKG_VERSION"), "user", &["user_id"])
    };
    type Event = Event<'a>;
    type Slots = Slots<'a>;
    type Aggregates = Aggregates;
    type Features = Features;

    fn extract(event: Event<'a>) -> Result<Slots<'a>> {
        let purchase = event.event_type == "purchase";
        let amount = event.price.map(|price| price * event.quantity.unwrap_or(1) as f64).filter(|_| purchase);
        Ok(Slots { purchase, amount, item: event.item_id.filter(|_| purchase) })
    }

    fn finalize(of: Aggregates, _at: Time) -> Result<Features> {
        Ok(Features {
            count_1h: of.count_1h,
            count_24h: of.count_24h,
            count_7d: of.count_7d,
            count_30d: of.count_30d,
            sum_24h: of.sum_24h,
            sum_7d: of.sum_7d,
            sum_30d: of.sum_30d,
            mean_3d: of.mean_3d,
            min_30d: of.min_30d,
            max_30d: of.max_30d,
            stddev_30d: of.stddev_30d,
            items_30d: of.items_30d,
        })
    }
}

plumb_sdk::export!(PeerPurchases);
