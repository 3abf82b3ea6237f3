//! Write feature transforms for plumb: typed events, windowed aggregates, features.
//!
//! A transform is one *feature view*: some features of one entity, computed from its events. A value is
//! `finalize(aggregate(extract(events before T)), T)`: you write `extract` (what does one event
//! contribute?) and `finalize` (what are the features, given the aggregates at T?), plumb does the
//! aggregation in between, in the stream, in backfills and in training sets alike. The crate compiles to a
//! WASM component with `plumb build`, and the same source runs natively under `cargo test`.
//!
//! # From event to feature
//!
//! Say a shop wants to know how many purchases a user made in the last hour and what share of the last
//! week's views became purchases.
//!
//! ```
//! use plumb_sdk::prelude::*;
//!
//! // 1. What is read of an event. Without `Option` a field is required: an event that lacks it is
//! //    dead-lettered for this view.
//! #[derive(Event)]
//! pub struct Event<'a> {
//!     event_type: &'a str,
//!     price: Option<f64>,
//! }
//!
//! // 2. What one event contributes, slot by slot: a mark (`bool`) or a value (`Option`).
//! #[derive(Slots)]
//! pub struct Slots {
//!     view: bool,
//!     purchase: bool,
//!     amount: Option<f64>,
//! }
//!
//! // 3. What plumb makes of the contributions: an operator over a slot in a window before T.
//! #[derive(Aggregates)]
//! pub struct Aggregates {
//!     #[count(purchase, window = "1h")]
//!     purchase_count_1h: i64,
//!     #[count(purchase, window = "7d")]
//!     purchases_7d: i64,
//!     #[count(view, window = "7d")]
//!     views_7d: i64,
//!     #[mean(amount)]
//!     avg_amount: Option<f64>,
//! }
//!
//! // 4. The features: the doc comment is the description people find in the registry; a feature is made
//! //    from the aggregate of its name, or from those it names.
//! #[derive(Features)]
//! pub struct Features {
//!     /// Purchases in the last hour.
//!     purchase_count_1h: i64,
//!     /// Purchases per view in the last 7 days.
//!     #[from(purchases_7d, views_7d)]
//!     conversion_rate_7d: Option<f64>,
//!     /// Mean price of everything ever bought.
//!     avg_amount: Option<f64>,
//! }
//!
//! pub struct Shopper;
//!
//! // 5. The view: who it is, and the two functions. Both are pure; plumb refuses a component that asks
//! //    for a clock, randomness, files or the network.
//! impl<'a> View<'a> for Shopper {
//!     const DEFINITION: Definition = Definition {
//!         description: "What a shop's user does.",
//!         owner: "ana",
//!         ..Definition::new("shopper", "1.0.0", "user", &["user_id"])
//!     };
//!     type Event = Event<'a>;
//!     type Slots = Slots;
//!     type Aggregates = Aggregates;
//!     type Features = Features;
//!
//!     fn extract(event: Event<'a>) -> Result<Slots> {
//!         let purchase = event.event_type == "purchase";
//!         Ok(Slots {
//!             view: event.event_type == "view",
//!             purchase,
//!             amount: event.price.filter(|_| purchase),
//!         })
//!     }
//!
//!     fn finalize(of: Aggregates, _at: Time) -> Result<Features> {
//!         let conversion = of.purchases_7d as f64 / of.views_7d as f64;
//!         Ok(Features {
//!             purchase_count_1h: of.purchase_count_1h,
//!             conversion_rate_7d: (of.views_7d > 0).then_some(conversion),
//!             avg_amount: of.avg_amount,
//!         })
//!     }
//! }
//!
//! plumb_sdk::export!(Shopper);
//!
//! // 6. A test: events in, features at an instant out. An event at T itself is not seen.
//! use plumb_sdk::testing::{History, json};
//!
//! let history = History::<Shopper>::new([
//!     json!({"user_id": "u1", "event_time": "2024-03-01T10:00:00Z", "event_type": "view"}),
//!     json!({"user_id": "u1", "event_time": "2024-03-01T10:05:00Z", "event_type": "view"}),
//!     json!({"user_id": "u1", "event_time": "2024-03-01T10:06:00Z", "event_type": "purchase", "price": 12.5}),
//! ]);
//! let features = history.at("u1", "2024-03-01T10:30:00Z");
//! assert_eq!(features["purchase_count_1h"], 1);
//! assert_eq!(features["conversion_rate_7d"], 0.5);
//! assert_eq!(features["avg_amount"], 12.5);
//! assert_eq!(history.at("u1", "2024-03-01T10:06:00Z")["purchase_count_1h"], 0);
//! assert_eq!(history.at("nobody", "2024-03-01T10:30:00Z")["purchase_count_1h"], json!(null));
//! ```
//!
//! The operators and windows are listed at [`derive@Aggregates`], the types at the other derives.
//!
//! # What the compiler refuses
//!
//! A slot that does not exist, an operator that does not take it, a type that the operator does not give:
//! each is an error at its own place.
//!
//! ```compile_fail
//! # use plumb_sdk::prelude::*;
//! #[derive(Slots)]
//! pub struct Slots { view: bool }
//! #[derive(Aggregates)]
//! pub struct Aggregates {
//!     #[count(viewed, window = "1h")] // no field `viewed` on type `&Slots`
//!     views_1h: i64,
//! }
//! ```
//!
//! ```compile_fail
//! # use plumb_sdk::prelude::*;
//! # #[derive(Slots)]
//! # pub struct Slots { view: bool }
//! #[derive(Aggregates)]
//! pub struct Aggregates {
//!     #[sum(view, window = "1h")] // operator `Sum` does not take a slot of type `bool`
//!     views_1h: Option<f64>,
//! }
//! ```
//!
//! ```compile_fail
//! # use plumb_sdk::prelude::*;
//! # #[derive(Slots)]
//! # pub struct Slots { amount: Option<f64> }
//! #[derive(Aggregates)]
//! pub struct Aggregates {
//!     #[mean(amount, window = "1h")] // an aggregate of operator `Mean` … is not of type `f64`
//!     avg_amount: f64,
//! }
//! ```
//!
//! ```compile_fail
//! # use plumb_sdk::prelude::*;
//! # #[derive(Slots)]
//! # pub struct Slots { view: bool }
//! # #[derive(Aggregates)]
//! # pub struct Aggregates { #[count(view)] views: i64 }
//! #[derive(Features)]
//! pub struct Features {
//!     /// Views per day.
//!     #[from(view)] // no field `view` on type `&Aggregates`
//!     views_per_day: f64,
//! }
//! ```

pub mod column;
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod component;
mod definition;
mod error;
mod json;
pub mod native;
pub mod operator;
pub mod read;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
mod time;
pub mod view;
pub mod write;

pub use definition::{AggregateDef, Definition, FeatureDef, FieldDef, Operator, SlotDef, Span, Type, Window};
pub use error::Error;
pub use plumb_sdk_macros::{Aggregates, Event, Features, Slots};
pub use time::Time;
pub use view::View;

/// A result of `extract` or `finalize`.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a transform needs: `use plumb_sdk::prelude::*;`.
pub mod prelude {
    pub use crate::{Aggregates, Definition, Error, Event, Features, Result, Slots, Time, View};
}

/// Makes a view the component's: `plumb_sdk::export!(UserActivity);`, once in a crate.
#[macro_export]
macro_rules! export {
    ($view:ty) => {
        const _: () = <$view as $crate::View<'static>>::DEFINITION.check();
        #[cfg(target_arch = "wasm32")]
        $crate::__export_component!($view);
    };
}
