//! Profiles and comparisons as aligned text.

use crate::compare::{ColumnDrift, Comparison, Measure};
use crate::figures::{clipped, duration, figure, grouped, instant, percent};
use crate::profile::{Body, ColumnProfile, Kind, Numbers, TableProfile};
use crate::tally::{Distinct, Frequent};

/// Characters of a value in a cell.
const CELL: usize = 24;

/// Rows of cells below a header; numbers to the right.
fn aligned(header: &[&str], to_right: &[bool], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..header.len())
        .map(|at| {
            let cells = rows.iter().map(|row| row[at].chars().count());
            cells.chain([header[at].chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    let header: Vec<String> = header.iter().map(|&name| name.to_owned()).collect();
    for row in std::iter::once(&header).chain(rows) {
        let cells = row.iter().zip(&widths).zip(to_right).map(|((cell, &width), &right)| {
            let space = " ".repeat(width - cell.chars().count());
            if right { format!("{space}{cell}") } else { format!("{cell}{space}") }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A number of distinct values.
pub(crate) fn of_distinct(distinct: &Distinct) -> String {
    let count = grouped(distinct.count.round() as u64);
    if distinct.exact { count } else { format!("~{count}") }
}

/// A number of a kind for people; an instant to the second.
pub(crate) fn of_number(kind: Kind, value: f64) -> String {
    match kind {
        Kind::Instant => instant((value / 1e6).round() * 1e6),
        _ => figure(value),
    }
}

/// The spread of numbers of a kind for people.
pub(crate) fn of_spread(kind: Kind, value: f64) -> String {
    match kind {
        Kind::Instant => duration(value),
        _ => figure(value),
    }
}

/// The most frequent values with their shares.
fn of_top<T>(top: &[Frequent<T>], count: u64, shown: impl Fn(&T) -> String) -> String {
    let one = |frequent: &Frequent<T>| {
        format!("{} {}", clipped(&shown(&frequent.value), CELL), percent(frequent.count() / count.max(1) as f64))
    };
    top.iter().map(one).collect::<Vec<_>>().join(", ")
}

const HEADER: [&str; 12] =
    ["column", "type", "rows", "nulls", "distinct", "mean", "std", "min", "p05", "p50", "p95", "max"];

impl TableProfile {
    /// One line a column (a list has three: itself, its length, its elements), then the frequent values.
    pub fn to_text(&self) -> String {
        let mut rows = Vec::new();
        let mut tops = Vec::new();
        for column in &self.columns {
            let nulls = percent(column.null_share());
            let head = vec![column.name.clone(), column.data_type.name(), grouped(column.rows), nulls];
            push_rows(head, column, &column.body, &mut rows, &mut tops);
        }
        let right: Vec<bool> = (0..HEADER.len()).map(|at| at >= 2).collect();
        let mut text = format!("{} rows, {} columns\n\n", grouped(self.rows), self.columns.len());
        text.push_str(&aligned(&HEADER, &right, &rows));
        if !tops.is_empty() {
            text.push_str("\nmost frequent values\n");
            let rows: Vec<Vec<String>> = tops.into_iter().map(|(name, top)| vec![name, top]).collect();
            text.push_str(&aligned(&["column", "values"], &[false, false], &rows));
        }
        text
    }
}

fn push_rows(
    mut head: Vec<String>,
    column: &ColumnProfile,
    body: &Body,
    rows: &mut Vec<Vec<String>>,
    tops: &mut Vec<(String, String)>,
) {
    const TOP: usize = 3;
    let blank = |head: &mut Vec<String>| head.resize(HEADER.len(), String::new());
    match body {
        Body::Numbers(numbers) => {
            let name = head[0].clone();
            push_numbers(&mut head, numbers);
            rows.push(head);
            if numbers.not_finite() > 0 {
                let [below, above] = numbers.infinite;
                tops.push((name.clone(), format!("not finite: {} NaN, {below} −∞, {above} +∞", numbers.nan)));
            }
            // Frequent numbers are worth a line only where few values make most of the rows.
            let top = numbers.tally.top(TOP);
            if top.first().is_some_and(|first| first.count() >= 0.05 * numbers.count() as f64) {
                tops.push((name, of_top(&top, numbers.count(), |&key| numbers.kind.shown(key))));
            }
        }
        Body::Texts(texts) => {
            let name = head[0].clone();
            head.push(of_distinct(&texts.tally.distinct()));
            blank(&mut head);
            rows.push(head);
            tops.push((name, of_top(&texts.tally.top(TOP), texts.count, |text| format!("{text:?}"))));
        }
        Body::Truths(truths) => {
            let count = truths.yes + truths.no;
            let name = head[0].clone();
            head.push((u64::from(truths.yes > 0) + u64::from(truths.no > 0)).to_string());
            blank(&mut head);
            rows.push(head);
            if count > 0 {
                tops.push((name, format!("true {}", percent(truths.yes as f64 / count as f64))));
            }
        }
        Body::Lists(lists) => {
            let name = head[0].clone();
            blank(&mut head);
            rows.push(head);
            let lists_count = grouped(lists.lengths.count());
            let mut lengths = vec![format!("  {name} (length)"), "i64".to_owned(), lists_count, percent(0.0)];
            push_numbers(&mut lengths, &lists.lengths);
            rows.push(lengths);
            let elements = match &lists.elements {
                Body::Numbers(numbers) => numbers.count() + numbers.not_finite(),
                Body::Texts(texts) => texts.count,
                Body::Truths(truths) => truths.yes + truths.no,
                Body::Lists(lists) => lists.lengths.count(),
            };
            let all = elements + lists.null_elements;
            let nulls = percent(lists.null_elements as f64 / all.max(1) as f64);
            let of = column.data_type.name();
            let of = of.strip_prefix("list<").and_then(|of| of.strip_suffix('>')).unwrap_or(&of).to_owned();
            let head = vec![format!("  {name}[]"), of, grouped(all), nulls];
            push_rows(head, column, &lists.elements, rows, tops);
        }
    }
}

fn push_numbers(head: &mut Vec<String>, numbers: &Numbers) {
    let ranks = numbers.ranks.clone().distribution();
    let kind = numbers.kind;
    let quantile = |share: f64| ranks.quantile(share).map_or_else(String::new, |key| kind.shown(key));
    head.push(of_distinct(&numbers.tally.distinct()));
    head.push(numbers.mean().map_or_else(String::new, |mean| of_number(kind, mean)));
    head.push(numbers.std().map_or_else(String::new, |std| of_spread(kind, std)));
    head.extend([0.0, 0.05, 0.5, 0.95, 1.0].map(quantile));
}

impl Comparison {
    /// The report's line, what is past a threshold, then one line a column, those that drifted most first.
    pub fn to_text(&self, thresholds: &[(Measure, f64)]) -> String {
        let flags = self.flags(thresholds);
        let mut flagged: Vec<&str> = flags.iter().map(|(name, _)| name.as_str()).collect();
        flagged.dedup();
        let [a, b] = self.rows;
        let verdict = match (thresholds.is_empty(), flags.is_empty()) {
            (true, _) => "",
            (false, true) => " [PASSED]",
            (false, false) => " [FAILED]",
        };
        let mut text = format!("DriftReport{verdict} rows_a={a} rows_b={b} columns={}", self.columns.len());
        if !thresholds.is_empty() {
            text.push_str(&format!(" flagged_columns=[{}]", flagged.join(", ")));
        }
        text.push('\n');
        for (name, why) in &flags {
            text.push_str(&format!("  `{name}`: {why}\n"));
        }
        for (which, names) in ["first", "second"].iter().zip(&self.only) {
            if !names.is_empty() {
                text.push_str(&format!("  only in the {which}: {}\n", names.join(", ")));
            }
        }
        for (name, [a, b]) in self.retyped.iter().filter(|_| thresholds.is_empty()) {
            text.push_str(&format!("  `{name}` is {a} in the first and {b} in the second: not compared\n"));
        }
        let header = ["column", "type", "psi", "reading", "ks", "p", "nulls", "distinct", "mean", "shift"];
        let rows: Vec<Vec<String>> = self.columns.iter().map(of_drift).collect();
        let right = [false, false, true, false, true, true, false, false, false, true];
        text.push('\n');
        text.push_str(&aligned(&header, &right, &rows));
        text
    }
}

fn of_drift(column: &ColumnDrift) -> Vec<String> {
    let pair = |pair: [Option<String>; 2]| match pair {
        [None, None] => String::new(),
        [Some(a), Some(b)] if a == b => a,
        pair => {
            let [a, b] = pair.map(|side| side.unwrap_or_else(|| "–".to_owned()));
            format!("{a} → {b}")
        }
    };
    let kind = column.kind.unwrap_or(Kind::Float);
    vec![
        column.name.clone(),
        column.data_type.name(),
        column.psi.map_or_else(String::new, |psi| format!("{psi:.4}")),
        column.verdict().to_owned(),
        column.ks.map_or_else(String::new, |ks| format!("{:.4}", ks.statistic)),
        column.ks.map_or_else(String::new, |ks| of_probability(ks.p_value)),
        pair(column.null_share.map(|share| Some(percent(share)))),
        pair(column.distinct.map(|distinct| distinct.as_ref().map(of_distinct))),
        pair(column.mean.map(|mean| mean.map(|mean| of_number(kind, mean)))),
        column.shift.map_or_else(String::new, |shift| format!("{shift:+.2}σ")),
    ]
}

/// A probability for people.
pub(crate) fn of_probability(p: f64) -> String {
    if p < 1e-4 { "< 0.0001".to_owned() } else { format!("{p:.4}") }
}
