pub mod column;
mod definition;
mod error;
mod json;
pub mod native;
pub mod operator;
pub mod read;
pub mod view;
pub mod write;
mod time;
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod component;

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
