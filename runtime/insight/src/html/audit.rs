//! The page of a leakage report.

use super::chart::{Bar, Row, histogram, key, rows};
use super::{append, code, escape, page, table, tiles};
use crate::figures::{duration, grouped, percent};
use plumb_pipeline::offline::audit::{
    AGE_CLASSES, AgeAudit, FeatureAudit, LeakageReport, Likeness, Violation, ViolationKind,
};

/// A leakage report as a page; `name` says of which training set.
pub fn audit_page(name: &str, report: &LeakageReport) -> String {
    let passed = report.passed();
    let (verdict, class) = if passed { ("PASSED", "good") } else { ("FAILED", "bad") };
    let bad = report.features.iter().filter(|feature| feature.violations > 0).count();
    let mut body = tiles(&[
        ("leakage", verdict.to_owned(), class),
        ("rows kept", grouped(report.rows_kept), ""),
        ("rows dropped", grouped(report.rows_dropped), ""),
        ("values compared", grouped(report.compared_values), ""),
        ("rows joined again from cut history", grouped(report.truncated_rows), ""),
        ("violations", grouped(report.violation_count()), if passed { "" } else { "bad" }),
    ]);
    push_conclusion(&mut body, report);
    body.push_str("<h2>Violations by feature</h2>\n");
    let hint = "Values that history strictly before the label does not give, by what they look like. Each value was recomputed \
                from the events, not with the join's code.";
    append(&mut body, format_args!("<p class=\"hint\">{}</p>\n<div class=\"card\">\n", escape(hint)));
    if bad > 0 {
        body.push_str(&key(&[("bad", "looks like the future".to_owned()), ("warn", "other".to_owned())]));
    }
    let mut features: Vec<&FeatureAudit> = report.features.iter().collect();
    // Stable: equals stay in the order of the views.
    features.sort_by_key(|feature| std::cmp::Reverse(feature.violations));
    body.push_str(&rows(&features.iter().map(|feature| of_feature(feature)).collect::<Vec<_>>(), &[]));
    body.push_str("</div>\n");
    if !passed {
        body.push_str("<h2>What was found</h2>\n");
        let rows: Vec<Vec<String>> = report.violations.values().map(|found| of_violation(report, found)).collect();
        body.push_str(&table(&["column", "what", "example", "looks like", "values"], 4, &rows));
    }
    if !report.ages.is_empty() {
        body.push_str("<h2>Age of the features</h2>\n");
        let hint = "Time from the newest event that counted to the label. An age of nothing or less is a leak.";
        append(&mut body, format_args!("<p class=\"hint\">{hint}</p>\n"));
        body.push_str(&key(&[
            ("a", "before the label".to_owned()),
            ("bad", "at or after the label".to_owned()),
            ("mute", "no event".to_owned()),
        ]));
        body.push_str("<div class=\"cards\">\n");
        report.ages.iter().for_each(|age| push_age(&mut body, age));
        body.push_str("</div>\n");
    }
    page("Leakage audit", name, &body)
}

/// One sentence for each kind of leak, the widest first.
fn push_conclusion(body: &mut String, report: &LeakageReport) {
    let mut by_likeness: std::collections::BTreeMap<Likeness, Vec<&str>> = std::collections::BTreeMap::new();
    for feature in &report.features {
        if let Some((likeness, _)) = feature.best() {
            by_likeness.entry(likeness).or_default().push(&feature.column);
        }
    }
    if report.passed() {
        body.push_str("<p class=\"card\">Every value is what the events strictly before its label give.</p>\n");
        return;
    }
    let mut by_likeness: Vec<_> = by_likeness.into_iter().collect();
    by_likeness.sort_by_key(|(likeness, columns)| (!likeness.is_leak(), std::cmp::Reverse(columns.len())));
    for (likeness, columns) in by_likeness {
        let class = if likeness.is_leak() { "bad" } else { "warn" };
        let what = if likeness.is_leak() { "leak" } else { "no leak" };
        let features = if columns.len() == 1 { "feature looks" } else { "features look" };
        append(
            body,
            format_args!(
                "<p class=\"card\"><span class=\"badge {class}\">{what}</span> {} {features} like {}.</p>\n",
                columns.len(),
                escape(likeness.meaning())
            ),
        );
    }
}

