//! Settings, and the one place that puts core, guests and edges together.
//!
//! [`settings`] is `plumb.toml`: one configuration for every command, read and checked once. Nothing
//! below this crate sees a settings key; each part is built from checked values.

pub mod backend;
pub mod components;
pub mod dead_letters;
mod event_files;
pub mod follow;
pub mod history;
pub mod instance;
pub mod server;
pub mod service;
pub mod settings;
pub mod shared;
pub mod sources;
mod start;
pub mod stores;

pub use event_files::event_files;
pub use plumb_pipeline::{Error, Result};
pub use settings::Settings;
