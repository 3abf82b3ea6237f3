//! How the distributions of two tables differ, column by column.

use crate::drift::{ks_p_value, psi, total_variation};
use crate::figures;
use crate::profile::{Body, ColumnProfile, Kind, Lists, Numbers, TableProfile, Texts, Truths};
use crate::ranks::Distribution;
use crate::tally::Distinct;
use plumb_core::column::DataType;

/// The bins of a number's stability index: tenths of the first table.
pub const BINS: usize = 10;

/// Frequent values of either table that are bins of a text's stability index; all others share one.
pub const CATEGORIES: usize = 20;

/// Points at which the two distribution functions are kept to draw them.
const CURVE_POINTS: usize = 120;

/// Something that thresholds are set on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// The population stability index.
    Psi,
    /// The Kolmogorov-Smirnov statistic.
    Ks,
    /// Its probability if nothing had changed.
    P,
    /// The change of the share of nulls.
    Nulls,
    /// The share of values that the first table does not have.
    New,
}

impl Measure {
    /// All of them.
    pub const ALL: [Measure; 5] = [Measure::Psi, Measure::Ks, Measure::P, Measure::Nulls, Measure::New];

    /// The name in flags and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Measure::Psi => "psi",
            Measure::Ks => "ks",
            Measure::P => "p",
            Measure::Nulls => "nulls",
            Measure::New => "new",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|measure| measure.name() == name)
    }

    /// Whether a value is past a threshold: above it, a probability below it.
    pub fn is_past(self, value: f64, threshold: f64) -> bool {
        match self {
            Measure::P => value < threshold,
            _ => value > threshold,
        }
    }
}

/// Two tables compared. Pairs are of the first and the second table.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Their rows.
    pub rows: [u64; 2],
    /// Columns that only one of them has.
    pub only: [Vec<String>; 2],
    /// Columns of other types, with both types' names.
    pub retyped: Vec<(String, [String; 2])>,
    /// The columns of both, those that drifted most first. A list is two: its length and its elements.
    pub columns: Vec<ColumnDrift>,
}

/// A column of both tables.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnDrift {
    /// Its name; `x (length)` and `x[]` of a list `x`.
    pub name: String,
    /// Its type in the first table.
    pub data_type: DataType,
    /// The shares of nulls (of a list's elements: null elements).
    pub null_share: [f64; 2],
    /// Values that are not null.
    pub values: [u64; 2],
    /// The population stability index; `None` if either table has no values.
    pub psi: Option<f64>,
    /// The bins it was made of.
    pub bins: Vec<Bin>,
    /// Total variation distance over the same bins.
    pub variation: Option<f64>,
    /// Of numbers, the Kolmogorov-Smirnov test.
    pub ks: Option<Ks>,
    /// Of numbers, the means.
    pub mean: [Option<f64>; 2],
    /// Of numbers, the change of the mean in standard deviations of the first table.
    pub shift: Option<f64>,
    /// Different values.
    pub distinct: [Option<Distinct>; 2],
    /// Of texts, the share of the second table's values that the first does not have; `None` where they are too many
    /// to know.
    pub new_share: Option<f64>,
    /// Of numbers, where the distribution functions are what: x, and the share up to x in each.
    pub curve: Vec<(f64, [f64; 2])>,
    /// How the numbers read.
    pub kind: Option<Kind>,
}

/// A bin, with the share of each table's values in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Bin {
    /// What is in it, for people.
    pub label: String,
    /// The shares.
    pub shares: [f64; 2],
}

/// The two-sample Kolmogorov-Smirnov test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ks {
    /// The largest difference of the distribution functions.
    pub statistic: f64,
    /// The probability of such a one or a larger one between samples of one continuous distribution; its limit.
    pub p_value: f64,
    /// The statistic is at most this far off; 0 = exact.
    pub error: f64,
}

impl ColumnDrift {
    /// A measure; `None` where it does not apply, or there is nothing to measure.
    pub fn measure(&self, measure: Measure) -> Option<f64> {
        match measure {
            Measure::Psi => self.psi,
            Measure::Ks => self.ks.map(|ks| ks.statistic),
            Measure::P => self.ks.map(|ks| ks.p_value),
            Measure::Nulls => Some((self.null_share[1] - self.null_share[0]).abs()),
            Measure::New => self.new_share,
        }
    }

