//! `user_activity`: what a user does, over all their events.

use plumb_sdk::prelude::*;

/// What is read of an event.
#[derive(Debug, Event)]
pub struct Event<'a> {
    event_type: &'a str,
    category: Option<&'a str>,
    price: Option<f64>,
    quantity: Option<i64>,
}

/// What an event contributes.
#[derive(Debug, Slots)]
pub struct Slots<'a> {
    any: bool,
    view: bool,
    cart: bool,
    purchase: bool,
    amount: Option<f64>,
    viewed_category: Option<&'a str>,
}

/// What the features are made of.
#[derive(Debug, Aggregates)]
pub struct Aggregates<'a> {
    #[count(purchase, window = "1h")]
    purchase_count_1h: i64,
    #[count(purchase, window = "24h")]
    purchase_count_24h: i64,
    #[count(view, window = "1h")]
    item_view_count_1h: i64,
    #[count(view, window = "24h")]
    item_view_count_24h: i64,
    #[count(cart, window = "1h")]
    cart_count_1h: i64,
    #[sum(amount, window = "24h")]
    total_spend_24h: Option<f64>,
    #[session_count(any, gap = "30m", window = "30d")]
    sessions_30d: i64,
    #[session_duration_sum(any, gap = "30m", window = "30d")]
    session_us_30d: i64,
    #[count(purchase, window = "7d")]
    purchases_7d: i64,
    #[count(view, window = "7d")]
    views_7d: i64,
    #[top_k(viewed_category, k = 3, window = "24h")]
    category_affinity: Vec<&'a str>,
    #[last_time(purchase)]
    last_purchase: Option<Time>,
}

/// The features of a user.
#[derive(Debug, Features)]
pub struct Features<'a> {
    /// Purchases in the last hour.
    purchase_count_1h: i64,
    /// Purchases in the last 24 hours.
    purchase_count_24h: i64,
    /// Views in the last hour.
    item_view_count_1h: i64,
    /// Views in the last 24 hours.
    item_view_count_24h: i64,
    /// Carts in the last hour.
    cart_count_1h: i64,
    /// Sum of price × quantity over the purchases of the last 24 hours.
    total_spend_24h: Option<f64>,
    /// Mean length in minutes of the sessions (gap 30 minutes) that ended in the last 30 days.
    #[from(sessions_30d, session_us_30d)]
    avg_session_duration: Option<f64>,
    /// Purchases per view in the last 7 days.
    #[from(purchases_7d, views_7d)]
    conversion_rate_7d: Option<f64>,
    /// The up to 3 categories with most views in the last 24 hours, most first.
    category_affinity: Vec<&'a str>,
    /// Days since the last purchase.
    #[from(last_purchase)]
    days_since_last_purchase: Option<f64>,
}

/// The view.
#[derive(Debug)]
pub struct UserActivity;

impl<'a> View<'a> for UserActivity {
    const DEFINITION: Definition = Definition {
        description: "What a user does.",
        owner: "ranking",
        team: "ranking",
        tags: &["activity"],
        freshness: Some("5s"),
        ..Definition::new("user_activity", env!("CARGO_PKG_VERSION"), "user", &["user_id"])
    };
    type Event = Event<'a>;
    type Slots = Slots<'a>;
    type Aggregates = Aggregates<'a>;
    type Features = Features<'a>;

    fn extract(event: Event<'a>) -> Result<Slots<'a>> {
        let (view, purchase) = (event.event_type == "view", event.event_type == "purchase");
        // A purchase without a price is NaN: no number, so the host counts it and the sum leaves it out.
        let amount = event.price.unwrap_or(f64::NAN) * event.quantity.unwrap_or(1) as f64;
        Ok(Slots {
            any: true,
            view,
            cart: event.event_type == "cart",
            purchase,
            amount: purchase.then_some(amount),
            viewed_category: event.category.filter(|_| view),
        })
    }

    fn finalize(of: Aggregates<'a>, at: Time) -> Result<Features<'a>> {
        let ratio = |above: i64, below: i64| (below != 0).then(|| above as f64 / below as f64);
        Ok(Features {
            purchase_count_1h: of.purchase_count_1h,
            purchase_count_24h: of.purchase_count_24h,
            item_view_count_1h: of.item_view_count_1h,
            item_view_count_24h: of.item_view_count_24h,
            cart_count_1h: of.cart_count_1h,
            total_spend_24h: of.total_spend_24h,
            avg_session_duration: ratio(of.session_us_30d, of.sessions_30d * 60_000_000),
            conversion_rate_7d: ratio(of.purchases_7d, of.views_7d),
            category_affinity: of.category_affinity,
            days_since_last_purchase: of.last_purchase.map(|last| at.days_since(last)),
        })
    }
}

plumb_sdk::export!(UserActivity);

#[cfg(test)]
mod tests;
