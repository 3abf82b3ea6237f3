//! State from the outside: against a naive oracle, and its bytes.

#![allow(clippy::unwrap_used, reason = "helpers of tests; the lint only knows test functions")]

mod codec;
mod common;
mod oracle;
mod replace;
