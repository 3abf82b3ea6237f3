//! The catalogue, read naively: every value by a scan of the whole list of events.
//!
//! Slow on purpose and written from `catalogue.md` alone. It shares no code with the core, the guests
//! or the decoders (only the text forms of values), so that agreement means something.

mod spend;

pub use spend::{user_daily, user_spend, user_transactions};

use num_bigint::BigInt;
use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};

const MINUTE: i64 = 60_000_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// An accepted event.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OracleEvent {
    /// The event's id.
    pub id: Option<String>,
    /// Its time, µs.
    pub time: i64,
    /// Its user.
    pub user: Option<String>,
    /// Its item.
    pub item: Option<String>,
    /// Its type.
    pub kind: String,
    /// Its category.
    pub category: Option<String>,
    /// Price of one.
    pub price: Option<f64>,
    /// How many.
    pub quantity: Option<i64>,
    /// Rating.
    pub rating: Option<f64>,
}

/// A value of a feature.
#[derive(Debug, Clone, PartialEq)]
pub enum OracleValue {
    /// Null.
    Null,
    /// An integer.
    Int(i64),
    /// A float, compared by its bits in text form.
    Float(f64),
    /// A list of strings.
    Texts(Vec<String>),
}

impl OracleValue {
    /// Whether a value served as JSON is this one, bit for bit.
    pub fn is_json(&self, served: &serde_json::Value) -> bool {
        match self {
            OracleValue::Null => served.is_null(),
            OracleValue::Int(value) => served.as_i64() == Some(*value),
            OracleValue::Float(value) => served.as_f64().map(f64::to_bits) == Some(value.to_bits()),
            OracleValue::Texts(values) => *served == serde_json::json!(values),
        }
    }
}

impl std::fmt::Display for OracleValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OracleValue::Null => write!(f, "null"),
            OracleValue::Int(value) => write!(f, "{value}"),
            OracleValue::Float(value) => write!(f, "{value:?}"),
            OracleValue::Texts(values) => write!(f, "{values:?}"),
        }
    }
}

impl From<Option<f64>> for OracleValue {
    fn from(value: Option<f64>) -> Self {
        value.map_or(OracleValue::Null, OracleValue::Float)
    }
}

/// A named value.
pub type Named = (&'static str, OracleValue);

/// A view's features of one entity at an instant; `None` = not found.
pub type View = fn(&[OracleEvent], &str, i64) -> Option<Vec<Named>>;

/// The views the oracle knows, each with its entity.
pub const VIEWS: [(&str, &str, View); 5] = [
    ("user_activity", "user", user_activity),
    ("item_activity", "item", item_activity),
    ("user_daily", "user", user_daily),
    ("user_spend", "user", user_spend),
    ("user_transactions", "user", user_transactions),
];

/// A view by its name.
pub fn view(name: &str) -> Option<View> {
    VIEWS.iter().find(|(known, ..)| *known == name).map(|&(.., view)| view)
}

/// The features of `user_activity` at `t`; `None` = not found.
pub fn user_activity<E: Borrow<OracleEvent>>(events: &[E], user: &str, t: i64) -> Option<Vec<Named>> {
    let events = events.iter().map(Borrow::borrow);
    let mut own: Vec<&OracleEvent> = events.filter(|e| e.user.as_deref() == Some(user) && e.time < t).collect();
    if own.is_empty() {
        return None;
    }
    own.sort_by_key(|e| e.time);
    let count = |kind: &str, width: i64| own.iter().filter(|e| e.kind == kind && e.time >= t - width).count() as i64;
    let spend: Vec<f64> =
        own.iter().filter(|e| e.kind == "purchase" && e.time >= t - DAY).filter_map(|e| amount(e)).collect();
    let mut views_by_category: BTreeMap<&str, i64> = BTreeMap::new();
    for event in own.iter().filter(|e| e.kind == "view" && e.time >= t - DAY) {
        if let Some(category) = &event.category {
            *views_by_category.entry(category).or_default() += 1;
        }
    }
    let mut affinity: Vec<(&str, i64)> = views_by_category.into_iter().collect();
    affinity.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.as_bytes().cmp(b.0.as_bytes())));
    affinity.truncate(3);
    let mut sessions: Vec<(i64, i64)> = Vec::new();
    for event in &own {
        match sessions.last_mut() {
            Some(last) if event.time - last.1 <= 30 * MINUTE => last.1 = event.time,
            _ => sessions.push((event.time, event.time)),
        }
    }
    let ended: Vec<i64> = sessions.iter().filter(|s| s.1 >= t - 30 * DAY).map(|s| s.1 - s.0).collect();
    let last_purchase = own.iter().filter(|e| e.kind == "purchase").map(|e| e.time).max();
    Some(vec![
        ("purchase_count_1h", OracleValue::Int(count("purchase", HOUR))),
        ("purchase_count_24h", OracleValue::Int(count("purchase", DAY))),
        ("item_view_count_1h", OracleValue::Int(count("view", HOUR))),
        ("item_view_count_24h", OracleValue::Int(count("view", DAY))),
        ("cart_count_1h", OracleValue::Int(count("cart", HOUR))),
        ("total_spend_24h", exact_sum(&spend).into()),
        (
            "avg_session_duration",
            match ended.len() {
                0 => OracleValue::Null,
                n => OracleValue::Float(ended.iter().sum::<i64>() as f64 / (n as i64 * 60_000_000) as f64),
            },
        ),
        ("conversion_rate_7d", ratio(count("purchase", 7 * DAY), count("view", 7 * DAY))),
        ("category_affinity", OracleValue::Texts(affinity.into_iter().map(|(name, _)| name.to_owned()).collect())),
        ("days_since_last_purchase", last_purchase.map(|time| (t - time) as f64 / 86_400_000_000.0).into()),
    ])
}

