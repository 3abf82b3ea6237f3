//! The meaning of plumb: what a feature value *is*.
//!
//! `value = finalize(aggregate(extract(accepted events before T)), T)`; this crate is `aggregate`. It
//! is pure: no IO, no clock, no randomness, no async, no hash order that could reach a result. The
//! stream processor, the serving path, a backfill and a training join all call the functions here,
//! which is why they agree bit for bit.
//!
//! Reading order: [`time`] and [`column`] are the vocabulary; [`event`] and [`entity`] say what comes
//! in; [`view`] is a feature view as its component declares it and [`plan`] what that means for
//! state; [`contribution`] is what `extract` returned, [`dictionary`] numbers its strings;
//! [`accumulator`] holds the order-free exact sums; [`state`] is one key's base and tiles, [`codec`]
//! its bytes; [`read`] answers a window at T from state, [`temporal`] answers many at once from sorted
//! history; [`global`] is the rank among all entities.

pub mod accumulator;
pub mod codec;
pub mod column;
pub mod contribution;
pub mod dictionary;
pub mod entity;
pub mod error;
pub mod event;
pub mod global;
pub mod plan;
pub mod read;
pub mod state;
pub mod temporal;
pub mod time;
pub mod view;

pub use error::{Error, ErrorKind, Result};
