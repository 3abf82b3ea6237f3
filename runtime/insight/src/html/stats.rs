//! The page of a profile.

use super::chart::{Bar, histogram};
use super::{append, code, escape, page, table, tiles};
use crate::figures::{clipped, grouped, percent};
use crate::profile::{Body, ColumnProfile, Kind, Numbers, QUANTILES, TableProfile};
use crate::tally::Frequent;
use crate::text::{of_distinct, of_number, of_spread};

/// Bars of a histogram.
const BARS: usize = 28;
/// Frequent values shown.
const TOP: usize = 8;

/// The statistics of a table as a page; `name` says which table.
pub fn stats_page(name: &str, profile: &TableProfile) -> String {
    let with_nulls = profile.columns.iter().filter(|column| column.nulls > 0).count();
    let empty = profile.columns.iter().filter(|column| column.nulls == column.rows).count();
    let constant = profile.columns.iter().filter(|column| is_constant(column)).count();
    let mut body = tiles(&[
        ("rows", grouped(profile.rows), ""),
        ("columns", profile.columns.len().to_string(), ""),
        ("with nulls", with_nulls.to_string(), ""),
        ("without any value", empty.to_string(), if empty > 0 { "bad" } else { "" }),
        ("with one value only", constant.to_string(), if constant > 0 { "warn" } else { "" }),
    ]);
    body.push_str("<h2>Columns</h2>\n");
    let rows: Vec<Vec<String>> = profile.columns.iter().enumerate().map(overview).collect();
    body.push_str(&table(&["column", "type", "", "nulls", "distinct", "mean", "median", "max"], 3, &rows));
    body.push_str("<h2>Distributions</h2>\n<div class=\"cards\">\n");
    for (index, column) in profile.columns.iter().enumerate() {
        append(&mut body, format_args!("<section class=\"card\" id=\"c{index}\">\n"));
        let rows = format!(
            "{}, {} rows, {} null",
            column.data_type.name(),
            grouped(column.rows),
            percent(column.null_share())
        );
        append(&mut body, format_args!("<h3>{}</h3><p class=\"sub\">{}</p>\n", code(&column.name), escape(&rows)));
        push_body(&mut body, &column.name, &column.body);
        body.push_str("</section>\n");
    }
    body.push_str("</div>\n");
    page("Feature statistics", name, &body)
}

fn is_constant(column: &ColumnProfile) -> bool {
    match &column.body {
        Body::Numbers(numbers) => {
            numbers.count() > 0 && numbers.not_finite() == 0 && numbers.tally.distinct().count == 1.0
        }
        Body::Texts(texts) => texts.tally.distinct().count == 1.0,
        Body::Truths(truths) => (truths.yes == 0) != (truths.no == 0),
        Body::Lists(_) => false,
    }
}

fn overview((index, column): (usize, &ColumnProfile)) -> Vec<String> {
    let (mut spark, mut figures) = (String::new(), vec![String::new(); 4]);
    match &column.body {
        Body::Numbers(numbers) => {
            spark = histogram(&column.name, &bars(numbers).0, &[], 120.0, 26.0);
            figures = of_numbers(numbers);
        }
        Body::Texts(texts) => figures[0] = of_distinct(&texts.tally.distinct()),
        Body::Truths(truths) => {
            figures[1] = percent(truths.yes as f64 / (truths.yes + truths.no).max(1) as f64) + " true";
        }
        Body::Lists(lists) => {
            spark = histogram(&column.name, &bars(&lists.lengths).0, &[], 120.0, 26.0);
            figures = of_numbers(&lists.lengths);
            figures[0].clear();
            figures.iter_mut().skip(1).filter(|cell| !cell.is_empty()).for_each(|cell| cell.push_str(" long"));
        }
    }
    let class = if column.nulls == column.rows && column.rows > 0 { " class=\"bad\"" } else { "" };
    let mut row = vec![
        format!("<a href=\"#c{index}\">{}</a>", code(&column.name)),
        escape(&column.data_type.name()),
        format!("<span class=\"spark\">{spark}</span>"),
        format!("<span{class}>{}</span>", escape(&percent(column.null_share()))),
    ];
    row.extend(figures.iter().map(|figure| escape(figure)));
    row
}

/// Distinct, mean, median and maximum.
fn of_numbers(numbers: &Numbers) -> Vec<String> {
    let ranks = numbers.ranks.clone().distribution();
    let quantile = |share: f64| ranks.quantile(share).map_or_else(String::new, |key| numbers.kind.shown(key));
    vec![
        of_distinct(&numbers.tally.distinct()),
        numbers.mean().map_or_else(String::new, |mean| of_number(numbers.kind, mean)),
        quantile(0.5),
        quantile(1.0),
    ]
}

fn push_body(html: &mut String, name: &str, body: &Body) {
    match body {
        Body::Numbers(numbers) => push_numbers(html, name, numbers),
        Body::Texts(texts) => {
            let empty = if texts.empty > 0 { format!(", {} empty", grouped(texts.empty)) } else { String::new() };
            let distinct = of_distinct(&texts.tally.distinct());
            append(html, format_args!("<p class=\"sub\">{distinct} distinct{empty}</p>\n"));
            push_top(html, name, &texts.tally.top(TOP), texts.count, |text| {
                if text.is_empty() { "(empty)".to_owned() } else { text.clone() }
            });
        }
        Body::Truths(truths) => {
            let values = [("true".to_owned(), truths.yes), ("false".to_owned(), truths.no)];
            let top = values.map(|(value, count)| Frequent { value, at_least: count, at_most: count });
            push_top(html, name, &top, truths.yes + truths.no, Clone::clone);
        }
        Body::Lists(lists) => {
            html.push_str("<p class=\"sub\">Length of the lists</p>\n");
            push_numbers(html, name, &lists.lengths);
            let nulls = grouped(lists.null_elements);
            append(html, format_args!("<p class=\"sub\">Elements ({nulls} of them null)</p>\n"));
            push_body(html, name, &lists.elements);
        }
    }
}