    /// Whether exactly one of the tables has values.
    pub fn is_gone_or_new(&self) -> bool {
        (self.values[0] == 0) != (self.values[1] == 0)
    }

    /// How the index is usually read.
    pub fn verdict(&self) -> &'static str {
        match self.psi {
            Some(psi) if psi < 0.1 => "stable",
            Some(psi) if psi <= 0.25 => "some shift",
            Some(_) => "large shift",
            None if self.is_gone_or_new() => "only one has values",
            None => "no values",
        }
    }

    fn new(name: String, data_type: &DataType, null_share: [f64; 2], values: [u64; 2]) -> Self {
        Self {
            name,
            data_type: data_type.clone(),
            null_share,
            values,
            psi: None,
            bins: Vec::new(),
            variation: None,
            ks: None,
            mean: [None; 2],
            shift: None,
            distinct: [None; 2],
            new_share: None,
            curve: Vec::new(),
            kind: None,
        }
    }

    /// Takes the counts of bins.
    fn set_bins(&mut self, labels: Vec<String>, counts: [Vec<f64>; 2]) {
        self.psi = psi(&counts[0], &counts[1]);
        self.variation = total_variation(&counts[0], &counts[1]);
        let all = [0, 1].map(|table| counts[table].iter().sum::<f64>().max(1.0));
        let bins = labels.into_iter().enumerate();
        self.bins = bins
            .map(|(bin, label)| Bin { label, shares: [0, 1].map(|table| counts[table][bin] / all[table]) })
            .collect();
    }
}

impl Comparison {
    /// What is past the thresholds, as column and reason. A column that has values in one table only is past every
    /// threshold on its distribution, and one of another type past any.
    pub fn flags(&self, thresholds: &[(Measure, f64)]) -> Vec<(String, String)> {
        let mut flags = Vec::new();
        if thresholds.is_empty() {
            return flags;
        }
        for (name, [a, b]) in &self.retyped {
            flags.push((name.clone(), format!("is {a} in the first and {b} in the second")));
        }
        for column in &self.columns {
            for &(measure, threshold) in thresholds {
                let is_of_values = !matches!(measure, Measure::Nulls);
                let why = match column.measure(measure) {
                    Some(value) if measure.is_past(value, threshold) => {
                        format!("{} {} (limit {})", measure.name(), figures::figure(value), figures::figure(threshold))
                    }
                    None if is_of_values && column.is_gone_or_new() => {
                        let which = if column.values[0] == 0 { "first" } else { "second" };
                        format!("{}: no values in the {which}", measure.name())
                    }
                    _ => continue,
                };
                flags.push((column.name.clone(), why));
            }
        }
        flags
    }
}

/// Compares the columns that both tables have by name.
pub fn compare(a: &TableProfile, b: &TableProfile) -> Comparison {
    let missing = |from: &TableProfile, other: &TableProfile| {
        let names = from.columns.iter().map(|column| column.name.clone());
        names.filter(|name| other.column(name).is_none()).collect()
    };
    let mut comparison = Comparison {
        rows: [a.rows, b.rows],
        only: [missing(a, b), missing(b, a)],
        retyped: Vec::new(),
        columns: Vec::new(),
    };
    for of_a in &a.columns {
        let Some(of_b) = b.column(&of_a.name) else { continue };
        let drifts = compare_columns(of_a, of_b);
        if drifts.is_empty() {
            let types = [of_a, of_b].map(|column| column.data_type.name());
            comparison.retyped.push((of_a.name.clone(), types));
        }
        comparison.columns.extend(drifts);
    }
    // Without an index because one table has no values: first. Stable, so that equals stay in the table's order.
    let weight = |drift: &ColumnDrift| drift.psi.unwrap_or(if drift.is_gone_or_new() { f64::INFINITY } else { -1.0 });
    comparison.columns.sort_by(|a, b| weight(b).total_cmp(&weight(a)));
    comparison
}

