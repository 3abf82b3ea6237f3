//! The derives of `plumb-sdk`: typed structs in, columns and definitions out.
//!
//! Each derive turns the fields of one struct into columns by position. What can be checked here (names,
//! durations, operators' parameters) is an error at the attribute; what needs types (does the slot
//! exist, does the operator take it) becomes code that the compiler checks at the field's own place.

mod aggregates;
mod duration;
mod features;
mod input;
mod rows;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

type Expand = fn(&DeriveInput) -> syn::Result<proc_macro2::TokenStream>;

fn derive(input: TokenStream, expand: Expand) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(&input).unwrap_or_else(|error| error.to_compile_error()).into()
}

/// The fields a view reads of an event: `&str`, `i64`, `f64`, `bool`, `Time` or `&[u8]`, in an `Option`
/// where the event may lack it. A field without `Option` is required: an event in which it is null is a
/// fault of this view on that event. `#[field("name")]` reads a field whose name is no Rust name.
#[proc_macro_derive(Event, attributes(field))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    derive(input, rows::event)
}

/// What an event contributes. A `bool` is a mark (true = a contribution); an `Option` of `i64`, `f64`,
/// `bool`, `&str`, `String` or `Time` contributes its value. NaN and infinities are no numbers: the host
/// counts and drops them. An event of which no slot contributes costs nothing.
#[proc_macro_derive(Slots)]
pub fn derive_slots(input: TokenStream) -> TokenStream {
    derive(input, rows::slots)
}

/// The aggregates a view wants: one attribute a field, `#[operator(slot, parameters)]`. The slots are those
/// of the struct `Slots` in scope, or of the one named by `#[slots(Name)]`.
///
/// | operator | gives | over |
/// |---|---|---|
/// | `count(slot)` | `i64` | every contribution |
/// | `sum(slot)` | `Option<f64>` | numbers; exact, rounded once; null beyond f64, 0.0 of nothing |
/// | `mean(slot)` | `Option<f64>` | numbers; the rounded sum by the count; null of nothing |
/// | `min(slot)`, `max(slot)` | the slot's type | numbers and instants; -0.0 is less than 0.0; null of nothing |
/// | `variance(slot)`, `stddev(slot)` | `Option<f64>` | numbers; of a sample (n − 1), exact, rounded once; null below two |
/// | `quantile(slot, q = 0.5)` | `Option<f64>` | numbers; that of rank ceil(n × q), at most 1/128 of it off; null of nothing |
/// | `count_distinct(slot)` | `i64` | strings; exact, so its state grows with them |
/// | `approx_distinct(slot, k = 1024)` | `i64` | strings; exact up to k, then estimated, about 1 / √k off |
/// | `collect_set(slot, k = 64)` | `Vec<&str>` | strings; the first k distinct ones, ascending |
/// | `top_k(slot, k = 3)` | `Vec<&str>` | strings; those that occur most, ties ascending |
/// | `last(slot)` | the slot's type | the newest value; null of nothing |
/// | `last_time(slot)` | `Option<Time>` | the newest contribution's time |
/// | `session_count(slot, gap = "30m")` | `i64` | runs without a longer gap that end in the window |
/// | `session_duration_sum(slot, gap = "30m")` | `i64` | the sum of their (end − start) in µs |
/// | `relative_rank(slot)` | `f64` | among all entities: (number with fewer) / (number − 1); hopping only |
///
/// | window | events with |
/// |---|---|
/// | none | time < T |
/// | `window = "1h"` | T − 1h <= time < T |
/// | `window = "1h", hop = "1m"` | the same, left edge aligned down to a whole minute |
/// | `hopping = "1h", hop = "1m"` | B − 1h <= time < B, B = T floored to a whole minute |
/// | `tumbling = "5m"` | the last complete five minutes |
#[proc_macro_derive(
    Aggregates,
    attributes(
        slots,
        count,
        sum,
        mean,
        min,
        max,
        variance,
        stddev,
        quantile,
        count_distinct,
        approx_distinct,
        collect_set,
        top_k,
        last,
        last_time,
        session_count,
        session_duration_sum,
        relative_rank
    )
)]
pub fn derive_aggregates(input: TokenStream) -> TokenStream {
    derive(input, aggregates::expand)
}

/// The features: `i64`, `f64`, `bool`, `&str`, `String`, `Time`, `&[u8]` or a `Vec` of them, in an `Option`
/// where they can be null. A field's doc comment is its description. It is made from the aggregate of the
/// same name, or from those that `#[from(one, another)]` names; the aggregates are those of the struct
/// `Aggregates` in scope, or of the one named by `#[aggregates(Name)]`.
#[proc_macro_derive(Features, attributes(aggregates, from))]
pub fn derive_features(input: TokenStream) -> TokenStream {
    derive(input, features::expand)
}

#[cfg(test)]
mod tests;
