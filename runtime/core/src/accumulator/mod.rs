//! Accumulators: mergeable partial states with exact arithmetic.
//!
//! Each is a commutative monoid: merging any split of any permutation of the same contributions gives
//! the same value and the same bytes. Which of them a view needs is [`crate::plan`]'s; where their
//! inputs are kept, and for how long, is [`crate::state`]'s.

pub mod exact_sum;
