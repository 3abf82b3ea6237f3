//! `item_comments`: what is said of an item, from a table that is written anew each week.
//!
//! A slowly changing table needs nothing special: each of its rows is an event of a source of its own, at the time
//! from which it holds, and the view takes the newest value of each column. So a training set sees the row that held
//! at the label's time, as does a request online. The source, in `plumb.toml`:
//!
//! ```toml
//! [sources.comments]
//! kind = "file"
//! path = "item_comments.parquet"
//! time_field = "valid_from"
//! key_field = "item_id"
//! required = []
//! fields = { item_id = "string", comment_num = "i64", has_bad_comment = "string", bad_comment_rate = "f64" }
//! ```

use plumb_sdk::prelude::*;

/// What is read of a row.
#[derive(Debug, Event)]
pub struct Event<'a> {
    comment_num: Option<i64>,
    has_bad_comment: Option<&'a str>,
    bad_comment_rate: Option<f64>,
}

/// What a row contributes.
#[derive(Debug, Slots)]
pub struct Slots {
    row: bool,
    comment_num: Option<i64>,
    has_bad_comment: Option<bool>,
    bad_comment_rate: Option<f64>,
}

/// What the features are made of.
#[derive(Debug, Aggregates)]
pub struct Aggregates {
    #[last(comment_num)]
    comment_num: Option<i64>,
    #[last(has_bad_comment)]
    has_bad_comment: Option<bool>,
    #[last(bad_comment_rate)]
    bad_comment_rate: Option<f64>,
    #[count(row)]
    row_count: i64,
}

/// The features of an item.
#[derive(Debug, Features)]
pub struct Features {
    /// How many comments it has, as a class.
    comment_num: Option<i64>,
    /// Whether one of them is bad.
    has_bad_comment: Option<bool>,
    /// The share of those that are.
    bad_comment_rate: Option<f64>,
    /// How often the table has told of it.
    row_count: i64,
}

/// The view.
#[derive(Debug)]
pub struct ItemComments;

impl<'a> View<'a> for ItemComments {
    const DEFINITION: Definition = Definition {
        description: "What is said of an item.",
        owner: "ranking",
        team: "ranking",
        tags: &["example", "side table"],
        source: "comments",
        ..Definition::new("item_comments", env!("CARGO_PKG_VERSION"), "item", &["item_id"])
    };
    type Event = Event<'a>;
    type Slots = Slots;
    type Aggregates = Aggregates;
    type Features = Features;

    fn extract(event: Event<'a>) -> Result<Slots> {
        let has_bad_comment = match event.has_bad_comment {
            Some("1") => Some(true),
            Some("0") => Some(false),
            _ => None,
        };
        let Event { comment_num, bad_comment_rate, .. } = event;
        Ok(Slots { row: true, comment_num, has_bad_comment, bad_comment_rate })
    }

    fn finalize(of: Aggregates, _at: Time) -> Result<Features> {
        let Aggregates { comment_num, has_bad_comment, bad_comment_rate, row_count } = of;
        Ok(Features { comment_num, has_bad_comment, bad_comment_rate, row_count })
    }
}

plumb_sdk::export!(ItemComments);

#[cfg(test)]
mod tests {
    use super::ItemComments;
    use plumb_sdk::testing::{History, json};

    #[test]
    fn the_row_that_holds_is_the_newest_before_t() {
        let row = |time: &str, comments: i64, bad: &str, rate: f64| json!({"item_id": "i1", "event_time": time, "comment_num": comments, "has_bad_comment": bad, "bad_comment_rate": rate});
        let history = History::<ItemComments>::new([
            row("2024-01-08T00:00:00Z", 3, "1", 0.5),
            row("2024-01-01T00:00:00Z", 1, "0", 0.0),
        ]);
        let first = json!({"comment_num": 1, "has_bad_comment": false, "bad_comment_rate": 0.0, "row_count": 1});
        assert_eq!(history.at("i1", "2024-01-08T00:00:00Z"), first);
        let second = json!({"comment_num": 3, "has_bad_comment": true, "bad_comment_rate": 0.5, "row_count": 2});
        assert_eq!(history.at("i1", "2024-01-08T00:00:00.000001Z"), second);
    }
}