/// No drift if the types cannot be compared.
fn compare_columns(a: &ColumnProfile, b: &ColumnProfile) -> Vec<ColumnDrift> {
    let null_share = [a, b].map(ColumnProfile::null_share);
    let values = [a, b].map(|column| column.rows - column.nulls);
    let drift = ColumnDrift::new(a.name.clone(), &a.data_type, null_share, values);
    match (&a.body, &b.body) {
        (Body::Lists(of_a), Body::Lists(of_b)) => compare_lists(a, drift, of_a, of_b),
        (body_a, body_b) => compare_bodies(drift, body_a, body_b).into_iter().collect(),
    }
}

fn compare_lists(a: &ColumnProfile, mut lengths: ColumnDrift, of_a: &Lists, of_b: &Lists) -> Vec<ColumnDrift> {
    let DataType::List(of) = &a.data_type else { return Vec::new() };
    lengths.name = format!("{} (length)", a.name);
    lengths.data_type = DataType::I64;
    let values = [of_a, of_b].map(|lists| count_of(&lists.elements));
    let nulls = [0, 1].map(|table| {
        let nulls = [of_a, of_b][table].null_elements;
        nulls as f64 / (nulls + values[table]).max(1) as f64
    });
    let elements = ColumnDrift::new(format!("{}[]", a.name), of, nulls, values);
    let Some(elements) = compare_bodies(elements, &of_a.elements, &of_b.elements) else { return Vec::new() };
    vec![compare_numbers(lengths, &of_a.lengths, &of_b.lengths), elements]
}

fn count_of(body: &Body) -> u64 {
    match body {
        Body::Numbers(numbers) => numbers.count() + numbers.not_finite(),
        Body::Texts(texts) => texts.count,
        Body::Truths(truths) => truths.yes + truths.no,
        Body::Lists(lists) => lists.lengths.count(),
    }
}

fn compare_bodies(drift: ColumnDrift, a: &Body, b: &Body) -> Option<ColumnDrift> {
    match (a, b) {
        (Body::Numbers(a), Body::Numbers(b)) if (a.kind == Kind::Instant) == (b.kind == Kind::Instant) => {
            Some(compare_numbers(drift, a, b))
        }
        (Body::Texts(a), Body::Texts(b)) => Some(compare_texts(drift, a, b)),
        (Body::Truths(a), Body::Truths(b)) => Some(compare_truths(drift, *a, *b)),
        _ => None,
    }
}

fn compare_numbers(mut drift: ColumnDrift, a: &Numbers, b: &Numbers) -> ColumnDrift {
    let both = [a, b];
    drift.kind = Some(a.kind);
    drift.mean = both.map(Numbers::mean);
    drift.distinct = both.map(|numbers| Some(numbers.tally.distinct()));
    if let ([Some(mean_a), Some(mean_b)], Some(std)) = (drift.mean, a.std().filter(|&std| std > 0.0)) {
        drift.shift = Some((mean_b - mean_a) / std);
    }
    let ranks = both.map(|numbers| numbers.ranks.clone().distribution());
    let (labels, counts) = bins_of(both, &ranks);
    drift.set_bins(labels, counts);
    if ranks.iter().all(|ranks| ranks.count() > 0) {
        drift.ks = Some(kolmogorov_smirnov(both, &ranks));
        drift.curve = curve(both, &ranks);
    }
    drift
}

/// The middle of the bounds of how many values are at most `x`.
fn up_to(numbers: &Numbers, ranks: &Distribution, x: f64) -> f64 {
    let (low, high) = ranks.count_while(|key| numbers.kind.number(key) <= x);
    (low + high) as f64 / 2.0
}

