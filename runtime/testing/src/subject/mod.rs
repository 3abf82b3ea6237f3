//! The real subjects: the running service ([`ServiceSubject`]) and the offline drivers ([`OfflineSubject`]).
//!
//! Both take records and answer reads, and give values as text in the oracle's form, so that equal text is
//! equal bits.

mod offline;
mod service;

pub use offline::{OfflineSubject, Snapshot};
pub use service::{Disturbance, Restarts, ServiceSubject};

use crate::case::CaseError;
use crate::process;
use plumb_assembly::Settings;
use plumb_core::time::HOUR_US;
use plumb_pipeline::query::Value;
use std::path::Path;

/// The shipped views, which the oracle knows.
pub const VIEWS: [&str; 5] = ["user_activity", "item_activity", "user_daily", "user_spend", "user_transactions"];

/// The name and value of every feature in declared order; `None` = not found.
pub type Features = Option<Vec<(String, String)>>;

/// The allowed lateness of the default settings, µs: later events meet folded state.
pub const ALLOWED_LATENESS_US: i64 = HOUR_US;

/// Settings of an embedded job with the shipped views that keeps its data in `folder`.
fn settings(folder: &Path, partitions: u32) -> Result<Settings, CaseError> {
    let paths: Vec<String> = VIEWS.iter().map(|view| format!("{:?}", process::component(view))).collect();
    let text = format!(
        "data_dir = {:?}\n[source]\npartitions = {partitions}\n[transforms]\npaths = [{}]\n[offline]\nurl = {:?}\n\
         [run]\npublish_interval = \"1ms\"\n",
        folder.join("data"),
        paths.join(", "),
        format!("file:{}", folder.join("offline").display()),
    );
    Ok(Settings::parse("the settings of a test", &text, [])?)
}

/// A value in the oracle's form.
fn text(value: &Value) -> String {
    match value {
        Value::I64(value) | Value::Timestamp(value) => value.to_string(),
        Value::F64(value) => format!("{value:?}"),
        Value::Bool(value) => value.to_string(),
        Value::Utf8(value) => format!("{value:?}"),
        Value::List(values) => format!("[{}]", values.iter().map(text).collect::<Vec<_>>().join(", ")),
        Value::Null => "null".to_owned(),
        other => format!("{other:?}"),
    }
}