/// The features of `item_activity` at `t`; `None` = not found.
pub fn item_activity<E: Borrow<OracleEvent>>(events: &[E], item: &str, t: i64) -> Option<Vec<Named>> {
    let all = || events.iter().map(Borrow::borrow);
    let own: Vec<&OracleEvent> = all().filter(|e| e.item.as_deref() == Some(item) && e.time < t).collect();
    if own.is_empty() {
        return None;
    }
    let count = |kind: &str, width: i64| own.iter().filter(|e| e.kind == kind && e.time >= t - width).count() as i64;
    let revenue: Vec<f64> =
        own.iter().filter(|e| e.kind == "purchase" && e.time >= t - DAY).filter_map(|e| amount(e)).collect();
    let ratings: Vec<f64> = own.iter().filter_map(|e| e.rating).filter(|r| r.is_finite()).collect();
    Some(vec![
        ("view_count_1h", OracleValue::Int(count("view", HOUR))),
        ("view_count_24h", OracleValue::Int(count("view", DAY))),
        ("purchase_count_24h", OracleValue::Int(count("purchase", DAY))),
        ("cart_add_count_1h", OracleValue::Int(count("cart", HOUR))),
        (
            "avg_rating",
            match ratings.len() {
                0 => OracleValue::Null,
                n => exact_sum(&ratings).map(|sum| sum / n as f64).into(),
            },
        ),
        ("conversion_rate_24h", ratio(count("purchase", DAY), count("view", DAY))),
        ("revenue_24h", exact_sum(&revenue).into()),
        ("popularity_rank_1h", OracleValue::Float(popularity_rank(all(), item, t))),
    ])
}

fn popularity_rank<'e>(events: impl Iterator<Item = &'e OracleEvent>, item: &str, t: i64) -> f64 {
    let b = t.div_euclid(MINUTE) * MINUTE;
    let mut views: BTreeMap<&str, i64> = BTreeMap::new();
    for event in events.filter(|e| e.kind == "view" && e.time >= b - HOUR && e.time < b) {
        if let Some(item) = &event.item {
            *views.entry(item).or_default() += 1;
        }
    }
    let Some(&own) = views.get(item) else { return 0.0 };
    match views.len() {
        1 => 1.0,
        n => views.values().filter(|&&other| other < own).count() as f64 / (n as i64 - 1) as f64,
    }
}

