//! Settings and the one place that puts core, guests and edges together
