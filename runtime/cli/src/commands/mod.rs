//! One module a command: from checked arguments to what it prints.

pub mod build;
pub mod new;
