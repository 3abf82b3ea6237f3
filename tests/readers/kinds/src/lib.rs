//! `kinds`: the newest value of each type in the last hour, alone and in lists, of a pair of user and item.

use plumb_sdk::prelude::*;

/// What is read of an event.
#[derive(Debug, Event)]
pub struct Event<'a> {
    number: Option<i64>,
    real: Option<f64>,
    flag: Option<bool>,
    text: Option<&'a str>,
    seen: Option<Time>,
}

/// What an event contributes.
#[derive(Debug, Slots)]
pub struct Slots<'a> {
    number: Option<i64>,
    real: Option<f64>,
    flag: Option<bool>,
    text: Option<&'a str>,
    seen: Option<Time>,
}

/// What the features are made of.
#[derive(Debug, Aggregates)]
pub struct Aggregates<'a> {
    #[last(number, window = "1h")]
    number: Option<i64>,
    #[last(real, window = "1h")]
    real: Option<f64>,
    #[last(flag, window = "1h")]
    flag: Option<bool>,
    #[last(text, window = "1h")]
    text: Option<&'a str>,
    #[last(seen, window = "1h")]
    seen: Option<Time>,
}

/// The features of a pair.
#[derive(Debug, Features)]
pub struct Features<'a> {
    /// An integer.
    number: Option<i64>,
    /// A float.
    real: Option<f64>,
    /// A truth.
    flag: Option<bool>,
    /// A text.
    text: Option<&'a str>,
    /// An instant.
    seen: Option<Time>,
    /// The integer and 0.
    #[from(number)]
    numbers: Option<Vec<i64>>,
    /// The float twice, or no element.
    #[from(real)]
    reals: Vec<f64>,
    /// The truth and its contrary, or no element.
    #[from(flag)]
    flags: Vec<bool>,
    /// The words of the text.
    #[from(text)]
    words: Option<Vec<&'a str>>,
    /// The instant, or no element.
    #[from(seen)]
    instants: Vec<Time>,
}

/// The view.
#[derive(Debug)]
pub struct Kinds;

impl<'a> View<'a> for Kinds {
    const DEFINITION: Definition = Definition {
        description: "The newest value of each type.",
        owner: "tests",
        source: "kinds",
        ..Definition::new("kinds", env!("CARGO_PKG_VERSION"), "pair", &["user_id", "item_id"])
    };
    type Event = Event<'a>;
    type Slots = Slots<'a>;
    type Aggregates = Aggregates<'a>;
    type Features = Features<'a>;

    fn extract(event: Event<'a>) -> Result<Slots<'a>> {
        let Event { number, real, flag, text, seen } = event;
        Ok(Slots { number, real, flag, text, seen })
    }

    fn finalize(of: Aggregates<'a>, _at: Time) -> Result<Features<'a>> {
        Ok(Features {
            number: of.number,
            real: of.real,
            flag: of.flag,
            text: of.text,
            seen: of.seen,
            numbers: of.number.map(|number| vec![number, 0]),
            reals: of.real.map_or_else(Vec::new, |real| vec![real, real]),
            flags: of.flag.map_or_else(Vec::new, |flag| vec![flag, !flag]),
            words: of.text.map(|text| text.split_whitespace().collect()),
            instants: of.seen.into_iter().collect(),
        })
    }
}

plumb_sdk::export!(Kinds);
