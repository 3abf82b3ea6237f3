//! One module a command: from checked arguments to what it prints.

pub(crate) mod audit;
pub(crate) mod backfill;
pub(crate) mod build;
pub(crate) mod check;
pub(crate) mod compare;
pub(crate) mod dead_letters;
pub(crate) mod generate;
pub(crate) mod inspect;
pub(crate) mod join;
pub(crate) mod materialize;
pub(crate) mod new;
mod offline;
mod parity;
pub(crate) mod produce;
pub(crate) mod registry;
pub(crate) mod run;
pub(crate) mod stats;
pub(crate) mod test;
pub(crate) mod transforms;