/// Bins between the tenths of the first table, and one for what is no finite number.
fn bins_of(both: [&Numbers; 2], ranks: &[Distribution; 2]) -> (Vec<String>, [Vec<f64>; 2]) {
    let kind = both[0].kind;
    let keys = (1..BINS).filter_map(|tenth| ranks[0].quantile(tenth as f64 / BINS as f64));
    let mut edges: Vec<i64> = keys.collect();
    edges.dedup();
    let mut labels = Vec::new();
    for (index, &edge) in edges.iter().enumerate() {
        labels.push(match index.checked_sub(1).map(|before| edges[before]) {
            None => format!("≤ {}", kind.shown(edge)),
            Some(before) => format!("{} – {}", kind.shown(before), kind.shown(edge)),
        });
    }
    labels.push(edges.last().map_or_else(|| "all".to_owned(), |&last| format!("> {}", kind.shown(last))));
    let mut counts = [0, 1].map(|table| {
        let mut before = 0.0;
        let mut counts: Vec<f64> = Vec::with_capacity(labels.len());
        for &edge in &edges {
            let here = up_to(both[table], &ranks[table], kind.number(edge));
            counts.push((here - before).max(0.0));
            before = here;
        }
        counts.push((ranks[table].count() as f64 - before).max(0.0));
        counts
    });
    if both.iter().any(|numbers| numbers.not_finite() > 0) {
        labels.push("NaN, ±∞".to_owned());
        counts.iter_mut().zip(both).for_each(|(counts, numbers)| counts.push(numbers.not_finite() as f64));
    }
    (labels, counts)
}

/// D = sup |F_a(x) − F_b(x)|, taken just after each value of either; exact where ranks are.
fn kolmogorov_smirnov(both: [&Numbers; 2], ranks: &[Distribution; 2]) -> Ks {
    let counts = [0, 1].map(|table| ranks[table].count());
    let mut statistic = 0.0f64;
    for table in [0, 1] {
        for key in ranks[table].values() {
            let x = both[table].kind.number(key);
            let shares = [0, 1].map(|of| up_to(both[of], &ranks[of], x) / counts[of] as f64);
            statistic = statistic.max((shares[0] - shares[1]).abs());
        }
    }
    let error = ranks.iter().map(Distribution::rank_error).sum();
    Ks { statistic, p_value: ks_p_value(statistic, counts[0], counts[1]), error }
}

fn curve(both: [&Numbers; 2], ranks: &[Distribution; 2]) -> Vec<(f64, [f64; 2])> {
    let half = CURVE_POINTS / 2;
    let mut points: Vec<f64> = (0..2)
        .flat_map(|table| (0..=half).map(move |step| (table, step as f64 / half as f64)))
        .filter_map(|(table, share)| Some(both[table].kind.number(ranks[table].quantile(share)?)))
        .collect();
    points.sort_by(f64::total_cmp);
    points.dedup();
    let share = |x: f64, table: usize| up_to(both[table], &ranks[table], x) / ranks[table].count() as f64;
    points.into_iter().map(|x| (x, [share(x, 0), share(x, 1)])).collect()
}

fn compare_texts(mut drift: ColumnDrift, a: &Texts, b: &Texts) -> ColumnDrift {
    let both = [a, b];
    drift.distinct = both.map(|texts| Some(texts.tally.distinct()));
    let mut categories: Vec<String> = Vec::new();
    for frequent in both.iter().flat_map(|texts| texts.tally.top(CATEGORIES)) {
        if !categories.contains(&frequent.value) {
            categories.push(frequent.value);
        }
    }
    let counts = both.map(|texts| {
        let mut counts: Vec<f64> = categories
            .iter()
            .map(|category| {
                let (low, high) = texts.tally.count(category.as_str());
                (low + high) as f64 / 2.0
            })
            .collect();
        counts.push((texts.count as f64 - counts.iter().sum::<f64>()).max(0.0));
        counts
    });
    if both.iter().all(|texts| texts.tally.is_exact()) && a.count > 0 && b.count > 0 {
        let unseen = |value: &str| a.tally.count(value).1 == 0;
        let all = b.tally.top(usize::MAX).into_iter().filter(|frequent| unseen(&frequent.value));
        drift.new_share = Some(all.map(|frequent| frequent.at_least).sum::<u64>() as f64 / b.count as f64);
    }
    let shown = categories.iter().map(|text| if text.is_empty() { "(empty)".to_owned() } else { text.clone() });
    drift.set_bins(shown.chain(["(others)".to_owned()]).collect(), counts);
    drift
}

