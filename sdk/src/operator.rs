//! Which slots an operator takes and what an aggregate of it is: checked by the compiler, so that a wrong
//! declaration is marked where it stands.

use crate::time::Time;

/// The operators as types.
pub mod op {
    macro_rules! operators {
        ($($name:ident)*) => {$(
            #[doc = concat!("The operator behind the attribute of this name: ", stringify!($name), ".")]
            #[derive(Debug)]
            pub enum $name {}
        )*};
    }
    operators!(
        Count Sum Mean TopK Last LastTime SessionCount SessionDurationSum RelativeRank Min Max Variance StdDev Quantile
        CountDistinct ApproxDistinct CollectSet
    );
}

/// A slot type that operator `O` takes.
#[diagnostic::on_unimplemented(
    message = "operator `{O}` does not take a slot of type `{Self}`",
    label = "a slot of type `{Self}`",
    note = "Sum, Mean, Variance, StdDev and Quantile take Option<f64> or Option<i64>, Min and Max also Option<Time>; TopK, CountDistinct, ApproxDistinct and CollectSet take Option<&str>, Last takes every Option, the others take every slot"
)]
pub trait SlotOf<O> {}

/// The type of an aggregate of operator `O` over a slot of type `S`.
#[diagnostic::on_unimplemented(
    message = "an aggregate of operator `{O}` is not of type `{Self}`",
    label = "not what this operator gives",
    note = "Count, SessionCount, SessionDurationSum, CountDistinct and ApproxDistinct give i64, RelativeRank gives f64, Sum, Mean, Variance, StdDev and Quantile give Option<f64>, TopK and CollectSet give Vec<&str>, Last, Min and Max give the slot's own type, LastTime gives Option<Time>"
)]
pub trait AggregateOf<O, S: ?Sized> {}

macro_rules! any_slot {
    ($($operator:ident)*) => {$( impl<S: crate::write::SlotValue> SlotOf<op::$operator> for S {} )*};
}
any_slot!(Count LastTime SessionCount SessionDurationSum RelativeRank);
macro_rules! slots_of {
    ($($operator:ident: $($type:ty),*;)*) => {$($( impl SlotOf<op::$operator> for $type {} )*)*};
}
slots_of! {
    Sum: Option<f64>, Option<i64>;
    Mean: Option<f64>, Option<i64>;
    Variance: Option<f64>, Option<i64>;
    StdDev: Option<f64>, Option<i64>;
    Quantile: Option<f64>, Option<i64>;
    Min: Option<f64>, Option<i64>, Option<Time>;
    Max: Option<f64>, Option<i64>, Option<Time>;
    TopK: Option<&str>, Option<String>;
    CountDistinct: Option<&str>, Option<String>;
    ApproxDistinct: Option<&str>, Option<String>;
    CollectSet: Option<&str>, Option<String>;
}
impl<T> SlotOf<op::Last> for Option<T> {}

// What can never be null for an entity that was found may be read without an `Option`.
macro_rules! gives {
    ($($operator:ident: $($type:ty),*;)*) => {$($( impl<S: ?Sized> AggregateOf<op::$operator, S> for $type {} )*)*};
}
gives! {
    Count: i64, Option<i64>;
    SessionCount: i64, Option<i64>;
    SessionDurationSum: i64, Option<i64>;
    RelativeRank: f64, Option<f64>;
    Sum: Option<f64>;
    Mean: Option<f64>;
    TopK: Vec<&str>, Option<Vec<&str>>;
    LastTime: Option<Time>;
    CountDistinct: i64, Option<i64>;
    ApproxDistinct: i64, Option<i64>;
    Variance: Option<f64>;
    StdDev: Option<f64>;
    Quantile: Option<f64>;
    CollectSet: Vec<&str>, Option<Vec<&str>>;
}
macro_rules! last_gives {
    ($($slot:ty => $type:ty;)*) => {$( impl AggregateOf<op::Last, $slot> for $type {} )*};
}
last_gives! {
    Option<i64> => Option<i64>;
    Option<f64> => Option<f64>;
    Option<bool> => Option<bool>;
    Option<Time> => Option<Time>;
    Option<String> => Option<&str>;
}
impl AggregateOf<op::Last, Option<&str>> for Option<&str> {}
macro_rules! extremes_give {
    ($($operator:ident)*) => {$(
        impl AggregateOf<op::$operator, Option<i64>> for Option<i64> {}
        impl AggregateOf<op::$operator, Option<f64>> for Option<f64> {}
        impl AggregateOf<op::$operator, Option<Time>> for Option<Time> {}
    )*};
}
extremes_give!(Min Max);

/// Checks an operator against its slot; the derive calls it with the slot's field.
pub const fn check_slot<O, S: SlotOf<O>>(_slot: &S) {}

/// Checks an aggregate's type against its operator and slot; the derive calls it with the slot's field.
pub const fn check_aggregate<O, S, A: AggregateOf<O, S>>(_slot: &S) {}
