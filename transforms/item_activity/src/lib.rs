//! `item_activity`: what happens to an item, by all users.

use plumb_sdk::prelude::*;

/// What is read of an event.
#[derive(Debug, Event)]
pub struct Event<'a> {
    event_type: &'a str,
    price: Option<f64>,
    quantity: Option<i64>,
    rating: Option<f64>,
}

/// What an event contributes.
#[derive(Debug, Slots)]
pub struct Slots {
    view: bool,
    cart: bool,
    purchase: bool,
    amount: Option<f64>,
    rating: Option<f64>,
}

/// What the features are made of.
#[derive(Debug, Aggregates)]
pub struct Aggregates {
    #[count(view, window = "1h")]
    view_count_1h: i64,
    #[count(view, window = "24h")]
    view_count_24h: i64,
    #[count(purchase, window = "24h")]
    purchase_count_24h: i64,
    #[count(cart, window = "1h")]
    cart_add_count_1h: i64,
    #[mean(rating)]
    avg_rating: Option<f64>,
    #[sum(amount, window = "24h")]
    revenue_24h: Option<f64>,
    #[relative_rank(view, hopping = "1h", hop = "1m")]
    popularity_rank_1h: f64,
}

/// The features of an item.
#[derive(Debug, Features)]
pub struct Features {
    /// Views in the last hour.
    view_count_1h: i64,
    /// Views in the last 24 hours.
    view_count_24h: i64,
    /// Purchases in the last 24 hours.
    purchase_count_24h: i64,
    /// Carts in the last hour.
    cart_add_count_1h: i64,
    /// Mean rating over all events that carry one.
    avg_rating: Option<f64>,
    /// Purchases per view in the last 24 hours.
    #[from(purchase_count_24h, view_count_24h)]
    conversion_rate_24h: Option<f64>,
    /// Sum of price × quantity over the purchases of the last 24 hours.
    revenue_24h: Option<f64>,
    /// Relative rank by views among all items, in the hour before the present minute.
    popularity_rank_1h: f64,
}

/// The view.
#[derive(Debug)]
pub struct ItemActivity;

impl<'a> View<'a> for ItemActivity {
    const DEFINITION: Definition = Definition {
        description: "What happens to an item.",
        owner: "ranking",
        team: "ranking",
        tags: &["activity"],
        freshness: Some("5s"),
        ..Definition::new("item_activity", env!("CARGO_PKG_VERSION"), "item", &["item_id"])
    };
    type Event = Event<'a>;
    type Slots = Slots;
    type Aggregates = Aggregates;
    type Features = Features;

    fn extract(event: Event<'a>) -> Result<Slots> {
        let purchase = event.event_type == "purchase";
        // A purchase without a price is NaN: no number, so the host counts it and the sum leaves it out.
        let amount = event.price.unwrap_or(f64::NAN) * event.quantity.unwrap_or(1) as f64;
        Ok(Slots {
            view: event.event_type == "view",
            cart: event.event_type == "cart",
            purchase,
            amount: purchase.then_some(amount),
            rating: event.rating,
        })
    }

    fn finalize(of: Aggregates, _at: Time) -> Result<Features> {
        let views = of.view_count_24h;
        Ok(Features {
            view_count_1h: of.view_count_1h,
            view_count_24h: views,
            purchase_count_24h: of.purchase_count_24h,
            cart_add_count_1h: of.cart_add_count_1h,
            avg_rating: of.avg_rating,
            conversion_rate_24h: (views != 0).then(|| of.purchase_count_24h as f64 / views as f64),
            revenue_24h: of.revenue_24h,
            popularity_rank_1h: of.popularity_rank_1h,
        })
    }
}

plumb_sdk::export!(ItemActivity);

#[cfg(test)]
mod tests;
