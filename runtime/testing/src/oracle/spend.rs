//! The views of a user's days and purchases.

use super::{DAY, HOUR, MINUTE, Named, OracleEvent, OracleValue, amount, exact_sum, scaled};
use num_bigint::BigInt;
use std::cmp::Ordering;
use std::collections::BTreeSet;

/// The features of `user_daily` at `t`; `None` = not found.
pub fn user_daily(events: &[OracleEvent], user: &str, t: i64) -> Option<Vec<Named>> {
    let own = own_events(events, user, t)?;
    let since = |days: i64| own.iter().filter(move |e| e.time >= t - days * DAY);
    let last = own.iter().map(|e| e.time).max()?;
    let kinds: BTreeSet<&str> = since(30).map(|e| e.kind.as_str()).collect();
    Some(vec![
        ("event_count_7d", OracleValue::Int(since(7).count() as i64)),
        ("event_count_30d", OracleValue::Int(since(30).count() as i64)),
        ("last_event_days_ago", OracleValue::Int((t - last).div_euclid(DAY))),
        ("event_type_counts", OracleValue::Int(kinds.len() as i64)),
    ])
}

/// The features of `user_spend` at `t`; `None` = not found.
pub fn user_spend(events: &[OracleEvent], user: &str, t: i64) -> Option<Vec<Named>> {
    let own = own_events(events, user, t)?;
    let amounts: Vec<f64> = transactions(&own).into_iter().filter(|e| e.0 >= t - 3 * DAY).map(|e| e.1).collect();
    let purchases = own.iter().filter(|e| e.kind == "purchase").count();
    Some(vec![
        ("user_avg_3day_purchase_amount", mean(&amounts)),
        ("user_total_transactions", OracleValue::Int(purchases as i64)),
    ])
}

/// The features of `user_transactions` at `t`; `None` = not found.
pub fn user_transactions(events: &[OracleEvent], user: &str, t: i64) -> Option<Vec<Named>> {
    let own = own_events(events, user, t)?;
    let all = transactions(&own);
    let recent: Vec<&(i64, f64, &OracleEvent)> = all.iter().filter(|e| e.0 >= t - 30 * DAY).collect();
    let amounts: Vec<f64> = recent.iter().map(|e| e.1).collect();
    let items: BTreeSet<&String> = recent.iter().filter_map(|e| e.2.item.as_ref()).collect();
    let categories: BTreeSet<&[u8]> =
        recent.iter().filter_map(|e| e.2.category.as_ref()).map(|category| category.as_bytes()).collect();
    let first = categories.into_iter().take(64);
    let (least, most) = (extreme(&amounts, Ordering::Less), extreme(&amounts, Ordering::Greater));
    let last = all.iter().map(|e| e.0).max();
    // The last complete five minutes.
    let end = t.div_euclid(5 * MINUTE) * (5 * MINUTE);
    let tumbling: Vec<f64> = all.iter().filter(|e| e.0 >= end - 5 * MINUTE && e.0 < end).map(|e| e.1).collect();
    let per_item = exact_sum(&amounts).filter(|_| !items.is_empty()).map(|sum| sum / items.len() as f64);
    Some(vec![
        ("transaction_count_30d", OracleValue::Int(amounts.len() as i64)),
        ("total_amount_30d", exact_sum(&amounts).into()),
        ("avg_amount_30d", mean(&amounts)),
        ("min_amount_30d", least.into()),
        ("max_amount_30d", most.into()),
        ("std_amount_30d", deviation(&amounts).into()),
        ("median_amount_30d", median(&amounts).into()),
        ("amount_range_30d", most.and_then(|most| Some(most - least?)).filter(|range| range.is_finite()).into()),
        ("unique_items_30d", OracleValue::Int(items.len() as i64)),
        (
            "categories_30d",
            OracleValue::Texts(first.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()),
        ),
        ("avg_amount_per_item_30d", per_item.into()),
        ("hours_since_last_transaction", last.map(|last| (t - last) as f64 / HOUR as f64).into()),
        ("tumbling_5m_count", OracleValue::Int(tumbling.len() as i64)),
        ("tumbling_5m_sum", exact_sum(&tumbling).into()),
        ("tumbling_5m_avg", mean(&tumbling)),
        ("tumbling_5m_max", extreme(&tumbling, Ordering::Greater).into()),
        ("tumbling_5m_min", extreme(&tumbling, Ordering::Less).into()),
        ("tumbling_5m_std", deviation(&tumbling).into()),
    ])
}

