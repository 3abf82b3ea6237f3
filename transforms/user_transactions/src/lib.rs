//! `user_transactions`: what a user pays, over purchases that have a price.

use plumb_sdk::prelude::*;

/// What is read of an event.
#[derive(Debug, Event)]
pub struct Event<'a> {
    event_type: &'a str,
    item_id: Option<&'a str>,
    category: Option<&'a str>,
    price: Option<f64>,
    quantity: Option<i64>,
}

/// What an event contributes.
#[derive(Debug, Slots)]
pub struct Slots<'a> {
    amount: Option<f64>,
    item: Option<&'a str>,
    category: Option<&'a str>,
}

/// What the features are made of.
#[derive(Debug, Aggregates)]
pub struct Aggregates<'a> {
    #[count(amount, window = "30d")]
    transaction_count_30d: i64,
    #[sum(amount, window = "30d")]
    total_amount_30d: Option<f64>,
    #[mean(amount, window = "30d")]
    avg_amount_30d: Option<f64>,
    #[min(amount, window = "30d")]
    min_amount_30d: Option<f64>,
    #[max(amount, window = "30d")]
    max_amount_30d: Option<f64>,
    #[stddev(amount, window = "30d")]
    std_amount_30d: Option<f64>,
    #[quantile(amount, q = 0.5, window = "30d")]
    median_amount_30d: Option<f64>,
    #[count_distinct(item, window = "30d")]
    unique_items_30d: i64,
    #[collect_set(category, k = 64, window = "30d")]
    categories_30d: Vec<&'a str>,
    #[last_time(amount)]
    last_transaction: Option<Time>,
    #[count(amount, tumbling = "5m")]
    tumbling_5m_count: i64,
    #[sum(amount, tumbling = "5m")]
    tumbling_5m_sum: Option<f64>,
    #[mean(amount, tumbling = "5m")]
    tumbling_5m_avg: Option<f64>,
    #[max(amount, tumbling = "5m")]
    tumbling_5m_max: Option<f64>,
    #[min(amount, tumbling = "5m")]
    tumbling_5m_min: Option<f64>,
    #[stddev(amount, tumbling = "5m")]
    tumbling_5m_std: Option<f64>,
}

/// The features of a user.
#[derive(Debug, Features)]
pub struct Features<'a> {
    /// Transactions in the last 30 days: purchases whose price × quantity is a number.
    transaction_count_30d: i64,
    /// Sum of their price × quantity.
    total_amount_30d: Option<f64>,
    /// Mean of it.
    avg_amount_30d: Option<f64>,
    /// The least of it.
    min_amount_30d: Option<f64>,
    /// The greatest of it.
    max_amount_30d: Option<f64>,
    /// Sample standard deviation of it.
    std_amount_30d: Option<f64>,
    /// Lower median of it, at most 1 % off.
    median_amount_30d: Option<f64>,
    /// The greatest less the least.
    #[from(max_amount_30d, min_amount_30d)]
    amount_range_30d: Option<f64>,
    /// Distinct items of these transactions.
    unique_items_30d: i64,
    /// Their distinct categories in order, the first 64.
    categories_30d: Vec<&'a str>,
    /// Sum of price × quantity per distinct item.
    #[from(total_amount_30d, unique_items_30d)]
    avg_amount_per_item_30d: Option<f64>,
    /// Hours since the last transaction ever.
    #[from(last_transaction)]
    hours_since_last_transaction: Option<f64>,
    /// Transactions in the last whole five minutes.
    tumbling_5m_count: i64,
    /// Sum of their price × quantity.
    tumbling_5m_sum: Option<f64>,
    /// Mean of it.
    tumbling_5m_avg: Option<f64>,
    /// The greatest of it.
    tumbling_5m_max: Option<f64>,
    /// The least of it.
    tumbling_5m_min: Option<f64>,
    /// Sample standard deviation of it.
    tumbling_5m_std: Option<f64>,
}

/// The view.
#[derive(Debug)]
pub struct UserTransactions;

impl<'a> View<'a> for UserTransactions {
    const DEFINITION: Definition = Definition {
        description: "What a user pays.",
        owner: "payments",
        team: "payments",
        tags: &["spend", "fraud"],
        freshness: Some("5s"),
        ..Definition::new("user_transactions", env!("CARGO_PKG_VERSION"), "user", &["user_id"])
    };
    type Event = Event<'a>;
    type Slots = Slots<'a>;
    type Aggregates = Aggregates<'a>;
    type Features = Features<'a>;

    fn extract(event: Event<'a>) -> Result<Slots<'a>> {
        let purchase = event.event_type == "purchase";
        // A purchase without a price is NaN: no number, so the host counts it and no aggregate sees it.
        let amount = event.price.unwrap_or(f64::NAN) * event.quantity.unwrap_or(1) as f64;
        let transaction = purchase && amount.is_finite();
        Ok(Slots {
            amount: purchase.then_some(amount),
            item: event.item_id.filter(|_| transaction),
            category: event.category.filter(|_| transaction),
        })
    }

    fn finalize(of: Aggregates<'a>, at: Time) -> Result<Features<'a>> {
        let range = of.max_amount_30d.zip(of.min_amount_30d).map(|(max, min)| max - min);
        let per_item = of.total_amount_30d.map(|total| total / of.unique_items_30d as f64);
        Ok(Features {
            transaction_count_30d: of.transaction_count_30d,
            total_amount_30d: of.total_amount_30d,
            avg_amount_30d: of.avg_amount_30d,
            min_amount_30d: of.min_amount_30d,
            max_amount_30d: of.max_amount_30d,
            std_amount_30d: of.std_amount_30d,
            median_amount_30d: of.median_amount_30d,
            // Beyond f64 there is no number.
            amount_range_30d: range.filter(|range| range.is_finite()),
            unique_items_30d: of.unique_items_30d,
            categories_30d: of.categories_30d,
            avg_amount_per_item_30d: per_item.filter(|_| of.unique_items_30d != 0),
            hours_since_last_transaction: of.last_transaction.map(|last| at.hours_since(last)),
            tumbling_5m_count: of.tumbling_5m_count,
            tumbling_5m_sum: of.tumbling_5m_sum,
            tumbling_5m_avg: of.tumbling_5m_avg,
            tumbling_5m_max: of.tumbling_5m_max,
            tumbling_5m_min: of.tumbling_5m_min,
            tumbling_5m_std: of.tumbling_5m_std,
        })
    }
}

plumb_sdk::export!(UserTransactions);

#[cfg(test)]
mod tests;