fn of_feature(feature: &FeatureAudit) -> Row {
    let share = feature.violations as f64 / feature.compared.max(1) as f64;
    let parts = match feature.best() {
        None => vec![(share, "fwarn", format!("{}: {}", feature.column, percent(share)))],
        Some((likeness, like)) => {
            // What was examined stands for all.
            let alike = like as f64 / feature.examined.max(1) as f64;
            let class = if likeness.is_leak() { "fbad" } else { "fwarn" };
            vec![
                (share * alike, class, format!("{}: {}", percent(share * alike), likeness.meaning())),
                (share * (1.0 - alike), "fwarn", format!("{}: other", percent(share * (1.0 - alike)))),
            ]
        }
    };
    let value = match feature.violations {
        0 => "0".to_owned(),
        count => format!("{} ({})", grouped(count), percent(share)),
    };
    Row { label: code(&feature.column), parts, value }
}

fn of_violation(report: &LeakageReport, found: &Violation) -> Vec<String> {
    let what = match found.kind {
        ViolationKind::EventTime => "is not before the label",
        ViolationKind::NewestContribution => "is not the newest contribution before the label",
        ViolationKind::Value => "is not what history before the label gives",
        ViolationKind::Truncation => "changes when history is cut at the label",
    };
    let likeness = report.feature(&found.column).filter(|_| found.kind == ViolationKind::Value);
    let likeness = likeness.and_then(FeatureAudit::best).map_or_else(String::new, |(likeness, _)| {
        let class = if likeness.is_leak() { "bad" } else { "warn" };
        format!("<span class=\"{class}\">{}</span>", escape(likeness.meaning()))
    });
    vec![code(&found.column), what.to_owned(), escape(&found.example), likeness, grouped(found.count)]
}

fn push_age(body: &mut String, age: &AgeAudit) {
    let rows = age.not_before + age.none + age.classes.iter().sum::<u64>();
    let share = |count: u64| count as f64 / rows.max(1) as f64;
    let bar = |label: &str, count: u64, class| Bar { label: label.to_owned(), shares: vec![share(count)], class };
    let mut bars = vec![bar("at or after the label", age.not_before, "fbad")];
    let names = AGE_CLASSES.iter().map(|&(_, name)| name).chain(["1 y or more"]);
    bars.extend(names.zip(age.classes).map(|(name, count)| bar(name, count, "fa")));
    bars.push(bar("no event", age.none, "fmute"));
    append(body, format_args!("<section class=\"card\">\n<h3>{}</h3>", code(&age.view)));
    let source = if age.from_dataset { "as the set says" } else { "recomputed: the set has no event times" };
    let median = age.median_us.map_or_else(String::new, |us| format!(", median {}", duration(us as f64)));
    append(body, format_args!("<p class=\"sub\">{}{}</p>\n", escape(source), escape(&median)));
    // Each the upper end of its bar.
    let ticks = ["≤ 0", "1s", "1m", "1h", "6h", "1d", "7d", "30d", "90d", "1y", "+", "none"].map(str::to_owned);
    body.push_str(&histogram(&age.view, &bars, &ticks, 340.0, 130.0));
    let counts = |(name, count): (&str, u64)| vec![escape(name), grouped(count), escape(&percent(share(count)))];
    let names = ["at or after the label"].into_iter().chain(AGE_CLASSES.iter().map(|&(_, name)| name));
    let names = names.chain(["1 y or more", "no event"]);
    let all = [age.not_before].into_iter().chain(age.classes).chain([age.none]);
    let cells: Vec<Vec<String>> = names.zip(all).filter(|&(_, count)| count > 0).map(counts).collect();
    body.push_str(&table(&["age", "rows", ""], 1, &cells));
    body.push_str("</section>\n");
}
