//! `describe` of a view, against the example beside the interface.
#![expect(missing_docs, reason = "a test")]

use plumb_sdk::native::{ColumnRef, TextRef, Values, ValuesRef, describe, extract, finalize};
use plumb_sdk::prelude::*;
use plumb_sdk::testing::{Value, extract_one, json};

#[derive(Debug, Event)]
#[expect(dead_code, reason = "only declared")]
pub struct Event<'a> {
    event_type: &'a str,
    price: Option<f64>,
    quantity: Option<i64>,
}

#[derive(Debug, Slots)]
pub struct Slots {
    view: bool,
    amount: Option<f64>,
}

#[derive(Debug, Aggregates)]
#[expect(dead_code, reason = "only declared")]
pub struct Aggregates {
    #[count(view, window = "1h")]
    view_count_1h: i64,
    #[sum(amount, window = "24h")]
    revenue_24h: Option<f64>,
    #[relative_rank(view, hopping = "1h", hop = "1m")]
    popularity_rank_1h: f64,
    #[session_count(view, gap = "30m", window = "30d")]
    sessions_30d: i64,
    #[last_time(view)]
    last_view: Option<Time>,
}

#[derive(Debug, Features)]
pub struct Features {
    /// Views in the last hour.
    view_count_1h: i64,
}

#[derive(Debug)]
pub struct ItemActivity;

impl<'a> View<'a> for ItemActivity {
    const DEFINITION: Definition = Definition {
        description: "What happens to an item.",
        owner: "ranking",
        team: "ranking",
        tags: &["activity"],
        freshness: Some("5s"),
        ..Definition::new("item_activity", "1.0.0", "item", &["item_id"])
    };
    type Event = Event<'a>;
    type Slots = Slots;
    type Aggregates = Aggregates;
    type Features = Features;

    fn extract(event: Event<'a>) -> Result<Slots> {
        match event.event_type {
            "broken" => Err("broken on purpose".into()),
            event_type => Ok(Slots { view: event_type == "view", amount: event.price }),
        }
    }

    fn finalize(of: Aggregates, at: Time) -> Result<Features> {
        if at == Time::from_micros(0) {
            return Err("no time".into());
        }
        Ok(Features { view_count_1h: of.view_count_1h })
    }
}

plumb_sdk::export!(ItemActivity);

fn text<'a>(offsets: &'a [u32], data: &'a str) -> TextRef<'a> {
    TextRef { offsets, data: data.as_bytes() }
}

fn all(values: ValuesRef<'_>) -> ColumnRef<'_> {
    ColumnRef { validity: &[], values }
}

#[test]
fn describe_is_the_example_of_the_interface() {
    let example: Value = serde_json::from_str(include_str!("../wit/describe.example.json")).unwrap();
    let described: Value = serde_json::from_str(&describe::<ItemActivity>()).unwrap();
    assert_eq!(described, example);
}

#[test]
fn rows_without_contributions_and_rows_with_errors_are_left_out() {
    let columns = [
        all(ValuesRef::Utf8(text(&[0, 4, 10, 14, 18], "viewbrokencartview"))),
        ColumnRef { validity: &[0b1000], values: ValuesRef::F64(&[0.0, 0.0, 0.0, 2.5]) },
        ColumnRef { validity: &[0], values: ValuesRef::I64(&[0; 4]) },
    ];
    let output = extract::<ItemActivity>(4, &columns).unwrap();
    assert_eq!(output.rows, [0, 3]);
    assert_eq!((output.slots[0].validity.as_slice(), &output.slots[0].values), (&[][..], &Values::Bool(vec![1, 1])));
    assert_eq!(
        (output.slots[1].validity.as_slice(), &output.slots[1].values),
        (&[0b10][..], &Values::F64(vec![0.0, 2.5]))
    );
    assert_eq!((output.errors[0].row, output.errors[0].message.as_str()), (1, "broken on purpose"));
}

#[test]
fn a_dictionary_reads_like_plain_strings() {
    let dictionary = text(&[0, 4, 8], "cartview");
    let columns = [
        all(ValuesRef::DictionaryUtf8 { codes: &[1, 0, 1], dictionary }),
        all(ValuesRef::F64(&[1.0, 2.0, 3.0])),
        all(ValuesRef::I64(&[1; 3])),
    ];
    let output = extract::<ItemActivity>(3, &columns).unwrap();
    assert_eq!(output.rows, [0, 1, 2]);
    assert_eq!(output.slots[0].values, Values::Bool(vec![1, 0, 1]));
    assert!(output.slots[1].validity.is_empty(), "every row is present");
}

#[test]
fn columns_that_are_not_the_declared_ones_are_refused_by_name() {
    let refused = |columns: &[ColumnRef<'_>]| extract::<ItemActivity>(1, columns).unwrap_err();
    assert_eq!(refused(&[]), "column 0 (`event_type`) is missing");
    let wrong_type = [all(ValuesRef::I64(&[1]))];
    assert_eq!(refused(&wrong_type), "column `event_type` of i64 cannot be read as string");
    let wrong_length = [all(ValuesRef::Utf8(text(&[0, 4, 8], "viewcart")))];
    assert_eq!(refused(&wrong_length), "column `event_type` has 2 rows, expected 1");
    let no_text = [all(ValuesRef::Utf8(TextRef { offsets: &[0, 1], data: &[0xff] }))];
    assert!(refused(&no_text).contains("event_type"));
}

#[test]
fn a_failed_row_of_features_is_null() {
    let columns = [
        all(ValuesRef::Timestamp(&[5, 0])),
        all(ValuesRef::I64(&[7, 8])),
        ColumnRef { validity: &[0], values: ValuesRef::F64(&[0.0; 2]) },
        all(ValuesRef::F64(&[0.0; 2])),
        all(ValuesRef::I64(&[0; 2])),
        ColumnRef { validity: &[0], values: ValuesRef::Timestamp(&[0; 2]) },
    ];
    let output = finalize::<ItemActivity>(2, &columns).unwrap();
    assert_eq!(output.columns[0].validity, [0b01]);
    assert_eq!(output.columns[0].values, Values::I64(vec![7, 0]));
    assert_eq!((output.errors[0].row, output.errors[0].message.as_str()), (1, "no time"));
}

#[test]
fn one_event_can_be_asked_for() {
    let slots = extract_one::<ItemActivity>(&json!({"event_type": "view", "price": 3})).unwrap();
    assert_eq!(slots, json!({"view": true, "amount": 3.0}));
    let nothing = extract_one::<ItemActivity>(&json!({"event_type": "cart"})).unwrap();
    assert_eq!(nothing, json!({"view": false, "amount": null}));
    let error = extract_one::<ItemActivity>(&json!({"event_type": null})).unwrap_err();
    assert_eq!(error.to_string(), "required field `event_type` is null");
}