/// The newest event before `t` that contributed to a view.
pub fn newest_contribution(events: &[OracleEvent], view: &str, key: &str, t: i64) -> Option<i64> {
    let contributes = |e: &&OracleEvent| match view {
        // Every event takes part in the user's sessions, and is counted by the day.
        "user_activity" | "user_daily" => e.user.as_deref() == Some(key),
        "user_spend" => e.user.as_deref() == Some(key) && e.kind == "purchase",
        "user_transactions" => e.user.as_deref() == Some(key) && !spend::transactions(&[*e]).is_empty(),
        _ => {
            e.item.as_deref() == Some(key)
                && (matches!(e.kind.as_str(), "view" | "cart" | "purchase") || e.rating.is_some_and(f64::is_finite))
        }
    };
    events.iter().filter(|e| e.time < t).filter(contributes).map(|e| e.time).max()
}

fn ratio(above: i64, below: i64) -> OracleValue {
    if below == 0 { OracleValue::Null } else { OracleValue::Float(above as f64 / below as f64) }
}

fn amount(event: &OracleEvent) -> Option<f64> {
    let product = event.price? * event.quantity.unwrap_or(1) as f64;
    (product.is_finite() && event.price?.is_finite()).then_some(product)
}

/// The exact sum of finite floats, rounded once to nearest even; `None` beyond f64, +0.0 for nothing.
pub fn exact_sum(values: &[f64]) -> Option<f64> {
    let exact: BigInt = values.iter().map(|&value| scaled(value)).sum();
    if exact == BigInt::ZERO {
        return Some(0.0);
    }
    // Search the floats by bisection on their ordered bit patterns: no rounding arithmetic to get wrong.
    let negative = exact < BigInt::ZERO;
    let target = if negative { -&exact } else { exact };
    let (mut low, mut high) = (0u64, f64::MAX.to_bits());
    if target > scaled(f64::MAX) {
        // Half an ulp above the largest float rounds away, anything less rounds back to it.
        let half_ulp = BigInt::from(1) << (1074 + 970);
        if &target - scaled(f64::MAX) >= half_ulp {
            return None;
        }
        low = high;
    }
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if scaled(f64::from_bits(middle)) <= target { low = middle } else { high = middle - 1 }
    }
    let below = f64::from_bits(low);
    let mut nearest = below;
    if low < f64::MAX.to_bits() {
        let above = f64::from_bits(low + 1);
        let to_below = &target - scaled(below);
        let to_above = scaled(above) - &target;
        if to_above < to_below || (to_above == to_below && low % 2 == 1) {
            nearest = above;
        }
    }
    Some(if nearest == 0.0 {
        0.0
    } else if negative {
        -nearest
    } else {
        nearest
    })
}

/// A finite float times 2^1074, an integer.
fn scaled(value: f64) -> BigInt {
    let bits = value.to_bits();
    let exponent = (bits >> 52 & 0x7ff) as i64;
    let fraction = bits & ((1 << 52) - 1);
    let magnitude = match exponent {
        0 => BigInt::from(fraction),
        _ => BigInt::from(fraction | 1 << 52) << (exponent - 1),
    };
    if value.is_sign_negative() { -magnitude } else { magnitude }
}

/// What ingest accepts of copies of one event, in source order: the first of each id, all without one.
pub fn accepted(events: &[OracleEvent]) -> Vec<OracleEvent> {
    let mut seen = BTreeSet::new();
    events.iter().filter(|e| e.id.as_ref().is_none_or(|id| seen.insert(id.clone()))).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_rounded_once() {
        assert_eq!(exact_sum(&[0.1; 10]), Some(1.0));
        assert_eq!(exact_sum(&[1e308, 1e308]), None);
        assert_eq!(exact_sum(&[1e308, 1e308, -1e308]), Some(1e308));
        assert_eq!(exact_sum(&[1e16, 1.0, -1e16]), Some(1.0));
        assert_eq!(exact_sum(&[-0.1, 0.1]).map(f64::to_bits), Some(0));
        assert_eq!(
            exact_sum(&[f64::MIN_POSITIVE, -f64::from_bits(1)]),
            Some(f64::from_bits(f64::MIN_POSITIVE.to_bits() - 1))
        );
        assert_eq!(exact_sum(&[-2.5]), Some(-2.5));
    }
}
