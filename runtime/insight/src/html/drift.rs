//! The page of a comparison.

use super::chart::{Bar, Row, curves, histogram, key, rows};
use super::{append, code, escape, page, table, tiles};
use crate::compare::{ColumnDrift, Comparison, Measure};
use crate::figures::{clipped, figure, grouped, percent};
use crate::profile::Kind;
use crate::text::{of_distinct, of_number, of_probability};

/// The longest bar of the overview; longer ones are cut.
const PSI_SHOWN: f64 = 1.0;

/// A comparison as a page; `names` say which tables.
pub fn drift_page(names: [&str; 2], comparison: &Comparison, thresholds: &[(Measure, f64)]) -> String {
    let flags = comparison.flags(thresholds);
    let count = |verdict: &str| comparison.columns.iter().filter(|column| column.verdict() == verdict).count();
    let (large, some) = (count("large shift"), count("some shift"));
    let one_sided = count("only one has values");
    let mut figures = vec![
        ("rows of A", grouped(comparison.rows[0]), ""),
        ("rows of B", grouped(comparison.rows[1]), ""),
        ("columns compared", comparison.columns.len().to_string(), ""),
        ("large shifts", (large + one_sided).to_string(), if large + one_sided > 0 { "bad" } else { "good" }),
        ("some shift", some.to_string(), if some > 0 { "warn" } else { "" }),
    ];
    if !thresholds.is_empty() {
        let limits: Vec<String> =
            thresholds.iter().map(|(measure, limit)| format!("{} {}", measure.name(), figure(*limit))).collect();
        let verdict = if flags.is_empty() { "PASSED" } else { "FAILED" };
        let class = if flags.is_empty() { "good" } else { "bad" };
        figures.insert(0, ("limits", verdict.to_owned(), class));
        figures.push(("limits set", limits.join(", "), ""));
    }
    let mut body = tiles(&figures);
    body.push_str(&key(&[("a", format!("A: {}", names[0])), ("b", format!("B: {}", names[1]))]));
    if !flags.is_empty() {
        body.push_str("<h2>Past a limit</h2>\n");
        let by_column = flags.chunk_by(|(a, _), (b, _)| a == b);
        let rows: Vec<Vec<String>> = by_column
            .map(|flags| {
                let whys: Vec<&str> = flags.iter().map(|(_, why)| why.as_str()).collect();
                vec![code(&flags[0].0), escape(&whys.join("; "))]
            })
            .collect();
        body.push_str(&table(&["column", "why"], 9, &rows));
    }
    push_not_compared(&mut body, comparison);
    body.push_str("<h2>Stability index by column</h2>\n");
    body.push_str(
        "<p class=\"hint\">The population stability index measures how far the distribution has moved. Marked are 0.1, up to \
         which it is read as stable, and 0.25, from which on the shift is large. Bars end at 1.</p>\n<div class=\"card\">\n",
    );
    body.push_str(&rows(&comparison.columns.iter().enumerate().map(of_index).collect::<Vec<_>>(), &[0.1, 0.25]));
    body.push_str("</div>\n<h2>Measures</h2>\n");
    let header = ["column", "reading", "PSI", "KS", "p", "nulls", "distinct", "mean", "shift"];
    body.push_str(&table(&header, 2, &comparison.columns.iter().map(of_measures).collect::<Vec<_>>()));
    body.push_str("<h2>Distributions</h2>\n<div class=\"cards\">\n");
    for (index, column) in comparison.columns.iter().enumerate() {
        append(&mut body, format_args!("<section class=\"card\" id=\"c{index}\">\n<h3>{}</h3>", code(&column.name)));
        let psi = column.psi.map_or_else(String::new, |psi| format!(", PSI {}", figure(psi)));
        append(&mut body, format_args!("<p class=\"sub\">{}{}</p>\n", badge(column), escape(&psi)));
        push_drawings(&mut body, column);
        body.push_str("</section>\n");
    }
    body.push_str("</div>\n");
    page("Drift", &format!("{} against {}", names[1], names[0]), &body)
}

fn push_not_compared(body: &mut String, comparison: &Comparison) {
    let mut rows = Vec::new();
    for (table, names) in ["A", "B"].iter().zip(&comparison.only) {
        rows.extend(names.iter().map(|name| vec![code(name), format!("only in {table}")]));
    }
    for (name, [a, b]) in &comparison.retyped {
        rows.push(vec![code(name), escape(&format!("{a} in A, {b} in B"))]);
    }
    if !rows.is_empty() {
        body.push_str("<h2>Not compared</h2>\n");
        body.push_str(&table(&["column", "why"], 9, &rows));
    }
}

fn class(column: &ColumnDrift) -> &'static str {
    match column.verdict() {
        "stable" => "good",
        "some shift" => "warn",
        "no values" => "",
        _ => "bad",
    }
}