fn push_numbers(html: &mut String, name: &str, numbers: &Numbers) {
    if numbers.count() > 0 {
        let (bars, ticks) = bars(numbers);
        html.push_str(&histogram(name, &bars, &ticks, 340.0, 130.0));
    }
    let kind = numbers.kind;
    let ranks = numbers.ranks.clone().distribution();
    let quantile = |share: f64| ranks.quantile(share).map_or_else(|| "–".to_owned(), |key| escape(&kind.shown(key)));
    let number = |value: Option<String>| value.map_or_else(|| "–".to_owned(), |text| escape(&text));
    let mut rows = vec![
        vec!["distinct".to_owned(), escape(&of_distinct(&numbers.tally.distinct()))],
        vec!["mean".to_owned(), number(numbers.mean().map(|mean| of_number(kind, mean)))],
        vec!["standard deviation".to_owned(), number(numbers.std().map(|std| of_spread(kind, std)))],
        vec!["least".to_owned(), quantile(0.0)],
    ];
    rows.extend(QUANTILES.iter().map(|&share| vec![escape(&percent(share)), quantile(share)]));
    rows.push(vec!["greatest".to_owned(), quantile(1.0)]);
    if numbers.not_finite() > 0 {
        let [below, above] = numbers.infinite;
        rows.push(vec!["NaN, −∞, +∞".to_owned(), format!("{}, {below}, {above}", numbers.nan)]);
    }
    if ranks.rank_error() > 0.0 {
        rows.push(vec!["ranks are off by at most".to_owned(), escape(&percent(ranks.rank_error()))]);
    }
    html.push_str(&table(&["", ""], 1, &rows));
}

fn push_top<T>(html: &mut String, name: &str, top: &[Frequent<T>], count: u64, shown: impl Fn(&T) -> String) {
    use super::chart::{Row, rows};
    let most = top.first().map_or(1.0, |first| first.count().max(1.0));
    let of_value = |frequent: &Frequent<T>| {
        let value = clipped(&shown(&frequent.value), 60);
        let share = percent(frequent.count() / count.max(1) as f64);
        let tip = format!("{name}: {value}, {share}");
        Row { label: escape(&value), parts: vec![(frequent.count() / most, "fa", tip)], value: share }
    };
    html.push_str(&rows(&top.iter().map(of_value).collect::<Vec<_>>(), &[]));
}

/// The bars of numbers and what stands below them. Few different integers have a bar each; else bars of equal width, the
/// first and the last of which hold what lies far out.
fn bars(numbers: &Numbers) -> (Vec<Bar>, Vec<String>) {
    let ranks = numbers.ranks.clone().distribution();
    let kind = numbers.kind;
    let count = ranks.count() as f64;
    let (Some(least), Some(greatest)) = (ranks.quantile(0.0), ranks.quantile(1.0)) else { return Default::default() };
    let up_to = |x: f64| {
        let (low, high) = ranks.count_while(|key| kind.number(key) <= x);
        (low + high) as f64 / 2.0
    };
    let bar = |label: String, share: f64, class| Bar { label, shares: vec![share], class };
    if kind == Kind::Integer && greatest.checked_sub(least).is_some_and(|reach| reach < BARS as i64) {
        let one = |value: i64| {
            let here = up_to(value as f64) - up_to(value as f64 - 1.0);
            bar(value.to_string(), here / count, "fa")
        };
        let ticks =
            if least == greatest { vec![least.to_string()] } else { vec![least.to_string(), greatest.to_string()] };
        return ((least..=greatest).map(one).collect(), ticks);
    }
    let number = |share: f64| kind.number(ranks.quantile(share).unwrap_or(least));
    let (all_from, all_to) = (kind.number(least), kind.number(greatest));
    // What is far out is cut off where it would squeeze the rest into a few bars.
    let (mut from, mut to) = (number(0.005), number(0.995));
    if all_to - all_from <= 2.0 * (to - from) || to <= from {
        (from, to) = (all_from, all_to);
    }
    let shown = |x: f64| of_number(kind, x);
    if to <= from {
        return (vec![bar(shown(from), 1.0, "fa")], vec![shown(from)]);
    }
    let step = (to - from) / BARS as f64;
    let mut bars = Vec::with_capacity(BARS + 2);
    let mut before = 0.0;
    if from > all_from {
        // Just below `from`, whose own values belong to the first bar.
        let (low, high) = ranks.count_while(|key| kind.number(key) < from);
        before = (low + high) as f64 / 2.0;
        bars.push(bar(format!("below {}", shown(from)), before / count, "fmute"));
    }
    for index in 0..BARS {
        let (left, right) = (from + step * index as f64, from + step * (index + 1) as f64);
        let right = if index + 1 == BARS { to } else { right };
        let here = up_to(right);
        bars.push(bar(format!("{} to {}", shown(left), shown(right)), (here - before).max(0.0) / count, "fa"));
        before = here;
    }
    if to < all_to {
        bars.push(bar(format!("above {}", shown(to)), (count - before).max(0.0) / count, "fmute"));
    }
    (bars, vec![shown(from), shown(to)])
}
