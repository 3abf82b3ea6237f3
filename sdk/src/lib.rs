//! Write feature transforms for plumb: typed events, windowed aggregates, features
