//! What every page must hold, whatever is in the data.

use super::*;
use crate::compare::{Measure, compare};
use crate::profile::TableProfile;
use plumb_core::column::{Column, DataType, Values};
use plumb_pipeline::offline::audit::{AgeAudit, FeatureAudit, LeakageReport, Likeness, Violation, ViolationKind};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// No script, nothing to fetch, every element closed, no attribute broken open.
fn check_page(page: &str) {
    assert!(page.starts_with("<!doctype html>"));
    for banned in
        ["<script", "http://", "https://", "src=", "url(", "@import", "<link", "javascript:", "NaN\"", "inf\""]
    {
        assert!(!page.contains(banned), "the page holds `{banned}`");
    }
    let mut open = Vec::new();
    let mut rest = page;
    while let Some(start) = rest.find('<') {
        let end = start + rest[start..].find('>').expect("a tag ends");
        let tag = &rest[start + 1..end];
        assert_eq!(tag.matches('"').count() % 2, 0, "quotes of <{tag}>");
        assert!(!tag.contains('<'), "<{tag}>");
        let name = tag.trim_start_matches('/').split([' ', '/', '\n']).next().unwrap();
        let known = [
            "!doctype", "html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "h3", "p", "main",
            "footer", "div", "b", "span", "section", "table", "thead", "tbody", "tr", "th", "td", "a", "code", "wbr",
            "svg", "rect", "line", "path", "text",
        ];
        assert!(known.contains(&name), "an element nobody wrote: <{tag}>");
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed), "closed out of order");
        } else if !tag.ends_with('/') && !["!doctype", "meta", "wbr"].contains(&name) {
            open.push(name);
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty(), "left open: {open:?}");
}

fn texts(values: &[String]) -> Column {
    let mut column = Column::new(&DataType::Utf8);
    values.iter().for_each(|text| column.push_bytes(text.as_bytes()));
    column
}

fn profile(name: &str, words: &[String], numbers: &[f64]) -> TableProfile {
    let mut list = Column::new(&DataType::List(Box::new(DataType::F64)));
    for _ in words {
        let Values::List { offsets, child } = &mut list.values else { panic!("no list") };
        child.append(&Column::of(Values::F64(numbers.to_vec())));
        offsets.push(child.len() as u32);
    }
    let columns = [
        (name.to_owned(), texts(words)),
        (
            "numbers".to_owned(),
            Column::of(Values::F64(words.iter().zip(numbers.iter().cycle()).map(|n| *n.1).collect())),
        ),
        (
            "times".to_owned(),
            Column::of(Values::Timestamp(words.iter().map(|word| word.len() as i64 * 1_000_000_007).collect())),
        ),
        ("truths".to_owned(), Column::of(Values::Bool(words.iter().map(|word| u8::from(word.len() > 3)).collect()))),
        ("list".to_owned(), list),
        ("nothing".to_owned(), Column::nulls(&DataType::I64, words.len())),
    ];
    let mut table = TableProfile::default();
    table.add(words.len() as u64, &columns, 2).unwrap();
    table
}

fn report(name: &str) -> LeakageReport {
    let kind = ViolationKind::Value;
    LeakageReport {
        rows_kept: 10,
        rows_dropped: 1,
        features: vec![FeatureAudit {
            column: name.to_owned(),
            compared: 10,
            violations: 4,
            examined: 4,
            looks_like: BTreeMap::from([(Likeness::EndOfDay, 3), (Likeness::Rounding, 1)]),
        }],
        compared_values: 10,
        truncated_rows: 2,
        truncated_values: 2,
        violations: BTreeMap::from([(
            kind.class(name),
            Violation { column: name.to_owned(), kind, count: 4, example: format!("row 1: {name:?}") },
        )]),
        ages: vec![AgeAudit {
            view: name.to_owned(),
            not_before: 4,
            none: 2,
            median_us: Some(-5),
            ..AgeAudit::default()
        }],
    }
}

#[test]
fn text_is_escaped_wherever_it_stands() {
    let name = "<script>alert('x')</script>\"&\u{202e}";
    let words = vec![name.to_owned(), "a".to_owned(), String::new()];
    let profile = profile(name, &words, &[1.0, f64::NAN]);
    let comparison = compare(&profile, &profile);
    let pages = [
        stats_page(name, &profile),
        drift_page([name, name], &comparison, &[(Measure::Psi, 0.1)]),
        audit_page(name, &report(name)),
    ];
    for page in pages {
        check_page(&page);
        assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot;&amp;"));
    }
}

#[test]
fn the_audit_page_says_what_was_found() {
    let page = audit_page("set.parquet", &report("users__f"));
    assert!(page.contains("FAILED"));
    assert!(page.contains("1 feature looks like the values at the end of the label&#39;s day (UTC)"));
    assert!(page.contains("4 (40 %)"));
    let passed = audit_page("set.parquet", &LeakageReport { violations: BTreeMap::new(), ..LeakageReport::default() });
    check_page(&passed);
    assert!(passed.contains("PASSED"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_data_gives_a_sound_page(
        a in prop::collection::vec(".{0,8}", 1..20),
        b in prop::collection::vec(".{0,8}", 1..20),
        numbers in prop::collection::vec(any::<f64>(), 1..6),
        name in ".{0,12}",
    ) {
        let (a, b) = (profile(&name, &a, &numbers), profile(&name, &b, &numbers[..1]));
        check_page(&stats_page(&name, &a));
        check_page(&drift_page([&name, "b"], &compare(&a, &b), &[]));
    }
}