fn compare_truths(mut drift: ColumnDrift, a: Truths, b: Truths) -> ColumnDrift {
    let counts = [a, b].map(|truths| vec![truths.yes as f64, truths.no as f64]);
    drift.set_bins(vec!["true".to_owned(), "false".to_owned()], counts);
    drift
}

#[cfg(test)]
mod tests {
    use super::*;
    use plumb_core::column::{Column, Values};
    use proptest::prelude::*;

    fn table(columns: &[(&str, Column)]) -> TableProfile {
        let mut table = TableProfile::default();
        let columns: Vec<(String, Column)> =
            columns.iter().map(|(name, column)| ((*name).to_owned(), column.clone())).collect();
        table.add(columns[0].1.len() as u64, &columns, 2).unwrap();
        table
    }

    fn floats(values: impl IntoIterator<Item = f64>) -> Column {
        Column::of(Values::F64(values.into_iter().collect()))
    }

    fn texts(values: &[&str]) -> Column {
        let mut column = Column::new(&DataType::Utf8);
        values.iter().for_each(|text| column.push_bytes(text.as_bytes()));
        column
    }

    fn one(a: Column, b: Column) -> ColumnDrift {
        compare(&table(&[("c", a)]), &table(&[("c", b)])).columns.remove(0)
    }

    #[test]
    fn drift_as_scipy_and_numpy_have_it() {
        // scipy 1.17.1, numpy 2: i, j = np.arange(100), np.arange(80); A = (i*37 % 101).astype(float);
        // B = (j*53 % 89) * 1.3; r = scipy.stats.ks_2samp(A, B);
        // r.statistic, scipy.special.kolmogorov(np.sqrt(100*80/180) * r.statistic)
        let drift = one(
            floats((0..100).map(|i| f64::from(i * 37 % 101))),
            floats((0..80).map(|j| f64::from(j * 53 % 89) * 1.3)),
        );
        let ks = drift.ks.unwrap();
        assert!((ks.statistic - 0.15).abs() < 1e-12, "{ks:?}");
        assert!((ks.p_value - 0.269_999_671_677_354_56).abs() < 1e-9, "{ks:?}");
        assert_eq!(ks.error, 0.0);
        // edges = np.quantile(A, np.arange(1, 10)/10, method='inverted_cdf'); counts up to and including each edge:
        // [10]*10 and [6, 8, 6, 8, 6, 7, 8, 6, 8, 17]; ((pb-pa)*np.log(pb/pa)).sum()
        assert!((drift.psi.unwrap() - 0.115_236_677_420_327_42).abs() < 1e-12, "{drift:?}");
        assert_eq!(drift.verdict(), "some shift");
    }

    #[test]
    fn texts_and_what_is_new() {
        let drift = one(texts(&["a", "a", "b", "b"]), texts(&["a", "a", "a", "z"]));
        assert_eq!(drift.new_share, Some(0.25));
        assert_eq!(drift.variation, Some(0.5));
        let labels: Vec<&str> = drift.bins.iter().map(|bin| bin.label.as_str()).collect();
        assert_eq!(labels, ["a", "b", "z", "(others)"]);
        assert_eq!(drift.bins[2].shares, [0.0, 0.25]);
        assert!(drift.psi.unwrap() > 1.0);
        assert!(drift.ks.is_none());
    }

    #[test]
    fn columns_that_cannot_be_compared_are_said_so() {
        let a = table(&[("only_a", floats([1.0])), ("x", floats([1.0])), ("n", Column::of(Values::I64(vec![1])))]);
        let b = table(&[("x", texts(&["1"])), ("n", floats([1.0])), ("only_b", floats([1.0]))]);
        let comparison = compare(&a, &b);
        assert_eq!(comparison.only, [vec!["only_a".to_owned()], vec!["only_b".to_owned()]]);
        assert_eq!(comparison.retyped, [("x".to_owned(), ["f64".to_owned(), "string".to_owned()])]);
        // Integers that another tool wrote as floats are the same numbers.
        assert_eq!((comparison.columns.len(), comparison.columns[0].psi), (1, Some(0.0)));
        assert!(comparison.flags(&[]).is_empty());
        assert_eq!(comparison.flags(&[(Measure::Psi, 9.0)]).len(), 1, "another type is past any threshold");
    }