fn badge(column: &ColumnDrift) -> String {
    format!("<span class=\"badge {}\">{}</span>", class(column), column.verdict())
}

fn of_index((index, column): (usize, &ColumnDrift)) -> Row {
    let colour = match class(column) {
        "good" => "fgood",
        "warn" => "fwarn",
        _ => "fbad",
    };
    let (length, value) = match column.psi {
        Some(psi) => (psi / PSI_SHOWN, format!("{psi:.3}")),
        None if column.is_gone_or_new() => (1.0, "no values".to_owned()),
        None => (0.0, "–".to_owned()),
    };
    Row {
        label: format!("<a href=\"#c{index}\">{}</a>", code(&column.name)),
        parts: vec![(length, colour, format!("{}: {value}", column.name))],
        value,
    }
}

fn of_measures(column: &ColumnDrift) -> Vec<String> {
    // Means of instants are too long for a cell; their shift says enough.
    let kind = column.kind.filter(|&kind| kind != Kind::Instant);
    let mean = |table: usize| Some(of_number(kind?, column.mean[table]?));
    let distinct = |table: usize| column.distinct[table].as_ref().map(of_distinct);
    let nulls = |table: usize| Some(percent(column.null_share[table]));
    let pair = |of: &dyn Fn(usize) -> Option<String>| match (of(0), of(1)) {
        (None, None) => String::new(),
        (a, b) if a == b => a.unwrap_or_default(),
        (a, b) => format!("{} → {}", a.as_deref().unwrap_or("–"), b.as_deref().unwrap_or("–")),
    };
    let cells = [
        column.psi.map_or_else(String::new, |psi| format!("{psi:.4}")),
        column.ks.map_or_else(String::new, |ks| format!("{:.4}", ks.statistic)),
        column.ks.map_or_else(String::new, |ks| of_probability(ks.p_value)),
        pair(&nulls),
        pair(&distinct),
        pair(&mean),
        column.shift.map_or_else(String::new, |shift| format!("{shift:+.2}σ")),
    ];
    [code(&column.name), badge(column)].into_iter().chain(cells.iter().map(|cell| escape(cell))).collect()
}

fn push_drawings(body: &mut String, column: &ColumnDrift) {
    let Some(kind) = column.kind else {
        let most = column.bins.iter().flat_map(|bin| bin.shares).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
        let of_bin = |bin: &crate::compare::Bin| {
            let [a, b] = bin.shares.map(percent);
            let label = clipped(&bin.label, 40);
            [(0, "fa"), (1, "fb")].map(|(table, class)| Row {
                label: if table == 0 { escape(&label) } else { String::new() },
                parts: vec![(bin.shares[table] / most, class, format!("{label}: {a} to {b}"))],
                value: if table == 0 { a.clone() } else { b.clone() },
            })
        };
        // The bins are many; those with the largest change come first, and the rest is left to the JSON.
        let mut bins: Vec<_> = column.bins.iter().collect();
        bins.sort_by(|x, y| (y.shares[1] - y.shares[0]).abs().total_cmp(&(x.shares[1] - x.shares[0]).abs()));
        let shown: Vec<Row> = bins.into_iter().take(8).flat_map(of_bin).collect();
        body.push_str(&rows(&shown, &[]));
        if let Some(new) = column.new_share.filter(|&new| new > 0.0) {
            append(
                body,
                format_args!("<p class=\"sub\">{} of B are values that A does not have.</p>\n", escape(&percent(new))),
            );
        }
        return;
    };
    let of_bin = |bin: &crate::compare::Bin| Bar { label: bin.label.clone(), shares: bin.shares.into(), class: "fa" };
    let bars: Vec<Bar> = column.bins.iter().map(of_bin).collect();
    let ticks = match (column.bins.first(), column.bins.last()) {
        (Some(first), Some(last)) if column.bins.len() > 1 => vec![first.label.clone(), last.label.clone()],
        (Some(only), _) => vec![only.label.clone()],
        _ => Vec::new(),
    };
    if !bars.is_empty() && column.psi.is_some() {
        body.push_str("<p class=\"sub\">Shares in the tenths of A</p>\n");
        body.push_str(&histogram(&column.name, &bars, &ticks, 340.0, 110.0));
    }
    if let (Some((first, _)), Some((last, _))) = (column.curve.first(), column.curve.last()) {
        let ticks = if first < last {
            vec![of_number(kind, *first), of_number(kind, *last)]
        } else {
            vec![of_number(kind, *first)]
        };
        body.push_str("<p class=\"sub\">Distribution functions</p>\n");
        body.push_str(&curves(&column.name, &column.curve, &ticks, 340.0, 120.0));
    }
}
