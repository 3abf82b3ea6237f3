//! What the derives say about a wrong declaration.

use crate::{Expand, aggregates, features, rows};
use syn::parse_str;

fn error(expand: Expand, source: &str) -> String {
    match expand(&parse_str(source).unwrap()) {
        Ok(_) => panic!("accepted: {source}"),
        Err(errors) => errors.into_iter().map(|error| error.to_string()).collect::<Vec<_>>().join(" | "),
    }
}

fn aggregate(attribute: &str) -> String {
    error(aggregates::expand, &format!("struct A {{ {attribute} a: i64 }}"))
}

#[test]
fn structs_have_named_fields_and_at_most_a_lifetime() {
    assert_eq!(error(rows::event, "enum E { A }"), "event fields are the named fields of a struct");
    assert_eq!(error(rows::slots, "struct S(bool);"), "slots are the named fields of a struct");
    assert_eq!(error(rows::event, "struct E<T> { a: T }"), "one lifetime at most, and no other parameter");
    assert_eq!(
        error(rows::event, "struct E<'a, 'b> { a: &'a &'b str }"),
        "one lifetime at most, and no other parameter"
    );
}

#[test]
fn names_are_checked_where_they_stand() {
    let wrong = error(rows::slots, "struct S { userId: bool, a__b: bool }");
    assert!(wrong.contains("`userId` is no name here") && wrong.contains("`a__b` is no name here"), "{wrong}");
    let time = error(features::expand, "struct F { /// When.\n event_time: Time }");
    assert!(time.contains("`event_time` is no feature name"), "{time}");
}

#[test]
fn an_event_field_may_be_renamed_once() {
    assert!(error(rows::event, "struct E { #[field(kind)] a: i64 }").contains("#[field(\"Event-Type\")]"));
    assert!(error(rows::event, "struct E { #[field(\"\")] a: i64 }").contains("not empty"));
}

#[test]
fn an_aggregate_has_one_known_operator_with_a_slot() {
    assert!(aggregate("").contains("aggregate `a` needs an operator"));
    assert!(aggregate("#[count(x)] #[sum(x)]").contains("second operator"));
    assert!(aggregate("#[count]").contains("name the slot, as in #[count(slot"));
}

#[test]
fn windows_are_checked() {
    assert!(aggregate("#[count(x, window = \"1w\")]").contains("a duration is"));
    assert!(aggregate("#[count(x, window = 5)]").contains("a duration is"));
    assert!(aggregate("#[count(x, windw = \"1h\")]").contains("`count` has no parameter `windw`"));
    assert!(aggregate("#[count(x, window = \"1h\", window = \"2h\")]").contains("given twice"));
    assert!(aggregate("#[count(x, window = \"1h\", tumbling = \"2h\")]").contains("one of `window`"));
    assert!(aggregate("#[count(x, hopping = \"1h\")]").contains("needs its hop"));
    assert!(aggregate("#[count(x, hop = \"1h\")]").contains("`hop` goes with"));
}

#[test]
fn operators_say_which_parameters_they_need() {
    assert!(aggregate("#[top_k(x, window = \"1h\")]").contains("needs how many"));
    assert!(aggregate("#[top_k(x, k = 0)]").contains("at least 1"));
    assert!(aggregate("#[collect_set(x)]").contains("needs how many"));
    assert!(aggregate("#[collect_set(x, k = 5000)]").contains("from 1 to 4096"));
    assert!(aggregate("#[approx_distinct(x, k = \"5\")]").contains("from 1 to 4096"));
    assert!(aggregate("#[quantile(x)]").contains("as in q = 0.5"));
    assert!(aggregate("#[stddev(x, q = 0.5)]").contains("no parameter `q`"));
    for q in ["0.0", "1.0", "1", "\"0.5\"", "0.1234567", "0.5f32"] {
        assert!(aggregate(&format!("#[quantile(x, q = {q})]")).contains("above 0 and below 1"), "{q}");
    }
    assert!(aggregate("#[session_count(x)]").contains("gap = \"30m\""));
    assert!(aggregate("#[count(x, gap = \"30m\")]").contains("no parameter `gap`"));
    for window in ["window = \"1h\"", "hopping = \"1h\", hop = \"7m\""] {
        assert!(aggregate(&format!("#[relative_rank(x, {window})]")).contains("multiple of its hop"), "{window}");
    }
}

#[test]
fn a_feature_needs_a_description() {
    let wrong = error(features::expand, "struct F { clicks: i64 }");
    assert!(wrong.contains("feature `clicks` needs a doc comment"), "{wrong}");
    let wrong = error(features::expand, "struct F { /// Clicks.\n #[from(\"x\")] clicks: i64 }");
    assert!(wrong.contains("name the aggregates"), "{wrong}");
}
