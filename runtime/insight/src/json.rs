//! Profiles and comparisons as JSON.

use crate::compare::{ColumnDrift, Comparison, Measure};
use crate::figures::instant;
use crate::profile::{Body, ColumnProfile, Kind, Numbers, QUANTILES, TableProfile};
use crate::tally::{Distinct, Frequent};
use serde_json::{Map, Value, json};

/// Frequent values listed.
const TOP: usize = 10;

impl TableProfile {
    /// Everything known, one object a column.
    pub fn to_json(&self) -> Value {
        json!({"rows": self.rows, "columns": self.columns.iter().map(of_column).collect::<Vec<_>>()})
    }
}

fn of_column(column: &ColumnProfile) -> Value {
    let mut object = Map::new();
    object.insert("column".into(), json!(column.name));
    object.insert("type".into(), json!(column.data_type.name()));
    object.insert("rows".into(), json!(column.rows));
    object.insert("nulls".into(), json!(column.nulls));
    object.insert("null_share".into(), json!(column.null_share()));
    object.extend(of_body(&column.body));
    object.into()
}

fn of_body(body: &Body) -> Map<String, Value> {
    let mut object = Map::new();
    match body {
        Body::Numbers(numbers) => object = of_numbers(numbers),
        Body::Texts(texts) => {
            object.insert("values".into(), json!(texts.count));
            object.insert("empty".into(), json!(texts.empty));
            object.insert("distinct".into(), of_distinct(&texts.tally.distinct()));
            object.insert("top".into(), of_top(&texts.tally.top(TOP), |text| json!(text)));
        }
        Body::Truths(truths) => {
            object.insert("values".into(), json!(truths.yes + truths.no));
            object.insert("true".into(), json!(truths.yes));
            object.insert("false".into(), json!(truths.no));
        }
        Body::Lists(lists) => {
            object.insert("length".into(), of_numbers(&lists.lengths).into());
            let mut elements = of_body(&lists.elements);
            elements.insert("nulls".into(), json!(lists.null_elements));
            object.insert("elements".into(), elements.into());
        }
    }
    object
}

fn of_numbers(numbers: &Numbers) -> Map<String, Value> {
    let ranks = numbers.ranks.clone().distribution();
    let key = |key: i64| of_key(numbers.kind, key);
    let quantiles: Map<String, Value> = QUANTILES
        .iter()
        .filter_map(|&share| Some((format!("p{:02.0}", share * 100.0), key(ranks.quantile(share)?))))
        .collect();
    let number = |value: Option<f64>| match numbers.kind {
        Kind::Instant => value.map_or(Value::Null, |us| json!(instant(us))),
        _ => json!(value),
    };
    let mut object = Map::new();
    object.insert("values".into(), json!(numbers.count() + numbers.not_finite()));
    object.insert("nan".into(), json!(numbers.nan));
    object.insert("infinite".into(), json!(numbers.infinite[0] + numbers.infinite[1]));
    object.insert("mean".into(), number(numbers.mean()));
    // Of instants, in µs.
    object.insert("std".into(), json!(numbers.std()));
    object.insert("min".into(), ranks.quantile(0.0).map_or(Value::Null, key));
    object.insert("max".into(), ranks.quantile(1.0).map_or(Value::Null, key));
    object.insert("quantiles".into(), quantiles.into());
    object.insert("rank_error".into(), json!(ranks.rank_error()));
    object.insert("distinct".into(), of_distinct(&numbers.tally.distinct()));
    object.insert("top".into(), of_top(&numbers.tally.top(TOP), |&value| key(value)));
    object
}

fn of_key(kind: Kind, key: i64) -> Value {
    match kind {
        Kind::Integer => json!(key),
        Kind::Float => json!(kind.number(key)),
        Kind::Instant => json!(kind.shown(key)),
    }
}

fn of_distinct(distinct: &Distinct) -> Value {
    json!({
        "count": distinct.count.round() as u64,
        "exact": distinct.exact,
        "low": distinct.low.floor() as u64,
        "high": distinct.high.ceil() as u64,
    })
}

fn of_top<T>(top: &[Frequent<T>], value: impl Fn(&T) -> Value) -> Value {
    let one = |frequent: &Frequent<T>| json!({"value": value(&frequent.value), "at_least": frequent.at_least, "at_most": frequent.at_most});
    top.iter().map(one).collect()
}

impl Comparison {
    /// Everything found; `passed` is null without thresholds.
    pub fn to_json(&self, thresholds: &[(Measure, f64)]) -> Value {
        let flags = self.flags(thresholds);
        let limits: Map<String, Value> =
            thresholds.iter().map(|&(measure, limit)| (measure.name().to_owned(), json!(limit))).collect();
        let retyped = self.retyped.iter().map(|(name, [a, b])| json!({"column": name, "a": a, "b": b}));
        json!({
            "passed": (!thresholds.is_empty()).then_some(flags.is_empty()),
            "fail_on": limits,
            "flags": flags.iter().map(|(name, why)| json!({"column": name, "why": why})).collect::<Vec<_>>(),
            "rows_a": self.rows[0],
            "rows_b": self.rows[1],
            "only_a": self.only[0],
            "only_b": self.only[1],
            "retyped": retyped.collect::<Vec<_>>(),
            "columns": self.columns.iter().map(of_drift).collect::<Vec<_>>(),
        })
    }
}

fn of_drift(column: &ColumnDrift) -> Value {
    let bins = column.bins.iter().map(|bin| json!({"bin": bin.label, "a": bin.shares[0], "b": bin.shares[1]}));
    json!({
        "column": column.name,
        "type": column.data_type.name(),
        "values_a": column.values[0],
        "values_b": column.values[1],
        "null_share_a": column.null_share[0],
        "null_share_b": column.null_share[1],
        "psi": column.psi,
        "reading": column.verdict(),
        "total_variation": column.variation,
        "ks": column.ks.map(|ks| ks.statistic),
        "ks_p": column.ks.map(|ks| ks.p_value),
        "ks_error": column.ks.map(|ks| ks.error),
        "mean_a": column.mean[0],
        "mean_b": column.mean[1],
        "mean_shift": column.shift,
        "distinct_a": column.distinct[0].as_ref().map(of_distinct),
        "distinct_b": column.distinct[1].as_ref().map(of_distinct),
        "new_share": column.new_share,
        "bins": bins.collect::<Vec<_>>(),
    })
}