    #[test]
    fn a_column_without_values_is_not_passed_over() {
        let nulls = Column::nulls(&DataType::F64, 3);
        let gone = compare(&table(&[("c", floats([1.0, 2.0, 3.0]))]), &table(&[("c", nulls.clone())]));
        let column = &gone.columns[0];
        assert_eq!(
            (column.psi, column.ks, column.null_share, column.verdict()),
            (None, None, [0.0, 1.0], "only one has values")
        );
        assert_eq!(gone.flags(&[(Measure::Psi, 0.2)]), [("c".to_owned(), "psi: no values in the second".to_owned())]);
        assert_eq!(gone.flags(&[(Measure::Nulls, 0.5)])[0].1, "nulls 1 (limit 0.5)");
        let neither = compare(&table(&[("c", nulls.clone())]), &table(&[("c", nulls)]));
        assert!(neither.flags(&[(Measure::Psi, 0.0), (Measure::Ks, 0.0), (Measure::Nulls, 0.0)]).is_empty());
    }

    #[test]
    fn numbers_that_are_none_are_a_bin() {
        let drift = one(floats([1.0, 2.0]), floats([1.0, 2.0, f64::NAN, f64::INFINITY]));
        assert_eq!(drift.bins.last().unwrap().shares, [0.0, 0.5]);
        assert!(drift.psi.unwrap() > 0.25);
        assert_eq!(drift.ks.unwrap().statistic, 0.0);
        let none = one(floats([f64::NAN]), floats([f64::NAN]));
        assert_eq!((none.psi, none.ks), (Some(0.0), None));
    }

    #[test]
    fn lists_drift_in_length_and_in_elements() {
        let list = |lists: &[&[&str]]| {
            let mut column = Column::new(&DataType::List(Box::new(DataType::Utf8)));
            for list in lists {
                let Values::List { offsets, child } = &mut column.values else { panic!("no list") };
                list.iter().for_each(|text| child.push_bytes(text.as_bytes()));
                offsets.push(child.len() as u32);
            }
            column
        };
        let comparison =
            compare(&table(&[("l", list(&[&["a"], &["b"]]))]), &table(&[("l", list(&[&["a", "b"], &["a", "b"]]))]));
        let by_name = |name: &str| comparison.columns.iter().find(|column| column.name == name).unwrap();
        assert!(by_name("l (length)").psi.unwrap() > 1.0);
        assert_eq!(by_name("l[]").psi, Some(0.0));
    }

    proptest! {
        #[test]
        fn the_laws_of_comparing(
            a in prop::collection::vec(-5.0f64..5.0, 1..80),
            b in prop::collection::vec(-4.0f64..6.0, 1..80),
        ) {
            let (there, back) = (one(floats(a.clone()), floats(b.clone())), one(floats(b.clone()), floats(a.clone())));
            prop_assert_eq!(there.ks.unwrap(), back.ks.unwrap());
            // By the definition.
            let up_to = |values: &[f64], x: f64| {
                values.iter().filter(|&&value| value <= x).count() as f64 / values.len() as f64
            };
            let differences = a.iter().chain(&b).map(|&x| (up_to(&a, x) - up_to(&b, x)).abs());
            let statistic = differences.fold(0.0, f64::max);
            prop_assert!((there.ks.unwrap().statistic - statistic).abs() < 1e-12);
            prop_assert!(there.psi.unwrap() >= 0.0);
            for shares in [0, 1].map(|table| there.bins.iter().map(|bin| bin.shares[table]).sum::<f64>()) {
                prop_assert!((shares - 1.0).abs() < 1e-9);
            }
            let same = one(floats(a.clone()), floats(a));
            prop_assert_eq!((same.psi, same.variation, same.shift.unwrap_or(0.0)), (Some(0.0), Some(0.0), 0.0));
            let ks = same.ks.unwrap();
            prop_assert_eq!((ks.statistic, ks.p_value), (0.0, 1.0));
        }
    }
}
