//! The tests are in `tests/`; this crate holds nothing else.