fn own_events<'e>(events: &'e [OracleEvent], user: &str, t: i64) -> Option<Vec<&'e OracleEvent>> {
    let own: Vec<&OracleEvent> = events.iter().filter(|e| e.user.as_deref() == Some(user) && e.time < t).collect();
    (!own.is_empty()).then_some(own)
}

/// Time and amount of the purchases that have one.
pub(super) fn transactions<'e>(own: &[&'e OracleEvent]) -> Vec<(i64, f64, &'e OracleEvent)> {
    let purchases = own.iter().filter(|e| e.kind == "purchase");
    purchases.filter_map(|e| Some((e.time, amount(e)?, *e))).collect()
}

fn mean(values: &[f64]) -> OracleValue {
    match values.len() {
        0 => OracleValue::Null,
        n => exact_sum(values).map(|sum| sum / n as f64).into(),
    }
}

/// The outermost value; of two zeros -0.0 is the lesser.
fn extreme(values: &[f64], side: Ordering) -> Option<f64> {
    let mut outermost = *values.first()?;
    for &value in values {
        let order = value.partial_cmp(&outermost)?.then(outermost.is_sign_negative().cmp(&value.is_sign_negative()));
        if order == side {
            outermost = value;
        }
    }
    Some(outermost)
}

/// The sample standard deviation: the float nearest to the root of the exact variance, found by bisection.
pub fn deviation(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let count = BigInt::from(values.len());
    let sum: BigInt = values.iter().map(|&value| scaled(value)).sum();
    let squares: BigInt = values.iter().map(|&value| (scaled(value) * &count - &sum).pow(2)).sum();
    let below = &count * &count * (&count - 1);
    // How half of so many units of 2^-1074 lies beside the deviation.
    let beside = |halves: BigInt| {
        let square: BigInt = halves.pow(2) * &below;
        square.cmp(&(&squares * 4))
    };
    let (mut low, mut high) = (0u64, f64::MAX.to_bits());
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if beside(scaled(f64::from_bits(middle)) * 2) == Ordering::Greater { high = middle - 1 } else { low = middle }
    }
    let next = match f64::from_bits(low + 1) {
        next if next.is_finite() => scaled(next),
        _ => BigInt::from(1) << 2098,
    };
    let up = match beside(scaled(f64::from_bits(low)) + next) {
        Ordering::Less => true,
        Ordering::Equal => low % 2 == 1,
        Ordering::Greater => false,
    };
    Some(f64::from_bits(low + u64::from(up))).filter(|value| value.is_finite())
}

/// The lower median as the sketch tells it: the middle of its bucket, of which there are 64 equal ones from each power
/// of two to the next.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let exact = *sorted.get(sorted.len().div_ceil(2).checked_sub(1)?)?;
    if exact == 0.0 {
        return Some(0.0);
    }
    // In units of 2^-1081 even the buckets of the smallest floats are whole.
    let magnitude = scaled(exact.abs()) * 128;
    let mut octave = BigInt::from(1);
    while &octave * 2 <= magnitude {
        octave *= 2;
    }
    let width = &octave / 64;
    let mut start = octave;
    while &start + &width <= magnitude {
        start += &width;
    }
    let middle: BigInt = (start + width / 2) / 128;
    let (mut low, mut high) = (0u64, f64::MAX.to_bits());
    while low < high {
        let between = low + (high - low).div_ceil(2);
        if scaled(f64::from_bits(between)) <= middle { low = between } else { high = between - 1 }
    }
    Some(f64::from_bits(low).copysign(exact))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviations() {
        assert_eq!(deviation(&[1.0]), None);
        assert_eq!(deviation(&[0.1, 0.1, 0.1]), Some(0.0));
        assert_eq!(deviation(&[1.0, 2.0, 3.0]), Some(1.0));
        assert_eq!(deviation(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]), Some((32.0f64 / 7.0).sqrt()));
        assert_eq!(deviation(&[f64::MAX, f64::MIN]), None);
    }

    #[test]
    fn medians_are_lower_ones_within_a_percent() {
        for (values, exact) in [(&[1.0, 2.0, 30.0, 40.0][..], 2.0), (&[-5.0, 19.99, 7.0], 7.0), (&[5e-324], 5e-324)] {
            let told = median(values).unwrap();
            assert!((told - exact).abs() <= exact / 100.0, "{told} for {exact}");
        }
        assert_eq!(median(&[-0.0]), Some(0.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn zeros_have_an_order() {
        assert_eq!(extreme(&[0.0, -0.0, 0.0], Ordering::Less).map(f64::to_bits), Some((-0.0f64).to_bits()));
        assert_eq!(extreme(&[-0.0, 0.0, -0.0], Ordering::Greater).map(f64::to_bits), Some(0));
    }
}
